"""A scorer in a few lines of Python: `load_scorer(folder).score(image, caption)`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from datamodules.batch import ImageTextBatch, InputError
from lightning_modules.backbones import BACKBONES, Source, build_backbone, shown
from lightning_modules.base import AlignmentModule
from lightning_modules.pair_lists import (
    MAX_CAPTIONS,
    ImageLike,
    Row,
    batches_of,
    caption_list,
    image_list,
    open_image,
    rows_of_each,
    rows_of_matrix,
    rows_of_pairs,
    text_row,
)
from lightning_modules.published import saved_config
from lightning_modules.runs import (
    CONFIG_FILE,
    SCORER_FILE,
    WEIGHTS_FILE,
    check_finished,
    load_trained,
    read_settings,
    weights_dtype,
)
from lightning_modules.scorer_file import DTYPES, ScorerSettings, find_scorer_settings

ADAPTERS_FILE, TRANSFORMERS_FILE = "adapter_config.json", "config.json"
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
NO_TRAINING = {"lr": 0.0}
KINDS = "the folder of a finished `itm train`, one of `itm export` or in Transformers' format, or a name on the hub"


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

    Raises:
        InputError: this machine has no such device.
    """

    def __init__(self, module: AlignmentModule, *, device: torch.device | str | None = None):
        self.device = find_device(device)
        self.module = module.eval().to(self.device)

    def __repr__(self) -> str:
        return f"Scorer({self.backbone}, {next(self.module.network.parameters()).dtype}, {self.device})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Scorer:
        return self

    @property
    def backbone(self) -> str:
        """The family: llava, blip2 or clip."""
        return self.module.backbone

    def score(
        self,
        images: ImageLike | Iterable[ImageLike],
        captions: str | Iterable[str],
        *,
        matrix: bool = False,
        batch_size: int = 64,
    ) -> float | torch.Tensor:
        """The backbone's published score: in [0, 1] for llava and blip2's `itm`, a cosine in [-1, 1] for clip.

        Args:
            images: one image (see `ImageLike`), or a list.
            captions: one caption, or a list.
            matrix: score each of M images with each of N captions.
            batch_size: most pairs that are computed together.

        Returns:
            A float for one image and one caption. [N] float32 on the CPU for two lists of N, for one image with a list
            of N captions, and for a list of N images with one caption. [M, N] with `matrix`, always.

        Raises:
            InputError: a ValueError of one line: lists of different lengths, or what is no image or no caption, and
                where it stands.
        """
        logits = self._logits(images, captions, matrix, batch_size)
        with torch.inference_mode():
            scores = self.module.score(logits.to(self.device)).cpu()
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
            raise InputError(f"batch_size must be a whole number from 1, got {shown(batch_size)}.")
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
        rows = rows_of_pairs(pictures, min(MAX_CAPTIONS, batch_size))
        for row, values in self._row_logits(rows, pictures, texts, batch_size):
            result[row.captions] = values
        return result[0] if one_text and one_picture else result

    def _matrix(self, images: list[ImageLike], captions: list[str], batch_size: int) -> torch.Tensor:
        """[M, N] logits; where the backbone reads images and captions apart, each once."""
        result = torch.empty(len(images), len(captions))
        if not result.numel():
            return result
        most = min(MAX_CAPTIONS, batch_size)
        rows = rows_of_each(len(images), len(captions), most)
        with computing(self.device):
            apart = self.module.matrix_logits(batch for _, batch in self._batches(rows, images, captions, batch_size))
        if apart is None:
            rows = rows_of_matrix(len(images), len(captions), most)
            for row, values in self._row_logits(rows, images, captions, batch_size):
                result[row.image, row.captions] = values
            return result
        # what filled up rows comes again and is left out
        place = {caption: column for column, caption in enumerate(text for row in rows for text in row.captions)}
        result[:] = apart.cpu()[: len(images), [place[caption] for caption in range(len(captions))]]
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
                    last = row.image, open_image(images[row.image], f"images[{row.image}]")
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


def load_scorer(
    path_or_name: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    base: str | os.PathLike[str] | None = None,
) -> Scorer:
    """The scorer of a training, of a checkpoint in Transformers' format, or of adapters that `itm export` wrote.

    A checkpoint's `model_type` says which backbone it is of (llava, blip-2 or clip); a `scorer.json` beside it, as `itm
    export` writes it, how it scores where that is not the backbone's default. Safetensors only; no code is run that
    comes with a checkpoint.

    Args:
        path_or_name: the folder of a finished `itm train`, a folder in Transformers' format, or a name on the hub.
        device: where to compute ("cuda", "cuda:1", "cpu"); the best there is where None.
        dtype: of the weights ("bfloat16"); where None, float32, or what a run was trained in where that is `bf16-true`,
            or what `scorer.json` says.
        base: hub name or folder of the base of adapters, where it is not where it was in training.

    Raises:
        InputError: a ValueError of one line: there is no such scorer, its training is not finished, its weights are
            damaged or do not fit, adapters were trained on another base, or this machine has no such device.
    """
    device, wanted = find_device(device), find_dtype(dtype)
    folder = Path(path_or_name).expanduser()
    if (folder / ADAPTERS_FILE).is_file():
        module = _adapters_module(folder, wanted, base)
    elif (folder / TRANSFORMERS_FILE).is_file() or is_hub_name(path_or_name):
        module = _published_module(folder if folder.is_dir() else Path(path_or_name), wanted)
    elif (folder / CONFIG_FILE).is_file() or (folder / WEIGHTS_FILE).is_file():
        module = _trained_module(folder, wanted)
    else:
        found = f"holds neither {CONFIG_FILE} nor {TRANSFORMERS_FILE}" if folder.is_dir() else "is no folder"
        raise InputError(f"{folder} {found}; give {KINDS}.")
    return Scorer(module, device=device)


def is_hub_name(path_or_name: str | os.PathLike[str]) -> bool:
    """Whether this can be a name on the hub: it is like one, and nothing here is called so.

    >>> is_hub_name("openai/clip-vit-base-patch32"), is_hub_name("runs/a/b"), is_hub_name("./clip")
    (True, False, False)
    """
    name = os.fspath(path_or_name)
    return bool(HUB_NAME.fullmatch(name)) and not os.path.exists(name)


def _trained_module(folder: Path, dtype: torch.dtype | None) -> AlignmentModule:
    check_finished(folder)
    model, precision = read_settings(folder)
    module = load_trained(folder, model, dtype=dtype or weights_dtype(precision), optim=NO_TRAINING)
    if dtype is not None:  # a tiny model's weights, and adapters; buffers stay as `from_pretrained` leaves them
        for parameter in module.parameters():
            parameter.data = parameter.data.to(dtype)
    return module


def _published_module(name_or_folder: Path, dtype: torch.dtype | None) -> AlignmentModule:
    name = str(name_or_folder)
    try:
        model_type = saved_config(name).get("model_type")
        settings = find_scorer_settings(name)
    except (OSError, ValueError) as error:
        raise InputError(" ".join(str(error).split())) from None
    backbones = {backbone.model_type: key for key, backbone in BACKBONES.items()}
    if model_type not in backbones:
        raise InputError(
            f"{name} is a checkpoint of type {shown(model_type)}; a scorer is made of {', '.join(backbones)}."
        )
    settings = settings or ScorerSettings(backbones[model_type])
    if settings.backbone != backbones[model_type]:
        raise InputError(
            f"{name}: backbone in {SCORER_FILE} must be {backbones[model_type]}, as {TRANSFORMERS_FILE} says, got "
            f"{settings.backbone}; export the scorer again."
        )
    model = {"backbone": settings.backbone, "checkpoint": name, **settings.model}
    return build_backbone(model, Source(dtype=dtype or settings.dtype), NO_TRAINING)


def _adapters_module(folder: Path, dtype: torch.dtype | None, base: str | os.PathLike[str] | None) -> AlignmentModule:
    from lightning_modules.export import load_adapters

    try:
        settings = find_scorer_settings(folder) or ScorerSettings("")
        adapted, processor = load_adapters(
            folder, None if base is None else os.fspath(base), dtype=dtype or settings.dtype
        )
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: PEFT, where shapes do not fit
        raise InputError(" ".join(str(error).split())) from None
    loaded = adapted.get_base_model(), processor
    return build_backbone({"backbone": settings.backbone, **settings.model}, Source(loaded=loaded), NO_TRAINING)


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
        torch.empty(1, device=found).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device must be one that this machine has, got {str(device)!r} ({reason}).") from None
    return found


def find_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A type of weights by its name.

    Raises:
        InputError: it is none of `DTYPES`.
    """
    if dtype is None or dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {shown(dtype)}.")
    return DTYPES[dtype]
