"""Whether a swap moves anything: lists, and things that are the same, say the same in any order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product

from negatives.word_forms import ARTICLES, BE, common_start, span_word, words_and_commas
from negatives.wordnet import is_a

LISTS = frozenset({"and", "or", ","})
SYMMETRIC = frozenset(map(span_word, ("beside", "near", "nearby", "alongside")))
"""Relations that hold both ways, as `_items` writes them: next to is beside."""
SILENT = ARTICLES | BE | {"both"}
LONGEST_ITEM = 6  # words of an item of a list, such as "a large bowl of soup"


def moves_beyond_lists(text: str, caption: str) -> bool:
    """Whether a swap does more than list the same things in another order, with or without their attributes.

    >>> moves_beyond_lists("A dog and a cat on a bed", "A cat and a dog on a bed")
    False
    >>> moves_beyond_lists("A white dog and a black cat", "A black cat and a white dog")
    False
    >>> moves_beyond_lists("A white cat and a black dog", "A black cat and a white dog")
    True
    """
    return not _is_list_order(_items(text), _items(caption))


def moves_what_differs(text: str, caption: str) -> bool:
    """Whether a swap puts another thing in at least one place: a bike in the place of a bicycle is none.

    >>> moves_what_differs("A bike near a bicycle", "A bicycle near a bike")
    False
    >>> moves_what_differs("A bike near a car", "A car near a bike")
    True
    """
    ours, theirs = _items(text), _items(caption)
    if len(ours) != len(theirs):
        return True
    pairs = zip(ours, theirs, strict=True)
    return not all(span_word(one) == span_word(two) or (is_a(one, two) and is_a(two, one)) for one, two in pairs)


def _items(text: str) -> list[str]:
    found = [word for word in words_and_commas(text) if word not in SILENT]
    return " ".join(found).replace("next to", "beside").split(" ") if "next" in found else found


def _is_list_order(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    our, their = list(map(span_word, ours)), list(map(span_word, theirs))
    start = common_start(our, their)
    stop = common_start(our[start:][::-1], their[start:][::-1])
    changed = their[start : len(their) - stop]
    # side by side holds both ways, but for what hangs on either side: only where that is the whole text
    if not SYMMETRIC.isdisjoint(changed) and _have_equal_parts(our, their, SYMMETRIC):
        return True
    if LISTS.isdisjoint(changed) or _bag(our) != _bag(their):
        return False
    # of "a black cat and a black dog" the common start takes the list's first word
    lefts, rights = (range(end, max(0, end - LONGEST_ITEM) - 1, -1) for end in (start, stop))
    return any(
        _have_equal_parts(our[left : len(our) - right], their[left : len(their) - right], LISTS)
        for left, right in product(lefts, rights)
    )


def _have_equal_parts(our: Sequence[str], their: Sequence[str], separators: Collection[str]) -> bool:
    one, two = _parts(our, separators), _parts(their, separators)
    return len(two) > 1 and "" not in two and sorted(one) == sorted(two)


def _bag(found: Sequence[str]) -> list[str]:
    return sorted(word for word in found if word not in LISTS)


def _parts(found: Sequence[str], separators: Collection[str]) -> list[str]:
    """What stands between separators; nothing stands between a comma and its "and"."""
    parts = [""]
    for word in found:
        if word not in separators:
            parts[-1] += f" {word}"
        elif parts[-1]:
            parts.append("")
    return parts
