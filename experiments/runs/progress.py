"""Progress of long work: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0
CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f"
"""Characters that give a terminal orders, for a regular expression: all but tabs and ends of lines."""
NOT_SHOWN = re.compile(rf"[{CONTROL}\u202a-\u202e\u2066-\u2069]")
"""These, and what turns the direction of writing."""


def is_terminal() -> bool:
    """Whether bars can be drawn."""
    # not stdout, which may go into a file while a person watches
    return sys.stderr.isatty()


def shown(text: str) -> str:
    r"""A text from a file that anyone may have written, with U+FFFD for what a terminal should not get.

    >>> shown("a\x1b[31mred line\n") == "a\ufffd[31mred line\n"
    True
    """
    return NOT_SHOWN.sub("\ufffd", text)


def say(line: str) -> None:
    """Prints one line at once, so that logs of killed jobs are complete; without control characters, see `shown`."""
    print(shown(line), flush=True)


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` under a progress bar, or with a plain line now and then where the output is no terminal."""
    total = total if total is not None else _length(items)
    if is_terminal():
        # rich is imported where a bar is drawn: a plain log needs none of it
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, label, total=total, console=Console(stderr=True), transient=True)
        return
    start = last = time.monotonic()  # of time.time() a change of the clock would make nonsense
    for count, item in enumerate(items):
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            say(f"{label}: {count}{f' of {total}' if total else ''} in {last - start:.0f} s")
        yield item


@contextmanager
def counter(label: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows the progress of work that reports by calling back after each of its `total` parts, from any thread."""
    if is_terminal():
        from rich.console import Console
        from rich.progress import Progress

        # stdout is for results
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(label, total=total)
            # rich locks: judges call from their threads
            yield lambda: progress.advance(task)
        return
    start = last = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, last
        done += 1
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            say(f"{label}: {done} of {total} in {last - start:.0f} s")

    yield advance


@contextmanager
def meter(label: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Shows the progress of work that reports how many parts are done, with a remark of its own."""
    if is_terminal():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[remark]}"))
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=total, remark="")
            yield lambda done, remark: progress.update(task, completed=done, remark=remark)
        return
    last = time.monotonic()

    def line(done: int, remark: str) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            say(f"{label}: {done} of {total}, {remark}")

    yield line


def tracker(label: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """`track` with its label filled in, for functions that take a progress wrapper."""
    return lambda items: track(items, label)


def _length(items: Iterable[Any]) -> int | None:
    return len(items) if isinstance(items, Sized) else None
