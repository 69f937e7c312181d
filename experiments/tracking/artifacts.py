"""Manifests of lineage as artifacts of W&B: which run made what, and from what.

What a training, its evaluations and its export made is declared in the training's own run, that of its id.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.runs.outputs import CONFIG_FILE
from experiments.runs.progress import say
from experiments.runs.wandb_id import recorded_id
from experiments.tracking.lineage import LINEAGE_FILE, PUBLISHED, Node, content_hash, makers, trace
from lightning_modules import read_plain_yaml
from negatives.tables import InputError, write_text

TYPES = {
    **{"generate": "dataset", "audit": "audit", "filter": "verdicts", "train": "model", "evaluate": "evaluation"},
    **{"score": "scores", "export": "model", "neighbours": "dataset"},
}
"""Verb -> what W&B calls the type of its artifact."""
DECLARED = ".lineage.declared"
"""Beside a manifest: a hash of what was declared of it, and where."""
IN_RUNS = ("evaluate", "export")
"""Verbs whose folder may lie in that of their run, whose id is theirs."""


def lineages(folder: Path) -> list[Node]:
    """The manifests of a folder and below, and of all that they lead to; what others are made from comes first."""
    found: dict[Path, Node] = {}
    for file in sorted(folder.resolve().rglob(LINEAGE_FILE)):
        for node in trace(file.parent):
            found.setdefault(node.folder, node)
    return [*found.values()]


def declare(
    nodes: Sequence[Node], project: str | None, start: Callable[..., Any], *, files: bool = False
) -> Iterator[tuple[Node, str]]:
    """Declares manifests as artifacts of W&B that are not declared yet; yields each with its artifact's name.

    Args:
        nodes: those that others are made from come first.
        project: of W&B; that of each folder's `logging` where None.
        start: `wandb.init`.
        files: upload what was made, too; else names and hashes alone.

    Raises:
        InputError: W&B did not take one; what was declared before stays so.
    """
    import wandb

    # nothing of this process is news of the run that it declares for
    quiet = wandb.Settings(console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True)
    for node in undeclared(nodes, project):
        own, place = artifact_name(node), _project_of(node, nodes, project)
        metadata = {"verb": node.verb, "inputs": dict(node.inputs), "made": dict(node.made)}
        artifact = wandb.Artifact(own, type=TYPES.get(node.verb, node.verb), metadata=metadata)
        artifact.add_file(str(node.folder / LINEAGE_FILE))
        for name in node.made if files else ():
            # it may have been removed since, and a manifest may come from anyone
            if (file := node.folder / name).is_file() and file.resolve().is_relative_to(node.folder.resolve()):
                artifact.add_file(str(file), name=name)
        with tempfile.TemporaryDirectory() as scratch:
            try:
                run = start(project=place, settings=quiet, resume="allow", dir=scratch, **_run_of(node))
                try:
                    for other in _sources(node, nodes):
                        run.use_artifact(f"{_project_of(other, nodes, project)}/{artifact_name(other)}:latest")
                    run.log_artifact(artifact)
                finally:
                    run.finish()
            except wandb.errors.Error as error:
                reason = " ".join(str(error).split())
                raise InputError(f"{node.folder}: W&B did not take the artifact {own} ({reason}).") from error
        write_text(_mark(node, place), node.folder / DECLARED)
        yield node, own


def undeclared(nodes: Sequence[Node], project: str | None) -> list[Node]:
    """Those that were not declared as they are now, in this project."""
    found = []
    for node in nodes:
        file = node.folder / DECLARED
        mark = _mark(node, _project_of(node, nodes, project))
        if not file.is_file() or file.read_text(encoding="utf-8", errors="replace") != mark:
            found.append(node)
    return found


def artifact_name(node: Node) -> str:
    """A name for W&B: the folder's last parts, and a hash of its path, since two sweeps have steps of one name."""
    own = "-".join(part for part in node.folder.parts[-2:] if part != "/")
    plain = "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in own)
    return f"{plain[:80]}-{hashlib.sha256(str(node.folder).encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def tell_artifacts(nodes: Sequence[Node]) -> None:
    """Says what would be declared."""
    for node in nodes:
        run = _run_of(node)["id"]
        say(f"{node.folder}: artifact {artifact_name(node)} ({TYPES.get(node.verb, node.verb)}) of run {run}")


def _sources(node: Node, nodes: Sequence[Node]) -> list[Node]:
    """Those of the nodes that one was made from: by the folders that it names, or by the hash of their manifest."""
    named, hashes = set(makers(node)), set(node.inputs.values()) if node.verb in PUBLISHED else set()
    return [
        other
        for other in nodes
        if other is not node and (other.folder in named or content_hash(other.folder / LINEAGE_FILE) in hashes)
    ]


def _run_of(node: Node) -> dict[str, str]:
    """Id of the run to declare for, and how it is called where that is no run of its own yet."""
    found = recorded_id(node.folder)
    if found is None and node.verb in IN_RUNS:
        found = recorded_id(node.folder.parent)
    if found is not None:
        return {"id": found}
    # by its content: a run that declares it again is the same run
    own = content_hash(node.folder / LINEAGE_FILE)[:12]
    return {"id": f"lineage-{own}", "name": artifact_name(node), "job_type": f"lineage/{node.verb}"}


def _project_of(node: Node, nodes: Sequence[Node], project: str | None) -> str:
    """The given project, or that in which the node's run was recorded, or the first of another node's."""
    if project is not None:
        return project
    folders = [node.folder, *(other.folder for other in nodes)]
    return next((found for folder in folders if (found := _logged_to(folder)) is not None), "itm-lightning")


def _logged_to(folder: Path) -> str | None:
    try:
        settings: Any = read_plain_yaml(folder / CONFIG_FILE)
        return str(settings["logging"]["project"])
    except Exception:  # no file, or one without such a key; YAML's errors are many
        return None


def _mark(node: Node, project: str) -> str:
    # a hash: the folder may get published
    content = json.dumps([project, artifact_name(node), content_hash(node.folder / LINEAGE_FILE)])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
