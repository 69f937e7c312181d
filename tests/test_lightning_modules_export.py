"""Adapters in PEFT's format: all that trained is in them, and another base is refused."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, PreTrainedModel

from datamodules.batch import InputError
from experiments.build import build_module
from lightning_modules import Scorer, load_scorer
from lightning_modules.adapters import LoraSettings
from lightning_modules.backbones.backbone import Backbone
from lightning_modules.backbones.build import Source, build_backbone
from lightning_modules.backbones.model_section import model_settings
from lightning_modules.scoring.export import (
    base_fingerprint,
    load_adapters,
    load_base,
    merge_adapters,
    other_parameters,
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
def trained(published: Path, backbone: str, *targets: str, train_vision: bool | None = None) -> Backbone:
    """A module with adapters; all that trains has moved."""
    adapter = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": list(targets)}
    config = {"backbone": backbone, "checkpoint": str(published / backbone), "tune": "lora", "adapter": adapter}
    module = build_module(model_settings({**config, "train_vision": train_vision})).eval()
    torch.manual_seed(0)
    for parameter in module.network.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module


def save(module: Backbone, folder: Path, base: Path) -> Path:
    """The folder of a module's adapters with its scorer.json."""
    content = scorer_content(module)
    save_adapters(module, folder, str(base))
    model = load_base(module.backbone, base, content["model"], dtype="auto")
    content["base"] = {"checkpoint": str(base), "weights": base_fingerprint(model)}
    (folder / "scorer.json").write_text(json.dumps(content))
    return folder


@torch.no_grad()
def logits_with(module: Backbone, model: PreTrainedModel) -> torch.Tensor:
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
    model = module.to_transformers()
    expected = logits_with(module, model)
    folder = save(module, tmp_path / "adapters", published / backbone)
    loaded, *_ = load_adapters(folder)
    torch.testing.assert_close(logits_with(module, loaded), expected, atol=1e-6, rtol=1e-6)
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
    assert trained_beside(trained(published, backbone).to_transformers()) == (modules, parameters)


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
        assert isinstance(load_adapters(folder, moved)[0], PreTrainedModel)
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


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_run_in_bfloat16_scores_after_export_as_before(backbone: str, published: Path, tmp_path: Path) -> None:
    module = trained(published, backbone)
    for parameter in module.parameters():  # alone: `from_pretrained` keeps rotary frequencies in float32
        parameter.data = parameter.data.bfloat16()
    image = row(0, CAPTIONS).image
    expected = Scorer(module, device="cpu").logits(image, CAPTIONS)
    folder = save(module, tmp_path / "adapters", published / backbone)
    loaded = load_scorer(folder, device="cpu")
    assert {value.dtype for value in loaded.module.parameters()} == {torch.bfloat16}
    assert torch.equal(loaded.logits(image, CAPTIONS), expected)  # type: ignore[arg-type]


def test_adapters_are_loaded_in_the_type_that_is_asked_for(published: Path, tmp_path: Path) -> None:
    folder = save(trained(published, "clip"), tmp_path / "adapters", published / "clip")
    for dtype in (torch.float32, torch.bfloat16):
        loaded = load_scorer(folder, device="cpu", dtype=dtype)
        assert {value.dtype for value in loaded.module.parameters()} == {dtype}


def test_one_base_is_in_memory_at_a_time(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(trained(published, "clip"), tmp_path / "adapters", published / "clip")
    bases: list[weakref.ref[PreTrainedModel]] = []

    def counted(*arguments: Any, **settings: Any) -> PreTrainedModel:
        gc.collect()
        assert not any(base() for base in bases)
        bases.append(weakref.ref(model := load_base(*arguments, **settings)))
        return model

    monkeypatch.setattr("lightning_modules.scoring.export.load_base", counted)
    load_adapters(folder, dtype=torch.bfloat16)
    assert len(bases) == 2


def edited(**settings: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))

    return edit


def without(*words: str) -> Callable[[Path], object]:
    """Leaves out the tensors whose name holds one of the words."""

    def leave_out(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        kept = {name: value for name, value in load_file(path).items() if not any(word in name for word in words)}
        save_file(kept, path, metadata={"format": "pt"})

    return leave_out


def with_tensor(name: str, value: torch.Tensor) -> Callable[[Path], object]:
    def add(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        save_file({**load_file(path), name: value}, path, metadata={"format": "pt"})

    return add


LAYER = "base_model.model.text_model.encoder.layers.0.mlp.fc1"
SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "half of LoRA": (without("vision_model"), "does not fit adapter_config.json and the base: missing base_model."),
    "no projection": (without("text_projection"), "missing base_model.model.text_projection.weight."),
    "no scale": (without("logit_scale"), "missing base_model.model.logit_scale."),
    "a layer less adapted": (
        edited(target_modules=["text_model.encoder.layers.0.mlp.fc1"]),
        "unexpected base_model.model.text_model.encoder.layers.0.mlp.fc2.lora_A.weight, ",
    ),
    "nothing saved whole": (edited(modules_to_save=None, target_modules=["fc1"]), "unexpected base_model.model."),
    "a tensor of nothing": (with_tensor("other", torch.ones(1)), "unexpected other."),
    "a weight under its adapter": (
        with_tensor(f"{LAYER}.base_layer.weight", torch.ones(128, 32)),
        f"unexpected {LAYER}.base_layer.weight.",
    ),
    "a tensor of another shape": (
        with_tensor(f"{LAYER}.lora_A.weight", torch.ones(3, 32)),
        "has shape (3, 32), the model (2, 32).",
    ),
    "damaged tensors": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(b"xx"),
        "cannot be read (SafetensorError: ",
    ),
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read ("),
    "nested without end": (
        lambda f: (f / "adapter_config.json").write_text("[" * 100_000),
        "cannot be read (Recursion",
    ),
    "a list": (
        lambda f: (f / "adapter_config.json").write_text("[]"),
        "adapter_config.json must hold a mapping, got []",
    ),
    "another method": (edited(peft_type="IA3", feedforward_modules=[]), "peft_type must be LORA, got 'IA3'"),
    "an unknown method": (edited(peft_type="EVIL"), "peft_type must be LORA, got 'EVIL'"),
    "a list of methods": (edited(peft_type=["LORA"]), "peft_type must be LORA, got ['LORA']"),
    "a number of layers": (edited(target_modules=3), "target_modules cannot be 3;"),
    "numbers as layers": (edited(target_modules=[3]), "target_modules cannot be [3];"),
    "a rank that is true": (edited(r=True), "r cannot be True;"),
    "another scale of LoRA": (edited(use_rslora=True), "use_rslora must be False, got True;"),
    "modules by name": (edited(megatron_config={"a": 1}, megatron_core="evil"), "megatron_config must be None, got"),
}


@pytest.fixture(scope="module")
def adapters(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a CLIP."""
    folder = tmp_path_factory.mktemp("exported") / "adapters"
    return save(trained(published, "clip"), folder, published / "clip")


@pytest.mark.parametrize("case", SPOILT)
def test_adapters_that_are_not_whole_or_not_lora_are_one_line(case: str, adapters: Path, tmp_path: Path) -> None:
    spoil, expected = SPOILT[case]
    shutil.copytree(adapters, tmp_path / "copy")
    spoil(tmp_path / "copy")
    with pytest.raises(InputError) as caught:
        load_scorer(tmp_path / "copy", device="cpu")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("shape", [(64, 512), (512, 64), (127, 129), (1000, 300)])
@torch.no_grad()
def test_a_fingerprint_sees_a_change_of_any_band_of_rows_or_columns(shape: tuple[int, int]) -> None:
    model = torch.nn.Linear(shape[1], shape[0])
    before = base_fingerprint(model)
    weight = model.weight.clone()
    for axis in (0, 1):
        for start in range(0, shape[axis], shape[axis] // 16):
            model.weight.copy_(weight).narrow(axis, start, min(shape[axis] // 16, shape[axis] - start)).add_(1)
            assert base_fingerprint(model) != before, (axis, start)
    model.weight.copy_(weight)
    assert base_fingerprint(model) == before


@pytest.mark.parametrize("size", [(16, 16), (24, 16), (17, 33), (1, 5), (101, 58)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_llavas_exported_processor_pads_as_the_training_did(size: tuple[int, int], mode: str, tmp_path: Path) -> None:
    module = tiny_module()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA").convert(mode)
    expected = module.encoder([image], [["a dog"]], [[1]])["images.pixel_values"]
    module.plain_processor().save_pretrained(tmp_path)
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
    assert other_parameters(trained(published, "blip2")) == {}
    model = {"backbone": "blip2", "checkpoint": str(published / "blip2"), "loss": "itc_itm"}
    module = build_backbone(model_settings({**model, "itc_itm": {"temperature": 0.5}}), Source(), {"lr": 0.0})
    assert other_parameters(module) == {"itc_temperature": 0.5}
