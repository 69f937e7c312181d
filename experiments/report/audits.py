"""Reading `audit.json` files: what text alone gave away, before and after a filter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.intervals import Interval
from negatives.records import InputError

AUDIT_COLUMNS = (
    *("label", "negative_type", "positives", "negatives", "auc", "low", "high"),
    *("pairs", "paired_accuracy", "paired_low", "paired_high"),
)


@dataclass(frozen=True)
class Ngram:
    """An n-gram that one class uses more, and in how many positives and negatives it is."""

    ngram: str
    positives: int
    negatives: int


@dataclass(frozen=True)
class LabelledAudit:
    """An audit under the name that the page gives it; `types` are rows of `AUDIT_COLUMNS`."""

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
        whole = (self.label, "all", self.positives, self.negatives, *self.auc, self.pairs, *paired)
        return [dict(zip(AUDIT_COLUMNS, whole, strict=True)), *self.types]


def read_audits(paths: Mapping[str, str]) -> list[LabelledAudit]:
    """Label -> `audit.json`, read in this order.

    Raises:
        InputError: If a file is not what `itm audit` writes.
    """
    return [_read(label, Path(path)) for label, path in paths.items()]


def _read(label: str, path: Path) -> LabelledAudit:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        paired, paired_interval = content["paired_accuracy"], content["paired_accuracy_interval"]
        return LabelledAudit(
            label=label,
            positives=int(content["positives"]),
            negatives=int(content["negatives"]),
            auc=_interval(content["auc"], content["auc_interval"]),
            pairs=int(content["pairs"]),
            paired=None if paired is None or paired_interval is None else _interval(paired, paired_interval),
            types=[_type_row(label, content, name, entry) for name, entry in content["types"].items()],
            leaking={name: [_ngram(entry) for entry in content["leaking"][name]] for name in ("positive", "negative")},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"audits.{label} must be an audit.json of `itm audit`, {path} is not. Audit again.") from error


def _type_row(label: str, content: dict[str, Any], name: str, entry: dict[str, Any]) -> dict[str, Any]:
    paired = None if entry["paired_accuracy"] is None else float(entry["paired_accuracy"])
    sizes = (int(content["positives"]), int(entry["negatives"]))
    values = (label, name, *sizes, float(entry["auc"]), None, None, int(entry["pairs"]), paired, None, None)
    return dict(zip(AUDIT_COLUMNS, values, strict=True))


def _interval(value: Any, ends: Any) -> Interval:
    low, high = ends
    return Interval(float(value), float(low), float(high))


def _ngram(entry: dict[str, Any]) -> Ngram:
    return Ngram(str(entry["ngram"]), int(entry["positives"]), int(entry["negatives"]))
