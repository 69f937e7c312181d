"""What can be configured of a training beside its data and model: optimiser, hardware and length, logs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from negatives.judging import ACCELERATORS


# The defaults are those of LLaVA-1.5's fine-tuning: 2e-5, no decay, 3 % of warm-up, cosine (Liu et al., CVPR 2024).
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

    accelerator: str = field(default="auto", metadata={"choices": ACCELERATORS})
    """Hardware to train on."""
    devices: int = field(default=1, metadata={"min": 1, "max": 1024})
    """Devices on each node."""
    num_nodes: int = field(default=1, metadata={"min": 1, "max": 100_000})
    """Nodes."""
    strategy: str = field(default="auto", metadata={"choices": ("auto", "ddp", "fsdp")})
    """How devices share the work. auto: ddp where there are several. fsdp: weights, gradients and optimiser states are
    sharded too (FSDP2)."""
    precision: str = field(default="32-true", metadata={"choices": ("32-true", "bf16-mixed", "bf16-true", "16-mixed")})
    """Numeric precision, in Lightning's words."""
    max_epochs: int = field(default=1, metadata={"min": 1})
    """Passes over the kept positives."""
    max_steps: int = field(default=-1, metadata={"min": -1})
    """Optimiser steps; overrules `max_epochs` where set, repeating the data as often as needed. 0: none, so
    that no weight moves. -1: not limited."""
    accumulate: int = field(default=1, metadata={"min": 1, "max": 1_000_000})
    """Batches whose gradients make one optimiser step."""
    validate_every: int | None = field(default=None, metadata={"min": 1})
    """Optimiser steps, of `accumulate` batches each, between validations; once per epoch where not given."""
    validate_benchmarks: list[str] = field(default_factory=list)
    """Names of `evaluation.sets` that are scored in validations too; their metrics are logged as val/SET/METRIC."""
    validate_benchmarks_every: int = field(default=1, metadata={"min": 1})
    """Every how many validations they are scored."""
    checkpoint_every: int | None = field(default=None, metadata={"min": 1})
    """Optimiser steps between resumable checkpoints; once per epoch where not given."""
    checkpoint_minutes: float | None = field(default=None, metadata={"above": 0.0})
    """Minutes between further resumable checkpoints: what a crash costs at most."""
    keep_best: int = field(default=0, metadata={"min": 0, "max": 100})
    """Keep the weights of so many best validations beside the last ones; `itm evaluate RUN checkpoint=best` reads
    them."""
    best_metric: str = "val/mean/accuracy"
    """Validation metric that decides which are best, higher = better: val/TYPE/accuracy of a negative type, or of the
    mean over types; or one of `validate_benchmarks`, such as val/SET/group."""
    log_every: int = field(default=10, metadata={"min": 1})
    """Optimiser steps between logged losses."""

    def faults(self, place: str) -> Iterator[str]:
        """A precision that sharding does not know, and benchmarks whose validation never comes."""
        by_epoch = self.validate_every is None and self.max_steps < 0
        if self.validate_benchmarks and by_epoch and self.validate_benchmarks_every > self.max_epochs:
            yield (
                f"`{place}validate_benchmarks_every` must be at most `{place}max_epochs`, got "
                f"{self.validate_benchmarks_every} and {self.max_epochs}: there is one validation in an epoch"
            )
        if self.strategy == "fsdp" and self.precision == "16-mixed":
            yield f"`{place}precision` must not be 16-mixed where `{place}strategy` is fsdp; use bf16-mixed"


@dataclass
class LoggingConfig:
    """W&B beside the CSV files that are always written."""

    wandb: str = field(default="offline", metadata={"choices": ("offline", "online", "disabled")})
    """offline: recorded in the run's folder, uploaded later by `itm sync`."""
    project: str = "itm-lightning"
    """W&B project."""
    group: str | None = None
    """W&B group; a sweep sets its own name."""
    tags: list[str] = field(default_factory=list)
    """W&B tags; a sweep adds the arm of each run, and a training its backbone."""
    samples: int = field(default=32, metadata={"min": 0, "max": 1000})
    """Items of an evaluation that W&B shows with their images, captions, logits and outcome."""
