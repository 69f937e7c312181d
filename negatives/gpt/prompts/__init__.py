"""The prompts that ask a chat model for negatives and paraphrases.

The texts are files in a folder for each version: the rules for all tasks, one text for each task with its definition,
the shape of the answer, and from v2 on `examples.json`, whose examples go before the caption as turns of the chat. A
published version never changes: other words are a new version, because the text is part of a request and with it of
the cache's key. A text for one more type, and answers for it in the examples, may join a published version: requests
that do not ask for the type stay as they are.

The system message and the examples are the same for every caption and come first, so that servers with a prompt cache
read them once. The caption follows in the last message as a JSON string: whatever it says, it stays a string in an
object.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

from negatives.chat.messages import ChatRequest
from negatives.gpt.prompts.answers import MAX_COUNT, answer_schema, check_answer, edit_keys
from negatives.tables.files import InputError, nearest_name, quoted
from negatives.types import NEGATIVE_TYPES, PARAPHRASE

__all__ = ["LATEST", "PARAPHRASE", "TYPES", "VERSIONS", "Version", "askable_types", "caption_of", "check_answer"]
__all__ += ["in_order", "system_text", "user_text", "write_request"]


@dataclass(frozen=True)
class Version:
    """What a version of the prompts asks for beside its texts.

    Attributes:
        temperature: where none is given.
        seed: where none is given; None leaves it to the server, which may then repeat an answer when asked again.
        says_edits: whether an item says what it changes before its text, and lists are bounded.
    """

    temperature: float
    seed: int | None
    says_edits: bool


VERSIONS = {
    "v1": Version(temperature=1.0, seed=None, says_edits=False),
    "v2": Version(temperature=0.7, seed=0, says_edits=True),
}
LATEST = "v2"
TYPES = (*(row.name for row in NEGATIVE_TYPES.values() if row.asked), PARAPHRASE)
"""What is asked for unless a recipe says otherwise; `askable_types` may be more."""


def write_request(
    caption: str,
    types: Iterable[str],
    *,
    count: int = 1,
    model: str,
    temperature: float | None = None,
    max_tokens: int = 512,
    seed: int | None = None,
    version: str = LATEST,
) -> ChatRequest:
    """One request that asks for all `types` of texts for one caption.

    Args:
        caption: the caption, true of its image.
        types: which of `askable_types`; their order and repetition do not change the request.
        count: the most texts of each type, in [1, 20].
        model: model as the server names it.
        temperature: sampling temperature; None for the version's own.
        max_tokens: bound on the answer's length.
        seed: for servers that take one; None for the version's own.
        version: which of `VERSIONS` of the prompts.

    Raises:
        InputError: a type or version is unknown, no type is given, or `count` is out of range.
    """
    # in one order, so that the same question has one key in the cache
    names = in_order(types)
    system = system_text(names, count, version)
    own = VERSIONS[version]
    return ChatRequest(
        model=model,
        messages=(("system", system), *_example_turns(names, count, version), ("user", user_text(caption))),
        schema=answer_schema(names, count if own.says_edits else None),
        temperature=own.temperature if temperature is None else temperature,
        max_tokens=max_tokens,
        seed=own.seed if seed is None else seed,
    )


def caption_of(request: ChatRequest) -> str:
    """The caption that a request of `write_request` asks about.

    >>> caption_of(write_request("A dog", ["swap_obj"], model="m"))
    'A dog'
    """
    return str(json.loads(request.messages[-1][1])["caption"])


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
        near = nearest_name(version, tuple(VERSIONS)) or " Mend it."
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
    shape = json.dumps({name: [_shape(name, version)] for name in types})
    amount = "one text" if count == 1 else f"up to {count} different texts, best first"
    return "\n".join([*parts, Template(_text(version, "answer")).substitute(shape=shape, amount=amount)]).strip()


def user_text(caption: str) -> str:
    """The user message: the caption as a string in a JSON object.

    >>> print(user_text('A sign that says "stop"'))
    {"caption": "A sign that says \\"stop\\""}
    """
    # not ASCII escapes, which cost tokens and hide the letters from the model
    return json.dumps({"caption": caption}, ensure_ascii=False)


def _shape(kind: str, version: str) -> Any:
    """An item of a list, to show."""
    keys = edit_keys(kind) if VERSIONS[version].says_edits else ()
    return dict.fromkeys((*keys, "text"), "...") if keys else "..."


@functools.lru_cache(maxsize=64)
def _example_turns(types: tuple[str, ...], count: int, version: str) -> tuple[tuple[str, str], ...]:
    """The (role, content) of the version's examples: a caption and its answer, as far as it is asked for."""
    path = resources.files(__package__).joinpath(version, "examples.json")
    turns: list[tuple[str, str]] = []
    for example in json.loads(path.read_text(encoding="utf-8")) if path.is_file() else ():
        # an empty list would teach that there is nothing to write
        if set(types) <= set(example["answer"]):
            answer = {name: example["answer"][name][:count] for name in types}
            turns += [("user", user_text(example["caption"])), ("assistant", json.dumps(answer, ensure_ascii=False))]
    return tuple(turns)


@functools.lru_cache(maxsize=64)
def _text(version: str, name: str) -> str:
    return resources.files(__package__).joinpath(version, f"{name}.txt").read_text(encoding="utf-8")
