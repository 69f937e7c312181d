"""The files of an evaluated set: what was asked, what it means, and what the scorer said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.benchmarks import Benchmark, Logits, as_pairs
from experiments.report.comparison.reading.evaluated import (
    BLIND_MATRIX_FILE,
    IMAGES_FILE,
    KEY_FILE,
    MATRIX_FILE,
    PAIRS_FILE,
    SCORES_FILE,
    TEXTS_FILE,
)
from experiments.scoring.sets import SetScores
from negatives.tables import replaced, write_table


def write_set(folder: Path, benchmark: Benchmark, scores: SetScores, fingerprint: Mapping[str, str]) -> None:
    """Writes a set's key, images, texts and scores.

    Where every image meets every text, `matrix.npy` has the logits (float32, or float64 from a scores table): a row for
    each row of `images.parquet`, a column for each distinct `text_id` of `texts.parquet`, in order; `blind_matrix.npy`
    those on noise. Otherwise `scores.parquet` has a row for each pair. A set of items with one true and one false text
    has `pairs.parquet` too: both side by side.
    """
    for table, name in ((benchmark.key, KEY_FILE), (benchmark.images, IMAGES_FILE), (benchmark.texts, TEXTS_FILE)):
        write_table(table, folder / name)
    for matrix, name in ((scores.matrix, MATRIX_FILE), (scores.blind_matrix, BLIND_MATRIX_FILE)):
        if matrix is not None:
            _write_array(matrix, folder / name)
    if scores.table is not None:
        # the fingerprint goes with the scores, for whoever finds the file elsewhere
        write_table(scores.table.replace_schema_metadata(dict(fingerprint)), folder / SCORES_FILE)
        if is_paired(benchmark) and scores.blind is not None:
            write_table(pair_table(benchmark, scores), folder / PAIRS_FILE)


def is_paired(benchmark: Benchmark) -> bool:
    """Whether every item has one true and one false text."""
    if benchmark.protocol != "pairs":
        return False
    lengths = [pc.unique(pc.list_value_length(benchmark.key[name])).to_pylist() for name in ("true", "false")]
    return lengths == [[1], [1]]


def pair_table(benchmark: Benchmark, scores: SetScores) -> pa.Table:
    """A row for every item: its positive beside its negative, with logits on the image and on noise.

    A crop's `image_id` has the box, `image` is the whole file.
    """
    assert scores.table is not None
    assert scores.blind is not None
    # the images are taken from the key: a crop is no whole image
    pairs = as_pairs(benchmark, texts_only=True)
    row_of = pc.index_in(pairs.negatives["caption_id"], value_set=pairs.captions["caption_id"].combine_chunks())
    captions, negatives = pairs.captions.take(row_of), pairs.negatives
    images = benchmark.key["image_id"]
    true, false = (pc.list_flatten(benchmark.key[name]) for name in ("true", "false"))
    by_score = Logits.from_table(scores.table, column="score")
    return pa.table(
        {
            "image_id": images,
            **{name: captions[name] for name in ("image", "caption_id", "caption")},
            "negative_id": negatives["negative_id"],
            "negative_type": negatives["negative_type"],
            "negative_caption": negatives["caption"],
            # decisions are taken on logits: scores near 0 or 1 round to ties
            "positive_logit": scores.logits.of(images, true),
            "negative_logit": scores.logits.of(images, false),
            "positive_score": by_score.of(images, true),
            "negative_score": by_score.of(images, false),
            "blind_positive_logit": scores.blind.of(images, true),
            "blind_negative_logit": scores.blind.of(images, false),
        }
    )


def _write_array(array: NDArray[np.floating], path: Path) -> None:
    # a file and no name: NumPy would add an ending of its own
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
