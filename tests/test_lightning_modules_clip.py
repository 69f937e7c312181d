"""CLIP: its inputs, features in float32, what trains, the clamped scale, and the activation its weights need."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import AutoProcessor, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from datamodules.batch import UNKNOWN, CaptionTooLongError, ImageTextBatch, ImageTextRow
from lightning_modules.adapters import LoraSettings
from lightning_modules.backbones.clip import ClipModule
from lightning_modules.backbones.clip_weights.activation import choose_activation, load_clip
from lightning_modules.backbones.settings import TinyShape
from lightning_modules.backbones.tiny.clip import tiny_clip, tiny_clip_processor, train_clip_tokenizer
from lightning_modules.checkpoint import load_weights, save_weights
from lightning_modules.sharding import shard_network
from tests.tiny import CAPTIONS, SHAPE, photo, row
from tests.tiny_clip import tiny_clip_module

ROWS = [row(0, CAPTIONS), row(1, CAPTIONS[:1]), row(2, CAPTIONS[1:4])]
LONG = " ".join(["red"] * 100)


@pytest.fixture(scope="module")
def module() -> ClipModule:
    return tiny_clip_module()


# inputs


def test_only_existing_captions_are_encoded_row_by_row(module: ClipModule) -> None:
    batch = module.collator()(ROWS)
    captions = [caption for item in ROWS for caption in item.captions]
    inputs, tokenizer = batch.inputs, module.processor.tokenizer
    assert inputs["pixel_values"].shape == (3, 3, 16, 16)
    assert inputs["cell_index"].tolist() == batch.caption_mask.flatten().nonzero().flatten().tolist()
    assert inputs["cut"].tolist() == [0, 0, 0]
    for ids, mask, caption in zip(inputs["input_ids"], inputs["attention_mask"], captions, strict=True):
        assert ids[mask.bool()].tolist() == tokenizer(caption).input_ids


def test_padding_is_end_tokens_on_the_right_whatever_the_tokenizer_says(module: ClipModule) -> None:
    expected = module.collator()(ROWS).inputs
    other = tiny_clip_module()
    other.processor.tokenizer.padding_side = "left"
    other.processor.tokenizer.pad_token = "!"
    torch.testing.assert_close(other.collator()(ROWS).inputs, expected)
    padding = expected["input_ids"][expected["attention_mask"] == 0]
    assert len(padding)
    assert set(padding.tolist()) == {other.processor.tokenizer.eos_token_id}
    assert bool((expected["attention_mask"].diff(dim=1) <= 0).all())


def test_long_captions_are_cut_as_transformers_cuts_them_and_counted(module: ClipModule) -> None:
    short = tiny_clip_module(max_text_tokens=8)
    items = [row(0, [CAPTIONS[0], CAPTIONS[2]]), row(1, [CAPTIONS[2]]), row(2, CAPTIONS[:2])]
    inputs = short.collator()(items).inputs
    assert inputs["cut"].tolist() == [1, 0, 2]
    for caption, ids in zip([CAPTIONS[0], CAPTIONS[2]], inputs["input_ids"], strict=False):
        expected = short.processor.tokenizer(caption, truncation=True, max_length=8).input_ids
        assert ids[: len(expected)].tolist() == expected
    whole = module.collator()([row(0, [LONG])]).inputs
    assert whole["cut"].tolist() == [1]
    assert whole["input_ids"].shape == (1, 77), "the text model's context, where no limit is given"
    assert torch.isfinite(module.logits(module.collator()([row(0, [LONG])]))).all()


def test_a_caption_of_just_the_limit_is_whole(module: ClipModule) -> None:
    tokens = len(module.processor.tokenizer(CAPTIONS[0]).input_ids)
    exact = tiny_clip_module(max_text_tokens=tokens, long_captions="error")
    assert exact.collator()([row(0, CAPTIONS[:1])]).inputs["cut"].tolist() == [0]


def test_a_long_caption_can_be_an_error() -> None:
    module = tiny_clip_module(max_text_tokens=8, long_captions="error")
    with pytest.raises(CaptionTooLongError, match=r"'a red circle left of a blue square' has 10 tokens, .* 8;"):
        module.collator()([row(0, [CAPTIONS[2], CAPTIONS[0]])])


@pytest.mark.parametrize("token", ["<|endoftext|>", "<|startoftext|>"])
def test_a_special_token_that_a_caption_spells_is_text(module: ClipModule, token: str) -> None:
    tokenizer = module.processor.tokenizer
    ids = module.collator()([row(0, [f"a dog {token} two cats"])]).inputs["input_ids"][0].tolist()
    specials = [place for place, i in enumerate(ids) if i in (tokenizer.bos_token_id, tokenizer.eos_token_id)]
    assert specials == [0, len(ids) - 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "lm"}, r"model\.loss must be one of binary, listwise, itc, ce_clip, got 'lm'"),
        ({"long_captions": "drop"}, r"model\.long_captions must be one of truncate, error, got 'drop'"),
        ({"max_text_tokens": 78}, r"model\.max_text_tokens must be in \[3, 77\] for this CLIP, got 78"),
        ({"max_text_tokens": 2}, r"model\.max_text_tokens must be in \[3, 77\] for this CLIP, got 2"),
    ],
)
def test_settings_that_clip_does_not_know_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_clip_module(**settings)


# features and scores


@torch.no_grad()
def test_an_image_and_a_text_are_encoded_once(module: ClipModule) -> None:
    seen: list[int] = []
    clip = module.network.clip
    hooks = [
        tower.register_forward_hook(lambda _, inputs, output: seen.append(len(output.pooler_output)))
        for tower in (clip.vision_model, clip.text_model)
    ]
    module.logits(module.collator()(ROWS))
    for hook in hooks:
        hook.remove()
    assert seen == [3, 9]


@torch.no_grad()
def test_the_score_is_the_cosine(module: ClipModule) -> None:
    batch = module.collator()(ROWS)
    names = ("pixel_values", "input_ids", "attention_mask")
    images, texts, scale = module.network(**{name: batch.inputs[name] for name in names})
    torch.testing.assert_close(images.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(9))
    assert scale.shape == (1,)
    cosines = (images @ texts.T)[[0] * 5 + [1] + [2] * 3, range(9)]
    torch.testing.assert_close(module.score(module.logits(batch))[batch.caption_mask], cosines)


@torch.no_grad()
def test_cosines_are_not_rounded_in_half_precision() -> None:
    half, exact = tiny_clip_module().bfloat16(), tiny_clip_module()
    batch = exact.collator()(ROWS)
    logits = half.logits(batch)
    assert logits.dtype == half.score(logits).dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())
    features = half._features(batch)
    for normalised in features[:2]:
        torch.testing.assert_close(normalised.norm(dim=1), torch.ones(len(normalised)), atol=1e-6, rtol=0)
    exact.network.forward = lambda **_: features  # type: ignore[assignment, return-value]
    plain = exact.logits(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(exact.logits(batch), plain)


# what trains


def trainable(module: torch.nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def largest_gradients(module: ClipModule, rows: list[ImageTextRow] = ROWS) -> dict[str, float]:
    module.zero_grad()
    module.loss(module.collator()(rows))[0].backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    return {name: 0.0 if gradient is None else gradient.abs().max().item() for name, gradient in found.items()}


LORA = LoraSettings(rank=4, alpha=8, dropout=0.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen vision": {"train_vision": False},
    "lora": {"lora": LORA},
    "lora on all": {"lora": LoraSettings(rank=4, alpha=8, dropout=0.0, targets=["towers", "projector"])},
    "recomputed": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_loss_reaches_every_trainable_parameter(name: str) -> None:
    module = tiny_clip_module(**SETTINGS[name])
    module.on_fit_start()
    for parameter_name, parameter in module.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter)  # at their initial zero, they hide lora_A from the loss
    # the true gradient of a key's bias is zero: it shifts all of a query's logits
    gradients = {n: largest for n, largest in largest_gradients(module).items() if not n.endswith("k_proj.bias")}
    assert min(gradients.values()) > 1e-6, min(gradients, key=lambda n: gradients[n])


def test_recomputed_activations_change_no_gradient() -> None:
    plain, recomputed = tiny_clip_module(), tiny_clip_module(gradient_checkpointing=True)
    plain.on_fit_start()
    recomputed.on_fit_start()
    assert any(getattr(layer, "gradient_checkpointing", False) for layer in recomputed.network.modules())
    assert largest_gradients(recomputed) == pytest.approx(largest_gradients(plain), rel=1e-5, abs=1e-6)


def test_a_frozen_vision_tower_leaves_the_projections_training() -> None:
    names = {name.removeprefix("network.clip.") for name in trainable(tiny_clip_module(train_vision=False))}
    assert {"visual_projection.weight", "text_projection.weight", "logit_scale"} < names
    assert not any(name.startswith("vision_model.") for name in names)
    assert any(name.startswith("text_model.") for name in names)
    everything = dict(tiny_clip_module().named_parameters())
    assert trainable(tiny_clip_module()) == everything.keys()


def test_lora_adapts_both_towers_and_keeps_projections_and_scale_training() -> None:
    names = {name.removeprefix("network.clip.") for name in trainable(tiny_clip_module(lora=LORA))}
    rest = {name for name in names if "lora_" not in name}
    assert rest == {"visual_projection.weight", "text_projection.weight", "logit_scale"}
    adapted = {name.split(".lora_")[0] for name in names - rest}
    layers = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
    towers = ("text_model", "vision_model")
    assert adapted == {f"{tower}.encoder.layers.{i}.{layer}" for tower in towers for i in (0, 1) for layer in layers}


@pytest.mark.parametrize(
    ("part", "modules"),
    [
        ("language_model", {"text_model"}),
        ("vision", {"vision_model"}),
        ("projector", {"visual_projection", "text_projection"}),
    ],
)
def test_a_lora_target_adapts_its_part_and_no_other(part: str, modules: set[str]) -> None:
    module = tiny_clip_module(lora=LoraSettings(rank=4, targets=[part]))
    adapted = {name.removeprefix("network.clip.") for name in trainable(module) if "lora_" in name}
    assert {name.split(".")[0] for name in adapted} == modules
    assert "network.clip.text_model.embeddings.token_embedding.weight" not in trainable(module)


# the scale


class ScaleSeenByCallbacks(L.Callback):
    """What a checkpoint would hold after each batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        assert isinstance(pl_module, ClipModule)
        self.values.append(pl_module.network.clip.logit_scale.item())


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec|val_dataloader|in eval mode at the start)")
@pytest.mark.parametrize(("start", "expected"), [(9.0, math.log(100)), (-3.0, 0.0), (2.5, 2.5)])
def test_the_scale_is_between_1_and_100_once_a_step_is_done(start: float, expected: float) -> None:
    module, seen = tiny_clip_module(lr=0.0), ScaleSeenByCallbacks()
    parameter = torch.nn.init.constant_(module.network.clip.logit_scale, start)
    loader: DataLoader[ImageTextBatch] = DataLoader(ROWS, batch_size=1, collate_fn=module.collator())  # type: ignore[arg-type]
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        accumulate_grad_batches=2,
        callbacks=[seen],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    assert seen.values == pytest.approx([start, expected, expected])
    assert module.network.clip.logit_scale is parameter, "the optimiser holds this one"


@pytest.fixture
def single_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("single_rank")
def test_a_sharded_clip_has_the_same_loss_and_a_clamped_scale() -> None:
    plain, sharded = tiny_clip_module(), tiny_clip_module()
    shard_network(sharded.network, init_device_mesh("cpu", (1,)))
    parameter = sharded.network.clip.logit_scale
    assert isinstance(parameter, DTensor)
    batch = plain.collator()(ROWS)
    torch.testing.assert_close(sharded.logits(batch), plain.logits(batch))
    losses = [module.loss(batch)[0] for module in (sharded, plain)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    assert isinstance(parameter.grad, DTensor)
    torch.testing.assert_close(parameter.grad.full_tensor(), plain.network.clip.logit_scale.grad)
    with torch.no_grad():
        parameter.fill_(9.0)
    sharded.optimizer_step(0, 0, torch.optim.AdamW(sharded.parameters(), lr=0.0))
    assert parameter.full_tensor().item() == pytest.approx(math.log(100))


def test_rows_without_a_positive_in_front_have_no_term(module: ClipModule) -> None:
    rows = [row(0, CAPTIONS[:3], [1, 0, 0]), row(1, CAPTIONS[:2], [0, 1]), row(2, CAPTIONS[:1], [-1])]
    batch = module.collator()(rows)
    assert module.loss_terms(batch) == 1
    loss, report = module.loss(batch)
    assert loss.item() > 0
    assert set(report) == {"itc/i2t_accuracy", "itc/logit_scale"}
    nothing = module.collator()(rows[1:])
    assert module.loss_terms(nothing) == 0
    assert module.loss(nothing)[0].item() == 0


def test_the_mask_alone_says_which_texts_exist(module: ClipModule) -> None:
    batch = module.collator()(ROWS)
    mask = batch.caption_mask.clone()
    mask[0, 2], mask[1, 0] = False, False
    hidden = replace(batch, caption_mask=mask)
    unknown = replace(batch, labels=batch.labels.where(mask, UNKNOWN))
    assert module.loss_terms(hidden) == module.loss_terms(unknown) == 2
    assert module.loss(hidden)[0].item() == module.loss(unknown)[0].item() != module.loss(batch)[0].item()


# the tiny model and its tokenizer


def test_the_tiny_tokenizer_is_laid_out_as_the_published_one() -> None:
    tokenizer = train_clip_tokenizer(CAPTIONS, vocab_size=540)
    assert len(tokenizer) == 540
    assert tokenizer.convert_ids_to_tokens([538, 539]) == ["<|startoftext|>", "<|endoftext|>"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (538, 539)
    ids = tokenizer("A RED circle").input_ids
    assert ids == tokenizer("a red  circle").input_ids
    assert ids[0] == 538
    assert ids[-1] == 539


@pytest.mark.parametrize("caption", ["", "漢字 ☃", "\N{CAT FACE}'s 'll x9 \x00 \x7f", "Zürich"])
def test_the_tiny_tokenizer_can_spell_any_text(caption: str) -> None:
    tokenizer = train_clip_tokenizer(CAPTIONS, vocab_size=514)
    ids = tokenizer(caption).input_ids
    assert tokenizer.eos_token_id not in ids[:-1], "an unknown byte would end the caption"
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == caption.lower().replace(" ", "")


def test_a_vocabulary_without_room_for_all_bytes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"model\.tiny\.vocab_size must be at least 514 for CLIP, got 513"):
        train_clip_tokenizer(CAPTIONS, vocab_size=513)


def test_a_tiny_clip_is_one_of_openai_s_kind(tmp_path: Path) -> None:
    processor = tiny_clip_processor(SHAPE, CAPTIONS)
    torch.manual_seed(0)
    clip = tiny_clip(SHAPE, processor.tokenizer)
    assert clip.text_model.config.hidden_act == clip.vision_model.config.hidden_act == "quick_gelu"
    assert clip.text_model.config.max_position_embeddings == 77
    ids = (clip.text_model.config.bos_token_id, clip.text_model.config.eos_token_id)
    assert ids == (processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id)
    assert clip.text_model.config._attn_implementation == "sdpa"
    torch.manual_seed(0)
    wide = tiny_clip(TinyShape(**{**vars(SHAPE), "initializer_range": 0.1}), processor.tokenizer)
    for (name, one), two in zip(clip.named_parameters(), wide.parameters(), strict=True):
        if one.ndim > 1:
            torch.testing.assert_close(two, 5 * one, msg=name)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.tokenizer(CAPTIONS).input_ids == processor.tokenizer(CAPTIONS).input_ids
    one, two = (p.image_processor(photo(0), return_tensors="pt")["pixel_values"] for p in (processor, again))
    assert torch.equal(one, two)


# checkpoints


def save_published(folder: Path, text_act: str = "quick_gelu", vision_act: str = "quick_gelu", **config: Any) -> Path:
    """A tiny CLIP in the format of published checkpoints, its configuration as told."""
    torch.manual_seed(0)
    processor = tiny_clip_processor(SHAPE, CAPTIONS)
    clip = tiny_clip(SHAPE, processor.tokenizer)
    for parameter in clip.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    clip.save_pretrained(folder)
    processor.save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    saved["text_config"]["hidden_act"], saved["vision_config"]["hidden_act"] = text_act, vision_act
    (folder / "config.json").write_text(json.dumps({**saved, **config}), encoding="utf-8")
    return folder


@torch.no_grad()
def test_a_published_checkpoint_gives_the_logits_of_the_plain_model(tmp_path: Path) -> None:
    folder = save_published(tmp_path)
    module = ClipModule(*load_clip(folder), lr=1e-3).eval()
    batch = module.collator()(ROWS)
    plain = CLIPModel.from_pretrained(folder).eval()
    captions = [caption for item in ROWS for caption in item.captions]
    inputs = AutoProcessor.from_pretrained(folder)(
        images=[item.image for item in ROWS], text=captions, return_tensors="pt", padding=True
    )
    expected = plain(**inputs).logits_per_image[[0] * 5 + [1] + [2] * 3, range(9)]
    torch.testing.assert_close(module.logits(batch)[batch.caption_mask], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(tiny_clip_module().logits(batch), module.logits(batch), atol=1e-5, rtol=0)


def test_weights_are_loaded_in_the_type_that_is_asked_for(tmp_path: Path) -> None:
    clip, _ = load_clip(save_published(tmp_path), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.bfloat16}


@torch.no_grad()
def test_trained_weights_come_back(tmp_path: Path) -> None:
    trained, fresh = tiny_clip_module(), tiny_clip_module(seed=1)
    save_weights(trained.network, tmp_path / "weights.safetensors", trainable_only=False)
    load_weights(fresh.network, tmp_path / "weights.safetensors", trainable_only=False)
    batch = trained.collator()(ROWS)
    assert torch.equal(trained.logits(batch), fresh.logits(batch))


def test_a_checkpoint_of_another_model_or_without_all_weights_is_an_error(tmp_path: Path) -> None:
    folder = save_published(tmp_path)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("vision_model.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights are missing \(vision_model\."):
        load_clip(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "siglip"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"is a checkpoint of type 'siglip', and CLIPModel reads 'clip'"):
        load_clip(folder)


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    folder = save_published(tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_clip(folder)


@torch.no_grad()
def test_the_old_way_to_name_the_end_token_reads_the_same_token(tmp_path: Path) -> None:
    """OpenAI's configurations say 2, which stands for the highest id."""
    folder = save_published(tmp_path)
    expected = ClipModule(*load_clip(folder), lr=1e-3).eval()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["eos_token_id"] = 2
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    old = ClipModule(*load_clip(folder), lr=1e-3).eval()
    batch = expected.collator()(ROWS)
    assert torch.equal(old.logits(batch), expected.logits(batch))
    config["text_config"]["eos_token_id"] = 7
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"text_config\.eos_token_id is 7 .* ends a caption with 577"):
        ClipModule(*load_clip(folder), lr=1e-3)


# the activation

OPENAI_NAME = "openai/clip-vit-base-patch32"


def activations(clip: CLIPModel) -> set[str]:
    functions = {type(layer.mlp.activation_fn).__name__ for layer in clip.text_model.encoder.layers}
    return functions | {type(layer.mlp.activation_fn).__name__ for layer in clip.vision_model.encoder.layers}


@pytest.mark.parametrize(
    ("saved", "activation", "expected"),
    [
        ("quick_gelu", None, "QuickGELUActivation"),
        ("gelu", None, "GELUActivation"),
        ("gelu", "quick_gelu", "QuickGELUActivation"),
        ("quick_gelu", "gelu", "GELUActivation"),
    ],
)
def test_the_activation_is_what_the_checkpoint_says_or_what_overrules_it(
    saved: str, activation: str | None, expected: str, tmp_path: Path
) -> None:
    clip, _ = load_clip(save_published(tmp_path, saved, saved), activation=activation)
    assert activations(clip) == {expected}
    said = {clip.config.text_config.hidden_act, clip.config.vision_config.hidden_act}
    assert said == {activation or saved}, "what is saved from here says what was run"


@torch.no_grad()
def test_the_activation_changes_logits(tmp_path: Path) -> None:
    folder = save_published(tmp_path)
    one, two = (ClipModule(*load_clip(folder, activation=name), lr=1e-3).eval() for name in ("quick_gelu", "gelu"))
    batch = one.collator()(ROWS)
    assert (one.logits(batch) - two.logits(batch)).abs().max() > 0.01


def test_towers_that_disagree_are_an_error_until_one_is_named(tmp_path: Path) -> None:
    folder = save_published(tmp_path, text_act="gelu")
    with pytest.raises(ValueError, match=r"got gelu \(text\) and quick_gelu \(vision\) in .*; set model\.activation"):
        load_clip(folder)
    assert activations(load_clip(folder, activation="quick_gelu")[0]) == {"QuickGELUActivation"}


@pytest.mark.parametrize("name", [OPENAI_NAME, "openai_clip-vit-large-patch14"])
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_openai_s_weights_never_run_with_gelu(name: str, activation: str | None, tmp_path: Path) -> None:
    by_folder = save_published(tmp_path / "a" / name, "gelu", "gelu")
    by_origin = save_published(tmp_path / "b", "gelu", "gelu", _name_or_path=OPENAI_NAME)
    for folder in (by_folder, by_origin):
        with pytest.raises(ValueError, match=r"need quick_gelu, and .* is gelu; set model\.activation=quick_gelu"):
            load_clip(folder, activation=activation)
        assert activations(load_clip(folder, activation="quick_gelu")[0]) == {"QuickGELUActivation"}


def test_the_error_names_the_folder_the_origin_and_the_remedy(tmp_path: Path) -> None:
    folder = save_published(tmp_path, _name_or_path=OPENAI_NAME)
    with pytest.raises(ValueError, match="need quick_gelu") as error:
        load_clip(folder, activation="gelu")
    assert str(error.value) == (
        f"{folder} holds weights of {OPENAI_NAME}, which need quick_gelu, and model.activation is gelu; leave it out."
    )
    assert activations(load_clip(folder)[0]) == {"QuickGELUActivation"}


def towers(act: str, shape: tuple[int, int, int] = (768, 32, 512)) -> tuple[CLIPTextConfig, CLIPVisionConfig]:
    """Width and patch of the vision tower and width of the text tower; ViT-B/32's where not given."""
    width, patch, text_width = shape
    text = CLIPTextConfig(hidden_size=text_width, hidden_act=act)  # type: ignore[call-arg]
    return text, CLIPVisionConfig(hidden_size=width, patch_size=patch, num_attention_heads=16, hidden_act=act)  # type: ignore[call-arg]


HUB_CACHE = os.path.join("hub", "models--openai--clip-vit-base-patch32", "snapshots", "3d74acf9")


@pytest.mark.parametrize(
    "source", [OPENAI_NAME, f"/data/{OPENAI_NAME}/", HUB_CACHE, "C:\\openai-clip-vit-base-patch32"]
)
def test_openai_s_weights_are_known_by_their_names(source: str) -> None:
    with pytest.raises(ValueError, match="need quick_gelu"):
        choose_activation(*towers("gelu"), ["runs/mine", source])


@pytest.mark.parametrize(
    "source", ["laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "/data/openai/clip-study/laion", "my-openai/clip-vit", ""]
)
@pytest.mark.filterwarnings("ignore:.*runs with gelu")
def test_other_weights_run_as_they_say(source: str) -> None:
    assert choose_activation(*towers("gelu"), [source, ""]) == "gelu"


def test_gelu_in_a_model_of_openai_s_shape_is_asked_about() -> None:
    """What was trained from OpenAI's and saved elsewhere looks like this, and so do LAION's own."""
    with pytest.warns(UserWarning, match=r"runs/mine runs with gelu.*set model\.activation=quick_gelu; if not, .*gelu"):
        assert choose_activation(*towers("gelu"), ["runs/mine"]) == "gelu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_activation(*towers("gelu"), ["runs/mine"], "gelu") == "gelu"
        assert choose_activation(*towers("quick_gelu"), ["runs/mine"]) == "quick_gelu"
        assert choose_activation(*towers("gelu", (1280, 14, 1024)), ["laion/CLIP-ViT-H-14-laion2B"]) == "gelu"


def test_an_unknown_activation_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"model\.activation must be one of quick_gelu, gelu, got 'relu'"):
        choose_activation(*towers("gelu"), ["runs/mine"], "relu")


def test_a_configuration_without_an_activation_means_quick_gelu() -> None:
    assert CLIPConfig().text_config.hidden_act == "quick_gelu"  # type: ignore[union-attr]
