"""What the scoring engine costs beside the model: `python -m experiments.bench.engine --help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from experiments.bench.engine.measure import memories, retrievals, speeds
from experiments.runs.progress import say
from negatives.tables import write_json

EXAMPLES = """\
speed      rows per second with loader workers, beside 2 cores over the CPU seconds of decoding, encoding and the
           forward of a row, measured in one process by a plain loop over the same rows; medians
memory     peak memory of all requests in a process of its own; 100 images, as many captions as needed
retrieval  every image with every caption: how many things are encoded

example:
  OMP_NUM_THREADS=1 python -m experiments.bench.engine speed memory retrieval
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.engine",
        description="Measures the scoring engine: its rate, its memory, and what it encodes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("what", nargs="+", choices=("speed", "memory", "retrieval"), help="what to measure")
    add("--backbones", nargs="+", default=["clip", "llava"], help="whose speed")
    add("--rows", type=int, default=3000, help="images in a measurement of speed, each with 4 captions")
    add("--times", type=int, default=5, help="how often speed is measured; the medians are shown")
    add("--workers", type=int, default=2, help="loader processes")
    add("--batch-size", type=int, default=16, help="images at a time")
    add("--requests", nargs="+", type=int, default=[10_000, 1_000_000], help="of memory")
    add("--images", type=int, default=1000, help="of retrieval")
    add("--texts", type=int, default=5000, help="of retrieval")
    add("--json", help="file for all numbers")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns the exit code."""
    arguments = parser().parse_args(argv)
    found: list[dict[str, Any]] = []
    for what in arguments.what:
        for row in {"speed": speeds, "memory": memories, "retrieval": retrievals}[what](arguments):
            found.append({"measured": what, "load": round(os.getloadavg()[0], 1), **row})
            shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in found[-1].items()}
            say(", ".join(f"{name} {value}" for name, value in shown.items()))
    if arguments.json:
        write_json(found, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
