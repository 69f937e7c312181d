"""Filters on written negatives, and what they still teach: `python -m experiments.bench.filters --help`."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from negatives import NEGATIVE_TYPES, PARAPHRASE, bare_words, family_of, rejection
from negatives.filtering import ROTATIONS, CertificatePlan, FilterPlan
from negatives.judging import (
    LIKELIHOOD_FEATURES,
    EncoderSettings,
    JudgeSettings,
    LikelihoodSettings,
    TransformerSettings,
    build_judges,
    paired_wins,
)
from negatives.tables import pair_table, read_jsonl, text_table, write_json

if TYPE_CHECKING:
    from negatives.filtering import Certificate, Learner, Lesson, Rotated
    from negatives.judging import Panel, TextPairs

FAMILIES = ("replace", "swap", "add")
# no download, and small: a fit has to be affordable for every fold and seed
FROM_SCRATCH = TransformerSettings(checkpoint=None, layers=1, epochs=6, lr=1e-3, accelerator="cpu")
# more accurate than other settings that were tried on the image folds 0 and 1, trained on everything
FINE_TUNED = TransformerSettings(epochs=3, lr=1e-4)
ARMS = (
    *(f"{rule} {unit}" for rule in ("overlap", "margins") for unit in ("text", "pair", "both")),
    *("top_fraction text", "top_fraction pair"),
)
EXAMPLES = """\
examples:
  python -m experiments.bench.filters shared/data/llm_negatives/pairs.jsonl
  python -m experiments.bench.filters pairs.jsonl --families add --seeds 0
  python -m experiments.bench.filters pairs.jsonl --arms "overlap text" --validated
  python -m experiments.bench.filters pairs.jsonl --paraphrases --arms "overlap text"
  python -m experiments.bench.filters pairs.jsonl --arms "overlap pair" --judges word char encoder --encoder MiniLM
  python -m experiments.bench.filters pairs.jsonl --arms "overlap text" --learners transformer --transformer MiniLM
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.filters",
        description="Filters written negatives under several rules, and measures what the kept ones teach.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("pairs", help="JSONL with type, coco_id, caption, negative_caption and, for some, llm_paraphrase")
    add("--families", nargs="+", choices=FAMILIES, default=["replace", "swap"], help="of negative types")
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="a rule and a unit")
    add("--sharpness", type=float, default=1.0, help="of rule overlap (default: 1)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of parts, folds and draws")
    add("--judges", nargs="+", default=["word", "char", "surface"], help="of the filter (default: word char surface)")
    add("--folds", type=int, default=5, help="of the filter's judges (default: 5)")
    add("--images", help="only the pairs of these image folds, such as 0 1", nargs="+", type=int)
    add("--raw", action="store_true", help="do not harmonise the negatives")
    add("--validated", action="store_true", help="without the texts that validation rejects")
    add("--paraphrases", action="store_true", help="the written paraphrases join the positives")
    add("--learners", nargs="+", help="blind learners of what is kept (default: the judges, and bayes)")
    add("--encoder", metavar="FOLDER", help="of judge or learner encoder")
    add("--lm", metavar="FOLDER", help="of judge or learner lm; also says how often the positive is the likelier text")
    add(
        "--transformer",
        metavar="FOLDER",
        help="that judge or learner transformer is fine-tuned from (default: scratch)",
    )
    add("--lr", type=float, default=FINE_TUNED.lr, help=f"of fine-tuning (default: {FINE_TUNED.lr:g})")
    add("--epochs", type=int, default=FINE_TUNED.epochs, help=f"of fine-tuning (default: {FINE_TUNED.epochs})")
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
    shares: dict[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    arguments = parser().parse_args(argv)
    text_pairs = read_text_pairs(
        arguments.pairs,
        [name for name in NEGATIVE_TYPES if family_of(name) in arguments.families],
        harmonised=not arguments.raw,
        paraphrases=arguments.paraphrases,
        validated=arguments.validated,
        image_folds=arguments.images,
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
    path: str,
    types: Sequence[str],
    *,
    harmonised: bool,
    paraphrases: bool,
    validated: bool = False,
    image_folds: Sequence[int] | None = None,
) -> TextPairs:
    """The texts and pairs of a file of written negatives.

    Args:
        path: JSONL.
        types: negative types that are read.
        harmonised: whether negatives take their positives' style.
        paraphrases: whether written paraphrases join the positives.
        validated: without what `rejection` rejects.
        image_folds: values of `image_fold` that are read; all where not given.
    """
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
        if image_folds is not None and record["image_fold"] not in image_folds:
            continue
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
    from negatives.filtering import certify, filter_and_rotate, kept_shares
    from negatives.judging import seat

    settings = judge_settings(arguments)
    panel = seat(build_judges(arguments.judges, settings), text_pairs, folds=arguments.folds, workers=arguments.workers)
    # naive Bayes judges nothing: a family that the filter has not seen
    names = arguments.learners or list(dict.fromkeys([*arguments.judges, "bayes"]))
    learners = panel.with_judges(build_judges(names, settings))
    quick = CertificatePlan(bootstrap=200, frontier=False)
    for seed in arguments.seeds:
        for arm in arguments.arms:
            start = time.monotonic()
            rule, unit = arm.split()
            sharpness = arguments.sharpness if rule == "overlap" else 1.0
            plan = FilterPlan(unit=unit, rule=rule, sharpness=sharpness, seed=seed)
            filtered, rotated = filter_and_rotate(panel, plan)
            assert not isinstance(rotated, str), rotated
            assert rotated is not None
            seconds = time.monotonic() - start
            certificate = certify(learners, filtered, rotated, quick, seed=seed)
            shares = dict(zip(("texts", "pairs"), kept_shares(text_pairs, rotated.kept, rotated.part), strict=True))
            if "lm" in learners.encoded:
                shares["likelier, kept"], shares["likelier"] = likelier(learners, rotated)
            yield Row(arm, seed, filtered.constant, seconds, certificate, shares)


def judge_settings(arguments: argparse.Namespace) -> JudgeSettings:
    """The judges' and learners' settings."""
    checkpoint = arguments.transformer
    tuned = replace(FINE_TUNED, checkpoint=checkpoint, lr=arguments.lr, epochs=arguments.epochs)
    return JudgeSettings(
        encoder=EncoderSettings(checkpoint=arguments.encoder),
        lm=LikelihoodSettings(checkpoint=arguments.lm),
        transformer=tuned if checkpoint else FROM_SCRATCH,
    )


def likelier(panel: Panel, rotated: Rotated) -> tuple[float, float]:
    """Share of the pairs that are kept, and of all, whose positive has the larger log-probability of a token.

    Args:
        panel: holds the features of judge lm.
        rotated: what is kept of each part.
    """
    of_a_token = panel.encoded["lm"][:, list(LIKELIHOOD_FEATURES).index("log-probability of a token")]
    pairs, photos = panel.text_pairs.pairs, rotated.part[panel.text_pairs.pairs[:, 0]]
    wins = paired_wins(of_a_token[pairs[:, 0]] - of_a_token[pairs[:, 1]])
    kept = np.zeros(len(pairs), dtype=bool)
    for rotation, one in zip(ROTATIONS, rotated.kept, strict=True):
        kept |= one.pairs & (photos == rotation.fit)
    return float(wins[kept].mean()), float(wins.mean())


def line(row: Row) -> str:
    """One arm at one seed, in a line."""
    kept = " ".join(f"{name} {share:.3f}" for name, share in row.shares.items())
    values = " ".join(
        f"{one.learner.judge}:{one.learner.reads} {one.value:.3f}"
        for one in row.certificate.lessons
        if one.group == "all"
    )
    constant = "" if row.constant is None else f" constant {row.constant:.2f}"
    return f"{row.arm} seed {row.seed}{constant} ({row.seconds:.0f} s): {kept} | {values}"


def table(rows: Sequence[Row]) -> str:
    """Markdown: for each arm and learner the mean over the seeds [smallest, largest]."""
    headings = ["arm", "texts", "pairs", "learner", "all", "furthest type", "furthest third", "random", "everything"]
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    for arm in dict.fromkeys(row.arm for row in rows):
        own = [row for row in rows if row.arm == arm]
        shares = [_spread([row.shares[name] for row in own]) for name in ("texts", "pairs")]
        for learner in dict.fromkeys(one.learner for one in own[0].certificate.lessons):
            groups = _by_group([row.certificate for row in own], learner)
            whole = groups.pop("all")
            third, type_ = (
                _furthest({name: found for name, found in groups.items() if ("third" in name) == is_third})
                for is_third in (True, False)
            )
            control, everything = (_spread([getattr(one, name) for one in whole]) for name in ("control", "everything"))
            cells = [f"{learner.judge}, {learner.reads}s", _spread([one.value for one in whole]), type_, third]
            lines.append("| " + " | ".join([arm, *shares, *cells, control, everything]) + " |")
    return "\n".join(lines)


def _by_group(certificates: Sequence[Certificate], learner: Learner) -> dict[str, list[Lesson]]:
    groups: dict[str, list[Lesson]] = {}
    for one in (one for certificate in certificates for one in certificate.lessons if one.learner == learner):
        groups.setdefault(one.group, []).append(one)
    return groups


def _furthest(groups: dict[str, list[Lesson]]) -> str:
    """The group whose mean over the seeds is furthest from a coin."""
    means = {name: statistics.mean(one.value for one in found) for name, found in groups.items()}
    name = max(means, key=lambda name: abs(means[name] - 0.5))
    return f"{name} {_spread([one.value for one in groups[name]])}"


def _spread(values: Sequence[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} [{min(values):.3f}, {max(values):.3f}]"


if __name__ == "__main__":
    sys.exit(main())
