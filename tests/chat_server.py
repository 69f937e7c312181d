"""A chat server with faults, drawn by a seed, that logs what it received and what it answered.

It runs as a process of its own: `python -m tests.chat_server <log> <seed> <faults as JSON: name -> chance>`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import combinations_with_replacement
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from experiments.bench.chat_server import Answerer, Reply, completion, serve, serve_forever
from negatives.chat.ask import ChatRequest

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"replace_obj": {"type": "array", "items": {"type": "string"}}},
    "required": ["replace_obj"],
    "additionalProperties": False,
}
SEED = 1000
SLOW = 3.0  # seconds: beyond the time-out of the clients that meet it
RESENT = (
    "429",
    "429_ms",
    "429_after",
    "500",
    "503",
    "408",
    "slow",
    "drop_before",
    "drop_middle",
    "half_body",
    "no_json",
)
ANSWERED_BADLY = ("no_object", "wrong_schema", "duplicates", "refusal", "content_filter", "length")

tls_context = cache(ssl.create_default_context)
"""In place of the standard one in tests that make many clients: each takes 0.1 s, and none speaks TLS."""


def make_request(number: int, **changes: Any) -> ChatRequest:
    """The request for caption `number`."""
    messages = (("system", "Change one object. Answer in JSON."), ("user", f"caption {number}"))
    return ChatRequest(**{"model": "m", "messages": messages, "schema": SCHEMA, "seed": SEED, **changes})


def make_text(number: int) -> str:
    """The good answer to it."""
    return json.dumps({"replace_obj": [f"a cat on mat {number}"]})


def check(request: ChatRequest, text: str) -> str | None:
    """The check of these answers: one list of different texts, and nothing else."""
    try:
        texts = json.loads(text)["replace_obj"]
    except (ValueError, TypeError, LookupError):
        return "no object with replace_obj"
    if not isinstance(texts, list) or not texts or not all(isinstance(item, str) for item in texts):
        return "no list of texts"
    return "a text twice" if len(set(texts)) < len(texts) else None


def request_hash(body: dict[str, Any]) -> str:
    """Tells requests apart by what the server sees of them: their messages."""
    return hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()


def error(status: int, code: str = "", message: str = "Try again.", **headers: str) -> Reply:
    """An error as OpenAI words it."""
    return Reply(json.dumps({"error": {"code": code, "message": message}}).encode(), status, headers)


def fault(name: str, number: int) -> Reply:
    """The faulty reply of a name; "" is the good one."""
    good = completion(make_text(number))
    bad_texts = {
        "no_object": "Sure! Here is a cat.",
        "wrong_schema": '{"answer": 7}',
        "duplicates": '{"replace_obj": ["a cat", "a cat"]}',
    }
    replies = {
        "": Reply(good),
        "429": error(429),
        "429_ms": error(429, **{"retry-after-ms": "200"}),
        "429_after": error(429, **{"Retry-After": "1"}),
        "500": error(500),
        "503": Reply(b"<html>down</html>", 503, {"Content-Type": "text/html"}),
        "408": error(408),
        "slow": Reply(good, delay=SLOW),
        "drop_before": Reply(good, cut=0),
        "drop_middle": Reply(good, cut=len(good) // 2 + 90),
        "half_body": Reply(good[: len(good) // 2]),
        "no_json": Reply(b"\xff\x00 not JSON"),
        "refusal": Reply(completion("", refusal="I can't help with that.")),
        "content_filter": Reply(completion("", finish_reason="content_filter")),
        "length": Reply(completion(make_text(number)[:9], finish_reason="length")),
    }
    return replies[name] if name in replies else Reply(completion(bad_texts[name]))


class FaultyServer:
    """Answers captions, each with a fault drawn from the seed, the caption and how often it came; logs as JSONL."""

    def __init__(self, log: Path, seed: int, faults: dict[str, float]) -> None:
        self.log = log.open("a", buffering=1)
        self.seed, self.faults = seed, faults
        self.seen: Counter[str] = Counter()

    def __call__(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """The reply to a request."""
        asked = json.loads(body)
        key = request_hash(asked)
        self.seen[key] += 1
        name = self._drawn(random.Random(f"{self.seed} {key} {self.seen[key]}").random())
        line = {"key": key, "attempt": asked["seed"] - SEED, "fault": name, "time": time.time()}
        self.log.write(json.dumps(line) + "\n")
        return fault(name, int(asked["messages"][-1]["content"].split()[-1]))

    def _drawn(self, chance: float) -> str:
        for name, share in self.faults.items():
            chance -= share
            if chance < 0:
                return name
        return ""


@contextmanager
def serving(answer: Answerer) -> Iterator[str]:
    """Serves from a thread of this process, for tests that look into it; yields the base URL."""
    started: Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Queue()

    async def serve_until_stopped() -> None:
        server, stopped = await serve(answer), asyncio.Event()
        started.put((asyncio.get_running_loop(), stopped, server.sockets[0].getsockname()[1]))
        await stopped.wait()
        server.close()

    thread = Thread(target=lambda: asyncio.run(serve_until_stopped()), daemon=True)
    thread.start()
    loop, stopped, port = started.get()
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()


class Recorder:
    """Answers by a function of (number of the request from 0, body), and keeps what came."""

    def __init__(self, reply: Callable[[int, dict[str, Any]], Reply]) -> None:
        self.reply = reply
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []

    def __call__(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """The reply to a request."""
        self.times.append(time.monotonic())
        self.headers.append(headers)
        self.bodies.append(json.loads(body))
        return self.reply(len(self.bodies) - 1, self.bodies[-1])


def number_of(body: dict[str, Any]) -> int:
    """The caption's number."""
    return int(body["messages"][-1]["content"].split()[-1])


def good(index: int, body: dict[str, Any]) -> Reply:
    """The good reply to any request."""
    return fault("", number_of(body))


def as_asked(body: dict[str, Any], texts: dict[str, list[str]]) -> str:
    """An answer with these texts in the form that a request asks for; texts whose edit is not found are left out."""
    caption = json.loads(body["messages"][-1]["content"])["caption"]
    lists = body["response_format"]["json_schema"]["schema"]["properties"]
    answer: dict[str, list[Any]] = {}
    for kind, found in texts.items():
        keys = lists[kind]["items"].get("required")
        items = [(edit_of(caption, text, is_swap=keys[0] == "first"), text) for text in found] if keys else []
        answer[kind] = [dict(zip(keys, (*edit, text), strict=True)) for edit, text in items if edit] if keys else found
    return json.dumps(answer)


def edit_of(caption: str, text: str, *, is_swap: bool) -> tuple[str, str] | None:
    """The two runs of words that change places, or that which goes and that which comes; None if that is not it."""
    ours, theirs = text.strip(".").split(), caption.strip(".").split()
    if not is_swap:
        start = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
        stop = next((n for n, (a, b) in enumerate(zip(ours[::-1], theirs[::-1], strict=False)) if a != b), 0)
        return " ".join(theirs[start : len(theirs) - stop]), " ".join(ours[start : len(ours) - stop])
    wanted = [word.lower() for word in ours]
    for a, b, c, d in combinations_with_replacement(range(len(theirs) + 1), 4):
        if a < b <= c < d:
            made = [*theirs[:a], *theirs[c:d], *theirs[b:c], *theirs[a:b], *theirs[d:]]
            if [word.lower() for word in made] == wanted:
                return " ".join(theirs[a:b]), " ".join(theirs[c:d])
    return None


if __name__ == "__main__":
    asyncio.run(serve_forever(FaultyServer(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))))
