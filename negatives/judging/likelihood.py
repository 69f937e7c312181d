"""A judge by likelihood: logistic regression on how probable a causal language model finds a text.

A writer's texts are too probable, or too strange, as a whole, where no single word gives them away (Gehrmann et al.,
"GLTR", ACL 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from negatives.causal_lm import CausalLm
from negatives.judging.linear import LinearJudge
from negatives.published_models import each_wording

if TYPE_CHECKING:
    from negatives.judging.settings import JudgeSettings


@dataclass(frozen=True)
class LikelihoodSettings:
    """The judge by likelihood: logistic regression on log-probabilities under a causal language model."""

    checkpoint: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder of a causal language model in safetensors with its tokenizer, such as HuggingFaceTB/SmolLM2-135M; the
    judge needs one."""
    batch_size: int = field(default=64, metadata={"min": 1, "max": 1_000_000})
    """Texts in a batch."""
    max_tokens: int = field(default=128, metadata={"min": 8, "max": 1_000_000})
    """Tokens of a text, and one that begins it; longer texts are cut. A batch's logits take 4 bytes for every token of
    it and of the vocabulary."""
    device: str = "auto"
    """cpu, cuda, or another of torch's names; auto: a GPU where there is one."""


def build_lm(settings: JudgeSettings) -> LinearJudge:
    """The judge by likelihood as set; its model is loaded when it encodes."""
    section = settings.lm
    return LinearJudge("lm", lambda texts: likelihood_features(texts, section), standardised=True)


LIKELIHOOD_FEATURES: dict[str, Callable[[np.ndarray], float]] = {
    "log-probability": lambda values: float(values.sum()),
    "log-probability of a token": lambda values: float(values.mean()) if len(values) else 0.0,
    "tokens": lambda values: float(len(values)),
}
"""Name -> a number from the log-probabilities of a text's tokens [L], in nats; an empty text has none, and 0 in all.

The least likely token, the spread, and the last half add nothing on ChatGPT's negatives under SmolLM2-135M-Instruct."""


def likelihood_features(texts: Sequence[str], settings: LikelihoodSettings) -> np.ndarray:
    """[N, F] the features of `LIKELIHOOD_FEATURES`, float32; equal texts have equal ones, bit by bit.

    Args:
        texts: to read.
        settings: `LikelihoodSettings`; the checkpoint has to be given.

    Raises:
        InputError: see `CausalLm` and `CausalLm.token_log_probabilities`.
    """
    model = CausalLm(
        str(settings.checkpoint), section="judge.lm", device=settings.device, longest=settings.max_tokens + 1
    )

    def read(wordings: list[str]) -> np.ndarray:
        found = model.token_log_probabilities(wordings, settings.batch_size)
        rows = [[feature(values) for feature in LIKELIHOOD_FEATURES.values()] for values in found]
        return np.array(rows, dtype=np.float32).reshape(len(rows), len(LIKELIHOOD_FEATURES))

    return each_wording(texts, read)
