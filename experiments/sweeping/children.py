"""The processes that do a sweep's tasks: a fork each, with a log of its own, on the devices that it is dealt."""

from __future__ import annotations

import codecs
import ctypes
import importlib
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.load import load_config
from experiments.exit_codes import MISSED, exit_code
from experiments.sweeping.plan import Task
from experiments.verb_table import TASKS, run_verb
from lightning_modules import SIGNALS
from negatives.tables import Held, write_text

# from <linux/prctl.h>
PR_SET_PDEATHSIG = 1
# A forked child shares the parent's imports. The parent computes nothing, so no thread or CUDA context is forked.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
WRITTEN_ANEW = ("evaluate", "compare")
"""Verbs whose folder is replaced: what is costly, the scores, stays in the store of an evaluation."""
OF_A_RANK = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODEID", "RANK", "WORLD_SIZE", "LOCAL_RANK")
"""By these a library takes a process for one rank of a job: a task of a sweep is a job of its own."""
OF_A_TRIAL = ("WANDB_RUN_ID", "WANDB_SWEEP_ID")
"""By these all tasks of a sweep that one of W&B's agents has started would be one run."""
SHOWN_LINES, SHOWN_BYTES = 12, 4096
"""Of a failed task's log, at most."""


@dataclass(frozen=True)
class Slot:
    """Where a task runs.

    Attributes:
        gpus: entries of CUDA_VISIBLE_DEVICES; None where there is no GPU to be dealt.
        threads: of the CPU; None where the task has the machine to itself.
    """

    gpus: tuple[str, ...] | None
    threads: int | None


def deal(workers: int, gpus: Sequence[str], cpus: int) -> list[Slot]:
    """Splits the machine: every worker gets the same number of GPUs and an equal share of CPU threads.

    GPUs that are left over stay unused; where there are fewer than workers, several workers share one.

    >>> [slot.gpus for slot in deal(2, ["0", "1", "2", "3"], 8)], deal(2, ["0"], 8)[1].gpus
    ([('0', '1'), ('2', '3')], ('0',))
    >>> [slot.threads for slot in deal(4, [], 2)], deal(1, [], 8)
    ([1, 1, 1, 1], [Slot(gpus=None, threads=None)])
    """
    if workers == 1:
        return [Slot(None, None)]
    each = max(1, len(gpus) // workers)
    found = [tuple(gpus[(n * each) % len(gpus) :][:each]) if gpus else None for n in range(workers)]
    return [Slot(own, max(1, cpus // workers)) for own in found]


def visible_gpus() -> list[str]:
    """The GPUs of this process as CUDA_VISIBLE_DEVICES names them; asking starts nothing on them."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [entry.strip() for entry in given.split(",") if entry.strip() and entry.strip() != "-1"]
    import torch

    # by NVML: a parent that had started CUDA could not be forked
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    return [str(number) for number in range(torch.cuda.device_count())]


class Child:
    """A task that runs.

    Args:
        task: to be done.
        folder: of the sweep.
        slot: where.
        claim: the task's lock, which the process holds too.
    """

    def __init__(self, task: Task, folder: Path, slot: Slot, claim: Held):
        self.task, self.slot, self.claim, self.folder = task, slot, claim, folder
        self.log = task.log_in(folder)
        # a file, since ranks that Lightning starts read the configuration by the command line
        write_text(task.config, task.file_in(folder))
        # earlier attempts stay in it
        self._begin = self._printed = self.log.stat().st_size if self.log.exists() else 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        context: Any = multiprocessing.get_context(START_METHOD)
        self.process = context.Process(target=_work, args=(task.verb, task.file_in(folder), self.log, slot))

    def start(self) -> None:
        """Starts it with Ctrl-C held back: one that came during the fork would be lost."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def printed(self) -> str:
        """What it has printed since the last call."""
        try:
            with self.log.open("rb") as file:
                file.seek(self._printed)
                content = file.read()
        except OSError:
            return ""
        self._printed += len(content)
        # a letter may be cut at the end of what was read
        return self._decoder.decode(content)

    def missed(self) -> bool:
        """Whether it did its work, as a filter whose certificate misses: said in its log, and no reason to stop."""
        left = TASKS[self.task.verb].miss_leaves
        found = left is not None and (self.folder / self.task.folder / left).exists()
        return self.process.exitcode == MISSED and found

    def end(self, seconds: float) -> None:
        """Waits for its end, and asks for it where it does not come."""
        if self.process.pid is not None:
            self.process.join(seconds)
            # nothing to a child that has ended; after Ctrl-C, the end of one that did not stop by itself
            self.process.terminate()
            self.process.join(seconds)

    def last_lines(self) -> list[str]:
        """Of a failed one, how it ended and the end of what it printed."""
        code = self.process.exitcode
        how = f"ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        return [how, *last_lines(self.log, self._begin)]


def last_lines(log: Path, begin: int) -> list[str]:
    """The last lines of a log behind a byte; none where there is no log."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(begin, end - SHOWN_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-SHOWN_LINES:]


def import_libraries() -> None:
    """Imports what every task needs once, before the first fork: seconds saved for each task."""
    if START_METHOD == "fork":
        for library in ("lightning", "transformers", "peft", "sklearn.linear_model"):
            importlib.import_module(library)


def _work(verb: str, config_file: Path, log: Path, slot: Slot) -> None:
    """A child's life: one verb with its configuration, and the exit code that the command line would give."""
    if sys.platform == "linux":
        # A killed sweep takes its run along; elsewhere the run goes on to its end.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    # whoever called the sweep may have put something else in their places
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w", closefd=False), line_buffering=True) for n in (1, 2))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    for number in SIGNALS:  # the sweep's own handlers came along
        signal.signal(number, signal.SIG_DFL)
    _take(slot)
    # Lightning's DDP starts its other ranks from sys.argv: they come in by the command line.
    sys.argv = [sys.argv[0], verb, str(config_file), "--resume=auto"]
    anew = verb in WRITTEN_ANEW
    schema = TASKS[verb].load_schema()
    sys.exit(
        exit_code(lambda: run_verb(TASKS[verb], load_config(schema, config_file), resume=not anew, overwrite=anew))
    )


def _take(slot: Slot) -> None:
    """Restricts this process, and those that it starts, to what it was dealt."""
    for name in (*OF_A_RANK, *OF_A_TRIAL):
        os.environ.pop(name, None)
    if slot.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(slot.gpus)
    if slot.threads is not None:
        import torch

        # never more than the user allows
        threads = min(slot.threads, torch.get_num_threads())
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
