"""open_clip's weights as Transformers': the same features, every weight used once, others' weights refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPModel

from lightning_modules.backbones.clip_weights.conversion import (
    WRAPPERS,
    convert_state_dict,
    read_base,
    read_state_dict,
    source_name,
    with_activation,
)
from tests.open_clip import (
    CONTEXT,
    PROJECTION,
    SIDE,
    VOCABULARY,
    OpenClip,
    base_config,
    random_state,
    save_base,
    shapes,
)

State = dict[str, torch.Tensor]
PIXELS = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def token_ids() -> torch.Tensor:
    """[4, 77] ids as open_clip makes them: start, text, end, which is the highest, zeros behind it."""
    ids = torch.zeros(4, CONTEXT, dtype=torch.long)
    for row, length in enumerate((3, 9, 30, CONTEXT)):
        text = torch.randint(0, VOCABULARY - 2, (length - 2,), generator=torch.Generator().manual_seed(row))
        ids[row, :length] = torch.tensor([VOCABULARY - 2, *text.tolist(), VOCABULARY - 1])
    return ids


IDS = token_ids()


def converted(state: State, **changed: Any) -> CLIPModel:
    config = base_config(**changed)
    clip = CLIPModel(config).eval()
    clip.load_state_dict(convert_state_dict(state, config), strict=True)
    return clip


@torch.no_grad()
def largest_difference(clip: CLIPModel, reference: OpenClip) -> float:
    """Of image features, text features and logits."""
    images, texts = clip.get_image_features(PIXELS).pooler_output, clip.get_text_features(IDS).pooler_output
    assert images.shape == (3, PROJECTION)
    assert texts.shape == (4, PROJECTION)
    logits = clip(input_ids=IDS, pixel_values=PIXELS).logits_per_image
    pairs = (
        (images, reference.encode_image(PIXELS)),
        (texts, reference.encode_text(IDS)),
        (logits, reference.logits(PIXELS, IDS)),
    )
    return max((one - two).abs().max().item() for one, two in pairs)


@pytest.mark.parametrize("quick", [True, False])
def test_features_and_logits_are_those_of_open_clip_s_forward(quick: bool) -> None:
    state, act = random_state(), "quick_gelu" if quick else "gelu"
    clip = converted(state, text__hidden_act=act, vision__hidden_act=act)
    reference = OpenClip(state, quick=quick)
    assert largest_difference(clip, reference) < 1e-5
    assert largest_difference(clip, OpenClip(state, quick=not quick)) > 1e-3
    assert reference.logits(PIXELS, IDS).std() > 0.1, "or the comparison says nothing"


@pytest.mark.parametrize("name", [name for name in shapes() if not name.endswith("logit_scale")])
def test_every_weight_of_the_input_reaches_the_features(name: str) -> None:
    """A weight that is dropped, or swapped within itself, gives other features: so it stands where it belongs."""
    state = random_state()
    clip = converted(state)
    # a key's bias shifts all logits of a query alike, which softmax does not see
    parts = [state[name]] if "in_proj" not in name else [*state[name].tensor_split(3)][:: 2 if "bias" in name else 1]
    for part in parts:
        kept = part.clone()
        part.mul_(-1)
        assert largest_difference(clip, OpenClip(state)) > 1e-4, name
        part.copy_(kept)
    assert largest_difference(clip, OpenClip(state)) < 1e-5


@pytest.mark.parametrize("order", ["qvk", "kqv", "vkq"])
def test_a_swap_of_query_key_and_value_shows(order: str) -> None:
    state = random_state()
    clip = converted(state)
    for name in [name for name in state if "in_proj_weight" in name]:
        parts = dict(zip("qkv", state[name].tensor_split(3), strict=True))
        state[name] = torch.cat([parts[letter] for letter in order])
    assert largest_difference(clip, OpenClip(state)) > 1e-3


def test_every_weight_has_one_source_and_every_source_is_used() -> None:
    names = {name: source_name(name) for name in CLIPModel(base_config()).state_dict()}
    assert set(names.values()) == shapes().keys()
    shared = {source for source in names.values() if [*names.values()].count(source) > 1}
    assert all("in_proj" in source for source in shared)
    assert len(names) == len(shapes()) + 2 * sum("in_proj" in name for name in shapes())


@pytest.mark.parametrize(
    "prefix", [*WRAPPERS, "module._orig_mod.", "_orig_mod.module.", "model.module.", "module.module."]
)
def test_prefixes_of_wrappers_are_stripped(prefix: str) -> None:
    state = random_state()
    wrapped = {f"{prefix}{name}": value for name, value in state.items()}
    expected = convert_state_dict(state, base_config())
    assert {n: v.tolist() for n, v in convert_state_dict(wrapped, base_config()).items()} == {
        name: value.tolist() for name, value in expected.items()
    }
    first = next(iter(state))
    with pytest.raises(ValueError, match=r"\d+ weights are missing \("):
        convert_state_dict(
            {**{f"{prefix}{n}": v for n, v in state.items() if n != first}, first: state[first]}, base_config()
        )


def test_what_is_no_weight_is_left_out_and_a_scale_may_have_an_axis() -> None:
    state = random_state()
    expected = convert_state_dict(state, base_config())
    numbers = {
        "input_resolution": torch.tensor(16),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(578),
    }
    found = convert_state_dict({**state, **numbers, "logit_scale": state["logit_scale"].reshape(1)}, base_config())
    assert found["logit_scale"].shape == ()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert found.keys() == expected.keys()


def test_weights_of_transformers_keep_their_names() -> None:
    """READ-CLIP's: what is missing is a processor."""
    state = convert_state_dict(random_state(), base_config())
    buffers = {f"{tower}_model.embeddings.position_ids": torch.arange(5)[None] for tower in ("text", "vision")}
    found = convert_state_dict({**state, **buffers}, base_config())
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_precision_is_kept(dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in random_state().items()}
    found = convert_state_dict(state, base_config())
    assert {value.dtype for value in found.values()} == {dtype}
    assert torch.equal(found["visual_projection.weight"], state["visual.proj"].T)


def test_mixed_precision_becomes_float32_without_a_change() -> None:
    state = random_state()
    state |= {name: value.half() for name, value in state.items() if "attn" in name}
    found = convert_state_dict(state, base_config())
    assert {value.dtype for value in found.values()} == {torch.float32}
    name = "visual.transformer.resblocks.2.attn.in_proj_weight"
    parts = [found[f"vision_model.encoder.layers.2.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(parts), state[name].float())
    halves = {name: value.half() if "attn" in name else value.bfloat16() for name, value in state.items()}
    assert {value.dtype for value in convert_state_dict(halves, base_config()).values()} == {torch.float32}


def test_the_result_shares_no_memory() -> None:
    state = random_state()
    found = convert_state_dict(state, base_config())
    assert len({value.untyped_storage().data_ptr() for value in found.values()}) == len(found)
    assert not {value.data_ptr() for value in found.values()} & {value.data_ptr() for value in state.values()}
    assert all(value.is_contiguous() for value in found.values())


def test_the_input_is_left_as_it_is() -> None:
    state = {f"module.{name}": value for name, value in random_state().items()}
    before = {name: value.clone() for name, value in state.items()}
    convert_state_dict(state, base_config())
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], value) for name, value in before.items())


# what is refused


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if name not in names}


def beside(**more: torch.Tensor) -> Callable[[State], State]:
    return lambda state: {**state, **{name.replace("__", "."): value for name, value in more.items()}}


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    return lambda state: {**state, name: change(state[name])}


def with_nan(value: torch.Tensor) -> torch.Tensor:
    value = value.clone()
    value.view(-1)[-1] = float("nan")
    return value


ONE = torch.zeros(1)
LAST = "transformer.resblocks.1."
REFUSED: dict[str, tuple[Callable[[State], State], str]] = {
    "one missing": (without("ln_final.bias"), r"1 weights are missing \(ln_final\.bias\)"),
    "many missing": (
        without("ln_final.bias", "visual.proj", "logit_scale", "visual.ln_pre.weight"),
        r"4 weights are missing \(ln_final\.bias, logit_scale, visual\.ln_pre\.weight, \.\.\.\)",
    ),
    "a bias of attention missing": (
        without("transformer.resblocks.1.attn.in_proj_bias"),
        r"1 weights are missing \(transformer\.resblocks\.1\.attn\.in_proj_bias\)",
    ),
    "a layer of the middle missing": (
        lambda state: {name: value for name, value in state.items() if ".resblocks.0." not in name},
        r"24 weights are missing \(transformer\.resblocks\.0\.",
    ),
    "extra": (beside(fusion__weight=ONE), r"1 weights are none of a CLIP \(fusion\.weight\): .*; convert a plain CLIP"),
    "layer scale": (
        beside(transformer__resblocks__0__ls_1__gamma=ONE),
        r"1 weights are none of a CLIP \(transformer\.resblocks\.0\.ls_1\.gamma\)",
    ),
    "a number with zeros before it": (
        beside(transformer__resblocks__00__ln_1__weight=ONE),
        r"none of a CLIP \(transformer\.resblocks\.00\.ln_1\.weight\)",
    ),
    "fewer layers": (
        lambda state: {name: value for name, value in state.items() if not name.startswith(LAST)},
        r"the weights have 1 text layers \(base: 2\); give a base of the weights' sizes",
    ),
    "more layers": (
        lambda state: {**state, **{n.replace(LAST, LAST.replace("1", "2")): v for n, v in state.items()}},
        r"the weights have 3 text layers \(base: 2\)",
    ),
    "NaN": (changed("visual.proj", with_nan), r"1 weights hold numbers that are not finite \(visual\.proj\)"),
    "infinite": (changed("logit_scale", lambda v: v / 0), r"not finite \(logit_scale\)"),
    "integers": (
        changed("ln_final.bias", lambda v: v.long()),
        r"weights must be float32, float16, bfloat16, got int64 \(ln_final\.bias\)",
    ),
    "double": (lambda s: {n: v.double() for n, v in s.items()}, r"got float64 \(.*, \.\.\.\); save them in float32"),
    "an MLP of another width": (
        changed("visual.transformer.resblocks.1.mlp.c_fc.bias", lambda v: v[:-1]),
        r"visual\.transformer\.resblocks\.1\.mlp\.c_fc\.bias has shape \(191,\), from which "
        r"vision_model\.encoder\.layers\.1\.mlp\.fc1\.bias of shape \(192,\) cannot be taken",
    ),
    "attention of another width": (
        changed("transformer.resblocks.0.attn.in_proj_weight", lambda v: v[:-1]),
        r"attn\.in_proj_weight has shape \(95, 32\), from which .*v_proj\.weight of shape \(32, 32\) cannot be taken",
    ),
    "a projection the other way round": (
        changed("visual.proj", lambda v: v.T),
        r"the weights have projection 48 \(base: 24\)",
    ),
    "a weight without an axis": (
        changed("transformer.resblocks.0.attn.in_proj_bias", lambda v: v[0]),
        r"in_proj_bias has shape \(\), from which",
    ),
    "a scale of many": (changed("logit_scale", lambda v: v.expand(2)), r"logit_scale has shape \(2,\), from which"),
    "timm": (beside(visual__trunk__patch_embed__proj__weight=ONE), r"one of timm's \(visual\.trunk\.patch_embed"),
    "a custom text tower": (
        beside(text__transformer__resblocks__0__ln_1__weight=ONE),
        r"its text tower is a module of its own \(`text\.`\), .* \(text\.transformer",
    ),
    "SigLIP": (beside(logit_bias=ONE), r"it has a logit_bias, as SigLIP \(logit_bias\)"),
    "ResNet": (beside(visual__attnpool__positional_embedding=ONE), r"its image tower is a ResNet"),
    "CoCa": (beside(visual__attn_pool__query=ONE), r"pools by attention"),
    "nothing": (lambda _: {}, r"none of its 0 tensors has a name of open_clip's CLIP"),
    "another model": (
        lambda _: {"encoder.embed.weight": ONE, "head.bias": ONE},
        r"none of its 2 tensors has a name of open_clip's CLIP \(encoder\.embed\.weight, head\.bias\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_such_clip_is_one_line_that_names_it(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        convert_state_dict(make(random_state()), base_config())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"vision__patch_size": 4, "vision__image_size": 8}, r"patch size 8 \(base: 4\); give a base"),
        ({"vision__patch_size": 4}, r"patch size 8 \(base: 4\), image positions 5 \(base: 17\); give"),
        ({"vision__image_size": 32}, r"have image positions 5 \(base: 17\)"),
        ({"vision__hidden_size": 96}, r"image width 48 \(base: 96\)"),
        ({"text__hidden_size": 64}, r"text width 32 \(base: 64\)"),
        ({"text__vocab_size": 600}, r"vocabulary 578 \(base: 600\)"),
        ({"text__max_position_embeddings": 76}, r"text context 77 \(base: 76\)"),
        ({"projection_dim": 25}, r"projection 24 \(base: 25\)"),
        ({"vision__num_hidden_layers": 2, "text__num_hidden_layers": 3}, r"3 image layers \(base: 2\), 2 text layers"),
        ({"text__layer_norm_eps": 1e-6}, r"layer_norm_eps of the base must be 1e-05, as open_clip's, got 1e-06"),
    ],
)
def test_a_base_of_other_sizes_is_refused_by_what_differs(base: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_state_dict(random_state(), base_config(**base))


# file, base, activation


def test_a_file_that_is_no_safetensors_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for content in (b"", b"a text", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"the weights {re.escape(str(path))} cannot be read \(.*\); copy it anew"
        ):
            read_state_dict(path)


def test_a_base_needs_no_weights_and_reads_a_caption_at_its_end(tmp_path: Path) -> None:
    config, processor, commit = read_base(str(save_base(tmp_path / "base")))
    assert (config.projection_dim, commit) == (PROJECTION, None)
    assert processor.tokenizer.eos_token_id == VOCABULARY - 1
    with pytest.raises(ValueError, match=r"other: CLIP's text_config\.eos_token_id is 7 "):
        read_base(str(save_base(tmp_path / "other", text__eos_token_id=7)))


def test_the_activation_is_the_base_s_or_what_overrules_it() -> None:
    base = base_config()
    for given, expected in ((None, "quick_gelu"), ("gelu", "gelu"), ("quick_gelu", "quick_gelu")):
        found = with_activation(base, given)
        assert {found.text_config.hidden_act, found.vision_config.hidden_act} == {expected}
        assert base.text_config.hidden_act == "quick_gelu", "the base stays as it is"  # type: ignore[union-attr]
    two = base_config(text__hidden_act="gelu")
    with pytest.raises(ValueError, match=r"got gelu \(text\) and quick_gelu \(vision\); set activation to"):
        with_activation(two)
    assert with_activation(two, "gelu").vision_config.hidden_act == "gelu"
