"""The leaderboard: the mean over the benchmarks' main metrics, and whether the images decide who is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.benchmarks import Resampled, averaged, ends
from experiments.report.comparison.entries import Entry
from experiments.report.comparison.panels import BEST, REFERENCE, Panel, Row, best_of, compared

BOARD_COLUMNS = (
    *(
        "run",
        "seeds",
        "lowest_seed",
        "highest_seed",
        "sets",
        "value",
        "low",
        "high",
        "blind_value",
        "blind_low",
        "blind_high",
    ),
    *("half_value", "debiased_value", "debiased_low", "debiased_high"),
    *("to_best", "to_best_low", "to_best_high", "p_holm", "tied_with"),
)


@dataclass(frozen=True)
class Place:
    """A line of the leaderboard.

    Attributes:
        run: name of the entry.
        short: its name without what all names share.
        seeds: how many runs it is the mean of.
        lowest, highest: the mean over the sets of the worst and of the best of these.
        value, low, high: mean over the sets' main metrics, with its interval.
        blind: the same three on noise; None where they are not known for every set.
        half_value: the mean on halves of the images; None where not every set has these.
        debiased: there without the blind score, with its interval; None as well.
        to_best: its row of `DIFFERENCE_COLUMNS` against the best; None for the best itself.
        tied_with: the entries that it is tied with: the best, or for the best all that Holm's correction leaves open.
        values: set -> value of the set's main metric.
    """

    run: str
    short: str
    seeds: int
    lowest: float
    highest: float
    value: float
    low: float
    high: float
    blind: tuple[float, float, float] | None
    half_value: float | None
    debiased: tuple[float, float, float] | None
    to_best: Row | None
    tied_with: tuple[str, ...]
    values: Mapping[str, float | None]

    def row(self) -> Row:
        """In the columns of `BOARD_COLUMNS`."""
        difference = self.to_best or {}
        values = (
            *(
                self.run,
                self.seeds,
                self.lowest,
                self.highest,
                len(self.values),
                self.value,
                self.low,
                self.high,
                *(self.blind or (None,) * 3),
            ),
            *(self.half_value, *(self.debiased or (None,) * 3)),
            *(difference.get(name) for name in ("difference", "low", "high", "p_holm")),
            "; ".join(self.tied_with),
        )
        # an empty cell is what is not known, in all tables
        known = (None if isinstance(value, float) and np.isnan(value) else value for value in values)
        return dict(zip(BOARD_COLUMNS, known, strict=True))


@dataclass(frozen=True)
class Board:
    """The leaderboard, best first.

    Attributes:
        sets: those that every entry has, which the means are over.
        places: one for each entry.
        differences: of the means, rows of `DIFFERENCE_COLUMNS` with an empty set.
    """

    sets: tuple[str, ...]
    places: Sequence[Place]
    differences: Sequence[Row]


def leaderboard(panels: Sequence[Panel], entries: Sequence[Entry], reference: str) -> Board:
    """The entries by their mean over the sets that all of them have."""
    shared = [panel for panel in panels if all(entry.name in panel.mains for entry in entries)]
    seen = {entry.name: averaged([panel.mains[entry.name].seen for panel in shared]) for entry in entries}
    best = best_of(seen)
    to_best = {row["run"]: row for row in compared(seen, best, BEST)}
    tied = tuple(run for run, row in to_best.items() if row["tied"])
    about = {"set": "", "metric": MEAN_OF_MAINS, "group": ""}
    rows = [{**row, **about} for row in [*compared(seen, reference, REFERENCE), *to_best.values()]]
    places = []
    for entry in entries:
        own = [panel.mains[entry.name] for panel in shared]
        mains = [panel.entries[entry.name][panel.main] for panel in shared]
        seeds = np.mean([one.seeds for one in own], axis=0)
        with_best = (best,) if entry.name in tied else ()
        places.append(
            Place(
                *(entry.name, entry.short, len(entry.runs), float(seeds.min()), float(seeds.max())),
                *_triple(seen[entry.name]),
                blind=_whole_mean([one.blind for one in own]),
                half_value=_mean_of([row["half_value"] for row in mains]),
                debiased=_whole_mean([one.debiased for one in own]),
                to_best=to_best.get(entry.name),
                tied_with=tied if entry.name == best else with_best,
                values={panel.name: row["value"] for panel, row in zip(shared, mains, strict=True)},
            )
        )
    # the best stands first, also where another one has the same value; what has no value stands last
    places.sort(key=lambda place: (place.run != best, np.isnan(place.value), -place.value))
    return Board(tuple(panel.name for panel in shared), places, rows)


MEAN_OF_MAINS = "mean_of_main_metrics"


def verdict(board: Board) -> str:
    """The first sentence of a report: what is best, by how much, and whether that decides."""
    best = board.places[0]
    about = _about(board)
    if len(board.places) == 1:
        return f"{best.run} reaches {best.value:.3f} ({about}); there is nothing to compare it with."
    second = board.places[1]
    assert second.to_best is not None
    # turned round: how far the best is above the second; 0.0 - 0.0 has no sign
    lead, low, high = (0.0 - _float(second.to_best[name]) for name in ("difference", "high", "low"))
    if np.isnan(low):
        interval = "by one image or prompt alone, so that there is no interval"
    else:
        interval = f"95 % interval {low:.3f} to {high:.3f}, p = {_float(second.to_best['p_holm']):.2g} after Holm"
    by = f"{lead:.3f} above {second.run} ({interval})"
    if not best.tied_with:
        decides = f"{best.run} is best: {best.value:.3f} ({about}), {by}. This decides"
        # intervals are over images: what training again would give is not in them
        if max(best.seeds, second.seeds) > 1 and best.lowest <= second.highest:
            return f"{decides} for the means, but seeds overlap: {best.lowest:.3f} to {second.highest:.3f}."
        return f"{decides}."
    others = f"{len(best.tied_with)} others" if len(best.tied_with) > 1 else best.tied_with[0]
    return (
        f"{best.run} has the highest value, {best.value:.3f} ({about}), {by}. This does not decide: it is tied with "
        f"{others}."
    )


def _about(board: Board) -> str:
    if len(board.sets) == 1:
        return f"on {board.sets[0]}"
    return f"mean over {len(board.sets)} sets"


def _whole_mean(values: Sequence[Resampled | None]) -> tuple[float, float, float] | None:
    """The mean with its interval; None where it is not known for every set."""
    known = [one for one in values if one is not None]
    return _triple(averaged(known)) if len(known) == len(values) else None


def _triple(found: Resampled) -> tuple[float, float, float]:
    value, low, high = (float(part[0]) for part in ends(found))
    return value, low, high


def _mean_of(values: Sequence[Any]) -> float | None:
    return None if any(value is None for value in values) else float(np.mean(values))


def _float(value: float | None) -> float:
    return float("nan") if value is None else value
