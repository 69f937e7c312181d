"""Asks a chat server now: for the writer and for the judge of truth of a run, within bounds that the two share."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.generate_schemas import GenerateConfig, GptConfig
from experiments.runs.progress import say
from negatives.tables import InputError, hold

if TYPE_CHECKING:
    from negatives.chat import ChatRequest, Event, Price, RequestCache, Server, Tally

CACHE_FILE = "requests.sqlite"
REASONS_SHOWN = 3
NO_KEY = "none"  # the package wants one


def hold_answers(config: GptConfig, folder: Path) -> tuple[Path, Any]:
    """The file of all answers, and the lock on it, which holds as long as something refers to it.

    Args:
        config: names the file, or leaves it to `folder`.
        folder: the output folder.

    Raises:
        InputError: another process uses the file, or it has lost its content.
    """
    path = Path(config.cache or folder / CACHE_FILE)
    # two runs that ask at once, with folders of their own, would both pay for what both ask
    lock = hold(path)
    # SQLite would take it for a new one, and all would be paid for again
    if path.is_file() and not path.stat().st_size:
        raise InputError(f"{path} is empty: put the answers back from a copy, or remove it to ask anew.")
    return path, lock


def server_of(config: GptConfig) -> Server:
    """The server with its key; the key of OpenAI goes to no other server unless the configuration names it."""
    from negatives.chat import Server

    own = config.base_url == GptConfig.base_url
    # neither sends anything, so neither may fail for want of a key
    offline = config.batch == "write" or (config.batch == "collect" and config.results)
    if offline or (config.api_key_env is None and not own):
        return Server(config.base_url, NO_KEY)
    return Server.from_environment(config.base_url, config.api_key_env or "OPENAI_API_KEY")


def checked_price(config: GptConfig) -> Price | None:
    """The model's price; None where it is not known.

    Raises:
        InputError: a bound on the cost needs it.
    """
    from negatives.chat import price_of

    price = price_of(config.model, config.prices, batch=config.batch != "none")
    if price is None and config.max_cost is not None:
        raise InputError(
            f"gpt.max_cost needs the price of {config.model}, which is not in the list. Give it in gpt.prices, as "
            f"{config.model}: {{input: ..., output: ...}} in dollars per million tokens, or use gpt.max_requests."
        )
    return price


@dataclass
class Spending:
    """What a run has sent and paid so far, for the writer and for the judge: the bounds count both."""

    sent: int = 0
    cost: float = 0.0
    stopped: str = ""
    """Which bound is met, if one is."""
    judging: Counter[str] = field(default_factory=Counter)
    """Requests sent for the judge, and their `prompt_tokens` and `completion_tokens`."""


def ask_now(
    requests: Iterable[ChatRequest],
    cache: RequestCache,
    config: GptConfig,
    spending: Spending,
    report: Callable[[Event], None],
    **checks: Any,
) -> Tally:
    """Gets requests their answers in the cache, as far as the server and the bounds let it.

    Args:
        requests: pulled as they are needed.
        cache: takes the answers.
        config: the server, its limits, and the bounds of the run.
        spending: what the run has spent; what this takes comes to it.
        report: gets every event.
        checks: `check` and `serves` of `negatives.chat.ask_all`.

    Returns:
        What was done; which bound was met, if one was, has been said.
    """
    from negatives.chat import RateLimits, SendOptions, ask_all

    price = checked_price(config)
    options = SendOptions(
        retries=config.retries,
        max_requests=None if config.max_requests is None else config.max_requests - spending.sent,
        max_cost=None if config.max_cost is None else config.max_cost - spending.cost,
        # a bound on the cost is refused without a price before this
        price=None if price is None else lambda model, prompt, completion: price.cost(prompt, completion),
    )
    asked = ask_all(
        requests,
        cache,
        server_of(config),
        limits=RateLimits(config.requests_per_minute, config.tokens_per_minute),
        concurrency=config.concurrency,
        attempts=config.attempts,
        timeout=config.timeout,
        options=options,
        report=report,
        **checks,
    )
    tally = asyncio.run(asked)
    spending.sent, spending.cost = spending.sent + tally.sent, spending.cost + tally.cost
    spending.stopped = spending.stopped or tally.stopped
    if tally.stopped:
        say(f"Stopped: {tally.stopped}. Go on by --resume, with the same bounds or others.")
    return tally


def say_reasons(reasons: Counter[str]) -> None:
    """Says why requests failed; counted, since a wrong key fails all of them alike."""
    for detail, number in reasons.most_common(REASONS_SHOWN):
        say(f"{number} times: {detail}")


def reporter(
    reasons: Counter[str],
    show: Callable[[int, str], None] | None = None,
    requests: int = 0,
    *,
    priced: bool = True,
) -> Callable[[Event], None]:
    """Counts why requests fail, and tells a meter how many are settled, the rate, failures, cost and time left.

    Args:
        reasons: is counted up.
        show: the meter, if there is one.
        requests: how many are to be sent.
        priced: whether the model's price is known.
    """
    start = time.monotonic()

    def report(event: Event) -> None:
        tally = event.tally
        if event.kind == "fallback":
            say(event.detail)
        if event.kind in ("failed", "unanswered"):
            reasons[event.detail] += 1
        if show is None:
            return
        failed = tally.failed.total() + tally.unanswered
        asked = tally.answered + failed
        # what came from the cache took no time
        rate = asked / max(time.monotonic() - start, 1e-3)
        left = f"{(requests - asked) / rate:.0f} s left" if asked else "time left unknown"
        cost = f"{tally.cost:.2f} dollars" if priced else "cost unknown"
        show(asked + tally.cached, f"{rate:.0f}/s, {failed} failed, {cost}, {left}")

    return report


def judge_config(config: GenerateConfig) -> GptConfig:
    """How the judge of truth asks: as the writer does, but for what `truth.chat` says.

    >>> judge_config(GenerateConfig(output_dir="out")).model
    'gpt-4o-mini'
    """
    chat = config.truth.chat
    server: dict[str, Any] = {"base_url": chat.base_url, "api_key_env": chat.api_key_env}
    if chat.base_url is None:
        # the writer's server; another one must not get the writer's key
        server = {"base_url": config.gpt.base_url, "api_key_env": chat.api_key_env or config.gpt.api_key_env}
    return dataclasses.replace(config.gpt, model=chat.model or config.gpt.model, batch="none", results=[], **server)


class JudgeAsker:
    """Asks for the judge of truth, until a bound of the run is met.

    Args:
        config: of the run.
        folder: the output folder.
        spending: of the run.

    Attributes:
        cache: file of the answers.
        settings: how it asks.

    Raises:
        InputError: the server's key or the model's price is missing, or the cache is in use.
    """

    def __init__(self, config: GenerateConfig, folder: Path, spending: Spending) -> None:
        self.settings, self._spending = judge_config(config), spending
        # for their refusals, before anything is written
        server_of(self.settings)
        checked_price(self.settings)
        self.cache, self._lock = hold_answers(config.gpt, folder)

    def __call__(self, requests: Sequence[ChatRequest], cache: RequestCache) -> None:
        """See `negatives.truth_judges.chat.Ask`."""
        from negatives.truth_judges import check_yes_no

        if self._spending.stopped:
            return
        reasons: Counter[str] = Counter()
        tally = ask_now(requests, cache, self.settings, self._spending, reporter(reasons), check=check_yes_no)
        tokens = {name: getattr(tally, name) for name in ("prompt_tokens", "completion_tokens")}
        self._spending.judging.update(sent=tally.sent, **tokens)
        say_reasons(reasons)
