"""`itm sync`: uploads what runs have recorded for W&B offline, and declares what was made from what."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from experiments.runs.progress import say


@dataclass
class SyncConfig:
    """`itm sync`: offline runs of W&B to its server."""

    folder: str = field(default=MISSING, metadata={"exists": "folder"})
    """Folder of a run or a sweep, or any folder above."""
    project: str = "itm-lightning"
    """W&B project in which the lineage is declared; each run goes where it was recorded for."""
    lineage: bool = True
    """Declare tables, verdicts, weights, evaluations and exports as artifacts: names and hashes, and no file."""


def run(config: SyncConfig) -> None:
    """Uploads what is not uploaded yet, run by run; the same command goes on after a break.

    Raises:
        InputError: there is no key of W&B, or W&B could not upload a folder.
    """
    from experiments.config.trainer_schemas import LoggingConfig
    from experiments.runs.tracking import check_logging
    from experiments.tracking.upload import declare, lineages, run_command, upload, uploads

    folder = Path(config.folder)
    found = [one for one in uploads(folder) if one.state == "new"]
    nodes = lineages(folder) if config.lineage else []
    if not found and not nodes:
        say(f"{folder} holds nothing to upload.")
        return
    check_logging(LoggingConfig(wandb="online"))
    for number, one in enumerate(found, start=1):
        say(f"[{number}/{len(found)}] {one.path}")
        upload(one, run_command)
    if nodes:
        import wandb

        for node, name in declare(nodes, config.project, wandb.init):
            say(f"{node.folder}: artifact {name}")


def estimate(config: SyncConfig) -> None:
    """Says what would be uploaded; needs no network."""
    from experiments.tracking.upload import lineages, tell, uploads

    folder = Path(config.folder)
    found = uploads(folder)
    tell(found, lineages(folder) if config.lineage else [])
    new = sum(one.state == "new" for one in found)
    say(f"{new} of {len(found)} offline folders would be uploaded, of {len({one.run_id for one in found})} runs.")
