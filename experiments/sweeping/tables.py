"""What `itm sweep` prints of a sweep without running it: its plan, and what became of its tasks."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.runs.progress import say, shown
from experiments.sweeping.manifest import COMPARE, FINISHED, PENDING, RUNNING, Manifest, Record
from experiments.sweeping.plan import RESULTS
from experiments.sweeping.standing import GONE, KEEP, RUN, Standing

WORDS = {KEEP: "keep", RUN: "run", GONE: "removed by hand, not needed"}


def print_plan(standings: Sequence[Standing], orphans: Sequence[Record], title: str, *, compares: bool) -> None:
    """What would run and why, what is kept, and what nobody asks for any more; `compares`: also the report."""
    table = _table(title, "task", "what happens", "index")
    runs = list(dict.fromkeys(one.task.run for one in standings if one.task.run))
    for one in standings:
        words = WORDS[one.action]
        if one.action == RUN and one.why not in ("", PENDING):
            words = f"{words} (was {one.why})" if one.why in ("failed", RUNNING) else f"{words} ({one.why})"
        if one.action == KEEP and one.record is not None and one.record.folder != one.task.folder:
            words = f"{words}, moves from {one.record.folder}"
        index = str(runs.index(one.task.run)) if one.task.verb == "train" and one.task.run else ""
        table.add_row(*map(_cell, (one.task.name, words, index)))
    if any(one.task.run for one in standings):
        table.add_row(*map(_cell, (COMPARE, WORDS[RUN if compares else KEEP], "")))
    Console().print(table)
    counts = {action: sum(one.action == action for one in standings) for action in WORDS}
    said = [f"{count} {word}" for action, word in WORDS.items() if (count := counts[action])]
    say(", ".join([*said, *([f"{len(orphans)} orphaned"] if orphans else [])]) or "nothing to do")
    for record in orphans:
        say(f"orphan: {record.folder} ({record.name}, {record.state}); `--prune={record.folder}` removes it")


def print_status(names: Sequence[str], manifest: Manifest, title: str) -> None:
    """What is finished, running, failed, killed, removed and pending.

    Args:
        names: of the tasks, but the comparison.
        manifest: of the sweep.
        title: of the table.
    """
    # of two records of one name the wanted one: the other stood there before a setting changed
    every = sorted(manifest.read().values(), key=lambda record: record.wanted)
    records = {record.name: record for record in every if record.wanted or record.name in names}
    table = _table(title, "task", "state", "seconds")
    ends = [COMPARE] if any(name.startswith("evaluate/") for name in names) else []
    for name in (*names, *ends):
        record = records.get(name)
        seconds = "" if record is None or record.seconds is None else str(record.seconds)
        table.add_row(*map(_cell, (name, PENDING if record is None else _state(record, manifest), seconds)))
    Console().print(table)
    if others := sorted(records.keys() - {*names, COMPARE}):
        say(f"{len(others)} tasks of the last start are not in this file, such as {others[0]}: see --plan.")
    for record in records.values():
        if record.lines:
            say(f"{record.name} {record.state}: {record.lines[-1]}")


def _state(record: Record, manifest: Manifest) -> str:
    result = RESULTS.get(record.verb, "") if record.name != COMPARE else ""
    if record.state == FINISHED and not (manifest.folder / record.folder / result).exists():
        return "removed"
    return _running(record, manifest)


def _running(record: Record, manifest: Manifest) -> str:
    """A task's state; of one that nobody works on any more, that it was killed."""
    return "killed" if record.state == RUNNING and not manifest.is_claimed(record.key) else record.state


def _table(title: str, *headings: str) -> Table:
    table = Table(title=Text(shown(title)))
    for heading in headings:
        table.add_column(heading, justify="right" if heading in ("seconds", "index") else "left", overflow="fold")
    return table


def _cell(text: str) -> Text:
    return Text(shown(text))
