"""A few items for the page: those that scorers disagree on, and those that they fail on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.report.comparison.entries import Entry
from experiments.report.comparison.examples.outcomes import Outcomes, by_rank, item_logits, outcomes
from experiments.report.comparison.examples.thumbnails import thumbnail
from experiments.report.comparison.reading.evaluated import EvaluatedSet, shared_main
from negatives.tables import hash_of

TEXTS_SHOWN = 6
DISAGREE, FAIL, RIGHT = "the scorers disagree", "the scorers fail", "the scorers are right"


@dataclass(frozen=True)
class Picture:
    """One image; `thumbnail` is a data URI, None where the image cannot be shown."""

    image_id: str
    thumbnail: str | None
    small: bool


@dataclass(frozen=True)
class Verdict:
    """What one entry says of an item.

    Attributes:
        run: the entry's name.
        said: in a word.
        wrong: from 0 to 1, the mean over seeds.
        logits: of each text for each image, (texts, images); the mean over seeds.
    """

    run: str
    said: str
    wrong: float
    logits: list[list[float]]


@dataclass(frozen=True)
class Example:
    """One item.

    Attributes:
        set: its set.
        reason: why it is shown.
        group: its group, label or rating.
        pictures: its images.
        texts: its texts, each with its role: "true", "false" or "".
        left_out: texts that are not shown.
        verdicts: of all entries.
    """

    set: str
    reason: str
    group: str
    pictures: list[Picture]
    texts: list[tuple[str, str]]
    left_out: int
    verdicts: list[Verdict]


def choose_examples(entries: Sequence[Entry], sets: Sequence[str], count: int, seed: int) -> list[Example]:
    """`count` items, as many of each of these sets as can be: half for disagreement, half for failure.

    Each image is there once.

    Args:
        entries: methods and lone runs; all have the sets.
        sets: names.
        count: 0 for none.
        seed: chooses among what is equal.
    """
    shares = [count // len(sets) + (place < count % len(sets)) for place in range(len(sets))]
    return [
        example
        for name, share in zip(sets, shares, strict=True)
        if share
        for example in _of_set(entries, name, share, seed)
    ]


def _of_set(entries: Sequence[Entry], name: str, count: int, seed: int) -> list[Example]:
    asked = entries[0].runs[0].sets[name]
    metric = shared_main([run.sets[name] for entry in entries for run in entry.runs]).metric
    found = [[outcomes(run.sets[name], metric) for run in entry.runs] for entry in entries]
    wrong = np.stack([np.mean([one.wrong for one in seeds], axis=0) for seeds in found])
    items = found[0][0].items
    every = _image_lists(asked)
    images = [every[row] for row in items]
    chosen = _chosen(wrong, images, count, seed)
    return [
        _example(entries, name, [seeds[0] for seeds in found], wrong[:, place], place, reason)
        for place, reason in chosen
    ]


def _chosen(wrong: NDArray[np.float64], images: list[list[str]], count: int, seed: int) -> list[tuple[int, str]]:
    """Places of items, and why each is chosen; `wrong` is (entries, items)."""
    # equal ones in an order that no file decides
    ties = np.array([hash_of("examples", str(seed), str(place), *names) for place, names in enumerate(images)])
    orders = [(np.lexsort((ties, -wrong.mean(0))), FAIL, wrong.mean(0))]
    if len(wrong) > 1:
        orders.insert(0, (np.lexsort((ties, -wrong.var(0))), DISAGREE, wrong.var(0)))
    chosen: list[tuple[int, str]] = []
    shown: set[str] = set()
    for number, (order, reason, values) in enumerate(orders):
        left = len(orders) - number
        most = len(chosen) + -(-(count - len(chosen)) // left)
        for place in order:
            last = left == 1
            # without any disagreement the rest is failures, and without failures what is right
            if len(chosen) >= most or (not last and values[place] <= 0):
                break
            if shown.isdisjoint(images[place]):
                shown.update(images[place])
                chosen.append((int(place), reason if values[place] > 0 else RIGHT))
    return chosen


def _example(
    entries: Sequence[Entry], name: str, found: list[Outcomes], wrong: NDArray[np.float64], place: int, reason: str
) -> Example:
    asked = entries[0].runs[0].sets[name]
    row = int(found[0].items[place])
    item = asked.key.slice(row, 1).to_pylist()[0]
    images = _image_lists(asked, row)[0]
    rival = _rival(found, place)
    verdicts = []
    for entry, share in zip(entries, wrong, strict=True):
        sets = [run.sets[name] for run in entry.runs]
        logits = np.mean([item_logits(one.logits, images, _text_ids(one, row, rival)) for one in sets], axis=0)
        said = _said(sets, row, float(share))
        verdicts.append(Verdict(entry.name, said, float(share), logits.T[:TEXTS_SHOWN].tolist()))
    wordings = dict(zip(*(asked.texts[column].to_pylist()[::-1] for column in ("text_id", "text")), strict=True))
    ids = _text_ids(asked, row, rival)
    roles = _roles(asked.protocol, item, len(ids))
    texts = [(wordings.get(one, one), role) for one, role in zip(ids, roles, strict=True)]
    measured = [f"{key} {item[key]:g}" for key in ("label", "rating") if key in item]
    return Example(
        set=name,
        reason=reason,
        group=", ".join([*([item["group"]] if item.get("group") else []), *measured]),
        pictures=[Picture(image, *_thumbnail(asked, image)) for image in images],
        texts=texts[:TEXTS_SHOWN],
        left_out=max(0, len(texts) - TEXTS_SHOWN),
        verdicts=verdicts,
    )


def _rival(found: list[Outcomes], place: int) -> str | None:
    """The false text of the scorer that prefers one most clearly, where all texts are searched."""
    margins = [-np.inf if one.margins is None else one.margins[place] for one in found]
    worst = found[int(np.argmax(margins))]
    return None if worst.rivals is None else str(worst.rivals[place].as_py())


def _image_lists(found: EvaluatedSet, row: int | None = None) -> list[list[str]]:
    """The images of each item, or of one."""
    several = "image_ids" in found.key.column_names
    column = found.key["image_ids" if several else "image_id"]
    values = (column if row is None else column.slice(row, 1)).to_pylist()
    return values if several else [[image] for image in values]


def _text_ids(found: EvaluatedSet, row: int, rival: str | None) -> list[str]:
    item = found.key.slice(row, 1).to_pylist()[0]
    if found.protocol == "pairs":
        return [*item["true"], *item["false"]]
    return list(item["text_ids"]) if "text_ids" in item else [item["text_id"], *([rival] if rival is not None else [])]


def _roles(protocol: str, item: dict[str, Any], count: int) -> list[str]:
    if protocol == "pairs":
        return ["true"] * len(item["true"]) + ["false"] * len(item["false"])
    if protocol == "groups":
        return [f"of image {place + 1}" for place in range(count)]
    return ["true", "false"] if count == 2 else [""]


def _said(sets: Sequence[EvaluatedSet], row: int, wrong: float) -> str:
    if sets[0].protocol in ("labels", "ratings"):
        ranks = [by_rank(one) for one in sets]
        own, wanted = (float(np.mean([one[side][row] for one in ranks])) for side in (0, 1))
        return f"at {100 * own:.0f} % of all logits, {100 * wanted:.0f} % of all {sets[0].protocol}"
    if wrong in (0, 1):
        return "✗ wrong" if wrong else "✓ right"
    right = round(len(sets) * (1 - wrong))
    return f"{right} of {len(sets)} seeds right"


def _thumbnail(found: EvaluatedSet, image_id: str) -> tuple[str | None, bool]:
    rows = found.images.filter([one == image_id for one in found.images["image_id"].to_pylist()]).to_pylist()
    if not rows:
        return None, False
    return thumbnail(found.image_root, rows[0]["image"], rows[0].get("box"))
