"""The tasks, one file each. They are imported when they are called: sampling need not load what training needs."""

from collections.abc import Callable

from microgpt.config.schema import Config
from microgpt.runs.record import Invocation

Task = Callable[[Config, Invocation], float | None]


def task_named(name: str) -> Task:
    if name == "train":
        from microgpt.tasks.train import train

        return train
    if name == "sample":
        from microgpt.tasks.sample import sample

        return sample
    if name == "chat":
        from microgpt.tasks.chat import chat

        return chat
    if name == "export":
        from microgpt.tasks.export import export

        return export
    if name == "serve":
        from microgpt.tasks.serve import serve

        return serve
    if name == "benchmark":
        from microgpt.tasks.benchmark import benchmark

        return benchmark
    assert name == "info", "checked in rules.py"
    from microgpt.tasks.info import info

    return info
