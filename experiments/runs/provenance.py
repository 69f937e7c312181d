"""How a result came to be: the source's commit, the versions of packages, and the command line."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    *("itm-lightning", "torch", "lightning", "transformers", "peft", "torchmetrics", "omegaconf", "wandb"),
    *("pyarrow", "scikit-learn", "scipy", "numpy", "pillow", "tokenizers", "safetensors"),
)


def provenance() -> dict[str, Any]:
    """Source commit (None for an installed package), versions and command line of this process."""
    return {
        "argv": sys.argv,
        "git": git_state(Path(__file__).parents[2]),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def git_state(checkout: Path) -> dict[str, Any] | None:
    """Commit of a checkout and whether tracked or new files differ from it; None where there is no checkout."""
    # or git would find a repository above: that of the project in whose folder this package is installed
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
