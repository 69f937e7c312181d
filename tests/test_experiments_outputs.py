"""What holds for the folder of every verb: one process at a time, a full disk, what a kill or a bad disk leaves."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from experiments.__main__ import main
from experiments.commands import VERBS
from experiments.config.evaluation_schemas import EVALUATION_FILES
from experiments.config.load import load_saved
from experiments.config.schemas import ScoreConfig
from experiments.config.sweep_schemas import SweepConfig
from experiments.exit_codes import exit_code
from experiments.runs.metric_record import MetricRecord, record_fault
from experiments.runs.outputs import OutputFolder
from experiments.scoring.requests import join
from experiments.scoring.store import Keyed, Store
from experiments.sweeping import manifest
from experiments.sweeping.plan import SWEEP_FILES
from experiments.verbs import score
from negatives.tables import InputError, damage, write_table
from tests.open_clip import random_state, save_base
from tests.test_negatives_locks import HOLD
from tests.tiny import TINY_OVERRIDES, tiny_tables

QUICK = ["judge.judges=[word]", "judge.folds=3", "judge.workers=1", "logging.wandb=disabled"]
PROBES = ["certificate.probes=[bayes]", "certificate.bootstrap=100"]
PROBES += [f"certificate.{name}=0.5" for name in ("tolerance", "type_tolerance", "third_tolerance")]
SWEEP = """
output_dir: nowhere
name: tiny
prepare:
  scenes: {verb: generate, config: {generator: scenes, scenes: {train: 2, held_out: 2, image_size: 16}}}
"""
INPUTS: dict[str, Callable[[Path], list[str]]] = {
    "generate": lambda data: ["generator=scenes", "scenes.train=2", "scenes.held_out=2", "scenes.image_size=16"],
    "audit": lambda data: [*tables(data, "train"), *QUICK, "bootstrap=100"],
    "filter": lambda data: [*tables(data, "train"), *QUICK, *PROBES, "strength=0.1", "unit=pair"],
    "train": lambda data: train_words(data),
    "evaluate": lambda data: [
        str(data / "run"), *(f"evaluation.sets.balanced.{word}" for word in tables(data, "balanced")),
        "evaluation.bootstrap=100", "logging.wandb=disabled",
    ],
    "compare": lambda data: [str(data / "run"), "bootstrap=100", "logging.wandb=disabled"],
    "score": lambda data: [f"run={data}/run", f"captions={data}/train/captions.parquet", "shard_size=1"],
    "export": lambda data: [str(data / "run")],
    "convert": lambda data: [f"weights={data}/open_clip.safetensors", f"base={data}/base"],
    "neighbours": lambda data: [f"run={data}/run", f"captions={data}/train/captions.parquet"],
    "sweep": lambda data: [str(data / "sweep.yaml")],
}  # fmt: skip
"""Verb -> its arguments without `output_dir`; `itm demo` is a sweep."""
every_verb = pytest.mark.parametrize("verb", INPUTS)


def tables(data: Path, split: str) -> list[str]:
    return [f"{name}={data / split / f'{name}.parquet'}" for name in ("captions", "negatives")]


def train_words(data: Path) -> list[str]:
    model = ["model.backbone=clip", "model.loss=contrastive", "trainer.log_every=1", "trainer.checkpoint_every=1"]
    words = [*(f"data.{word}" for word in tables(data, "train")), "logging.wandb=disabled", *TINY_OVERRIDES]
    return ["experiments/configs/clip_tiny_scenes.yaml", *model[2:], *words, "trainer.max_steps=2"]


def command(verb: str, data: Path, output: Path, *flags: str) -> list[str]:
    return [verb, *INPUTS[verb](data), f"output_dir={output}", *flags]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the verbs read: tables, a run that is trained and evaluated, a sweep, and weights of open_clip."""
    folder = tmp_path_factory.mktemp("data")
    tiny_tables(folder, images=30)  # a certificate takes as many
    (folder / "sweep.yaml").write_text(SWEEP)
    save_file(random_state(), folder / "open_clip.safetensors")
    save_base(folder / "base")
    assert main(command("train", folder, folder / "run")) == 0
    assert main(command("evaluate", folder, folder / "run/evaluation")) == 0
    return folder


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What a verb makes where nothing breaks, made once."""
    folder = tmp_path_factory.mktemp("made")

    def make(verb: str) -> Path:
        if not (folder / verb).exists():
            assert main(command(verb, data, folder / verb)) == 0
        return folder / verb

    return make


@pytest.fixture
def lent(made: Callable[[str], Path], tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """The same to spoil: it is put back afterwards."""
    taken = {}

    def lend(verb: str) -> Path:
        taken[verb] = made(verb)
        shutil.copytree(taken[verb], tmp_path / "kept" / verb)
        return taken[verb]

    yield lend
    for verb, folder in taken.items():
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept" / verb, folder)


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Another process, and the path that it holds."""
    path = tmp_path_factory.mktemp("held") / "out"
    words = [sys.executable, "-c", HOLD, str(path), "alone"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid, path


def results(folder: Path) -> dict[str, bytes]:
    """What a verb has made, and not when, where and by whom."""
    kinds = (".parquet", ".safetensors", ".csv", ".json")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in kinds and path.name not in ("provenance.json", "manifest.json", "base.json")
    }


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("itm: error: ")
    return line


def test_every_verb_is_tried() -> None:
    assert INPUTS.keys() == {name for name, verb in VERBS.items() if verb.writes} - {"demo"}


def test_no_set_or_step_can_take_the_name_of_another_file_of_its_folder(made: Callable[[str], Path]) -> None:
    assert {path.name for path in made("evaluate").iterdir()} - {"balanced"} <= set(EVALUATION_FILES)
    assert {path.name for path in made("sweep").iterdir()} - {"scenes"} <= set(SWEEP_FILES)


@every_verb
def test_a_second_process_is_refused_by_the_name_of_the_first(
    verb: str,
    holder: tuple[int, Path],
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # processes that share a sweep hold its folder for moments, for which others wait
    monkeypatch.setattr(manifest, "SECONDS_TO_WAIT", 0.1)
    pid, out = holder
    words = command(verb, data, out)
    assert main([*words, "--resume=auto"]) == 2
    assert f"{out} is in use by process {pid} on " in one_line(capsys)
    assert not out.exists()
    assert main([*words, "--dry-run"]) == 0, "it writes nothing, so it takes no lock"


def test_overwrite_is_refused_while_another_process_writes_inside(
    holder: tuple[int, Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation of the run before would end in the folder of the new one."""
    run = holder[1].parent
    for name in ("config.yaml", "provenance.json"):
        shutil.copy(data / "run" / name, run)
    assert main(command("train", data, run, "--overwrite")) == 2
    assert f"--overwrite would delete {holder[1]}, which another process writes" in one_line(capsys)
    assert (run / "config.yaml").exists()


def test_what_another_process_is_writing_is_not_left_over(holder: tuple[int, Path], data: Path) -> None:
    """A comparison into the folder of a sweep that goes on."""
    folder = holder[1].parent
    theirs, dead = (holder[1].with_name(f".{name}.0123abcd.tmp") for name in (holder[1].name, "dead"))
    for path in (theirs, dead):
        path.touch()
    (folder / "provenance.json").write_text('{"verb": "sweep"}')
    config = SweepConfig(output_dir=str(folder))
    OutputFolder(config, verb="sweep", result="manifest.json", resume=True, overwrite=False).claim()
    assert theirs.exists()
    assert not dead.exists()


def test_the_status_of_a_sweep_takes_no_lock(holder: tuple[int, Path], data: Path) -> None:
    assert main([*command("sweep", data, holder[1]), "--status"]) == 0


def test_two_runs_do_not_pay_for_the_same_answers(
    holder: tuple[int, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pid, cache = holder
    captions = f"captions={data}/train/captions.parquet"
    words = ["generate", "generator=gpt", "gpt.batch=write", captions, f"gpt.cache={cache}", f"output_dir={tmp_path}/a"]
    assert main(words) == 2
    assert f"{cache} is in use by process {pid} on " in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_was_emptied_is_not_asked_anew(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "answers.sqlite").touch()
    words = ["generate", "generator=gpt", "gpt.batch=write", f"captions={data}/train/captions.parquet"]
    assert main([*words, f"gpt.cache={tmp_path}/answers.sqlite", f"output_dir={tmp_path}/out"]) == 2
    assert "answers.sqlite is empty" in one_line(capsys)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """A disk that takes no more of a file than `size` bytes: the system refuses the write, as it does on a full one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("verb", "first"), [*((verb, False) for verb in INPUTS), ("generate", True), ("export", True)])
def test_a_full_disk_is_one_line_and_what_was_begun_goes_on(
    verb: str, first: bool, data: Path, made: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the last byte of the largest file, or at the first one that is written."""
    whole = made(verb)
    size = 0 if first else max(path.stat().st_size for path in whole.rglob("*") if path.is_file()) - 1
    capsys.readouterr()
    words = command(verb, data, tmp_path / "out")
    with full_disk(size):
        assert main(words) == 2
    told = {"train": "could not be written to its end", "sweep": "prepare/scenes"}
    assert told.get(verb, "File too large") in one_line(capsys)
    assert main([*words, "--resume=auto"]) == 0
    assert results(tmp_path / "out") == results(whole)
    assert list(tmp_path.rglob(".*[tk]mp")) == list(tmp_path.rglob(".*.lock")) == []


@pytest.mark.parametrize("verb", ["export", "compare"])
def test_a_full_disk_leaves_what_was_there(verb: str, data: Path, made: Callable[[str], Path]) -> None:
    before = results(made(verb))
    with full_disk(0):
        assert main(command(verb, data, made(verb), "--overwrite")) == 2
    assert results(made(verb)) == before != {}


FULL = "No space left on device"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, FULL), FULL),
        (OSError(28, f"Error writing bytes to file. Detail: [errno 28] {FULL}"), FULL),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "to its end"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "to its end"),
        (RuntimeError("basic_ios::clear: iostream error"), "to its end"),
        (Exception(f"Error while serializing: I/O error: {FULL} (os error 28)"), FULL),
        (Exception(f"{FULL} (os error 28)"), FULL),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError("Can't load the model for 'x'.\nIf it is a folder, ..."), "'x'. If it is"),
    ],
)
def test_an_error_of_the_system_is_one_line(error: Exception, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In the words of Python, Arrow, torch.save, safetensors and tokenizers, as a full tmpfs made them say."""

    def fail() -> int:
        raise error

    assert exit_code(fail) == 2
    assert told in one_line(capsys)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("(os error)"), BrokenPipeError(32, "Broken pipe")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    def fail() -> int:
        raise error

    with pytest.raises(type(error)):
        exit_code(fail)


@pytest.mark.parametrize("verb", ["export", "compare", "score"])
def test_what_a_killed_process_left_is_removed_by_the_next(verb: str, data: Path, lent: Callable[[str], Path]) -> None:
    """Beside the folder and in it; what another name or another verb's folder has is not its own."""
    out = lent(verb)
    dead = [out / ".page.html.0123abcd.tmp", *([out.with_name(f".{verb}.0123abcd.tmp")] if verb != "score" else [])]
    others = [out.with_name(".other.0123abcd.tmp"), out / "evaluation/.scores.parquet.0123abcd.tmp"]
    for path in [*dead, *others]:
        path.mkdir(parents=True, exist_ok=True)
        (path / "half").touch()
    (out / "evaluation/provenance.json").touch()
    if verb == "score":
        (out / "scores.parquet").unlink()
    assert main(command(verb, data, out, "--resume" if verb == "score" else "--overwrite")) == 0
    assert not any(path.exists() for path in dead)
    assert others[0].exists()
    assert others[1].exists() or verb != "score"


@pytest.mark.parametrize("verb", ["export", "compare"])
def test_a_folder_that_cannot_be_replaced_is_filled(
    verb: str, data: Path, made: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's /out is a mount: it cannot be renamed, and often nothing can be written beside it."""
    whole, out = made(verb), tmp_path / "out"
    out.mkdir()
    mkdir = Path.mkdir

    def refuse(self: Path, *arguments: Any, **settings: Any) -> None:
        if self.parent == tmp_path and self != out:
            raise PermissionError(13, "Permission denied", str(self))
        mkdir(self, *arguments, **settings)

    monkeypatch.setattr(Path, "is_mount", lambda self: self == out)
    monkeypatch.setattr(Path, "mkdir", refuse)
    for flags in ([], ["--overwrite"]):
        assert main(command(verb, data, out, *flags)) == 0
        assert results(out) == results(whole)
        assert [path.name for path in out.iterdir() if path.name.endswith((".tmp", ".before"))] == []


def spoilt(content: bytes) -> dict[str, bytes]:
    """A file's content as a bad disk may leave it."""
    middle = len(content) // 2
    # the end of a text's last line says nothing
    cuts = {f"cut at {end}": content[:end] for end in (0, 1, middle, len(content.rstrip()) - 1)}
    garbage = content[:8] + b"\xff{" * 8 + content[24:]
    return {**cuts, "zeros": bytes(len(content)), "garbage": garbage, "nested": b"[" * 100_000}


def damage_of(file: Path, content: bytes) -> str:
    file.write_bytes(content)
    return damage(file)


@pytest.mark.parametrize("verb", [verb for verb in INPUTS if verb != "sweep"])  # see below
def test_damage_in_a_finished_folder_is_one_line(
    verb: str, data: Path, lent: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever table, JSON or weights; nothing is changed."""
    out = lent(verb)
    words = command(verb, data, out, "--resume")
    assert main(words) == 0, "nothing is damaged"
    files = [out / name for name in results(out) if not name.endswith(".csv")]
    assert files or verb == "compare"
    for number, file in enumerate(files):
        content = file.read_bytes()
        faults = list(spoilt(content).values())
        # weights have no checksum
        assert all(damage_of(file, bad) for bad in faults if file.suffix != ".safetensors" or len(bad) < len(content))
        if number < 4:
            bad = faults[number]
            capsys.readouterr()
            file.write_bytes(bad)
            assert main(words) == 2
            assert f"{file} is damaged" in one_line(capsys)
            assert file.read_bytes() == bad
        file.write_bytes(content)


def test_no_changed_number_or_word_of_a_table_is_read(tmp_path: Path, made: Callable[[str], Path]) -> None:
    """Pages have checksums; the footer, which names columns and kinds, has none."""
    file = tmp_path / "table.parquet"
    table = pq.ParquetFile(made("score") / "scores.parquet").read()
    write_table(table, file)
    content = file.read_bytes()
    pages = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place in range(4, pages, 5):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        assert damage(file) or pq.ParquetFile(file).read() == table
    file.write_bytes(content[: pages - 2] + b"??" + content[pages:])
    assert damage(file)


@pytest.mark.parametrize("lost", ["certificate.json", "pair_verdicts.parquet"])
def test_a_finished_filter_needs_its_certificate_and_the_verdicts_on_pairs(
    lost: str, data: Path, lent: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = lent("filter")
    (out / lost).unlink()
    capsys.readouterr()
    assert main(command("filter", data, out, "--resume")) == 2
    assert f"lost {lost}" in one_line(capsys)


@pytest.fixture
def parts(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scores whose process was killed when all parts were there."""

    def killed(table: object, path: Path) -> None:
        if path.name == "scores.parquet":
            raise KeyboardInterrupt
        write_table(table, path)

    with monkeypatch.context() as patch:
        patch.setattr(score, "write_table", killed)
        assert main(command("score", data, tmp_path / "out")) == 130
    return tmp_path / "out"


def test_parts_of_scores_that_are_damaged_are_scored_again(
    parts: Path, data: Path, made: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((parts / "parts").glob("*/*/*.parquet"))
    bad = [files[0].read_bytes()[:-1], b"", pq.ParquetFile(files[2]).read()]
    files[0].write_bytes(bad[0])
    files[1].write_bytes(bad[1])
    pq.write_table(bad[2].slice(1), files[2])  # whole by itself, and one row short
    times = {file: file.stat().st_mtime_ns for file in files[3:]}
    assert times, "some are whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        assert main(command("score", data, parts, "--resume")) == 0
    said = capsys.readouterr().out
    assert [str(file) for file in files if f"{file} is damaged: it is scored again." in said] == [*map(str, files[:3])]
    assert {file: file.stat().st_mtime_ns for file in files[3:]} == times, "those are not scored again"
    assert results(parts)["scores.parquet"] == results(made("score"))["scores.parquet"]


def test_no_damaged_part_is_ever_taken_for_its_scores(parts: Path) -> None:
    """Cut wherever, or with any one bit changed."""
    config = load_saved(ScoreConfig, parts / "config.yaml")
    requests = join([score.read_asked(config)[0]], blind=False)
    items = Keyed("texts", requests.text_keys)
    store = Store(parts / "parts", json.loads((parts / "scorer.json").read_text()))
    name = min(store.files("texts"))
    file = store.folder / "texts" / name
    content, whole = file.read_bytes(), store.read(items, name)
    assert whole is not None
    assert not store.has(items, "another.parquet", whole[0])
    for place in range(0, len(content), 19):
        file.write_bytes(content[:place])
        assert store.read(items, name) is None
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        found = store.read(items, name)
        assert found is None or (found[0].tolist(), found[1].tolist()) == (whole[0].tolist(), whole[1].tolist())
    assert not store.has(items, name, whole[0][1:]), "of other items"
    assert not file.exists()


def test_parts_need_to_say_whose_they_are(parts: Path) -> None:
    file = parts / "scorer.json"
    made_from = json.loads(file.read_text())
    score._check_same(parts, made_from)
    for bad in (*spoilt(file.read_bytes()).values(), b"[]", None):
        file.unlink() if bad is None else file.write_bytes(bad)
        with pytest.raises(InputError, match=r"scorer\.json, which says whose the scores are, is damaged"):
            score._check_same(parts, made_from)
    shutil.rmtree(parts / "parts")
    score._check_same(parts, made_from)


def test_a_record_of_metrics_that_lost_or_changed_a_line_is_known(tmp_path: Path) -> None:
    record = MetricRecord(tmp_path / "metrics.jsonl")
    for step in range(3):
        record.add(json.dumps({"step": step}))
    content = record.path.read_bytes()
    assert record_fault(record.path) == ""
    for end in range(len(content)):
        record.path.write_bytes(content[:end])
        assert record_fault(record.path)
        record.path.write_bytes(content[:end] + b"#" + content[end + 1 :])
        assert record_fault(record.path)
    record.path.write_bytes(content + b'{"step": 3}\n{"st')
    assert record_fault(record.path) == "", "a kill may come before a line is counted, or in the middle of one"
    MetricRecord(record.path).add(json.dumps({"step": 4}))
    assert record.path.read_bytes() == content + b'{"step": 3}\n{"step": 4}\n'
    assert record_fault(record.path) == ""
    (tmp_path / ".metrics.jsonl.sum").write_bytes(b"")
    assert record_fault(record.path) == "", "a run of an older version"
    (tmp_path / ".metrics.jsonl.sum").write_bytes(b"x")
    assert "checksum" in record_fault(record.path)


def test_a_training_does_not_go_on_with_a_damaged_record(
    data: Path, lent: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = lent("train")
    expected = results(out)
    (out / "weights.safetensors").unlink()
    record = out / "logs/metrics.jsonl"
    content = record.read_bytes()
    for bad in (b"", content[:-1]):
        record.write_bytes(bad)
        capsys.readouterr()
        assert main(command("train", data, out, "--resume")) == 2
        assert f"{record} is damaged" in one_line(capsys)
    record.write_bytes(content)
    assert main(command("train", data, out, "--resume")) == 0
    assert results(out) == expected


@pytest.mark.parametrize("bad", [b"", b"\xff\xfe", b"- a\n", b"{a: [", b"output_dir: x\n"])
def test_a_damaged_configuration_is_not_taken_for_the_same(
    bad: bytes, data: Path, lent: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = lent("generate")
    (out / "config.yaml").write_bytes(bad)
    (out / "balanced/negatives.parquet").unlink()
    capsys.readouterr()
    assert main(command("generate", data, out, "--resume")) == 2
    assert "--overwrite" in one_line(capsys)


def test_a_sweep_finds_what_its_finished_tasks_have_lost(
    data: Path, tmp_path: Path, made: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """And the command that it names makes the very same again."""
    out = tmp_path / "out"
    words = command("sweep", data, out)
    assert main(words) == 0
    file = out / "scenes/balanced/negatives.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    capsys.readouterr()
    assert main([*words, "--resume"]) == 2
    line = one_line(capsys)
    assert f"prepare/scenes: {file} is damaged" in line
    assert main(line.split("`itm ")[1].split("`")[0].split()) == 0
    assert main([*words, "--resume"]) == 0
    assert file.read_bytes() == content
    shutil.rmtree(out / "scenes")
    assert main([*words, "--resume"]) == 0, "what was removed to make room is not made again"
    for bad in (b"", b"[]", b'{"tasks": [{"name": "prepare/scenes"}]}', b'{"tasks": [1]}'):
        (out / "manifest.json").write_bytes(bad)
        capsys.readouterr()
        assert main([*words, "--resume"]) == 2
        assert "manifest" in one_line(capsys)
