"""`itm generate generator=gpt`: asks a chat model for every caption, at once or by its batch API.

All answers are kept in a cache, and the tables are made from it: a run that is killed or stopped by a limit goes on
where it was, and one on more captions with the same `gpt.cache` asks for the new ones. `summary.json` is written once
every request is settled.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.generate_schemas import GenerateConfig, GptConfig
from experiments.config.load import saved_as_today
from experiments.runs.outputs import CONFIG_FILE, OutputFolder
from experiments.runs.progress import meter, say, tracker
from experiments.verbs.generate_batches import (
    GptRun,
    collect_batches,
    estimate_line,
    estimated,
    price_of,
    refuse_while_batches_run,
    send_batches,
)
from experiments.verbs.generate_tables import (
    NEGATIVES_FILE,
    PARAPHRASES_FILE,
    SUMMARY_FILE,
    UNWRITTEN_FILE,
    print_types,
    read_source,
    unread_keys,
    write_captions_with_negatives,
    write_page,
)
from negatives.tables import InputError, hold, table_writer, write_json

if TYPE_CHECKING:
    from negatives.chat import Event, Server
    from negatives.gpt import PromptRecipe
    from negatives.truth_judges import TruthJudge

CACHE_FILE, BATCHES = "requests.sqlite", "batches"
INCOMPLETE = 1
REASONS_SHOWN = 3
NO_KEY = "none"  # the package wants one
# what may change when a run goes on: none of it is part of a request
LIMITS = (
    *("base_url", "api_key_env", "attempts", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout"),
    *("retries", "max_requests", "max_cost", "prices", "batch", "results", "cache"),
)


def run_gpt(config: GenerateConfig, *, resume: bool = False, overwrite: bool = False) -> int:
    """Asks what is not in the cache yet, and writes the tables from it.

    Returns:
        The exit code: 1 while requests are not settled.

    Raises:
        InputError: unusable captions, folder or cache, or one that another process uses; a server that will not
            answer; a price that is not known.
    """
    from negatives.chat import RequestCache
    from negatives.truth_judges import build_truth_judges

    config = _with_version(config, config.output_dir if resume else None)
    free = ["image_root", *unread_keys("gpt"), *(f"gpt.{key}" for key in LIMITS)]
    # what was paid for outlives --overwrite: a key says what was asked, so that no answer can be mistaken
    output = OutputFolder(
        config,
        verb="generate",
        result=SUMMARY_FILE,
        resume=resume,
        overwrite=overwrite,
        may_differ=free,
        kept=(CACHE_FILE, BATCHES),
    )
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return 0
    captions, recipe = read_source(config), recipe_of(config.gpt)
    # what they refuse, they refuse before the folder is touched
    server, _ = _server(config.gpt), price_of(config.gpt)
    sends = config.gpt.batch in ("submit", "write")  # and writes no table
    judges = [] if sends else build_truth_judges(config.truth)
    answers = Path(config.gpt.cache or output.path / CACHE_FILE)
    # until this ends: two runs that ask at once, with folders of their own, would both pay for what both ask
    _lock = hold(answers)
    # SQLite would take it for a new one, and all would be paid for again
    if answers.is_file() and not answers.stat().st_size:
        raise InputError(f"{answers} is empty: put the answers back from a copy, or remove it to ask anew.")
    folder = output.claim()
    with RequestCache(answers) as cache:
        run = GptRun(config.gpt, captions, recipe, cache, folder / BATCHES)
        if sends:
            send_batches(run, server)
            return 0
        complete = collect_batches(run, server) if config.gpt.batch == "collect" else _ask(run, server)
        content = _write(config, run, folder, judges)
    # a model that writes only rejected texts is a wrong model or prompt, not a finished run
    if complete and not any(counts["valid"] for counts in content["types"].values()):
        say("Not one text is valid. Look into the tables, change the model or gpt.attempts, and go on by --resume.")
        complete = False
    # of an unfinished run too: one looks at the first texts before one pays for the others
    write_page(config, captions, folder, spent=content, complete=complete)
    if complete:
        write_captions_with_negatives(config, captions, folder)
        write_json(content, folder / SUMMARY_FILE)  # last: it says that the folder is finished
    # the tables hold what there is so far; only summary.json says that it is all
    return 0 if complete else INCOMPLETE


def print_estimate(config: GenerateConfig) -> None:
    """What is still to be asked, and what it will cost."""
    from negatives.chat import RequestCache

    config = _with_version(config, config.output_dir)
    # the folder may not exist yet: a dry run makes nothing
    path = Path(config.gpt.cache or Path(config.output_dir) / CACHE_FILE)
    with ExitStack() as stack:
        cache = stack.enter_context(RequestCache(path)) if path.is_file() else None
        say(estimate_line(estimated(config.gpt, read_source(config), recipe_of(config.gpt), cache), config.gpt))


def recipe_of(config: GptConfig) -> PromptRecipe:
    """What is asked about every caption."""
    from negatives.gpt import LATEST, PromptRecipe

    return PromptRecipe(
        model=config.model,
        types=tuple(config.types),
        count=config.texts,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        seed=config.seed,
        version=config.prompt_version or LATEST,
    )


def _with_version(config: GenerateConfig, folder: str | None) -> GenerateConfig:
    """The configuration with a version of the prompts, and that version's temperature and seed where none are given.

    Args:
        config: the configuration.
        folder: of the run that goes on, whose version is kept: it may be older than the prompts of today.
    """
    from negatives.gpt import LATEST, VERSIONS

    gpt = config.gpt
    version = gpt.prompt_version or (folder and _version_in(Path(folder) / CONFIG_FILE)) or LATEST
    own = VERSIONS[version]
    temperature = own.temperature if gpt.temperature is None else gpt.temperature
    seed = own.seed if gpt.seed is None else gpt.seed
    filled = dataclasses.replace(gpt, prompt_version=version, temperature=temperature, seed=seed)
    return dataclasses.replace(config, gpt=filled)


def _version_in(path: Path) -> str | None:
    """The version of the prompts in a saved configuration; None where it says none that is known."""
    from negatives.gpt import VERSIONS

    try:
        version = saved_as_today(GenerateConfig, path)["gpt"]["prompt_version"]
    except Exception:  # whatever a missing or damaged file makes its readers stumble over: `OutputFolder` says so
        return None
    return version if version in VERSIONS else None


def _server(config: GptConfig) -> Server:
    """The server with its key; the key of OpenAI goes to no other server unless the configuration names it."""
    from negatives.chat import Server

    own = config.base_url == GptConfig.base_url
    # neither sends anything, so neither may fail for want of a key
    offline = config.batch == "write" or (config.batch == "collect" and config.results)
    if offline or (config.api_key_env is None and not own):
        return Server(config.base_url, NO_KEY)
    return Server.from_environment(config.base_url, config.api_key_env or "OPENAI_API_KEY")


def _ask(run: GptRun, server: Server) -> bool:
    """Asks now; whether every request is settled then."""
    from negatives.chat import RateLimits, SendOptions, ask_all
    from negatives.gpt import check_answer

    config = run.config
    refuse_while_batches_run(run)
    estimate, price = run.estimate(), price_of(config)
    say(estimate_line(estimate, config))
    # why requests failed is counted, not printed: a wrong key fails all of them alike
    reasons: Counter[str] = Counter()
    # what the cache has settled counts as done, so that a resumed bar goes on where it was
    with meter("Requests", estimate.requests + estimate.settled) as show:
        tally = asyncio.run(
            ask_all(
                run.requests(),
                run.cache,
                server,
                check=check_answer,
                serves=run.recipe.serves,
                limits=RateLimits(config.requests_per_minute, config.tokens_per_minute),
                concurrency=config.concurrency,
                attempts=config.attempts,
                timeout=config.timeout,
                options=SendOptions(
                    retries=config.retries,
                    max_requests=config.max_requests,
                    max_cost=config.max_cost,
                    # a bound on the cost is refused without a price before this
                    price=None if price is None else lambda model, prompt, completion: price.cost(prompt, completion),
                ),
                report=_reporter(show, estimate.requests, reasons),
            )
        )
    if tally.stopped:
        say(f"Stopped: {tally.stopped}. Go on by --resume, with the same bounds or others.")
    for detail, number in reasons.most_common(REASONS_SHOWN):
        say(f"{number} times: {detail}")
    if tally.unanswered:
        say(f"{tally.unanswered} requests got no answer. Ask them again by --resume.")
    return not tally.stopped and not tally.unanswered


def _write(config: GenerateConfig, run: GptRun, folder: Path, judges: Sequence[TruthJudge]) -> dict[str, Any]:
    """Writes the tables, as far as there are answers, and prints the summary, which it returns."""
    from negatives.gpt import NEGATIVE_SCHEMA, PARAPHRASE_SCHEMA, Summary, rows_from
    from negatives.truth_judges import CHECKS_FIELD, check_truth
    from negatives.writers import UNWRITTEN_SCHEMA

    files = {
        NEGATIVES_FILE: NEGATIVE_SCHEMA.append(CHECKS_FIELD) if judges else NEGATIVE_SCHEMA,
        PARAPHRASES_FILE: PARAPHRASE_SCHEMA.append(CHECKS_FIELD) if judges else PARAPHRASE_SCHEMA,
        UNWRITTEN_FILE: UNWRITTEN_SCHEMA,
    }
    summary = Summary(run.recipe)
    with ExitStack() as stack:
        writers = [stack.enter_context(table_writer(folder / name, schema)) for name, schema in files.items()]
        # from the cache alone: tables are the same whether answers came today, by a batch, or before a kill
        rows = rows_from(run.captions, run.recipe, run.cache, attempts=config.gpt.attempts)
        for batch in tracker("Reading answers")(rows):
            texts = [check_truth(table, run.captions, judges) for table in (batch.negatives, batch.paraphrases)]
            # counted as judged
            summary.add(batch._replace(negatives=texts[0], paraphrases=texts[1]))
            for writer, table in zip(writers, (*texts, batch.unwritten), strict=True):
                writer(table)
    content = summary.to_dict(prices=config.gpt.prices, batch=config.gpt.batch != "none")
    print_types(content["types"])
    if again := content["asked_again"]:
        say("Asked again: " + ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in again.items()))
    cost = "unknown" if content["cost"] is None else f"{content['cost']:.2f} dollars"
    tokens = f"{content['prompt_tokens']} prompt and {content['completion_tokens']} completion tokens"
    say(f"{tokens} in all, cost {cost}: {folder / NEGATIVES_FILE}")
    return content


def _reporter(show: Callable[[int, str], None], requests: int, reasons: Counter[str]) -> Callable[[Event], None]:
    """Tells a meter how many requests are settled, the rate, failures, cost and time left; counts why some failed."""
    start = time.monotonic()

    def report(event: Event) -> None:
        tally = event.tally
        if event.kind == "fallback":
            say(event.detail)
        if event.kind in ("failed", "unanswered"):
            reasons[event.detail] += 1
        failed = tally.failed.total() + tally.unanswered
        asked = tally.answered + failed
        # what came from the cache took no time
        rate = asked / max(time.monotonic() - start, 1e-3)
        left = f"{(requests - asked) / rate:.0f} s left" if asked else "time left unknown"
        show(asked + tally.cached, f"{rate:.0f}/s, {failed} failed, {tally.cost:.2f} dollars, {left}")

    return report
