"""What is asked of a chat server and what it answered, as plain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

MODES = ("json_schema", "json_object", "text")
"""How an answer's form is asked for, strictest first; servers that lack one are asked in the next."""


ALL_REJECTED = "all_rejected"
"""What the outcome of an "ok" answer that does not serve is called in counts; the cache keeps it as "ok"."""
Serves = Callable[["ChatRequest", "Answer"], bool]
"""Whether an "ok" answer settles its request; one that does not is asked for again, as far as attempts go."""


@dataclass(frozen=True)
class ChatRequest:
    """One question to a model.

    Attributes:
        model: name of the model as the server knows it.
        messages: (role, content) of each message.
        schema: JSON schema of the answer; None for free text.
        temperature: of the sampling, >= 0.
        max_tokens: most tokens of the answer.
        seed: of the sampling; None leaves it to the server.
    """

    model: str
    messages: tuple[tuple[str, str], ...]
    schema: dict[str, Any] | None
    temperature: float = 1.0
    max_tokens: int = 512
    seed: int | None = None

    @cached_property
    def key(self) -> str:
        """Hex SHA-256 of everything that decides the answer; how the schema is sent does not change it.

        >>> ChatRequest("m", (("user", "Hi"),), None).key == ChatRequest("m", (("user", "Hi"),), None, 1).key
        True
        """
        # Every cache on disk is keyed by this JSON, byte for byte: another form would pay for every answer again.
        fields = {
            "model": self.model,
            "messages": self.messages,
            "schema": self.schema,
            # 1 and 1.0 are one temperature, but not the same JSON
            "temperature": float(self.temperature),
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def body(self, mode: str, attempt: int = 0) -> dict[str, Any]:
        """The JSON body of `POST /v1/chat/completions`.

        Args:
            mode: one of `MODES`; free text where the request has no schema.
            attempt: 0 for the first one; each later one has its own seed, or the server would repeat its answer.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in self.messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        if self.seed is not None:
            body["seed"] = self.seed + attempt
        if self.schema is not None and mode == "json_schema":
            # `strict` as in OpenAI's structured outputs: the server may generate nothing but the schema
            form = {"name": "answer", "strict": True, "schema": self.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif self.schema is not None and mode == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body


@dataclass(frozen=True)
class Answer:
    """What a server answered to one attempt at a request.

    Attributes:
        key: of the request.
        attempt: 0 for the first attempt.
        outcome: "ok", "refused", "malformed" or "truncated".
        text: what the model wrote.
        model: as the server named it.
        prompt_tokens: as the server counted them, 0 if it did not.
        completion_tokens: as the server counted them, 0 if it did not.
        mode: which of `MODES` the request was sent in.
        finish_reason: as the server named it.
        detail: why the outcome is not "ok".
    """

    key: str
    attempt: int
    outcome: str
    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    mode: str
    finish_reason: str
    detail: str = ""


def any_serves(request: ChatRequest, answer: Answer) -> bool:
    """Lets every "ok" answer settle its request."""
    return True


def final_answer(
    request: ChatRequest, answers: Sequence[Answer], attempts: int, serves: Serves = any_serves
) -> Answer | None:
    """The answer that settles a request; None while it is to be asked again.

    The last "ok" answer that serves settles it. So do `attempts` answers: then by the last "ok" one, which has at least
    something to look at, else by the last.

    Args:
        request: what was asked.
        answers: to it, by attempt.
        attempts: how many are made at most.
        serves: whether there is something to use in an "ok" answer.
    """
    good = [answer for answer in answers if answer.outcome == "ok"]
    if (best := next((answer for answer in reversed(good) if serves(request, answer)), None)) is not None:
        return best
    return (good or answers)[-1] if answers and len(answers) >= attempts else None
