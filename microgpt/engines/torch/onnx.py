"""One model as an ONNX graph, for programs that know ONNX and nothing of us: token ids in, logits out.

    tokens  int64   (batch, time), 1 <= time <= block_size: every text begins with BOS
    logits  float32 (batch, time, V): at every position those of the next token

PyTorch's exporter (torch.onnx.export on torch.export, by onnxscript) follows the operations of model.py, so that there
is no second definition of the model. Keys and values are not kept: a text is read whole at each call.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from microgpt.errors import UserError

try:
    import onnx
    import onnxscript  # noqa: F401  # what the exporter writes its operators with
    import torch
except ImportError as error:
    raise UserError(f"export.format=onnx needs {error.name or 'onnx'}: pip install 'microgpt[onnx]'") from error
from torch import Tensor, nn
from torch.nn import functional

from microgpt.engines.base import Arrays
from microgpt.engines.torch.model import Models
from microgpt.engines.torch.parameters import Layout
from microgpt.model.spec import ModelSpec


def onnx_model(spec: ModelSpec, parameters: Arrays, facts: Mapping[str, str]) -> bytes:
    """The file of one model (R = 1) in float32, with `facts` as its metadata."""
    network = Network(spec, parameters).eval()
    tokens = torch.zeros(2, min(2, spec.block_size), dtype=torch.int64)  # sizes of 1 would be taken for constants
    time = torch.export.Dim("time", min=1, max=spec.block_size) if spec.block_size > 1 else torch.export.Dim.STATIC
    with quiet():
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
    clear_traces(model)
    onnx.helper.set_model_props(model, dict(facts))
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


class Network(nn.Module):
    """The one model of `Models` that the exporter is shown."""

    def __init__(self, spec: ModelSpec, parameters: Arrays):
        super().__init__()
        layout = Layout(spec)
        self.models = InferenceModels(spec, layout, torch.device("cpu"), torch.float32, autocast=False)
        self.names = [name.replace(".", "_") for name in layout.blocks]
        for name, block in zip(self.names, layout.views(layout.pack(parameters, torch.float32)), strict=True):
            self.register_parameter(name, nn.Parameter(block.clone(), requires_grad=False))

    def forward(self, tokens: Tensor) -> Tensor:
        blocks = [self.get_parameter(name) for name in self.names]
        logits = self.models.logits(blocks, tokens[None])  # (1, B * T, V)
        return logits.view(*tokens.shape, -1)


class InferenceModels(Models):
    """The same attention for a number of texts and of positions that the graph leaves open."""

    def attention(self, qkv: Tensor, length: int) -> Tensor:
        spec = self.spec
        heads = qkv.view(-1, length, 3, spec.n_head, spec.head_dim).permute(2, 0, 3, 1, 4)  # (3, B, H, T, D)
        q, k, v = heads.unbind()
        x = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x.transpose(1, 2).reshape(1, -1, spec.n_embd)


def clear_traces(model: Any) -> None:
    """Remove what the exporter notes for its own developers, source files with their paths among it."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks of the exporter and its libraries on each of their steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
