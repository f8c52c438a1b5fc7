"""The computation graph of one token's loss as SVG: a box for each node, with the node's value and gradient."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby, pairwise

from microgpt.data.tokenizer import Tokenizer
from microgpt.engines.scalar.model import document_losses
from microgpt.engines.scalar.tracing import PARAMETER, TracedValue, Tracer
from microgpt.engines.scalar.value import topological_order
from microgpt.explain.layout import Layout, Place, layout
from microgpt.model.init import init_parameters
from microgpt.model.spec import MODEL_KINDS, ModelSpec

TINY = {"n_embd": 2, "n_head": 1, "n_layer": 1, "mlp_width": None, "n_kv_head": None}  # for a model with blocks
BOX, HEIGHT, GAP, PASSING, BETWEEN = 104.0, 46.0, 14.0, 10.0, 26.0  # sizes of boxes and distances, in pixels
MARGIN, LABELS, HEAD = 16.0, 118.0, 62.0
STYLE = """
.graph { font: 11px "DejaVu Sans", Verdana, Arial, sans-serif; fill: var(--ink, #1a1a1a); }
.graph .background { fill: var(--paper, #fff); }
.graph .band { fill: var(--shade, #f4f4f2); }
.graph .box { fill: var(--paper, #fff); stroke: var(--faint, #666); }
.graph .input { fill: var(--shade, #f4f4f2); stroke-dasharray: 3 2; }
.graph .result { stroke: var(--series-1, #d55e00); stroke-width: 2; }
.graph .edge { fill: none; stroke: var(--faint, #666); stroke-opacity: 0.55; }
.graph .part, .graph .note { fill: var(--faint, #666); }
.graph .value { fill: var(--series-0, #0072b2); }
.graph .grad { fill: var(--series-1, #d55e00); }
.graph .title { font-size: 14px; font-weight: bold; }
"""


@dataclass(frozen=True)
class Graph:
    """The computation graph of the loss of a document's first character."""

    spec: ModelSpec
    character: str
    nodes: list[TracedValue]  # first the embeddings that are read, then the other nodes, each after its children


def tiny_graph(spec: ModelSpec, document: str, seed: int) -> Graph:
    """Return the graph of a document's first prediction, for a model of this architecture that is small enough to draw.

    The model has n_embd=2, one head, one block, the document's characters as vocabulary, and newly drawn weights.
    """
    tokenizer = Tokenizer.of([document])
    sizes = TINY if MODEL_KINDS[spec.kind].has_blocks else {"n_embd": tokenizer.vocab_size}
    tiny = replace(spec, vocab_size=tokenizer.vocab_size, **sizes)
    tracer = Tracer(init_parameters(tiny, random.Random(seed)))
    example = [tokenizer.bos, tokenizer.ids[document[0]]]
    (loss,) = document_losses(tiny, tracer.weights, example, tracer.arithmetic)
    loss.backward()
    order = topological_order(loss)
    inputs = dict.fromkeys(child for node in order for child in node.children if not child.children)
    nodes = [node for node in (*inputs, *order) if isinstance(node, TracedValue)]
    return Graph(tiny, document[0], nodes)


def svg(graph: Graph) -> str:
    """Return the drawing as a complete SVG document, which uses the page's colours if embedded in a page."""
    number = {node: index for index, node in enumerate(graph.nodes)}
    children = [[number[child] for child in node.children] for node in graph.nodes]  # pyright: ignore[reportArgumentType]
    found = layout(children, BOX, PASSING, GAP)
    width = LABELS + found.width + MARGIN
    height = HEAD + len(found.rows) * (HEIGHT + BETWEEN)
    parts = [*head(graph), *bands(graph, found, width), *edges(found), *boxes(graph, found)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" aria-label="{escape(summary(graph))}">'
        f'<style>{STYLE}</style><rect class="background" width="100%" height="100%"/>{"".join(parts)}</svg>'
    )


def summary(graph: Graph) -> str:
    return f"The graph of one loss: BOS is read, {graph.character!r} is the target"


def head(graph: Graph) -> Iterator[str]:
    spec = graph.spec
    sizes = f"n_embd={spec.n_embd}, n_head={spec.n_head}, n_layer={spec.n_layer}, {spec.vocab_size} tokens"
    yield f'<text class="title" x="{MARGIN}" y="24">{escape(summary(graph))}</text>'
    yield (
        f'<text x="{MARGIN}" y="42"><tspan class="note">{escape(sizes)}. Each box: the operation, its '
        '</tspan><tspan class="value">value</tspan><tspan class="note">, its </tspan><tspan class="grad">'
        'gradient</tspan><tspan class="note"> d(loss) / d(value). Dashed: parameters.</tspan></text>'
    )


def top(row: int) -> float:
    return HEAD + row * (HEIGHT + BETWEEN)


def bands(graph: Graph, found: Layout, width: float) -> Iterator[str]:
    """Yield a labelled band for each group of adjacent rows that belong to the same part of the model."""
    names = [part_of(graph, row) for row in found.rows]
    first = 0
    for number, (name, rows) in enumerate(groupby(names)):
        count = len(list(rows))
        if number % 2 == 0:
            yield (
                f'<rect class="band" x="0" y="{top(first) - BETWEEN / 2:.1f}" width="{width:.0f}" '
                f'height="{count * (HEIGHT + BETWEEN):.1f}"/>'
            )
        middle = (top(first) + top(first + count - 1) + HEIGHT) / 2 - 7 * (len(name) - 1)
        for line, word in enumerate(name):
            yield f'<text class="part" x="{MARGIN}" y="{middle + 4 + 14 * line:.1f}">{escape(word)}</text>'
        first += count


def part_of(graph: Graph, row: Sequence[Place]) -> tuple[str, ...]:
    """Return the parts of the model that the nodes of a row compute, or of its parameters if it has nothing else."""
    nodes = [graph.nodes[number] for number in sorted(place.node for place in row if place.node is not None)]
    computed = [node for node in nodes if node.operation != PARAMETER] or nodes
    return tuple(dict.fromkeys(node.part for node in computed))


def edges(found: Layout) -> Iterator[str]:
    """Yield a line from each child to its parent node: vertical at both ends, straight across the rows in between."""
    for path in found.paths:
        points = [(place.x + LABELS, top(place.row) + HEIGHT / 2) for place in path]
        (first_x, first_y), (last_x, last_y) = points[0], points[-1]
        points = [(first_x, first_y + HEIGHT / 2), *points[1:-1], (last_x, last_y - HEIGHT / 2)]
        line = f"M{first_x:.1f} {points[0][1]:.1f}"
        for number, ((x, y), (to_x, to_y)) in enumerate(pairwise(points), 1):
            reach = (to_y - y) * 0.6
            leaves = (x, y + reach) if number == 1 else (x, y)
            arrives = (to_x, to_y - reach) if number == len(points) - 1 else (to_x, to_y)
            line += "C" + " ".join(f"{value:.1f}" for value in (*leaves, *arrives, to_x, to_y))
        yield f'<path class="edge" d="{line}"/>'


def boxes(graph: Graph, found: Layout) -> Iterator[str]:
    for place in (place for row in found.rows for place in row if place.node is not None):
        assert place.node is not None
        node = graph.nodes[place.node]
        kind = "input" if node.operation == PARAMETER else "result" if node is graph.nodes[-1] else ""
        x, y = place.x + LABELS, top(place.row)
        yield (
            f"<g><title>{escape(label(node))}: value {node.data:.12g}, gradient {node.grad:.12g}</title>"
            f'<rect class="box {kind}" x="{x - BOX / 2:.1f}" y="{y:.1f}" width="{BOX:.0f}" height="{HEIGHT:.0f}" '
            'rx="4"/>'
            f'<g text-anchor="middle"><text x="{x:.1f}" y="{y + 14:.1f}">{escape(label(node))}</text>'
            f'<text class="value" x="{x:.1f}" y="{y + 27.5:.1f}">{node.data:.3g}</text>'
            f'<text class="grad" x="{x:.1f}" y="{y + 41:.1f}">{node.grad:.3g}</text></g></g>'
        )


def label(node: TracedValue) -> str:
    """Return the label of a node's box, for example `x · attn_wq[1]`, `+`, `** -0.5` or `wte[3][0]`."""
    name = node.parameters.removeprefix("layer0.")
    if node.operation == PARAMETER:
        return name
    if node.operation == "linear":
        return f"x · {name}"
    if len(node.children) == 1 and node.operation in CONSTANTS:
        (child,), (local,) = node.children, node.local_grads
        return f"{node.operation} {CONSTANTS[node.operation](node.data, child.data, local):.3g}"
    return node.operation


# The constant operand of an operation with one child, computed from the result, the child and the local gradient.
CONSTANTS = {
    "+": lambda result, child, local: result - child,
    "*": lambda result, child, local: local,
    "**": lambda result, child, local: local * child / result,
}
