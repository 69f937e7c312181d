"""Checks and rates of the scorers on one GPU: `make gpu`, or `python -m experiments.bench.gpu --help`.

Beside torch, transformers, lightning and peft it needs the packages of `NEEDED`, and no others of this project's.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.bench.gpu.table import CHECK_COLUMNS, ROW_COLUMNS, Report, Row, counted
from experiments.bench.report import cpu_name, peak_of

if TYPE_CHECKING:
    import torch

    from lightning_modules import AlignmentModule

NEEDED = {"PIL": "pillow", "pyarrow": "pyarrow", "lazy_loader": "lazy-loader"}
"""Module -> the package that has it."""
NOT_MEASURED = "not measured"
MODEL_NAMES = ("llava", "qwen3_vl", "blip2")
PARTS = ("checks", "scoring", "attention", "training")
SCORED = (1, 4, 10)
"""Captions of an image."""
TUNES = {"lora": "LoRA", "full": "full"}
"""What trains, by the names of `experiments.bench.models` -> of a line."""
RATE_GOALS = {"scoring, 1 caption": 50.0, "scoring, 10 captions": 350.0}
MFU_GOALS = {"training step (full)": 0.50, "training step (LoRA)": 0.40}
"""What is wanted of an H100: pairs per second, and model FLOP utilisation; by words in a row's name."""
EXAMPLES = """\
in order: packed against plain logits, a resumed training and FSDP2 on one rank, each PASS or FAIL with its number; then
for each model pairs per second of scoring, SDPA against FlexAttention, and training steps. Every line is printed and
written at once. Weights are random, nothing is downloaded. Exit code 1 where a check did not pass, else 0; a line that
fails says why.

examples:
  python -m experiments.bench.gpu                                  on an H100: everything, in about 8 minutes
  python -m experiments.bench.gpu --size tiny --device cpu         everything on a CPU, in seconds: does it run?
  python -m experiments.bench.gpu --only checks                    what must be right, in a minute
  python -m experiments.bench.gpu --only training --models llava   one part of one model

where this project is not installed, but torch, transformers, lightning and peft are, from the repository's folder:
  pip install pillow pyarrow lazy-loader
  PYTHONPATH=. python -m experiments.bench.gpu --out gpu.md
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.gpu",
        description="Checks the scorers on a GPU, and measures scoring and training at published sizes in bf16.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--size", choices=("full", "tiny"), default="full", help="published sizes, or two layers (default: full)")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="full needs cuda (default: cuda)")
    add("--out", type=Path, default=Path("runs/gpu.md"), metavar="FILE.md", help="(default: runs/gpu.md)")
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="which parts (default: all)")
    add("--models", nargs="+", choices=MODEL_NAMES, default=MODEL_NAMES, help="which models (default: all)")
    add("--turns", type=int, default=5, help="of which medians are taken (default: 5)")
    add("--minutes", type=float, default=8.0, help="of the run; what would end later is not reached (default: 8)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Checks, measures, and returns the exit code: 0 done, 1 where a check did not pass, 2 bad arguments."""
    command = parser()
    arguments = command.parse_args(argv)
    if arguments.turns < 1:
        command.error("--turns must be at least 1")
    if arguments.minutes < 0:
        command.error("--minutes must be at least 0")
    if missing := [package for module, package in NEEDED.items() if find_spec(module) is None]:
        command.error(f"this needs {' '.join(missing)}: pip install {' '.join(missing)}")
    if arguments.size == "full" and arguments.device == "cpu":
        command.error("--size full needs --device cuda: it would take hours on a CPU; try --size tiny")
    # read where CUDA starts: without it cuBLAS may add in another order each time, and resuming is compared
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        command.error("--device cuda: PyTorch sees no GPU here; --size tiny --device cpu shows that it runs")
    torch.backends.cudnn.allow_tf32 = False  # or patch embeddings of two batch sizes differ by more than rounding
    device = torch.device(arguments.device)
    peak = peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    report = Report(arguments.out, arguments.minutes, peak)
    report.say(*header(arguments, device, peak))
    quiet()
    if "checks" in arguments.only:
        check(report, arguments, device)
    if set(arguments.only) - {"checks"}:
        report.table("Rates", ROW_COLUMNS)
        for name in arguments.models:
            measure(report, name, arguments, device)
    report.say("", "## Against the goals", "", *goals(report, arguments))
    return 1 if report.failed else 0


def header(arguments: argparse.Namespace, device: torch.device, peak: float | None) -> list[str]:
    """What the numbers depend on."""
    import lightning
    import peft
    import torch
    import transformers

    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else cpu_name()
    memory = f", {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB" if on_gpu else ""
    versions = {"torch": torch, "transformers": transformers, "lightning": lightning, "peft": peft}
    return [
        f"# {name}{memory}",
        "",
        f"- driver {output_of('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader')}, CUDA "
        f"{torch.version.cuda or 'none'}, Python {platform.python_version()}",
        "- " + ", ".join(f"{package} {module.__version__}" for package, module in versions.items()),
        f"- commit {output_of('git', 'rev-parse', '--short', 'HEAD')}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"- size {arguments.size}, bf16 weights, gradients and moments, SDPA, match logits in float32; random weights "
        "and images of noise, 640 x 480; reading and tokenising are not timed",
        f"- medians of {arguments.turns} turns; MFU against "
        + (f"{peak / 1e12:.0f} TFLOP/s, dense bf16" if peak else "nothing: no peak is known of this device"),
        "- `python -m experiments.bench.gpu --help` says what a line is; FLOPs: experiments/bench/gpu/flops.py",
    ]


def quiet() -> None:
    """Leaves out Lightning's advice on loaders and loggers; once it is imported, which sets the levels."""
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def output_of(*words: str) -> str:
    """The first line that a command prints; "unknown" where it cannot."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, cwd=Path(__file__).parent, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return next(iter(done.stdout.splitlines()), "unknown")


def check(report: Report, arguments: argparse.Namespace, device: torch.device) -> None:
    """All checks, on small models."""
    from experiments.bench.gpu import checks
    from experiments.bench.gpu.shapes import MODELS

    scale = "small" if arguments.size == "full" else "tiny"
    report.table("Checks", CHECK_COLUMNS)
    for name in arguments.models:
        label = MODELS[name].label
        report.check(f"packed = plain, {label} ({scale})", partial(checks.packing, name, scale, device))
    report.check(f"resumed = unbroken ({scale})", partial(checks.resuming, scale, device))
    report.check(f"FSDP2 on one rank = plain step ({scale})", partial(checks.sharding, scale, device))


def measure(report: Report, name: str, arguments: argparse.Namespace, device: torch.device) -> None:
    """All lines of a model; it is built once for what only scores, and freed before another one is built."""
    import torch

    from experiments.bench.gpu.attention import attention_rows
    from experiments.bench.gpu.scoring import scoring_rows
    from experiments.bench.gpu.shapes import MODELS, build
    from experiments.bench.gpu.training import training_rows

    label, scale, turns = MODELS[name].label, arguments.size, arguments.turns
    held: list[AlignmentModule] = []

    def built(rows: Callable[..., list[Row]], captions: int) -> list[Row]:
        if not held:
            held.append(build(name, scale, device, torch.bfloat16))
        return rows(name, held[0], captions, scale, device, turns)

    if "scoring" in arguments.only:
        for captions in SCORED:
            report.measure(f"{label}, scoring, {counted(captions)}", partial(built, scoring_rows, captions))
    if "attention" in arguments.only and name != "blip2":  # which has no packed sequence
        report.measure(f"{label}, SDPA and FlexAttention", partial(built, attention_rows, SCORED[-1]))
    held.clear()
    if "training" in arguments.only:
        for tune, shown in TUNES.items():
            release()
            rows = partial(training_rows, name, tune, scale, device, turns)
            report.measure(f"{label}, training step ({shown})", rows)
    release()


def release() -> None:
    """Gives the memory of models that nothing refers to back to the GPU."""
    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def goals(report: Report, arguments: argparse.Namespace) -> list[str]:
    """The checks in a line, and for each goal that was asked for what was measured."""
    from experiments.bench.gpu.shapes import MODELS
    from experiments.bench.implementations import PACKED

    lines = []
    if "checks" in arguments.only:
        lines.append(f"- checks: {'not passed: ' + '; '.join(report.failed) if report.failed else 'all passed'}")
    if arguments.size != "full":
        return [*lines, f"- goals are for published sizes on an H100; this was size {arguments.size}"]
    rows = {row.what: row for row in report.rows if row.way == PACKED}
    # of the two language models; BLIP-2 is six times as small
    for label in (MODELS[name].label for name in arguments.models if name != "blip2"):
        for words, rate in RATE_GOALS.items() if "scoring" in arguments.only else ():
            row = rows.get(f"{label}, {words}")
            found = f"{row.rate:.1f} pairs/s" if row else NOT_MEASURED
            lines.append(f"- {label}, {words}: {found}, goal {rate:.0f}{verdict(row.rate if row else None, rate)}")
        for words, share in MFU_GOALS.items() if "training" in arguments.only else ():
            row = next((one for what, one in rows.items() if what.startswith(f"{label}, {words}")), None)
            used = row.utilisation(report.peak) if row else None
            found = f"MFU {used:.1%}" if used is not None else NOT_MEASURED
            lines.append(f"- {label}, {words}: {found}, goal {share:.0%}{verdict(used, share)}")
    return lines or ["- nothing that has a goal was asked for"]


def verdict(found: float | None, goal: float) -> str:
    """A goal's end; "" where nothing was measured."""
    return "" if found is None else ": met" if found >= goal else ": missed"


if __name__ == "__main__":
    sys.exit(main())
