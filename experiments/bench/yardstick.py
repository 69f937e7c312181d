"""The certificate beside an independent yardstick: `python -m experiments.bench.yardstick --help`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.bench.filters import FAMILIES, read_text_pairs
from negatives import NEGATIVE_TYPES, family_of
from negatives.filtering import ROTATIONS, THIRDS, FilterPlan, Learner
from negatives.judging import JudgeSettings, build_judges, paired_wins
from negatives.tables import generator_for, write_json

if TYPE_CHECKING:
    from negatives.filtering import Rotated, Rotation
    from negatives.judging import Panel, TextPairs

EXAMPLES = """\
a yardstick is a program that takes two files of pairs (caption, negative, image_id, type), what was kept and untouched
pairs of other photos, trains a judge on the first and prints what it gets on the second, as JSON with "pair judge",
"text judge", "by type", and thirds, weak to strong.

example:
  python -m experiments.bench.yardstick shared/data/llm_negatives/pairs.jsonl shared/tools/taught_bias.py --images 0 1
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.yardstick",
        description="What filters keep, measured by the certificate's learners and by another program.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("pairs", help="JSONL with type, coco_id, caption, negative_caption")
    add("yardstick", help="Python file of the other program")
    add("--families", nargs="+", choices=FAMILIES, default=["replace", "swap"], help="of negative types")
    add("--images", nargs="+", type=int, help="only the pairs of these image folds, such as 0 1")
    add("--arms", nargs="+", default=["all", "margins pair", "overlap pair"], help="all, or a rule and a unit")
    add("--judges", nargs="+", default=["word", "char", "surface"], help="of the filter (default: word char surface)")
    add("--learners", nargs="+", default=["word", "char"], help="of the certificate (default: word char)")
    add("--folds", type=int, default=5, help="of the filter's judges (default: 5)")
    add("--photos", type=int, help="only the first so many")
    add("--seed", type=int, default=0, help="of parts, folds and draws")
    add("--workers", type=int, default=2, help="threads")
    add("--json", help="file for all numbers")
    return made


@dataclass(frozen=True)
class Measured:
    """One group of untouched pairs, measured by both.

    Attributes:
        arm, rotation, group: of what.
        yardstick: the other program's value.
        ours: learner's judge -> value, and ends of its 95 % interval over photos.
    """

    arm: str
    rotation: int
    group: str
    yardstick: float
    ours: dict[str, tuple[float, float, float]]

    @property
    def agrees(self) -> bool:
        """Whether the yardstick's value is within the interval of a learner, or between two learners' intervals."""
        ends = list(self.ours.values())
        # the program prints values with three places
        return min(low for _, low, _ in ends) - 5e-4 <= self.yardstick <= max(high for *_, high in ends) + 5e-4


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    given = parser().parse_args(argv)
    types = [name for name in NEGATIVE_TYPES if family_of(name) in given.families]
    text_pairs = read_text_pairs(given.pairs, types, harmonised=True, paraphrases=False, image_folds=given.images)
    if given.photos:
        text_pairs = _first(text_pairs, given.photos)
    print(f"{len(text_pairs.pairs)} pairs, {len(text_pairs.image_ids)} images", flush=True)
    found = list(measure(text_pairs, given))
    print(table(found))
    agree = sum(one.agrees for one in found)
    print(f"\n{agree} of {len(found)} values of the yardstick lie within the learners' intervals")
    if given.json:
        write_json([vars(one) for one in found], Path(given.json))
    return 0


def measure(text_pairs: TextPairs, given: argparse.Namespace) -> Iterator[Measured]:
    """Every group of every rotation of every arm."""
    from negatives.filtering import foreign_logits, untouched_scores
    from negatives.judging import seat

    settings = JudgeSettings()
    panel = seat(build_judges(given.judges, settings), text_pairs, folds=given.folds, workers=given.workers)
    learners = panel.with_judges(build_judges(given.learners, settings))
    for arm in given.arms:
        rotated = _rotated(panel, arm, given.seed)
        foreign = foreign_logits(
            learners, rotated.part, untouched_scores(learners.with_judges(learners.judges[:1]), rotated.part, "pair")
        )
        wins = {
            learner: _wins(learners, learner, rotated)
            for learner in [Learner(name, reads) for name in given.learners for reads in ("pair", "text")]
        }
        for number, rotation in enumerate(ROTATIONS):
            said = ask_yardstick(Path(given.yardstick), *files_of(text_pairs, rotated, number))
            rows = np.flatnonzero(rotated.part[text_pairs.pairs[:, 0]] == rotation.certify)
            for group, reads, members in _groups(text_pairs, rows, foreign[rows]):
                ours = {
                    learner.judge: _with_interval(own[members], text_pairs.pair_images[members])
                    for learner, own in wins.items()
                    if learner.reads == reads
                }
                yield Measured(arm, number, group, said[group], ours)


def _rotated(panel: Panel, arm: str, seed: int) -> Rotated:
    from negatives.filtering import Rotated, everything, part_of_texts, rotate

    if arm == "all":
        return Rotated(part_of_texts(panel.text_pairs, seed), [everything(panel.text_pairs)] * len(ROTATIONS))
    rule, unit = arm.split()
    return rotate(panel, FilterPlan(unit=unit, rule=rule, seed=seed))


def files_of(text_pairs: TextPairs, rotated: Rotated, number: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The rows of a rotation's two files: pairs that were kept of the part `fit`, and all pairs of `certify`."""
    rotation: Rotation = ROTATIONS[number]
    part = rotated.part[text_pairs.pairs[:, 0]]
    kept = np.flatnonzero(rotated.kept[number].pairs & (part == rotation.fit))
    return _records(text_pairs, kept), _records(text_pairs, np.flatnonzero(part == rotation.certify))


def _records(text_pairs: TextPairs, rows: np.ndarray) -> list[dict[str, str]]:
    return [
        {
            "caption": text_pairs.captions[positive],
            "negative": text_pairs.captions[negative],
            "image_id": text_pairs.image_ids[text_pairs.images[positive]],
            "type": str(text_pairs.types[negative]),
        }
        for positive, negative in text_pairs.pairs[rows]
    ]


def ask_yardstick(
    program: Path, kept: Sequence[dict[str, str]], untouched: Sequence[dict[str, str]]
) -> dict[str, float]:
    """Group -> what the program's judge of pairs gets; and its judge of texts, as "all, texts"."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("kept.jsonl", "untouched.jsonl")]
        for path, rows in zip(paths, (kept, untouched), strict=True):
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        words = [sys.executable, str(program), *map(str, paths)]
        said: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    (thirds,) = [value for name, value in said.items() if "thirds" in name]
    return {
        "all": said["pair judge"],
        "all, texts": said["text judge"],
        **said["by type"],
        **dict(zip(THIRDS, thirds, strict=True)),
    }


def _groups(text_pairs: TextPairs, rows: np.ndarray, foreign: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """Name of each group of a rotation's pairs, what its learners read, and its rows."""
    yield "all", "pair", rows
    yield "all, texts", "text", rows
    types = text_pairs.pair_types[rows].astype(str)
    for name in sorted(set(types.tolist())):
        yield name, "pair", rows[types == name]
    third = np.digitize(foreign, np.quantile(foreign, [1 / 3, 2 / 3]))
    for number, name in enumerate(THIRDS):
        yield name, "pair", rows[third == number]


def _wins(panel: Panel, learner: Learner, rotated: Rotated) -> np.ndarray:
    from negatives.filtering import asked_logits

    return paired_wins(asked_logits(panel, learner, rotated.kept, rotated.part))


def _with_interval(wins: np.ndarray, images: np.ndarray, resamples: int = 1000) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % percentile interval, photos drawn with replacement."""
    _, images = np.unique(images, return_inverse=True)
    total, count = np.bincount(images, wins), np.bincount(images)
    drawn = generator_for("yardstick", len(wins)).multinomial(
        len(count), np.full(len(count), 1 / len(count)), resamples
    )
    low, high = np.percentile(drawn @ total / (drawn @ count), (2.5, 97.5))
    return float(wins.mean()), float(low), float(high)


def table(found: Sequence[Measured]) -> str:
    """Markdown: a line for each group."""
    names = list(found[0].ours)
    lines = ["| " + " | ".join(["arm", "rotation", "group", "yardstick", *names, "agrees"]) + " |"]
    lines.append("|" + " --- |" * (5 + len(names)))
    for one in found:
        ours = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in one.ours.values()]
        cells = [one.arm, str(one.rotation), one.group, f"{one.yardstick:.3f}", *ours, "yes" if one.agrees else "no"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _first(text_pairs: TextPairs, photos: int) -> TextPairs:
    return text_pairs.subset(text_pairs.images < photos, text_pairs.pair_images < photos)


if __name__ == "__main__":
    sys.exit(main())
