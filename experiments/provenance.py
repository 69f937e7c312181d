"""What a run's folder says about how the run came to be, and whose folder it is."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from negatives.records import InputError, write_json, write_text

CONFIG_FILE, PROVENANCE_FILE = "config.yaml", "provenance.json"
PACKAGES = (
    *("itm-lightning", "torch", "lightning", "transformers", "peft", "torchmetrics", "omegaconf", "wandb"),
    *("pyarrow", "scikit-learn", "scipy", "numpy", "pillow", "tokenizers", "safetensors"),
)


def prepare_output(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Makes sure that a run may write into its output folder; empties the folder where `overwrite` is set.

    Raises:
        InputError: Where the folder holds something and neither `resume` nor `overwrite` is set, where `overwrite`
            would delete what `itm` did not write, or where the path is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"The output folder must be a folder, {folder} is a file. Give another output_dir.")
    if resume or not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        remedy = "Go on with it by --resume, replace it by --overwrite, or give another output_dir."
        raise InputError(f"The output folder must be new or empty, {folder} is not. {remedy}")
    if not (folder / PROVENANCE_FILE).is_file():
        raise InputError(
            f"--overwrite deletes only what itm wrote, {folder} has no {PROVENANCE_FILE}. "
            "Delete it yourself or give another output_dir."
        )
    _empty(folder)


def save_provenance(folder: Path, config_yaml: str) -> None:
    """Writes `config.yaml` (resolved) and `provenance.json` (commit, versions, machine, command line)."""
    write_text(config_yaml, folder / CONFIG_FILE)
    write_json(provenance(), folder / PROVENANCE_FILE)


def provenance() -> dict[str, Any]:
    """Source commit (None for an installed package), versions and command line of this process."""
    return {
        "argv": sys.argv,
        "git": git_state(Path(__file__).parents[1]),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def git_state(checkout: Path) -> dict[str, Any] | None:
    """Commit of a checkout and whether tracked or new files differ from it; None where there is no checkout."""
    if not (checkout / ".git").exists():
        return None
    try:
        commit = _git(checkout, "rev-parse", "--verify", "HEAD")
        return {"commit": commit, "dirty": bool(_git(checkout, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _empty(folder: Path) -> None:
    # the mark goes last, so that an overwrite that was interrupted can be repeated
    for child in sorted(folder.iterdir(), key=lambda path: path.name == PROVENANCE_FILE):
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
