"""Builds the judges of truth. A new one is its file, its section in `TruthSettings`, and its line in `TRUTH_JUDGES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from negatives.truth_judges.causal_lm import LmJudge
from negatives.truth_judges.judge import TruthJudge
from negatives.truth_judges.nli import NliJudge
from negatives.truth_judges.settings import TruthSettings

Builder = Callable[[Any], TruthJudge]
"""A judge's section of `TruthSettings` -> the judge, its model loaded."""
TRUTH_JUDGES: dict[str, Builder] = {
    "lm": LmJudge,
    "nli": NliJudge,
}
"""The judges that need nothing but their section. Those that need a scorer or a server are built by the caller, who has
one: `build_truth_judges` takes their builders."""


def build_truth_judges(settings: TruthSettings, builders: Mapping[str, Builder] | None = None) -> list[TruthJudge]:
    """The judges that are asked for, in the order in which they are asked; their models are loaded.

    Args:
        settings: which, and how.
        builders: those of the judges that `TRUTH_JUDGES` lacks, by name.

    Raises:
        InputError: a judge's model cannot be loaded, or is none for it.
        KeyError: a judge is asked for that has no builder.
    """
    known = {**TRUTH_JUDGES, **(builders or {})}
    return [known[name](section) for name, section in settings.asked.items()]
