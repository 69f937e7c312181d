"""What one word says of another, by all their senses in WordNet."""

from __future__ import annotations

from negatives.wordnet.table import PARTS_OF_SPEECH, ancestors, lemmas, parts, senses


def is_known(word: str) -> bool:
    """Whether WordNet has a word, in any form.

    >>> is_known("giraffes"), is_known("fire_hydrant"), is_known("blicket")
    (True, True, False)
    """
    return bool(senses(word))


def is_a(word: str, other: str) -> bool:
    """Whether a word is a synonym of another, or a kind of it, in any of their senses.

    Verbs are kinds of what they entail, and adjectives of the head of their cluster: crimson is a kind of red.

    >>> is_a("man", "person"), is_a("bike", "bicycle"), is_a("person", "man"), is_a("crimson", "red")
    (True, True, False, True)
    """
    return not ancestors(word).isdisjoint(senses(other))


def has_part(word: str, other: str) -> bool:
    """Whether a word's thing has another as a part, a member or its substance.

    >>> has_part("car", "bumper"), has_part("bumper", "car")
    (True, False)
    """
    return not parts(word).isdisjoint(senses(other))


def parts_of_speech(word: str) -> str:
    """The letters of the parts of speech that a word can be: n, v, a, r.

    >>> parts_of_speech("dogs"), parts_of_speech("purple")
    ('nv', 'nva')
    """
    return "".join(pos for pos in PARTS_OF_SPEECH if lemmas(word, pos))
