"""Sentences into which zero-shot classification puts the name of a class: one text in several wordings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources

from negatives.tables import InputError, quoted

SLOT = "{c}"
PLAIN = (f"a photo of a {SLOT}.",)


def templates_of(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Templates by name, or as they are given.

    Args:
        templates: plain (one), cifar (18), imagenet (80; both of Radford et al., ICML 2021), or sentences with `{c}`.

    Raises:
        InputError: no such name, or a sentence without the slot.

    >>> templates_of("plain"), len(templates_of("imagenet"))
    (('a photo of a {c}.',), 80)
    """
    named = {"plain": PLAIN, **_published()}
    if isinstance(templates, str):
        if templates in named:
            return tuple(named[templates])
        templates = [templates]
    if not templates or any(SLOT not in template for template in templates):
        listed = ", ".join(named)
        raise InputError(f"`templates` must be one of {listed}, or sentences with {SLOT}, got {quoted(templates)}.")
    return tuple(templates)


def wordings_of(name: str, templates: Sequence[str]) -> list[str]:
    """A class in all templates.

    >>> wordings_of("cat", templates_of("plain"))
    ['a photo of a cat.']
    """
    return [template.replace(SLOT, name) for template in templates]


def _published() -> dict[str, tuple[str, ...]]:
    text = resources.files("datamodules.benchmarks").joinpath("data", "templates.json").read_text("utf-8")
    return {name: tuple(sentences) for name, sentences in json.loads(text).items() if name != "source"}
