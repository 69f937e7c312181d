"""The folder of a batch run: requests as JSONL parts, and `batches.json`, which says how far each part has got.

A part is what becomes one batch: at most 50,000 lines and 200 MB, all at the same attempt. Its lines are the batch
API's, `{"custom_id", "method", "url", "body"}`, and `vllm run-batch` takes them as they are; `custom_id` is the
attempt and most of the request's key, so that a result tells by itself what it answers.
"""

from __future__ import annotations

import fcntl
import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from negatives.chat.cache import RequestCache
from negatives.chat.messages import MODES, ChatRequest, Serves, any_serves, final_answer
from negatives.tables.files import DAMAGED, InputError, StrPath, quoted, write_json

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
# the batch API's bounds on one file
MAX_LINES, MAX_BYTES = 50_000, 200_000_000
KEY_LENGTH = 60  # hex digits of a request's key in its `custom_id`; an attempt has up to three
VERSION = 1
STATE_FILE = "batches.json"


@dataclass
class Part:
    """A file of requests and what is known of its batch.

    Attributes:
        number: of the file.
        intent: identity that the batch carries on the server, made before the batch is.
        made: when, as ISO 8601 in UTC.
        attempt: of all its requests.
        requests: how many.
        schema: of all its requests.
        file_id: of the uploaded file.
        asked: a batch may be on the server although `batch_id` is not known: it was asked for.
        batch_id: of the batch.
        status: as the server named it last.
        done: its results are merged.
    """

    number: int
    intent: str
    made: str
    attempt: int
    requests: int
    schema: dict[str, Any] | None
    file_id: str = ""
    asked: bool = False
    batch_id: str = ""
    status: str = ""
    done: bool = False


@dataclass
class BatchFolder:
    """The parts of a folder; read from `batches.json` by `open_folder`, written by `save`.

    Attributes:
        path: the folder.
        base_url: of the server that the parts were uploaded to; "" before.
        parts: in the order in which they were made.
    """

    path: Path
    base_url: str = ""
    parts: list[Part] = field(default_factory=list)

    def save(self) -> None:
        """Writes `batches.json`; a reader sees the old one or the whole new one."""
        state = {"version": VERSION, "base_url": self.base_url, "parts": [asdict(part) for part in self.parts]}
        write_json(state, self.path / STATE_FILE)

    def file_of(self, part: Part, kind: str = "part") -> Path:
        """The file of a part's requests, or of its results ("output", "error")."""
        return self.path / f"{kind}-{part.number:05}.jsonl"


class Place(NamedTuple):
    """Where a request stands in a part's file."""

    part: Part
    offset: int


@contextmanager
def open_folder(path: StrPath) -> Iterator[BatchFolder]:
    """The folder, for one process at a time: two that submit at once would pay twice.

    Raises:
        InputError: the folder cannot be written, another process has it open, or its `batches.json` is damaged or of
            another version.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(
            f"A batch folder must be writable, {folder} is not: {error.strerror}. Give another."
        ) from error
    with lock:
        try:
            # the system drops this lock with the process, so that a killed run leaves none behind
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder} is open in another process. Wait for its end, then run again.") from error
        yield _read_state(folder)


def write_parts(
    folder: BatchFolder,
    requests: Iterable[ChatRequest],
    cache: RequestCache,
    *,
    attempts: int = 3,
    serves: Serves = any_serves,
    max_lines: int = MAX_LINES,
    max_bytes: int = MAX_BYTES,
) -> list[Part]:
    """Writes the requests that neither the cache has settled nor a batch on its way will answer.

    Parts of which no batch was asked for are only plans: they are replaced, since their requests may be settled by now.
    A file is complete before `batches.json` names it.

    Args:
        folder: an open folder.
        requests: pulled one by one.
        cache: says what is settled, and how many attempts the others have behind them.
        attempts: how many failed answers make a request failed.
        serves: whether an answer of good shape holds something to use; what does not is written again.
        max_lines: bound of a part.
        max_bytes: bound of a part.

    Returns:
        The new parts.

    Raises:
        InputError: a file cannot be written, or one request alone exceeds `max_bytes`.
    """
    folder.parts = [part for part in folder.parts if part.batch_id or part.asked]
    folder.save()
    sent = len(folder.parts)
    under_way = (part for part in folder.parts if not part.done)
    # bytes, not hex digits: half the memory for a set that may hold every request
    taken = {bytes.fromhex(_key_in(name)) for part in under_way for name in places_of(folder, part)}
    try:
        with _Writer(folder, max_lines, max_bytes) as writer:
            for request in requests:
                key, answers = bytes.fromhex(request.key[:KEY_LENGTH]), cache.answers(request.key)
                if key not in taken and final_answer(request, answers, attempts, serves) is None:
                    taken.add(key)
                    writer.add(request, answers[-1].attempt + 1 if answers else 0)
    except OSError as error:
        raise InputError(f"{folder.path} cannot be written: {error.strerror}. Make room; then run again.") from error
    return folder.parts[sent:]


class _Writer:
    """Writes requests to parts, one open for each attempt and schema; a full one is closed and recorded."""

    def __init__(self, folder: BatchFolder, max_lines: int, max_bytes: int) -> None:
        self._folder, self._max_lines, self._max_bytes = folder, max_lines, max_bytes
        self._open: dict[tuple[int, str], tuple[Part, BinaryIO]] = {}
        self._number = max((part.number for part in folder.parts), default=0)

    def add(self, request: ChatRequest, attempt: int) -> None:
        line = _line(request, attempt)
        if len(line) > self._max_bytes:
            raise InputError(
                f"A request must fit into {self._max_bytes} bytes, one has {len(line)}. Shorten its caption."
            )
        group = (attempt, json.dumps(request.schema))
        part, file = self._open.get(group) or self._new(group, request.schema)
        # a line moves to the next part as a whole: a file must end on a line
        if part.requests == self._max_lines or file.tell() + len(line) > self._max_bytes:
            self._close(group)
            part, file = self._new(group, request.schema)
        file.write(line)
        part.requests += 1

    def _new(self, group: tuple[int, str], schema: dict[str, Any] | None) -> tuple[Part, BinaryIO]:
        self._number += 1
        made = datetime.now(UTC).isoformat(timespec="seconds")
        part = Part(self._number, uuid.uuid4().hex, made, group[0], 0, schema)
        self._open[group] = part, self._folder.file_of(part).open("wb")
        return self._open[group]

    def _close(self, group: tuple[int, str]) -> None:
        part, file = self._open.pop(group)
        file.close()
        self._folder.parts.append(part)
        self._folder.save()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # after an error the open files stay unnamed in `batches.json`, and count as never written
        for group in list(self._open):
            if kind is None:
                self._close(group)
            else:
                self._open[group][1].close()


def places_of(folder: BatchFolder, part: Part) -> dict[str, Place]:
    """`custom_id` -> where its request stands, for every line of a part.

    Raises:
        InputError: the part's file is missing or damaged.
    """
    path = folder.file_of(part)
    places: dict[str, Place] = {}
    try:
        with path.open("rb") as file:
            offset = 0
            for line in file:
                name = json.loads(line)["custom_id"]
                # only a check: it raises where the name holds no key
                bytes.fromhex(_key_in(name))
                places[name] = Place(part, offset)
                offset += len(line)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}. Copy the whole folder.") from error
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{path} must hold one request a line, and is damaged: {quoted(error)}. Copy it again."
        ) from error
    if len(places) != part.requests:
        raise InputError(f"{path} must hold {part.requests} requests, it has {len(places)}. Copy it again.")
    return places


def id_in_batch(request: ChatRequest, attempt: int) -> str:
    """The `custom_id` of a request's line: the attempt, and of the key what fits into the 64 characters of the API."""
    return f"{attempt}-{request.key[:KEY_LENGTH]}"


def request_at(file: BinaryIO, place: Place) -> ChatRequest:
    """The request that a part's open file holds at a place; the same one that was written, key and all."""
    file.seek(place.offset)
    body = json.loads(file.readline())["body"]
    seed = body.get("seed")
    return ChatRequest(
        model=body["model"],
        messages=tuple((message["role"], message["content"]) for message in body["messages"]),
        schema=place.part.schema,
        temperature=body["temperature"],
        max_tokens=body["max_completion_tokens"],
        # `ChatRequest.body` adds the attempt to the seed
        seed=None if seed is None else seed - place.part.attempt,
    )


def _line(request: ChatRequest, attempt: int) -> bytes:
    body = request.body(MODES[0], attempt)  # nothing falls back by itself in a batch
    # the name that OpenAI's newer models insist on; the older ones and vLLM take both
    body["max_completion_tokens"] = body.pop("max_tokens")
    line = {"custom_id": id_in_batch(request, attempt), "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line).encode() + b"\n"


def _key_in(name: str) -> str:
    attempt, _, key = name.partition("-")
    # "damaged" is no hex number: whoever reads it as one gets a ValueError
    return key if attempt.isdecimal() and len(key) == KEY_LENGTH else "damaged"


def _read_state(folder: Path) -> BatchFolder:
    path = folder / STATE_FILE
    if not path.exists():
        return BatchFolder(folder)
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["version"] == VERSION:
            # keys that this release does not know are left out
            names = {item.name for item in fields(Part)}
            parts = [Part(**{name: value for name, value in part.items() if name in names}) for part in state["parts"]]
            return BatchFolder(folder, str(state["base_url"]), parts)
    except DAMAGED as error:
        raise InputError(f"{path} is damaged: {quoted(error)}. Restore it, or start in another folder.") from error
    raise InputError(
        f"{path} must be of version {VERSION}, it is of {quoted(state['version'])}. Use the release that wrote it."
    )
