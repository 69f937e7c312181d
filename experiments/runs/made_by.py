"""Whose a checkpoint is: a hash of the configuration that made it, by which another one's is not gone on from."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from datamodules import MAX_PIXELS
from experiments.config.load import to_yaml
from experiments.config.schemas import ExperimentConfig
from experiments.config.trainer_schemas import LoggingConfig
from experiments.runs.outputs import CONFIG_FILE
from lightning_modules import read_plain_yaml
from negatives.tables import write_text

NOTE = "checkpoints/former_made_by"
"""In a run's folder: the hash in a checkpoint of an older version, once `config.yaml` no longer tells it."""


def made_by(config: ExperimentConfig) -> str:
    """A hash of the configuration, aside from what changes no weight: a checkpoint of another is not gone on from."""
    data = replace(config.data, max_pixels=MAX_PIXELS)
    return _hash(to_yaml(replace(config, data=data, logging=LoggingConfig())))


def former_made_by(folder: Path, config: ExperimentConfig) -> str | None:
    """`made_by` of a run whose configuration has other keys, as an older version wrote them; None of any other.

    Args:
        folder: of a run that was checked to be of `config`, as far as both have the same keys.
        config: today's.
    """
    if (folder / NOTE).is_file():
        return (folder / NOTE).read_text(encoding="utf-8")
    try:
        saved: Any = read_plain_yaml(folder / CONFIG_FILE)
        logging = asdict(LoggingConfig())
        saved["logging"] = {key: logging[key] for key in saved["logging"]}
        if "max_pixels" in saved["data"]:
            saved["data"]["max_pixels"] = MAX_PIXELS
    except Exception:  # no file, or one that says nothing: `OutputFolder` lets a run go on beside it too
        return None
    # older hashes are of the text in their order
    former = _hash(OmegaConf.to_yaml(OmegaConf.create(saved)))
    return former if former != made_by(config) else None


def note_former(folder: Path, former: str) -> None:
    """Keeps `former_made_by` for the time between a new `config.yaml` and the first new checkpoint."""
    write_text(former, folder / NOTE)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
