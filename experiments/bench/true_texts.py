"""Texts that are true of a photo because its caption is: what validation has to refuse as negatives.

They are made from captions. Replaced words come from WordNet, and are in no word list of the offline writers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise

import numpy as np

from negatives.wordnet import more_general, parts_of_speech, synonyms

MOST_OTHERS = 3  # replacements of one word
WORD = re.compile(r"(?<![\w'-])[A-Za-z]+(?![\w'-])")
ENDING = re.compile(r"[\s,]+(?:in|on|at|near|with|by|behind|beside|under|along|next to|in front of)\s+(?:a|an|the)\s+")
DETERMINERS = frozenset(
    ["a", "an", "the", "some", "two", "three", "four", "several", "many", "his", "her", "their", "its"]
)
BEHIND_NOUNS = frozenset(
    [
        "in",
        "on",
        "at",
        "near",
        "with",
        "by",
        "behind",
        "beside",
        "under",
        "along",
        "next",
        "of",
        "is",
        "are",
        "and",
        "or",
        "that",
        "who",
        "while",
        "from",
    ]
)
PHRASE = r"((?:(?:an?|the|some|two|three|four|several) )?(?:[a-z]+ )?[a-z]+)"
LIST = re.compile(rf"(?:^|(?<=\bof )|(?<=\bwith )|(?<=ing )|(?<=, )){PHRASE} and {PHRASE}(?=[ .,]|$)", re.IGNORECASE)


def deletions(caption: str) -> list[str]:
    """A caption without one of its adjectives, and without its last phrase of place.

    >>> deletions("A man flies a kite at the beach.")
    ['A man flies a kite.']
    """
    spans = [
        (place.start(), after.start())
        for place, after in pairwise(WORD.finditer(caption))
        if parts_of_speech(place[0].lower()) == "a" and "n" in parts_of_speech(after[0].lower())
        if _is_unlisted(place[0]) and caption[place.end() : after.start()] == " "
    ]
    spans += [(place.start(), len(caption.rstrip(" ."))) for place in ENDING.finditer(caption)][-1:]
    made = [_with_articles(caption[:start] + caption[end:]) for start, end in spans]
    # the rest has to be as long as validation asks for
    return [text for text in made if len(text) > len(caption) / 2]


def generalisations(caption: str) -> list[str]:
    """A caption with one of its nouns replaced by a more general one.

    >>> generalisations("A man in a salon")
    ['A man in an art gallery', 'A man in a gallery', 'A man in a picture gallery']
    """
    return _replaced(caption, lambda word: more_general(word, "n"))


def synonym_replacements(caption: str) -> list[str]:
    """A caption with one of its nouns replaced by a synonym.

    >>> synonym_replacements("A man at a seashore")
    ['A man at a coast', 'A man at a sea-coast', 'A man at a seacoast']
    """
    return _replaced(caption, lambda word: synonyms(word, "n"))


def list_swaps(caption: str) -> list[str]:
    """A caption with two nouns of a list in each other's place, with their articles and adjectives.

    >>> list_swaps("A black cat and a white dog on a bed")
    ['a white dog and A black cat on a bed']
    """
    made = []
    for place in LIST.finditer(caption):
        left, words = place[1], place[2].split()
        for count in range(len(words), 0, -1):
            right = " ".join(words[:count])
            rest = caption[place.start(2) + len(right) :]
            behind = WORD.match(rest.lstrip())
            # a noun behind it would be the list's own: a cat and a dog bed
            complete = behind is None or behind[0].lower() in BEHIND_NOUNS or rest[:1] in (",", ".")
            if complete and _is_phrase(left) and _is_phrase(right):
                made.append(f"{caption[: place.start()]}{right} and {left}{rest}")
                break
    return made


MAKERS: dict[str, Callable[[str], list[str]]] = {
    "deletions": deletions,
    "generalisations": generalisations,
    "synonyms": synonym_replacements,
    "list swaps": list_swaps,
}


def made_from(captions: Sequence[str], most: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """(source, caption, true text) of what `MAKERS` make of captions: of each at most `most`, drawn at random."""
    rng = np.random.default_rng(seed)
    for name, make in MAKERS.items():
        made = [(name, caption, text) for caption in captions for text in make(caption) if text != caption]
        yield from (made[place] for place in np.sort(rng.permutation(len(made))[:most]))


@cache
def listed_words() -> frozenset[str]:
    """All words in the lists of the offline writers."""
    folder = resources.files("negatives") / "writers/english/lexicon"
    texts = [file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".txt")]
    return frozenset(word.lower() for text in texts for word in re.findall("[A-Za-z]+", text))


def _is_unlisted(word: str) -> bool:
    return listed_words().isdisjoint({word.lower(), word.lower().removesuffix("s"), word.lower().removesuffix("es")})


def _replaced(caption: str, others: Callable[[str], Sequence[str]]) -> list[str]:
    """A caption with each noun in turn replaced by some of its others."""
    made = []
    for place in WORD.finditer(caption):
        word = place[0].lower()
        if _is_unlisted(word) and _is_noun_at(caption, place):
            for other in others(word)[:MOST_OTHERS]:
                plain = other.replace("_", " ")
                if word.endswith("s") and not word.endswith("ss"):
                    plain = _plural(plain)
                made.append(_with_articles(caption[: place.start()] + plain + caption[place.end() :]))
    return made


def _is_noun_at(caption: str, place: re.Match[str]) -> bool:
    """Whether a word can be a noun only, or stands between a determiner and what follows nouns."""
    found = parts_of_speech(place[0].lower())
    before = re.findall(r"[A-Za-z]+(?= $)", caption[: place.start()])
    behind = re.match(r" ([A-Za-z]+)", caption[place.end() :])
    ends = behind is None or behind[1].lower() in BEHIND_NOUNS
    return found == "n" or ("n" in found and bool(before) and before[0].lower() in DETERMINERS and ends)


def _is_phrase(text: str) -> bool:
    """Whether some words are a noun, with or without a determiner and an adjective."""
    *others, noun = text.lower().split()
    others = others[1:] if others and others[0] in DETERMINERS else others
    return all("a" in parts_of_speech(word) for word in others) and "n" in parts_of_speech(noun)


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if re.search("[^aeiou]y$", noun) else noun + "s"


def _with_articles(text: str) -> str:
    return re.sub(r"\b([Aa])n? (?=([A-Za-z]))", lambda at: f"{at[1]}n " if at[2] in "aeiouAEIOU" else f"{at[1]} ", text)
