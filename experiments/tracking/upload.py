"""What of a folder's offline W&B runs is to be uploaded, and how: `wandb sync` does it, folder after folder.

An experiment has several folders of one id, since each process leaves its own. They are uploaded in the order of their
starts, each into the run of the one before it. What is uploaded is marked by W&B in the folder itself.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.runs.progress import say
from experiments.runs.wandb_id import OFFLINE_FOLDER, SUPERSEDED, offline_folders
from negatives.tables import InputError, held_inside, is_held

Command = Callable[[Sequence[str]], int]
OF_A_TRAINING = ("WANDB_MODE", "WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_RESUME")
"""Variables that say how a training logs, and nothing of an upload."""


@dataclass(frozen=True)
class Upload:
    """One offline folder of W&B.

    Attributes:
        path: of the folder.
        run_id: of the run that it is of.
        place: the folder of the verb that left it.
        state: "new", "uploaded", "running": somebody works in its place, so that it may not be whole; "superseded": a
            training that began anew before its first checkpoint; or "empty": a kill left it without a log.
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
        # W&B marks what it has read to the end, and would never read what comes later
        running = is_held(place) or any(held_inside(place))
        for path in offline_folders(place):
            match = OFFLINE_FOLDER.fullmatch(path.name)
            assert match is not None
            run_id = match["id"]
            state = "superseded" if (path / SUPERSEDED).exists() else "uploaded" if is_uploaded(path) else "new"
            state = "running" if state == "new" and running else state
            state = "empty" if state == "new" and not any(path.glob("*.wandb")) else state
            earlier = any(one.run_id == run_id and one.state not in ("superseded", "empty") for one in found)
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
    code = command([*words, str(one.path)])
    # its exit code is 0, too, where the server has refused a run: the mark alone says that it was taken
    if code or not is_uploaded(one.path):
        raise InputError(
            f"{one.path} was not uploaded: `wandb sync` ended with exit code {code} and left no mark (its own lines "
            "say why); the same command goes on with it."
        )


@contextlib.contextmanager
def on_request() -> Iterator[None]:
    """Leaves the variables of a training out of the environment while the block runs.

    WANDB_MODE=offline, as a cluster's environment may have it, is no reason not to upload when asked to.
    """
    before = {name: os.environ.pop(name) for name in OF_A_TRAINING if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def run_command(words: Sequence[str]) -> int:
    """Runs a program of W&B, whose output is shown; its exit code."""
    # resume: a second folder of an id is added to the run, where a client would have it replace the first one;
    # its own logs go beside the folder
    own = {"WANDB_RESUME": "allow", "WANDB_DIR": str(Path(words[-1]).absolute().parents[1])}
    return subprocess.run(words, check=False, env={**os.environ, **own}).returncode


def is_uploaded(path: Path) -> bool:
    """Whether W&B has marked an offline folder as uploaded."""
    return any(path.glob("*.wandb.synced"))


def tell_uploads(found: Sequence[Upload]) -> None:
    """Says what would be uploaded, and what is left out."""
    for one in found:
        how = f"appends to run {one.run_id}" if one.appends else f"makes run {one.run_id}"
        left = {
            "uploaded": "is uploaded",
            "running": "is left for later: a process works on it",
            "superseded": "is left out: its training began anew",
            "empty": "is left out: it holds no log",
        }
        say(f"{one.path}: {left.get(one.state, how)}")
