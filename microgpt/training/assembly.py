"""From a configuration to the things that it names: corpus, model, optimizer, schedule, policy, a seed's beginning."""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from microgpt.config.schema import Config, DataConfig, OptimConfig, SampleConfig
from microgpt.data.baselines import count_baselines
from microgpt.data.batches import BatchOrder, shuffled
from microgpt.data.conversations import USER, Turn, build_chat_corpus, encode_prompt_turns
from microgpt.data.corpus import Corpus, build_corpus
from microgpt.data.examples import Examples
from microgpt.data.sources import read_source
from microgpt.data.tokenizer import Tokenizer
from microgpt.engines.base import EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.errors import UserError
from microgpt.inference.generation import encode_prompt
from microgpt.inference.loading import engine_options
from microgpt.model.init import init_parameters
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import Checkpoint, load_checkpoint, resolve_checkpoint
from microgpt.training.loggers import check_installed
from microgpt.training.schedules import Schedule

MOST_CORPORA, MOST_ORDERS = 8, 512  # that a process keeps: on names.txt 20 MB and 0.1 MB each


def model_spec(config: Config, vocab_size: int) -> ModelSpec:
    model = config.model
    bigram = model.kind == "bigram"
    return ModelSpec(
        kind=model.kind,
        vocab_size=vocab_size,
        n_embd=vocab_size if bigram else model.n_embd or 0,
        n_head=1 if bigram else model.n_head or 0,
        n_layer=0 if bigram else model.n_layer or 0,
        block_size=model.block_size,
        tie_lm_head=model.tie_lm_head,
        input_rmsnorm=model.input_rmsnorm,
        activation=model.activation,
        init_std=model.init_std,
        zero_init_residual=model.zero_init_residual,
    )


def optimizer_spec(optim: OptimConfig) -> OptimizerSpec:
    chosen = {key: value for key, value in asdict(optim).items() if key != "lr" and value is not None}
    return OptimizerSpec(**chosen)


def schedule_of(config: Config) -> Schedule:
    schedule = config.schedule
    total = config.train.steps if schedule.total_steps is None else schedule.total_steps
    return Schedule(schedule.name, max(total, 1), schedule.warmup_steps, schedule.warmdown_steps)


@dataclass(frozen=True)
class Prompt:
    """What a sample goes on from."""

    shown: str  # before the sample's text
    tokens: list[int]


def prompts_of(sample: SampleConfig, tokenizer: Tokenizer, block_size: int, questions: Sequence[str]) -> list[Prompt]:
    """sample.prompt, or for a chat model that text as the user's, or, where there is none, some of the questions.

    Raises UserError for what the model does not know, what does not fit, and a chat model that is asked nothing.
    """
    if not tokenizer.special:
        return [Prompt(sample.prompt, encode_prompt(sample.prompt, tokenizer, block_size))]
    asked = [sample.prompt] if sample.prompt else questions[: max(1, sample.num_samples)]
    if not asked:
        raise UserError("sample.prompt= is not allowed: a chat model answers; say sample.prompt=hello")
    return [
        Prompt(f"user: {text} assistant: ", encode_prompt_turns([Turn(USER, text)], tokenizer, block_size)[0])
        for text in asked
    ]


@dataclass(frozen=True)
class Beginning:
    """What a seed determines before the first step: all of it drawn from one generator, in microgpt.py's order."""

    order: BatchOrder
    state: EngineState  # R = 1
    rng: random.Random  # where the draws ended; the samples' draws go on from here


def shuffle(seed: int, count: int) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The order of a seed's examples, and the state of its generator after that."""
    rng = random.Random(seed)
    return shuffled(count, rng), rng.getstate()


def begin(
    seed: int,
    corpus: Corpus,
    spec: ModelSpec,
    batch_size: int,
    style_share: float,
    shuffle: Callable[[int, int], tuple[np.ndarray, tuple[Any, ...]]] = shuffle,
) -> Beginning:
    """Shuffle the examples, then draw the initial values. Training itself draws nothing.

    The style's examples follow the corpus's in `corpus.examples`; they are met in their own order.
    """
    count = len(corpus.train.examples)
    corpus_order, state = shuffle(seed, count)
    rng = random.Random()
    rng.setstate(state)
    order = BatchOrder(
        corpus=corpus_order,
        style=range(count, count + len(corpus.style_train.examples)),
        style_share=style_share if corpus.style_train.examples else 0.0,
        batch_size=batch_size,
    )
    matrices = init_parameters(spec, rng)
    parameters = {name: np.array([matrix]) for name, matrix in matrices.items()}
    return Beginning(order, EngineState(parameters), rng)


def workload(corpus: Corpus, orders: list[BatchOrder]) -> Workload:
    return Workload(corpus.examples, orders)


@dataclass(frozen=True)
class Inputs:
    """What a run works on, read and checked before anything is written."""

    config: Config
    options: EngineOptions
    corpus: Corpus
    spec: ModelSpec
    beginning: Beginning
    prompts: list[Prompt]  # what its samples go on from, in turn
    leg_from: Checkpoint | None  # train.resume=<folder>: the checkpoint that this run trains on from
    baselines: dict[str, float | None]  # what counting reaches on the documents that the run is validated on

    @property
    def val_examples(self) -> Examples:
        """What the run is validated on: all held-out documents, or the first train.eval_documents of them."""
        return Examples.of(self.corpus.val.head(self.config.train.eval_documents))


def corpus_key(config: Config) -> tuple[DataConfig, int, tuple[str, ...], str]:
    """What a corpus depends on."""
    style = config.style
    return config.data, config.model.block_size, tuple(style.documents), style.long_documents


class InputReader:
    """Reads what runs work on; what several runs of a process share is read, shuffled and packed once."""

    def __init__(self) -> None:
        self.corpus_of = lru_cache(MOST_CORPORA)(self.build_corpus)
        self.baselines_of = lru_cache(MOST_CORPORA)(self.count)
        self.shuffled = lru_cache(MOST_ORDERS)(shuffle)
        self.threads: int | None = None  # for runs that do not say; None: one for each core

    def corpus(self, config: Config) -> Corpus:
        """Raises UserError for data that cannot be read."""
        return self.corpus_of(*corpus_key(config))

    def build_corpus(
        self, data: DataConfig, block_size: int, style_documents: tuple[str, ...], style_long_documents: str
    ) -> Corpus:
        source = read_source(data.name, data.path)
        if data.name == "chat":
            return build_chat_corpus(
                source, val_fraction=data.val_fraction, split_seed=data.split_seed, block_size=block_size,
                loss_on=data.loss_on,
            )  # fmt: skip
        return build_corpus(
            source,
            text_format=data.format,
            long_documents=data.long_documents,
            val_fraction=data.val_fraction,
            split_seed=data.split_seed,
            block_size=block_size,
            style_documents=style_documents,
            style_long_documents=style_long_documents,
        )

    def count(self, eval_documents: int | None, *corpus_key: Any) -> dict[str, float | None]:
        corpus = self.corpus_of(*corpus_key)
        validation = corpus.val.head(eval_documents)
        return count_baselines(corpus.train.examples, validation, corpus.tokenizer.vocab_size)

    def inputs(self, config: Config) -> Inputs:
        """Everything that a run needs. Raises UserError; nothing has been written by then."""
        check_installed(config.logger.name)
        corpus = self.corpus(config)
        spec = model_spec(config, corpus.tokenizer.vocab_size)
        prompts = prompts_of(config.sample, corpus.tokenizer, spec.block_size, corpus.questions)
        leg_from = None
        if config.train.resume not in ("auto", "never"):
            leg_from = load_checkpoint(resolve_checkpoint(config.train.resume, config.outputs_dir, "train.resume"))
            refuse_misfit(leg_from, spec, corpus, config.optim.name)
        beginning = begin(config.seed, corpus, spec, config.train.batch_size, config.style.share, self.shuffled)
        targets = corpus.train.tokens / len(corpus.train.examples) * config.train.batch_size
        options = engine_options(config, spec, targets)
        if options.threads is None and options.backend != "python":
            options = replace(options, threads=self.threads)
        baselines = self.baselines_of(config.train.eval_documents, *corpus_key(config))
        return Inputs(config, options, corpus, spec, beginning, prompts, leg_from, baselines)


def refuse_misfit(checkpoint: Checkpoint, spec: ModelSpec, corpus: Corpus, optimizer: str) -> None:
    """Raises UserError with the reason why a checkpoint cannot be trained on with this data, model and optimizer."""
    where = f"checkpoint {checkpoint.path} does not fit"
    if checkpoint.meta.special != corpus.tokenizer.special:
        kinds = ("of a chat", "of other texts") if checkpoint.meta.special else ("of other texts", "of a chat")
        raise UserError(f"{where} the data: it was trained on tokens {kinds[0]}, and these are {kinds[1]}")
    if checkpoint.meta.chars != corpus.tokenizer.chars:
        ours, theirs = "".join(corpus.tokenizer.chars), "".join(checkpoint.meta.chars)
        raise UserError(f"{where} the data: its characters are {theirs!r}, those of the data and the style {ours!r}")
    for key, value in spec.to_dict().items():
        found = checkpoint.meta.spec.to_dict()[key]
        if found != value and key not in ("init_std", "zero_init_residual"):  # how it once began does not matter
            raise UserError(f"{where} the model: model.{key} is {found} in the checkpoint and {value} here")
    earlier = checkpoint.progress.optimizer or ("adam" if checkpoint.state.v else optimizer)
    if ("sgd" in (earlier, optimizer)) and earlier != optimizer:  # their moments mean different things
        raise UserError(f"{where} optim={optimizer}: it was trained with optim={earlier}")
