"""Backbones from plain settings: every setting of an experiment is known here, and what is not known is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch

from datamodules.batch import InputError
from experiments.config.model_schemas import AdapterConfig, CeClipLossConfig, ItcItmLossConfig, ModelConfig, TinyConfig
from lightning_modules.adapters import LoraSettings
from lightning_modules.backbones.registry import BACKBONES, Source, build_backbone, check_settings, known_settings
from lightning_modules.backbones.tiny.llava import TinyShape
from lightning_modules.losses.ce_clip import CeClipSettings
from lightning_modules.losses.itc_itm import ItcItmSettings
from tests.tiny import CAPTIONS, SHAPE, row

OPTIM = {"lr": 1e-3}
TINY = dataclasses.asdict(SHAPE)


def test_the_known_settings_are_those_of_an_experiment() -> None:
    assert set(known_settings()) == {field.name for field in dataclasses.fields(ModelConfig)}
    for settings, schema in ((TinyShape, TinyConfig), (LoraSettings, AdapterConfig)):
        assert {f.name for f in dataclasses.fields(settings)} == {f.name for f in dataclasses.fields(schema)}
    for loss, config in ((ItcItmSettings, ItcItmLossConfig), (CeClipSettings, CeClipLossConfig)):
        assert dataclasses.asdict(config()) == dataclasses.asdict(loss())


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_what_is_missing_or_none_is_the_backbones_own_default(backbone: str) -> None:
    logits = []
    full = dataclasses.asdict(ModelConfig(backbone=backbone))
    for model in ({"backbone": backbone, "tiny": TINY}, {**full, "tiny": TINY}):
        torch.manual_seed(0)
        module = build_backbone(model, Source(CAPTIONS), OPTIM).eval()
        logits.append(module.logits(module.collator()([row(0, CAPTIONS)])))
    assert torch.equal(*logits)


def test_settings_reach_the_module() -> None:
    model = {"backbone": "blip2", "tiny": TINY, "score": "itc", "max_text_tokens": 9, "long_captions": "error"}
    module: Any = build_backbone(model, Source(CAPTIONS), OPTIM)
    assert (module.score_name, module.encoder.max_text_tokens, module.encoder.long_captions) == ("itc", 9, "error")
    adapted = {"backbone": "clip", "tiny": TINY, "tune": "lora", "adapter": {"rank": 3, "targets": ["vision"]}}
    names = [name for name, _ in build_backbone(adapted, Source(CAPTIONS), OPTIM).named_parameters() if "lora_" in name]
    assert names
    assert all("vision_model" in name for name in names)


BAD = {
    "no backbone": ({"tiny": TINY}, "model.backbone must be one of llava, blip2, clip, got None."),
    "an unknown backbone": ({"backbone": "blip"}, "model.backbone must be one of llava, blip2, clip, got 'blip'."),
    "an unknown setting": ({"backbone": "clip", "scores": "itc"}, "model has no setting 'scores'; known are "),
    "another type": ({"backbone": "clip", "max_text_tokens": True}, "model.max_text_tokens must be int, got True."),
    "a number as text": ({"backbone": "llava", "system": 3}, "model.system must be str, got 3."),
    "an unknown way to tune": ({"backbone": "clip", "tune": "half"}, "model.tune must be one of full, lora, got"),
    "an unknown size": ({"backbone": "clip", "tiny": {"width": 3}}, "model.tiny has no setting 'width'; known are"),
    "a size that is text": ({"backbone": "clip", "tiny": {"layers": "2"}}, "model.tiny.layers must be int, got '2'."),
    "targets that are numbers": (
        {"backbone": "clip", "tiny": TINY, "tune": "lora", "adapter": {"targets": [1]}},
        "model.adapter.targets must be tuple, got (1,).",
    ),
    "a score of another backbone": (
        {"backbone": "clip", "score": "itc"},
        "model.score belongs to blip2, and backbone is clip; leave it out.",
    ),
    "an activation of another backbone": (
        {"backbone": "llava", "activation": "gelu"},
        "model.activation belongs to clip, and backbone is llava; leave it out.",
    ),
    "a section without its loss": (
        {"backbone": "clip", "ce_clip": {"imc_weight": 9.0}},
        "model.ce_clip belongs to the loss ce_clip, and loss is None; leave it out.",
    ),
    "a section of another backbone's loss": (
        {"backbone": "clip", "loss": "ce_clip", "itc_itm": {"itc_weight": 2.0}},
        "model.itc_itm belongs to the loss itc_itm, and loss is ce_clip; leave it out.",
    ),
    "no such checkpoint": ({"backbone": "clip", "checkpoint": "no/such"}, "model: there is no folder no/such"),
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_sections_that_hold_their_defaults_belong_everywhere(backbone: str) -> None:
    check_settings(dataclasses.asdict(ModelConfig(backbone=backbone)), "model")
    check_settings({"backbone": backbone, "ce_clip": {}, "itc_itm": {"itc_weight": 1.0}}, "model")
    check_settings({"backbone": "clip", "loss": "ce_clip", "ce_clip": {"imc_weight": 9.0}}, "model")


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_line(case: str) -> None:
    model, expected = BAD[case]
    with pytest.raises(InputError) as caught:
        build_backbone(model, Source(CAPTIONS), OPTIM)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_nothing_heavy_is_imported_before_something_is_built() -> None:
    code = "import sys, lightning_modules.scoring.runs\nassert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)
