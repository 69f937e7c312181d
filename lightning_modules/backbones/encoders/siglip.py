"""Images and captions as SigLIP reads them, and what of a checkpoint's processor would make other scores.

A text is read at the last of all places, padding included, as in SigLIP's training. So it is always padded on the right
to the text tower's context, and nothing is masked, whatever the tokenizer's files say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import SiglipModel, SiglipProcessor
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.models.siglip2.modeling_siglip2 import Siglip2Model
from transformers.models.siglip2.processing_siglip2 import Siglip2Processor
from transformers.utils import is_protobuf_available, is_sentencepiece_available

from datamodules.batch import CaptionTooLongError, InputError
from lightning_modules.backbones.published import LARGEST_SIDE, load_processor, reading
from lightning_modules.flat_captions import flat_captions

CONTEXT = 64
"""Places of a text in every published SigLIP."""


class SiglipEncoder:
    """Images and captions to SigLIP's inputs; picklable, runs in loader workers.

    Args:
        processor: tokenizer and image processor of the checkpoint.
        context: the text tower's length, to which every caption is padded.
        max_text_tokens: most tokens of a caption, the end token among them.
        long_captions: `truncate` leaves out what is too long before the end token, `error` refuses the caption.
    """

    def __init__(
        self,
        processor: SiglipProcessor | Siglip2Processor,
        *,
        context: int,
        max_text_tokens: int,
        long_captions: str,
    ):
        self.processor, self.tokenizer, self.context = processor, processor.tokenizer, context
        self.max_text_tokens, self.long_captions = max_text_tokens, long_captions

    def __call__(
        self, images: Sequence[Image.Image], captions: Sequence[Sequence[str]], labels: Sequence[Sequence[int]]
    ) -> dict[str, torch.Tensor]:
        """What `image_inputs` and `text_inputs` give."""
        return {**self.image_inputs(images), **self.text_inputs(captions)}

    def image_inputs(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """`pixel_values` [B, 3, H, W]; of a NaFlex, whose images differ in shape, three tensors.

        `pixel_values` [B, P, 3 x side x side] flattened patches, `pixel_attention_mask` [B, P] which of them exist, and
        `spatial_shapes` [B, 2] how many there are in each direction.

        Raises:
            InputError: an image that is not to be resized does not fit.
        """
        # the image processor by itself: the processor around a NaFlex's overrules the patches that the file says
        pixels = self.processor.image_processor
        if hasattr(pixels, "max_num_patches") and not pixels.do_resize:
            for image in images:
                check_patches(image, pixels.patch_size, pixels.max_num_patches)
        return dict(pixels(list(images), return_tensors="pt"))

    def text_inputs(self, captions: Sequence[Sequence[str]]) -> dict[str, torch.Tensor]:
        """What `flat_captions` gives but for the mask, of captions in lower case.

        Raises:
            CaptionTooLongError: a caption is too long, and `long_captions` is `error`.
        """
        # SigLIP 2 was trained in lower case too, and the Gemma tokenizer of its checkpoints keeps capitals
        flat = [caption.lower() for texts in captions for caption in texts]
        # an end token that a caption spells stays text
        whole = self.tokenizer(flat, split_special_tokens=True, verbose=False).input_ids
        cut = [len(tokens) > self.max_text_tokens for tokens in whole]
        ids = [self._padded(tokens, caption) for tokens, caption in zip(whole, flat, strict=True)]
        inputs = flat_captions(captions, ids, cut, pad_id=self.tokenizer.pad_token_id)
        del inputs["attention_mask"]
        return inputs

    def _padded(self, ids: list[int], caption: str) -> list[int]:
        if len(ids) > self.max_text_tokens:
            if self.long_captions == "error":
                raise CaptionTooLongError.of(caption, len(ids), self.max_text_tokens)
            # the end token stays, as where Transformers cuts
            end = [token for token in ids[-1:] if token == self.tokenizer.eos_token_id]
            ids = ids[: self.max_text_tokens - len(end)] + end
        return ids + [self.tokenizer.pad_token_id] * (self.context - len(ids))


def check_patches(image: Image.Image, side: int, most: int) -> None:
    """That an image which is not resized is of whole patches, and not of too many.

    Args:
        image: to be read.
        side: pixels of a patch's side.
        most: patches of an image.

    Raises:
        InputError: it is not.
    """
    columns, rows = image.width // side, image.height // side
    if not 0 < columns * rows <= most or image.width % side or image.height % side:
        raise InputError(
            f"An image that is not resized must be of at most {most} whole patches of {side} x {side} pixels, got "
            f"{image.width} x {image.height} pixels; shrink it, or set do_resize in preprocessor_config.json."
        )


def load_siglip_processor(name_or_folder: str | Path, *, revision: str | None = None) -> Any:
    """The processor of a published SigLIP, see `load_processor`.

    Raises:
        OSError: there is none, or the hub cannot be reached.
        ValueError: it is damaged, or its tokenizer needs a package that is not installed.
    """
    named = get_tokenizer_config(str(name_or_folder), revision=revision or "main").get("tokenizer_class")
    if named == "SiglipTokenizer":
        _check_sentencepiece(name_or_folder)
    processor = load_processor(name_or_folder, revision=revision)
    with reading("the image processor's settings"):
        processor.image_processor([Image.new("RGB", (32, 32))], return_tensors="pt")
    return processor


def _check_sentencepiece(name_or_folder: str | Path) -> None:
    if not (is_sentencepiece_available() and is_protobuf_available()):
        # Transformers would read the vocabulary by another class, which leaves punctuation where SigLIP has none
        raise ValueError(
            f"the tokenizer of {name_or_folder} (SiglipTokenizer) needs packages; pip install sentencepiece protobuf."
        )


def check_fit(siglip: SiglipModel | Siglip2Model, processor: SiglipProcessor | Siglip2Processor) -> None:
    """That a processor makes what the model reads.

    Raises:
        ValueError: a context that no SigLIP has, an image processor of another model or of other sizes, a tokenizer
            that cannot pad, or a vision tower without a head.
    """
    config: Any = siglip.config
    text, vision, pixels = config.text_config, config.vision_config, processor.image_processor
    if text.max_position_embeddings < CONTEXT:
        raise ValueError(
            f"text_config.max_position_embeddings must be at least {CONTEXT}, where SigLIP reads a text, got "
            f"{text.max_position_embeddings}; mend config.json."
        )
    if processor.tokenizer.pad_token_id is None:
        raise ValueError("The tokenizer of a SigLIP must have a pad_token; mend tokenizer_config.json.")
    if not getattr(vision, "vision_use_head", True):
        raise ValueError("vision_config.vision_use_head must be true: an image's features come from the head.")
    kind = "Siglip2ImageProcessor" if isinstance(siglip, Siglip2Model) else "SiglipImageProcessor"
    found = type(pixels).__name__
    if found.removesuffix("Pil").removesuffix("Fast") != kind:
        raise ValueError(f"The image processor of this SigLIP must be a {kind}, got {found}; copy the checkpoint anew.")
    if isinstance(siglip, Siglip2Model):
        own, read = pixels.patch_size, vision.patch_size
        if pixels.max_num_patches * own**2 > LARGEST_SIDE**2:
            raise ValueError(f"max_num_patches of the image processor must be smaller, got {pixels.max_num_patches}.")
    else:
        own, read = dict(pixels.size), {"height": vision.image_size, "width": vision.image_size}
        own = {name: own.get(name) for name in read}
    if own != read:
        what = "patch_size" if isinstance(siglip, Siglip2Model) else "size"
        raise ValueError(
            f"{what} of the image processor must be {read}, as in config.json, got {own}; mend one of them."
        )
