"""Captions as tagged words, by a spaCy pipeline: what the generators `ce_clip` and `negclip` work on."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from negatives.tables.files import InputError, quoted

DEFAULT_PIPELINE = "en_core_web_sm"
PROBE = "A dog runs."
Span = tuple[int, int]
"""Words of a caption: (first word, behind the last word)."""


@dataclass
class SpacySettings:
    """The spaCy pipeline that tags captions (ce_clip, negclip)."""

    pipeline: str = DEFAULT_PIPELINE
    """Name or folder."""
    batch_size: int = field(default=256, metadata={"min": 1, "max": 1_000_000})
    """Captions tagged at once."""


@dataclass(frozen=True)
class Word:
    """A word or mark of a caption.

    Attributes:
        text: as the caption has it.
        start, end: its place, in characters.
        pos: universal part of speech, such as NOUN.
        tag: fine part of speech, such as NNS.
    """

    text: str
    start: int
    end: int
    pos: str
    tag: str


@dataclass(frozen=True)
class TaggedCaption:
    """A caption with its words.

    Attributes:
        text: the caption.
        words: all of its words and marks, in order.
        noun_chunks: (first word, behind the last word) of each base noun phrase, in order; empty if not asked for.
    """

    text: str
    words: tuple[Word, ...]
    noun_chunks: tuple[Span, ...] = ()

    @cached_property
    def lower(self) -> tuple[str, ...]:
        """The words in lower case; n't has its plain apostrophe."""
        return tuple(word.text.casefold().replace("’", "'") for word in self.words)


class Tagger:
    """A spaCy pipeline that tags captions.

    Args:
        pipeline: an installed pipeline's name, or the folder of one.
        noun_chunks: whether to find noun chunks, which takes the pipeline's parser.
        batch_size: captions in a batch; it changes the speed only.

    Raises:
        InputError: spaCy or the pipeline is not installed, or the pipeline lacks what is asked of it.
    """

    def __init__(self, pipeline: str = DEFAULT_PIPELINE, *, noun_chunks: bool = False, batch_size: int = 256) -> None:
        # for speed: entities and lemmas are never read, and CE-CLIP's authors leave the parser out too
        unused = ["ner", "lemmatizer", *([] if noun_chunks else ["parser"])]
        self.noun_chunks, self.batch_size = noun_chunks, batch_size
        self._nlp = _load(pipeline, unused)
        self._check(pipeline)

    @property
    def name(self) -> str:
        """The pipeline with its version, such as `en_core_web_sm-3.8.0`."""
        meta = self._nlp.meta
        return f"{meta['lang']}_{meta['name']}-{meta['version']}"

    def tag(self, captions: Iterable[str]) -> Iterator[TaggedCaption]:
        """The captions with their words, in order; only a batch of them is in memory."""
        for doc in self._nlp.pipe(captions, batch_size=self.batch_size):
            # spaCy's `idx` counts characters of the text, so that edits can go by places
            words = tuple(
                Word(token.text, token.idx, token.idx + len(token.text), token.pos_, token.tag_) for token in doc
            )
            chunks = tuple((chunk.start, chunk.end) for chunk in doc.noun_chunks) if self.noun_chunks else ()
            yield TaggedCaption(doc.text, words, chunks)

    def _check(self, pipeline: str) -> None:
        # by a trial, since pipelines name their parts as they like
        doc = self._nlp(PROBE)
        lacking = "" if doc.has_annotation("POS") else "tagger"
        if not lacking and self.noun_chunks:
            try:
                list(doc.noun_chunks)
            except (ValueError, NotImplementedError):  # unparsed; of a language without a rule for them
                lacking = "parser for noun chunks"
        if lacking:
            raise InputError(
                f"The spaCy pipeline must have a {lacking}, {quoted(pipeline, 200)} has none. Give another pipeline, "
                f"such as {DEFAULT_PIPELINE}."
            )


def _load(pipeline: str, unused: list[str]) -> Any:
    try:
        spacy = importlib.import_module("spacy")
    except ImportError as error:
        raise InputError(
            "The generators `ce_clip` and `negclip` need spaCy, which cannot be imported "
            f"({quoted(str(error), 100)}). Run `pip install 'itm-lightning[spacy]'` and "
            f"`python -m spacy download {DEFAULT_PIPELINE}`."
        ) from error
    try:
        # exclude, not disable: what is disabled is loaded all the same
        return spacy.load(pipeline, exclude=unused)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(
            f"The spaCy pipeline must be an installed one or a folder that holds one, cannot load "
            f"{quoted(pipeline, 200)}: {quoted(str(error), 160)}. Run `python -m spacy download {DEFAULT_PIPELINE}`, "
            "or give a folder."
        ) from error
