"""What two readers said of the rows in `tests/data/readings`, and how far they agree: `python -m tests.readings`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.bench.validity.rates import wilson

FOLDER = Path(__file__).parent / "data" / "readings"
READ = ("rules", "negclip", "negclip_mended")
QUESTIONS = ("false", "fluent")


def read_rows(writer: str) -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """A writer's rows, each with what reader a and reader b said of it: "yes", "no" or "unclear" to each question."""
    rows, first, second = (
        {row["id"]: row for row in map(json.loads, (FOLDER / f"{writer}{end}.jsonl").read_text("utf-8").splitlines())}
        for end in ("", "_reader_a", "_reader_b")
    )
    assert first.keys() == second.keys() == rows.keys(), writer
    return [(row, first[name], second[name]) for name, row in rows.items()]


def lines() -> Iterator[str]:
    """A row of Markdown for each writer and question; Cohen's kappa (1960) is over all three answers."""
    for writer in READ:
        for question in QUESTIONS:
            said = [(one[question], other[question]) for _, one, other in read_rows(writer)]
            first, second = zip(*said, strict=True)
            number, same = len(said), sum(one == other for one, other in said) / len(said)
            chance = sum(first.count(answer) * second.count(answer) for answer in {*first, *second}) / number**2
            kappa = (same - chance) / (1 - chance) if chance < 1 else 1.0
            both = said.count(("yes", "yes")) / number
            low, high = wilson(both, number)
            cells = [f"{100 * both:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"]
            cells.append(" / ".join(f"{100 * one.count('yes') / number:.1f} %" for one in (first, second)))
            yield f"| {writer}, {number} | {question} | {' | '.join(cells)} | {100 * same:.1f} % ({kappa:.2f}) |"


if __name__ == "__main__":
    print("| rows | | by both | by a / b | agreement (kappa) |", "|---" * 5 + "|", *lines(), sep="\n")
