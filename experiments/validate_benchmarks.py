"""Benchmarks during training: `trainer.validate_benchmarks`, scored by all ranks and logged as val/SET/METRIC."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import lightning as L
import numpy as np
from lightning.pytorch.utilities.seed import isolate_rng
from numpy.typing import NDArray

from datamodules.benchmarks import ALL, MEAN, Benchmark, Logits, Measured, MetricName, main_metric, measure_benchmark
from experiments.build import build_benchmark
from experiments.config.schemas import ExperimentConfig
from experiments.runs.progress import is_terminal, say
from experiments.runs.ranks import is_main_process
from experiments.scoring.engine import EngineSettings
from experiments.scoring.models import answer_apart, answer_pairs
from experiments.scoring.ranks import World
from experiments.scoring.requests import Requests, join
from experiments.scoring.sets import ask, of_matrix, of_pairs, set_scores, text_ids
from experiments.scoring.store import Memory
from negatives.tables import InputError

if TYPE_CHECKING:
    from lightning_modules.backbones import Backbone


@dataclass(frozen=True)
class ValidationBenchmarks:
    """What is asked, the same in every validation.

    Attributes:
        sets: name -> benchmark.
        requests: of all of them, each distinct image and text once.
    """

    sets: Mapping[str, Benchmark]
    requests: Requests

    def metrics(self, *, calibrated: bool = True) -> list[str]:
        """The names of the metrics that will be logged, without ranks and shares of errors: of these, lower is better.

        Args:
            calibrated: whether a logit of 0 means one half.

        Raises:
            InputError: nothing can be measured of a set, whatever a scorer says.
        """
        return [
            name
            for key, one in self.sets.items()
            for name in _named(key, one, measure_benchmark(one, _zeros(one), calibrated=calibrated))
            if not name.endswith("_rank") and "wrong_" not in name.rpartition("/")[2]
        ]

    def gives(self, metric: str) -> bool:
        """Whether a metric is called as those of one of the sets."""
        return metric.startswith(tuple(f"val/{name}/" for name in self.sets))

    def check_names(self, types: Collection[str]) -> None:
        """Refuses a set that has the name of a negative type of the validation pairs.

        Raises:
            InputError: names it.
        """
        if taken := [name for name in self.sets if name in (*types, MEAN)]:
            raise InputError(
                f"`trainer.validate_benchmarks`: {taken[0]!r} is what data.validation calls a negative type, or their "
                "mean, and two metrics would have one name; rename the set in evaluation.sets."
            )


def read_validation_benchmarks(config: ExperimentConfig) -> ValidationBenchmarks | None:
    """The benchmarks of `trainer.validate_benchmarks`, every image known by its content; None where it names none.

    Raises:
        InputError: one cannot be read, or its images are missing.
    """
    if not (names := dict.fromkeys(config.trainer.validate_benchmarks)):
        return None
    sets = {name: build_benchmark(config.evaluation.sets[name]) for name in names}
    for name, one in sets.items() if is_main_process() else ():
        left_out = [f"left out: {count} {reason}" for reason, count in one.left_out.items() if count]
        for note in (*one.notes, *left_out):
            say(f"{name}: {note}")
    asked = [ask(one) for one in sets.values()]
    return ValidationBenchmarks(sets, join(asked, blind=False, max_pixels=config.evaluation.max_pixels))


class ValidateBenchmarks(L.Callback):
    """Scores benchmarks after the validation pairs, in every n-th validation, and logs their metrics.

    All ranks compute units of their own, of one batch each, and the first one gets all. Nothing is written but the log,
    and nothing is drawn: a training with benchmarks has the weights of one without.

    Args:
        benchmarks: what is asked.
        settings: how it is computed.
        every: n.

    Raises:
        InputError: in the hook, an image cannot be read, or a logit is not finite.
    """

    def __init__(self, benchmarks: ValidationBenchmarks, settings: EngineSettings, *, every: int):
        self.benchmarks, self.settings, self.every = benchmarks, settings, every

    def due(self, trainer: L.Trainer) -> bool:
        """Whether the validation under way is one that scores the benchmarks."""
        # by where the training stands, and by no count of its own, which a resumed training would begin anew
        if trainer.check_val_every_n_epoch is None:
            number = (trainer.fit_loop.epoch_loop.total_batch_idx + 1) // int(trainer.val_check_batch or 1)
        else:
            number = trainer.current_epoch + 1
        return number % self.every == 0

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Backbone) -> None:  # type: ignore[override]
        """Scores on all ranks; logs on the first, which has all answers."""
        if trainer.state.fn != "fit" or not self.due(trainer):
            return
        for name, value in self._score(trainer, pl_module).items():
            pl_module.log(name, value, rank_zero_only=True)

    def _score(self, trainer: L.Trainer, module: Backbone) -> dict[str, float]:
        """The metrics by name; none in ranks but the first."""
        # only `ModelParallelStrategy` makes a mesh. A sharded network is called by its forward alone, with pairs.
        sharded = module.device_mesh is not None
        answers = answer_apart if module.encodes_apart and not sharded else answer_pairs
        settings = replace(self.settings, in_step=sharded)
        requests, place = self.benchmarks.requests, World(trainer.global_rank, trainer.world_size)
        mixed = str(trainer.precision).endswith("-mixed")
        # loaders draw a seed for their workers
        with isolate_rng(), trainer.precision_plugin.val_step_context() if mixed else nullcontext():
            answered = answers(module, module.device, requests, Memory(), settings, place)
        if answered is None:
            return {}
        found: dict[str, float] = {}
        for (key, one), asked in zip(self.benchmarks.sets.items(), requests.sets, strict=True):
            logits = set_scores(one, asked, answered, _unchanged).logits
            measured = measure_benchmark(one, logits, calibrated=module.calibrated)
            named = _named(key, one, measured)
            found |= named
            if not is_terminal():
                main = _name(key, main_metric(one, measured.rows))
                say(f"step {trainer.global_step}, {main.removeprefix('val/')} {named[main]:.3f}")
        return found


def build_validation(
    config: ExperimentConfig, module: Backbone, benchmarks: ValidationBenchmarks | None
) -> ValidateBenchmarks | None:
    """What scores the benchmarks of a training, with batches of the size of its validation; None where there are none.

    Raises:
        InputError: the best checkpoint would be chosen by a metric that this scorer does not have.
    """
    if benchmarks is None:
        return None
    data, best = config.data, config.trainer.best_metric
    chosen = config.trainer.keep_best > 0 and benchmarks.gives(best)
    if chosen and not module.calibrated and best not in benchmarks.metrics(calibrated=False):
        raise InputError(
            f"`trainer.best_metric` must be one that needs no threshold, got {best}: nobody says what a logit of 0 "
            "means of this scorer."
        )
    settings = EngineSettings(data.batch_size, data.batch_size, config.evaluation.max_captions, data.num_workers)
    return ValidateBenchmarks(benchmarks, settings, every=config.trainer.validate_benchmarks_every)


def _named(key: str, benchmark: Benchmark, measured: Measured) -> dict[str, float]:
    """Metrics of all items, and of the means over groups; a benchmark may have hundreds of groups."""
    means = (MEAN, *benchmark.aggregates)
    return {
        _name(key, row): float(value)
        for row, value in zip(measured.rows, measured.value(), strict=True)
        if row.group == ALL or row.group in means
    }


def _name(key: str, row: MetricName) -> str:
    # as W&B has them of an evaluation
    return f"val/{key}/{row.logged}"


def _zeros(benchmark: Benchmark) -> Logits:
    """Logits of a scorer that knows nothing, by which a protocol says what it will measure."""
    if benchmark.pairs is None:
        names, _ = text_ids(benchmark)
        return of_matrix(benchmark, names, np.zeros((len(benchmark.images), len(names)), np.float32), None).logits
    zeros = np.zeros(len(benchmark.pairs))
    return of_pairs(benchmark, zeros, zeros, None).logits


def _unchanged(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return logits
