"""What the files around a run say for its model card: tables, certificate, evaluations and provenance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from experiments.config.data_schemas import DataConfig
from experiments.report.audits import METRIC_NAMES
from experiments.report.comparison.reading.evaluated import SUMMARY_FILE
from experiments.report.csv_files import read_csv
from experiments.runs.outputs import CONFIG_FILE, PROVENANCE_FILE
from lightning_modules import read_plain_yaml
from negatives.tables import DAMAGED, InputError

MEASURED = ("accuracy", "low", "high", "blind_accuracy", "blind_low", "blind_high")


@dataclass(frozen=True)
class TableSource:
    """A table that was trained on; `rows` is None where the file is gone."""

    role: str
    name: str
    rows: int | None


@dataclass(frozen=True)
class Evaluation:
    """The rows of one `metrics.csv`; `score` is None where it was made with the score that the run has by itself."""

    name: str
    rows: Sequence[Mapping[str, str]]
    score: str | None = None


@dataclass(frozen=True)
class Certified:
    """A filter's certificate.

    Attributes:
        rule: of the filter.
        unit: what was filtered.
        balanced: whether no probe missed.
        misses: one line for each that did.
        kept: "pairs" and "texts" -> how many, of how many.
        probes: cells of a table, a row for each probe over all negative types; of older certificates.
        lessons: cells of a table, a row for each blind learner and group of pairs.
    """

    rule: str
    unit: str
    balanced: bool
    misses: Sequence[str]
    kept: Mapping[str, str]
    probes: Sequence[Mapping[str, str]]
    lessons: Sequence[Mapping[str, str]] = ()


def table_sources(data: DataConfig) -> Iterator[TableSource]:
    """The tables that were trained on, with their folder's name."""
    for role in ("captions", "negatives", "neighbours"):
        paths = getattr(data, role)
        for path in paths if isinstance(paths, list) else [paths] if paths else []:
            # a card is published: no folders of the machine
            yield TableSource(role, "/".join(Path(path).parts[-2:]), _rows(Path(path)))


def _rows(path: Path) -> int | None:
    if not path.is_file():  # also what is no file, such as a device, which has no end
        return None
    try:
        if path.suffix == ".parquet":
            # the footer says it, without reading rows
            return int(pq.read_metadata(path).num_rows)
        with path.open("rb") as lines:
            return sum(bool(line.strip()) for line in lines)
    except (OSError, ValueError):
        return None


def find_certificate(path: Path) -> Certified | None:
    """The certificate in a file; None where there is no file.

    Raises:
        InputError: the file is not as `itm filter` writes it.
    """
    if not path.is_file():
        return None
    try:
        return _certified(json.loads(path.read_text(encoding="utf-8")))
    except DAMAGED as error:
        raise InputError(f"{path} is no certificate of `itm filter` ({error!r}); filter again, or remove it.") from None


def _certified(content: Mapping[str, Any]) -> Certified:
    # "false" as text would be true
    if not isinstance(content["balanced"], bool):
        raise TypeError(f"balanced must be true or false, got {content['balanced']!r}")
    # the file calls a bias metric an estimand: its name from the first version
    random = {(row["judge"], row["estimand"]): row["value"] for row in _over_all(content.get("control", []))}
    return Certified(
        rule=str(content["rule"]),
        unit=str(content["unit"]),
        balanced=content["balanced"],
        misses=[str(miss) for miss in content["misses"]],
        kept={
            name: f"{int(kept['kept'])} of {int(kept['of'])}"
            for name, kept in content["retention"].items()
            if name in ("pairs", "texts")
        },
        probes=[
            {
                "judge": str(row["judge"]),
                "estimand": METRIC_NAMES.get(row["estimand"], str(row["estimand"])),
                "value": decimal(row["value"]),
                # an end may be missing, where nothing could be resampled
                "interval": f"{decimal(row['low'])} – {decimal(row['high'])}",
                "random": decimal(random.get((row["judge"], row["estimand"]))),
            }
            # a certificate of an older version has probes of what was kept alone
            for row in _over_all(content.get("estimates", []))
        ],
        lessons=[
            {
                "learner": f"{row['judge']}, of {row['reads']}s",
                "group": str(row["group"]),
                "value": decimal(row["value"]),
                "interval": f"{decimal(row['low'])} – {decimal(row['high'])}",
                "random": decimal(row["control"]),
            }
            for row in content.get("teaching", [])
        ],
    )


def _over_all(estimates: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in estimates if row["negative_type"] == "all"]


def find_evaluations(run: Path, own_score: str | None, step: int | None = None) -> Iterator[Evaluation]:
    """The evaluations of some weights in a run's folder.

    Args:
        run: the folder.
        own_score: which of the backbone's scores the run has; None where the backbone has one only.
        step: after which the weights were kept; None for the last ones.

    Raises:
        InputError: one is not as `itm evaluate` writes it.
    """
    # a run has one evaluation of its own, and others with another score in folders beside it
    for path in sorted(run.glob("evaluation*/metrics.csv")):
        if _step_of(path.with_name(SUMMARY_FILE)) != step:
            continue
        try:
            rows = [{**row, **{name: decimal(row[name]) for name in MEASURED}} for row in _accuracies(read_csv(path))]
            fields = [(row["set"], row["negative_type"], row["pairs"]) for row in rows]
        except DAMAGED as error:
            raise InputError(f"{path} is no table of `itm evaluate` ({error!r}); evaluate again.") from None
        # a table without rows has nothing to show
        if fields:
            score = _score_of(path.with_name(CONFIG_FILE)) if own_score else None
            yield Evaluation(path.parent.name, rows, score if score != own_score else None)


def _accuracies(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Accuracy by negative type; rows of several metrics are brought into the columns of older versions."""
    names = {"negative_type": "group", "accuracy": "value", "blind_accuracy": "blind_value", "pairs": "count"}
    if not rows or "metric" not in rows[0]:
        return rows
    return [
        {**row, **{name: row[now] for name, now in names.items()}}
        for row in rows
        # over all items alike there was no row
        if row["metric"] == "accuracy" and row["group"]
    ]


def _step_of(summary: Path) -> int | None:
    """The step whose weights were evaluated; None for the last ones, as older versions evaluated them alone."""
    if not summary.is_file():
        return None
    try:
        step = json.loads(summary.read_text(encoding="utf-8")).get("checkpoint", {}).get("step")
        return None if step is None else int(step)
    except DAMAGED as error:
        raise InputError(f"{summary} is no summary of `itm evaluate` ({error!r}); evaluate again.") from None


def _score_of(config: Path) -> str | None:
    """The score that an evaluation's configuration asks for; None for the run's own."""
    try:
        score: str | None = read_plain_yaml(config)["score"]
    except Exception as error:  # whatever a damaged file makes the parser stumble over
        reason = " ".join(str(error).split())
        raise InputError(f"{config} does not say by which score it is ({reason}); evaluate again.") from None
    return score


def find_provenance(run: Path) -> dict[str, Any]:
    """How the run came to be; empty where the file is gone.

    Raises:
        InputError: the file is not as `itm train` writes it.
    """
    path = run / PROVENANCE_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: dict(content.get(name) or {}) for name in ("git", "packages")}
    except DAMAGED as error:
        raise InputError(f"{path} cannot be read ({error!r}); mend or remove it.") from None


def decimal(value: Any) -> str:
    """A measured value as the card writes it.

    >>> decimal(0.51234), decimal("0.5"), decimal(None)
    ('0.512', '0.500', '–')
    """
    return "–" if value is None else f"{float(value):.3f}"
