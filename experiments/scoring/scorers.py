"""Scorers by name: a run, a checkpoint, a scores table, or what reads texts alone; one row of `KINDS` for each."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.scoring.scorer import Options, Scorer
from negatives.tables import InputError, quoted


class Kind(NamedTuple):
    """A kind of scorer.

    Attributes:
        example: how one is named.
        opens: dotted place of a function that takes the word and `Options` and returns a `Scorer`, imported on use.
        is_one: whether a word names one; asked in the order of the table.
    """

    example: str
    opens: str
    is_one: Callable[[str], bool]


KINDS = {
    "judge": Kind(
        "judge:word:captions.parquet:negatives.parquet",
        "experiments.scoring.text_scorers.open_judge",
        lambda word: word.startswith("judge:"),
    ),
    "lm": Kind("lm:FOLDER", "experiments.scoring.text_scorers.open_lm", lambda word: word.startswith("lm:")),
    "table": Kind(
        "scores.parquet",
        "experiments.scoring.score_tables.open_table",
        lambda word: word.endswith((".parquet", ".csv", ".jsonl")),
    ),
    # the last: what is nothing else is a folder, or a name on the hub
    "model": Kind("RUN, RUN@best, FOLDER or NAME", "experiments.scoring.model_scorers.open_model", lambda word: True),
}


def open_scorer(word: str, options: Options) -> Scorer:
    """The scorer that a word names.

    Raises:
        InputError: there is no such scorer, or it cannot be loaded.
    """
    kind = next(kind for kind in KINDS.values() if kind.is_one(word))
    module, _, function = kind.opens.rpartition(".")
    scorer: Scorer = getattr(importlib.import_module(module), function)(word, options)
    return scorer


def folder_names(words: Sequence[str]) -> list[str]:
    """A folder's name for each of several scorers: the last part of its word, all of it where two would be alike.

    >>> folder_names(["runs/a", "openai/clip", "judge:word:c.parquet:n.parquet", "x/scores.csv"])
    ['a', 'clip', 'judge-word', 'scores']
    >>> folder_names(["runs/a@best", "other/a@best"])
    ['runs-a@best', 'other-a@best']

    Raises:
        InputError: a scorer is named twice, or two words make one name.
    """
    short = [_short(word) for word in words]
    counts = Counter(short)
    names = [_slug(word) if counts[name] > 1 else name for word, name in zip(words, short, strict=True)]
    of_folder: dict[str, list[str]] = {}
    for word, name in zip(words, names, strict=True):
        # some file systems do not tell cases apart
        of_folder.setdefault(name.casefold(), []).append(word)
    for alike in of_folder.values():
        if len(alike) > 1:
            first, second = map(quoted, alike[:2])
            raise InputError(f"{first} and {second} would share a folder; take one out of `scorers`, or rename it.")
    return names


def _short(word: str) -> str:
    if word.startswith("judge:"):
        return _slug(":".join(word.split(":")[:2]))
    path = Path(word.rstrip("/"))
    return _slug(path.stem if KINDS["table"].is_one(word) else path.name)


def _slug(word: str) -> str:
    return word.strip("./").replace("/", "-").replace(":", "-") or "scorer"
