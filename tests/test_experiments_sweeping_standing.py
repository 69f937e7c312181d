"""Sweeps that grow, shrink and change their names: what runs again, what stays, and what is set aside."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.__main__ import main
from experiments.sweeping.manifest import FINISHED, Manifest
from negatives.tables import InputError, hold, is_held
from tests.launch import start, wait_until
from tests.sweeps import FAILS, RAN, idle_verbs, ran, records, states, write_sweep
from tests.tiny import tiny_tables

RUNS = {"a": {}, "b": {"optim.lr": 0.01}}
Sweep = Callable[..., int]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Runs the sweep of a content in the one folder, by verbs that do no work."""
    tiny_tables(tmp_path / "scenes")
    idle_verbs(tmp_path, monkeypatch)

    def run(*flags: str, **content: Any) -> int:
        return main(["sweep", str(write_sweep(tmp_path, **content)), *(flags or ["--resume=auto"])])

    return run


def of_runs(*names: str) -> list[str]:
    """The training and evaluation of runs, and a comparison."""
    tasks = [(f"train runs/{name}", f"evaluate runs/{name}/evaluation") for name in names]
    return sorted([task for pair in tasks for task in pair] + ["compare report"])


def test_a_sweep_grows_and_shrinks(sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(runs=RUNS) == 0
    assert ran(tmp_path) == of_runs("a", "b")
    assert sweep(runs=RUNS) == 0
    assert ran(tmp_path) == [], "it is finished"
    assert sweep(runs={**RUNS, "c": {"optim.lr": 0.02}}) == 0
    assert ran(tmp_path) == of_runs("c"), "another arm"
    capsys.readouterr()
    assert sweep(runs={"c": {"optim.lr": 0.02}, "a": {}}) == 0
    assert ran(tmp_path) == ["compare report"], "an arm less, in another order"
    assert "No longer asked for, and left as it is: runs/b; see --plan." in capsys.readouterr().out
    capsys.readouterr()
    assert sweep("--plan", runs={"c": {"optim.lr": 0.02}, "a": {}}) == 0
    printed = capsys.readouterr().out
    assert "4 keep, 1 orphaned" in printed
    assert "orphan: runs/b (train/b, finished)" in printed
    assert (tmp_path / "out/runs/b/weights.safetensors").exists()
    assert sweep(runs=RUNS) == 0
    assert ran(tmp_path) == ["compare report"], "it is asked for again"


def test_seeds_are_added(sweep: Sweep, tmp_path: Path) -> None:
    assert sweep(runs=RUNS, grid={"seed": [0]}) == 0
    ran(tmp_path)
    assert sweep(runs=RUNS, grid={"seed": [1, 0]}) == 0
    assert ran(tmp_path) == of_runs("a-seed=1", "b-seed=1")


def test_another_title_makes_another_page_alone(sweep: Sweep, tmp_path: Path) -> None:
    assert sweep(runs=RUNS) == 0
    ran(tmp_path)
    assert sweep(runs=RUNS, compare={"title": "other", "bootstrap": 100}) == 0
    assert ran(tmp_path) == ["compare report"]
    assert sweep(runs=RUNS, compare={"title": "other", "bootstrap": 100}, logging={"wandb": "offline"}) == 0
    assert ran(tmp_path) == []


def test_another_evaluation_trains_nothing(sweep: Sweep, tmp_path: Path) -> None:
    assert sweep(runs=RUNS) == 0
    ran(tmp_path)
    assert sweep(runs=RUNS, experiment={"evaluation": {"bootstrap": 200}}) == 0
    assert ran(tmp_path) == ["compare report", "evaluate runs/a/evaluation", "evaluate runs/b/evaluation"]
    assert sweep(runs=RUNS, experiment={"evaluation": {"bootstrap": 200}}) == 0
    assert ran(tmp_path) == []


def test_a_renamed_run_is_not_trained_again(sweep: Sweep, tmp_path: Path) -> None:
    assert sweep(runs=RUNS) == 0
    ran(tmp_path)
    renamed = {"a": RUNS["b"], "d": RUNS["a"]}
    assert sweep(runs=renamed) == 0
    # evaluations hold the name, and take their scores from the store
    assert ran(tmp_path) == ["compare report", "evaluate runs/a/evaluation", "evaluate runs/d/evaluation"]
    found = {name: json.loads((tmp_path / f"out/runs/{name}/weights.safetensors").read_text()) for name in renamed}
    assert found == {"a": {"of": "runs/b"}, "d": {"of": "runs/a"}}
    assert not (tmp_path / "out/runs/b").exists()
    config = (tmp_path / "out/runs/d/config.yaml").read_text()
    assert "name: d\n" in config
    assert f"output_dir: {tmp_path}/out/runs/d\n" in config
    assert sweep(runs=renamed) == 0
    assert ran(tmp_path) == []


def test_another_setting_sets_the_run_aside_and_the_old_one_brings_it_back(sweep: Sweep, tmp_path: Path) -> None:
    assert sweep(runs=RUNS) == 0
    ran(tmp_path)
    other = {**RUNS, "b": {"optim.lr": 0.5}}
    assert sweep(runs=other) == 0
    assert ran(tmp_path) == of_runs("b")
    (before,) = (tmp_path / "out/orphans").iterdir()
    assert (before / "evaluation/summary.json").is_file()
    assert sweep(runs=RUNS) == 0
    assert ran(tmp_path) == ["compare report"]
    assert [path.name[:2] for path in (tmp_path / "out/orphans").iterdir()] == ["b-"]
    assert states(tmp_path)["train/b"] == FINISHED


@pytest.mark.parametrize("moved", [False, True])
def test_a_kill_in_the_middle_of_a_move_is_made_good(moved: bool, sweep: Sweep, tmp_path: Path) -> None:
    assert sweep(runs=RUNS) == 0
    ran(tmp_path)
    with Manifest(tmp_path / "out").changing() as records_now:
        (record,) = (one for one in records_now.values() if one.name == "train/b")
        record.moves_to = "runs/d"
    if moved:
        (tmp_path / "out/runs/b").rename(tmp_path / "out/runs/d")
    assert sweep(runs={"a": RUNS["a"], "d": RUNS["b"]}) == 0
    assert ran(tmp_path) == ["compare report", "evaluate runs/d/evaluation"]
    assert json.loads((tmp_path / "out/runs/d/weights.safetensors").read_text()) == {"of": "runs/b"}


def test_a_failed_run_leaves_a_report_of_the_others_and_is_fixed(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FAILS).write_text("runs/b")
    assert sweep(runs=RUNS) == 2
    assert ran(tmp_path) == sorted([*of_runs("a"), "train runs/b"])
    assert "2 of 5 tasks did not finish: train/b, evaluate/b." in capsys.readouterr().err
    assert records(tmp_path)["train/b"].lines[-1] == "then \x1b[31m<b>why</b>"
    config = (tmp_path / "out/tasks/compare.yaml").read_text()
    assert "first the cause" in config
    assert "runs/b" not in config
    assert sweep("--status", runs=RUNS) == 0
    printed = capsys.readouterr().out
    assert "train/b failed: then " in printed
    assert "\x1b[31m" not in printed
    assert sweep(runs=RUNS) == 2
    assert ran(tmp_path) == ["train runs/b"], "tried again, and nothing else"
    (tmp_path / FAILS).unlink()
    assert sweep(runs=RUNS) == 0
    assert ran(tmp_path) == of_runs("b")


def test_a_failed_run_with_another_setting_begins_in_a_new_folder(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / FAILS).write_text("runs/b")
    assert sweep(runs=RUNS) == 2
    (tmp_path / FAILS).unlink()
    ran(tmp_path)
    assert sweep(runs={**RUNS, "b": {"optim.lr": 0.5}}) == 0
    assert ran(tmp_path) == of_runs("b")
    assert len([*(tmp_path / "out/orphans").iterdir()]) == 1, "what it had is not deleted"


def test_a_run_that_was_deleted_by_hand_runs_again(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(runs=RUNS) == 0
    ran(tmp_path)
    shutil.rmtree(tmp_path / "out/runs/b")
    capsys.readouterr()
    assert sweep("--plan", runs=RUNS) == 0
    assert "its folder was removed" in " ".join(capsys.readouterr().out.split())
    assert sweep(runs=RUNS) == 0
    assert ran(tmp_path) == of_runs("b")
    (tmp_path / "out/runs/a/weights.safetensors").unlink()
    assert sweep(runs=RUNS) == 0
    assert ran(tmp_path) == [], "its evaluation is there, and nothing needs the weights"
    shutil.rmtree(tmp_path / "out/report")
    assert sweep(runs=RUNS) == 0
    assert ran(tmp_path) == ["compare report"]


def step(seed: int) -> dict[str, Any]:
    return {"verb": "generate", "config": {"generator": "scenes", "seed": seed, "scenes": {"train": 6, "held_out": 2}}}


def test_what_reads_a_step_is_another_task_when_the_step_is(sweep: Sweep, tmp_path: Path) -> None:
    made = str(tmp_path / "out/made/train/captions.parquet")
    runs = {"reads": {"data.captions": made}, "does_not": {}}
    assert sweep(runs=runs, prepare={"made": step(0)}) == 0
    assert ran(tmp_path) == sorted([*of_runs("reads", "does_not"), "generate made"])
    assert sweep(runs=runs, prepare={"made": step(0), "more": step(1)}) == 0
    assert ran(tmp_path) == ["generate more"], "a step that nobody reads"
    assert sweep(runs=runs, prepare={"made": step(2)}) == 0
    assert ran(tmp_path) == sorted([*of_runs("reads"), "generate made"])
    assert sweep(runs=runs, prepare={"made": step(0)}) == 0
    assert ran(tmp_path) == ["compare report"], "both come back"
    shutil.rmtree(tmp_path / "out/made")
    assert sweep(runs=runs, prepare={"made": step(0)}) == 0
    assert ran(tmp_path) == [], "what was removed to make room is not made again"
    shutil.rmtree(tmp_path / "out/runs/reads")
    assert sweep(runs=runs, prepare={"made": step(0)}) == 0
    assert ran(tmp_path) == sorted([*of_runs("reads"), "generate made"]), "unless something needs it"


def test_only_named_orphans_are_pruned(sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(runs={**RUNS, "c": {"seed": 3}}) == 0
    capsys.readouterr()
    for name in ("runs/a", "runs", "../scenes", "runs/c/../a"):
        assert sweep(f"--prune={name}", runs={"a": {}}) == 2
        assert "--prune must name an orphan (runs/b, runs/c)" in capsys.readouterr().err
    assert sweep("--prune=runs/b", runs={"a": {}}) == 0
    assert sorted(path.name for path in (tmp_path / "out/runs").iterdir()) == ["a", "c"]
    assert {"train/b", "evaluate/b"}.isdisjoint(states(tmp_path))
    assert "train/c" in states(tmp_path)


def _hold(folder: Path) -> None:
    lock = hold(folder)
    while lock:
        time.sleep(1)


def _join(folder: Path) -> None:
    manifest = Manifest(folder)
    manifest.join()
    while manifest:
        time.sleep(1)


@contextlib.contextmanager
def held(log: Path, holds: Callable[[Path], None], folder: Path, is_so: Callable[[], bool]) -> Iterator[None]:
    """While another process holds a lock."""
    process = start(log, holds, folder)
    try:
        wait_until(is_so)
        yield
    finally:
        process.kill()
        process.join()


def test_a_run_under_evaluation_is_neither_pruned_nor_moved(sweep: Sweep, tmp_path: Path, capsys: Any) -> None:
    assert sweep(runs=RUNS) == 0
    place = tmp_path / "out/runs/b/evaluation"
    with held(tmp_path / "log", _hold, place, lambda: is_held(place)):
        assert sweep("--prune=runs/b", runs={"a": {}}) == 2
        assert "runs/b is in use by another process" in capsys.readouterr().err
        assert sweep(runs={"a": {}, "renamed": RUNS["b"]}) == 2
        assert "runs/b is in use by another process" in capsys.readouterr().err
        assert (place / "summary.json").is_file()
    assert sweep("--prune=runs/b", runs={"a": {}}) == 0


def test_nothing_is_pruned_while_another_process_works_on_the_sweep(sweep: Sweep, tmp_path: Path, capsys: Any) -> None:
    assert sweep(runs=RUNS) == 0
    with held(tmp_path / "log", _join, tmp_path / "out", Manifest(tmp_path / "out").is_worked_on):
        assert sweep("--prune=runs/b", runs={"a": {}}) == 2
        assert "another `itm sweep` is at work, which may want runs/b" in capsys.readouterr().err
    assert "train/b" in states(tmp_path)


def test_what_a_kill_has_left_is_an_orphan_when_it_is_asked_for_no_more(
    sweep: Sweep, tmp_path: Path, capsys: Any
) -> None:
    assert sweep(runs=RUNS) == 0
    with Manifest(tmp_path / "out").changing() as now:
        (killed,) = (one for one in now.values() if one.name == "train/b")
        killed.state, killed.seconds = "pending", None
    assert sweep(runs={"a": {}}) == 0
    assert sweep("--plan", runs={"a": {}}) == 0
    assert "orphan: runs/b" in capsys.readouterr().out


def test_the_plan_tells_whether_the_report_is_made(sweep: Sweep, tmp_path: Path, capsys: Any) -> None:
    def said(**content: Any) -> str:
        capsys.readouterr()
        assert sweep("--plan", runs=RUNS, **content) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if "compare" in line)
        return line.split("│")[2].strip()

    assert said() == "run"
    assert sweep(runs=RUNS) == 0
    assert said() == "keep"
    assert said(compare={"title": "another"}) == "run"
    shutil.rmtree(tmp_path / "out/report")
    assert said() == "run"


def test_an_evaluation_that_a_slip_has_emptied_is_made_again(sweep: Sweep, tmp_path: Path) -> None:
    assert sweep(runs=RUNS) == 0
    ran(tmp_path)
    (tmp_path / "out/runs/b/evaluation/summary.json").write_text("")
    assert sweep(runs=RUNS) == 0
    assert ran(tmp_path) == ["compare report", "evaluate runs/b/evaluation"]


def test_a_folder_of_no_record_makes_way(sweep: Sweep, tmp_path: Path) -> None:
    assert sweep(runs=RUNS) == 0
    (tmp_path / "out/runs/d").mkdir()
    (tmp_path / "out/runs/d/notes.txt").write_text("mine")
    assert sweep(runs={"a": {}, "d": RUNS["b"]}) == 0
    assert (tmp_path / "out/orphans/d-1/notes.txt").read_text() == "mine"
    assert (tmp_path / "out/runs/d/weights.safetensors").is_file()


def test_an_earlier_step_that_fails_stops_no_run_that_reads_a_finished_one(sweep: Sweep, tmp_path: Path) -> None:
    def steps(seed: int) -> dict[str, Any]:
        own = {"generator": "rules", "captions": str(tmp_path / "scenes/train/captions.parquet")}
        return {name: {"verb": "generate", "config": {**own, "seed": s}} for name, s in (("one", seed), ("two", 9))}

    reads = {"data": {"negatives": "${output_dir}/two/train/negatives.parquet"}}
    assert sweep(prepare=steps(0), runs={"a": {}}, experiment=reads) == 0
    ran(tmp_path)
    (tmp_path / FAILS).write_text("one")
    assert sweep(prepare=steps(1), runs={"a": {}, "b": {"optim.lr": 0.5}}, experiment=reads) == 2
    assert ran(tmp_path) == sorted(["generate one", *of_runs("b")]), "one comparison, when both runs are there"


def test_the_status_of_a_run_that_the_last_start_did_not_ask_for_is_what_it_is(
    sweep: Sweep, tmp_path: Path, capsys: Any
) -> None:
    assert sweep(runs=RUNS) == 0
    assert sweep(runs={"a": {}}) == 0
    capsys.readouterr()
    assert sweep("--status", runs=RUNS) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "train/b" in line)
    assert "finished" in line


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_manifest_of_the_first_version_is_gone_on_with(state: str, sweep: Sweep, tmp_path: Path) -> None:
    assert sweep(runs=RUNS) == 0
    ran(tmp_path)
    manifest = Manifest(tmp_path / "out")
    entries = [
        {
            **{"name": one.name, "verb": one.verb, "needs": None, "seconds": 1.0, "config_hash": "0" * 16},
            "state": state if one.name == "train/b" else "finished",
        }
        for one in manifest.read().values()
    ]
    manifest.path.write_text(json.dumps({"tasks": entries}))
    if state == "failed":
        (tmp_path / "out/runs/b/weights.safetensors").unlink()
    assert sweep(runs=RUNS) == 0
    assert ran(tmp_path) == ["compare report", *(["train runs/b"] if state == "failed" else [])]
    assert not (tmp_path / "out/orphans").exists()
    manifest.path.write_text(json.dumps({"tasks": entries}))
    assert sweep(runs={**RUNS, "b": {"optim.lr": 0.5}}) == 0
    assert ran(tmp_path) == of_runs("b"), "which ran with another setting"


@pytest.mark.parametrize(
    "content",
    [
        *('{"tasks": [{', '{"tasks": [{"name": "train/a"}]}', '{"tasks": 3}', "[]", "[" * 100_000, '{"tasks": [1]}'),
        '{"version": 2, "tasks": [{"key": "1", "name": "n", "verb": "train", "folder": "../x", "exact": ""}]}',
        '{"version": 2, "tasks": [{"key": "1", "name": "n", "verb": "train", "folder": "x", "state": "done"}]}',
    ],
)
def test_a_broken_manifest_is_refused(content: str, sweep: Sweep, tmp_path: Path, capsys: Any) -> None:
    assert sweep(runs=RUNS) == 0
    (tmp_path / "out/manifest.json").write_text(content)
    capsys.readouterr()
    assert sweep(runs=RUNS) == 2
    assert "is no sweep manifest" in capsys.readouterr().err
    assert (tmp_path / "out/manifest.json").read_text() == content


def test_a_manifest_of_a_newer_version_is_refused(sweep: Sweep, tmp_path: Path, capsys: Any) -> None:
    assert sweep(runs=RUNS) == 0
    (tmp_path / "out/manifest.json").write_text('{"version": 3, "tasks": []}')
    assert sweep(runs=RUNS) == 2
    assert "newer version" in capsys.readouterr().err


def test_a_disk_that_is_full_while_claiming_loses_nothing(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / FAILS).write_text("runs/b")
    assert sweep(runs=RUNS) == 2
    (tmp_path / FAILS).unlink()
    ran(tmp_path)
    real = os.open

    def full(path: Any, flags: int, *arguments: Any, **further: Any) -> int:
        # a task's claim, not the worker's own lock
        if f"{tmp_path}/out/tasks/." in str(path) and "worker" not in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, flags, *arguments, **further)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        capsys.readouterr()
        assert sweep(runs=RUNS) == 2
    assert "No space left on device. Make room" in capsys.readouterr().err
    assert sweep(runs=RUNS) == 0
    assert ran(tmp_path) == of_runs("b")


def test_an_index_does_one_run_and_the_last_one_compares(sweep: Sweep, tmp_path: Path, capsys: Any) -> None:
    steps = {"made": step(0)}
    assert sweep("--index=1", "--resume=auto", runs=RUNS, prepare=steps) == 0
    assert ran(tmp_path) == ["evaluate runs/b/evaluation", "generate made", "train runs/b"]
    assert sweep("--index=0", "--resume=auto", runs=RUNS, prepare=steps) == 0
    assert ran(tmp_path) == of_runs("a")
    for index in ("-1", "2"):
        assert sweep(f"--index={index}", "--resume=auto", runs=RUNS, prepare=steps) == 2
        assert "`--index` must be in 0 ... 1" in capsys.readouterr().err


def test_a_live_comparison_follows_every_run(sweep: Sweep, tmp_path: Path) -> None:
    assert sweep(runs=RUNS, compare={"live": True, "bootstrap": 100}) == 0
    assert ran(tmp_path) == sorted([*of_runs("a", "b"), "compare report"])
    assert sweep(runs=RUNS, compare={"live": True, "bootstrap": 100}) == 0
    assert ran(tmp_path) == []


def test_a_run_alone_that_goes_online_without_a_key_is_refused_before_any_work(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refuse(logging: Any) -> None:
        if logging.wandb == "online":
            raise InputError("needs a key of W&B")

    monkeypatch.setattr("experiments.runs.tracking.check_logging", refuse)
    assert sweep(runs={"a": {}, "b": {"logging.wandb": "online", "seed": 1}}) == 2
    assert "needs a key of W&B" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_trainings_that_took_longest_go_first(sweep: Sweep, tmp_path: Path) -> None:
    runs = {name: {"optim.lr": 0.1 * number} for number, name in enumerate("abc", start=1)}
    assert sweep(runs=runs, grid={"seed": [0]}) == 0
    with Manifest(tmp_path / "out").changing() as now:
        for one in now.values():
            if one.verb == "train":
                one.seconds = {"a": 10.0, "b": 30.0, "c": 20.0}[one.name.split("/")[1][0]]
    (tmp_path / RAN).unlink()
    grown = {**runs, "d": {"optim.lr": 0.9}}
    assert sweep(runs=grown, grid={"seed": [0, 1]}) == 0
    # one that is not known first; then it is the shortest
    begun = [line.split()[1] for line in (tmp_path / RAN).read_text().splitlines() if line.startswith("train")]
    assert begun == [f"runs/{name}" for name in ("d-seed=0", "b-seed=1", "c-seed=1", "a-seed=1", "d-seed=1")]
