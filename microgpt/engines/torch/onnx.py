"""Export of one model as an ONNX graph, which any ONNX runtime can execute.

    tokens  int64   (batch, time), 1 <= time <= block_size: every text begins with BOS
    logits  float32 (batch, time, V): the logits of the next token at every position

PyTorch's exporter (torch.onnx.export, based on torch.export and onnxscript) traces model.py, so that the model is
defined only once. The graph has no KV cache: each call reads whole texts.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from microgpt.errors import UserError
from microgpt.installation import install_command

try:
    import onnx
    import onnxscript  # noqa: F401  # used by the exporter
    import torch
except ImportError as error:
    raise UserError(f"export.format=onnx needs {error.name or 'onnx'}: {install_command('onnx')}") from error
from torch import Tensor, nn
from torch.nn import functional

from microgpt.engines.base import Arrays
from microgpt.engines.torch.model import Models
from microgpt.engines.torch.parameters import Layout
from microgpt.model.spec import ModelSpec


def onnx_model(spec: ModelSpec, parameters: Arrays, facts: Mapping[str, str]) -> bytes:
    """Return the ONNX file of one model (R = 1) in float32, with `facts` as metadata."""
    network = Network(spec, parameters).eval()
    tokens = torch.zeros(2, min(2, spec.block_size), dtype=torch.int64)  # the exporter treats a size of 1 as constant
    time = torch.export.Dim("time", min=1, max=spec.block_size) if spec.block_size > 1 else torch.export.Dim.STATIC
    with suppressed_logging():
        program: Any = torch.onnx.export(
            network,
            (tokens,),
            input_names=["tokens"],
            output_names=["logits"],
            dynamic_shapes={"tokens": {0: torch.export.Dim("batch"), 1: time}},
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    remove_debug_info(model)
    onnx.helper.set_model_props(model, dict(facts))
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


class Network(nn.Module):
    """A module that computes the logits of one model with `Models`."""

    def __init__(self, spec: ModelSpec, parameters: Arrays):
        super().__init__()
        layout = Layout(spec)
        self.models = Models(spec, layout, torch.device("cpu"), torch.float32, autocast=False)
        self.models.attend = traced_attention
        self.names = [name.replace(".", "_") for name in layout.blocks]
        for name, block in zip(self.names, layout.views(layout.pack(parameters, torch.float32)), strict=True):
            self.register_parameter(name, nn.Parameter(block.clone(), requires_grad=False))

    def forward(self, tokens: Tensor) -> Tensor:
        blocks = [self.get_parameter(name) for name in self.names]
        logits = self.models.logits(blocks, tokens[None])  # (1, B * T, V)
        return logits.view(*tokens.shape, -1)


def traced_attention(heads: Tensor) -> Tensor:
    """Return `fused_attention` without splitting, because the number of parts would be fixed in the graph."""
    q, k, v = heads.unbind()
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def remove_debug_info(model: Any) -> None:
    """Remove the debug information that the exporter adds, such as paths of source files."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextmanager
def suppressed_logging() -> Iterator[None]:
    """Suppress the progress messages and warnings of the exporter and its libraries."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
