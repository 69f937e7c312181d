"""How the bench of the engine measures: beside a plain loop, in processes of their own, by what the engine counts."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from experiments.bench.engine.asked import Lengths, captions, pairs_of, tiny_scorer, write_photos
from experiments.scoring.engine import EngineSettings
from experiments.scoring.models import answer_apart, answer_pairs, pair_logits, pair_rows
from experiments.scoring.plan import plan_pairs
from experiments.scoring.ranks import World
from experiments.scoring.requests import Asked, Requests, join
from experiments.scoring.store import Store

CORES = 2
WARM_UP = 2  # batches that are not timed: the first one pays for what is imported and allocated


def speeds(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rate of the engine for each backbone, beside what the cores could do without it."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = write_photos(folder, arguments.rows)
        for backbone in arguments.backbones:
            module = tiny_scorer(backbone)
            pairs = pairs_of(arguments.rows, 4 * arguments.rows, 4 * arguments.rows)
            # every image has captions of its own
            pairs[:, 1] = np.arange(len(pairs))
            asked = Asked(images, captions(len(pairs)), pairs, folder)
            requests = join([asked], blind=False)
            found = [
                speed(module, requests, folder / f"{backbone}-{number}", arguments) for number in range(arguments.times)
            ]
            yield {"backbone": backbone, **{name: median([one[name] for one in found]) for name in found[0]}}


def speed(module: Any, requests: Requests, store: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """One plain loop and one answer of the engine, one right after the other: others use the machine, too."""
    cost = plain_cost(module, requests, arguments.batch_size)
    settings = EngineSettings(arguments.batch_size, workers=arguments.workers)
    before, start = cpu_seconds(), time.perf_counter()
    answer(module, requests, store, settings)
    rate, bound = arguments.rows / (time.perf_counter() - start), CORES / cost
    return {
        "rows per second": rate,
        "bound": bound,
        "of the bound": rate / bound,
        # what is left where others use the cores, too
        "CPU of the plain loop / CPU of the engine": cost * arguments.rows / (cpu_seconds() - before),
    }


def plain_cost(module: Any, requests: Requests, batch_size: int, most: int = 600) -> float:
    """CPU seconds of one row in a plain loop: decoding, encoding, forward; of a scorer apart each thing once.

    Batches that warm up are not counted, unless there are no others.
    """
    import torch

    cells, device = requests.pairs(), torch.device("cpu")
    plan = plan_pairs(cells, np.arange(len(cells)), requests.text_lengths, max_captions=16, unit_rows=most)
    collate, start, rows = module.collator(), time.process_time(), 0
    for place, batch in enumerate(plan.batches(0, batch_size)):
        if place == WARM_UP:
            start, rows = time.process_time(), 0
        pair_logits(module, device, pair_rows(requests, cells, collate, plan, batch))
        rows += len(batch)
    return (time.process_time() - start) / rows


def answer(module: Any, requests: Requests, store: Path, settings: EngineSettings) -> Any:
    """The engine's answers in one process."""
    import torch

    apart = getattr(module, "encodes_apart", False)
    return (answer_apart if apart else answer_pairs)(
        module, torch.device("cpu"), requests, Store(store, {"bench": "engine"}), settings, World()
    )


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def memories(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Peak memory of each number of requests, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    for scorer in ("pairs", "clip"):
        for count in arguments.requests:
            # a child that dies is an error here; a Pool would start another one for ever
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                yield {"scorer": scorer, "requests": count, **pool.submit(peak_memory, scorer, count).result()}


def peak_memory(scorer: str, count: int, images: int = 100) -> dict[str, Any]:
    """Scores `count` requests, half of them on noise; MiB at the peak, before and after the requests are there."""
    module = Lengths() if scorer == "pairs" else tiny_scorer("clip")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = write_photos(folder, images, (64, 64))
        texts = -(-count // (2 * images))
        before = peak()
        asked = Asked(table, captions(texts), pairs_of(images, texts, count // 2), folder)
        # small enough that 10,000 requests fill a batch of texts, too: a batch is no request's memory
        found = answer(module, join([asked]), folder / "store", EngineSettings(batch_size=2))
        return {"MiB before": before, "MiB": peak(), "computed": dict(found.counts)}


def peak() -> float:
    """The largest resident size of this program so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # what getrusage says is at least the size that the parent had when it started this process
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def retrievals(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every image with every caption by a CLIP: what is encoded, and what a second time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = Asked(write_photos(folder, arguments.images, (64, 64)), captions(arguments.texts), None, folder)
        requests, module = join([asked], blind=False), tiny_scorer("clip")
        for start in ("first", "second"):
            began = time.perf_counter()
            found = answer(module, requests, folder / "store", EngineSettings())
            one = requests.sets[0]
            matrix = found.matrix(one.images, one.texts, np.arange(arguments.texts))
            seconds = time.perf_counter() - began
            yield {"start": start, "encoded": sum(found.counts.values()), "logits": matrix.size, "seconds": seconds}
