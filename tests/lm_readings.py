"""What the judge by a causal language model makes of the rows that were read: `python -m tests.lm_readings CHECKPOINT`.

Prints a table of Markdown: for each writer the AUC of fluent against not, and by bounds of `truth.lm.most_drop` what is
kept. Really false and fluent is what both readers say is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from negatives.truth_judges import LmJudge, LmSettings, Statement
from tests import readings
from tests.draw_readings import ROWS
from tests.readings import QUESTIONS

BOUNDS = (4, 6, 8, 10, 12, np.inf)
HEAD = "| rows | AUC of fluent | `most_drop` | kept | really false | fluent | of the fluent, kept |"


def read_rows(writer: str) -> list[dict[str, Any]]:
    """A writer's rows, with the two readers' verdicts as booleans `false` and `fluent`."""
    return [
        row | {key: one[key] == other[key] == "yes" for key in QUESTIONS}
        for row, one, other in readings.read_rows(writer)
    ]


def lines(checkpoint: str, bounds: Sequence[float] = BOUNDS) -> Iterator[str]:
    """The table's rows below `HEAD`."""
    judge = LmJudge(LmSettings(checkpoint))
    read = {writer: read_rows(writer) for writer in ROWS}
    drops = {
        writer: judge.drops([Statement(row["caption"], row["text"], row["negative_type"]) for row in rows])
        for writer, rows in read.items()
    }
    swaps = np.array([row["negative_type"].startswith("swap") for row in read["rules"]])
    # negclip writes nothing but swaps
    groups = {"rules, swaps": ("rules", swaps), "rules, others": ("rules", ~swaps)}
    groups |= {writer: (writer, np.ones(len(rows), dtype=bool)) for writer, rows in read.items()}
    for name, (writer, members) in groups.items():
        false, fluent = (np.array([row[key] for row in read[writer]])[members] for key in ("false", "fluent"))
        drop = drops[writer][members]
        auc = roc_auc_score(fluent, -drop)
        for bound in bounds:
            kept = drop <= bound
            shares = (kept, false[kept], fluent[kept], kept[fluent])
            cells = " | ".join(f"{100 * share.mean():.1f} %" if len(share) else "" for share in shares)
            yield f"| {name}, {len(drop)} | {auc:.2f} | {bound:g} | {cells} |"


if __name__ == "__main__":
    print(HEAD, "|---" * 7 + "|", *lines(sys.argv[1]), sep="\n")
