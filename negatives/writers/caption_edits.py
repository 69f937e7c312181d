"""Edits of a caption that keep its capitals and its articles right."""

from __future__ import annotations

import re
from collections.abc import Iterable

# vowels that sound like consonants: unicorn, user, European, one; not unintended, unimportant
LONG_U = re.compile(r"uni(?!nt|mp)|us(?:e|u)|eu|one\b|once\b|ukulele|ut(?:e|i)")
# read letter by letter: an SUV, a TV
INITIALS = re.compile(r"(?:[BCDFGHJ-NP-TV-XZ]{2,3}|SUV|UFO|ATV)s?\b")
SPELT_WITH_A_VOWEL = frozenset("AEFHILMNORSX")
SILENT_H = re.compile(r"hour|honest|heir")
# a or an as a word of its own, right before the place that changes
ARTICLE_BEFORE = re.compile(r"(?<![\w'’-])(a)(n?)(\s+)$", re.IGNORECASE)

Edit = tuple[int, int, str]
"""(start, end, text): the characters from `start` to `end` become `text`."""


def article_for(word: str) -> str:
    """ "an" before a vowel sound, "a" before others.

    >>> [article_for(word) for word in ("apple", "unicycle", "hour", "hat", "SUV", "TV")]
    ['an', 'a', 'an', 'a', 'an', 'a']
    """
    if INITIALS.match(word):
        return "an" if word[0] in SPELT_WITH_A_VOWEL else "a"
    word = word.lower()
    vowel = word[:1] in ("a", "e", "i", "o", "u") and LONG_U.match(word) is None
    return "an" if vowel or SILENT_H.match(word) else "a"


def edited(caption: str, edits: Iterable[Edit]) -> str:
    """The caption with edits that do not overlap; an article before an edit follows its first sound.

    >>> edited("A red apple", [(2, 5, "orange")])
    'An orange apple'
    >>> edited("a hat", [(2, 5, "hour")])
    'an hour'
    """
    capital, capitals = caption[:1].isupper(), caption.isupper()
    # from the last to the first, so that the places of those before stay true
    for start, end, text in sorted(edits, reverse=True):
        before = caption[:start]
        text = text.upper() if capitals else text
        # only where the sound changes: an article that the caption has wrong is its style, and stays
        if article_for(caption[start:end]) != article_for(text):
            before = ARTICLE_BEFORE.sub(lambda match: _article(match, article_for(text), capitals), before)  # noqa: B023
        caption = before + text + caption[end:]
    return caption[:1].upper() + caption[1:] if capital else caption


def exchanged(caption: str, first: tuple[int, int], second: tuple[int, int]) -> str:
    """The caption with two spans in each other's place; the first word of a sentence gives its capital away.

    >>> exchanged("A dog on Ann", (0, 5), (9, 12))
    'Ann on a dog'
    """
    one, two = caption[first[0] : first[1]], caption[second[0] : second[1]]
    if first[0] == 0 and not caption.isupper() and one.split()[0].capitalize() == one.split()[0]:  # not "TV"
        one = one[:1].lower() + one[1:]
    return edited(caption, [(*first, two), (*second, one)])


def _article(match: re.Match[str], article: str, capitals: bool) -> str:
    return match[1] + (article[1:].upper() if capitals else article[1:]) + match[3]
