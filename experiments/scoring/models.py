"""A trained scorer's answers: of pairs that it reads together, or of images and texts that it encodes apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from datamodules import ImageTextRow
from datamodules.benchmarks import CELLS
from experiments.runs.progress import say
from experiments.scoring.engine import EngineSettings, Values, Work, answer
from experiments.scoring.plan import Plan, plan_pairs, plan_singles
from experiments.scoring.ranks import World
from experiments.scoring.requests import Places, Requests
from experiments.scoring.store import Keyed, Paired, Units
from negatives.tables import InputError, quoted

if TYPE_CHECKING:
    import torch

    from datamodules import ImageTextBatch
    from lightning_modules.backbones import Backbone

UNKNOWN = -1


class Answered(Protocol):
    """What a scorer says of all that was asked, by places in the requests."""

    @property
    def counts(self) -> dict[str, int]:
        """What was computed in this call, such as pairs or images; what the store had is not counted."""

    def pairs(self, images: Places, texts: Places) -> NDArray[np.float64]:
        """The logits [P] of pairs."""

    def matrix(self, images: Places, texts: Places, groups: Places) -> NDArray[np.float32]:
        """The logits (M, G) of images with groups of texts: wordings of one text, such as a class in all templates.

        Args:
            images: [M].
            texts: [N].
            groups: [N] the group, 0..G-1, of each text.
        """


@dataclass(frozen=True)
class PairAnswers:
    """Logits of single pairs."""

    cells: Places
    width: int
    logits: Values
    counts: dict[str, int]

    def pairs(self, images: Places, texts: Places) -> NDArray[np.float64]:
        """See `Answered`."""
        return self.logits[np.searchsorted(self.cells, images * self.width + texts)].astype(np.float64)

    def matrix(self, images: Places, texts: Places, groups: Places) -> NDArray[np.float32]:
        """See `Answered`: the mean logit over each group, as there are no features to average."""
        rows = [means(self.pairs(np.full(len(texts), image), texts), groups) for image in images]
        return np.array(rows, np.float32).reshape(len(images), -1)


@dataclass(frozen=True)
class FeatureAnswers:
    """Features of images [I, D] and texts [T, D]; their products, and `offset`, are the logits."""

    images: Values
    texts: Values
    counts: dict[str, int]
    offset: float = 0.0

    def pairs(self, images: Places, texts: Places) -> NDArray[np.float64]:
        """See `Answered`."""
        found = np.empty(len(images))
        step = max(1, CELLS // self.images.shape[1])
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            found[part] = np.einsum("nd,nd->n", self.images[images[part]], self.texts[texts[part]])
        return found + self.offset

    def matrix(self, images: Places, texts: Places, groups: Places) -> NDArray[np.float32]:
        """See `Answered`; of a group, the logits are products with `directions`."""
        own = directions(self.texts[texts], groups)
        result = np.empty((len(images), len(own)), np.float32)
        step = max(1, CELLS // len(own))
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            np.matmul(self.images[images[part]], own.T, out=result[part])
        # here and not in the features: those of several wordings are averaged, and a bias has no direction
        result += np.float32(self.offset)
        return result


@dataclass(frozen=True)
class TextAnswers:
    """Logits of texts, whatever the image."""

    logits: Values
    counts: dict[str, int]

    def pairs(self, images: Places, texts: Places) -> NDArray[np.float64]:
        """See `Answered`."""
        return self.logits[texts].astype(np.float64)

    def matrix(self, images: Places, texts: Places, groups: Places) -> NDArray[np.float32]:
        """See `Answered`."""
        return np.tile(means(self.logits[texts], groups).astype(np.float32), (len(images), 1))


def directions(features: Values, groups: Places) -> NDArray[np.float32]:
    """Features of texts in several wordings, as zero-shot classifiers are made (Radford et al., ICML 2021).

    Those of each wording are scaled to length 1, averaged, and scaled to length 1 again; then to the mean length that
    the wordings had, which is 1 for a CLIP. A text in one wording keeps its features to the bit.

    Args:
        features: [N, D].
        groups: [N] the group, 0..G-1, of each row; no group is empty.

    Returns:
        [G, D].
    """
    order = np.argsort(groups, kind="stable")
    counts = np.bincount(groups)
    starts = np.cumsum(counts) - counts
    features = features[order].astype(np.float32)
    own, several = features[starts], np.repeat(counts > 1, counts)
    if several.any():
        rows, sizes = features[several], counts[counts > 1]
        first = np.cumsum(sizes) - sizes
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        sums = np.add.reduceat(_scaled(rows, lengths), first)
        length = np.add.reduceat(lengths, first) / sizes[:, None].astype(np.float32)
        own[counts > 1] = length * _scaled(sums, np.linalg.norm(sums, axis=1, keepdims=True))
    return own


def _scaled(rows: NDArray[np.float32], lengths: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = np.zeros_like(rows)
    # what has no direction stays zero
    np.divide(rows, lengths, out=scaled, where=lengths > 0)
    return scaled


def means(values: Values, groups: Places) -> NDArray[np.float64]:
    """The mean of the values of each group."""
    return np.bincount(groups, values) / np.bincount(groups)


def say_cut(module: Backbone) -> None:
    """Says how many captions have been cut since the module was made, where any were."""
    if module.captions_cut:
        say(
            f"Captions were cut {module.captions_cut} times, to the most tokens that the scorer reads "
            "(model.long_captions=error refuses them)."
        )


def answer_pairs(
    module: Backbone, device: torch.device, requests: Requests, store: Units, settings: EngineSettings, world: World
) -> PairAnswers | None:
    """The logits of a scorer that reads image and text together; None in ranks but the first.

    Raises:
        InputError: an image cannot be read, a logit is not finite, or another rank has ended before its time.
    """
    cells = requests.pairs()
    width = len(requests.texts)
    items = Paired(requests.image_keys, requests.text_keys, cells)
    lengths = requests.text_lengths

    def plan(places: Places) -> Plan:
        return plan_pairs(cells, places, lengths, max_captions=settings.max_captions, unit_rows=settings.unit_rows)

    prepare = partial(pair_rows, requests, cells, module.collator())
    work = Work(items, plan, prepare, partial(pair_logits, module, device), "rows scored")
    if (found := answer([work], store, settings, world)) is None:
        return None
    return PairAnswers(cells, width, found[0].values, {"pairs": found[0].computed})


def pair_rows(requests: Requests, cells: Places, collate: Any, plan: Plan, rows: range) -> ImageTextBatch:
    """The batch of some rows of a plan of pairs."""
    made = []
    for row in rows:
        images, texts = np.divmod(cells[plan.row(row)], len(requests.texts))
        captions = requests.texts.take(texts).to_pylist()
        name = requests.images["image"][int(images[0])].as_py()
        unknown = [UNKNOWN] * len(captions)
        made.append(
            ImageTextRow(name, requests.load(int(images[0])), captions, captions, unknown, [""] * len(captions))
        )
    batch: ImageTextBatch = collate(made)
    return batch


def pair_logits(module: Backbone, device: torch.device, batch: ImageTextBatch) -> Values:
    """The logits [n] of all texts that exist, row by row.

    Raises:
        InputError: one is not finite.
    """
    import torch

    module.count_cut(batch)
    # not in inference mode: what is gathered or kept in a training's validation is trained on afterwards
    with torch.no_grad():
        logits = module.logits(batch.to(device)).cpu()
    # padded cells may hold anything, so they are left out
    found = logits[batch.caption_mask.cpu()].numpy()
    if not np.isfinite(found).all():
        raise InputError(f"A logit is not finite, images {batch.image_ids}; check the weights and the precision.")
    return found


def answer_apart(
    module: Backbone, device: torch.device, requests: Requests, store: Units, settings: EngineSettings, world: World
) -> FeatureAnswers | None:
    """The features of a scorer that encodes images and texts apart, each once; None in ranks but the first.

    Raises:
        InputError: an image cannot be read, a feature is not finite, or another rank has ended before its time.
    """
    # an item of its own is a row: as many items in a unit as rows of captions have
    unit_rows = settings.unit_rows * settings.max_captions
    images, texts = Keyed("images", requests.image_keys), Keyed("texts", requests.text_keys)
    lengths = requests.text_lengths
    works = [
        Work(
            images,
            partial(plan_singles, lengths=None, unit_rows=settings.unit_rows),
            partial(_pixels, requests, module.encoder),
            partial(_image_features, module, device),
            "images encoded",
        ),
        Work(
            texts,
            partial(plan_singles, lengths=lengths, unit_rows=unit_rows),
            partial(_tokens, requests, module.encoder),
            partial(_text_features, module, device),
            "texts encoded",
            settings.max_captions,
        ),
    ]
    if (found := answer(works, store, settings, world)) is None:
        return None
    counts = {"images": found[0].computed, "texts": found[1].computed}
    return FeatureAnswers(found[0].values, found[1].values, counts, module.logit_offset)


def _pixels(requests: Requests, encoder: Any, plan: Plan, rows: range) -> dict[str, torch.Tensor]:
    images = [requests.load(int(plan.row(row)[0])) for row in rows]
    pixels: dict[str, torch.Tensor] = encoder.image_inputs(images)
    return pixels


def _image_features(module: Backbone, device: torch.device, pixels: dict[str, torch.Tensor]) -> Values:
    import torch

    with torch.no_grad():
        moved = {name: value.to(device) for name, value in pixels.items()}
        return _finite(module.encode_images(moved).float().cpu().numpy(), "An image's features are")


def _tokens(requests: Requests, encoder: Any, plan: Plan, rows: range) -> dict[str, torch.Tensor]:
    tokens: dict[str, torch.Tensor] = encoder.text_inputs([_texts(requests, plan, rows)])
    return tokens


def _text_features(module: Backbone, device: torch.device, tokens: dict[str, torch.Tensor]) -> Values:
    import torch

    module.captions_cut += int(tokens["cut"].sum())
    with torch.no_grad():
        moved = {name: value.to(device) for name, value in tokens.items()}
        return _finite(module.encode_texts(moved).float().cpu().numpy(), "A text's features are")


def answer_texts(
    read: Any, requests: Requests, store: Units, settings: EngineSettings, world: World
) -> TextAnswers | None:
    """The logits of a scorer that reads texts alone; None in ranks but the first.

    Args:
        read: texts -> their logits.
        requests: what is asked; its images are not read.
        store, settings, world: see `answer`.

    Raises:
        InputError: a logit is not finite, or another rank has ended before its time.
    """
    unit_rows = settings.unit_rows * settings.max_captions
    plan = partial(plan_singles, lengths=requests.text_lengths, unit_rows=unit_rows)

    work = Work(
        Keyed("texts", requests.text_keys),
        plan,
        partial(_texts, requests),
        lambda texts: _finite(read(texts), "A logit is"),
        "texts read",
    )
    found = answer([work], store, settings, world)
    return None if found is None else TextAnswers(found[0].values, {"texts": found[0].computed})


def _texts(requests: Requests, plan: Plan, rows: range) -> list[str]:
    texts: list[str] = requests.texts.take([int(plan.row(row)[0]) for row in rows]).to_pylist()
    return texts


def _finite(values: Values, what: str) -> Values:
    if not np.isfinite(values).all():
        raise InputError(f"{what} not finite ({quoted(float(values[~np.isfinite(values)][0]))}); check the weights.")
    return values
