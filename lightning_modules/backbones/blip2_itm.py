"""BLIP-2 as an image-text matching scorer: match logit = match - no-match of the ITM head (LAVIS)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import Blip2ForImageTextRetrieval, Blip2Processor, Blip2QFormerConfig

from datamodules.batch import CaptionTooLongError, ImageTextBatch
from lightning_modules.adapters import LoraSettings, add_lora
from lightning_modules.backbones.published import load_processor, load_published
from lightning_modules.base import LONG_CAPTIONS, AlignmentModule, check_choice, recompute_activations
from lightning_modules.flat_captions import flat_captions, to_cells
from lightning_modules.losses.global_batch import gather_rows
from lightning_modules.losses.itc_itm import Draw, ItcItmLoss, TruePairs, max_similarity
from lightning_modules.precision import at_least_float32, linear_in_float32

SCORES = ("itm", "itc", "itm_itc")
MAX_WORDS = 50
NO_MATCH, MATCH = 0, 1
PARTS = {
    "qformer": ("qformer",),
    "vision": ("vision_model",),
    "projector": ("vision_projection", "text_projection", "itm_head"),
}
"""What LoRA can be put on; the Q-Former where nothing is said."""
TEMPERATURES = (0.001, 0.5)
"""Between which the ITC temperature is kept, as in LAVIS' ALBEF and BLIP."""
PUNCTUATION = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))


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
            tokens = len(self._tokenize([" ".join(words[longest])])[0])
            raise CaptionTooLongError.of(captions[longest], tokens, min(self.max_text_tokens, len(ids[longest])))
        end = [self.tokenizer.sep_token_id]
        limit = self.max_text_tokens
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
        temperature = at_least_float32(self.itc_temperature)
        all_images = gather_rows(image_features, pairs.image_sizes)
        image_to_text = max_similarity(image_features, gather_rows(text_features, pairs.text_sizes)) / temperature
        text_to_image = max_similarity(all_images, text_features).T / temperature

        embeds = image_embeds.index_select(0, image_index)
        if draw is not None:
            drawn_images, drawn_texts = draw(image_to_text, text_to_image)
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
            attention_mask=F.pad(attention_mask, (length, 0), value=1),
            encoder_hidden_states=image_embeds,
        ).last_hidden_state[:, :length]
        return linear_in_float32(self.blip2.itm_head, hidden).mean(1)

    def _image_features(self, image_embeds: torch.Tensor) -> torch.Tensor:
        """(B, queries, D) unit vectors: the queries without text."""
        queries = self.blip2.query_tokens.expand(len(image_embeds), -1, -1)
        hidden = self.blip2.qformer(query_embeds=queries, encoder_hidden_states=image_embeds).last_hidden_state
        projection = self.blip2.vision_projection
        return F.normalize(at_least_float32(projection(hidden.to(projection.weight.dtype))), dim=-1)

    def _text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(N, D) unit vectors: [CLS] of the text without image."""
        embeddings = self.blip2.embeddings(input_ids=input_ids)
        hidden = self.blip2.qformer(
            query_embeds=embeddings, query_length=0, attention_mask=attention_mask
        ).last_hidden_state[:, 0]
        projection = self.blip2.text_projection
        return F.normalize(at_least_float32(projection(hidden.to(projection.weight.dtype))), dim=-1)


class Blip2ItmModule(AlignmentModule):
    """BLIP-2 behind the contract of `AlignmentModule`.

    Args:
        blip2: the Transformers model.
        processor: its processor.
        loss: `itm`, cross entropy of the ITM head on the given captions (no negatives are drawn in the batch), or
            another one that reads match logits, the head's whatever `score` says; or `itc_itm`, LAVIS' losses for
            retrieval: ITC over the global batch, and ITM on the given captions and on negatives that ITC finds hard.
            The contrast and the draw are those of each batch: a step over several accumulated batches is their mean.
        loss_settings: of the loss; its defaults where None.
        score: what `logits` are: `itm` (match - no-match logit), `itc` (cosine) or `itm_itc` (LAVIS' sum for
            retrieval). Training is the same for all.
        train_vision: also train the vision tower; LAVIS' first stage does not.
        lora: adapters on the Q-Former; None trains all of its weights.
        gradient_checkpointing: recompute activations in the backward pass.
        max_text_tokens: tokens of a caption that are read, [CLS] and [SEP] among them.
        long_captions: `truncate` cuts longer captions and counts them, `error` refuses them.
        optim: keyword arguments of `AlignmentModule`.

    Raises:
        ValueError: a setting out of its range, a model whose Q-Former reads no text, or adapters that match nothing.
    """

    backbone = "blip2"
    offers = ("match_logits", "itc_itm")
    parts = PARTS
    network: Blip2Network

    def __init__(
        self,
        blip2: Blip2ForImageTextRetrieval,
        processor: Blip2Processor,
        *,
        loss: str = "itm",
        loss_settings: Any | None = None,
        score: str = "itm",
        train_vision: bool = False,
        lora: LoraSettings | None = None,
        gradient_checkpointing: bool = False,
        max_text_tokens: int = 32,
        long_captions: str = "truncate",
        **optim: Any,
    ):
        super().__init__(loss=loss, loss_settings=loss_settings, **optim)
        check_choice("score", score, SCORES)
        check_choice("long_captions", long_captions, LONG_CAPTIONS)
        qformer: Blip2QFormerConfig = blip2.config.qformer_config  # type: ignore[assignment]
        if not 3 <= max_text_tokens <= qformer.max_position_embeddings:
            raise ValueError(
                f"model.max_text_tokens must be in [3, {qformer.max_position_embeddings}], the positions of the "
                f"checkpoint, got {max_text_tokens}."
            )
        if not qformer.use_qformer_text_input:
            raise ValueError(
                "model.checkpoint must have a Q-Former that reads text, got use_qformer_text_input=false; use one "
                "made for image-text matching, such as Salesforce/blip2-itm-vit-g."
            )
        self.score_name, self.processor = score, processor
        self.encoder = Blip2Encoder(processor, max_text_tokens=max_text_tokens, long_captions=long_captions)
        blip2.vision_model.requires_grad_(train_vision)
        if lora is not None:
            blip2.qformer.requires_grad_(False)
            blip2.embeddings.requires_grad_(False)
            add_lora(blip2, lora, PARTS)
        contrast = isinstance(self.objective, ItcItmLoss)
        if not contrast:
            freeze_unreached(blip2)
        if gradient_checkpointing:
            recompute_activations(blip2)
        # The temperature is the network's, not the loss's: negatives are drawn by it within the network's forward.
        self.network = Blip2Network(blip2, self.objective.settings.temperature if contrast else None)

    def logits(self, batch: ImageTextBatch) -> torch.Tensor:
        """(B, C) float32: `itm_logits`, `itc_similarity` or `itm_itc`, as `score` says."""
        return {"itm": self.itm_logits, "itc": self.itc_similarity, "itm_itc": self.itm_itc}[self.score_name](batch)

    def itm_logits(self, batch: ImageTextBatch) -> torch.Tensor:
        """(B, C) float32 match - no-match logit of the ITM head; 0 where there is no caption."""
        return to_cells(match_logits(self._heads(batch, ("itm",))["itm"]).float(), batch)

    def itc_similarity(self, batch: ImageTextBatch) -> torch.Tensor:
        """(B, C) float32 cosine in [-1, 1] of text and image, the largest over the queries; 0 where no caption is."""
        return to_cells(self._heads(batch, ("itc",))["itc"].float(), batch)

    def itm_itc(self, batch: ImageTextBatch) -> torch.Tensor:
        """(B, C) float32 raw match logit + ITC similarity, by which LAVIS ranks retrieved candidates; 0 elsewhere."""
        heads = self._heads(batch, ("itm", "itc"))
        return to_cells((heads["itm"][:, MATCH] + heads["itc"]).float(), batch)

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """`itm`: p(match), the sigmoid, in [0, 1]; `itc`: the cosine itself, in [-1, 1]; `itm_itc`: the sum itself."""
        return logits.sigmoid() if self.score_name == "itm" else logits

    def loss_inputs(self, batch: ImageTextBatch) -> Mapping[str, Any]:
        """The matching head's logits; for `itc_itm` those of drawn pairs too, and ITC's similarities."""
        if not isinstance(self.objective, ItcItmLoss):
            return {"match_logits": self.itm_logits(batch)}
        pairs = TruePairs.of(batch)
        draw = self.objective.draw(pairs, seed=self.seed, epoch=self.current_epoch)
        outputs = self._heads(batch, (), pairs=pairs, draw=draw)
        return {**outputs, "itm_logits": match_logits(outputs["itm"]), "pairs": pairs}

    def optimizer_step(self, *arguments: Any, **settings: Any) -> None:
        """Keeps the ITC temperature, where there is one, in `TEMPERATURES` after every step."""
        super().optimizer_step(*arguments, **settings)
        # not in on_train_batch_end: checkpoints are written by then
        if isinstance(self.objective, ItcItmLoss):
            with torch.no_grad():
                self.network.itc_temperature.clamp_(*TEMPERATURES)

    def _heads(self, batch: ImageTextBatch, heads: tuple[str, ...], **contrast: Any) -> dict[str, torch.Tensor]:
        inputs = batch.inputs
        return self.network(
            pixel_values=inputs["pixel_values"],
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            image_index=inputs["cell_index"] // batch.caption_mask.shape[1],
            heads=heads,
            **contrast,
        )


def match_logits(itm: torch.Tensor) -> torch.Tensor:
    """[N] match - no-match of the ITM head's (N, 2)."""
    return itm[:, MATCH] - itm[:, NO_MATCH]


def freeze_unreached(blip2: Blip2ForImageTextRetrieval) -> None:
    """Freezes what losses on match logits never reach, since DDP insists that they do; `itc_itm` reaches all.

    That is the ITC heads, and the last layer's feed-forward of the text: the ITM head reads the queries only.
    """
    last = blip2.qformer.encoder.layer[-1]
    for part in (last.intermediate, last.output, blip2.vision_projection, blip2.text_projection):
        part.requires_grad_(False)


def load_blip2(
    name_or_folder: str | Path, *, dtype: torch.dtype | str = "auto"
) -> tuple[Blip2ForImageTextRetrieval, Blip2Processor]:
    """A published checkpoint (Salesforce/blip2-itm-vit-g) by hub name or folder, safetensors only.

    Raises:
        OSError: there is no such checkpoint, or the hub cannot be reached.
        ValueError: it is of another kind, or incomplete.
    """
    blip2 = load_published(Blip2ForImageTextRetrieval, name_or_folder, dtype=dtype)
    return blip2, load_processor(name_or_folder)
