"""Rows of written texts before the judges of truth: what they reject, and the column `checks` of what a row passed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from negatives.truth_judges.judge import Statement, TruthJudge
from negatives.types import PARAPHRASE

VALIDATION = "validation"
CHECKS_FIELD = pa.field("checks", pa.string())
"""The checks that a row passed, in order, separated by commas: `validation`, then judges; "" where it failed the first.
The one that it failed is in `rejected`."""

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def check_truth(rows: Rows, captions: pa.Table, judges: Sequence[TruthJudge]) -> Rows:
    """The rows with the judges' reasons in `rejected`, and `CHECKS_FIELD` as their last column.

    Rows that have a reason keep it, and no judge is asked about them.

    Args:
        rows: of a negatives or paraphrases table, with `rejected`.
        captions: a captions table that holds all captions that the rows were written for.
        judges: who is asked; where there is none, the rows are returned as they are.
    """
    return check_together([rows], captions, judges)[0]


def check_together(tables: Sequence[Rows], captions: pa.Table, judges: Sequence[TruthJudge]) -> list[Rows]:
    """`check_truth` of several tables, whose rows each judge sees at once: an image is computed with all of its texts.

    Args:
        tables: of negatives or paraphrases, with `rejected`.
        captions: as of `check_truth`.
        judges: likewise.
    """
    if not judges:
        return list(tables)
    statements = [one for rows in tables for one in _statements(rows, captions)]
    reasons = [reason for rows in tables for reason in rows["rejected"].to_pylist()]
    passed = [[] if reason else [VALIDATION] for reason in reasons]
    for judge in judges:
        places = [place for place, reason in enumerate(reasons) if not reason]
        found = judge.rejections([statements[place] for place in places])
        for place, reason in zip(places, found, strict=True):
            reasons[place] = reason
            if not reason:
                passed[place].append(judge.name)
    checks = [",".join(names) for names in passed]
    stops = list(accumulate(map(len, tables), initial=0))
    parts = zip(tables, pairwise(stops), strict=True)
    return [_marked(rows, reasons[start:stop], checks[start:stop]) for rows, (start, stop) in parts]


def _marked(rows: Rows, reasons: list[str], checks: list[str]) -> Rows:
    marked = rows.set_column(rows.schema.get_field_index("rejected"), "rejected", pa.array(reasons, pa.string()))
    return marked.append_column(CHECKS_FIELD, pa.array(checks, CHECKS_FIELD.type))


def _statements(rows: pa.Table | pa.RecordBatch, captions: pa.Table) -> list[Statement]:
    # a paraphrase has an id of its own, like any caption, and no type
    is_negative = "negative_type" in rows.schema.names
    ids = rows["caption_id" if is_negative else "source_caption_id"]
    taken = [name for name in ("caption_id", "caption", "image") if name in captions.schema.names]
    own = captions.select(taken).take(pc.index_in(ids, value_set=captions["caption_id"].combine_chunks()))
    kinds = rows["negative_type"].to_pylist() if is_negative else [PARAPHRASE] * len(ids)
    # judges of texts alone need no images
    images = own["image"].to_pylist() if "image" in own.schema.names else [""] * len(ids)
    columns = (own["caption"].to_pylist(), rows["caption"].to_pylist(), kinds, images)
    return [Statement(*row) for row in zip(*columns, strict=True)]
