"""SigLIP and SigLIP 2: texts padded as in their training, images as their processors make them, published folders."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import (
    AutoModel,
    AutoProcessor,
    CLIPImageProcessorPil,
    GemmaTokenizer,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipImageProcessorPil,
    SiglipModel,
)
from transformers.utils import is_protobuf_available, is_sentencepiece_available

from datamodules.batch import CaptionTooLongError, InputError
from experiments.scoring.models import FeatureAnswers
from lightning_modules import load_scorer
from lightning_modules.adapters import LoraSettings
from lightning_modules.backbones.build import Source, build_backbone
from lightning_modules.backbones.model_section import model_settings
from lightning_modules.backbones.settings import TinyShape
from lightning_modules.backbones.siglip import SiglipModule
from lightning_modules.backbones.tiny.siglip import tiny_siglip, tiny_siglip_processor
from lightning_modules.backbones.tiny.tokenizers import train_gemma_tokenizer
from lightning_modules.backbones.traits.siglip import SiglipSettings
from lightning_modules.sharding import shard_network
from tests.backbones import save_published
from tests.tiny import CAPTIONS, SHAPE, photo, row, tiny_backbone

CAPITALS = "A Red Circle, left of: a BLUE square!"
TEXTS = [*CAPTIONS, CAPITALS]
SHAPES = [(48, 16), (16, 70), (50, 50), (90, 20)]
KINDS = ("siglip", "naflex")


def tiny_module(kind: str = "siglip", **settings: object) -> Any:
    return tiny_backbone("siglip", naflex=kind == "naflex", **settings)


@pytest.fixture(params=KINDS, scope="module")
def module(request: pytest.FixtureRequest) -> SiglipModule:
    found: SiglipModule = tiny_module(request.param)
    return found


def write(path: Path, **content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


# published folders


def published(folder: Path, kind: str, **tokenizer: Any) -> Path:
    """A folder as those of SigLIP 2 on the hub: Gemma's tokenizer, and an image processor's file of its own."""
    gemma = train_gemma_tokenizer([text.lower() for text in TEXTS], 400, {})
    processor = tiny_siglip_processor(SHAPE, [], naflex=kind == "naflex")
    torch.manual_seed(0)
    shape = replace(SHAPE, patch_size=16, image_size=32) if kind == "naflex" else SHAPE
    model = tiny_siglip(shape, gemma, naflex=kind == "naflex")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    gemma.save_pretrained(folder)
    saved = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    own = "Siglip2Processor" if kind == "naflex" else "SiglipProcessor"
    lists = {"model_input_names": ["input_ids", "attention_mask"], "model_max_length": 64}
    write(folder / "tokenizer_config.json", **saved | {"processor_class": own, **lists} | tokenizer)
    pixels = processor.image_processor.to_dict()
    # the numbers that the processor around a NaFlex's takes whatever this file says
    fixed = {"patch_size": 16, "max_num_patches": 256} if kind == "naflex" else {}
    write(folder / "preprocessor_config.json", **pixels | fixed | {"processor_class": own})
    assert not (folder / "processor_config.json").exists()
    return folder


def plain_logit(folder: Path, image: Image.Image, caption: str) -> float:
    """By Transformers alone, padded on the right and without a mask as in SigLIP's training."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "right"
    inputs = processor(images=image, text=caption, padding="max_length", truncation=True, return_tensors="pt")
    inputs.pop("attention_mask", None)
    assert inputs["input_ids"].shape == (1, 64)
    with torch.no_grad():
        return float(model(**inputs).logits_per_image)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_published_folder_scores_as_plain_transformers(kind: str, side: str, tmp_path: Path) -> None:
    folder = published(tmp_path / "siglip", kind, padding_side=side)
    scorer = load_scorer(str(folder), device="cpu")
    assert scorer.backbone == "siglip"
    siglip, tokenizer = scorer.module.network.siglip, scorer.module.processor.tokenizer
    assert type(siglip) is (Siglip2Model if kind == "naflex" else SiglipModel)
    assert isinstance(tokenizer, GemmaTokenizer) == (kind == "siglip")
    assert tokenizer.padding_side == side
    assert "attention_mask" in tokenizer.model_input_names
    found = []
    for number, size in enumerate(SHAPES):
        image = photo(number, *size)
        for text in TEXTS[: 6 if number == 0 else 1]:
            # Gemma's tokenizer keeps capitals, which SigLIP 2 never saw
            plain = plain_logit(folder, image, text.lower())
            found.append(plain)
            assert scorer.logits(image, text) == pytest.approx(plain, abs=1e-5)
            assert scorer.score(image, text) == pytest.approx(1 / (1 + math.exp(-plain)), abs=1e-6)
    assert len({round(logit, 3) for logit in found}) == len(found), "pairs must differ for this to tell"


def test_a_published_siglip_canonicalises_captions_or_names_what_it_needs(tmp_path: Path) -> None:
    """SiglipTokenizer, of the first SigLIPs, takes punctuation out; it needs packages that are no requirement here."""
    folder = published(tmp_path / "siglip", "siglip", tokenizer_class="SiglipTokenizer")
    if not (is_sentencepiece_available() and is_protobuf_available()):
        with pytest.raises(InputError, match=r"\(SiglipTokenizer\) needs packages; pip install sentencepiece protobuf"):
            build_backbone(model_settings({"backbone": "siglip", "checkpoint": str(folder)}), Source(), {"lr": 1.0})
        return
    write_sentencepiece(folder)
    scorer = load_scorer(str(folder), device="cpu")
    same = [CAPITALS, "a red circle left of a blue square", " A red  circle left\nof a blue square."]
    logits = scorer.logits(photo(0), same)
    assert logits.tolist() == pytest.approx([plain_logit(folder, photo(0), text) for text in same], abs=1e-5)
    assert len(set(logits.tolist())) == 1


def write_sentencepiece(folder: Path) -> None:
    import sentencepiece

    (folder / "tokenizer.json").unlink()
    (folder / "texts").write_text("\n".join(20 * [text.lower() for text in TEXTS]), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "texts"),
        model_prefix=str(folder / "spiece"),
        vocab_size=80,
        hard_vocab_limit=False,
        add_dummy_prefix=False,
        **{"pad_id": -1, "bos_id": -1, "eos_id": 1, "unk_id": 0},
    )
    write(folder / "tokenizer_config.json", tokenizer_class="SiglipTokenizer", processor_class="SiglipProcessor")


# texts


def test_a_caption_is_padded_on_the_right_to_the_whole_context_and_nothing_is_masked(module: SiglipModule) -> None:
    tokenizer = module.processor.tokenizer
    for captions in (CAPTIONS[:1], CAPTIONS):
        inputs = module.encoder.text_inputs([captions])
        assert "attention_mask" not in inputs
        assert inputs["input_ids"].shape == (len(captions), 64)
        for ids, caption in zip(inputs["input_ids"].tolist(), captions, strict=True):
            own = tokenizer(caption).input_ids
            assert ids == own + [tokenizer.pad_token_id] * (64 - len(own))


@torch.no_grad()
def test_batching_never_changes_a_score(module: SiglipModule) -> None:
    rows = [replace(row(number, TEXTS), image=photo(number, *size)) for number, size in enumerate(SHAPES)]
    together = module.logits(module.collator()(rows))
    for item, values in zip(rows, together, strict=True):
        for text, value in zip(item.captions, values, strict=True):
            alone = replace(row(0, [text]), image=item.image)
            assert module.logits(module.collator()([alone])).item() == pytest.approx(value.item(), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_padding_side_in_the_tokenizers_file_never_changes_a_score(kind: str, tmp_path: Path) -> None:
    logits = []
    for side in ("left", "right"):
        folder = published(tmp_path / side, kind, padding_side=side)
        logits.append(load_scorer(str(folder), device="cpu").logits([photo(0)], TEXTS, matrix=True))
    assert torch.equal(*logits)


def test_capitals_never_change_a_score(module: SiglipModule) -> None:
    texts = [CAPITALS, CAPITALS.lower(), CAPITALS.upper()]
    assert len({tuple(ids) for ids in module.encoder.text_inputs([texts])["input_ids"].tolist()}) == 1


def test_long_captions_are_cut_as_transformers_cuts_them_and_counted(module: SiglipModule) -> None:
    long = " ".join(["red"] * 100)
    inputs = module.encoder.text_inputs([[long, "a dog"], ["a dog"]])
    assert inputs["cut"].tolist() == [1, 0]
    expected = module.processor.tokenizer(long, truncation=True, max_length=64).input_ids
    assert inputs["input_ids"][0].tolist() == expected
    short = tiny_module(max_text_tokens=6).encoder.text_inputs([[long]])["input_ids"]
    assert short.shape == (1, 64), "a limit of tokens leaves the place where a text is read"
    assert short[0, 5:7].tolist() == [module.processor.tokenizer.eos_token_id, module.processor.tokenizer.pad_token_id]
    with pytest.raises(CaptionTooLongError, match=r"has 102 tokens, the scorer reads 64;"):
        tiny_module(long_captions="error").encoder.text_inputs([[long]])


def test_a_tokenizer_without_an_end_token_loses_no_more_than_it_has_to(tmp_path: Path) -> None:
    scorer = load_scorer(str(published(tmp_path / "siglip", "siglip")), device="cpu")
    long = " ".join(["red"] * 100)
    expected = scorer.module.processor.tokenizer(long, truncation=True, max_length=64).input_ids
    assert expected[-1] != scorer.module.processor.tokenizer.eos_token_id
    assert scorer.module.encoder.text_inputs([[long]])["input_ids"][0].tolist() == expected


def test_an_end_token_that_a_caption_spells_is_text(module: SiglipModule) -> None:
    tokenizer = module.processor.tokenizer
    ids = module.encoder.text_inputs([["a dog </s> two cats <pad>"]])["input_ids"][0].tolist()
    end = ids.index(tokenizer.eos_token_id)
    assert set(ids[end + 1 :]) == {tokenizer.pad_token_id}
    assert tokenizer.pad_token_id not in ids[:end]
    assert end > len(tokenizer("a dog two cats").input_ids)


# images


def test_a_fixed_resolution_squashes_an_image_and_naflex_keeps_its_shape() -> None:
    images = [photo(number, *size) for number, size in enumerate(SHAPES)]
    squashed = tiny_module("siglip").encoder.image_inputs(images)
    assert squashed.keys() == {"pixel_values"}
    assert squashed["pixel_values"].shape == (4, 3, 16, 16)
    processor = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    assert torch.equal(squashed["pixel_values"], processor(images, return_tensors="pt")["pixel_values"])
    naflex = tiny_module("naflex").encoder.image_inputs(images)
    assert naflex.keys() == {"pixel_values", "pixel_attention_mask", "spatial_shapes"}
    assert naflex["pixel_values"].shape == (4, 4, 8 * 8 * 3)
    assert naflex["spatial_shapes"].tolist() == [[1, 3], [4, 1], [2, 2], [1, 4]]
    assert naflex["pixel_attention_mask"].sum(1).tolist() == [3, 4, 4, 4]


@torch.no_grad()
def test_patches_that_do_not_exist_say_nothing() -> None:
    module = tiny_module("naflex")
    batch = module.collator()([replace(row(0, CAPTIONS[:2]), image=photo(0, 48, 16))])
    assert batch.inputs["pixel_attention_mask"].tolist() == [[1, 1, 1, 0]]
    expected = module.logits(batch)
    batch.inputs["pixel_values"][:, 3:] = 100.0
    assert torch.equal(module.logits(batch), expected)


def test_an_image_of_too_many_or_broken_patches_is_refused_where_it_is_not_resized() -> None:
    module = tiny_module("naflex")
    module.processor.image_processor.do_resize = False
    assert module.encoder.image_inputs([photo(0, 16, 8)])["spatial_shapes"].tolist() == [[1, 2]]
    for size in ((24, 16), (20, 8), (4, 4)):
        shown = (
            rf"at most 4 whole patches of 8 x 8 pixels, got {size[0]} x {size[1]} pixels; shrink it, or set do_resize"
        )
        with pytest.raises(InputError, match=shown):
            module.encoder.image_inputs([photo(0, *size)])


def test_a_naflex_reads_a_very_long_image() -> None:
    module = tiny_module("naflex")
    assert module.encoder.image_inputs([Image.new("RGB", (5000, 1))])["spatial_shapes"].tolist() == [[1, 4]]


# scores


@torch.no_grad()
def test_the_score_is_the_probability_by_scale_and_bias(module: SiglipModule) -> None:
    batch = module.collator()([row(0, CAPTIONS)])
    images, texts, scale, bias = module._features(batch)
    torch.testing.assert_close(torch.cat([images, texts]).norm(dim=1), torch.ones(6))
    assert (scale.item(), bias.item()) == pytest.approx((10.0, -10.0))
    expected = torch.sigmoid(10 * texts @ images[0] - 10)
    torch.testing.assert_close(module.score(module.logits(batch))[0], expected)
    assert module.calibrated


@torch.no_grad()
def test_cosines_are_not_rounded_in_half_precision() -> None:
    half, exact = tiny_module().bfloat16(), tiny_module()
    batch = exact.collator()([row(0, CAPTIONS)])
    logits = half.logits(batch)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())
    features = half._features(batch)
    exact.network.forward = lambda *_: features
    plain = exact.logits(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(exact.logits(batch), plain)


@torch.no_grad()
def test_images_and_texts_apart_give_the_match_logits(module: SiglipModule) -> None:
    images = [photo(number, *size) for number, size in enumerate(SHAPES)]
    rows = [replace(row(number, CAPTIONS), image=image) for number, image in enumerate(images)]
    expected = module.logits(module.collator()(rows))
    torch.testing.assert_close(module.matrix_logits([images[:3], images[3:]], [CAPTIONS[:2], CAPTIONS[2:]]), expected)
    of_images = module.encode_images(module.encoder.image_inputs(images)).numpy()
    of_texts = module.encode_texts(module.encoder.text_inputs([CAPTIONS])).numpy()
    answers = FeatureAnswers(of_images, of_texts, {}, module.logit_offset)
    groups = np.arange(len(CAPTIONS))
    torch.testing.assert_close(torch.tensor(answers.matrix(np.arange(4), groups, groups)), expected)
    pairs = answers.pairs(np.array([0, 3]), np.array([1, 2]))
    assert pairs == pytest.approx([expected[0, 1].item(), expected[3, 2].item()], abs=1e-5)
    # of several wordings the direction is averaged, and the bias is added once
    together = answers.matrix(np.arange(4), groups, np.zeros(5, int))[:, 0]
    direction = torch.nn.functional.normalize(torch.tensor(of_texts).sum(0), dim=0)
    torch.testing.assert_close(torch.tensor(together), torch.tensor(of_images) @ direction + module.logit_offset)


# what trains

LORA = LoraSettings(rank=4, alpha=8, dropout=0.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen vision": {"train_vision": False},
    "lora": {"lora": LORA},
    "lora on the heads": {"lora": LoraSettings(rank=4, alpha=8, dropout=0.0, targets=["projector"])},
    "recomputed": {"gradient_checkpointing": True},
    "a contrast": {"loss": "itc"},
    "single pairs": {"loss": "binary"},
}


def trainable(module: SiglipModule) -> set[str]:
    return {n.removeprefix("network.siglip.") for n, p in module.named_parameters() if p.requires_grad}


def largest_gradients(module: SiglipModule) -> dict[str, float]:
    module.zero_grad()
    module.loss(module.collator()([row(0, CAPTIONS), row(1, CAPTIONS[1:3])]))[0].backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    return {name: 0.0 if gradient is None else gradient.abs().max().item() for name, gradient in found.items()}


def without_key_biases(module: SiglipModule) -> dict[str, float]:
    """The true gradient of a key's bias is zero: it shifts all of a query's logits."""
    return {n: largest for n, largest in largest_gradients(module).items() if not n.endswith("k_proj.bias")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETTINGS)
def test_the_loss_reaches_every_trainable_parameter(name: str, kind: str) -> None:
    module = tiny_module(kind, **SETTINGS[name])
    module.on_fit_start()
    for parameter_name, parameter in module.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter)  # at their initial zero, they hide lora_A from the loss
    gradients = without_key_biases(module)
    assert min(gradients.values()) > 1e-7, min(gradients, key=lambda n: gradients[n])


def test_recomputed_activations_change_no_gradient(module: SiglipModule) -> None:
    kind = "naflex" if isinstance(module.network.siglip, Siglip2Model) else "siglip"
    plain, recomputed = tiny_module(kind), tiny_module(kind, gradient_checkpointing=True)
    plain.on_fit_start()
    recomputed.on_fit_start()
    assert any(getattr(layer, "gradient_checkpointing", False) for layer in recomputed.network.modules())
    assert largest_gradients(recomputed) == pytest.approx(largest_gradients(plain), rel=1e-4, abs=1e-6)


def test_scale_and_bias_train_in_every_way_but_the_bias_by_a_softmax() -> None:
    for name, settings in SETTINGS.items():
        found = trainable(tiny_module(**settings))
        assert "logit_scale" in found
        assert ("logit_bias" in found) == (name != "a contrast"), name
        vision = {n for n in found if n.startswith("vision_model.") and "lora_" not in n}
        assert bool(vision) == ("lora" not in settings and settings.get("train_vision", True)), name


def test_lora_adapts_the_linear_layers_of_both_towers_and_of_their_heads() -> None:
    names = trainable(tiny_module(lora=LORA))
    assert {name for name in names if "lora_" not in name} == {"logit_scale", "logit_bias"}
    adapted = {name.split(".lora_")[0] for name in names} - {"logit_scale", "logit_bias"}
    layers = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
    towers = ("text_model", "vision_model")
    heads = {"text_model.head", "vision_model.head.mlp.fc1", "vision_model.head.mlp.fc2"}
    assert adapted - heads == {f"{t}.encoder.layers.{i}.{layer}" for t in towers for i in (0, 1) for layer in layers}
    assert heads < adapted


def test_an_export_has_scale_and_bias_in_transformers_own_shapes(module: SiglipModule, tmp_path: Path) -> None:
    save_published(module, tmp_path / "export")
    plain, info = AutoModel.from_pretrained(tmp_path / "export", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(plain) is type(module.network.siglip)
    fresh = type(plain)(plain.config)
    for name in ("logit_scale", "logit_bias"):
        assert getattr(plain, name).shape == getattr(fresh, name).shape == (1,)
        assert torch.equal(getattr(plain, name), getattr(module.network.siglip, name))


@pytest.fixture
def single_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("single_rank")
@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_siglip_has_the_same_loss_and_gradients_of_scale_and_bias(kind: str) -> None:
    plain, sharded = tiny_module(kind), tiny_module(kind)
    shard_network(sharded.network, init_device_mesh("cpu", (1,)))
    batch = plain.collator()([row(0, CAPTIONS), row(1, CAPTIONS[1:3])])
    torch.testing.assert_close(sharded.logits(batch), plain.logits(batch))
    losses = [module.loss(batch)[0] for module in (sharded, plain)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for name in ("logit_scale", "logit_bias"):
        parameter = getattr(sharded.network.siglip, name)
        assert isinstance(parameter, DTensor)
        assert isinstance(parameter.grad, DTensor)
        torch.testing.assert_close(parameter.grad.full_tensor(), getattr(plain.network.siglip, name).grad)


# bad input


def break_context(siglip: Any, processor: Any) -> None:
    siglip.config.text_config.max_position_embeddings = 32


def break_padding(siglip: Any, processor: Any) -> None:
    processor.tokenizer.pad_token = None


def break_head(siglip: Any, processor: Any) -> None:
    siglip.config.vision_config.vision_use_head = False


def break_processor(siglip: Any, processor: Any) -> None:
    processor.image_processor = CLIPImageProcessorPil()


def exchange_processor(siglip: Any, processor: Any) -> None:
    processor.image_processor = (
        SiglipImageProcessorPil() if isinstance(siglip, Siglip2Model) else Siglip2ImageProcessorPil()
    )


def break_size(siglip: Any, processor: Any) -> None:
    if isinstance(siglip, Siglip2Model):
        processor.image_processor.patch_size = 4
    else:
        processor.image_processor.size = {"shortest_edge": 16}


FAULTS: dict[str, tuple[Any, str, str]] = {
    "a context that is too short": (break_context, *2 * (r"max_position_embeddings must be at least 64, .* got 32;",)),
    "a tokenizer that cannot pad": (break_padding, *2 * (r"must have a pad_token; mend tokenizer_config\.json",)),
    "no head": (break_head, *2 * (r"vision_use_head must be true",)),
    "an image processor of another model": (
        break_processor,
        r"must be a SiglipImageProcessor, got CLIPImageProcessorPil; copy the checkpoint anew",
        r"must be a Siglip2ImageProcessor, got CLIPImageProcessorPil; copy the checkpoint anew",
    ),
    "an image processor of the other SigLIP": (
        exchange_processor,
        r"must be a SiglipImageProcessor, got Siglip2ImageProcessorPil;",
        r"must be a Siglip2ImageProcessor, got SiglipImageProcessorPil;",
    ),
    "images of another size": (
        break_size,
        r"size of the image processor must be \{'height': 16, 'width': 16\}, as in config\.json, got \{'height': None",
        r"patch_size of the image processor must be 8, as in config\.json, got 4;",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAULTS)
def test_what_does_not_fit_a_siglip_is_one_line(name: str, kind: str) -> None:
    breaks, *messages = FAULTS[name]
    shape = TinyShape(image_size=16, patch_size=8)
    processor = tiny_siglip_processor(shape, CAPTIONS, naflex=kind == "naflex")
    siglip = tiny_siglip(shape, processor.tokenizer, naflex=kind == "naflex")
    breaks(siglip, processor)
    with pytest.raises(ValueError, match=messages[KINDS.index(kind)]) as raised:
        SiglipModule(siglip, processor, lr=1.0)
    assert "\n" not in str(raised.value)


def test_a_naflex_of_endless_patches_is_refused() -> None:
    processor = tiny_siglip_processor(SHAPE, CAPTIONS, naflex=True)
    siglip = tiny_siglip(SHAPE, processor.tokenizer, naflex=True)
    processor.image_processor.max_num_patches = 10**9
    with pytest.raises(ValueError, match="max_num_patches of the image processor must be smaller, got 1000000000"):
        SiglipModule(siglip, processor, lr=1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "lm"}, r"model\.loss must be one of binary, listwise, itc, ce_clip, sigmoid, got 'lm'"),
        ({"long_captions": "drop"}, r"model\.long_captions must be one of truncate, error, got 'drop'"),
        ({"max_text_tokens": 65}, r"model\.max_text_tokens must be in \[2, 64\] for this SigLIP, got 65"),
        ({"max_text_tokens": 1}, r"model\.max_text_tokens must be in \[2, 64\] for this SigLIP, got 1"),
    ],
)
def test_settings_that_siglip_does_not_know_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_module(**settings)


def test_settings_that_would_do_nothing_are_faults() -> None:
    lora = SiglipSettings(tune="lora", train_vision=True)
    assert [fault for fault in lora.faults("model.") if "train_vision` must not be true" in fault]
    shaped = SiglipSettings(naflex=True, checkpoint="google/siglip2-base-patch16-naflex")
    assert [fault for fault in shaped.faults("model.") if "naflex` must not be given beside" in fault]
    assert not list(SiglipSettings(naflex=True).faults("model."))


def test_a_clip_has_no_bias_and_so_not_this_loss() -> None:
    with pytest.raises(ValueError, match=r"model\.loss must be one of .*, got 'sigmoid': .* offers no biased_features"):
        tiny_backbone("clip", loss="sigmoid")


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_training_exports_scores_as_it_did(kind: str, tmp_path: Path) -> None:
    module = tiny_module(kind)
    save_published(module, tmp_path)
    again = load_scorer(str(tmp_path), device="cpu").module
    with torch.no_grad():
        found, expected = (one.logits(one.collator()([row(0, CAPTIONS)])) for one in (again, module))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
