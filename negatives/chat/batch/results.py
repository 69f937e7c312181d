"""Result files of the batch API and of `vllm run-batch` -> answers in the request cache, line by line.

A result file comes from outside and may hold anything: lines that are no results are counted and skipped, as are those
of requests that were never made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from negatives.chat.ask import Check, answer_from
from negatives.chat.batch.parts import BatchFolder, Place, open_folder, places_of, request_at
from negatives.chat.cache import RequestCache
from negatives.chat.client import FILTER_CODES, Completion, completion_of
from negatives.chat.messages import MODES, ChatRequest
from negatives.chat.redact import clean_string, scrubbed
from negatives.tables.files import InputError, StrPath

MAX_LINE = 4_000_000  # bytes; an answer has some hundred


@dataclass
class Results:
    """Counts of the lines of result files.

    Attributes:
        recorded: new answers by outcome.
        known: answers to attempts that the cache had already.
        failed: requests that the server did not answer, by the code that it gives; they are missing as before.
        unknown: lines with a `custom_id` that no part has.
        broken: lines that are no results.
    """

    recorded: Counter[str] = field(default_factory=Counter)
    known: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    broken: int = 0

    def __iadd__(self, other: Results) -> Results:
        self.recorded += other.recorded
        self.failed += other.failed
        self.known, self.unknown = self.known + other.known, self.unknown + other.unknown
        self.broken += other.broken
        return self


def read_results(path: StrPath, folder: StrPath, cache: RequestCache, check: Check) -> Results:
    """Merges a result file that was made offline, as by `vllm run-batch -i part-00001.jsonl -o results.jsonl`.

    Reading a file twice changes nothing: every line says which attempt it answers.

    Args:
        path: result file.
        folder: batch folder whose parts it answers.
        cache: takes the answers.
        check: whether an answer's text is good.

    Raises:
        InputError: a file cannot be read, or the folder has no parts.
    """
    with open_folder(folder) as opened:
        places: dict[str, Place] = {}
        for part in opened.parts:
            places |= places_of(opened, part)
        if not places:
            raise InputError(
                f"Results need the requests that they answer, {folder} has none. Give the folder of the parts."
            )
        return merge(path, opened, places, cache, check)


def merge(
    path: StrPath, folder: BatchFolder, places: Mapping[str, Place], cache: RequestCache, check: Check
) -> Results:
    """Records the answers of a result file to the requests in `places`; merging it again changes nothing.

    Raises:
        InputError: the file cannot be read, or the cache not written.
    """
    results = Results()
    with ExitStack() as files:
        parts: dict[int, BinaryIO] = {}
        for value in _values(path):
            if value is None or not isinstance(key := value.get("custom_id"), str):
                results.broken += 1
            # a file of another run, or of parts that were replaced since
            elif (place := places.get(key)) is None:
                results.unknown += 1
            else:
                number = place.part.number
                # opened once, however many results point into it
                if number not in parts:
                    parts[number] = files.enter_context(folder.file_of(place.part).open("rb"))
                _record(value, request_at(parts[number], place), place, cache, check, results)
    return results


def _record(
    value: dict[str, Any], request: ChatRequest, place: Place, cache: RequestCache, check: Check, results: Results
) -> None:
    """Records what one line says about a request."""
    completion = _completion(value, request)
    if isinstance(completion, str):
        results.failed[completion] += 1
        return
    if completion is None:
        results.broken += 1
        return
    # as `parts` sent it: nothing falls back in a batch
    mode = MODES[0] if request.schema is not None else "text"
    answer = answer_from(request, place.part.attempt, mode, completion, check)
    if cache.record(answer):
        results.recorded[answer.outcome] += 1
    else:
        results.known += 1


def _completion(value: dict[str, Any], request: ChatRequest) -> Completion | str | None:
    """What a line holds: a completion, the code of a failure, or None for neither."""
    response, error = value.get("response"), value.get("error")
    status = response.get("status_code", 200) if isinstance(response, dict) else None
    body = response.get("body") if isinstance(response, dict) else None
    if status == 200 and isinstance(body, dict) and not error:
        return completion_of(body)
    # a failure stands in the line's own `error`, or in the body of a response with another status
    inner = body.get("error") if isinstance(body, dict) else None
    fault = next((item for item in (error, inner) if isinstance(item, dict)), {})
    code = fault.get("code") or fault.get("type") or status or ("error" if error else None)
    # an answer, not a failure: it counts as an attempt, or it would be asked again for ever
    if code in FILTER_CODES:
        return Completion("", request.model, 0, 0, "content_filter", clean_string(fault.get("message")) or code)
    return None if code in (None, 200) else scrubbed(str(code)[:60], "")


def _values(path: StrPath) -> Iterator[dict[str, Any] | None]:
    """The objects of a JSONL file; None for a line that is none. Blank lines are skipped."""
    try:
        with Path(path).open("rb") as file:
            while line := file.readline(MAX_LINE):
                # a line that is too long is read away in pieces, so that memory stays bounded
                if len(line) == MAX_LINE and not line.endswith(b"\n"):
                    while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                        pass
                    yield None
                elif line.strip():
                    yield _object(line)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}. Check the path.") from error


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
