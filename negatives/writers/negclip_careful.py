"""NegCLIP's exchanges that leave an English sentence, and a false one: what `negclip.mode=careful` writes.

The published method exchanges any two words of one tag. Half of "fire hydrant" moves alone then, a crowd becomes "a
street of people", and a lamp next to a table becomes a table next to a lamp, which is as true. Here spaCy says where a
noun phrase begins and ends, and the word lists of `english/lexicon` say what it is and whether the order matters. A
noun that is not listed stays where it is: a word that is left out costs a negative, a wrong one writes a true text.

Verbs and adverbs stay too: of 3,000 captions none had two verbs of different persons that take like complements.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np

from negatives.validate import rejection
from negatives.word_forms import first_negation, listed
from negatives.wordnet import is_a
from negatives.writers.caption_edits import exchanged
from negatives.writers.english.lexicon import ATTRIBUTES, NOUNS, WORDS, Noun
from negatives.writers.english.noun_phrases import DETERMINERS, Caption, Phrase, Token, is_verb_form
from negatives.writers.english.noun_swaps import noun_swaps
from negatives.writers.english.noun_units import OF_PLACE, Unit, joining_words
from negatives.writers.english.rules import LOOKS
from negatives.writers.tagging import Span, TaggedCaption, Word
from negatives.writers.write import Attempt

KINDS = {"noun_chunk": "swap_obj", "adjective": "swap_att"}
"""Kind of phrase -> negative type."""
LEAST_ODD, ODDEST = 1, 2  # grades of `lexicon/swaps.txt`; 3 is a sidewalk on a hydrant
LIVING = frozenset({"person", "animal"})
# things of a hand's size may lie on each other both ways: a book on a pillow; a table on a laptop is absurd
SMALL = frozenset({"device", "container", "tool", "gear", "food", "drink", "clothing", "board"})
# where a thing is, without doing anything; "in" is not here: a spoon in a pot is no pot in a spoon
STILL = listed(
    "on atop top of under underneath above below beneath standing stands stand sitting sits sit lying laying lies lays "
    "resting rests placed is are that which"
)
BABIES = frozenset({"baby", "infant", "toddler"})
# each of two things may be in front of the other: a blue truck and a red stop sign; and no pizza tops its cheese
UNCLEAR = frozenset({"front", "behind", "topped", "covered"})
# what joins two things of which either may be named first
SYMMETRIC = frozenset(word for words in WORDS["symmetric"] for word in words.split()) | {","}
JOINING = frozenset({"and", ",", "-"})
# a colour says something else of them, as in "white wine" and "black man", or is no colour of theirs
UNPAINTED = frozenset({"person", "crowd", "animal", "body", "picture", "quantity", "part", "sport", "drink"})


def careful_attempt(caption: TaggedCaption, rng: np.random.Generator) -> Attempt:
    """One of the caption's `careful_texts`; `field` is the kind of phrase, "" if there is none."""
    found = careful_texts(caption)
    if not found:
        return Attempt("", "swap_obj", "", "no two phrases that leave a false English sentence in each other's place")
    kind = list(found)[int(rng.integers(len(found)))]
    return Attempt(kind, KINDS[kind], found[kind][int(rng.integers(len(found[kind])))])


def careful_texts(tagged: TaggedCaption) -> dict[str, list[str]]:
    """Kind of phrase -> the caption with two phrases of that kind exchanged, each way once; kinds without a text lack.

    Odd ones, such as "a plate on a pizza", are there only if there is nothing better.
    """
    caption = understood(tagged)
    texts = {"noun_chunk": _nouns_exchanged(caption, LEAST_ODD), "adjective": attributes_exchanged(caption)}
    if not any(texts.values()):
        texts["noun_chunk"] = _nouns_exchanged(caption, ODDEST)
    return {kind: found for kind, found in texts.items() if found}


def understood(tagged: TaggedCaption) -> Caption:
    """The caption with those noun chunks that the word lists know; none behind a negation."""
    # a tagger has words for double spaces, which would stand between "front" and "of"
    places = [place for place, word in enumerate(tagged.words) if word.pos != "SPACE"]
    words, lower = [tagged.words[place] for place in places], [tagged.lower[place] for place in places]
    negation = first_negation(lower)
    chunks = [(bisect_left(places, first), bisect_left(places, last)) for first, last in tagged.noun_chunks]
    found = [phrase_of(words, lower, chunk) for chunk in chunks if chunk[1] <= negation]
    tokens = tuple(Token(text, word.start, word.end) for text, word in zip(lower, words, strict=True))
    return Caption(tagged.text, tokens, tuple(phrase for phrase in found if phrase), negation)


def phrase_of(words: Sequence[Word], lower: Sequence[str], chunk: Span) -> Phrase | None:
    """A noun chunk as a phrase: determiners, what describes it, and a listed noun; None if it ends with no such noun.

    Args:
        words: of the caption.
        lower: the same in lower case.
        chunk: its place among them.
    """
    first, last = chunk
    start = next((place for place in range(first, last) if lower[place] not in DETERMINERS), last)
    while last > start and is_verb_form(lower[last - 1]):  # "a train riding" on a track
        last -= 1
    # the longest noun first: "teddy bear" is no bear
    head = next((place for place in range(start, last) if " ".join(lower[place:last]) in NOUNS), last)
    if head == last or (lower[first] in OF_PLACE and lower[last : last + 1] == ["of"]):  # "in front of"
        return None
    noun = NOUNS[" ".join(lower[head:last])]
    # tagger and list must agree on a word that may be a verb, such as "signs"
    tags = ("NNS", "NNPS") if noun.number == "many" else ("NN", "NNP")
    if last - head == 1 and words[head].tag not in tags:
        return None
    return Phrase(first, head, last, noun, " ".join(lower[first:start]), tuple(lower[start:head]))


def may_exchange(caption: Caption, left: Unit, right: Unit) -> bool:
    """Whether two things are different ones, and not absurd in each other's place: no skateboard rides a man."""
    # of both, what they are and what they are of: "a plate of rice and a bowl of food"
    ends = [(unit.noun, unit.phrases[-1].noun) for unit in (left, right)]
    if any(may_be_one(one, two) for one, two in zip(*ends, strict=True)):
        return False
    kinds, words = {left.noun.kind, right.noun.kind}, set(joining_words(caption, left, right).split())
    # "bananas and berries on a plate" are on it together, and a bun on a sausage is what a sausage on a bun is
    shared = left.first > 0 and caption.tokens[left.first - 1].text in ("and", ",")
    if shared or (kinds == {"food"} and not words <= SYMMETRIC):
        return False
    if words & UNCLEAR or is_repeated(caption, left.noun) or is_repeated(caption, right.noun):
        return False
    if kinds <= LIVING:
        # a man may be where a horse or a baby is, and does not do what it does
        said = (*caption.between(left.first, left.last), *caption.between(right.first, right.last))
        acts = not words <= STILL | SYMMETRIC
        return not acts or (len(kinds) == 1 and BABIES.isdisjoint(said))
    return len(kinds) == 1 or (kinds <= SMALL and words <= STILL)


def attributes_exchanged(caption: Caption) -> list[str]:
    """Texts with the attributes of two different things exchanged: "a white cat on a black car" the other way round."""
    apart = [phrase for phrase in caption.phrases if not is_repeated(caption, phrase.noun)]
    texts = [
        exchanged(caption.text, caption.span(*one), caption.span(*two))
        for left, right in combinations(apart, 2)
        if not may_be_one(left.noun, right.noun)
        for one, two in product(attribute_spans(caption, left), attribute_spans(caption, right))
        if are_exclusive(caption.between(*one), caption.between(*two), left.noun, right.noun)
    ]
    return [text for text in texts if not rejection(text, caption.text, KINDS["adjective"], ())]


def attribute_spans(caption: Caption, phrase: Phrase) -> list[Span]:
    """The attributes before a noun; those of one group in a row are one, as in "black and white".

    None of a group that comes twice otherwise, as in "a blue square red kite".
    """
    spans: list[Span] = []
    groups: list[str] = []
    for place in range(phrase.head - len(phrase.modifiers), phrase.head):
        # "old fashioned" is not old
        if caption.tokens[place].text not in ATTRIBUTES or caption.tokens[place + 1].text == "fashioned":
            continue
        group = _group(caption.tokens[place].text)
        if groups and group == groups[-1] and JOINING.issuperset(caption.between(spans[-1][1], place)):
            spans[-1] = (spans[-1][0], place + 1)
        else:
            spans.append((place, place + 1))
            groups.append(group)
    return [span for span, group in zip(spans, groups, strict=True) if groups.count(group) == 1]


def are_exclusive(one: Sequence[str], two: Sequence[str], left: Noun, right: Noun) -> bool:
    """Whether each of two attributes can be said of the other's noun, and is false of it.

    Args:
        one, two: the words of the attributes.
        left, right: the nouns that have them.
    """
    first, second = ([word for word in words if word not in JOINING] for words in (one, two))
    # "a black and white cat on a black car" stays true in part
    if set(first) & set(second) or {*map(_group, first)} != {*map(_group, second)}:
        return False
    if not all(_suits(word, right) for word in first) or not all(_suits(word, left) for word in second):
        return False
    # of sizes, ages and states only opposites are false: a big dog may be old
    return _group(first[0]) in LOOKS or _become(first, second) or _become(second, first)


def may_be_one(one: Noun, two: Noun) -> bool:
    """Whether one noun may name the other's thing as well: a girl and a woman, a kitchen table and a table."""
    first, second = (noun.lemma.replace(" ", "_") for noun in (one, two))
    return one.lemma.split()[-1] == two.lemma.split()[-1] or is_a(first, second) or is_a(second, first)


def is_repeated(caption: Caption, noun: Noun) -> bool:
    """Whether the caption has another of it, of which the text may be true: "a building in front of a building"."""
    return sum(phrase.noun.lemma == noun.lemma for phrase in caption.phrases) > 1


def _nouns_exchanged(caption: Caption, oddest: int) -> list[str]:
    return [text for texts in noun_swaps(caption, oddest, may_exchange) for text in texts]


def _group(word: str) -> str:
    # one by one: a blue sign may be of metal too, so that a metal sign is no negative of it
    return ATTRIBUTES[word][0].group


def _suits(word: str, noun: Noun) -> bool:
    """Whether an attribute is said of such things; a look is said of all that can be made or painted."""
    looks = _group(word) in LOOKS and noun.kind not in UNPAINTED
    return looks or any(noun.fits(attribute.nouns) for attribute in ATTRIBUTES[word])


def _become(one: Sequence[str], two: Sequence[str]) -> bool:
    return len(one) == len(two) == 1 and any(two[0] in attribute.becomes for attribute in ATTRIBUTES[one[0]])
