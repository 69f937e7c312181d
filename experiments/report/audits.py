"""Reading `audit.json` files: what text alone gave away, before and after a filter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from negatives.tables import DAMAGED, InputError

AUDIT_COLUMNS = (
    *("label", "negative_type", "positives", "negatives", "auc", "low", "high"),
    *("pairs", "paired_accuracy", "paired_low", "paired_high"),
)
ALL = "all"
METRIC_NAMES = {"auc": "AUC of single texts", "paired_accuracy": "accuracy on pairs"}
"""Bias metric -> its name for people, the same on every page and card."""
Measured = tuple[float | None, float | None, float | None]


class Interval(NamedTuple):
    """A measured value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ngram:
    """An n-gram that one class uses more, and in how many positives and negatives it is."""

    ngram: str
    positives: int
    negatives: int


@dataclass(frozen=True)
class LabelledAudit:
    """The headline judge's audit under the name that the page gives it; `types` are rows of `AUDIT_COLUMNS`."""

    label: str
    positives: int
    negatives: int
    auc: Interval
    pairs: int
    paired: Interval | None
    types: list[dict[str, Any]]
    leaking: dict[str, list[Ngram]]

    def rows(self) -> list[dict[str, Any]]:
        """The audit in the columns of `AUDIT_COLUMNS`: all negatives first, then each type."""
        paired = self.paired or (None, None, None)
        whole = (self.label, ALL, self.positives, self.negatives, *self.auc, self.pairs, *paired)
        return [dict(zip(AUDIT_COLUMNS, whole, strict=True)), *self.types]


def read_audits(paths: Mapping[str, str]) -> list[LabelledAudit]:
    """Label -> `audit.json`, read in this order; of a file with several parts the last counts: what was kept.

    Raises:
        InputError: If a file is not what `itm audit` writes.
    """
    return [_read(label, Path(path)) for label, path in paths.items()]


def _read(label: str, path: Path) -> LabelledAudit:
    try:
        # what was kept, where a filter ran: "kept" follows "all"
        part = json.loads(path.read_text(encoding="utf-8"))["parts"][-1]
        found = {
            (estimate["estimand"], estimate["negative_type"]): estimate  # the file's name of a bias metric
            for estimate in part["estimates"]
            if estimate["judge"] == part["judge"]
        }
        # of the AUC, which every type has; paired accuracy needs pairs
        types = [name for metric, name in found if metric == "auc" and name != ALL]
        auc, paired = (_measured(found.get((metric, ALL))) for metric in ("auc", "paired_accuracy"))
        return LabelledAudit(
            label=label,
            positives=int(part["positives"]),
            negatives=int(part["negatives"]),
            auc=Interval(*_all(auc)),
            pairs=int(part["pairs"]),
            # audits without pairs have no paired accuracy
            paired=None if paired[0] is None else Interval(*_all(paired)),
            types=[_type_row(label, name, found) for name in types],
            leaking={name: [_ngram(entry) for entry in part["ngrams"][name]] for name in ("positive", "negative")},
        )
    except DAMAGED as error:
        raise InputError(f"audits.{label} must be an audit.json of `itm audit`, {path} is not. Audit again.") from error


def _type_row(label: str, negative_type: str, found: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    auc, paired = found["auc", negative_type], found.get(("paired_accuracy", negative_type))
    pairs = 0 if paired is None else int(paired["count"])
    values = (label, str(negative_type), None, None, *_measured(auc), pairs, *_measured(paired))
    return dict(zip(AUDIT_COLUMNS, values, strict=True))


def _measured(entry: Mapping[str, Any] | None) -> Measured:
    """Value and ends of the interval; None what was not measured."""
    if entry is None:
        return None, None, None
    value, low, high = (None if entry[key] is None else float(entry[key]) for key in ("value", "low", "high"))
    return value, low, high


def _all(measured: Measured) -> tuple[float, float, float]:
    value, low, high = measured
    if value is None:
        raise ValueError("an audit without its AUC")
    # no interval where no resample of the images could be measured
    return value, value if low is None else low, value if high is None else high


def _ngram(entry: dict[str, Any]) -> Ngram:
    return Ngram(str(entry["ngram"]), int(entry["positives"]), int(entry["negatives"]))
