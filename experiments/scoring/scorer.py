"""What a scorer is to an evaluation, and how those whose answers are computed here go through the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from datamodules import MAX_PIXELS
from datamodules.benchmarks import Benchmark
from experiments.scoring.engine import EngineSettings
from experiments.scoring.models import Answered
from experiments.scoring.ranks import World
from experiments.scoring.requests import Requests, join
from experiments.scoring.sets import Score, SetScores, ask, set_scores
from experiments.scoring.store import Store


@dataclass(frozen=True)
class Options:
    """How scorers are opened and asked, whatever their kind.

    Attributes:
        accelerator: auto, cpu, gpu ...
        precision: of a model's weights, in Lightning's words; its own where None.
        score: which of the scores of a run's backbone; its own where None.
        store: folder of the scores of all scorers.
        seed: of the noise in the blind control.
        max_pixels: larger images are refused.
        engine: how the work is cut.
    """

    store: Path
    accelerator: str = "auto"
    precision: str | None = None
    score: str | None = None
    seed: int = 0
    max_pixels: int = MAX_PIXELS
    engine: EngineSettings = field(default_factory=EngineSettings)


class Trained(NamedTuple):
    """Where it is written what a run was trained on: its folder, and the captions tables that it names."""

    run: Path
    captions: str | list[str]


class Scorer(Protocol):
    """What is evaluated."""

    @property
    def name(self) -> str:
        """Names it in tables and folders."""

    @property
    def calibrated(self) -> bool:
        """Whether a logit of 0 means one half."""

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What its scores depend on."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What `summary.json` says of it beside."""

    @property
    def trained(self) -> Trained | None:
        """What it was trained on; None where nobody has written it down."""

    def scores_of(
        self, benchmarks: Mapping[str, Benchmark], options: Options, world: World
    ) -> Mapping[str, SetScores] | None:
        """Scores of sets by name; None in ranks but the first.

        Raises:
            InputError: an image cannot be read, a pair has no score, or a logit is not finite.
        """


@dataclass(frozen=True)
class Engine:
    """A scorer whose answers are computed here.

    Attributes:
        reads_images: False where it reads texts alone: then it is its own blind control.
        answers: requests -> answers; None in ranks but the first.
        to_scores: logits -> scores.
        after: called when all is scored.
    """

    name: str
    calibrated: bool
    fingerprint: Mapping[str, str]
    answers: Callable[[Requests, Store, EngineSettings, World], Answered | None]
    to_scores: Score
    reads_images: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)
    trained: Trained | None = None
    after: Callable[[], None] = lambda: None

    def scores_of(
        self, benchmarks: Mapping[str, Benchmark], options: Options, world: World
    ) -> Mapping[str, SetScores] | None:
        """See `Scorer`."""
        requests = join(
            [ask(benchmark) for benchmark in benchmarks.values()],
            blind=self.reads_images,
            with_images=self.reads_images,
            seed=options.seed,
            max_pixels=options.max_pixels,
        )
        answered = self.answers(requests, Store(options.store, self.fingerprint), options.engine, world)
        if answered is None:
            return None
        self.after()
        return {
            name: set_scores(benchmark, asked, answered, self.to_scores)
            for (name, benchmark), asked in zip(benchmarks.items(), requests.sets, strict=True)
        }
