"""What can be configured: one dataclass for every verb, a docstring under each field.

`field(metadata=...)` carries the rules that types cannot say and `config.load` checks: `min`, `max`, `above`
(bounds), `choices`, and `exists` ("file" or "folder": must be there before the run starts).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from lightning_modules.backbones import BACKBONES, backbone_class
from lightning_modules.backbones.loss_settings import loss_class
from lightning_modules.backbones.settings import ModelSettings

SUBSETS = ("all", "kept", "random")


@dataclass
class CurriculumConfig:
    """Where the mixing starts: each value that is given moves linearly to the mixing's own."""

    epochs: float = field(default=1.0, metadata={"above": 0.0})
    """Passes over the data until the mixing's own values are reached; a fraction ends within an epoch."""
    negatives: float | None = field(default=None, metadata={"min": 0.0})
    """Negatives for each positive at the start; constant where not given."""
    swap_ratio: float | None = field(default=None, metadata={"min": 0.0, "max": 1.0})
    """Chance of a swap at the start; constant where not given."""
    paraphrase_ratio: float | None = field(default=None, metadata={"min": 0.0, "max": 1.0})
    """Chance of a paraphrase at the start; constant where not given."""

    def faults(self, place: str) -> Iterator[str]:
        """Nothing that moves."""
        if (self.negatives, self.swap_ratio, self.paraphrase_ratio) == (None, None, None):
            keys = ", ".join(f"`{place}{key}`" for key in ("negatives", "swap_ratio"))
            yield f"{keys} or `{place}paraphrase_ratio` must be given: where does the curriculum start?"


@dataclass
class MixingConfig:
    """How negatives join positives in a row."""

    unit: str = field(default="text", metadata={"choices": ("text", "pair")})
    """text: a row is kept positives and any kept negatives of their image. pair: one and its own kept negatives."""
    positives: int = field(default=1, metadata={"min": 1})
    """Kept positives of an image in a row (unit: text); they share its vision pass and prefix."""
    negatives: float = field(default=1.0, metadata={"min": 0.0})
    """Negatives drawn for each positive; of 1.3, one and with chance 0.3 a second."""
    swap_ratio: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    """Chance that a drawn negative is a swap one."""
    paraphrase_ratio: float | None = field(default=None, metadata={"min": 0.0, "max": 1.0})
    """Chance that a kept paraphrase stands in for its caption in an epoch, with the caption's negatives. Not given:
    paraphrases (captions with `source_caption_id`) are positives like any others. Given: those of captions that were
    not kept are not used."""
    image_dropout: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    """Chance that a row's image is replaced by noise: the scorer learns what the text alone is worth, which is what the
    blind control then reads off (as the condition is dropped for classifier-free guidance)."""
    curriculum: CurriculumConfig | None = None
    """Other values to start from; none where not given."""

    def faults(self, place: str) -> Iterator[str]:
        """A curriculum of paraphrases that ends nowhere."""
        start = self.curriculum.paraphrase_ratio if self.curriculum is not None else None
        if start is not None and self.paraphrase_ratio is None:
            yield f"`{place}paraphrase_ratio` must be given where `{place}curriculum.paraphrase_ratio` is"


@dataclass
class PairsConfig:
    """Positives and negatives to evaluate on: our tables, or a benchmark in its official files."""

    format: str = field(default="tables", metadata={"choices": ("tables", "sugarcrepe")})
    """tables: `captions` and `negatives`. sugarcrepe: a folder of the benchmark's JSON files in `annotations`."""
    captions: str | None = field(default=None, metadata={"exists": "file"})
    """Captions table (Parquet or JSONL)."""
    negatives: str | None = field(default=None, metadata={"exists": "file"})
    """Negatives table of these captions (Parquet or JSONL)."""
    annotations: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder of the benchmark's official annotation files."""
    image_root: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder that image paths start from; the table's own folder where not given."""
    image_ids: str | None = field(default=None, metadata={"exists": "file"})
    """Captions table whose images are the only ones used (how a benchmark is restricted to a fold)."""

    def faults(self, place: str) -> Iterator[str]:
        """Keys that the format needs and that are not given."""
        needed = ("captions", "negatives") if self.format == "tables" else ("annotations", "image_root")
        for key in needed:
            if getattr(self, key) is None:
                yield f"`{place}{key}` must be given where `{place}format` is {self.format}"


@dataclass
class DataConfig:
    """Training data and how it is drawn."""

    captions: Any = field(default=MISSING, metadata={"exists": "file"})
    """Captions table (Parquet or JSONL), or a list of tables."""
    negatives: Any = field(default=MISSING, metadata={"exists": "file"})
    """Negatives table of these captions, or a list of tables."""
    verdicts: str | None = field(default=None, metadata={"exists": "file"})
    """Verdicts of `itm filter`; needed for `subset` kept and random."""
    subset: str = field(default="all", metadata={"choices": SUBSETS})
    """all: every text. kept: what the filter kept. random: as many texts of each class as it kept, drawn at random."""
    harmonise: bool = True
    """Each negative takes its positive's casing, final punctuation and white space, as `itm filter` judged them."""
    image_root: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder that image paths start from; the captions table's own folder where not given."""
    neighbours: str | None = field(default=None, metadata={"exists": "file"})
    """Table of `itm neighbours`: beside each row of a batch, one of a neighbour of its image (NegCLIP's hard images),
    drawn anew in every epoch; a batch then has up to twice `batch_size` rows."""
    mixing: MixingConfig = field(default_factory=MixingConfig)
    """How negatives join positives."""
    batch_size: int = field(default=64, metadata={"min": 1})
    """Rows, each of one image, in a batch on each device."""
    num_workers: int = field(default=0, metadata={"min": 0})
    """Loader processes on each device."""
    validation: PairsConfig | None = None
    """Pairs scored during training for the learning curves; none where not given."""

    def faults(self, place: str) -> Iterator[str]:
        """A subset without verdicts, and several tables without a folder that their images start from."""
        if self.subset != "all" and self.verdicts is None:
            yield f"`{place}verdicts` must be given where `{place}subset` is {self.subset}: run `itm filter`"
        if isinstance(self.captions, list) and self.image_root is None:
            yield f"`{place}image_root` must be given where `{place}captions` lists several tables"


@dataclass
class OptimConfig:
    """AdamW with linear warm-up and cosine decay to zero."""

    lr: float = field(default=2e-5, metadata={"above": 0.0})
    """Peak learning rate."""
    projector_lr: float | None = field(default=None, metadata={"above": 0.0})
    """Peak learning rate of the projector (llava), heads (blip2) or projections (clip); `lr` where not given."""
    weight_decay: float = field(default=0.0, metadata={"min": 0.0})
    """Decay of matrices; 1-D parameters never decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's averaging coefficients."""
    eps: float = field(default=1e-8, metadata={"above": 0.0})
    """AdamW's term against division by zero."""
    warmup_ratio: float = field(default=0.03, metadata={"min": 0.0, "max": 1.0})
    """Part of all steps spent warming up."""
    warmup_steps: int | None = field(default=None, metadata={"min": 0})
    """Steps spent warming up; overrules `warmup_ratio` where given."""
    gradient_clip: float = field(default=1.0, metadata={"min": 0.0})
    """Largest gradient norm; 0 leaves gradients alone."""

    def faults(self, place: str) -> Iterator[str]:
        """Averaging coefficients that do not average."""
        if not all(0 <= beta < 1 for beta in self.betas):
            yield f"`{place}betas` must be in [0, 1), got {list(self.betas)}"


@dataclass
class TrainerConfig:
    """Passed on to Lightning's Trainer."""

    accelerator: str = field(default="auto", metadata={"choices": ("auto", "cpu", "gpu", "cuda", "mps")})
    """Hardware to train on."""
    devices: int = field(default=1, metadata={"min": 1})
    """Devices on each node."""
    num_nodes: int = field(default=1, metadata={"min": 1})
    """Nodes."""
    strategy: str = field(default="auto", metadata={"choices": ("auto", "ddp", "fsdp")})
    """How devices share the work. auto: ddp where there are several. fsdp: weights, gradients and optimiser states are
    sharded too (FSDP2)."""
    precision: str = field(default="32-true", metadata={"choices": ("32-true", "bf16-mixed", "bf16-true", "16-mixed")})
    """Numeric precision, in Lightning's words."""
    max_epochs: int = field(default=1, metadata={"min": 1})
    """Passes over the kept positives."""
    max_steps: int = field(default=-1, metadata={"min": -1})
    """Optimiser steps; overrules `max_epochs` where set, repeating the data as often as needed. -1: not limited."""
    accumulate: int = field(default=1, metadata={"min": 1})
    """Batches whose gradients make one optimiser step."""
    validate_every: int | None = field(default=None, metadata={"min": 1})
    """Optimiser steps, of `accumulate` batches each, between validations; once per epoch where not given."""
    checkpoint_every: int | None = field(default=None, metadata={"min": 1})
    """Optimiser steps between resumable checkpoints; once per epoch where not given."""
    log_every: int = field(default=10, metadata={"min": 1})
    """Optimiser steps between logged losses."""

    def faults(self, place: str) -> Iterator[str]:
        """A precision that sharding does not know."""
        if self.strategy == "fsdp" and self.precision == "16-mixed":
            yield f"`{place}precision` must not be 16-mixed where `{place}strategy` is fsdp; use bf16-mixed"


@dataclass
class LoggingConfig:
    """W&B beside the CSV files that are always written."""

    wandb: str = field(default="offline", metadata={"choices": ("offline", "online", "disabled")})
    """offline: recorded in the run's folder, uploaded later by `wandb sync`."""
    project: str = "itm-lightning"
    """W&B project."""
    group: str | None = None
    """W&B group; a sweep sets its own name."""


@dataclass
class EvaluationConfig:
    """Benchmarks, each with its blind control."""

    sets: dict[str, PairsConfig] = field(default_factory=dict)
    """Name -> pairs to evaluate on."""
    batch_size: int = field(default=64, metadata={"min": 1})
    """Images scored at a time."""
    bootstrap: int = field(default=1000, metadata={"min": 100})
    """Resamples of images behind each 95 % interval."""


@dataclass
class ExperimentConfig:
    """`itm train`: one experiment."""

    name: str = "experiment"
    """Names the run in tables and in W&B."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seeds weights, data order and negatives."""
    output_dir: str = "runs/${name}"
    """Folder of the run."""
    data: DataConfig = field(default_factory=DataConfig)
    """Training data."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """The scorer."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Hardware, length and precision."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where metrics go."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What `itm evaluate` runs the checkpoint on."""

    def faults(self, place: str) -> Iterator[str]:
        """What a contrastive loss and its scale do not go with, and a loss that ranks without negatives."""
        name = self.model.own_loss
        loss, chosen = loss_class(name), f"where `{place}model.loss` is {name}"
        if self.data.mixing.negatives == 0 and loss.needs_negatives(self.model.loss_section):
            yield f"`{place}data.mixing.negatives` must be above 0 {chosen}, to learn by"
        curriculum, trainer = self.data.mixing.curriculum, self.trainer
        if curriculum is not None and trainer.max_steps < 0 and curriculum.epochs > trainer.max_epochs:
            yield (
                f"`{place}data.mixing.curriculum.epochs` must be at most `{place}trainer.max_epochs`, got "
                f"{curriculum.epochs:g} and {trainer.max_epochs}: its end would never be reached"
            )
        if loss.anchors_only and self.data.mixing.positives > 1:
            yield (f"`{place}data.mixing.positives` must be 1 {chosen}: its contrast asks for a row's first text alone")
        if loss.contrasts_rows:
            if (trainer.strategy, trainer.precision) == ("fsdp", "bf16-mixed"):
                yield (
                    f"`{place}trainer.strategy` must not be fsdp {chosen} and `{place}trainer.precision` is "
                    "bf16-mixed: it would round the scale of similarities; use ddp"
                )
            if trainer.precision == "bf16-true":
                yield (
                    f"`{place}trainer.precision` must not be bf16-true {chosen}: the scale of similarities would round "
                    "every step away; use bf16-mixed"
                )
            if self.data.mixing.image_dropout > 0:
                yield f"`{place}data.mixing.image_dropout` must be 0 {chosen}: it would match noise with its caption"


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
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Sets; those of the run's own configuration where none is given."""
    accelerator: str = field(default="auto", metadata={"choices": ("auto", "cpu", "gpu", "cuda", "mps")})
    """Hardware to score on."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seeds noise images and bootstrap."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where metrics go."""


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
    examples: int = field(default=8, metadata={"min": 0})
    """Images shown with their captions and scores."""
    bootstrap: int = field(default=1000, metadata={"min": 100})
    """Resamples of images behind each 95 % interval."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seeds the bootstrap and the choice of examples."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where metrics go."""


@dataclass
class ScoreConfig:
    """`itm score`: scores a table of image-caption pairs."""

    run: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder of a finished `itm train`; or give `model.checkpoint`."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """Used where no run is given."""
    captions: str = field(default=MISSING, metadata={"exists": "file"})
    """Captions table to score."""
    image_root: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder that image paths start from; the table's own folder where not given."""
    output_dir: str = MISSING
    """Folder for `scores.parquet`."""
    score: str | None = None
    """Overrules `model.score` of a run whose backbone has several scores."""
    batch_size: int = field(default=64, metadata={"min": 1})
    """Images scored at a time."""
    shard_size: int = field(default=1024, metadata={"min": 1})
    """Images between two saved parts; a resumed run repeats at most one part."""

    def faults(self, place: str) -> Iterator[str]:
        """Nothing that could score."""
        if self.run is None and self.model.checkpoint is None:
            yield f"`{place}run` or `{place}model.checkpoint` must be given: what is to score?"
        if self.run is not None and self.model.checkpoint is not None:
            yield f"`{place}model.checkpoint` must not be given beside `{place}run`: leave one of them out"

    accelerator: str = field(default="auto", metadata={"choices": ("auto", "cpu", "gpu", "cuda", "mps")})
    """Hardware to score on."""


@dataclass
class ExportConfig:
    """`itm export`: a trained run as a folder that Transformers, or PEFT, loads without this package."""

    run: str = field(default=MISSING, metadata={"exists": "folder"})
    """Folder of a finished `itm train`."""
    output_dir: str = "${run}/export"
    """Folder for weights, processor, `scorer.json` and the model card, `README.md`."""
    merge: bool = False
    """Add adapters to the base's weights and write the whole model; a run without adapters is written whole anyway."""
    licence: str | None = None
    """Licence on the card, by the hub's name for it; that of the base, as far as it is known, where not given."""


@dataclass
class NeighboursConfig:
    """`itm neighbours`: the images nearest to each image."""

    run: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder of a finished `itm train` whose backbone encodes images alone (clip); or give `model.checkpoint`."""
    model: ModelSettings = field(default_factory=lambda: ModelSettings(backbone="clip"))
    """Used where no run is given; of a backbone that encodes images alone."""
    captions: str = field(default=MISSING, metadata={"exists": "file"})
    """Captions table of the images."""
    image_root: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder that image paths start from; the table's own folder where not given."""
    output_dir: str = MISSING
    """Folder for `neighbours.parquet`."""
    k: int = field(default=3, metadata={"min": 1})
    """Neighbours of each image."""
    batch_size: int = field(default=64, metadata={"min": 1})
    """Images encoded at a time."""
    accelerator: str = field(default="auto", metadata={"choices": ("auto", "cpu", "gpu", "cuda", "mps")})
    """Hardware to encode on."""

    def faults(self, place: str) -> Iterator[str]:
        """Nothing that encodes images, or a scorer that reads them with their captions."""
        if self.run is None and self.model.checkpoint is None:
            yield f"`{place}run` or `{place}model.checkpoint` must be given: what is to compare images?"
        if self.run is not None and self.model.checkpoint is not None:
            yield f"`{place}model.checkpoint` must not be given beside `{place}run`: leave one of them out"
        if self.run is None and not backbone_class(self.model.backbone).encodes_images:
            able = [name for name in BACKBONES if backbone_class(name).encodes_images]
            yield (
                f"`{place}model.backbone` must be one whose image features can be compared ({', '.join(able)}), got "
                f"{self.model.backbone}"
            )


@dataclass
class StepConfig:
    """One verb run before a sweep's experiments."""

    verb: str = field(default=MISSING, metadata={"choices": ("generate", "audit", "filter", "train", "neighbours")})
    """Which verb."""
    config: dict[str, Any] = field(default_factory=dict)
    """Its configuration; that of a training may have a `base: file.yaml`."""


@dataclass
class SweepConfig:
    """`itm sweep`: many experiments from one file."""

    name: str = "sweep"
    """Names the sweep; the W&B group of its runs."""
    output_dir: str = "runs/${name}"
    """Folder of the sweep: `manifest.json`, the steps' folders, `runs/` and `report/`."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of the sweep, for steps and experiments to refer to as ${seed}."""
    prepare: dict[str, StepConfig] = field(default_factory=dict)
    """Name -> a verb run once, in order, before the experiments; it writes into `<output_dir>/<name>`."""
    experiment: dict[str, Any] = field(default_factory=dict)
    """What all runs share: an experiment's keys, `base: file.yaml` among them."""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Listed runs: name -> dotted keys or nested ones that differ; `base: file.yaml` instead of the shared one."""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """Dotted key -> values; every combination is run, for every listed run."""
    compare: dict[str, Any] = field(default_factory=dict)
    """How the evaluated runs are compared, in `itm compare`'s keys; the sweep fills in `runs` and `output_dir`."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where the comparison's metrics go."""
