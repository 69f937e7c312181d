"""Scorers by name: a run, a checkpoint, a scores table, or what reads texts alone; one row of `KINDS` for each."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.config.evaluation_schemas import EVALUATION_FILES
from experiments.config.run_folders import SCORER, is_run, split_checkpoint
from experiments.runs.outputs import CONFIG_FILE
from experiments.scoring.scorer import Options, Scorer
from lightning_modules.scoring import WEIGHTS_FILE
from negatives.tables import InputError, quoted

TAKEN = frozenset(EVALUATION_FILES)
"""What stands in an evaluation's folder beside those of several scorers."""


class Kind(NamedTuple):
    """A kind of scorer.

    Attributes:
        example: how one is named.
        opens: dotted place of a function that takes the word and `Options` and returns a `Scorer`, imported on use.
        is_one: whether a word names one; asked in the order of the table.
        files: what has to be on disk for it.
        short: what of the word names its folder.
    """

    example: str
    opens: str
    is_one: Callable[[str], bool]
    files: Callable[[str], Sequence[str]] = lambda word: ()
    short: Callable[[str], str] = lambda word: Path(word).name


KINDS = {
    "judge": Kind(
        "judge:word:captions.parquet:negatives.parquet",
        "experiments.scoring.text_scorers.open_judge",
        lambda word: word.startswith("judge:"),
        lambda word: word.split(":")[2:],
        lambda word: ":".join(word.split(":")[:2]),
    ),
    "lm": Kind(
        "lm:FOLDER",
        "experiments.scoring.text_scorers.open_lm",
        lambda word: word.startswith("lm:"),
        lambda word: (word.removeprefix("lm:"),),
    ),
    "table": Kind(
        "scores.parquet",
        "experiments.scoring.score_tables.open_table",
        lambda word: word.endswith((".parquet", ".csv", ".jsonl")),
        lambda word: (word,),
        lambda word: Path(word).stem,
    ),
    # the last: what is nothing else is a folder, or a name on the hub
    "model": Kind(
        "RUN, RUN@best, FOLDER or NAME",
        "experiments.scoring.model_scorers.open_model",
        lambda word: True,
        # a name on the hub begins with a letter or a digit
        lambda word: () if word[:1].isalnum() else (split_checkpoint(word)[0],),
    ),
}


def open_scorer(word: str, options: Options) -> Scorer:
    """The scorer that a word names.

    Raises:
        InputError: there is no such scorer, or it cannot be loaded.
    """
    module, _, function = _kind(word).opens.rpartition(".")
    scorer: Scorer = getattr(importlib.import_module(module), function)(word, options)
    return scorer


def check_scorer(word: str) -> None:
    """Looks for what a word names, as far as that is known without loading it: hours of scoring may come before it.

    Raises:
        InputError: a file or folder is not there, or a folder holds no scorer.
    """
    folder = Path(split_checkpoint(word)[0])
    if is_run(folder) and not any((folder / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE)):
        raise InputError(f"A scorer must be {SCORER}, got {quoted(str(folder), 200)}, a folder that holds none.")
    for file in _kind(word).files(word):
        if not file or not Path(file).exists():
            of = f" of {quoted(word)}" if file != word else ""
            raise InputError(f"{quoted(file)}{of} must be there, and is not; `scorers` takes names and paths. Mend it.")


def _kind(word: str) -> Kind:
    return next(kind for kind in KINDS.values() if kind.is_one(word))


def folder_names(words: Sequence[str]) -> list[str]:
    """A folder's name for each of several scorers: the last part of its word, all of it where two would be alike.

    >>> folder_names(["runs/a", "openai/clip", "judge:word:c.parquet:n.parquet", "x/scores.csv"])
    ['a', 'clip', 'judge-word', 'scores']
    >>> folder_names(["runs/a@best", "other/a@best"])
    ['runs-a@best', 'other-a@best']

    Raises:
        InputError: a scorer is named twice, two words make one name, or one is that of another file there.
    """
    short = [_slug(_kind(word).short(word)) for word in words]
    counts = Counter(short)
    names = [_slug(word) if counts[name] > 1 else name for word, name in zip(words, short, strict=True)]
    of_folder: dict[str, list[str]] = {}
    for word, name in zip(words, names, strict=True):
        # some file systems do not tell cases apart
        of_folder.setdefault(name.casefold(), []).append(word)
    for name, (word, *_) in of_folder.items():
        if name in TAKEN and len(words) > 1:
            raise InputError(f"{quoted(word)} would have the folder {quoted(name)}, which is another's; rename it.")
    for alike in of_folder.values():
        if len(alike) > 1:
            first, second = map(quoted, alike[:2])
            raise InputError(f"{first} and {second} would share a folder; take one out of `scorers`, or rename it.")
    return names


def _slug(word: str) -> str:
    return word.strip("./").replace("/", "-").replace(":", "-") or "scorer"
