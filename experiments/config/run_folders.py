"""What a folder, or the word that names a scorer, says at a glance; nothing is loaded."""

from __future__ import annotations

import os
from pathlib import Path

SCORER = (
    "a run (RUN, RUN@best), a checkpoint's FOLDER, its NAME on the hub, a scores table (.parquet, .csv, .jsonl), "
    "judge:NAME:CAPTIONS:NEGATIVES or lm:FOLDER"
)
"""What `itm evaluate` evaluates, for errors."""


def split_checkpoint(word: str) -> tuple[str, str | None]:
    """A scorer's folder or name, and what stands behind its @: weights of a run, or a revision on the hub.

    >>> split_checkpoint("runs/a@best"), split_checkpoint("openai/clip")
    (('runs/a', 'best'), ('openai/clip', None))
    """
    # a folder may be called so
    if "@" not in word or os.path.exists(word):
        return word, None
    name, _, which = word.rpartition("@")
    return name, which


def is_run(folder: Path) -> bool:
    """Whether a folder can only be one of `itm train`, finished or not: it is no checkpoint in another format."""
    return folder.is_dir() and not any((folder / name).is_file() for name in ("adapter_config.json", "config.json"))
