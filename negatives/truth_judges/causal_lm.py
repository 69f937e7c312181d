"""A judge by a causal language model: a text that is much less likely than its caption is hardly English.

Offline writers swap phrases by rule and write the absurd ("a frisbee holding a man"). Likelihood tells it from what a
person could have meant (Lau et al., Cognitive Science 2017). The caption is the yardstick, so that its own bad English
is forgiven.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from negatives.published_models import load_with_tokenizer, move_to
from negatives.tables.files import InputError, quoted
from negatives.truth_judges.judge import Statement, folder_state

LONGEST = 512
"""The most tokens that are read of a text. The logits take 4 bytes for every token of a batch and of the vocabulary."""


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
        self._folder = str(settings.checkpoint)
        # before the weights are read: files that change meanwhile are another state
        self.identity = json.dumps([self.name, settings.most_drop, folder_state(self._folder)])
        self._tokenizer, self._model = _load(self._folder)
        move_to(self._model, settings.device, "`truth.lm.device`")
        # a tokenizer that does not know its length has 1e30
        positions = getattr(self._model.config, "max_position_embeddings", None) or LONGEST
        self._longest = min(self._tokenizer.model_max_length, positions, LONGEST)

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
        encoded = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        rows = [[_start(self._tokenizer), *ids][: self._longest] for ids in encoded]
        known = self._model.get_input_embeddings().num_embeddings
        if max(map(max, rows), default=0) >= known:
            raise InputError(
                f"The tokenizer of {quoted(self._folder, 200)} must have no token beyond the model's {known}, and has. "
                "Put the model's own beside it."
            )
        found = np.zeros(len(rows))
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))  # little padding
        for start in range(0, len(order), self.settings.batch_size):
            places = order[start : start + self.settings.batch_size]
            found[places] = self._log_likelihoods([rows[place] for place in places])
        # NaN is not beyond a bound, so that every text would pass
        if not np.isfinite(found).all():
            raise InputError(
                f"The logits of {quoted(self._folder, 200)} must be finite, and are not. Use another model."
            )
        return found

    def _log_likelihoods(self, rows: list[list[int]]) -> np.ndarray:
        import torch

        # on the right whatever the tokenizer's side: no token sees what follows it, and positions count from the start
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        exists = torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        padded, exists = padded.to(self._model.device), exists.to(self._model.device)
        with torch.inference_mode():
            logits = self._model(input_ids=padded, attention_mask=exists.long()).logits[:, :-1]
            own = logits.gather(2, padded[:, 1:, None])[:, :, 0] - logits.logsumexp(dim=2)
            total: np.ndarray = own.double().masked_fill(~exists[:, 1:], 0).sum(dim=1).cpu().numpy()
        return total


def _at_length_of(caption: str, text: str) -> float:
    return min(1.0, len(caption.split()) / max(1, len(text.split())))


def _start(tokenizer: Any) -> int | None:
    # where there is no token for a beginning, one text's end begins the next, as in GPT-2's training
    start: int | None = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return start


def _load(folder: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    try:
        tokenizer, model = load_with_tokenizer(AutoModelForCausalLM, folder, local=True)
        if _start(tokenizer) is None:
            raise ValueError("its tokenizer has no token that begins or ends a text")
        if _sees_what_follows(model):
            raise ValueError("its tokens see what follows them, as a masked language model's do")
    except Exception as error:  # readers of files that anyone wrote raise whatever they stumble over
        raise InputError(
            "`truth.lm.checkpoint` must be a causal language model, a folder of safetensors with its tokenizer, "
            f"cannot use {quoted(folder, 200)}: {quoted(str(error).strip().partition(chr(10))[0], 200)}. "
            "Give another folder."
        ) from error
    model.config.use_cache = False
    return tokenizer, model


def _sees_what_follows(model: Any) -> bool:
    """Whether another last token changes the logits before it: Transformers loads BERT as a causal model too."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[0, 0, 1], [0, 0, 2]])).logits[:, :-1]
    # rounding differs by row
    return bool((logits[0] - logits[1]).abs().max() > 1e-4 * logits.abs().max())
