"""A chat model's run: its requests, what they cost, and its batches: sent, written to files, and collected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from experiments.config.generate_schemas import GptConfig
from experiments.runs.progress import say
from negatives.tables import InputError

if TYPE_CHECKING:
    from negatives.chat import ChatRequest, RequestCache, Server
    from negatives.chat.batch import Results
    from negatives.gpt import CostEstimate, PromptRecipe


@dataclass(frozen=True)
class GptRun:
    """What a run asks, and where its answers are.

    Attributes:
        config: the model, its server and its limits.
        captions: captions table.
        recipe: what is asked about every caption.
        cache: answers that have arrived.
        batches: folder of the batches.
    """

    config: GptConfig
    captions: pa.Table
    recipe: PromptRecipe
    cache: RequestCache
    batches: Path

    def requests(self) -> Iterator[ChatRequest]:
        """The requests, made as they are asked for."""
        from negatives.gpt import requests_for

        return (request for _, request in requests_for(self.captions, self.recipe))

    def estimate(self) -> CostEstimate:
        """What is still to be asked, and what it will cost."""
        return estimated(self.config, self.captions, self.recipe, self.cache)


def estimated(config: GptConfig, captions: pa.Table, recipe: PromptRecipe, cache: RequestCache | None) -> CostEstimate:
    """What is still to be asked when the cache, if there is one, has these answers."""
    from negatives.gpt import estimate

    batch = config.batch != "none"
    return estimate(captions, recipe, cache, attempts=config.attempts, prices=config.prices, batch=batch)


def estimate_line(found: CostEstimate, config: GptConfig) -> str:
    """An estimate in a line."""
    cost = f"about {found.cost:.2f} dollars" if found.cost is not None else f"price of {config.model} unknown"
    return (
        f"{found.requests} requests to send ({found.settled} settled), about {found.prompt_tokens} prompt and "
        f"{found.completion_tokens} completion tokens, {cost}"
    )


def send_batches(run: GptRun, server: Server) -> None:
    """Sends the requests that are not settled by the batch API, or writes its files.

    Raises:
        InputError: they are more, or would cost more, than the configuration allows.
    """
    from negatives.chat.batch import open_folder, submit, write_parts

    config, estimate, serves = run.config, run.estimate(), run.recipe.serves
    say(estimate_line(estimate, config))
    _check_bounds(estimate, config)
    if config.batch == "write":
        with open_folder(run.batches) as opened:
            for part in write_parts(opened, run.requests(), run.cache, attempts=config.attempts, serves=serves):
                say(f"{opened.file_of(part)}: {part.requests} requests")
        say("Run them, then give the result files: --resume gpt.batch=collect gpt.results=[...]")
        return
    sent = submit(run.batches, run.requests(), run.cache, server, attempts=config.attempts, serves=serves, say=say)
    say(
        f"{sent.requests} requests in {len(sent.batches)} new batches, {sent.running} batches under way. Fetch them by "
        "--resume gpt.batch=collect"
    )


def _check_bounds(estimate: CostEstimate, config: GptConfig) -> None:
    # asking now stops at a bound on its way; a batch is all or nothing
    if config.max_requests is not None and estimate.requests > config.max_requests:
        raise InputError(
            f"gpt.max_requests is {config.max_requests}, and {estimate.requests} requests are to be sent. A batch is "
            "sent whole: raise it, or give fewer captions."
        )
    if config.max_cost is not None and estimate.cost is not None and estimate.cost > config.max_cost:
        raise InputError(
            f"gpt.max_cost is {config.max_cost:g} dollars, the requests cost about {estimate.cost:.2f}. A batch is "
            "sent whole: raise it, or give fewer captions."
        )


def collect_batches(run: GptRun, server: Server) -> bool:
    """Takes what batches brought, or files that were made offline; whether every request is settled then."""
    from negatives.chat.batch import collect, read_results
    from negatives.gpt import check_answer

    # results come from files or from the API; files are made without a server
    running: dict[str, str] = {}
    for path in run.config.results:
        say(f"{path}: {_counted(read_results(path, run.batches, run.cache, check_answer))}")
    if not run.config.results:
        found = collect(
            run.batches, run.cache, server, check_answer, attempts=run.config.attempts, serves=run.recipe.serves
        )
        running = found.running
        for line in found.problems:
            say(line)
        say(f"{len(found.ended)} batches merged, {len(running)} under way. {_counted(found.results)}")
    # counted anew, after what has just arrived
    missing = run.estimate().requests
    if running:
        say("Fetch the others later by --resume gpt.batch=collect")
    elif missing:
        say(f"{missing} requests are not settled. Send them by --resume gpt.batch=submit, or now by gpt.batch=none")
    return not running and not missing


def _counted(results: Results) -> str:
    counts = {**results.recorded, **results.failed, "known before": results.known}
    counts |= {"of other requests": results.unknown, "unreadable": results.broken}
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "no results"


def refuse_while_batches_run(run: GptRun) -> None:
    """Raises `InputError` if requests are with the batch API: asking them now would pay for them twice."""
    from negatives.chat.batch import open_folder

    # no batch was ever made; opening the folder would make it
    if not run.batches.is_dir():
        return
    with open_folder(run.batches) as opened:
        # asked, but without an id yet: the server may have taken it before the process died
        if under_way := sum(bool(part.batch_id or part.asked) and not part.done for part in opened.parts):
            raise InputError(
                f"{under_way} batches of this folder are under way, and what they ask would be paid for twice "
                f"({run.batches}). Collect them first, by --resume gpt.batch=collect."
            )
