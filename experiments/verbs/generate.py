"""`itm generate`: captions -> negatives, by an offline writer, a chat model, or written beforehand.

Writes `negatives.parquet`, `summary.json`, a page, `index.html`, and, where a generator says so, `paraphrases.parquet`
(hard positives) and `unwritten.parquet` (what has no text, and why). With `image_root` it writes `captions.parquet`
too: the captions of all images that have a negative, with paths that start at that folder. What draws images too,
`generator=scenes`, writes the splits of the embedded data set, and no page.
"""

from __future__ import annotations

import pyarrow as pa

from experiments.build import writer_settings
from experiments.config.generate_schemas import GenerateConfig
from experiments.generating.asking import CACHE_FILE, Spending
from experiments.generating.judges import HOW_TO_JUDGE, all_are_judged, build_judges, judged, usage_of
from experiments.generating.tables import (
    NEGATIVES_FILE,
    SUMMARY_FILE,
    UNWRITTEN_FILE,
    counts_by_type,
    finish,
    print_types,
    read_source,
    unread_keys,
    write_page,
)
from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import say, tracker
from negatives.tables import write_table

LAST_OF_SCENES = "balanced/negatives.parquet"  # what is written last says that a folder is finished


def run(config: GenerateConfig, *, resume: bool = False, overwrite: bool = False) -> int:
    """Writes the tables, or the splits of the embedded data set.

    Returns:
        The exit code: 1 where a chat model has not answered all that it is asked.

    Raises:
        InputError: a generator lacks its input, or its input is unusable.
    """
    if config.generator == "gpt":
        from experiments.generating.gpt import run_gpt

        return run_gpt(config, resume=resume, overwrite=overwrite)
    scenes = config.generator == "scenes"
    result = LAST_OF_SCENES if scenes else SUMMARY_FILE
    # see there: what a generator does not read cannot have changed what it wrote
    free = [*unread_keys(config.generator), *HOW_TO_JUDGE]
    output = OutputFolder(
        config,
        verb="generate",
        result=result,
        resume=resume,
        overwrite=overwrite,
        may_differ=free,
        # what a judge was paid for
        kept=(CACHE_FILE,),
    )
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
    elif scenes:
        _write_scenes(config, output)
    elif not _write_negatives(config, output):
        return 1
    return 0


def estimate(config: GenerateConfig) -> None:
    """What a chat model's run would take, printed; nothing is asked or written."""
    if config.generator == "gpt":
        from experiments.generating.gpt import print_estimate

        print_estimate(config)


def _write_negatives(config: GenerateConfig, output: OutputFolder) -> bool:
    """Writes the tables of a writer, or of pairs that someone wrote beforehand; whether every text is judged."""
    captions, spending = read_source(config), Spending()
    # what they refuse, they refuse before the folder is touched
    judges = build_judges(config, captions, output.path, spending)
    negatives, unwritten = _joined(config, captions) if config.generator == "pairs" else _written(config, captions)
    folder = output.claim()
    negatives = judged(negatives, captions, judges)  # before a file is written: none has rows that are not judged
    # a file that is there says that something is missing
    if len(unwritten):
        write_table(unwritten, folder / UNWRITTEN_FILE)
    write_table(negatives, folder / NEGATIVES_FILE)
    types = counts_by_type(negatives)
    print_types(types)
    complete, usage = all_are_judged(types, spending), usage_of(judges)
    write_page(config, captions, folder, usage=usage, complete=complete)
    counted = "1 caption" if len(captions) == 1 else f"{len(captions)} captions"
    say(f"Wrote {len(negatives)} negatives for {counted}: {folder / NEGATIVES_FILE}")
    if complete:
        summary = {"generator": config.generator, "captions": len(captions), "seed": config.seed, "types": types}
        if usage is not None:
            summary["truth_chat"] = usage
        finish(config, captions, folder, summary)
    return complete


def _written(config: GenerateConfig, captions: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(negatives, unwritten) by one of `negatives.writers.WRITERS`."""
    from negatives.writers import build_writer, write_negatives

    settings = writer_settings(config)
    # of what the rows keep and nothing else, so that this suffices to make them again
    writer = build_writer(config.generator, settings)
    return write_negatives(captions, writer, config.seed, tracker(config.generator), settings=settings)


def _joined(config: GenerateConfig, captions: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(negatives, unwritten) of the file of pairs; what the file lacks, no one tried to write."""
    from negatives.writers import UNWRITTEN_SCHEMA, join_pairs

    assert config.pairs is not None
    return join_pairs(captions, config.pairs, config.folds), UNWRITTEN_SCHEMA.empty_table()


def _write_scenes(config: GenerateConfig, output: OutputFolder) -> None:
    from datamodules.scenes import write_scenes

    sizes, folder = config.scenes, output.claim()
    write_scenes(
        folder,
        train=sizes.train,
        held_out=sizes.held_out,
        image_size=sizes.image_size,
        seed=config.seed,
        progress=tracker("scenes"),
    )
    say(f"Drew {sizes.train} scenes to train on, and the splits balanced and biased: {folder}")
