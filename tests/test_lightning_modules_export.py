"""Adapters in PEFT's format: all that trained is in them, and another base is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoProcessor, PreTrainedModel

from datamodules.batch import InputError
from experiments.build import build_module
from experiments.schemas import AdapterConfig, ModelConfig
from lightning_modules import load_scorer
from lightning_modules.adapters import LoraSettings
from lightning_modules.base import AlignmentModule
from lightning_modules.export import (
    base_fingerprint,
    load_adapters,
    load_base,
    merge_adapters,
    other_parameters,
    plain_model,
    plain_processor,
    save_adapters,
    save_whole,
    scorer_content,
    trained_beside,
)
from tests.backbones import BACKBONES, save_published
from tests.tiny import CAPTIONS, row, tiny_module
from tests.tiny_clip import tiny_clip_module


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of every backbone a base, and another of the same shapes, named -other."""
    folder = tmp_path_factory.mktemp("published")
    for name, backbone in BACKBONES.items():
        save_published(backbone.build(), folder / name)
        save_published(backbone.build(seed=1), folder / f"{name}-other")
    return folder


@torch.no_grad()
def trained(published: Path, backbone: str, *targets: str, train_vision: bool | None = None) -> AlignmentModule:
    """A module with adapters; all that trains has moved."""
    adapter = AdapterConfig(rank=2, alpha=4, dropout=0.0, targets=list(targets))
    config = ModelConfig(backbone, str(published / backbone), tune="lora", adapter=adapter, train_vision=train_vision)
    module = build_module(config).eval()
    torch.manual_seed(0)
    for parameter in module.network.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module


def save(module: AlignmentModule, folder: Path, base: Path) -> Path:
    """The folder of a module's adapters with its scorer.json."""
    content = scorer_content(module)
    save_adapters(module, folder, str(base))
    model = load_base(module.backbone, base, content["model"], dtype="auto")
    content["base"] = {"checkpoint": str(base), "weights": base_fingerprint(model)}
    (folder / "scorer.json").write_text(json.dumps(content))
    return folder


@torch.no_grad()
def logits_with(module: AlignmentModule, model: PreTrainedModel) -> torch.Tensor:
    """The module's logits with another Transformers model in its place."""
    ((name, own),) = module.network.named_children()
    batch = module.collator()([row(0, CAPTIONS), row(1, CAPTIONS[:2])])
    setattr(module.network, name, model)
    logits = module.logits(batch)
    setattr(module.network, name, own)
    return logits[batch.caption_mask]


CASES: list[Any] = [
    *[(backbone, (), False) for backbone in BACKBONES],
    ("llava", (), True),
    ("blip2", (), True),
    *[(backbone, ("projector", "vision"), None) for backbone in BACKBONES],
]


@pytest.mark.parametrize(("backbone", "targets", "train_vision"), CASES)
def test_adapters_hold_all_that_trained(
    backbone: str, targets: tuple[str, ...], train_vision: bool | None, published: Path, tmp_path: Path
) -> None:
    module = trained(published, backbone, *targets, train_vision=train_vision)
    model = plain_model(module)
    expected = logits_with(module, model)
    folder = save(module, tmp_path / "adapters", published / backbone)
    loaded, _ = load_adapters(folder)
    torch.testing.assert_close(logits_with(module, loaded.get_base_model()), expected, atol=1e-6, rtol=1e-6)
    base = load_base(backbone, published / backbone, {}, dtype=torch.float32)
    assert not torch.allclose(logits_with(module, base), expected, atol=1e-3)
    # a merged weight is a rounded sum
    merge_adapters(model)
    torch.testing.assert_close(logits_with(module, model), expected, atol=1e-5, rtol=1e-5)
    assert not any("lora_" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("backbone", "modules", "parameters"),
    [
        ("llava", ["model.multi_modal_projector"], []),
        ("blip2", ["itm_head"], ["query_tokens"]),
        ("clip", ["visual_projection", "text_projection"], ["logit_scale"]),
    ],
)
def test_what_trained_whole_becomes_modules_to_save(
    backbone: str, modules: list[str], parameters: list[str], published: Path
) -> None:
    assert trained_beside(plain_model(trained(published, backbone))) == (modules, parameters)


def test_a_module_that_pefts_names_would_mistake_is_saved_by_its_parameters() -> None:
    model = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2), "overhead": torch.nn.Linear(2, 2, bias=False)})
    model["overhead"].requires_grad_(False)
    assert trained_beside(model) == ([], ["head.weight", "head.bias"])
    assert trained_beside(torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2)})) == (["head"], [])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_another_base_of_the_same_shapes_is_refused(backbone: str, published: Path, tmp_path: Path) -> None:
    folder = save(trained(published, backbone), tmp_path / "adapters", published / backbone)
    with pytest.raises(ValueError, match=r"trained on .*holds other weights .*; give the base") as caught:
        load_adapters(folder, published / f"{backbone}-other")
    assert "\n" not in str(caught.value)
    moved = tmp_path / "moved"
    (published / backbone).rename(moved)
    try:
        assert isinstance(load_adapters(folder, moved)[0], PeftModel)
    finally:
        moved.rename(published / backbone)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_load_scorer_reads_adapters_on_their_base_and_on_no_other(
    backbone: str, published: Path, tmp_path: Path
) -> None:
    module = trained(published, backbone)
    batch = module.collator()([row(0, CAPTIONS)])
    with torch.no_grad():
        expected = module.score(module.logits(batch))[0]
    folder = save(module, tmp_path / "adapters", published / backbone)
    found = load_scorer(folder, device="cpu").score(row(0, CAPTIONS).image, CAPTIONS)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    with pytest.raises(InputError, match="give the base that they were trained on"):
        load_scorer(folder, device="cpu", base=published / f"{backbone}-other")


def test_peft_refuses_a_base_of_other_shapes(published: Path, tmp_path: Path) -> None:
    folder = save(trained(published, "clip"), tmp_path / "adapters", published / "clip")
    other = tiny_clip_module().network.clip
    for layer in other.text_model.encoder.layers:
        layer.mlp.fc1, layer.mlp.fc2 = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(other, str(folder))


def test_a_folder_without_adapters_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no exported adapters"):
        load_adapters(tmp_path)
    (tmp_path / "scorer.json").write_text(json.dumps({"format": 1, "backbone": "clip", "model": {}}))
    with pytest.raises(ValueError, match="holds no exported adapters"):
        load_adapters(tmp_path)


def test_a_fingerprint_depends_on_weights_and_not_on_how_wide_they_are_loaded() -> None:
    half = torch.nn.Linear(40, 3).half()
    same = torch.nn.Linear(40, 3)
    same.load_state_dict(half.state_dict())
    assert base_fingerprint(half) == base_fingerprint(same)
    with torch.no_grad():
        same.bias[2] += 1e-3
    assert base_fingerprint(half) != base_fingerprint(same)
    assert base_fingerprint(half) != base_fingerprint(torch.nn.ModuleDict({"other name": half}))


@pytest.mark.parametrize("size", [(16, 16), (24, 16), (17, 33), (1, 5), (101, 58)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_llavas_exported_processor_pads_as_the_training_did(size: tuple[int, int], mode: str, tmp_path: Path) -> None:
    module = tiny_module()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA").convert(mode)
    expected = module.encoder([image], [["a dog"]], [[1]])["pixel_values"]
    plain_processor(module).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path, backend="pil")
    found = loaded.image_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert not getattr(module.processor.image_processor, "do_pad", False), "the module's own stays as it is"


def test_clips_scale_is_saved_without_an_axis_and_its_scores_stay(tmp_path: Path) -> None:
    module = tiny_clip_module(lora=LoraSettings(rank=2, alpha=4))
    batch = module.collator()([row(0, CAPTIONS)])
    with torch.no_grad():
        before = module.logits(batch)
        save_whole(module, tmp_path)
        torch.testing.assert_close(module.logits(batch), before)
    assert load_base("clip", tmp_path, {}, dtype="auto").logit_scale.shape == ()


def test_what_transformers_has_no_place_for_is_told(published: Path) -> None:
    module = trained(published, "blip2")
    assert other_parameters(module) == {}
    module.network.register_parameter("itc_temperature", torch.nn.Parameter(torch.tensor([0.5])))
    assert other_parameters(module) == {"itc_temperature": 0.5}
