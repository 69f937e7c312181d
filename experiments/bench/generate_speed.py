"""How fast requests are answered and recorded: `python -m experiments.bench.generate_speed --help`.

A chat server on the loopback, in a process of its own, answers each request after a fixed time; every answer is
committed to a request cache on disk. One uncounted run comes first.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.bench.chat_server import server_process
from negatives.chat import ChatRequest, RequestCache, Server, ask_all

# about as long as the instructions that are really sent
INSTRUCTION = "Change exactly one object of the caption, so that it is false for the image, and keep the rest. " * 20
SCHEMA = {
    "type": "object",
    "properties": {"replace_obj": {"type": "array", "items": {"type": "string"}}},
    "required": ["replace_obj"],
    "additionalProperties": False,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.generate_speed",
        description="Times requests to a loopback server, cache writes included.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--captions", type=int, default=3000, help="requests of each run (default: 3000)")
    add("--runs", type=int, default=5, help="runs, of which the median is printed (default: 5)")
    add("--concurrency", type=int, default=64, help="most requests under way (default: 64)")
    add("--latency", type=float, default=0.05, help="seconds that the server takes for an answer (default: 0.05)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    arguments = parser().parse_args(argv)
    with server_process("--latency", str(arguments.latency)) as url, tempfile.TemporaryDirectory() as folder:
        # imports, the first connections and the server's start are not timed
        _run(url, Path(folder) / "warm.sqlite", min(arguments.captions, 200), arguments.concurrency)
        rates = []
        for run in range(arguments.runs):
            seconds = _run(url, Path(folder) / f"{run}.sqlite", arguments.captions, arguments.concurrency)
            rates.append(arguments.captions / seconds)
    # Linux counts KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(
        f"{arguments.captions} requests, {arguments.concurrency} under way, {1000 * arguments.latency:g} ms each: "
        f"{statistics.median(rates):.0f} requests/s (median of {arguments.runs} runs, "
        f"{min(rates):.0f} to {max(rates):.0f}), peak {peak:.0f} MiB"
    )
    return 0


def make_requests(count: int) -> Iterator[ChatRequest]:
    """Distinct requests of the size of real ones, made as they are pulled."""
    for number in range(count):
        caption = f"A man with {number} umbrellas stands beside a red car."
        yield ChatRequest("loopback", (("system", INSTRUCTION), ("user", caption)), SCHEMA, seed=0)


def _run(url: str, path: Path, captions: int, concurrency: int) -> float:
    """Seconds for all requests on a new cache."""
    start = time.perf_counter()
    with RequestCache(path) as cache:
        requests = make_requests(captions)
        asyncio.run(ask_all(requests, cache, Server(url, "EMPTY"), check=lambda *_: None, concurrency=concurrency))
        seconds = time.perf_counter() - start
        # a run that lost answers would look fast
        assert cache.counts() == {"ok": captions}
    return seconds


if __name__ == "__main__":
    sys.exit(main())
