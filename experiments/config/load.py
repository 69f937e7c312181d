"""From YAML and the command line to a checked dataclass: all faults in one error, before anything heavy starts.

Interpolations are OmegaConf's: `${name}` and `${data.captions}` start at the root, `${.unit}` beside the key,
`${oc.env:ITM_SHARED}` reads the environment.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, KeyValidationError, OmegaConfBaseException

from experiments.config.help import describe, rule_text, strip_optional, type_name
from experiments.config.layers import COMMAND_LINE, ConfigError, Layers, find_yaml, nested, read_chain, read_yaml

__all__ = ["ConfigError", "describe", "find_yaml", "load_config", "load_mapping", "nested", "read_yaml", "to_yaml"]

T = TypeVar("T")
Place = tuple[str, ...]


def load_config(
    schema: type[T], path: str | Path | None, overrides: Sequence[str] = (), *, check_files: bool = True
) -> T:
    """A checked configuration from a YAML file, its bases, and `key=value` overrides.

    Args:
        schema: Dataclass to fill.
        path: YAML file; None where the overrides say everything.
        overrides: Dotted `key=value`; values are YAML.
        check_files: Whether files and folders that the schema marks with `exists` have to be there.

    Raises:
        ConfigError: With one line for each unknown key, wrong type, value out of range, missing value, missing file
            and unresolvable interpolation, and the file each came from.
    """
    layers = Layers()
    for file, mapping in read_chain(path) if path is not None else ():
        layers.add(mapping, file)
    return _load(schema, layers, overrides, check_files)


def load_mapping(schema: type[T], mapping: Mapping[str, Any], origin: str, *, made_in: Path | None = None) -> T:
    """As `load_config`, from a dictionary.

    Args:
        schema: Dataclass to fill.
        mapping: Its keys and values.
        origin: What errors name in place of a file.
        made_in: Folder whose files need not be there yet.
    """
    layers = Layers()
    layers.add(mapping, origin)
    return _load(schema, layers, (), True, made_in)


def to_yaml(config: Any) -> str:
    """A configuration as YAML, with every interpolation resolved; `load_config` reads it back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def _load(
    schema: type[T], layers: Layers, overrides: Sequence[str], check_files: bool, made_in: Path | None = None
) -> T:
    faults: list[str] = []
    for text in overrides:
        try:
            layers.override(text)
        except ConfigError as error:
            faults.extend(error.faults)
    check = _Check(schema, layers, check_files, made_in)
    root = OmegaConf.structured(schema)
    check.fill(root, schema, layers.tree, ())
    check.values(root, {}, ())
    faults.extend(check.faults.values())
    if faults:
        raise ConfigError(*faults)
    config = cast(T, OmegaConf.to_object(root))
    if faults := [f"{fault} ({layers.last_file or COMMAND_LINE})" for fault in _faults_between_keys(config, "")]:
        raise ConfigError(*faults)
    return config


def _faults_between_keys(config: Any, place: str) -> Iterator[str]:
    """What the dataclasses' own `faults(place)` say, from the outermost to the innermost."""
    if hasattr(config, "faults"):
        yield from config.faults(place)
    held = config if isinstance(config, dict) else {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    for name, value in held.items():
        if dataclasses.is_dataclass(value) or isinstance(value, dict):
            yield from _faults_between_keys(value, f"{place}{name}.")


class _Check:
    """Fills a structured config leaf by leaf and collects what is wrong, one fault for each key."""

    def __init__(self, schema: type, layers: Layers, check_files: bool, made_in: Path | None) -> None:
        self.schema = schema
        self.layers = layers
        self.check_files = check_files
        self.made_in = made_in
        self.faults: dict[Place, str] = {}

    def fill(self, node: DictConfig, schema: type, mapping: Mapping[Any, Any], place: Place) -> None:
        """Puts a mapping into the node of a dataclass."""
        OmegaConf.set_readonly(node, False)  # of a frozen dataclass OmegaConf makes a node that cannot be filled
        hints = get_type_hints(schema)
        for key, value in mapping.items():
            where = (*place, str(key))
            if key in hints:
                self._put(node, key, hints[key], value, where)
            else:
                self._fault(where, f"is no known key, {self._nearest(str(key), list(hints), place)}")

    def values(self, node: Any, rules: Mapping[str, Any], place: Place) -> None:
        """Resolves every leaf below a node and checks it against the rules of its field."""
        schema = OmegaConf.get_type(node)
        own = {f.name: f.metadata for f in dataclasses.fields(schema)} if dataclasses.is_dataclass(schema) else {}
        for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
            where, rules_here = (*place, str(key)), own.get(str(key), rules)
            if OmegaConf.is_missing(node, key):
                self._missing(where)
                continue
            followed = OmegaConf.is_interpolation(node, key)
            try:
                value = node[key]
            except InterpolationToMissingValueError:
                continue  # the missing value itself is reported
            except OmegaConfBaseException as error:
                raw = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index]
                self._fault(where, _interpolation_rule(error), raw)
                continue
            if not OmegaConf.is_config(value):
                self._bounds(value, rules_here, where)
            elif not followed:
                self.values(value, rules_here, where)

    def _put(self, node: Any, key: Any, hint: Any, value: Any, place: Place) -> None:
        inner, _ = strip_optional(hint)
        try:
            if isinstance(value, Mapping) and dataclasses.is_dataclass(inner):
                node[key] = self._filled(node.get(key), cast(type, inner), value, place)
            elif isinstance(value, Mapping) and get_origin(inner) is dict:
                if node.get(key) is None:
                    node[key] = {}
                for name, item in value.items():
                    self._put(node[key], name, get_args(inner)[1], item, (*place, str(name)))
            elif isinstance(value, list) and get_origin(inner) is list and dataclasses.is_dataclass(get_args(inner)[0]):
                node[key] = list(self._filled_list(get_args(inner)[0], value, place))
            else:
                node[key] = _typed(inner, value)
        except KeyValidationError:
            self._fault(place, "must be text: put quotes around the key", key)
        except OmegaConfBaseException as error:
            wrong_syntax = isinstance(value, str) and "${" in value
            self._fault(place, _interpolation_rule(error) if wrong_syntax else f"must be {type_name(hint)}", value)

    def _filled(self, default: Any, schema: type, mapping: Mapping[Any, Any], place: Place) -> DictConfig:
        child = default if isinstance(default, DictConfig) else OmegaConf.structured(schema)
        self.fill(child, schema, mapping, place)
        return child

    def _filled_list(self, schema: type, items: list[Any], place: Place) -> Iterator[DictConfig]:
        for index, item in enumerate(items):
            where = (*place, str(index))
            if isinstance(item, Mapping):
                yield self._filled(None, schema, item, where)
            else:
                self._fault(where, f"must be {type_name(schema)}", item)

    def _bounds(self, value: Any, rules: Mapping[str, Any], place: Place) -> None:
        if value is None:
            return
        there = self._is_there(value, rules["exists"]) if "exists" in rules else True
        held = there and (
            value in rules.get("choices", (value,))
            and ("min" not in rules or value >= rules["min"])
            and ("max" not in rules or value <= rules["max"])
            and ("above" not in rules or value > rules["above"])
        )
        if not held:
            self._fault(place, f"must be {rule_text(rules)}", value)
        elif isinstance(value, float) and not math.isfinite(value):
            self._fault(place, "must be a finite number", value)

    def _is_there(self, value: Any, kind: str) -> bool:
        if not isinstance(value, str) or "\0" in value:
            return False
        path = Path(value)
        if self.made_in is not None and path.absolute().is_relative_to(self.made_in.absolute()):
            return True
        return not self.check_files or (path.is_file() if kind == "file" else path.is_dir())

    def _missing(self, place: Place) -> None:
        key, file = ".".join(place), self.layers.origin(place) or self.layers.last_file
        remedy = f"add it to {file} or" if file not in (None, COMMAND_LINE) else "add"
        self.faults.setdefault(place, f"`{key}` must be given: {remedy} {key}=... on the command line")

    def _fault(self, place: Place, rule: str, *value: Any) -> None:
        got = "".join(f", got {_shown(item)}" for item in value)
        origin = self.layers.origin(place) or "default"
        self.faults.setdefault(place, f"`{'.'.join(place)}` {rule}{got} ({origin})")

    def _nearest(self, key: str, siblings: list[str], place: Place) -> str:
        near = difflib.get_close_matches(key, siblings, n=1)
        names = [".".join((*place, name)) for name in near]
        names = names or [k.name for k in describe(self.schema) if k.name.endswith(f".{key}") and k.name.islower()]
        if names:
            return f"did you mean `{names[0]}`?"
        return f"the keys here are {', '.join(siblings)}"


def _typed(hint: Any, value: Any) -> Any:
    """The value with the floats and tuples that its type asks for, which YAML lacks and OmegaConf warns about."""
    if hint is float and type(value) is int:
        return float(value)
    if get_origin(hint) in (list, tuple) and isinstance(value, list):
        items = [_typed(float, item) if float in get_args(hint) else item for item in value]
        return tuple(items) if get_origin(hint) is tuple else items
    return value


def _interpolation_rule(error: OmegaConfBaseException) -> str:
    text = str(error).splitlines()[0]
    variable = re.search(r"Environment variable '(.+?)' not found", text)
    if variable:
        name = variable.group(1)
        return f"needs the environment variable {name}, which is not set: export {name}=..."
    return f"must resolve ({text})"


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
