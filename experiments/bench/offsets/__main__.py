"""What blind learners learn under an offset of the loss: `python -m experiments.bench.offsets --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.bench.filters import FAMILIES, read_text_pairs
from experiments.bench.offsets.learner import OffsetLearner, fit_pairs, fit_texts
from negatives import NEGATIVE_TYPES, family_of
from negatives.judging import JudgeSettings, build_judges, paired_wins
from negatives.tables import write_json

if TYPE_CHECKING:
    from negatives.filtering import Rotation
    from negatives.judging import Panel, TextPairs

LEARNERS = (
    *(OffsetLearner("word", regularisation) for regularisation in (1.0, 0.03, 30.0)),
    *(OffsetLearner("char", regularisation) for regularisation in (10.0, 0.3, 300.0)),
)
"""The first is the one that the strength is searched on; the others differ in capacity, or in what they read."""
STRENGTHS = (0.0, 0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
EXAMPLES = """\
Judges are cross-fitted on one part of the photos. Learners are trained on all of its texts, or pairs, with their logit
times a strength beside the learner's own, and asked by their own alone. The strength is the one that leaves the first
learner nearest to a coin on the second part; all learners are measured on the third. The parts change roles.

example:
  python -m experiments.bench.offsets shared/data/llm_negatives/pairs.jsonl
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.offsets",
        description="Measures what blind learners learn where a judge's logit joins theirs in the loss.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("pairs", help="JSONL with type, coco_id, caption and negative_caption")
    add("--families", nargs="+", choices=FAMILIES, default=["replace", "swap"], help="of negative types")
    add("--units", nargs="+", choices=("text", "pair"), default=["text", "pair"], help="what is judged")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of parts and folds")
    add("--judges", nargs="+", default=["word", "char", "surface"], help="whose logit is the offset")
    add("--images", help="only the pairs of these image folds, such as 0 1", nargs="+", type=int)
    add("--workers", type=int, default=2, help="threads")
    add("--json", help="file for all numbers")
    return made


@dataclass(frozen=True)
class Taught:
    """What one learner gets at one strength, over all seeds and rotations.

    Attributes:
        unit: what was judged, and what the learner was trained on.
        strength: of the offset; "searched" for that of each rotation.
        learner: who.
        value: share of the pairs whose positive it picks.
        furthest_type, furthest_value: the negative type on which it is furthest from a coin.
    """

    unit: str
    strength: str
    learner: str
    value: float
    furthest_type: str
    furthest_value: float


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    given = parser().parse_args(argv)
    types = [name for name in NEGATIVE_TYPES if family_of(name) in given.families]
    text_pairs = read_text_pairs(given.pairs, types, harmonised=True, paraphrases=False, image_folds=given.images)
    rows = [row for unit in given.units for row in measure(text_pairs, unit, given)]
    print(table(rows))
    if given.json:
        write_json({"rows": [vars(row) for row in rows]}, Path(given.json))
    return 0


def measure(text_pairs: TextPairs, unit: str, given: argparse.Namespace) -> Iterator[Taught]:
    """Each learner at each strength, and at the searched one."""
    from negatives.filtering import ROTATIONS, part_of_texts
    from negatives.judging import seat

    judges = build_judges(given.judges, JudgeSettings())
    panel = seat(judges, text_pairs, workers=given.workers)
    # the learners' features are read too, and the filter's judges alone are fitted
    read = build_judges(sorted({learner.judge for learner in LEARNERS}), JudgeSettings())
    panel = panel.with_judges(read).with_judges(judges)
    # [strengths, learners, pairs], of each seed
    wins, searched = [], []
    for seed in given.seeds:
        part = part_of_texts(text_pairs, seed)
        photos = part[text_pairs.pairs[:, 0]]
        own = np.zeros((len(STRENGTHS), len(LEARNERS), len(text_pairs.pairs)))
        chosen = np.zeros(len(text_pairs.pairs), dtype=np.int64)
        for rotation in ROTATIONS:
            found = _wins(panel, unit, part, rotation, seed)
            asked = photos == rotation.certify
            own[:, :, asked] = found[:, :, asked]
            # on the second part, by the first learner
            away = np.abs(found[:, 0][:, photos == rotation.search].mean(axis=1) - 0.5)
            chosen[asked] = int(away.argmin())
        wins.append(own)
        searched.append(own[chosen, :, np.arange(len(chosen))].T)
    mean = np.mean(wins, axis=0)
    for number, strength in enumerate(STRENGTHS):
        yield from _rows(text_pairs, unit, f"{strength:g}", mean[number])
    yield from _rows(text_pairs, unit, "searched", np.mean(searched, axis=0))


def _wins(panel: Panel, unit: str, part: np.ndarray, rotation: Rotation, seed: int) -> np.ndarray:
    """[strengths, learners, P] whether each learner of the part `fit` picks the positive of each pair."""
    # the bound that training has too
    from datamodules import LARGEST_BLIND_LOGIT
    from negatives.filtering import judge_texts

    text_pairs = panel.text_pairs
    inside = part == rotation.fit
    own = panel.subset(inside, inside[text_pairs.pairs].all(axis=1))
    chance = judge_texts(own, unit=unit, seed=seed).oof_score
    logits = np.clip(np.log(chance) - np.log1p(-chance), -LARGEST_BLIND_LOGIT, LARGEST_BLIND_LOGIT)
    wins = np.empty((len(STRENGTHS), len(LEARNERS), len(text_pairs.pairs)))
    first, second = text_pairs.pairs.T
    rows = np.flatnonzero(inside)
    for number, learner in enumerate(LEARNERS):
        # a column for each n-gram of the part: a learner has no weight for the others
        used = np.flatnonzero(np.asarray(panel.encoded[learner.judge][rows].sum(axis=0)).ravel())
        encoded = panel.encoded[learner.judge][:, used]
        texts, ends = encoded[rows], rows[own.text_pairs.pairs]
        differences = encoded[ends[:, 0]] - encoded[ends[:, 1]]
        for place, strength in enumerate(STRENGTHS):
            if unit == "text":
                weights = fit_texts(texts, own.text_pairs.labels, strength * logits, learner.regularisation)
            else:
                weights = fit_pairs(differences, strength * logits, learner.regularisation)
            scores = encoded @ weights
            wins[place, number] = paired_wins(scores[first] - scores[second])
    return wins


def _rows(text_pairs: TextPairs, unit: str, strength: str, wins: np.ndarray) -> Iterator[Taught]:
    types = text_pairs.pair_types.astype(str)
    for learner, own in zip(LEARNERS, wins, strict=True):
        values = {name: float(own[types == name].mean()) for name in sorted(set(types.tolist()))}
        name = max(values, key=lambda name: abs(values[name] - 0.5))
        yield Taught(unit, strength, str(learner), float(own.mean()), name, values[name])


def table(rows: Sequence[Taught]) -> str:
    """Markdown: a line for each unit and strength, a column for each learner."""
    names = [str(learner) for learner in LEARNERS]
    lines = ["| offset of | strength | " + " | ".join(names) + " | furthest type |", "|" + " --- |" * (len(names) + 3)]
    for unit, strength in dict.fromkeys((row.unit, row.strength) for row in rows):
        own = [row for row in rows if (row.unit, row.strength) == (unit, strength)]
        far = max(own, key=lambda row: abs(row.furthest_value - 0.5))
        cells = [f"{row.value:.3f}" for row in own]
        furthest = f"{far.furthest_value:.3f} ({far.furthest_type}; {far.learner})"
        lines.append("| " + " | ".join([f"{unit}s", strength, *cells, furthest]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
