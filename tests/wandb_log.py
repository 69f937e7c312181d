"""Reads back what W&B recorded offline; the package itself has no reader for its record log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class WandbRun:
    """One offline run: who it was, and every value that was logged last under its key."""

    name: str = ""
    group: str = ""
    job_type: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def read_wandb(folder: Path) -> WandbRun:
    """The only offline run under `folder/wandb`."""
    from wandb.proto import wandb_internal_pb2

    (log,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    run = WandbRun()
    for data in log_records(log.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            run.name, run.group, run.job_type = record.run.display_name, record.run.run_group, record.run.job_type
            run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        run.config |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
        for item in (*record.history.item, *record.summary.update):
            run.values[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return run


def log_records(log: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: blocks of 32 KiB, parts with checksum, length and kind before each."""
    position, record = 7, b""
    while position < len(log):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(log[position + 4 : position + 6], "little"), log[position + 6]
        record += log[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""
