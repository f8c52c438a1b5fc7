"""task=explain: explains one training step of the scalar engine on one document, as text, an HTML page or a drawing."""

from pathlib import Path

from microgpt.atomic import write_atomically
from microgpt.config.choices import EXPLAIN_FORMATS
from microgpt.config.schema import Config
from microgpt.data.corpus import ExampleOptions, encode_document
from microgpt.engines.base import implementation
from microgpt.errors import UserError
from microgpt.explain.formats import FORMATS
from microgpt.explain.graph import tiny_graph
from microgpt.explain.step import training_step
from microgpt.runs.invocation import Invocation
from microgpt.training.from_config import make_schedule, optimizer_spec
from microgpt.training.run_inputs import InputReader, RunInputs


def explain(config: Config, invocation: Invocation) -> None:
    """Explain the first step of the run that the same configuration trains, on one document."""
    name = config.explain.format
    render = implementation(FORMATS, "explain.format", name, "FORMATS in explain/formats.py")
    inputs = InputReader().inputs(config)
    tokenizer = inputs.corpus.tokenizer
    step = training_step(
        inputs.spec,
        {tensor: array[0].tolist() for tensor, array in inputs.initial.engine_state.parameters.items()},
        example_of(inputs),
        tokenizer,
        optimizer_spec(config.optim),
        config.optim.lr * make_schedule(config).factor(0),
    )
    content = render(step, tiny_graph(inputs.spec, step.document, config.seed))
    if "path" not in EXPLAIN_FORMATS[name]:
        print(content)
        return
    path = Path(config.explain.path or f"explain.{name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"explain.path={path} cannot be written: {error.strerror}") from error
    print(f"wrote {path}")


def example_of(inputs: RunInputs) -> list[int]:
    """Return explain.document as a training example, or the first example of the run."""
    document = inputs.config.explain.document
    if document is None:
        return inputs.corpus.examples[inputs.initial.order.batch(0)[0]]
    if inputs.corpus.tokenizer.special:
        raise UserError(
            f"explain.document={document} is not allowed: data={inputs.config.data.name} consists of conversations"
        )
    (example,) = encode_document(
        document, inputs.corpus.tokenizer, ExampleOptions(inputs.spec.block_size, "truncate"), "explain.document"
    )
    return example
