"""What can be configured of the verbs that load a scorer: train, score, export, neighbours.

Every verb has one dataclass, a docstring under each field; `experiments.verb_table` says where each is. Parts that
several share stand in files by subject: data, trainer, evaluation, models.

`field(metadata=...)` carries the rules that types cannot say and `config.load` checks: `min`, `max`, `above`
(bounds), `choices`, `exists` ("file" or "folder": must be there before the run starts), and `names` (becomes a file). A
method `faults(place)` yields what is wrong between keys. Seeds end at 2^32 - 1, where NumPy's do; sizes and counts end
where no machine could hold or start them, so that a slip of the keyboard is refused at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from datamodules import MAX_PIXELS
from experiments.config.data_schemas import DataConfig
from experiments.config.evaluation_schemas import EvaluationConfig
from experiments.config.model_schemas import score_faults
from experiments.config.trainer_schemas import LoggingConfig, OptimConfig, TrainerConfig
from lightning_modules import LAST, checkpoint_faults, did_you_mean
from lightning_modules.backbones import BACKBONES, ModelSettings, backbone_traits
from lightning_modules.losses import LOSSES, loss_class
from negatives.judging import ACCELERATORS


@dataclass
class ExperimentConfig:
    """`itm train`: one experiment."""

    name: str = field(default="experiment", metadata={"names": True})
    """Names the run in tables and in W&B."""
    seed: int = field(default=0, metadata={"min": 0, "max": 2**32 - 1})
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
        # what a loss needs is asked of its class: a new loss brings its own answers
        loss, chosen = loss_class(name), f"where `{place}model.loss` is {name}"
        if self.data.mixing.negatives == 0 and loss.needs_negatives(self.model.loss_section):
            yield f"`{place}data.mixing.negatives` must be above 0 {chosen}, to learn by"
        curriculum, trainer = self.data.mixing.curriculum, self.trainer
        if trainer.keep_best and self.data.validation is None:
            yield f"`{place}data.validation` must be given where `{place}trainer.keep_best` is above 0"
        # max_steps overrules the epochs, and repeats the data as often as needed
        if curriculum is not None and trainer.max_steps < 0 and curriculum.epochs > trainer.max_epochs:
            yield (
                f"`{place}data.mixing.curriculum.epochs` must be at most `{place}trainer.max_epochs`, got "
                f"{curriculum.epochs:g} and {trainer.max_epochs}: its end would never be reached"
            )
        if loss.anchors_only and self.data.mixing.positives > 1:
            yield (f"`{place}data.mixing.positives` must be 1 {chosen}: its contrast asks for a row's first text alone")
        yield from self._debias_faults(place)
        yield from self._benchmark_faults(place)
        if loss.contrasts_rows and self.data.mixing.image_dropout > 0:
            yield f"`{place}data.mixing.image_dropout` must be 0 {chosen}: it would match noise with its caption"
        if loss.contrasts_rows or backbone_traits(self.model.backbone).learns_scale:
            scaled = chosen if loss.contrasts_rows else f"where `{place}model.backbone` is {self.model.backbone}"
            if (trainer.strategy, trainer.precision) == ("fsdp", "bf16-mixed"):
                yield (
                    f"`{place}trainer.strategy` must not be fsdp {scaled} and `{place}trainer.precision` is "
                    "bf16-mixed: it would round the scale of similarities; use ddp"
                )
            # bf16 keeps 8 bits: near a scale of 100, neighbouring numbers are 0.5 apart
            if trainer.precision == "bf16-true":
                yield (
                    f"`{place}trainer.precision` must not be bf16-true {scaled}: the scale of similarities would round "
                    "every step away; use bf16-mixed"
                )

    def _benchmark_faults(self, place: str) -> Iterator[str]:
        """Benchmarks of the validation that are no sets, or that no validation would score."""
        names, sets = self.trainer.validate_benchmarks, self.evaluation.sets
        for name in [name for name in names if name not in sets]:
            near, known = did_you_mean(name, sets), ", ".join(sets) or "none"
            key = f"{place}trainer.validate_benchmarks"
            yield f"`{key}` must name `{place}evaluation.sets` ({known}), got {name!r}{near}"
        if names and self.data.validation is None:
            yield f"`{place}data.validation` must be given where `{place}trainer.validate_benchmarks` names some"

    def _debias_faults(self, place: str) -> Iterator[str]:
        """An offset for a loss that takes none, and strengths that several positives would have to share."""
        loss, name = loss_class(self.model.own_loss), self.model.own_loss
        if self.data.debias == "none":
            return
        if loss.blind_unit is None:
            able = ", ".join(name for name in LOSSES if loss_class(name).blind_unit)
            yield f"`{place}data.debias` must be none where `{place}model.loss` is {name}; those with an offset: {able}"
        by_type = isinstance(self.data.debias_strength, dict)
        if by_type and loss.blind_unit == "pair" and self.data.mixing.positives > 1:
            yield (
                f"`{place}data.debias_strength` must be one number where `{place}model.loss` is {name} and "
                f"`{place}data.mixing.positives` is above 1: a row's texts are compared"
            )


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
    checkpoint: str = LAST
    """Which weights of the run: last, the best that it kept (`trainer.keep_best`), or the number of a step it kept."""
    batch_size: int = field(default=64, metadata={"min": 1, "max": 1_000_000})
    """Images scored at a time."""
    shard_size: int = field(default=1024, metadata={"min": 1, "max": 100_000_000})
    """Images between two saved parts; a resumed run repeats at most one part."""
    workers: int = field(default=0, metadata={"min": 0, "max": 1024})
    """Processes on each device that read images and encode them with their captions."""
    devices: int = field(default=1, metadata={"min": 1, "max": 1024})
    """Processes on this machine that share the work, each on a device of its own; or start them by torchrun."""
    max_pixels: int = field(default=MAX_PIXELS, metadata={"min": 1})
    """Most pixels that an image may grow to, padded to a square or enlarged for a model; larger ones are refused."""
    accelerator: str = field(default="auto", metadata={"choices": ACCELERATORS})
    """Hardware to score on."""

    def faults(self, place: str) -> Iterator[str]:
        """Nothing that could score, and a score that the run's backbone has not."""
        yield from checkpoint_faults(self.checkpoint, place)
        if self.run is None and self.model.checkpoint is None:
            yield f"`{place}run` or `{place}model.checkpoint` must be given: what is to score?"
        if self.run is not None and self.model.checkpoint is not None:
            yield f"`{place}model.checkpoint` must not be given beside `{place}run`: leave one of them out"
        if self.score is not None and self.run is None:
            yield f"`{place}score` needs `{place}run`; give `{place}model.score`"
        elif self.score is not None and self.run is not None:
            yield from score_faults(self.run, self.score, place)


@dataclass
class ExportConfig:
    """`itm export`: a trained run as a folder that Transformers, or PEFT, loads without this package."""

    run: str = field(default=MISSING, metadata={"exists": "folder"})
    """Folder of a finished `itm train`."""
    output_dir: str = "${run}/export"
    """Folder for weights, processor, `scorer.json` and the model card, `README.md`."""
    checkpoint: str = LAST
    """Which weights of the run: last, the best that it kept (`trainer.keep_best`), or the number of a step it kept."""
    merge: bool = False
    """Add adapters to the base's weights and write the whole model; a run without adapters is written whole anyway."""
    licence: str | None = None
    """Licence on the card, by the hub's name for it; that of the base, as far as it is known, where not given."""

    def faults(self, place: str) -> Iterator[str]:
        """Weights that no run has."""
        yield from checkpoint_faults(self.checkpoint, place)


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
    batch_size: int = field(default=64, metadata={"min": 1, "max": 1_000_000})
    """Images encoded at a time."""
    max_pixels: int = field(default=MAX_PIXELS, metadata={"min": 1})
    """Most pixels that an image may grow to, padded to a square or enlarged for a model; larger ones are refused."""
    accelerator: str = field(default="auto", metadata={"choices": ACCELERATORS})
    """Hardware to encode on."""

    def faults(self, place: str) -> Iterator[str]:
        """Nothing that encodes images, or a scorer that reads them with their captions."""
        if self.run is None and self.model.checkpoint is None:
            yield f"`{place}run` or `{place}model.checkpoint` must be given: what is to compare images?"
        if self.run is not None and self.model.checkpoint is not None:
            yield f"`{place}model.checkpoint` must not be given beside `{place}run`: leave one of them out"
        if self.run is None and not backbone_traits(self.model.backbone).encodes_images:
            able = [name for name in BACKBONES if backbone_traits(name).encodes_images]
            yield (
                f"`{place}model.backbone` must be one whose image features can be compared ({', '.join(able)}), got "
                f"{self.model.backbone}"
            )
