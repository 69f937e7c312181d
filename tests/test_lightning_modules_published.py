"""Published checkpoints: what does not fit is refused by name, whatever the backbone, and their code is not run."""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.build import build_module
from lightning_modules.backbones.model_section import model_settings
from lightning_modules.backbones.published import load_processor
from negatives.tables.captions import InputError
from tests.backbones import BACKBONES, save_published
from tests.tiny import CAPTIONS, row


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for name, backbone in BACKBONES.items():
        save_published(backbone.build(), folder / name)
    return folder


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_a_published_checkpoint_scores_as_the_model_it_was_saved_from(backbone: str, published: Path) -> None:
    module, saved = (
        build_module(model_settings({"backbone": backbone, "checkpoint": str(published / backbone)})),
        BACKBONES[backbone].build(),
    )
    rows = [row(0, CAPTIONS), row(1, CAPTIONS[:2])]
    expected = saved.logits(saved.collator()(rows))
    torch.testing.assert_close(module.eval().logits(module.collator()(rows)), expected, atol=1e-5, rtol=0)


# a chat VLM may be a LLaVA
@pytest.mark.parametrize(
    ("backbone", "other"), sorted({*itertools.permutations(BACKBONES, 2)} - {("chat_vlm", "llava")})
)
def test_a_checkpoint_of_another_backbone_is_refused(backbone: str, other: str, published: Path) -> None:
    with pytest.raises(InputError, match=r"is a checkpoint of type '.*choose (the )?model\.backbone"):
        build_module(model_settings({"backbone": backbone, "checkpoint": str(published / other)}))


LAYERS = {"llava": "text_config", "blip2": "qformer_config", "clip": "text_config"}


@pytest.mark.parametrize("backbone", LAYERS)
def test_a_configuration_that_names_fewer_layers_than_there_are_is_refused(
    backbone: str, published: Path, tmp_path: Path
) -> None:
    """Transformers leaves them out, and the scores are those of another model."""
    copy, tensors = spoilt(published, tmp_path, backbone)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((copy / "config.json").read_text())
    config[LAYERS[backbone]]["num_hidden_layers"] -= 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"\d+ weights are of layers that it does not name"):
        build_module(model_settings({"backbone": backbone, "checkpoint": str(copy)}))


def spoilt(published: Path, folder: Path, backbone: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """A copy of a published checkpoint without its weights, and the weights."""
    copy = folder / "copy"
    copy.mkdir()
    for path in (published / backbone).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy, load_file(copy / "model.safetensors")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_missing_and_misshapen_weights_are_named(backbone: str, published: Path, tmp_path: Path) -> None:
    copy, weights = spoilt(published, tmp_path, backbone)
    # sorted by size, so that they are no biases, which a configuration may do without
    short, gone = sorted((name for name, tensor in weights.items() if tensor.ndim == 2), key=lambda n: (-len(n), n))[:2]
    weights[short] = weights[short][:-1].clone()
    del weights[gone]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="does not fit its own configuration") as caught:
        build_module(model_settings({"backbone": backbone, "checkpoint": str(copy)}))
    stem = gone.removeprefix("model.").removeprefix("language_model.")
    assert stem.split(".", 1)[-1] in str(caught.value)
    assert "has shape" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_folder_with_pickled_weights_is_refused(backbone: str, published: Path, tmp_path: Path) -> None:
    copy, weights = spoilt(published, tmp_path, backbone)
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        build_module(model_settings({"backbone": backbone, "checkpoint": str(copy)}))


def test_a_truncated_file_is_one_line(published: Path, tmp_path: Path) -> None:
    copy, _ = spoilt(published, tmp_path, "llava")
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError) as caught:
        build_module(model_settings({"backbone": "llava", "checkpoint": str(copy)}))
    assert "\n" not in str(caught.value)
    assert json.loads((copy / "config.json").read_text())["model_type"] == "llava"


def with_code(folder: Path, kind: str) -> None:
    """Makes a checkpoint's folder name a class of its own, in a file that raises when it is imported."""
    (folder / "own.py").write_text("raise SystemExit('its code was run')\n")
    path = folder / ("tokenizer_config.json" if kind == "AutoTokenizer" else "processor_config.json")
    content: dict[str, Any] = json.loads(path.read_text())
    if kind == "AutoProcessor":
        content |= {"processor_class": "OwnProcessor", "auto_map": {kind: "own.OwnProcessor"}}
    elif kind == "AutoTokenizer":
        content |= {"tokenizer_class": "OwnTokenizer", "auto_map": {kind: ["own.OwnTokenizer", "own.OwnTokenizer"]}}
    else:
        content["image_processor"] |= {"image_processor_type": "OwnImages", "auto_map": {kind: "own.OwnImages"}}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["AutoProcessor", "AutoTokenizer", "AutoImageProcessor"])
def test_code_that_comes_with_a_checkpoint_is_neither_run_nor_asked_about(
    kind: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def agreed(question: str = "") -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", agreed)
    copy, weights = spoilt(published, tmp_path, "clip")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with_code(copy, kind)
    with contextlib.suppress(InputError):
        build_module(model_settings({"backbone": "clip", "checkpoint": str(copy)}))
    assert asked == []
    assert not [name for name in sys.modules if name.startswith("transformers_modules") and name.endswith(".own")]


def test_a_class_that_a_checkpoint_may_choose_is_never_left_to_ask() -> None:
    found = 0
    for package in ("lightning_modules", "negatives", "experiments", "datamodules"):
        for path in sorted((Path(__file__).parents[1] / package).rglob("*.py")):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(call, ast.Call) and ast.unparse(call.func).startswith(("Auto", "auto_model.")):
                    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                    assert given.get("trust_remote_code") == "False", f"{path}:{call.lineno}"
                    found += 1
    assert found == 5, "the processor, and two places that load a model with its tokenizer"


def test_a_processor_has_both_its_parts(published: Path, tmp_path: Path) -> None:
    copy, _ = spoilt(published, tmp_path, "clip")
    for name in ("processor_config.json", "config.json"):
        (copy / name).unlink()
    with pytest.raises((OSError, ValueError)) as caught:
        load_processor(copy)
    assert "\n" not in str(caught.value)
