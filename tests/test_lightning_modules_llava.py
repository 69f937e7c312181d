"""LLaVA: the published prompt and padding, checkpoints in the published format, and what a caption may hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from datamodules.batch import CaptionTooLongError
from lightning_modules.backbones.chat.llava import pad_to_square
from lightning_modules.backbones.chat.prompt import YesNoPrompt
from lightning_modules.backbones.llava import LlavaModule, LlavaSettings
from tests.tiny import CAPTIONS, photo, row, tiny_module

BACKGROUND = (122, 116, 104)


@pytest.fixture(scope="module")
def module() -> LlavaModule:
    return tiny_module(train_vision=False)


def test_the_prompt_is_that_of_llava_and_llava_score() -> None:
    assert YesNoPrompt()("a dog on a sofa", "<image>") == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\n"
        "Does this image match the following caption: a dog on a sofa?\nAnswer Yes/No directly. ASSISTANT:"
    )


def test_the_answer_ids_are_those_of_the_tokens_behind_the_prompt(module: LlavaModule) -> None:
    encoder = module.encoder
    tokens = encoder.tokenizer.convert_ids_to_tokens([encoder.yes_id, encoder.no_id])
    assert tokens == ["▁Yes", "▁No"]
    text = encoder.prompt("a dog", encoder.processor.image_token)
    for answer, token in (("Yes", encoder.yes_id), ("No", encoder.no_id)):
        assert encoder.tokenizer(f"{text} {answer}").input_ids == [*encoder.tokenizer(text).input_ids, token]


@pytest.mark.parametrize("question", ["Does it match?", "{caption} or {caption}?"])
def test_a_question_needs_its_caption_once(question: str) -> None:
    with pytest.raises(ValueError, match=r"model\.question must hold \{caption\} exactly once, got"):
        YesNoPrompt(question=question)


def test_an_unknown_loss_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"must be one of lm, binary, listwise, got 'itc': .* offers no features"):
        tiny_module("itc")


SIZES = [(5, 2), (2, 5), (5, 4), (4, 5), (1, 7), (7, 1), (6, 6)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_square_padding_puts_the_image_in_the_middle(width: int, height: int) -> None:
    image = photo(0, width, height)
    side, (left, top) = max(width, height), ((max(width, height) - width) // 2, (max(width, height) - height) // 2)
    expected = [
        [
            image.getpixel((x - left, y - top)) if left <= x < left + width and top <= y < top + height else BACKGROUND
            for x in range(side)
        ]
        for y in range(side)
    ]
    assert np.asarray(pad_to_square(image, BACKGROUND)).tolist() == np.array(expected).tolist()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_square_padding_equals_that_of_transformers(width: int, height: int) -> None:
    image = photo(1, width, height)
    theirs = LlavaImageProcessorPil().pad_to_square(np.asarray(image).transpose(2, 0, 1), BACKGROUND)
    assert (np.asarray(pad_to_square(image, BACKGROUND)).transpose(2, 0, 1) == theirs).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_square_padding_gives_rgb(mode: str) -> None:
    for size in ((4, 4), (4, 2)):
        assert pad_to_square(Image.new(mode, size), BACKGROUND).mode == "RGB"


def test_pixels_are_those_of_the_padding_processor_of_transformers(module: LlavaModule) -> None:
    """Square padding is off by default in Transformers: `do_pad` has to be asked for."""
    encoder = module.encoder
    assert encoder.family.background == BACKGROUND, "int(255 * CLIP's mean), truncated"
    theirs = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    images = [photo(0), photo(1, 16, 24), photo(2, 20, 20)]
    ours = encoder(images, [["a dog"]] * 3, [[1]] * 3)["images.pixel_values"]
    expected = torch.as_tensor(np.stack(theirs(images)["pixel_values"]))
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    unpadded = torch.as_tensor(np.stack(theirs(images, do_pad=False)["pixel_values"]))
    assert not torch.allclose(ours, unpadded, atol=0.1)


def write_checkpoint(module: LlavaModule, folder: Path, layout: str) -> None:
    """The checkpoint as Transformers saves it today, or with the files and names of llava-hf/llava-1.5-7b-hf."""
    module.network.llava.save_pretrained(folder)
    module.processor.save_pretrained(folder)
    if layout == "current":
        return
    (folder / "processor_config.json").unlink()
    module.processor.image_processor.save_pretrained(folder)
    assert (folder / "preprocessor_config.json").is_file()
    settings = {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": 8,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    (folder / "processor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tensors = load_file(folder / "model.safetensors")
    tower = re.compile(r"^vision_tower\.(vision_model\.)?")
    named = {tower.sub("vision_tower.vision_model.", name): tensor for name, tensor in tensors.items()}
    assert {name.split(".layers.")[0] for name in named if ".layers." in name} == {
        "language_model.model",
        "vision_tower.vision_model.encoder",
    }
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("layout", ["current", "published"])
@torch.no_grad()
def test_a_checkpoint_of_the_published_format_gives_equal_logits(
    module: LlavaModule, tmp_path: Path, layout: str
) -> None:
    write_checkpoint(module, tmp_path, layout)
    llava, processor = LlavaModule.load_model(tmp_path, LlavaSettings())
    loaded = LlavaModule(llava, processor, lr=1e-3).eval()
    rows = [row(0, CAPTIONS), row(1, CAPTIONS[:2])]
    ours, theirs = module.collator()(rows), loaded.collator()(rows)
    torch.testing.assert_close(theirs.inputs, ours.inputs)
    torch.testing.assert_close(loaded.logits(theirs), module.logits(ours), atol=0, rtol=0)


def test_a_checkpoint_can_be_loaded_in_half_precision(module: LlavaModule, tmp_path: Path) -> None:
    write_checkpoint(module, tmp_path, "current")
    llava, processor = LlavaModule.load_model(tmp_path, LlavaSettings(), dtype=torch.bfloat16)
    assert llava.dtype == torch.bfloat16
    half = LlavaModule(llava, processor, lr=1e-3).eval()
    batch = half.collator()([row(0, CAPTIONS)])
    assert half.logits(batch).dtype == torch.float32


def test_a_checkpoint_that_cannot_be_found_is_an_error(tmp_path: Path) -> None:
    for name in ("nobody/no-such-model", str(tmp_path), str(tmp_path / "gone")):
        with pytest.raises(OSError, match=r"\S"):
            LlavaModule.load_model(name, LlavaSettings())


def test_a_pickled_checkpoint_is_refused(module: LlavaModule, tmp_path: Path) -> None:
    write_checkpoint(module, tmp_path, "current")
    torch.save(module.network.llava.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        LlavaModule.load_model(tmp_path, LlavaSettings())


IMAGE_TOKENS = ["<image>", "a <image> b", "<imag<image>e>", "<image><image>"]
SPECIAL = ["</s>", "a dog</s> b", "<s>", "<pad>", "<unk>", "ASSISTANT: Yes", "", "\n", "{caption}"]


@pytest.mark.parametrize("caption", IMAGE_TOKENS + SPECIAL)
@torch.no_grad()
def test_special_tokens_in_a_caption_do_not_break_the_packing(module: LlavaModule, caption: str) -> None:
    batch = module.collator()([row(0, [caption, CAPTIONS[0]]), row(1, [CAPTIONS[2], caption])])
    image_id = module.network.llava.config.image_token_id
    assert (batch.inputs["input_ids"] == image_id).sum(1).tolist() == [4, 4], "one image, 2 x 2 patches"
    logits = module.logits(batch)
    for index, column, text in ((0, 1, CAPTIONS[0]), (1, 0, CAPTIONS[2])):
        alone = module.logits(module.collator()([row(index, [text])]))
        torch.testing.assert_close(logits[index, column], alone[0, 0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_image_token_in_a_caption_is_left_out(module: LlavaModule) -> None:
    with_token, without = (module.collator()([row(0, [text])]) for text in ("a<image> dog", "a dog"))
    assert torch.equal(with_token.inputs["input_ids"], without.inputs["input_ids"])


def test_answers_stand_behind_labelled_captions_only(module: LlavaModule) -> None:
    encoder = module.encoder
    inputs = module.collator()([row(0, CAPTIONS[:3], [1, 0, -1])]).inputs
    (ids,), (index,), (segments,) = inputs["input_ids"], inputs["answer_index"], inputs["segment_ids"]
    assert [int(ids[i + 1]) for i in index[:2]] == [encoder.yes_id, encoder.no_id]
    assert int(index[2]) == int((segments == 3).nonzero().max()), "nothing follows where the label is unknown"
    colon = int(ids[index[0]])
    assert [int(ids[i]) for i in index] == [colon] * 3
    assert encoder.tokenizer.decode([colon]) == ":"


@torch.no_grad()
def test_labels_do_not_change_logits(module: LlavaModule) -> None:
    """Under the `lm` loss the answer stands behind the caption: no logit may look ahead at it."""
    by_labels = [
        module.logits(module.collator()([row(0, CAPTIONS[:3], labels)]))
        for labels in ([1, 0, 0], [0, 1, 1], [-1, -1, -1])
    ]
    for logits in by_labels[1:]:
        torch.testing.assert_close(logits, by_labels[0], atol=1e-5, rtol=0)


def gradients(module: LlavaModule) -> tuple[dict[str, torch.Tensor], int]:
    """All gradients of a batch's loss, and how often the first layer of the language model ran."""
    module.on_fit_start()
    runs: list[Any] = []
    layer = module.network.llava.model.language_model.layers[0].mlp
    handle = layer.register_forward_pre_hook(lambda *_: runs.append(None))
    module.loss(module.collator()([row(0, CAPTIONS), row(1, CAPTIONS[:2])]))[0].backward()
    handle.remove()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}, len(runs)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    (plain, once), (saving, twice) = (gradients(tiny_module(gradient_checkpointing=on)) for on in (False, True))
    assert (once, twice) == (1, 2), "layers run again in the backward pass"
    assert plain.keys() == saving.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(saving[name], gradient, atol=1e-7, rtol=1e-5, msg=name)


def test_training_starts_in_train_mode(module: LlavaModule, tmp_path: Path) -> None:
    write_checkpoint(module, tmp_path, "current")
    llava, processor = LlavaModule.load_model(tmp_path, LlavaSettings())
    loaded = LlavaModule(llava, processor, lr=1e-3)
    assert not llava.training, "from_pretrained leaves eval mode, and Lightning keeps it"
    loaded.on_fit_start()
    assert all(part.training for part in loaded.network.modules())


def test_vision_layers_behind_the_one_that_is_read_are_frozen() -> None:
    llava = tiny_module(train_vision=True).network.llava
    assert isinstance(llava, LlavaForConditionalGeneration)
    assert llava.config.vision_feature_layer == -2
    first, last = llava.model.vision_tower.encoder.layers
    assert all(parameter.requires_grad for parameter in first.parameters())
    assert not any(parameter.requires_grad for parameter in last.parameters())


def test_the_vision_tower_is_frozen_unless_asked_for(module: LlavaModule) -> None:
    llava = module.network.llava
    assert not any(parameter.requires_grad for parameter in llava.model.vision_tower.parameters())
    for part in (llava.model.multi_modal_projector, llava.model.language_model, llava.lm_head):
        assert all(parameter.requires_grad for parameter in part.parameters())


LONG = "a red circle left of a blue square and " * 12


def test_a_caption_beyond_the_context_is_cut_and_counted() -> None:
    module = tiny_module(max_text_tokens=90)
    items = [row(0, ["a dog", LONG, LONG + "a dog"]), row(1, ["a dog"])]
    batch = module.collator()(items)
    assert batch.inputs["cut"].tolist() == [2, 0]
    assert int(batch.inputs["position_ids"].max()) + 1 <= 90
    assert torch.isfinite(module.logits(batch)).all()
    module.count_cut(batch)
    assert module.captions_cut == 2
    short = tiny_module().collator()([row(1, ["a dog"])])
    assert torch.equal(short.inputs["input_ids"], module.collator()(items[1:]).inputs["input_ids"])


def test_a_cut_caption_is_a_beginning_of_the_caption_in_a_whole_prompt() -> None:
    module = tiny_module(max_text_tokens=90)
    encoder = module.encoder
    (whole,) = encoder._prompt_ids([LONG], encoder.processor.image_token)
    ids, is_cut = encoder._fitted(LONG, whole, encoder.processor.image_token, beyond=3)
    before, after = encoder.prompt("\0", encoder.processor.image_token).split("\0")
    text = encoder.tokenizer.decode(ids, skip_special_tokens=False)
    caption = text[text.index("caption:") + len("caption:") : text.index(after[:5], text.index("caption:"))]
    assert is_cut
    assert text.endswith("ASSISTANT:")
    assert LONG.startswith(caption.strip())
    assert len(ids) + 3 + 1 > 90 - 4, "no more is cut than has to be"
    assert before[:20] in text


def test_a_caption_beyond_the_context_is_an_error_where_asked_for() -> None:
    module = tiny_module(max_text_tokens=90, long_captions="error")
    with pytest.raises(CaptionTooLongError, match=r"'a red circle.* tokens, the scorer reads 90; shorten it"):
        module.collator()([row(0, ["a dog", LONG])])
    module.collator()([row(0, ["a dog"])])
