"""Single values of a configuration: YAML's reading in the type asked for, and what errors say of them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_args, get_origin

from omegaconf.errors import OmegaConfBaseException


class TruthForTextError(OmegaConfBaseException):
    """A truth value where text is asked for: YAML reads Yes, No, on and off as such."""

    rule = "must be text, and YAML reads Yes, No, on and off as true and false: put quotes around them"


def typed(hint: Any, value: Any) -> Any:
    """The value in the type that is asked for, where YAML reads another (`name=3`); OmegaConf warns of these.

    Raises:
        TruthForTextError: a truth value as text: which word it was is not known any more.
        OmegaConfBaseException: a number other than 0 and 1 as a truth value.
    """
    if hint is str and type(value) is bool:
        raise TruthForTextError
    # not isinstance: True is an int to Python, and here no number
    if hint is float and type(value) is int:
        return float(value)
    if hint is str and type(value) in (int, float):
        return shown(value)
    if hint is bool and type(value) is int:
        # refused as OmegaConf refuses, which itself would take any number for true
        if value not in (0, 1):
            raise OmegaConfBaseException
        return bool(value)
    if hint in (int, float) and isinstance(value, str):
        try:
            return hint(value)
        except ValueError:
            return value  # refused by its type, or an interpolation
    if get_origin(hint) in (list, tuple) and isinstance(value, list):
        items = [typed(get_args(hint)[0], item) for item in value]
        return tuple(items) if get_origin(hint) is tuple else items
    return value


def switched(value: Any, choices: Collection[Any]) -> Any:
    """`on` or `off` where both are choices, which YAML reads as truth values; any other value as it is.

    >>> switched(False, ("auto", "on", "off")), switched(False, ())
    ('off', False)
    """
    return ("off", "on")[value] if type(value) is bool and {"on", "off"} <= {*choices} else value


def texts_in(value: Any) -> Iterator[str]:
    """All texts in plain values, at any depth; keys are none of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


def is_encodable(text: str) -> bool:
    """Whether a path could be called so; names that are no UTF-8 come in with halves of surrogate pairs."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def interpolation_rule(error: OmegaConfBaseException) -> str:
    """What is wrong with an interpolation, in words that follow its key."""
    text = str(error).splitlines()[0]
    # OmegaConf has no error of its own for this; the name is in the text alone
    variable = re.search(r"Environment variable '(.+?)' not found", text)
    if variable:
        name = variable.group(1)
        return f"needs the environment variable {name}, which is not set: export {name}=..."
    return f"must resolve ({text})"


def shown(value: Any) -> str:
    """A value as errors show it, shortened."""
    # in the words of YAML, where the user wrote it
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
