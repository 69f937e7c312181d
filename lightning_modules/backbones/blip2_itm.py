"""BLIP-2 as an image-text matching scorer: match logit = match - no-match of the ITM head (LAVIS).

Li et al., ICML 2023, section 3.2. sigmoid(match - no-match) is the head's softmax probability of "match".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from transformers import Blip2ForImageTextRetrieval, Blip2Processor, Blip2QFormerConfig

from datamodules.batch import ImageTextBatch
from lightning_modules.adapters import LoraSettings, add_lora
from lightning_modules.backbones.backbone import Backbone, CardText, card_code
from lightning_modules.backbones.blip2_network import (
    MATCH,
    MAX_WORDS,
    PUNCTUATION,
    Blip2Encoder,
    Blip2Network,
    match_logits,
)
from lightning_modules.backbones.tiny.blip2 import tiny_blip2, tiny_blip2_processor
from lightning_modules.backbones.traits.blip2 import PARTS, SCORES, Blip2Settings, Blip2Traits
from lightning_modules.base import LONG_CAPTIONS, check_choice, recompute_activations
from lightning_modules.flat_captions import to_cells
from lightning_modules.losses.itc_itm import TruePairs

TEMPERATURES = (0.001, 0.5)
"""Bounds of the ITC temperature, as in LAVIS' ALBEF and BLIP."""


class Blip2ItmModule(Blip2Traits, Backbone):
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
    model_class = Blip2ForImageTextRetrieval
    parts = PARTS
    licences: ClassVar = {"Salesforce/blip2": ("mit", "MIT")}
    network: Blip2Network

    def __init__(
        self,
        blip2: Blip2ForImageTextRetrieval,
        processor: Blip2Processor,
        *,
        loss: str = Blip2Settings.default_loss,
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
        check_choice("score", score, tuple(SCORES))
        check_choice("long_captions", long_captions, LONG_CAPTIONS)
        qformer: Blip2QFormerConfig = blip2.config.qformer_config  # type: ignore[assignment]
        # [CLS], a token and [SEP]
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
        # before `add_lora`, which keeps what trains at this point
        blip2.vision_model.requires_grad_(train_vision)
        if lora is not None:
            blip2.qformer.requires_grad_(False)
            blip2.embeddings.requires_grad_(False)
            add_lora(blip2, lora, PARTS)
        contrast = self.objective.reads == "itc_itm"
        if not contrast:
            freeze_unreached(blip2)
        if gradient_checkpointing:
            recompute_activations(blip2)
        # The temperature is the network's, not the loss's: negatives are drawn by it within the network's forward.
        self.network = Blip2Network(blip2, self.objective.settings.temperature if contrast else None)

    @classmethod
    def tiny(
        cls, settings: Blip2Settings, captions: Iterable[str], processor: Blip2Processor | None
    ) -> tuple[Blip2ForImageTextRetrieval, Blip2Processor]:
        """See `tiny_blip2`."""
        processor = processor or tiny_blip2_processor(settings.tiny, captions)
        return tiny_blip2(settings.tiny, processor.tokenizer), processor

    @classmethod
    def card_text(cls, settings: Mapping[str, Any]) -> CardText:
        """What a model card says of a BLIP-2, by its score."""
        logit, score = SCORES[settings["score"]]
        return CardText(
            title="BLIP-2 with its image-text matching head",
            logit=logit,
            score=score,
            pipeline_tag="zero-shot-image-classification",
            limit="Captions are read in lower case, without most punctuation, and to their first words only.",
            code=card_code("blip2"),
            values={"max_words": MAX_WORDS, "punctuation": "".join(map(chr, PUNCTUATION))},
        )

    def scorer_settings(self) -> dict[str, Any]:
        """Which score, and what every backbone has."""
        return {"score": self.score_name, **super().scorer_settings()}

    @property
    def calibrated(self) -> bool:
        """Whether the score is the matching head's: a cosine of 0 is no even chance."""
        return self.score_name == "itm" and super().calibrated

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
        # the raw logit of the column "match", not the difference: what LAVIS adds to the similarity
        heads = self._heads(batch, ("itm", "itc"))
        return to_cells((heads["itm"][:, MATCH] + heads["itc"]).float(), batch)

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """`itm`: p(match), the sigmoid, in [0, 1]; `itc`: the cosine itself, in [-1, 1]; `itm_itc`: the sum itself."""
        return logits.sigmoid() if self.score_name == "itm" else logits

    def loss_inputs(self, batch: ImageTextBatch) -> Mapping[str, Any]:
        """The matching head's logits; for `itc_itm` those of drawn pairs too, and ITC's similarities.

        They are the head's for losses on match logits too, whatever `score` says: the others train nothing then.
        """
        if self.objective.reads != "itc_itm":
            return {self.objective.reads: self.itm_logits(batch)}
        pairs = TruePairs.of(batch)
        objective: Any = self.objective  # not every loss draws
        draw = objective.draw(pairs, seed=self.seed, epoch=self.current_epoch)
        outputs = self._heads(batch, (), pairs=pairs, draw=draw)
        return {**outputs, "itm_logits": match_logits(outputs["itm"]), "pairs": pairs}

    def on_fit_start(self) -> None:
        """Warns where the loss trains no head that `score` reads: validation would measure what nothing trains."""
        super().on_fit_start()
        # no fault of the settings: a run that was trained by its matching head may be evaluated by ITC, and older ones
        # are loaded. With both weights 0 the loss has refused.
        trained = self._trained_heads()
        if not trained.intersection(self.score_name.split("_")):
            (head,) = trained
            rank_zero_warn(
                f"model.score is {self.score_name}, and the loss trains the {head.upper()} head alone, and validation "
                f"scores another. Set model.score={head}, or model.loss=itc_itm with both weights above 0."
            )

    def _trained_heads(self) -> set[str]:
        """Which of the heads itm and itc the loss trains."""
        if self.objective.reads != "itc_itm":
            return {"itm"}
        weights: Any = self.objective.settings
        return {head for head in ("itm", "itc") if getattr(weights, f"{head}_weight")}

    def optimizer_step(self, *arguments: Any, **settings: Any) -> None:
        """Keeps the ITC temperature, where there is one, in `TEMPERATURES` after every step."""
        super().optimizer_step(*arguments, **settings)
        # not in on_train_batch_end: checkpoints are written by then
        if self.objective.reads == "itc_itm":
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


def freeze_unreached(blip2: Blip2ForImageTextRetrieval) -> None:
    """Freezes what losses on match logits never reach: DDP would wait for its gradients. `itc_itm` reaches all.

    That is the ITC heads, and the last layer's feed-forward of the text: the ITM head reads the queries only.
    """
    last = blip2.qformer.encoder.layer[-1]
    for part in (last.intermediate, last.output, blip2.vision_projection, blip2.text_projection):
        part.requires_grad_(False)
