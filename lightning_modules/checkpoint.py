"""Weights of a trained network in safetensors, with every mismatch named."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn


def saved_names(network: nn.Module, *, trainable_only: bool) -> list[str]:
    """Names of the tensors that a checkpoint of this network holds."""
    if not trainable_only:
        return list(network.state_dict())
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def save_weights(network: nn.Module, path: Path, *, trainable_only: bool) -> None:
    """Saves a network's weights; a reader sees the old file or the whole new one.

    Args:
        network: what was trained.
        path: of the safetensors file.
        trainable_only: leave out what a published checkpoint brings along.
    """
    state = network.state_dict()
    tensors = {
        name: state[name].detach().cpu().contiguous() for name in saved_names(network, trainable_only=trainable_only)
    }
    beside = path.with_name(f".{path.name}.partial")
    try:
        save_file(tensors, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_weights(network: nn.Module, path: Path, *, trainable_only: bool) -> None:
    """Loads what `save_weights` saved into a network built from the same configuration.

    Raises:
        ValueError: the file is no safetensors file, or names and shapes are not exactly those that are expected.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}); train again or copy it anew.") from None
    state = network.state_dict()
    expected = set(saved_names(network, trainable_only=trainable_only))
    shapes = [
        f"{name} has shape {tuple(tensors[name].shape)}, the model {tuple(state[name].shape)}"
        for name in sorted(expected & tensors.keys())
        if tensors[name].shape != state[name].shape
    ]
    missing, unexpected = expected - tensors.keys(), tensors.keys() - expected
    faults = [*_named("missing", missing), *_named("unexpected", unexpected), *shapes[:3]]
    if faults:
        raise ValueError(
            f"{path} does not fit the model: {'; '.join(faults)}. Load it with the run's own configuration."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def _named(kind: str, names: Iterable[str]) -> list[str]:
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return [f"{kind} {', '.join(ordered[:3])}{more}"] if ordered else []
