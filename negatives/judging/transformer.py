"""A judge that reads: a transformer with one logit, fine-tuned from a checkpoint or trained from scratch.

Where n-grams see a few words at a time, a transformer sees the sentence, and a pretrained one knows how people write.
Every fit is a training run. From scratch, on some thousands of short captions, it stays a little behind n-grams;
learning rate 1e-3 and 6 epochs suit it there.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)
from transformers.utils import logging as transformers_logging

from negatives.judging.linear import Scorer
from negatives.tables.files import InputError, show

WORD_PATTERN = r"\w+|[^\w\s]"
PADDING, FIRST, UNKNOWN = range(3)  # tokens of a vocabulary from scratch; its words follow
SCORED = 256  # texts scored at a time
SORTED = 16  # batches among which texts are sorted by length
DROPOUT = 0.2  # from scratch, of activations and of words
WEIGHT_DECAY = 0.05
CLIPPED = 1.0  # norm of the gradient
WARMUP = 0.1  # part of the steps


@dataclass(frozen=True)
class TokenIds:
    """Token ids of texts, indexed by an array of rows.

    Attributes:
        ids: for each text its ids, at least one.
        vocabulary: how many different tokens there are.
        padding: the id that fills up a batch; attention leaves it out.
    """

    ids: list[np.ndarray]
    vocabulary: int
    padding: int

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: np.ndarray) -> TokenIds:
        return TokenIds([self.ids[row] for row in rows], self.vocabulary, self.padding)

    @property
    def lengths(self) -> np.ndarray:
        """[N] tokens of each text."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    def padded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, L] ids and [N, L] attention mask, as long as the longest text."""
        mask = np.arange(self.lengths.max()) < self.lengths[:, None]
        ids = np.full(mask.shape, self.padding, dtype=np.int64)
        ids[mask] = np.concatenate(self.ids)
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


@dataclass(frozen=True)
class TransformerJudge:
    """A transformer that is fitted as a classifier of texts, or as a scorer whose difference is the logit of a pair.

    A fit depends on its arguments only and leaves torch's generators as they were; on a GPU, sums in another order may
    move the last digits.

    Args:
        checkpoint: hub name or folder of an encoder in safetensors with its tokenizer; None: from scratch.
        hidden_size, layers, heads: of a model from scratch, a DistilBERT.
        epochs: passes over the texts or pairs.
        lr: peak learning rate, after a linear warm-up and before a linear decay.
        batch_size: texts or pairs in a batch.
        max_tokens: longer texts are cut.
        accelerator: Lightning's name of the hardware.
        seed: of new weights, order and dropout.
        name: names the judge.
    """

    checkpoint: str | None = "distilbert-base-uncased"
    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    epochs: int = 3
    lr: float = 5e-5
    batch_size: int = 64
    max_tokens: int = 64
    accelerator: str = "auto"
    seed: int = 0
    name: str = "transformer"
    threads: bool = False

    def encode(self, texts: Sequence[str]) -> TokenIds:
        """Token ids of the texts; from scratch, the vocabulary is that of all of them (see `word_ids`).

        Raises:
            InputError: the checkpoint has no tokenizer that can be read.
        """
        if self.checkpoint is None:
            return word_ids(texts, self.max_tokens)
        with _quiet(), _named(self.checkpoint):
            tokenizer = AutoTokenizer.from_pretrained(self.checkpoint, trust_remote_code=False)
        cut = min(self.max_tokens, tokenizer.model_max_length)
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        # some tokenizers make no token at all of an empty text
        ids = [row or [padding] for row in tokenizer(list(texts), truncation=True, max_length=cut)["input_ids"]]
        return TokenIds([np.array(row, dtype=np.int64) for row in ids], len(tokenizer), padding)

    def fit(self, encoded: TokenIds, rows: np.ndarray, labels: np.ndarray) -> Scorer:
        """See `judges.Judge.fit`.

        Raises:
            InputError: the checkpoint cannot be loaded.
        """
        return self._fitted(encoded, rows[:, None], labels)

    def fit_pairs(self, encoded: TokenIds, pairs: np.ndarray) -> Scorer:
        """See `judges.Judge.fit_pairs`; the loss is that of Bradley and Terry (1952).

        Raises:
            InputError: the checkpoint cannot be loaded.
        """
        return self._fitted(encoded, pairs, np.ones(len(pairs), dtype=np.int64))

    def _fitted(self, encoded: TokenIds, examples: np.ndarray, labels: np.ndarray) -> Scorer:
        lengths = encoded.lengths[examples].max(axis=1)
        order = list(schedule(lengths, self.batch_size, self.epochs, np.random.default_rng(self.seed)))
        batches = _Batches(encoded, examples, labels, class_weights(labels), order)
        with _quiet(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(self.seed)
            module = JudgeModule(self._network(encoded), self.lr, len(order), self.checkpoint is None)
            trainer = self._trainer()
            trainer.fit(module, batches)
            device = trainer.strategy.root_device
        network = module.network.to(device).eval()
        return lambda rows: score(network, encoded[rows], device)

    def _trainer(self) -> lightning.Trainer:
        try:
            return lightning.Trainer(
                max_epochs=1,  # the schedule holds all epochs
                accelerator=self.accelerator,
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                gradient_clip_val=CLIPPED,
            )
        except MisconfigurationException as error:
            raise InputError(
                f"`judge.transformer.accelerator` is {self.accelerator}, and this machine has none. Use auto."
            ) from error

    def _network(self, encoded: TokenIds) -> nn.Module:
        if self.checkpoint is not None:
            return load_network(self.checkpoint, encoded.padding)
        config = DistilBertConfig(
            vocab_size=encoded.vocabulary,
            dim=self.hidden_size,
            hidden_dim=4 * self.hidden_size,
            n_layers=self.layers,
            n_heads=self.heads,
            max_position_embeddings=self.max_tokens,
            pad_token_id=encoded.padding,
            dropout=DROPOUT,
            seq_classif_dropout=DROPOUT,
            attention_dropout=0.0,  # with it, attention takes a slow path on a CPU, and learns less
        )
        config.num_labels = 1
        return DistilBertForSequenceClassification(config)


class JudgeModule(lightning.LightningModule):
    """Trains a sequence classifier with one logit on single texts or on pairs.

    Args:
        network: (`input_ids`, `attention_mask`) -> `logits` [N, 1].
        lr: peak learning rate.
        steps: in the whole training.
        word_dropout: whether words of a vocabulary from scratch are taken out at random.
    """

    def __init__(self, network: nn.Module, lr: float, steps: int, word_dropout: bool) -> None:
        super().__init__()
        self.network = network.train()  # from_pretrained leaves it in eval mode
        self.lr, self.steps, self.word_dropout = lr, steps, word_dropout

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The loss of a batch of B texts (`input_ids` [B, L]) or pairs ([2B, L], each positive before its negative)."""
        ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
        if self.word_dropout:
            ids = without_words(ids.view(len(labels), -1), DROPOUT).view(ids.shape)
        scores = self.network(input_ids=ids, attention_mask=mask).logits
        return judge_loss(scores.view(len(labels), -1), labels, batch["weights"])

    def configure_optimizers(self) -> Any:
        """AdamW, with a linear warm-up and a linear decay."""
        fused = self.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=WEIGHT_DECAY, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_linear(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class _Batches:
    """The batches of a whole training; `examples` are [n, 1] texts or [n, 2] pairs."""

    encoded: TokenIds
    examples: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    order: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for members in self.order:
            ids, mask = self.encoded[self.examples[members].ravel()].padded()
            yield {
                "input_ids": ids,
                "attention_mask": mask,
                "labels": torch.from_numpy(self.labels[members]).float(),
                "weights": torch.from_numpy(self.weights[members]).float(),
            }


def word_ids(texts: Sequence[str], max_tokens: int) -> TokenIds:
    """Ids of the lower-cased words and marks of texts, behind a first token that stands for the text.

    The vocabulary is what occurs in at least two of the texts, sorted: it depends on neither their order nor the
    process, unlike a trained WordPiece. Texts that a fit leaves out are among them; that a word exists says nothing of
    its label. A language without spaces has few words that occur twice.

    Args:
        texts: to encode.
        max_tokens: longer texts are cut.

    >>> [row.tolist() for row in word_ids(["A dog.", "a cat.", ""], max_tokens=8).ids]
    [[1, 4, 2, 3], [1, 4, 2, 3], [1]]
    """
    words = [re.findall(WORD_PATTERN, text.lower())[: max_tokens - 1] for text in texts]
    counts = Counter(word for row in words for word in set(row))
    known = sorted(word for word, count in counts.items() if count > 1)
    place = {word: UNKNOWN + 1 + position for position, word in enumerate(known)}
    ids = [np.array([FIRST, *(place.get(word, UNKNOWN) for word in row)], dtype=np.int64) for row in words]
    return TokenIds(ids, vocabulary=UNKNOWN + 1 + len(known), padding=PADDING)


def schedule(lengths: np.ndarray, batch_size: int, epochs: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of examples, every example once an epoch, with examples of about the same length together.

    Args:
        lengths: [n] of the examples.
        batch_size: examples in a batch; batches differ by one at most.
        epochs: how often to go through the examples.
        rng: draws the order.
    """
    count = -(-len(lengths) // batch_size)
    for _ in range(epochs):
        order = rng.permutation(len(lengths))
        parts = np.array_split(order, -(-count // SORTED))
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
        batches = np.array_split(order, count)
        yield from (batches[position] for position in rng.permutation(count))


def without_words(ids: torch.Tensor, rate: float) -> torch.Tensor:
    """Ids of a vocabulary from scratch, with a part of the words unknown.

    Both texts of a pair lose the same words: what they differ in is all that there is to learn from.

    Args:
        ids: [n, L] of n texts, or of n pairs, one text behind the other.
        rate: part of the words of each row.
    """
    dropped = torch.rand(len(ids), int(ids.max()) + 1, device=ids.device) < rate
    return ids.masked_fill(dropped.gather(1, ids) & (ids > UNKNOWN), UNKNOWN)


def class_weights(labels: np.ndarray) -> np.ndarray:
    """[n] weights with mean 1 by which every class that is there weighs the same.

    >>> class_weights(np.array([1, 0, 0, 0])).round(3).tolist()
    [2.0, 0.667, 0.667, 0.667]
    """
    _, position, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return len(labels) / (len(counts) * counts[position])


def judge_loss(scores: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy, where the logit is the score of a text, or the difference of the scores of a pair.

    Args:
        scores: [n, 1] of texts, or [n, 2] of pairs.
        labels: [n] 1 or 0; of a pair 1: its first text is the positive.
        weights: [n].
    """
    logits = scores[:, 0] - scores[:, 1] if scores.shape[1] == 2 else scores[:, 0]
    return (weights * F.binary_cross_entropy_with_logits(logits, labels, reduction="none")).mean()


def warmup_linear(step: int, steps: int) -> float:
    """Factor on the learning rate at `step` (0-based): up linearly to 1, then down linearly to 0.

    >>> [round(warmup_linear(step, steps=10), 2) for step in (0, 1, 5, 9, 10)]
    [1.0, 1.0, 0.56, 0.11, 0.0]
    """
    warmup = max(1, int(WARMUP * steps))
    return (step + 1) / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))


def load_network(checkpoint: str, padding: int) -> nn.Module:
    """A published encoder with a new head of one logit, drawn from torch's generator.

    Args:
        checkpoint: hub name or folder.
        padding: the id that fills up a batch.

    Raises:
        InputError: it cannot be loaded, or its weights are not those of its encoder.
    """
    with _named(checkpoint):
        network, found = AutoModelForSequenceClassification.from_pretrained(
            *(checkpoint,),
            num_labels=1,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # of a head for other classes
            output_loading_info=True,
        )
    odd = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    # a pooler on top of the encoder is part of the head: models trained without one have none to give
    odd = {key for key in odd if key.startswith(f"{network.base_model_prefix}.") and ".pooler." not in key}
    if odd:
        raise InputError(_refusal(checkpoint, f"no weights for {len(odd)} tensors, such as {min(odd)}"))
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
    order = np.argsort(encoded.lengths, kind="stable")
    with torch.inference_mode():
        for start in range(0, len(order), SCORED):
            rows = order[start : start + SCORED]
            ids, mask = (tensor.to(device) for tensor in encoded[rows].padded())
            scores[rows] = network(input_ids=ids, attention_mask=mask).logits[:, 0].double().cpu().numpy()
    return scores


@contextmanager
def _named(checkpoint: str) -> Iterator[None]:
    """Faults of a checkpoint as InputError."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(_refusal(checkpoint, str(error).strip().partition("\n")[0])) from error


def _refusal(checkpoint: str, fault: str) -> str:
    return (
        "The transformer judge needs a text encoder in safetensors with its tokenizer, cannot load "
        f"{show(checkpoint, 200)}: {fault.rstrip('.')}. Give a folder or hub name that holds one, or null to train "
        "from scratch."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advertisements and Transformers' notes on heads and loading; errors still show."""
    loggers = [logging.getLogger(library) for library in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    verbosity, progress = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if progress:
            transformers_logging.enable_progress_bar()
