"""Several processes on one sweep: nothing is done twice, nothing is lost, whoever dies."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.__main__ import main
from experiments.sweeping import children
from experiments.sweeping.children import Slot, deal
from experiments.sweeping.manifest import FAILED, FINISHED, PENDING, RUNNING, Manifest
from tests.launch import start, wait_until
from tests.sweeps import FAILS, RAN, idle_verbs, ran, states, write_sweep
from tests.tiny import tiny_tables

RUNS = {name: {"optim.lr": lr} for name, lr in (("a", 0.1), ("b", 0.2), ("c", 0.3), ("d", 0.4))}
EVERY = [
    "compare report",
    *(f"{verb} runs/{n}{end}" for verb, end in (("evaluate", "/evaluation"), ("train", "")) for n in "abcd"),
]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    tiny_tables(tmp_path / "scenes")
    return write_sweep(tmp_path, runs=RUNS)


def idle_sweep(folder: Path, *words: str, clock: float = 0.0) -> int:
    """A process that works on the sweep by verbs that do no work, whose clock goes wrong by so many seconds."""
    with pytest.MonkeyPatch.context() as patch:
        idle_verbs(folder, patch)
        own = time.time
        patch.setattr(time, "time", lambda: own() + clock)
        return main(["sweep", str(folder / "sweep.yaml"), "--resume=auto", *words])


def join(*processes: BaseProcess) -> list[int | None]:
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


@pytest.mark.slow  # four processes
def test_processes_that_share_the_folder_alone_do_every_task_once(sweep: Path, tmp_path: Path) -> None:
    clocks = (0.0, 3600.0, -3600.0, 60.0)
    workers = [start_idle(tmp_path, str(number), clock) for number, clock in enumerate(clocks)]
    assert join(*workers) == [0] * 4, [(tmp_path / f"log{number}").read_text()[-500:] for number in range(4)]
    found = ran(tmp_path)
    assert found[0] == "compare report"
    assert [task for task in found if task != "compare report"] == EVERY[1:]
    assert {*states(tmp_path).values()} == {FINISHED}


def start_idle(folder: Path, name: str, clock: float = 0.0, *words: str) -> BaseProcess:
    return start(folder / f"log{name}", _idle, folder, clock, *words)


def _idle(folder: Path, clock: float, *words: str) -> int:
    return idle_sweep(folder, *words, clock=clock)


def test_workers_of_one_process_do_every_task_once(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    idle_verbs(tmp_path, monkeypatch)
    assert main(["sweep", str(sweep), "workers=3"]) == 0
    assert ran(tmp_path) == EVERY
    assert "train/a finished in" in capsys.readouterr().out


def test_a_task_that_another_process_has_claimed_is_left_to_it(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle_verbs(tmp_path, monkeypatch)
    (tmp_path / FAILS).write_text("\n".join(f"runs/{name}" for name in "abcd"))
    assert main(["sweep", str(sweep)]) == 2
    (tmp_path / FAILS).unlink()
    ran(tmp_path)
    key = next(record.key for record in Manifest(tmp_path / "out").read().values() if record.name == "train/b")
    holder = start(tmp_path / "log", _hold_claim, tmp_path / "out", key)
    wait_until(lambda: Manifest(tmp_path / "out").is_claimed(key))
    assert main(["sweep", str(sweep), "--resume", "--index=0"]) == 0
    assert ran(tmp_path) == ["evaluate runs/a/evaluation", "train runs/a"]
    waits = start_idle(tmp_path, "2")
    wait_until(lambda: (tmp_path / RAN).exists() and len((tmp_path / RAN).read_text().splitlines()) >= 4)
    holder.kill()
    assert join(waits) == [0]
    assert ran(tmp_path) == [task for task in EVERY if "runs/a" not in task], "it is taken over"


def _hold_claim(folder: Path, key: str) -> None:
    manifest = Manifest(folder)
    with manifest.changing() as records:
        records[key].state = RUNNING
    claim = manifest.claim(key)
    assert claim is not None
    while True:
        time.sleep(1)


def test_one_that_joins_does_not_repeat_what_failed(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle_verbs(tmp_path, monkeypatch)
    (tmp_path / FAILS).write_text("runs/a")
    assert main(["sweep", str(sweep)]) == 2
    ran(tmp_path)
    other = start(tmp_path / "log", _join, tmp_path / "out")
    wait_until(lambda: any((tmp_path / "out/tasks").glob(".worker-*.lock")))
    assert main(["sweep", str(sweep), "--resume"]) == 2
    assert ran(tmp_path) == []
    changed = write_sweep(tmp_path, runs={**RUNS, "b": {"optim.lr": 0.9}})
    assert main(["sweep", str(changed), "--resume"]) == 2, "a folder would have to move under the other's feet"
    assert main(["sweep", str(changed), "--overwrite"]) == 2
    changed = write_sweep(tmp_path, runs=RUNS, experiment={"evaluation": {"bootstrap": 200}})
    assert main(["sweep", str(changed), "--resume"]) == 2, "two evaluations would write one folder"
    smaller = write_sweep(tmp_path, runs={"c": RUNS["c"]})
    assert main(["sweep", str(smaller), "--resume"]) == 0
    assert "train/d" in states(tmp_path), "the other one still counts on it"
    ran(tmp_path)
    assert (tmp_path / "out/runs/b/weights.safetensors").exists()
    other.kill()
    other.join()
    write_sweep(tmp_path, runs=RUNS)
    assert main(["sweep", str(sweep), "--resume"]) == 2
    assert ran(tmp_path) == ["compare report", "train runs/a"]


def test_a_sweep_that_begins_anew_is_seen_by_others(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle_verbs(tmp_path, monkeypatch)
    verb, seen = children.run_verb, tmp_path / "seen"

    def looks(row: Any, config: Any, **flags: Any) -> int:
        seen.write_text(str(Manifest(tmp_path / "out").is_worked_on()))
        return verb(row, config, **flags)

    monkeypatch.setattr(children, "run_verb", looks)
    for flags in [], ["--overwrite"]:
        seen.unlink(missing_ok=True)
        assert main(["sweep", str(sweep), *flags]) == 0
        assert seen.read_text() == "True"
    assert not Manifest(tmp_path / "out").is_worked_on()


def _join(folder: Path) -> None:
    manifest = Manifest(folder)
    manifest.join()
    while True:
        time.sleep(1)


def test_gpus_are_dealt_and_threads_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_PROCID", "WANDB_RUN_ID", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "8")
    threads = torch.get_num_threads()
    try:
        children._take(deal(2, ["1", "3", "GPU-5", "7"], 64)[1])
        assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]) == ("GPU-5,7", str(min(32, threads)))
        assert not {"SLURM_PROCID", "WANDB_RUN_ID"} & os.environ.keys(), "a task is a job, and a run, of its own"
        children._take(Slot(None, 1))
        assert torch.get_num_threads() == 1
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-5,7"
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, MIG-1,")
    assert children.visible_gpus() == ["2", "MIG-1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert children.visible_gpus() == []


def result(folder: Path) -> dict[str, bytes]:
    """What a sweep has found: weights, scores, metrics and the comparison's tables."""
    patterns = (
        "runs/*/weights.safetensors",
        "runs/*/evaluation/**/*.csv",
        "runs/*/evaluation/*/scores.parquet",
        "report/*.csv",
    )
    files = sorted(file for pattern in patterns for file in (folder / "out").glob(pattern))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if "store" not in file.parts}


def real_sweep(path: Path, *words: str) -> int:
    torch.set_num_threads(1)
    return main(["sweep", str(path), "--resume=auto", *words])


@pytest.mark.slow
def test_kill_9_at_random_of_any_worker_changes_no_result(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Twelve kills: of one of two processes with two workers each, or of a task; in as many sweeps as it takes."""
    data, serial = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("serial")
    tiny_tables(data / "scenes")
    alone = start(serial / "log", real_sweep, copy_of_sweep(data, serial))
    assert join(alone) == [0], (serial / "log").read_text()
    draw, kills = random.Random(0), 0
    while kills < 12:
        killed = tmp_path_factory.mktemp("killed")
        copy_of_sweep(data, killed)
        kills += kill_some(killed, draw, 12 - kills)
        # what failed by a kill is tried again by a start of its own
        last = start_real(killed, 9)
        assert join(last) == [0], (killed / "log9").read_text()
        found, wanted = result(killed), result(serial)
        assert found.keys() == wanted.keys()
        assert [name for name in wanted if found[name] != wanted[name]] == []
        assert {*states(killed).values()} == {FINISHED}


def copy_of_sweep(data: Path, folder: Path) -> Path:
    (folder / "scenes").symlink_to(data / "scenes")
    return write_sweep(folder, runs={name: RUNS[name] for name in "ab"}, grid={"seed": [0, 1]})


def kill_some(folder: Path, draw: random.Random, most: int) -> int:
    """Kills workers and their tasks until the sweep is done or `most` are killed, and returns how many were."""
    kills = 0
    workers = [start_real(folder, number) for number in range(2)]
    while kills < most and not all(worker.exitcode == 0 for worker in workers):
        time.sleep(draw.uniform(0.3, 1.5))
        number = draw.randrange(2)
        if workers[number].is_alive():
            kill(draw.choice([workers[number].pid, *children_of(workers[number].pid)]))
            kills += 1
            workers[number].join(0.1)
        if workers[number].exitcode not in (None, 0):
            workers[number] = start_real(folder, number)
    join(*workers)
    return kills


def start_real(folder: Path, number: int) -> BaseProcess:
    return start(folder / f"log{number}", real_sweep, folder / "sweep.yaml", "workers=2")


def children_of(process: int | None) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children")
    try:
        return [int(child) for child in listed.read_text().split()]
    except OSError:
        return []


def kill(process: int | None) -> None:
    assert process is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def test_ctrl_c_and_a_failure_are_two_things(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idle_verbs(tmp_path, monkeypatch)
    verb = children.run_verb

    def interrupted(row: Any, config: Any, **flags: Any) -> int:
        if str(config.output_dir).endswith("runs/b"):
            raise KeyboardInterrupt
        return verb(row, config, **flags)

    monkeypatch.setattr(children, "run_verb", interrupted)
    assert main(["sweep", str(sweep)]) == 130
    assert states(tmp_path)["train/b"] == PENDING
    assert FAILED not in states(tmp_path).values()
