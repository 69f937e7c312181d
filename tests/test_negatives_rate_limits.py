"""Laws of the rate limits, on a clock that only the test moves."""

from __future__ import annotations

import asyncio
import random

import pytest

from negatives.chat.rate_limits import RateLimits, TokenBucket
from negatives.tables.files import InputError


class Clock:
    """Time that passes by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def most_in_a_window(taken: list[tuple[float, float]], seconds: float) -> float:
    """The largest sum of amounts with times in [t, t + seconds), by a slow loop."""
    return max(sum(a for other, a in taken if time <= other < time + seconds - 1e-6) for time, _ in taken)


def run(limits: RateLimits, clock: Clock, amounts: list[float], pauses: list[float]) -> list[tuple[float, float]]:
    """When which amount was let through."""

    async def take_all() -> list[tuple[float, float]]:
        taken = []
        for amount, pause in zip(amounts, pauses, strict=True):
            clock.now += pause
            await limits.acquire(amount)
            taken.append((clock.now, amount))
        return taken

    return asyncio.run(take_all())


@pytest.mark.parametrize("limit", [1, 7, 60, 599, 1500])
def test_no_minute_sees_more_requests_than_the_limit(limit: int) -> None:
    clock, rng = Clock(), random.Random(limit)
    pauses = [rng.choice([0.0, 0.0, 0.0, 0.1, 90.0 / limit]) for _ in range(400)]
    taken = run(RateLimits(limit, clock=clock, sleep=clock.sleep), clock, [0.0] * 400, pauses)
    assert most_in_a_window([(time, 1.0) for time, _ in taken], 60.0) <= limit


@pytest.mark.parametrize("limit", [30_000, 200_000])
def test_no_minute_sees_more_tokens_than_the_limit(limit: int) -> None:
    clock, rng = Clock(), random.Random(limit)
    # half a second's worth of tokens every eighth of a second: more than may pass
    amounts = [float(rng.randint(1, limit // 60)) for _ in range(400)]
    pauses = [rng.choice([0.0, 0.0, 0.0, 0.5]) for _ in range(400)]
    taken = run(RateLimits(None, limit, clock=clock, sleep=clock.sleep), clock, amounts, pauses)
    for seconds in (1.0, 10.0, 60.0):
        assert most_in_a_window(taken, seconds) <= limit / 60 * (seconds + 1) + 1e-3
    assert 0.97 * limit < most_in_a_window(taken, 60.0) <= limit, "the limit binds, and holds"


def test_a_request_larger_than_the_burst_is_let_through_and_paid_back() -> None:
    clock = Clock()
    taken = run(RateLimits(None, 6000, clock=clock, sleep=clock.sleep), clock, [1000.0] * 20, [0.0] * 20)
    assert most_in_a_window(taken, 60.0) <= 6000 + 1000
    assert 9.9 < taken[-1][0] - taken[-2][0] < 10.4


def test_limits_are_used_up() -> None:
    clock = Clock()
    taken = run(RateLimits(600, clock=clock, sleep=clock.sleep), clock, [1.0] * 601, [0.0] * 601)
    assert taken[-1][0] - taken[0][0] == pytest.approx(60.0)


def test_what_was_not_used_is_there_for_the_next() -> None:
    clock = Clock()
    bucket = TokenBucket(60, burst=10, clock=clock)
    bucket.take(10)
    assert bucket.wait(5) == pytest.approx(5)
    bucket.give_back(3)
    assert bucket.wait(5) == pytest.approx(2)
    bucket.give_back(-4)
    assert bucket.wait(5) == pytest.approx(6)
    clock.now += 100
    assert bucket.wait(10) == 0


def test_tokens_are_corrected_by_what_was_used() -> None:
    clock = Clock()
    limits = RateLimits(None, 6000, clock=clock, sleep=clock.sleep)

    async def third_at() -> float:
        await limits.acquire(1000)
        limits.correct(1000, 100)
        await limits.acquire(1000)
        return clock.now - 1000

    assert asyncio.run(third_at()) < 1.1  # 10 s without the correction


def test_requests_go_first_come_first_served() -> None:
    clock, order = Clock(), []

    async def ask(limits: RateLimits, name: int) -> None:
        await limits.acquire(10)
        order.append(name)

    async def ask_all() -> None:
        limits = RateLimits(60, 600, clock=clock, sleep=clock.sleep)
        await asyncio.gather(*(ask(limits, name) for name in range(20)))

    asyncio.run(ask_all())
    assert order == list(range(20))


@pytest.mark.parametrize("limits", [(0, None), (None, -1), (float("nan"), None)])
def test_a_limit_must_be_positive(limits: tuple[float | None, float | None]) -> None:
    with pytest.raises(InputError, match="per_minute` must be above 0"):
        RateLimits(*limits)
