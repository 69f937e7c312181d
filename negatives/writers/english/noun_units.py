"""What a caption speaks of ("a plate of food" is one thing), and the words that join one thing to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from negatives.writers.caption_edits import exchanged
from negatives.writers.english.lexicon import NOUNS, WORDS, Noun
from negatives.writers.english.noun_phrases import Caption, Phrase

# "" for none, as in "Man on a bench"
ARTICLES = ("a", "an", "the", "")
NO_NOUN = Noun("", "", "one")
# before "of" they make a place, not a part: "on top of a table"
OF_PLACE = frozenset({"top", "front", "out", "inside", "outside", "off"})
LOOSE = WORDS["auxiliaries"] | WORDS["adverbs"]
FINITE = frozenset({"is", "are", "was", "were", "has", "have"})


@dataclass(frozen=True)
class Unit:
    """A noun phrase with what "of" hangs on it: "a plate of food", "a group of people"."""

    phrases: tuple[Phrase, ...]

    @property
    def main(self) -> Phrase:
        """The phrase that the caption speaks of: the people in "a group of people", the plate in "a plate of food"."""
        measured = len(self.phrases) > 1 and self.phrases[0].noun.kind in ("quantity", "crowd")
        return self.phrases[1] if measured else self.phrases[0]

    @property
    def noun(self) -> Noun:
        """The noun of the main phrase."""
        return self.main.noun

    @property
    def first(self) -> int:
        """The first token."""
        return self.phrases[0].first

    @property
    def last(self) -> int:
        """The token after the last one."""
        return self.phrases[-1].last

    @property
    def number(self) -> str:
        """one or many; "" where speakers differ, as for "a group of people"."""
        if self.main is not self.phrases[0] or self.noun.kind == "crowd":
            return ""
        return "many" if self.noun.number == "many" else "one"

    @property
    def determiners(self) -> frozenset[str]:
        """The determiners at its beginning."""
        return frozenset(self.phrases[0].determiner.split())


def units_of(caption: Caption) -> list[Unit]:
    """The noun phrases, those joined by "of" as one; a picture and what it shows stay apart."""
    units: list[Unit] = []
    for phrase in caption.phrases:
        joined = units and caption.between(units[-1].last, phrase.first) == ("of",)
        if joined and units[-1].phrases[-1].noun.kind != "picture":
            units[-1] = Unit((*units[-1].phrases, phrase))
        else:
            units.append(Unit((phrase,)))
    return units


def joining_words(caption: Caption, left: Unit, right: Unit) -> str:
    """The words between two units without auxiliaries and adverbs: "who is sitting on" is "sitting on"."""
    words = caption.between(left.last, right.first)
    return " ".join(words[_verb_place(words) :])


def predicate(caption: Caption, unit: Unit) -> str:
    """The word after a unit, auxiliaries and adverbs aside; "" at the end."""
    words = caption.between(unit.last, min(unit.last + 4, len(caption.tokens)))
    return words[_verb_place(words)] if words else ""


def has_finite_verb(caption: Caption, unit: Unit) -> bool:
    """Whether the verb after a unit agrees with it in number: "a dog runs" and "dogs run", not "a dog running"."""
    word = predicate(caption, unit)
    words = caption.between(unit.last, min(unit.last + 3, len(caption.tokens)))
    return bool({word, word + "s"} & WORDS["verbs"]) or bool(FINITE.intersection(words[:3]) and words[0] in LOOSE)


def _verb_place(words: Sequence[str]) -> int:
    place = 0
    # the last word is never skipped, or nothing would join the two
    while place < min(len(words) - 1, 3) and words[place] in LOOSE:
        place += 1
    return place


def stands_alone(unit: Unit, caption: Caption) -> bool:
    """Whether a unit is no part of a list ("a suit and a tie") nor of something that was not understood."""
    before = caption.between(max(unit.first - 2, 0), unit.first)
    after = caption.between(unit.last, min(unit.last + 1, len(caption.tokens)))
    shown = before[0] in OF_PLACE or NOUNS.get(before[0], NO_NOUN).kind == "picture" if before else True
    of_what = before[-1:] == ("of",) and not shown
    begins_list = after in (("and",), ("or",), (",",)) and any(
        phrase.first == unit.last + 1 for phrase in caption.phrases
    )
    ends_list = "," in before and any(phrase.last in (unit.first - 1, unit.first - 2) for phrase in caption.phrases)
    return not (of_what or begins_list or ends_list or after == ("of",))


def exchange(caption: Caption, one: Sequence[Phrase], two: Sequence[Phrase]) -> str:
    """Both phrases in each other's place; "a" and "the" stay, so that "a cat on the bed" is "a bed on the cat"."""
    stay = one[0].determiner in ARTICLES and two[0].determiner in ARTICLES  # or none: "Man on a bench"
    stay = stay and {one[0].noun.number, two[0].noun.number} == {"one"}
    begins = [phrases[0].first + (stay and phrases[0].determiner != "") for phrases in (one, two)]
    spans = [caption.span(first, phrases[-1].last) for first, phrases in zip(begins, (one, two), strict=True)]
    return exchanged(caption.text, spans[0], spans[1])
