"""Filters on written negatives, and what fresh probes still see: `python -m experiments.bench.filters --help`."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from negatives import NEGATIVE_TYPES, PARAPHRASE, bare_words, family_of, rejection
from negatives.filtering import CertificatePlan, FilterPlan
from negatives.judging import JudgeSettings, TransformerSettings, build_judges
from negatives.tables import pair_table, read_jsonl, text_table, write_json

if TYPE_CHECKING:
    from negatives.filtering import Certificate
    from negatives.judging import Estimate, TextPairs

FAMILIES = ("replace", "swap", "add")
# no download, and small: a fit has to be affordable for every fold and seed
FROM_SCRATCH = TransformerSettings(checkpoint=None, layers=1, epochs=6, lr=1e-3, accelerator="cpu")
# what is filtered, by the overlap rule unless the arm names another
ARMS = ("text", "pair", "both", "top_fraction text", "top_fraction pair")
EXAMPLES = """\
examples:
  python -m experiments.bench.filters shared/data/llm_negatives/pairs.jsonl
  python -m experiments.bench.filters pairs.jsonl --families add --seeds 0
  python -m experiments.bench.filters pairs.jsonl --arms text pair --validated
  python -m experiments.bench.filters pairs.jsonl --paraphrases --arms text pair
  python -m experiments.bench.filters pairs.jsonl --transformer --arms text pair both "top_fraction text"
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.filters",
        description="Filters written negatives under several rules, and probes what is left with fresh judges.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("pairs", help="JSONL with type, coco_id, caption, negative_caption and, for some, llm_paraphrase")
    add("--families", nargs="+", choices=FAMILIES, default=["replace", "swap"], help="of negative types")
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="units of the overlap rule, and the paper's rule")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of folds and draws, of the filter and of its probes")
    add("--folds", type=int, default=10, help="of the filter's judges (default: 10; 5 with --transformer)")
    add("--fold-seeds", type=int, default=3, help="fold seeds that a probe's number is the mean of")
    add("--raw", action="store_true", help="do not harmonise the negatives")
    add("--validated", action="store_true", help="without the texts that validation rejects")
    add("--paraphrases", action="store_true", help="the written paraphrases join the positives")
    add("--transformer", action="store_true", help="a small transformer, from scratch, judges and probes too")
    add("--workers", type=int, default=2, help="threads")
    add("--json", help="file for all numbers")
    return made


@dataclass(frozen=True)
class Row:
    """One arm at one seed."""

    arm: str
    seed: int
    constant: float | None
    seconds: float
    certificate: Certificate


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    arguments = parser().parse_args(argv)
    text_pairs = read_text_pairs(
        arguments.pairs,
        [name for name in NEGATIVE_TYPES if family_of(name) in arguments.families],
        harmonised=not arguments.raw,
        paraphrases=arguments.paraphrases,
        validated=arguments.validated,
    )
    counts = (
        f"{len(text_pairs.captions)} texts ({int(text_pairs.labels.sum())} positives), {len(text_pairs.pairs)} pairs"
    )
    print(f"{counts}, {len(text_pairs.image_ids)} images", flush=True)
    rows = []
    for row in measure(text_pairs, arguments):
        rows.append(row)
        print(line(row), flush=True)
    print("\n" + table(rows))
    if arguments.json:
        content = [vars(row) | {"certificate": row.certificate.to_json()} for row in rows]
        write_json({"texts": counts, "rows": content}, Path(arguments.json))
    return 0


def read_text_pairs(
    path: str, types: Sequence[str], *, harmonised: bool, paraphrases: bool, validated: bool = False
) -> TextPairs:
    """The texts and pairs of a file of written negatives; with `validated` those alone that `rejection` accepts."""
    from negatives.filtering import harmonise_table
    from negatives.judging import build_text_pairs

    captions: dict[tuple[str, str], dict[str, Any]] = {}
    hard: dict[tuple[str, str], dict[str, Any]] = {}
    captions_of: dict[Any, set[str]] = {}
    for _, record in read_jsonl(path):
        captions_of.setdefault(record["coco_id"], set()).add(bare_words(record["caption"]))

    def fails(text: str, record: dict[str, Any], kind: str) -> bool:
        return validated and bool(rejection(text, record["caption"], kind, captions_of[record["coco_id"]]))

    negatives = []
    for number, record in read_jsonl(path):
        if record["type"] not in types or fails(record["negative_caption"], record, record["type"]):
            continue
        image_id = str(record["coco_id"])
        own = {"image_id": image_id, "caption": record["caption"], "source_caption_id": None}
        # a caption of several negatives is one positive
        row = captions.setdefault((image_id, record["caption"]), own | {"caption_id": f"{number}"})
        negatives.append(
            {"caption_id": row["caption_id"], "negative_id": f"{number}", "caption": record["negative_caption"]}
            | {"negative_type": record["type"]}
        )
        paraphrase = record.get("llm_paraphrase") if paraphrases else None
        if paraphrase and not fails(paraphrase, record, PARAPHRASE):
            other = {"image_id": image_id, "caption": paraphrase, "caption_id": f"{number}p"}
            # a paraphrase of several records is one positive
            hard.setdefault((image_id, other["caption"]), other | {"source_caption_id": row["caption_id"]})
    true = pa.Table.from_pylist([*captions.values(), *hard.values()])
    false = pa.Table.from_pylist(negatives)
    if harmonised:
        false = harmonise_table(true, false)
    return build_text_pairs(text_table(true, false), pair_table(true, false))


def measure(text_pairs: TextPairs, arguments: argparse.Namespace) -> Iterator[Row]:
    """Every arm at every seed."""
    from negatives.filtering import certify, filter_texts
    from negatives.judging import seat

    settings = JudgeSettings(transformer=FROM_SCRATCH)
    names = ["word", "char", "surface", *(["transformer"] if arguments.transformer else [])]
    # a fit of a transformer takes long, and there are more of them the more folds there are
    folds = min(5, arguments.folds) if arguments.transformer else arguments.folds
    panel = seat(build_judges(names, settings), text_pairs, folds=folds, workers=arguments.workers)
    # naive Bayes judges nothing: a family that the filter has not seen
    probes = panel.with_judges([*panel.judges, *build_judges(["bayes"], settings)])
    # no bootstrap: the spread is that of the seeds
    certificate_plan = CertificatePlan(seeds=arguments.fold_seeds, bootstrap=0)
    for seed in arguments.seeds:
        for arm in arguments.arms:
            start = time.monotonic()
            *rule, unit = arm.split()
            filtered = filter_texts(panel, FilterPlan(unit=unit, rule=rule[0] if rule else "overlap", seed=seed))
            seconds = time.monotonic() - start
            yield Row(arm, seed, filtered.constant, seconds, certify(probes, filtered, certificate_plan, seed=seed))


def line(row: Row) -> str:
    """One arm at one seed, in a line."""
    kept = " ".join(f"{name} {row.certificate.retention[name].share:.3f}" for name in ("texts", "positives", "pairs"))
    values = " ".join(
        f"{estimate.metric.split('_')[0]}:{estimate.judge} {estimate.value:.3f}"
        for estimate in row.certificate.estimates
        if estimate.negative_type == "all"
    )
    constant = "" if row.constant is None else f" constant {row.constant:.2f}"
    return f"{row.arm} seed {row.seed}{constant} ({row.seconds:.0f} s): {kept} | {values}"


def table(rows: Sequence[Row]) -> str:
    """Markdown: for each arm the mean over the seeds [smallest, largest]."""
    probes = list(dict.fromkeys(e.judge for row in rows for e in row.certificate.estimates))
    headings = [
        "arm",
        "texts",
        "positives",
        "pairs",
        *(f"AUC {name}" for name in probes),
        *(f"paired {name}" for name in probes),
    ]
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    for arm in dict.fromkeys(row.arm for row in rows):
        own = [row for row in rows if row.arm == arm]
        shares = [
            _spread([row.certificate.retention[name].share for row in own]) for name in ("texts", "positives", "pairs")
        ]
        # a random subset as large: fewer texts alone already make probes weaker
        for label, part in ((arm, "estimates"), (f"random, as large as {arm}", "control")):
            cells = [
                _spread([_value(getattr(row.certificate, part), metric, name) for row in own])
                for metric in ("auc", "paired_accuracy")
                for name in probes
            ]
            lines.append("| " + " | ".join([label, *shares, *cells]) + " |")
    return "\n".join(lines)


def _value(found: Sequence[Estimate], metric: str, judge: str) -> float:
    values = [one.value for one in found if (one.metric, one.judge, one.negative_type) == (metric, judge, "all")]
    return values[0] if values else float("nan")


def _spread(values: Sequence[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} [{min(values):.3f}, {max(values):.3f}]"


if __name__ == "__main__":
    sys.exit(main())
