"""What a dataclass of the configuration says about its keys: for `--help`, and for the wording of errors."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

MISSING = "???"  # OmegaConf's, written out so that a help page needs no OmegaConf of its own


class Key(NamedTuple):
    """One line of a help page; `NAME` and `N` in a name stand for any mapping key and list position."""

    name: str
    type: str
    default: str
    doc: str
    rule: str


def describe(schema: type) -> list[Key]:
    """Every dotted key of a configuration dataclass, in the order of its source.

    >>> from datamodules.mixing_settings import Mixing
    >>> describe(Mixing)[3][1:]
    ('float', '0.5', 'Chance that a drawn negative is a swap one.', 'in [0.0, 1.0]')
    """
    return list(_walk(schema(), ""))


def key_table(schema: type) -> str:
    """The keys of a configuration as aligned text, each with its docstring below it."""
    keys = describe(schema)
    name_width, type_width = max(len(key.name) for key in keys), max(len(key.type) for key in keys)
    lines = []
    for key in keys:
        lines.append(f"  {key.name:{name_width}}  {key.type:{type_width}}  {key.default}  {key.rule}".rstrip())
        lines.extend(textwrap.wrap(key.doc, 110, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(lines)


def rule_text(rules: Mapping[str, Any]) -> str:
    """The rules in a field's metadata, in words that fit after "must be".

    >>> rule_text({"above": 0, "max": 1}), rule_text({"min": 1}), rule_text({"exists": "file"})
    ('in (0, 1]', '>= 1', 'an existing file')
    """
    if "choices" in rules:
        return f"one of {', '.join(rules['choices'])}"
    if "exists" in rules:
        return f"an existing {rules['exists']}"
    if "max" in rules and ("min" in rules or "above" in rules):
        start = f"[{rules['min']}" if "min" in rules else f"({rules['above']}"
        return f"in {start}, {rules['max']}]"
    signs = {"min": ">=", "above": ">", "max": "<="}
    return " and ".join(f"{sign} {rules[name]}" for name, sign in signs.items() if name in rules)


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
    if get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint):
        return functools.reduce(lambda a, b: a | b, [arg for arg in get_args(hint) if arg is not type(None)]), True
    return hint, False


def _walk(config: Any, prefix: str) -> Iterator[Key]:
    bases = [base for base in reversed(type(config).__mro__) if dataclasses.is_dataclass(base)]
    hints, docs = get_type_hints(type(config)), {name: doc for base in bases for name, doc in _docstrings(base).items()}
    for field in dataclasses.fields(config):
        name, value, hint = prefix + field.name, getattr(config, field.name), hints[field.name]
        inner, _ = strip_optional(hint)
        if dataclasses.is_dataclass(value):
            yield from _walk(value, f"{name}.")
            continue
        rule = rule_text(field.metadata)
        yield Key(name, type_name(hint), _default(value), docs.get(field.name, ""), rule)
        below, step = (get_args(inner)[-1], _STEPS[get_origin(inner)]) if get_origin(inner) in _STEPS else (inner, "")
        if dataclasses.is_dataclass(below):
            yield from _walk(below(), f"{name}.{step}")  # type: ignore[operator]


_STEPS = {dict: "NAME.", list: "N."}


def _default(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return "required" if value == MISSING else value or '""'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value)


def _docstrings(schema: type) -> dict[str, str]:
    """Field -> the docstring written under it, which only the source knows."""
    body = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(doc.value.value).replace("\n", " ")
        for field, doc in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
        and isinstance(doc.value.value, str)
    }
