"""What of a folder's offline W&B runs is to be uploaded, and how: `wandb sync` does it, folder after folder.

An experiment has several folders of one id, since each process leaves its own. They are uploaded in the order of their
starts, each into the run of the one before it. What is uploaded is marked by W&B in the folder itself.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.runs.progress import say
from experiments.runs.wandb_id import OFFLINE_FOLDER, SUPERSEDED, offline_folders
from experiments.tracking.lineage import LINEAGE_FILE, Node, content_hash, trace
from negatives.tables import InputError

Command = Callable[[Sequence[str]], int]
TYPES = {
    **{"generate": "dataset", "audit": "audit", "filter": "verdicts", "train": "model", "evaluate": "evaluation"},
    **{"score": "scores", "export": "model", "neighbours": "dataset"},
}
"""Verb -> what W&B calls the type of its artifact."""


@dataclass(frozen=True)
class Upload:
    """One offline folder of W&B.

    Attributes:
        path: of the folder.
        run_id: of the run that it is of.
        place: the folder of the verb that left it.
        state: "new", "uploaded", or "superseded": a training that began anew before its first checkpoint.
        appends: whether an earlier folder has the same id.
    """

    path: Path
    run_id: str
    place: Path
    state: str
    appends: bool


def uploads(folder: Path) -> list[Upload]:
    """All offline folders of W&B in a folder and below: by their runs, in the order of their starts.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the folder of a run or a sweep.")
    places = sorted({path.parent.parent for path in folder.rglob("wandb/offline-run-*") if path.is_dir()})
    found: list[Upload] = []
    for place in places:
        for path in offline_folders(place):
            match = OFFLINE_FOLDER.fullmatch(path.name)
            assert match is not None
            run_id = match["id"]
            state = "superseded" if (path / SUPERSEDED).exists() else "uploaded" if _is_uploaded(path) else "new"
            earlier = any(one.run_id == run_id and one.state != "superseded" for one in found)
            found.append(Upload(path, run_id, place, state, earlier))
    return found


def upload(one: Upload, command: Command) -> None:
    """Uploads one folder.

    Raises:
        InputError: W&B could not; what was uploaded before stays so.
    """
    words = [sys.executable, "-m", "wandb", "sync", "--yes"]
    # into the run that is there already, whose history it goes on
    words += ["--id", one.run_id] if one.appends else []
    if code := command([*words, str(one.path)]):
        raise InputError(
            f"{one.path} was not uploaded: `wandb sync` ended with exit code {code} (its own lines say why); the same "
            "command goes on with it."
        )


def run_command(words: Sequence[str]) -> int:
    """Runs a program, whose output is shown; its exit code."""
    return subprocess.run(words, check=False).returncode


def lineages(folder: Path) -> list[Node]:
    """The manifests of a folder and below, and of all that they lead to; what others are made from comes first."""
    found: dict[Path, Node] = {}
    for file in sorted(folder.resolve().rglob(LINEAGE_FILE)):
        for node in trace(file.parent):
            found.setdefault(node.folder, node)
    return [*found.values()]


def declare(nodes: Sequence[Node], project: str, start: Callable[..., Any]) -> Iterator[tuple[Node, str]]:
    """Declares manifests as artifacts of W&B: names and hashes, and no file; yields each with its artifact's name.

    An artifact of the same content is the same version, so that declaring again changes nothing.

    Args:
        nodes: those that others are made from come first.
        project: of W&B.
        start: `wandb.init`.
    """
    import wandb

    names = {str(node.folder): artifact_name(node) for node in nodes}
    for node in nodes:
        # by its content: a run that declares it again is the same run
        own = content_hash(node.folder / LINEAGE_FILE)[:12]
        run = start(project=project, id=f"lineage-{own}", name=names[str(node.folder)], job_type=f"lineage/{node.verb}")
        for other in nodes:
            if other is not node and any(_is_in(path, other.folder) for path in node.inputs):
                run.use_artifact(f"{names[str(other.folder)]}:latest")
        artifact = wandb.Artifact(
            names[str(node.folder)],
            type=TYPES.get(node.verb, node.verb),
            metadata={"verb": node.verb, "inputs": dict(node.inputs), "made": dict(node.made)},
        )
        artifact.add_file(str(node.folder / LINEAGE_FILE))
        run.log_artifact(artifact)
        run.finish()
        yield node, names[str(node.folder)]


def artifact_name(node: Node) -> str:
    """A name for W&B: the folder's last parts, and a hash of its path, since two sweeps have steps of one name."""
    own = "-".join(part for part in node.folder.parts[-2:] if part != "/")
    plain = "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in own)
    return f"{plain[:80]}-{hashlib.sha256(str(node.folder).encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def tell(found: Sequence[Upload], nodes: Sequence[Node]) -> None:
    """Says what would be uploaded and declared."""
    for one in found:
        how = f"appends to run {one.run_id}" if one.appends else f"makes run {one.run_id}"
        said = {"new": how, "uploaded": "is uploaded", "superseded": "is left out: its training began anew"}[one.state]
        say(f"{one.path}: {said}")
    for node in nodes:
        say(f"{node.folder}: artifact {artifact_name(node)} ({TYPES.get(node.verb, node.verb)})")


def _is_uploaded(path: Path) -> bool:
    # W&B's own mark
    return any(path.glob("*.wandb.synced"))


def _is_in(path: str, folder: Path) -> bool:
    return Path(path).resolve().is_relative_to(folder.resolve())
