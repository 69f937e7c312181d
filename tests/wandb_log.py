"""Reads back what W&B recorded offline; the package itself has no reader for its record log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class WandbRun:
    """One offline run: who it was, how it ended, and every value that was logged last under its key.

    Attributes:
        history: what was logged, in order.
        metrics: names and globs that were defined.
        summary: as it is at the end.
        files: name in an artifact, such as an image of a table -> where the file lies until it is uploaded.
    """

    name: str = ""
    group: str = ""
    job_type: str = ""
    exit_code: int = 0
    preempted: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    project: str = ""
    tags: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


def read_wandb(folder: Path) -> WandbRun:
    """The only offline run under `folder/wandb`, which is finished."""
    (_,) = (folder / "wandb").glob("offline-run-*")
    return read_offline(folder, 0)


def read_offline(folder: Path, number: int) -> WandbRun:
    """What the process of this number has left under `folder/wandb`, in the order of their starts."""
    (log,) = sorted((folder / "wandb").glob("offline-run-*"))[number].glob("run-*.wandb")
    run = WandbRun()
    for record in whole_log(log):
        if record.HasField("run"):
            run.name, run.group, run.job_type = record.run.display_name, record.run.run_group, record.run.job_type
            run.project = record.run.project
            run.run_id, run.tags = record.run.run_id, list(record.run.tags)
            run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        run.preempted = run.preempted or record.HasField("preempting")
        run.exit_code = record.exit.exit_code if record.HasField("exit") else run.exit_code
        run.config |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
        if record.HasField("history"):
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            run.history.append({key: json.loads(value) for key, value in items.items()})
        if record.HasField("metric"):
            run.metrics.append(record.metric.name or record.metric.glob_name)
        if record.HasField("artifact"):
            run.files |= {entry.path: entry.local_path for entry in record.artifact.manifest.contents}
        for item in record.summary.update:
            _put(run.summary, [item.key] if item.key else list(item.nested_key), json.loads(item.value_json))
        for item in (*record.history.item, *record.summary.update):
            run.values[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return run


def _put(summary: dict[str, Any], place: list[str], value: Any) -> None:
    for name in place[:-1]:
        summary = summary.setdefault(name, {})
    summary[place[-1]] = value


def whole_log(log: Path, seconds: float = 60) -> list[Any]:
    """All records of a finished run, the last of which says so.

    W&B's service writes the log, and `finish` (0.31) may return before the file is whole.
    """
    from wandb.proto import wandb_internal_pb2

    end = time.monotonic() + seconds
    while True:
        records = [wandb_internal_pb2.Record.FromString(data) for data in log_records(log.read_bytes())]
        if any(record.HasField("exit") for record in records):
            return records
        assert time.monotonic() < end, f"{log} has no end after {seconds:g} s"
        time.sleep(0.01)


def log_records(log: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: blocks of 32 KiB, parts with checksum, length and kind before each."""
    position, record = 7, b""
    while position < len(log):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        if position + 7 > len(log):  # torn: the rest is not written yet
            return
        length, kind = int.from_bytes(log[position + 4 : position + 6], "little"), log[position + 6]
        if position + 7 + length > len(log):
            return
        record += log[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""
