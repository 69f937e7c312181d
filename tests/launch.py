"""Starts functions in processes of their own, without the ten seconds of imports that a fresh interpreter costs.

Every process is forked from a server that has the imports and has computed nothing: a fork of the test process itself
could wait for its threads. It is a real process: it can be killed, and it shares no memory with the tests.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

IMPORTS = ["lightning", "transformers", "peft", "sklearn.linear_model", "torch.distributed.launcher.api"]


def start(log: Path, function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Starts `function(*arguments)` in a process whose output goes to `log`, since nobody would empty a pipe.

    Its exit code is what the function returns; an exception is 1, a signal its negative number.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    process = context.Process(target=_run, args=(log, function, arguments))
    process.start()
    return process


def _run(log: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    # of the process in which the server was started: its W&B service may have ended since
    os.environ.pop("WANDB_SERVICE", None)
    faulthandler.enable()
    # as on a command line: without it a loader's workers would come from a second server, with all the imports again
    multiprocessing.set_start_method(None, force=True)
    # a shell that runs the tests in the background has them ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(function(*arguments))


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Waits for what another process does.

    Raises:
        TimeoutError: it did not do it.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the other process did not come so far")
        time.sleep(0.01)


def log_tail(log: Path) -> str:
    """The end of a log; or where a process crashed or was refused, which the launcher's pages push out of the end."""
    text = log.read_text(errors="replace")
    crash = max(text.find(begin) for begin in ("Fatal Python error", "itm: error"))
    return text[-3000:] if crash < 0 else text[crash : crash + 5000]


def start_ranks(log: Path, function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Starts `function(*arguments)` on two gloo ranks, as `torchrun --standalone` does; a failing rank fails it."""
    return start(log, _launch, function, arguments)


def _launch(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="fork",
    )
    elastic_launch(config, _rank)(function, arguments)


def _rank(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if code := function(*arguments):
        raise RuntimeError(f"a rank ended with exit code {code}")


def run_on_two_ranks(folder: Path, module: str, call: str, *, timeout: int = 300) -> None:
    """Runs `call`, a function of `module` with its arguments as source, on two gloo ranks; a failing rank fails it."""
    log = folder / "two_ranks.log"
    ranks = start_ranks(log, _evaluate, module, call)
    ranks.join(timeout)
    ended = ranks.exitcode
    if ended is None:
        ranks.terminate()
    assert ended == 0, log_tail(log)


def _evaluate(module: str, call: str) -> None:
    eval(call, {"Path": Path, **vars(importlib.import_module(module))})
