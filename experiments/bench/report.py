"""What `experiments.bench` reads of a command line and shows of its measurements: tables, and what they ran on."""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LABELS = {"llava": "LLaVA", "blip2": "BLIP-2 ITM", "qwen3_vl": "Qwen3-VL", "gemma3": "Gemma 3"}
# Dense bf16, half of what NVIDIA's data sheets state with sparsity; the first name that fits counts.
PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H200 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
}


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


@dataclass(frozen=True)
class Result:
    """What one implementation took.

    Attributes:
        way: which implementation, under the name that tables and files have had from the start.
        seconds: of each repetition.
        ratios: seconds over those of the packed implementation, in each repetition.
        operations: floating-point operations of one step.
        operations_ratio: operations over those of the packed implementation: what `ratios` would be if only arithmetic
            took time.
        peak_bytes: on a CPU, how far a step raises the process's peak memory; on a GPU, the most that is allocated,
            the model included; None where it was not measured.
        utilisation: operations per second over the peak of the device; None where that is not known.
        largest_difference: between match logits of this case's implementations, in float32, before anything was timed.
    """

    backbone: str
    work: str
    tune: str
    images: int
    captions: int
    way: str
    seconds: list[float]
    median_seconds: float
    pairs_per_second: float
    ratios: list[float]
    median_ratio: float
    operations: int
    operations_ratio: float
    peak_bytes: int | None
    utilisation: float | None
    largest_difference: float


def cells(result: Result) -> dict[str, str]:
    """What the tables show of a result, by column; "" where nothing was measured."""
    memory, utilisation, ratios = result.peak_bytes, result.utilisation, result.ratios
    return {
        "way": result.way,
        "seconds": f"{result.median_seconds:.3f}",
        "pairs/s": f"{result.pairs_per_second:.2f}",
        # the median with the smallest and largest ratio of any repetition
        "packed is faster": f"{result.median_ratio:.2f} [{min(ratios):.2f}, {max(ratios):.2f}]",
        "by operations": f"{result.operations_ratio:.2f}",
        "peak memory": f"{memory / 2**20:,.0f} MiB" if memory is not None else "",
        "MFU": f"{utilisation:.1%}" if utilisation is not None else "",
    }


def heading(backbone: str, work: str, tune: str, captions: int) -> str:
    """What was run, in words.

    >>> heading("llava", "train", "lora", 4)
    'LLaVA, training step (LoRA), 4 captions'
    """
    name = {("train", "full"): "training step", ("train", "lora"): "training step (LoRA)"}.get((work, tune), "scoring")
    return f"{LABELS[backbone]}, {name}, {captions} captions"


def tables(results: Iterable[Result]) -> dict[str, list[dict[str, str]]]:
    """The tables' rows by heading, without columns in which no row says anything."""
    rows = [(heading(result.backbone, result.work, result.tune, result.captions), cells(result)) for result in results]
    # a CPU has no MFU, --no-memory no peak: their columns are left out
    used = [column for column in rows[0][1] if any(row[column] for _, row in rows)]
    made: dict[str, list[dict[str, str]]] = {}
    for title, row in rows:
        made.setdefault(title, []).append({column: row[column] for column in used})
    return made


def markdown(results: Iterable[Result]) -> list[str]:
    """All rows as one table in Markdown, line by line."""
    rows = [{"what": title, **row} for title, table in tables(results).items() for row in table]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def show(results: Iterable[Result], about: dict[str, Any]) -> None:
    """A table for each case on the terminal, and the conditions."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, rows in tables(results).items():
        table = Table(*rows[0], title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            table.add_row(*row.values())
        console.print(table)
    for key, value in about.items():
        lines = value.values() if isinstance(value, dict) else [f"{key}: {value}"]
        console.print(*lines, sep="\n", highlight=False, soft_wrap=True)


def peak_of(name: str) -> float | None:
    """Operations per second in bf16 of the GPU of this name, at most; None where it is none of `PEAK_TFLOPS`.

    >>> peak_of("NVIDIA H100 80GB HBM3"), peak_of("NVIDIA RTX A1000")
    (989000000000000.0, None)
    """
    return next((peak * 1e12 for model, peak in PEAK_TFLOPS.items() if re.search(rf"\b{model}\b", name)), None)


def cpu_name() -> str:
    """The processor's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    # ARM has no such line
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
