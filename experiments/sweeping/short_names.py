"""Short names for dotted keys, in the names of runs and in tables."""

from __future__ import annotations

from collections.abc import Iterable


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Key -> its last parts, as few as tell the keys apart.

    >>> short_names(["optim.lr", "seed", "model.a.dropout", "model.b.dropout"])
    {'optim.lr': 'lr', 'seed': 'seed', 'model.a.dropout': 'a.dropout', 'model.b.dropout': 'b.dropout'}
    """
    parts = {key: key.split(".") for key in keys}
    short = {}
    for key, own in parts.items():
        others = [part for other, part in parts.items() if other != key]
        lengths = range(1, len(own) + 1)
        enough = next((n for n in lengths if all(other[-n:] != own[-n:] for other in others)), len(own))
        short[key] = ".".join(own[-enough:])
    return short
