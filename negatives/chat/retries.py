"""Sends requests within limits, retries what failed, and falls back to a form of answer that the server knows."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from negatives.chat.client import FILTER_CODES, ChatClient, Completion, RejectedError, TemporaryError
from negatives.chat.messages import MODES, ChatRequest
from negatives.chat.prices import estimate_tokens
from negatives.chat.rate_limits import RateLimits
from negatives.chat.tally import Event, Tally
from negatives.tables.files import InputError

CostOf = Callable[[str, int, int], float]
"""(model, prompt tokens, completion tokens) -> what they cost."""

LONGEST_BACKOFF = 60.0  # seconds
# how servers name the form that they refuse: `guided` is vLLM's word, `grammar` llama.cpp's
NAMES_FORM = re.compile(r"response_?format|json|schema|structured|guided|grammar", re.IGNORECASE)
NAMES_SEED = re.compile(r"\bseed\b", re.IGNORECASE)


class EndedError(Exception):
    """The run sends nothing more; says which of its bounds is met, if one is."""


class UnansweredError(Exception):
    """A request got no answer; says why."""


@dataclass(frozen=True)
class SendOptions:
    """How often a request is sent, and what a run may send and spend.

    Attributes:
        retries: most tries after the first, for one answer, when a try fails on the way.
        backoff: seconds; the wait before retry n is drawn from 0 to backoff * 2^n (at most 60), and comes on top of
            what the server asks to wait.
        max_requests: most tries sent over the wire.
        max_cost: most to spend, in the unit of `price`; what is under way counts with its longest answer.
        price: None costs nothing.

    Raises:
        InputError: `max_cost` is given without `price`.
    """

    retries: int = 6
    backoff: float = 1.0
    max_requests: int | None = None
    max_cost: float | None = None
    price: CostOf | None = None

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.price is None:
            raise InputError("`max_cost` needs the model's price, got none. Give a price, or leave `max_cost` out.")


class Sender:
    """Sends requests within the limits, tries again what failed on the way, and finds the form that the server knows.

    Args:
        client: sends.
        limits: requests and tokens per minute.
        tally: is counted up.
        report: gets retries and fallbacks.
        options: tries and bounds.

    Attributes:
        reached: whether the server has ever answered.
        ended: set from outside; nothing is sent from then on.
        sending: the tasks whose request is at the server.
    """

    def __init__(
        self,
        client: ChatClient,
        limits: RateLimits,
        tally: Tally,
        report: Callable[[Event], None],
        options: SendOptions,
    ) -> None:
        self.client, self.limits, self.tally, self.report = client, limits, tally, report
        self.options = options
        self.reached = False
        self.ended = False
        self.sending: set[asyncio.Task[None] | None] = set()
        # all three are found out by the first refusals, and then hold for all requests of the run
        self._mode = MODES[0]
        self._length_name = "max_tokens"
        self._seeds = True
        self._reserved = 0.0
        self._returned = asyncio.Event()
        self._alone = asyncio.Lock()

    async def completion(self, request: ChatRequest, attempt: int) -> tuple[str, Completion]:
        """(mode, completion); until the server is known to answer, requests go one by one."""
        if not self.reached:
            async with self._alone:
                # asked again: while this one waited for the lock, another may have reached the server
                if not self.reached:
                    return await self._tried(request, attempt)
        return await self._tried(request, attempt)

    async def _tried(self, request: ChatRequest, attempt: int) -> tuple[str, Completion]:
        """Sends until there is an answer, and waits longer from try to try."""
        tried = 0
        while True:
            mode = self._mode if request.schema is not None else "text"
            try:
                completion = await self._sent(request, mode, attempt)
                self.reached = True
                return mode, completion
            except RejectedError as rejected:
                if self._falls_back(mode, rejected, request.seed is not None):
                    continue
                self.reached = True
                # an answer, not a failure: it counts as an attempt, or every run would ask it again
                if rejected.code in FILTER_CODES:
                    return mode, Completion("", request.model, 0, 0, "content_filter", rejected.detail)
                raise UnansweredError(rejected.detail) from None
            except TemporaryError as fault:
                self.tally.faults[fault.name] += 1
                if tried == self.options.retries:
                    raise UnansweredError(fault.detail) from None
                self._check_ended()  # a server may ask to wait for minutes
                self._emit("retry", fault.detail)
                # full jitter, so that workers that failed together do not come back together (Brooker, "Exponential
                # Backoff and Jitter", AWS Architecture Blog, 2015)
                longest = min(self.options.backoff * (1.0 if fault.wait else 2.0**tried), LONGEST_BACKOFF)
                await asyncio.sleep(fault.wait + random.uniform(0.0, longest))
                tried += 1
                self.tally.retried += 1

    async def _sent(self, request: ChatRequest, mode: str, attempt: int) -> Completion:
        """Sends once, when the limits let it, and books what it took."""
        estimate = prompt_tokens(request)
        bound = self._cost(request, estimate, request.max_tokens)
        self._check_ended()
        # the bounds after the rate limit: from `_admit` to `_reserved` nothing waits, so no two spend the same rest
        await self.limits.acquire(estimate + request.max_tokens)
        await self._admit(bound)
        body = request.body(mode, attempt)
        body[self._length_name] = body.pop("max_tokens")
        if not self._seeds:
            body.pop("seed", None)
        task = asyncio.current_task()
        self.sending.add(task)
        self._reserved += bound
        self.tally.sent += 1
        try:
            found = await self.client.send(body)
        finally:
            self.sending.discard(task)
            self._reserved -= bound
            # a new event each time: it wakes all who wait now, and nobody who comes later
            self._returned.set()
            self._returned = asyncio.Event()
        # not after a failure: what the server counted for that try is not known
        self.limits.correct(estimate + request.max_tokens, found.prompt_tokens + found.completion_tokens)
        self.tally.prompt_tokens += found.prompt_tokens
        self.tally.completion_tokens += found.completion_tokens
        self.tally.cost += self._cost(request, found.prompt_tokens, found.completion_tokens)
        return found

    async def _admit(self, bound: float) -> None:
        """Returns when one more may be sent; raises `EndedError` when none may."""
        most = self.options.max_cost
        while most is not None and self.tally.cost + self._reserved + bound > most:
            if not self.sending:  # nothing will come back that could cost less than was set aside for it
                raise EndedError("max_cost")
            await self._returned.wait()
        if self.options.max_requests is not None and self.tally.sent >= self.options.max_requests:
            raise EndedError("max_requests")
        self._check_ended()

    def _check_ended(self) -> None:
        if self.ended:
            raise EndedError

    def _falls_back(self, mode: str, rejected: RejectedError, seeded: bool) -> bool:
        """Whether the request can go again in a form that the server may know; reports it the first time."""
        if "max_completion_tokens" in rejected.detail:  # OpenAI's reasoning models want another name
            known, self._length_name = self._length_name != "max_tokens", "max_completion_tokens"
            if not known:
                self._emit("fallback", "max_completion_tokens in place of max_tokens")
            return not known
        if rejected.status in (400, 422) and NAMES_SEED.search(rejected.detail) and seeded and self._seeds:
            self._seeds = False
            self._emit("fallback", f"no seed: {rejected.detail}")
            return True
        if rejected.status not in (400, 422) or mode == MODES[-1] or not NAMES_FORM.search(rejected.detail):
            return False
        if self._mode == mode:
            self._mode = MODES[MODES.index(mode) + 1]
            self._emit("fallback", f"{self._mode} in place of {mode}: {rejected.detail}")
        return True

    def _cost(self, request: ChatRequest, prompt: int, completion: int) -> float:
        price = self.options.price
        return price(request.model, prompt, completion) if price is not None else 0.0

    def _emit(self, kind: str, detail: str = "") -> None:
        self.report(Event(kind, detail, self.tally))


def prompt_tokens(request: ChatRequest) -> int:
    """About how many tokens the messages of a request have; servers add a few for each."""
    return sum(estimate_tokens(content) + 4 for _, content in request.messages)
