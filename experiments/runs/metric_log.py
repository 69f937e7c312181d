"""Lightning's loggers: for the record of a training's metrics (`metric_record` says what it holds), and for W&B."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from experiments.runs.metric_record import MetricRecord

STEP = "trainer/global_step"
"""What Lightning's logger counts steps by."""
BEST_AND_LAST = {"val/": ("max", "last"), "train/loss/": ("min", "last"), "speed/": ("mean", "last")}
"""Beginning of a metric's name -> what is kept of it; of others the last."""


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


class ExperimentLogger(WandbLogger):
    """Lightning's logger of W&B, which defines each metric by its name when it comes for the first time.

    By a pattern it could not be: W&B (0.31) takes any one of those that a metric fits, and Lightning defines `*`.
    """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs metrics of a step."""
        known: set[str] = self.__dict__.setdefault("_defined", set())
        for name in metrics.keys() - known:
            known.add(name)
            if kinds := kinds_of(name):
                self.experiment.define_metric(name, step_metric=STEP, summary=",".join(kinds))
        super().log_metrics(metrics, step)


def kinds_of(metric: str) -> tuple[str, ...]:
    """What is kept of a metric; () where the last value alone.

    >>> kinds_of("val/mean/accuracy"), kinds_of("train/optim/lr")
    (('max', 'last'), ())
    """
    return next((kinds for start, kinds in BEST_AND_LAST.items() if metric.startswith(start)), ())
