"""Whether two scorers were asked the same things: items are the same where images and wordings are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from datamodules.benchmarks import WHOLE, find_protocol
from experiments.report.comparison.reading.evaluated import EvaluatedSet
from negatives.tables import InputError

TEXT_COLUMNS = ("text_id", "text_ids", "true", "false")
NAMES_ALONE = ("item_id",)
"""What older versions made of other ids; images and wordings say what an item is."""


def aligned(one: EvaluatedSet, other: EvaluatedSet, name: str, folder: Path, other_folder: Path) -> EvaluatedSet:
    """One scorer's set with its items in the order of the other's.

    Raises:
        InputError: the scorers answered different items: how many, and where.
    """
    if one.protocol == other.protocol and one.key.equals(other.key) and one.texts.equals(other.texts):
        return one
    if one.protocol != other.protocol:
        raise InputError(
            f"Scorers are compared on the same items, set {name!r} is of protocol {other.protocol} in {other_folder} "
            f"and {one.protocol} in {folder}. Evaluate both on the same tables."
        )
    own, wanted = _items(one), _items(other)
    asked, wanted_too = Counter([*own, *_searched(one)]), Counter([*wanted, *_searched(other)])
    differ = sum(((asked - wanted_too) + (wanted_too - asked)).values())
    if differ:
        raise InputError(
            f"Scorers are compared on the same items, set {name!r} has {len(wanted)} in {other_folder} and {len(own)} "
            f"in {folder}, {differ} of items and what is searched are in one only. Evaluate both on the same tables."
        )
    places: dict[Hashable, list[int]] = {}
    for place in reversed(range(len(own))):
        places.setdefault(own[place], []).append(place)
    return replace(one, key=one.key.take(pa.array([places[item].pop() for item in wanted])))


def _items(found: EvaluatedSet) -> list[Hashable]:
    """Each row of the key, with wordings in the place of text ids."""
    wordings: dict[str, tuple[str, ...]] = {}
    for text_id, text in zip(*(found.texts[name].to_pylist() for name in ("text_id", "text")), strict=True):
        wordings[text_id] = (*wordings.get(text_id, ()), text)
    names = [name for name in find_protocol(found.protocol).columns if name not in NAMES_ALONE]
    columns = []
    for name in names:
        values = found.key[name].to_pylist()
        columns.append([_worded(value, wordings) for value in values] if name in TEXT_COLUMNS else _hashable(values))
    return list(zip(*columns, strict=True))


def _searched(found: EvaluatedSet) -> list[Hashable]:
    """What else the answers depend on: all images and texts that are searched, where these are more than the items'."""
    if found.protocol not in WHOLE:
        return []
    return [*found.images["image_id"].to_pylist(), *((text,) for text in found.texts["text"].to_pylist())]


def _worded(value: Any, wordings: dict[str, tuple[str, ...]]) -> Hashable:
    if isinstance(value, list):
        return tuple(wordings.get(one, (one,)) for one in value)
    return wordings.get(value, (value,))


def _hashable(values: list[Any]) -> list[Hashable]:
    return [tuple(value) if isinstance(value, list) else value for value in values]
