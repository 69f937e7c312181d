"""What can be configured of a scorer, its losses and its adapters; see `experiments.config.schemas`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

LOSSES = {"llava": ("lm", "binary", "listwise"), "blip2": ("itm", "itc_itm"), "clip": ("itc", "ce_clip")}
"""Backbone -> its losses, the default first."""


@dataclass
class TinyConfig:
    """Sizes of a model built from scratch."""

    hidden_size: int = field(default=128, metadata={"min": 8})
    """Width of the language model, text tower or Q-Former."""
    layers: int = field(default=4, metadata={"min": 1})
    """Layers of the language model, text tower or Q-Former."""
    heads: int = field(default=4, metadata={"min": 1})
    """Attention heads of the language model, text tower or Q-Former."""
    vision_hidden_size: int = field(default=96, metadata={"min": 8})
    """Width of the vision tower."""
    vision_layers: int = field(default=3, metadata={"min": 2})
    """Layers of the vision tower; LLaVA reads the last but one."""
    image_size: int = field(default=32, metadata={"min": 8})
    """Pixels of an image's side."""
    patch_size: int = field(default=8, metadata={"min": 2})
    """Pixels of a patch's side."""
    queries: int = field(default=8, metadata={"min": 1})
    """Query tokens of BLIP-2's Q-Former."""
    vocab_size: int = field(default=1000, metadata={"min": 300})
    """Largest number of tokens; 256 of them are bytes."""
    initializer_range: float = field(default=0.02, metadata={"above": 0.0})
    """Standard deviation of initial weights."""

    def faults(self, place: str) -> Iterator[str]:
        """Sizes that do not divide."""
        for whole, part in (("hidden_size", "heads"), ("image_size", "patch_size")):
            if getattr(self, whole) % getattr(self, part):
                yield (
                    f"`{place}{part}` must divide `{place}{whole}`, got {getattr(self, part)} and "
                    f"{getattr(self, whole)}"
                )


@dataclass
class AdapterConfig:
    """LoRA adapters (PEFT)."""

    rank: int = field(default=128, metadata={"min": 1})
    """Rank of the update matrices."""
    alpha: int = field(default=256, metadata={"min": 1})
    """Scale: updates are multiplied by alpha / rank."""
    dropout: float = field(default=0.05, metadata={"min": 0.0, "max": 1.0})
    """Dropout in front of the update matrices."""
    targets: list[str] = field(default_factory=list)
    """Parts whose linear layers get adapters: language_model, vision, projector (llava); qformer, vision, projector
    (blip2); towers, language_model, vision, projector (clip); or names of modules. Empty: the first of them."""


@dataclass
class CeClipLossConfig:
    """Loss ce_clip: contrast over the batch (ITC), intra-modal contrast (IMC) and cross-modal rank (CMR)."""

    hard_negatives: bool = True
    """Negatives stand in the image-to-text softmax of ITC."""
    imc_weight: float = field(default=0.3, metadata={"min": 0.0})
    """Weight of IMC: captions against the texts of negatives."""
    cmr_weight: float = field(default=0.2, metadata={"min": 0.0})
    """Weight of CMR: how far below its positive a negative has to stay, by a rank threshold for each type."""
    rank_threshold: str = field(default="mean", metadata={"choices": ("mean", "max", "fixed")})
    """mean: by how much positives were above negatives of the type in the step before. max: a fifth of the largest such
    difference. fixed: `initial_rank_threshold`."""
    initial_rank_threshold: float = field(default=0.0, metadata={"min": 0.0})
    """Rank threshold of the first step, in logit units."""
    rank_threshold_bound: float = field(default=10.0, metadata={"above": 0.0})
    """Largest rank threshold, in logit units."""
    reference: bool = False
    """The official code's newest losses, for comparison: IMC draws all captions to one negative, thresholds begin anew
    with each epoch, and copies of an image count as different images."""

    def faults(self, place: str) -> Iterator[str]:
        """Thresholds that begin beyond their bound."""
        if self.initial_rank_threshold > self.rank_threshold_bound:
            yield (
                f"`{place}initial_rank_threshold` must be at most `{place}rank_threshold_bound`, got "
                f"{self.initial_rank_threshold:g} and {self.rank_threshold_bound:g}"
            )


@dataclass
class ItcItmLossConfig:
    """BLIP-2's loss `itc_itm`: image-text contrast (ITC) and the matching head (ITM), as LAVIS trains retrieval."""

    itc_weight: float = field(default=1.0, metadata={"min": 0.0})
    """Weight of ITC, over the true captions of the global batch."""
    itm_weight: float = field(default=1.0, metadata={"min": 0.0})
    """Weight of ITM, over the captions of each row and the in-batch negatives."""
    in_batch_negatives: bool = True
    """For the first true caption of each row draw another image of the global batch, and for its image another
    caption, by the softmax of ITC's similarities."""
    label_smoothing: float = field(default=0.1, metadata={"min": 0.0})
    """Part of ITC's targets that is spread over the whole batch, below 1."""
    temperature: float = field(default=0.07, metadata={"min": 0.001, "max": 0.5})
    """What ITC's similarities are divided by at first; it is learnt, and stays in [0.001, 0.5]."""

    def faults(self, place: str) -> Iterator[str]:
        """Targets that say nothing, and weights that train nothing."""
        if self.label_smoothing >= 1:
            yield f"`{place}label_smoothing` must be in [0, 1), got {self.label_smoothing}"
        if not self.itc_weight and not self.itm_weight:
            yield f"`{place}itc_weight` or `{place}itm_weight` must be above 0"


@dataclass
class ModelConfig:
    """Which scorer, from which weights, and what of it trains."""

    backbone: str = field(default="llava", metadata={"choices": tuple(LOSSES)})
    """The scorer's family: LLaVA-1.5, BLIP-2 ITM or CLIP."""
    checkpoint: str | None = None
    """Published weights, by hub name or folder (llava-hf/llava-1.5-7b-hf, Salesforce/blip2-itm-vit-g,
    openai/clip-vit-base-patch32). Not given: a model built from `tiny`."""
    tiny: TinyConfig = field(default_factory=TinyConfig)
    """Sizes of the model that is built where no checkpoint is given."""
    loss: str | None = field(
        default=None, metadata={"choices": tuple(name for names in LOSSES.values() for name in names)}
    )
    """llava: lm (next-token loss on the answer and its end token; default), binary (cross entropy on z(Yes) - z(No)),
    or listwise (cross entropy of a positive among itself and the negatives of its row).
    blip2: itm (cross entropy of the matching head; default) or itc_itm (beside it a contrast of images and true
    captions, and hard negatives from the batch).
    clip: itc (contrast with hard negatives among the texts; default) or ce_clip (IMC and CMR beside it)."""
    itc_itm: ItcItmLossConfig = field(default_factory=ItcItmLossConfig)
    """Used where `loss` is itc_itm."""
    ce_clip: CeClipLossConfig = field(default_factory=CeClipLossConfig)
    """Used where `loss` is ce_clip."""
    tune: str = field(default="full", metadata={"choices": ("full", "lora")})
    """full: all weights, of the vision tower too where `train_vision` says so. lora: adapters, and the projector
    (llava), the query tokens and the heads that the loss trains (blip2), or projections and logit scale (clip)."""
    train_vision: bool | None = None
    """Also train the vision tower (a tiny model from scratch has to). Not given: clip does, llava and blip2 do not."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """Used where `tune` is lora."""
    score: str | None = field(default=None, metadata={"choices": ("itm", "itc", "itm_itc")})
    """blip2's match logit: itm (the matching head's; default), itc (similarity of the unfused features), or itm_itc
    (their sum, as in BLIP-2's retrieval evaluation)."""
    max_text_tokens: int | None = field(default=None, metadata={"min": 8})
    """Most tokens of a caption with its special tokens (blip2: 32, clip: 77), or of prompt and image together (llava:
    its context), where not given."""
    long_captions: str = field(default="truncate", metadata={"choices": ("truncate", "error")})
    """truncate: longer captions are cut, and how many is said. error: the first one stops the run."""
    system: str | None = None
    """llava: system sentence of the prompt; the published one where not given, "" for none."""
    question: str | None = None
    """llava: the question with a {caption} placeholder; LLaVA-score's where not given."""
    activation: str | None = field(default=None, metadata={"choices": ("quick_gelu", "gelu")})
    """clip: overrules the activation in the checkpoint's configuration; OpenAI's weights need quick_gelu."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""

    @property
    def own_loss(self) -> str:
        """The loss, the backbone's default where none is given; "" for an unknown backbone."""
        return self.loss or LOSSES.get(self.backbone, ("",))[0]

    def faults(self, place: str) -> Iterator[str]:
        """Keys of another backbone, and a question without its caption."""
        if self.loss is not None and self.loss not in LOSSES.get(self.backbone, (self.loss,)):
            choices = ", ".join(LOSSES[self.backbone])
            yield f"`{place}loss` must be one of {choices} where `{place}backbone` is {self.backbone}, got {self.loss}"
        for key, owner in {"score": "blip2", "system": "llava", "question": "llava", "activation": "clip"}.items():
            if getattr(self, key) is not None and self.backbone != owner:
                yield f"`{place}{key}` belongs to {owner}, and `{place}backbone` is {self.backbone}: leave it out"
        for key, default in {"itc_itm": ItcItmLossConfig(), "ce_clip": CeClipLossConfig()}.items():
            if self.loss != key and getattr(self, key) != default:
                yield f"`{place}{key}` belongs to the loss {key}, and `{place}loss` is {self.own_loss}: leave it out"
        weights = {"itm": self.itc_itm.itm_weight, "itc": self.itc_itm.itc_weight}
        if self.backbone == "blip2" and self.checkpoint is None and self.loss == "itc_itm" and any(weights.values()):
            score = self.score or "itm"
            for head in score.split("_"):
                if not weights[head]:
                    yield (
                        f"`{place}itc_itm.{head}_weight` must be above 0 where `{place}score` is {score}: nothing else "
                        "trains a tiny model's head"
                    )
        untrained = self.backbone == "blip2" and self.checkpoint is None and self.loss != "itc_itm"
        if untrained and self.score in ("itc", "itm_itc"):
            yield (
                f"`{place}score` must be itm without `{place}checkpoint`, or `{place}loss` itc_itm: no other loss "
                "trains a tiny model's ITC heads"
            )
        if self.backbone == "clip" and self.tune == "lora" and self.train_vision:
            yield f"`{place}train_vision` must not be true where `{place}tune` is lora for clip: its adapters train"
        if self.question is not None and self.question.count("{caption}") != 1:
            yield f"`{place}question` must hold {{caption}} exactly once, got {self.question!r}"
