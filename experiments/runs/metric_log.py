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
        prefix: of the names of the metrics that the record holds; "" for all that have none of `others`.
        others: prefixes that have a record of their own.
    """

    # abstract in Lightning's Logger, whose folders are named by them; this log has one file
    name = version = None

    def __init__(self, path: Path, prefix: str = "", others: tuple[str, ...] = ()):
        super().__init__()
        self.path, self.prefix, self.others = path, prefix, others
        self._record = MetricRecord(path)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds a line and waits until it is on the disk."""
        # Lightning puts the epoch among the metrics of every step
        own = {key: value for key, value in metrics.items() if key != "epoch" and self._is_own(key)}
        if not own:
            return
        values = {key: value if math.isfinite(value) else None for key, value in own.items()}
        line = json.dumps({"step": step, "epoch": metrics.get("epoch"), "metrics": values}, allow_nan=False)
        self._record.add(line)

    def _is_own(self, key: str) -> bool:
        return key.startswith(self.prefix) and not key.startswith(self.others)

    def log_hyperparams(self, *_: Any) -> None:
        """Nothing: the run's settings are in its `config.yaml`."""
