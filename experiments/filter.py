"""`itm filter`: keeps the texts on which text alone says nothing."""

from __future__ import annotations

import numpy as np

from experiments.outputs import OutputFolder
from experiments.progress import say
from experiments.schemas import FilterConfig
from negatives.records import read_captions, read_negatives, text_table, write_table

VERDICTS_FILE = "verdicts.parquet"


def run(config: FilterConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Judges every text by a model that saw no other text of its image, drops the most telling, writes verdicts."""
    from negatives.balance import filter_texts

    output = OutputFolder(config, verb="filter", result=VERDICTS_FILE, resume=resume, overwrite=overwrite)
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return
    captions = read_captions(config.captions)
    texts = text_table(captions, read_negatives(config.negatives, captions))
    verdicts = filter_texts(
        texts,
        top_fraction=config.top_fraction,
        folds=config.judge.folds,
        ngrams=config.judge.ngrams,
        regularisation=config.judge.regularisation,
        score_step=config.score_step,
        seed=config.seed,
    )
    folder = output.claim()
    write_table(verdicts, folder / VERDICTS_FILE)
    label, keep = np.asarray(verdicts["label"]), np.asarray(verdicts["keep"])
    kept = [f"{int(keep[label == value].sum())} of {int((label == value).sum())}" for value in (1, 0)]
    say(f"Kept {kept[0]} positives and {kept[1]} negatives: {folder / VERDICTS_FILE}")
