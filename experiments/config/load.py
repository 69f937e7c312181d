"""From YAML and the command line to a checked dataclass: all faults in one error, before anything heavy starts.

Interpolations are OmegaConf's: `${name}` and `${data.captions}` start at the root, `${.unit}` beside the key,
`${oc.env:ITM_SHARED}` reads the environment.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, KeyValidationError, OmegaConfBaseException

from experiments.config.help import describe
from experiments.config.layers import (
    COMMAND_LINE,
    ConfigError,
    Layers,
    find_yaml,
    nested,
    read_chain,
    read_saved,
    read_yaml,
)
from experiments.config.model_schemas import (
    SECTION,
    choose_model,
    drop_former_keys,
    has_model,
    is_known_somewhere,
    owners,
)
from experiments.config.names import NAME_RULE, is_file_name
from experiments.config.values import TruthForTextError, interpolation_rule, is_encodable, shown, switched, typed
from lightning_modules import (
    did_you_mean,
    faults_between_keys,
    field_types,
    keeps_rules,
    read_plain_yaml,
    rule_text,
    strip_optional,
    type_name,
    unknown_key,
)
from lightning_modules.backbones import UnknownNameError

__all__ = [
    "ConfigError",
    "describe",
    "find_yaml",
    "load_config",
    "load_mapping",
    "load_saved",
    "nested",
    "read_yaml",
    "saved_as_today",
    "to_yaml",
]

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


def load_saved(schema: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """As `load_config`, from the `config.yaml` in a folder that a verb has written, also by an older version.

    What it names need not be there any more. Nothing in it is resolved: the folder may have come from anyone.
    """
    layers = Layers()
    layers.add(read_saved(path), str(path))
    drop_former_keys(layers.tree)
    return _load(schema, layers, overrides, False, saved=True)


def saved_as_today(schema: type[Any], path: Path) -> Any:
    """What a saved `config.yaml` says, with the defaults of keys that it did not have yet; to be compared.

    Raises:
        Exception: whatever a damaged file makes the parser stumble over.
    """
    saved: Any = read_plain_yaml(path)
    try:
        return OmegaConf.to_container(OmegaConf.create(to_yaml(load_saved(schema, path))))
    except Exception:  # today's rules refuse it: compared as it is
        drop_former_keys(saved)
        return saved


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
    schema: type[T],
    layers: Layers,
    overrides: Sequence[str],
    check_files: bool,
    made_in: Path | None = None,
    *,
    saved: bool = False,
) -> T:
    faults: list[str] = []
    for text in overrides:
        try:
            layers.override(text)
        except ConfigError as error:
            faults.extend(error.faults)
    # which keys a model section has depends on its backbone and loss: these are chosen before anything is checked
    defaults: Any = schema()
    chosen = choose_model(defaults.model, layers.tree) if has_model(schema) else None
    if chosen is not None:
        defaults.model = chosen.settings
    root = OmegaConf.structured(defaults)
    check = _Check(defaults, layers, check_files, made_in)
    check.saved = saved
    if chosen is not None and chosen.wrong is not None:
        check.refuse_name(chosen.wrong)
    if chosen is not None and chosen.unresolved:
        check.unjudged = (SECTION,)
    check.fill(root, layers.tree, ())
    # after filling, since interpolations may lead to any key, and defaults have rules too
    check.values(root, {}, ())
    if chosen is not None and chosen.unresolved:
        check.refuse_default(chosen.unresolved)
    faults.extend(check.faults.values())
    if faults:
        raise ConfigError(*faults)
    config = cast(T, OmegaConf.to_object(root))
    # rules between keys presuppose that each key alone is right
    if faults := [f"{fault} ({_place_of(fault, layers)})" for fault in faults_between_keys(config, "")]:
        raise ConfigError(*faults)
    return config


def _place_of(fault: str, layers: Layers) -> str:
    """Where the key that a fault begins with was given; where it was not, the last file, to which it can be added."""
    key = re.match(r"`([^`]+)`", fault)
    given = layers.given(tuple(key[1].split("."))) if key else None
    return given or layers.last_file or COMMAND_LINE


class _Check:
    """Fills a structured config leaf by leaf and collects what is wrong, one fault for each key."""

    def __init__(self, defaults: Any, layers: Layers, check_files: bool, made_in: Path | None) -> None:
        self.defaults = defaults
        self.layers = layers
        self.check_files = check_files
        self.made_in = made_in
        self.saved = False  # a run that is there keeps its name: nothing is written under it any more
        self.faults: dict[Place, str] = {}
        self.unjudged: Place | None = None

    def refuse_name(self, error: UnknownNameError) -> None:
        """Reports an unknown backbone or loss; further keys of the section may belong to the one that was meant."""
        self._fault((SECTION, error.key), error.rule, error.value, near=error.near)
        self.unjudged = (SECTION,)

    def refuse_default(self, key: str) -> None:
        """Reports a backbone or loss that only a default tells, unless a fault says already why it cannot be told."""
        self._fault((SECTION, key), "must lead to a key that is given: it decides which keys there are")

    def fill(self, node: DictConfig, mapping: Mapping[Any, Any], place: Place) -> None:
        """Puts a mapping into the node of a dataclass."""
        OmegaConf.set_readonly(node, False)  # of a frozen dataclass OmegaConf makes a node that cannot be filled
        schema: Any = OmegaConf.get_type(node)  # of a scorer's section, more than the schema's own field says
        hints = field_types(schema)
        choices = {field.name: field.metadata.get("choices", ()) for field in dataclasses.fields(schema)}
        for key, value in mapping.items():
            where = (*place, str(key))
            if key in hints:
                self._put(node, key, hints[key], switched(value, choices.get(key, ())), where)
            elif value is None and key in getattr(schema, "former_keys", ()):
                continue  # an older version wrote every key that it had; a value would have been obeyed
            elif place != self.unjudged and not (place == (SECTION,) and value is None and is_known_somewhere(key)):
                # null takes out what a base file says of another backbone
                self._fault(where, self._unknown(schema, str(key), place))

    def values(self, node: Any, rules: Mapping[str, Any], place: Place) -> None:
        """Resolves every leaf below a node and checks it against the rules of its field."""
        schema = OmegaConf.get_type(node)
        own = {f.name: f.metadata for f in dataclasses.fields(schema)} if dataclasses.is_dataclass(schema) else {}
        for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
            where, rules_here = (*place, str(key)), own.get(str(key), rules)
            # reading a missing value would raise
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
                self._fault(where, interpolation_rule(error), raw)
                continue
            if not OmegaConf.is_config(value):
                self._bounds(value, rules_here, where)
            # what an interpolation leads to is checked in its own place
            elif not followed:
                self.values(value, rules_here, where)

    def _put(self, node: Any, key: Any, hint: Any, value: Any, place: Place) -> None:
        inner, _ = strip_optional(hint)
        try:
            if isinstance(value, Mapping) and dataclasses.is_dataclass(inner):
                node[key] = self._filled(node.get(key), cast(type, inner), value, place)
            elif isinstance(value, Mapping) and get_origin(inner) is dict:
                # entries join those of the default
                if node.get(key) is None:
                    node[key] = {}
                for name, item in value.items():
                    self._put(node[key], name, get_args(inner)[1], item, (*place, str(name)))
            elif isinstance(value, list) and get_origin(inner) is list and dataclasses.is_dataclass(get_args(inner)[0]):
                node[key] = list(self._filled_list(get_args(inner)[0], value, place))
            else:
                node[key] = typed(inner, value)
        except KeyValidationError:
            self._fault(place, "must be text: put quotes around the key", key)
        except TruthForTextError as error:
            self._fault(place, error.rule, value)
        except OmegaConfBaseException as error:
            # OmegaConf parses an interpolation when it is assigned
            wrong_syntax = isinstance(value, str) and "${" in value
            self._fault(place, interpolation_rule(error) if wrong_syntax else f"must be {type_name(hint)}", value)

    def _filled(self, default: Any, schema: type, mapping: Mapping[Any, Any], place: Place) -> DictConfig:
        child = default if isinstance(default, DictConfig) else OmegaConf.structured(schema)
        self.fill(child, mapping, place)
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
        # whether null may stand there is said by the type
        there = self._is_there(value, rules["exists"]) if "exists" in rules else True
        if "names" in rules and not self.saved and not is_file_name(value):
            self._fault(place, f"must be {NAME_RULE}", value)
        elif isinstance(value, str) and not is_encodable(value):
            self._fault(place, "must be text without a NUL character or half of a surrogate pair", value)
        elif type(value) is int and abs(value) >= 2**63:
            self._fault(place, "must be a number below 2^63", value)
        elif not there or not keeps_rules(value, rules):
            near = did_you_mean(value, rules.get("choices", ()))
            self._fault(place, f"must be {rule_text(rules)}", value, near=near)
        elif isinstance(value, float) and not math.isfinite(value):
            self._fault(place, "must be a finite number", value)

    def _is_there(self, value: Any, kind: str) -> bool:
        if not isinstance(value, str) or "\0" in value:
            return False
        path = Path(value)
        if self.made_in is not None and path.absolute().is_relative_to(self.made_in.absolute()):
            return True
        is_there = {"file": path.is_file, "folder": path.is_dir, "file or folder": path.exists}[kind]
        return not self.check_files or is_there()

    def _missing(self, place: Place) -> None:
        key, file = ".".join(place), self.layers.origin(place) or self.layers.last_file
        remedy = f"add it to {file} or" if file not in (None, COMMAND_LINE) else "add"
        self.faults.setdefault(place, f"`{key}` must be given: {remedy} {key}=... on the command line")

    def _fault(self, place: Place, rule: str, *value: Any, near: str = "") -> None:
        got = "".join(f", got {shown(item)}" for item in value)
        origin = self.layers.origin(place) or "default"
        # the first fault of a key counts: later ones may follow from it
        self.faults.setdefault(place, f"`{'.'.join(place)}` {rule}{got}{near} ({origin})")

    def _unknown(self, schema: Any, key: str, place: Place) -> str:
        """What is wrong with an unknown key: it is another backbone's, near one beside it, or another section's."""
        rule = unknown_key(schema, key, "".join(f"{name}." for name in place))
        if place == (SECTION,) and rule.startswith("is no known key") and (others := owners(key)):
            remedy = "leave it out, or set it to null where a base has it"
            return f"belongs to {' and '.join(others)}, and `{SECTION}.backbone` is {schema.backbone}: {remedy}"
        # NAME and N in a name stand for any key: such a name cannot be typed as it is
        elsewhere = [k.name for k in describe(self.defaults) if k.name.endswith(f".{key}") and k.name.islower()]
        if elsewhere and rule.startswith("is no known key, the keys here"):
            return f"is no known key, did you mean `{elsewhere[0]}`?"
        return rule
