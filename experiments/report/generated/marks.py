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

    Case and punctuation are no change. The pieces of each make the whole, shortened to `LONGEST` characters.

    >>> marked("A dog on a bench.", "a cat on a bench")[1]
    [Piece(text='a ', changed=False), Piece(text='cat', changed=True), Piece(text=' on a bench', changed=False)]
    """
    both = [_PIECES.findall(shortened(one)) for one in (caption, text)]
    places = [[place for place, piece in enumerate(pieces) if not piece[0].isspace()] for pieces in both]
    words = [[_bare(pieces[place]) for place in own] for pieces, own in zip(both, places, strict=True)]
    # autojunk would take the frequent words of a long text for noise
    blocks = SequenceMatcher(None, words[0], words[1], autojunk=False).get_matching_blocks()
    kept = [{own[block[side] + n] for block in blocks for n in range(block.size)} for side, own in enumerate(places)]
    return _joined(both[0], kept[0]), _joined(both[1], kept[1])


def shortened(text: str) -> str:
    """At most `LONGEST` characters of a text.

    >>> shortened("A dog"), len(shortened("dog " * 1000))
    ('A dog', 400)
    """
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


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
