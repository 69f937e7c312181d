"""How the transformer judge learns: token ids, batches of about one length, the loss, and Lightning's module."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

WORD_PATTERN = r"\w+|[^\w\s]"
PADDING, FIRST, UNKNOWN = range(3)  # tokens of a vocabulary from scratch; its words follow
SORT_WINDOW = 16  # batches among which texts are sorted by length
DROPOUT = 0.2  # from scratch, of activations and of words
WEIGHT_DECAY = 0.05
WARMUP_SHARE = 0.1  # of the steps


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
    # DistilBERT's head reads the first token, so that every text has one, even the empty one
    ids = [np.array([FIRST, *(place.get(word, UNKNOWN) for word in row)], dtype=np.int64) for row in words]
    return TokenIds(ids, vocabulary=UNKNOWN + 1 + len(known), padding=PADDING)


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
class Batches:
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
        # sorted within parts, not as a whole: little padding, and still other batch mates in each epoch
        parts = np.array_split(order, -(-count // SORT_WINDOW))
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
    # a draw for each word of the vocabulary, not for each place: a word goes wherever it stands in the pair
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

    On pairs this is the loss of Bradley and Terry (Biometrika 39, 1952): softplus of the negated margin.

    Args:
        scores: [n, 1] of texts, or [n, 2] of pairs.
        labels: [n] 1 or 0; of a pair 1: its first text is the positive.
        weights: [n].
    """
    # the difference of two scores is antisymmetric: a network that read both texts at once could learn their order
    logits = scores[:, 0] - scores[:, 1] if scores.shape[1] == 2 else scores[:, 0]
    return (weights * F.binary_cross_entropy_with_logits(logits, labels, reduction="none")).mean()


def warmup_linear(step: int, steps: int) -> float:
    """Factor on the learning rate at `step` (0-based): up linearly to 1, then down linearly to 0.

    >>> [round(warmup_linear(step, steps=10), 2) for step in (0, 1, 5, 9, 10)]
    [1.0, 1.0, 0.56, 0.11, 0.0]
    """
    warmup = max(1, int(WARMUP_SHARE * steps))
    # step + 1: at step 0 the rate would be 0, and the batch lost
    return (step + 1) / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))
