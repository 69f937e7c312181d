"""Scores rows with a trained module: the loop behind `itm evaluate` and `itm score`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from datamodules import ImageTextBatch, ImageTextRow
from experiments.runs.progress import say, track
from lightning_modules import AlignmentModule
from negatives.tables import InputError


@dataclass(frozen=True)
class TextScore:
    """One text's match logit and score."""

    image_id: str
    text_id: str
    logit: float
    score: float


def say_cut(module: AlignmentModule) -> None:
    """Says how many captions have been cut since the module was made, where any were."""
    if module.captions_cut:
        say(
            f"{module.captions_cut} captions had more tokens than the scorer reads and were cut, counted at each use "
            "since this start (model.long_captions=error refuses them)."
        )


def score_rows(
    module: AlignmentModule, rows: Sequence[ImageTextRow], *, batch_size: int, device: torch.device, label: str
) -> Iterator[TextScore]:
    """Scores every text of every row, in order.

    Args:
        module: a trained scorer; put into eval mode on `device`.
        rows: images with their captions.
        batch_size: rows at a time.
        device: where to compute.
        label: of the progress bar.
    """
    module.eval().to(device)
    # shuffle=False and no sampler: rows come back in the order they went in.
    loader: DataLoader[ImageTextBatch] = DataLoader(rows, batch_size=batch_size, collate_fn=module.collator())  # type: ignore[arg-type]
    for batch in track(loader, label):
        module.count_cut(batch)
        with torch.inference_mode():
            logits = module.logits(batch.to(device))
            # raw logits are kept beside: scores of sure answers are equal in float32, logits still rank them
            scores = module.score(logits)
        # padded cells may hold anything, so they are left out of the check
        if not bool(torch.isfinite(logits.cpu()[batch.caption_mask.cpu()]).all()):
            raise InputError(f"A logit is not finite, images {batch.image_ids}; check the weights and the precision.")
        for row, image_id in enumerate(batch.image_ids):
            for column in batch.caption_mask[row].nonzero().flatten().tolist():
                yield TextScore(
                    image_id, batch.text_ids[row][column], float(logits[row, column]), float(scores[row, column])
                )
