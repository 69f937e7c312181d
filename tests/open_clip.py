"""open_clip's CLIP for the tests: its state dict at tiny size, its forward by plain torch, and a base to convert by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig

from lightning_modules.backbones.tiny.clip import tiny_clip_processor
from tests.tiny import CAPTIONS, SHAPE

IMAGE_WIDTH, TEXT_WIDTH, PROJECTION, LAYERS, CONTEXT, VOCABULARY = 48, 32, 24, {"image": 3, "text": 2}, 77, 578
"""All different, so that nothing can be taken for another."""
IMAGE_HEADS, TEXT_HEADS, PATCH, SIDE = 3, 2, 8, 16


def block_names(prefix: str, width: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a transformer's blocks."""
    names: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        at = f"{prefix}transformer.resblocks.{layer}"
        names |= {f"{at}.{norm}.{kind}": (width,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        names |= {f"{at}.attn.in_proj_weight": (3 * width, width), f"{at}.attn.in_proj_bias": (3 * width,)}
        names |= {f"{at}.attn.out_proj.weight": (width, width), f"{at}.attn.out_proj.bias": (width,)}
        names |= {f"{at}.mlp.c_fc.weight": (4 * width, width), f"{at}.mlp.c_fc.bias": (4 * width,)}
        names |= {f"{at}.mlp.c_proj.weight": (width, 4 * width), f"{at}.mlp.c_proj.bias": (width,)}
    return names


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a whole state dict."""
    norms = {"visual.ln_pre": IMAGE_WIDTH, "visual.ln_post": IMAGE_WIDTH, "ln_final": TEXT_WIDTH}
    return {
        "positional_embedding": (CONTEXT, TEXT_WIDTH),
        "text_projection": (TEXT_WIDTH, PROJECTION),
        "logit_scale": (),
        "visual.class_embedding": (IMAGE_WIDTH,),
        "visual.positional_embedding": ((SIDE // PATCH) ** 2 + 1, IMAGE_WIDTH),
        "visual.proj": (IMAGE_WIDTH, PROJECTION),
        "visual.conv1.weight": (IMAGE_WIDTH, 3, PATCH, PATCH),
        "token_embedding.weight": (VOCABULARY, TEXT_WIDTH),
        **{f"{name}.{kind}": (width,) for name, width in norms.items() for kind in ("weight", "bias")},
        **block_names("visual.", IMAGE_WIDTH, LAYERS["image"]),
        **block_names("", TEXT_WIDTH, LAYERS["text"]),
    }


def random_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict in which every number is drawn, norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes().items()}
    return {name: 2.0 + 0.1 * v if name == "logit_scale" else 0.2 * v + ("ln_" in name) for name, v in drawn.items()}


class OpenClip:
    """The forward of a state dict, a step at a time.

    Args:
        state: by open_clip's names.
        quick: QuickGELU in place of GELU.
    """

    def __init__(self, state: Mapping[str, torch.Tensor], *, quick: bool = True):
        self.state, self.quick = state, quick

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _blocks(
        self, prefix: str, x: torch.Tensor, layers: int, heads: int, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        for layer in range(layers):
            at = f"{prefix}transformer.resblocks.{layer}"
            attention = nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
            own = {n.removeprefix(f"{at}.attn."): v for n, v in self.state.items() if n.startswith(f"{at}.attn.")}
            attention.load_state_dict(own)
            y = self._norm(f"{at}.ln_1", x)
            x = x + attention(y, y, y, need_weights=False, attn_mask=mask)[0]
            y = self._norm(f"{at}.ln_2", x) @ self.state[f"{at}.mlp.c_fc.weight"].T + self.state[f"{at}.mlp.c_fc.bias"]
            y = y * torch.sigmoid(1.702 * y) if self.quick else F.gelu(y)
            x = x + y @ self.state[f"{at}.mlp.c_proj.weight"].T + self.state[f"{at}.mlp.c_proj.bias"]
        return x

    @torch.no_grad()
    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, D] features, not normalised, of [B, 3, H, W]."""
        x = F.conv2d(pixels, self.state["visual.conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
        first = self.state["visual.class_embedding"].expand(len(x), 1, -1)
        x = torch.cat([first, x], dim=1) + self.state["visual.positional_embedding"]
        x = self._blocks("visual.", self._norm("visual.ln_pre", x), LAYERS["image"], IMAGE_HEADS)
        return self._norm("visual.ln_post", x[:, 0]) @ self.state["visual.proj"]

    @torch.no_grad()
    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """[N, D] features, not normalised, of [N, 77] ids, read at the highest id."""
        mask = torch.full((CONTEXT, CONTEXT), float("-inf")).triu(1)
        x = self.state["token_embedding.weight"][ids] + self.state["positional_embedding"]
        x = self._norm("ln_final", self._blocks("", x, LAYERS["text"], TEXT_HEADS, mask))
        return x[torch.arange(len(x)), ids.argmax(dim=-1)] @ self.state["text_projection"]

    def logits(self, pixels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """[B, N]."""
        images, texts = (F.normalize(x, dim=-1) for x in (self.encode_image(pixels), self.encode_text(ids)))
        return self.state["logit_scale"].exp() * images @ texts.T


def base_config(**changed: Any) -> CLIPConfig:
    """The configuration of a base of those sizes; `text__` and `vision__` changes are of the towers."""
    text: dict[str, Any] = {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": LAYERS["text"],
        "num_attention_heads": TEXT_HEADS,
        "max_position_embeddings": CONTEXT,
        "vocab_size": VOCABULARY,
        "hidden_act": "quick_gelu",
        # what OpenAI's configurations say
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    vision: dict[str, Any] = {
        "hidden_size": IMAGE_WIDTH,
        "intermediate_size": 4 * IMAGE_WIDTH,
        "num_hidden_layers": LAYERS["image"],
        "num_attention_heads": IMAGE_HEADS,
        "image_size": SIDE,
        "patch_size": PATCH,
        "hidden_act": "quick_gelu",
    }
    text |= {name.removeprefix("text__"): value for name, value in changed.items() if name.startswith("text__")}
    vision |= {name.removeprefix("vision__"): value for name, value in changed.items() if name.startswith("vision__")}
    projection = changed.get("projection_dim", PROJECTION)
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)  # type: ignore[arg-type, call-arg]


def save_base(folder: Path, **changed: Any) -> Path:
    """A base with configuration and processor, and no weight: none is read."""
    base_config(**changed).save_pretrained(folder)
    processor = tiny_clip_processor(SHAPE, CAPTIONS)
    assert len(processor.tokenizer) == VOCABULARY
    processor.save_pretrained(folder)
    return folder
