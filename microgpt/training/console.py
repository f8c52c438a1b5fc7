"""What training says on the terminal: a run alone in detail, runs that train together in a line every two seconds."""

from pathlib import Path

from microgpt.runs.record import RunRecord
from microgpt.training.assembly import Inputs, schedule_of
from microgpt.training.metrics import console_line
from microgpt.training.progress import Progress, SweepProgress
from microgpt.training.runner import Member


class RunDisplay(Progress):
    """A run alone: what it works on, its progress, its samples, where its files are."""

    def __init__(self, member: Member):
        checkpoint = member.folder.checkpoint
        super().__init__(member.inputs.config.train.steps, 0 if checkpoint is None else checkpoint.progress.step)

    def say(self, line: str) -> None:
        print(line, flush=True)

    def begin(self, members: list[Member]) -> None:
        for member in members:
            if member.folder.checkpoint is not None:
                print(f"resuming {member.folder.path} at step {self.first}")
            print_beginning(member.inputs, member.record)
        self.start()

    def end(self, member: Member) -> None:
        print_end(member.record, member.folder.path)


class SweepDisplay(SweepProgress):
    """The runs of a sweep that train together: a line every two seconds; their figures are in the tables at the end."""

    def __init__(self, jobs: int, steps: int):
        super().__init__(jobs, steps)
        self.told = False

    def say(self, line: str) -> None:
        self.print(line)

    def begin(self, members: list[Member]) -> None:
        if not self.told:
            self.told = True
            print_engine(members[0].record)
        first = members[0].run.state.step
        self.start(len(members), first, members[0].inputs.config.train.steps)

    def end(self, member: Member) -> None:
        pass


def print_beginning(inputs: Inputs, record: RunRecord) -> None:
    corpus = inputs.corpus
    assert record.data is not None
    print(f"num docs: {corpus.documents}")
    print(f"vocab size: {inputs.spec.vocab_size}")
    print(f"num params: {inputs.spec.parameter_count()}")
    if corpus.val.documents:
        print(f"split: {corpus.train.documents} train, {corpus.val.documents} validation documents, "
              f"{record.data.evaluated_documents} evaluated")  # fmt: skip
    if corpus.long_documents:
        policy = inputs.config.data.long_documents
        done = {"truncate": "cut", "window": "read in windows", "skip": "left out"}[policy]
        print(f"long documents: {corpus.long_documents} of {corpus.documents} exceed the block and are {done}")
    lost = unknown_phrases(inputs)
    if lost:
        print(f"style {record.style}: phrases with characters that no document has are not favoured: {', '.join(lost)}")
    if inputs.leg_from is not None:
        leg, optim, schedule = record.leg, inputs.config.optim, schedule_of(inputs.config)
        assert leg is not None
        print(f"training on from step {leg.first_step} of {leg.from_}")
        if not leg.optimizer_state:
            print("it has no optimizer state: moments begin at zero, and steps are counted from 0")
        print(f"a new leg of {inputs.config.train.steps} steps: schedule {schedule.name} anew from lr {optim.lr} over "
              f"{schedule.total_steps} steps")  # fmt: skip
    print_engine(record)


def print_engine(record: RunRecord) -> None:
    shared = f" processes={record.processes}" if record.processes != 1 else ""
    print(f"backend={record.backend} device={record.device} using_gpu={str(record.using_gpu).lower()} "
          f"dtype={record.dtype} kernel={record.kernel} threads={record.threads}{shared}",
          flush=True)  # fmt: skip
    if record.backend_reason:
        print(f"backend=auto is {record.backend}: {record.backend_reason}", flush=True)


def unknown_phrases(inputs: Inputs) -> list[str]:
    ids = inputs.corpus.tokenizer.ids
    return [phrase for phrase in inputs.config.style.phrases if any(char not in ids for char in phrase)]


def print_end(record: RunRecord, path: Path) -> None:
    if record.samples:
        print("--- samples ---")
    for number, sample in enumerate(record.samples, 1):
        print(f"sample {number:2d}: {sample}")
    figures, model = record.metrics, record.model
    assert figures is not None
    assert model is not None
    style = figures.style_effect
    if style and style.phrase_rate is not None:
        print(f"style {record.style}: a phrase in {style.phrase_rate:.0%} of the samples, "
              f"in {style.phrase_rate_without_bias:.0%} of those drawn without its bias")  # fmt: skip
    print(f"files: {path}")
    print(console_line({
        "mode": record.mode,
        "model": record.config["model"]["name"],
        "style": record.style,
        "backend": record.backend,
        "device": record.device,
        "using_gpu": record.using_gpu,
        "tie_lm_head": model.tie_lm_head,
        "input_rmsnorm": model.input_rmsnorm,
        "params": figures.parameter_count,
        "steps": figures.steps,
        "final_loss": figures.final_loss,
        "val_loss": figures.val_loss,
        f"mean_loss_last_{figures.last_n}": figures.mean_loss_last_n,
        "steps_per_sec": figures.steps_per_sec,
        "tokens_per_sec": figures.tokens_per_sec,
        "vocab_size": figures.vocab_size,
        "train_tokens": figures.train_tokens,
    }), flush=True)  # fmt: skip
