"""The `openai` client of a batch server, and its errors as one line each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from negatives.chat.client import QUOTA_CODES, Server, ServerStop
from negatives.chat.redact import error_of, scrubbed
from negatives.tables.files import InputError

if TYPE_CHECKING:
    from openai import OpenAI


def open_client(server: Server) -> OpenAI:
    """A client that tries again by itself what may be tried again; a context manager that closes its connections."""
    # here and below, not at the top: generating offline must not need the package
    import openai

    return openai.OpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=4, timeout=600.0)


def id_of(value: object, base_url: str) -> str:
    """The id of what a server made: some letters and signs that can be printed.

    Raises:
        InputError: it has none, as when the URL is that of a web page.
    """
    found = getattr(value, "id", None)
    if not isinstance(found, str) or not re.fullmatch(r"[!-~]{1,200}", found):
        raise InputError(
            f"{base_url} must be a server with a batch API, and is not. Check `base_url` (it mostly ends in /v1)."
        )
    return found


def code_of(error: Exception) -> str:
    """The code that a server gives an error; "" where it gives none."""
    response = getattr(error, "response", None)
    return error_of(response.text)[0] if response is not None else ""


@contextmanager
def one_line_errors(server: Server) -> Iterator[None]:
    """Turns the errors of the `openai` package into one line each, without the key.

    Raises:
        ServerStop: a wrong key or no quota.
        InputError: any other error.
    """
    import httpx2
    import openai

    def detail(error: Exception) -> str:
        text = error_of(error.response.text)[1] if isinstance(error, openai.APIStatusError) else str(error)
        return scrubbed(text, server.api_key).rstrip(".")

    place = f"The batch server {server.base_url}"
    try:
        yield
    # Narrow errors first: the package derives each of these from the next. `from None`, since the package keeps
    # the server's reply in its error, and a reply may quote the key.
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise ServerStop(f"{place} does not take the key: {detail(error)}. Check the key; then run again.") from None
    except openai.NotFoundError as error:
        raise InputError(f"{place} does not know what it was asked for: {detail(error)}. Check `base_url`.") from None
    except openai.APIStatusError as error:
        what = f"{place} answered HTTP {error.status_code}: {detail(error)}"
        if code_of(error) in QUOTA_CODES:
            raise ServerStop(f"{what}. Top up the account or raise its limit; then run again.") from None
        raise InputError(f"{what}. Run again to go on: what was sent is recorded.") from None
    except (openai.APIError, httpx2.HTTPError) as error:
        raise InputError(f"{place} cannot be reached: {detail(error)}. Check it, and go on by --resume.") from None
