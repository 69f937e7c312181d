"""Texts from a server, made safe: to keep in UTF-8 files, and to show on a terminal without the key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

SHORTEST_SECRET = 8  # servers without keys take any, such as EMPTY, which texts may hold
LONGEST_SHOWN = 300


def variable_faults(name: str | None, place: str) -> Iterator[str]:
    """What is wrong with the name of an environment variable for a key, without showing it: it may be the key itself.

    Args:
        name: None where none is given.
        place: the setting that holds it.
    """
    if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        yield (
            f"`{place}` must be the name of an environment variable, and what is given is none (not shown, for it may "
            "be a key): export the key, and give the variable's name"
        )


def clean_string(value: object) -> str:
    """A string that UTF-8 can hold, "" for anything else: JSON can spell lone surrogates, which no file can hold."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def without_key(text: str, key: str) -> str:
    """The text with `***` in the place of the key."""
    return text.replace(key, "***") if len(key) >= SHORTEST_SECRET else text


def scrubbed(text: str, key: str) -> str:
    r"""A text on one line, shortened, without control characters, the key or what a server shows of it.

    >>> scrubbed("Incorrect key\n sk-ab****yz \x1b[31m", "EMPTY")
    'Incorrect key sk-*** ?[31m'
    """
    text = " ".join(without_key(text, key).split())
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    # a server that refuses a key shows a part of it, so that the whole key is not found above
    text = re.sub(r"\bsk-[\w*.-]*\w", "sk-***", text)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def error_of(text: str) -> tuple[str, str]:
    """(code, message) of an error's body; the body itself where it has another form.

    >>> error_of('{"error": {"code": "insufficient_quota", "message": "Pay."}}')
    ('insufficient_quota', 'Pay.')
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return "", text
    # OpenAI nests code and message under `error`; servers built on FastAPI answer {"detail": ...}
    error = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(error, dict):
        return "", clean_string(error) or text
    message = error.get("message", error.get("detail"))
    return clean_string(error.get("code")) or clean_string(error.get("type")), clean_string(message) or text
