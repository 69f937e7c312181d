"""Lightning's logger for the record of a training's metrics; `metric_record` says what the record holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from experiments.runs.metric_record import MetricRecord


class MetricLog(Logger):
    """Adds what Lightning logs to the record; Lightning's CSVLogger rewrites its file whenever a metric is new.

    Args:
        path: of the record; it and its folder are made when the first metric is logged.
    """

    # abstract in Lightning's Logger, whose folders are named by them; this log has one file
    name = version = None

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self._record = MetricRecord(path)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds a line and waits until it is on the disk."""
        # Lightning puts the epoch among the metrics of every step
        values = {key: value if math.isfinite(value) else None for key, value in metrics.items() if key != "epoch"}
        line = json.dumps({"step": step, "epoch": metrics.get("epoch"), "metrics": values}, allow_nan=False)
        self._record.add(line)

    def log_hyperparams(self, *_: Any) -> None:
        """Nothing: the run's settings are in its `config.yaml`."""
