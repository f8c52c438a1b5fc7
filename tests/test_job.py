"""One job: the folder set by Hydra's keys, the working directory, Hydra's files, and the state afterwards."""

import importlib
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core import utils
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from support.application import microgpt
from support.program import ROOT, mostly_slow, read_record

from microgpt.app import run
from microgpt.config.hydra_errors import explain
from microgpt.errors import NonFiniteError, UserError
from microgpt.runs.checkpoint_paths import resolve_checkpoint
from microgpt.runs.record import RunRecord
from microgpt.sweeps.lifecycle import Sweep, sweep_names

QUICK = (
    "mode=scalar", "train.steps=1", "train.eval_documents=2", "sample.num_samples=1", "train.eval_every=null",
    "data=text", "data.path=names.txt", "style=classic",
)  # fmt: skip


@pytest.fixture(autouse=True)
def folder(text_folder: Path) -> Path:
    return text_folder


PICKLING = "+hydra.callbacks.pickling._target_=hydra.experimental.callbacks.PickleJobInfoCallback"


def files(folder: Path) -> list[str]:
    """Return the paths of all files and folders except the data folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != "names.txt")


def set_status(run: Path, status: str) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"status": status}))


def test_hydra_run_dir_names_the_folder_which_is_resumed_or_refused(folder: Path) -> None:
    command = *QUICK, "hydra.run.dir=a/${now:%Y}_${seed}", "seed=3"
    microgpt(*command)
    (run,) = (folder / "a").iterdir()
    assert run.name.endswith("_3")
    assert sorted(path.name for path in (run / ".hydra").iterdir()) == ["config.yaml", "hydra.yaml", "overrides.yaml"]
    assert OmegaConf.load(run / ".hydra" / "config.yaml").seed == 3
    assert list(OmegaConf.load(run / ".hydra" / "overrides.yaml")) == [*QUICK, "seed=3"]
    assert OmegaConf.load(run / ".hydra" / "hydra.yaml").hydra.runtime.output_dir == str(run)
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["a"]
    with pytest.raises(UserError, match=r"run\.dir=a/.* it contains a run with this configuration, which is completed"):
        microgpt(*command)
    set_status(run, "interrupted")
    microgpt(*command)
    record = RunRecord.read(run)
    assert record is not None
    assert (record.status, len(record.resumed)) == ("completed", 1)
    set_status(run, "failed")
    microgpt(*command)
    assert len(read_record(run)["earlier_failures"]) == 1
    with pytest.raises(UserError, match="it contains a run with another configuration or other data"):
        microgpt(*QUICK, f"hydra.run.dir={run}", "seed=4")
    (run / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"it contains a run\.json that cannot be read"):
        microgpt(*command)


@pytest.mark.parametrize("launcher", [None, "vectorized", pytest.param("basic", marks=pytest.mark.slow)])
def test_interpolations_in_a_job_have_the_types_of_their_keys_and_values_of_hydra(
    folder: Path, monkeypatch: pytest.MonkeyPatch, launcher: str | None
) -> None:
    monkeypatch.setenv("SEED", "5")
    command = *QUICK, "seed=${oc.env:SEED}", "+hydra.job.env_set.FOO='s${seed}'", "tags=['${seed}']"
    if launcher is None:
        microgpt(*command, "notes=${oc.env:FOO}", "hydra.run.dir=S/job_0", "hydra.output_subdir=h0")
    else:
        names = "hydra.sweep.subdir=job_${hydra.job.num}", "hydra.output_subdir=h${hydra.job.num}"
        launched = f"hydra/launcher={launcher}", "hydra.sweep.dir=S"
        microgpt("-m", *command, "notes=${oc.env:FOO},n", *launched, *names)
    notes = ["s5"] if launcher is None else ["s5", "n"]  # a job for each value, although it does not affect training
    for number, note in enumerate(notes):
        record = read_record(folder / "S" / f"job_{number}")
        assert (record["seed"], record["config"]["seed"], record["config"]["tags"]) == (5, 5, ["5"])
        assert record["config"]["notes"] == note
        assert (folder / "S" / f"job_{number}" / f"h{number}" / "config.yaml").is_file()


@mostly_slow(
    2,
    ("override", "sentence"),
    [
        ("seed=${oc.env:GIVEN}", "seed=x is not allowed: seed must be an integer"),
        ("tags=${oc.env:GIVEN}", "tags=x is not allowed: tags must be a list, as in [a,b], not a string: "),
        ("seed=${oc.env:NOT_SET}", "seed is not allowed: Environment variable 'NOT_SET' not found"),
        ("tags=${seed}", "tags=42 is not allowed: tags must be a list, as in [a,b]"),
        ("serve.allowed_hosts=${oc.decode:'[1]'}", r"serve.allowed_hosts=[1] is not allowed: each must be a string"),
    ],
)
def test_an_interpolation_of_another_type_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, override: str, sentence: str
) -> None:
    monkeypatch.setenv("GIVEN", "x")
    task = ("task=serve", "checkpoint=latest") if override.startswith("serve") else QUICK
    with pytest.raises(Exception) as caught:  # noqa: PT011 (the message is compared)
        microgpt(*task, override)
    assert str(explain(caught.value)[0]).startswith(sentence)


def test_hydra_s_keys_can_be_printed_with_values(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    microgpt("--cfg", "hydra", "--resolve", "outputs_dir=mine", "hydra.sweep.dir=${outputs_dir}/${seed}")
    printed = OmegaConf.create(capsys.readouterr().out).hydra
    assert (printed.run.dir.startswith("mine/2"), printed.sweep.dir) == (True, "mine/42")
    microgpt("--cfg", "hydra", "--package", "hydra.sweep.dir")
    assert capsys.readouterr().out.startswith("outputs/sweeps/sweep_")


def test_a_task_does_not_write_to_the_folder_of_a_run_and_a_job_log_has_its_output(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    microgpt(*QUICK, "hydra.run.dir=S/0", "hydra/job_logging=default")
    printed = capsys.readouterr().out
    assert (folder / "S" / "0" / "microgpt.log").read_text() == printed != ""
    with pytest.raises(UserError, match=r"hydra\.run\.dir is not allowed with task=info: S/0 contains a run"):
        microgpt("task=info", "checkpoint=S/0", "hydra.run.dir=S/0")
    (folder / "S" / ".locks").mkdir()  # a sweep
    with pytest.raises(UserError, match=r"hydra\.sweep\.dir=S is not allowed with task=info: it contains the runs"):
        microgpt("-m", "task=info", "checkpoint=S/0", "hydra.sweep.dir=S")
    assert len(list(folder.rglob(".hydra"))) == 1
    assert list(OmegaConf.load(folder / "S" / "0" / ".hydra" / "overrides.yaml")) == list(QUICK)


@pytest.mark.slow
def test_a_job_log_has_the_error_of_a_run_and_an_unwritable_folder_is_named_by_its_key(folder: Path) -> None:
    with pytest.raises(NonFiniteError):
        microgpt(*QUICK, "hydra.run.dir=X", "hydra/job_logging=default", "model.init_std=1e300")
    assert "\nerror: after step 1 the model contains" in (folder / "X" / "microgpt.log").read_text()
    (folder / "file").touch()
    with pytest.raises(UserError, match=r"hydra\.run\.dir=file is not allowed: it cannot be written: File exists"):
        microgpt("task=info", "checkpoint=X", "hydra.run.dir=file")


def test_an_interrupted_run_names_the_folder_that_the_next_command_must_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("microgpt.tasks.train.train_runs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        microgpt(*QUICK, "hydra.run.dir=a/${now:%Y}")
    (run,) = (folder / "a").iterdir()
    assert f"the same command with hydra.run.dir=a/{run.name} continues from there" in capsys.readouterr().out


def test_a_named_folder_below_the_outputs_is_found_as_the_latest(folder: Path) -> None:
    microgpt(*QUICK, "hydra.run.dir=outputs/mine/deep/in/it")
    assert resolve_checkpoint("latest", "outputs") == folder / "outputs/mine/deep/in/it/checkpoint/step_00000001"


@pytest.mark.slow
def test_nothing_is_written_before_the_configuration_and_the_data_are_checked(folder: Path) -> None:
    for mistake in ("seed=-1", "data.path=none.txt", "sample.prompt=1", "sample.prompt=${hydra:run.dir}"):
        where = () if "run.dir" in mistake else ("hydra.run.dir=X",)
        with pytest.raises(UserError):
            microgpt(*QUICK, *mistake.split(), *where)
        with pytest.raises(UserError):
            microgpt("-m", "seed=1,2", *QUICK, *mistake.split())
    assert files(folder) == []


@pytest.mark.slow
def test_with_chdir_the_working_directory_is_the_folder_and_paths_start_from_the_original_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    monkeypatch.setattr("microgpt.tasks.train.train_runs", lambda *arguments: seen.append(Path.cwd()))
    monkeypatch.setattr("microgpt.tasks.train.objective", lambda metrics: 0.0)
    microgpt(*QUICK, "hydra.job.chdir=true", "outputs_dir=out", "hydra.run.dir=X")
    microgpt(*QUICK, "hydra.job.chdir=true", "outputs_dir=out")
    (chosen,) = (folder / "out").glob("*/*")
    assert seen == [folder / "X", chosen]
    assert Path.cwd() == folder
    monkeypatch.setattr("microgpt.tasks.info.info", lambda config, invocation: seen.append(config.checkpoint))
    microgpt("task=info", "checkpoint=out", "hydra.job.chdir=true", "hydra.run.dir=Y")
    assert seen[2:] == [str(folder / "out")]
    assert (folder / "Y" / ".hydra" / "config.yaml").is_file()
    with pytest.raises(
        UserError, match=r"chdir=true is not allowed for a job without a folder: set one with hydra\.run"
    ):
        microgpt("task=info", "checkpoint=out", "hydra.job.chdir=true")


@pytest.mark.slow
def test_output_subdir_renames_hydra_s_files_or_leaves_them_out(folder: Path) -> None:
    microgpt(*QUICK, "hydra.run.dir=a", "hydra.output_subdir=notes")
    microgpt(*QUICK, "hydra.run.dir=b", "hydra.output_subdir=null")
    microgpt("-m", "seed=1,2", *QUICK, "hydra.sweep.dir=c", "hydra.output_subdir=notes")
    found = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("hydra.yaml")}
    assert found == {"a/notes", "c/0/notes", "c/1/notes"}
    for outside in ("../x", "/x"):
        with pytest.raises(
            UserError, match=r"hydra\.output_subdir=.* it must be a folder inside the folder of the run"
        ):
            microgpt(*QUICK, f"hydra.output_subdir={outside}")


@pytest.mark.slow
def test_a_pickled_job_is_run_again(folder: Path) -> None:
    microgpt("-m", "seed=5,6", *QUICK, PICKLING)
    saved = sorted(folder.glob("outputs/sweeps/*/*/.hydra/config.pickle"))
    returned = [pickle.loads((path.parent / "job_return.pickle").read_bytes()) for path in saved]
    assert [(one.status.name, one.hydra_cfg.hydra.job.num, one.cfg.seed) for one in returned] == [
        ("COMPLETED", 0, 5), ("COMPLETED", 1, 6),
    ]  # fmt: skip
    microgpt("--experimental-rerun", str(saved[1]))
    (again,) = folder.glob("outputs/????-??-??/*/run.json")
    first = read_record(saved[1].parents[1])
    second = read_record(again.parent)
    assert second["config_hash"] == first["config_hash"]
    assert second["metrics"]["final_loss"] == first["metrics"]["final_loss"]
    microgpt(*QUICK, PICKLING, "seed=6", "hydra.run.dir=named")
    microgpt("--experimental-rerun", "named/.hydra/config.pickle")
    assert len(list(folder.glob("outputs/????-??-??/*/run.json"))) == 2
    for arguments in (["seed=1"], ["-m"]):
        with pytest.raises(UserError, match="takes no overrides and no other flags"):
            microgpt("--experimental-rerun", str(saved[1]), *arguments)
    with pytest.raises(UserError, match="the file is not a configuration saved by PickleJobInfoCallback"):
        microgpt("--experimental-rerun", str(saved[1].with_name("job_return.pickle")))


@pytest.mark.slow
def test_a_sweep_s_folder_and_those_of_its_jobs_are_named_and_found_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "hydra.sweep.dir=S", "hydra.sweep.subdir=${model.kind}/${hydra.job.override_dirname}"
    command = "-m", "seed=1,2", "model=gpt,bigram", *QUICK, *names
    microgpt(*command)
    runs = sorted(path.parent.relative_to(folder / "S").as_posix() for path in folder.rglob("run.json"))
    assert [run.split("/")[0] for run in runs] == ["bigram", "bigram", "gpt", "gpt"]
    assert [part for part in runs[0].split("/")[1].split(",") if part[:4] in ("seed", "mode")] == [
        "mode=scalar", "model=bigram", "seed=1",
    ]  # fmt: skip
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["S"]
    microgpt(command[0], *reversed(command[1:]))
    assert "4 jobs, 4 completed before" in capsys.readouterr().out
    basic = "hydra/launcher=basic", "hydra/sweeper=grid"
    microgpt(*command, *basic)
    assert len(list(folder.rglob("run.json"))) == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("+experiment=debug", r"\+experiment=debug is not allowed: write experiment=debug, without \+"),
        ("+model=gpt", r"\+model=gpt is not allowed: write model=gpt, without \+"),
        ("~style", "~style is not allowed: style is part of every run; choose another option with style=<option>"),
        (
            "-m seed=1,2 ~style",
            "~style is not allowed: style is part of every run; choose another option with style=<option>",
        ),
        ("~seed", "~seed is not allowed: seed is part of every run and cannot be removed"),
        ("optim.name=sgd", "optim.name=sgd is not allowed: choose the option with optim=sgd"),
        (
            "--config-dir mine optim=own",
            "beta1=null is not allowed: .*; optim=own is treated as adam unless its file",
        ),
        ("-m hydra.sweeper.params=3", r"hydra\.sweeper\.params=3 is not allowed: it must map each key to its values"),
        ("-m seed=1,2 hydra.sweep.subdir=..", r"hydra\.sweep\.subdir=\.\. is not allowed: it must be a folder inside"),
        ("-m outputs_dir=a,b", "of 2 jobs cannot run"),
        ("-m seed=1,2 hydra.sweep.dir=S${seed}", "2 of 2 jobs cannot run"),
        ("--nonsense", "unrecognized arguments: --nonsense; --hydra-help lists the flags"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(folder: Path, arguments: str, sentence: str) -> None:
    (folder / "mine" / "optim").mkdir(parents=True)
    (folder / "mine" / "optim" / "own.yaml").write_text("lr: 0.1\n")
    with pytest.raises(UserError, match=sentence):
        microgpt(*arguments.split(), *QUICK)
    assert files(folder) == ["mine", "mine/optim", "mine/optim/own.yaml"]


@mostly_slow(
    4,
    ("arguments", "sentence"),
    [
        ("style=null", "style=null is not allowed: style takes the name of an option"),
        ("-sc install=foo", "-sc install=foo is not allowed: it must be one of bash, fish, zsh"),
        ("hydra/launchr=basic", "hydra/launchr is not a config group: hydra has output, launcher, sweeper, "),
        ("--config-dir mine experiment=own", "experiment/own.yaml sets experiment.*, which are not keys: its first "),
        ("-m style=null,classic", "style=null is not allowed: style takes the name of an option"),
        ("optim@foo=sgd", "Could not override 'optim@foo'. Did you mean to override optim? To append "),
        ("-m seed=1,2 hydra.sweeper._target_=foo.Bar", "hydra.sweeper._target_=foo.Bar is not allowed: it is not an "),
        ("-m seed=1,2 hydra.launcher._target_=foo.Bar", "hydra.launcher._target_=foo.Bar is not allowed: it is not "),
    ],
)
def test_message_about_a_mistake_in_hydra_s_syntax_names_the_key(folder: Path, arguments: str, sentence: str) -> None:
    (folder / "mine" / "experiment").mkdir(parents=True)
    (folder / "mine" / "experiment" / "own.yaml").write_text("seed: 1\n")
    with pytest.raises(Exception) as caught:  # noqa: PT011 (the message is compared)
        microgpt(*arguments.split())
    assert str(explain(caught.value)[0]).startswith(sentence)
    assert not (folder / "outputs").exists()


@pytest.mark.slow
def test_a_launcher_that_is_not_ours_leaves_each_job_its_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls Hydra's own run_job, which writes to the folder with the job's number before the job is checked."""
    monkeypatch.setattr("microgpt.app.run_job", utils.run_job)
    for resume in ("auto", "never"):
        microgpt("-m", "seed=1", *QUICK, "hydra/launcher=basic", "hydra.sweep.dir=S", f"train.resume={resume}")
    runs = sorted(path.parent for path in folder.glob("S/*/run.json"))
    assert [run.name for run in runs] == ["0", "0-2"]
    assert all((run / ".hydra" / "overrides.yaml").is_file() for run in runs)


def test_a_target_that_cannot_be_called_is_one_sentence(folder: Path) -> None:
    with pytest.raises(InstantiationException) as caught:
        microgpt(*QUICK, "+hydra.callbacks.x._target_=nix.Nix")
    assert explain(caught.value) == ("Error locating target 'nix.Nix': No module named 'nix'", 2)
    assert files(folder) == []


def test_an_option_file_that_builds_on_another_needs_no_name(folder: Path) -> None:
    (folder / "mine" / "optim").mkdir(parents=True)
    (folder / "mine" / "optim" / "own.yaml").write_text("defaults: [adam]\nlr: 0.1\n")
    microgpt("--config-dir", "mine", "optim=own", *QUICK)
    (run,) = folder.glob("outputs/*/*/run.json")
    assert read_record(run.parent)["config"]["optim"]["lr"] == 0.1


@pytest.mark.slow
def test_a_sweep_without_runs_prints_no_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    microgpt(*QUICK, "hydra.run.dir=X")
    capsys.readouterr()
    sys.argv[1:], before = ["-m", "task=info,info", "checkpoint=X"], sys.argv[1:]
    try:
        assert run() == 0
    finally:
        sys.argv[1:] = before
    shown = capsys.readouterr()
    assert shown.out.count("checkpoint:") == 2
    assert "collected" not in shown.out
    assert shown.err == ""


def test_an_interrupted_sweep_names_the_folder_that_the_next_command_must_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["-m", "seed=1,2", "hydra.sweep.dir=sw/${now:%H}"]
    monkeypatch.setattr(sys, "argv", ["microgpt", *command])
    sweep = Sweep()
    sweep.folder = Path("sw/12")
    assert sweep.how_to_continue == "the same command with hydra.sweep.dir=sw/12 continues from there"
    sweep.folder = Path("outputs/sweeps") / sweep_names(command)[0]
    assert sweep.how_to_continue == "the same command continues from there"


def test_tables_that_cannot_be_written_are_refused_before_a_sweep_begins(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(UserError, match=r"^results_dir=file/below cannot be written: .*/file is not a folder$"):
        microgpt("-m", *QUICK, "seed=1,2", "results_dir=file/below")
    assert files(folder) == ["file"]


def test_the_place_of_the_tables_does_not_make_another_sweep(folder: Path) -> None:
    """Except in folders of earlier versions, which the same command still continues."""
    command = ["-m", *QUICK]
    (name,) = sweep_names(command)
    assert sweep_names([*command, "+results_dir=a"])[0] == name
    (_, earlier) = sweep_names([*command, "results_dir=a"])
    (folder / "outputs" / "sweeps" / earlier).mkdir(parents=True)
    for results_dir, used in (("a", [earlier]), ("b", [earlier, name])):
        microgpt(*command, f"results_dir={results_dir}")
        assert {path.parent.parent.name for path in folder.glob("outputs/sweeps/*/0/run.json")} == set(used)


def test_flags_that_choose_other_files_make_another_sweep() -> None:
    flags = [], ["--config-dir", "a"], ["--config-dir=b"], ["--config-name", "mine"], ["-cn=mine"], ["-cd", "./b/"]
    names = [sweep_names(["-m", "seed=1,2", *chosen])[0] for chosen in flags]
    assert len(set(names)) == 4
    assert names[2] == names[5]
    assert names[3] == names[4]


def test_nothing_of_hydra_is_left_behind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    GlobalHydra.instance().clear()
    arguments, hydra, config = sys.argv[:], GlobalHydra.instance(), HydraConfig.instance().cfg
    environment = dict(os.environ)
    microgpt("--version")
    assert capsys.readouterr().out.startswith("microgpt 0.1.0 (Hydra 1.")
    microgpt("--cfg", "job")
    with pytest.raises(UserError):
        microgpt("seed=-1")
    assert (sys.argv, GlobalHydra.instance(), HydraConfig.instance().cfg) == (arguments, hydra, config)
    assert dict(os.environ) == environment


@pytest.mark.parametrize(
    ("typed", "offered"), [("model=ll", "model=llama"), ("optim.l", "optim.lr="), ("hydra/laun", "hydra/launcher=")]
)
def test_a_shell_completes_options_and_keys(
    typed: str, offered: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", f"microgpt {typed}")
    microgpt("-sc", "query=bash")
    assert capsys.readouterr().out.split() == [offered]


def test_hydra_full_error_changes_no_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["microgpt", "model=lstm"])
    shown = set()
    for value in (None, "0", "1"):
        if value is not None:
            monkeypatch.setenv("HYDRA_FULL_ERROR", value)
        assert run() == 2
        shown.add(capsys.readouterr().err)
    (sentence,) = shown
    assert sentence.startswith("error: model=lstm is not an option: ")


def test_the_configuration_is_a_package_with_its_schema() -> None:
    """This also works in a checkout, where microgpt/conf links to conf/."""
    assert (ROOT / "microgpt" / "conf").resolve() == ROOT / "conf"
    GlobalHydra.instance().clear()
    with initialize_config_module("microgpt.conf", version_base="1.3"):
        config: Any = compose("config", ["optim=sgd", "train.steps=7"])
        assert (config.optim.name, config.train.steps, config.train.batch_size) == ("sgd", 7, 1)
        with pytest.raises(Exception, match=r"train\.steps"):
            compose("config", ["train.steps=x"])
    assert importlib.import_module("microgpt.conf").__file__


def test_another_application_composes_with_our_options(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "main.yaml").write_text(
        "defaults:\n  - optim: adamw\n  - _self_\nhydra:\n  searchpath: [pkg://microgpt.conf]\n"
    )
    from hydra import initialize_config_dir

    with initialize_config_dir(str(folder / "other"), version_base="1.3"):
        assert compose("main").optim.weight_decay == 0.01
