"""A judge that reads: a transformer with one logit, fine-tuned from a checkpoint or trained from scratch.

Where n-grams see a few words at a time, a transformer sees the sentence, and a pretrained one knows how people write.
Every fit is a training run. From scratch, on some thousands of short captions, it stays a little behind n-grams;
learning rate 1e-3 and 6 epochs suit it there.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from negatives.judging.judge import Scorer
from negatives.judging.transformer_settings import TransformerSettings
from negatives.judging.transformer_training import (
    DROPOUT,
    Batches,
    JudgeModule,
    TokenIds,
    class_weights,
    schedule,
    word_ids,
)
from negatives.published_models import loading_quietly

if TYPE_CHECKING:
    from negatives.judging.settings import JudgeSettings
from negatives.tables.files import InputError, quoted

SCORE_BATCH = 256  # texts scored at a time
GRADIENT_CLIP = 1.0  # largest norm of the gradient


def build_transformer(settings: JudgeSettings) -> TransformerJudge:
    """The transformer judge as set."""
    return TransformerJudge(settings.transformer)


@dataclass(frozen=True)
class TransformerJudge:
    """A transformer that is fitted as a classifier of texts, or as a scorer whose difference is the logit of a pair.

    A fit depends on its arguments only and leaves torch's generators as they were; on a GPU, sums in another order may
    move the last digits.

    Args:
        settings: see `TransformerSettings`.
        seed: of new weights, order and dropout.
        name: names the judge.
        threads: False: a fit draws from torch's generator, which threads share.
    """

    settings: TransformerSettings = field(default_factory=TransformerSettings)
    seed: int = 0
    name: str = "transformer"
    threads: bool = False

    def encode(self, texts: Sequence[str]) -> TokenIds:
        """Token ids of the texts; from scratch, the vocabulary is that of all of them (see `word_ids`).

        Raises:
            InputError: the checkpoint has no tokenizer that can be read.
        """
        if self.settings.checkpoint is None:
            return word_ids(texts, self.settings.max_tokens)
        with _quiet(), _checkpoint_errors(self.settings.checkpoint):
            tokenizer = AutoTokenizer.from_pretrained(self.settings.checkpoint, trust_remote_code=False)
        # a tokenizer that does not know its length has 1e30 here
        cut = min(self.settings.max_tokens, tokenizer.model_max_length)
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        # some tokenizers make no token at all of an empty text
        ids = [row or [padding] for row in tokenizer(list(texts), truncation=True, max_length=cut)["input_ids"]]
        return TokenIds([np.array(row, dtype=np.int64) for row in ids], len(tokenizer), padding)

    def fit(self, encoded: TokenIds, rows: np.ndarray, labels: np.ndarray) -> Scorer:
        """See `Judge.fit`.

        Raises:
            InputError: the checkpoint cannot be loaded.
        """
        return self._fitted(encoded, rows[:, None], labels)

    def fit_pairs(self, encoded: TokenIds, pairs: np.ndarray) -> Scorer:
        """See `Judge.fit_pairs`; the loss is that of Bradley and Terry (1952).

        Raises:
            InputError: the checkpoint cannot be loaded.
        """
        return self._fitted(encoded, pairs, np.ones(len(pairs), dtype=np.int64))

    def _fitted(self, encoded: TokenIds, examples: np.ndarray, labels: np.ndarray) -> Scorer:
        settings = self.settings
        lengths = encoded.lengths[examples].max(axis=1)
        order = list(schedule(lengths, settings.batch_size, settings.epochs, np.random.default_rng(self.seed)))
        batches = Batches(encoded, examples, labels, class_weights(labels), order)
        # a fit's seed must neither depend on what was drawn before it nor show in what is drawn after it
        with _quiet(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(self.seed)
            module = JudgeModule(new_network(settings, encoded), settings.lr, len(order), settings.checkpoint is None)
            trainer = _trainer(settings.accelerator)
            trainer.fit(module, batches)
            device = trainer.strategy.root_device
        network = module.network.to(device).eval()
        return lambda rows: score(network, encoded[rows], device)


def _trainer(accelerator: str) -> lightning.Trainer:
    try:
        return lightning.Trainer(
            max_epochs=1,  # the schedule holds all epochs
            accelerator=accelerator,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=GRADIENT_CLIP,
        )
    except MisconfigurationException as error:
        raise InputError(
            f"`judge.transformer.accelerator` is {accelerator}, and this machine has none. Use auto."
        ) from error


def new_network(settings: TransformerSettings, encoded: TokenIds) -> nn.Module:
    """The network that a fit starts from: the checkpoint's, or one from scratch, drawn from torch's generator.

    Args:
        settings: checkpoint, or sizes.
        encoded: texts, whose vocabulary it takes.

    Raises:
        InputError: the checkpoint cannot be loaded.
    """
    if settings.checkpoint is not None:
        return load_network(settings.checkpoint, encoded.padding)
    config = DistilBertConfig(
        vocab_size=encoded.vocabulary,
        dim=settings.hidden_size,
        hidden_dim=4 * settings.hidden_size,
        n_layers=settings.layers,
        n_heads=settings.heads,
        max_position_embeddings=settings.max_tokens,
        pad_token_id=encoded.padding,
        dropout=DROPOUT,
        seq_classif_dropout=DROPOUT,
        attention_dropout=0.0,  # with it, attention takes a slow path on a CPU, and learns less
    )
    config.num_labels = 1
    return DistilBertForSequenceClassification(config)


def load_network(checkpoint: str, padding: int) -> nn.Module:
    """A published encoder with a new head of one logit, drawn from torch's generator.

    Args:
        checkpoint: hub name or folder.
        padding: the id that fills up a batch.

    Raises:
        InputError: it cannot be loaded, or its weights are not those of its encoder.
    """
    with _checkpoint_errors(checkpoint):
        network, found = AutoModelForSequenceClassification.from_pretrained(
            checkpoint,
            num_labels=1,
            # a checkpoint in half precision would be trained in it
            dtype=torch.float32,
            # a pickled checkpoint, or code beside it, would run whatever it holds
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # of a head for other classes
            output_loading_info=True,
        )
    # Transformers only warns where an encoder finds no weights of its own in a file, and draws them at random
    lacking = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    # a pooler on top of the encoder is part of the head: models trained without one have none to give
    lacking = {key for key in lacking if key.startswith(f"{network.base_model_prefix}.") and ".pooler." not in key}
    if lacking:  # an encoder at random is no pretrained judge, and would only look like a weak one
        raise InputError(_refusal(checkpoint, f"no weights for {len(lacking)} tensors, such as {min(lacking)}"))
    network.config.pad_token_id = padding
    return network


def score(network: nn.Module, encoded: TokenIds, device: torch.device) -> np.ndarray:
    """[N] scores of texts, float64; each depends on its text only.

    Args:
        network: in eval mode, on `device`.
        encoded: the texts.
        device: to score on.
    """
    scores = np.zeros(len(encoded))
    # texts of one length together: little padding, and the mask keeps batch mates out of each other's scores
    order = np.argsort(encoded.lengths, kind="stable")
    with torch.inference_mode():
        for start in range(0, len(order), SCORE_BATCH):
            rows = order[start : start + SCORE_BATCH]
            ids, mask = (tensor.to(device) for tensor in encoded[rows].padded())
            scores[rows] = network(input_ids=ids, attention_mask=mask).logits[:, 0].double().cpu().numpy()
    return scores


@contextmanager
def _checkpoint_errors(checkpoint: str) -> Iterator[None]:
    """Turns the errors of loading a checkpoint into an InputError that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(_refusal(checkpoint, str(error).strip().partition("\n")[0])) from error


def _refusal(checkpoint: str, fault: str) -> str:
    return (
        "The transformer judge needs a text encoder in safetensors with its tokenizer, cannot load "
        f"{quoted(checkpoint, 200)}: {fault.rstrip('.')}. Give a folder or hub name that holds one, or null to train "
        "from scratch."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advertisements and Transformers' notes on heads and loading; errors still show."""
    loggers = [logging.getLogger(library) for library in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with loading_quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    # whoever calls a judge keeps the levels that were set before
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
