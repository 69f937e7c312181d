"""CE-CLIP's four negatives of a caption: two nouns exchanged, and a masked LM's adjective, noun and verb.

Zhang et al., "Contrasting Intra-Modal and Ranking Cross-Modal Hard Negatives", CVPR 2024 (arXiv 2306.08832). In mode
`reference` texts are those of the authors' program, faults included; mode `careful` mends the faults, and where it
cannot write a negative it says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from negatives.tables.files import InputError, quoted
from negatives.tables.randomness import generator_for
from negatives.validate import rejection
from negatives.word_forms import first_negation
from negatives.writers.masked_lm import DEFAULT_MODEL, Guess, MaskedLm
from negatives.writers.negclip import exchangeable, exchanged, replaced
from negatives.writers.tagging import SpacySettings, Span, TaggedCaption, Tagger, Word
from negatives.writers.write import Attempt

MODES = ("careful", "reference")
# the authors' names and their mark of a text that could not be written
RELATION, NO_CAPTION = "relation_aug_caption", "###"
FIELDS = {
    RELATION: "swap_obj",
    "adj_aug_caption": "replace_att",
    "noun_aug_caption": "replace_obj",
    "verb_aug_caption": "replace_rel",
}
"""Field of CE-CLIP's record -> negative type, in the record's order."""

FILLED = {"adj_aug_caption": "ADJ", "noun_aug_caption": "NOUN", "verb_aug_caption": "VERB"}
POS_NAMES = {"ADJ": "adjective", "NOUN": "noun", "VERB": "verb"}
# most probable words that are looked at: the authors' five; careful looks further, since unfit ones fall out before
# the fourth is counted
REFERENCE_TOP, CAREFUL_TOP = 5, 20
RANK = 3  # 0-based: the authors take the fourth most probable
UNFIT = "the masked LM cannot read the caption: it is too long, or holds the mask token"

# In place of a noun, adjective or verb they make no sentence, or say nothing that could be false. Those of
# `negatives.checks` are others: a swap may add or drop them, which "over" is too much for.
NEVER_FILLED_IN = """
    a about all an and another any are as at be been being both but by can could did do does each for from had has have
    having he her his how i if in into is it its no not of off on one or other our over same she so some such that the
    their them then there these they this those to under up very was we were what when where which while who will with
    would you your
"""


@dataclass
class CeClipSettings:
    """CE-CLIP's generator."""

    mode: str = field(default="careful", metadata={"choices": MODES})
    """careful: writes nothing where the method would write junk. reference: as published, faults included."""
    masked_lm: str = DEFAULT_MODEL
    """Masked language model that fills words in, by hub name or folder."""
    batch_size: int = field(default=64, metadata={"min": 1, "max": 1_000_000})
    """Texts filled at once."""
    device: str = "auto"
    """Device of the masked LM."""


def build(ce_clip: CeClipSettings, spacy: SpacySettings) -> CeClipWriter:
    """The writer on a spaCy pipeline, whose parser it leaves out, and a masked LM."""
    masked_lm = MaskedLm(ce_clip.masked_lm, batch_size=ce_clip.batch_size, device=ce_clip.device)
    return CeClipWriter(Tagger(spacy.pipeline, batch_size=spacy.batch_size), masked_lm, ce_clip.mode)


class CeClipWriter:
    """Writes up to four negatives of a caption, one for each of `FIELDS`.

    Args:
        tagger: noun chunks are not needed.
        masked_lm: fills the masks.
        mode: `careful` or `reference`.

    Raises:
        InputError: an unknown mode.
    """

    name = "ce_clip"

    def __init__(self, tagger: Tagger, masked_lm: MaskedLm, mode: str = "careful") -> None:
        if mode not in MODES:
            raise InputError(f"The mode of `ce_clip` must be one of {' '.join(MODES)}, got {quoted(mode)}. Mend it.")
        # the published texts do not change; the careful ones passed no checks in version 1, and changed what is denied
        # in version 2
        self.version = {"careful": "3-careful", "reference": "1-reference"}[mode]
        self._tagger, self._lm, self._mode = tagger, masked_lm, mode

    @property
    def model(self) -> str:
        """The masked LM, and the tagger with its version."""
        return f"{self._lm.name} {self._tagger.name}"

    def attempts(self, captions: Sequence[tuple[str, str]], seed: int) -> list[list[Attempt]]:
        """For each (caption_id, caption) what was written or not, in the order of `FIELDS`.

        It depends on the seed, the id and the caption only. Give some hundreds at a time: they are filled together.
        """
        rngs = [generator_for(seed, self.name, caption_id) for caption_id, _ in captions]
        tagged = list(self._tagger.tag(caption for _, caption in captions))
        careful = self._mode == "careful"
        mask: Callable[..., tuple[Word | None, str]] = careful_mask if careful else reference_mask
        # one generator for the three words of a caption, drawn in the order of `FILLED`
        masks = [
            [mask(caption, pos, rng, self._lm.mask) for pos in FILLED.values()]
            for caption, rng in zip(tagged, rngs, strict=True)
        ]
        texts = [text for row in masks for _, text in row if text]
        # one call for all masks of all captions: the masked LM is where the time goes
        guesses = iter(self._lm.guesses(texts, CAREFUL_TOP if careful else REFERENCE_TOP))
        rows = []
        for caption, row in zip(tagged, masks, strict=True):
            relation = careful_relation(caption) if careful else reference_relation(caption)
            found = [next(guesses) if text else None for _, text in row]
            fills = [
                self._fill(field, caption, word, text, guess)
                for field, (word, text), guess in zip(FILLED, row, found, strict=True)
            ]
            rows.append([relation, *fills])
        return rows

    def _fill(self, field: str, caption: TaggedCaption, word: Word | None, masked: str, guess: Guess | None) -> Attempt:
        if not masked:
            return _failed(field, f"no {POS_NAMES[FILLED[field]]} that stands by itself")
        if guess is None:
            return _failed(field, UNFIT)
        if self._mode == "reference":
            # the authors' index, min(3, length): it is out of range for fewer than four guesses, and they ask for five
            token = guess.best[min(RANK, len(guess.best))]
            return Attempt(field, FIELDS[field], self._lm.filled(guess, token))
        assert word is not None
        fill = careful_choice([self._lm.word(token) for token in guess.best], caption, word, FIELDS[field])
        if not fill:
            return _failed(field, f"none of the {CAREFUL_TOP} most probable words fits")
        return Attempt(field, FIELDS[field], replaced(caption.text, word.start, word.end, fill))


def reference_relation(caption: TaggedCaption) -> Attempt:
    """The first two nouns exchanged wherever their letters occur, even inside other words or when they are the same."""
    nouns = [word.text for word in caption.words if word.pos == "NOUN"]
    if len(nouns) < 3:
        return _failed(RELATION, "fewer than three nouns")
    # letters and not words, as in the authors' program: with "cat", the first letters of "catwalk" go too
    placeholder = "temp1"
    text = caption.text.replace(nouns[0], placeholder).replace(nouns[1], nouns[0]).replace(placeholder, nouns[1])
    return Attempt(RELATION, FIELDS[RELATION], text)


def reference_mask(caption: TaggedCaption, pos: str, rng: np.random.Generator, mask: str) -> tuple[Word | None, str]:
    """A word of a kind, and the caption with its letters masked where they occur first; without one the bare mask."""
    words = [word for word in caption.words if word.pos == pos]
    if not words:
        return None, mask  # the authors' fault: one word out of nothing, which their record calls valid
    word = words[int(rng.integers(len(words)))]
    return word, caption.text.replace(word.text, mask, 1)


def careful_relation(caption: TaggedCaption) -> Attempt:
    """The first two nouns that can be exchanged: different ones of one number that are no members of a list.

    None behind a negation. Nouns in a row, as in "baseball player", are one.
    """
    nouns = _noun_runs(caption)
    if sum(word.pos == "NOUN" for word in caption.words) < 3:
        return _failed(RELATION, "fewer than three nouns")
    for first, second in exchangeable(caption, nouns):
        text = exchanged(caption, first, second)
        alike = caption.words[first[1] - 1].tag == caption.words[second[1] - 1].tag
        if alike and not rejection(text, caption.text, FIELDS[RELATION], ()):
            return Attempt(RELATION, FIELDS[RELATION], text)
    return _failed(RELATION, "no two different nouns of one number that the caption does not just list")


def careful_mask(caption: TaggedCaption, pos: str, rng: np.random.Generator, mask: str) -> tuple[Word | None, str]:
    """A word of a kind that is no part of a longer one, and the caption with it masked; (None, "") without one.

    None behind a negation.
    """
    asserted = caption.words[: first_negation(caption.lower)]
    words = [word for word in asserted if word.pos == pos and word.text.isalpha() and _is_free(caption.text, word)]
    if not words:
        return None, ""
    word = words[int(rng.integers(len(words)))]
    return word, caption.text[: word.start] + mask + caption.text[word.end :]


def careful_choice(guesses: Sequence[str], caption: TaggedCaption, word: Word, negative_type: str) -> str:
    """The fourth of the guesses that can stand for a word, the last where there are fewer, "" where there is none.

    A guess must be new to the caption, no function word, and no form of the word itself; with it, the caption must pass
    the checks of the type.

    Args:
        guesses: words, the most probable first; "" for what is none.
        caption: tagged caption.
        word: what the guess is to stand for.
        negative_type: what is written.
    """
    unfit = {*NEVER_FILLED_IN.split(), *(other.text.casefold() for other in caption.words)}
    fits = [
        guess
        for guess in dict.fromkeys(guesses)
        if guess
        and guess.casefold() not in unfit
        and not _may_be_a_form(guess, word.text)
        and not rejection(replaced(caption.text, word.start, word.end, guess), caption.text, negative_type, ())
    ]
    return fits[min(RANK, len(fits) - 1)] if fits else ""


def record(annotation: Mapping[str, Any], attempts: Sequence[Attempt]) -> dict[str, Any]:
    """CE-CLIP's record: the COCO annotation, the four texts, and whether each text, the caption first, is valid.

    Args:
        annotation: `image_id, id, caption`.
        attempts: of that caption; what was not written becomes the authors' `###`.

    >>> nothing = [Attempt(field, kind, "", "none") for field, kind in FIELDS.items()]
    >>> record({"image_id": 1, "id": 10, "caption": "A dog"}, nothing)["valid_caption"]
    [1, 0, 0, 0, 0]
    """
    # the flag is a comparison with "###", as the authors' is: of reference texts, only the relation can be invalid
    texts = {attempt.field: attempt.text or NO_CAPTION for attempt in attempts}
    valid = [int(text != NO_CAPTION) for text in (annotation["caption"], *texts.values())]
    return {**annotation, **texts, "valid_caption": valid}


def _failed(field: str, detail: str) -> Attempt:
    return Attempt(field, FIELDS[field], "", detail)


def _noun_runs(caption: TaggedCaption) -> list[Span]:
    asserted = caption.words[: first_negation(caption.lower)]
    letters = "".join("N" if word.pos == "NOUN" else "." for word in asserted)
    return [match.span() for match in re.finditer("N+", letters)]


def _is_free(text: str, word: Word) -> bool:
    """Whether a word is no part of a longer one, as in "well-lit" or "gonna"."""
    around = text[: word.start][-1:] + text[word.end :][:1]
    return not any(sign.isalnum() or sign in "-_" for sign in around)


def _may_be_a_form(guess: str, word: str) -> bool:
    """Whether two words begin alike, as "rides" and "riding" do; some that are strangers do too."""
    first, second = guess.casefold(), word.casefold()
    # without two letters for an ending; but three at least, or a short word would be like every other
    length = max(3, min(len(first), len(second)) - 2)
    return first[:length] == second[:length]
