"""What the loaders hand out: training that goes on in the middle of an epoch, and validation even on all ranks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from lightning.fabric.utilities.seed import pl_worker_init_function
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.batch import UNKNOWN, ImageTextBatch, ImageTextRow
from datamodules.mixing import batch_places, batches_in_epoch, rank_batches

EpochBatch = tuple[int, Sequence[int], Sequence[int]]
"""An epoch, rows, and the place of each row in the order of the epoch."""


class EpochBatches(Sampler[EpochBatch]):
    """Yields `(epoch, rows, places)` for one rank; Lightning sets the epoch.

    Args:
        rows: how many there are.
        batch_size, seed, rank, world_size: see `rank_batches`.
        done: how many batches of the epoch were trained on already, asked when a pass begins; it leaves them out.
    """

    def __init__(
        self,
        rows: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        done: Callable[[], int] = lambda: 0,
    ):
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.done, self.epoch = done, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of every epoch, also of one that goes on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[EpochBatch]:
        sizes = {"batch_size": self.batch_size, "rank": self.rank, "world_size": self.world_size}
        # asked now and not at the start: Lightning restores its count between the two
        done = self.done()
        batches = rank_batches(self.rows, seed=self.seed, epoch=self.epoch, **sizes)
        # numbered as in the whole epoch: a curriculum goes by the places of the rows
        for number, rows in enumerate(batches[done:], start=done):
            yield self.epoch, rows, batch_places(number, len(rows), **sizes)

    def __len__(self) -> int:
        """Batches of a whole epoch, by which Lightning knows the last one."""
        return batches_in_epoch(self.rows, batch_size=self.batch_size, world_size=self.world_size)


class LateLoader(DataLoader[ImageTextBatch]):
    """A loader that turns to its sampler when it is asked for the first batch, not for its iterator.

    Lightning asks for the iterator of a resumed run before it knows epoch and batch, and workers would be sent off with
    the beginning of the first epoch.
    """

    def __iter__(self) -> Iterator[ImageTextBatch]:  # type: ignore[override]
        with ctrl_c_held_back():
            batches = super().__iter__()
        yield from batches


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, in which workers start.

    One that came during a fork would be lost, and a worker that is just beginning would print a traceback.
    """
    before, came = signal.getsignal(signal.SIGINT), []
    # Python sets handlers in its main thread alone, and cannot set one again that is not its own
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    # not blocked: any other thread would take it, and this one be interrupted all the same
    signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def start_worker(worker: int) -> None:
    """What a loader's worker begins with: Ctrl-C and a scheduler's signals are the main process's to answer.

    They go to all processes, and a worker that ended by itself would leave the main process without its next batch.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # the first alone: the main process ends by SIGTERM a worker that hangs
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    # what Lightning gives to loaders that have no such function
    pl_worker_init_function(worker)


class CountedRows(Dataset[ImageTextRow]):
    """Rows for validation: item `(row, counts)`; all labels are unknown where the row does not count."""

    def __init__(self, rows: Sequence[ImageTextRow]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, bool]) -> ImageTextRow:
        index, counts = item
        row = self.rows[index]
        # still computed, since a sharded model needs every rank in every forward; without labels no metric counts it
        return row if counts else replace(row, labels=[UNKNOWN] * len(row.labels))
