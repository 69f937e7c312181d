"""Asks a chat server many requests, and loses nothing that it answered.

Requests are pulled one by one as slots become free; a slot is held until its answer is committed to the cache. The
first request goes alone: a wrong key, address or form of answer shows at the price of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from negatives.chat.cache import RequestCache
from negatives.chat.client import ChatClient, Completion, Server, ServerStop
from negatives.chat.messages import ALL_REJECTED, MODES, Answer, ChatRequest, Serves, any_serves, final_answer
from negatives.chat.rate_limits import RateLimits
from negatives.chat.redact import scrubbed
from negatives.chat.retries import EndedError, Sender, SendOptions, UnansweredError, prompt_tokens
from negatives.chat.tally import Event, Tally

__all__ = ["MODES", "Answer", "ChatRequest", "Check", "Event", "SendOptions", "Server", "ServerStop"]
__all__ += ["Tally", "answer_from", "ask_all", "prompt_tokens"]

Check = Callable[[ChatRequest, str], str | None]
"""None if the text is what the request asks for, else what is wrong with it."""

LOST_IN_A_ROW = 20  # requests without an answer, one after the other, after which the server is taken for gone


def _ignore(event: Event) -> None:
    pass


async def ask_all(
    requests: Iterable[ChatRequest],
    cache: RequestCache,
    server: Server,
    *,
    check: Check,
    serves: Serves = any_serves,
    limits: RateLimits | None = None,
    concurrency: int = 64,
    attempts: int = 3,
    timeout: float = 60.0,
    options: SendOptions | None = None,
    report: Callable[[Event], None] = _ignore,
) -> Tally:
    """Gets every request an answer in `cache`, as far as the server gives one.

    A request with an "ok" answer that serves, or `attempts` answers, in the cache is not sent. Any other answer is
    recorded and asked again; where the request has a seed, with another one. When the run stops by itself, requests
    under way end and are recorded; when it is cancelled, they are dropped.

    Args:
        requests: pulled as they are needed, no more than `concurrency` at a time.
        cache: takes the answers.
        server: where to send to.
        check: whether an answer's text is good.
        serves: whether an answer of good shape holds something to use.
        limits: requests and tokens per minute.
        concurrency: most requests under way.
        attempts: most answers to one request.
        timeout: seconds for one try.
        options: how often a request is sent, and what the run may send and spend; None for the defaults.
        report: gets every event.

    Raises:
        ServerStop: the server will not answer: a wrong key, URL or model, no quota, or it is gone.
        InputError: the cache cannot be written.
    """
    async with ChatClient(server, concurrency, timeout) as client:
        tally = Tally()
        sender = Sender(client, limits or RateLimits(), tally, report, options or SendOptions())
        await _Run(sender, cache, check, serves, attempts, report).all(iter(requests), concurrency)
        return tally


def answer_from(request: ChatRequest, attempt: int, mode: str, completion: Completion, check: Check) -> Answer:
    """What a completion comes to as an answer to one attempt, sent in `mode`."""
    outcome, detail = _judged(request, completion, check)
    return Answer(
        key=request.key,
        attempt=attempt,
        outcome=outcome,
        text=completion.text,
        model=completion.model,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        mode=mode,
        finish_reason=completion.finish_reason,
        detail=detail,
    )


def _judged(request: ChatRequest, completion: Completion, check: Check) -> tuple[str, str]:
    """(outcome, detail) of a completion."""
    # the check comes last: a refusal, or an answer that was cut off, is mostly no JSON either
    if completion.refusal or completion.finish_reason == "content_filter":
        return "refused", completion.refusal or "stopped by the server's content filter"
    if completion.finish_reason == "length":
        return "truncated", f"longer than max_tokens = {request.max_tokens}"
    wrong = check(request, completion.text)
    return ("malformed", wrong) if wrong is not None else ("ok", "")


class _Run:
    """The workers of a run, and what they share."""

    def __init__(
        self,
        sender: Sender,
        cache: RequestCache,
        check: Check,
        serves: Serves,
        attempts: int,
        report: Callable[[Event], None],
    ) -> None:
        self.sender, self.cache, self.report = sender, cache, report
        self.check, self.serves, self.attempts = check, serves, attempts
        self.tally = sender.tally
        self._keys: set[str] = set()
        self._workers: list[asyncio.Task[None]] = []
        self._lost = 0
        self._error: Exception | None = None

    async def all(self, requests: Iterator[ChatRequest], concurrency: int) -> None:
        """Settles all requests, so many at a time."""
        # no TaskGroup: a worker that fails would cancel the others, whose answers are paid for already
        self._workers = [asyncio.create_task(self._work(requests)) for _ in range(concurrency)]
        try:
            await asyncio.wait(self._workers)
        finally:  # cancelled from outside
            for worker in self._workers:
                worker.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)
        if self._error is not None:
            raise self._error

    async def _work(self, requests: Iterator[ChatRequest]) -> None:
        try:
            # all workers pull from one iterator; no `await` stands before the pull, so that no request goes to two
            while not self.sender.ended and (request := next(requests, None)) is not None:
                await self._settle(request)
        except EndedError as ended:
            self._end(str(ended))
        except Exception as error:  # whatever it is, what others are being answered is not lost by it
            self._error = self._error or error
            self._end()

    def _end(self, stopped: str = "") -> None:
        """Ends the run: workers that are sending still get their answer, those that wait are cancelled."""
        if self.sender.ended:
            return
        self.sender.ended = True
        # the worker that ends the run is not cancelled: it still has to record why
        for worker in self._workers:
            if worker not in self.sender.sending and worker is not asyncio.current_task():
                worker.cancel()
        if stopped:
            self.tally.stopped = stopped
            self._emit("stopped", stopped)

    async def _settle(self, request: ChatRequest) -> None:
        answers = self.cache.answers(request.key)
        # in `_keys`: the same request is under way, and its answer will be in the cache
        if request.key in self._keys or self._final(request, answers):
            self.tally.cached += 1
            self._emit("cached")
            await asyncio.sleep(0)  # a long row of cached requests must not keep others from their answers
            return
        self._keys.add(request.key)
        try:
            await self._ask(request, answers)
        except UnansweredError as unanswered:
            self._count_lost(str(unanswered))
        finally:
            self._keys.discard(request.key)

    async def _ask(self, request: ChatRequest, answers: list[Answer]) -> None:
        while (final := self._final(request, answers)) is None:
            attempt = answers[-1].attempt + 1 if answers else 0
            mode, found = await self.sender.completion(request, attempt)
            # a bad answer counts too: the server is there
            self._lost = 0
            answer = answer_from(request, attempt, mode, found, self.check)
            if self.cache.record(answer):
                answers.append(answer)
            else:  # another process was first
                answers = self.cache.answers(request.key)
        outcome, detail = final.outcome, final.detail
        if outcome == "ok" and not self.serves(request, final):
            outcome, detail = ALL_REJECTED, "no text of any attempt is valid"
        if outcome == "ok":
            self.tally.answered += 1
            self._emit("answered")
        else:
            self.tally.failed[outcome] += 1
            key = self.sender.client.server.api_key
            self._emit("failed", scrubbed(f"{outcome}: {detail}", key))

    def _final(self, request: ChatRequest, answers: list[Answer]) -> Answer | None:
        return final_answer(request, answers, self.attempts, self.serves)

    def _count_lost(self, detail: str) -> None:
        self.tally.unanswered += 1
        self._emit("unanswered", detail)
        self._lost += 1
        client, tries = self.sender.client, self.sender.options.retries + 1
        # a server that never answered stops the run at its first request: `base_url` is wrong, or it is down
        if not self.sender.reached:
            raise client.stop(f"gave no answer in {tries} tries: {detail}", "Check base_url and that it runs")
        if self._lost >= LOST_IN_A_ROW:
            raise client.stop(f"answered none of the last {self._lost} requests: {detail}", "Look into that")

    def _emit(self, kind: str, detail: str = "") -> None:
        self.report(Event(kind, detail, self.tally))
