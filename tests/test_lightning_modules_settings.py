"""Settings of a scorer: each is declared once, by its backbone or loss; what is not known is refused in one line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch

from datamodules.batch import InputError
from lightning_modules.adapters import LoraSettings
from lightning_modules.backbones.build import Source, build_backbone
from lightning_modules.backbones.model_section import FORMER_KEYS, model_settings, without_former_keys
from lightning_modules.backbones.settings import ModelSettings
from lightning_modules.backbones.table import BACKBONES, backbone_class, backbone_of_model_type
from lightning_modules.settings import field_types
from tests import backbones
from tests.tiny import CAPTIONS, SHAPE, row

OPTIM = {"lr": 1e-3}
TINY = dataclasses.asdict(SHAPE)
NAMES = ", ".join(BACKBONES)


def test_every_backbone_has_its_line_in_the_tests() -> None:
    assert list(backbones.BACKBONES) == list(BACKBONES)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_called_as_in_the_table_and_its_settings_too(name: str) -> None:
    found = backbone_class(name)
    assert (found.backbone, found.Settings().backbone) == (name, name)
    assert name in {backbone_of_model_type(model_type) for model_type in found.model_types()}
    assert set(found.Settings.scorer_keys) <= set(field_types(found.Settings))


@pytest.mark.parametrize("name", BACKBONES)
def test_what_a_score_depends_on_is_what_a_scorer_json_may_hold(name: str) -> None:
    module = backbones.BACKBONES[name].build()
    settings = module.scorer_settings()
    assert tuple(settings) == module.Settings.scorer_keys
    assert None not in settings.values(), "nothing is left to a default that may change"
    again = build_backbone(model_settings({"backbone": name, "tiny": TINY, **settings}), Source(CAPTIONS), OPTIM)
    assert again.scorer_settings() == settings


def test_an_unknown_backbone_is_refused_with_the_nearest_and_the_list() -> None:
    with pytest.raises(ValueError, match=r"^backbone must be one of llava, .*, got 'lava'\. Did you mean llava\?$"):
        backbone_class("lava")
    assert backbone_of_model_type("opt") is None
    assert backbone_of_model_type(["clip"]) is None


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_what_is_missing_is_the_backbones_own_default(backbone: str) -> None:
    logits = []
    full = dataclasses.asdict(model_settings({"backbone": backbone}))
    for model in ({"backbone": backbone, "tiny": TINY}, {**full, "tiny": TINY}):
        torch.manual_seed(0)
        module = build_backbone(model_settings(model), Source(CAPTIONS), OPTIM).eval()
        logits.append(module.logits(module.collator()([row(0, CAPTIONS)])))
    assert torch.equal(*logits)


def test_settings_reach_the_module() -> None:
    model = {"backbone": "blip2", "tiny": TINY, "score": "itc", "max_text_tokens": 9, "long_captions": "error"}
    model |= {"loss": "itc_itm", "itc_itm": {"temperature": 0.25}}
    module: Any = build_backbone(model_settings(model), Source(CAPTIONS), OPTIM)
    assert (module.score_name, module.encoder.max_text_tokens, module.encoder.long_captions) == ("itc", 9, "error")
    assert module.network.itc_temperature.item() == 0.25
    adapted = {"backbone": "clip", "tiny": TINY, "tune": "lora", "adapter": {"rank": 3, "targets": ["vision"]}}
    clip = build_backbone(model_settings(adapted), Source(CAPTIONS), OPTIM)
    names = [name for name, _ in clip.named_parameters() if "lora_" in name]
    assert names
    assert all("vision_model" in name for name in names)


BAD = {
    "no backbone": ({"tiny": TINY}, f"`model.backbone` must be one of {NAMES}, got None"),
    "an unknown backbone": (
        {"backbone": "blip"},
        f"`model.backbone` must be one of {NAMES}, got 'blip'. Did",
    ),
    "an unknown setting": (
        {"backbone": "blip2", "scores": 1},
        "`model.scores` is no known key, did you mean `model.sc",
    ),
    "another type": ({"backbone": "clip", "max_text_tokens": True}, "`model.max_text_tokens` must be int or null, got"),
    "a number as text": ({"backbone": "llava", "system": 3}, "`model.system` must be str or null, got 3"),
    "an unknown way to tune": ({"backbone": "clip", "tune": "half"}, "`model.tune` must be one of full, lora, got"),
    "an unknown size": ({"backbone": "clip", "tiny": {"layer": 3}}, "`model.tiny.layer` is no known key, did you mean"),
    "a size that is text": ({"backbone": "clip", "tiny": {"layers": "2"}}, "`model.tiny.layers` must be int, got '2'"),
    "a size out of bounds": (
        {"backbone": "clip", "tiny": {"layers": 0}},
        "`model.tiny.layers` must be in [1, 1000], got 0",
    ),
    "no number": (
        {"backbone": "clip", "tiny": {"initializer_range": float("inf")}},
        "`model.tiny.initializer_range` must be a finite number, got inf",
    ),
    "targets that are numbers": (
        {"backbone": "clip", "tiny": TINY, "tune": "lora", "adapter": {"targets": [1]}},
        "`model.adapter.targets` must be list[str], got [1]",
    ),
    "a misspelt part": (
        {"backbone": "blip2", "tiny": TINY, "tune": "lora", "adapter": {"targets": ["vision", "qforner"]}},
        "`model.adapter.targets` must be parts (qformer, vision, projector) or names of modules, got 'qforner'. Did "
        "you mean qformer?",
    ),
    "a size that does not divide": (
        {"backbone": "clip", "tiny": {"heads": 3}},
        "`model.tiny.heads` must divide `model.tiny.hidden_size`, got 3 and 128",
    ),
    "a score of another backbone": (
        {"backbone": "clip", "score": "itc"},
        "`model.score` is no known key, the keys here are backbone, checkpoint,",
    ),
    "a loss of another backbone": (
        {"backbone": "clip", "loss": "lm"},
        "`model.loss` must be one of ",
    ),
    "a section without its loss": (
        {"backbone": "clip", "ce_clip": {"imc_weight": 9.0}},
        "`model.ce_clip` belongs to the loss ce_clip, which is not the one of `model.loss`: choose it there, or leave",
    ),
    "a weight below 0": (
        {"backbone": "clip", "loss": "ce_clip", "ce_clip": {"imc_weight": -1}},
        "`model.ce_clip.imc_weight` must be >= 0.0, got -1",
    ),
    "a question without its caption": (
        {"backbone": "llava", "question": "why?"},
        "`model.question` must hold {caption} exactly once, got 'why?'",
    ),
    "two faults": (
        {"backbone": "clip", "tune": "half", "loss": "itc", "scale": 1},
        "`model.tune` must be one of full, lora, got 'half'; `model.scale` is no known key",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_line(case: str) -> None:
    model, expected = BAD[case]
    with pytest.raises(ValueError, match=r"^`model\.") as caught:
        model_settings(model)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_module_of_the_backbone_is_taken_for_no_misspelt_part(name: str) -> None:
    modules = {
        word for path, _ in backbones.BACKBONES[name].build().network.named_modules() for word in path.split(".")
    }
    assert len(modules) > 20
    adapter = {"targets": [*sorted(modules - {""}), *backbone_class(name).parts]}
    assert model_settings({"backbone": name, "tiny": TINY, "tune": "lora", "adapter": adapter}).adapter == LoraSettings(
        **adapter
    )
    # unused, and so not judged
    assert model_settings({"backbone": name, "tiny": TINY, "adapter": {"targets": ["projecto"]}}).tune == "full"


def test_a_checkpoint_that_is_not_there_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^model: there is no folder no/such") as caught:
        build_backbone(model_settings({"backbone": "clip", "checkpoint": "no/such"}), Source(CAPTIONS), OPTIM)
    assert "\n" not in str(caught.value)


def test_what_older_runs_wrote_of_other_backbones_is_left_out_and_nothing_else() -> None:
    saved = {"backbone": "blip2", "loss": None, "score": "itc", "activation": None, "ce_clip": {"imc_weight": 0.3}}
    assert without_former_keys(saved) == {"backbone": "blip2", "loss": None, "score": "itc"}
    assert without_former_keys({**saved, "loss": "itc_itm", "itc_itm": {}}) == {
        **{"backbone": "blip2", "loss": "itc_itm", "score": "itc", "itc_itm": {}}
    }
    assert without_former_keys({"backbone": "clip", "scores": 1}) == {"backbone": "clip", "scores": 1}
    assert not set(FORMER_KEYS) & set(field_types(ModelSettings))


def test_nothing_heavy_is_imported_before_something_is_built() -> None:
    modules = "lightning_modules.scoring.runs, experiments.config.load, experiments.config.schemas"
    code = f"import sys, {modules}\nassert not {{'torch', 'peft'}} & set(sys.modules), 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)
