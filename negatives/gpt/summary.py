"""What a GPT run will cost, and what came of it: the figures of `--dry-run` and of `summary.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa

from negatives.chat.cache import RequestCache
from negatives.chat.prices import estimate_tokens, price_list, price_of
from negatives.gpt.prompts import VERSIONS
from negatives.gpt.recipe import GENERATOR, PromptRecipe, Rows, requests_for
from negatives.types import PARAPHRASE

CHAT_TOKENS = 10  # what a chat's format adds to two messages
TYPE_TOKENS, TEXT_TOKENS = 5, 2  # a key and its list; the marks round a text and where it differs from the caption
EDIT_TOKENS = 12  # an item's keys, and the words that it says to change


@dataclass(frozen=True)
class CostEstimate:
    """What is still to be asked.

    Attributes:
        requests: requests to send; captions with the same text share one.
        settled: requests that the cache has settled.
        prompt_tokens: estimated, of all requests to send.
        completion_tokens: likewise.
        cost: dollars; None where the model's price is not known, and the caller has to say so.
    """

    requests: int
    settled: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


def estimate(
    captions: pa.Table,
    recipe: PromptRecipe,
    cache: RequestCache | None = None,
    *,
    attempts: int = 3,
    prices: Mapping[str, Any] | None = None,
    batch: bool = False,
) -> CostEstimate:
    """What the rest of a run will take: one answered attempt at each request that the cache has not settled.

    Tokens are those of `prices.estimate_tokens`, and every list of the answer is taken as full with texts as long as
    the caption, so that lists left empty make it cheaper. Not in it: repeated attempts, what a reasoning model thinks,
    the discount that a server gives for the part of the prompt that it has seen before.

    Args:
        captions: captions table.
        recipe: what is asked.
        cache: answers that have arrived.
        attempts: how many failed answers make a request failed.
        prices: prices that go before the package's, as `prices.price_of` takes them.
        batch: whether the batch API is used.

    Raises:
        InputError: a price is malformed.
    """
    price = price_of(recipe.model, prices, batch=batch)
    fixed: int | None = None
    per_text = TEXT_TOKENS + (EDIT_TOKENS if VERSIONS[recipe.version].says_edits else 0)
    requests = settled = prompt = completion = 0
    for _, request in requests_for(captions, recipe):
        if cache is not None and cache.final(request, attempts, recipe.serves) is not None:
            settled += 1
            continue
        if fixed is None:
            schema = json.dumps(request.schema)
            # all but the last message, and the schema, are the same in all requests of a recipe
            said = [content for _, content in request.messages[:-1]]
            fixed = CHAT_TOKENS + sum(map(estimate_tokens, said)) + estimate_tokens(schema)
        requests += 1
        user = estimate_tokens(request.messages[-1][1])
        prompt += fixed + user
        completion += len(recipe.types) * (TYPE_TOKENS + recipe.count * (user + per_text))
    cost = None if price is None else price.cost(prompt, completion)
    return CostEstimate(requests, settled, prompt, completion, cost)


class Summary:
    """Counts over the batches of `gpt.rows_from`, added as they are written, so that no table has to be kept.

    Args:
        recipe: what was asked.
    """

    def __init__(self, recipe: PromptRecipe) -> None:
        self.recipe = recipe
        self._captions = 0
        self._texts: dict[str, Counter[str]] = {name: Counter() for name in recipe.types}
        self._unwritten: dict[str, Counter[str]] = {name: Counter() for name in recipe.types}
        self._served: Counter[str] = Counter()  # captions with a valid text, by type
        self._outcomes: Counter[str] = Counter()
        self._asked_again: Counter[str] = Counter()
        self._answers: dict[str, Counter[str]] = {}

    def add(self, rows: Rows) -> None:
        """Counts one batch."""
        self._captions += rows.captions
        kinds = rows.negatives["negative_type"].to_pylist() + [PARAPHRASE] * len(rows.paraphrases)
        sources = [*rows.negatives["caption_id"].to_pylist(), *rows.paraphrases["source_caption_id"].to_pylist()]
        # negatives first, then paraphrases, in all three lists
        reasons = [*rows.negatives["rejected"].to_pylist(), *rows.paraphrases["rejected"].to_pylist()]
        for kind, reason in zip(kinds, reasons, strict=True):
            self._texts[kind][reason or "valid"] += 1
        # a set: a caption with two valid texts of a type is served once
        valid = {(kind, source) for kind, source, reason in zip(kinds, sources, reasons, strict=True) if not reason}
        self._served.update(kind for kind, _ in valid)
        for row in rows.unwritten.select(["negative_type", "outcome"]).to_pylist():
            self._unwritten[row["negative_type"]][row["outcome"]] += 1
        answers = rows.answers.to_pylist()
        # the attempts at one request stand in a row: each but the last was asked again
        self._asked_again.update(
            row["outcome"] for row, after in pairwise(answers) if row["request_key"] == after["request_key"]
        )
        for row in answers:
            self._outcomes[row["outcome"]] += 1
            tokens = {name: row[name] for name in ("prompt_tokens", "completion_tokens")}
            self._answers.setdefault(row["model"], Counter()).update(answers=1, **tokens)

    def to_dict(self, *, prices: Mapping[str, Any] | None = None, batch: bool = False) -> dict[str, Any]:
        """The summary as plain values.

        Args:
            prices: prices that go before the package's, as `prices.price_of` takes them.
            batch: whether the batch API's prices are to be used.

        Returns:
            `generator`; `recipe`, with the version of the prompts; `captions`; `types`: for each the written, valid,
            rejected (by reason) and unwritten (by outcome) ones, `valid_rate` of the written texts and `caption_rate`,
            the share of captions with a valid text; `attempts` by outcome, and `asked_again`, those of them that
            another attempt followed; `models` as the server named them, each with its answers and tokens;
            `prompt_tokens`, `completion_tokens`; `cost` in dollars, None where a price is not known; `prices_as_of`.
        """
        total = sum(self._answers.values(), Counter[str]())
        return {
            "generator": GENERATOR,
            "recipe": {**asdict(self.recipe), "types": list(self.recipe.types)},
            "captions": self._captions,
            "types": {name: self._type(name) for name in self.recipe.types},
            "attempts": dict(self._outcomes),
            "asked_again": dict(self._asked_again),
            "models": {name: dict(found) for name, found in sorted(self._answers.items())},
            "prompt_tokens": total["prompt_tokens"],
            "completion_tokens": total["completion_tokens"],
            "cost": self._cost(prices, batch),
            "prices_as_of": price_list()["as_of"],
        }

    def _type(self, name: str) -> dict[str, Any]:
        found = self._texts[name]
        written, valid = found.total(), found["valid"]
        return {
            "written": written,
            "valid": valid,
            "rejected": {reason: number for reason, number in found.most_common() if reason != "valid"},
            "unwritten": dict(self._unwritten[name].most_common()),
            "valid_rate": valid / written if written else None,
            "caption_rate": self._served[name] / self._captions if self._captions else None,
        }

    def _cost(self, prices: Mapping[str, Any] | None, batch: bool) -> float | None:
        total = 0.0
        for model, spent in self._answers.items():
            # first the name that was asked for, which a price given by hand has; servers answer with that of a snapshot
            price = price_of(self.recipe.model, prices, batch=batch) or price_of(model, prices, batch=batch)
            if price is None:
                return None
            total += price.cost(spent["prompt_tokens"], spent["completion_tokens"])
        return total
