"""What validation refuses, of true and of false texts: `python -m experiments.bench.validation --help`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.bench.validity import checks
from experiments.bench.validity.rates import cell, rate_of
from experiments.bench.validity.texts import Text, read_records, texts_of
from negatives import NEGATIVE_TYPES, PARAPHRASE, family_of, rejection
from negatives.tables import write_json

FAMILIES = tuple(dict.fromkeys(map(family_of, NEGATIVE_TYPES)))
EXAMPLES = """\
examples:
  python -m experiments.bench.validation --data shared/data/llm_negatives --folds 0 1
  python -m experiments.bench.validation --data shared/data/llm_negatives --folds 0 1 --checks
  python -m experiments.bench.validation --data shared/data/llm_negatives --folds 2 --json validation.json

The rules were made on the folds 0 and 1. An interval is Wilson's, at 95 %, clustered by image: texts of one image count
as fewer than they are, as far as they pass or fail together. A rate of 0 or 1 counts each image about once.

sources:
  true TYPE, true paraphrase  what ChatGPT wrote as such
  random caption              of another image
  deletions, list swaps       a caption without some of its words, or with a list in another order
  generalisations, synonyms, verbs, adjectives
                              a caption with one word replaced by WordNet, by its first sense. The checks read the same
                              WordNet: this measures reading and inflection, not which words validation knows
  parts                       what is near a thing is near its part, by a list of parts that is not WordNet's
  lowered numbers             "two people" for "four people"
  empty additions             "in the picture" added
  additions                   a phrase of place of another caption of the image added. As an addition it is true of the
                              photo and does not follow from the caption: no check of texts can refuse it
  replacements by ChatGPT     paraphrases that differ from their caption in one span of at most three words
  replacements by people      two captions of one image that differ so; validation is not shown that the text is one.
                              Those that say more than the caption are not to be known by texts alone

"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.validation",
        description="Gives validation texts of which it is known whether they are true, and counts what it accepts.",
        epilog=EXAMPLES + checks.explained(),
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
    add("--checks", action="store_true", help="sensitivity and specificity of each check by itself, in place of rows")
    add("--json", help="file for all numbers")
    return made


@dataclass(frozen=True)
class Row:
    """How much of a source is accepted as a kind of text.

    Attributes:
        low, high: the interval of the rate at 95 %, clustered by image.
        reasons: how often each rejection was given.
    """

    source: str
    kind: str
    texts: int
    images: int
    accepted: int
    rate: float
    low: float
    high: float
    reasons: dict[str, int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    arguments = parser().parse_args(argv)
    records = read_records(Path(arguments.data) / "pairs.jsonl", arguments.folds)
    texts = texts_of(records, arguments.most, arguments.seed)
    numbers: dict[str, Any] = {"folds": arguments.folds, "most": arguments.most, "seed": arguments.seed}
    if arguments.checks:
        found = checks.measure(texts)
        numbers["checks"] = list(map(asdict, found))
        print("\n".join(checks.table(found)))
    else:
        rows = count(texts)
        numbers["rows"] = list(map(asdict, rows))
        print("| source | given as | texts | images | accepted | rejected as |")
        print("| --- | --- | ---: | ---: | --- | --- |")
        print("\n".join(map(line, rows)))
    if arguments.json:
        write_json(numbers, Path(arguments.json))
    return 0


def count(texts: Iterable[Text]) -> list[Row]:
    """A row for each source and kind, and one for each source and family of types; sources in order of appearance."""
    found: dict[tuple[str, str], list[tuple[str, Any]]] = {}
    for text in texts:
        for kind in text.kinds:
            reason = rejection(text.text, text.caption, kind, text.others)
            source = "all true negatives" if text.source.removeprefix("true ") in NEGATIVE_TYPES else text.source
            wider = [PARAPHRASE] if kind == PARAPHRASE else [f"all {family_of(kind)}", "all negatives"]
            # no set: the order of the rows would be another in each process
            for group in dict.fromkeys([(text.source, kind), *((source, name) for name in wider)]):
                found.setdefault(group, []).append((reason, text.image))
    order = {source: place for place, (source, _) in enumerate(found)}
    kinds = {
        kind: place
        for place, kind in enumerate((*NEGATIVE_TYPES, *(f"all {name}" for name in FAMILIES), "all negatives"))
    }
    keys = sorted(found, key=lambda key: (order[key[0]], kinds.get(key[1], len(kinds))))
    return [_row(*key, found[key]) for key in keys]


def line(row: Row) -> str:
    """A row of the table, in Markdown."""
    reasons = ", ".join(f"{reason} {number}" for reason, number in row.reasons.items())
    return (
        f"| {row.source} | {row.kind} | {row.texts} | {row.images} | {cell(row.rate, row.low, row.high)} | {reasons} |"
    )


def _row(source: str, kind: str, found: Sequence[tuple[str, Any]]) -> Row:
    reasons = Counter(reason for reason, _ in found if reason)
    rate = rate_of([not reason for reason, _ in found], [image for _, image in found])
    numbers = (rate.texts, rate.images, rate.count, rate.rate, rate.low, rate.high)
    return Row(source, kind, *numbers, dict(reasons.most_common()))


if __name__ == "__main__":
    sys.exit(main())
