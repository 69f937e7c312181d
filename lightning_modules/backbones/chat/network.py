"""The forward of a chat VLM over packed or plain sequences."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from datamodules.batch import InputError
from lightning_modules.backbones.chat.family import Family
from lightning_modules.backbones.packing import PACKABLE
from lightning_modules.precision import linear_in_float32


class ChatNetwork(nn.Module):
    """A chat VLM whose `forward` gives next-token logits at chosen places.

    It owns the Transformers model: sharded parameters (FSDP2) are gathered by the hooks of this module's forward, so
    nothing outside calls a submodule or indexes a weight.

    Args:
        vlm: the Transformers model, with a `model` and a `lm_head`.
        family: the model's.
        packed: whether the captions of an image share a sequence.

    Raises:
        ValueError: they are to share one, and the model does not allow it; or Transformers is too old for others.
    """

    def __init__(self, vlm: PreTrainedModel, family: Family, *, packed: bool = True):
        super().__init__()
        if packed and (reason := unpackable(vlm.config, family)):
            raise ValueError(f"model.packing must not be on: {reason}; give auto.")
        # without this argument, which came with Transformers 5.18, a model leaves the features aside and says nothing
        self.takes_features = "mm_encoder_outputs" in inspect.signature(vlm.model.forward).parameters
        if not packed and not self.takes_features:
            raise ValueError(
                f"a model that is not packed needs transformers >= 5.18, and {transformers.__version__} is installed; "
                "install a newer one."
            )
        self.add_module(family.child, vlm)
        self.family, self.packed = family, packed
        text_config: Any = vlm.config.get_text_config()
        self.cap: float | None = getattr(text_config, "final_logit_softcapping", None) if family.caps_logits else None

    def forward(
        self,
        pixels: Mapping[str, torch.Tensor],
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        segment_ids: torch.Tensor,
        answer_cells: torch.Tensor,
        image_tokens: torch.Tensor,
        image_row: torch.Tensor,
        logit_row: torch.Tensor,
        logit_index: torch.Tensor,
    ) -> torch.Tensor:
        """Next-token logits at chosen places.

        Args:
            pixels: what the vision tower reads of B images.
            input_ids, segment_ids: [N, S] from `pack_branches`, of N sequences.
            position_ids: [R, N, S] on R axes.
            answer_cells: [N, S], True where an answer's token stands.
            image_tokens: [B] features of each image.
            image_row: [N] which image stands in a sequence.
            logit_row, logit_index: (B, C, A) sequence, and place in it.

        Returns:
            (B, C, A, V) logits, in float32 at least, over the vocabulary of the token that follows each place.

        Raises:
            InputError: the vision tower cannot read the pixels, or makes another number of features of the images than
                there are places for them.
        """
        vlm: Any = self.get_submodule(self.family.child)
        dtype = vlm.model.get_input_embeddings().weight.dtype
        pixels = {name: value.to(dtype) if value.is_floating_point() else value for name, value in pixels.items()}
        with _pixels_of_this_model():
            features = vlm.model.get_image_features(**pixels, return_dict=True) if self.takes_features else None
        image_cells = input_ids == self.family.image_id
        if self.packed:
            more: Any = {"attention_mask": self.family.packed_mask(segment_ids, position_ids, image_cells, dtype)}
        else:
            features = _repeated(features, image_tokens, image_row)
            more = self.family.plain_arguments(segment_ids, answer_cells, image_cells)
        try:
            hidden = vlm.model(
                input_ids=input_ids,
                position_ids=position_ids[0] if len(position_ids) == 1 else position_ids,
                use_cache=False,
                **({"mm_encoder_outputs": {"image": features}} if self.takes_features else pixels),
                **more,
            ).last_hidden_state
        except ValueError as error:
            # Transformers counts numbers, and not features
            if features is None or (made := len(_flat(features.pooler_output))) == (places := int(image_cells.sum())):
                raise
            raise InputError(
                f"the model makes {made} features of {len(image_tokens)} images, and their prompts have {places} "
                "places for them; use the processor that the checkpoint was trained with"
            ) from error
        # before the head: logits over the vocabulary at all places would be the largest tensor of all
        logits = linear_in_float32(vlm.lm_head, hidden[logit_row, logit_index])
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


@contextmanager
def _pixels_of_this_model() -> Iterator[None]:
    """What a vision tower stumbles over where the pixels are another model's becomes one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, RuntimeError) and not re.search("size|shape", reason):
            raise
        raise InputError(
            f"the vision tower cannot read what the image processor makes ({reason}); use the processor that the "
            "checkpoint was trained with"
        ) from error


def unpackable(config: Any, family: Family) -> str:
    """Why the captions of an image cannot share its tokens with this model; "" where they can."""
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ())
    if unknown := sorted(kinds - PACKABLE):
        return f"layers of the kind {', '.join(unknown)} ({config.model_type}) carry a state from caption to caption"
    return family.unpackable


def _flat(parts: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """[n, D] features of all images behind each other, in whatever shape a family gives them."""
    return (parts if isinstance(parts, torch.Tensor) else torch.cat(tuple(parts))).flatten(0, -2)


def _repeated(features: Any, tokens: torch.Tensor, rows: torch.Tensor) -> Any:
    """The features of images for sequences in which each image stands as often as `rows` names it.

    Args:
        features: of the vision tower.
        tokens: [B] how many each image has.
        rows: [N] which image stands in a sequence.
    """
    counts, order = tokens.tolist(), rows.tolist()

    def of(parts: Any) -> Any:
        pieces = _flat(parts).split(counts)
        repeated = [pieces[row] for row in order]
        return torch.cat(repeated) if isinstance(parts, torch.Tensor) else tuple(repeated)

    features.pooler_output = of(features.pooler_output)
    if getattr(features, "deepstack_features", None) is not None:
        features.deepstack_features = [of(layer) for layer in features.deepstack_features]
    return features
