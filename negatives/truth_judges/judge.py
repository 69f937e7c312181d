"""What a judge of truth is: can this text be true of an image of which its caption is true?

Not to be taken for a text-only judge (`negatives.judging`), which guesses from a text's style how it came about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from negatives.tables.files import StrPath


class Statement(NamedTuple):
    """A written text, and what it was written as.

    Attributes:
        caption: a true caption of the image.
        text: what was written for it.
        kind: a negative type, or "paraphrase".
        image: the caption's image, as the captions table names it; "" where the table has no images.
    """

    caption: str
    text: str
    kind: str
    image: str = ""


class TruthJudge(Protocol):
    """Says in batches which texts are not what they were written as."""

    @property
    def name(self) -> str:
        """That of its section in `TruthSettings`, and of the check in the column `checks`."""

    def rejections(self, statements: Sequence[Statement]) -> list[str]:
        """Why each text is to be rejected: "" where it passes, else a reason that begins with the judge's name.

        What is said of a statement depends on it alone, up to the rounding of a batch.
        """


@runtime_checkable
class LocalJudge(TruthJudge, Protocol):
    """A judge that computes on this machine, so that what it said may be kept in place of being computed again."""

    @property
    def identity(self) -> str:
        """All that decides what it says of a statement: its settings, and which weights it has."""


def folder_state(folder: StrPath) -> str:
    """Which model a folder holds: a hash of its files' names, sizes and times, which reads no weights.

    A copy of the folder may be another state; weights that were written anew always are.
    """
    root = Path(folder)
    # of what is deeper, weights alone: other runs may write below a run's folder
    paths = {path for path in (*root.glob("[!.]*"), *root.rglob("*.safetensors")) if path.is_file()}
    stats = [(path.stat(), path.relative_to(root).as_posix()) for path in sorted(paths)]
    state = json.dumps([(name, stat.st_size, stat.st_mtime_ns) for stat, name in stats])
    return hashlib.sha256(state.encode()).hexdigest()
