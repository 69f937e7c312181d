"""BLIP-2 ITM: LAVIS' text cleaning, both heads against the plain model, what trains, checkpoints, half precision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from datamodules.batch import CaptionTooLongError
from lightning_modules.adapters import LoraSettings
from lightning_modules.backbones.blip2_itm import SCORES, Blip2ItmModule, Blip2Settings
from lightning_modules.backbones.blip2_network import Blip2Encoder, clean_words
from lightning_modules.backbones.tiny.blip2 import tiny_blip2, tiny_blip2_processor
from lightning_modules.losses.itc_itm import ItcItmSettings
from tests.tiny import CAPTIONS, SHAPE, photo, row
from tests.tiny_blip2 import blip2_pair_logit, plain_outputs, tiny_blip2_module

ROWS = [row(0, CAPTIONS), row(1, CAPTIONS[:1]), row(2, CAPTIONS[1:4])]
LONG = " ".join(["dog"] * 40)


@pytest.fixture(scope="module")
def module() -> Blip2ItmModule:
    return tiny_blip2_module()


# --- text and image


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A Dog.", ["a", "dog"]),
        ('(The) "best"!  #1 of: *two* ~ ; ', ["the", "best", "1", "of", "two"]),
        ("well-known, isn't it?", ["well-known,", "isn't", "it?"]),
        ("a\tdog\n", ["a", "dog"]),
        ("...", []),
    ],
)
def test_captions_are_cleaned_as_in_lavis(caption: str, words: list[str]) -> None:
    assert clean_words(caption) == words


def test_texts_are_cls_words_sep_padded_on_the_right_whatever_the_tokenizer_says() -> None:
    module = tiny_blip2_module()
    module.processor.tokenizer.padding_side = "left"
    inputs = module.collator()([row(0, ["a dog", "A red circle."])]).inputs
    tokens = [module.processor.tokenizer.convert_ids_to_tokens(ids) for ids in inputs["input_ids"].tolist()]
    assert tokens == [["[CLS]", "a", "dog", "[SEP]", "[PAD]"], ["[CLS]", "a", "red", "circle", "[SEP]"]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_there_is_a_text_for_each_existing_cell_only(module: Blip2ItmModule) -> None:
    batch = module.collator()(ROWS)
    assert batch.inputs["cell_index"].tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12]
    assert batch.inputs["cell_index"].tolist() == batch.caption_mask.flatten().nonzero().flatten().tolist()
    assert len(batch.inputs["input_ids"]) == 9
    assert batch.inputs["pixel_values"].shape == (3, 3, 16, 16)


@pytest.mark.parametrize("caption", ["[SEP] a dog", "<image> a dog", "[PAD]", "[DEC]", "", "..."])
@torch.no_grad()
def test_special_tokens_in_a_caption_are_text(module: Blip2ItmModule, caption: str) -> None:
    batch = module.collator()([row(0, [caption, CAPTIONS[0]])])
    ids, mask = batch.inputs["input_ids"][0], batch.inputs["attention_mask"][0].bool()
    special = set(module.processor.tokenizer.all_special_ids) | {
        module.processor.tokenizer.convert_tokens_to_ids("<image>")
    }
    assert not special & set(ids[mask][1:-1].tolist())
    assert bool(module.logits(batch).isfinite().all())


def test_long_captions_are_cut_and_counted() -> None:
    module = tiny_blip2_module(max_text_tokens=8)
    fits, tokens_long = "dog dog dog dog dog dog", "dog dog dog dog dog dog cat"
    batch = module.collator()([row(0, [fits, tokens_long, LONG]), row(1, [fits])])
    assert batch.inputs["cut"].tolist() == [2, 0]
    assert batch.inputs["input_ids"].shape[1] == 8
    whole, cut = batch.inputs["input_ids"][:2].tolist()
    assert cut == whole, "[CLS], six words, [SEP]"


def test_words_beyond_fifty_are_cut_and_counted() -> None:
    module = tiny_blip2_module(max_text_tokens=100)
    words = ["dog"] * 50
    batch = module.collator()([row(0, [" ".join(words)]), row(1, [" ".join([*words, "cat"])])])
    assert batch.inputs["cut"].tolist() == [0, 1]
    assert torch.equal(*batch.inputs["input_ids"])
    assert batch.inputs["input_ids"].shape[1] == 52


@pytest.mark.parametrize(
    ("limit", "caption", "counts"),
    [(8, "A dog. " * 4, "10 tokens, the scorer reads 8"), (100, "dog " * 51, "53 tokens, the scorer reads 52")],
)
def test_long_captions_can_be_an_error(limit: int, caption: str, counts: str) -> None:
    module = tiny_blip2_module(max_text_tokens=limit, long_captions="error")
    module.collator()([row(0, ["a dog"])])
    with pytest.raises(CaptionTooLongError, match=f"{counts}; shorten it, or set model.long_captions=truncate"):
        module.collator()([row(0, ["a dog", caption])])


@pytest.mark.parametrize("size", [(24, 16), (16, 40), (16, 16)])
def test_images_are_stretched_to_the_square_and_normalised_as_clip(
    module: Blip2ItmModule, size: tuple[int, int]
) -> None:
    image = photo(3, *size)
    square = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    expected = torch.from_numpy(((square - mean) / std).transpose(2, 0, 1)).float()
    pixels = module.encoder([image], [["a dog"]], [[1]])["pixel_values"][0]
    torch.testing.assert_close(pixels, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA"])
def test_images_of_all_modes_are_read(module: Blip2ItmModule, mode: str) -> None:
    inputs = module.encoder([Image.new(mode, (20, 10)), photo(0)], [["a dog"], ["a dog"]], [[1], [1]])
    assert inputs["pixel_values"].shape == (2, 3, 16, 16)


# --- logits


@torch.no_grad()
def test_itc_equals_a_plain_forward_of_each_pair(module: Blip2ItmModule) -> None:
    similarity = module.itc_similarity(module.collator()(ROWS))
    assert similarity.dtype == torch.float32
    assert bool((similarity.abs() <= 1).all())
    for item, values in zip(ROWS, similarity, strict=True):
        plain = [float(plain_outputs(module, replace(item, captions=[text]), itm=False)) for text in item.captions]
        assert values[: len(plain)].tolist() == pytest.approx(plain, abs=1e-5)


@torch.no_grad()
def test_itm_itc_is_the_raw_match_logit_and_the_similarity(module: Blip2ItmModule) -> None:
    total = module.itm_itc(module.collator()(ROWS))
    for item, values in zip(ROWS, total, strict=True):
        for text, value in zip(item.captions, values, strict=False):
            pair = replace(item, captions=[text])
            plain = plain_outputs(module, pair, itm=True)[0, 1] + plain_outputs(module, pair, itm=False)[0, 0]
            assert float(value) == pytest.approx(float(plain), abs=1e-5)


@torch.no_grad()
def test_cells_that_do_not_exist_hold_zero(module: Blip2ItmModule) -> None:
    batch = module.collator()(ROWS)
    for logits in (module.itm_logits(batch), module.itc_similarity(batch), module.itm_itc(batch)):
        assert bool((logits[~batch.caption_mask] == 0).all())
        assert bool((logits[batch.caption_mask] != 0).all())


@pytest.mark.parametrize("score", SCORES)
@torch.no_grad()
def test_a_score_names_the_logits_and_their_range(module: Blip2ItmModule, score: str) -> None:
    scorer = tiny_blip2_module(score=score)
    batch = scorer.collator()(ROWS)
    named = {"itm": scorer.itm_logits, "itc": scorer.itc_similarity, "itm_itc": scorer.itm_itc}[score](batch)
    logits = scorer.logits(batch)
    assert torch.equal(logits, named)
    scores = scorer.score(logits)
    assert torch.equal(scores, logits.sigmoid() if score == "itm" else logits)
    assert torch.equal(scorer.loss(batch)[0], module.loss(batch)[0]), "training is the same for all"


@torch.no_grad()
def test_the_loss_is_two_way_cross_entropy_over_labelled_cells(module: Blip2ItmModule) -> None:
    item = row(0, CAPTIONS[:3], [1, 0, -1])
    loss, report = module.loss(module.collator()([item]))
    plain = torch.cat([plain_outputs(module, replace(item, captions=[text]), itm=True) for text in CAPTIONS[:2]])
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(plain, torch.tensor([1, 0])).item(), abs=1e-6)
    right = (plain.argmax(1) == torch.tensor([1, 0])).float().mean()
    assert report["cells/accuracy"].item() == pytest.approx(right.item())


@torch.no_grad()
def test_an_image_passes_the_vision_tower_once(module: Blip2ItmModule) -> None:
    seen: dict[str, list[int]] = {"vision": [], "qformer": []}
    handles = [
        module.network.blip2.vision_model.register_forward_hook(
            lambda _, args, output: seen["vision"].append(len(output.last_hidden_state))
        ),
        module.network.blip2.qformer.register_forward_hook(
            lambda _, args, output: seen["qformer"].append(len(output.last_hidden_state))
        ),
    ]
    batch = module.collator()(ROWS)
    for logits in (module.itm_logits, module.itc_similarity, module.itm_itc):
        logits(batch)
    for handle in handles:
        handle.remove()
    images, captions = 3, 9
    assert seen["vision"] == [images] * 3
    assert seen["qformer"] == [captions, images, captions, captions, images, captions]


# --- what trains


def test_query_tokens_start_random_and_different() -> None:
    torch.manual_seed(0)
    processor = tiny_blip2_processor(SHAPE, CAPTIONS)
    queries = tiny_blip2(SHAPE, processor.tokenizer).query_tokens[0]
    assert queries.shape == (SHAPE.queries, SHAPE.hidden_size)
    assert queries.std().item() == pytest.approx(SHAPE.initializer_range, rel=0.2)
    assert torch.cdist(queries, queries).fill_diagonal_(1).min() > SHAPE.initializer_range


def test_the_tiny_model_has_no_language_model_and_no_dropout() -> None:
    processor = tiny_blip2_processor(SHAPE, CAPTIONS)
    blip2 = tiny_blip2(SHAPE, processor.tokenizer)
    parts = {name.split(".")[0] for name, _ in blip2.named_parameters()}
    assert parts == {
        *("query_tokens", "vision_model", "embeddings", "qformer"),
        *("vision_projection", "text_projection", "itm_head"),
    }
    assert {part.p for part in blip2.modules() if isinstance(part, nn.Dropout)} == {0.0}
    # the attention's is no module of its own
    rates = {part.attention_dropout for part in blip2.qformer.modules() if hasattr(part, "attention_dropout")}
    assert rates == {0.0}


@torch.no_grad()
def test_the_attention_dropout_of_a_checkpoint_is_that_of_training_and_of_nothing_else(
    module: Blip2ItmModule, tmp_path: Path
) -> None:
    save_published(module, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["qformer_config"]["attention_probs_dropout_prob"] = 0.5
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = Blip2ItmModule(*Blip2ItmModule.load_model(tmp_path, Blip2Settings()), lr=1e-3)
    batch = loaded.collator()(ROWS)
    assert torch.equal(loaded.eval().logits(batch), module.logits(batch))
    loaded.on_fit_start()
    one, two = loaded.logits(batch), loaded.logits(batch)
    assert not torch.isclose(one, two)[batch.caption_mask].any()


def trainable(module: Blip2ItmModule) -> set[str]:
    return {name for name, parameter in module.network.blip2.named_parameters() if parameter.requires_grad}


UNREACHED = ("qformer.encoder.layer.1.intermediate.", "qformer.encoder.layer.1.output.")
HEADS = ("vision_projection.", "text_projection.")


def test_what_the_loss_never_reaches_is_frozen(module: Blip2ItmModule) -> None:
    names = {name for name, _ in module.network.blip2.named_parameters()}
    assert names - trainable(module) == {name for name in names if name.startswith((*UNREACHED, *HEADS))}


def test_itc_and_itm_together_reach_all_and_train_a_temperature(module: Blip2ItmModule) -> None:
    both = tiny_blip2_module(loss="itc_itm")
    assert trainable(both) == {name for name, _ in module.network.blip2.named_parameters()}
    assert set(both.state_dict()) - set(module.state_dict()) == {"network.itc_temperature"}
    assert both.network.itc_temperature.tolist() == pytest.approx([0.07])


ADAPTED = LoraSettings(rank=2, alpha=4, dropout=0.0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train_vision": False},
        {"lora": ADAPTED},
        {"lora": replace(ADAPTED, targets=["qformer", "vision", "projector"]), "train_vision": False},
        {"loss": "itc_itm"},
        {"loss": "itc_itm", "train_vision": False},
        {"loss": "itc_itm", "lora": replace(ADAPTED, targets=["qformer", "projector"]), "train_vision": False},
    ],
    ids=[*("full", "vision frozen", "lora", "lora on all parts"), *("itc_itm", "itc_itm frozen", "itc_itm lora")],
)
def test_every_trainable_parameter_gets_a_gradient_that_is_not_zero(settings: dict[str, Any]) -> None:
    module = tiny_blip2_module(**settings)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:  # starts at 0, and with it the gradient of A
            nn.init.normal_(parameter, std=0.1)
    module.loss(module.collator()([row(0, [*CAPTIONS, LONG]), row(1, [LONG])]))[0].backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []


def test_the_vision_tower_trains_only_if_asked(module: Blip2ItmModule) -> None:
    frozen = tiny_blip2_module(train_vision=False)
    assert {name for name in trainable(module) if name.startswith("vision_model.")}
    assert trainable(frozen) == {name for name in trainable(module) if not name.startswith("vision_model.")}


def test_lora_adapts_the_qformer_and_leaves_queries_and_head_training() -> None:
    names = trainable(tiny_blip2_module(lora=ADAPTED, train_vision=False))
    assert {name for name in names if "lora_" not in name} == {"query_tokens", "itm_head.weight", "itm_head.bias"}
    adapted = {name.split(".lora_")[0] for name in names if "lora_" in name}
    assert {name.split(".")[0] for name in adapted} == {"qformer"}
    assert {name.removeprefix("qformer.encoder.layer.0.") for name in adapted if ".layer.0." in name} == {
        *(
            f"{attention}.attention.{part}"
            for attention in ("attention", "crossattention")
            for part in ("query", "key")
        ),
        *(f"{attention}.{part}" for attention in ("attention", "crossattention") for part in ("attention.value",)),
        *("attention.output.dense", "crossattention.output.dense", "intermediate.dense", "output.dense"),
        *("intermediate_query.dense", "output_query.dense"),
    }


def test_an_adapted_part_trains_by_its_adapters_only() -> None:
    names = trainable(tiny_blip2_module(lora=replace(ADAPTED, targets=["projector"]), train_vision=False))
    assert names == {"query_tokens", "itm_head.lora_A.default.weight", "itm_head.lora_B.default.weight"}


def gradients(module: Blip2ItmModule) -> tuple[dict[str, torch.Tensor], list[int]]:
    """All gradients of a batch's loss, and how often the first layers of vision tower and Q-Former ran."""
    module.on_fit_start()
    runs = [0, 0]

    def count(index: int) -> None:
        runs[index] += 1

    blip2 = module.network.blip2
    parts = (blip2.vision_model.encoder.layers[0].mlp, blip2.qformer.encoder.layer[0].crossattention)
    for index, part in enumerate(parts):
        part.register_forward_pre_hook(lambda *_, index=index: count(index))
    module.loss(module.collator()(ROWS))[0].backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}, runs


def test_gradient_checkpointing_changes_no_gradient() -> None:
    (plain, once), (saving, twice) = (gradients(tiny_blip2_module(gradient_checkpointing=on)) for on in (False, True))
    assert (once, twice) == ([1, 1], [2, 2]), "layers run again in the backward pass"
    assert plain.keys() == saving.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(saving[name], gradient, atol=1e-7, rtol=1e-5, msg=name)


# --- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "lm"}, r"model\.loss must be one of binary, listwise, itm, itc_itm, got 'lm'"),
        ({"score": "cosine"}, r"model\.score must be one of itm, itc, itm_itc, got 'cosine'"),
        ({"long_captions": "drop"}, r"model\.long_captions must be one of truncate, error, got 'drop'"),
        ({"max_text_tokens": 2}, r"model\.max_text_tokens must be in \[3, 128\].* got 2"),
        ({"max_text_tokens": 129}, r"model\.max_text_tokens must be in \[3, 128\].* got 129"),
        ({"lora": replace(ADAPTED, targets=["towers"])}, r"'towers' matches no linear layer"),
    ],
)
def test_a_setting_out_of_range_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_blip2_module(**settings)


CONTRAST_ONLY = {"loss": "itc_itm", "loss_settings": ItcItmSettings(itm_weight=0.0)}
HEAD_ONLY = {"loss": "itc_itm", "loss_settings": ItcItmSettings(itc_weight=0.0)}


@pytest.mark.parametrize(
    ("settings", "alone"),
    [
        *[({"loss": loss, "score": "itc"}, "ITM") for loss in ("itm", "binary", "listwise")],
        ({**HEAD_ONLY, "score": "itc"}, "ITM"),
        ({**CONTRAST_ONLY, "score": "itm"}, "ITC"),
        *[({"loss": loss, "score": score}, None) for loss in ("itm", "binary") for score in ("itm", "itm_itc")],
        *[({"loss": "itc_itm", "score": score}, None) for score in SCORES],
        ({**HEAD_ONLY, "score": "itm"}, None),
        ({**CONTRAST_ONLY, "score": "itc"}, None),
    ],
)
def test_a_training_says_where_no_head_that_is_scored_is_trained(
    settings: dict[str, Any], alone: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    module = tiny_blip2_module(**settings)
    recwarn.clear()
    module.on_fit_start()
    assert module.training
    said = [str(warning.message) for warning in recwarn]
    assert len(said) == (alone is not None)
    for line in said:
        assert line.startswith(f"model.score is {settings['score']}, and the loss trains the {alone} head alone")
        assert "\n" not in line


def test_a_qformer_that_reads_no_text_is_an_error() -> None:
    processor = tiny_blip2_processor(SHAPE, CAPTIONS)
    blip2 = tiny_blip2(SHAPE, processor.tokenizer)
    blip2.config.qformer_config.use_qformer_text_input = False  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="use one made for image-text matching, such as Salesforce/blip2-itm-vit-g"):
        Blip2ItmModule(blip2, processor, lr=1e-3)


# --- checkpoints and precision


def save_published(module: Blip2ItmModule, folder: Path, layout: str = "current") -> None:
    """The checkpoint as Transformers saves it today, or with the files of Salesforce/blip2-itm-vit-g."""
    module.network.blip2.save_pretrained(folder)
    module.processor.save_pretrained(folder)
    if layout == "current":
        return
    settings = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "processor_config.json").unlink()
    settings = {**settings, "image_processor_type": "BlipImageProcessor", "processor_class": "Blip2Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").unlink()
    vocabulary = module.processor.tokenizer.get_vocab()
    del vocabulary["<image>"]
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in sorted(vocabulary, key=vocabulary.__getitem__)))
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "processor_class": "Blip2Processor"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("layout", ["current", "published"])
@torch.no_grad()
def test_a_checkpoint_of_the_published_format_gives_equal_logits(
    module: Blip2ItmModule, tmp_path: Path, layout: str
) -> None:
    save_published(module, tmp_path, layout)
    blip2, processor = Blip2ItmModule.load_model(tmp_path, Blip2Settings())
    assert blip2.vision_model.config._attn_implementation == "sdpa"
    loaded = Blip2ItmModule(blip2, processor, lr=1e-3, score="itm_itc").eval()
    ours, theirs = module.collator()(ROWS), loaded.collator()(ROWS)
    torch.testing.assert_close(theirs.inputs, ours.inputs)
    assert torch.equal(loaded.logits(theirs), module.itm_itc(ours))


def test_a_pickled_checkpoint_is_refused(module: Blip2ItmModule, tmp_path: Path) -> None:
    save_published(module, tmp_path)
    torch.save(module.network.blip2.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        Blip2ItmModule.load_model(tmp_path, Blip2Settings())


@pytest.mark.parametrize("autocast", [False, True], ids=["bf16-true", "bf16-mixed"])
def test_half_precision_keeps_logits_in_float32_and_close(
    module: Blip2ItmModule, tmp_path: Path, autocast: bool
) -> None:
    """bf16-true: loaded in bfloat16. bf16-mixed: float32 weights under autocast."""
    save_published(module, tmp_path)
    blip2, processor = Blip2ItmModule.load_model(
        tmp_path, Blip2Settings(), dtype=torch.float32 if autocast else torch.bfloat16
    )
    half = Blip2ItmModule(blip2, processor, lr=1e-3).eval()
    batch = half.collator()(ROWS)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        results = [part(batch) for part in (half.itm_logits, half.itc_similarity, half.itm_itc)]
        half.loss(batch)[0].backward()
    exact = [part(batch) for part in (module.itm_logits, module.itc_similarity, module.itm_itc)]
    for result, expected in zip(results, exact, strict=True):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, expected, atol=0.05, rtol=0)
    # one type in all, as sharding wants it
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32 if autocast else torch.bfloat16}


def test_training_starts_in_train_mode(module: Blip2ItmModule, tmp_path: Path) -> None:
    save_published(module, tmp_path)
    blip2, processor = Blip2ItmModule.load_model(tmp_path, Blip2Settings())
    loaded = Blip2ItmModule(blip2, processor, lr=1e-3)
    assert not blip2.training
    loaded.on_fit_start()
    assert all(part.training for part in loaded.network.modules())


def test_the_tiny_tokenizer_knows_all_printable_ascii() -> None:
    encoder = Blip2Encoder(tiny_blip2_processor(SHAPE, ["a dog"]))
    tokenizer = encoder.tokenizer
    text = "".join(chr(code) for code in range(33, 127)) + " xylophone42?"
    ids = tokenizer(text, split_special_tokens=True).input_ids
    assert tokenizer.unk_token_id not in ids


@torch.no_grad()
def test_the_plain_logit_is_match_minus_no_match(module: Blip2ItmModule) -> None:
    no_match, match = plain_outputs(module, ROWS[0], itm=True)[0].tolist()
    assert blip2_pair_logit(module, ROWS[0]).item() == pytest.approx(match - no_match)
