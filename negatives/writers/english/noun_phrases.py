"""Noun phrases of a caption by word lists: where they begin and end, and what joins them. No tagger."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from negatives.word_forms import first_negation
from negatives.writers.english.lexicon import ATTRIBUTES, NOUNS, WORDS, Noun

SINGULAR = WORDS["singular determiners"]
DETERMINERS = SINGULAR | WORDS["determiners"] | WORDS["possessives"] | WORDS["counts"]
ADJECTIVES = WORDS["adjectives"] | frozenset(word for phrase in ATTRIBUTES for word in phrase.split())
COUNTED = WORDS["counts"] | WORDS["determiners"] - {"the"}
CLOSERS = WORDS["closers"] | WORDS["verbs"]
LONGEST_NOUN = max(len(noun.split()) for noun in NOUNS)


@dataclass(frozen=True)
class Token:
    """A word or a sign of a caption, in lower case, and its place."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Phrase:
    """A noun phrase: tokens `first` to `last` (excluded), with the head noun from token `head` on."""

    first: int
    head: int
    last: int
    noun: Noun
    determiner: str
    modifiers: tuple[str, ...]
    """The words between the determiner and the head noun."""


@dataclass(frozen=True)
class Caption:
    """A caption with its tokens and noun phrases.

    Attributes:
        text: the caption.
        tokens: all of them.
        phrases: those before a negation.
        negation: the place of the first "no", "without" and the like; the number of tokens where there is none.
    """

    text: str
    tokens: tuple[Token, ...]
    phrases: tuple[Phrase, ...]
    negation: int

    @property
    def words(self) -> frozenset[str]:
        """The words of the caption in lower case."""
        return frozenset(token.text for token in self.tokens)

    def span(self, first: int, last: int) -> tuple[int, int]:
        """The characters of the tokens from `first` to `last` (excluded)."""
        return self.tokens[first].start, self.tokens[last - 1].end

    def between(self, first: int, last: int) -> tuple[str, ...]:
        """The words of the tokens from `first` to `last` (excluded)."""
        return tuple(token.text for token in self.tokens[first:last])


def parse(text: str) -> Caption:
    """The tokens and noun phrases of a caption; none behind a negation."""
    tokens = tokens_of(text)
    negation = first_negation([token.text for token in tokens])
    phrases = tuple(phrase for phrase in phrases_of(tokens) if phrase.last <= negation)
    return Caption(text, tuple(tokens), phrases, negation)


def tokens_of(caption: str) -> list[Token]:
    """The words and signs of a caption.

    >>> [token.text for token in tokens_of("A man's red-brown dog, barking.")]
    ['a', "man's", 'red-brown', 'dog', ',', 'barking', '.']
    """
    matches = re.finditer(r"\w+(?:['’-]\w+)*|[^\w\s]", caption)
    return [Token(match.group().lower(), match.start(), match.end()) for match in matches]


def phrases_of(tokens: Sequence[Token]) -> list[Phrase]:
    """The noun phrases that begin and end clearly, in order; what is in doubt is left out.

    >>> found = phrases_of(tokens_of("A big brown dog watches the train station in Gdynia"))
    >>> [(phrase.determiner, phrase.modifiers, phrase.noun.lemma) for phrase in found]
    [('a', ('big', 'brown'), 'dog'), ('the', (), 'train station')]
    """
    texts = [token.text for token in tokens]
    found, place = [], 0
    while place < len(texts):
        phrase = _phrase_at(texts, place)
        if phrase is not None:
            found.append(phrase)
        place = place + 1 if phrase is None else phrase.last
    return found


def _phrase_at(texts: list[str], first: int) -> Phrase | None:
    place = first
    while place < len(texts) and texts[place] in DETERMINERS and place - first < 3:
        place += 1
    determiners = texts[first:place]
    if not determiners and not _can_begin(texts, first):
        return None
    start = place
    while (
        place < len(texts)
        and _noun_at(texts, place) is None
        and _may_modify(texts, place, not COUNTED.issuperset(determiners))
    ):
        place += 1
    head = _last_noun(texts, place, determiners)
    if head is None:
        return None
    place, noun, last = head
    phrase = Phrase(first, place, last, noun, " ".join(determiners), tuple(texts[start:place]))
    return phrase if _agrees(phrase, texts) and ends_at(texts, last, noun) else None


def _noun_at(texts: list[str], place: int) -> tuple[Noun, int] | None:
    """The longest listed noun that begins here, and where it ends."""
    # the longest first: a "train station" is no train
    for end in range(min(len(texts), place + LONGEST_NOUN), place, -1):
        noun = NOUNS.get(" ".join(texts[place:end]))
        if noun is not None:
            return noun, end
    return None


def _can_begin(texts: list[str], place: int) -> bool:
    """Whether a noun phrase without determiner can begin here: after a word that is no part of it."""
    if is_verb_form(texts[place]) and texts[place] not in ADJECTIVES and texts[place] not in NOUNS:
        return False
    if place == 0:
        return True
    before = texts[place - 1]
    if before in DETERMINERS:
        return False
    return not before[0].isalnum() or before in CLOSERS or is_verb_form(before)


def _may_modify(texts: list[str], place: int, has_determiner: bool) -> bool:
    """`has_determiner`: one that no verb can follow, as in "two wearing hats"."""
    word = texts[place]
    if word in ADJECTIVES:
        return True
    if word in ("and", ","):  # "black and white", "big, round"
        around = texts[place - 1 : place] + texts[place + 1 : place + 2]
        return place > 0 and len(around) == 2 and all(other in ADJECTIVES for other in around)
    # no list holds every adjective: an unknown word counts as one, if a listed noun follows in the end
    unknown = word[0].isalpha() and word not in CLOSERS | DETERMINERS
    return unknown and (has_determiner or not is_verb_form(word))


def _last_noun(texts: list[str], place: int, determiners: list[str]) -> tuple[int, Noun, int] | None:
    """The head of a run of nouns: "kitchen table" is a table, "a man watches" is a man."""
    head: tuple[int, Noun, int] | None = None
    while (found := _noun_at(texts, place)) is not None:
        noun, end = found
        if head is not None and (head[1].number == "many" or _is_verb_after(texts[place], noun, head[1], determiners)):
            break
        head = (place, noun, end)
        place = end
    return head


def _is_verb_after(text: str, noun: Noun, before: Noun, determiners: list[str]) -> bool:
    if text not in WORDS["need a determiner"] and text not in WORDS["verbs"]:
        return False
    acts = before.kind in ("person", "animal", "vehicle", "crowd")
    return (noun.number == "many" and (acts or bool(SINGULAR & set(determiners)))) or text in WORDS["verbs"]


def _agrees(phrase: Phrase, texts: list[str]) -> bool:
    words, noun = set(phrase.determiner.split()), phrase.noun
    # a phrase whose determiner and noun disagree was not understood
    if words & {"a", "an", "another", "each", "every", "one", "this", "that"} and noun.number != "one":
        return False
    if words & (WORDS["counts"] | {"several", "many", "few", "these", "those", "various"}) and noun.number != "many":
        return False
    return texts[phrase.head] not in WORDS["need a determiner"] or bool(words or phrase.modifiers)


def ends_at(texts: list[str], place: int, noun: Noun) -> bool:
    """Whether the word at `place` cannot belong to a noun phrase that has `noun` before it."""
    # "dogs' bowls": an apostrophe makes a genitive, and the phrase goes on
    if place == len(texts) or not texts[place][0].isalnum():
        return place == len(texts) or texts[place] != "'"
    word = texts[place]
    if word in CLOSERS:
        return True
    if word.endswith("ing"):
        return word not in WORDS["nouns in ing"]
    # a participle ends the phrase only if no noun follows: "a cat dressed in red", but "a cat shaped cake"
    if word.endswith("ed") or word in WORDS["participles"]:
        after = texts[place + 1] if place + 1 < len(texts) else "."
        return not after[0].isalnum() or after in CLOSERS | DETERMINERS
    # "dogs run": the verb is listed as "runs", and agrees with a plural
    if noun.number == "many" and {word + "s", word + "es"} & WORDS["verbs"]:
        return True
    # "a man watches": a plural noun behind one who can act is its verb
    acts = noun.kind in ("person", "animal", "vehicle", "crowd")
    return acts and word in WORDS["need a determiner"] and word in NOUNS and NOUNS[word].number == "many"


def is_verb_form(word: str) -> bool:
    """Whether a word looks like a participle or is a listed verb."""
    is_noun = word in NOUNS or word in WORDS["nouns in ing"]
    return word in WORDS["verbs"] or (word.endswith(("ing", "ed")) and not is_noun)
