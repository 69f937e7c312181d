"""The activation of a CLIP: OpenAI's weights need QuickGELU, and many of their configurations say GELU.

Weights run with either one, and nothing fails: the official evaluations of NegCLIP and CE-CLIP load weights that were
trained from OpenAI's into a GELU model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from transformers import CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPVisionConfig

from lightning_modules.backbones.published import (
    commit_of,
    load_processor,
    load_published,
    published_config,
    saved_config,
)
from lightning_modules.backbones.traits.clip import ACTIVATIONS

OPENAI = re.compile(r"(^|[/\\])(models--)?openai(/|\\|--|-|_)clip-[^/\\]*([/\\]snapshots[/\\][^/\\]*)?[/\\]?$")
"""OpenAI's CLIPs on the hub, in the hub's cache, and in folders called after them."""
QUICK_GELU = "set model.activation=quick_gelu"
OPENAI_SHAPES = {(768, 32, 512), (768, 16, 512), (1024, 14, 768)}
"""Width and patch of the vision tower and width of the text tower: ViT-B/32, ViT-B/16 and ViT-L/14."""


def choose_activation(
    text: CLIPTextConfig, vision: CLIPVisionConfig, sources: Sequence[str], activation: str | None = None
) -> str:
    """The activation that a checkpoint's weights need; OpenAI's were trained with QuickGELU.

    Weights that were trained from OpenAI's cannot be recognised once they are saved under another name, with `gelu` in
    their configuration. They run, and score worse than they could. So this warns about `gelu` in a model of one of
    OpenAI's shapes; `activation` says that it is meant. A configuration without `hidden_act` counts as quick_gelu,
    Transformers' default.

    Args:
        text, vision: the towers' configurations, as saved.
        sources: what tells where the weights are from: hub name or folder, and the `_name_or_path` that was saved.
        activation: `quick_gelu` or `gelu`, whatever the configuration says; None for what it says.

    Raises:
        ValueError: OpenAI's weights without QuickGELU, towers that disagree, or an unknown `activation`.
    """
    name, agreed = sources[0], text.hidden_act == vision.hidden_act
    if activation not in (None, *ACTIVATIONS):
        raise ValueError(f"model.activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}.")
    if activation is None and not agreed:
        raise ValueError(
            f"hidden_act must be the same in both towers, got {text.hidden_act} (text) and {vision.hidden_act} "
            f"(vision) in {name}; set model.activation to what the weights were trained with."
        )
    chosen = activation or text.hidden_act
    if chosen != "quick_gelu" and (openai := next((source for source in sources if OPENAI.search(source)), None)):
        where = "model.activation" if activation else "hidden_act in its configuration"
        remedy = "leave it out" if activation and agreed and text.hidden_act == "quick_gelu" else QUICK_GELU
        raise ValueError(f"{name} holds weights of {openai}, which need quick_gelu, and {where} is {chosen}; {remedy}.")
    # fine-tuned weights keep the shape, whatever they are called; others of that shape (LAION) are GELU on purpose
    shape = (vision.hidden_size, vision.patch_size, text.hidden_size)
    if activation is None and chosen == "gelu" and shape in OPENAI_SHAPES:
        rank_zero_warn(
            f"{name} runs with gelu, as its configuration says. If its weights were trained from OpenAI's, "
            f"{QUICK_GELU}; if not, model.activation=gelu says so."
        )
    return chosen


def load_clip(
    name_or_folder: str | Path,
    *,
    dtype: torch.dtype | str = "float32",
    activation: str | None = None,
    revision: str | None = None,
) -> tuple[CLIPModel, CLIPProcessor]:
    """A published checkpoint (openai/clip-vit-base-patch32) by hub name or folder, safetensors only.

    Args:
        name_or_folder: where it is.
        dtype: of the weights; as saved for "auto".
        activation: see `choose_activation`.
        revision: branch, tag or commit of a hub name; the default branch where None.

    Raises:
        OSError: there is no such checkpoint, or the hub cannot be reached.
        ValueError: it is no CLIP, lacks weights, or its activation is not what its weights need.
    """
    name = str(name_or_folder)
    config = published_config(CLIPModel, name, revision)
    revision = commit_of(config) or revision
    saved = saved_config(name, revision)
    text, vision = config.text_config, config.vision_config
    assert isinstance(text, CLIPTextConfig)
    assert isinstance(vision, CLIPVisionConfig)
    # a link may be called anything; what it leads to has the name
    folder = [str(Path(name).resolve())] if Path(name).is_dir() else []
    text.hidden_act = vision.hidden_act = choose_activation(
        text, vision, [name, *folder, str(saved.get("_name_or_path"))], activation
    )
    clip = load_published(CLIPModel, name, dtype=dtype, config=config, revision=revision)
    try:
        return clip, load_processor(name, revision=revision)
    except OSError as error:
        # READ-CLIP's is told apart from its weights: it is the base's
        raise OSError(f"{error} Weights without a processor get that of their base by `itm convert`.") from error
