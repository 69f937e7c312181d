"""What can be configured of `itm evaluate` and `itm compare`; see `experiments.config.schemas`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from datamodules import MAX_PIXELS
from experiments.config.data_schemas import PairsConfig
from experiments.config.model_schemas import score_faults
from experiments.config.names import name_faults
from experiments.config.trainer_schemas import LoggingConfig
from lightning_modules import LAST, checkpoint_faults
from negatives.judging import ACCELERATORS

EVALUATION_FILES = ("config.yaml", "provenance.json", "metrics.csv", "summary.json", "wandb")
"""What stands in an evaluation's folder beside the folders of its sets."""


@dataclass
class EvaluationConfig:
    """Benchmarks, each with its blind control."""

    sets: dict[str, PairsConfig] = field(default_factory=dict)
    """Name -> pairs to evaluate on."""
    batch_size: int = field(default=64, metadata={"min": 1, "max": 1_000_000})
    """Images scored at a time."""
    max_pixels: int = field(default=MAX_PIXELS, metadata={"min": 1})
    """Most pixels that an image may grow to, padded to a square or enlarged for a model; larger ones are refused."""
    bootstrap: int = field(default=1000, metadata={"min": 100, "max": 100_000})
    """Resamples of images behind each 95 % interval."""

    def faults(self, place: str) -> Iterator[str]:
        """Sets whose folders would lie elsewhere, or in the place of another file."""
        yield from name_faults(self.sets, f"{place}sets", EVALUATION_FILES)


@dataclass
class EvaluateConfig:
    """`itm evaluate`: a trained run on benchmarks, always with its blind control."""

    run: str = field(default=MISSING, metadata={"exists": "folder"})
    """Folder of a finished `itm train`."""
    output_dir: str = "${run}/evaluation"
    """Folder for `metrics.csv` and the scores of each set."""
    score: str | None = None
    """Overrules `model.score` of a run whose backbone has several scores; give such an evaluation an `output_dir` of
    its own."""
    checkpoint: str = LAST
    """Which weights of the run: last, the best that it kept (`trainer.keep_best`), or the number of a step it kept.
    Where they are not the last, `output_dir` is `${run}/evaluation_<checkpoint>` unless it is given."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Sets; those of the run's own configuration where none is given."""
    exclude_training_images: bool = False
    """Leaves out the pairs of images that the run was trained on, which the run has to have recorded."""
    accelerator: str = field(default="auto", metadata={"choices": ACCELERATORS})
    """Hardware to score on."""
    seed: int = field(default=0, metadata={"min": 0, "max": 2**32 - 1})
    """Seeds noise images and bootstrap."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where metrics go."""

    def __post_init__(self) -> None:
        # `${run}` is resolved by now; where it is not, this is a default that has yet to be filled
        if self.checkpoint != LAST and self.output_dir == f"{self.run}/evaluation":
            self.output_dir += f"_{self.checkpoint}"

    def faults(self, place: str) -> Iterator[str]:
        """Weights that no run has, and a score that the run's backbone has not."""
        yield from checkpoint_faults(self.checkpoint, place)
        if self.score is not None:
            yield from score_faults(self.run, self.score, place)


@dataclass
class CompareConfig:
    """`itm compare`: evaluated runs side by side."""

    runs: list[str] = field(default_factory=list, metadata={"exists": "folder"})
    """Folders of evaluated runs, in the order of the tables."""
    output_dir: str = MISSING
    """Folder for `index.html` and the CSV files."""
    reference: str | None = None
    """Name of the run that the others are compared with; the first where not given."""
    title: str = "Comparison"
    """Heading of the page."""
    note: str = ""
    """A sentence under the heading: what the numbers do and do not show."""
    audits: dict[str, str] = field(default_factory=dict, metadata={"exists": "file"})
    """Label -> `audit.json`, shown in this order."""
    examples: int = field(default=8, metadata={"min": 0, "max": 10_000})
    """Images shown with their captions and scores."""
    bootstrap: int = field(default=1000, metadata={"min": 100, "max": 100_000})
    """Resamples of images behind each 95 % interval."""
    seed: int = field(default=0, metadata={"min": 0, "max": 2**32 - 1})
    """Seeds the bootstrap and the choice of examples."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where metrics go."""
