"""From a benchmark to what is asked of a scorer, and from answers back to the benchmark's logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.benchmarks import Benchmark, Logits
from experiments.scoring.models import Answered, means
from experiments.scoring.requests import Asked, Places, SetRequests

Score = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Match logits -> scores, of any shape."""
SCORES = pa.schema(
    [
        ("image_id", pa.string()),
        ("text_id", pa.string()),
        *((name, pa.float64()) for name in ("logit", "score", "blind_logit")),
    ]
)


@dataclass(frozen=True)
class SetScores:
    """What a scorer says of one benchmark, on its images and on noise.

    Attributes:
        table: a row for each pair, columns of `SCORES`; None where every image meets every text.
        matrix, blind_matrix: (M, N) logits of all images with all distinct texts then; None where there is a table.
        logits, blind: both, as protocols read them; `blind` is None where it is not known.
        counts: what was computed for it, such as images or pairs.
    """

    logits: Logits
    blind: Logits | None
    table: pa.Table | None = None
    matrix: NDArray[np.floating] | None = None
    blind_matrix: NDArray[np.floating] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


def text_ids(benchmark: Benchmark) -> tuple[pa.Array, Places]:
    """The distinct texts of a benchmark, in order, and which of them each row of its texts is a wording of."""
    encoded = benchmark.texts["text_id"].combine_chunks().cast(pa.string()).dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def ask(benchmark: Benchmark) -> Asked:
    """What a benchmark asks; each pair with all wordings of its text."""
    pairs = None
    if benchmark.pairs is not None:
        images, texts, _ = asked_rows(benchmark)
        pairs = np.stack([images, texts], axis=1)
    return Asked(benchmark.images, benchmark.texts["text"], pairs, benchmark.root)


def asked_rows(benchmark: Benchmark) -> tuple[Places, Places, Places]:
    """Rows of images and of texts that are asked about together, and the row of `pairs` that each belongs to."""
    assert benchmark.pairs is not None
    names, wording_of = text_ids(benchmark)
    images = _index(benchmark.pairs["image_id"], benchmark.images["image_id"])
    texts = _index(benchmark.pairs["text_id"], names)
    order = np.argsort(wording_of, kind="stable")
    counts = np.bincount(wording_of, minlength=len(names))
    starts = np.cumsum(counts) - counts
    # of most texts there is one wording; then these are the pairs as they stand
    pair = np.repeat(np.arange(len(texts)), counts[texts])
    within = np.arange(len(pair)) - np.repeat(np.cumsum(counts[texts]) - counts[texts], counts[texts])
    return images[pair], order[starts[texts[pair]] + within], pair


def set_scores(benchmark: Benchmark, asked: SetRequests, answered: Answered, score: Score) -> SetScores:
    """The answers about one benchmark; of a text in several wordings as `Answered.matrix` says, of pairs the mean."""
    names, wording_of = text_ids(benchmark)
    if benchmark.pairs is None:
        matrix = answered.matrix(asked.images, asked.texts, wording_of)
        # where no image is read, none can be replaced
        blind_matrix = matrix if asked.blind is None else answered.matrix(asked.blind, asked.texts, wording_of)
        return of_matrix(benchmark, names, matrix, blind_matrix, answered.counts)
    images, texts, pair = asked_rows(benchmark)
    logits = means(answered.pairs(asked.images[images], asked.texts[texts]), pair)
    blind = logits if asked.blind is None else means(answered.pairs(asked.blind[images], asked.texts[texts]), pair)
    return of_pairs(benchmark, logits, score(logits), blind, answered.counts)


def of_pairs(
    benchmark: Benchmark,
    logits: NDArray[np.float64],
    scores: NDArray[np.float64],
    blind: NDArray[np.float64] | None,
    counts: Mapping[str, int] | None = None,
) -> SetScores:
    """The scores of a benchmark's pairs, in their order.

    Raises:
        InputError: a logit is not finite.
    """
    pairs = benchmark.pairs
    assert pairs is not None
    columns = [pairs["image_id"], pairs["text_id"], pa.array(logits), pa.array(scores)]
    columns.append(pa.nulls(len(pairs), pa.float64()) if blind is None else pa.array(blind))
    table = pa.table([column.cast(kind.type) for column, kind in zip(columns, SCORES, strict=True)], SCORES)
    seen = Logits.from_table(table)
    blind_logits = None if blind is None else Logits.from_table(table, column="blind_logit")
    return SetScores(seen, blind_logits, table=table, counts=counts or {})


def of_matrix(
    benchmark: Benchmark,
    names: pa.Array,
    matrix: NDArray[np.floating],
    blind: NDArray[np.floating] | None,
    counts: Mapping[str, int] | None = None,
) -> SetScores:
    """The scores of all images of a benchmark with its distinct texts, `names`.

    Raises:
        InputError: a logit is not finite.
    """
    images = benchmark.images["image_id"]
    return SetScores(
        Logits.from_matrix(images, names, matrix),
        None if blind is None else Logits.from_matrix(images, names, blind),
        matrix=matrix,
        blind_matrix=blind,
        counts=counts or {},
    )


def _index(values: pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> Places:
    among = among.combine_chunks() if isinstance(among, pa.ChunkedArray) else among
    return pc.index_in(values, value_set=among).to_numpy().astype(np.int64)
