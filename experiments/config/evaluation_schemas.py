"""What can be configured of `itm evaluate` and `itm compare`; see `experiments.config.schemas`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from datamodules import MAX_PIXELS
from datamodules.benchmarks import BENCHMARKS
from experiments.config.data_schemas import PairsConfig
from experiments.config.model_schemas import score_faults
from experiments.config.names import name_faults
from experiments.config.run_folders import SCORER, is_run, split_checkpoint
from experiments.config.trainer_schemas import LoggingConfig
from lightning_modules import LAST, checkpoint_faults, did_you_mean
from negatives.judging import ACCELERATORS

STORE = "store"
EVALUATION_FILES = ("config.yaml", "provenance.json", "lineage.json", "metrics.csv", "summary.json", "wandb", STORE)
"""What stands in an evaluation's folder beside the folders of its sets."""
PRECISIONS = ("32-true", "bf16-true", "16-true")


def is_own_benchmark(word: str) -> bool:
    """Whether a word of `benchmarks` is a YAML file, and no name of the table."""
    return word.endswith((".yaml", ".yml"))


def set_name(word: str) -> str:
    """What the set of a word of `benchmarks` is called."""
    return Path(word).stem if is_own_benchmark(word) else word


@dataclass
class SetConfig(PairsConfig):
    """A benchmark of any protocol, in its official files, or tables of one's own."""

    annotations: Any = None
    """Folder or file of the benchmark's official annotations; see `itm evaluate --list`."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the benchmark's reader takes besides, such as the subset of a benchmark that has several."""

    def faults(self, place: str) -> Iterator[str]:
        """Keys that the format needs and that are not given."""
        for key in BENCHMARKS[self.format].needs(images=True):
            if getattr(self, key) is None:
                yield f"`{place}{key}` must be given where `{place}format` is {self.format}"


@dataclass
class EvaluationConfig:
    """Benchmarks, each with its blind control."""

    sets: dict[str, SetConfig] = field(default_factory=dict)
    """Name -> what to evaluate on."""
    batch_size: int = field(default=64, metadata={"min": 1, "max": 1_000_000})
    """Images scored at a time."""
    max_captions: int = field(default=16, metadata={"min": 1, "max": 1_000_000})
    """Texts of an image that are computed together, which bounds memory."""
    unit_size: int = field(default=256, metadata={"min": 1, "max": 100_000_000})
    """Images, each with its texts, between two saved units; a resumed evaluation repeats at most one."""
    workers: int = field(default=0, metadata={"min": 0, "max": 1024})
    """Processes on each device that read images and encode them with their texts."""
    max_pixels: int = field(default=MAX_PIXELS, metadata={"min": 1})
    """Most pixels that an image may grow to, padded to a square or enlarged for a model; larger ones are refused."""
    bootstrap: int = field(default=1000, metadata={"min": 100, "max": 100_000})
    """Resamples of images behind each 95 % interval."""

    def faults(self, place: str) -> Iterator[str]:
        """Sets whose folders would lie elsewhere, or in the place of another file."""
        yield from name_faults(self.sets, f"{place}sets", EVALUATION_FILES)


@dataclass
class EvaluateConfig:
    """`itm evaluate`: scorers on benchmarks, always with their blind control."""

    scorers: list[str] = field(default_factory=list)
    """A run (RUN, RUN@best), an exported folder or adapters, a checkpoint's folder or name, a scores table, a judge
    (judge:word:CAPTIONS:NEGATIVES) or a language model (lm:FOLDER). A single run is the key `run`."""
    run: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder of a finished `itm train`, where one run is evaluated."""
    output_dir: str | None = None
    """Folder for `metrics.csv` and the scores of each set: `${run}/evaluation` where one run is evaluated. Several
    scorers get a folder each in it."""
    benchmarks: list[str] = field(default_factory=list)
    """Benchmarks to evaluate on, each in the folder `benchmarks_root`/NAME, see `itm evaluate --list`; or YAML files of
    your own, such as mine.yaml, each a set called as its file."""
    benchmarks_root: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder with a folder for each benchmark, called as it. Its images lie in `images` there, or beside the files."""
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
    store: str | None = None
    """Folder in which scores stay, so that nothing is scored twice; `store` in `output_dir` where not given."""
    precision: str | None = field(default=None, metadata={"choices": PRECISIONS})
    """Type of a scorer's weights; that of its training, or of its `scorer.json`, where not given."""
    accelerator: str = field(default="auto", metadata={"choices": ACCELERATORS})
    """Hardware to score on."""
    devices: int = field(default=1, metadata={"min": 1, "max": 1024})
    """Processes on this machine that share the work, each on a device of its own; or start them by torchrun."""
    seed: int = field(default=0, metadata={"min": 0, "max": 2**32 - 1})
    """Seeds noise images and bootstrap."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where metrics go."""

    def __post_init__(self) -> None:
        if self.run is None and len(self.scorers) == 1:
            self._take_run(self.scorers[0])
        if self.output_dir is None and self.run is not None:
            which = "" if self.checkpoint == LAST else f"_{self.checkpoint}"
            self.output_dir = f"{self.run}/evaluation{which}"
        if self.store is None and self.output_dir is not None:
            self.store = f"{self.output_dir}/{STORE}"

    def _take_run(self, word: str) -> None:
        """Makes a single run the key `run`: so it was configured before there were other scorers."""
        folder, which = split_checkpoint(word)
        # Path("") is the folder that one stands in
        if folder and is_run(Path(folder)):
            self.run, self.scorers = folder, []
            self.checkpoint = which or self.checkpoint

    def faults(self, place: str) -> Iterator[str]:
        """No scorer, or a run beside others; weights and a score that the run has not; benchmarks without a folder."""
        if (self.run is None) == (not self.scorers):
            yield f"`{place}scorers` or `{place}run` must be given, and not both: what is to be evaluated?"
        yield from checkpoint_faults(self.checkpoint, place)
        if unnamed := [word for word in self.scorers if not split_checkpoint(word)[0]]:
            yield f"`{place}scorers` must each be {SCORER}, got {unnamed[0]!r}"
        if self.run is None:
            for key in ("score", "exclude_training_images"):
                if getattr(self, key):
                    yield f"`{place}{key}` needs `{place}run`: it is about one run"
            if self.checkpoint != LAST:
                yield f"`{place}checkpoint` needs `{place}run`; name other weights as RUN@{self.checkpoint}"
            if self.output_dir is None:
                yield f"`{place}output_dir` must be given where no single run is evaluated"
            if not self.benchmarks and not self.evaluation.sets:
                yield f"`{place}benchmarks` or `{place}evaluation.sets` must be given where no single run is evaluated"
        elif self.score is not None:
            yield from score_faults(self.run, self.score, place)
        yield from self._benchmark_faults(place)

    def _benchmark_faults(self, place: str) -> Iterator[str]:
        for word in dict.fromkeys(self.benchmarks):
            if is_own_benchmark(word):
                if not Path(word).is_file():
                    yield f"`{place}benchmarks` must be files that exist, got {word!r}"
            elif word not in BENCHMARKS or not BENCHMARKS[word].published:
                near = did_you_mean(word, BENCHMARKS)
                yield (
                    f"`{place}benchmarks` must be names of `itm evaluate --list` or YAML files of your own, "
                    f"got {word!r}{near}"
                )
            elif self.benchmarks_root is None:
                yield f"`{place}benchmarks_root` must be given where `{place}benchmarks` names {word}"
        names = [set_name(word) for word in self.benchmarks]
        yield from name_faults(dict.fromkeys(names), f"{place}benchmarks", EVALUATION_FILES)
        if twice := [name for name, count in Counter([*names, *self.evaluation.sets]).items() if count > 1]:
            yield f"`{place}benchmarks` and `{place}evaluation.sets` must have different names, got {twice[0]!r} twice"


@dataclass
class CompareConfig:
    """`itm compare`: evaluated scorers side by side."""

    runs: list[str] = field(default_factory=list, metadata={"exists": "folder"})
    """Folders of evaluated runs, of evaluations, or of evaluations of several scorers."""
    output_dir: str = MISSING
    """Folder for `index.html` and the tables."""
    reference: str | None = None
    """Name of the run or method that the others are compared with; the first where not given."""
    title: str = "Comparison"
    """Heading of the page."""
    note: str = ""
    """A sentence under the heading: what the numbers do and do not show."""
    missing: dict[str, str] = field(default_factory=dict)
    """Name of a run that is not evaluated yet -> why, such as the last lines of a failed one; a sweep fills it in."""
    audits: dict[str, str] = field(default_factory=dict, metadata={"exists": "file"})
    """Label -> `audit.json`, shown in this order."""
    examples: int = field(default=8, metadata={"min": 0, "max": 10_000})
    """Items shown with their images, texts and logits: what scorers disagree on, and what they fail on."""
    bootstrap: int = field(default=1000, metadata={"min": 100, "max": 100_000})
    """Resamples of images behind each 95 % interval and p-value; at least 40 for each other scorer are taken."""
    debias: bool = True
    """Metrics without alpha x the blind logit, too; alpha is chosen on the images of the other half."""
    seed: int = field(default=0, metadata={"min": 0, "max": 2**32 - 1})
    """Seeds the bootstrap, and the choice among examples that are as telling."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where metrics go."""
