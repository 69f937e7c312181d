"""What can be set of the transformer judge: a file of its own, since the judge reads it and must not read the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
"""Hardware that can be asked for, in Lightning's words. They stand here, since `negatives` may import no other top
folder."""


@dataclass(frozen=True)
class TransformerSettings:
    """The transformer judge: a sequence classifier, fine-tuned for each fold."""

    checkpoint: str | None = "distilbert-base-uncased"
    """Encoder to start from, in safetensors with its tokenizer, by hub name or folder; null: a DistilBERT from scratch,
    at the sizes below."""
    hidden_size: int = field(default=64, metadata={"min": 8, "max": 65_536})
    """Width of a model from scratch."""
    layers: int = field(default=2, metadata={"min": 1, "max": 1000})
    """Layers of a model from scratch."""
    heads: int = field(default=4, metadata={"min": 1, "max": 1024})
    """Attention heads of a model from scratch."""
    epochs: int = field(default=3, metadata={"min": 1, "max": 100_000})
    """Passes over the texts or pairs; a model from scratch needs about twice as many as fine-tuning."""
    lr: float = field(default=5e-5, metadata={"above": 0.0})
    """Peak learning rate, between a linear warm-up and a linear decay; from scratch 1e-3."""
    batch_size: int = field(default=64, metadata={"min": 1, "max": 1_000_000})
    """Texts or pairs in a batch."""
    max_tokens: int = field(default=64, metadata={"min": 8, "max": 1_000_000})
    """Tokens of a text; longer ones are cut."""
    accelerator: str = field(default="auto", metadata={"choices": ACCELERATORS})
    """Hardware to fit on."""

    def faults(self, place: str) -> Iterator[str]:
        """Sizes that do not divide."""
        if self.hidden_size % self.heads:
            yield f"`{place}heads` must divide `{place}hidden_size`, got {self.heads} and {self.hidden_size}"
