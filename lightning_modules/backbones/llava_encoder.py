"""The packed inputs of an image with its captions, and what a checkpoint's own model says of its images."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch.func import functional_call
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from datamodules.batch import NEGATIVE, POSITIVE, UNKNOWN, CaptionTooLongError
from lightning_modules.backbones.llava_prompt import YesNoPrompt
from lightning_modules.backbones.packing import pack_branches, shared_prefix
from lightning_modules.backbones.published import reading


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


class LlavaEncoder:
    """Images and captions to packed LLaVA inputs; picklable, runs in loader workers.

    Args:
        processor: tokenizer and image processor of the checkpoint.
        prompt: the question around a caption.
        image_tokens: how many features the model makes of an image, see `features_per_image`.
        answers: append the answer token to labelled captions, for a loss that reads their logits.
        max_text_tokens: most tokens of a caption's sequence: image, prompt and answer; no limit where None.
        long_captions: `truncate` cuts words off captions that are longer, `error` refuses them.
    """

    def __init__(
        self,
        processor: LlavaProcessor,
        prompt: YesNoPrompt,
        *,
        image_tokens: int,
        answers: bool,
        max_text_tokens: int | None = None,
        long_captions: str = "truncate",
    ):
        self.processor, self.answers, self.image_tokens = processor, answers, image_tokens
        self.max_text_tokens, self.long_captions = max_text_tokens, long_captions
        self.tokenizer = processor.tokenizer
        self.image_token, self.image_id = processor.image_token, processor.image_token_id
        # a prompt that begins with the start token, as chat templates write it, gets no second one
        start = self.tokenizer.bos_token
        self.special_tokens = not (start and prompt("", self.image_token).startswith(start))
        self.prompt, self.yes_id, self.no_id = self._spelt(prompt)
        red, green, blue = processor.image_processor.image_mean
        # truncated and not rounded, (122, 116, 104) for CLIP, as in LLaVA
        self.background = (int(red * 255), int(green * 255), int(blue * 255))
        # three captions that begin differently: what they share is before any caption
        self.fixed_prefix = shared_prefix(self._prompt_ids(["a", "Z", "7"]))
        if self.fixed_prefix.count(self.image_id) != 1:
            text = prompt("", self.image_token)
            raise ValueError(f"The prompt must hold {self.image_token} once, in front of the caption, got {text!r}.")

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=self.special_tokens).input_ids

    def _prompt_ids(self, captions: Iterable[str]) -> list[list[int]]:
        return self._ids([self.prompt(caption, self.image_token) for caption in captions])

    def _spelt(self, prompt: YesNoPrompt) -> tuple[YesNoPrompt, int, int]:
        """The prompt with the spelling of Yes and No that is one token each behind it, and these tokens."""
        text = prompt("a", self.image_token)
        for one in (prompt, prompt.respelt()):
            alone, *answered = self._ids([text, *(text + answer for answer in one.answers)])
            # a piece that reaches back into the prompt would move the place where the answer is read
            if all(ids[:-1] == alone for ids in answered) and answered[0] != answered[1]:
                return one, answered[0][-1], answered[1][-1]
        raise ValueError(
            f"The tokenizer must make Yes one token behind the prompt, and No another one; it makes {answered} of both "
            f"behind {alone}."
        )

    def __call__(
        self, images: Sequence[Image.Image], captions: Sequence[Sequence[str]], labels: Sequence[Sequence[int]]
    ) -> dict[str, torch.Tensor]:
        """Packed `input_ids, position_ids, segment_ids, answer_index`, `image_index`, `pixel_values`, and `cut` [B].

        `image_index` [B, T] are the places of the image in the sequence, `pixel_values` are [B, 3, H, W].

        Raises:
            CaptionTooLongError: a caption does not fit, and `long_captions` is `error`.
        """
        squares = [pad_to_square(image, self.background) for image in images]
        pixel_values = self.processor.image_processor(squares, return_tensors="pt")["pixel_values"]
        flat, flat_cut = self._fitting_prompts([caption for row in captions for caption in row])
        # One prefix for the batch; a merge across the caption's first letter could shorten it.
        length = len(shared_prefix([self.fixed_prefix, *flat]))
        answer_token = {POSITIVE: [self.yes_id], NEGATIVE: [self.no_id], UNKNOWN: []}
        rows, lengths, cut = [], [], []
        remaining = iter(zip(flat, flat_cut, strict=True))
        for row_labels in labels:
            prompts, row_cut = zip(*(next(remaining) for _ in row_labels), strict=True)
            branches = [ids[length:] for ids in prompts]
            lengths.append([len(ids) for ids in branches])
            answers = [answer_token[label] if self.answers else [] for label in row_labels]
            rows.append([ids + answer for ids, answer in zip(branches, answers, strict=True)])
            cut.append(sum(row_cut))
        prefix: list[int] = []
        for token in flat[0][:length]:
            prefix += [token] * (self.image_tokens if token == self.image_id else 1)
        # where a tokenizer has no padding (Llama 3, Mistral) any id will do: nothing attends to it
        pad_id = self.tokenizer.pad_token_id
        packed = pack_branches(prefix, rows, lengths, 0 if pad_id is None else pad_id)
        places = torch.tensor([place for place, token in enumerate(prefix) if token == self.image_id])
        image_index = places.expand(len(rows), -1)
        return {**packed, "image_index": image_index, "pixel_values": pixel_values, "cut": torch.tensor(cut)}

    def _fitting_prompts(self, captions: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """The prompts' ids, one id for the image, of captions cut until all fits; and which ones were cut."""
        prompts = self._prompt_ids(captions)
        if self.max_text_tokens is None:
            return prompts, [False] * len(prompts)
        # the prompt has one placeholder for the image already; an answer is one token
        room = self.max_text_tokens - (self.image_tokens - 1) - self.answers
        cut = [len(ids) > room for ids in prompts]
        for index in (index for index, is_long in enumerate(cut) if is_long):
            if self.long_captions == "error":
                beyond = self.max_text_tokens - room
                raise CaptionTooLongError.of(captions[index], len(prompts[index]) + beyond, self.max_text_tokens)
            ids = self.tokenizer(captions[index], add_special_tokens=False).input_ids
            # in rounds: what a cut leaves may be tokenised anew into more pieces than it was
            while ids and (excess := len(prompts[index]) - room) > 0:
                ids = ids[:-excess] if excess < len(ids) else []
                prompts[index] = self._prompt_ids([self.tokenizer.decode(ids)])[0]
            if len(prompts[index]) > room:
                needed = self.max_text_tokens - room + len(prompts[index])
                raise CaptionTooLongError(
                    f"model.max_text_tokens must be more than {needed}, which prompt and image take without a caption, "
                    f"got {self.max_text_tokens}; raise it."
                )
        return prompts, cut


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
