"""BLIP-2's inputs, and its forward: the vision tower once for an image, the Q-Former once for each caption."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import Blip2ForImageTextRetrieval, Blip2Processor

from datamodules.batch import CaptionTooLongError
from lightning_modules.flat_captions import flat_captions
from lightning_modules.losses.global_batch import gather_rows
from lightning_modules.losses.itc_itm import Draw, TruePairs, max_similarity
from lightning_modules.precision import at_least_float32, linear_in_float32

MAX_WORDS = 50
"""Of a caption, which LAVIS' caption processor keeps (`max_words`)."""
PUNCTUATION = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))
"""What the same turns into spaces; other signs stay."""
NO_MATCH, MATCH = 0, 1
"""Columns of the matching head."""


def clean_words(caption: str) -> list[str]:
    """The words of a caption as LAVIS cleans it (BlipCaptionProcessor), before it keeps the first `MAX_WORDS`.

    >>> clean_words('A "red" circle;  left of (two) dogs.')
    ['a', 'red', 'circle', 'left', 'of', 'two', 'dogs']
    """
    return caption.lower().translate(PUNCTUATION).split()


class Blip2Encoder:
    """Images and captions to BLIP-2 inputs; picklable, runs in loader workers.

    Args:
        processor: tokenizer and image processor of the checkpoint.
        max_text_tokens: tokens of a caption that are read, [CLS] and [SEP] among them.
        long_captions: `truncate` cuts longer captions and counts them, `error` refuses them.
    """

    def __init__(self, processor: Blip2Processor, *, max_text_tokens: int = 32, long_captions: str = "truncate"):
        self.image_processor, self.tokenizer = processor.image_processor, processor.tokenizer
        self.max_text_tokens, self.long_captions = max_text_tokens, long_captions

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        # The processor's own image token, where a caption spells it, stays text: it has no embedding.
        return self.tokenizer(texts, split_special_tokens=True, verbose=False).input_ids

    def _text_ids(self, captions: list[str]) -> tuple[list[list[int]], list[bool]]:
        """The ids of each caption, and whether it was cut."""
        words = [clean_words(caption) for caption in captions]
        ids = self._tokenize([" ".join(kept[:MAX_WORDS]) for kept in words])
        cut = [len(w) > MAX_WORDS or len(tokens) > self.max_text_tokens for w, tokens in zip(words, ids, strict=True)]
        if self.long_captions == "error" and any(cut):
            longest = cut.index(True)
            # the words beyond MAX_WORDS were never tokenised, and the error has to count them
            tokens = len(self._tokenize([" ".join(words[longest])])[0])
            raise CaptionTooLongError.of(captions[longest], tokens, min(self.max_text_tokens, len(ids[longest])))
        end = [self.tokenizer.sep_token_id]
        limit = self.max_text_tokens
        # [SEP] stays last, as where the tokenizer truncates
        return [tokens if len(tokens) <= limit else tokens[: limit - 1] + end for tokens in ids], cut

    def __call__(
        self, images: Sequence[Image.Image], captions: Sequence[Sequence[str]], labels: Sequence[Sequence[int]]
    ) -> dict[str, torch.Tensor]:
        """The tensors of a batch; N is the number of captions in it.

        Returns:
            `pixel_values` [B, 3, S, S], and what `flat_captions` gives.

        Raises:
            CaptionTooLongError: a caption would be cut, and `long_captions` is `error`.
        """
        pixels = self.image_processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        ids, cut = self._text_ids([caption for row in captions for caption in row])
        return {
            "pixel_values": pixels,
            **flat_captions(captions, ids, cut, pad_id=self.tokenizer.pad_token_id),
        }


class Blip2Network(nn.Module):
    """A BLIP-2 whose `forward` runs the vision tower once for an image, however many captions it has.

    It owns the Transformers model: sharded parameters (FSDP2) are gathered by the hooks of this module's forward, so
    nothing outside calls a submodule or indexes a weight. The Q-Former runs once for each caption: packing an image's
    captions into one sequence saves its keys and values of the image, but less than a tenth of a step.

    Args:
        blip2: the Transformers model.
        itc_temperature: what a learnt temperature of ITC, which the Transformers model lacks, starts from; None for a
            network that is not trained by ITC.
    """

    def __init__(self, blip2: Blip2ForImageTextRetrieval, itc_temperature: float | None = None):
        super().__init__()
        self.blip2 = blip2
        if itc_temperature is not None:
            # one axis, since FSDP2 shards no scalars
            self.itc_temperature = nn.Parameter(blip2.query_tokens.detach().new_full((1,), itc_temperature))

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
        heads: Collection[str] = ("itm",),
        pairs: TruePairs | None = None,
        draw: Draw | None = None,
    ) -> dict[str, torch.Tensor]:
        """The outputs of the named heads, for N (image, caption) pairs; or, where there are `pairs`, all ITC logits.

        Args:
            pixel_values: [B, 3, S, S].
            input_ids, attention_mask: [N, T], padded on the right.
            image_index: [N], the image of each caption.
            heads: "itm", "itc" or both.
            pairs: the batch's true pairs beside those of all ranks; all ranks have to give theirs.
            draw: which further pairs, P of them, the matching head sees; none where None.

        Returns:
            "itm": [N, 2] float32 no-match and match logit, mean over the queries; "itc": [N] float32 cosine, the
            largest over the queries. Where there are `pairs`, "itm" is [N + P, 2], and the others are
            "image_to_text" (I, T) and "text_to_image" (S, G), float32 similarity / temperature of this rank's rows,
            and the "temperature" [1].
        """
        image_embeds = self.blip2.vision_model(pixel_values=pixel_values).last_hidden_state
        if pairs is not None:
            return self._contrast(image_embeds, input_ids, attention_mask, image_index, pairs, draw)
        outputs = {}
        if "itm" in heads:
            outputs["itm"] = self._itm(image_embeds.index_select(0, image_index), input_ids, attention_mask)
        if "itc" in heads:
            image_features = self._image_features(image_embeds).index_select(0, image_index)
            text_features = self._text_features(input_ids, attention_mask)
            # A product and a sum, since a matrix product runs in half precision under autocast.
            outputs["itc"] = (image_features * text_features.unsqueeze(1)).sum(-1).amax(1)
        return outputs

    def _contrast(
        self,
        image_embeds: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
        pairs: TruePairs,
        draw: Draw | None,
    ) -> dict[str, torch.Tensor]:
        """Every rank runs the same modules and gathers, whatever is in its batch: else the others would wait for it."""
        image_features = self._image_features(image_embeds)[pairs.images]
        # some text stands in where none is true
        texts = pairs.texts if len(pairs.texts) else pairs.texts.new_zeros(1)
        text_features = self._text_features(input_ids[texts], attention_mask[texts])[: len(pairs.texts)]
        # divided by in float32: bf16 keeps three digits
        temperature = at_least_float32(self.itc_temperature)
        all_images = gather_rows(image_features, pairs.image_sizes)
        image_to_text = max_similarity(image_features, gather_rows(text_features, pairs.text_sizes)) / temperature
        text_to_image = max_similarity(all_images, text_features).T / temperature

        # an image of B for each of N captions
        embeds = image_embeds.index_select(0, image_index)
        if draw is not None:
            drawn_images, drawn_texts = draw(image_to_text, text_to_image)
            # with gradient, as in LAVIS: drawn images of other ranks train too
            all_embeds = gather_rows(image_embeds[pairs.images], pairs.image_sizes)
            embeds = torch.cat([embeds, all_embeds.index_select(0, drawn_images)])
            wider = (0, pairs.input_ids.shape[1] - input_ids.shape[1])
            input_ids = torch.cat([F.pad(input_ids, wider), pairs.input_ids[drawn_texts]])
            attention_mask = torch.cat([F.pad(attention_mask, wider), pairs.attention_mask[drawn_texts]])
        return {
            "itm": self._itm(embeds, input_ids, attention_mask),
            "image_to_text": image_to_text,
            "text_to_image": text_to_image,
            "temperature": temperature,
        }

    def _itm(self, image_embeds: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Queries and text see each other, the queries see the image."""
        queries = self.blip2.query_tokens.expand(len(input_ids), -1, -1)
        length = queries.shape[1]
        hidden = self.blip2.qformer(
            query_embeds=self.blip2.embeddings(input_ids=input_ids, query_embeds=queries),
            query_length=length,
            # queries stand in front of the text, and everything sees them
            attention_mask=F.pad(attention_mask, (length, 0), value=1),
            encoder_hidden_states=image_embeds,
        ).last_hidden_state[:, :length]
        return linear_in_float32(self.blip2.itm_head, hidden).mean(1)

    def _image_features(self, image_embeds: torch.Tensor) -> torch.Tensor:
        """(B, queries, D) unit vectors: the queries without text."""
        queries = self.blip2.query_tokens.expand(len(image_embeds), -1, -1)
        # no text among the queries: an image has the same features beside any caption
        hidden = self.blip2.qformer(query_embeds=queries, encoder_hidden_states=image_embeds).last_hidden_state
        projection = self.blip2.vision_projection
        return F.normalize(at_least_float32(projection(hidden.to(projection.weight.dtype))), dim=-1)

    def _text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(N, D) unit vectors: [CLS] of the text without image."""
        embeddings = self.blip2.embeddings(input_ids=input_ids)
        hidden = self.blip2.qformer(
            # Transformers calls all embeddings so; of these, none is a query that sees the image
            query_embeds=embeddings,
            query_length=0,
            attention_mask=attention_mask,
        ).last_hidden_state[:, 0]
        projection = self.blip2.text_projection
        return F.normalize(at_least_float32(projection(hidden.to(projection.weight.dtype))), dim=-1)


def match_logits(itm: torch.Tensor) -> torch.Tensor:
    """[N] match - no-match of the ITM head's (N, 2)."""
    return itm[:, MATCH] - itm[:, NO_MATCH]
