"""The record of a training's metrics, `logs/metrics.jsonl`: one line for each time that metrics are logged.

    {"step": 10, "epoch": 0, "metrics": {"train/loss/value": 0.69, "train/optim/lr": 0.0002}}

`step` counts the optimiser steps before this one; a validation has the number of the step it follows. null stands for a
number that is not finite, which JSON does not have.

Lines are only ever added, and a line is on the disk before training goes on, so before the checkpoint of its step.
After a kill, the resumed run logs the steps since its checkpoint again, and the last value of a step and metric counts.
A last line without its end was torn by a kill: readers leave it out, and the next line takes its place.

Beside it, `.metrics.jsonl.sum` has the length of the record and its checksum, written after each line: a record that
has lost or changed a line since does not fit.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import BinaryIO

SPEED_FILE = "speed.jsonl"
"""Beside the record: one of what a clock says, which is no result."""


class MetricRecord:
    """Adds lines to a record.

    Args:
        path: of the record; it and its folder are made with the first line.
    """

    def __init__(self, path: Path):
        self.path = path
        self._length = self._sum = 0

    def add(self, line: str) -> None:
        """Adds a line and waits until it is on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = f"{line}\n".encode()
        # opened for each line: nothing is held that a killed process could leave unwritten
        with self.path.open("a+b") as file:
            cut_torn_line(file)
            # once, and again where the file is another one by now
            if file.seek(0, os.SEEK_END) != self._length:
                file.seek(0)
                before = file.read()
                self._length, self._sum = len(before), zlib.crc32(before)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self._length, self._sum = self._length + len(content), zlib.crc32(content, self._sum)
        beside = os.open(sum_file(self.path), os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            # of one length, and in one write: a kill leaves the old one or the new one
            os.pwrite(beside, f"{self._length:020} {self._sum:08x}\n".encode(), 0)
        finally:
            os.close(beside)


def record_fault(path: Path) -> str:
    """What is wrong with a record; "" where it holds all lines that were logged, or nothing is there to check it by."""
    beside = sum_file(path)
    # older versions have none; a kill may leave it empty before the first line is summed
    if not beside.is_file() or not (written := beside.read_bytes()):
        return ""
    try:
        length, checksum = int(written.split()[0]), int(written.split()[1], 16)
    except (ValueError, IndexError):
        return f"its checksum in {beside} is damaged"
    # a line after those is one that a kill came too early to sum, and no damage
    found = path.read_bytes()[:length] if path.is_file() else b""
    return "" if (len(found), zlib.crc32(found)) == (length, checksum) else f"{beside} counts other lines"


def sum_file(path: Path) -> Path:
    """The file with the length and checksum of a record."""
    return path.with_name(f".{path.name}.sum")


def cut_torn_line(file: BinaryIO) -> None:
    """Removes what stands after the last line's end; `file` is open for reading and appending."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    # no byte: an empty file
    if file.read(1) not in (b"", b"\n"):
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
