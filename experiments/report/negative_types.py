"""The order in which tables and plots show groups of items."""

from __future__ import annotations

from collections.abc import Sequence

from negatives import NEGATIVE_TYPES

MEAN = "mean"


def types_in_order(names: Sequence[str]) -> list[str]:
    """All of these types: SugarCrepe's in their usual order, others alphabetically after them, "mean" last.

    >>> types_in_order(["mean", "swap_att", "zebra", "replace_obj"])
    ['replace_obj', 'swap_att', 'zebra', 'mean']
    """
    # Which types there are, only the data says: the known ones are a sort key, never a filter.
    usual = list(NEGATIVE_TYPES)

    def place(name: str) -> tuple[bool, int, str]:
        return name == MEAN, usual.index(name) if name in usual else len(usual), name

    return sorted(set(names), key=place)
