"""An offline writer of negatives: word lists, for any English captions. No model, no network, no tagger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

import numpy as np

from negatives.validate import rejection
from negatives.writers.caption_edits import edited
from negatives.writers.english.lexicon import (
    ATTRIBUTES,
    NOUNS,
    RELATIONS,
    SIBLINGS,
    WORDS,
    Attribute,
    Noun,
    Relation,
    plural,
)
from negatives.writers.english.noun_phrases import ADJECTIVES, DETERMINERS, Caption, Phrase, parse
from negatives.writers.english.noun_swaps import noun_swaps

Choices = list[list[str]]
"""Negatives by the place that they change: the place is drawn first, so that a word with many siblings counts once."""
Rejected = Callable[[str], str]
"""Why a text is no negative of its caption, "" if it is one."""
# groups whose attributes can change places with each other's, not only within one
LOOKS = frozenset({"colour", "material", "pattern"})
# a "his" or "her" elsewhere in the caption would still say which of two it is
GENDERED_PAIRS = frozenset({"man", "woman", "boy", "girl", "lady", "gentleman", "businessman", "businesswoman"})
LONGEST_RELATION = max(len(words.split()) for words in RELATIONS)
LONGEST_ATTRIBUTE = max(len(words.split()) for words in ATTRIBUTES)


@dataclass
class RuleSettings:
    """The word lists' generator."""

    oddest_swap: int = field(default=1, metadata={"min": 1, "max": 3})
    """1: swaps of objects that could be a photo only (a girl petting a goat). 2: also grammatical, yet odd ones (a desk
    on a cat). 3: odder ones too (a sidewalk on a hydrant). A caption gets its least odd swap."""


DEFAULTS = RuleSettings()


class RuleWriter:
    """Writes negatives of each replace and swap type by exchanging listed words in places where they fit.

    Args:
        per_type: at most this many negatives of each type, all different.
        oddest_swap: see `RuleSettings`.
    """

    name = "rules"
    version = "4"  # of the lists and rules; rows name it, and can be made again by this version only

    def __init__(self, per_type: int = 1, oddest_swap: int = DEFAULTS.oddest_swap) -> None:
        self.per_type, self.oddest_swap = per_type, oddest_swap
        self._choices = CHOICES | {"swap_obj": partial(noun_swaps, oddest=oddest_swap)}

    def write(self, caption: str, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Negatives of `caption` as (negative_type, negative caption); each passes the checks of its type.

        >>> RuleWriter().write("A dog chasing an elephant", np.random.default_rng(0))[-1]
        ('swap_obj', 'An elephant chasing a dog')
        """
        parsed = parse(caption)
        return [
            (negative_type, text)
            for negative_type, choices in self._choices.items()
            for text in draw(
                choices(parsed),
                self.per_type,
                rng,
                partial(rejection, caption=caption, kind=negative_type, others=()),
            )
        ]


def build(per_type: int = 1, rules: RuleSettings = DEFAULTS) -> RuleWriter:
    """The writer with at most `per_type` negatives of each type."""
    return RuleWriter(per_type, rules.oddest_swap)


def draw(choices: Choices, count: int, rng: np.random.Generator, rejected: Rejected) -> list[str]:
    """At most `count` different negatives: first a place, then one of its texts, each place once before any twice.

    Args:
        choices: texts by place.
        count: the most that are drawn.
        rng: decides.
        rejected: why a text may not be drawn, "" if it may; another is drawn in its place.
    """
    # without repeats and in order: a set would order them anew in each process
    left = [list(dict.fromkeys(texts)) for texts in choices if texts]
    drawn: list[str] = []
    for place in rng.permutation(len(left)):
        if len(drawn) < count:
            drawn += _drawn_from(left[place], rng, rejected)
    rest = [text for texts in left for text in texts]
    for number in rng.permutation(len(rest)) if len(drawn) < count else ():
        if len(drawn) < count and rest[number] not in drawn and not rejected(rest[number]):
            drawn.append(rest[number])
    return list(dict.fromkeys(drawn))


def _drawn_from(texts: list[str], rng: np.random.Generator, rejected: Rejected) -> list[str]:
    """One text that is not rejected, if there is one; what was looked at is taken out of `texts`."""
    # one after the other, not first all that pass: a check takes longer than a text
    while texts:
        text = texts.pop(int(rng.integers(len(texts))))
        if not rejected(text):
            return [text]
    return []


def object_choices(caption: Caption) -> Choices:
    """Head nouns become siblings: "a dog on a bed" is "a cat on a bed"."""
    return [_siblings(caption, phrase) for phrase in caption.phrases]


def _siblings(caption: Caption, phrase: Phrase) -> list[str]:
    noun = phrase.noun
    before = caption.between(max(phrase.first - 1, 0), phrase.first)
    # siblings may be listed for a noun behind a certain word; those go first
    names = (*(f"{word} {noun.lemma}" for word in before), noun.lemma)
    siblings = next((SIBLINGS[name] for name in names if name in SIBLINGS), ())
    # the other mention would still say what the photo shows: "a cat next to another dog"
    repeated = sum(noun.lemma.split()[-1] in other.noun.lemma.split() for other in caption.phrases) > 1
    unclear = noun.number == "one" and not phrase.determiner and before == ("of",)  # "a group of lady"
    if repeated or unclear or not FREE_MODIFIERS.issuperset(phrase.modifiers):
        return []
    if noun.lemma in GENDERED_PAIRS and (caption.words & WORDS["gendered"] or noun.lemma + "'s" in caption.words):
        return []
    forms = [form for sibling in siblings if (form := _form(sibling, phrase, caption)) is not None]
    start, end = caption.span(phrase.head, phrase.last)
    return [edited(caption.text, [(start, end, form)]) for form in forms]


def _form(sibling: str, phrase: Phrase, caption: Caption) -> str | None:
    """The sibling in the number of the phrase's noun; None where it has no such form or the caption speaks of it."""
    if {sibling, plural(sibling)} & caption.words or sibling in caption.text.lower():
        return None
    known = NOUNS.get(sibling, Noun(sibling, "", "one"))
    if phrase.noun.number == "many":
        return {"one": plural(sibling), "many": sibling}.get(known.number)
    return sibling if known.number == phrase.noun.number else None


@dataclass(frozen=True)
class Found:
    """A listed attribute in a noun phrase: its tokens and what it can do there."""

    phrase: Phrase
    first: int
    last: int
    words: str
    attribute: Attribute


def attributes_of(caption: Caption) -> Iterator[Found]:
    """Colours, sizes, numbers and the like before nouns that they can be changed with."""
    for phrase in caption.phrases:
        place = phrase.first
        while place < phrase.head:
            found = _attribute_at(caption, phrase, place)
            if found is not None:
                yield found
            place = place + 1 if found is None else found.last


def _attribute_at(caption: Caption, phrase: Phrase, place: int) -> Found | None:
    if place and caption.tokens[place - 1].text in WORDS["shades"]:
        return None
    for last in range(min(phrase.head, place + LONGEST_ATTRIBUTE), place, -1):
        words = " ".join(caption.between(place, last))
        for attribute in ATTRIBUTES.get(words, ()):
            if phrase.noun.fits(attribute.nouns) and _counts(caption, phrase, attribute):
                return Found(phrase, place, last, words, attribute)
    return None


def _counts(caption: Caption, phrase: Phrase, attribute: Attribute) -> bool:
    """Whether a number can change: not in "the two of them", nor where the caption tells the two apart."""
    if attribute.group != "number":
        return True
    return phrase.noun.number == "many" and not caption.words & WORDS["counted apart"]


def attribute_choices(caption: Caption) -> Choices:
    """Attributes become others of their group that cannot hold as well: "a red bus" is "a green bus"."""
    return [
        [
            edited(caption.text, [(*caption.span(found.first, found.last), other)])
            for other in found.attribute.becomes
            if other not in caption.words
        ]
        for found in attributes_of(caption)
    ]


def attribute_swaps(caption: Caption) -> Choices:
    """Attributes of two different nouns change places, where each can stand before the other noun."""
    found = list(attributes_of(caption))
    return [
        [_attributes_exchanged(caption, one, two)] for one, two in combinations(found, 2) if _may_swap(one, two, found)
    ]


def _may_swap(one: Found, two: Found, found: list[Found]) -> bool:
    groups = {one.attribute.group, two.attribute.group}
    # a colour may go where a material was; a size only where a size was
    looks = groups <= LOOKS
    if one.words == two.words or one.phrase.noun.lemma == two.phrase.noun.lemma or not (looks or len(groups) == 1):
        return False
    phrases = (one.phrase, two.phrase)
    others = [other for other in found if other not in (one, two) and other.phrase in phrases]
    if looks and any(other.attribute.group in LOOKS for other in others):
        return False  # "a black and white cat on a red bed"
    exclusive = looks or groups == {"number"} or _are_opposite(one, two)
    return exclusive and _stands_before(one, two.phrase.noun) and _stands_before(two, one.phrase.noun)


def _are_opposite(one: Found, two: Found) -> bool:
    """Whether two words lie on two ends of one scale: big and little do, big and long do not."""
    ends = [attribute.becomes for other in two.attribute.becomes for attribute in ATTRIBUTES.get(other, ())]
    return one.attribute.becomes in ends


def _stands_before(found: Found, noun: Noun) -> bool:
    return any(noun.fits(attribute.nouns) for attribute in ATTRIBUTES[found.words])


def _attributes_exchanged(caption: Caption, one: Found, two: Found) -> str:
    spans = [caption.span(found.first, found.last) for found in (one, two)]
    words = [caption.text[start:end] for start, end in spans]
    # the capital is the sentence's, and stays at its start: `edited` puts it there
    if spans[0][0] == 0:
        words[0] = words[0].lower()
    return edited(caption.text, [(*spans[0], words[1]), (*spans[1], words[0])])


def relation_choices(caption: Caption) -> Choices:
    """Places and actions become others: "a cat on a bed" is "a cat under a bed"."""
    # a word inside a noun phrase begins no relation
    inside = {place for phrase in caption.phrases for place in range(phrase.first, phrase.last)}
    choices, place = [], 0
    while place < caption.negation:
        words, last = _relation_at(caption, place) if place not in inside else ("", place + 1)
        choices.append(
            [
                edited(caption.text, [(*caption.span(place, last), other)])
                for relation in RELATIONS.get(words, ())
                if _holds(caption, relation, place, last)
                for other in relation.becomes
            ]
        )
        place = last
    return choices


def _relation_at(caption: Caption, place: int) -> tuple[str, int]:
    """The longest listed relation that begins here, and where it ends."""
    # the longest first: "on top of" is no "on"
    for last in range(min(len(caption.tokens), place + LONGEST_RELATION), place, -1):
        words = " ".join(caption.between(place, last))
        if words in RELATIONS:
            return words, last
    return "", place + 1


def _holds(caption: Caption, relation: Relation, first: int, last: int) -> bool:
    """Whether the noun phrases around tokens `first` to `last` (excluded) fit the relation's subjects and objects."""
    after = next((phrase for phrase in caption.phrases if phrase.first == last), None)
    # with listed objects it needs one of them, without any it needs none
    if bool(relation.objects) != (after is not None) or (after is not None and not after.noun.fits(relation.objects)):
        return False
    if after is not None and after.determiner in WORDS["counts"] and "without" in relation.becomes:
        return False  # "a desk without two monitors"
    if "*" in relation.subjects:
        return first == 0 or caption.tokens[first - 1].text not in DETERMINERS
    before = next((phrase for phrase in reversed(caption.phrases) if phrase.last <= first), None)
    skipped = WORDS["auxiliaries"] | WORDS["adverbs"]
    near = before is not None and all(word in skipped for word in caption.between(before.last, first))
    return before is not None and near and before.noun.fits(relation.subjects)


# a modifier that says what a thing is made of, or is a noun itself, may not fit the sibling
FREE_MODIFIERS = (ADJECTIVES | {"and", ","}) - WORDS["made of"] - frozenset(NOUNS)
# the order is that of a caption's draws: another order would draw other negatives at the same seed
CHOICES: dict[str, Callable[[Caption], Choices]] = {
    "replace_obj": object_choices,
    "replace_att": attribute_choices,
    "replace_rel": relation_choices,
    "swap_obj": noun_swaps,
    "swap_att": attribute_swaps,
}
