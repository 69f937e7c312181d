"""Weights in safetensors: what was saved comes back, and whatever does not fit is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import lightning_modules.checkpoint as checkpoint
from lightning_modules.adapters import LoraSettings
from lightning_modules.checkpoint import full_state_dict, load_weights, save_weights, saved_names
from tests.tiny import CAPTIONS, row, tiny_module


def network(seed: int = 0, width: int = 3) -> nn.Sequential:
    """A frozen layer, a trainable one, and a norm with buffers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width).requires_grad_(False), nn.Linear(width, 2), nn.BatchNorm1d(2))


def equal(one: nn.Module, two: nn.Module) -> dict[str, bool]:
    return {name: torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items()}


def test_weights_and_buffers_come_back(tmp_path: Path) -> None:
    saved, loaded = network(0), network(1)
    saved(torch.randn(4, 2))  # moves the norm's buffers
    save_weights(saved, tmp_path / "w.safetensors", trainable_only=False)
    assert not all(equal(saved, loaded).values())
    load_weights(loaded, tmp_path / "w.safetensors", trainable_only=False)
    assert all(equal(saved, loaded).values())


def test_tied_weights_are_in_the_file_once_and_come_back_for_both(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        network = nn.ModuleDict({"embeddings": nn.Embedding(7, 3), "head": nn.Linear(3, 7, bias=False)})
        network["head"].weight = network["embeddings"].weight
        return network

    saved, loaded = tied(), tied()
    save_weights(saved, tmp_path / "weights.safetensors", trainable_only=False)
    assert [*load_file(tmp_path / "weights.safetensors")] == ["embeddings.weight"]
    load_weights(loaded, tmp_path / "weights.safetensors", trainable_only=False)
    assert torch.equal(loaded["head"].weight, saved["embeddings"].weight)  # type: ignore[index]


def test_trainable_only_leaves_the_base_out(tmp_path: Path) -> None:
    saved, loaded = network(0), network(1)
    save_weights(saved, tmp_path / "w.safetensors", trainable_only=True)
    names = {"1.weight", "1.bias", "2.weight", "2.bias"}
    assert load_file(tmp_path / "w.safetensors").keys() == set(saved_names(saved, trainable_only=True)) == names
    before = loaded[0].weight.clone()
    load_weights(loaded, tmp_path / "w.safetensors", trainable_only=True)
    assert torch.equal(loaded[0].weight, before)
    assert torch.equal(loaded[1].weight, saved[1].weight)


@torch.no_grad()
def test_a_loaded_adapter_gives_the_logits_of_the_saved_one(tmp_path: Path) -> None:
    modules = [tiny_module(lora=LoraSettings(rank=4, alpha=8, dropout=0.0)) for _ in range(2)]
    for parameter in modules[0].parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    batch = modules[0].collator()([row(0, CAPTIONS)])
    one, two = (module.logits(batch) for module in modules)
    assert not torch.allclose(one, two)
    save_weights(modules[0].network, tmp_path / "w.safetensors", trainable_only=True)
    load_weights(modules[1].network, tmp_path / "w.safetensors", trainable_only=True)
    assert torch.equal(modules[1].logits(batch), one)


def test_missing_and_unexpected_tensors_are_named_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    tensors = dict(network().state_dict())
    del tensors["1.weight"]
    save_file({**tensors, **{f"extra{i}": torch.zeros(1) for i in range(5)}}, path)
    told = r"w\.safetensors does not fit the model: missing 1\.weight; unexpected extra0, extra1, extra2 and 2 more\."
    with pytest.raises(ValueError, match=told):
        load_weights(network(), path, trainable_only=False)


def test_a_full_file_does_not_pass_for_a_trainable_only_one(tmp_path: Path) -> None:
    save_weights(network(), tmp_path / "full.safetensors", trainable_only=False)
    save_weights(network(), tmp_path / "part.safetensors", trainable_only=True)
    with pytest.raises(ValueError, match=r"unexpected 0\.bias, 0\.weight"):
        load_weights(network(), tmp_path / "full.safetensors", trainable_only=True)
    with pytest.raises(ValueError, match=r"missing 0\.bias, 0\.weight"):
        load_weights(network(), tmp_path / "part.safetensors", trainable_only=False)


def test_a_shape_that_does_not_fit_is_named_with_both_shapes(tmp_path: Path) -> None:
    save_weights(network(width=4), tmp_path / "w.safetensors", trainable_only=False)
    with pytest.raises(ValueError, match=r"0\.weight has shape \(4, 2\), the model \(3, 2\).*own configuration"):
        load_weights(network(width=3), tmp_path / "w.safetensors", trainable_only=False)


def test_a_file_of_another_backbone_is_named_before_its_tensors(tmp_path: Path) -> None:
    save_weights(network(width=4), tmp_path / "w.safetensors", trainable_only=False, backbone="clip")
    told = r"does not fit the model: it is of the backbone clip, the model is a llava\."
    with pytest.raises(ValueError, match=told):
        load_weights(network(), tmp_path / "w.safetensors", trainable_only=False, backbone="llava")
    load_weights(network(width=4), tmp_path / "w.safetensors", trainable_only=False, backbone="clip")


def test_a_file_says_whose_weights_it_holds_and_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for path in paths:
        save_weights(network(), path, trainable_only=False, backbone="llava")
    with safe_open(paths[0], framework="pt") as file:
        assert file.metadata() == {"backbone": "llava"}
    assert len({path.read_bytes() for path in paths}) == 1


def test_others_can_read_the_file_where_they_can_read_files(tmp_path: Path) -> None:
    save_weights(network(), tmp_path / "w.safetensors", trainable_only=False)
    (tmp_path / "plain").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("trainable_only", [True, False])
def test_full_state_is_what_is_saved(trainable_only: bool) -> None:
    state = full_state_dict(network(), trainable_only=trainable_only)
    assert list(state) == saved_names(network(), trainable_only=trainable_only)
    assert all(torch.equal(tensor, network().state_dict()[name]) for name, tensor in state.items())


def test_a_refused_file_changes_no_weight(tmp_path: Path) -> None:
    tensors = {**network(1).state_dict(), "1.weight": torch.zeros(9, 9)}
    save_file(tensors, tmp_path / "w.safetensors")
    loaded = network(0)
    with pytest.raises(ValueError, match="does not fit"):
        load_weights(loaded, tmp_path / "w.safetensors", trainable_only=False)
    assert all(equal(loaded, network(0)).values())


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "pickle"])
def test_a_corrupted_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(network(), path, trainable_only=False)
    whole = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "pickle":
        torch.save(network().state_dict(), path)
    else:
        path.write_bytes({"empty": b"", "text": b"weights", "truncated": whole[:-8]}[kind])
    with pytest.raises(ValueError, match=r"w\.safetensors is no readable safetensors file .*train again or copy"):
        load_weights(network(), path, trainable_only=False)


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failure_while_saving_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(network(0), path, trainable_only=False)
    old = path.read_bytes()

    def fail(tensors: dict[str, torch.Tensor], filename: Path, metadata: dict[str, str]) -> None:
        Path(filename).write_bytes(b"half")
        raise failure

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(type(failure)):
        save_weights(network(1), path, trainable_only=False)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


def test_saving_replaces_the_old_file(tmp_path: Path) -> None:
    for seed in (0, 1):
        save_weights(network(seed), tmp_path / "w.safetensors", trainable_only=False)
    assert torch.equal(load_file(tmp_path / "w.safetensors")["1.weight"], network(1)[1].weight)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that a power cut cannot break; a kill alone would not show it."""
    done: list[str] = []
    flush, rename = checkpoint._flush, checkpoint.os.replace
    monkeypatch.setattr(checkpoint, "_flush", lambda path: (done.append(path.name), flush(path)))
    monkeypatch.setattr(checkpoint.os, "replace", lambda one, two: (done.append("renamed"), rename(one, two)))
    path = tmp_path / "weights"
    with checkpoint.replaced(path) as beside:
        beside.write_bytes(b"new")
    assert done == [checkpoint.partial_path(path).name, "renamed", tmp_path.name]
    assert path.read_bytes() == b"new"
