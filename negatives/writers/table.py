"""Offline writers of negatives, by the name that `itm generate generator=...` takes.

A writer is one file and one line here. Its file holds the writer (`write.Writer` or `write.BatchWriter`), a dataclass
of its settings where it has some, and `build`, whose parameters are named as the keys of `itm generate` that it reads:
`per_type`, the section `spacy`, or a section of its own, named as the writer, which the command line then has too.
Every setting's docstring and rule stand once, at its field.
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from negatives.tables.files import InputError, unknown_name

if TYPE_CHECKING:
    from negatives.writers.write import BatchWriter, Writer

WRITERS: dict[str, str] = {
    "rules": "negatives.writers.english.rules.build",
    "ce_clip": "negatives.writers.ce_clip.build",
    "negclip": "negatives.writers.negclip.build",
}
"""Name -> its builder, imported on use. All files are imported for the settings' sake, so that what is heavy or not
everyone's (torch, spaCy) is imported inside of `build`."""


def find_builder(name: str) -> Callable[..., Writer | BatchWriter]:
    """The builder of a writer.

    Raises:
        InputError: if no writer has this name.
    """
    if name not in WRITERS:
        raise InputError(unknown_name("The writer", name, WRITERS))
    module, _, function = WRITERS[name].rpartition(".")
    builder: Callable[..., Writer | BatchWriter] = getattr(importlib.import_module(module), function)
    return builder


def builder_keys(name: str) -> dict[str, Any]:
    """The keys that a writer's builder takes -> their types; of a section its dataclass.

    >>> list(builder_keys("ce_clip")), builder_keys("rules")["per_type"]
    (['ce_clip', 'spacy'], <class 'int'>)
    """
    # resolved, since annotations are strings in all files here
    hints = typing.get_type_hints(find_builder(name))
    return {key: hint for key, hint in hints.items() if key != "return"}


def build_writer(name: str, settings: Mapping[str, Any]) -> Writer | BatchWriter:
    """A writer by plain values, as the column `settings` of its rows holds them: a section is a mapping.

    >>> build_writer("rules", {"per_type": 2}).per_type
    2

    Raises:
        InputError: no writer bears this name.
        TypeError: a key that its builder or a section does not take.
    """
    keys = builder_keys(name)
    given = {key: keys[key](**value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    return find_builder(name)(**given)
