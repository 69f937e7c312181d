"""Harmonising: a negative takes its positive's style, so that style says nothing and no text is lost over it.

A language model writes clean sentences where people write as they like: only the positives of such data have lower-case
starts, missing full stops, double spaces and slips. What a negative shares with its positive is written as there. Words
are never added, dropped or moved, and positives are never touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa

from negatives.tables.files import InputError, quoted

Progress = Callable[[Iterable[Any]], Iterable[Any]]

WORD = re.compile(r"(\w+)")
TAIL = re.compile(r"(.*[^\s.,;:!?…。，；：！？،؛؟।])?(.*)", re.DOTALL)  # greedy, so linear in the length


class Split(NamedTuple):
    """A text in pieces.

    Attributes:
        pieces: what stands before the first word, that word, what stands between it and the next, and so on.
        words: as written.
        gaps: what stands around them, one more than words.
        keys: the words casefolded.
    """

    pieces: list[str]
    words: list[str]
    gaps: list[str]
    keys: list[str]


def harmonise(positive: str, negative: str) -> str:
    """The negative in its positive's casing, punctuation and white space.

    What both start with, and end with, is copied from the positive. In the middle, a word that both have is written as
    in the positive, and so is what stands between two words that both have side by side. Words of its own take the
    positive's case where all of it is in one, and keep the capitals of names where it is not.

    Args:
        positive: caption that the negative was made from.
        negative: the caption to rewrite.

    Returns:
        The negative with the same words (case aside) in the same order. If either has no word, the negative as it is.

    >>> harmonise("a dog , chasing a  Frisbee ", "A cat, chasing a frisbee.")
    'a cat , chasing a  Frisbee '
    """
    text, own = _split(negative), _split_positive(positive)
    if not text.words or not own.words:
        return negative
    if text.keys == own.keys:
        return positive
    start, stop = _shared(text.keys, own.keys)
    end, own_end = len(text.words) - stop, len(own.words) - stop
    # Gaps of the middle: those before each of its words, but for the head before a first word; and where both texts end
    # alike, the one between the middle and that end.
    middle = range(start, end)
    words = _cased(text, own, middle, range(start, own_end))
    gaps = _between(text, own, range(max(start, 1), end + (stop > 0)), range(max(start, 1), own_end + (stop > 0)))
    if start == 0:
        gaps.insert(0, _head(text.gaps[0], own.gaps[0]))
    pieces = own.pieces[: 2 * start]
    for gap, word in zip(gaps, [*words, ""], strict=False):
        pieces += (gap, word)
    # pieces alternate gap, word, gap, ...: word i is piece 2 i + 1, and the gap before it piece 2 i
    pieces += own.pieces[2 * own_end + 1 :] if stop else [_tail(text.gaps[-1], own.gaps[-1])]
    return "".join(pieces)


def harmonise_table(captions: pa.Table, negatives: pa.Table, progress: Progress = iter) -> pa.Table:
    """The negatives, each in the style of the caption that it was made from.

    Args:
        captions: columns `caption_id, caption`.
        negatives: columns `caption_id, caption`.
        progress: wraps the iteration over negatives to show how far it is.

    Returns:
        `negatives` with its `caption` rewritten (see `harmonise`); rows and other columns as they are.

    Raises:
        InputError: if a negative's caption is not there.
    """
    positives = dict(zip(captions["caption_id"].to_pylist(), captions["caption"].to_pylist(), strict=True))
    rows = list(zip(negatives["caption_id"].to_pylist(), negatives["caption"].to_pylist(), strict=True))
    foreign = [caption_id for caption_id, _ in rows if caption_id not in positives]
    if foreign:
        raise InputError(
            f"Each negative needs its caption, got {len(foreign)} of {len(rows)} rows of the negatives table with a "
            f"caption_id that the captions table does not have, such as {quoted(foreign[0])}. Give their captions too."
        )
    texts = [harmonise(positives[caption_id], caption) for caption_id, caption in progress(rows)]
    place = negatives.column_names.index("caption")
    return negatives.set_column(place, "caption", pa.array(texts, pa.string()))


def _split(text: str) -> Split:
    pieces = WORD.split(text)
    words = pieces[1::2]
    return Split(pieces, words, pieces[::2], [word.casefold() for word in words])


_split_positive = lru_cache(maxsize=64)(_split)  # a caption's negatives mostly come one after the other


def _shared(keys: list[str], own: list[str]) -> tuple[int, int]:
    """How many words two different texts share at the start, and how many of the others at the end.

    A first word is never among the latter: its capital is the sentence's.
    """
    most = min(len(keys), len(own))
    start = 0
    while start < most and keys[start] == own[start]:
        start += 1
    stop = 0
    while stop < most - max(start, 1) and keys[-1 - stop] == own[-1 - stop]:
        stop += 1
    return start, stop


def _cased(text: Split, own: Split, places: range, own_places: range) -> list[str]:
    """The words at `places` in the positive's case."""
    place_of = {own.keys[place]: place for place in own_places}
    recase = _recase("".join(own.words))
    opening = own.words[0][0]
    words = []
    for place in places:
        word, own_place = text.words[place], place_of.get(text.keys[place])
        # the positive's first word is no model where its capital is the sentence's
        if own_place is not None and (own_place > 0 or not opening.isupper()):
            word = own.words[own_place]
        elif recase is not None:
            word = _if_same(recase(word), word)
        elif place == 0 and opening.islower():
            word = _first(word, str.lower)
        if place == 0 and opening.isupper():
            word = _first(word, str.upper)
        words.append(word)
    return words


def _recase(letters: str) -> Callable[[str], str] | None:
    """What a text of these letters does to case, if all of it is in one."""
    lower, upper = letters == letters.lower(), letters == letters.upper()
    if lower == upper:  # both: a script without case
        return None
    # one capital alone, as in "A 5", is how a sentence starts
    return str.lower if lower else str.upper if sum(map(str.isupper, letters)) > 1 else None


def _first(word: str, recase: Callable[[str], str]) -> str:
    """The word with its first letter recased; acronyms and names with capitals inside stay."""
    return word if word[1:] != word[1:].lower() else _if_same(recase(word[0]) + word[1:], word)


def _if_same(recased: str, word: str) -> str:
    """`recased` if it is the same word still: the capital of "ı" is that of "i", and "İ" becomes two signs."""
    return recased if recased.casefold() == word.casefold() and WORD.fullmatch(recased) else word


def _between(text: Split, own: Split, places: range, own_places: range) -> list[str]:
    """What stands before the words at `places`, none of which is the first."""
    # looked up by the two words around it: what stands between "dog" and "chasing" is copied wherever the two meet
    gap_of = {(own.keys[place - 1], own.keys[place]): own.gaps[place] for place in own_places}
    comma = next((gap for gap in own.gaps[1:-1] if gap.strip() == ","), ", ") if "," in "".join(own.gaps) else " "
    replaced = len(places) == len(own_places)  # as many words as in the positive, so that places correspond
    gaps = []
    for place in places:
        gap = gap_of.get((text.keys[place - 1], text.keys[place]))
        if gap is None:
            gap = _respaced(text.gaps[place], comma, own.gaps[place] if replaced else None)
        gaps.append(gap)
    return gaps


def _respaced(gap: str, comma: str, there: str | None) -> str:
    """What stands between two words that the positive does not have side by side.

    Args:
        gap: as in the negative; its marks stay, but for commas where the positive has none.
        comma: how the positive writes a comma between words; a blank where it has none.
        there: the positive's gap at the same place, where places correspond.
    """
    # a positive without commas is the writer's style; other marks may carry meaning, and stay
    if "," in gap and comma == " ":
        gap = gap.replace(",", "") or " "
    marks = gap.split()
    if there is not None and there.split() == marks:
        return there
    if marks == [","]:
        return comma
    return gap if gap == " " else re.sub(r"\s+", " ", gap)


def _head(head: str, own: str) -> str:
    """What stands before a first word that is not the positive's."""
    return own[: len(own) - len(own.lstrip())] + head.lstrip()


def _tail(tail: str, own: str) -> str:
    """What stands behind a last word that is not the positive's: its closing marks, behind the brackets there are."""
    kept, own_marks = TAIL.fullmatch(tail), TAIL.fullmatch(own)
    assert kept is not None  # the pattern matches anything
    assert own_marks is not None
    return (kept[1] or "") + own_marks[2]
