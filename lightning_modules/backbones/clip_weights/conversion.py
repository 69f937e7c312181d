"""The weights of a CLIP by open_clip's names as those of Transformers' `CLIPModel`.

NegCLIP, CE-CLIP, FSC-CLIP and others publish state dicts of open_clip, whose CLIP is OpenAI's: the same network, with
other names, the three projections of an attention in one matrix, and projections to the shared space that stand the
other way round. What such a dict does not tell (heads, activation, tokenizer, image processor) is a base's.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from lightning_modules.backbones.clip import check_end_token
from lightning_modules.backbones.published import commit_of, load_processor, published_config, reading
from lightning_modules.backbones.traits.clip import ACTIVATIONS

TENSORS_FILE = "model.safetensors"
WRAPPERS = ("module.", "model.", "_orig_mod.")
"""What DataParallel, Lightning and `torch.compile` put before every name."""
NO_WEIGHTS = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Numbers that OpenAI's own archives keep among the weights."""
BUFFER = re.compile(r"(text|vision)_model\.embeddings\.position_ids")
"""0, 1, 2, ..., which older versions of Transformers saved."""
OTHERS = {
    "visual.trunk.": "its image tower is one of timm's",
    "text.": "its text tower is a module of its own (`text.`), as in open_clip's CustomTextCLIP",
    "logit_bias": "it has a logit_bias, as SigLIP",
    "visual.attnpool.": "its image tower is a ResNet",
    "visual.attn_pool.": "its image tower pools by attention, as CoCa's",
}
"""How names begin in open_clip's other models -> what that says."""
LAYER = re.compile(
    r"(?P<tower>text|vision)_model\.encoder\.layers\.(?P<layer>\d+)\.(?P<part>.+)\.(?P<kind>weight|bias)"
)
NUMBERED = re.compile(
    r"(?:(?P<image>visual\.)?transformer\.resblocks|(?:text|(?P<vision>vision))_model\.encoder\.layers)\.(?P<layer>\d+)\."
)
"""How the name of a layer's weight begins, by either way to name it."""
PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
"""Within a layer: Transformers' name -> open_clip's."""
PACKED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
"""In the order of `torch.nn.MultiheadAttention`, whose `in_proj_weight` has the rows of all three."""
OUTSIDE = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    # as Transformers spells it
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
    "logit_scale": "logit_scale",
}
"""Outside of the layers."""
TURNED = ("text_projection.weight", "visual_projection.weight")
"""open_clip multiplies features by them, Transformers by their transpose."""
SIZES = (
    ("patch size", "vision_model.embeddings.patch_embedding.weight", 2),
    ("image width", "vision_model.embeddings.class_embedding", 0),
    ("image positions", "vision_model.embeddings.position_embedding.weight", 0),
    ("vocabulary", "text_model.embeddings.token_embedding.weight", 0),
    ("text width", "text_model.embeddings.token_embedding.weight", 1),
    ("text context", "text_model.embeddings.position_embedding.weight", 0),
    ("projection", "visual_projection.weight", 0),
)
"""What a size is called, and which axis of which weight has it."""
EPSILON = 1e-5
"""Of open_clip's layer norms: torch's default."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by their names.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is damaged, or no such file.
    """
    with reading(f"the weights {path}"):
        return load_file(path)


def read_base(name_or_folder: str, revision: str | None = None) -> tuple[CLIPConfig, CLIPProcessor, str | None]:
    """Configuration and processor of a published CLIP, and its commit where it is on the hub; no weight is loaded.

    Raises:
        OSError: there is no such checkpoint, or the hub cannot be reached.
        ValueError: it is no CLIP, damaged, or its tokenizer ends a caption where its text model does not read.
    """
    config = published_config(CLIPModel, name_or_folder, revision)
    commit = commit_of(config)
    processor = load_processor(name_or_folder, revision=commit or revision)
    try:
        check_end_token(config.text_config, processor.tokenizer)
    except ValueError as error:
        raise ValueError(f"{name_or_folder}: {error}") from None
    return config, processor, commit


def with_activation(config: CLIPConfig, activation: str | None = None) -> Any:
    """A copy of a base's configuration for other weights, with this activation in both towers.

    Args:
        config: of the base.
        activation: `quick_gelu` or `gelu`; that of the base where None.

    Raises:
        ValueError: the base's towers have two, and none is given.
    """
    config = copy.deepcopy(config)
    text: Any = config.text_config
    vision: Any = config.vision_config
    if activation is None and text.hidden_act != vision.hidden_act:
        raise ValueError(
            f"hidden_act must be the same in both towers, got {text.hidden_act} (text) and {vision.hidden_act} "
            f"(vision); set activation to what the weights were trained with, {' or '.join(ACTIVATIONS)}."
        )
    text.hidden_act = vision.hidden_act = activation or text.hidden_act
    return config


def convert_state_dict(state: Mapping[str, torch.Tensor], config: CLIPConfig) -> dict[str, torch.Tensor]:
    """The weights of a `CLIPModel`: all of them, and every given one used.

    Weights that have Transformers' names already keep them. All stay in their precision where they share one, and
    become float32 where they do not (open_clip's fp16 models keep norms in float32).

    Args:
        state: by open_clip's names, perhaps behind a wrapper's.
        config: of the model that they are for.

    Raises:
        ValueError: another model's weights, of other sizes, too many, too few, or with numbers that are not finite.
    """
    state = _unwrapped(state)
    ours = "text_model.embeddings.token_embedding.weight" in state
    _check_family(state)
    if not ours:
        _check_epsilon(config)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in CLIPModel(config).state_dict().items()}
    _check_layers(state, config)
    sources = {name: name if ours else source_name(name) for name in shapes}
    # before names are compared: a size that differs says more than the weights that are missing by it
    found = {
        name: _part(name, state[source], shape, ours)
        for name, shape in shapes.items()
        if (source := sources[name]) in state and state[source].ndim == len(shape)
    }
    _check_sizes({name: value.shape for name, value in found.items()}, shapes)
    _check_names(state, sources)
    _check_shapes(state, sources, found, shapes)
    _check_numbers(state)
    dtypes = {state[source].dtype for source in sources.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    # copies: what shares memory or is not in order cannot be saved
    return {name: value.to(dtype, copy=True).contiguous() for name, value in found.items()}


def save_converted(weights: Mapping[str, torch.Tensor], config: CLIPConfig, processor: Any, folder: Path) -> None:
    """Writes a folder that `CLIPModel` and `CLIPProcessor` load."""
    config.architectures, config.dtype = ["CLIPModel"], weights["logit_scale"].dtype
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_file(dict(weights), folder / TENSORS_FILE, metadata={"format": "pt"})


def source_name(name: str) -> str:
    """What open_clip calls the weight that holds one of Transformers'.

    >>> source_name("vision_model.encoder.layers.3.self_attn.k_proj.bias")
    'visual.transformer.resblocks.3.attn.in_proj_bias'
    """
    if (found := LAYER.fullmatch(name)) is None:
        return OUTSIDE[name]
    blocks = f"{'visual.' * (found['tower'] == 'vision')}transformer.resblocks.{found['layer']}"
    if found["part"] in PACKED:
        return f"{blocks}.attn.in_proj_{found['kind']}"
    return f"{blocks}.{PARTS[found['part']]}.{found['kind']}"


def _part(name: str, source: torch.Tensor, shape: torch.Size, ours: bool) -> torch.Tensor:
    """The weight `name` of Transformers, of a source with as many axes."""
    if ours:
        return source
    if name in TURNED:
        return source.T
    layer = LAYER.fullmatch(name)
    if layer is None or layer["part"] not in PACKED:
        return source
    return source.tensor_split(len(PACKED))[PACKED.index(layer["part"])]


def _unwrapped(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By names without the prefixes that all of them have; without what is no weight, the scale without an axis."""
    names = {name: name for name in state}
    while prefix := next((one for one in WRAPPERS if names and all(n.startswith(one) for n in names.values())), ""):
        names = {name: inner.removeprefix(prefix) for name, inner in names.items()}
    kept = {
        inner: state[name] for name, inner in names.items() if inner not in NO_WEIGHTS and not BUFFER.fullmatch(inner)
    }
    # open_clip can keep it as one number on an axis
    if "logit_scale" in kept and kept["logit_scale"].shape == (1,):
        kept["logit_scale"] = kept["logit_scale"].reshape(())
    return kept


def _check_family(state: Mapping[str, torch.Tensor]) -> None:
    for start, reason in OTHERS.items():
        if name := next((name for name in sorted(state) if name.startswith(start)), None):
            raise ValueError(f"only a CLIP with OpenAI's two transformers can be converted, and {reason} ({name}).")


def _check_epsilon(config: Any) -> None:
    for tower in (config.text_config, config.vision_config):
        if tower.layer_norm_eps != EPSILON:
            raise ValueError(
                f"layer_norm_eps of the base must be {EPSILON}, as open_clip's, got {tower.layer_norm_eps}; give "
                "another base."
            )


def _check_layers(state: Mapping[str, torch.Tensor], config: Any) -> None:
    numbers: dict[str, set[int]] = {"image": set(), "text": set()}
    for found in filter(None, map(NUMBERED.match, state)):
        numbers["image" if found["image"] or found["vision"] else "text"].add(int(found["layer"]))
    own = {"image": config.vision_config.num_hidden_layers, "text": config.text_config.num_hidden_layers}
    faults = [
        f"{max(found) + 1} {tower} layers (base: {own[tower]})"
        for tower, found in numbers.items()
        if found and max(found) + 1 != own[tower]
    ]
    _refuse_sizes(faults)


def _check_sizes(found: Mapping[str, torch.Size], shapes: Mapping[str, torch.Size]) -> None:
    _refuse_sizes(
        [
            f"{size} {found[name][axis]} (base: {shapes[name][axis]})"
            for size, name, axis in SIZES
            if name in found and found[name][axis] != shapes[name][axis]
        ]
    )


def _refuse_sizes(faults: list[str]) -> None:
    if faults:
        raise ValueError(f"the weights have {', '.join(faults)}; give a base of the weights' sizes.")


def _check_names(state: Mapping[str, torch.Tensor], sources: Mapping[str, str]) -> None:
    used = set(sources.values())
    if used.isdisjoint(state):
        raise ValueError(f"none of its {len(state)} tensors has a name of open_clip's CLIP ({_first(state)}).")
    if missing := used - state.keys():
        raise ValueError(f"{len(missing)} weights are missing ({_first(missing)}); turn the whole model into one file.")
    if extra := state.keys() - used:
        raise ValueError(
            f"{len(extra)} weights are none of a CLIP ({_first(extra)}): without them it would be another model; "
            "convert a plain CLIP."
        )


def _check_shapes(
    state: Mapping[str, torch.Tensor],
    sources: Mapping[str, str],
    found: Mapping[str, torch.Tensor],
    shapes: Mapping[str, torch.Size],
) -> None:
    for name, shape in shapes.items():
        if name not in found or found[name].shape != shape:
            raise ValueError(
                f"{sources[name]} has shape {tuple(state[sources[name]].shape)}, from which {name} of shape "
                f"{tuple(shape)} cannot be taken; give a base of the weights' sizes."
            )


def _check_numbers(state: Mapping[str, torch.Tensor]) -> None:
    if other := sorted(name for name, value in state.items() if value.dtype not in FLOATS):
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
        got = str(state[other[0]].dtype).removeprefix("torch.")
        raise ValueError(f"weights must be {known}, got {got} ({_first(other)}); save them in float32.")
    if broken := [name for name, value in state.items() if not bool(value.isfinite().all())]:
        raise ValueError(f"{len(broken)} weights hold numbers that are not finite ({_first(broken)}); copy it anew.")


def _first(names: Iterable[str]) -> str:
    """The first three of them."""
    listed = sorted(names)
    return ", ".join(listed[:3]) + ", ..." * (len(listed) > 3)
