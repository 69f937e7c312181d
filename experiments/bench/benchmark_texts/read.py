"""The texts of benchmarks as judges of texts alone see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from datamodules.benchmarks import as_pairs, read_benchmark
from experiments.bench.filters import read_text_pairs
from negatives import NEGATIVE_TYPES
from negatives.judging import TextPairs, build_text_pairs
from negatives.tables import pair_table, text_table

PAIRS_FILE = "llm_negatives/pairs.jsonl"


class Part(NamedTuple):
    """Texts that judges are cross-fitted on together.

    Attributes:
        name: of the part; "" for a whole benchmark.
        text_pairs: its texts, with or without pairs. Its images are what judges of one have seen nothing of another.
        by: what these are.
    """

    name: str
    text_pairs: TextPairs
    by: str = "photo"


def official(name: str, folder: str) -> Callable[[Path], list[Part]]:
    """A reader of a benchmark that `itm audit` reads too."""

    def read(data: Path) -> list[Part]:
        pairs = as_pairs(read_benchmark(name, annotations=data / folder, texts_only=True))
        return [Part("", text_pairs_of(pairs.captions, pairs.negatives))]

    return read


def text_pairs_of(captions: pa.Table, negatives: pa.Table) -> TextPairs:
    """The texts and pairs of two tables."""
    return build_text_pairs(text_table(captions, negatives), pair_table(captions, negatives))


def read_written(data: Path) -> list[Part]:
    """ChatGPT's negatives of all types, harmonised."""
    return [Part("", read_text_pairs(str(data / PAIRS_FILE), list(NEGATIVE_TYPES), harmonised=True, paraphrases=False))]


def read_cola(data: Path) -> list[Part]:
    """Cola's multi-object items (Ray et al., NeurIPS 2023): two photos with their captions.

    Each caption of an item is true of one photo and false of the other, so that no judge of texts can be anything but a
    coin. Items that share a photo are one group.
    """
    benchmark = read_benchmark("cola", annotations=data / "cola", texts_only=True)
    text_of = dict(zip(benchmark.texts["text_id"].to_pylist(), benchmark.texts["text"].to_pylist(), strict=True))
    captions, negatives = [], []
    group_of = connected(benchmark.key["image_ids"].to_pylist())
    for number, (group, text_ids) in enumerate(zip(group_of, benchmark.key["text_ids"].to_pylist(), strict=True)):
        first, second = (text_of[text_id] for text_id in text_ids)
        for photo, (true, false) in enumerate(((first, second), (second, first))):
            name = f"{number}:{photo}"
            captions.append({"image_id": str(group), "caption_id": name, "caption": true})
            negatives.append(
                {"caption_id": name, "negative_id": name, "caption": false, "negative_type": "multi_object"}
            )
    tables = pa.Table.from_pylist(captions), pa.Table.from_pylist(negatives)
    return [Part("multi_object", text_pairs_of(*tables), "group")]


def read_seetrue(data: Path) -> list[Part]:
    """SeeTRUE (Yarom et al., NeurIPS 2023): texts of images with a label; a judge for each source.

    Most texts are prompts, true of some of their generated images and false of others. Each row is a text of its own,
    so that a prompt counts as often as it is asked about. A judge from other images would have seen the prompt itself.
    """
    benchmark = read_benchmark("seetrue", annotations=data / "seetrue", texts_only=True)
    text_of = dict(zip(benchmark.texts["text_id"].to_pylist(), benchmark.texts["text"].to_pylist(), strict=True))
    rows = [{**row, "text": text_of[row["text_id"]]} for row in benchmark.key.to_pylist()]
    rows.sort(key=lambda row: (row["group"], row["text"], row["image_id"]))
    parts = []
    for source in sorted({row["group"] for row in rows}):
        own = [row for row in rows if row["group"] == source]
        prompts, images = np.unique([row["text"] for row in own], return_inverse=True)
        labels = np.array([row["label"] for row in own])
        nothing = np.empty(0, dtype=np.int64)
        text_pairs = TextPairs(
            captions=[row["text"] for row in own],
            labels=labels,
            types=np.where(labels == 1, "", source).astype(object),
            images=images,
            image_ids=prompts.tolist(),
            pairs=nothing.reshape(0, 2),
            text_of=np.arange(len(own)),
            pair_of=nothing,
        )
        parts.append(Part(source, text_pairs, "prompt"))
    return parts


def connected(links: Sequence[Sequence[str]]) -> list[int]:
    """A number for each row: rows that share a name, by way of others too, have the same.

    >>> connected([("a", "b"), ("c", "d"), ("d", "b"), ("e", "f")])
    [0, 0, 0, 1]
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    names = {name: column for column, name in enumerate(dict.fromkeys(name for row in links for name in row))}
    ends = [(row, len(links) + names[name]) for row, own in enumerate(links) for name in own]
    size = len(links) + len(names)
    graph = coo_matrix((np.ones(len(ends)), np.array(ends).T), shape=(size, size))
    number: list[int] = connected_components(graph, directed=False)[1][: len(links)].tolist()
    return number


READERS: Mapping[str, Callable[[Path], list[Part]]] = {
    "sugarcrepe": official("sugarcrepe", "sugarcrepe/data"),
    "valse": official("valse", "valse"),
    "cola": read_cola,
    "seetrue": read_seetrue,
    "llm_negatives": read_written,
}
"""Benchmark -> function of the data folder."""
