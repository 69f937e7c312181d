"""YAML as verbs write it, read in a millisecond: by libyaml's events, from which plain values are made here.

PyYAML's own constructors are slow in Python, and the one in C overflows the stack where lists are nested deep. Events
know no depth, and show an alias before a few lines of them stand for any number of values.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

DEEPEST = 50
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
WORDS = {"null": None, "~": None, "": None, "true": True, "false": False}
INTEGER = re.compile(r"[-+]?\d{1,4000}")
FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def plain_yaml(text: bytes) -> Any:
    """The values of a document: mappings, lists, texts, numbers, truth values and None.

    Raises:
        ValueError: it is no YAML, nested too deep, or has aliases, tags or several documents.

    >>> plain_yaml(b"a: {b: [1, 2.0e-5, x]}\\nc: null\\nd: '1'")
    {'a': {'b': [1, 2e-05, 'x']}, 'c': None, 'd': '1'}
    """
    # each level: the mapping or list, and the key that waits for its value
    levels: list[tuple[Any, list[Any]]] = [([], [])]
    try:
        for event in yaml.parse(text, Loader=LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("an alias")
            if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                if event.tag is not None or len(levels) > DEEPEST:
                    raise ValueError("a tag, or lists nested too deep")
                inner: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
                _put(levels[-1], inner)
                levels.append((inner, []))
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                levels.pop()
            elif isinstance(event, yaml.ScalarEvent):
                if event.tag is not None:
                    raise ValueError("a tag")
                _put(levels[-1], _scalar(event.value) if event.implicit[0] else event.value)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    (document,) = levels[0][0] or [None]
    return document


def _put(level: tuple[Any, list[Any]], value: Any) -> None:
    held, key = level
    if isinstance(held, list):
        held.append(value)
    elif not key:
        if isinstance(value, dict | list):
            raise ValueError("a mapping or list as a key")
        key.append(value)
    else:
        held[key.pop()] = value


def _scalar(text: str) -> Any:
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if FLOAT.fullmatch(text) else text
