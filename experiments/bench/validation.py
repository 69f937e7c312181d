"""What validation refuses, of true and of false texts: `python -m experiments.bench.validation --help`."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.true_texts import made_from
from negatives import NEGATIVE_TYPES, bare_words, family_of, rejection
from negatives.tables import read_jsonl, write_json

PARAPHRASE = "paraphrase"
FAMILIES = tuple(dict.fromkeys(map(family_of, NEGATIVE_TYPES)))
EXAMPLES = """\
examples:
  python -m experiments.bench.validation --data shared/data/llm_negatives --folds 0 1
  python -m experiments.bench.validation --data shared/data/llm_negatives --folds 2 --json validation.json

The rules were made on the folds 0 and 1. An interval is Wilson's, at 95 %, of texts counted as if each stood alone.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.validation",
        description="Gives validation texts of which it is known whether they are true, and counts what it accepts.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add(
        "--data", required=True, help="folder of pairs.jsonl, with type, coco_id, caption, negative_caption, image_fold"
    )
    add("--folds", nargs="+", type=int, default=[0, 1], help="image folds that are read; no others are (default: 0 1)")
    add("--most", type=int, default=2000, help="at most this many made texts of each kind (default: 2000)")
    add("--seed", type=int, default=0, help="of the random captions and of the made texts")
    add("--json", help="file for all numbers")
    return made


@dataclass(frozen=True)
class Text:
    """A text that is given to validation.

    Attributes:
        source: where it comes from, such as "true swap_obj" or "deletions".
        kinds: what it is given as, each in turn: negative types, or "paraphrase".
        others: bare words of the captions of its image.
    """

    source: str
    text: str
    caption: str
    kinds: tuple[str, ...]
    others: frozenset[str]


@dataclass(frozen=True)
class Row:
    """How much of a source is accepted as a kind of text.

    Attributes:
        low, high: Wilson's interval of the rate, at 95 %.
        reasons: how often each rejection was given.
    """

    source: str
    kind: str
    texts: int
    accepted: int
    rate: float
    low: float
    high: float
    reasons: dict[str, int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    arguments = parser().parse_args(argv)
    records = read_records(Path(arguments.data) / "pairs.jsonl", arguments.folds)
    rows = count(texts_of(records, arguments.most, arguments.seed))
    print("| source | given as | texts | accepted | rejected as |\n| --- | --- | ---: | ---: | --- |")
    for row in rows:
        print(line(row))
    if arguments.json:
        about = {"folds": arguments.folds, "most": arguments.most, "seed": arguments.seed}
        write_json({**about, "rows": list(map(asdict, rows))}, Path(arguments.json))
    return 0


def read_records(path: Path, folds: Sequence[int]) -> list[dict[str, Any]]:
    """The pairs of some folds; what the file says of others is dropped on reading."""
    return [record for _, record in read_jsonl(str(path)) if record["image_fold"] in folds]


def texts_of(records: Sequence[dict[str, Any]], most: int, seed: int) -> Iterator[Text]:
    """Written negatives and paraphrases, captions of other images, and the true texts that are made of captions."""
    captions_of: dict[Any, set[str]] = {}
    images_of: dict[str, Any] = {}
    for record in records:
        captions_of.setdefault(record["coco_id"], set()).add(bare_words(record["caption"]))
        images_of.setdefault(record["caption"], record["coco_id"])
    others = {image: frozenset(captions) for image, captions in captions_of.items()}
    every, captions = (*NEGATIVE_TYPES, PARAPHRASE), sorted(images_of)
    rng = np.random.default_rng(seed)
    for record in records:
        caption, own, name = record["caption"], others[record["coco_id"]], record["type"]
        yield Text(f"true {name}", record["negative_caption"], caption, (name, PARAPHRASE), own)
        if record.get("llm_paraphrase"):
            yield Text("true paraphrase", record["llm_paraphrase"], caption, every, own)
    for caption, place in zip(captions, rng.permutation(len(captions)), strict=True):
        text, image = captions[int(place)], images_of[caption]
        if images_of[text] != image:
            yield Text("random caption", text, caption, (PARAPHRASE,), others[image])
    for name, caption, text in made_from(captions, most, seed):
        # a text is no negative of any kind because it is true, whatever made it
        yield Text(name, text, caption, tuple(NEGATIVE_TYPES), others[images_of[caption]])


def count(texts: Iterable[Text]) -> list[Row]:
    """A row for each source and kind, and one for each source and family of types; sources in order of appearance."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for text in texts:
        for kind in text.kinds:
            reason = rejection(text.text, text.caption, kind, text.others)
            source = "all true negatives" if text.source.removeprefix("true ") in NEGATIVE_TYPES else text.source
            wider = [PARAPHRASE] if kind == PARAPHRASE else [f"all {family_of(kind)}", "all negatives"]
            for group in {(text.source, kind), *((source, name) for name in wider)}:
                found.setdefault(group, Counter())[reason] += 1
    order = {source: place for place, (source, _) in enumerate(found)}
    kinds = {
        kind: place
        for place, kind in enumerate((*NEGATIVE_TYPES, *(f"all {name}" for name in FAMILIES), "all negatives"))
    }
    keys = sorted(found, key=lambda key: (order[key[0]], kinds.get(key[1], len(kinds))))
    return [_row(*key, found[key]) for key in keys]


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a rate, at 95 % (Wilson, 1927).

    >>> [round(end, 3) for end in wilson(0, 100)], [round(end, 3) for end in wilson(50, 100)]
    ([0.0, 0.037], [0.404, 0.596])
    """
    z = 1.959964
    rate, scale = successes / trials, 1 + z * z / trials
    middle = (rate + z * z / (2 * trials)) / scale
    half = z * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def line(row: Row) -> str:
    """A row of the table, in Markdown."""
    reasons = ", ".join(f"{reason} {number}" for reason, number in row.reasons.items())
    rate = f"{row.rate:.3f} [{row.low:.3f}, {row.high:.3f}]"
    return f"| {row.source} | {row.kind} | {row.texts} | {rate} | {reasons} |"


def _row(source: str, kind: str, reasons: Counter[str]) -> Row:
    texts, accepted = reasons.total(), reasons[""]
    rejected = {reason: number for reason, number in reasons.most_common() if reason}
    return Row(source, kind, texts, accepted, accepted / texts, *wilson(accepted, texts), rejected)


if __name__ == "__main__":
    sys.exit(main())
