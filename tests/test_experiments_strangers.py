"""Files of a stranger: what a run's folder or a configuration names stays inside, and nothing is looked up for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from experiments.__main__ import main
from experiments.commands import VERBS
from experiments.config.evaluation_schemas import EvaluateConfig
from experiments.config.filter_schemas import FilterConfig
from experiments.config.load import ConfigError, describe, load_config, load_saved, saved_as_today
from experiments.config.names import NAME_RULE, is_file_name
from experiments.config.schemas import ExperimentConfig
from experiments.exit_codes import exit_code
from experiments.report.audits import read_audits
from experiments.report.card_sources import find_certificate, find_evaluations
from experiments.report.comparison.reading.curves import read_curves
from experiments.report.comparison.reading.runs import read_run
from experiments.runs.made_by import former_made_by
from experiments.sweeping import points
from experiments.sweeping.manifest import Manifest
from experiments.sweeping.plan import Task
from experiments.sweeping.standing import RUN, stand
from experiments.verbs import sweep
from experiments.verbs.filter import _finished
from experiments.verbs.score import _check_same
from lightning_modules.kept_weights import find_kept
from lightning_modules.scoring.runs import check_finished, read_base, read_settings
from negatives.tables.captions import InputError, write_json, write_text
from tests.test_experiments_compare import pair_rows, write_run

DATA = "data: {captions: c.parquet, negatives: n.parquet}"
BAD_NAMES = ["/etc/set", "..", "a\\b", "", "nul", "a\nb"]
MORE_BAD_NAMES = [
    "../set",
    "a/b",
    " ",
    ".hidden",
    "COM1.txt",
    "C:x",
    "a.",
    "a\0b",
    "a\u202eb",
    "\ud800",
    "x" * 201,
    None,
    1,
]


def run_of(folder: Path, config: str) -> Path:
    """A folder that looks like a finished training, up to its weights."""
    (folder / "processor").mkdir(parents=True)
    write_text("", folder / "weights.safetensors")
    write_text(config, folder / "config.yaml")
    return folder


def sets_of(name: str) -> str:
    return OmegaConf.to_yaml({"evaluation": {"sets": {name: {"captions": "c.parquet", "negatives": "n.parquet"}}}})


def test_an_evaluation_of_a_strangers_run_replaces_no_file_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path / "run", f"{DATA}\n{sets_of(str(tmp_path / 'mine'))}")
    assert main(["evaluate", str(run), "accelerator=cpu"]) == 2
    assert f"`evaluation.sets` names must be {NAME_RULE}, got '{tmp_path}/mine'" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert not (run / "evaluation").exists()


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_would_leave_its_folder_is_refused_wherever_it_becomes_a_path(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_text(f"{DATA}\n{sets_of(name)}", path)
    with pytest.raises(ConfigError, match=r"`evaluation\.sets` names must be a file's name"):
        load_saved(ExperimentConfig, path)
    for words in ({"runs": {name: {}}}, {"prepare": {name: {"verb": "filter"}}}):
        path = tmp_path / "sweep.yaml"
        write_text(OmegaConf.to_yaml(words), path)
        with pytest.raises(ConfigError, match=f"`{next(iter(words))}` names must be a file's name"):
            sweep.load(path, [])
    path = tmp_path / "train.yaml"
    write_text(f"{DATA}\n{OmegaConf.to_yaml({'name': name})}", path)
    with pytest.raises(ConfigError, match="`name` must be a file's name"):
        load_config(ExperimentConfig, path, check_files=False)


def test_a_compared_run_is_read_from_its_own_folder_alone(tmp_path: Path) -> None:
    folder = Path(write_run(tmp_path / "run", "run", {"balanced": pair_rows()}))
    table = tmp_path / "elsewhere" / "pairs.parquet"
    (folder / "evaluation" / "balanced" / "pairs.parquet").rename(tmp_path / "moved.parquet")
    table.parent.mkdir()
    (tmp_path / "moved.parquet").rename(table)
    for name in (str(table.parent), "../../elsewhere"):
        write_json({"run": "run", "sets": {name: {"image_root": "."}}}, folder / "evaluation" / "summary.json")
        with pytest.raises(InputError, match="`sets` names must be a file's name"):
            read_run(folder)


def test_a_run_made_before_the_rule_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_text(f"{DATA}\nname: clip/seed0", path)
    assert load_saved(ExperimentConfig, path).name == "clip/seed0"


@pytest.mark.parametrize("name", ["tasks", "runs", "Report", "manifest.json"])
def test_a_step_does_not_take_the_place_of_the_sweeps_own_files(name: str) -> None:
    with pytest.raises(ConfigError, match="`prepare` names must not be those of other files there"):
        sweep.load(None, [f"prepare={{{name}: {{verb: filter}}}}"])


@pytest.mark.parametrize("name", ["config.yaml", "summary.json"])
def test_a_set_does_not_take_the_place_of_an_evaluations_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "evaluate.yaml"
    write_text(
        OmegaConf.to_yaml({"run": ".", "evaluation": {"sets": {name: {"captions": "c", "negatives": "n"}}}}), path
    )
    with pytest.raises(ConfigError, match=r"`evaluation\.sets` names must not be those of other files there"):
        load_config(EvaluateConfig, path, check_files=False)


def test_any_printable_name_of_one_file_is_a_name() -> None:
    assert all(map(is_file_name, ["lr=1e-4", "swap obj", "coco:val", "Ünïcode 猫", "a..b", "<b>", "x" * 200]))
    assert not any(map(is_file_name, [*BAD_NAMES, *MORE_BAD_NAMES]))


def fails(call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"plain values, as a verb writes them, and has \$\{\.\.\.\} in"):
        call()


@pytest.fixture
def spy() -> Any:
    """A resolver that records its calls."""
    calls: list[str] = []
    OmegaConf.register_resolver("spy", lambda name: calls.append(name) or "x", replace=True)
    yield calls
    OmegaConf.clear_resolver("spy")


def test_no_reader_of_a_runs_folder_looks_anything_up(tmp_path: Path, spy: list[str]) -> None:
    hostile = "{0}\nname: ${{spy:name}}\nmodel: ${{spy:model}}\noptim: ${{spy:optim}}\nlogging: ${{spy:logging}}\n"
    run = run_of(tmp_path / "run", hostile.format(DATA) + "score: ${spy:score}\n")
    config = load_config(ExperimentConfig, None, ["data.captions=c", "data.negatives=n"], check_files=False)
    fails(lambda: load_saved(ExperimentConfig, run / "config.yaml"))
    fails(lambda: saved_as_today(ExperimentConfig, run / "config.yaml"))
    with pytest.raises(InputError, match=r"model must be a mapping with settings, got '\$\{spy:model\}'"):
        read_settings(run)
    assert former_made_by(run, config) is None
    check_finished(run)
    (run / "weights.safetensors").unlink()
    with pytest.raises(InputError, match="no finished run"):
        check_finished(run)
    write_text(
        "set,negative_type,pairs,accuracy,low,high,blind_accuracy,blind_low,blind_high\na,b,1,1,1,1,1,1,1\n",
        run / "evaluation" / "metrics.csv",
    )
    write_text("score: ${spy:score}", run / "evaluation" / "config.yaml")
    fails(lambda: list(find_evaluations(run, "itm")))
    task = Task("train/a", "train", "runs/a", "0", (), ExperimentConfig())
    write_text("seed: ${spy:seed}", task.file_in(run))
    record = {"name": task.name, "state": "finished", "config_hash": "other", "seconds": 1}
    write_json({"tasks": [record]}, run / "manifest.json")
    (one,) = stand([task], Manifest(run).read(), run)
    assert one.action == RUN, "it ran with another configuration"
    assert not spy


def test_a_runs_folder_does_not_read_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ITM_TOKEN", "secret-of-the-user")
    run = run_of(tmp_path / "run", f"{DATA}\nname: ${{oc.env:ITM_TOKEN}}\n")
    for verb in ("evaluate", "export"):
        assert main([verb, str(run)]) == 2
        error = capsys.readouterr().err
        assert "nothing is looked up" in error
        assert "secret" not in error
    # a file that the user wrote still may
    mine = tmp_path / "mine.yaml"
    write_text(f"{DATA}\nname: ${{oc.env:ITM_TOKEN}}\n", mine)
    assert load_config(ExperimentConfig, mine, check_files=False).name == "secret-of-the-user"


def test_a_runs_folder_has_no_base(tmp_path: Path) -> None:
    write_text("name: elsewhere", tmp_path / "base.yaml")
    write_text(f"{DATA}\nbase: base.yaml\n", tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="`base` is no known key"):
        load_saved(ExperimentConfig, tmp_path / "config.yaml")


def test_a_grid_of_a_million_points_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "_point", lambda *_: pytest.fail("built"))
    seeds = f"[{','.join(map(str, range(100)))}]"
    with pytest.raises(ConfigError, match=r"^a sweep must have at most 1000 runs, got 1,000,000: 1,000,000 points"):
        sweep.load(None, [f"grid={{seed: {seeds}, optim.lr: {seeds}, data.batch_size: {seeds}}}"])


@pytest.mark.parametrize("verb", VERBS)
def test_every_seed_is_one_that_numpy_takes_and_no_size_is_without_bounds(verb: str) -> None:
    keys = describe(VERBS[verb].load_schema())
    for key in keys:
        name = key.name.split(".")[-1]
        if name == "seed":
            assert re.fullmatch(r"in \[0, (4294967295|2147483647)\]", key.rule), key
        if name in ("batch_size", "num_workers", "workers", "bootstrap", "shard_size", "image_size", "hidden_size"):
            assert re.fullmatch(r"in \[\d+, \d+\]", key.rule), key


@pytest.mark.parametrize(
    ("word", "rule"),
    [
        ("seed=4294967296", "`seed` must be in [0, 4294967295], got 4294967296"),
        ("seed=-1", "`seed` must be in [0, 4294967295], got -1"),
        ("data.batch_size=1000000000000", "`data.batch_size` must be in [1, 1000000]"),
        ("data.num_workers=100000", "`data.num_workers` must be in [0, 1024]"),
        ("evaluation.bootstrap=1000000000", "`evaluation.bootstrap` must be in [100, 100000]"),
        ("model.tiny.hidden_size=1000000000", "`model.tiny.hidden_size` must be in [8, 65536]"),
        ("trainer.devices=1000000", "`trainer.devices` must be in [1, 1024]"),
        (f"trainer.max_steps={10**30}", "`trainer.max_steps` must be a number below 2^63"),
        (f"seed={'9' * 5000}", "`seed` must be valid YAML (Exceeds the limit"),
        (f"name={'[' * 200}{']' * 200}", "`name` must be valid YAML (it is nested too deep)"),
        (f"{'a.' * 200}b=1", "a key must have at most 50 parts"),
        ('data.image_root="a\\0b"', "`data.image_root` must be text without a NUL character"),
        ("data.image_root=a\ud800b", "`data.image_root` must be valid YAML ('utf-8' codec can't encode"),
    ],
)
def test_what_no_machine_can_do_is_one_fault_of_its_key(word: str, rule: str) -> None:
    words = ["data.captions=c", "data.negatives=n", word]
    with pytest.raises(ConfigError, match=f"^{re.escape(rule)}"):
        load_config(ExperimentConfig, None, words, check_files=False)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: " + "[" * 5000 + "]" * 5000, "it is nested too deep"),
        ("a: " + "[" * 60 + "]" * 60, "it is nested too deep"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(3000)), "it is nested too deep"),
        ("seed: " + "9" * 5000, "Exceeds the limit (4300 digits)"),
        ("a: &a [*a]", "recursive aliases are not supported"),
        ("seed: 1\nseed: 2", "found duplicate key seed, line 2"),
        (
            "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefgh")),
            "limit",
        ),
    ],
    ids=["flow", "just too deep", "block", "digits", "cycle", "twice", "laughs"],
)
def test_yaml_without_bounds_is_one_line(text: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_text(text, path)
    for read in (load_config, load_saved):
        with pytest.raises(ConfigError, match=f"config.yaml must be valid YAML: .*{re.escape(fault)}") as caught:
            read(ExperimentConfig, path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("work", "asked"),
    [
        (lambda: torch.empty(10**15), "you tried to allocate 4000000000000000 bytes"),
        (lambda: np.empty(10**15), "Unable to allocate 7.11 PiB"),
        (lambda: [0] * 10**15, ""),
    ],
    ids=["torch", "numpy", "python"],
)
def test_memory_that_is_not_there_is_one_line(
    work: Callable[[], Any], asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(work) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "there is not enough memory" in line
    assert asked in line
    assert "give a smaller batch_size" in line


def test_another_error_of_torch_is_still_a_bug() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        exit_code(lambda: torch.ones(2, 3) @ torch.ones(2, 3))


ESTIMATE = '{"estimand": "auc", "negative_type": "all", "judge": "j", "value": 1, "low": 1, "high": 1}'
JSON_READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "checkpoints/best.json": (
        '{"metric": "m", "kept": [{"step": VALUE, "value": 1, "file": "step-1.safetensors"}]}',
        lambda run: find_kept(run, "best"),
    ),
    "certificate.json": (
        '{"rule": "r", "unit": "pair", "balanced": true, "misses": [], "estimates": [],'
        ' "retention": {"pairs": {"kept": VALUE, "of": 1}}}',
        lambda run: find_certificate(run / "certificate.json"),
    ),
    "evaluation/summary.json": (
        '{"run": "a", "sets": {"b": {"image_root": ".", "training_pairs": {"mean": VALUE}}}}',
        read_run,
    ),
    "audit.json": (
        f'{{"parts": [{{"judge": "j", "positives": VALUE, "negatives": 1, "pairs": 1, "estimates": [{ESTIMATE}]}}]}}',
        lambda run: read_audits({"a": str(run / "audit.json")}),
    ),
    "logs/metrics.jsonl": ('{"step": VALUE, "metrics": {"val/loss": 1}}\n', lambda run: read_curves(run / "logs")),
    "base.json": ('{"frozen": VALUE}', read_base),
    "scorer.json": ('{"model": VALUE}', lambda run: _check_same(run, {})),
    "filter/certificate.json": (
        '{"balanced": "false", "misses": VALUE}',
        lambda run: _finished(FilterConfig("c", "n", unit="text"), run / "filter"),
    ),
}


@pytest.mark.parametrize("value", ["1e999", "[" * 100_000], ids=["infinite", "deep"])
@pytest.mark.parametrize("name", JSON_READERS)
def test_numbers_and_depths_that_no_verb_writes_are_one_line(name: str, value: str, tmp_path: Path) -> None:
    content, read = JSON_READERS[name]
    write_text(content.replace("VALUE", value), tmp_path / name)
    with pytest.raises(InputError, match=Path(name).name) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
