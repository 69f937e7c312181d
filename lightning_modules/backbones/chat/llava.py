"""LLaVA-1.5 and models of its shape, with any language model: each image is a square of as many features as others."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch.func import functional_call
from transformers import LlavaForConditionalGeneration, LlavaImageProcessorPil, LlavaProcessor
from transformers.image_processing_backends import PilBackend

from lightning_modules.backbones.chat.family import Family
from lightning_modules.backbones.published import reading


class Llava(Family):
    """What the model makes of an image is asked of the model: many fine-tunes' processors promise a wrong number."""

    child = "llava"
    image_tokens: int
    background: tuple[int, int, int]

    def fitted(self, processor: Any, vlm: Any, max_image_tokens: int | None = None) -> LlavaProcessor:
        """See `fitting_processor`."""
        fitting, self.image_tokens = fitting_processor(processor, vlm)
        if max_image_tokens is not None:
            fitting = self.bounded(fitting, max_image_tokens)
        red, green, blue = fitting.image_processor.image_mean
        # truncated and not rounded, (122, 116, 104) for CLIP, as in LLaVA
        self.background = (int(red * 255), int(green * 255), int(blue * 255))
        return fitting

    def images(self, processor: Any, images: Sequence[Image.Image]) -> tuple[dict[str, torch.Tensor], list[str]]:
        """Squares: Transformers' own processor pads only where it is told to."""
        squares = [pad_to_square(image, self.background) for image in images]
        pixels = processor.image_processor(squares, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels}, [processor.image_token * self.image_tokens] * len(images)

    def plain_processor(self, processor: LlavaProcessor) -> LlavaProcessor:
        """The processor with an image processor that pads to squares, which here `images` does.

        `LlavaImageProcessor` has the padding off where nothing is said, and CLIP's, which LLaVA's checkpoints come
        with, has none.
        """
        own = processor.image_processor
        settings = {name: value for name, value in own.to_dict().items() if name != "image_processor_type"}
        settings |= {"do_pad": True, "do_center_crop": bool(getattr(own, "do_center_crop", False))}
        padding: Any = LlavaImageProcessorPil
        if not isinstance(own, PilBackend):
            from transformers import LlavaImageProcessor  # says at import where torchvision is absent

            padding = LlavaImageProcessor
        plain = copy.copy(processor)
        plain.image_processor = padding(**settings)
        return plain


def pad_to_square(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """The image in the middle of a square of its longer side, as LLaVA-1.5 was trained (rounding down)."""
    image = image.convert("RGB")
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), background)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def features_per_image(llava: LlavaForConditionalGeneration, pixel_values: torch.Tensor) -> int:
    """How many features the model makes of an image, by its own vision tower.

    A processor only promises a number, and many fine-tunes come with one that promises a wrong one or none.

    Args:
        llava: the model.
        pixel_values: [1, 3, H, W] of any image; its shape alone is read.

    Raises:
        ValueError: the tower cannot read images of this size.
    """
    tower = llava.model.vision_tower
    # on meta, where only shapes are computed: no formula of class tokens and patches holds for every tower
    weights = {name: value.to("meta") for name, value in (*tower.named_parameters(), *tower.named_buffers())}
    try:
        with torch.no_grad():
            hidden = functional_call(tower, weights, (pixel_values.to("meta", tower.dtype),)).last_hidden_state
    except (RuntimeError, ValueError) as error:
        height, width = pixel_values.shape[-2:]
        raise ValueError(
            f"The image processor makes {height} x {width} pixels, which the vision tower cannot read ({error}); give "
            "it the size of the checkpoint's vision_config.image_size."
        ) from None
    # the strategy "default" leaves out the first, which is the class token of CLIP
    return int(hidden.shape[1]) - (llava.config.vision_feature_select_strategy == "default")


def fitting_processor(processor: Any, llava: LlavaForConditionalGeneration) -> tuple[LlavaProcessor, int]:
    """The processor with the model's own patch size, strategy and number of image tokens, and this number.

    Args:
        processor: of the checkpoint, with a tokenizer and an image processor.
        llava: the model.

    Raises:
        ValueError: the model reads images at sizes of their own, its image token is not the tokenizer's, or the image
            processor fails.
    """
    config: Any = llava.config
    vision = config.vision_config
    if vision.model_type == "pixtral":
        raise ValueError(
            "The vision tower is Pixtral's, which reads each image at a size of its own; a scorer needs one of a fixed "
            "size, such as CLIP's or SigLIP's."
        )
    if isinstance(processor, LlavaProcessor):
        processor = copy.copy(processor)
    else:  # tokenizer and image processor are all that there is, or another model's processor was saved around them
        template = getattr(processor, "chat_template", None)
        processor = LlavaProcessor(processor.image_processor, processor.tokenizer, chat_template=template)
    ids = processor.tokenizer.encode(processor.image_token, add_special_tokens=False)
    if ids != [config.image_token_id]:
        raise ValueError(
            f"The tokenizer makes {ids} of {processor.image_token}, and config.json says that the image token is "
            f"{config.image_token_id}; use the tokenizer that the checkpoint was trained with."
        )
    with reading("the image processor's settings"):
        pixels = processor.image_processor([Image.new("RGB", (32, 32))], return_tensors="pt")["pixel_values"]
        if not bool(pixels.isfinite().all()):
            raise ValueError("it makes pixels that are not finite")
    height, width = pixels.shape[-2:]
    strategy = config.vision_feature_select_strategy
    # one patch, where the tower does not say: patches and additional tokens together make the number in any case
    patch = vision.patch_size if isinstance(getattr(vision, "patch_size", None), int) else min(height, width)
    patches = (height // patch) * (width // patch) - (strategy == "default")
    processor.patch_size, processor.vision_feature_select_strategy = patch, strategy
    tokens = features_per_image(llava, pixels)
    processor.num_additional_image_tokens = tokens - patches
    return processor, tokens
