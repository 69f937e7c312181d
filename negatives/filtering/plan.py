"""What is asked of a filter, its certificate and an audit: each setting once, for Python and for the configuration.

Nothing heavy is imported here: help pages and checks of a configuration read this file first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from negatives.judging.table import faults_of_names

UNITS = {"text": ("auc",), "pair": ("paired_accuracy",), "both": ("auc", "paired_accuracy")}
"""Unit -> the bias metrics that probes inside what is kept look at."""
RULES = ("overlap", "margins", "top_fraction", "aflite")
SEARCHED = ("overlap", "margins")
"""The rules that drop a share of each negative type, which can be searched."""


@dataclass(frozen=True)
class FilterPlan:
    """What a filter is to keep."""

    unit: str = field(default="text", metadata={"choices": tuple(UNITS)})
    """text: judges single texts, for losses that do (lm, binary, itm). pair: judges a positive beside its negative,
    for losses and benchmarks that compare. both: satisfies the two."""
    # default overlap: it leaves no opposite biases that cancel in the mean; margins keeps more (docs/results.md)
    rule: str = field(default="overlap", metadata={"choices": RULES})
    """overlap: drops by chance, by the odds of the other class, as many of each negative type as it takes until what is
    kept teaches nothing about other photos. margins: drops the most confidently judged of each type instead, and keeps
    more. top_fraction: drops the most confidently judged (LLaVA-score). aflite: drops, again and again, what the first
    judge predicts (AFLite)."""
    strength: float | None = field(default=None, metadata={"min": 0.0, "max": 0.99})
    """overlap, margins: part of each class, or of the pairs, that is dropped; not given: searched, on photos set
    aside."""
    by_type: bool = True
    """overlap, margins: search a strength for each negative type, so that no two types have opposite biases that
    cancel."""
    constant: float | None = field(default=None, metadata={"above": 0.0, "max": 1e6})
    """overlap: the factor of the odds, in place of strengths; 1 is the overlap of the two densities."""
    sharpness: float = field(default=1.0, metadata={"above": 0.0, "max": 20.0})
    """overlap: power of the odds. Larger ones keep more, and come nearer to margins."""
    top_fraction: float = field(default=0.3, metadata={"min": 0.0, "max": 0.99})
    """top_fraction, aflite: part of each class (or of the pairs) that is dropped."""
    per_type: bool = False
    """Keep the same share of every negative type, so that none starves; types then are no longer balanced alike."""
    seed: int = field(default=0, metadata={"min": 0, "max": 2**32 - 1})
    """Seeds folds and draws."""

    # no setting: keys that a configuration of an older version may name, as long as it gives them no value
    former_keys = ("target",)  # what probes might reach, when overlap's constant was searched

    @property
    def searches(self) -> bool:
        """Whether strengths are to be searched for."""
        return self.has_strengths and self.strength is None

    @property
    def has_strengths(self) -> bool:
        """Whether the rule drops a share of each negative type."""
        return self.rule in SEARCHED and self.constant is None

    def faults(self, place: str) -> Iterator[str]:
        """An unknown unit or rule, which a configuration refuses before; a rule for one unit; what nothing reads."""
        for key, known in (("unit", UNITS), ("rule", RULES)):
            value = getattr(self, key)
            if value not in known:
                from negatives.tables.files import nearest_name  # with pyarrow, for which a help page must not wait

                near = nearest_name(value, known)
                hint = near and f".{near}"
                yield f"`{place}{key}` must be one of {', '.join(known)}, got {value!r}{hint}"
        # aflite drops by one judge's answers, about texts or about pairs
        if self.rule == "aflite" and self.unit == "both":
            yield f"`{place}unit` must be text or pair where `{place}rule` is aflite, got both"
        if self.rule not in SEARCHED and self.strength is not None:
            yield (
                f"`{place}strength` must be left out where `{place}rule` is {self.rule}, got {self.strength:g}: use "
                "overlap"
            )
        if self.rule in SEARCHED and self.per_type:
            yield f"`{place}per_type` must be left out where `{place}rule` is {self.rule}: use `{place}by_type`"
        if self.rule != "overlap":
            for key, default in (("constant", None), ("sharpness", 1.0)):
                if (value := getattr(self, key)) != default:
                    rule = f"must be left out where `{place}rule` is {self.rule}"
                    yield f"`{place}{key}` {rule}, got {value:g}: use overlap"
        elif self.constant is not None and self.strength is not None:
            yield f"`{place}strength` must be left out where `{place}constant` is given, got {self.strength:g}"


@dataclass(frozen=True)
class CertificatePlan:
    """What has to hold before a filter's procedure is called balanced: blind learners of what it keeps are coins."""

    probes: list[str] = field(default_factory=lambda: ["word", "char", "surface", "bayes"])
    """Blind learners, fitted anew on what was kept; at least one of them should not be among the filter's judges."""
    tolerance: float = field(default=0.03, metadata={"above": 0.0, "max": 0.5})
    """The whole 95 % interval of what a learner gets on untouched pairs of other photos has to be within 0.5, give or
    take this. Below is a miss too: an over-corrected set teaches the opposite."""
    type_tolerance: float = field(default=0.06, metadata={"above": 0.0, "max": 0.5})
    """The same on the pairs of each negative type."""
    third_tolerance: float = field(default=0.06, metadata={"above": 0.0, "max": 0.5})
    """The same on each third of the pairs, by the margin of a judge from other photos."""
    transformer_tolerance: float = field(default=0.04, metadata={"above": 0.0, "max": 0.5})
    """In place of `tolerance` for a slow learner, the transformer, which varies more."""
    frontier: bool = True
    """Also measure what other rules and strengths would keep and teach."""
    inside: bool = False
    """Also probe what was kept from inside, on other folds of it. This diagnostic says less than it seems to."""
    seeds: int = field(default=3, metadata={"min": 1, "max": 1000})
    """inside: fold seeds that each probe's estimate is the mean of."""
    folds: int = field(default=5, metadata={"min": 2, "max": 1000})
    """inside: folds of each."""
    bootstrap: int = field(default=1000, metadata={"min": 20, "max": 100_000})
    """Resamples of photos behind each 95 % interval."""

    @property
    def tolerances(self) -> dict[str, float]:
        """ "all", "type" and "third" -> tolerance."""
        return {"all": self.tolerance, "type": self.type_tolerance, "third": self.third_tolerance}

    def faults(self, place: str) -> Iterator[str]:
        """Probes that are unknown, named twice, or missing."""
        yield from faults_of_names(self.probes, f"{place}probes")


@dataclass(frozen=True)
class AuditPlan:
    """How closely an audit looks."""

    bootstrap: int = field(default=200, metadata={"min": 20, "max": 100_000})
    """Resamples of images behind each 95 % interval."""
    top: int = field(default=20, metadata={"min": 1, "max": 100_000})
    """Leaking n-grams, and texts most given away, listed for each class."""
    seed: int = field(default=0, metadata={"min": 0, "max": 2**32 - 1})
    """Seeds folds and bootstrap."""
