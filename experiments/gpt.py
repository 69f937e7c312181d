"""`itm generate generator=gpt`: asks a GPT model for every caption, at once or by its batch API.

All answers are kept in a cache, and the tables are made from it: a run that is killed, stopped by a limit or given more
captions goes on where it was, and pays for nothing twice. `summary.json` is written once every request is settled.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from experiments.generate import (
    NEGATIVES_FILE,
    SUMMARY_FILE,
    UNWRITTEN_FILE,
    print_types,
    read_source,
    write_rooted_captions,
)
from experiments.outputs import OutputFolder
from experiments.progress import SECONDS_BETWEEN_LINES, is_terminal, say, tracker
from experiments.text_schemas import GenerateConfig, GptConfig
from negatives.files import InputError, table_writer
from negatives.records import write_json

if TYPE_CHECKING:
    from negatives.chat import Event, Server, Tally
    from negatives.gpt import Recipe
    from negatives.gpt_summary import Estimate
    from negatives.request_cache import RequestCache

PARAPHRASES_FILE, CACHE_FILE, BATCHES = "paraphrases.parquet", "requests.sqlite", "batches"
INCOMPLETE = 1
# what may change when a run goes on: none of it is part of a request
LIMITS = (
    *("base_url", "api_key_env", "attempts", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout"),
    *("retries", "max_requests", "max_cost", "prices", "batch", "results"),
)


def run_gpt(config: GenerateConfig, *, resume: bool = False, overwrite: bool = False) -> int:
    """Asks what is not in the cache yet, and writes the tables from it.

    Returns:
        The exit code: 1 while requests are not settled.

    Raises:
        InputError: unusable captions, folder or cache; a server that will not answer; a price that is not known.
    """
    from negatives.request_cache import RequestCache

    free = [f"gpt.{key}" for key in LIMITS]
    output = OutputFolder(
        config, verb="generate", result=SUMMARY_FILE, resume=resume, overwrite=overwrite, may_differ=free
    )
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return 0
    captions, recipe = read_source(config), recipe_of(config.gpt)
    server = None if config.gpt.batch == "write" else _server(config.gpt)
    _price(config.gpt)
    folder = output.claim()
    with RequestCache(config.gpt.cache or folder / CACHE_FILE) as cache:
        complete = _fill(config.gpt, captions, recipe, cache, server, folder / BATCHES)
        if config.gpt.batch in ("submit", "write"):
            return INCOMPLETE
        _write(config, captions, recipe, cache, folder, complete)
    return 0 if complete else INCOMPLETE


def print_estimate(config: GenerateConfig) -> None:
    """What is still to be asked, and what it will cost."""
    from negatives.request_cache import RequestCache

    path = Path(config.gpt.cache or Path(config.output_dir) / CACHE_FILE)
    with ExitStack() as stack:
        cache = stack.enter_context(RequestCache(path)) if path.is_file() else None
        say(_told(_estimate(config.gpt, read_source(config), recipe_of(config.gpt), cache), config.gpt))


def recipe_of(config: GptConfig) -> Recipe:
    """What is asked about every caption."""
    from negatives.gpt import Recipe

    return Recipe(
        model=config.model,
        types=tuple(config.types),
        count=config.texts,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        seed=config.seed,
        version=config.prompt_version,
    )


def _server(config: GptConfig) -> Server:
    from negatives.chat import Server

    if config.base_url != GptConfig.base_url and not os.environ.get(config.api_key_env):
        return Server(config.base_url, "none")  # a server of one's own, that asks for no key
    return Server.from_environment(config.base_url, config.api_key_env)


def _price(config: GptConfig) -> Any:
    from negatives.prices import price_of

    price = price_of(config.model, config.prices, batch=config.batch != "off")
    if price is None and config.max_cost is not None:
        raise InputError(
            f"gpt.max_cost needs the price of {config.model}, which is not in the list. Give it in gpt.prices, as "
            f"{config.model}: {{input: ..., output: ...}} in dollars per million tokens, or use gpt.max_requests."
        )
    return price


def _estimate(config: GptConfig, captions: pa.Table, recipe: Recipe, cache: RequestCache | None) -> Estimate:
    from negatives.gpt_summary import estimate

    batch = config.batch != "off"
    return estimate(captions, recipe, cache, attempts=config.attempts, prices=config.prices, batch=batch)


def _told(found: Estimate, config: GptConfig) -> str:
    cost = f"about {found.cost:.2f} dollars" if found.cost is not None else f"price of {config.model} unknown"
    return (
        f"{found.requests} requests to send ({found.settled} settled), about {found.prompt_tokens} prompt and "
        f"{found.completion_tokens} completion tokens, {cost}"
    )


def _fill(
    config: GptConfig, captions: pa.Table, recipe: Recipe, cache: RequestCache, server: Server | None, batches: Path
) -> bool:
    """Gets answers into the cache as configured; whether every request is settled now."""
    if server is None:
        return _write_parts(config, captions, recipe, cache, batches)
    if config.batch == "submit":
        return _submit(config, captions, recipe, cache, server, batches)
    if config.batch == "collect":
        return _collect(config, captions, recipe, cache, server, batches)
    return _ask(config, captions, recipe, cache, server)


def _ask(config: GptConfig, captions: pa.Table, recipe: Recipe, cache: RequestCache, server: Server) -> bool:
    from negatives.chat import ask_all
    from negatives.gpt import requests_for
    from negatives.prompts import check_answer
    from negatives.rate_limits import RateLimits

    estimate, price = _estimate(config, captions, recipe, cache), _price(config)
    say(_told(estimate, config))
    with _progress(estimate.requests + estimate.settled) as report:
        tally = asyncio.run(
            ask_all(
                (request for _, request in requests_for(captions, recipe)),
                cache,
                server,
                check=check_answer,
                limits=RateLimits(config.requests_per_minute, config.tokens_per_minute),
                concurrency=config.concurrency,
                attempts=config.attempts,
                retries=config.retries,
                timeout=config.timeout,
                max_requests=config.max_requests,
                max_cost=config.max_cost,
                price=None if price is None else lambda model, prompt, completion: price.cost(prompt, completion),
                report=report,
            )
        )
    if tally.stopped:
        say(f"Stopped: {tally.stopped}. Raise it and go on by --resume.")
    if tally.unanswered:
        say(f"{tally.unanswered} requests got no answer. Ask them again by --resume.")
    return not tally.stopped and not tally.unanswered


def _write_parts(config: GptConfig, captions: pa.Table, recipe: Recipe, cache: RequestCache, batches: Path) -> bool:
    from negatives.batch_parts import open_folder, write_parts
    from negatives.gpt import requests_for

    with open_folder(batches) as opened:
        requests = (request for _, request in requests_for(captions, recipe))
        parts = write_parts(opened, requests, cache, attempts=config.attempts)
        for part in parts:
            say(f"{opened.file_of(part)}: {part.requests} requests")
    say("Run them, then give the result files: --resume gpt.batch=collect gpt.results=[...]")
    return not parts


def _submit(
    config: GptConfig, captions: pa.Table, recipe: Recipe, cache: RequestCache, server: Server, batches: Path
) -> bool:
    from negatives.batch_api import submit
    from negatives.gpt import requests_for

    requests = (request for _, request in requests_for(captions, recipe))
    sent = submit(batches, requests, cache, server, attempts=config.attempts, say=say)
    say(
        f"{sent.requests} requests in {len(sent.batches)} new batches, {sent.running} batches under way. Fetch them by "
        "--resume gpt.batch=collect"
    )
    return False


def _collect(
    config: GptConfig, captions: pa.Table, recipe: Recipe, cache: RequestCache, server: Server, batches: Path
) -> bool:
    from negatives.batch_api import collect, read_results
    from negatives.prompts import check_answer

    for path in config.results:
        say(f"{path}: {read_results(path, batches, cache, check_answer)}")
    running: dict[str, str] = {}
    if not config.results:
        found = collect(batches, cache, server, check_answer, attempts=config.attempts)
        running = found.running
        for line in found.problems:
            say(line)
        say(f"{len(found.ended)} batches merged, {len(running)} under way. {found.results}")
    missing = _estimate(config, captions, recipe, cache).requests
    if running:
        say("Fetch the others later by --resume gpt.batch=collect")
    elif missing:
        say(f"{missing} requests are not settled. Send them by --resume gpt.batch=submit, or gpt.batch=off")
    return not running and not missing


def _write(
    config: GenerateConfig, captions: pa.Table, recipe: Recipe, cache: RequestCache, folder: Path, complete: bool
) -> None:
    """The tables, as far as there are answers; `summary.json` only of all of them."""
    from negatives.gpt import NEGATIVE_SCHEMA, PARAPHRASE_SCHEMA, UNWRITTEN_SCHEMA, rows_from
    from negatives.gpt_summary import Summary

    files = {
        NEGATIVES_FILE: NEGATIVE_SCHEMA,
        PARAPHRASES_FILE: PARAPHRASE_SCHEMA,
        UNWRITTEN_FILE: UNWRITTEN_SCHEMA,
    }
    summary = Summary(recipe)
    with ExitStack() as stack:
        writers = [stack.enter_context(table_writer(folder / name, schema)) for name, schema in files.items()]
        rows = rows_from(captions, recipe, cache, attempts=config.gpt.attempts)
        for batch in tracker("Reading answers")(rows):
            summary.add(batch)
            for writer, table in zip(writers, (batch.negatives, batch.paraphrases, batch.unwritten), strict=True):
                writer(table)
    content = summary.to_dict(prices=config.gpt.prices, batch=config.gpt.batch != "off")
    print_types(content["types"])
    cost = "unknown" if content["cost"] is None else f"{content['cost']:.2f} dollars"
    tokens = f"{content['prompt_tokens']} prompt and {content['completion_tokens']} completion tokens"
    say(f"{tokens} in all, cost {cost}: {folder / NEGATIVES_FILE}")
    if complete:
        write_rooted_captions(config, captions, folder)
        write_json(content, folder / SUMMARY_FILE)  # last: it says that the folder is finished


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Event], None]]:
    """A bar, or a line now and then, with the rate, failures, cost and the time left."""
    start = last = time.monotonic()

    def told(tally: Tally) -> str:
        seconds = max(time.monotonic() - start, 1e-3)
        failed = tally.failed.total() + tally.unanswered
        asked = tally.answered + failed
        left = (total - tally.cached - asked) / max(asked / seconds, 1e-9) if asked else float("inf")
        remaining = f"{left:.0f} s left" if left < float("inf") else "time left unknown"
        return f"{asked / seconds:.0f}/s, {failed} failed, {tally.cost:.2f} dollars, {remaining}"

    def done(tally: Tally) -> int:
        return tally.answered + tally.cached + tally.failed.total() + tally.unanswered

    if not is_terminal():

        def line(event: Event) -> None:
            nonlocal last
            if event.kind == "fallback":
                say(event.detail)
            if time.monotonic() - last > SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                say(f"Requests: {done(event.tally)} of {total}, {told(event.tally)}")

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("Requests"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, told="")

        def update(event: Event) -> None:
            if event.kind == "fallback":
                bar.console.print(event.detail, markup=False)
            bar.update(task, completed=done(event.tally), told=told(event.tally))

        yield update
