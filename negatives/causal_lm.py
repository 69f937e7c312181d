"""A causal language model from a folder: how likely each token of a text is behind those before it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from negatives.published_models import (
    checkpoint_errors,
    load_with_tokenizer,
    move_to,
    padded_batches,
    refuse_unknown_tokens,
)
from negatives.tables.files import InputError, quoted

LONGEST = 512
"""The most tokens that are read of a text. The logits take 4 bytes for every token of a batch and of the vocabulary."""


class CausalLm:
    """A causal language model in float32 with its tokenizer.

    Args:
        folder: of safetensors with the tokenizer.
        section: of the settings, which has `checkpoint` and `device`, for errors.
        device: auto, or a name of PyTorch's.
        longest: the most tokens that are read of a text, with the one that begins it; the model may read fewer.

    Raises:
        InputError: the folder cannot be loaded, or holds no causal language model; there is no such device.
    """

    def __init__(self, folder: str, *, section: str, device: str = "auto", longest: int = LONGEST) -> None:
        self._folder = folder
        with checkpoint_errors(f"`{section}.checkpoint`", "a causal language model", folder):
            self._tokenizer, self._model = _load(folder)
        move_to(self._model, device, f"`{section}.device`")
        # a tokenizer that does not know its length has 1e30
        positions = getattr(self._model.config, "max_position_embeddings", None) or longest
        self._longest = min(self._tokenizer.model_max_length, positions, longest)

    def token_log_probabilities(self, texts: Sequence[str], batch_size: int) -> list[np.ndarray]:
        """For each text the log-probability of each of its tokens in nats behind those before it, float64.

        The first one stands behind the token that begins a text; the text's end is not asked. A text that is longer
        than the model reads is cut at its end. Batch mates change nothing but the last digits.

        Raises:
            InputError: a token has no embedding in the model; the model's logits are not finite.
        """
        encoded = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        rows = [[_start(self._tokenizer), *ids][: self._longest] for ids in encoded]
        refuse_unknown_tokens(self._model, rows, self._folder)
        found: list[np.ndarray] = [np.zeros(0)] * len(rows)
        for places, ids, exists in padded_batches(rows, batch_size, self._model.device):
            values = self._log_probabilities(ids, exists)
            stops = np.cumsum([0, *(len(rows[place]) - 1 for place in places)])
            for place, (start, stop) in zip(places, pairwise(stops), strict=True):
                found[place] = values[start:stop]
        # NaN is not beyond a bound, so that every text would pass
        if not all(np.isfinite(values).all() for values in found):
            raise InputError(
                f"The logits of {quoted(self._folder, 200)} must be finite, and are not. Use another model."
            )
        return found

    def _log_probabilities(self, ids: Any, exists: Any) -> np.ndarray:
        """Those of all tokens of a batch, one text behind the other."""
        import torch

        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=exists.long()).logits[:, :-1]
            own = logits.gather(2, ids[:, 1:, None])[:, :, 0] - logits.logsumexp(dim=2)
            values: np.ndarray = own[exists[:, 1:]].cpu().double().numpy()
        return values


def _start(tokenizer: Any) -> int | None:
    # where there is no token for a beginning, one text's end begins the next, as in GPT-2's training
    start: int | None = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return start


def _load(folder: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    tokenizer, model = load_with_tokenizer(AutoModelForCausalLM, folder, local=True)
    if _start(tokenizer) is None:
        raise ValueError("its tokenizer has no token that begins or ends a text")
    if _sees_what_follows(model):
        raise ValueError("its tokens see what follows them, as a masked language model's do")
    model.config.use_cache = False
    return tokenizer, model


def _sees_what_follows(model: Any) -> bool:
    """Whether another last token changes the logits before it: Transformers loads BERT as a causal model too."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[0, 0, 1], [0, 0, 2]])).logits[:, :-1]
    # rounding differs by row
    return bool((logits[0] - logits[1]).abs().max() > 1e-4 * logits.abs().max())
