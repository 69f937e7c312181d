"""Judges of truth by name. A new judge is its file, its line in `TRUTH_JUDGES`, and its section in `TruthSettings`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from negatives.truth_judges.judge import TruthJudge
    from negatives.truth_judges.settings import TruthSettings

TRUTH_JUDGES: dict[str, str] = {
    "lm": "negatives.truth_judges.causal_lm.build_lm",
    "nli": "negatives.truth_judges.nli.build_nli",
}
"""Name -> function of its section of `TruthSettings` that returns the judge, imported on use.

They are asked in this order, the cheap ones first: what one rejects, the next one is not asked about."""


def build_truth_judges(settings: TruthSettings) -> list[TruthJudge]:
    """The judges that are asked for, in the order of `TRUTH_JUDGES`; their models are loaded.

    Raises:
        InputError: a judge's model cannot be loaded, or is none for it.
    """
    judges = []
    for name in settings.asked:
        module, _, function = TRUTH_JUDGES[name].rpartition(".")
        build: Callable[..., TruthJudge] = getattr(importlib.import_module(module), function)
        judges.append(build(getattr(settings, name)))
    return judges
