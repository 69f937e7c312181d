"""Rows of written texts before the judges of truth: what they reject, and the column `checks` of what a row passed."""

from __future__ import annotations

from collections.abc import Sequence
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
    if not judges:
        return rows
    statements = _statements(rows, captions)
    reasons = rows["rejected"].to_pylist()
    passed = [[] if reason else [VALIDATION] for reason in reasons]
    for judge in judges:
        places = [place for place, reason in enumerate(reasons) if not reason]
        found = judge.rejections([statements[place] for place in places])
        for place, reason in zip(places, found, strict=True):
            reasons[place] = reason
            if not reason:
                passed[place].append(judge.name)
    checks = pa.array([",".join(names) for names in passed], CHECKS_FIELD.type)
    marked = rows.set_column(rows.schema.get_field_index("rejected"), "rejected", pa.array(reasons, pa.string()))
    return marked.append_column(CHECKS_FIELD, checks)


def _statements(rows: pa.Table | pa.RecordBatch, captions: pa.Table) -> list[Statement]:
    # a paraphrase has an id of its own, like any caption, and no type
    is_negative = "negative_type" in rows.schema.names
    ids = rows["caption_id" if is_negative else "source_caption_id"]
    own = captions["caption"].take(pc.index_in(ids, value_set=captions["caption_id"].combine_chunks()))
    kinds = rows["negative_type"].to_pylist() if is_negative else [PARAPHRASE] * len(ids)
    return [Statement(*row) for row in zip(own.to_pylist(), rows["caption"].to_pylist(), kinds, strict=True)]
