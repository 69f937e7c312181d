"""A sweep as one of W&B's: its YAML for `wandb sweep`, and the experiments that its agents train."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from experiments.config.layers import ConfigError, nested
from experiments.config.sweep_schemas import SweepConfig
from experiments.sweeping.plan import merged
from experiments.sweeping.points import read_axes
from negatives.tables import write_text

SWEEP_FILE = "sweep.yaml"
EXPERIMENT = "config"
"""The parameter of W&B's sweep that chooses among listed runs and variants: `itm train --config=FILE`."""


def export_folder(config: SweepConfig) -> Path:
    """Where the files go: beside the sweep's folder, which may not be there yet."""
    folder = Path(config.output_dir)
    return folder.with_name(f"{folder.name}-wandb")


def wandb_files(config: SweepConfig) -> dict[str, str]:
    """Name -> text of the files of W&B's sweep: `sweep.yaml`, and a file for each listed run and variant.

    Raises:
        ConfigError: the sweep has what W&B's grid cannot say.
    """
    for key in ("zip", "exclude", "include"):
        if getattr(config, key):
            raise ConfigError(
                f"`{key}` must be left out of a sweep for W&B, whose grid has every combination: list its points as "
                "`variants` or `runs`"
            )
    axes = read_axes(config)
    named = [[(value.name, value.changes) for value in axes[axis]] for axis in config.variants]
    files = {}
    for run, *values in itertools.product(config.runs.items() or [("", {})], *named):
        parts = [run, *values]
        name = "-".join(part for part, _ in parts if part) or config.name
        changes = [nested(changes) for _, changes in parts]
        files[f"{name}.yaml"] = _experiment(config, name, merged(config.experiment, *changes))
    folder = export_folder(config)
    parameters: dict[str, Any] = {EXPERIMENT: {"values": [str(folder / name) for name in files]}}
    grid = {key: values for key, values in axes.items() if key not in config.variants}
    parameters |= {key: {"values": [value.shown for value in values]} for key, values in grid.items()}
    content = {
        "name": config.name,
        "project": config.logging.project,
        "method": "grid",
        "metric": _metric(config),
        "command": ["${env}", "itm", "train", "--resume=auto", "${args}"],
        "parameters": parameters,
    }
    if SWEEP_FILE in files:
        raise ConfigError(f"`runs` must name no run {SWEEP_FILE.removesuffix('.yaml')!r}: it is W&B's file; rename it")
    steps = ", ".join(config.prepare)
    head = f"# The steps {steps} have to be there: itm sweep runs them.\n" if steps else ""
    return {**files, SWEEP_FILE: head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}


def write_wandb_files(config: SweepConfig) -> Path:
    """Writes the files of `wandb_files`; returns that of the sweep."""
    folder = export_folder(config)
    for name, text in wandb_files(config).items():
        write_text(text, folder / name)
    return folder / SWEEP_FILE


def _experiment(config: SweepConfig, name: str, settings: Mapping[str, Any]) -> str:
    # an agent's trial reports to W&B while it runs
    logging = {"project": config.logging.project, "group": config.name, "wandb": "online"}
    own = {**settings, "name": name, "output_dir": str(Path(config.output_dir) / "trials" / name), "logging": logging}
    return yaml.safe_dump({"seed": config.seed, **own}, sort_keys=False, allow_unicode=True)


def _metric(config: SweepConfig) -> dict[str, str]:
    """What W&B's sweep looks at: the metric by which the best weights are kept, or the loss where nothing validates."""
    listed = [config.experiment, *config.runs.values()]
    if any("validation" in (run.get("data") or {}) for run in listed):
        names = [(run.get("trainer") or {}).get("best_metric") for run in listed]
        return {"name": next((name for name in names if name), "val/mean/accuracy"), "goal": "maximize"}
    return {"name": "train/loss/value", "goal": "minimize"}
