"""A judge by a chat model, which is asked one yes-or-no question about each text.

Every answer is kept by its request in a cache (`negatives.chat.RequestCache`): nothing is asked, or paid for, twice.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from negatives.chat.cache import RequestCache
from negatives.chat.messages import ChatRequest
from negatives.chat.redact import variable_faults
from negatives.tables.files import StrPath
from negatives.truth_judges.judge import Statement
from negatives.types import PARAPHRASE

BOTH_TRUE, NOT_SAME = "chat_both_true", "chat_not_same"
UNDECIDED = "chat_undecided"
"""The rejection of a text of which no attempt brought a yes or no, but refusals and the like."""
UNASKED = "chat_unasked"
"""The rejection of a text that the server has not answered yet: a run that has one is not finished, and asks again."""

# These words are part of every request, and with it of the cache's keys: other words pay for every answer again.
SYSTEM = (
    "You compare two captions of photos. The user sends a JSON object with the captions `first` and `second`. "
    'Answer the question with JSON alone: {"answer": "yes"} or {"answer": "no"}.\n'
)
QUESTION_OF_NEGATIVE = (
    "Question: `first` is true of an image. Could `second` be true of the same image too? A caption need not name "
    "everything that is in an image, and the same thing may be called by other words. Answer no if `second` says "
    "something that cannot be where `first` is true."
)
QUESTION_OF_PARAPHRASE = (
    "Question: Does `second` say the same as `first`, in other words or in another order? Answer yes only if `second` "
    "is true of every image of which `first` is true, and leaves out nothing important."
)
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": ["yes", "no"]}},
    "required": ["answer"],
    "additionalProperties": False,
}
_IN_JSON = re.compile(r'\{\s*"answer"\s*:\s*"(yes|no)"\s*\}', re.IGNORECASE)
_BARE = re.compile(r"\W*(yes|no)\W*", re.IGNORECASE)


@dataclass(frozen=True)
class ChatJudgeSettings:
    """The judge by a chat model; how it is asked, and what that may cost, is the section `gpt`."""

    switch: ClassVar[str] = "ask"
    may_differ: ClassVar[tuple[str, ...]] = ("base_url", "api_key_env")
    meanings: ClassVar[Mapping[str, str]] = {
        BOTH_TRUE: "The chat model says that it and the caption can both be true.",
        NOT_SAME: "The chat model says that it does not say what the caption says.",
        UNASKED: "The chat model was not asked about it yet.",
        UNDECIDED: "The chat model said neither yes nor no.",
    }

    ask: bool = False
    """Asks a chat model about every text: the one of `gpt`, unless the next keys name another."""
    model: str | None = None
    """The model, as the server names it; not given: that of `gpt`."""
    base_url: str | None = None
    """The server's address; not given: that of `gpt`."""
    api_key_env: str | None = None
    """Environment variable that holds the key; not given: that of `gpt` where `base_url` is not given either, else
    OPENAI_API_KEY for OpenAI's own server, and no key for any other."""
    max_tokens: int = field(default=64, metadata={"min": 16, "max": 1_000_000})
    """Bound on an answer's tokens; models that think before they answer need thousands."""

    def faults(self, place: str) -> Iterator[str]:
        """A key in the place of its variable's name."""
        yield from variable_faults(self.api_key_env, f"{place}api_key_env")


Ask = Callable[[Sequence[ChatRequest], RequestCache], None]
"""Gets requests their answers in the cache, as far as the server gives some; see `negatives.chat.ask_all`."""


class ChatJudge:
    """Rejects negatives that could be true of their image, and paraphrases that say something else.

    What has no answer yet is rejected as `UNASKED`, so that nobody takes it for judged.

    Args:
        model: model as the server names it.
        ask: asks a server, with `check_yes_no` as the check of an answer.
        cache: SQLite file of all answers; it and its folders are made where they are missing.
        attempts: how many answers without a yes or no leave a text undecided.
        max_tokens: bound on an answer's tokens.

    Attributes:
        usage: `answers`, `prompt_tokens` and `completion_tokens` about all statements so far, whenever they were paid.
    """

    name = "chat"

    def __init__(self, model: str, ask: Ask, cache: StrPath, *, attempts: int = 3, max_tokens: int = 64) -> None:
        self.model, self.max_tokens = model, max_tokens
        self._ask, self._cache, self._attempts = ask, cache, attempts
        self.usage = Counter[str](answers=0, prompt_tokens=0, completion_tokens=0)
        self._counted: set[str] = set()

    def rejections(self, statements: Sequence[Statement]) -> list[str]:
        """See `TruthJudge.rejections`.

        Raises:
            InputError: the server will answer nothing, or the cache cannot be used.
        """
        requests = [self.request(one) for one in statements]
        with RequestCache(self._cache) as cache:
            # each once: captions repeat, and with them what is written for them
            wanted = {request.key: request for request in requests}
            if missing := [one for one in wanted.values() if cache.final(one, self._attempts) is None]:
                self._ask(missing, cache)
            self._count(wanted.keys() - self._counted, cache)
            pairs = zip(statements, requests, strict=True)
            return [self._rejection(one, request, cache) for one, request in pairs]

    def request(self, one: Statement) -> ChatRequest:
        """The request that asks about one statement."""
        question = QUESTION_OF_PARAPHRASE if one.kind == PARAPHRASE else QUESTION_OF_NEGATIVE
        # as JSON, where whatever a text says stays a string
        texts = json.dumps({"first": one.caption, "second": one.text}, ensure_ascii=False)
        messages = (("system", SYSTEM + question), ("user", texts))
        return ChatRequest(self.model, messages, SCHEMA, temperature=0.0, max_tokens=self.max_tokens, seed=0)

    def _count(self, keys: set[str], cache: RequestCache) -> None:
        self._counted |= keys
        for answer in (answer for key in keys for answer in cache.answers(key)):
            tokens = {name: getattr(answer, name) for name in ("prompt_tokens", "completion_tokens")}
            self.usage.update(answers=1, **tokens)

    def _rejection(self, one: Statement, request: ChatRequest, cache: RequestCache) -> str:
        answer = cache.final(request, self._attempts)
        if answer is None:
            return UNASKED
        said = yes_or_no(answer.text) if answer.outcome == "ok" else None
        if said is None:
            return UNDECIDED
        if one.kind == PARAPHRASE:
            return "" if said else NOT_SAME
        return BOTH_TRUE if said else ""


def check_yes_no(request: ChatRequest, text: str) -> str | None:
    """What is wrong with an answer to a request of `ChatJudge`; None if nothing is."""
    return None if yes_or_no(text) is not None else "neither yes nor no"


def yes_or_no(text: str) -> bool | None:
    """Whether an answer says yes; None where it says neither, or both.

    >>> yes_or_no('{"answer": "yes"}'), yes_or_no("No."), yes_or_no("Yes and no")
    (True, False, None)
    """
    # what a model drew up while it thought does not count
    text = text.rpartition("</think>")[2]
    found = {word.lower() for word in _IN_JSON.findall(text)}
    if not found and (bare := _BARE.fullmatch(text)):
        found = {bare[1].lower()}
    return found == {"yes"} if len(found) == 1 else None
