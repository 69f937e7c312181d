"""What can be configured of `itm sweep`; see `experiments.config.schemas`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.config.trainer_schemas import LoggingConfig
from experiments.verb_table import TASKS

# schemas read the table of verbs, never the other way: it holds their names as text
STEPS = tuple(name for name, verb in TASKS.items() if verb.prepares)


@dataclass
class StepConfig:
    """One verb run before a sweep's experiments."""

    verb: str = field(default=MISSING, metadata={"choices": STEPS})
    """Which verb."""
    config: dict[str, Any] = field(default_factory=dict)
    """Its configuration; that of a training may have a `base: file.yaml`."""


@dataclass
class SweepConfig:
    """`itm sweep`: many experiments from one file."""

    name: str = field(default="sweep", metadata={"names": True})
    """Names the sweep; the W&B group of its runs."""
    output_dir: str = "runs/${name}"
    """Folder of the sweep: `manifest.json`, the steps' folders, `runs/` and `report/`."""
    seed: int = field(default=0, metadata={"min": 0, "max": 2**32 - 1})
    """Seed of the sweep, for steps and experiments to refer to as ${seed}."""
    prepare: dict[str, StepConfig] = field(default_factory=dict)
    """Name -> a verb run once, in order, before the experiments; it writes into `<output_dir>/<name>`."""
    experiment: dict[str, Any] = field(default_factory=dict)
    """What all runs share: an experiment's keys, `base: file.yaml` among them."""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Listed runs: name -> dotted keys or nested ones that differ; `base: file.yaml` instead of the shared one."""
    variants: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Named values: axis -> name -> dotted keys that differ. Combined like an axis of `grid`; runs are called by the
    names."""
    grid: dict[str, Any] = field(default_factory=dict)
    """Dotted key -> list of values; every combination is run, for every listed run."""
    zip: list[list[str]] = field(default_factory=list)
    """Axes of `grid` and `variants` that advance together, in groups: their first values, their second ones, ..."""
    exclude: list[dict[str, Any]] = field(default_factory=list)
    """Combinations to leave out: axis -> value (of `variants`: its name; `run`: that of a listed run)."""
    include: list[dict[str, Any]] = field(default_factory=list)
    """Further points: dotted key -> value, for every listed run, or for the one that `run` names."""
    workers: int = field(default=1, metadata={"min": 1, "max": 1024})
    """Tasks at a time of one process: GPUs are dealt out among them, the threads of a CPU split."""
    compare: dict[str, Any] = field(default_factory=dict)
    """How the evaluated runs are compared, in `itm compare`'s keys; the sweep fills in `runs` and `output_dir`.
    `live: true` compares anew after each evaluated run."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where the comparison's metrics go."""
