"""Sharding (FSDP2): it may be asked for twice, keeps weights and buffers, and shards every layer under one root."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from lightning_modules.adapters import LoraSettings
from lightning_modules.sharding import shard_network
from tests.backbones import BACKBONES
from tests.tiny import CAPTIONS, row


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceMesh]:
    """One gloo rank, this process."""
    store = tmp_path_factory.mktemp("store") / "file"
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, dropout=0.0)], ids=["full", "lora"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_sharding_twice_keeps_weights_buffers_and_logits(
    backbone: str, lora: LoraSettings | None, mesh: DeviceMesh
) -> None:
    plain, sharded = (BACKBONES[backbone].build(lora=lora) for _ in range(2))
    for _ in range(2):
        shard_network(sharded.network, mesh)
    buffers = dict(sharded.network.named_buffers())
    assert any("position_ids" in name or "inv_freq" in name for name in buffers), "buffers that no checkpoint holds"
    for name, buffer in plain.network.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    parameters = dict(sharded.network.named_parameters())
    for name, parameter in plain.network.named_parameters():
        assert isinstance(parameters[name], DTensor)
        assert torch.equal(parameters[name].full_tensor(), parameter), name
        assert parameters[name].requires_grad == parameter.requires_grad, name
    layers = [part for part in sharded.network.modules() if isinstance(part, GradientCheckpointingLayer)]
    assert len(layers) == 4, "two layers in each tower"
    assert all(isinstance(layer, FSDPModule) for layer in layers)
    batch = plain.collator()([row(0, CAPTIONS), row(1, CAPTIONS[:2])])
    with torch.no_grad():
        assert torch.equal(plain.logits(batch), sharded.logits(batch))


def test_a_parameter_on_the_meta_device_or_without_an_axis_is_refused(mesh: DeviceMesh) -> None:
    with pytest.raises(ValueError, match="weight is on the meta device: load the weights"):
        shard_network(nn.Linear(2, 2, device="meta"), mesh)
    scalar = nn.Module()
    scalar.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ValueError, match="scale is a scalar"):
        shard_network(scalar, mesh)


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_weights(mesh: DeviceMesh) -> None:
    module = BACKBONES["llava"].build()
    batch = module.collator()([row(0, CAPTIONS)])
    with torch.no_grad():
        expected = module.logits(batch)
    shard_network(module.network, mesh, compute_dtype=torch.bfloat16)
    seen: list[torch.dtype] = []
    layer = module.network.llava.model.language_model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda part, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = module.loss(batch)
        logits = module.logits(batch)
    loss.backward()
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in module.network.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in module.network.parameters() if p.grad is not None} == {torch.float32}
    torch.testing.assert_close(logits, expected, atol=0.5, rtol=0.1)


@pytest.mark.parametrize("backbone", ["llava", "blip2"])
def test_half_precision_does_not_round_match_logits(backbone: str) -> None:
    """Rounded to 8 bits, similar captions would tie, and ties count as wrong."""
    module = BACKBONES[backbone].build()
    batch = module.collator()([row(0, CAPTIONS), row(1, CAPTIONS)])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = module.logits(batch)
    assert not torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize("backbone", ["llava", "blip2"])
def test_a_sharded_network_trains_after_it_was_validated(backbone: str, mesh: DeviceMesh) -> None:
    """With all that a large model is trained with: half precision and recomputed activations."""
    plain, sharded = (BACKBONES[backbone].build(gradient_checkpointing=True).train() for _ in range(2))
    shard_network(sharded.network, mesh, compute_dtype=torch.bfloat16)
    batch = plain.collator()([row(0, CAPTIONS), row(1, CAPTIONS[:2])])
    losses = []
    for module in (plain, sharded):
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                module.logits(batch)
            loss, _ = module.loss(batch)
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    gradients = dict(plain.network.named_parameters())
    moved = 0
    for name, parameter in sharded.network.named_parameters():
        if parameter.grad is not None:
            expected = gradients[name].grad
            assert expected is not None
            error = (parameter.grad.full_tensor() - expected).norm() / expected.norm().clamp(min=1e-2)
            moved += bool(error < 0.2)
    assert moved > 30
