"""What a score depends on, in a form that is written beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules import IMAGE_READER
from lightning_modules import LAST
from lightning_modules.backbones import ModelSettings
from lightning_modules.scoring import PROCESSOR_FOLDER, find_weights

if TYPE_CHECKING:
    from lightning_modules.backbones import Backbone

LATER_KEYS = ("template", "revision")
"""Keys of a `model` section that its fingerprint leaves out, so that scores of older versions can be resumed."""


def fingerprint(module: Backbone, model: ModelSettings, run: Path | None, checkpoint: str = LAST) -> dict[str, str]:
    """What a score depends on: the model's configuration, hashes of weights and processor, precision and versions.

    `image_reader` is the version of the rule by which files become pixels; the first one left it out.

    Args:
        module: the scorer.
        model: its settings.
        run: folder of its training; None for a published checkpoint.
        checkpoint: which weights of the run.
    """
    result = versions(module)
    result["model"] = json.dumps(without_later_keys(dataclasses.asdict(model)), sort_keys=True)
    settings = module.scorer_settings()
    # what the checkpoint's files made of these; the former values left out, as older versions left them
    decided = {key: settings[key] for key in model.recorded if key in model.former_values}
    if decided != model.former_values:
        result["prompt"] = json.dumps(decided, sort_keys=True)
    if (commit := module.commit()) is not None:
        result["revision"] = commit
    if run is not None:
        result["weights"] = file_hash([find_weights(run, checkpoint)])
        result["processor"] = file_hash(sorted((run / PROCESSOR_FOLDER).rglob("*.json")))
    return result


def versions(module: Backbone) -> dict[str, str]:
    """What computes a module's scores: versions of libraries and of the image reader, and the type of its weights."""
    result = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    result["image_reader"] = str(IMAGE_READER)
    # as loaded: that of a `scorer.json` and the precision of a training end in one of these
    result["precision"] = str(next(module.network.parameters()).dtype)
    return result


def without_later_keys(model: Mapping[str, Any]) -> dict[str, Any]:
    """A `model` section without `LATER_KEYS`: what they lead to has keys of its own in a fingerprint."""
    return {key: value for key, value in model.items() if key not in LATER_KEYS}


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
