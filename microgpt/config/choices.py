"""Tables of the modes, schedules, loggers, tasks and export formats, with the requirements of each.

Other tables are in the package of their subject: model kinds and activations in model/spec.py, optimizers in
engines/optimizer.py, backends in engines/options.py, data sets and formats in data/. A test compares each table with
the implementation.
"""

from dataclasses import dataclass

STYLE_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # becomes part of a table's file name

# mode.name -> the backends that support it
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
    """The requirements of a logger."""

    modules: tuple[str, ...] = ()  # modules that it imports; the extra with the logger's name installs them
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
    """The inputs and outputs of a task."""

    reads: tuple[
        str, ...
    ]  # groups and keys that it uses, besides checkpoint, folders and the keys that every task uses
    needs_checkpoint: bool = True  # uses the model in `checkpoint`
    makes_model: bool = False  # builds a model: the configuration describes the data, the model and its training
    makes_folder: bool = False  # creates a folder for each run; other tasks write into one only if hydra.run.dir is set


# task.name -> the module microgpt/tasks/<name>.py with a function <name>(config, invocation) and, if the task makes a
# folder, start(config, invocation)
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
