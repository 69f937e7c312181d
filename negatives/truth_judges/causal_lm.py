"""A judge by a causal language model: a text that is much less likely than its caption is hardly English.

Offline writers swap phrases by rule and write the absurd ("a frisbee holding a man"). Likelihood tells it from what a
person could have meant (Lau et al., Cognitive Science 2017). The caption is the yardstick, so that its own bad English
is forgiven.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from negatives.causal_lm import CausalLm
from negatives.truth_judges.judge import Statement, folder_state


@dataclass(frozen=True)
class LmSettings:
    """The judge by a causal language model."""

    switch: ClassVar[str] = "checkpoint"
    may_differ: ClassVar[tuple[str, ...]] = ("batch_size", "device")
    meanings: ClassVar[Mapping[str, str]] = {
        "lm_unlikely": "A language model finds it much less likely than its caption.",
    }

    checkpoint: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder of a causal language model in safetensors with its tokenizer, such as HuggingFaceTB/SmolLM2-135M. Not
    given: no such judge."""
    most_drop: float = field(default=8.0, metadata={"min": 0.0, "max": 1_000_000.0})
    """The most nats by which a text's log-probability may be below its caption's; beyond it the text is rejected as
    lm_unlikely. The default was chosen for SmolLM2-135M-Instruct; another model has another scale."""
    batch_size: int = field(default=64, metadata={"min": 1, "max": 1_000_000})
    """Texts in a batch."""
    device: str = "auto"
    """cpu, cuda, or another of torch's names; auto: a GPU where there is one."""


class LmJudge:
    """Rejects negatives and paraphrases that are much less likely than their captions.

    Args:
        settings: see `LmSettings`; the checkpoint has to be given.

    Raises:
        InputError: the checkpoint cannot be loaded, or is no causal language model; there is no such device.
    """

    name = "lm"

    def __init__(self, settings: LmSettings) -> None:
        self.settings = settings
        # before the weights are read: files that change meanwhile are another state
        self.identity = json.dumps([self.name, settings.most_drop, folder_state(str(settings.checkpoint))])
        self._model = CausalLm(str(settings.checkpoint), section="truth.lm", device=settings.device)

    def rejections(self, statements: Sequence[Statement]) -> list[str]:
        """See `TruthJudge.rejections`.

        Raises:
            InputError: see `log_likelihoods`.
        """
        drops = self.drops(statements)
        return ["lm_unlikely" if drop > self.settings.most_drop else "" for drop in drops]

    def drops(self, statements: Sequence[Statement]) -> np.ndarray:
        """[N] nats by which each text's log-probability is below its caption's; negative where it is above, float64.

        A longer text is less likely whatever it says. One of more words than its caption is therefore taken at the
        caption's length: its log-probability times the ratio of their words.

        Raises:
            InputError: see `log_likelihoods`.
        """
        # each once: captions repeat
        wanted = list(dict.fromkeys(text for one in statements for text in (one.caption, one.text)))
        found = dict(zip(wanted, self.log_likelihoods(wanted), strict=True))
        drops = [found[one.caption] - found[one.text] * _at_length_of(one.caption, one.text) for one in statements]
        return np.array(drops, dtype=np.float64)

    def log_likelihoods(self, texts: Sequence[str]) -> np.ndarray:
        """[N] log-probability of each text in nats behind the token that begins a text, float64; its end is not asked.

        A text that is longer than the model reads is cut at its end.

        Raises:
            InputError: a token has no embedding in the model; the model's logits are not finite.
        """
        found = self._model.token_log_probabilities(texts, self.settings.batch_size)
        return np.array([values.sum() for values in found], dtype=np.float64)


def _at_length_of(caption: str, text: str) -> float:
    return min(1.0, len(caption.split()) / max(1, len(text.split())))
