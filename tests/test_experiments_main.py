"""Laws of the command line: what it runs, what it says, and its exit codes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
import types
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from datamodules.benchmarks import BENCHMARKS
from experiments.__main__ import main
from experiments.commands import VERBS
from experiments.config import load as config
from experiments.config.sweep_schemas import SweepConfig
from experiments.runs.outputs import OutputFolder
from experiments.runs.provenance import git_state
from experiments.verb_table import Verb
from negatives.tables.captions import InputError


class Fake(types.ModuleType):
    """Stands in for a verb's module and remembers how it was called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any, dict[str, bool]]] = []
        self.raises: BaseException | None = None

    def run(self, settings: Any, **flags: bool) -> None:
        self.calls.append(("run", settings, flags))
        if self.raises is not None:
            raise self.raises

    def status(self, settings: Any) -> None:
        self.calls.append(("status", settings, {}))

    def load(self, path: str, overrides: list[str], *, check: bool) -> SweepConfig:
        self.path = path
        given = path if Path(path).is_file() else None
        return config.load_config(SweepConfig, given, overrides, check_files=False)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Fake:
    """The module of the verb `request.param`, train where not given."""
    module = Fake(VERBS[getattr(request, "param", "train")].module)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Overrides that name tables which exist."""
    for name in ("captions", "negatives"):
        (tmp_path / f"{name}.jsonl").write_text("{}")
    return [f"data.{name}={tmp_path / name}.jsonl" for name in ("captions", "negatives")]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_names_every_verb(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text and verb.summary in text for name, verb in VERBS.items())


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_teaches_it_and_lists_its_keys(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert VERBS[name].example in text
    keys = config.describe(VERBS[name].load_schema())
    assert all(f"  {key.name} " in text for key in keys)
    # a command is copied as a whole
    assert max(len(line) for line in text.splitlines() if VERBS[name].example not in line) <= 80


def test_the_list_of_benchmarks_is_80_columns_with_no_word_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = " ".join(" ".join(lines).split())
    assert all(f" {name} {row.protocol} {row.on_disk}" in rows for name, row in BENCHMARKS.items())


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_every_row_of_the_table_names_a_module_that_runs_and_a_dataclass(verb: Verb) -> None:
    assert is_dataclass(verb.load_schema())
    names = {"run", "load", "status"} if verb.is_sweep else {"run"}
    assert all(callable(getattr(verb.load_module(), name, None)) for name in names)


@dataclass
class GreetConfig:
    """The settings of a verb that only this test has."""

    name: str = "you"
    """Who is greeted."""


def test_a_new_verb_is_its_module_its_dataclass_and_its_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Fake("greet")
    monkeypatch.setitem(sys.modules, "greet", module)
    row = Verb("greet", f"{__name__}.GreetConfig", "greets", "itm greet name=me", bare="name")
    monkeypatch.setitem(VERBS, "greet", row)
    assert main(["greet", "me"]) == 0
    assert module.calls == [("run", GreetConfig("me"), {"resume": False, "overwrite": False})]
    assert main(["--help"]) == main(["greet", "--help"]) == 0
    page = capsys.readouterr().out
    assert "  greet       greets" in page
    assert "Who is greeted." in page
    assert main(["greed"]) == 2
    assert "greet, got 'greed'. Did you mean greet?" in capsys.readouterr().err


def test_a_verb_runs_with_its_file_overrides_and_flags(fake: Fake, data: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nseed: 1")
    assert main(["train", str(path), "--overwrite", "seed=2", *data]) == 0
    ((_, settings, flags),) = fake.calls
    assert (settings.name, settings.seed, flags) == ("a", 2, {"resume": False, "overwrite": True})


def test_dry_run_prints_the_resolved_configuration_and_runs_nothing(
    fake: Fake, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "name=x", *data, "--dry-run"]) == 0
    assert OmegaConf.create(capsys.readouterr().out).output_dir == "runs/x"
    assert fake.calls == []


@pytest.mark.parametrize("fake", ["evaluate"], indirect=True)
def test_a_bare_word_is_the_run_to_evaluate(fake: Fake, tmp_path: Path) -> None:
    run = tmp_path / "a run: 1"
    run.mkdir()
    assert main(["evaluate", str(run), "--resume=auto"]) == 0
    assert fake.calls[0][1].output_dir == f"{run}/evaluation"


@pytest.mark.parametrize("fake", ["compare"], indirect=True)
def test_bare_words_are_the_runs_to_compare(fake: Fake, tmp_path: Path) -> None:
    runs = [str(tmp_path / name) for name in "ab"]
    for run in runs:
        Path(run).mkdir()
    assert main(["compare", *runs, "output_dir=x"]) == 0
    assert fake.calls[0][1].runs == runs


@pytest.mark.parametrize("fake", ["sweep"], indirect=True)
@pytest.mark.parametrize("begun", [False, True])
def test_make_demo_starts_and_goes_on(begun: bool, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    words = re.findall(r"^\t\$\(BIN\)/itm (demo .*)$", makefile, flags=re.MULTILINE)[0].split()
    monkeypatch.chdir(tmp_path)
    if begun:
        (tmp_path / "runs/demo").mkdir(parents=True)
        (tmp_path / "runs/demo/manifest.json").write_text("{}")
    assert main(words) == 0
    assert [(kind, flags) for kind, _, flags in fake.calls] == [("run", {"resume": True, "overwrite": False})]


@pytest.mark.parametrize("fake", ["sweep"], indirect=True)
def test_the_demo_is_the_sweep_that_is_shipped(fake: Fake) -> None:
    assert main(["demo", "name=tiny", "--status"]) == 0
    assert Path(fake.path).parts[-3:] == ("experiments", "sweeps", "demo.yaml")
    assert [(kind, settings.name) for kind, settings, _ in fake.calls] == [("status", "tiny")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Did you mean train?"),
        (["train", "--dryrun"], "unrecognized arguments: --dryrun; see itm train --help"),
        (["train", "--resume", "--overwrite"], "not allowed with argument"),
        (["train", "a.yaml", "b.yaml"], "itm train takes one YAML file, got a.yaml, b.yaml"),
        (["train", "run"], "'run' is neither a .yaml file nor key=value"),
        (["train", "nowhere.yaml"], "configuration file 'nowhere.yaml' does not exist"),
        (["export", "a", "b"], "itm export takes one run, got a, b"),
        (["evaluate"], "`scorers` or `run` must be given, and not both"),
        (["evaluate", "a", "b"], "`output_dir` must be given where no single run is evaluated"),
        (["demo", "a.yaml"], "itm sweep a.yaml"),
        (["sweep"], "itm sweep needs a YAML file"),
        (["train", "seed=-1"], "`seed` must be in [0, 4294967295], got -1 (command line)"),
    ],
)
def test_bad_input_is_an_error_on_stderr_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("itm: error: ")
    assert message in captured.err


def test_exit_codes_tell_bad_input_interruption_and_bugs_apart(
    fake: Fake, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fake.raises = InputError("row 3 is empty.")
    assert main(["train", *data]) == 2
    assert capsys.readouterr().err == "itm: error: row 3 is empty.\n"
    fake.raises = KeyboardInterrupt()
    assert main(["train", *data]) == 130
    assert capsys.readouterr().err == "itm: interrupted\n"
    fake.raises = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        main(["train", *data])


@dataclass
class Settings:
    """A configuration with the one key that every verb has."""

    output_dir: str = ""
    reads: str = ""
    lr: float = 0.1
    logging: dict[str, str] = field(default_factory=dict)


def output(
    folder: Path, *, verb: str = "train", resume: bool = False, overwrite: bool = False, **keys: Any
) -> OutputFolder:
    config = Settings(str(folder), **keys)
    return OutputFolder(config, verb=verb, result="result", resume=resume, overwrite=overwrite)


def test_an_output_folder_that_holds_something_needs_a_flag(tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = output(run)
    assert not run.exists(), "looking at a folder does not make it"
    made.claim()
    with pytest.raises(InputError, match=r"--resume.*--overwrite"):
        output(run)
    assert not output(run, resume=True).finished
    (run / "result").touch()
    assert output(run, resume=True).finished
    output(run, overwrite=True).claim()
    assert {path.name for path in run.iterdir()} == {"config.yaml", "provenance.json"}


def test_flags_never_touch_what_another_verb_or_person_made(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.png").touch()
    output(tmp_path / "sweep", verb="sweep").claim()
    for flag in ("resume", "overwrite"):
        for folder in ("photos", "sweep"):
            with pytest.raises(InputError, match=f"--{flag} needs a folder of `itm train`"):
                output(tmp_path / folder, **{flag: True})
    with pytest.raises(InputError, match="is a file"):
        output(tmp_path / "photos/holiday.png", resume=True)
    assert (tmp_path / "photos/holiday.png").exists()


def test_overwrite_never_deletes_what_the_run_reads(tmp_path: Path) -> None:
    run = output(tmp_path / "run").claim()
    (run / "table.parquet").touch()
    with pytest.raises(InputError, match="would delete"):
        output(run, overwrite=True, reads=str(run / "table.parquet"))


def test_resume_needs_the_same_configuration_but_for_logging(tmp_path: Path) -> None:
    run = output(tmp_path / "run").claim()
    assert output(run, resume=True, logging={"wandb": "online"})
    with pytest.raises(InputError, match=r"another `lr`.*--overwrite"):
        output(run, resume=True, lr=0.2)
    (run / "config.yaml").write_text("- no configuration\n")
    with pytest.raises(InputError, match="start anew with --overwrite"):
        output(run, resume=True)


def test_provenance_names_versions_and_never_fails_without_git(tmp_path: Path) -> None:
    output(tmp_path / "run").claim()
    saved = json.loads((tmp_path / "run/provenance.json").read_text())
    assert saved["packages"]["omegaconf"] is not None
    assert set(saved) == {"verb", "argv", "git", "packages", "python", "platform"}
    assert git_state(tmp_path) is None
    (tmp_path / ".git").mkdir()
    assert git_state(tmp_path) is None


def test_a_lock_is_no_content_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing beside a mounted folder may be written, and where another process works on something in it."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (run / ".evaluation.lock").touch()
    first = output(run)
    assert (run / ".lock").exists()
    first.claim()
    output(run, overwrite=True).claim()
    assert (run / ".evaluation.lock").exists()
    del first
    assert {path.name for path in run.iterdir()} == {"config.yaml", "provenance.json", ".evaluation.lock"}


def test_where_there_are_no_locks_it_is_said_and_nothing_of_others_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    left = tmp_path / ".run.0123abcd.tmp"
    left.mkdir()
    with output(tmp_path / "run").whole():
        assert "do not start two processes" in capsys.readouterr().out
    assert left.exists()


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize("words", ["train --help", "sweep experiments/sweeps/seeds.yaml --status", "runs ."])
def test_a_reader_that_stops_reading_ends_the_output_without_a_traceback(words: str) -> None:
    command = [sys.executable, "-m", "experiments", *words.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    # 1 is what rich makes of it
    assert (process.returncode in (0, 1), said) == (True, "")
