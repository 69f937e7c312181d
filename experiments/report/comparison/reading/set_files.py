"""Reading an evaluated set: the files of any protocol, or the one table that older versions wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.benchmarks import MEAN, Logits, MetricName, find_protocol
from experiments.report.comparison.reading.evaluated import (
    BLIND_MATRIX_FILE,
    IMAGES_FILE,
    KEY_FILE,
    MATRIX_FILE,
    PAIRS_FILE,
    SCORES_FILE,
    SUMMARY_FILE,
    TEXTS_FILE,
    EvaluatedSet,
)
from negatives.tables import InputError, quoted, read_parquet

AGAIN = "Evaluate it again."
PAIR_KEY = ("image_id", "caption_id", "negative_id", "negative_type", "caption", "negative_caption")
PAIR_TEXTS = (*PAIR_KEY, "image")
PAIR_LOGITS = ("positive_logit", "negative_logit", "blind_positive_logit", "blind_negative_logit")


def read_set(folder: Path, entry: Mapping[str, Any]) -> EvaluatedSet:
    """One set of an evaluation.

    Args:
        folder: of the set.
        entry: what `summary.json` says of it.

    Raises:
        InputError: a file is missing or damaged.
        LookupError, TypeError, ValueError: the entry is not what `itm evaluate` writes.
    """
    trained = entry.get("training_pairs")
    about: dict[str, Any] = {
        "image_root": Path(entry["image_root"]),
        # older versions say nothing of it
        "training_pairs": None if trained is None else _counts(trained),
        "left_out": _counts(entry.get("left_out") or {}),
        "notes": tuple(map(str, entry.get("notes") or ())),
    }
    if "protocol" not in entry:
        return _read_pairs(folder / PAIRS_FILE, about)
    protocol = str(entry["protocol"])
    try:
        columns = tuple(find_protocol(protocol).columns)
    except InputError as error:
        raise InputError(f"{folder.parent / SUMMARY_FILE}, set {folder.name}: {error} {AGAIN}") from None
    # not in a comprehension over files: each table has columns of its own
    key = _table(folder / KEY_FILE, columns)
    images = _table(folder / IMAGES_FILE, ("image_id", "image"))
    texts = _table(folder / TEXTS_FILE, ("text_id", "text"))
    logits, blind = _read_logits(folder, images, texts)
    main = entry.get("main")
    return EvaluatedSet(
        protocol=protocol,
        key=key,
        images=images,
        texts=texts,
        logits=logits,
        blind=blind,
        calibrated=bool(entry.get("calibrated")),
        aggregates={str(name): tuple(map(str, of)) for name, of in dict(entry.get("aggregates") or {}).items()},
        main=None if main is None else MetricName(*map(str, main)),
        **about,
    )


def _counts(counts: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in counts.items()}


def _read_logits(folder: Path, images: pa.Table, texts: pa.Table) -> tuple[Logits, Logits | None]:
    if (folder / MATRIX_FILE).is_file():
        # columns are distinct texts in the order in which they come
        names = pc.unique(texts["text_id"])
        seen = Logits.from_matrix(images["image_id"], names, _array(folder / MATRIX_FILE), str(folder / MATRIX_FILE))
        path = folder / BLIND_MATRIX_FILE
        if not path.is_file():
            return seen, None
        return seen, Logits.from_matrix(images["image_id"], names, _array(path), str(path))
    path = folder / SCORES_FILE
    scores = _table(path, ("image_id", "text_id", "logit"))
    seen = Logits.from_table(scores, str(path))
    if "blind_logit" not in scores.column_names or scores["blind_logit"].null_count == len(scores):
        return seen, None
    return seen, Logits.from_table(scores, str(path), column="blind_logit")


def _array(path: Path) -> np.ndarray:
    try:
        # mapped: COCO's logits are 0.5 GB, and most of a comparison needs a block of them at a time
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path} must be an array, and cannot be read as one ({quoted(error, 120)}). {AGAIN}"
        ) from None
    return array


def _table(path: Path, columns: tuple[str, ...]) -> pa.Table:
    try:
        table = read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} must be a Parquet file, and cannot be read as one. {AGAIN}") from error
    # an older version may lack a column, and an empty cell is no id
    missing = [name for name in columns if name not in table.column_names or table[name].null_count]
    if missing:
        raise InputError(f"Evaluated sets need column `{missing[0]}` in every row, {path} lacks it. {AGAIN}")
    if not len(table):
        raise InputError(f"Evaluated sets need rows, got none ({path}). {AGAIN}")
    return table.combine_chunks()


def _read_pairs(path: Path, about: Mapping[str, Any]) -> EvaluatedSet:
    """A set of older versions: a positive beside a negative, as items of the protocol pairs."""
    pairs = _pair_table(path)
    # each row has logits of its own, so each has texts of its own
    sides = {side: [f"{row}-{side}" for row in range(len(pairs))] for side in ("positive", "negative")}
    text_ids = pa.array([*sides["positive"], *sides["negative"]])
    image_ids = pa.chunked_array([*pairs["image_id"].chunks, *pairs["image_id"].chunks])
    seen, blind = (
        Logits.from_table(
            pa.table(
                {
                    "image_id": image_ids,
                    "text_id": text_ids,
                    "logit": np.concatenate([pairs[f"{prefix}{side}_logit"].to_numpy() for side in sides]),
                }
            ),
            str(path),
        )
        for prefix in ("", "blind_")
    )
    key = {
        "item_id": sides["negative"],
        "image_id": pairs["image_id"],
        "group": pairs["negative_type"],
        "true": [[text] for text in sides["positive"]],
        "false": [[text] for text in sides["negative"]],
    }
    first = np.sort(np.unique(pairs["image_id"].to_numpy(), return_index=True)[1])
    texts = pa.chunked_array([*pairs["caption"].chunks, *pairs["negative_caption"].chunks])
    return EvaluatedSet(
        protocol="pairs",
        key=pa.table(key),
        images=pairs.select(["image_id", "image"]).take(pa.array(first)),
        texts=pa.table({"text_id": text_ids, "text": texts}),
        logits=seen,
        blind=blind,
        **about,
    )


def _pair_table(path: Path) -> pa.Table:
    pairs = _table(path, (*PAIR_TEXTS, *PAIR_LOGITS))
    kinds = {**dict.fromkeys(PAIR_TEXTS, pa.string()), **dict.fromkeys(PAIR_LOGITS, pa.float64())}
    try:
        pairs = pa.table({name: pairs[name].cast(kind) for name, kind in kinds.items()})
    except pa.ArrowException as error:
        raise InputError(
            f"Evaluated pairs need texts and numbers, got {quoted(error, 120)} ({path}). {AGAIN}"
        ) from error
    # it writes none: comparisons with NaN are false, and it would count as a wrong answer
    if odd := [name for name in PAIR_LOGITS if not np.isfinite(pairs[name].to_numpy()).all()]:
        raise InputError(f"Evaluated pairs need finite logits, `{odd[0]}` has others ({path}). {AGAIN}")
    counts = pairs.group_by(list(PAIR_KEY)).aggregate([([], "count_all")])
    if twice := counts.filter(pc.field("count_all") > 1).to_pylist():
        item = quoted(tuple(twice[0][name] for name in PAIR_KEY))
        raise InputError(f"A pair can be there once, got {item} more often ({path}). {AGAIN}")
    if MEAN in pairs["negative_type"].to_pylist():
        raise InputError(f"A negative type cannot be called {MEAN!r}, the mean over the types is ({path}). Rename it.")
    return pairs
