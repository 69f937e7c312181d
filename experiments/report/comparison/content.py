"""All that a comparison shows, in one structure: tables, page and terminal are made of it, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.report.audits import LabelledAudit
from experiments.report.comparison.entries import Entry, entries_of, find_reference, shortened
from experiments.report.comparison.examples.choose import Example, choose_examples
from experiments.report.comparison.leaderboard import Board, leaderboard, verdict
from experiments.report.comparison.panels import Draws, Panel, panel_of
from experiments.report.comparison.reading.evaluated import EvaluatedRun
from experiments.report.comparison.reading.runs import common_sets, set_names
from experiments.runs.progress import shown, track

CURVE_COLUMNS = ("run", "step", "metric", "value")
NAMED = 3
"""Names in a sentence; of others their number."""
FOR_A_TIE = 40
"""Resamples for each comparison under Holm's correction, so that its least p-value may reach 0.05."""


@dataclass(frozen=True)
class Comparison:
    """All that a report shows.

    Attributes:
        title, note: as configured.
        reference: name of the entry that the others are compared with.
        wanted: name that was configured for it; None where it was not.
        verdict: what is best, by how much, and whether that decides.
        entries: methods and lone runs, in the order given.
        shared: what all their names begin and end with.
        board: the leaderboard.
        panels: one for each set; those that all entries have come first.
        curves: run -> metric -> step -> value.
        audits: of texts.
        examples: items.
        missing: name of a run that is not compared -> the last lines of what failed; "" where it is not evaluated yet.
    """

    title: str
    note: str
    reference: str
    wanted: str | None
    verdict: str
    entries: Sequence[Entry]
    shared: tuple[str, str]
    board: Board
    panels: Sequence[Panel]
    audits: Sequence[LabelledAudit]
    examples: Sequence[Example]
    missing: Mapping[str, str]

    @property
    def runs(self) -> list[EvaluatedRun]:
        """The runs of all entries."""
        return [run for entry in self.entries for run in entry.runs]

    @property
    def short(self) -> Mapping[str, str]:
        """Entry -> its name without what all names share, in the order of the leaderboard."""
        return {place.run: place.short for place in self.board.places}

    @property
    def unknown(self) -> str:
        """A sentence about the runs of which it is not known what they were trained on; "" where there is none."""
        names = list(dict.fromkeys(name for panel in self.panels for name in panel.unknown))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        shown = f"{', '.join(names[:NAMED])}{more}"
        return f"It is not known whether {shown} saw images of these sets in training." if names else ""

    @property
    def failed(self) -> Mapping[str, str]:
        """Run that is not compared since something failed -> the last lines of that."""
        return {name: why for name, why in self.missing.items() if why.strip()}

    @property
    def not_compared(self) -> str:
        """A sentence about the runs that are missing; "" where none is."""
        if not self.missing:
            return ""
        waiting = [name for name in self.missing if name not in self.failed]
        # those that failed are all named: what they said stands below
        parts = [f"{name} (failed)" for name in self.failed]
        parts += [f"{name} (not evaluated yet)" for name in waiting[:NAMED]]
        more = f" and {len(waiting) - NAMED} more (not evaluated yet)" if len(waiting) > NAMED else ""
        number, every = len(self.missing), len(self.missing) + len(self.runs)
        verb = "is" if number == 1 else "are"
        return f"{number} of {every} runs {verb} not compared: {', '.join(parts)}{more}."

    @property
    def stand_in(self) -> str:
        """A sentence about the entry that stands in for a missing reference; "" where it is there."""
        own = next(entry for entry in self.entries if entry.name == self.reference)
        if self.wanted is None or own.is_called(self.wanted):
            return ""
        return (
            f"The reference {shown(self.wanted)} is not among the compared runs: differences are to {self.reference}."
        )

    @property
    def curves(self) -> list[dict[str, Any]]:
        """Every logged value, in the columns of `CURVE_COLUMNS`."""
        return [
            dict(zip(CURVE_COLUMNS, (run.name, step, metric, value), strict=True))
            for run in self.runs
            for metric, points in run.curves.items()
            for step, value in points.items()
        ]


def compared_runs(
    runs: Sequence[EvaluatedRun],
    *,
    title: str,
    note: str,
    reference: str | None,
    audits: Sequence[LabelledAudit],
    examples: int,
    draws: Draws,
    missing: Mapping[str, str],
) -> Comparison:
    """The comparison of evaluated runs.

    Args:
        runs: of `read_runs`.
        title, note: of the report.
        reference: name of a run or method; None for the first.
        audits: shown as they are.
        examples: how many items are shown.
        draws: of the bootstrap; more where the number of entries needs more.
        missing: name of a run that is not among `runs` -> why; "" where it is not evaluated yet.

    Raises:
        InputError: an unknown reference, or a set that cannot be measured.
    """
    entries = entries_of(runs)
    own = find_reference(entries, reference, incomplete=bool(missing))
    enough = max(draws.resamples, FOR_A_TIE * (len(entries) - 1))
    draws = Draws(enough, draws.seed, draws.debias)
    panels = [panel_of(name, entries, own.name, draws) for name in track(set_names(runs), "Sets")]
    board = leaderboard(panels, entries, own.name)
    return Comparison(
        title=title,
        note=note,
        reference=own.name,
        wanted=reference,
        verdict=verdict(board),
        entries=entries,
        shared=shortened([entry.name for entry in entries])[0],
        board=board,
        panels=panels,
        audits=audits,
        examples=choose_examples(entries, common_sets(runs), examples, draws.seed),
        # what a failed program printed
        missing={shown(name): shown(why) for name, why in missing.items()},
    )
