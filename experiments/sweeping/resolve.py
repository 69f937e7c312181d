"""The configurations of many tasks that differ in little: checked in full once, and then by what differs.

A full check takes some 20 ms, which for a thousand runs is most of a minute. Runs of a sweep mostly differ in plain
numbers and words: those are checked alone, by the same rules. Whatever is not plain is checked in full.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from experiments.config.load import load_mapping
from experiments.config.model_schemas import SECTION
from experiments.config.names import is_file_name
from experiments.config.values import is_encodable, texts_in
from lightning_modules import faults_between_keys, field_types, keeps_rules, strip_optional

PLAIN_RULES = {"min", "max", "above", "choices", "names", "exists"}
CHOOSING = {(SECTION, "backbone"), (SECTION, "loss")}
"""Keys that decide which other keys there are."""
_NOTHING = object()


class Resolver:
    """Checks configurations of one schema, each beside the last one that was checked in full.

    Args:
        schema: dataclass to fill.
        made_in: folder whose files need not be there yet.
    """

    def __init__(self, schema: type[Any], made_in: Path):
        self.schema, self.made_in = schema, made_in
        self._near: tuple[Mapping[str, Any], Any] | None = None

    def resolve(self, mapping: Mapping[str, Any], origin: str) -> Any:
        """The checked configuration of a mapping. Parts may be shared with other configurations: do not change it.

        Raises:
            ConfigError: all its faults.
        """
        found = self._patched(mapping) if self._near is not None else None
        if found is None:
            found = load_mapping(self.schema, mapping, origin, made_in=self.made_in)
            # an interpolation may lead to any key, so that none is known to be the same
            if not any("${" in text for text in texts_in(mapping)):
                self._near = mapping, found
        return found

    def _patched(self, mapping: Mapping[str, Any]) -> Any:
        """The one that was checked before, with the keys changed that differ; None where that does not say all."""
        assert self._near is not None
        before, checked = self._near
        try:
            found = self._with_changes(checked, before, mapping, ())
        except _NotPlainError:
            return None
        return None if next(faults_between_keys(found, ""), None) else found

    def _with_changes(
        self, settings: Any, before: Mapping[str, Any], now: Mapping[str, Any], place: tuple[str, ...]
    ) -> Any:
        """A section with what differs between the mapping that it was made of and another one."""
        changes = {}
        for key in {**before, **now}:
            old, new = before.get(key, _NOTHING), now.get(key, _NOTHING)
            if _is_same(old, new):
                continue
            if new is _NOTHING or (*place, key) in CHOOSING or not dataclasses.is_dataclass(settings):
                raise _NotPlainError
            inner = getattr(settings, key, None)
            former = {} if old is _NOTHING else old
            if isinstance(new, Mapping) and isinstance(former, Mapping) and dataclasses.is_dataclass(inner):
                changes[key] = self._with_changes(inner, former, new, (*place, key))
            else:
                changes[key] = _plain(type(settings), key, new, self.made_in)
        return dataclasses.replace(settings, **changes) if changes else settings


def _is_same(old: Any, new: Any) -> bool:
    """Equal, and of one type at every depth: True is no 1."""
    if type(old) is not type(new):
        return False
    if isinstance(old, Mapping):
        return old.keys() == new.keys() and all(_is_same(value, new[key]) for key, value in old.items())
    if isinstance(old, list):
        return len(old) == len(new) and all(map(_is_same, old, new))
    return bool(old == new)


class _NotPlainError(Exception):
    """Only the full check can tell."""


def _plain(schema: type[Any], key: str, value: Any, made_in: Path) -> Any:
    """A value as its field holds it.

    Raises:
        _NotPlainError: only the full check can tell, or it would refuse the value.
    """
    fields = {one.name: one for one in dataclasses.fields(schema)}
    if key not in fields or not set(fields[key].metadata) <= PLAIN_RULES:
        raise _NotPlainError
    rules = fields[key].metadata
    kind, optional = strip_optional(_types(schema)[key])  # type: ignore[arg-type]
    if value is None and optional:
        return None
    if kind == list[str] and not rules and isinstance(value, list) and all(map(_is_plain_text, value)):
        return list(value)
    if kind is float and type(value) is int:
        value = float(value)
    right = kind in (int, float, str, bool) and type(value) is kind and keeps_rules(value, rules)
    if kind is int:
        right = right and abs(value) < 2**63
    elif kind is float:
        right = right and math.isfinite(value)
    elif kind is str:
        right = right and _is_plain_text(value)
    if "names" in rules:
        right = right and is_file_name(value)
    if "exists" in rules:
        right = right and Path(value).absolute().is_relative_to(made_in.absolute())
    if not right:
        raise _NotPlainError
    return value


def _is_plain_text(value: Any) -> bool:
    return isinstance(value, str) and "${" not in value and value != MISSING and is_encodable(value)


@cache
def _types(schema: type[Any]) -> dict[str, Any]:
    # evaluated from their text each time
    return field_types(schema)
