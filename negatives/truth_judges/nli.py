"""A judge by natural language inference: a cross-encoder that reads a caption and a text together.

It says how likely the first entails the second, contradicts it, or neither (Bowman et al., EMNLP 2015; Williams et al.,
NAACL 2018). Any sequence classifier in Transformers' format does that knows these three classes by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from negatives.published_models import checkpoint_errors, load_with_tokenizer, move_to
from negatives.tables.files import InputError, quoted
from negatives.truth_judges.judge import Statement, folder_state
from negatives.types import PARAPHRASE

CLASSES = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class NliSettings:
    """The judge by natural language inference; its probabilities are in [0, 1] and sum to 1 over the three classes."""

    switch: ClassVar[str] = "checkpoint"
    may_differ: ClassVar[tuple[str, ...]] = ("batch_size", "device")
    meanings: ClassVar[Mapping[str, str]] = {
        "nli_entailed": "The caption entails it, by the judge of language inference.",
        "nli_not_contradicted": "The caption does not contradict it enough, by the judge of language inference.",
        "nli_not_entailed": "It and the caption do not entail each other, by the judge of language inference.",
    }

    checkpoint: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder of a sequence classifier in safetensors with its tokenizer, such as cross-encoder/nli-deberta-v3-base; its
    classes have to be entailment, neutral and contradiction, in any order. Not given: no such judge."""
    most_entailment: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    """The most that a caption may entail its negative; above it the negative is rejected as nli_entailed."""
    least_contradiction: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    """The least that a caption has to contradict its negative; below it the negative is rejected as
    nli_not_contradicted. 0 asks for nothing."""
    least_paraphrase: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    """The least that a caption and its paraphrase have to entail each other; below it, in either direction, the
    paraphrase is rejected as nli_not_entailed."""
    batch_size: int = field(default=64, metadata={"min": 1, "max": 1_000_000})
    """Pairs in a batch."""
    device: str = "auto"
    """cpu, cuda, or another of torch's names; auto: a GPU where there is one."""


class NliJudge:
    """Rejects negatives that their captions entail, and paraphrases that do not say the same.

    Args:
        settings: see `NliSettings`; the checkpoint has to be given.

    Raises:
        InputError: the checkpoint cannot be loaded, or lacks one of the three classes; there is no such device.
    """

    name = "nli"

    def __init__(self, settings: NliSettings) -> None:
        self.settings = settings
        self._folder = str(settings.checkpoint)
        # before the weights are read: files that change meanwhile are another state
        bounds = (settings.most_entailment, settings.least_contradiction, settings.least_paraphrase)
        self.identity = json.dumps([self.name, bounds, folder_state(self._folder)])
        kind = f"a sequence classifier with the classes {', '.join(CLASSES)}"
        with checkpoint_errors("`truth.nli.checkpoint`", kind, self._folder):
            self._tokenizer, self._model = _load(self._folder)
        move_to(self._model, settings.device, "`truth.nli.device`")
        labels = {label.lower(): place for place, label in self._model.config.id2label.items()}
        self._order = [labels[name] for name in CLASSES]
        # a tokenizer that does not know its length has 1e30; RoBERTa counts positions from behind the padding's id
        positions = getattr(self._model.config, "max_position_embeddings", None)
        self._longest = min(self._tokenizer.model_max_length, positions - 2 if positions else 512)

    def rejections(self, statements: Sequence[Statement]) -> list[str]:
        """See `TruthJudge.rejections`.

        Raises:
            InputError: the model's logits are not finite.
        """
        pairs = [(one.caption, one.text) for one in statements]
        # a negative may say more than its caption: what it entails does not make it true
        backward = [(one.text, one.caption) for one in statements if one.kind == PARAPHRASE]
        # each once: captions repeat, and with them what is written for them
        wanted = list(dict.fromkeys([*pairs, *backward]))
        found = dict(zip(wanted, self.probabilities(wanted), strict=True))
        return [self._rejection(one, found) for one in statements]

    def _rejection(self, one: Statement, found: dict[tuple[str, str], np.ndarray]) -> str:
        entailed, _, contradicted = found[one.caption, one.text]
        if one.kind == PARAPHRASE:
            both = min(entailed, found[one.text, one.caption][0])
            return "nli_not_entailed" if both < self.settings.least_paraphrase else ""
        if entailed > self.settings.most_entailment:
            return "nli_entailed"
        return "nli_not_contradicted" if contradicted < self.settings.least_contradiction else ""

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """[N, 3] probabilities of `CLASSES` for (premise, hypothesis) pairs, float64.

        A pair that is longer than the model reads is cut at the end of its longer text.

        Raises:
            InputError: the model's logits are not finite.
        """
        import torch

        found = np.zeros((len(pairs), len(CLASSES)))
        order = sorted(range(len(pairs)), key=lambda row: sum(map(len, pairs[row])))  # little padding
        for start in range(0, len(order), self.settings.batch_size):
            rows = order[start : start + self.settings.batch_size]
            premises, hypotheses = zip(*(pairs[row] for row in rows), strict=True)
            encoded = self._tokenizer(
                list(premises),
                list(hypotheses),
                padding=True,
                truncation="longest_first",
                max_length=self._longest,
                return_tensors="pt",
            )
            with torch.inference_mode():
                logits = self._model(**encoded.to(self._model.device)).logits
            found[rows] = logits[:, self._order].double().softmax(dim=1).cpu().numpy()
        # NaN is neither above nor below a bound, so that every text would pass
        if not np.isfinite(found).all():
            raise InputError(
                f"The logits of {quoted(self._folder, 200)} must be finite, and are not. Use another model."
            )
        return found


def _load(folder: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification

    tokenizer, model = load_with_tokenizer(AutoModelForSequenceClassification, folder, local=True)
    if tokenizer.pad_token_id is None:
        raise ValueError("its tokenizer has no padding token")
    labels = model.config.id2label
    if sorted(labels) != [0, 1, 2] or sorted(str(label).lower() for label in labels.values()) != sorted(CLASSES):
        raise ValueError(f"its classes (id2label) are {labels}")
    return tokenizer, model
