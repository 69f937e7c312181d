"""CLIP's drop-in descendants (READ-CLIP) load: a plain `CLIPModel` folder with OpenAI's processor files."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPProcessor

from lightning_modules import load_scorer
from lightning_modules.backbones.clip import ClipModule
from lightning_modules.backbones.clip_weights.activation import load_clip
from tests.backbones import save_published
from tests.tiny import CAPTIONS, SHAPE, photo, row
from tests.tiny_clip import tiny_clip_module

OPENAI = "openai/clip-vit-base-patch32"
ROWS = [row(0, CAPTIONS), row(1, CAPTIONS[:2])]


def save_json(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def save_openai_processor(processor: CLIPProcessor, folder: Path) -> None:
    """The processor files in the layout of OpenAI's checkpoints on the hub, by Transformers 4's earliest versions."""
    tokenizer: Any = processor.tokenizer
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    save_json(folder, "vocab.json", model["vocab"])
    merges = [" ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    tokens = {
        name: {"content": content, **flags}
        for name, content in (
            ("bos_token", "<|startoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
        )
    }
    save_json(folder, "special_tokens_map.json", {**tokens, "pad_token": "<|endoftext|>"})
    settings = {
        **{name: {**token, "__type": "AddedToken"} for name, token in tokens.items()},
        "pad_token": "<|endoftext|>",
        "add_prefix_space": False,
        "errors": "replace",
        "do_lower_case": True,
        "name_or_path": OPENAI,
        "model_max_length": 77,
        "special_tokens_map_file": "./special_tokens_map.json",
        "tokenizer_class": "CLIPTokenizer",
    }
    save_json(folder, "tokenizer_config.json", settings)
    images = {
        "crop_size": SHAPE.image_size,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": SHAPE.image_size,
    }
    save_json(folder, "preprocessor_config.json", images)


def save_descendant(folder: Path, *, dicts: bool, buffers: bool) -> Path:
    """A tiny CLIP as READ-CLIP is published.

    Args:
        folder: to write to.
        dicts: with `text_config_dict` and `vision_config_dict`, as OpenAI's own configurations have them.
        buffers: with `position_ids` among the weights, as versions before 4.31 saved them.
    """
    module = tiny_clip_module()
    save_published(module, folder)
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    save_openai_processor(module.processor, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"_name_or_path": OPENAI, "torch_dtype": config.pop("dtype"), "transformers_version": "4.30.0"}
    # as in OpenAI's: 2 stands for the highest id
    config["text_config"] |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    if dicts:
        config |= {f"{tower}_config_dict": dict(config[f"{tower}_config"]) for tower in ("text", "vision")}
    save_json(folder, "config.json", config)
    weights = load_file(folder / "model.safetensors")
    assert weights["logit_scale"].shape == ()
    if buffers:
        positions = {"text": 77, "vision": (SHAPE.image_size // SHAPE.patch_size) ** 2 + 1}
        weights |= {f"{t}_model.embeddings.position_ids": torch.arange(n)[None] for t, n in positions.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@torch.no_grad()
@pytest.mark.parametrize(("dicts", "buffers"), [(False, False), (False, True), (True, True)])
def test_a_plain_clip_with_openai_s_processor_files_loads_as_it_was(
    dicts: bool, buffers: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "transformers")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # or nothing would be heard
    folder = save_descendant(tmp_path / "READ-CLIP", dicts=dicts, buffers=buffers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip, processor = load_clip(folder)
    assert caplog.records == []
    loaded, expected = ClipModule(clip, processor, lr=1e-3).eval(), tiny_clip_module()
    batch = expected.collator()(ROWS)
    torch.testing.assert_close(dict(loaded.collator()(ROWS).inputs), dict(batch.inputs), rtol=0, atol=0)
    assert torch.equal(loaded.logits(batch), expected.logits(batch))
    assert clip.config.text_config.hidden_act == "quick_gelu"
    assert load_scorer(folder).score(photo(0), CAPTIONS[0]) == pytest.approx(
        expected.score(expected.logits(batch))[0, 0].item(), abs=1e-6
    )


def test_what_was_trained_from_openai_s_weights_says_so_and_never_runs_with_gelu(tmp_path: Path) -> None:
    folder = save_descendant(tmp_path / "READ-CLIP", dicts=False, buffers=False)
    with pytest.raises(ValueError, match=rf"holds weights of {OPENAI}, which need quick_gelu"):
        load_clip(folder, activation="gelu")
