"""Requests and tokens per minute as token buckets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from negatives.tables.files import InputError, quoted

Clock = Callable[[], float]


class TokenBucket:
    """A level that fills at a steady rate up to `burst`; what is taken lowers it.

    In any window of w seconds at most `burst + w * per_minute / 60` is taken, the burst being no smaller than the
    largest amount. An amount beyond the burst waits for a full bucket and leaves a debt, which the next one waits out.

    Args:
        per_minute: what flows in within a minute, > 0.
        burst: most that is there at once, > 0.
        clock: seconds that never go back.
    """

    def __init__(self, per_minute: float, burst: float, clock: Clock = time.monotonic) -> None:
        self.rate = per_minute / 60.0
        self.burst = burst
        self._clock = clock
        self._level = burst
        self._at = clock()

    def wait(self, amount: float) -> float:
        """Seconds until `amount` may be taken; 0 if it may be now."""
        self._fill()
        lacking = min(amount, self.burst) - self._level
        # sums of many floats are off by a little; without the margin a wait could be too short to move a clock
        return lacking / self.rate if lacking > 1e-9 * self.burst else 0.0

    def take(self, amount: float) -> None:
        """Takes `amount`, whatever the level."""
        self._fill()
        self._level -= amount

    def give_back(self, amount: float) -> None:
        """Gives back what was taken and not used; a negative amount takes what was used beyond it."""
        self._fill()
        self._level = min(self.burst, self._level + amount)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now


class RateLimits:
    """Lets requests through, first come, first served, at no more than so many requests and tokens per minute.

    Both come evenly: no minute sees more than `requests_per_minute` requests, nor more than `tokens_per_minute` tokens
    and those by which one request exceeds a second's worth.

    Args:
        requests_per_minute: None for no limit.
        tokens_per_minute: prompt and completion together; None for no limit.
        clock: seconds that never go back.
        sleep: waits so many seconds.

    Raises:
        InputError: if a limit is not positive.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._requests: TokenBucket | None = None
        self._tokens: TokenBucket | None = None
        limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise InputError(f"`{name}` must be above 0, got {quoted(limit)}. Leave it out for no limit.")
        # rates are lower by the bursts, so that a burst and a minute's flow together keep to the limit
        if requests_per_minute is not None:
            # a tenth of a second's worth; + 1.0: less than a minute lets fewer than the limit + 1 through, and requests
            # are whole, so that these are no more than the limit
            burst = max(1.0, requests_per_minute / 600.0)
            self._requests = TokenBucket(requests_per_minute - burst + 1.0, burst, clock)
        if tokens_per_minute is not None:
            # a second's worth
            burst = tokens_per_minute / 60.0
            self._tokens = TokenBucket(tokens_per_minute - burst, burst, clock)
        self._sleep = sleep
        # one waits for the buckets, the others for this lock, which lets them in by order of arrival
        self._turn = asyncio.Lock()

    async def acquire(self, tokens: float) -> None:
        """Returns when one request of about `tokens` tokens may be sent."""
        amounts = [(self._requests, 1.0), (self._tokens, tokens)]
        taken = [(bucket, amount) for bucket, amount in amounts if bucket is not None]
        if not taken:
            return
        async with self._turn:
            # asked again after each sleep: `correct` may have lowered a level in the meantime
            while (wait := max(bucket.wait(amount) for bucket, amount in taken)) > 0:
                await self._sleep(wait)
            for bucket, amount in taken:
                bucket.take(amount)

    def correct(self, estimated: float, used: float) -> None:
        """Books the tokens that a request used, now that they are known, in place of those estimated."""
        if self._tokens is not None:
            self._tokens.give_back(estimated - used)
