"""Benchmarks drawn from a population whose metrics are known, one for each protocol; items of a cluster are alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from datamodules.benchmarks import PROTOCOLS, Logits, Measured

GROUPS = np.array(["a", "b"])
CLASSES = 8


class Simulated(NamedTuple):
    """How a benchmark is drawn.

    Attributes:
        draw: generator, clusters -> key and logits.
        largest: clusters of the largest draw that takes a second; the truth is the mean over such draws. 0 where it
            depends on how many images there are.
    """

    draw: Callable[[np.random.Generator, int], tuple[pa.Table, Logits]]
    largest: int = 40_000


def measure(protocol: str, generator: np.random.Generator, clusters: int) -> Measured:
    """The metrics of one drawn benchmark."""
    key, logits = SIMULATED[protocol].draw(generator, clusters)
    return PROTOCOLS[protocol].measure(key, logits, calibrated=True)


def _pairs(generator: np.random.Generator, clusters: int) -> tuple[pa.Table, Logits]:
    owners = _items(generator, clusters)
    image = generator.normal(size=(2, clusters))[:, owners]
    groups = generator.integers(0, 2, size=len(owners))
    true = 1.2 + image[0] + generator.normal(size=len(owners))
    false = image.sum(0) + groups / 2 + generator.normal(size=len(owners)) - 0.3
    names = _names("item", range(len(owners)))
    images = _names("image", owners)
    texts = [[f"{kind}{i}" for i in range(len(owners))] for kind in ("true", "false")]
    key = pa.table(
        {
            "item_id": names,
            "image_id": images,
            "group": GROUPS[groups].tolist(),
            "true": [[text] for text in texts[0]],
            "false": [[text] for text in texts[1]],
        }
    )
    return key, _logits(images * 2, texts[0] + texts[1], np.concatenate([true, false]))


def _groups(generator: np.random.Generator, clusters: int) -> tuple[pa.Table, Logits]:
    owners = _items(generator, clusters, most=2)
    items = len(owners)
    logits = generator.normal(size=(items, 2, 2)) + np.eye(2) + generator.normal(size=(clusters, 2, 2))[owners]
    # the first image is the cluster's, the second one the item's own
    images = [[f"image{owner}", f"other{item}"] for item, owner in enumerate(owners)]
    texts = [[f"text{item}_0", f"text{item}_1"] for item in range(items)]
    key = pa.table(
        {
            "item_id": _names("item", range(items)),
            "group": GROUPS[generator.integers(0, 2, size=items)].tolist(),
            "image_ids": images,
            "text_ids": texts,
        }
    )
    every_image = [image for pair in images for image in pair for _ in range(2)]
    return key, _logits(every_image, [text for pair in texts for text in pair * 2], logits.ravel())


def _labels(generator: np.random.Generator, clusters: int) -> tuple[pa.Table, Logits]:
    owners = _items(generator, clusters)
    labels = generator.integers(0, 2, size=len(owners))
    logits = 1.5 * labels - 0.5 + generator.normal(size=clusters)[owners] + generator.normal(size=len(owners))
    return _rows(owners, GROUPS[owners % 2], logits, label=labels)


def _ratings(generator: np.random.Generator, clusters: int) -> tuple[pa.Table, Logits]:
    """Prompts of four images with two raters each."""
    prompts = np.repeat(np.arange(clusters), 4)
    quality = generator.normal(size=clusters)[prompts] + generator.normal(size=len(prompts))
    logits = quality + generator.normal(size=clusters)[prompts] / 2 + generator.normal(size=len(prompts))
    raters = np.repeat(np.arange(len(prompts)), 2)
    ratings = np.clip(np.round(3 + quality[raters] + 0.7 * generator.normal(size=len(raters))), 1, 5)
    key, found = _rows(np.arange(len(prompts)), GROUPS[prompts % 2], logits)
    more = {"rating": ratings, "prompt_id": _names("prompt", prompts[raters])}
    return _with(key.take(pa.array(raters)), more), found


def _retrieval(generator: np.random.Generator, clusters: int) -> tuple[pa.Table, Logits]:
    """Features of length 1, two texts an image; some images are described better than others."""
    images = _unit(generator.normal(size=(clusters, 16)))
    owners = np.repeat(np.arange(clusters), 2)
    noise = generator.uniform(1, 3, size=clusters)[owners, None]
    texts = _unit(images[owners] + noise * _unit(generator.normal(size=(len(owners), 16))))
    names = _names("image", range(clusters)), _names("text", range(len(owners)))
    key = pa.table({"image_id": _names("image", owners), "text_id": names[1]})
    return key, Logits.from_matrix(*names, images @ texts.T)


def _classes(generator: np.random.Generator, clusters: int) -> tuple[pa.Table, Logits]:
    """Classes of one size in the population, some of them harder."""
    true = generator.integers(0, CLASSES, size=clusters)
    logits = generator.normal(size=(clusters, CLASSES)) + np.linspace(0, 2, CLASSES)[true, None] * np.eye(CLASSES)[true]
    names = _names("image", range(clusters)), _names("class", range(CLASSES))
    key = pa.table({"image_id": names[0], "text_id": _names("class", true)})
    return key, Logits.from_matrix(*names, logits)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


SIMULATED = {
    "pairs": Simulated(_pairs),
    "groups": Simulated(_groups),
    "labels": Simulated(_labels),
    "ratings": Simulated(_ratings, largest=500),
    "retrieval": Simulated(_retrieval, largest=0),
    "classes": Simulated(_classes),
}


def _items(generator: np.random.Generator, clusters: int, most: int = 4) -> np.ndarray:
    """The cluster of each item; each has 1 to `most` of them."""
    return np.repeat(np.arange(clusters), generator.integers(1, most + 1, size=clusters))


def _rows(owners: np.ndarray, groups: np.ndarray, logits: np.ndarray, **more: object) -> tuple[pa.Table, Logits]:
    images, texts = _names("image", owners), _names("text", range(len(owners)))
    key = pa.table({"item_id": texts, "image_id": images, "text_id": texts, "group": groups.tolist()})
    return _with(key, more), _logits(images, texts, logits)


def _with(key: pa.Table, more: dict[str, object]) -> pa.Table:
    for name, values in more.items():
        key = key.append_column(name, pa.array(values))
    return key


def _logits(images: Sequence[str], texts: Sequence[str], logits: np.ndarray) -> Logits:
    return Logits.from_table(pa.table({"image_id": images, "text_id": texts, "logit": logits}))


def _names(kind: str, numbers: Sequence[int] | range | np.ndarray) -> list[str]:
    return [f"{kind}{number}" for number in numbers]
