"""Judges of truth by name. A new judge is its file, its line in `TRUTH_JUDGES`, and its section in `TruthSettings`.

The section's `switch` names the key of it that asks for the judge.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from negatives.truth_judges.judge import TruthJudge
    from negatives.truth_judges.settings import TruthSettings

TRUTH_JUDGES: dict[str, str] = {
    "lm": "negatives.truth_judges.causal_lm.build_lm",
    "nli": "negatives.truth_judges.nli.build_nli",
    "image": "",
    "chat": "",
}
"""Name -> function of its section of `TruthSettings` that returns the judge, imported on use; "" where it needs what
only the caller has: a scorer, a server.

They are asked in this order, the cheap ones first: what one rejects, the next one is not asked about."""


def build_truth_judges(
    settings: TruthSettings, builders: Mapping[str, Callable[[Any], TruthJudge]] | None = None
) -> list[TruthJudge]:
    """The judges that are asked for, in the order of `TRUTH_JUDGES`; their models are loaded.

    Args:
        settings: which, and how.
        builders: name -> function of its section, for judges that `TRUTH_JUDGES` has no function for.

    Raises:
        InputError: a judge's model cannot be loaded, or is none for it.
        KeyError: a judge is asked for that has no builder.
    """
    judges = []
    for name in settings.asked:
        module, _, function = TRUTH_JUDGES[name].rpartition(".")
        build = getattr(importlib.import_module(module), function) if module else (builders or {})[name]
        judges.append(build(getattr(settings, name)))
    return judges
