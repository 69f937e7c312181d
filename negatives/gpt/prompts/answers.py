"""The form of an answer: the JSON schema that asks for it, and how it is read whatever a model wrote round it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from negatives.chat.messages import ChatRequest
from negatives.tables.files import quoted
from negatives.types import PARAPHRASE, REPLACE, SWAP, family_of

EDIT_KEYS = {REPLACE: ("old", "new"), SWAP: ("first", "second")}
"""What an item says of its edit before the text: the words that go and those that come; the two that change places."""
MAX_COUNT = 20
MAX_ANSWER_CHARACTERS = 100_000
MAX_STARTS = 20  # places in an answer that are tried as the start of its JSON object

# all that `str.splitlines` breaks at, and the other control characters: a text is one line of a table
_LINE_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class AnswerError(ValueError):
    """An answer that is not of the shape that was asked for; says why in a few words."""


class Item(NamedTuple):
    """One text of an answer.

    Attributes:
        text: what was written.
        edit: the values of `EDIT_KEYS`, which say what the text changes; None where they were not asked for.
    """

    text: str
    edit: tuple[str, str] | None = None


def edit_keys(kind: str) -> tuple[str, ...]:
    """The keys that an item of a type has before its text, where items say their edit.

    >>> edit_keys("replace_obj"), edit_keys("paraphrase")
    (('old', 'new'), ())
    """
    return () if kind == PARAPHRASE else EDIT_KEYS.get(family_of(kind), ())


def answer_schema(types: Sequence[str], count: int | None = None) -> dict[str, Any]:
    """The JSON schema of an answer, within the subset that OpenAI's strict mode takes: a list for each type.

    Args:
        types: the types, in order.
        count: the most items of a list, which then say their edit before their text; None: plain texts, without bound.

    >>> answer_schema(["swap_obj"])["required"]
    ['swap_obj']
    """
    if count is None:
        return _object_schema({name: {"type": "array", "items": {"type": "string"}} for name in types})
    # without it, a server that is held to the schema lets a small model list without end
    bound: dict[str, Any] = {"maxItems": count}
    return _object_schema({name: {"type": "array", "items": _item_schema(name), **bound} for name in types})


def _item_schema(kind: str) -> dict[str, Any]:
    # no maxLength: OpenAI's strict mode refuses it, and max_tokens bounds a text that does not end
    keys = edit_keys(kind)
    # in this order: servers that are held to a schema write its properties as they come, so the edit is chosen first
    return _object_schema({key: {"type": "string"} for key in (*keys, "text")}) if keys else {"type": "string"}


def _object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    # strict mode asks for every key in `required`, and for no others (OpenAI's guide to structured outputs)
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def parse_answer(text: str, schema: Mapping[str, Any], count: int) -> dict[str, list[Item]]:
    """The items of an answer by type, in the schema's order; an empty list means that there was nothing to write.

    The first JSON object of the right shape counts: what stands round it (a code fence, a preamble, what a model
    thought aloud) does not matter. Blank and repeated texts are left out, as are texts beyond `count`, and a line break
    becomes a space.

    >>> parse_answer('Sure: ```{"swap_obj": ["A cat bites a dog"]}```', answer_schema(["swap_obj"]), 1)
    {'swap_obj': [Item(text='A cat bites a dog', edit=None)]}

    Args:
        text: what the model wrote.
        schema: an `answer_schema`.
        count: the most texts of a type, whatever the schema lets through.

    Raises:
        AnswerError: no JSON object is there, or it has other keys, values that are no lists of such items, or
            characters that no UTF-8 file can hold. Nothing else is raised, whatever the text.
    """
    if len(text) > MAX_ANSWER_CHARACTERS:
        raise AnswerError(f"longer than {MAX_ANSWER_CHARACTERS} characters")
    fault = ""
    for value in _objects(text):
        try:
            return _items_by_type(value, schema, count)
        except AnswerError as error:
            fault = fault or str(error)
    raise AnswerError(fault or ("broken JSON" if "{" in text else "no JSON object"))


def check_answer(request: ChatRequest, text: str) -> str | None:
    """What is wrong with the shape of an answer to a request of `write_request`; None if nothing is."""
    try:
        parse_answer(text, request.schema or answer_schema(()), MAX_COUNT)
    except AnswerError as error:
        return str(error)
    return None


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text; those that a model draws up while it thinks do not count."""
    # where nothing was thought aloud, `rfind` gives -1, and the search starts at 0
    start = text.find("{", text.rfind("</think>") + 1)
    for _ in range(MAX_STARTS):
        if start < 0:
            return
        try:
            value, end = _DECODER.raw_decode(text, start)
            yield value
        except (ValueError, RecursionError):  # broken; nested too deep
            end = start + 1
        start = text.find("{", end)


def _items_by_type(value: dict[str, Any], schema: Mapping[str, Any], count: int) -> dict[str, list[Item]]:
    _check_keys(value, schema["required"])
    return {name: _items(name, value[name], schema["properties"][name]["items"], count) for name in schema["required"]}


def _items(name: str, values: Any, schema: Mapping[str, Any], count: int) -> list[Item]:
    """The items of one type."""
    keys = schema.get("required", [])
    if not isinstance(values, list) or not all(isinstance(value, dict if keys else str) for value in values):
        raise AnswerError(f"`{name}` must be a list of {'objects' if keys else 'texts'}, got {quoted(values)}")
    found: dict[str, Item] = {}
    for value in values:
        item = _edited(name, value, keys) if keys else Item(_line(name, value))
        # the first of equal texts
        if item.text:
            found.setdefault(item.text, item)
    return list(found.values())[:count]


def _edited(name: str, value: dict[str, Any], keys: list[str]) -> Item:
    _check_keys(value, keys)
    if not all(isinstance(part, str) for part in value.values()):
        raise AnswerError(f"`{name}` must have texts as values, got {quoted(value)}")
    one, other, text = (_line(name, value[key]) for key in keys)
    return Item(text, (one, other))


def _check_keys(value: dict[str, Any], keys: Sequence[str]) -> None:
    if set(value) != set(keys):
        raise AnswerError(f"the keys must be {' '.join(keys)}, got {quoted(' '.join(value))}")


def _line(name: str, text: str) -> str:
    """A text as one line, without space round it."""
    line = _LINE_BREAKS.sub(" ", text).strip()
    try:
        line.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, written as an escape
        raise AnswerError(f"`{name}` has a character that is no Unicode text") from error
    return line


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # by itself, json keeps the last of two equal keys in silence
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key repeats")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
