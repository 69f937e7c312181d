"""The prompts that ask a chat model for negatives and paraphrases, and how its answers are read.

The texts are files in a folder for each version (`v1/`): the rules for all tasks, one text for each task with its
definition and examples, and the shape of the answer. A published version never changes: other words are a new version,
because the text is part of a request and with it of the cache's key. A text for one more type may join a published
version: requests that do not ask for the type stay as they are.

The system message is the same for every caption and comes first, so that servers with a prompt cache read it once. The
caption follows in the user message as a JSON string: whatever it says, it stays a string in an object.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib import resources
from string import Template
from typing import Any

from negatives.chat.messages import ChatRequest
from negatives.tables.files import InputError, nearest_name, quoted
from negatives.types import NEGATIVE_TYPES, PARAPHRASE

VERSIONS = ("v1",)
TYPES = (*(row.name for row in NEGATIVE_TYPES.values() if row.asked), PARAPHRASE)
"""What is asked for unless a recipe says otherwise; `askable_types` may be more."""
MAX_COUNT = 20
MAX_ANSWER_CHARACTERS = 100_000
MAX_STARTS = 20  # places in an answer that are tried as the start of its JSON object

# all that `str.splitlines` breaks at, and the other control characters: a text is one line of a table
_LINE_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class AnswerError(ValueError):
    """An answer that is not of the shape that was asked for; says why in a few words."""


def write_request(
    caption: str,
    types: Iterable[str],
    *,
    count: int = 1,
    model: str,
    temperature: float = 1.0,
    max_tokens: int = 512,
    seed: int | None = None,
    version: str = "v1",
) -> ChatRequest:
    """One request that asks for all `types` of texts for one caption.

    Args:
        caption: the caption, true of its image.
        types: which of `askable_types`; their order and repetition do not change the request.
        count: the most texts of each type, in [1, 20].
        model: model as the server names it.
        temperature: sampling temperature.
        max_tokens: bound on the answer's length.
        seed: for servers that take one.
        version: which of `VERSIONS` of the prompts.

    Raises:
        InputError: a type or version is unknown, no type is given, or `count` is out of range.
    """
    # in one order, so that the same question has one key in the cache
    names = in_order(types)
    messages = (("system", system_text(names, count, version)), ("user", user_text(caption)))
    return ChatRequest(
        model=model,
        messages=messages,
        schema=answer_schema(names),
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
    )


def askable_types(version: str) -> tuple[str, ...]:
    """The kinds of text that a version of the prompts has a text for: negative types in their table's order, then
    "paraphrase".

    >>> askable_types("v1") == TYPES
    True
    """
    folder = resources.files(__package__).joinpath(version)
    return tuple(name for name in (*NEGATIVE_TYPES, PARAPHRASE) if folder.joinpath(f"{name}.txt").is_file())


def in_order(types: Iterable[str]) -> tuple[str, ...]:
    """The given types once each, in the order of `NEGATIVE_TYPES`, "paraphrase" last.

    >>> in_order(["swap_att", "replace_obj", "swap_att"])
    ('replace_obj', 'swap_att')

    Raises:
        InputError: a type is unknown, or none is given.
    """
    given, known = set(types), (*NEGATIVE_TYPES, PARAPHRASE)
    if not given or not given <= set(known):
        wrong = sorted(given - set(known), key=str)
        near = next((offer for name in wrong if (offer := nearest_name(name, known))), " Mend the list.")
        raise InputError(f"`types` must name at least one of {', '.join(known)}, got {quoted(wrong or [])}.{near}")
    return tuple(name for name in known if name in given)


@functools.lru_cache(maxsize=64)
def system_text(types: tuple[str, ...], count: int, version: str) -> str:
    """The system message: rules, then the tasks in the order of `types`, then the shape of the answer.

    Raises:
        InputError: the version is unknown or has no text for a type, or `count` is out of range.
    """
    if version not in VERSIONS:
        near = nearest_name(version, VERSIONS) or " Mend it."
        raise InputError(f"The prompts' version must be one of {', '.join(VERSIONS)}, got {quoted(version)}.{near}")
    if not 1 <= count <= MAX_COUNT:
        raise InputError(f"`count`, the texts of each type, must be in [1, {MAX_COUNT}], got {quoted(count)}. Mend it.")
    askable = askable_types(version)
    if lacking := [name for name in types if name not in askable]:
        raise InputError(
            f"`types` must have a text in the prompts {version}, as {', '.join(askable)} have, got {lacking[0]}. "
            f"Leave it out, or write negatives/gpt/prompts/{version}/{lacking[0]}.txt."
        )
    # "negative" says that a text has to be false, which a paraphrase must not be
    general = [] if types == (PARAPHRASE,) else ["negative"]
    parts = [_text(version, name) for name in ("system", *general, *types)]
    shape = json.dumps({name: ["..."] for name in types})
    amount = "one text" if count == 1 else f"up to {count} different texts, best first"
    return "\n".join([*parts, Template(_text(version, "answer")).substitute(shape=shape, amount=amount)]).strip()


def user_text(caption: str) -> str:
    """The user message: the caption as a string in a JSON object.

    >>> print(user_text('A sign that says "stop"'))
    {"caption": "A sign that says \\"stop\\""}
    """
    # not ASCII escapes, which cost tokens and hide the letters from the model
    return json.dumps({"caption": caption}, ensure_ascii=False)


def answer_schema(types: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an answer, within the subset that OpenAI's strict mode takes: a list of strings for each type.

    >>> answer_schema(["swap_obj"])["required"]
    ['swap_obj']
    """
    # strict mode asks for every key in `required`, and for no others (OpenAI's guide to structured outputs)
    return {
        "type": "object",
        "properties": {name: {"type": "array", "items": {"type": "string"}} for name in types},
        "required": list(types),
        "additionalProperties": False,
    }


def parse_answer(text: str, types: Iterable[str], count: int) -> dict[str, list[str]]:
    """The texts of an answer by type, in the table's order; an empty list means that there was nothing to write.

    The first JSON object of the right shape counts: what stands round it (a code fence, a preamble, what a model
    thought aloud) does not matter. Blank and repeated texts are left out, as are texts beyond `count`, and a line break
    becomes a space.

    >>> parse_answer('Sure: ```{"swap_obj": ["A cat bites a dog"]}```', ["swap_obj"], 1)
    {'swap_obj': ['A cat bites a dog']}

    Raises:
        AnswerError: no JSON object is there, or it has other keys, values that are no lists of texts, or characters
            that no UTF-8 file can hold. Nothing else is raised, whatever the text.
    """
    names = in_order(types)
    if len(text) > MAX_ANSWER_CHARACTERS:
        raise AnswerError(f"longer than {MAX_ANSWER_CHARACTERS} characters")
    fault = ""
    for value in _objects(text):
        try:
            return {name: _texts(name, value, names, count) for name in names}
        except AnswerError as error:
            fault = fault or str(error)
    raise AnswerError(fault or ("broken JSON" if "{" in text else "no JSON object"))


def check_answer(request: ChatRequest, text: str) -> str | None:
    """What is wrong with the shape of an answer to a request of `write_request`; None if nothing is.

    Raises:
        InputError: the request was not made by `write_request`.
    """
    try:
        parse_answer(text, (request.schema or {}).get("required", ()), MAX_COUNT)
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


def _texts(name: str, value: dict[str, Any], names: Collection[str], count: int) -> list[str]:
    """The texts of one type."""
    if set(value) != set(names):
        raise AnswerError(f"the keys must be {' '.join(names)}, got {quoted(' '.join(value))}")
    if not isinstance(value[name], list) or not all(isinstance(item, str) for item in value[name]):
        raise AnswerError(f"`{name}` must be a list of texts, got {quoted(value[name])}")
    texts = [_LINE_BREAKS.sub(" ", item).strip() for item in value[name]]
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, written as an escape
        raise AnswerError(f"`{name}` has a character that is no Unicode text") from error
    return list(dict.fromkeys(item for item in texts if item))[:count]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # by itself, json keeps the last of two equal keys in silence
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key repeats")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


@functools.lru_cache(maxsize=64)
def _text(version: str, name: str) -> str:
    return resources.files(__package__).joinpath(version, f"{name}.txt").read_text(encoding="utf-8")
