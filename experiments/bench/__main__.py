"""Times packed scorers against the plain Transformers model: `make bench`, or `python -m experiments.bench --help`."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.bench.report import LABELS, Result, cpu_name, heading, markdown, peak_of, positive, show

if TYPE_CHECKING:
    from experiments.bench.measure import Case

PRESET_NAMES = ("tiny", "small", "7b")
EXAMPLES = """\
every implementation first has to give the same match logits; then each repetition runs all of them once, and ratios are
taken within a repetition. Reading and tokenising are not timed: all get inputs that lie ready.

examples:
  python -m experiments.bench                              what BENCHMARKS.md shows (make bench)
  python -m experiments.bench --backbones llava --work score --captions-scored 2 4 8 16
  python -m experiments.bench --preset 7b --device cuda    published sizes, random weights, bf16; training with LoRA and
                                                           of all weights; share of the GPU's arithmetic that is used
  python -m experiments.bench --markdown                   the table, ready to paste
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary = "Times scoring and training steps: captions packed behind their image, and the plain Transformers model."
    made = argparse.ArgumentParser(
        "python -m experiments.bench",
        description=summary,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--preset", choices=PRESET_NAMES, default="small", help="sizes of the models (default: small)")
    add("--device", default="cpu", help="cpu, or cuda; 7b needs cuda (default: cpu)")
    add("--dtype", choices=("float32", "bfloat16"), help="of the timed weights (default: the preset's)")
    add("--backbones", nargs="+", choices=LABELS, default=list(LABELS), help="scorers (default: all)")
    add("--work", nargs="+", choices=("train", "score"), default=("train", "score"), help="what to time")
    add("--tune", nargs="+", choices=("full", "lora"), help="how to train (default: the preset's)")
    add("--images", type=positive, help="in a batch (default: the preset's)")
    add("--captions-trained", nargs="+", type=positive, default=[4], metavar="N", help="per image (default: 4)")
    add("--captions-scored", nargs="+", type=positive, default=[4, 10], metavar="N", help="per image (default: 4 10)")
    add("--repetitions", type=positive, default=7, help="of every step; medians are shown (default: 7)")
    add("--threads", type=positive, help="of PyTorch (default: its own choice)")
    add("--no-memory", action="store_true", help="leave out peak memory: on a CPU each one takes a process of its own")
    add("--peak-tflops", type=float, help="of the device in --dtype, for MFU, where its name does not tell")
    add("--json", type=Path, metavar="PATH", help="also write every repetition and the conditions")
    add("--markdown", action="store_true", help="print the table as Markdown, and nothing else, on standard output")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns the exit code: 0 done, 1 where implementations do not agree, 2 bad arguments."""
    command = parser()
    arguments = command.parse_args(argv)
    from experiments.bench.measure import LogitsDifferError, torch
    from experiments.bench.models import PRESETS

    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        command.error("--device cuda: PyTorch sees no GPU here")
    if arguments.device == "cpu" and not PRESETS[arguments.preset].runs_on_cpu:
        command.error(
            f"--preset {arguments.preset} needs --device cuda: it would take hours on a CPU; try --preset small"
        )
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    # one text for arguments, records and child processes
    arguments.dtype = arguments.dtype or str(PRESETS[arguments.preset].dtype).removeprefix("torch.")
    torch.backends.cudnn.allow_tf32 = False  # or patch embeddings of two batch sizes differ by more than rounding
    about = conditions(arguments)
    results: list[Result] = []
    try:
        for group in groups(plan(arguments)):
            results += measure_group(group, arguments, about)
    except LogitsDifferError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        written = {"conditions": about, "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    if arguments.markdown:
        print("\n".join(markdown(results)))
    else:
        show(results, about)
    return 0


def plan(arguments: argparse.Namespace) -> list[Case]:
    """All cases; scoring runs the plain model, whose adapters would be merged."""
    from experiments.bench.measure import SCORE, TRAIN, Case, torch
    from experiments.bench.models import PRESETS

    preset = PRESETS[arguments.preset]
    every = [(TRAIN, tune, count) for tune in arguments.tune or preset.tunes for count in arguments.captions_trained]
    every += [(SCORE, "full", count) for count in arguments.captions_scored]
    return [
        Case(
            preset=arguments.preset,
            backbone=backbone,
            work=work,
            tune=tune,
            images=arguments.images or preset.images[backbone],
            captions=captions,
            device=arguments.device,
            dtype=arguments.dtype,
            threads=torch.get_num_threads(),
        )
        for backbone in arguments.backbones
        if backbone in preset.images
        for work, tune, captions in every
        if work in arguments.work
    ]


def groups(cases: Iterable[Case]) -> list[list[Case]]:
    """Cases that share a model, together."""
    shared: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        shared.setdefault((case.backbone, case.tune), []).append(case)
    return list(shared.values())


def measure_group(cases: Sequence[Case], arguments: argparse.Namespace, about: dict[str, Any]) -> list[Result]:
    """Builds the model of these cases, checks them all in float32, then times them in the case's precision."""
    from experiments.bench.implementations import BACKBONES, rows_of_noise
    from experiments.bench.measure import build_module, cast_parameters, check_equal_logits, prepare, torch
    from experiments.bench.models import PRESETS

    first = cases[0]
    preset, backbone = PRESETS[first.preset], BACKBONES[first.backbone]
    gc.collect()  # the model before this one: a GPU may not hold both
    tell(f"{LABELS[first.backbone]}: building, and checking that all implementations give the same logits")
    module = build_module(first)
    rows = rows_of_noise(first.images, max(case.captions for case in cases))
    # how long the sequences are decides the ratios, so it stands beside them
    about["models"][first.backbone] = backbone.describe(preset, module, rows)
    module.eval()
    checked = []
    for case in cases:
        ready = prepare(case, module)
        # in float32, before the cast: the rounding of bf16 would hide a wrong implementation
        checked.append((case, ready, check_equal_logits(ready.implementations, preset.tolerance)))
    cast_parameters(module, getattr(torch, first.dtype))
    return [result for case, ready, difference in checked for result in measure(case, ready, difference, arguments)]


def measure(case: Case, ready: Any, largest_difference: float, arguments: argparse.Namespace) -> list[Result]:
    """Operations, seconds and peak memory of every implementation; counting runs each once, which warms it up."""
    from experiments.bench import measure as bench_measure
    from experiments.bench.implementations import PACKED

    tell(f"{heading(case.backbone, case.work, case.tune, case.captions)}: {arguments.repetitions} repetitions")
    device = bench_measure.torch.device(case.device)
    steps = bench_measure.steps_of(case, ready)
    operations = {name: bench_measure.count_operations(step) for name, step in steps.items()}
    seconds = bench_measure.seconds_in_turns(steps, arguments.repetitions, device)
    peaks: dict[str, int] = {}
    if not arguments.no_memory and device.type == "cuda":
        peaks = {name: bench_measure.cuda_peak(step, device) for name, step in steps.items()}
    elif not arguments.no_memory:
        # after the timing, which must not share the cores with child processes
        peaks = bench_measure.cpu_peaks(case, list(steps))
    peak_operations = device_peak(arguments, device)
    results = []
    for name in steps:
        median = statistics.median(seconds[name])
        ratios = bench_measure.ratios(seconds, name)
        results.append(
            Result(
                backbone=case.backbone,
                work=case.work,
                tune=case.tune,
                images=case.images,
                captions=case.captions,
                way=name,
                seconds=seconds[name],
                median_seconds=median,
                pairs_per_second=case.images * case.captions / median,
                ratios=ratios,
                median_ratio=statistics.median(ratios),
                operations=operations[name],
                operations_ratio=operations[name] / operations[PACKED],
                peak_bytes=peaks.get(name),
                # MFU: PaLM (Chowdhery et al., 2022), appendix B; operations are counted, not estimated
                utilisation=operations[name] / median / peak_operations if peak_operations else None,
                largest_difference=largest_difference,
            )
        )
    return results


def device_peak(arguments: argparse.Namespace, device: Any) -> float | None:
    """Operations per second that the device can do at most; None where neither it nor the command line says."""
    if arguments.peak_tflops:
        return float(arguments.peak_tflops) * 1e12
    # the table holds bf16 on GPUs
    if device.type != "cuda" or arguments.dtype == "float32":
        return None
    from experiments.bench.measure import torch

    return peak_of(torch.cuda.get_device_name(device))


def conditions(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    import transformers

    from experiments.bench.measure import torch

    on_gpu = arguments.device.startswith("cuda")
    return {
        "preset": arguments.preset,
        "dtype": arguments.dtype,
        "device": torch.cuda.get_device_name(arguments.device) if on_gpu else cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "repetitions": arguments.repetitions,
        "load_average": os.getloadavg()[0],
        "attention": "SDPA in every implementation",
        "loss": "the same binary cross entropy of the match logits; forward and backward, no optimiser step",
        "memory": (
            "most bytes allocated on the GPU, model included"
            if on_gpu
            else "rise of ru_maxrss during one step in a fresh process, above what building the model took"
        ),
        "models": {},
    }


def tell(line: str) -> None:
    """Progress, on standard error: standard output is for the table."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
