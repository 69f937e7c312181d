"""All that a comparison shows, in one structure: tables, page and terminal are made of it, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.report.audits import LabelledAudit
from experiments.report.comparison.entries import Entry, entries_of, find_reference, shortened
from experiments.report.comparison.examples.choose import Example, choose_examples
from experiments.report.comparison.leaderboard import Board, leaderboard, verdict
from experiments.report.comparison.panels import Draws, Panel, panel_of
from experiments.report.comparison.reading.evaluated import EvaluatedRun
from experiments.report.comparison.reading.runs import common_sets, set_names
from experiments.runs.progress import track

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
        verdict: what is best, by how much, and whether that decides.
        entries: methods and lone runs, in the order given.
        shared: what all their names begin and end with.
        board: the leaderboard.
        panels: one for each set; those that all entries have come first.
        curves: run -> metric -> step -> value.
        audits: of texts.
        examples: items.
        missing: name of a run that is not compared -> why: what it ended with, line by line, or "" where it is to come.
    """

    title: str
    note: str
    reference: str
    verdict: str
    entries: Sequence[Entry]
    shared: tuple[str, str]
    board: Board
    panels: Sequence[Panel]
    audits: Sequence[LabelledAudit]
    examples: Sequence[Example]
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def without(self) -> str:
        """A sentence about the runs that are not compared; "" where all are."""
        said = [f"{name} ({'failed' if why else 'not evaluated yet'})" for name, why in self.missing.items()]
        more = f" and {len(said) - NAMED} more" if len(said) > NAMED else ""
        total = len(self.runs) + len(said)
        return f"{len(said)} of {total} runs are not compared: {', '.join(said[:NAMED])}{more}." if said else ""

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
    missing: Mapping[str, str] | None = None,
) -> Comparison:
    """The comparison of evaluated runs.

    Args:
        runs: of `read_runs`.
        title, note: of the report.
        reference: name of a run or method; None for the first.
        audits: shown as they are.
        examples: how many items are shown.
        draws: of the bootstrap; more where the number of entries needs more.
        missing: runs that are not among these, see `Comparison`.

    Raises:
        InputError: an unknown reference, or a set that cannot be measured.
    """
    entries = entries_of(runs)
    own = find_reference(entries, reference, or_first=bool(missing))
    enough = max(draws.resamples, FOR_A_TIE * (len(entries) - 1))
    draws = Draws(enough, draws.seed, draws.debias)
    panels = [panel_of(name, entries, own.name, draws) for name in track(set_names(runs), "Sets")]
    board = leaderboard(panels, entries, own.name)
    return Comparison(
        title=title,
        note=note,
        reference=own.name,
        verdict=verdict(board),
        entries=entries,
        shared=shortened([entry.name for entry in entries])[0],
        board=board,
        panels=panels,
        audits=audits,
        examples=choose_examples(entries, common_sets(runs), examples, draws.seed),
        missing=missing or {},
    )
