"""`itm generate generator=gpt`: asks a chat model for every caption, at once or by its batch API.

All answers are kept in a cache, and the tables are made from it: a run that is killed or stopped by a limit goes on
where it was, and one on more captions with the same `gpt.cache` asks for the new ones. `summary.json` is written once
every request is settled.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.generate_schemas import GenerateConfig, GptConfig
from experiments.config.load import saved_as_today
from experiments.generating.asking import (
    CACHE_FILE,
    Spending,
    ask_now,
    checked_price,
    hold_answers,
    reporter,
    say_reasons,
    server_of,
)
from experiments.generating.batches import (
    GptRun,
    collect_batches,
    estimate_line,
    estimated,
    refuse_while_batches_run,
    send_batches,
)
from experiments.generating.judges import HOW_TO_JUDGE, all_are_judged, build_judges, rows_at_once, usage_of
from experiments.generating.tables import (
    NEGATIVES_FILE,
    PARAPHRASES_FILE,
    SUMMARY_FILE,
    UNWRITTEN_FILE,
    finish,
    print_types,
    read_source,
    unread_keys,
    write_page,
)
from experiments.runs.outputs import CONFIG_FILE, OutputFolder
from experiments.runs.progress import meter, say, track
from negatives.tables import table_writer

if TYPE_CHECKING:
    from negatives.gpt import PromptRecipe
    from negatives.truth_judges import TruthJudge

BATCHES = "batches"
MOST_READ = 2000  # captions whose answers are in memory at a time
INCOMPLETE = 1
# what may change when a run goes on: none of it is part of a request
LIMITS = (
    *("base_url", "api_key_env", "attempts", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout"),
    *("retries", "max_requests", "max_cost", "prices", "batch", "results", "cache"),
)


def run_gpt(config: GenerateConfig, *, resume: bool = False, overwrite: bool = False) -> int:
    """Asks what is not in the cache yet, and writes the tables from it.

    Returns:
        The exit code: 1 while requests, of the writer or of the judge, are not settled.

    Raises:
        InputError: unusable captions, folder, judge or cache, or one that another process uses; a server that will not
            answer; a price that is not known.
    """
    from negatives.chat import RequestCache

    config = _with_version(config, config.output_dir if resume else None)
    output = _output(config, resume=resume, overwrite=overwrite)
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return 0
    captions, recipe = read_source(config), recipe_of(config.gpt)
    # what they refuse, they refuse before the folder is touched
    server, spending = server_of(config.gpt), Spending()
    checked_price(config.gpt)
    sends = config.gpt.batch in ("submit", "write")  # and writes no table
    judges = [] if sends else build_judges(config, captions, output.path, spending)
    answers, _lock = hold_answers(config.gpt, output.path)
    folder = output.claim()
    with RequestCache(answers) as cache:
        run = GptRun(config.gpt, captions, recipe, cache, folder / BATCHES)
        if sends:
            send_batches(run, server)
            return 0
        complete = collect_batches(run, server) if config.gpt.batch == "collect" else _ask(run, spending)
        content = _write(config, run, folder, judges)
    if (usage := usage_of(judges)) is not None:
        content["truth_chat"] = usage
    complete = all_are_judged(content["types"], spending) and complete
    # a model that writes only rejected texts is a wrong model or prompt, not a finished run
    if complete and not any(counts["valid"] for counts in content["types"].values()):
        say(
            "Not one text is valid: look into the tables. Go on by --resume and a larger gpt.attempts, or start anew "
            "by --overwrite and another gpt.model."
        )
        complete = False
    # of an unfinished run too: one looks at the first texts before one pays for the others
    write_page(config, captions, folder, spent=content, usage=usage, complete=complete)
    if complete:
        finish(config, captions, folder, content)
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
    if config.truth.chat.ask:
        say("Not in it: `truth.chat` asks once more about every text that validation passes.")


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


def _output(config: GenerateConfig, *, resume: bool, overwrite: bool) -> OutputFolder:
    return OutputFolder(
        config,
        verb="generate",
        result=SUMMARY_FILE,
        resume=resume,
        overwrite=overwrite,
        may_differ=["image_root", *unread_keys("gpt"), *(f"gpt.{key}" for key in LIMITS), *HOW_TO_JUDGE],
        # what was paid for outlives --overwrite: a key says what was asked, so that no answer can be mistaken
        kept=(CACHE_FILE, BATCHES),
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


def _ask(run: GptRun, spending: Spending) -> bool:
    """Asks now; whether every request is settled then."""
    from negatives.gpt import check_answer

    refuse_while_batches_run(run)
    estimate = run.estimate()
    say(estimate_line(estimate, run.config))
    reasons: Counter[str] = Counter()
    # what the cache has settled counts as done, so that a resumed bar goes on where it was
    with meter("Requests", estimate.requests + estimate.settled) as show:
        report = reporter(reasons, show, estimate.requests, priced=checked_price(run.config) is not None)
        asked, serves = run.requests(), run.recipe.serves
        tally = ask_now(asked, run.cache, run.config, spending, report, check=check_answer, serves=serves)
    say_reasons(reasons)
    if tally.unanswered:
        say(f"{tally.unanswered} requests got no answer. Ask them again by --resume.")
    return not spending.stopped and not tally.unanswered


def _write(config: GenerateConfig, run: GptRun, folder: Path, judges: Sequence[TruthJudge]) -> dict[str, Any]:
    """Writes the tables, as far as there are answers, and prints the summary, which it returns."""
    from negatives.gpt import NEGATIVE_SCHEMA, PARAPHRASE_SCHEMA, Summary, rows_from
    from negatives.truth_judges import CHECKS_FIELD, check_together
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
        size = max(1, rows_at_once(judges) // (len(config.gpt.types) * config.gpt.texts)) if judges else MOST_READ
        rows = rows_from(run.captions, run.recipe, run.cache, attempts=config.gpt.attempts, batch_size=size)
        label = "Reading answers, and judging" if judges else "Reading answers"
        for batch in track(rows, label, math.ceil(len(run.captions) / size)):
            texts = check_together((batch.negatives, batch.paraphrases), run.captions, judges)
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
