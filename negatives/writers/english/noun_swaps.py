"""Exchanges of two noun phrases that make a caption say something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise

from negatives.validate import rejection
from negatives.writers.caption_edits import edited
from negatives.writers.english.lexicon import SWAPS, WORDS, plural
from negatives.writers.english.noun_phrases import ADJECTIVES, Caption, is_verb_form
from negatives.writers.english.noun_units import (
    Unit,
    exchange,
    has_finite_verb,
    joining_words,
    predicate,
    stands_alone,
    units_of,
)

Swaps = Iterator[tuple[int, Unit, Unit, str]]
"""(oddness, the two units, negative): 1 could be a photo, 2 is grammatical, yet odd, 3 is odder."""
# relations of place that say something else the other way round
PLACES = frozenset({"on", "on top of", "in front of", "behind", "under", "underneath", "above", "below", "beneath"})
# relations of place that say the same both ways
SYMMETRIC = frozenset({"next to", "near", "beside", "by"})
# behind these words a noun phrase begins a statement of its own
OPENERS = frozenset({"of", "there", "is", "are", "while", "and", "as", "shows", "showing"})
PERSONS = frozenset({"person", "animal"})
SEVERAL = WORDS["counts"] | {"several", "many"}


def noun_swaps(
    caption: Caption, oddest: int = 3, may_exchange: Callable[[Caption, Unit, Unit], bool] = lambda *_: True
) -> list[list[str]]:
    """Negatives by exchange of two noun phrases, the least odd ones up to `oddest`: a list of one for each pair.

    Args:
        may_exchange: whether two units may change places; those that may not are passed over.
    """
    units = units_of(caption)
    by_oddness: dict[int, list[list[str]]] = {}
    # all are asked, and the least odd ones kept: an odd swap is written only where there is no better one
    for swaps in (_neighbours, _same_kind, _contents, _numbered, _doers, _background, _on_it):
        for oddness, left, right, text in swaps(caption, units):
            allowed = oddness <= oddest and may_exchange(caption, left, right)
            # here too, or a rejected swap would stand before odder ones that pass
            if allowed and not rejection(text, caption.text, "swap_obj", ()):
                by_oddness.setdefault(oddness, []).append([text])
    return by_oddness[min(by_oddness)] if by_oddness else []


def _neighbours(caption: Caption, units: Sequence[Unit]) -> Swaps:
    """Both sides of one directed relation: a dog chasing a man."""
    for left, right in pairwise(units):
        fitting = [
            swap.oddness
            for swap in SWAPS.get(joining_words(caption, left, right), ())
            if left.noun.fits(swap.first) and right.noun.fits(swap.second)
        ]
        if fitting and _opens(left, right, caption) and _may_change(left, right, caption):
            yield min(fitting), left, right, exchange(caption, left.phrases, right.phrases)


def _opens(left: Unit, right: Unit, caption: Caption) -> bool:
    """Whether the relation says something of `left`, not of what stands before: "a man on a phone behind a car"."""
    words = joining_words(caption, left, right)
    if left.noun.kind == right.noun.kind and " " not in words:
        return True
    if set(caption.between(right.last, min(right.last + 1, len(caption.tokens)))) & {"that", "who", "which", "to"}:
        return False
    before = caption.between(max(left.first - 1, 0), left.first)
    if before == ("and",) and any(phrase.last == left.first - 1 for phrase in caption.phrases):
        return words in PLACES  # "a boy and a man playing with kites": both do
    if not before or before[0] in OPENERS or not before[0][0].isalnum():
        return True
    known = bool(left.determiners) and (left.noun.kind in ("person", "animal") or words in PLACES)
    return before[0] in ("with", "has") and known


def _same_kind(caption: Caption, units: Sequence[Unit]) -> Swaps:
    """Two units of one kind with different relations: a cat on a chair next to a table."""
    for (one, left), (two, right) in combinations(enumerate(units), 2):
        alike = left.noun.kind == right.noun.kind != "plant" and _differ(one, two, caption, units)
        if alike and _may_change(left, right, caption, both_verbs=True):
            yield 1, left, right, exchange(caption, left.phrases, right.phrases)


def _differ(one: int, two: int, caption: Caption, units: Sequence[Unit]) -> bool:
    """Whether the places of two units of one kind say different things of them."""
    links = [joining_words(caption, left, right) for left, right in pairwise(units[max(one - 1, 0) : two + 2])]
    directed = [words in SWAPS for words in links]
    if two == one + 1:  # a cat on a chair next to a table
        return one > 0 and directed[0] and links[1] in SYMMETRIC
    if two != one + 2:
        return False
    if one == 0 and directed[0] and directed[1]:  # a man riding a horse behind a woman
        return True
    # a man on a bench and a woman on a chair: the bench and the chair, or the man and the woman
    return len(links) > 2 and links[1] in ("and", "while", ",") and directed[0] and directed[2]


def _contents(caption: Caption, units: Sequence[Unit]) -> Swaps:
    """What two different vessels hold: a plate of rice and a bowl of soup."""
    vessels = [unit for unit in units if len(unit.phrases) == 2 and unit.noun.kind == "container"]
    for left, right in combinations(vessels, 2):
        one, two = left.phrases[1], right.phrases[1]
        if left.noun.lemma != right.noun.lemma and one.noun.lemma != two.noun.lemma and one.noun.kind == two.noun.kind:
            yield 1, left, right, exchange(caption, left.phrases[1:], right.phrases[1:])


def _numbered(caption: Caption, units: Sequence[Unit]) -> Swaps:
    """One of these and several of those: "two cats and a dog" is "two dogs and a cat"."""
    if caption.words & (WORDS["counted apart"] - {"one", "between"} | WORDS["gendered"]):
        return
    for (first, left), (second, right) in combinations(enumerate(units), 2):
        kinds = {left.noun.kind, right.noun.kind}
        alike = len(kinds) == 1 or kinds <= PERSONS
        things = not kinds & PERSONS and second == first + 1 and stands_alone(right, caption)
        several = [bool(unit.determiners & SEVERAL) and unit.noun.number == "many" for unit in (left, right)]
        single = [bool(unit.determiners & {"a", "an", "one"}) for unit in (left, right)]
        one_and_several = sorted(several) == sorted(single) == [False, True] and several != single
        if one_and_several and (alike or things) and _may_be_counted(left, right):
            yield 1 if alike else 2, left, right, _heads_exchanged(caption, left, right)


def _may_be_counted(left: Unit, right: Unit) -> bool:
    """Whether the heads can change places: no plates of food, no "young" before what is no person."""
    plain = all(
        len(unit.phrases) == 1 and ADJECTIVES.issuperset(unit.main.modifiers) and unit.noun.fits(WORDS["scenery"])
        for unit in (left, right)
    )
    aged = left.noun.kind != right.noun.kind and {*left.main.modifiers, *right.main.modifiers} & WORDS["ages"]
    return plain and not aged and left.noun.lemma != right.noun.lemma and not _is_general(left, right)


def _is_general(left: Unit, right: Unit) -> bool:
    """Whether one word may mean the other: a person may be a man, an animal a dog."""
    return left.noun.kind == right.noun.kind and bool({left.noun.lemma, right.noun.lemma} & WORDS["general"])


def _heads_exchanged(caption: Caption, left: Unit, right: Unit) -> str:
    edits = []
    for unit, other in ((left, right), (right, left)):
        lemma = other.noun.lemma
        span = caption.span(unit.main.head, unit.last)
        edits.append((*span, plural(lemma) if unit.noun.number == "many" else lemma))
    return edited(caption.text, edits)


def _doers(caption: Caption, units: Sequence[Unit]) -> Swaps:
    """Two who do different things: a man reading a book next to a woman eating a cake."""
    doing = [unit for unit in units if unit.noun.kind in PERSONS and is_verb_form(predicate(caption, unit))]
    for left, right in pairwise(doing):
        if predicate(caption, left) != predicate(caption, right) and _may_change(left, right, caption, both_verbs=True):
            yield 1, left, right, exchange(caption, left.phrases, right.phrases)


def _background(caption: Caption, units: Sequence[Unit]) -> Swaps:
    """What is in front and what is far behind: a man riding a horse with trees in the background."""
    for unit in units[1:]:
        after = caption.between(unit.last, min(unit.last + 3, len(caption.tokens)))
        before = caption.between(unit.first - 1, unit.first)
        far = after in (("in", "the", "background"), ("in", "the", "distance"), ("in", "background"))
        subject = units[1] if units[0].noun.kind == "picture" and units[1] is not unit else units[0]
        if far and before == ("with",) and subject.noun.fits(WORDS["scenery"]) and _may_change(subject, unit, caption):
            yield 1, subject, unit, exchange(caption, subject.phrases, unit.phrases)


def _on_it(caption: Caption, units: Sequence[Unit]) -> Swaps:
    """What stands on something: "a table with a vase on it" is "a vase with a table on it"."""
    for left, right in pairwise(units):
        after = " ".join(caption.between(right.last, min(right.last + 4, len(caption.tokens))))
        on_it = after.startswith(("on it", "on top", "in it", "inside"))
        singular = left.number == right.number == "one"
        with_it = joining_words(caption, left, right) in ("with", "has") and left.noun.fits(WORDS["scenery"])
        fits = with_it and right.noun.fits(WORDS["scenery"])
        if on_it and fits and singular and _opens(left, right, caption) and _may_change(left, right, caption):
            yield 2, left, right, exchange(caption, left.phrases, right.phrases)


def _may_change(left: Unit, right: Unit, caption: Caption, both_verbs: bool = False) -> bool:
    """Whether the two units fit grammatically into each other's place."""
    # a kitchen table and a picnic table are both tables
    if left.noun.lemma.split()[-1] == right.noun.lemma.split()[-1] or _is_general(left, right):
        return False
    if not stands_alone(left, caption) or not stands_alone(right, caption):
        return False
    there_is = bool(set(caption.between(max(left.first - 2, 0), left.first)) & {"is", "are"})
    # a finite verb agrees in number with what stands before it
    finite = there_is or has_finite_verb(caption, left) or (both_verbs and has_finite_verb(caption, right))
    if finite and (not left.number or left.number != right.number):
        return False
    # "his" has to go on speaking of the person that it spoke of
    if caption.words & WORDS["possessives"] and "person" in (left.noun.kind, right.noun.kind):
        return left.noun.kind == right.noun.kind and not caption.words & WORDS["gendered"]
    if (left.determiners | right.determiners) & WORDS["possessives"]:
        return False
    return not _needs_an_article(left, right)


def _needs_an_article(left: Unit, right: Unit) -> bool:
    """Whether a bare noun would go where an article was or the other way: "Man on two benches", "a man in bed"."""
    bare = [unit.phrases[0].noun.number == "one" and not unit.determiners for unit in (left, right)]
    articles = right.determiners <= {"a", "an", "the"} and right.phrases[0].noun.number == "one"
    return (bare[1] and not bare[0]) or (bare[0] and not bare[1] and not (articles and left.first == 0))
