"""Settings as dataclasses: a field's metadata carries its rules, and a mapping becomes one only if it keeps them all.

Rules are `min`, `max`, `above` (bounds) and `choices`; where these are many, `listed` is the command that prints them.
`exists` is a rule of files, which `experiments.config` checks. What no field can say alone, a dataclass says in
`faults(place)`. Importing this imports no torch: settings are read first.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def settings_from(schema: type[T], mapping: Mapping[str, Any], place: str) -> T:
    """A dataclass of plain values that anybody may have written (a `scorer.json`, a run's `config.yaml`).

    Args:
        schema: the dataclass.
        mapping: its keys and values; what is missing keeps its default.
        place: what errors put before a key, such as "model.".

    Raises:
        ValueError: one line with every unknown key, wrong type, broken rule and contradiction.

    >>> @dataclasses.dataclass
    ... class Sizes:
    ...     layers: int = dataclasses.field(default=2, metadata={"min": 1})
    >>> settings_from(Sizes, {"layers": 3}, "model.tiny.")
    Sizes(layers=3)
    >>> settings_from(Sizes, {"layers": 0, "layer": 1}, "model.tiny.")
    Traceback (most recent call last):
    ValueError: `model.tiny.layers` must be >= 1, got 0; `model.tiny.layer` is no known key, did you mean \
`model.tiny.layers`?
    """
    faults: list[str] = []
    settings = _filled(schema, mapping, place, faults)
    # rules between keys presuppose values of the right types
    faults = faults or list(faults_between_keys(settings, place))
    if faults:
        raise ValueError("; ".join(faults))
    return settings


def faults_between_keys(settings: Any, place: str) -> Iterator[str]:
    """What the dataclasses' own `faults(place)` say, from the outermost to the innermost."""
    if hasattr(settings, "faults"):
        yield from settings.faults(place)
    # a dict holds sections by name, such as the sets of an evaluation
    held = settings if isinstance(settings, dict) else vars(settings)
    for name, value in held.items():
        if dataclasses.is_dataclass(value) or isinstance(value, dict):
            yield from faults_between_keys(value, f"{place}{name}.")


def field_types(schema: type) -> dict[str, Any]:
    """Field -> type of a dataclass, in the order of its source; type hints alone would name class variables too."""
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def unknown_key(schema: type, key: str, place: str) -> str:
    """The error about a key that a dataclass does not have; one may word it itself in `explain(key, place)`."""
    explain = getattr(schema, "explain", None)
    if explain is not None and (known := explain(key, place)):
        return known
    keys = list(field_types(schema))
    near = difflib.get_close_matches(key, keys, n=1)
    remedy = f"did you mean `{place}{near[0]}`?" if near else f"the keys here are {', '.join(keys)}"
    return f"is no known key, {remedy}"


def keeps_rules(value: Any, rules: Mapping[str, Any]) -> bool:
    """Whether a value is within the bounds and among the choices of its field's metadata; not for None."""
    # what must hold, and not what must not: nan is on no side of a bound
    return bool(
        value in rules.get("choices", (value,))
        and ("min" not in rules or value >= rules["min"])
        and ("max" not in rules or value <= rules["max"])
        and ("above" not in rules or value > rules["above"])
    )


def rule_text(rules: Mapping[str, Any]) -> str:
    """The rules in a field's metadata, in words that fit after "must be".

    >>> rule_text({"above": 0, "max": 1}), rule_text({"min": 1}), rule_text({"exists": "file"})
    ('in (0, 1]', '>= 1', 'an existing file')
    """
    if "listed" in rules:
        return f"a name of {rules['listed']}"
    if "choices" in rules:
        return f"one of {', '.join(rules['choices'])}"
    if "exists" in rules:
        return f"an existing {rules['exists']}"
    if "max" in rules and ("min" in rules or "above" in rules):
        start = f"[{rules['min']}" if "min" in rules else f"({rules['above']}"
        return f"in {start}, {rules['max']}]"
    signs = {"min": ">=", "above": ">", "max": "<="}
    return " and ".join(f"{sign} {rules[name]}" for name, sign in signs.items() if name in rules)


def did_you_mean(value: object, choices: Iterable[str]) -> str:
    """The end of an error about a name: the nearest known one, "" where none is near.

    >>> did_you_mean("CLP", ["llava", "clip"]), did_you_mean("opt", ["llava", "clip"]), did_you_mean(3, ["clip"])
    ('. Did you mean clip?', '', '')
    """
    # `negatives.tables.files.nearest_name` and `quoted` do the same: imports across these two top folders are barred
    known = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(value.lower(), known, n=1) if isinstance(value, str) else []
    return f". Did you mean {known[near[0]]}?" if near else ""


def type_name(hint: Any) -> str:
    """A type the way an annotation writes it; a dataclass is a mapping to whoever writes YAML.

    >>> type_name(dict[str, list[Any]]), type_name(float | None)
    ('dict[str, list[any]]', 'float or null')
    """
    inner, optional = strip_optional(hint)
    if optional:
        return f"{type_name(inner)} or null"
    if dataclasses.is_dataclass(inner):
        return "a mapping"
    if inner is Any:
        return "any"
    if get_origin(inner) is None:
        return inner.__name__
    return f"{get_origin(inner).__name__}[{', '.join(type_name(arg) for arg in get_args(inner))}]"


def strip_optional(hint: Any) -> tuple[Any, bool]:
    """`(int, True)` for `int | None`, `(int, False)` for `int`."""
    # `Optional[int]` is a Union, `int | None` a UnionType
    if get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint):
        return functools.reduce(lambda a, b: a | b, [arg for arg in get_args(hint) if arg is not type(None)]), True
    return hint, False


def quoted(value: object) -> str:
    """A value as an error shows it: on one line, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _filled(schema: type[T], mapping: Mapping[str, Any], place: str, faults: list[str]) -> T:
    """The dataclass with all that fits; what does not is added to `faults`, one for each key."""
    hints = field_types(schema)
    rules = {field.name: field.metadata for field in dataclasses.fields(cast(Any, schema))}
    given: dict[str, Any] = {}
    for name, value in mapping.items():
        key = f"{place}{name}"
        if name not in hints:
            faults.append(f"`{key}` {unknown_key(schema, str(name), place)}")
            continue
        inner, optional = strip_optional(hints[name])
        if dataclasses.is_dataclass(inner) and isinstance(value, Mapping):
            given[name] = _filled(cast(type, inner), value, f"{key}.", faults)
        elif not (optional and value is None) and not _fits(inner, value):
            faults.append(f"`{key}` must be {type_name(hints[name])}, got {quoted(value)}")
        elif value is not None and not keeps_rules(value, rules[name]):
            near = did_you_mean(value, rules[name].get("choices", ()))
            faults.append(f"`{key}` must be {rule_text(rules[name])}, got {quoted(value)}{near}")
        elif isinstance(value, float) and not math.isfinite(value):
            faults.append(f"`{key}` must be a finite number, got {value}")
        else:
            # YAML reads 1 as an int; a setting of 1 and one of 1.0 are the same configuration
            given[name] = float(value) if inner is float and value is not None else value
    return schema(**given)


def _fits(hint: Any, value: Any) -> bool:
    """Whether a plain value is of a field's type; YAML and JSON write 1 where 1.0 is meant."""
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(get_args(hint)[0], item) for item in value)
    if isinstance(value, bool) or hint is bool:  # bool is an int to Python
        return isinstance(value, bool) and hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
