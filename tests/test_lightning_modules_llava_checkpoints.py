"""LLaVA checkpoints as people publish them: each scores as the plain Transformers model does, or is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    LlamaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from datamodules.batch import InputError
from lightning_modules import load_scorer
from lightning_modules.backbones.build import Source, build_backbone
from lightning_modules.backbones.chat.network import ChatNetwork
from lightning_modules.backbones.chat.prompt import YesNoPrompt
from lightning_modules.backbones.chat.table import family_of
from lightning_modules.backbones.chat_vlm import context_of
from lightning_modules.backbones.llava import LlavaModule
from lightning_modules.backbones.model_section import model_settings
from lightning_modules.scoring.export import save_whole, scorer_content
from negatives.tables import write_json
from tests.backbones import Plain
from tests.tiny import CAPTIONS, photo, row, tiny_module

IMAGES = [photo(0), photo(1, 16, 24), photo(2, 20, 20)]
TEXTS = CAPTIONS[:3]


def clip_images(size: int = 16) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def siglip(config: Any) -> None:
    config.vision_config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )


MODELS: dict[str, Callable[[Any], object]] = {
    "default": lambda config: None,
    "full": lambda config: setattr(config, "vision_feature_select_strategy", "full"),
    "layers": lambda config: setattr(config, "vision_feature_layer", [-2, 1, 2]),
    "full layers": lambda config: [MODELS["full"](config), MODELS["layers"](config)],
    "siglip full": lambda config: [siglip(config), MODELS["full"](config)],
    "siglip default": siglip,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder as `save_pretrained` writes it, by what its configuration says of the vision tower."""
    parent, module = tmp_path_factory.mktemp("models"), tiny_module()

    def find(name: str) -> Path:
        folder = parent / name.replace(" ", "_")
        if not folder.is_dir():
            config = type(module.network.llava.config).from_dict(module.network.llava.config.to_dict())
            MODELS[name](config)
            torch.manual_seed(0)
            llava = LlavaForConditionalGeneration(config)
            for parameter in llava.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=0.2)
            llava.save_pretrained(folder)
            module.processor.save_pretrained(folder)
            if "siglip" in name:
                own = json.loads((folder / "processor_config.json").read_text())
                images = SiglipImageProcessorPil(size={"height": 16, "width": 16})
                own["image_processor"] = images.to_dict()
                (folder / "processor_config.json").write_text(json.dumps(own))
        return folder

    return find


def saying(**settings: Any) -> Callable[[Path], object]:
    """Changes what processor_config.json says; a key that is None is left out."""

    def edit(folder: Path) -> None:
        file = folder / "processor_config.json"
        content = {**json.loads(file.read_text()), **settings}
        file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))

    return edit


def in_parts(folder: Path) -> None:
    """Tokenizer and image processor alone, each in its own file, as before there was a processor_config.json."""
    content = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(content["image_processor"]))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer.pop("processor_class", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def of_clip(folder: Path) -> None:
    """With the preprocessor_config.json of the CLIP that the tower is from, which names CLIP's processor."""
    in_parts(folder)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "processor_class": "CLIPProcessor"}))


NOTHING = saying(patch_size=None, num_additional_image_tokens=None, vision_feature_select_strategy=None)
VARIANTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    **{
        f"{model} model, {strategy} in the processor, {tokens} more tokens": (
            model,
            saying(vision_feature_select_strategy=strategy, num_additional_image_tokens=tokens),
        )
        for model in ("default", "full")
        for strategy in ("default", "full")
        for tokens in (0, 1, None)
    },
    "no patch size": ("default", saying(patch_size=None)),
    "another patch size": ("full", saying(patch_size=4)),
    "nothing said": ("full", NOTHING),
    "no processor_config.json": ("default", in_parts),
    "no processor_config.json, full": ("full", in_parts),
    "the preprocessor_config.json of a CLIP": ("default", of_clip),
    "several layers": ("layers", saying()),
    "several layers, nothing said": ("full layers", NOTHING),
    "SigLIP": ("siglip full", saying(num_additional_image_tokens=None)),
    "SigLIP without its first patch": ("siglip default", NOTHING),
}


def variant(models: Callable[[str], Path], folder: Path, name: str, edit: Callable[[Path], object]) -> Path:
    copied = shutil.copytree(models(name), folder / "copy")
    edit(copied)
    return copied


@pytest.fixture(scope="module")
def plain_logits(models: Callable[[str], Path]) -> Callable[[str], list[list[float]]]:
    """Of every image and text; what a processor says besides changes nothing of it."""

    @cache
    def compute(name: str) -> list[list[float]]:
        plain, prompt = Plain(models(name)), YesNoPrompt()
        return [[plain.logit(image, prompt(t, "<image>"), ("▁Yes", "▁No")) for t in TEXTS] for image in IMAGES]

    return compute


@pytest.mark.parametrize("case", VARIANTS)
def test_a_published_variant_scores_as_plain_transformers(
    case: str, models: Callable[[str], Path], plain_logits: Callable[[str], list[list[float]]], tmp_path: Path
) -> None:
    scorer = load_scorer(variant(models, tmp_path, *VARIANTS[case]), device="cpu")
    together = scorer.logits(IMAGES, TEXTS, matrix=True)
    for index, expected in enumerate(plain_logits(VARIANTS[case][0])):
        assert together[index].tolist() == pytest.approx(expected, abs=1e-5)
        assert scorer.logits(IMAGES[index], TEXTS).tolist() == pytest.approx(expected, abs=1e-5), "alone as in a batch"
    assert together.std(0).min() > 1e-3, "the images must differ for this to tell"


@pytest.mark.parametrize("case", ["no processor_config.json, full", "SigLIP", "several layers, nothing said"])
def test_an_export_of_a_variant_needs_no_correction(
    case: str, models: Callable[[str], Path], plain_logits: Callable[[str], list[list[float]]], tmp_path: Path
) -> None:
    scorer = load_scorer(variant(models, tmp_path, *VARIANTS[case]), device="cpu")
    save_whole(scorer.module, tmp_path / "export")  # type: ignore[arg-type]
    write_json(scorer_content(scorer.module), tmp_path / "export/scorer.json")  # type: ignore[arg-type]
    found = load_scorer(tmp_path / "export", device="cpu").logits(IMAGES, TEXTS, matrix=True).tolist()
    assert found == [pytest.approx(row, abs=1e-5) for row in plain_logits(VARIANTS[case][0])]
    # and by the processor alone, as the model card uses it
    processor = AutoProcessor.from_pretrained(tmp_path / "export")
    llava = LlavaForConditionalGeneration.from_pretrained(tmp_path / "export")
    text = YesNoPrompt()(TEXTS[0], "<image>")
    for image, expected in zip(IMAGES, found, strict=True):
        with torch.no_grad():
            logits = llava(**processor(images=image, text=text, return_tensors="pt")).logits[0, -1]
        yes, no = processor.tokenizer.convert_tokens_to_ids(["▁Yes", "▁No"])
        assert float(logits[yes] - logits[no]) == pytest.approx(expected[0], abs=1e-5)


def in_config(**settings: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))

    return edit


def scoring(**model: Any) -> Callable[[Path], object]:
    content = {"format": 1, "backbone": "llava", "model": {"template": "vicuna", **model}}
    return lambda folder: (folder / "scorer.json").write_text(json.dumps(content))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "images of another size": (
        saying(image_processor=clip_images(24).to_dict()),
        "The image processor makes 24 x 24 pixels, which the vision tower cannot read",
    ),
    "another image token": (in_config(image_token_index=7), "config.json says that the image token is 7"),
    "no image processor": (saying(image_processor=None), "the processor of "),
    "a layer that is not there": (in_config(vision_feature_layer=99), "must be of the tower's 2 layers, got 99"),
    "a layer from behind that is not there": (in_config(vision_feature_layer=-4), "of the tower's 2 layers, got"),
    "a mean without end": (
        saying(image_processor={**clip_images().to_dict(), "image_mean": [float("inf"), 0, 0]}),
        "the image processor's settings cannot be read (",
    ),
    "images that fill the memory": (
        saying(image_processor=clip_images(100_000).to_dict()),
        "must be at most 8192, got {'shortest_edge': 100000}",
    ),
    "a system sentence without end": (scoring(system="x" * 200_000), "must have at most 100000 characters"),
    "a question that is no text": (scoring(question="{caption}\ud800"), "must be text that UTF-8 can hold"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_known_of_an_image_is_one_line(case: str, models: Callable[[str], Path], tmp_path: Path) -> None:
    edit, expected = REFUSED[case]
    with pytest.raises(InputError) as caught:
        load_scorer(variant(models, tmp_path, "default", edit), device="cpu")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_forward_with_another_number_of_placeholders_than_features_is_refused() -> None:
    module = tiny_module()
    module.encoder.family.image_tokens -= 1
    with pytest.raises(ValueError, match="makes 8 features of 2 images, and their prompts have 6 places for them"):
        module.logits(module.collator()([row(0, CAPTIONS), row(1, CAPTIONS)]))


def test_eager_attention_sees_what_sdpa_sees() -> None:
    module = tiny_module()
    batch = module.collator()([row(0, CAPTIONS), row(1, CAPTIONS[:2])])
    with torch.no_grad():
        expected = module.logits(batch)
        module.network.llava.set_attn_implementation("eager")
        torch.testing.assert_close(module.logits(batch), expected, atol=1e-5, rtol=0)


def test_a_recurrent_language_model_is_refused() -> None:
    llava = tiny_module().network.llava
    llava.config.text_config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ValueError, match=r"layers of the kind linear_attention .* carry a state .* give auto"):
        ChatNetwork(llava, family_of(llava.config))


def test_a_tower_that_reads_images_of_any_size_is_refused() -> None:
    module = tiny_module()
    module.network.llava.config.vision_config = PixtralVisionConfig()
    with pytest.raises(ValueError, match=r"The vision tower is Pixtral's, which reads each image at a size of its own"):
        LlavaModule(module.network.llava, module.processor, lr=1e-3)


def test_an_answer_needs_a_token_that_ends_it_where_it_is_trained() -> None:
    module = tiny_module()
    module.processor.tokenizer.eos_token = None
    LlavaModule(module.network.llava, module.processor, lr=1e-3, loss="binary")
    with pytest.raises(ValueError, match="the tokenizer has no eos_token"):
        LlavaModule(module.network.llava, module.processor, lr=1e-3)


def test_a_tokenizer_without_padding_packs_as_one_with_it() -> None:
    """Those of Llama 3 and Mistral have none."""
    module, rows = tiny_module(), [row(0, CAPTIONS), row(1, CAPTIONS[:1])]
    expected = module.logits(module.collator()(rows))
    module.processor.tokenizer.pad_token = None
    torch.testing.assert_close(module.logits(module.collator()(rows)), expected, atol=1e-6, rtol=0)


def test_a_caption_ends_before_it_leaves_a_sliding_window() -> None:
    assert context_of(LlamaConfig(max_position_embeddings=2048)) == 2048
    assert context_of(MistralConfig(max_position_embeddings=32768, sliding_window=4096)) == 4096
    assert context_of(MistralConfig(max_position_embeddings=32768, sliding_window=None)) == 32768


def test_an_image_token_in_a_question_is_refused(models: Callable[[str], Path]) -> None:
    settings = {"backbone": "llava", "checkpoint": str(models("default")), "question": "<image> {caption}"}
    with pytest.raises(InputError, match="must hold <image> once, in front of the caption"):
        build_backbone(model_settings(settings), Source(), {"lr": 0.0})


def test_layers_behind_all_that_are_read_are_frozen(models: Callable[[str], Path]) -> None:
    config = {"backbone": "llava", "train_vision": True}
    for name, last in (("layers", 2), ("siglip full", 1)):
        module = build_backbone(model_settings({**config, "checkpoint": str(models(name))}), Source(), {"lr": 0.0})
        tower = module.to_transformers().model.vision_tower
        trains = [all(p.requires_grad for p in layer.parameters()) for layer in tower.encoder.layers]
        assert trains == [index < last for index in range(2)]
        module.loss(module.collator()([row(0, CAPTIONS), row(1, CAPTIONS[:2])]))[0].backward()
        assert [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None] == []
