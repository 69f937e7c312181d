"""The record of a training's metrics: lines that are only added, and what a kill has torn is never a value."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from experiments.report.comparison.reading.curves import read_curves
from experiments.runs.metric_log import MetricLog
from negatives.tables.captions import InputError


def test_a_line_is_one_row_of_json_and_is_read_as_it_was_logged(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "logs/metrics.jsonl")
    log.log_metrics({"train/loss/value": 0.1 + 0.2, "train/optim/lr": 1e-05, "epoch": 0}, step=9)
    log.log_metrics({"val/mean/accuracy": 1, "epoch": 0}, step=9)
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {"step": 9, "epoch": 0, "metrics": {"train/loss/value": 0.1 + 0.2, "train/optim/lr": 1e-05}},
        {"step": 9, "epoch": 0, "metrics": {"val/mean/accuracy": 1}},
    ]
    assert read_curves(tmp_path / "logs") == {
        "train/loss/value": {9: 0.1 + 0.2},
        "train/optim/lr": {9: 1e-05},
        "val/mean/accuracy": {9: 1.0},
    }


def test_what_is_logged_again_replaces_the_old_and_takes_no_line_away(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step, value in enumerate([3.0, 2.0, 1.0]):
        MetricLog(path).log_metrics({"train/loss/value": value}, step=step)
    before = path.read_bytes()
    MetricLog(path).log_metrics({"train/loss/value": 1.5, "train/new/value": 1.0}, step=1)
    assert path.read_bytes().startswith(before)
    assert read_curves(tmp_path) == {"train/loss/value": {0: 3.0, 1: 1.5, 2: 1.0}, "train/new/value": {1: 1.0}}


def test_a_torn_line_is_no_value_and_the_next_one_takes_its_place(tmp_path: Path) -> None:
    """Wherever it was torn; also just before its end, where it is whole JSON."""
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path)
    log.log_metrics({"train/loss/value": 0.5}, step=0)
    first = path.read_bytes()
    log.log_metrics({"train/loss/value": 0.7}, step=1)
    both = path.read_bytes()
    assert len(both) == 2 * len(first)
    for end in range(1, len(both)):
        path.write_bytes(both[:end])
        kept = end >= len(first)
        assert read_curves(tmp_path) == ({"train/loss/value": {0: 0.5}} if kept else {})
        MetricLog(path).log_metrics({"train/loss/value": 0.7}, step=1)
        assert path.read_bytes() == (both if kept else both[len(first) :])


def test_a_number_that_is_not_finite_is_null_and_no_point_of_a_curve(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricLog(path).log_metrics({"a": math.nan, "b": -math.inf, "c": 1.0}, step=0)
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["metrics"] == {"a": None, "b": None, "c": 1.0}
    assert read_curves(tmp_path) == {"c": {0: 1.0}}


def test_a_run_of_an_older_version_that_goes_on_has_both_records(tmp_path: Path) -> None:
    old = tmp_path / "version_0" / "metrics.csv"
    old.parent.mkdir()
    old.write_text("epoch,step,train/loss/value\r\n0,10,3.0\r\n0,20,2.0\r\n0,30,1.2")
    MetricLog(tmp_path / "metrics.jsonl").log_metrics({"train/loss/value": 1.5}, step=20)
    assert read_curves(tmp_path) == {"train/loss/value": {10: 3.0, 20: 1.5}}


@pytest.mark.parametrize("line", ["0.5", "{}", '{"step": null, "metrics": {"a": 1}}', '{"step": 0, "metrics": 1}', "{"])
def test_a_whole_line_that_is_no_row_is_refused_by_its_number(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 0, "epoch": 0, "metrics": {{}}}}\n{line}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2, must be a step's metrics, and is not"):
        read_curves(tmp_path)
