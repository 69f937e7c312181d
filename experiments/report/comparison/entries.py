"""What is compared: methods, each with the runs that differ in their seed alone, and runs that stand alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report.comparison.reading.evaluated import EvaluatedRun
from negatives.tables import InputError, nearest_name

# seed=1, seed_1 or seed1 as a word of its own; in seed=0.5 there is no whole number
SEED = re.compile(r"(?:^|[-_. ])seed[=_-]?\d+(?![\w.])")
WORDS = re.compile(r"[^-_/ ]*[-_/ ]+|[^-_/ ]+")


@dataclass(frozen=True)
class Entry:
    """A line of a leaderboard.

    Attributes:
        name: of the method, or of the run that stands alone.
        short: its name without what all names share.
        runs: one for each seed.
    """

    name: str
    short: str
    runs: tuple[EvaluatedRun, ...]

    @property
    def sets(self) -> list[str]:
        """The sets that all its runs have."""
        return [name for name in self.runs[0].sets if all(name in run.sets for run in self.runs)]

    def is_called(self, name: str) -> bool:
        """Whether it, or a run of it, has this name."""
        return name in (self.name, *(run.name for run in self.runs))


def entries_of(runs: Sequence[EvaluatedRun]) -> list[Entry]:
    """The methods and lone runs, in the order in which they are given."""
    named: dict[str, list[EvaluatedRun]] = {}
    own = {run.name for run in runs}
    for run in runs:
        method = method_of(run.name)
        # a run that is called as the method is no seed of it
        is_seed = method != run.name and method not in own
        named.setdefault(method if is_seed else run.name, []).append(run)
    # of a single seed there is nothing to pool, and its name says which it was
    names = [name if len(found) > 1 else found[0].name for name, found in named.items()]
    shorts = shortened(names)[1]
    return [Entry(name, short, tuple(found)) for name, short, found in zip(names, shorts, named.values(), strict=True)]


def method_of(name: str) -> str:
    """A run's name without its seed.

    >>> method_of("ce_clip-seed=2"), method_of("lr=0.1-seed=0-long"), method_of("clip_seed1"), method_of("seed=0")
    ('ce_clip', 'lr=0.1-long', 'clip', 'all')
    """
    return SEED.sub("", name).lstrip("-_. ") or "all"


def find_reference(entries: Sequence[Entry], name: str | None, *, incomplete: bool = False) -> Entry:
    """What the others are compared with: the method, or that of the run, called `name`; the first where it is None.

    Args:
        entries: at least one.
        name: of the reference.
        incomplete: whether there are runs that are not among the entries. Then another seed of the reference stands in
            for it, or else the first entry.

    Raises:
        InputError: If there is none of this name, and nothing may stand in for it.
    """
    if name is None:
        return entries[0]
    found = [entry for entry in entries if entry.is_called(name)]
    if not found and incomplete:
        found = [entry for entry in entries if method_of(entry.runs[0].name) == method_of(name)] or [entries[0]]
    if not found:
        names = [run.name for entry in entries for run in entry.runs]
        rule = f"`reference` must be the name of a compared run ({', '.join(names)})"
        raise InputError(f"{rule}, got {name!r}.{nearest_name(name, names) or ' Change it.'}")
    return found[0]


def shortened(names: Sequence[str]) -> tuple[tuple[str, str], list[str]]:
    """The words that all names begin and end with, and the names without them.

    >>> shortened(["clip-lr=1-long", "clip-lr=2-long"])
    (('clip-', '-long'), ['lr=1', 'lr=2'])
    >>> shortened(["clip", "clip-lora"]), shortened(["clip"])
    ((('', ''), ['clip', 'clip-lora']), (('', ''), ['clip']))
    """
    if len(names) < 2:
        return ("", ""), list(names)
    words = [WORDS.findall(name) for name in names]
    # something has to be left of the shortest name
    most = min(map(len, words)) - 1
    start = 0
    while start < most and len({own[start] for own in words}) == 1:
        start += 1
    end = 0
    while end < most - start and len({own[-1 - end] for own in words}) == 1:
        end += 1
    first, last = "".join(words[0][:start]), "".join(words[0][len(words[0]) - end :])
    # the sign that joins a shared end to what is left belongs to neither
    joint = re.search(r"[-_/ ]+$", words[0][-1 - end]) if end else None
    if end and (joint is None or any(not own[-1 - end].endswith(joint[0]) for own in words)):
        last, end, joint = "", 0, None
    shorts = ["".join(own[start : len(own) - end]).removesuffix(joint[0] if joint else "") for own in words]
    if not all(shorts) or max(Counter(shorts).values()) > 1:
        return ("", ""), list(names)
    return (first, (joint[0] if joint else "") + last), shorts
