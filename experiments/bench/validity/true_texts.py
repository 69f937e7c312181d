"""Texts that are true of a photo because its caption is: what validation has to refuse as negatives.

They are made from captions. Replaced words are in no word list of the offline writers, but for numbers and things that
have parts. What stands in their place comes from WordNet, by a word's most frequent sense, and is not true of every
photo; parts are listed here. The checks read the same WordNet: a text of its words measures whether they find them in a
sentence, not how many they know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import TypeVar

import numpy as np

from negatives.wordnet import more_general, parts_of_speech, synonyms

Item = TypeVar("Item")
MOST_OTHERS = 3  # replacements of one word
WORD = re.compile(r"(?<![\w'-])[A-Za-z]+(?![\w'-])")
ENDING = re.compile(r"[\s,]+(?:in|on|at|near|with|by|behind|beside|under|along|next to|in front of)\s+(?:a|an|the)\s+")
DETERMINERS = frozenset(
    ["a", "an", "the", "some", "two", "three", "four", "several", "many", "his", "her", "their", "its"]
)
BEHIND_NOUNS = frozenset(
    "in on at near with by behind beside under along next of is are and or that who while from".split()  # noqa: SIM905
)
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
AT_LEAST_THREE = frozenset(["several", "many", "numerous", "various"])
PARTS = {
    "car": ("wheel", "bumper", "headlight"),
    "truck": ("wheel", "bumper", "windshield"),
    "bus": ("wheel", "window", "windshield"),
    "train": ("window", "wheel", "locomotive"),
    "bike": ("wheel", "pedal", "handlebar"),
    "bicycle": ("wheel", "pedal", "handlebar"),
    "motorcycle": ("wheel", "engine", "headlight"),
    "airplane": ("wing", "cockpit", "engine"),
    "plane": ("wing", "cockpit", "engine"),
    "boat": ("hull", "deck", "mast"),
    "tree": ("branch", "trunk", "leaf"),
    "building": ("wall", "window", "roof"),
    "house": ("wall", "window", "roof"),
    "door": ("handle", "hinge", "lock"),
    "chair": ("leg", "seat", "backrest"),
    "table": ("leg", "tabletop", "edge"),
    "bed": ("mattress", "headboard", "frame"),
    "toilet": ("lid", "bowl", "tank"),
    "sink": ("faucet", "drain", "basin"),
    "laptop": ("keyboard", "screen", "touchpad"),
    "computer": ("keyboard", "screen", "mouse"),
    "pizza": ("crust", "topping", "slice"),
    "elephant": ("trunk", "tusk", "ear"),
    "horse": ("mane", "hoof", "tail"),
    "dog": ("paw", "tail", "snout"),
    "cat": ("paw", "tail", "whisker"),
    "bird": ("wing", "beak", "tail"),
    "flower": ("petal", "stem", "blossom"),
    "umbrella": ("handle", "canopy", "rib"),
    "bench": ("leg", "seat", "backrest"),
}
"""Things, and parts that each of them has."""
AT_PART = re.compile(r"\b(?:near|beside|behind|next to|in front of) (?:a|an|the) $", re.IGNORECASE)
"""What is near a thing is near a part of it; what is in or with it need not be."""
EMPTY = (" in the picture", " in this scene", " in the frame", " in the shot")
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
    return _replaced(caption, lambda word: more_general(word, "n"), _is_noun_at, _noun)


def synonym_replacements(caption: str) -> list[str]:
    """A caption with one of its nouns replaced by a synonym.

    >>> synonym_replacements("A man at a seashore")
    ['A man at a coast', 'A man at a sea-coast', 'A man at a seacoast']
    """
    return _replaced(caption, lambda word: synonyms(word, "n"), _is_noun_at, _noun)


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


def verb_replacements(caption: str) -> list[str]:
    """A caption with one of its participles replaced by a synonym, or by a more general verb.

    >>> verb_replacements("A sign stating the time")
    ['A sign saying the time', 'A sign telling the time', 'A sign expressing the time']
    """
    return _replaced(caption, lambda word: _single_words(word, "v"), _is_participle_at, _participle)


def adjective_replacements(caption: str) -> list[str]:
    """A caption with one of its adjectives replaced by a synonym, or by the head of its cluster.

    >>> adjective_replacements("An adorable gnome")
    ['An endearing gnome', 'A lovely gnome', 'A lovable gnome']
    """
    return _replaced(caption, lambda word: _single_words(word, "a"), _is_adjective_at, lambda other, word: other)


def parts(caption: str) -> list[str]:
    """A caption with a thing that something is near to replaced by one of its parts.

    >>> parts("A man near a car")
    ['A man near a wheel', 'A man near a bumper', 'A man near a headlight']
    """
    return [
        _with_articles(caption[: place.start()] + part + caption[place.end() :])
        for place in WORD.finditer(caption)
        if _is_noun_at(caption, place) and AT_PART.search(caption[: place.start()])
        for part in PARTS.get(place[0].lower(), ())
    ]


def lowered_numbers(caption: str) -> list[str]:
    """A caption with a number of things lowered, to two or more.

    >>> lowered_numbers("Four people near several boats")
    ['Two people near several boats', 'Three people near several boats', 'Four people near two boats']
    """
    made = []
    for place in WORD.finditer(caption):
        word, behind = place[0].lower(), WORD.match(caption, place.end() + 1)
        # of a four door car, two doors are false
        if behind is None or not _is_plural(behind[0].lower()):
            continue
        lower = NUMBERS[: NUMBERS.index(word)] if word in NUMBERS else NUMBERS[:1] if word in AT_LEAST_THREE else ()
        for other in lower[:MOST_OTHERS]:
            plain = other.capitalize() if place[0][0].isupper() else other
            made.append(caption[: place.start()] + plain + caption[place.end() :])
    return made


def empty_additions(caption: str) -> list[str]:
    """A caption with words that say only that the photo shows it.

    >>> empty_additions("A man at a seashore.")[:2]
    ['A man at a seashore in the picture.', 'A man at a seashore in this scene.']
    """
    return [_before_the_end(caption, ending) for ending in EMPTY]


def additions(caption: str, other: str) -> list[str]:
    """A caption with the last phrase of place of another caption of its photo, if it has no such phrase itself.

    >>> additions("A man flies a kite.", "A person at the beach")
    ['A man flies a kite at the beach.']
    """
    found = [place.start() for place in ENDING.finditer(other)][-1:]
    endings = [other[start:].rstrip(" .").lower() for start in found]
    return [_before_the_end(caption, ending) for ending in endings if not ENDING.search(caption)]


MAKERS: dict[str, Callable[[str], list[str]]] = {
    "deletions": deletions,
    "generalisations": generalisations,
    "synonyms": synonym_replacements,
    "list swaps": list_swaps,
    "verbs": verb_replacements,
    "adjectives": adjective_replacements,
    "parts": parts,
    "lowered numbers": lowered_numbers,
    "empty additions": empty_additions,
}


def made_from(captions: Sequence[str], most: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """(source, caption, true text) of what `MAKERS` make of captions: of each at most `most`, drawn at random."""
    # one for all of them in turn: a new maker goes to the end, so that what others draw stays as it was
    rng = np.random.default_rng(seed)
    for name, make in MAKERS.items():
        made = [(name, caption, text) for caption in captions for text in make(caption) if text != caption]
        yield from drawn(made, most, rng)


def drawn(items: Sequence[Item], most: int, rng: np.random.Generator) -> list[Item]:
    """At most some of the items, drawn at random, in their order."""
    return [items[place] for place in np.sort(rng.permutation(len(items))[:most])]


@cache
def listed_words() -> frozenset[str]:
    """All words in the lists of the offline writers."""
    folder = resources.files("negatives") / "writers/english/lexicon"
    texts = [file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".txt")]
    return frozenset(word.lower() for text in texts for word in re.findall("[A-Za-z]+", text))


def _is_unlisted(word: str) -> bool:
    return listed_words().isdisjoint({word.lower(), word.lower().removesuffix("s"), word.lower().removesuffix("es")})


def _replaced(
    caption: str,
    others: Callable[[str], Sequence[str]],
    is_at: Callable[[str, re.Match[str]], bool],
    inflected: Callable[[str, str], str],
) -> list[str]:
    """A caption with each word of a kind in turn replaced by some of its others, in the word's form."""
    made = []
    for place in WORD.finditer(caption):
        word = place[0].lower()
        if _is_unlisted(word) and is_at(caption, place):
            for other in list(dict.fromkeys(others(word)))[:MOST_OTHERS]:
                plain = inflected(other.replace("_", " "), word)
                made.append(_with_articles(caption[: place.start()] + plain + caption[place.end() :]))
    return made


def _single_words(word: str, pos: str) -> list[str]:
    """Synonyms and more general words; phrases of verbs have an order of their own."""
    return [other for other in (*synonyms(word, pos), *more_general(word, pos)) if "_" not in other]


def _is_noun_at(caption: str, place: re.Match[str]) -> bool:
    """Whether a word can be a noun only, or stands between a determiner and what follows nouns."""
    (before, behind), found = _neighbours(caption, place), parts_of_speech(place[0].lower())
    ends = not behind or behind in BEHIND_NOUNS
    return found == "n" or ("n" in found and before in DETERMINERS and ends)


def _is_participle_at(caption: str, place: re.Match[str]) -> bool:
    """Whether a word ends with -ing, behind a form of to be, or between a noun and a determiner."""
    (before, behind), found = _neighbours(caption, place), parts_of_speech(place[0].lower())
    follows = before in ("is", "are") or (parts_of_speech(before).startswith("n") and behind in DETERMINERS)
    return place[0].endswith("ing") and "v" in found and follows


def _is_adjective_at(caption: str, place: re.Match[str]) -> bool:
    """Whether a word is an adjective and no noun, between a determiner and a noun."""
    (before, behind), found = _neighbours(caption, place), parts_of_speech(place[0].lower())
    return "a" in found and "n" not in found and before in DETERMINERS and parts_of_speech(behind).startswith("n")


def _neighbours(caption: str, place: re.Match[str]) -> tuple[str, str]:
    """The words before and behind a word, "" where a mark stands between, or nothing."""
    before = re.findall(r"[A-Za-z]+(?= $)", caption[: place.start()])
    behind = re.match(r" ([A-Za-z]+)", caption[place.end() :])
    return (before[0].lower() if before else ""), (behind[1].lower() if behind else "")


def _is_phrase(text: str) -> bool:
    """Whether some words are a noun, with or without a determiner and an adjective."""
    *others, noun = text.lower().split()
    others = others[1:] if others and others[0] in DETERMINERS else others
    return all("a" in parts_of_speech(word) for word in others) and "n" in parts_of_speech(noun)


def _is_plural(word: str) -> bool:
    return "n" in parts_of_speech(word) and (word.endswith("s") or word in ("people", "men", "women", "children"))


def _noun(other: str, word: str) -> str:
    """A noun in the number of the word that it replaces."""
    return _plural(other) if word.endswith("s") and not word.endswith("ss") else other


def _participle(verb: str, word: str) -> str:
    """The participle of a verb in -ing; `word` is the one that it replaces."""
    if verb.endswith("ie"):
        return f"{verb[:-2]}ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")) and verb != "be":
        return f"{verb[:-1]}ing"
    # a short verb doubles its last letter: sitting
    return f"{verb}{verb[-1]}ing" if re.fullmatch("[^aeiou]+[aeiou][bdgmnprt]", verb) else f"{verb}ing"


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if re.search("[^aeiou]y$", noun) else noun + "s"


def _before_the_end(caption: str, ending: str) -> str:
    kept = caption.rstrip(" .")
    return kept + ending + caption[len(kept) :]


def _with_articles(text: str) -> str:
    return re.sub(r"\b([Aa])n? (?=([A-Za-z]))", lambda at: f"{at[1]}n " if at[2] in "aeiouAEIOU" else f"{at[1]} ", text)
