"""Chat VLMs: what differs between families, their prompts and answers, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.batch import InputError
from experiments.config.layers import ConfigError
from experiments.config.load import load_config, load_mapping
from experiments.config.schemas import ExperimentConfig
from lightning_modules import load_scorer
from lightning_modules.backbones.build import Source, build_backbone
from lightning_modules.backbones.chat.family import Family
from lightning_modules.backbones.chat.gemma3 import Gemma3
from lightning_modules.backbones.chat.processors import (
    saved_processor_class,
    saved_processor_settings,
    still_processor,
)
from lightning_modules.backbones.chat.qwen_vl import QwenVl
from lightning_modules.backbones.chat.table import FAMILIES
from lightning_modules.backbones.chat_vlm import ChatVlmModule
from lightning_modules.backbones.model_section import model_settings
from lightning_modules.backbones.traits.chat_vlm import PRESETS, ChatVlmSettings
from tests.backbones import save_published
from tests.tiny import CAPTIONS, SHAPE, photo, row, tiny_backbone

ROWS = [
    row(0, CAPTIONS),
    replace(row(1, CAPTIONS[:1]), image=photo(1, 20, 20)),
    replace(row(2, CAPTIONS[1:4]), image=photo(2, 60, 18)),
]
UNPACKABLE = ("paligemma", "qwen3_5")


def tiny(family: str, **settings: Any) -> ChatVlmModule:
    module: ChatVlmModule = tiny_backbone("chat_vlm", family=family, **settings)
    return module


@torch.no_grad()
def logits(module: ChatVlmModule) -> torch.Tensor:
    batch = module.collator()(ROWS)
    return module.logits(batch)[batch.caption_mask]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in UNPACKABLE])
def test_packed_captions_have_the_logits_of_sequences_of_their_own(family: str) -> None:
    packed, apart = tiny(family, packing="on"), tiny(family, packing="off")
    assert packed.collator()(ROWS).inputs["input_ids"].shape[0] == 3
    assert apart.collator()(ROWS).inputs["input_ids"].shape[0] == 9
    torch.testing.assert_close(logits(packed), logits(apart), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in UNPACKABLE])
def test_a_model_that_takes_no_features_makes_them_itself(family: str) -> None:
    """As with Transformers before 5.18, where features that are handed over are left aside without a word."""
    module = tiny(family)
    expected = logits(module)
    module.network.takes_features = False
    torch.testing.assert_close(logits(module), expected, atol=1e-6, rtol=0)


def test_what_is_not_packed_needs_a_model_that_takes_features(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = ChatVlmModule.tiny(ChatVlmSettings(tiny=SHAPE), CAPTIONS, None)
    monkeypatch.setattr(model.model, "forward", lambda input_ids, position_ids, **_: None)
    ChatVlmModule(model, processor, lr=0.0)
    with pytest.raises(ValueError, match=r"a model that is not packed needs transformers >= 5\.18, and"):
        ChatVlmModule(model, processor, packing="off", lr=0.0)


@pytest.mark.parametrize("family", UNPACKABLE)
def test_what_cannot_be_packed_is_refused_by_on_and_scored_apart_by_auto(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "linear_attention .* carry a state" if family == "qwen3_5" else "its image tokens see the caption"
    with pytest.raises(ValueError, match=rf"model\.packing must not be on: .*{reason}"):
        tiny(family, packing="on")
    right = logits(tiny(family))
    # the control: packed all the same, the numbers are wrong
    monkeypatch.setattr("lightning_modules.backbones.chat.network.unpackable", lambda *_: "")
    assert float((logits(tiny(family, packing="on")) - right).abs().max()) > 1e-2


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_positions_of_one_axis_give_other_logits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = logits(tiny(family))
    naive = {"positions": lambda self, prefix, *_: torch.arange(len(prefix)).expand(3, -1)}
    monkeypatch.setattr(QwenVl, "positions", naive["positions"])
    assert float((logits(tiny(family)) - right).abs().max()) > 1e-3


def test_one_mask_for_all_layers_gives_other_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    right = logits(tiny("gemma3"))

    def plain(self: Family, *arguments: Any) -> Mapping[str, torch.Tensor]:
        return dict.fromkeys(("full_attention", "sliding_attention"), Family.packed_mask(self, *arguments))

    monkeypatch.setattr(Gemma3, "packed_mask", plain)
    assert float((logits(tiny("gemma3")) - right).abs().max()) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_sees_what_sdpa_sees(family: str) -> None:
    module = tiny(family)
    expected = logits(module)
    module.to_transformers().set_attn_implementation("eager")
    torch.testing.assert_close(logits(module), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_has_as_many_tokens_as_its_shape_asks_for(family: str) -> None:
    counts = tiny(family).collator()(ROWS).inputs["image_tokens"].tolist()
    fixed = family in ("llava", "gemma3", "paligemma")
    assert (len({*counts}) == 1) == fixed, counts


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_in_a_caption_are_left_out(family: str) -> None:
    module = tiny(family)
    one, two, end = module.processor.image_token, module.encoder.feature_token, module.encoder.tokenizer.eos_token
    nested = (f"{one[:3]}{two}{one[3:]}", f"{two[:3]}{one}{two[3:]}", f"{one[:3]}{end}{one[3:]}")
    for token in (one, two, end, *nested):
        with_token, without = (module.collator()([row(0, [text])]).inputs for text in (f"a{token} dog", "a dog"))
        assert torch.equal(with_token["input_ids"], without["input_ids"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_needs_no_padding(family: str) -> None:
    settings = ChatVlmSettings(tiny=SHAPE, family=family)
    torch.manual_seed(0)
    model, processor = ChatVlmModule.tiny(settings, CAPTIONS, None)
    expected = logits(ChatVlmModule(model, processor, lr=0.0).eval())
    processor.tokenizer.pad_token = None
    torch.testing.assert_close(logits(ChatVlmModule(model, processor, lr=0.0).eval()), expected, atol=1e-6, rtol=0)


def test_an_image_that_no_processor_reads_is_one_line() -> None:
    narrow = replace(row(3, CAPTIONS[:1]), image=photo(3, 2001, 9))
    with pytest.raises(
        InputError, match=r"an image of 2001 x 9 pixels cannot be read by the image processor \("
    ) as caught:
        tiny("qwen3_vl").collator()([*ROWS, narrow])
    assert "\n" not in str(caught.value)


def test_a_bound_on_an_images_tokens_scales_it_down() -> None:
    large = replace(row(3, CAPTIONS[:2]), image=photo(3, 90, 70))
    free, bounded = tiny("qwen3_vl"), tiny_with(max_image_tokens=2)
    most = [int(module.collator()([*ROWS, large]).inputs["image_tokens"].max()) for module in (free, bounded)]
    assert most[0] > 2 >= most[1] > 0


@pytest.mark.parametrize("family", ["llava", "smolvlm", "gemma3"])
def test_a_family_of_fixed_sizes_takes_no_bound(family: str) -> None:
    settings = ChatVlmSettings(tiny=SHAPE, family=family)
    with pytest.raises(ValueError, match=r"model\.max_image_tokens must not be given for this checkpoint"):
        ChatVlmModule(*ChatVlmModule.tiny(settings, CAPTIONS, None), max_image_tokens=64, lr=0.0)


def test_paligemma_caps_its_attention() -> None:
    """SDPA cannot, and Transformers takes another road by itself."""
    model = tiny("paligemma").to_transformers()
    assert model.config.get_text_config().attn_logit_softcapping
    assert model.model.language_model.config._attn_implementation == "eager"


# prompts and answers


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_one_token_behind_the_prompt(family: str) -> None:
    encoder = tiny(family).encoder
    assert encoder.tokenizer.decode([encoder.yes_id]).strip() == "Yes"
    assert encoder.tokenizer.decode([encoder.no_id]).strip() == "No"


@pytest.mark.parametrize(
    ("family", "end"),
    [("qwen3_vl", "<|im_end|>"), ("smolvlm", "<end_of_utterance>"), ("gemma3", "<end_of_turn>"), ("llava", "</s>")],
)
def test_an_answer_ends_as_the_chat_template_ends_it(family: str, end: str) -> None:
    module = tiny(family, loss="lm")
    assert module.processor.tokenizer.convert_ids_to_tokens(module.end_id) == end
    # the control: of some, the tokenizer's own end is another token
    assert (module.processor.tokenizer.eos_token == end) == (family not in ("smolvlm", "gemma3"))


def test_text_in_front_of_an_image_needs_a_prompt_that_has_room_there() -> None:
    settings = ChatVlmSettings(tiny=SHAPE, question="reranker")
    model, processor = ChatVlmModule.tiny(settings, CAPTIONS, None)
    processor.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {% for kind in ('image', 'text') %}"
        "{% for part in message['content'] if part['type'] == kind %}{{ part.get('text', '<|image_pad|>') }}"
        "{% endfor %}{% endfor %}\n{% endfor %}"
    )
    with pytest.raises(ValueError, match=r"model\.question has '<Instruct>: .* begins with the image; give another"):
        ChatVlmModule(model, processor, prompt=settings.prompt, lr=0.0)


@pytest.mark.parametrize(
    "template", ["{image}{question}\n", "{image}<bos>{question}", "Look: {image}<bos>{question}\n"]
)
def test_paligemmas_prompt_is_what_its_processor_writes(template: str) -> None:
    settings = ChatVlmSettings(tiny=SHAPE, family="paligemma", template=template)
    with pytest.raises(ValueError, match=r"model\.template of a PaliGemma must begin with \{image\}<bos>"):
        ChatVlmModule(*ChatVlmModule.tiny(settings, CAPTIONS, None), prompt=settings.prompt, lr=0.0)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_question_with_its_answers(name: str) -> None:
    settings = model_settings({"backbone": "chat_vlm", "question": name, "tiny": vars(SHAPE), "loss": "binary"})
    module = build_backbone(settings, Source(CAPTIONS), {"lr": 0.0}).eval()
    encoder, answers = module.encoder, PRESETS[name].answers
    assert tuple(encoder.tokenizer.decode([token]) for token in (encoder.yes_id, encoder.no_id)) == answers
    text = encoder.prompt("a dog", "<|image_pad|>")
    assert "a dog" in text
    assert module.scorer_settings()["answers"] == [*answers]
    # what it says of itself makes the same scorer again
    again = model_settings({"backbone": "chat_vlm", "tiny": vars(SHAPE), **module.scorer_settings()})
    found = build_backbone(again, Source(loaded=(module.to_transformers(), module.processor)), {"lr": 0.0})
    assert found.encoder.prompt == encoder.prompt


def test_the_rerankers_query_is_the_image() -> None:
    settings = ChatVlmSettings(question="reranker", tiny=SHAPE)
    module = ChatVlmModule(*ChatVlmModule.tiny(settings, CAPTIONS, None), prompt=settings.prompt, lr=0.0)
    expected = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a '
        "search query, retrieve relevant candidates that answer the query.<Query>:<|vision_start|>IMAGE<|vision_end|>\n"
        "<Document>:a dog<|im_end|>\n<|im_start|>assistant\n"
    )
    assert module.encoder.prompt("a dog", "IMAGE") == expected
    assert module.collator()([row(0, CAPTIONS)]).inputs["input_ids"].shape[0] == 1, "captions share the image"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"question": "Is it?"},
            r"`model\.question` must be llava_score, vqascore, reranker, or hold \{caption\} exactly",
        ),
        ({"question": "{caption} {image}"}, r"`model\.question` must be llava_score"),
        ({"answers": ["Yes"]}, r"`model\.answers` must be two words, that of a match first"),
        ({"answers": ["Yes", "Yes"]}, r"`model\.answers` must be two words"),
        ({"family": "qwen4_vl"}, r"`model\.family` must be one of llava, qwen2_vl"),
        ({"packing": "yes"}, r"`model\.packing` must be one of auto, on, off"),
        ({"template": "{question}"}, r"`model\.template` must be auto or checkpoint, or must hold \{image\}"),
        (
            {"template": "{image} {question}", "question": "reranker"},
            r"`model\.template` must hold all that is in front of the image",
        ),
        ({"max_image_tokens": 0}, r"`model\.max_image_tokens` must be in \[1, 1000000\]"),
    ],
)
def test_settings_that_cannot_be_are_one_line(given: dict[str, Any], said: str) -> None:
    data = dict.fromkeys(("captions", "negatives"), "README.md")
    with pytest.raises(ConfigError, match=said):
        load_mapping(ExperimentConfig, {"data": data, "model": {"backbone": "chat_vlm", **given}}, "here")


@pytest.mark.parametrize(("word", "packing"), [("on", "on"), ("off", "off"), ("auto", "auto")])
def test_packing_is_given_without_quotes(word: str, packing: str) -> None:
    """YAML reads on and off as truth values."""
    words = ["model.backbone=chat_vlm", f"model.packing={word}", "data.captions=x", "data.negatives=x"]
    config = load_config(ExperimentConfig, None, words, check_files=False)
    assert config.model.packing == packing


def test_answers_of_several_tokens_are_refused() -> None:
    said = r"must make certainly one token behind the prompt, and hardly another one; there it makes \['"
    with pytest.raises(ValueError, match=said):
        tiny_with(answers=["certainly", "hardly"])


def tiny_with(**given: Any) -> ChatVlmModule:
    settings = ChatVlmSettings(tiny=SHAPE, **given)
    model, processor = ChatVlmModule.tiny(ChatVlmSettings(tiny=SHAPE), CAPTIONS, None)
    return ChatVlmModule(model, processor, prompt=settings.prompt, max_image_tokens=settings.max_image_tokens, lr=0.0)


def test_a_model_that_thinks_first_is_refused() -> None:
    model, processor = ChatVlmModule.tiny(ChatVlmSettings(tiny=SHAPE), CAPTIONS, None)
    processor.chat_template = processor.chat_template.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    with pytest.raises(ValueError, match=r"begins with a thought \(<think>\): choose the Instruct checkpoint"):
        ChatVlmModule(model, processor, lr=0.0)


# checkpoints


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each family, in the format of its published checkpoints."""
    folder = tmp_path_factory.mktemp("published")
    for family in FAMILIES:
        save_published(tiny(family), folder / family)
    return folder


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "llava"])
def test_a_checkpoint_is_loaded_without_torchvision_and_scores_alike(family: str, published: Path) -> None:
    scorer = load_scorer(str(published / family), device="cpu")
    assert scorer.module.backbone == "chat_vlm"
    torch.testing.assert_close(logits(scorer.module), logits(tiny(family)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("edges", [(65_536, 16_777_216), (3136, 12_845_056)])
def test_the_areas_of_published_qwens_are_no_sides(edges: tuple[int, int], published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "qwen3_vl", tmp_path / "qwen")
    saved = json.loads((tmp_path / "qwen/processor_config.json").read_text())
    saved["image_processor"]["size"] = dict(zip(("shortest_edge", "longest_edge"), edges, strict=True))
    (tmp_path / "qwen/processor_config.json").write_text(json.dumps(saved))
    scorer = load_scorer(str(tmp_path / "qwen"), device="cpu")
    assert scorer.module.processor.image_processor.size["longest_edge"] == edges[1]


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl", "llava_onevision"])
def test_a_processor_is_saved_under_transformers_name(family: str, published: Path) -> None:
    name = saved_processor_class(saved_processor_settings(published / family))
    assert still_processor(name) is not None
    assert type(tiny(family).processor).__name__ == name


def test_a_checkpoint_with_another_models_processor_is_refused(published: Path, tmp_path: Path) -> None:
    tiny("qwen3_vl").to_transformers().save_pretrained(tmp_path)
    tiny("gemma3").processor.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"use the processor that the\s+checkpoint was trained with") as caught:
        load_scorer(str(tmp_path), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("family", "key"), [("gemma3", "image_seq_length"), ("idefics3", "image_seq_len")])
@pytest.mark.parametrize("length", [10**9, -1, "many"])
def test_a_processor_of_a_billion_image_tokens_is_refused(
    family: str, key: str, length: object, published: Path, tmp_path: Path
) -> None:
    shutil.copytree(published / family, tmp_path / family)
    saved = json.loads((tmp_path / family / "processor_config.json").read_text())
    (tmp_path / family / "processor_config.json").write_text(json.dumps({**saved, key: length}))
    with pytest.raises(InputError, match=f"{key} must be from 1 to 65536, got") as caught:
        load_scorer(str(tmp_path / family), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "part", "changed", "said"),
    [
        ("qwen3_vl", "text_config", {"num_hidden_layers": 0}, "num_hidden_layers must be from 1 to 1000, got 0"),
        ("qwen3_vl", "vision_config", {"depth": -1}, "(depth|num_hidden_layers) must be from 1 to 1000, got -1"),
        ("internvl", "vision_config", {"num_hidden_layers": 0}, "num_hidden_layers must be from 1 to 1000, got 0"),
        ("gemma3", "text_config", {"sliding_window": None}, "sliding_window must be at least 1, got None"),
        ("gemma3", "text_config", None, "text_config must be a mapping, got None"),
        ("internvl", None, {"image_token_id": 10**12}, r"image_token_id must be one of the tokenizer's \d+ tokens"),
        ("gemma3", None, {"image_token_index": -1}, r"image_token_id must be one of the tokenizer's \d+ tokens"),
    ],
)
def test_a_damaged_config_is_one_line(
    family: str, part: str | None, changed: dict[str, Any] | None, said: str, published: Path, tmp_path: Path
) -> None:
    shutil.copytree(published / family, tmp_path / family)
    file = tmp_path / family / "config.json"
    saved = json.loads(file.read_text())
    if part is None:
        saved |= changed or {}
    else:
        saved[part] = None if changed is None else {**saved[part], **changed}
    file.write_text(json.dumps(saved))
    with pytest.raises(InputError, match=said) as caught:
        load_scorer(str(tmp_path / family), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "other", "said"),
    [
        ("llava_next", "llava", "makes no image_sizes of an image, which the model reads; use the processor that"),
        ("qwen3_vl", "qwen_of_other_patches", r"patch_size and merge_size of the image processor must be the model's"),
    ],
)
def test_a_processor_that_makes_something_else_is_refused(
    family: str, other: str, said: str, published: Path, tmp_path: Path
) -> None:
    tiny(family).to_transformers().save_pretrained(tmp_path)
    if other == "llava":
        tiny("llava").processor.save_pretrained(tmp_path)
    else:
        processor = tiny(family).processor
        processor.image_processor.patch_size = 4
        processor.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=said):
        load_scorer(str(tmp_path), device="cpu")


@pytest.mark.parametrize("shape", [(8, 3), (3, 3, 20, 16)])
def test_pixels_of_another_model_are_one_line(shape: tuple[int, ...]) -> None:
    module = tiny("internvl")
    batch = module.collator()(ROWS)
    batch.inputs["images.pixel_values"] = torch.zeros(shape)
    with pytest.raises(InputError, match=r"the vision tower cannot read what|the model makes \d+ features") as caught:
        module.logits(batch)
    assert "\n" not in str(caught.value)


def test_as_many_tiles_as_take_all_memory_are_refused(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "internvl", tmp_path / "internvl")
    file = tmp_path / "internvl/processor_config.json"
    saved = json.loads(file.read_text())
    saved["image_processor"]["max_patches"] = 10**12
    file.write_text(json.dumps(saved))
    with pytest.raises(InputError, match="max_patches must be from 1 to 1024, got 1000000000000"):
        load_scorer(str(tmp_path / "internvl"), device="cpu")


def test_a_chat_vlm_for_another_backbone_names_its_own(published: Path) -> None:
    settings = model_settings({"backbone": "llava", "checkpoint": str(published / "gemma3")})
    with pytest.raises(InputError, match=r"this backbone reads llava; choose model\.backbone=chat_vlm"):
        build_backbone(settings, Source(), {"lr": 0.0})


def test_a_checkpoint_of_an_older_transformers_keeps_its_images_size(published: Path, tmp_path: Path) -> None:
    """Qwen2-VL's own file: the processor's class and the bounds of the area stand in preprocessor_config.json."""
    shutil.copytree(published / "qwen2_vl", tmp_path / "qwen")
    saved = json.loads((tmp_path / "qwen/processor_config.json").read_text())["image_processor"]
    area = saved.pop("size")
    (tmp_path / "qwen/processor_config.json").unlink()
    old = {"min_pixels": area["shortest_edge"], "max_pixels": area["longest_edge"]}
    old |= {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"}
    (tmp_path / "qwen/preprocessor_config.json").write_text(json.dumps({**saved, **old}))
    scorer = load_scorer(str(tmp_path / "qwen"), device="cpu")
    torch.testing.assert_close(logits(scorer.module), logits(tiny("qwen2_vl")), atol=1e-5, rtol=0)
    scorer.module.processor.save_pretrained(tmp_path / "export")
    video = json.loads((tmp_path / "export/processor_config.json").read_text())["video_processor"]
    assert video["video_processor_type"] == "Qwen2VLVideoProcessor"
    assert video["max_pixels"] == area["longest_edge"], "it was there for images and videos"


def test_an_image_with_more_tokens_than_the_context_is_one_line() -> None:
    module = tiny("qwen3_vl", max_text_tokens=8)
    with pytest.raises(InputError, match=r"model\.max_text_tokens must be more than \d+, which prompt and image take"):
        module.collator()(ROWS)


# precision


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_orders_captions_as_full_precision_does(family: str) -> None:
    """Of 168 pairs of captions of one image, those that lie a tenth of the logits' spread apart; trained, most do."""
    settings = ChatVlmSettings(family=family, tiny=replace(SHAPE, initializer_range=0.1))
    words = ["red", "blue", "dogs", "cats", "men", "eat", "ride", "near", "under", "three", "old", "trees"]
    captions = [" ".join(words[index : index + 3 + index % 3]) for index in range(8)]
    torch.manual_seed(0)
    module = ChatVlmModule(*ChatVlmModule.tiny(settings, captions, None), lr=0.0).eval()
    batch = module.collator()(
        [replace(row(index, captions), image=photo(index, 24 + 8 * index, 16)) for index in range(6)]
    )
    with torch.no_grad():
        full = module.logits(batch)
        half = module.to(torch.bfloat16).logits(batch)
    assert half.dtype == torch.float32
    assert bool(half.isfinite().all())
    first, second = torch.triu_indices(8, 8, 1)
    exact, rounded = (logits[:, first] - logits[:, second] for logits in (full, half))
    differ = exact.abs() > 0.1 * full.std()
    assert float(differ.float().mean()) > 0.5
    assert float((exact.sign() != rounded.sign())[differ].float().mean()) <= 0.025
