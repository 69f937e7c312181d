"""W&B: the logger of a verb, as its `logging` section says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.config.trainer_schemas import LoggingConfig


def wandb_logger(
    config: LoggingConfig, *, folder: Path, name: str, job_type: str, settings: Any, run_id: str | None = None
) -> Any | None:
    """Lightning's WandbLogger as configured, or None where W&B is disabled; `run_id` of a run to go on in."""
    if config.wandb == "disabled":
        return None
    # nothing of W&B is imported where it is disabled
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    folder.mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        name=name,
        id=run_id,
        save_dir=str(folder),
        offline=config.wandb == "offline",
        project=config.project,
        group=config.group,
        job_type=job_type,
        config=dataclasses.asdict(settings),
        settings=wandb.Settings(console="off", silent=config.wandb == "offline"),
    )
