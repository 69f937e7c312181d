"""`scorer.json`: how a checkpoint in Transformers' format scores, where that is not the backbone's default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from datamodules.batch import InputError
from lightning_modules.backbones.model_section import FORMER_KEYS, model_settings
from lightning_modules.backbones.table import backbone_class
from lightning_modules.scoring.runs import SCORER_FILE
from lightning_modules.settings import did_you_mean, quoted

FORMAT = 1
KEYS = ("format", "backbone", "model", "dtype", "base")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Base:
    """The checkpoint that adapters were trained on.

    Attributes:
        checkpoint: hub name or folder.
        weights: `export.base_fingerprint` of it.
        revision: its commit; None where it is not on the hub, or an older version exported.
    """

    checkpoint: str
    weights: str
    revision: str | None = None


@dataclass(frozen=True)
class ScorerSettings:
    """What a `scorer.json` says: some of the backbone's settings, the type of the weights, and the base of adapters."""

    backbone: str
    model: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    base: Base | None = None


def find_scorer_settings(name_or_folder: str | Path, revision: str | None = None) -> ScorerSettings | None:
    """The settings beside a checkpoint, in its folder or on the hub; None where it has none.

    With HF_HUB_OFFLINE set, a file that was not downloaded with its checkpoint is none, and a warning says so.

    Args:
        name_or_folder: of the checkpoint.
        revision: branch, tag or commit of a hub name; the default branch where None.

    Raises:
        OSError: the hub refuses.
        InputError: the file is not as `parse_scorer_settings` wants it, or whether there is one cannot be known.
    """
    folder = Path(name_or_folder)
    path = folder / SCORER_FILE if folder.is_dir() else _on_hub(str(name_or_folder), revision)
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({' '.join(str(error).split())}); export the scorer again.") from None
    return parse_scorer_settings(content, path)


def _on_hub(name: str, revision: str | None) -> Path | None:
    """The file in the hub's cache, downloaded if need be; None where the checkpoint has none.

    A hub that cannot be reached is an error, and no sign that there is no file: its settings would give other scores.
    """
    try:
        return Path(hf_hub_download(name, SCORER_FILE, revision=revision))
    except LocalEntryNotFoundError as error:
        if try_to_load_from_cache(name, SCORER_FILE, revision=revision) is _CACHED_NO_EXIST:
            return None
        if not is_offline_mode():
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise InputError(
                f"{name}: the hub does not say whether it has a {SCORER_FILE} ({reason}); try again, or set "
                "HF_HUB_OFFLINE=1 to score by the backbone's defaults."
            ) from None
    except EntryNotFoundError:
        return None
    # else the checkpoint itself is not there
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        rank_zero_warn(f"{name}: no {SCORER_FILE} was downloaded with it; scored by the backbone's defaults.")
    return None


def parse_scorer_settings(content: Any, path: Path) -> ScorerSettings:
    """Checked settings of a file that anybody may have written.

    Args:
        content: what the file holds.
        path: named in errors.

    Raises:
        InputError: another format, an unknown key, a value of another type, or a setting of another backbone.
    """
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a mapping, got {quoted(content)}; export the scorer again.")
    # the type itself: true is an int to Python, and equals 1
    if type(content.get("format")) is not int or content["format"] != FORMAT:
        found = quoted(content.get("format"))
        raise InputError(f"{path}: format must be {FORMAT}, got {found}; update itm-lightning, or export again.")
    if unknown := sorted(content.keys() - set(KEYS)):
        raise InputError(f"{path}: there is no key {quoted(unknown[0])}; known are {', '.join(KEYS)}.")
    backbone: Any = content.get("backbone")
    model, dtype = content.get("model", {}), content.get("dtype", "float32")
    try:
        schema = backbone_class(backbone).Settings
        known = schema.scorer_keys
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"{path}: dtype must be one of {', '.join(DTYPES)}, got {quoted(dtype)}.")
    if not isinstance(model, dict):
        raise InputError(f"{path}: model must be a mapping, got {quoted(model)}.")
    # null leaves a key to the backbone, also one that another backbone has
    given = {key: value for key, value in model.items() if value is not None or key not in (*known, *FORMER_KEYS)}
    if unknown := sorted(given.keys() - set(known)):
        near = did_you_mean(unknown[0], known)
        raise InputError(f"{path}: model has no key {quoted(unknown[0])}; known are {', '.join(known)}{near}")
    try:
        # of a checkpoint: what a model from scratch may not be does not matter
        model_settings({"backbone": backbone, "checkpoint": str(path.parent), **given})
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    return ScorerSettings(
        backbone, {**schema.former_values, **given}, DTYPES[dtype], _parse_base(content.get("base"), path)
    )


def _parse_base(content: Any, path: Path) -> Base | None:
    if content is None:
        return None
    names = ("checkpoint", "weights")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), str) for name in names):
        raise InputError(f"{path}: base must name a checkpoint and its weights, got {quoted(content)}.")
    revision = content.get("revision")
    if revision is not None and not isinstance(revision, str):
        raise InputError(f"{path}: revision of base must be a text, got {quoted(revision)}.")
    return Base(content["checkpoint"], content["weights"], revision)
