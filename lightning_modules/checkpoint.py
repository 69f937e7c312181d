"""Weights of a trained network in safetensors: written whole or not at all, every mismatch named when read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor

Shapes = Mapping[str, Iterable[int]]
EDGE = 256
"""Elements of a tensor's start, of its end and about as many between that go into a fingerprint."""
LOSS = "loss."
"""What the names of a loss's parameters begin with in a weights file."""


def saved_names(network: nn.Module, *, trainable_only: bool, loss: nn.Module | None = None) -> list[str]:
    """Names of the tensors that a weights file of this network, and of the loss it was trained by, holds.

    All parameters of the loss are there, since no published checkpoint has them. Its buffers are not: they are the
    state of a training, and belong to Lightning's checkpoint.
    """
    own = [f"{LOSS}{name}" for name, _ in loss.named_parameters()] if loss is not None else []
    if not trainable_only:
        # a head that is tied to the embeddings is one tensor of two names, and stands in the file once
        every = {name for name, _ in network.named_parameters(remove_duplicate=False)}
        second = every - {name for name, _ in network.named_parameters()}
        return [*(name for name in network.state_dict() if name not in second), *own]
    return [*(name for name, parameter in network.named_parameters() if parameter.requires_grad), *own]


def full_state_dict(
    network: nn.Module, *, trainable_only: bool, loss: nn.Module | None = None
) -> dict[str, torch.Tensor]:
    """The tensors that a weights file holds, whole.

    To be called on all ranks: sharded tensors are gathered, and then only rank 0 gets any.

    Args:
        network: what was trained.
        trainable_only: leave out what a published checkpoint brings along.
        loss: that it was trained by; its parameters are called `loss.<name>`.
    """
    state = _gathered(network, trainable_only=trainable_only)
    if loss is not None:
        state |= {f"{LOSS}{name}": tensor for name, tensor in _gathered(loss, trainable_only=False).items()}
    names = saved_names(network, trainable_only=trainable_only, loss=loss)
    return {name: state[name] for name in names if name in state}


def _gathered(module: nn.Module, *, trainable_only: bool) -> dict[str, torch.Tensor]:
    """The tensors of a module; where they are sharded, whole ones on rank 0 and none elsewhere."""
    if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        return module.state_dict()
    # a frozen tensor that is not saved need not be gathered either
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trainable_only)
    gathered: dict[str, Any] = get_model_state_dict(module, options=options)
    return gathered


def save_weights(
    network: nn.Module, path: Path, *, trainable_only: bool, backbone: str = "", loss: nn.Module | None = None
) -> None:
    """Saves a network's weights, to be called where there is one process; see `write_weights`.

    Args:
        network: what was trained.
        path: of the safetensors file.
        trainable_only: leave out what a published checkpoint brings along.
        backbone: the scorer's family.
        loss: that it was trained by, where its parameters are to be saved too.
    """
    write_weights(full_state_dict(network, trainable_only=trainable_only, loss=loss), path, backbone=backbone)


def write_weights(tensors: Mapping[str, torch.Tensor], path: Path, *, backbone: str) -> None:
    """Writes a safetensors file that names the backbone; a reader sees the old file or the whole new one.

    The same weights make the same bytes, by which runs are compared and scores are marked. (That is why the metadata
    has one entry: safetensors writes several in any order.)
    """
    with replaced(path) as beside:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, beside, metadata={"backbone": backbone})


def load_weights(
    network: nn.Module, path: Path, *, trainable_only: bool, backbone: str = "", loss: nn.Module | None = None
) -> None:
    """Loads what `save_weights` saved into a network built from the same configuration.

    Args:
        network: takes the weights; stays as it is where the file does not fit.
        path: of the safetensors file.
        trainable_only: the file leaves out what a published checkpoint brings along.
        backbone: the network's family; a file of another one is refused.
        loss: takes its parameters, where it has some.

    Raises:
        ValueError: the file is no safetensors file, is of another backbone, or names and shapes are not exactly those
            that are expected.
    """
    state = dict(network.state_dict())
    if loss is not None:
        state |= {f"{LOSS}{name}": tensor for name, tensor in loss.state_dict().items()}
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no mapping)
            names = saved_names(network, trainable_only=trainable_only, loss=loss)
            expected = {name: state[name].shape for name in names}
            found = (file.metadata() or {}).get("backbone", "")
            if fault := misfit(shapes, expected, backbone=(found, backbone)):
                raise ValueError(f"{path} does not fit the model: {fault}. Load it with the run's own configuration.")
            with torch.no_grad():
                # only now that all fits, and in place: a refused file leaves the network as it was
                for name in shapes:
                    state[name].copy_(file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}); train again or copy it anew.") from None


def weights_fingerprint(parameters: Iterable[tuple[str, torch.Tensor]]) -> str:
    """A hash by which weights of the same names and shapes are told apart, 16 hexadecimal digits.

    It is over names, shapes, and of every weight the first and last elements and a sample at even distances, in
    float32: the same however much wider than they were saved they are loaded. Training, merging or quantising a tensor
    moves most of it, which shows. A change of a few elements of a large tensor (one row of an embedding) may not: it
    tells checkpoints apart, and proves nothing against whoever forges one.
    """
    digest = hashlib.sha256()
    # by name: the order in which a library registers its modules is no part of the weights
    for name, parameter in sorted(parameters, key=lambda item: item[0]):
        flat = parameter.detach().flatten()
        step = len(flat) // EDGE | 1  # odd, so that in rows of even length the sample moves through all columns
        some = torch.cat([flat[:EDGE], flat[::step], flat[-EDGE:]]).float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def frozen_fingerprint(network: nn.Module) -> str:
    """`weights_fingerprint` of what does not train; to be asked before the network is sharded.

    Adapters do not count. Those that the loss never reaches are frozen too: they start from random numbers, differ
    between two builds, and add 0 to the output.
    """
    parameters = network.named_parameters()
    return weights_fingerprint((name, p) for name, p in parameters if not p.requires_grad and "lora_" not in name)


def misfit(found: Shapes, expected: Shapes, *, backbone: tuple[str, str] = ("", "")) -> str:
    """Why saved tensors are not those of a model; empty where they are.

    Args:
        found, expected: name -> shape.
        backbone: names of the families that the tensors are of and that the model is of; "" where nobody says.

    >>> misfit({"a": [2], "b": [1]}, {"a": [3], "c": [1]})
    'missing c; unexpected b; a has shape (2,), the model (3,)'
    >>> misfit({"a": [2]}, {"c": [3]}, backbone=("clip", "llava"))
    'it is of the backbone clip, the model is a llava'
    """
    if all(backbone) and backbone[0] != backbone[1]:
        return f"it is of the backbone {backbone[0]}, the model is a {backbone[1]}"
    # only what both have can differ in shape; the rest is missing or unexpected
    both = sorted(found.keys() & expected.keys())
    shapes = [(name, tuple(found[name]), tuple(expected[name])) for name in both]
    differing = [f"{name} has shape {one}, the model {other}" for name, one, other in shapes if one != other]
    missing, unexpected = expected.keys() - found.keys(), found.keys() - expected.keys()
    faults = [*_listed("missing ", missing), *_listed("unexpected ", unexpected), *_listed("", differing, "; ")]
    return "; ".join(faults)


def _listed(start: str, items: Iterable[str], separator: str = ", ") -> list[str]:
    ordered = sorted(items)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return [f"{start}{separator.join(ordered[:3])}{more}"] if ordered else []


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when the block ends, or is removed where it fails.

    Whatever happens, kill -9 and a power cut included, `path` is the old file or the whole new one: the new one is on
    the disk before it is renamed, and the two are on one file system.
    """
    beside = partial_path(path)
    try:
        beside.touch()
        mode = beside.stat().st_mode
        yield beside
        beside.chmod(mode)  # safetensors makes files that nobody but their owner can read
        _flush(beside)
        os.replace(beside, path)
        # the rename is a change of the folder, which has to reach the disk too
        _flush(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Where a file is while it is written; after kill -9 it may be left behind."""
    # hidden, and with another ending: no pattern for weights or checkpoints finds a half-written file
    return path.with_name(f".{path.name}.partial")


def _flush(path: Path) -> None:
    """Waits until a file, or which files are in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
