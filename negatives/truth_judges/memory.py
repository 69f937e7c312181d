"""What judges said of statements, in one SQLite file: a run that goes on does not compute it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from negatives.chat.cache import RequestCache
from negatives.chat.messages import Answer
from negatives.tables.files import StrPath
from negatives.truth_judges.judge import LocalJudge, Statement, TruthJudge

MOST_AT_ONCE = 1000  # statements: what a kill loses


def remembering(judges: Iterable[TruthJudge], path: StrPath) -> list[TruthJudge]:
    """The judges, those that compute on this machine with a memory; the others keep what they were told by themselves.

    Args:
        judges: who is asked.
        path: the file; made where it is missing.
    """
    return [RememberingJudge(judge, path) if isinstance(judge, LocalJudge) else judge for judge in judges]


class RememberingJudge:
    """A judge that is asked about each statement once, however often a run is started.

    Args:
        judge: who is asked about what is new.
        path: SQLite file of what it said.
    """

    def __init__(self, judge: LocalJudge, path: StrPath) -> None:
        self.judge, self.path = judge, path

    @property
    def name(self) -> str:
        """The judge's own."""
        return self.judge.name

    def rejections(self, statements: Sequence[Statement]) -> list[str]:
        """See `TruthJudge.rejections`.

        Raises:
            InputError: the file cannot be used, or of the judge.
        """
        # a judge's word is kept as an answer is: by a key, committed as it comes, whole after a kill
        with RequestCache(self.path) as memory:
            keys = {one: self._key(one) for one in statements}
            found = {one: answer[-1].text for one, key in keys.items() if (answer := memory.answers(key))}
            for block in _by_image(one for one in keys if one not in found):
                for one, reason in zip(block, self.judge.rejections(block), strict=True):
                    found[one] = reason
                    memory.record(Answer(keys[one], 0, "ok", reason, self.name, 0, 0, "", ""))
        return [found[one] for one in statements]

    def _key(self, one: Statement) -> str:
        said = json.dumps([self.judge.identity, *one])
        return hashlib.sha256(said.encode()).hexdigest()


def _by_image(statements: Iterable[Statement]) -> Iterator[list[Statement]]:
    """Blocks of about `MOST_AT_ONCE`, in which no image is torn apart: it is computed with all of its texts."""
    images: dict[str, list[Statement]] = {}
    for one in statements:
        images.setdefault(one.image, []).append(one)
    # without images there is nothing to keep together
    rows = images.values() if len(images) > 1 else ([one] for one in chain.from_iterable(images.values()))
    block: list[Statement] = []
    for row in rows:
        block += row
        if len(block) >= MOST_AT_ONCE:
            yield block
            block = []
    if block:
        yield block
