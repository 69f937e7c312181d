"""The id of a run in W&B: one for each experiment, kept in its folder before W&B starts.

A resumed training and the evaluations of a run go on under its id. Offline, each process leaves a folder of its own in
`wandb/`, all of one id.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from negatives.tables import write_text

ID_FILE = "wandb_id"
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
OFFLINE_FOLDER = re.compile(r"offline-run-(?P<time>\d{8}_\d{6})-(?P<id>[A-Za-z0-9_-]{1,64})")
SUPERSEDED = "superseded"
"""In an offline folder: a training that was killed before its first checkpoint, and began anew under the same id."""


def new_id() -> str:
    """An id for a training: that of W&B's agent, which has made a run of it already, or one that nobody has."""
    given = os.environ.get("WANDB_RUN_ID", "")
    return given if ID.fullmatch(given) else uuid.uuid4().hex[:8]


def recorded_id(folder: Path) -> str | None:
    """The id of the run in a folder; None where W&B has not had it."""
    file = folder / ID_FILE
    if file.is_file() and ID.fullmatch(text := file.read_text(encoding="utf-8", errors="replace").strip()):
        return text
    # older versions kept it in the names of W&B's folders alone, which begin with the time of their start
    recorded = sorted((folder / "wandb").glob("*run-*_*-*"), key=lambda path: path.name.removeprefix("offline-"))
    return recorded[-1].name.rsplit("-", 1)[-1] if recorded else None


def keep_id(folder: Path, run_id: str) -> None:
    """Writes the id into a run's folder."""
    write_text(f"{run_id}\n", folder / ID_FILE)


def own_id(folder: Path) -> str:
    """The id of what a verb logs of its folder: the one that is kept there, or a new one, which then is."""
    found = recorded_id(folder)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        # not that of W&B's agent, which is of the training
        keep_id(folder, found := uuid.uuid4().hex[:8])
    return found


def offline_folders(folder: Path) -> Iterator[Path]:
    """W&B's offline folders of a run, in the order of their starts."""
    found = [path for path in (folder / "wandb").glob("offline-run-*") if OFFLINE_FOLDER.fullmatch(path.name)]
    return iter(sorted(found))


def supersede(folder: Path) -> None:
    """Marks what earlier attempts of a training have left that begins at step 0 again: it is not uploaded."""
    for path in offline_folders(folder):
        (path / SUPERSEDED).touch()


def wait_for_a_free_name(folder: Path, run_id: str) -> None:
    """Waits until W&B's next folder has a name of its own: it is called by the second and the id."""
    while any((folder / "wandb").glob(f"*{time.strftime('%Y%m%d_%H%M%S')}-{run_id}")):
        time.sleep(0.05)
