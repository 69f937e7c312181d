"""The Markdown file of a GPU run: every line is printed and appended at once, so that a run that is cut keeps them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

NOT_REACHED = "not reached"
CHECK_COLUMNS = ("check", "result", "measured", "seconds")
ROW_COLUMNS = ("what", "way", "batch", "seconds", "pairs/s", "TFLOP/s", "MFU", "peak memory", "notes")


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        way: how it was computed.
        batch: what was computed at a time.
        seconds: median of a batch's.
        pairs: in a batch.
        flops: model FLOPs of a batch; None where they are not counted for this way.
        peak_bytes: most that was allocated on the GPU, the model included; None on a CPU.
        notes: what else was measured.
    """

    what: str
    way: str
    batch: str
    seconds: float
    pairs: int
    flops: int | None = None
    peak_bytes: int | None = None
    notes: str = ""

    @property
    def rate(self) -> float:
        """Pairs per second."""
        return self.pairs / self.seconds

    def utilisation(self, peak: float | None) -> float | None:
        """Share of the device's operations per second that are model FLOPs; None where one of the two is not known.

        >>> Row("a", "b", "c", seconds=0.5, pairs=4, flops=300).utilisation(1000.0)
        0.6
        """
        return self.flops / self.seconds / peak if self.flops and peak else None

    def cells(self, peak: float | None) -> list[str]:
        """What the table shows, by `ROW_COLUMNS`; "" where nothing was measured."""
        used = self.utilisation(peak)
        return [
            self.what,
            self.way,
            self.batch,
            f"{self.seconds:.4f}",
            f"{self.rate:.1f}",
            f"{self.flops / self.seconds / 1e12:.4g}" if self.flops else "",
            f"{used:.1%}" if used is not None else "",
            f"{self.peak_bytes / 2**30:.1f} GiB" if self.peak_bytes is not None else "",
            self.notes,
        ]


class Report:
    """Writes lines to the terminal and to a file, and knows whether there is time for more.

    Args:
        path: of the file, which is begun anew.
        minutes: that a run takes. Nothing is begun that would end later if it took as long as the longest before.
        peak: operations per second that the device can do at most; None where it is not known.

    Attributes:
        rows: what was measured.
        failed: names of the checks that did not pass, those that were not reached among them.
    """

    def __init__(self, path: Path, minutes: float, peak: float | None):
        self.path, self.peak = path, peak
        self.ends, self.longest = time.monotonic() + 60 * minutes, 0.0
        self.rows: list[Row] = []
        self.failed: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")

    @property
    def spent(self) -> bool:
        """Whether the time does not suffice for another measurement."""
        return time.monotonic() + self.longest >= self.ends

    def say(self, *lines: str) -> None:
        """Prints and appends lines."""
        for line in lines:
            print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    def table(self, title: str, columns: Iterable[str]) -> None:
        """Begins a table."""
        names = list(columns)
        self.say("", f"## {title}", "", line_of(names), line_of(["---"] * len(names)))

    def check(self, name: str, measure: Callable[[], tuple[bool, str]]) -> None:
        """Runs a check that says whether it passed, and what it measured; an exception is a failure."""
        if self.spent:
            self.failed.append(name)
            self.say(line_of([name, NOT_REACHED, "", ""]))
            return
        started = time.monotonic()
        try:
            passed, measured = measure()
        except Exception as error:  # the next check tells something too
            passed, measured = False, reason_of(error)
        if not passed:
            self.failed.append(name)
        self.say(line_of([name, "PASS" if passed else "FAIL", measured, f"{self._took(started):.1f}"]))

    def measure(self, what: str, rows: Callable[[], list[Row]]) -> None:
        """Runs a measurement; where it fails, its line says why, and the next one can run."""
        blank = [""] * (len(ROW_COLUMNS) - 2)
        if self.spent:
            self.say(line_of([what, NOT_REACHED, *blank]))
            return
        started = time.monotonic()
        try:
            found = rows()
        except Exception as error:  # out of memory, or a kernel that this device has not
            self.say(line_of([what, "failed", *blank[:-1], reason_of(error)]))
            return
        finally:
            self._took(started)
        self.rows += found
        self.say(*(line_of(row.cells(self.peak)) for row in found))

    def _took(self, started: float) -> float:
        """Seconds since then, which may be the longest so far."""
        seconds = time.monotonic() - started
        self.longest = max(self.longest, seconds)
        return seconds


def line_of(cells: Iterable[str]) -> str:
    """A line of a table.

    >>> line_of(["a|b", "c"])
    '| a/b | c |'
    """
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def counted(captions: int) -> str:
    """A number of captions in words.

    >>> counted(1), counted(4)
    ('1 caption', '4 captions')
    """
    return f"{captions} caption{'s' * (captions != 1)}"


def reason_of(error: BaseException) -> str:
    """An exception in one line, shortened."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
