"""CUDA graphs on the CPU: the operations of a step are recorded, and a replay repeats them on the same tensors.

As on a GPU, recording changes no tensor that existed before, and a replay runs no Python: numbers and branches
are those of the recording, and a tensor made while recording has no content before the first replay. What CUDA cannot
record, such as reading a number from the device, raises RuntimeError.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {"aten._local_scalar_dense", "aten.nonzero", "aten.lift_fresh", "aten.item", "aten.masked_select"}


class Operations(TorchDispatchMode):
    """Records operations, runs them for the shapes of their results, and restores what they changed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.made: set[int] = set()  # storages
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and importing torch._dynamo takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # torch.where copies a number, which is a tensor () here, to the device.
        copies = str(func.overloadpacket) == "aten.where" and any(t.ndim == 0 for t in tensors_of(args))
        if str(func.overloadpacket) in WAITING or copies:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        written = [a for a, argument in zip(args, func._schema.arguments, strict=False) if is_written(argument)]
        written += [kwargs[a.name] for a in func._schema.arguments if is_written(a) and a.name in kwargs]
        for tensor in written:
            key = tensor.untyped_storage().data_ptr()
            if key not in self.made and key not in self.before:
                whole = tensor.detach().as_strided((tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)
                self.before[key] = (whole, whole.clone())
        result = func(*args, **kwargs)
        if not any(returned.alias_info for returned in func._schema.returns):
            self.made |= {t.untyped_storage().data_ptr() for t in tensors_of(result)}
        self.calls.append((func, args, kwargs, result))
        return result

    def end(self) -> None:
        for tensor, content in self.before.values():
            tensor.copy_(content)
        for func, _, _, result in self.calls:
            if not any(returned.alias_info for returned in func._schema.returns):
                for tensor in tensors_of(result):
                    tensor.fill_(torch.nan if tensor.is_floating_point() else 0)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            if not any(returned.alias_info for returned in func._schema.returns):
                for old, new in zip(tensors_of(result), tensors_of(again), strict=True):
                    old.copy_(new)


def is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def tensors_of(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]


class FakeRecorder:
    """The interface of the torch engine's Recorder."""

    def record(self, warm_up: Callable[[], None], step: Callable[[], None]) -> Callable[[], None]:
        warm_up()
        operations = Operations()
        with operations:
            step()
        with torch.no_grad():
            operations.end()
        return operations.replay


def use_fake_graphs(monkeypatch: Any) -> None:
    """Let the torch engine record its steps on the CPU."""
    monkeypatch.setattr("microgpt.engines.torch.cuda_graphs.GRAPH_DEVICES", ("cuda", "cpu"))
    monkeypatch.setattr("microgpt.engines.torch.cuda_graphs.Recorder", FakeRecorder)
