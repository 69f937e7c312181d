"""One process's work on a sweep: it claims tasks that are ready, does them, and notes what became of them.

Any number of processes may work on one sweep. A task belongs to the one that holds its claim. Each process does what
is ready and not claimed; where nothing is, it waits for the others, and takes over what one of them leaves by dying.
"""

from __future__ import annotations

import math
import multiprocessing.connection
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.config.sweep_schemas import SweepConfig
from experiments.exit_codes import INTERRUPTED, PREEMPTED, PreemptedError
from experiments.runs.progress import say, shown
from experiments.sweeping.children import Child, Slot, import_libraries
from experiments.sweeping.manifest import COMPARE, FAILED, FINISHED, PENDING, RUNNING, Manifest, Record, new_record
from experiments.sweeping.plan import LIVE, REPORT, RUNS, Task, compare_settings
from experiments.sweeping.standing import RUN, Standing
from lightning_modules import Preemption
from negatives.tables import Held

PAGE = "index.html"
SECONDS_TO_NOTICE = 0.5
SECONDS_TO_CLOSE = 10  # for a run that Ctrl-C reaches too, to close its logs


class Worker:
    """This process, at work on a sweep.

    Args:
        config: of the sweep.
        tasks: of its plan.
        manifest: of its folder, which was settled.
        slots: how many tasks at a time, and where.
        only: names of the tasks that are this process's; None for all. It waits for no others.
    """

    def __init__(
        self,
        config: SweepConfig,
        tasks: Sequence[Task],
        manifest: Manifest,
        slots: Sequence[Slot],
        only: frozenset[str] | None = None,
    ):
        self.config, self.tasks, self.manifest, self.only = config, tasks, manifest, only
        self.folder = manifest.folder
        self.slots = list(slots)
        self.children: list[Child] = []
        self._started: dict[str, float] = {}
        self._shows = len(slots) == 1
        self._last_compared: tuple[list[tuple[str, str, int]], Task] | None = None

    def run(self, preemption: Preemption) -> None:
        """Works until nothing is left that this process could do.

        Raises:
            KeyboardInterrupt: on Ctrl-C; all tasks have ended.
            PreemptedError: a scheduler asked for an end; all tasks have saved what they had.
        """
        try:
            while True:
                records = self.manifest.read()
                while self.slots and (found := self._next(records)):
                    self._start(*found)
                    records = self.manifest.read()
                if not self.children and not self._waits(records):
                    return
                self._wait(preemption)
        finally:
            for child in self.children:
                child.end(SECONDS_TO_CLOSE)
                self._note(child, FINISHED if child.process.exitcode == 0 else PENDING)
                child.claim.release()
            self.children = []

    def _next(self, records: Mapping[str, Record]) -> tuple[Task, Held] | None:
        """A task that is ready, with its claim."""
        if (compared := self._comparison(records)) is not None and (claim := self.manifest.claim(COMPARE)):
            # another process may have made it between the two
            if self._comparison(self.manifest.read()) is not None:
                return compared, claim
            claim.release()
        for task in self._ready(records):
            if (claim := self.manifest.claim(task.key)) is None:
                continue
            record = self.manifest.read().get(task.key)
            if record is not None and record.state in (PENDING, RUNNING):
                return task, claim
            claim.release()
        return None

    def _ready(self, records: Mapping[str, Record]) -> list[Task]:
        """What could be begun now: steps in their order, then evaluations, then trainings, the longest first."""
        own = {child.task.key for child in self.children}
        found = [task for task in self.tasks if self._is_mine(task) and task.key not in own]
        states = {task.name: records[task.key].state for task in self.tasks}
        steps = [task.name for task in self.tasks if task.prepares]
        seconds = _expected_seconds(self.tasks, records)
        ready = []
        for task in found:
            before = steps[: steps.index(task.name)] if task.prepares else task.needs
            if states[task.name] in (PENDING, RUNNING) and all(states[name] == FINISHED for name in before):
                # unknown ones first, to become known; sorted() keeps the plan's order among equals
                length = seconds.get(task.arm, math.inf) if task.verb == "train" else math.inf
                ready.append((0 if task.prepares else 1 if task.verb == "evaluate" else 2, -length, task))
        return [task for _, _, task in sorted(ready, key=lambda one: one[:2])]

    def _is_mine(self, task: Task) -> bool:
        return self.only is None or task.name in self.only

    def _comparison(self, records: Mapping[str, Record]) -> Task | None:
        """The comparison, where it is to be made now: of what is evaluated, where that is not what it was made of."""
        if any(child.task.name == COMPARE for child in self.children):
            return None
        evaluations = [task for task in self.tasks if task.verb == "evaluate" and task.run]
        done = [task for task in evaluations if records[task.key].state == FINISHED]
        ended = all(task in done or self._is_stuck(task, records) for task in evaluations)
        if not done or not (ended or self.config.compare.get(LIVE, False)):
            return None
        if ended and any(self._is_open(task, records) for task in self.tasks if task.prepares):
            return None  # an audit that the page shows
        task = self._compared(records)
        record = records.get(COMPARE)
        if record is None or record.exact != task.exact or record.state not in (FINISHED, FAILED):
            return task
        return None if record.state == FAILED or (self.folder / REPORT / PAGE).is_file() else task

    def _compared(self, records: Mapping[str, Record]) -> Task:
        # asked twice a second: made again where the records have changed
        state = sorted((key, record.state, record.attempts) for key, record in records.items() if key != COMPARE)
        if self._last_compared is None or self._last_compared[0] != state:
            self._last_compared = state, compare_task(self.config, self.tasks, records, self.folder)
        return self._last_compared[1]

    def _is_stuck(self, task: Task, records: Mapping[str, Record]) -> bool:
        """Whether a task has failed, or waits for one that has."""
        if records[task.key].state in (FAILED, FINISHED):
            return records[task.key].state == FAILED
        by_name = {one.name: one for one in self.tasks}
        if task.prepares:
            steps = [one for one in self.tasks if one.prepares]
            return any(records[one.key].state == FAILED for one in steps[: steps.index(task)])
        return any(self._is_stuck(by_name[name], records) for name in task.needs)

    def _is_open(self, task: Task, records: Mapping[str, Record]) -> bool:
        return records[task.key].state in (PENDING, RUNNING) and not self._is_stuck(task, records)

    def _waits(self, records: Mapping[str, Record]) -> bool:
        """Whether others do what this process waits for, or would have to take over."""
        if self.only is None and self.manifest.is_claimed(COMPARE):
            return True
        return any(self._is_mine(task) and self._is_open(task, records) for task in self.tasks)

    def _start(self, task: Task, claim: Held) -> None:
        import_libraries()
        child = Child(task, self.folder, self.slots.pop(0), claim)
        self._started[task.key] = time.monotonic()
        # from now on Ctrl-C leaves it as pending
        self.children.append(child)
        with self.manifest.changing() as records:
            record = records.setdefault(task.key, new_record(task))
            record.state, record.exact, record.lines = RUNNING, task.exact, []
            record.attempts += 1
            done = sum(records[one.key].state == FINISHED for one in self.tasks)
        total = len(self.tasks) + any(one.run for one in self.tasks)
        # those that run beside are counted, too
        say(f"[{done + len(self.children)}/{total}] {task.name}")
        child.start()

    def _wait(self, preemption: Preemption) -> None:
        """Until a task ends, or for a moment; hands on what a scheduler may have sent to the sweep alone."""
        sentinels = [child.process.sentinel for child in self.children]
        if sentinels:
            multiprocessing.connection.wait(sentinels, SECONDS_TO_NOTICE)
        else:
            time.sleep(SECONDS_TO_NOTICE)
        self._show()
        if preemption.asked:
            for child in self.children:
                # a training saves its step; what else there is goes on from its last unit
                child.process.terminate()
            for child in self.children:
                child.process.join()
        for child in [child for child in self.children if child.process.exitcode is not None]:
            self._ended(child, preemption)
        if preemption.asked and not self.children:
            raise PreemptedError("the sweep has stopped. The same command goes on with --resume=auto.")

    def _ended(self, child: Child, preemption: Preemption) -> None:
        code = child.process.exitcode
        self._show()
        self.children.remove(child)
        self.slots.append(child.slot)
        stopped = code == PREEMPTED or (preemption.asked and code != 0)
        # Ctrl-C reaches the child too, which may be the first to see it
        interrupted = code in (INTERRUPTED, -signal.SIGINT)
        state = FINISHED if code == 0 or child.missed() else PENDING if stopped or interrupted else FAILED
        # the claim goes last: until then nobody takes the task for one that a dead worker has left
        try:
            self._note(child, state)
        finally:
            child.claim.release()
        if stopped:
            raise PreemptedError(f"{child.task.name} has stopped. The same command goes on with --resume=auto.")
        if interrupted:
            raise KeyboardInterrupt
        seconds = time.monotonic() - self._started[child.task.key]
        if state == FAILED:
            lines = child.last_lines()
            say(f"{child.task.name} failed: it {lines[0]}. {lines[-1] if len(lines) > 1 and not self._shows else ''}")
        elif not self._shows:
            say(f"{child.task.name} finished in {seconds:.0f} s")

    def _note(self, child: Child, state: str) -> None:
        with self.manifest.changing() as records:
            record = records[child.task.key]
            record.state = state
            record.seconds = round(time.monotonic() - self._started[child.task.key], 1)
            record.lines = child.last_lines() if state == FAILED else []

    def _show(self) -> None:
        """Hands on what a task prints, where there is one at a time."""
        for child in self.children:
            # of tasks side by side only the comparison's, at its end
            if self._shows or (child.task.name == COMPARE and child.process.exitcode == 0):
                print(child.printed(), end="", flush=True)


def compare_task(config: SweepConfig, tasks: Sequence[Task], records: Mapping[str, Record], folder: Path) -> Task:
    """The comparison of the runs that are evaluated so far; the others are told with how they ended."""
    evaluations = [task for task in tasks if task.verb == "evaluate" and task.run]
    done = [task for task in evaluations if records[task.key].state == FINISHED]
    # one that was made again may differ, as on another GPU
    inputs = tuple(f"{task.key}-{records[task.key].attempts}" for task in done)
    missing = {task.run: _why(task, tasks, records) for task in evaluations if task not in done}
    settings = compare_settings(config, [str(folder / RUNS / task.run) for task in done], missing)
    return Task(COMPARE, COMPARE, REPORT, COMPARE, (), settings, inputs=inputs)


def compares(config: SweepConfig, standings: Sequence[Standing], records: Mapping[str, Record]) -> bool:
    """Whether a start by this plan would make the comparison anew."""
    tasks, report = [one.task for one in standings], records.get(COMPARE)
    if any(one.action == RUN or one.task.key not in records for one in standings) or report is None:
        return True
    folder = Path(config.output_dir)
    made = report.state == FINISHED and (folder / REPORT / PAGE).is_file()
    return not made or report.exact != compare_task(config, tasks, records, folder).exact


def _why(task: Task, tasks: Sequence[Task], records: Mapping[str, Record]) -> str:
    """Why a run is not evaluated: the last lines of what failed; "" where nothing has."""
    by_name = {one.name: one for one in tasks}
    for name in (*task.needs, task.name):
        record = records[by_name[name].key]
        if record.state == FAILED:
            # what a program printed is no configuration
            return "\n".join(
                shown(line).replace("${", "$ {") for line in (f"{name} {record.lines[0]}", *record.lines[1:])
            )
        if record.state != FINISHED and name != task.name and (why := _why(by_name[name], tasks, records)):
            return why
    return ""


def _expected_seconds(tasks: Sequence[Task], records: Mapping[str, Record]) -> dict[str, float]:
    """Arm -> how long a training of it has taken."""
    found: dict[str, float] = {}
    for task in tasks:
        record = records[task.key]
        if task.verb == "train" and record.state == FINISHED and record.seconds is not None:
            found[task.arm] = max(record.seconds, found.get(task.arm, 0.0))
    return found
