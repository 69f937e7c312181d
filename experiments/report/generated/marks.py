"""Which words of a text are not its caption's, and which of the caption's are gone."""

from __future__ import annotations

import re
import string
from difflib import SequenceMatcher
from typing import NamedTuple

LONGEST = 400  # characters that are shown of a text: a model may have written pages
# A space with the marks that stand alone after it, or a word with those at its ends. Han and kana have no spaces
# between words: a character is a piece.
_MARK = f"[{re.escape(string.punctuation)}]"
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff"
_PIECES = re.compile(rf"\s+(?:{_MARK}+(?:\s+|$))*|[{_UNSPACED}]|[^\s{_UNSPACED}]+")


class Piece(NamedTuple):
    """A part of a text, white space included."""

    text: str
    changed: bool


def marked(caption: str, text: str) -> tuple[list[Piece], list[Piece]]:
    """The caption and a text written for it, in pieces: changed are words that the other one does not have there.

    Case and punctuation are no change. Where two phrases changed places, these are the change, and what is between them
    is none. The pieces of each make the whole, shortened to `LONGEST` characters.

    >>> marked("A dog on a bench.", "a cat on a bench")[1]
    [Piece(text='a ', changed=False), Piece(text='cat', changed=True), Piece(text=' on a bench', changed=False)]
    """
    both = [_PIECES.findall(shortened(one)) for one in (caption, text)]
    places = [[place for place, piece in enumerate(pieces) if not piece[0].isspace()] for pieces in both]
    words = [[_bare(pieces[place]) for place in own] for pieces, own in zip(both, places, strict=True)]
    stay = _around_exchange(*words) or _aligned(*words)
    kept = [{own[place] for place in found} for own, found in zip(places, stay, strict=True)]
    return _joined(both[0], kept[0]), _joined(both[1], kept[1])


def shortened(text: str) -> str:
    """At most `LONGEST` characters of a text.

    >>> shortened("A dog"), len(shortened("dog " * 1000))
    ('A dog', 400)
    """
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _aligned(theirs: list[str], ours: list[str]) -> tuple[list[int], list[int]]:
    """Places of the words that two texts have in the same order, in each."""
    # autojunk would take the frequent words of a long text for noise
    blocks = SequenceMatcher(None, theirs, ours, autojunk=False).get_matching_blocks()
    first, second = ([block[side] + n for block in blocks for n in range(block.size)] for side in (0, 1))
    return first, second


def _around_exchange(theirs: list[str], ours: list[str]) -> tuple[list[int], list[int]] | None:
    """Places of the words around two phrases that changed places, in each text; None where more than that differs.

    Of several such pairs it is the shortest.
    """
    # an article follows its phrase: "a dog chasing an elephant", "an elephant chasing a dog"
    theirs, ours = (["a" if word == "an" else word for word in words] for words in (theirs, ours))
    differ = [place for place, (one, other) in enumerate(zip(theirs, ours, strict=False)) if one != other]
    if len(theirs) != len(ours) or not differ:
        return None
    start, stop = differ[0], differ[-1] + 1
    before, after = theirs[start:stop], ours[start:stop]
    if sorted(before) != sorted(after):
        return None
    for moved in range(2, len(before)):
        for first in range(1, moved):
            last = moved - first
            left, right = len(before) - last, len(before) - first
            if [*before[left:], *before[first:left], *before[:first]] == after:
                rest = [*range(start), *range(stop, len(theirs))]
                return [*rest, *range(start + first, start + left)], [*rest, *range(start + last, start + right)]
    return None


def _bare(piece: str) -> str:
    # marks that open a text are a piece, and no word
    return piece.casefold().strip(string.punctuation) or piece


def _joined(pieces: list[str], kept: set[int]) -> list[Piece]:
    """Neighbours alike are one piece; a space is changed where the words on both its sides are."""
    joined: list[Piece] = []
    for place, piece in enumerate(pieces):
        if piece[0].isspace():
            changed = 0 < place < len(pieces) - 1 and not {place - 1, place + 1} & kept
        else:
            changed = place not in kept
        if joined and joined[-1].changed == changed:
            joined[-1] = Piece(joined[-1].text + piece, changed)
        else:
            joined.append(Piece(piece, changed))
    return joined
