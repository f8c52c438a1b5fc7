"""The inputs of a run, read and checked before anything is written; runs of one process share data where possible."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from microgpt.config.schema import Config, DataConfig
from microgpt.data.baselines import count_baselines
from microgpt.data.corpus import Corpus
from microgpt.data.examples import Examples
from microgpt.engines.optimizer import OPTIMIZERS
from microgpt.engines.options import BACKENDS, EngineOptions
from microgpt.errors import UserError
from microgpt.inference.loading import engine_options
from microgpt.inference.prompts import Prompt, sample_prompts
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import Checkpoint, load_checkpoint
from microgpt.runs.checkpoint_paths import resolve_checkpoint
from microgpt.runs.record import RunRecord
from microgpt.training.from_config import (
    InitialState,
    example_order,
    initial_state,
    model_spec,
    read_corpus,
)
from microgpt.training.loggers import check_installed

MAX_CORPORA, MAX_ORDERS = 8, 512  # cached per process; for names.txt, 20 MB per corpus and 0.1 MB per order


@dataclass(frozen=True)
class RunInputs:
    """The inputs of a run."""

    config: Config
    options: EngineOptions
    corpus: Corpus
    spec: ModelSpec
    initial: InitialState
    prompts: list[Prompt]  # for the samples, repeated cyclically
    leg_from: Checkpoint | None  # train.resume=<folder>: the checkpoint from which this run continues training
    other_data: list[str]  # differences between this run's data and the checkpoint's
    baselines: dict[str, float | None]  # losses of the counting models (data/baselines.py) on the evaluated documents

    @property
    def val_examples(self) -> Examples:
        """The examples of all held-out documents, or of the first train.eval_documents."""
        return Examples.of(self.corpus.val.head(self.config.train.eval_documents))


class InputReader:
    """Reads the inputs of runs. Corpora, their baselines and example orders are cached."""

    def __init__(self, threads: int | None = None) -> None:
        """`threads` applies to runs whose configuration does not set the number of threads; None: one per core."""
        self.threads = threads
        self.cached_corpus = lru_cache(MAX_CORPORA)(read_corpus)
        self.cached_baselines = lru_cache(MAX_CORPORA)(self.count_baselines)
        self.cached_order = lru_cache(MAX_ORDERS)(example_order)

    def corpus(self, config: Config) -> Corpus:
        """Return the corpus of a configuration. Raises UserError for data that cannot be read."""
        return self.cached_corpus(*corpus_key(config))

    def count_baselines(self, eval_documents: int | None, *key: Any) -> dict[str, float | None]:
        corpus = self.cached_corpus(*key)
        return count_baselines(corpus.train.examples, corpus.val.head(eval_documents), corpus.tokenizer.vocab_size)

    def check(self, config: Config, on_this_machine: bool = True) -> None:
        """Raise UserError for a run that cannot start. Libraries and device are checked only if `on_this_machine`."""
        self.start_of(config)
        if on_this_machine:
            self.options(config)

    def inputs(self, config: Config) -> RunInputs:
        """Return everything that a run needs. Raises UserError if the run cannot start."""
        corpus, spec, prompts, leg_from, other_data = self.start_of(config)
        options = self.options(config)
        share, batch_size = config.style.share, config.train.batch_size
        initial = initial_state(config.seed, corpus, spec, batch_size, share, options, self.cached_order)
        baselines = self.cached_baselines(config.train.eval_documents, *corpus_key(config))
        return RunInputs(config, options, corpus, spec, initial, prompts, leg_from, other_data, baselines)

    def options(self, config: Config) -> EngineOptions:
        """Return the engine options. Raises UserError for a library or a device that this machine lacks."""
        check_installed(config.logger.name)
        corpus = self.corpus(config)
        targets = corpus.train.tokens / len(corpus.train.examples) * config.train.batch_size
        options = engine_options(config, model_spec(config, corpus.tokenizer.vocab_size), targets)
        if options.threads is None and "threads" in BACKENDS[options.backend].keys:
            options = replace(options, threads=self.threads)
        return options

    def start_of(self, config: Config) -> tuple[Corpus, ModelSpec, list[Prompt], Checkpoint | None, list[str]]:
        """Return the inputs that do not depend on machine or seed. Raises UserError if they are inconsistent."""
        corpus = self.corpus(config)
        spec = model_spec(config, corpus.tokenizer.vocab_size)
        prompts = sample_prompts(config.sample, corpus.tokenizer, spec.block_size, corpus.questions)
        leg_from, other_data = None, []
        if config.train.resume not in ("auto", "never"):
            leg_from = load_checkpoint(resolve_checkpoint(config.train.resume, config.outputs_dir, "train.resume"))
            check_fit(leg_from, spec, corpus, config.optim.name)
            other_data = data_differences(leg_from, config, corpus)
            if other_data and not config.train.resume_on_other_data:
                raise UserError(
                    f"the checkpoint of train.resume={config.train.resume} was trained on other data "
                    f"({'; '.join(other_data)}), so its training documents may include validation documents of this "
                    "run; set train.resume_on_other_data=true to continue anyway"
                )
        return corpus, spec, prompts, leg_from, other_data


def corpus_key(config: Config) -> tuple[DataConfig, int, tuple[str, ...], str]:
    """Return the arguments of `read_corpus`."""
    style = config.style
    return config.data, config.model.block_size, tuple(style.documents), style.long_documents


INITIAL_ONLY = ("init_std", "residual_init", "init")  # these keys affect only the initial weights


def check_fit(checkpoint: Checkpoint, spec: ModelSpec, corpus: Corpus, optimizer: str) -> None:
    """Raise UserError if training cannot continue from a checkpoint with this data, model and optimizer."""
    where = f"checkpoint {checkpoint.path} does not fit"
    if checkpoint.meta.special != corpus.tokenizer.special:
        kinds = ("chat", "plain text") if checkpoint.meta.special else ("plain text", "chat")
        raise UserError(f"{where} the data: it was trained on {kinds[0]} tokens, but the data has {kinds[1]} tokens")
    if checkpoint.meta.chars != corpus.tokenizer.chars:
        ours, theirs = "".join(corpus.tokenizer.chars), "".join(checkpoint.meta.chars)
        raise UserError(
            f"{where} the data: it knows the characters {theirs!r}, but the data and the style contain {ours!r}"
        )
    for key, value in spec.to_dict().items():
        found = checkpoint.meta.spec.to_dict()[key]
        if found != value and key not in INITIAL_ONLY:
            raise UserError(f"{where} the model: model.{key} is {found} in the checkpoint but {value} in this run")
    earlier = checkpoint.progress.optimizer or ("adam" if checkpoint.state.v else optimizer)
    if not share_moments(earlier, optimizer):
        raise UserError(f"{where} optim={optimizer}: the checkpoint was trained with optim={earlier}")


# Keys of `data` that determine which documents, or pieces of a stream, are held out.
SPLIT_KEYS = ("format", "val_fraction", "split_seed")


def data_differences(checkpoint: Checkpoint, config: Config, corpus: Corpus) -> list[str]:
    """Return the differences in data and split between this run and the checkpoint's run.

    The checkpoint's split is read from the run.json of its run; without this file, only the data hashes are compared.
    """
    found = []
    sha256 = checkpoint.progress.data_sha256
    if sha256 is not None and sha256 != corpus.source.sha256:
        found.append(f"SHA-256 was {sha256[:12]}..., now {corpus.source.sha256[:12]}...")
    record = RunRecord.read(checkpoint.path.parents[1])
    earlier = record.config if record is not None else {}
    data = earlier.get("data") or {}
    pairs = [(f"data.{key}", data.get(key), getattr(config.data, key)) for key in SPLIT_KEYS]
    if config.data.format == "stream":
        pairs.append(("model.block_size", (earlier.get("model") or {}).get("block_size"), config.model.block_size))
    found += [f"{key} was {was}, now {now}" for key, was, now in pairs if was is not None and was != now]
    return found


def share_moments(one: str, other: str) -> bool:
    """Return whether two optimizers use the same moments: they may differ only in weight decay."""

    def settings(name: str) -> tuple[int, set[str]] | None:
        choice = OPTIMIZERS.get(name)
        return choice and (choice.moments, set(choice.keys) - {"weight_decay"})

    return settings(one) == settings(other)
