"""Jobs trained together have the values, files and callbacks that Hydra's own launcher gives them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf
from support.program import read_record

from microgpt.app import config_directory, execute
from microgpt.config.hydra_compat import combinations
from microgpt.config.hydra_schema import from_values, register_schema
from microgpt.sweeps.composition import Composer
from microgpt.sweeps.hydra_job import HydraJob
from microgpt.sweeps.lifecycle import new_sweep

QUICK = "mode=scalar", "train.steps=1", "train.eval_documents=2", "sample.num_samples=1", "train.eval_every=null"
SWEEP = [
    "seed=7,8", "model=gpt,bigram", "experiment=debug", "hydra.sweep.dir=out", "sample.prompt='a: b'",
    "hydra.sweep.subdir='${hydra.job.num}_${seed}/${model.kind}'", "+hydra.job.env_set.GREETING='x${hydra:job.id}'",
    "hydra.job.env_copy=[HOME]",
]  # fmt: skip
VALUES = [
    "${hydra:job.id}", "${hydra:runtime.choices.model}", "${hydra:runtime.output_dir}",
    "${hydra:runtime.cwd}", "${hydra:sweep.subdir}", "${hydra:overrides.task.0}", "${oc.env:GREETING}",
    "${oc.env:HOME}", "${hydra:job.name}_${hydra:job.config_name}", "${model.kind}${seed}", "${hydra:mode}",
]  # fmt: skip


class Plain:
    """Run a command whose task only stores its configuration with Hydra's own sweeper, launcher and run_job."""

    def __init__(self, overrides: list[str]):
        self.values: list[dict[str, Any]] = []
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        basic = ["hydra/launcher=basic", "hydra/sweeper=basic", "hydra.mode=MULTIRUN"]
        hydra.multirun("config", self.note, [*overrides, *basic], with_log_configuration=False)

    def note(self, composed: Any) -> float:
        self.values.append(OmegaConf.to_container(composed, resolve=True))  # pyright: ignore[reportArgumentType]
        return 0.0


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Set up Hydra with microgpt's configuration in a separate folder."""
    monkeypatch.chdir(tmp_path)
    register_schema()
    OmegaConf.register_new_resolver("sweep_id", lambda: "it", replace=True)
    with initialize_config_dir(config_directory(), version_base="1.3"):
        yield tmp_path
    HydraConfig.instance().cfg = None


def composer(overrides: list[str]) -> Composer:
    loader = GlobalHydra.instance().config_loader()
    return Composer(loader, loader.load_configuration("config", [*overrides, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN))


def jobs(overrides: list[str]) -> list[list[str]]:
    """Return the overrides of each job as a sweeper writes them."""
    own = [one for one in overrides if not one.lstrip("+").startswith("hydra")]
    return combinations(OverridesParser.create().parse_overrides(own))


@pytest.mark.slow
def test_values_of_a_job_are_those_under_hydra_s_own_launcher(application: Path) -> None:
    phrases = ", ".join(f"'{value}'" for value in VALUES)
    overrides = [*SWEEP, f"style.phrases=[{phrases}]", "sample.seed=${hydra:job.num}"]
    plain = Plain(overrides).values
    ours = composer(overrides)
    for number, job in enumerate(jobs(overrides)):
        composed = ours.compose(job, number)
        with composed.hydra_job().in_environment():
            assert composed.values == plain[number]
            config = from_values(composed.values, composed.choices)
        assert (config.seed, config.sample.seed) == ((7, 7, 8, 8)[number], number)
        assert len(set(config.style.phrases)) == len(VALUES)


@pytest.mark.slow
def test_files_of_a_job_are_those_that_hydra_writes(application: Path) -> None:
    overrides = [*SWEEP, "style.phrases=['a: b', '1e3', x]", "optim.eps=1e-9"]
    Plain(overrides)
    ours = composer(overrides)
    for number, job in enumerate(jobs(overrides)):
        composed = ours.compose(job, number)
        folder = application / "out" / composed.place.subdir
        theirs = {path.name: path.read_text() for path in (folder / ".hydra").iterdir()}
        assert sorted(theirs) == ["config.yaml", "hydra.yaml", "overrides.yaml"]
        files = composed.hydra_job().files
        assert files is not None
        files.write(folder)
        for name, text in theirs.items():
            assert without_choices(OmegaConf.load(folder / ".hydra" / name)) == without_choices(OmegaConf.create(text))


def without_choices(file: Any) -> Any:
    """Return a file's content without the launcher and the sweeper, which differ here."""
    content: Any = OmegaConf.to_container(file)
    if "hydra" in content:
        hydra = content["hydra"]
        for key in ("launcher", "sweeper"):
            del hydra[key]
        for key in ("hydra/launcher", "hydra/sweeper"):
            del hydra["runtime"]["choices"][key]
        hydra["overrides"]["hydra"] = [one for one in hydra["overrides"]["hydra"] if "basic" not in one]
        hydra["overrides"]["hydra"].remove("hydra.mode=MULTIRUN")
    return content


class Noting(Callback):
    """Logs its calls to a file, in any process."""

    def __init__(self, file: str):
        self.file = file

    def note(self, **values: Any) -> None:
        with Path(self.file).open("a") as file:
            file.write(json.dumps(values) + "\n")

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        self.started = config.hydra.job.num
        self.note(event="start", number=config.hydra.job.num, seed=config.seed, own=HydraConfig.get().job.num)

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        self.note(event="end", number=config.hydra.job.num, status=job_return.status.name, started=self.started,
                  seed=job_return.cfg.seed, name=Path(config.hydra.runtime.output_dir).name)  # fmt: skip


def run(*arguments: str) -> None:
    with new_sweep() as sweep:
        execute(arguments)
        sweep.errors.clear()


def calls(folder: Path, launcher: str, *arguments: str) -> list[dict[str, Any]]:
    file = folder / f"{launcher}.jsonl"
    noting = f"+hydra.callbacks.noting={{_target_: {__name__}.Noting, file: {file}}}"
    sweep = f"hydra.sweep.dir={launcher}"
    run("-m", *arguments, *QUICK, noting, f"hydra/launcher={launcher}", sweep)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return sorted(lines, key=lambda line: (line["number"], line["event"] == "end"))


@pytest.mark.slow
def test_callbacks_are_called_for_each_job_and_know_of_a_failed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second job fails during training, and the third job computes the same as the first."""
    monkeypatch.chdir(tmp_path)
    arguments = "optim.lr=0.01,1e300,0.010", "seed=1", "optim=sgd", "train.steps=3"
    ours = calls(tmp_path, "vectorized", *arguments)
    assert [(line["event"], line["number"], line.get("status")) for line in ours] == [
        ("start", 0, None), ("end", 0, "COMPLETED"), ("start", 1, None), ("end", 1, "FAILED"),
        ("start", 2, None), ("end", 2, "COMPLETED"),
    ]  # fmt: skip
    assert all(line["own"] == line["number"] for line in ours if line["event"] == "start")
    assert all(line["started"] == line["number"] for line in ours if line["event"] == "end")
    theirs = calls(tmp_path, "basic", *arguments)
    same = ("event", "number", "status", "seed")
    assert [[line.get(key) for key in same] for line in theirs] == [[line.get(key) for key in same] for line in ours]
    again = calls(tmp_path, "vectorized", *arguments)  # completed jobs are not trained again
    assert [line["status"] for line in again[6:] if line["event"] == "end"]


class Listing(Callback):
    """Lists the names of its calls."""

    seen: ClassVar[list[str]] = []

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        self.seen.append("run start")

    def on_run_end(self, config: Any, **kwargs: Any) -> None:
        self.seen.append("run end")

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        self.seen.append("multirun start")

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        self.seen.append("multirun end")

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        self.seen.append("job start")

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        self.seen.append("job end")


@pytest.mark.slow
def test_callbacks_of_a_run_and_of_a_sweep_are_called_around_those_of_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listing = f"+hydra.callbacks.listing._target_={__name__}.Listing"
    monkeypatch.setattr(Listing, "seen", [])
    run(*QUICK, listing)
    assert Listing.seen == ["run start", "job start", "job end", "run end"]
    for launcher in ("basic", "vectorized"):
        Listing.seen.clear()
        run("-m", *QUICK, listing, f"hydra/launcher={launcher}", f"hydra.sweep.dir={launcher}")
        assert Listing.seen == ["multirun start", "job start", "job end", "multirun end"]


def test_environment_of_a_job_is_set_while_it_reads_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    greeting = "+hydra.job.env_set.GREETING='a${model.kind}'", "sample.prompt=${oc.env:GREETING}"
    run("-m", "model=bigram,gpt", *QUICK, *greeting)
    records = sorted(tmp_path.glob("outputs/sweeps/*/*/run.json"))
    assert [read_record(path.parent)["config"]["sample"]["prompt"] for path in records] == ["abigram", "agpt"]
    assert all((path.parent / ".hydra" / "config.yaml").is_file() for path in records)


def test_a_job_without_hydra_has_no_files_and_calls_nothing(tmp_path: Path) -> None:
    job = HydraJob()
    job.start(tmp_path)
    job.end(1.0)
    with job.in_environment():
        assert not list(tmp_path.iterdir())
