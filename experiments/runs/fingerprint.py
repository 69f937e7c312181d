"""What a score depends on, in a form that is written beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules import LAST
from lightning_modules.backbones import ModelSettings
from lightning_modules.scoring import PROCESSOR_FOLDER, find_weights

if TYPE_CHECKING:
    from lightning_modules import AlignmentModule


def fingerprint(
    module: AlignmentModule, model: ModelSettings, run: Path | None, checkpoint: str = LAST
) -> dict[str, str]:
    """What a score depends on: the model's configuration, hashes of weights and processor, precision and versions.

    Args:
        module: the scorer.
        model: its settings.
        run: folder of its training; None for a published checkpoint.
        checkpoint: which weights of the run.
    """
    result = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    # as loaded: `auto` of a checkpoint and the precision of a training end in one of these
    result["precision"] = str(next(module.network.parameters()).dtype)
    result["model"] = json.dumps(dataclasses.asdict(model), sort_keys=True)
    if run is not None:
        result["weights"] = file_hash([find_weights(run, checkpoint)])
        result["processor"] = file_hash(sorted((run / PROCESSOR_FOLDER).rglob("*.json")))
    return result


def file_hash(files: Sequence[Path]) -> str:
    """A hash of the files' names and contents, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in files:
        # the name too: two files that change places are another processor
        digest.update(path.name.encode())
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()[:16]
