"""What a dataclass of the configuration says about its keys: for `--help`, and for the wording of errors."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args, get_origin

from lightning_modules import field_types, rule_text, strip_optional, type_name

WIDTH = 80  # of what is printed to be read
MISSING = "???"  # OmegaConf's, written out so that a help page needs no OmegaConf of its own


class Key(NamedTuple):
    """One line of a help page; `NAME` and `N` in a name stand for any mapping key and list position."""

    name: str
    type: str
    default: str
    doc: str
    rule: str


def describe(schema: Any) -> list[Key]:
    """Every dotted key of a configuration dataclass, or of an instance of it, in the order of its source.

    >>> from datamodules.mixing_settings import Mixing
    >>> describe(Mixing)[3][1:]
    ('float', '0.5', 'Chance that a drawn negative is a swap one.', 'in [0.0, 1.0]')
    """
    return list(_walk(schema() if isinstance(schema, type) else schema, ""))


def key_table(schema: type) -> str:
    """The keys of a configuration as text of 80 columns, each with its docstring below it."""
    from experiments.config.model_schemas import SECTION, has_model
    from lightning_modules.backbones import BACKBONES

    keys = describe(schema)
    if has_model(schema):
        # keys of single backbones follow those that all scorers share
        last = max(place for place, key in enumerate(keys) if key.name.startswith(f"{SECTION}."))
        keys[last + 1 : last + 1] = _own_keys(SECTION)
        # the table, not a rule of the field: a wrong name is refused before there is a class to check it by
        known = f"one of {', '.join(BACKBONES)}"
        keys = [key._replace(rule=known) if key.name == f"{SECTION}.backbone" else key for key in keys]
        keys = [key._replace(doc=f"{key.doc} {_losses()}") if key.name == f"{SECTION}.loss" else key for key in keys]
    name_width, type_width = max(len(key.name) for key in keys), max(len(key.type) for key in keys)
    lines = []
    for key in keys:
        line, text = f"  {key.name:{name_width}}  {key.type:{type_width}}", key.doc
        # what has no room beside the name becomes a sentence of the text, and so does what follows it
        for word, sentence in ((key.default, f"Default: {key.default}."), (key.rule, f"Must be {key.rule}.")):
            if text == key.doc and len(line) + 2 + len(word) <= WIDTH:
                line = f"{line}  {word}"
            elif word:
                text = f"{text} {sentence}".strip()
        lines.append(line.rstrip())
        # a name that is cut at its hyphen is none any more
        wrapped = textwrap.wrap(text, WIDTH - 6, break_long_words=False, break_on_hyphens=False)
        lines.extend(f"      {part}" for part in wrapped)
    return "\n".join(lines)


def _losses() -> str:
    """Which losses each backbone can compute, its default first."""
    from experiments.config.model_schemas import variants

    losses: dict[str, list[str]] = {}
    for loss, settings in variants():
        place = 0 if loss == settings.default_loss else len(losses.get(settings.backbone, ()))
        losses.setdefault(settings.backbone, []).insert(place, loss)
    listed = [f"{backbone}: {', '.join(names)}" for backbone, names in losses.items()]
    return f"The default first, {'; '.join(listed)}."


def _own_keys(section: str) -> Iterator[Key]:
    """What single backbones and losses add to the section of a scorer, each marked with whose it is."""
    from experiments.config.model_schemas import variants
    from lightning_modules.backbones import ModelSettings

    # told already, in the table of the verb
    shared = {key.name for key in _walk(ModelSettings(), "")}
    listed: set[tuple[str, str]] = set()
    for loss, settings in variants():
        for key in _walk(settings, ""):
            if key.name not in shared:
                owner = f"loss {loss}" if key.name.startswith(f"{loss}.") else f"backbone {settings.backbone}"
                # another backbone may have a key of the same name, another loss of this one has the same
                if (owner, key.name) not in listed:
                    listed.add((owner, key.name))
                    yield key._replace(name=f"{section}.{key.name}", doc=f"({owner}) {key.doc}")


def _walk(config: Any, prefix: str) -> Iterator[Key]:
    hints, docs = field_types(type(config)), _docstrings(type(config))
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
            # what can stand under a name or a position, with its defaults
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
    """Field -> the docstring written under it, in the class or in one that it extends."""
    docs: dict[str, str] = {}
    # bases first: a field that a subclass declares again has the docstring of the subclass
    for base in reversed(schema.__mro__):
        # a class that was made while reading has no source, and adds no docstring
        if dataclasses.is_dataclass(base) and "<locals>" not in base.__qualname__:
            docs |= _own_docstrings(base)
    return docs


def _own_docstrings(schema: type) -> dict[str, str]:
    """Field -> docstring, which only the source knows."""
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
