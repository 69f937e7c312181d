"""Preemption: a scheduler that needs the machine sends a signal, and the training saves and stops."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""SIGTERM comes from SLURM before it kills, from Kubernetes and from cloud machines; SIGUSR1 from SLURM where a job
asks for notice (`--signal=USR1@120`)."""


class StoppedError(Exception):
    """A training that was asked to stop has saved its state after an optimiser step.

    Attributes:
        step: optimiser steps made.
    """

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}")
        self.step = step


class Preemption:
    """Listens for `SIGNALS` while it is entered, and remembers the first; nothing else happens.

    Only the main thread can listen, as Python has it; elsewhere signals do what they did. One that is entered within
    another knows what that one has heard.

    Attributes:
        asked: the signal that asked to stop; None until one came.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.listen()
            # after `listen`, or a signal between the two would be lost
            outer = next((getattr(handler, "__self__", None) for handler in self._before.values()), None)
            if isinstance(outer, Preemption):
                self.asked = self.asked or outer.asked
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: a handler that C code installed, which Python cannot put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def listen(self) -> None:
        """Takes the signals again, after a library has taken them.

        Lightning's own handler for SIGTERM sends to all ranks from inside the handler, which waits for ever where they
        are in the middle of something, and ends the training without a checkpoint.
        """
        for number in self._before:
            signal.signal(number, self._remember)

    def _remember(self, number: int, _: FrameType | None) -> None:
        # no more than this: a handler runs between any two instructions of whatever was under way
        self.asked = self.asked or signal.Signals(number)
