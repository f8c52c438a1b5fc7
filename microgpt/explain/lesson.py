"""The lesson: a report on one training step, printed as text or rendered as an HTML page."""

import math
import textwrap
from collections.abc import Iterator

from microgpt.explain.graph import Graph, svg
from microgpt.explain.step import DELTA, Step, Token
from microgpt.reports.markdown import text_table
from microgpt.reports.report import Block, Drawing, Paragraph, Report, Section, Table

LINE = 100  # characters of a line of text


def lesson(step: Step, graph: Graph | None = None) -> Report:
    """Return the lesson; if `graph` is given, its drawing is the last section."""
    sections = [
        Section("Tokens", list(tokens(step)), "tokens"),
        Section("Forward pass", list(forward(step)), "forward"),
        Section("Computation graph", list(nodes(step)), "nodes"),
        Section("Backward pass", list(backward(step)), "backward"),
        Section("Update", list(update(step)), "update"),
    ]
    if graph is not None:
        sections.append(Section("The graph of one prediction", list(drawn(graph)), "graph"))
    return Report("One training step", f"The scalar engine reads {step.document!r} and learns from it.", sections)


def plain_text(report: Report) -> str:
    """Return a lesson for a terminal."""
    return "\n\n".join(part for section in report.sections for part in parts(section))


def parts(section: Section) -> Iterator[str]:
    yield f"--- {section.title} ---"
    for block in section.blocks:
        if isinstance(block, Paragraph):
            yield textwrap.fill(block.text, LINE)
        elif isinstance(block, Table):
            yield text_table(block.rows)


def tokens(step: Step) -> Iterator[Block]:
    yield Paragraph(
        "Each character is a token, and each token has a number. BOS begins and ends a document. The model reads every "
        "token except the last and predicts the token that follows."
    )
    yield Table("", [{"token": shown(token), "id": str(token.id)} for token in step.tokens])


def forward(step: Step) -> Iterator[Block]:
    yield Paragraph(
        "At each position the model assigns every token the probability that it comes next. The loss is "
        "-ln(probability of the target), in nats."
    )
    yield Table("", [
        {
            "position": str(one.position),
            "reads": shown(one.read),
            "target": shown(one.target),
            "probability": f"{one.probability:.4f}",
            "loss": f"{one.loss:.4f}",
        }
        for one in step.predictions
    ])  # fmt: skip
    yield Paragraph(
        f"The loss of the document is the mean, {step.loss:.6f}. A model that assigns all {step.vocab_size} tokens the "
        f"same probability has the loss ln {step.vocab_size} = {math.log(step.vocab_size):.4f}."
    )


def nodes(step: Step) -> Iterator[Block]:
    yield Paragraph(
        "Each number that the forward pass computes is a node of a graph. A node stores references to the nodes and "
        "parameters that it was computed from, and its derivative with respect to each of them."
    )
    yield Table("", [{"operation": name, "nodes": f"{count:,}"} for name, count in step.nodes.most_common()])
    yield Paragraph(
        f"The graph has {step.nodes.total():,} nodes and {step.edges:,} edges; the model has {step.parameters:,} "
        "parameters. linear is the dot product of an input vector and a row of a matrix; add_up is the sum of several "
        "numbers."
    )


def backward(step: Step) -> Iterator[Block]:
    yield Paragraph(
        "Backpropagation applies the chain rule from the loss back through the graph and computes the gradient of each "
        f"parameter, d(loss) / d(parameter). {step.parameters_reached:,} of {step.parameters:,} parameters have a "
        "nonzero gradient. Finite differences check the gradients: the loss is computed again with the parameter p "
        f"increased and decreased by h = {DELTA:g}. For each tensor, the table shows the parameter with the largest "
        "gradient."
    )
    yield Table("", [
        {
            "parameter": one.name,
            "value": f"{one.before:.6f}",
            "gradient": f"{one.gradient:.9f}",
            "(loss(p + h) - loss(p - h)) / 2h": f"{one.quotient:.9f}",
            "difference": f"{abs(one.gradient - one.quotient):.0e}",
        }
        for one in step.steps
    ])  # fmt: skip


def update(step: Step) -> Iterator[Block]:
    yield Paragraph(
        f"{step.optimizer.name} moves every parameter against its gradient, with the learning rate {step.lr:g}."
    )
    yield Table("", [
        {
            "parameter": one.name,
            "before": f"{one.before:.6f}",
            "update": f"{one.after - one.before:+.6f}",
            "after": f"{one.after:.6f}",
        }
        for one in step.steps
    ])  # fmt: skip
    yield Paragraph(f"The loss of this document was {step.loss:.6f}. After the update it is {step.loss_after:.6f}.")


def drawn(graph: Graph) -> Iterator[Block]:
    spec = graph.spec
    yield Paragraph(
        "The drawing shows only the loss of the first prediction, in a model of the same architecture that is small "
        f"enough to draw: n_embd={spec.n_embd}, n_head={spec.n_head}, n_layer={spec.n_layer}, and the document's "
        f"{spec.vocab_size} tokens as vocabulary. Values are computed from top to bottom, gradients from bottom to top."
    )
    yield Drawing("The computation graph of one prediction", svg(graph))


def shown(token: Token) -> str:
    """Return a visible form of a token: white space and unprintable characters are quoted."""
    return token.text if token.text.isprintable() and not token.text.isspace() else repr(token.text)
