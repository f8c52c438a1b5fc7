"""Names that configuration keys take, and what each choice needs: modes, schedules, loggers, tasks, export formats.

Other tables stand beside their subject: model kinds and activations in model/spec.py, optimizers in
engines/optimizer.py, backends in engines/options.py, data sets and formats in data/. A test compares each table with
what is implemented.
"""

from dataclasses import dataclass

STYLE_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # it becomes part of a table's file name

# mode.name -> the backends that compute in it
MODES = {"scalar": ("python",), "tensor": ("native", "torch", "auto")}

# schedule.name -> the keys of `schedule` that it reads besides total_steps and warmup_steps (training/schedules.py)
SCHEDULES: dict[str, tuple[str, ...]] = {
    "linear": (),
    "cosine": (),
    "warmdown": ("warmdown_steps",),
    "sqrt": ("warmdown_steps",),
    "constant": (),
}

# logger.name -> the modules that it imports; the extra of that name installs them (training/loggers/)
LOGGERS: dict[str, tuple[str, ...]] = {
    "none": (),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "trackio": ("trackio",),
}

# export.format -> the keys of `export` that it reads besides path (tasks/export.py)
EXPORT_FORMATS: dict[str, tuple[str, ...]] = {"safetensors": ("half",), "onnx": (), "transformers": (), "html": ()}


# explain.format -> the keys of `explain` that it reads besides document (explain/formats.py)
EXPLAIN_FORMATS: dict[str, tuple[str, ...]] = {"text": (), "html": ("path",), "svg": ("path",)}


@dataclass(frozen=True)
class TaskChoice:
    """What a task works on."""

    needs_checkpoint: bool = True  # the model of `checkpoint`
    makes_model: bool = False  # the configuration describes the data and the model, and how it is trained
    makes_folder: bool = False  # a folder for each run; the others write into one only if hydra.run.dir names it


# task.name -> the module microgpt/tasks/<name>.py with a function <name>(config, invocation) and, if it makes a folder,
# start(config, invocation)
TASKS = {
    "train": TaskChoice(needs_checkpoint=False, makes_model=True, makes_folder=True),
    "sample": TaskChoice(),
    "chat": TaskChoice(),
    "info": TaskChoice(),
    "export": TaskChoice(),
    "serve": TaskChoice(),
    "benchmark": TaskChoice(needs_checkpoint=False),
    "explain": TaskChoice(needs_checkpoint=False, makes_model=True),
}
