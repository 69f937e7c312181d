"""What can be set of the judges: each setting once, with its rule, for Python and for the configuration alike.

Nothing here imports a judge: help pages and checks of a configuration read this file before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from negatives.judging import faults_of_names


@dataclass(frozen=True)
class TransformerSettings:
    """The transformer judge: a sequence classifier, fine-tuned for each fold."""

    checkpoint: str | None = "distilbert-base-uncased"
    """Encoder to start from, in safetensors with its tokenizer, by hub name or folder; null: a DistilBERT from scratch,
    at the sizes below."""
    hidden_size: int = field(default=64, metadata={"min": 8})
    """Width of a model from scratch."""
    layers: int = field(default=2, metadata={"min": 1})
    """Layers of a model from scratch."""
    heads: int = field(default=4, metadata={"min": 1})
    """Attention heads of a model from scratch."""
    epochs: int = field(default=3, metadata={"min": 1})
    """Passes over the texts or pairs; a model from scratch needs about twice as many as fine-tuning."""
    lr: float = field(default=5e-5, metadata={"above": 0.0})
    """Peak learning rate, between a linear warm-up and a linear decay; from scratch 1e-3."""
    batch_size: int = field(default=64, metadata={"min": 1})
    """Texts or pairs in a batch."""
    max_tokens: int = field(default=64, metadata={"min": 8})
    """Tokens of a text; longer ones are cut."""
    accelerator: str = field(default="auto", metadata={"choices": ("auto", "cpu", "gpu", "cuda", "mps")})
    """Hardware to fit on."""

    def faults(self, place: str) -> Iterator[str]:
        """Sizes that do not divide."""
        if self.hidden_size % self.heads:
            yield f"`{place}heads` must divide `{place}hidden_size`, got {self.heads} and {self.hidden_size}"


@dataclass(frozen=True)
class JudgeSettings:
    """The text-only judges, cross-fitted by image and combined on out-of-fold scores."""

    judges: list[str] = field(default_factory=lambda: ["word", "char", "surface"])
    """word, char: logistic regression on n-grams. surface: on length, punctuation, casing, repetition. bayes: naive
    Bayes on word n-grams. transformer: a sequence classifier. Several are combined."""
    folds: int = field(default=5, metadata={"min": 3})
    """Folds, by image: no text is judged by a model that saw another text of its image. With K of them, each of
    K (K - 1) / 2 fits sees all but two: 10 are worth their time where pairs are few."""
    word_ngrams: int = field(default=2, metadata={"min": 1, "max": 5})
    """Longest word n-gram."""
    char_ngrams: int = field(default=5, metadata={"min": 2, "max": 8})
    """Longest character n-gram."""
    transformer: TransformerSettings = field(default_factory=TransformerSettings)
    """The transformer judge, where it is one of `judges`."""
    workers: int = field(default=2, metadata={"min": 1})
    """Threads that fit judges; results do not depend on them."""

    def faults(self, place: str) -> Iterator[str]:
        """Judges that are unknown, named twice, or missing."""
        yield from faults_of_names(self.judges, f"{place}judges")
