"""An offline writer of negatives: word lists, for any English captions. No model, no network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from negatives.lexicon import ATTRIBUTES, COMPOUNDS, OBJECT_GROUPS, RELATIONS, SYMMETRIC_RELATIONS, plural


@dataclass(frozen=True)
class Word:
    """A listed word or phrase in a caption: its place and its lemma."""

    start: int
    end: int
    lemma: str
    is_plural: bool = False

    def form(self, lemma: str) -> str:
        """`lemma` in the number that this word has."""
        return plural(lemma) if self.is_plural else lemma


SINGULARS = {noun: noun for group in OBJECT_GROUPS for noun in group}
PLURALS = {plural(noun): noun for noun in SINGULARS}
NO_OBJECTS = {*COMPOUNDS, *map(plural, COMPOUNDS)}
SIBLINGS = {noun: tuple(n for n in group if n != noun) for group in OBJECT_GROUPS for noun in group}


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    # the longest phrase first: "on top of" is not "on"; hyphens bind, so that "red-haired" is no colour
    longest_first = sorted(set(words), key=lambda word: (-len(word), word))
    alternatives = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in longest_first)
    return re.compile(rf"(?<![\w'’-])(?:{alternatives})(?![\w'’-])", re.IGNORECASE)


ATTRIBUTE_PATTERN = _pattern(ATTRIBUTES)
RELATION_PATTERN = _pattern(RELATIONS)
OBJECT_PATTERN = _pattern([*SINGULARS, *PLURALS, *NO_OBJECTS])


class RuleWriter:
    """Writes at most one negative of each replace and swap type by exchanging listed words."""

    name = "rules"
    version = "1"

    def write(self, caption: str, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Negatives of `caption` as (negative_type, negative caption); none equals the caption.

        >>> RuleWriter().write("A dog riding an elephant", np.random.default_rng(0))[-1]
        ('swap_obj', 'An elephant riding a dog')
        """
        objects, attributes, relations = _objects(caption), _words(ATTRIBUTE_PATTERN, caption), _relations(caption)
        written = [
            ("replace_obj", _replace(caption, objects, SIBLINGS, rng)),
            ("replace_att", _replace(caption, attributes, ATTRIBUTES, rng)),
            ("replace_rel", _replace(caption, relations, RELATIONS, rng)),
            ("swap_obj", _swap(caption, _swappable_objects(objects, relations), rng)),
            ("swap_att", _swap(caption, _swappable_attributes(caption, attributes), rng)),
        ]
        return [(negative_type, text) for negative_type, text in written if text is not None and text != caption]


def _words(pattern: re.Pattern[str], caption: str) -> list[Word]:
    matches = pattern.finditer(caption)
    return [Word(match.start(), match.end(), " ".join(match.group().lower().split())) for match in matches]


def _objects(caption: str) -> list[Word]:
    words = [word for word in _words(OBJECT_PATTERN, caption) if word.lemma not in NO_OBJECTS]
    return [
        Word(word.start, word.end, SINGULARS.get(word.lemma) or PLURALS[word.lemma], word.lemma in PLURALS)
        for word in words
    ]


def _relations(caption: str) -> list[Word]:
    return _words(RELATION_PATTERN, caption)


def _replace(
    caption: str, words: Sequence[Word], siblings: dict[str, tuple[str, ...]], rng: np.random.Generator
) -> str | None:
    """One of `words`, drawn at random, becomes one of its siblings that the caption does not have yet."""
    present = {word.lemma for word in words}
    options = [(word, other) for word in words for other in siblings[word.lemma] if other not in present]
    if not options:
        return None
    # first the word, then its sibling: words with many siblings are not preferred
    candidates = sorted({word.start for word, _ in options})
    start = candidates[int(rng.integers(len(candidates)))]
    options = [option for option in options if option[0].start == start]
    word, other = options[int(rng.integers(len(options)))]
    return _edited(caption, [(word, word.form(other))])


def _swap(caption: str, pairs: Sequence[tuple[Word, Word]], rng: np.random.Generator) -> str | None:
    """The two words of one pair, drawn at random, change places; each place keeps its number."""
    if not pairs:
        return None
    first, second = pairs[int(rng.integers(len(pairs)))]
    return _edited(caption, [(first, first.form(second.lemma)), (second, second.form(first.lemma))])


def _swappable_objects(objects: Sequence[Word], relations: Sequence[Word]) -> list[tuple[Word, Word]]:
    """Pairs with a directed relation between them: "a cat and a dog" says the same the other way round."""
    directed = [word for word in relations if word.lemma not in SYMMETRIC_RELATIONS]
    return [
        (first, second)
        for first, second in combinations(objects, 2)
        if first.lemma != second.lemma
        and any(first.end <= word.start and word.end <= second.start for word in directed)
    ]


def _swappable_attributes(caption: str, attributes: Sequence[Word]) -> list[tuple[Word, Word]]:
    """Pairs that belong to different nouns: in "black and white cat" the order says nothing."""
    return [
        (first, second)
        for first, second in combinations(attributes, 2)
        if first.lemma != second.lemma and _has_a_word(ATTRIBUTE_PATTERN.sub(" ", caption[first.end : second.start]))
    ]


def _has_a_word(text: str) -> bool:
    return any(word not in ("and", "or", "with", "a", "an", "the") for word in re.findall(r"\w+", text.lower()))


def _edited(caption: str, edits: Sequence[tuple[Word, str]]) -> str:
    """The caption with words replaced; first letters keep their case, and the article before a word follows it."""
    for word, text in sorted(edits, key=lambda edit: -edit[0].start):
        if caption[word.start].isupper():
            text = text[0].upper() + text[1:]
        before = re.sub(
            r"(?<![\w'’-])(a)(n?)(\s+)$",
            lambda match: match[1] + ("n" if text[0].lower() in "aeiou" else "") + match[3],  # noqa: B023 (used at once)
            caption[: word.start],
            flags=re.IGNORECASE,
        )
        caption = before + text + caption[word.end :]
    return caption
