"""`itm sync`: uploads what runs have recorded for W&B offline, and declares what was made from what."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from experiments.runs.progress import say
from negatives.tables import InputError

if TYPE_CHECKING:
    from experiments.tracking.lineage import Node
    from experiments.tracking.upload import Upload


@dataclass
class SyncConfig:
    """`itm sync`: offline runs of W&B to its server."""

    folder: str = field(default=MISSING, metadata={"exists": "folder"})
    """Folder of a run or a sweep, or any folder above."""
    project: str | None = None
    """W&B project in which the lineage is declared; each folder's `logging.project` where not given. Each run goes
    where it was recorded for."""
    lineage: bool = True
    """Declare tables, verdicts, weights, evaluations and exports as artifacts: names and hashes, and no file."""
    files: bool = False
    """Upload the files of these artifacts, too: tables, weights, metrics."""


def run(config: SyncConfig) -> None:
    """Uploads what is not uploaded yet, run by run; the same command goes on after a break.

    Raises:
        InputError: there is no key of W&B, it cannot be reached, or could not take a folder.
    """
    from experiments.tracking.artifacts import lineages, undeclared
    from experiments.tracking.upload import on_request, uploads

    folder = Path(config.folder)
    found = uploads(folder)
    new = [one for one in found if one.state == "new"]
    for one in found:
        if one.state == "running":
            say(f"{one.path} is left for later: a process works on it.")
    nodes = lineages(folder) if config.lineage else []
    if not new and not undeclared(nodes, config.project):
        say(f"{folder} holds nothing to upload.")
        return
    with on_request():
        _send(config, new, nodes)


def _send(config: SyncConfig, new: list[Upload], nodes: list[Node]) -> None:
    from experiments.config.trainer_schemas import LoggingConfig
    from experiments.runs.tracking import check_logging
    from experiments.tracking.artifacts import declare
    from experiments.tracking.upload import run_command, upload

    check_logging(LoggingConfig(wandb="online"))
    failures: dict[str, str] = {}
    for number, one in enumerate(new, start=1):
        # what comes later goes on from what is not there
        if one.run_id in failures:
            continue
        say(f"[{number}/{len(new)}] {one.path}")
        try:
            upload(one, run_command)
        except InputError as error:
            failures[one.run_id] = str(error)
    if failures:
        raise InputError(f"{len(failures)} of {len({one.run_id for one in new})} runs: {' '.join(failures.values())}")
    if nodes:
        import wandb

        for node, name in declare(nodes, config.project, wandb.init, files=config.files):
            say(f"{node.folder}: artifact {name}")


def estimate(config: SyncConfig) -> None:
    """Says what would be uploaded; needs no network."""
    from experiments.tracking.artifacts import lineages, tell_artifacts, undeclared
    from experiments.tracking.upload import tell_uploads, uploads

    folder = Path(config.folder)
    found = uploads(folder)
    tell_uploads(found)
    if config.lineage:
        tell_artifacts(undeclared(lineages(folder), config.project))
    new = sum(one.state == "new" for one in found)
    say(f"{new} of {len(found)} offline folders would be uploaded, of {len({one.run_id for one in found})} runs.")
