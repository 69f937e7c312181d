"""Scoring from Python: `Scorer(module).score(image, caption)`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from datamodules.batch import ImageTextBatch, InputError
from datamodules.pixels import MAX_PIXELS
from lightning_modules.base import AlignmentModule
from lightning_modules.scoring.inputs import (
    MAX_CAPTIONS,
    ImageLike,
    Row,
    batches_of,
    caption_list,
    image_batches,
    image_list,
    open_image,
    rows_of_matrix,
    rows_of_pairs,
    text_row,
)
from lightning_modules.settings import quoted


class Scorer:
    """Scores images with captions: higher = better match.

    The same pair has the same score (to rounding) whatever it is scored together with. An image that comes several
    times, as the same object or path, is computed once for every 16 of its captions. Copies share the model.

    Args:
        module: a trained scorer; put into eval mode on `device`.
        device: where to compute; the best there is where None.

    Attributes:
        module: the scorer as a LightningModule; its `captions_cut` counts the captions that were cut.
        device: where it computes.
        max_pixels: larger images are refused, see `datamodules.pixels.check_pixels`; may be set.

    Raises:
        InputError: this machine has no such device.
    """

    def __init__(self, module: AlignmentModule, *, device: torch.device | str | None = None):
        self.device = find_device(device)
        self.module = module.eval().to(self.device)
        self.max_pixels = MAX_PIXELS

    def __repr__(self) -> str:
        return f"Scorer({self.backbone}, {next(self.module.network.parameters()).dtype}, {self.device})"

    # torchmetrics deep-copies a metric, and what it holds, in `clone` and in collections
    def __deepcopy__(self, memo: dict[int, Any]) -> Scorer:
        return self

    @property
    def backbone(self) -> str:
        """The family, a name in the table of backbones."""
        return self.module.backbone

    def score(
        self,
        images: ImageLike | Iterable[ImageLike],
        captions: str | Iterable[str],
        *,
        matrix: bool = False,
        batch_size: int = 64,
    ) -> float | torch.Tensor:
        """The backbone's published score: in [0, 1], but a cosine in [-1, 1] for clip and blip2's `itc`.

        Args:
            images: one image (see `ImageLike`), or a list.
            captions: one caption, or a list.
            matrix: score each of M images with each of N captions.
            batch_size: most pairs that are computed together; in a matrix of clip, most images or captions.

        Returns:
            A float for one image and one caption. [N] float32 on the CPU for two lists of N, for one image with a list
            of N captions, and for a list of N images with one caption. [M, N] with `matrix`, always.

        Raises:
            InputError: a ValueError of one line: lists of different lengths, or what is no image or no caption, and
                where it stands.
        """
        logits = self._logits(images, captions, matrix, batch_size)
        with torch.inference_mode():
            # on the device, where a score may need a weight (the scale of CLIP)
            scores = self.module.score(logits.to(self.device)).cpu()
        # a tensor made in inference mode takes no part in autograd; its copy does
        return scores.clone() if logits.ndim else scores.item()

    def logits(
        self,
        images: ImageLike | Iterable[ImageLike],
        captions: str | Iterable[str],
        *,
        matrix: bool = False,
        batch_size: int = 64,
    ) -> float | torch.Tensor:
        """The match logits, larger = better match; arguments, shapes and errors are those of `score`."""
        logits = self._logits(images, captions, matrix, batch_size)
        return logits if logits.ndim else logits.item()

    def _logits(self, images: Any, captions: Any, matrix: bool, batch_size: int) -> torch.Tensor:
        """[] for one pair, [N] for several, [M, N] for a matrix."""
        if type(batch_size) is not int or batch_size < 1:
            raise InputError(f"batch_size must be a whole number from 1, got {quoted(batch_size)}.")
        # captions first: where the two are swapped, that says more
        texts, one_text = caption_list(captions)
        pictures, one_picture = image_list(images)
        if matrix:
            return self._matrix(pictures, texts, batch_size)
        if one_picture != one_text:
            pictures, texts = (pictures * len(texts), texts) if one_picture else (pictures, texts * len(pictures))
        if len(pictures) != len(texts):
            raise InputError(
                f"images and captions must be as many, got {len(pictures)} and {len(texts)}; matrix=True scores each "
                "image with each caption."
            )
        result = torch.empty(len(texts))
        # no row is split over batches, so none may be larger than one
        rows = rows_of_pairs(pictures, min(MAX_CAPTIONS, batch_size))
        for row, values in self._row_logits(rows, pictures, texts, batch_size):
            result[row.captions] = values
        return result[0] if one_text and one_picture else result

    def _matrix(self, images: list[ImageLike], captions: list[str], batch_size: int) -> torch.Tensor:
        """[M, N] logits; where the backbone reads images and captions apart, each once."""
        if not images or not captions:
            return torch.empty(len(images), len(captions))
        texts = [captions[start : start + batch_size] for start in range(0, len(captions), batch_size)]
        with computing(self.device):
            apart = self.module.matrix_logits(image_batches(images, batch_size, self.max_pixels), texts)
        result = torch.empty(len(images), len(captions))
        if apart is None:
            rows = rows_of_matrix(len(images), len(captions), min(MAX_CAPTIONS, batch_size))
            for row, values in self._row_logits(rows, images, captions, batch_size):
                result[row.image, row.captions] = values
            return result
        result.copy_(apart)
        for image, values in enumerate(result):
            check_finite(values, Row(image, range(len(captions))))
        return result

    def _row_logits(
        self, rows: Sequence[Row], images: list[ImageLike], captions: list[str], batch_size: int
    ) -> Iterator[tuple[Row, torch.Tensor]]:
        """Each row with the logits of its captions."""
        for taken, batch in self._batches(rows, images, captions, batch_size):
            with computing(self.device):
                logits = self.module.logits(batch).cpu()
            for row, values in zip(taken, logits, strict=True):
                check_finite(values[: len(row.captions)], row)
                yield row, values[: len(row.captions)]

    def _batches(
        self, rows: Sequence[Row], images: list[ImageLike], captions: list[str], batch_size: int
    ) -> Iterator[tuple[list[Row], ImageTextBatch]]:
        """Rows in batches of up to `batch_size` captions, on the device."""
        collate = self.module.collator()
        # rows of an image follow each other: it is read once
        last: tuple[int, Any] = (-1, None)
        for taken in batches_of(rows, batch_size):
            made = []
            for row in taken:
                if row.image != last[0]:
                    last = row.image, open_image(images[row.image], f"images[{row.image}]", self.max_pixels)
                made.append(text_row(row, last[1], captions))
            batch = collate(made)
            self.module.count_cut(batch)
            yield taken, batch.to(self.device)


@contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Without gradients, and in the precision of the weights also where the caller runs under autocast."""
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        yield


def check_finite(logits: torch.Tensor, row: Row) -> None:
    """Raises InputError where a logit of a row is not finite."""
    if not bool(torch.isfinite(logits).all()):
        first = row.captions[int((~torch.isfinite(logits)).nonzero()[0])]
        raise InputError(
            f"The logit of images[{row.image}] and captions[{first}] is not finite; check the weights and their dtype."
        )


def find_device(device: torch.device | str | None) -> torch.device:
    """A device by its name; CUDA's, Apple's or the CPU, the first there is, where None.

    Raises:
        InputError: this machine has no such device.
    """
    if device is None:
        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        return torch.device(next(name for name, there in available.items() if there))
    try:
        found = torch.device(device)
        # a device may have a name and not work: something has to run on it
        torch.empty(1, device=found).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device must be one that this machine has, got {str(device)!r} ({reason}).") from None
    return found
