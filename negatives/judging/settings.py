"""What can be set of the judges: each setting once, with its rule, for Python and for the configuration alike.

Nothing here imports a judge: help pages and checks of a configuration read this file before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from negatives.judging.encoder import EncoderSettings
from negatives.judging.likelihood import LikelihoodSettings
from negatives.judging.table import faults_of_names
from negatives.judging.transformer_settings import TransformerSettings


@dataclass(frozen=True)
class JudgeSettings:
    """The text-only judges, cross-fitted by image and combined on out-of-fold scores."""

    judges: list[str] = field(default_factory=lambda: ["word", "char", "surface"])
    """word, char: logistic regression on n-grams. surface: on length, punctuation, casing, repetition. bayes: naive
    Bayes on word n-grams. encoder: logistic regression on a frozen sentence encoder. lm: the same on likelihood under a
    language model. transformer: a sequence classifier. Several are combined."""
    folds: int = field(default=5, metadata={"min": 2, "max": 1000})
    """Folds, by image: no text is judged by a model that saw another text of its image. Each of K fits sees all but
    one: 10 are worth their time where pairs are few."""
    word_ngrams: int = field(default=2, metadata={"min": 1, "max": 5})
    """Longest word n-gram."""
    char_ngrams: int = field(default=5, metadata={"min": 2, "max": 8})
    """Longest character n-gram."""
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    """The encoder judge, where it is one of `judges` or of a certificate's probes."""
    lm: LikelihoodSettings = field(default_factory=LikelihoodSettings)
    """The judge by likelihood, where it is one of `judges` or of a certificate's probes."""
    transformer: TransformerSettings = field(default_factory=TransformerSettings)
    """The transformer judge, where it is one of `judges` or of a certificate's probes."""
    workers: int = field(default=2, metadata={"min": 1, "max": 1024})
    """Threads that fit judges; results do not depend on them."""

    def faults(self, place: str) -> Iterator[str]:
        """Judges that are unknown, named twice, or missing, or that lack their model."""
        yield from faults_of_names(self.judges, f"{place}judges")
        yield from self.faults_of_models(self.judges, f"{place}judges", place)

    def faults_of_models(self, names: Sequence[str], listed: str, place: str) -> Iterator[str]:
        """One line for each judge of a list that reads a published model and was given none.

        Args:
            names: of judges.
            listed: what the line calls the list.
            place: what it puts before the keys of these settings.
        """
        for name, section in (("encoder", self.encoder), ("lm", self.lm)):
            if name in names and section.checkpoint is None:
                yield f"`{place}{name}.checkpoint` must be given where `{listed}` has {name}: a folder with its model"
