"""What one word says of another, by all their senses in WordNet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from negatives.wordnet.table import PARTS_OF_SPEECH, ancestors, lemmas, parts, senses, table


def is_known(word: str) -> bool:
    """Whether WordNet has a word, in any form.

    >>> is_known("giraffes"), is_known("fire_hydrant"), is_known("blicket")
    (True, True, False)
    """
    return bool(senses(word))


def phrases(found: Sequence[str], longest: int = 3) -> list[str]:
    """Words, those that are one entry of WordNet joined by "_": the longest first, from the left.

    Args:
        longest: the most words of a phrase.

    >>> phrases(["brown", "teddy", "bears"])
    ['brown', 'teddy_bears']
    """
    made, place, starts = [], 0, table().phrase_starts
    while place < len(found):
        # most words start no phrase, and need no look
        most = min(len(found), place + longest) if found[place] in starts else place + 1
        joined = ("_".join(found[place:end]) for end in range(most, place + 1, -1))
        made.append(next(filter(is_known, joined), found[place]))
        place += made[-1].count("_") + 1
    return made


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


def synonyms(word: str, pos: str) -> list[str]:
    """Other lemmas of a word's most frequent sense; words of a phrase are joined by "_".

    Args:
        pos: the part of speech, one of n, v, a, r.

    >>> synonyms("sofa", "n")
    ['couch', 'lounge']
    """
    own = lemmas(word, pos)
    return [lemma for synset in _first_sense(word, pos) for lemma in _names(pos)[synset] if lemma not in own]


def more_general(word: str, pos: str) -> list[str]:
    """Lemmas of what is one step more general than a word's most frequent sense.

    >>> more_general("giraffe", "n")
    ['ruminant']
    """
    above = [higher for synset in _first_sense(word, pos) for higher in table().hypernyms[synset]]
    return [lemma for synset in above for lemma in _names(pos).get(synset, ())]


def _first_sense(word: str, pos: str) -> list[int]:
    found = table()
    return [found.senses[pos][found.rows[pos][lemma]][0] for lemma in lemmas(word, pos)[:1]]


@cache
def _names(pos: str) -> dict[int, list[str]]:
    """The lemmas of each synset, in alphabetical order."""
    names: dict[int, list[str]] = {}
    found = table()
    for lemma, row in found.rows[pos].items():
        for synset in found.senses[pos][row]:
            names.setdefault(synset, []).append(lemma)
    return names
