"""YAML as plain values: a `config.yaml` that a verb wrote is read as it stands, and nothing in it is looked up.

The folder may have come from anyone. OmegaConf would put the reader's environment into it: `name: ${oc.env:HOME}`
becomes the reader's own folder, and lands in what is published of the run. A verb writes its configuration resolved, so
nothing is left to resolve.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

YAML_FAULTS = (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError, OSError)
"""What OmegaConf raises of a file that is no YAML, or YAML that repeats, nests or counts without bounds."""
MAX_DEPTH = 50
"""Mappings and lists within each other: what reads a configuration is recursive."""


def read_plain_yaml(path: Path) -> Any:
    """The plain values of a `config.yaml` that a verb wrote.

    Raises:
        ValueError: one line: the file cannot be read, is no YAML, or holds what would have to be looked up.
    """
    try:
        content = plain_values(OmegaConf.load(path))
    except YAML_FAULTS as error:
        raise ValueError(f"must be valid YAML: {yaml_fault(error)}") from error
    if found := _to_resolve(content, ""):
        raise ValueError(
            f"must hold plain values, as a verb writes them, and has ${{...}} in {found!r}: nothing is looked up for "
            "what others wrote; put the value itself there, or copy the file anew"
        )
    return content


def plain_values(config: Any) -> Any:
    """A configuration of OmegaConf as plain values, interpolations as they stand.

    Raises:
        RecursionError: it is nested deeper than `MAX_DEPTH`.
    """
    values = OmegaConf.to_container(config, resolve=False)
    level = [values]
    for _ in range(MAX_DEPTH):
        inner = [held.values() if isinstance(held, dict) else held for held in level if isinstance(held, dict | list)]
        if not inner:
            return values
        level = [value for held in inner for value in held]
    raise RecursionError


def yaml_fault(error: Exception) -> str:
    """What is wrong and where, without the excerpt that PyYAML adds or the key that OmegaConf adds."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    # PyYAML marks the place by a line counted from 0
    mark = getattr(error, "problem_mark", None)
    lines = str(getattr(error, "problem", None) or error).splitlines()
    text = lines[0][:200] if lines else type(error).__name__
    return f"{text}, line {mark.line + 1}" if mark is not None else text


def _to_resolve(value: Any, place: str) -> str:
    """The dotted key of the first interpolation, "" where there is none."""
    if isinstance(value, str):
        return place if "${" in value else ""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next((found for key, item in items if (found := _to_resolve(item, f"{place}.{key}".lstrip(".")))), "")
