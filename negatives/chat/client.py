"""One exchange with a chat server: sends a body and returns the completion, or raises one of three errors."""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from negatives.chat.redact import clean_string, error_of, scrubbed, without_key
from negatives.tables.files import InputError, quoted

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KEY_VARIABLE = "OPENAI_API_KEY"
LONGEST_WAIT = 600.0  # seconds; a server that asks for more, as for tomorrow's quota, stops the run
# statuses that every other request would get too, each with its remedy
STOPS = {
    401: "Check the key in the environment",
    402: "Top up the account",
    403: "Check what the key may use",
    404: "Check base_url (it mostly ends in /v1) and the model's name",
    405: "Check base_url (it mostly ends in /v1)",
}
MOST_TOKENS = 10**9  # a server that counts more is mistaken
# 408, 409 and 429 are those that the `openai` package tries again too; 425 is "too early"
TEMPORARY = (408, 409, 425, 429)
# OpenAI answers 429 to an empty account as to one that is too fast; only the code tells them apart
QUOTA_CODES = ("insufficient_quota", "billing_hard_limit_reached", "account_deactivated")
FILTER_CODES = ("content_filter", "content_policy_violation")


class ServerStop(InputError):  # noqa: N818 - it ends a run, as StopIteration ends a loop
    """The server will answer no request of this run; the line says where, what and the remedy."""


class TemporaryError(Exception):
    """A failure that asks for another try: its short name, what was seen, and the seconds the server asks to wait."""

    def __init__(self, name: str, detail: str, wait: float = 0.0) -> None:
        super().__init__(detail)
        self.name, self.detail, self.wait = name, detail, wait


class RejectedError(Exception):
    """The server takes this request for a bad one; `status` and `code` as it gave them."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


@dataclass(frozen=True)
class Server:
    """Where a chat server is, and the key to it, which is never shown.

    Raises:
        InputError: if the URL is none or holds a password, or the key is blank or cannot be sent.
    """

    base_url: str
    api_key: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        if not re.fullmatch(r"[!-~]+", self.api_key):
            raise InputError("The server's key must be printable ASCII without spaces. Export the key alone.")

    @classmethod
    def from_environment(cls, base_url: str, variable: str = KEY_VARIABLE) -> Server:
        """The server with the key that an environment variable holds.

        Raises:
            InputError: if the URL is none, or the variable is not set or blank.
        """
        _check_url(base_url)
        key = os.environ.get(variable, "").strip()
        if not key:
            raise InputError(
                f"The environment variable {variable} must hold the key of {base_url}, and is not set. "
                "Export it; servers without keys take any word, such as EMPTY."
            )
        return cls(base_url, key)


@dataclass(frozen=True)
class Completion:
    """A chat completion, as far as it matters; `refusal` is what a model says in place of an answer."""

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    refusal: str


class ChatClient:
    """Sends chat requests to one server through the `openai` package; an asynchronous context manager.

    Retries are left to the caller, who knows what else is under way.

    Args:
        server: where to send to.
        connections: most connections at once.
        timeout: seconds from sending a request to having its whole answer.
    """

    def __init__(self, server: Server, connections: int, timeout: float) -> None:
        self.server = server
        self.timeout = timeout
        self._client = _open_client(server, connections, timeout)

    async def send(self, body: dict[str, Any]) -> Completion:
        """Sends one request once.

        Raises:
            TemporaryError: another try may help: time-outs, dropped connections, 408, 409, 429, 5xx, damaged replies.
            RejectedError: the server takes this request for a bad one: 400, 413, 422 and the like.
            ServerStop: no request will be answered: 401, 402, 403, 404, 405, exhausted quota.
        """
        import httpx2
        import openai

        failure: Exception
        key = self.server.api_key
        try:
            # the transport's own timeout starts anew with each piece that arrives; this one bounds the whole answer
            async with asyncio.timeout(self.timeout):
                # the typed `create` builds models of request and answer, which takes longer than all the rest
                response = await self._client.post("/chat/completions", body=body, cast_to=httpx2.Response)
            return read_completion(without_key(response.content.decode(errors="replace"), key))
        except TemporaryError as error:
            failure = TemporaryError(error.name, scrubbed(error.detail, key))
        except openai.APIStatusError as error:
            failure = self._judged(error.status_code, error.response.headers, error.response.text)
        except TimeoutError:
            failure = TemporaryError("timeout", f"no answer within {self.timeout:g} s")
        # the transports let some errors through as they are
        except (openai.APIError, httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            failure = TemporaryError("connection", scrubbed(_cause(error), key))
        raise failure  # out here it does not drag along the package's error, in which a server may have quoted the key

    def stop(self, what: str, remedy: str) -> ServerStop:
        """The error that ends a run: where, what, remedy, what is kept."""
        what = scrubbed(what, self.server.api_key)
        return ServerStop(
            f"The chat server {self.server.base_url} {what}. {remedy}; go on by --resume: all answers so far are kept."
        )

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    def _judged(self, status: int, headers: Mapping[str, str], text: str) -> Exception:
        code, message = error_of(text)
        key = self.server.api_key
        what = f"HTTP {status}" + (f": {scrubbed(message, key)}" if message else "")
        if status in STOPS:
            return self.stop(f"answered {what.rstrip('.')}", STOPS[status])
        # before `TEMPORARY`, which holds 429 too
        if status == 429 and code in QUOTA_CODES:
            return self.stop(f"has no quota left: {what.rstrip('.')}", "Top up the account or raise its limit")
        if status in TEMPORARY or status >= 500:
            wait = retry_after(headers, time.time())
            if wait > LONGEST_WAIT:
                return self.stop(f"asks to wait {wait:.0f} s: {what.rstrip('.')}", "Wait so long")
            return TemporaryError(str(status), what, wait)
        return RejectedError(status, code, what)


def read_completion(text: str) -> Completion:
    """Reads the body of a chat completion.

    Raises:
        TemporaryError: if it is damaged: no JSON, or without a choice.
    """
    try:
        found = completion_of(json.loads(text))
    except (ValueError, RecursionError):
        found = None
    if found is None:
        raise TemporaryError("damaged", f"a reply that is no chat completion: {quoted(text)}")
    return found


def completion_of(data: Any) -> Completion | None:
    """The chat completion that a JSON value is; None for another one. Counts that are none are 0."""
    try:
        choice = data["choices"][0]
        message = choice["message"]
        # some servers send null, or nothing
        usage = data.get("usage") or {}
        return Completion(
            text=clean_string(message.get("content")),
            model=clean_string(data.get("model")),
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
            finish_reason=clean_string(choice.get("finish_reason")),
            refusal=clean_string(message.get("refusal")),
        )
    except (TypeError, LookupError, AttributeError):
        return None


def _count(value: object) -> int:
    """A number of tokens within what the cache can hold; 0 where a server gives no number."""
    try:
        count = int(value) if isinstance(value, int | float) else 0
    except (ValueError, OverflowError):  # NaN and Infinity, which Python reads in JSON
        return 0
    return min(max(count, 0), MOST_TOKENS)


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """Seconds that a server asks to wait: `retry-after-ms`, else `retry-after` in seconds or as an HTTP date, else 0.

    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=50.0)
    10.0
    """
    # OpenAI's header goes first, being finer; the other is RFC 9110, section 10.2.3
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, date.timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _check_url(base_url: str) -> None:
    if "@" in re.split(r"[/?#]", base_url.partition("://")[2] or base_url)[0]:  # not shown: it may hold a password
        raise InputError(
            "`base_url` must hold no user and password, it has some before its @. Leave them out: the key comes from "
            "the environment."
        )
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", base_url):
        raise InputError(
            f"`base_url` must be a URL such as https://api.openai.com/v1, got {quoted(base_url)}. Mend it."
        )


def _open_client(server: Server, connections: int, timeout: float) -> AsyncOpenAI:
    import httpx2
    import openai

    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    try:  # aiohttp takes half the time of the default transport
        transport = openai.DefaultAioHttpClient(limits=limits)
    except RuntimeError:  # aiohttp is not installed
        transport = openai.DefaultAsyncHttpxClient(limits=limits)
    # no retries of the package's own: they would pass by the rate limits and the bounds of the run
    return openai.AsyncOpenAI(
        base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=timeout, http_client=transport
    )


def _cause(error: BaseException) -> str:
    """What an error goes back to: the packages tell it by names of their own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
