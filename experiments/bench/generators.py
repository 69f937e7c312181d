"""What the text gives away of each generator's negatives: `python -m experiments.bench.generators --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from experiments.runs.progress import tracker
from negatives import NEGATIVE_TYPES, bare_words, family_of, rejection
from negatives.filtering import AuditPlan, harmonise_table
from negatives.judging import JudgeSettings, build_judges
from negatives.tables import pair_table, read_jsonl, text_table, valid_rows
from negatives.writers import write_negatives

if TYPE_CHECKING:
    from negatives.judging import Estimate

TYPES = tuple(name for name, row in NEGATIVE_TYPES.items() if row.asked)  # what ChatGPT was asked for


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.generators",
        description="Negatives of the same captions by ChatGPT and by the rules: valid ones, and what text gives away.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("pairs", help="JSONL with type, coco_id, caption and negative_caption")
    add("--seed", type=int, default=0, help="of the rules and of the folds")
    add("--workers", type=int, default=2, help="threads")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    arguments = parser().parse_args(argv)
    captions, given = read_written(arguments.pairs)
    rules = by_rules(captions, arguments.seed)
    print("| generator | captions with a replace | swap | " + " | ".join(TYPES) + " | AUC | paired |")
    print("|" + " --- |" * (5 + len(TYPES)))
    # as it is written, then without what validation rejects: rejected rows are never trained on
    for name, valid in (
        ("ChatGPT, not validated", given),
        ("ChatGPT", valid_rows(given)),
        ("rules", valid_rows(rules)),
    ):
        types = valid["negative_type"].to_pylist()
        shares = [f"{coverage(valid, family) / len(captions):.3f}" for family in ("replace", "swap")]
        estimates = audited(captions, valid, arguments)
        cells = [*shares, *(str(types.count(name)) for name in TYPES), *map(_cell, estimates)]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    return 0


def read_written(path: str) -> tuple[pa.Table, pa.Table]:
    """The human captions of a file of written pairs, and its validated negatives of `TYPES`."""
    captions: dict[tuple[str, str], dict[str, Any]] = {}
    captions_of: dict[str, set[str]] = {}  # image -> the bare words of its captions
    rows = []
    for number, record in read_jsonl(path):
        image_id, caption = str(record["coco_id"]), record["caption"]
        own = {"image_id": image_id, "image": image_id, "caption_id": str(number), "caption": caption}
        row = captions.setdefault((image_id, caption), own)
        captions_of.setdefault(image_id, set()).add(bare_words(caption))
        # captions of other types stay: both generators write for the same captions
        if record["type"] in TYPES:
            rows.append((str(number), row, record["negative_caption"], record["type"]))
    negatives = [
        {"caption_id": row["caption_id"], "negative_id": number, "caption": text, "negative_type": name}
        # validated as what a writer writes, so that shares of valid ones can be compared
        | {"rejected": rejection(text, row["caption"], name, captions_of[row["image_id"]])}
        for number, row, text, name in rows
    ]
    return pa.Table.from_pylist(list(captions.values())), pa.Table.from_pylist(negatives)


def by_rules(captions: pa.Table, seed: int) -> pa.Table:
    """Negatives of the same captions by the word rules."""
    from negatives.writers.english import RuleWriter

    return write_negatives(captions, RuleWriter(), seed, progress=tracker("rules")).negatives


def coverage(valid: pa.Table, family: str) -> int:
    """How many captions have a negative of a family of types."""
    rows = zip(valid["caption_id"].to_pylist(), valid["negative_type"].to_pylist(), strict=True)
    return len({caption_id for caption_id, negative_type in rows if family_of(negative_type) == family})


def audited(captions: pa.Table, negatives: pa.Table, arguments: argparse.Namespace) -> list[Estimate | None]:
    """AUC and paired accuracy of all judges together, on captions that have a negative."""
    from negatives.filtering import audit_texts
    from negatives.judging import build_text_pairs, seat

    own = set(negatives["caption_id"].to_pylist())
    with_own = captions.filter(pa.array([caption_id in own for caption_id in captions["caption_id"].to_pylist()]))
    # style is no matter of the generator: training takes it away by default
    alike = harmonise_table(with_own, negatives)
    text_pairs = build_text_pairs(text_table(with_own, alike), pair_table(with_own, alike))
    judges = build_judges(["word", "char", "surface", "bayes"], JudgeSettings())
    panel = seat(judges, text_pairs, workers=arguments.workers)
    audit = audit_texts(panel, AuditPlan(top=1, seed=arguments.seed))
    return [audit.find("auc"), audit.find("paired_accuracy")]


def _cell(found: Estimate | None) -> str:
    if found is None or found.low is None or found.high is None:
        return "-"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


if __name__ == "__main__":
    sys.exit(main())
