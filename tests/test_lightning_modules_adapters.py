"""LoRA: an adapter that matches nothing is an error, and it starts as the identity."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_modules.adapters import LoraSettings, add_lora
from lightning_modules.backbones.llava import PARTS as LLAVA_PARTS
from lightning_modules.backbones.llava import LlavaModule
from tests.tiny import CAPTIONS, row, tiny_module


def adapted(*targets: str, **settings: object) -> LlavaModule:
    lora = LoraSettings(rank=4, alpha=8, dropout=0.0, targets=list(targets or ("language_model",)))
    return tiny_module(lora=lora, train_vision=False, **settings)


def trainable(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def has_adapter(module: nn.Module, part: str) -> bool:
    return any("lora_" in name and part in name.split(".") for name, _ in module.named_parameters())


PARTS = ("language_model", "vision_tower", "multi_modal_projector")


@pytest.mark.parametrize("targets", [("languagemodel",), ("language_model", "nowhere"), ("embed_tokens",), ("proj",)])
def test_a_target_that_matches_no_linear_layer_is_an_error(targets: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=rf"model\.adapter\.targets: '{targets[-1]}' matches no linear layer") as error:
        adapted(*targets)
    assert all(part in str(error.value) for part in PARTS), "the error names what there is"


def test_a_refused_target_adapts_nothing() -> None:
    llava = tiny_module().network.llava
    with pytest.raises(ValueError, match="nowhere"):
        add_lora(llava, LoraSettings(targets=["language_model", "nowhere"]), LLAVA_PARTS)
    assert not any("lora_" in name for name, _ in llava.named_parameters())


def test_only_adapters_and_projector_train_under_lora() -> None:
    names = trainable(adapted())
    adapters = {name for name in names if "lora_" in name}
    assert adapters
    assert all("language_model" in name.split(".") for name in adapters)
    rest = {name.removeprefix("network.llava.model.") for name in names - adapters}
    assert rest == {f"multi_modal_projector.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}


def test_every_linear_layer_of_the_language_model_is_adapted_but_the_head() -> None:
    llava = tiny_module().network.llava
    linear = {name for name, module in llava.named_modules() if isinstance(module, nn.Linear)}
    expected = {name for name in linear if name.startswith("model.language_model.")}
    assert len(expected) == 2 * 7  # q, k, v, o, gate, up and down in both layers
    assert set(add_lora(llava, LoraSettings(rank=2), LLAVA_PARTS)) == expected
    assert not has_adapter(llava, "lm_head")


@pytest.mark.parametrize("part", PARTS)
def test_a_target_adapts_its_part_and_no_other(part: str) -> None:
    module = adapted(part)
    assert [has_adapter(module, other) for other in PARTS] == [other == part for other in PARTS]
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad and "lora_" not in name}
    assert any(part in name.split(".") for name in frozen), "the adapted weights themselves stay as they are"


def test_all_parts_can_be_adapted_together() -> None:
    module = adapted(*PARTS)
    assert all(has_adapter(module, part) for part in PARTS)
    module.loss(module.collator()([row(0, CAPTIONS)]))[0].backward()
    unreached = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert unreached == [], "DDP fails on parameters that the loss never reaches"


@pytest.mark.parametrize("targets", [("language_model",), PARTS])
@torch.no_grad()
def test_an_adapter_starts_as_the_identity(targets: tuple[str, ...]) -> None:
    plain, with_adapter = tiny_module(train_vision=False), adapted(*targets)
    batch = plain.collator()([row(0, CAPTIONS), row(1, CAPTIONS[:2])])
    assert torch.equal(plain.logits(batch), with_adapter.logits(batch))


@pytest.mark.parametrize("part", PARTS)
@torch.no_grad()
def test_an_adapter_that_has_moved_changes_the_logits(part: str) -> None:
    module = adapted(part)
    batch = module.collator()([row(0, CAPTIONS)])
    before = module.logits(batch)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and "lora_B" in name:
            parameter.normal_()
    assert not torch.allclose(module.logits(batch), before)


@torch.no_grad()
def test_alpha_over_rank_scales_an_adapter() -> None:
    layer = nn.Sequential()
    layer.add_module("part", nn.Sequential(nn.Linear(3, 2)))
    x = torch.randn(1, 3)
    before = layer(x)
    add_lora(layer, LoraSettings(rank=4, alpha=8, dropout=0.0, targets=["part"]), parts={})
    weights = {name.split(".")[-3]: p for name, p in layer.named_parameters() if "lora_" in name}
    weights["lora_B"].normal_()
    expected = before + 8 / 4 * x @ weights["lora_A"].T @ weights["lora_B"].T
    torch.testing.assert_close(layer(x), expected)


def test_what_multihead_attention_multiplies_by_itself_gets_no_adapter() -> None:
    model = nn.ModuleDict({"part": nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "out": nn.Linear(4, 4)})})
    assert add_lora(model, LoraSettings(rank=2, targets=["part"]), parts={}) == ["part.out"]
