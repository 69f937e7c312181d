"""The record of a training's metrics, `logs/metrics.jsonl`: one line for each time that metrics are logged.

    {"step": 10, "epoch": 0, "metrics": {"train/loss/value": 0.69, "train/optim/lr": 0.0002}}

`step` counts the optimiser steps before this one; a validation has the number of the step it follows. null stands for a
number that is not finite, which JSON does not have.

Lines are only ever added, and a line is on the disk before training goes on, so before the checkpoint of its step.
After a kill, the resumed run logs the steps since its checkpoint again, and the last value of a step and metric counts.
A last line without its end was torn by a kill: readers leave it out, and the next line takes its place.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


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

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds a line and waits until it is on the disk."""
        # Lightning puts the epoch among the metrics of every step
        values = {key: value if math.isfinite(value) else None for key, value in metrics.items() if key != "epoch"}
        line = json.dumps({"step": step, "epoch": metrics.get("epoch"), "metrics": values}, allow_nan=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # opened for each line: nothing is held that a killed process could leave unwritten
        with self.path.open("a+b") as file:
            cut_torn_line(file)
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())

    def log_hyperparams(self, *_: Any) -> None:
        """Nothing: the run's settings are in its `config.yaml`."""


def cut_torn_line(file: BinaryIO) -> None:
    """Removes what stands after the last line's end; `file` is open for reading and appending."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    # no byte: an empty file
    if file.read(1) not in (b"", b"\n"):
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
