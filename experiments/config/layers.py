"""YAML files that hold only differences, laid over each other, with a memory of where each value came from."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lightning_modules import MAX_DEPTH, YAML_FAULTS, plain_values, read_plain_yaml, yaml_fault
from negatives.tables import InputError, quoted

COMMAND_LINE = "command line"


class ConfigError(InputError):
    """One error for all faults of a configuration.

    Args:
        faults: One line for each fault; a single one is the whole message.
    """

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        lines = faults if len(faults) == 1 else (f"{len(faults)} faults in the configuration", *faults)
        super().__init__("\n  ".join(lines))


class Layers:
    """Mappings merged in the order they are added: later values win, nested mappings merge, lists are replaced."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {}
        self.last_file: str | None = None
        self._origins: dict[tuple[str, ...], str] = {}

    def add(self, mapping: Mapping[str, Any], origin: str) -> None:
        """Lays a mapping on top; `origin` is the file (or other source) that errors will name."""
        self.last_file = origin
        for key, value in mapping.items():
            self._put(self.tree, key, value, origin, ())

    def override(self, text: str) -> None:
        """Lays one `key=value` of the command line on top.

        Raises:
            ConfigError: Where `text` is no `key=value`, or its value is no YAML.
        """
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"an override must be written key=value, got {text!r} ({COMMAND_LINE})")
        *parents, last = key.split(".")
        if len(parents) > MAX_DEPTH:
            raise ConfigError(f"a key must have at most {MAX_DEPTH} parts, got {quoted(key)} ({COMMAND_LINE})")
        node: Any = self.tree
        for depth, parent in enumerate(parents, start=1):
            made = isinstance(node, dict) and not isinstance(node.get(parent), dict | list)
            node = _child(node, parent, key)
            if made:
                self._origins[tuple(parents[:depth])] = COMMAND_LINE
        self._put(node, last, parse_value(key, value), COMMAND_LINE, tuple(parents))

    def origin(self, path: tuple[str, ...]) -> str | None:
        """Where the value at `path` was given; None for a value that nobody gave."""
        # the mapping that the value was given in, the nearest first; of a mapping given in parts, its first part
        above = [self._origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._origins]
        below = [origin for key, origin in self._origins.items() if key[: len(path)] == path]
        return next(iter(above + below), None)

    def given(self, path: tuple[str, ...]) -> str | None:
        """As `origin`, and None for a key that only sections above it were given of."""
        node: Any = self.tree
        for key in path:
            if not isinstance(node, Mapping) or key not in node:
                return None
            node = node[key]
        return self.origin(path)

    def _put(self, node: Any, key: str, value: Any, origin: str, parents: tuple[str, ...]) -> None:
        path = (*parents, str(key))
        if isinstance(node, list):
            node[_index(node, key, ".".join(path))] = value
        elif isinstance(value, Mapping) and isinstance(node.get(key), dict):
            for name, item in value.items():
                self._put(node[key], name, item, origin, path)
            return
        else:
            node[key] = copy.deepcopy(value)
        # What was known of the keys below is gone with the value that they were in.
        self._origins = {old: where for old, where in self._origins.items() if old[: len(path)] != path}
        self._origins[path] = origin


def _child(node: Any, key: str, dotted: str) -> Any:
    """The mapping or list under `key`, made where there is none."""
    if isinstance(node, list):
        return node[_index(node, key, dotted)]
    if not isinstance(node.get(key), dict | list):
        node[key] = {}
    return node[key]


def _index(items: list[Any], key: str, dotted: str) -> int:
    if key.isdigit() and int(key) < len(items):
        return int(key)
    raise ConfigError(
        f"`{dotted}` must name one of {len(items)} list entries by 0 ... {len(items) - 1} ({COMMAND_LINE})"
    )


def parse_value(key: str, text: str) -> Any:
    """The value of an override, read as YAML the way OmegaConf reads it (`2e-5` is a number).

    >>> parse_value("optim.lr", "2e-5"), parse_value("runs", "[a, b]"), parse_value("data.verdicts", "null")
    (2e-05, ['a', 'b'], None)
    """
    try:
        # PyYAML alone follows YAML 1.1, where 2e-5 without a dot is text
        return plain_values(OmegaConf.from_dotlist([f"value={text}"]))["value"]
    except YAML_FAULTS as error:
        rule = f"must be valid YAML ({yaml_fault(error)}); put quotes around text"
        raise ConfigError(f"`{key}` {rule}, got {quoted(text, 200)} ({COMMAND_LINE})") from error


def nested(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with its dotted keys written out.

    >>> nested({"optim.lr": 0.1, "optim": {"betas": [0.9, 0.99]}})
    {'optim': {'lr': 0.1, 'betas': [0.9, 0.99]}}
    """
    layers = Layers()
    for key, value in mapping.items():
        *parents, last = str(key).split(".")
        for parent in reversed(parents):
            # from the inside out: a.b=1 becomes {a: {b: 1}}
            last, value = parent, {last: value}
        layers.add({last: value}, "")
    return layers.tree


def find_yaml(path: str | Path) -> Path:
    """The file itself, or the one of this name that is shipped beside the package (`experiments/configs/...`).

    Raises:
        ConfigError: Where neither exists.
    """
    # an installed wheel has the recipes too: `itm train experiments/configs/...` runs in any folder
    for candidate in (Path(path), Path(__file__).parents[2] / path):
        if candidate.is_file():
            return candidate
    raise ConfigError(f"configuration file {str(path)!r} does not exist: check the path{_near_recipe(path)}")


def _near_recipe(path: str | Path) -> str:
    """The end of an error about a missing file: the shipped one that is called like it, "" where none is."""
    shipped = {file.name: file for file in Path(__file__).parents[1].glob("*/*.yaml")}
    near = difflib.get_close_matches(Path(path).name, shipped, n=1, cutoff=0.8)
    return f". Did you mean {shipped[near[0]].relative_to(Path(__file__).parents[2])}?" if near else ""


def read_chain(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """A YAML file after the files it is based on (`base: other.yaml`, relative to the file), as (file, mapping).

    Raises:
        ConfigError: Where one of them is missing, malformed or not a mapping, or where they are based on each other.
    """
    chain: list[tuple[str, dict[str, Any]]] = []
    seen: list[Path] = []
    current: Path | None = find_yaml(path)
    while current is not None:
        # resolved, since one file may be named by several paths
        if current.resolve() in seen:
            files = " -> ".join([*(file for file, _ in reversed(chain)), str(current)])
            raise ConfigError(f"`base` must not lead back to a file that is based on it, got {files}")
        seen.append(current.resolve())
        mapping = _read_one(current)
        # taken out: it is no key of any schema
        base = mapping.pop("base", None)
        # bases come first: what is laid on top wins
        chain.insert(0, (str(current), mapping))
        current = None if base is None else find_base(base, current)
    return chain


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file laid over its bases, as a plain dictionary with interpolations left as they are.

    Raises:
        ConfigError: As `read_chain`.
    """
    layers = Layers()
    for file, mapping in read_chain(path):
        layers.add(mapping, file)
    return layers.tree


def find_base(base: Any, file: Path, key: str = "base") -> Path:
    """The file that `base` in `file` names: beside that file, or where `find_yaml` looks.

    Raises:
        ConfigError: where there is none; names `key`.
    """
    if not isinstance(base, str):
        raise ConfigError(f"`{key}` must be the path of a YAML file, got {base!r} ({file})")
    # not resolve(): errors name the path as the user knows it, without links and folders above
    beside = Path(os.path.normpath(file.parent / base))
    try:
        return beside if beside.is_file() else find_yaml(base)
    except ConfigError as error:
        near = _near_recipe(base)
        raise ConfigError(f"`{key}` must be an existing file, got {str(beside)!r} ({file}){near}") from error


def read_saved(path: Path) -> dict[str, Any]:
    """The `config.yaml` of a folder, as a plain dictionary: no base, no interpolation, whoever wrote it.

    Raises:
        ConfigError: Where it is missing, malformed, not a mapping, or holds what would have to be looked up.
    """
    try:
        content = read_plain_yaml(path)
    except ValueError as error:
        raise ConfigError(f"{path} {error}") from error
    return _mapping(content, path)


def _read_one(path: Path) -> dict[str, Any]:
    try:
        content = plain_values(OmegaConf.load(path))
    except YAML_FAULTS as error:
        raise ConfigError(f"{path} must be valid YAML: {yaml_fault(error)}") from error
    return _mapping(content, path)


def _mapping(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values, got a list")
    return content
