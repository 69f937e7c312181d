"""NegCLIP's negatives: two phrases of one kind change places (Yuksekgonul et al., 2023, arXiv 2210.01936).

In mode `reference` the kinds are the paper's: noun chunks of more than two words, verb phrases, singular nouns, plural
nouns, adverbs and adjectives. Phrases are found by their places in the caption, so that nothing else is hit. Two things
are added: the members of a list are left alone, since "a cat and a dog" says the same the other way round, and so is
every exchange that the checks of its type reject; and a or an follows the word behind it.

Much of that is broken English, or true. Mode `careful` writes less: see `negclip_careful`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from negatives.tables.files import InputError, quoted
from negatives.tables.randomness import generator_for
from negatives.validate import rejection
from negatives.writers.caption_edits import ARTICLE_BEFORE, article_for
from negatives.writers.negclip_careful import careful_attempt
from negatives.writers.tagging import SpacySettings, Span, TaggedCaption, Tagger, Word
from negatives.writers.write import Attempt

MODES = ("careful", "reference")
KINDS = {
    "noun_chunk": "swap_obj",
    "verb_phrase": "swap_att",
    "singular_noun": "swap_obj",
    "plural_noun": "swap_obj",
    "adverb": "swap_att",
    "adjective": "swap_att",
}
"""Kind of phrase -> negative type. Swapped nouns are swapped objects. SugarCrepe has no swaps of verbs or adverbs: here
they count as swapped attributes, since the objects stay, and what is said of them changes places."""

MODIFIERS = {"NOUN": ("ADJ", "NOUN", "NUM", "PROPN"), "ADJ": ("ADV",)}  # what can stand before what it modifies
# parts of speech of what joins the members of a list
LISTING = {"CCONJ", "DET", "PUNCT", "SPACE"}
SYMMETRIC = {"alongside", "beside", "near", "next", "to", "with"}  # "a cat next to a dog"
# the pattern of a verb phrase is matched against a letter for each word: match.span() then counts words
VERB_LETTERS = {"VERB": "V", "AUX": "X", "ADV": "R"}
VERB_PHRASE = re.compile("V?[RX]*V+")


@dataclass
class NegClipSettings:
    """NegCLIP's generator."""

    mode: str = field(default="careful", metadata={"choices": MODES})
    """careful: few texts, of which nearly all are English and false. reference: as published, for nearly every
    caption, but of 100 texts 61 are really false, and most are broken English."""


DEFAULTS = NegClipSettings()


class NegClipWriter:
    """Writes one negative for a caption by exchanging two phrases.

    The kind of phrase is drawn among those that have a pair to exchange, then the pair. Both are drawn again where the
    text is rejected.

    Args:
        tagger: with noun chunks.
        mode: `careful` or `reference`.

    Raises:
        InputError: an unknown mode.
    """

    name = "negclip"

    def __init__(self, tagger: Tagger, mode: str = DEFAULTS.mode) -> None:
        if mode not in MODES:
            raise InputError(f"The mode of `negclip` must be one of {' '.join(MODES)}, got {quoted(mode)}. Mend it.")
        # version 2 had no modes, and wrote what `reference` writes
        self.version = {"careful": "3-careful", "reference": "2-reference"}[mode]
        self._tagger, self._attempt = tagger, {"careful": careful_attempt, "reference": reference_attempt}[mode]

    @property
    def model(self) -> str:
        """The tagger's name and version."""
        return self._tagger.name

    def attempts(self, captions: Sequence[tuple[str, str]], seed: int) -> list[list[Attempt]]:
        """For each (caption_id, caption) what was written; it depends on the seed, the id and the caption only."""
        tagged = self._tagger.tag(caption for _, caption in captions)
        return [
            [self._attempt(caption, generator_for(seed, self.name, caption_id))]
            for (caption_id, _), caption in zip(captions, tagged, strict=True)
        ]


def build(spacy: SpacySettings, negclip: NegClipSettings = DEFAULTS) -> NegClipWriter:
    """The writer on a spaCy pipeline with a parser."""
    return NegClipWriter(Tagger(spacy.pipeline, noun_chunks=True, batch_size=spacy.batch_size), negclip.mode)


def reference_attempt(caption: TaggedCaption, rng: np.random.Generator) -> Attempt:
    """The caption with two phrases of one kind exchanged; `field` is the kind, "" if no kind has a pair."""
    possible = {kind: pairs for kind in KINDS if (pairs := exchangeable(caption, phrases(caption, kind)))}
    while possible:
        # the kind first, then the pair: long captions have many more pairs of nouns than of anything else
        kind = list(possible)[int(rng.integers(len(possible)))]
        first, second = possible[kind].pop(int(rng.integers(len(possible[kind]))))
        text = exchanged(caption, first, second)
        if not rejection(text, caption.text, KINDS[kind], ()):
            return Attempt(kind, KINDS[kind], text)
        possible = {kind: pairs for kind, pairs in possible.items() if pairs}
    return Attempt("", "swap_obj", "", "no two phrases of one kind that can change places")


def phrases(caption: TaggedCaption, kind: str) -> list[Span]:
    """The phrases of one of `KINDS`, in order; none overlap.

    A verb phrase is a verb with the auxiliaries and adverbs right before it, and maybe a verb before those: "is slowly
    walking" is one.
    """
    words = caption.words
    if kind == "noun_chunk":
        return [(first, end) for first, end in caption.noun_chunks if end - first > 2]
    if kind == "verb_phrase":
        letters = "".join(VERB_LETTERS.get(word.pos, ".") for word in words)
        return [match.span() for match in VERB_PHRASE.finditer(letters)]
    fits = {
        "singular_noun": lambda word: word.tag == "NN",
        "plural_noun": lambda word: word.tag == "NNS",
        "adverb": lambda word: word.pos == "ADV",
        "adjective": lambda word: word.pos == "ADJ",
    }[kind]
    return [(place, place + 1) for place, word in enumerate(words) if fits(word)]


def exchangeable(caption: TaggedCaption, spans: Sequence[Span]) -> list[tuple[Span, Span]]:
    """Pairs of spans that say something else in each other's place: not the same words, and no members of a list."""
    return [
        (first, second)
        for first, second in combinations(spans, 2)
        if span_text(caption, first).casefold() != span_text(caption, second).casefold()
        and not in_one_list(caption, first, second)
    ]


def in_one_list(caption: TaggedCaption, first: Span, second: Span) -> bool:
    """Whether what stands between two spans only lists them, as in "a cat, a bird and a dog", or is nothing.

    Where one of them has a modifier before it, as in "a red cat and a dog", the order does say something.
    """
    own = {word.pos for start, end in (first, second) for word in caption.words[start:end]}
    between = caption.words[first[1] : second[0]]
    # words of the spans' own kind are further members of the list: "a cat, a bird and a dog"
    if not all(word.pos in own | LISTING or word.text.casefold() in SYMMETRIC for word in between):
        return False
    return not between or not any(_is_modified(caption.words, span) for span in (first, second))


def exchanged(caption: TaggedCaption, first: Span, second: Span) -> str:
    """The caption with two spans in each other's place; each place keeps the case of its first letter.

    Args:
        caption: tagged caption.
        first, second: spans; `first` ends before `second` starts.
    """
    text = caption.text
    # the later place first, so that the characters of the earlier one stay where they are
    places = [characters(caption, span) for span in (second, first)]
    moved = [span_text(caption, span) for span in (first, second)]
    lowered = [_lowered(text, caption.words[span[0]]) for span in (first, second)]
    for (start, end), phrase, lower in zip(places, moved, lowered, strict=True):
        text = replaced(text, start, end, lower + phrase[1:])
    return text


def replaced(text: str, start: int, end: int, phrase: str) -> str:
    """The text with a phrase in the place of characters `start` to `end`.

    A capital stays a capital, and a or an before the place follows the phrase. Unlike `caption_edits.edited`, each
    place keeps its own capital, and not only the first letter of the caption.

    >>> replaced("A man eats", 2, 5, "elephant"), replaced("Red bus", 0, 3, "blue"), replaced("a day", 2, 5, "hour")
    ('An elephant eats', 'Blue bus', 'an hour')
    """
    if text[start].isupper():
        phrase = phrase[0].upper() + phrase[1:]
    ending = article_for(phrase)[1:]
    ending = ending.upper() if text.isupper() else ending
    return ARTICLE_BEFORE.sub(lambda match: match[1] + ending + match[3], text[:start]) + phrase + text[end:]


def characters(caption: TaggedCaption, span: Span) -> tuple[int, int]:
    """(start, end) of a span in the caption's text."""
    return caption.words[span[0]].start, caption.words[span[1] - 1].end


def span_text(caption: TaggedCaption, span: Span) -> str:
    """The caption's text in a span."""
    start, end = characters(caption, span)
    return caption.text[start:end]


def _is_modified(words: Sequence[Word], span: Span) -> bool:
    return span[0] > 0 and words[span[0] - 1].pos in MODIFIERS.get(words[span[1] - 1].pos, ())


def _lowered(text: str, word: Word) -> str:
    """A word's first letter, small if it is large only because it begins the caption or a sentence."""
    first = word.text[0]
    # quotes and brackets may stand before a sentence's first word
    begins = re.search(r"(^|[.!?])[\s\"'“‘(]*$", text[: word.start]) is not None
    return first.lower() if begins and word.pos != "PROPN" and word.text[1:] == word.text[1:].lower() else first
