"""How `experiments.bench` measures: equal logits first, then operations, seconds in turns, and peak memory."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from datamodules import POSITIVE
from experiments.bench.implementations import BACKBONES, PACKED, Implementation, rows_of_noise
from experiments.bench.models import PRESETS
from lightning_modules import AlignmentModule
from lightning_modules.losses import binary_loss

TRAIN, SCORE = "train", "score"
Shape = Sequence[int]


class LogitsDifferError(ValueError):
    """Two implementations of the same match logits do not agree, or the logits could not tell."""


@dataclass(frozen=True)
class Case:
    """What is timed: one backbone and one kind of work. Plain values, so that it travels to other processes."""

    preset: str
    backbone: str
    work: str
    tune: str
    images: int
    captions: int
    device: str
    dtype: str
    threads: int


@dataclass(frozen=True)
class Ready:
    """A case with its model built and its inputs on the device."""

    module: AlignmentModule
    implementations: dict[str, Implementation]
    labels: torch.Tensor


def build_module(case: Case) -> AlignmentModule:
    """The case's scorer with random weights in float32, the same at every call."""
    torch.set_num_threads(case.threads)
    # children build the same model again instead of receiving it: their peak holds no copy
    torch.manual_seed(0)
    with torch.device(case.device):
        return BACKBONES[case.backbone].build(PRESETS[case.preset], case.tune)


def prepare(case: Case, module: AlignmentModule) -> Ready:
    """The case's implementations on a module that `build_module` made; in training, those that can train."""
    rows = rows_of_noise(case.images, case.captions)
    implementations = BACKBONES[case.backbone].implementations(module, rows, torch.device(case.device))
    labels = torch.tensor([label for row in rows for label in row.labels], device=case.device)
    chosen = {name: one for name, one in implementations.items() if one.trains or case.work == SCORE}
    return Ready(module, chosen, labels)


def cast_parameters(module: AlignmentModule, dtype: torch.dtype) -> None:
    """Casts parameters in place. Buffers stay as they are: `from_pretrained` keeps rotary frequencies in float32."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


@torch.no_grad()
def check_equal_logits(implementations: Mapping[str, Implementation], tolerance: float) -> float:
    """Compares every implementation's logits with the packed ones.

    Returns:
        The largest absolute difference.

    Raises:
        LogitsDifferError: a difference exceeds `tolerance`, a logit is not finite, or the logits of different captions
            lie so close together that a wrong implementation would pass.
    """
    packed = torch.cat(list(implementations[PACKED].parts()))
    spread = float(packed.max() - packed.min())
    # not <=: NaN fails too
    if not spread > 10 * tolerance:
        raise LogitsDifferError(
            f"The check of equal logits cannot tell: {len(packed)} match logits of different captions span "
            f"{spread:.1e}, which must be more than 10 times the tolerance {tolerance:.1e}. Nothing was timed."
        )
    largest = 0.0
    for name, implementation in implementations.items():
        difference = float((torch.cat(list(implementation.parts())) - packed).abs().max())
        if not difference <= tolerance:
            raise LogitsDifferError(
                f"{name!r} computes something else than {PACKED!r}: match logits differ by up to {difference:.1e}, "
                f"allowed are {tolerance:.1e} in float32. Nothing was timed."
            )
        largest = max(largest, difference)
    return largest


def training_step(ready: Ready, name: str) -> None:
    """Forward and backward of the mean loss over all pairs, gradients left in the parameters; no optimiser step."""
    ready.module.zero_grad(set_to_none=True)
    remaining = ready.labels
    for part in ready.implementations[name].parts():
        # parts come image by image, as labels do
        labels, remaining = remaining[: len(part)], remaining[len(part) :]
        loss = binary_loss(part, (labels == POSITIVE).long(), torch.ones_like(labels, dtype=torch.bool))
        # parts add up to the mean over all pairs, whatever their sizes
        (loss * len(part) / len(ready.labels)).backward()


def scoring_step(ready: Ready, name: str) -> None:
    """The match logits of all pairs, without gradients."""
    with torch.inference_mode():
        torch.cat(list(ready.implementations[name].parts()))


def steps_of(case: Case, ready: Ready) -> dict[str, Callable[[], None]]:
    """A step of every implementation, as it is timed; the module gets the mode of the case's work, and no gradients."""
    ready.module.train(case.work == TRAIN)
    ready.module.zero_grad(set_to_none=True)  # those of training would count as memory of scoring
    step = training_step if case.work == TRAIN else scoring_step
    return {name: partial(step, ready, name) for name in ready.implementations}


def _attention(query: Shape, key: Shape, value: Shape, *rest: object, **named: object) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad: Shape, query: Shape, key: Shape, value: Shape, *rest: object, **named: object) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


# PyTorch's counter knows the attention kernels of GPUs only; there as here masked places count like others.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def count_operations(step: Callable[[], object]) -> int:
    """Floating-point operations of a step's matrix products, convolutions and attention, backward included."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        step()
    return counter.get_total_flops()


def seconds_in_turns(
    steps: Mapping[str, Callable[[], object]], repetitions: int, device: torch.device
) -> dict[str, list[float]]:
    """Wall-clock seconds of each step, one of each in every repetition.

    What else the machine does slows neighbours in time alike, so ratios are taken within a repetition; every other one
    runs backwards, so that no step always follows the same one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    gc.collect()
    gc.disable()  # as timeit does: a collection would hit whichever step comes next
    try:
        for repetition in range(repetitions):
            for name in list(steps)[:: -1 if repetition % 2 else 1]:
                _synchronize(device)
                start = time.perf_counter()
                steps[name]()
                _synchronize(device)
                seconds[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return seconds


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios(seconds: Mapping[str, Sequence[float]], name: str) -> list[float]:
    """How many times as long as the packed step a step took, in each repetition.

    >>> ratios({"packed": [1.0, 2.0], "loop": [3.0, 5.0]}, "loop")
    [3.0, 2.5]
    """
    return [other / packed for other, packed in zip(seconds[name], seconds[PACKED], strict=True)]


def cuda_peak(step: Callable[[], object], device: torch.device) -> int:
    """Most bytes allocated on the GPU during a step, the model included."""
    torch.cuda.synchronize(device)
    # or the peak would be that of an earlier implementation
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def cpu_peaks(case: Case, names: Sequence[str]) -> dict[str, int]:
    """Bytes by which a step raises a process's peak resident memory above what building the model took.

    Every implementation runs in a process of its own, since a process's peak never falls; each is forked from a small
    server that has imported the libraries and computed nothing.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    # max_tasks_per_child=1: every peak in a fresh process
    with ProcessPoolExecutor(max_workers=1, mp_context=context, max_tasks_per_child=1) as pool:
        return {name: pool.submit(_rise_of_peak, case, name).result() for name in names}


def _rise_of_peak(case: Case, name: str) -> int:
    module = build_module(case)
    ready = prepare(case, module)
    cast_parameters(module, getattr(torch, case.dtype))
    step = steps_of(case, ready)[name]
    # building and casting the model has set a peak already, which is taken off
    before = _peak_resident()
    step()
    return _peak_resident() - before


def _peak_resident() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes
