"""What learners of filtered negatives get on SugarCrepe's items of photos that were not filtered."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from datamodules.benchmarks import as_pairs, read_benchmark
from experiments.bench.benchmark_texts.read import PAIRS_FILE, text_pairs_of
from experiments.bench.filters import read_text_pairs
from negatives import NEGATIVE_TYPES, FilterPlan, JudgeSettings, family_of
from negatives.filtering import Learner, Retained, harmonise_table
from negatives.judging import TextPairs, build_judges, paired_wins
from negatives.tables import read_jsonl

if TYPE_CHECKING:
    from negatives.judging import Panel

LEARNERS = tuple(Learner(judge, reads) for judge in ("word", "char", "bayes") for reads in ("pair", "text"))
EVERYTHING = "everything"
ARMS = (
    EVERYTHING,
    *(f"{rule} {unit}" for rule in ("margins", "overlap", "top_fraction") for unit in ("text", "pair")),
    *("margins both", "overlap both"),
)
"""What is trained on: everything, or what a rule keeps with a unit."""
TYPES = [name for name in NEGATIVE_TYPES if family_of(name) in ("replace", "swap")]


@dataclass(frozen=True)
class Taught:
    """What one learner of what an arm keeps gets on SugarCrepe, the mean of the seeds.

    Attributes:
        arm, judge, reads: of what, and who.
        kept: share of the pairs of the filtered photos.
        type: of the items; "all" for all.
        value, low, high: share of the items whose positive it picks, with its 95 % interval over photos.
        control: trained on as many pairs, or texts, drawn at random.
        count: items.
    """

    arm: str
    judge: str
    reads: str
    kept: float
    type: str
    value: float
    low: float
    high: float
    control: float
    count: int


class Split(NamedTuple):
    """Written negatives of some photos, and SugarCrepe's items of others.

    Attributes:
        written, items: the two alone.
        joined: the texts and pairs of both, in this order.
    """

    written: TextPairs
    items: TextPairs
    joined: TextPairs


def splits(data: Path) -> Iterator[Split]:
    """Each fold of the photos once as those asked about; together, every item of replace and swap once."""
    path = str(data / PAIRS_FILE)
    fold_of = {str(record["coco_id"]): record["image_fold"] for _, record in read_jsonl(path)}
    folds = sorted(set(fold_of.values()))
    pairs = as_pairs(read_benchmark("sugarcrepe", annotations=data / "sugarcrepe/data", texts_only=True))
    negatives = _where(pairs.negatives, "negative_type", set(TYPES))
    captions = _where(pairs.captions, "caption_id", set(negatives["caption_id"].to_pylist()))
    items = text_pairs_of(captions, harmonise_table(captions, negatives))
    # a photo of which nothing was written is in no filter, and is asked about with the first fold
    item_fold = np.array([fold_of.get(name, folds[0]) for name in items.image_ids])[items.images]
    for fold in folds:
        own = item_fold == fold
        others = [other for other in folds if other != fold]
        written = read_text_pairs(path, TYPES, harmonised=True, paraphrases=False, image_folds=others)
        part = items.subset(own, own[items.pairs[:, 0]])
        yield Split(written, part, written.joined(part))


def _where(table: pa.Table, column: str, values: set[str]) -> pa.Table:
    """The rows whose value is among these."""
    return table.filter(pa.array([value in values for value in table[column].to_pylist()]))


def transfer(given: argparse.Namespace) -> Iterator[Taught]:
    """What the learners of each arm get on all items, and on each type; arms that take long come one by one."""
    from negatives.judging import seat

    parts = list(splits(given.data))
    settings = JudgeSettings()
    filters, learners = [], []
    for split in parts:
        filters.append(
            seat(build_judges(given.judges, settings), split.written, folds=given.folds, workers=given.workers)
        )
        learners.append(seat(build_judges(["word", "char", "bayes"], settings), split.joined))
    for arm in given.arms:
        # [seeds, learners, items], of what is kept and of as much at random
        shares, wins = [], []
        for seed in given.seeds:
            kept = [_kept(panel, arm, seed) for panel in filters]
            shares.append(np.concatenate([one.pairs for one in kept]).mean())
            wins.append(
                np.concatenate([_wins(*of, arm, seed) for of in zip(learners, parts, kept, strict=True)], axis=2)
            )
            if arm == EVERYTHING:  # no seed takes part
                break
        yield from _rows(arm, float(np.mean(shares)), np.mean(wins, axis=0), parts, given.bootstrap)


def _kept(panel: Panel, arm: str, seed: int) -> Retained:
    """What a filter of all photos of the panel keeps: the verdicts that ship."""
    from negatives.filtering import everything, filter_and_rotate

    if arm == EVERYTHING:
        return everything(panel.text_pairs)
    rule, unit = arm.split()
    filtered, _ = filter_and_rotate(panel, FilterPlan(unit=unit, rule=rule, seed=seed), certified=False)
    return Retained(filtered.keep, filtered.pair_keep)


def _wins(panel: Panel, split: Split, kept: Retained, arm: str, seed: int) -> np.ndarray:
    """[2, learners, items] whether each learner of what is kept, and of a random subset, picks each item's positive."""
    from negatives.filtering import at_random, learn

    texts, pairs = len(split.items.captions), len(split.items.pairs)
    whole = Retained(np.pad(kept.texts, (0, texts)), np.pad(kept.pairs, (0, pairs)))
    seen = np.arange(len(split.joined.captions)) < len(split.written.captions)
    drawn = at_random(split.joined, whole, seen, "text" if arm == EVERYTHING else arm.split()[1], f"transfer {seed}")
    first, second = split.joined.pairs[-pairs:].T
    wins = []
    for own in (whole, drawn):
        scores = [learn(panel, learner, own, seen) for learner in LEARNERS]
        wins.append([paired_wins(one[first] - one[second]) for one in scores])
    return np.array(wins)


def _rows(arm: str, kept: float, wins: np.ndarray, parts: list[Split], bootstrap: int) -> Iterator[Taught]:
    from negatives.filtering import intervals
    from negatives.judging import image_weights

    types = np.concatenate([split.items.pair_types.astype(str) for split in parts])
    names = [split.items.image_ids[photo] for split in parts for photo in split.items.pair_images]
    _, photos = np.unique(names, return_inverse=True)
    weights = image_weights(int(photos.max()) + 1, bootstrap, "transfer")
    groups = {name: np.flatnonzero((types == name) | (name == "all")) for name in ("all", *sorted(set(types.tolist())))}
    cells = [(wins[0, number], rows) for number in range(len(LEARNERS)) for rows in groups.values()]
    ends = iter(intervals(photos, cells, weights))
    for number, (judge, reads) in enumerate(LEARNERS):
        for name, rows in groups.items():
            own, drawn = wins[:, number, rows]
            yield Taught(arm, judge, reads, kept, name, float(own.mean()), *next(ends), float(drawn.mean()), len(rows))


def table(rows: Sequence[Taught]) -> str:
    """Markdown: for each arm a line with all items, and one with as much drawn at random."""
    headings = ["trained on", "pairs kept", *(f"{judge}, {reads}s" for judge, reads in LEARNERS), "furthest type"]
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    for arm in dict.fromkeys(row.arm for row in rows):
        whole = [row for row in rows if (row.arm, row.type) == (arm, "all")]
        far = max((row for row in rows if row.arm == arm and row.type != "all"), key=lambda row: abs(row.value - 0.5))
        values = [f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in whole]
        furthest = f"{far.value:.3f} ({far.type}; {far.judge}, {far.reads}s)"
        lines.append("| " + " | ".join([arm, f"{whole[0].kept:.0%}", *values, furthest]) + " |")
        if arm != EVERYTHING:
            lines.append("| " + " | ".join(["random", "", *(f"{row.control:.3f}" for row in whole), ""]) + " |")
    return "\n".join(lines)
