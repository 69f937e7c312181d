"""What `itm generate` wrote as a self-contained HTML page.

Captions and texts come from data files and models: Jinja escapes all of them, and the page's own policy forbids scripts
and requests. Nothing in it depends on when or in how many goes the tables were written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from experiments.report.audit_page import interval, measured
from experiments.report.generated.draw import NEGATIVES, PARAPHRASES, UNWRITTEN, Draw, DrawnRow, valid_negatives
from experiments.report.generated.marks import Piece, marked, shortened
from experiments.report.generated.text_bias import MOST_NEGATIVES, TextBias, measure
from experiments.report.negative_types import types_in_order
from experiments.report.page import template_environment
from negatives import MEANINGS
from negatives.truth_judges import judge_meanings

OF_EACH_TYPE, OF_EACH_REASON = 8, 5  # rows shown


@dataclass(frozen=True)
class GeneratedPage:
    """All that a page is made of.

    Attributes:
        origin: how the texts came about, as shown: name -> value.
        captions: the captions that were read.
        negatives, paraphrases, unwritten: the tables that were written; there may be no such file.
        seed: of the rows shown and of the judge's folds.
        spent: `summary.json` of a chat model's run; None for others.
        usage: what the answers of the chat model that judges took; None where none judges.
        complete: whether nothing is left to ask.
    """

    origin: Mapping[str, str]
    captions: pa.Table
    negatives: Path
    paraphrases: Path
    unwritten: Path
    seed: int = 0
    spent: Mapping[str, Any] | None = None
    usage: Mapping[str, Any] | None = None
    complete: bool = True


class ShownRow(NamedTuple):
    """A row that is shown: the pieces of its caption and of its text, or why it has none."""

    negative_type: str
    caption: list[Piece]
    text: list[Piece]


class Group(NamedTuple):
    """Some rows of one type or reason, its name, out of `total`."""

    name: str
    total: int
    rows: list[ShownRow]


class Counts(NamedTuple):
    """Rows by type, and reason -> type -> rows; the reason is "" for valid texts."""

    types: list[str]
    totals: Counter[str]
    reasons: dict[str, Counter[str]]


def render_generated_page(page: GeneratedPage) -> str:
    """The page as HTML, nothing fetched from anywhere; the tables are read batch by batch."""
    written, unwritten = Draw(page.seed, OF_EACH_TYPE), Draw(page.seed, OF_EACH_REASON)
    written.add(page.negatives, NEGATIVES)
    written.add(page.paraphrases, PARAPHRASES)
    unwritten.add(page.unwritten, UNWRITTEN)
    texts, lacking = _counts(written), _counts(unwritten)
    valid = texts.reasons.pop("", Counter())
    environment = template_environment()
    environment.filters |= {"measured": measured, "interval": interval}
    return environment.get_template("generated.html").render(
        page=page,
        captions=len(page.captions),
        types=types_in_order([*texts.types, *lacking.types]),
        texts=texts,
        valid=valid,
        lacking=lacking,
        meanings={**MEANINGS, **judge_meanings()},
        groups=_groups(page.captions, written, unwritten, texts, valid, lacking),
        bias=_bias(page, valid.total() - valid[PARAPHRASES.negative_type]),
        # captions with the same text share a request
        requests=pc.count_distinct(page.captions["caption"]).as_py(),
    )


def _counts(draw: Draw) -> Counts:
    totals: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    for (kind, reason), count in draw.counts.items():
        totals[kind] += count
        reasons.setdefault(reason, Counter())[kind] = count
    # the most frequent first; of equally many by name, so that a page does not depend on the order of rows
    ordered = sorted(reasons.items(), key=lambda item: (-item[1].total(), item[0]))
    return Counts(types_in_order(list(totals)), totals, dict(ordered))


def _groups(
    captions: pa.Table, written: Draw, unwritten: Draw, texts: Counts, valid: Mapping[str, int], lacking: Counts
) -> dict[str, list[Group]]:
    """The rows shown: "valid" by type, "rejected" and "unwritten" by reason."""
    drawn = {
        "valid": [(name, valid[name], written.rows_of(negative_type=name)) for name in texts.types if valid[name]],
        "rejected": [
            (name, counts.total(), written.rows_of(reason=name)[:OF_EACH_REASON])
            for name, counts in texts.reasons.items()
        ],
        "unwritten": [
            (name, counts.total(), unwritten.rows_of(reason=name)) for name, counts in lacking.reasons.items()
        ],
    }
    caption_of = _captions_of(captions, [row for part in drawn.values() for _, _, rows in part for row in rows])
    return {
        part: [Group(name, total, [_shown(row, caption_of, part) for row in rows]) for name, total, rows in found]
        for part, found in drawn.items()
    }


def _captions_of(captions: pa.Table, rows: Sequence[DrawnRow]) -> dict[str, str]:
    wanted = pa.array([row.caption_id for row in rows], pa.string())
    found = captions.filter(pc.is_in(captions["caption_id"], value_set=wanted))
    return dict(zip(found["caption_id"].to_pylist(), found["caption"].to_pylist(), strict=True))


def _shown(row: DrawnRow, caption_of: Mapping[str, str], part: str) -> ShownRow:
    caption = caption_of[row.caption_id]
    # why there is no text is not compared with the caption
    if part == "unwritten":
        return ShownRow(row.negative_type, *([Piece(shortened(one), False)] for one in (caption, row.text)))
    return ShownRow(row.negative_type, *marked(caption, row.text))


def _bias(page: GeneratedPage, valid: int) -> TextBias:
    rows = valid_negatives(page.negatives, valid=valid, most=MOST_NEGATIVES, seed=page.seed)
    return measure(page.captions, rows, page.seed)
