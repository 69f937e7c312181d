"""A judge by a frozen sentence encoder: logistic regression on what a published model makes of a text.

Such features know synonyms and say little about single words, so that they see other habits than n-grams do. They are
computed once; a fit takes as long as that of any linear judge.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from negatives.judging.linear import LinearJudge
from negatives.published_models import (
    checkpoint_errors,
    each_wording,
    load_with_tokenizer,
    move_to,
    padded_batches,
    refuse_unknown_tokens,
)
from negatives.tables.files import InputError, quoted

if TYPE_CHECKING:
    from negatives.judging.settings import JudgeSettings

REGULARISATION = 10.0
"""scikit-learn's C, for features of unit length. On ChatGPT's negatives and all-MiniLM-L6-v2, values from 10 to 1000
and standardised features all reach the same within 0.015."""


@dataclass(frozen=True)
class EncoderSettings:
    """The encoder judge: logistic regression on the features of a frozen sentence encoder."""

    checkpoint: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder of a text encoder in safetensors with its tokenizer, such as sentence-transformers/all-MiniLM-L6-v2; the
    judge needs one."""
    batch_size: int = field(default=64, metadata={"min": 1, "max": 1_000_000})
    """Texts in a batch."""
    max_tokens: int = field(default=64, metadata={"min": 8, "max": 1_000_000})
    """Tokens of a text; longer ones are cut."""
    device: str = "auto"
    """cpu, cuda, or another of torch's names; auto: a GPU where there is one."""


def build_encoder(settings: JudgeSettings) -> LinearJudge:
    """The encoder judge as set; its model is loaded when it encodes."""
    section = settings.encoder
    return LinearJudge("encoder", lambda texts: encoder_features(texts, section), REGULARISATION)


def encoder_features(texts: Sequence[str], settings: EncoderSettings) -> np.ndarray:
    """[N, F] for each text the mean of its tokens' last hidden states, brought to unit length, float32.

    As in Sentence-BERT (Reimers and Gurevych, EMNLP 2019). Equal texts have equal features, bit by bit.

    Args:
        texts: to read.
        settings: `EncoderSettings`; the checkpoint has to be given.

    Raises:
        InputError: the checkpoint cannot be loaded, or is no text encoder; there is no such device; a token has no
            embedding in the model; a feature is not finite.
    """
    folder = str(settings.checkpoint)
    with checkpoint_errors("`judge.encoder.checkpoint`", "a text encoder", folder):
        tokenizer, model = _load(_transformer_folder(Path(folder)))
    move_to(model, settings.device, "`judge.encoder.device`")
    # RoBERTa counts positions from behind the padding's id; a tokenizer that does not know its length has 1e30
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = min(settings.max_tokens, tokenizer.model_max_length, positions - 2 if positions else settings.max_tokens)

    def read(wordings: list[str]) -> np.ndarray:
        encoded = tokenizer(wordings, truncation=True, max_length=longest)["input_ids"]
        # some tokenizers make no token at all of an empty text
        rows = [row or [tokenizer.pad_token_id or tokenizer.eos_token_id or 0] for row in encoded]
        refuse_unknown_tokens(model, rows, folder)
        return _pooled(model, rows, settings.batch_size)

    found = each_wording(texts, read)
    if not np.isfinite(found).all():
        raise InputError(f"The features of {quoted(folder, 200)} must be finite, and are not. Use another model.")
    return found


def _pooled(model: Any, rows: Sequence[Sequence[int]], batch_size: int) -> np.ndarray:
    import torch

    found = np.zeros((len(rows), model.config.get_text_config().hidden_size), dtype=np.float32)
    for places, ids, exists in padded_batches(rows, batch_size, model.device):
        with torch.inference_mode():
            hidden = model(input_ids=ids, attention_mask=exists.long()).last_hidden_state
            # padding has a hidden state too
            total = hidden.masked_fill(~exists[:, :, None], 0.0).sum(dim=1)
            found[places] = torch.nn.functional.normalize(total / exists.sum(dim=1, keepdim=True)).cpu().numpy()
    return found


def _transformer_folder(folder: Path) -> str:
    """Where the transformer of a folder is: sentence-transformers may have it below, beside its pooling."""
    listed = folder / "modules.json"
    modules = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else []
    paths = [module["path"] for module in modules if module["type"].endswith("Transformer")]
    return str(folder / paths[0] if paths else folder)


def _load(folder: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModel

    # a pooler is not read; models trained without one have none to give
    tokenizer, model = load_with_tokenizer(AutoModel, folder, local=True, unread=("pooler.",))
    tokenizer.truncation_side = "right"
    if model.config.is_encoder_decoder:
        raise ValueError("it has a decoder, whose states are not those of the text")
    # one that needs an image, or has no hidden states, fails here rather than in the middle of the texts
    with torch.inference_mode():
        states = model(input_ids=torch.zeros(1, 2, dtype=torch.long), attention_mask=torch.ones(1, 2))
        if states.last_hidden_state.shape[:2] != (1, 2):
            raise ValueError("it gives no state for each token")
    return tokenizer, model
