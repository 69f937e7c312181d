"""What the contrastive losses cost: `python -m experiments.bench.loss_cost --help`.

The baseline is the plain contrastive loss of CLIP as open_clip computes it (`ClipLoss`): two products of features, two
cross entropies, positives only. Forward and backward on random features; the encoders are not part of it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from lightning_modules.losses import CeClipLoss, CeClipSettings, ContrastLayout

PLAIN = "contrast of positives"
HARD = "ITC with hard negatives"
SETTINGS = {
    HARD: CeClipSettings(imc_weight=0.0, cmr_weight=0.0),
    "and CMR": CeClipSettings(imc_weight=0.0),
    "and IMC (CE-CLIP)": CeClipSettings(),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.loss_cost",
        description="Times contrastive losses in turns in one process, and measures each one's peak memory in its own.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--images", type=int, default=4096, help="in the global batch (default: 4096)")
    add("--negatives", type=int, default=4, help="hard negatives of each image (default: 4)")
    add("--width", type=int, default=512, help="of the features (default: 512)")
    add("--turns", type=int, default=5, help="repetitions (default: 5)")
    add("--threads", type=int, default=2, help="of torch (default: 2)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    arguments = parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    # first, since a child begins with its parent's peak
    peaks = {name: _peak(name, arguments) for name in (PLAIN, *SETTINGS)}
    seconds: dict[str, list[float]] = {name: [] for name in peaks}
    # the first turn warms up and is left out below
    for _ in range(arguments.turns + 1):
        for name, times in seconds.items():
            step = make_step(name, arguments)
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
    print("| loss | similarities | seconds | times the plain one | peak memory | times the plain one |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, times in seconds.items():
        ratios = [own / plain for own, plain in zip(times[1:], seconds[PLAIN][1:], strict=True)]
        cells = (
            name,
            f"{similarities(name, arguments):.1f} million",
            f"{statistics.median(times[1:]):.2f}",
            f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]",
            f"{peaks[name]:.0f} MiB",
            f"{peaks[name] / peaks[PLAIN]:.2f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)
    return 0


def make_step(name: str, sizes: argparse.Namespace) -> Callable[[], None]:
    """A forward and backward pass of a loss on random features of `sizes`."""
    generator = torch.Generator().manual_seed(0)
    batch, negatives = sizes.images, sizes.negatives
    images, texts = (
        F.normalize(torch.randn(rows, sizes.width, generator=generator), dim=1).requires_grad_()
        for rows in (batch, batch * (1 + negatives))
    )
    # CLIP's upper bound of the scale, which trained models reach
    scale = torch.tensor([100.0])
    place = torch.arange(batch)
    owners = place.repeat_interleave(negatives)
    layout = ContrastLayout(
        anchor_images=place,
        anchor_texts=place,
        image_ids=place,
        text_image_ids=torch.cat([place, owners]),
        text_labels=torch.cat([torch.ones_like(place), torch.zeros_like(owners)]),
        hard_texts=batch + torch.arange(len(owners)),
        hard_anchors=owners,
        hard_types=torch.arange(negatives).repeat(batch),
    )

    def plain() -> torch.Tensor:
        captions = texts[:batch]
        image_to_text, text_to_image = scale * images @ captions.T, scale * captions @ images.T
        return (F.cross_entropy(image_to_text, place) + F.cross_entropy(text_to_image, place)) / 2

    def ce_clip() -> torch.Tensor:
        loss = CeClipLoss(SETTINGS[name])
        loss.rank_thresholds.meet(map(str, range(negatives)))
        return loss.contrast(images, texts, scale, layout, anchors=batch, hard_texts=len(owners))[0]

    return lambda: (plain if name == PLAIN else ce_clip)().backward()


def similarities(name: str, sizes: argparse.Namespace) -> float:
    """How many cosines of any two features a loss is made of, in millions."""
    images, negatives = sizes.images, sizes.images * sizes.negatives
    # both directions count, as open_clip computes two products
    parts = 2 * images**2 + images * negatives * (name != PLAIN) + images * negatives * ("IMC" in name)
    return parts / 1e6


def _peak(name: str, sizes: argparse.Namespace) -> float:
    """MiB by which one step raises the peak resident size of a fresh process."""
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=_measure_peak, args=(sender, name, sizes))
    child.start()
    # or recv would wait for ever where the child dies: this end would stay open
    sender.close()
    found: float = receiver.recv()
    child.join()
    return found


def _measure_peak(sender: Any, name: str, sizes: argparse.Namespace) -> None:
    torch.set_num_threads(sizes.threads)
    step = make_step(name, sizes)
    make_step(PLAIN, argparse.Namespace(**{**vars(sizes), "images": 8}))()  # what every first step takes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


if __name__ == "__main__":
    sys.exit(main())
