"""The processes that score together: each has units of its own, and none waits for another."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.runs.devices import resolve_device
from negatives.tables import InputError

if TYPE_CHECKING:
    import torch

SECONDS_BETWEEN_LOOKS = 0.2
"""Of the first rank, at the units that others still write."""


class World(NamedTuple):
    """This process among those that score together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    others: tuple[BaseProcess, ...] = ()

    def owns(self, unit: int) -> bool:
        """Whether a unit is this rank's: by its number, so that no rank has to ask what the others have done."""
        return unit % self.size == self.rank

    def wait(self, done: Callable[[], bool]) -> None:
        """Waits, in the first rank, until all units are there.

        Raises:
            InputError: another rank has ended before.
        """
        while not done():
            # asked before the units: a rank that ends well has written all of its own
            ended = [process for process in self.others if process.exitcode is not None]
            if done():
                return
            if failed := [process for process in ended if process.exitcode]:
                raise InputError(
                    f"process {failed[0].name} ended with exit code {failed[0].exitcode} (its own line says why); "
                    "the same command with --resume goes on."
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)


def launched() -> World | None:
    """The rank that a launcher (torchrun, srun, or `devices`) gave this process; None where none started it."""
    for rank, size, local in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")):
        # in the shell of an allocation, whose job is called so, srun did not start this process
        if (
            rank in os.environ
            and size in os.environ
            and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
        ):
            return World(int(os.environ[rank]), int(os.environ[size]), int(os.environ.get(local, 0)))
    return None


def rank_device(accelerator: str) -> torch.device:
    """The device of this process: of several GPUs the one of its rank.

    Raises:
        InputError: the machine has no such accelerator.
    """
    import torch

    device, place = resolve_device(accelerator), launched()
    if device.type != "cuda" or place is None:
        return device
    return torch.device("cuda", place.local_rank % torch.cuda.device_count())


@contextmanager
def world(devices: int, work: Callable[..., Any], *arguments: Any) -> Iterator[World]:
    """This process's place; starts the others where `devices` asks for several and no launcher has.

    Args:
        devices: processes on this machine.
        work: a function of a module, called in each of the other processes with `arguments`, all picklable.
        arguments: of it.

    Raises:
        InputError: a launcher started another number of processes.
    """
    found = launched()
    if found is not None and devices not in (1, found.size):
        raise InputError(f"devices must be {found.size}, as many as the launcher started, or left out, got {devices}.")
    if found is not None or devices == 1:
        yield found or World()
        return
    # a fork would share this process's threads and GPU
    context = multiprocessing.get_context("spawn")
    others = []
    for rank in range(1, devices):
        process = context.Process(
            target=_rank, args=(rank, devices, work, arguments), name=f"rank {rank}", daemon=False
        )
        process.start()
        others.append(process)
    try:
        yield World(0, devices, 0, tuple(others))
        for process in others:
            process.join()
    except BaseException:
        for process in others:
            process.terminate()
        raise


def _rank(rank: int, size: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import sys

    from experiments.exit_codes import exit_code

    # as on a command line: a spawned process would spawn its loader's workers too, with all imports again
    multiprocessing.set_start_method(None, force=True)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))

    def call() -> int:
        work(*arguments)
        return 0

    sys.exit(exit_code(call))
