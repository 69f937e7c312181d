"""Captions and a cache of answers -> negatives and paraphrases that a chat model wrote, each row with its provenance.

Nothing here talks to a server or writes a file: `requests_for` says what to ask, whoever sends it (`chat.ask`,
`chat.batch.jobs`) fills the cache, and `rows_from` turns the cache into rows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from negatives.chat.cache import RequestCache
from negatives.chat.messages import ALL_REJECTED, Answer, ChatRequest, final_answer
from negatives.gpt.prompts import LATEST, TYPES, VERSIONS, in_order, system_text, write_request
from negatives.gpt.prompts.answers import AnswerError, Item, parse_answer
from negatives.gpt.verdict import reason_of, serves
from negatives.tables.captions import CAPTION_COLUMNS, NEGATIVE_COLUMNS, PROVENANCE_COLUMNS
from negatives.types import PARAPHRASE
from negatives.word_forms import bare_words
from negatives.writers.write import UNWRITTEN_SCHEMA

GENERATOR = "gpt"
OUTCOMES = ("nothing_to_write", "refused", "malformed", "truncated", "unanswered")
"""Why a caption has no text of a type: the model found none, all attempts failed alike, or it was not asked enough."""

_REQUEST_FIELDS = [
    ("request_key", pa.string()),
    ("requested_model", pa.string()),
    ("temperature", pa.float64()),
    ("seed", pa.int64()),
    ("settings", pa.string()),
    ("attempt", pa.int64()),
    ("mode", pa.string()),
    ("rejected", pa.string()),
]
NEGATIVE_SCHEMA = pa.schema([*((name, pa.string()) for name in NEGATIVE_COLUMNS), *_REQUEST_FIELDS])
PARAPHRASE_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in (*CAPTION_COLUMNS, "source_caption_id", *PROVENANCE_COLUMNS)),
        *_REQUEST_FIELDS,
    ]
)
ANSWER_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("request_key", "outcome", "model", "mode")),
        *((name, pa.int64()) for name in ("attempt", "prompt_tokens", "completion_tokens")),
    ]
)
SCHEMAS = (NEGATIVE_SCHEMA, PARAPHRASE_SCHEMA, UNWRITTEN_SCHEMA, ANSWER_SCHEMA)
"""In the order of `Rows`."""

_Table = list[dict[str, Any]]


@dataclass(frozen=True)
class PromptRecipe:
    """What is asked about every caption, and how: `summary.json` calls it the run's `recipe`.

    It is named for the prompts, since a training recipe is another thing (`experiments/configs`).

    A request is a function of the recipe and of the caption's text, and its key a hash of the request. So captions may
    be added, removed, reordered or moved to other images and ids, and every answer in the cache is still used. A new
    request, paid for anew, is made by any other value here: another model, list of types, count, temperature, bound,
    seed or version of the prompts. To add a type later without paying for the others again, run it by a recipe of its
    own and join the tables.

    Attributes:
        model: model as the server names it.
        types: which of `prompts.askable_types`; their order does not matter.
        count: the most texts of each type, in [1, 20].
        temperature: sampling temperature; None becomes the version's own.
        max_tokens: bound on an answer's length.
        seed: for servers that take one; each attempt adds its number. None becomes the version's own.
        version: version of the prompts.

    Raises:
        InputError: a type or version is unknown, or `count` is out of range.
    """

    model: str
    types: tuple[str, ...] = TYPES
    count: int = 1
    temperature: float | None = None
    max_tokens: int = 512
    seed: int | None = None
    version: str = LATEST

    def __post_init__(self) -> None:
        # the dataclass is frozen; after this, equal recipes are equal whatever the order of their types
        object.__setattr__(self, "types", in_order(self.types))
        # for its refusals: a recipe that cannot be asked fails here, before any request
        system_text(self.types, self.count, self.version)
        own = VERSIONS[self.version]
        # rows and summaries record what was sent
        object.__setattr__(self, "temperature", own.temperature if self.temperature is None else self.temperature)
        object.__setattr__(self, "seed", own.seed if self.seed is None else self.seed)

    @cached_property
    def settings(self) -> str:
        """What of a recipe has no column of its own in a row, as JSON: with it the row's very request can be made.

        >>> PromptRecipe("m", ("swap_obj",)).settings
        '{"count": 1, "max_tokens": 512, "types": ["swap_obj"]}'
        """
        return json.dumps({"count": self.count, "max_tokens": self.max_tokens, "types": self.types})

    def request(self, caption: str) -> ChatRequest:
        """The request for one caption."""
        return write_request(
            caption,
            self.types,
            count=self.count,
            model=self.model,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=self.seed,
            version=self.version,
        )

    def serves(self, request: ChatRequest, answer: Answer) -> bool:
        """Whether an "ok" answer to one of these requests settles it, by `gpt.verdict.serves`."""
        return serves(request, answer, self.count)


class Rows(NamedTuple):
    """What came of some captions: a batch of rows for each table.

    Attributes:
        negatives: `NEGATIVE_SCHEMA`; `rejected` is "" or the reason of `negatives.validate`.
        paraphrases: `PARAPHRASE_SCHEMA`; likewise.
        unwritten: `UNWRITTEN_SCHEMA`: one row for each caption and type without any text; `outcome` is of `OUTCOMES`.
        answers: `ANSWER_SCHEMA`: every attempt at the requests of these captions, those at one request in a row; a text
            that several captions share is counted with the first of them. `outcome` is the answer's, or `ALL_REJECTED`.
        captions: how many captions these are.
    """

    negatives: pa.RecordBatch
    paraphrases: pa.RecordBatch
    unwritten: pa.RecordBatch
    answers: pa.RecordBatch
    captions: int


def requests_for(captions: pa.Table, recipe: PromptRecipe) -> Iterator[tuple[int, ChatRequest]]:
    """The requests for a captions table, one for each text, made as they are asked for.

    Yields:
        The row in which the text comes first, and its request.
    """
    # one array: a chunked one finds its chunk anew for every row
    texts = captions["caption"].combine_chunks()
    for row in np.flatnonzero(_is_first(texts)):
        yield int(row), recipe.request(texts[int(row)].as_py())


def rows_from(
    captions: pa.Table, recipe: PromptRecipe, cache: RequestCache, *, attempts: int = 3, batch_size: int = 2000
) -> Iterator[Rows]:
    """What the cached answers say about every caption, in the order of the captions.

    Ids are `<caption_id>:<type>:<k>`, k counting the texts of a type. A negative is also rejected where it says what a
    valid paraphrase of the caption says.

    Args:
        captions: captions table; captions with the same text share one request.
        recipe: what was asked.
        cache: answers; read only.
        attempts: how many answers without a valid text make a request failed; with fewer it is unanswered.
        batch_size: captions in a batch; memory grows with it, not with the number of captions.
    """
    images, first = _Images(captions), _is_first(captions["caption"].combine_chunks())
    for start in range(0, len(captions), batch_size):
        block = captions.slice(start, batch_size).select(CAPTION_COLUMNS).to_pylist()
        tables: tuple[_Table, _Table, _Table, _Table] = ([], [], [], [])
        # by rows of the whole table: `images` and `first` know those
        for row, caption in enumerate(block, start):
            request = recipe.request(caption["caption"])  # made again, for keeping all requests would take the memory
            answers = cache.answers(request.key)
            parsed = _parsed(answers, request, recipe, attempts)
            true = images.captions_of(row)
            paraphrases, negatives = _written(caption, parsed, _provenance(recipe, request.key, parsed), true)
            spent = _spent(answers, request, recipe) if first[row] else []
            own = (negatives, paraphrases, _unwritten(caption, recipe, parsed), spent)
            for table, rows in zip(tables, own, strict=True):
                table += rows
        batches = [pa.RecordBatch.from_pylist(rows, schema) for rows, schema in zip(tables, SCHEMAS, strict=True)]
        yield Rows._make([*batches, len(block)])


class _Parsed(NamedTuple):
    """What a caption's answers come to: its items by type, or the outcome of `OUTCOMES` that they share."""

    items: dict[str, list[Item]]
    outcome: str
    detail: str
    answer: Answer | None = None


def _parsed(answers: list[Answer], request: ChatRequest, recipe: PromptRecipe, attempts: int) -> _Parsed:
    # the cache is asked with the attempts of this run: fewer than those that were made settle a request too
    answer = final_answer(request, answers, attempts, recipe.serves)
    if answer is None:
        if not answers:
            return _Parsed({}, "unanswered", "no answer")
        last = _outcome(answers[-1], request, recipe)
        return _Parsed({}, "unanswered", f"{len(answers)} of {attempts} attempts, the last {last}")
    if answer.outcome != "ok":
        return _Parsed({}, answer.outcome, answer.detail)
    try:
        items = parse_answer(answer.text, request.schema or {}, recipe.count)
        return _Parsed(items, "nothing_to_write", "", answer)
    except AnswerError as error:  # accepted when it arrived, by an older parser
        return _Parsed({}, "malformed", str(error))


def _provenance(recipe: PromptRecipe, key: str, parsed: _Parsed) -> dict[str, Any]:
    """The columns that all rows of one answer share."""
    own = {"generator": GENERATOR, "prompt_version": recipe.version, "request_key": key}
    asked = {"requested_model": recipe.model, "temperature": recipe.temperature, "seed": recipe.seed}
    asked["settings"] = recipe.settings
    answer = parsed.answer
    # the form that was asked for, and the attempt, are part of what the server was sent (`ChatRequest.body`)
    found = {"model": answer.model, "attempt": answer.attempt, "mode": answer.mode} if answer else {}
    return {**own, **asked, **found}


def _written(
    caption: dict[str, str], parsed: _Parsed, provenance: dict[str, Any], true: Collection[str]
) -> tuple[_Table, _Table]:
    """The rows of a caption's paraphrases and negatives; `true` are the bare words of the image's captions."""
    paraphrases: _Table = []
    negatives: _Table = []
    # a copy, since paraphrases are taken out of it
    found = dict(parsed.items)
    for number, item in enumerate(found.pop(PARAPHRASE, ())):
        name = f"{caption['caption_id']}:{PARAPHRASE}:{number}"
        row = {
            **caption,
            "source_caption_id": caption["caption_id"],
            "caption_id": name,
            "caption": item.text,
            **provenance,
        }
        paraphrases.append({**row, "rejected": reason_of(item, caption["caption"], PARAPHRASE, true)})
    # a text that says what a valid paraphrase says is true too, and no negative
    true = {*true, *(bare_words(row["caption"]) for row in paraphrases if not row["rejected"])}
    for negative_type, items in found.items():
        for number, item in enumerate(items):
            name = f"{caption['caption_id']}:{negative_type}:{number}"
            row = {"caption_id": caption["caption_id"], "negative_id": name, "caption": item.text, **provenance}
            rejected = reason_of(item, caption["caption"], negative_type, true)
            negatives.append({**row, "negative_type": negative_type, "rejected": rejected})
    return paraphrases, negatives


def _unwritten(caption: dict[str, str], recipe: PromptRecipe, parsed: _Parsed) -> _Table:
    row = {"caption_id": caption["caption_id"], "outcome": parsed.outcome, "detail": parsed.detail}
    return [{**row, "negative_type": name} for name in recipe.types if not parsed.items.get(name)]


def _spent(answers: list[Answer], request: ChatRequest, recipe: PromptRecipe) -> _Table:
    rows = [{name: getattr(answer, name) for name in ANSWER_SCHEMA.names[1:]} for answer in answers]
    return [
        {**row, "request_key": request.key, "outcome": _outcome(answer, request, recipe)}
        for row, answer in zip(rows, answers, strict=True)
    ]


def _outcome(answer: Answer, request: ChatRequest, recipe: PromptRecipe) -> str:
    return ALL_REJECTED if answer.outcome == "ok" and not recipe.serves(request, answer) else answer.outcome


def _is_first(texts: pa.Array) -> np.ndarray:
    """Whether a text is the first of its kind: bool [number of texts]."""
    # codes are given in order of appearance, so that a text is a first one where the largest code so far grows
    codes = texts.dictionary_encode().indices.to_numpy()
    return np.diff(np.maximum.accumulate(codes), prepend=-1) > 0


class _Images:
    """The captions of each image by row. Row numbers are all that it keeps, for it lives as long as the table."""

    def __init__(self, captions: pa.Table) -> None:
        self._texts = captions["caption"].combine_chunks()
        self._image = captions["image_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        self._rows = np.argsort(self._image, kind="stable")
        # one start more than there are images: the end of the last one
        self._starts = np.searchsorted(self._image[self._rows], np.arange(self._image.max(initial=-1) + 2))

    def captions_of(self, row: int) -> set[str]:
        """The bare words of every caption of the image that the row's caption is of."""
        image = self._image[row]
        rows = self._rows[self._starts[image] : self._starts[image + 1]]
        return {bare_words(self._texts[int(other)].as_py()) for other in rows}
