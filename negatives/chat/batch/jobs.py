"""Requests by OpenAI's batch API: half the price, an answer within a day, and nothing paid for twice.

Every step is on disk before the next one begins: the parts and the identity of each batch to be, then the uploaded
file's id, then that a batch was asked for, then its id. A batch that was made on the server by a run which died before
it could write the id is found again by its identity, which the batch carries in its metadata. The one gap left: a
server that lists a batch only some time after it has lost the reply to its making.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from negatives.chat.ask import Check
from negatives.chat.batch.client import code_of, id_of, one_line_errors, open_client
from negatives.chat.batch.parts import (
    ENDPOINT,
    MAX_LINES,
    BatchFolder,
    Part,
    open_folder,
    places_of,
    request_at,
    write_parts,
)
from negatives.chat.batch.results import Results, merge, read_results
from negatives.chat.cache import RequestCache
from negatives.chat.client import QUOTA_CODES, Server
from negatives.chat.messages import ChatRequest, Serves, any_serves
from negatives.chat.redact import scrubbed
from negatives.tables.files import InputError, StrPath

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import Batch

__all__ = ["Collected", "Results", "Submitted", "collect", "read_results", "submit"]

# key in a batch's metadata under which the part's identity stands
INTENT = "itm_intent"
# after these a batch changes no more (OpenAI's API reference, the batch object)
ENDED = ("completed", "failed", "expired", "cancelled")
CREATE_WAITS = (1.0, 4.0, 16.0)  # seconds between tries to make a batch
REFUSALS = (400, 404, 409, 413, 422)  # no batch was made, nor will be from this file
CLOCK_MARGIN = timedelta(days=1)  # between this machine's clock and the server's


@dataclass(frozen=True)
class Submitted:
    """What a submission did.

    Attributes:
        requests: in the new batches.
        batches: ids of the new batches.
        running: batches of earlier submissions that are still to be collected.
    """

    requests: int
    batches: tuple[str, ...]
    running: int


@dataclass
class Collected:
    """What has come back.

    Attributes:
        results: counts of the lines merged by this call.
        ended: batches merged by this call, by status.
        running: batches still on their way, by status.
        problems: what the server says about batches that failed, a line each.
        missing: requests of the parts merged by this call that are not settled; `submit` asks them again.
    """

    results: Results = field(default_factory=Results)
    ended: dict[str, str] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    missing: int = 0


def submit(
    folder: StrPath,
    requests: Iterable[ChatRequest],
    cache: RequestCache,
    server: Server,
    *,
    attempts: int = 3,
    serves: Serves = any_serves,
    max_lines: int = MAX_LINES,
    say: Callable[[str], None] = lambda line: None,
) -> Submitted:
    """Sends off the requests that are neither settled in the cache nor on their way, and finishes a broken submission.

    Args:
        folder: of the parts and `batches.json`; `collect` needs all of it, on whatever machine.
        requests: pulled one by one.
        cache: answers that have arrived.
        server: with a batch API.
        attempts: how many failed answers make a request failed.
        serves: whether an answer of good shape holds something to use; what does not is sent again.
        max_lines: bound of a batch.
        say: gets a line for every step.

    Raises:
        ServerStop: a wrong key or no quota.
        InputError: the folder is unusable or another server's, or the server takes no batches.
    """
    with open_folder(folder) as opened, one_line_errors(server), open_client(server) as client:
        _bind(opened, server)
        _find_lost(client, opened)
        # after the search for lost batches, which gives parts their ids
        opened.parts = [part for part in opened.parts if part.batch_id]  # the others' requests may be settled by now
        running = sum(not part.done for part in opened.parts)
        new = write_parts(opened, requests, cache, attempts=attempts, serves=serves, max_lines=max_lines)
        for part in new:
            _send(client, opened, part)
            say(f"Batch {part.batch_id}: {part.requests} requests")
        return Submitted(sum(part.requests for part in new), tuple(part.batch_id for part in new), running)


def collect(
    folder: StrPath,
    cache: RequestCache,
    server: Server,
    check: Check,
    *,
    attempts: int = 3,
    serves: Serves = any_serves,
) -> Collected:
    """Merges the results of every batch that has ended, whether it is complete, expired, cancelled or failed.

    Args:
        folder: as `submit` left it.
        cache: takes the answers; refused, malformed and truncated ones count as attempts.
        server: the one that the batches were sent to.
        check: whether an answer's text is good.
        attempts: how many failed answers make a request failed.
        serves: whether an answer of good shape holds something to use.

    Raises:
        ServerStop: a wrong key.
        InputError: the folder is unusable or another server's, or the server does not know a batch.
    """
    collected = Collected()
    with open_folder(folder) as opened, one_line_errors(server), open_client(server) as client:
        _bind(opened, server)
        _find_lost(client, opened)
        for part in opened.parts:
            if part.batch_id and not part.done:
                _collect_part(client, opened, part, cache, check, collected)
                if part.done:
                    collected.missing += _missing(opened, part, cache, attempts, serves)
    collected.problems = [scrubbed(line, server.api_key) for line in collected.problems]
    return collected


def _send(client: OpenAI, folder: BatchFolder, part: Part) -> None:
    """Uploads a part and makes its batch, as far as that is not done."""
    # saved after each step: a run that dies between two of them must neither upload nor pay twice
    if not part.file_id:
        with folder.file_of(part).open("rb") as file:
            part.file_id = id_of(client.files.create(file=file, purpose="batch"), folder.base_url)
        folder.save()
    part.batch_id = id_of(_create(client, folder, part), folder.base_url)
    folder.save()


def _create(client: OpenAI, folder: BatchFolder, part: Part) -> Batch:
    """The part's batch: the one that is on the server already, or else a new one."""
    import openai

    once = client.with_options(max_retries=0)  # a retry of the package's own would not look for the batch first
    for wait in (*CREATE_WAITS, None):
        if part.asked and (found := _find(client, part)):
            return found
        # on disk before the request goes out: if this run dies now, the next one looks for the batch first
        part.asked = True
        folder.save()
        try:
            return once.batches.create(
                input_file_id=part.file_id,
                endpoint=ENDPOINT,
                # the only window that the API takes
                completion_window="24h",
                metadata={INTENT: part.intent},
            )
        except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
            if wait is None or code_of(error) in QUOTA_CODES:
                raise
            time.sleep(wait)
        except openai.APIStatusError as error:
            if error.status_code in REFUSALS:
                part.file_id, part.asked = "", False
                folder.save()
            raise
    raise AssertionError("unreachable")


def _find_lost(client: OpenAI, folder: BatchFolder) -> None:
    """Gives the parts whose batch was asked for by a run that died then the batches that are on the server."""
    for part in folder.parts:
        if part.asked and not part.batch_id and (found := _find(client, part)):
            part.batch_id = id_of(found, folder.base_url)
            folder.save()


def _find(client: OpenAI, part: Part) -> Batch | None:
    """The batch on the server that carries the part's identity; the server lists the newest first."""
    oldest = (datetime.fromisoformat(part.made) - CLOCK_MARGIN).timestamp()
    for batch in client.batches.list(limit=100):
        if (batch.metadata or {}).get(INTENT) == part.intent:
            return batch
        # all that follow are older still; where a server gives no time, the list is read to its end
        if (batch.created_at or oldest) < oldest:
            return None
    return None


def _collect_part(
    client: OpenAI,
    folder: BatchFolder,
    part: Part,
    cache: RequestCache,
    check: Check,
    collected: Collected,
) -> None:
    import openai

    batch = client.batches.retrieve(part.batch_id)
    id_of(batch, folder.base_url)
    part.status = batch.status
    if batch.status not in ENDED:
        collected.running[batch.id] = batch.status
        folder.save()
        return
    places = places_of(folder, part)
    # an expired or cancelled batch has both files: what was answered, and what was not
    for kind, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id)):
        if not file_id:
            continue
        try:
            path = _download(client, file_id, folder.file_of(part, kind))
        except openai.NotFoundError:  # kept for a month only; its requests are missing
            collected.problems.append(f"{batch.id}: the server keeps its {kind} file no longer")
        else:
            collected.results += merge(path, folder, places, cache, check)
    # only after the merge: a run that dies during it merges again, which changes nothing
    part.done = True
    folder.save()
    collected.ended[batch.id] = batch.status
    faults = (batch.errors.data or []) if batch.errors else []
    collected.problems += [f"{batch.id}: {fault.code}: {fault.message}" for fault in faults]


def _missing(folder: BatchFolder, part: Part, cache: RequestCache, attempts: int, serves: Serves) -> int:
    """How many requests of a part are not settled."""
    with folder.file_of(part).open("rb") as file:
        asked = (request_at(file, place) for place in places_of(folder, part).values())
        return sum(cache.final(request, attempts, serves) is None for request in asked)


def _download(client: OpenAI, file_id: str, path: Path) -> Path:
    """A file of the server on disk; one that is there already may be damaged, and is downloaded again."""
    partial = path.with_suffix(".partial")
    with client.files.with_streaming_response.content(file_id) as response, partial.open("wb") as file:
        for chunk in response.iter_bytes(1 << 20):
            file.write(chunk)
    os.replace(partial, path)
    return path


def _bind(folder: BatchFolder, server: Server) -> None:
    """Ties a folder to its server: ids of files and batches mean nothing on another one."""
    if folder.base_url and folder.base_url.rstrip("/") != server.base_url.rstrip("/"):
        raise InputError(
            f"The batches of {folder.path} are on {folder.base_url}, not on {server.base_url}. Give that `base_url`."
        )
    folder.base_url = server.base_url
