"""`itm evaluate`: scorers on benchmarks, trained here or not, always with their blind control.

Writes for each scorer `summary.json`, `metrics.csv` and a folder for each set, see `experiments.scoring.set_files`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.build import build_benchmark, load_run
from experiments.config.evaluation_schemas import (
    STORE,
    EvaluateConfig,
    EvaluationConfig,
    SetConfig,
    is_own_benchmark,
    set_name,
)
from experiments.report.comparison.reading.evaluated import SUMMARY_FILE
from experiments.report.csv_files import csv_text
from experiments.report.metrics_table import print_metrics
from experiments.runs.devices import resolve_device
from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import say
from experiments.runs.wandb_id import ID_FILE
from experiments.scoring.ranks import World, launched, world
from experiments.scoring.scorers import check_scorer, folder_names, open_scorer
from negatives.tables import DAMAGED, InputError, write_json, write_text

if TYPE_CHECKING:
    from datamodules.benchmarks import Benchmark
    from experiments.runs.train_images import Overlap, SetImages
    from experiments.scoring.scorer import Options, Scorer
    from experiments.scoring.sets import SetScores

MAY_DIFFER = {"evaluation.batch_size", "evaluation.workers", "evaluation.max_pixels", "devices", "store"}
"""Keys that may change when an evaluation goes on: they move scores by rounding at most."""


@dataclass(frozen=True)
class Sets:
    """What is evaluated on.

    Attributes:
        asked: name -> benchmark.
        overlaps: name -> what it has in common with a run's training images; empty where that is not known.
        excluded: name -> how many items are left out for their training images.
    """

    asked: dict[str, Benchmark]
    overlaps: dict[str, Overlap]
    excluded: dict[str, int]


def run(config: EvaluateConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Scores every set on its images and on noise, and writes metrics with 95 % intervals over images.

    Raises:
        InputError: a scorer or a set cannot be read, there is no set, or nothing is left of one.
    """
    assert config.output_dir is not None
    if (place := launched()) is not None and place.rank:
        # the first rank writes the folder; a finished one has nothing to score
        if not (resume and Path(config.output_dir, SUMMARY_FILE).is_file()):
            _score_all(config, place)
        return
    # scores stay when an evaluation is made anew: they are those of a fingerprint
    output = OutputFolder(
        config,
        verb="evaluate",
        result=SUMMARY_FILE,
        resume=resume,
        overwrite=overwrite,
        may_differ=MAY_DIFFER,
        kept=(STORE, ID_FILE),
    )
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return
    if config.run is not None:
        check_scorer(config.run)
    _score_all(config, None, output)


def listing() -> str:
    """The benchmarks, in 80 columns: name, protocol, and what has to be on disk."""
    from datamodules.benchmarks import BENCHMARKS
    from experiments.config.help import WIDTH

    rows = [("benchmark", "protocol", "what has to be there")]
    rows += [(name, row.protocol, row.on_disk) for name, row in BENCHMARKS.items()]
    width = max(map(len, BENCHMARKS))
    margin, lines = " " * (width + 2 + 9 + 2), []
    for name, protocol, on_disk in rows:
        # a file's name that is cut at its hyphen is none any more
        first, *others = textwrap.wrap(on_disk, WIDTH - len(margin), break_long_words=False, break_on_hyphens=False)
        lines += [f"{name:{width}}  {protocol:9}  {first}", *(f"{margin}{other}" for other in others)]
    return "\n".join(lines)


def _score_all(config: EvaluateConfig, place: World | None, output: OutputFolder | None = None) -> None:
    """All scorers on all sets; a rank that has no `output` computes its units and writes nothing else.

    Args:
        config: of the evaluation.
        place: of this rank; None in the first, which starts the others once the sets are read.
        output: the folder, in the first rank.
    """
    from experiments.scoring.overlaps import set_images

    resolve_device(config.accelerator)
    options = _options(config)
    loaded: dict[str, Scorer] = {}
    own: Mapping[str, SetConfig] = {}
    if config.run is not None:
        from experiments.scoring.model_scorers import run_scorer

        module, experiment = load_run(Path(config.run), score=config.score, checkpoint=config.checkpoint)
        loaded[config.run] = run_scorer(module, experiment, Path(config.run), config.checkpoint, options)
        own = experiment.evaluation.sets
    read = _read_sets(set_configs(config, own))
    # once for all scorers: what is asked of several is hashed for the first
    images = {name: set_images(name, benchmark) for name, benchmark in read.items()}
    words = [config.run] if config.run is not None else config.scorers
    names = folder_names(words)
    for word in words:
        check_scorer(word)
    # before there is a folder: without training images nothing may be left
    sets_of = {word: _sets_of(config, scorer, read, images, quiet=output is None) for word, scorer in loaded.items()}
    if output is None:
        assert place is not None
        for word in words:
            scorer = loaded.get(word) or open_scorer(word, options)
            scorer.scores_of(sets_of[word].asked if word in sets_of else read, options, place)
        return
    folder = output.claim()
    with world(config.devices, _rank, config) as first:
        for word, name in zip(words, names, strict=True):
            own_folder = folder if len(words) == 1 else folder / name
            scorer = loaded.get(word) or open_scorer(word, options)
            if len(words) > 1 and (own_folder / SUMMARY_FILE).is_file():
                if _is_of(own_folder, scorer):
                    say(f"{own_folder} is finished.")
                    continue
                say(f"{word} is another one than when {own_folder} was made: it is evaluated anew.")
            sets = sets_of.get(word) or _sets_of(config, scorer, read, images)
            scores = scorer.scores_of(sets.asked, options, first)
            assert scores is not None
            write_evaluation(config, own_folder, scorer, sets, scores)
    if len(words) > 1:
        write_json({"scorers": dict(zip(names, words, strict=True))}, folder / SUMMARY_FILE)


def _is_of(folder: Path, scorer: Scorer) -> bool:
    """Whether an evaluation is of this scorer, and not of other weights or scores that were in its place."""
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        return bool(summary["scorer"] == json.loads(json.dumps(dict(scorer.fingerprint))))
    except (*DAMAGED, KeyError):
        return False


def _rank(config: EvaluateConfig) -> None:
    """What a process does that this one has started."""
    _score_all(config, launched())


def _options(config: EvaluateConfig) -> Options:
    from experiments.scoring.engine import EngineSettings
    from experiments.scoring.scorer import Options

    evaluation = config.evaluation
    assert config.store is not None
    return Options(
        Path(config.store),
        accelerator=config.accelerator,
        precision=config.precision,
        score=config.score,
        seed=config.seed,
        max_pixels=evaluation.max_pixels,
        engine=EngineSettings(evaluation.batch_size, evaluation.unit_size, evaluation.max_captions, evaluation.workers),
    )


def set_configs(config: EvaluateConfig, own: Mapping[str, SetConfig]) -> dict[str, SetConfig]:
    """The sets that are asked for; those of the run where none is.

    Raises:
        InputError: there is none.
    """
    from datamodules.benchmarks import BENCHMARKS

    sets = dict(config.evaluation.sets)
    for word in config.benchmarks:
        if is_own_benchmark(word):
            sets[set_name(word)] = SetConfig("own", annotations=word)
            continue
        folder = Path(str(config.benchmarks_root)) / word
        images = folder / BENCHMARKS[word].images
        sets[word] = SetConfig(word, annotations=str(folder), image_root=str(images if images.is_dir() else folder))
    sets = sets or dict(own)
    if not sets:
        raise InputError(
            f"{config.run}: no set to evaluate on; give `captions` and `negatives` of evaluation.sets.NAME, in the "
            "run's or in this configuration, or `benchmarks`."
        )
    return sets


def _read_sets(configs: Mapping[str, SetConfig]) -> dict[str, Benchmark]:
    """All sets, before the first is scored: a wrong path in the last one is found now, not hours later."""
    read = {name: build_benchmark(one) for name, one in configs.items()}
    main = (place := launched()) is None or not place.rank
    for name, benchmark in read.items() if main else ():
        for note in benchmark.notes:
            say(f"{name}: {note}")
        # printed, or numbers of two machines with other images would be compared as one
        if left_out := ", ".join(f"{count} {reason}" for reason, count in benchmark.left_out.items() if count):
            say(f"{name}: left out of the benchmark: {left_out}")
    return read


def _sets_of(
    config: EvaluateConfig,
    scorer: Scorer,
    read: dict[str, Benchmark],
    images: Mapping[str, SetImages],
    *,
    quiet: bool = False,
) -> Sets:
    """What a scorer is asked, and what of it it was trained on, which is said; `quiet` in a rank that only scores."""
    from experiments.scoring.overlaps import find_overlaps, without_training_images

    excluded = config.exclude_training_images
    if scorer.trained is None or (quiet and not excluded):
        return Sets(read, {}, {})
    overlaps = find_overlaps(scorer.trained, images, excluded=excluded)
    kept = without_training_images(read, overlaps) if excluded else read
    return Sets(kept, overlaps, {name: len(read[name].key) - len(kept[name].key) for name in read})


def write_evaluation(
    config: EvaluateConfig, folder: Path, scorer: Scorer, sets: Sets, scores: Mapping[str, SetScores]
) -> None:
    """Writes the files of a scorer's sets, their metrics, and last the summary, which says that they are whole."""
    from experiments.report.comparison.reading.evaluated import METRIC_COLUMNS
    from experiments.scoring.set_files import write_set
    from experiments.scoring.set_metrics import metric_rows
    from experiments.tracking.evaluated import log_evaluation

    evaluation: EvaluationConfig = config.evaluation
    metrics: list[dict[str, Any]] = []
    about = {"run": scorer.name, **scorer.about}
    summary: dict[str, Any] = {**about, "sets": {}, "scorer": dict(scorer.fingerprint)}
    for name, benchmark in sets.asked.items():
        write_set(folder / name, benchmark, scores[name], scorer.fingerprint)
        rows = metric_rows(
            scorer.name,
            name,
            benchmark,
            scores[name],
            calibrated=scorer.calibrated,
            resamples=evaluation.bootstrap,
            seed=config.seed,
        )
        metrics += rows
        summary["sets"][name] = _set_summary(benchmark, rows, sets.overlaps.get(name))
        summary["sets"][name] |= {"calibrated": scorer.calibrated, "excluded_pairs": sets.excluded.get(name)}
        # of all sets together: they are scored at once
        summary["computed"] = dict(scores[name].counts)
    write_text(csv_text(METRIC_COLUMNS, metrics), folder / "metrics.csv")
    log_evaluation(config, folder, scorer, sets.asked, scores, metrics, summary["sets"])
    write_json(summary, folder / SUMMARY_FILE)
    # of several scorers, two may have one name
    print_metrics(folder.name if len(config.scorers) > 1 else scorer.name, metrics, sets.asked)
    if counts := ", ".join(f"{count} {what}" for what, count in summary["computed"].items()):
        say(f"{scorer.name}: {counts} computed; what else was asked is from {config.store}")


def _set_summary(benchmark: Benchmark, rows: list[dict[str, Any]], overlap: Overlap | None) -> dict[str, Any]:
    """What `summary.json` says of a set; null where it is not known what the scorer was trained on."""
    from experiments.scoring.overlaps import set_images, training_items

    images = set_images(benchmark.name, benchmark).used
    return {
        "benchmark": benchmark.name,
        "protocol": benchmark.protocol,
        "main": None if benchmark.main is None else list(benchmark.main),
        "aggregates": {name: list(groups) for name, groups in benchmark.aggregates.items()},
        "image_root": str(benchmark.root.resolve()),
        "pairs": len(benchmark.key),
        "images": len(images),
        "left_out": dict(benchmark.left_out),
        "notes": list(benchmark.notes),
        "training_images": None if overlap is None else len(overlap.training_images & images),
        "training_pairs": training_items(benchmark, overlap),
        "same_ids_other_content": None if overlap is None else overlap.same_ids,
    }
