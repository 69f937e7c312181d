"""What can be configured of the verbs that load a scorer: train, score, export, neighbours.

Every verb has one dataclass, a docstring under each field; `experiments.verb_table` says where each is. Parts that
several share stand in files by subject: data, trainer, evaluation, models.

`field(metadata=...)` carries the rules that types cannot say and `config.load` checks: `min`, `max`, `above`
(bounds), `choices`, and `exists` ("file" or "folder": must be there before the run starts). A method `faults(place)`
yields what is wrong between keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from experiments.config.data_schemas import DataConfig
from experiments.config.evaluation_schemas import EvaluationConfig
from experiments.config.model_schemas import ModelConfig
from experiments.config.trainer_schemas import ACCELERATORS, LoggingConfig, OptimConfig, TrainerConfig


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
    model: ModelConfig = field(default_factory=ModelConfig)
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
        loss = self.model.own_loss
        itc_itm, ce_clip = self.model.itc_itm, self.model.ce_clip
        needs_none = {
            "itc": True,
            "itc_itm": itc_itm.in_batch_negatives or not itc_itm.itm_weight,
            "ce_clip": not (ce_clip.imc_weight or ce_clip.cmr_weight),
        }
        if self.data.mixing.negatives == 0 and not needs_none.get(loss, False):
            yield f"`{place}data.mixing.negatives` must be above 0 where `{place}model.loss` is {loss}, to learn by"
        curriculum, trainer = self.data.mixing.curriculum, self.trainer
        if curriculum is not None and trainer.max_steps < 0 and curriculum.epochs > trainer.max_epochs:
            yield (
                f"`{place}data.mixing.curriculum.epochs` must be at most `{place}trainer.max_epochs`, got "
                f"{curriculum.epochs:g} and {trainer.max_epochs}: its end would never be reached"
            )
        if self.model.backbone == "clip" and self.data.mixing.positives > 1:
            yield (
                f"`{place}data.mixing.positives` must be 1 where `{place}model.backbone` is clip: its contrast asks "
                "for the first text of a row alone"
            )
        contrast = "backbone` is clip" if self.model.backbone == "clip" else "loss` is itc_itm"
        if self.model.backbone == "clip" or self.model.loss == "itc_itm":
            if (self.trainer.strategy, self.trainer.precision) == ("fsdp", "bf16-mixed"):
                yield (
                    f"`{place}trainer.strategy` must not be fsdp where `{place}model.{contrast} and "
                    f"`{place}trainer.precision` is bf16-mixed: it would round the scale of similarities; use ddp"
                )
            if self.trainer.precision == "bf16-true":
                yield (
                    f"`{place}trainer.precision` must not be bf16-true where `{place}model.{contrast}: the "
                    "scale of similarities would round every step away; use bf16-mixed"
                )
            if self.data.mixing.image_dropout > 0:
                yield (
                    f"`{place}data.mixing.image_dropout` must be 0 where `{place}model.{contrast}: its loss would "
                    "match noise with its caption"
                )


@dataclass
class ScoreConfig:
    """`itm score`: scores a table of image-caption pairs."""

    run: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder of a finished `itm train`; or give `model.checkpoint`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Used where no run is given."""
    captions: str = field(default=MISSING, metadata={"exists": "file"})
    """Captions table to score."""
    image_root: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder that image paths start from; the table's own folder where not given."""
    output_dir: str = MISSING
    """Folder for `scores.parquet`."""
    score: str | None = field(default=None, metadata={"choices": ("itm", "itc", "itm_itc")})
    """Overrules `model.score` of a blip2 run."""
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

    accelerator: str = field(default="auto", metadata={"choices": ACCELERATORS})
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
    """Folder of a finished `itm train` of a clip; or give `model.checkpoint`."""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(backbone="clip"))
    """Used where no run is given; a clip."""
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
    accelerator: str = field(default="auto", metadata={"choices": ACCELERATORS})
    """Hardware to encode on."""

    def faults(self, place: str) -> Iterator[str]:
        """Nothing that encodes images, or a scorer that is no CLIP."""
        if self.run is None and self.model.checkpoint is None:
            yield f"`{place}run` or `{place}model.checkpoint` must be given: what is to compare images?"
        if self.run is not None and self.model.checkpoint is not None:
            yield f"`{place}model.checkpoint` must not be given beside `{place}run`: leave one of them out"
        if self.run is None and self.model.backbone != "clip":
            yield (
                f"`{place}model.backbone` must be clip, whose image features are compared, got {self.model.backbone}"
            )
