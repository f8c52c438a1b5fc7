"""Names that configuration keys take, and what each choice needs: modes, schedules, loggers, tasks, export formats.

Other tables stand beside their subject: model kinds and activations in model/spec.py, optimizers in
engines/optimizer.py, backends in engines/options.py, data sets and formats in data/. A test compares each table with
what is implemented.
"""

from dataclasses import dataclass

STYLE_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # it becomes part of a table's file name

# mode.name -> the backends that compute in it
MODES = {"scalar": ("python",), "tensor": ("native", "torch", "auto")}

WITHOUT_HORIZON = ("constant",)  # schedules that do not depend on total_steps
# schedule.name -> the keys of `schedule` that it reads besides total_steps and warmup_steps (training/schedules.py)
SCHEDULES: dict[str, tuple[str, ...]] = {
    "linear": (),
    "cosine": (),
    "warmdown": ("warmdown_steps",),
    "sqrt": ("warmdown_steps",),
    "constant": (),
}


@dataclass(frozen=True)
class LoggerChoice:
    """What a logger needs and reads."""

    modules: tuple[str, ...] = ()  # that it imports; the extra of its name installs them
    keys: tuple[str, ...] = ()  # the keys of `logger` that it reads


# logger.name -> the module training/loggers/<name>.py
LOGGERS = {
    "none": LoggerChoice(),
    "tensorboard": LoggerChoice(("tensorboard",)),
    "wandb": LoggerChoice(("wandb",), ("project",)),
    "mlflow": LoggerChoice(("mlflow", "sqlalchemy", "alembic"), ("project",)),
    "trackio": LoggerChoice(("trackio",), ("project",)),
}

# export.format -> the keys of `export` that it reads besides path (tasks/export.py)
EXPORT_FORMATS: dict[str, tuple[str, ...]] = {"safetensors": ("half",), "onnx": (), "transformers": (), "html": ()}


# explain.format -> the keys of `explain` that it reads besides document (explain/formats.py)
EXPLAIN_FORMATS: dict[str, tuple[str, ...]] = {"text": (), "html": ("path",), "svg": ("path",)}


@dataclass(frozen=True)
class TaskChoice:
    """What a task works on."""

    reads: tuple[str, ...]  # the groups and keys that it uses, besides checkpoint, folders and those of every task
    needs_checkpoint: bool = True  # the model of `checkpoint`
    makes_model: bool = False  # the configuration describes the data and the model, and how it is trained
    makes_folder: bool = False  # a folder for each run; the others write into one only if hydra.run.dir names it


# task.name -> the module microgpt/tasks/<name>.py with a function <name>(config, invocation) and, if it makes a folder,
# start(config, invocation)
ENGINE = ("mode", "backend")
TASKS = {
    "train": TaskChoice(
        (
            *ENGINE,
            "model",
            "style",
            "data",
            "optim",
            "schedule",
            "train",
            "sample",
            "logger",
            "sweep",
            "report",
            "ladder",
            "screening",
            "precision",
            "seed",
            "tags",
            "notes",
        ),
        needs_checkpoint=False,
        makes_model=True,
        makes_folder=True,
    ),
    "sample": TaskChoice((*ENGINE, "style", "sample", "seed")),
    "chat": TaskChoice(
        (*ENGINE, "style", "seed", "sample.temperature", "sample.top_k", "sample.max_new_tokens", "sample.seed")
    ),
    "info": TaskChoice(()),
    "export": TaskChoice(("export",)),
    "serve": TaskChoice((*ENGINE, "style", "serve")),
    "benchmark": TaskChoice(("benchmark",), needs_checkpoint=False),
    "explain": TaskChoice(
        (*ENGINE, "model", "style", "data", "optim", "schedule", "train.steps", "train.batch_size", "seed", "explain"),
        needs_checkpoint=False,
        makes_model=True,
    ),
}
