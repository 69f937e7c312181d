"""Laws of asking a chat server many requests: against servers on the loopback, with faults."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import json
import logging
import random
import re
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from experiments.bench import generate_speed
from experiments.bench.chat_server import Reply, completion, server_process
from negatives.chat.ask import MODES, Answer, ChatRequest, Event, Server, ServerStop, Tally, ask_all, prompt_tokens
from negatives.chat.cache import RequestCache
from negatives.chat.client import ChatClient, retry_after
from negatives.chat.rate_limits import RateLimits
from negatives.chat.redact import error_of
from negatives.chat.retries import EndedError, Sender, SendOptions
from negatives.tables.files import InputError
from tests.chat_server import (
    ANSWERED_BADLY,
    RESENT,
    SCHEMA,
    SEED,
    Recorder,
    check,
    error,
    fault,
    good,
    make_request,
    make_text,
    number_of,
    request_hash,
    serving,
    tls_context,
)

ROOT = Path(__file__).parent.parent
KEY = "sk-proj-Ab3dEf6hIj9kLm2nOp5q"
DRIVER = """
import asyncio, sys
from negatives.chat.ask import SendOptions, Server, ask_all
from negatives.chat.cache import RequestCache
from tests.chat_server import check, make_request
url, path, count, concurrency, timeout = sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])
with RequestCache(path) as cache:
    requests = (make_request(number) for number in range(int(count)))
    tally = asyncio.run(ask_all(requests, cache, Server(url, "EMPTY"), check=check, concurrency=int(concurrency),
                                timeout=timeout, options=SendOptions(retries=9, backoff=0.05)))
print(dict(tally.faults).get("timeout", 0), tally.unanswered)
"""


@pytest.fixture(autouse=True)
def one_tls_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl, "create_default_context", tls_context)


def ask(url: str, path: Path, requests: list[ChatRequest] | Iterator[ChatRequest], **options: Any) -> Tally:
    """Asks all on a cache, quickly."""
    options = {"check": check, "backoff": 0.01, "timeout": 10.0, "concurrency": 8, **options}
    own = [option.name for option in fields(SendOptions) if option.name in options]
    options["options"] = SendOptions(**{name: options.pop(name) for name in own})
    with RequestCache(path) as cache:
        return asyncio.run(ask_all(requests, cache, Server(url, options.pop("key", KEY)), **options))


def numbered(count: int, **changes: Any) -> list[ChatRequest]:
    return [make_request(number, **changes) for number in range(count)]


def answers_of(path: Path, requests: list[ChatRequest]) -> list[list[Answer]]:
    with RequestCache(path) as cache:
        return [cache.answers(request.key) for request in requests]


# --- requests


def test_a_key_depends_on_all_that_decides_the_answer_and_on_nothing_else() -> None:
    request = make_request(1)
    others = [
        make_request(2),
        make_request(1, model="n"),
        make_request(1, schema=None),
        make_request(1, temperature=0.5),
        make_request(1, max_tokens=9),
        make_request(1, seed=None),
    ]
    assert len({other.key for other in [request, *others]}) == 7
    reordered = dict(reversed(SCHEMA.items()))
    assert make_request(1, schema=reordered, temperature=1).key == request.key
    assert len(request.key) == 64
    # as caches on disk hold it
    canonical = (
        r'{"max_tokens":512,"messages":[["user","H\u00e9"]],"model":"m","schema":null,"seed":null,"temperature":1.0}'
    )
    assert ChatRequest("m", (("user", "Hé"),), None).key == hashlib.sha256(canonical.encode()).hexdigest()


def test_a_body_asks_for_its_form_and_each_attempt_for_a_seed_of_its_own() -> None:
    request = make_request(3)
    bodies = [request.body(mode) for mode in MODES]
    assert bodies[0]["response_format"]["json_schema"]["schema"] == SCHEMA
    assert bodies[0]["response_format"]["json_schema"]["strict"] is True
    assert bodies[1]["response_format"] == {"type": "json_object"}
    assert "response_format" not in bodies[2]
    assert [request.body("text", attempt)["seed"] for attempt in range(3)] == [SEED, SEED + 1, SEED + 2]
    assert "seed" not in make_request(3, seed=None).body("text", 2)
    assert "response_format" not in make_request(3, schema=None).body("json_schema")


# --- what is sent, and what is kept


def test_every_answer_is_in_the_cache_and_is_not_asked_again(tmp_path: Path) -> None:
    server, requests = Recorder(good), numbered(30)
    with serving(server) as url:
        first = ask(url, tmp_path / "c", requests)
        second = ask(url, tmp_path / "c", numbered(31))
    assert (first.sent, first.answered, first.cached) == (30, 30, 0)
    assert (second.sent, second.answered, second.cached) == (1, 1, 30)
    assert (first.prompt_tokens, first.completion_tokens) == (3000, 600)
    assert len(server.bodies) == 31
    for number, (answer,) in enumerate(answers_of(tmp_path / "c", requests)):
        key = requests[number].key
        assert answer == Answer(key, 0, "ok", make_text(number), "loopback-1", 100, 20, "json_schema", "stop")


def test_a_request_that_comes_twice_is_sent_once(tmp_path: Path) -> None:
    server = Recorder(good)
    with serving(server) as url:
        tally = ask(url, tmp_path / "c", numbered(10) * 3)
    assert (len(server.bodies), tally.answered, tally.cached) == (10, 10, 20)


def test_requests_are_pulled_as_slots_become_free(tmp_path: Path) -> None:
    pulled, ahead = 0, []

    def requests() -> Iterator[ChatRequest]:
        nonlocal pulled
        for request in numbered(60):
            pulled += 1
            yield request

    def reply(index: int, body: dict[str, Any]) -> Reply:
        ahead.append(pulled - index)
        return good(index, body)

    with serving(Recorder(reply)) as url:
        assert ask(url, tmp_path / "c", requests(), concurrency=5).answered == 60
    assert max(ahead) <= 5


@pytest.mark.parametrize(
    ("name", "outcome", "detail"),
    [
        ("refusal", "refused", "I can't help with that."),
        ("content_filter", "refused", "stopped by the server's content filter"),
        ("length", "truncated", "longer than max_tokens = 512"),
        ("no_object", "malformed", "no object with replace_obj"),
        ("wrong_schema", "malformed", "no object with replace_obj"),
        ("duplicates", "malformed", "a text twice"),
    ],
)
def test_a_bad_answer_is_recorded_and_asked_again_a_bounded_number_of_times(
    tmp_path: Path, name: str, outcome: str, detail: str
) -> None:
    server = Recorder(lambda index, body: fault(name, number_of(body)))
    with serving(server) as url:
        tally = ask(url, tmp_path / "c", numbered(2), attempts=3)
        again = ask(url, tmp_path / "c", numbered(2), attempts=3)
    assert (tally.failed, tally.answered, again.sent, again.cached) == ({outcome: 2}, 0, 0, 2)
    assert sorted(body["seed"] for body in server.bodies) == [SEED, SEED, SEED + 1, SEED + 1, SEED + 2, SEED + 2]
    for answers in answers_of(tmp_path / "c", numbered(2)):
        assert [(a.attempt, a.outcome, a.detail) for a in answers] == [(k, outcome, detail) for k in range(3)]


def test_an_answer_that_holds_nothing_to_use_is_asked_again_with_another_seed(tmp_path: Path) -> None:
    def serves(request: ChatRequest, answer: Answer) -> bool:
        return answer.attempt == 2 and request.key != hopeless.key

    hopeless, server = make_request(1), Recorder(good)
    with serving(server) as url:
        stopped = ask(url, tmp_path / "c", numbered(2), serves=serves, max_requests=3, concurrency=1)
        tally = ask(url, tmp_path / "c", numbered(2), serves=serves)
        again = ask(url, tmp_path / "c", numbered(2), serves=serves)
    assert (stopped.sent, stopped.answered) == (3, 1)
    assert (tally.sent, tally.cached, tally.answered, tally.failed) == (3, 1, 0, {"all_rejected": 1})
    assert (again.sent, again.cached) == (0, 2)
    seeds = sorted((number_of(body), body["seed"]) for body in server.bodies)
    assert seeds == [(number, SEED + attempt) for number in range(2) for attempt in range(3)]
    # their shape is good: the cache says so, and another rule may take them
    assert [[answer.outcome for answer in found] for found in answers_of(tmp_path / "c", numbered(2))] == [
        ["ok"] * 3
    ] * 2


def test_a_good_answer_after_bad_ones_settles_a_request(tmp_path: Path) -> None:
    with serving(Recorder(lambda index, body: fault("refusal" if index < 2 else "", number_of(body)))) as url:
        tally = ask(url, tmp_path / "c", numbered(1), attempts=5)
    assert (tally.sent, tally.answered, tally.failed) == (3, 1, {})
    (answers,) = answers_of(tmp_path / "c", numbered(1))
    assert [answer.outcome for answer in answers] == ["refused", "refused", "ok"]


# --- faults on the way


@pytest.mark.parametrize("name", [name for name in RESENT if name != "slow"])
def test_a_fault_on_the_way_is_tried_again_and_not_recorded(tmp_path: Path, name: str) -> None:
    server = Recorder(lambda index, body: fault(name if index < 2 else "", number_of(body)))
    with serving(server) as url:
        tally = ask(url, tmp_path / "c", numbered(1))
    assert (len(server.bodies), tally.sent, tally.retried, tally.answered) == (3, 3, 2, 1)
    assert sum(tally.faults.values()) == 2
    assert [body["seed"] for body in server.bodies] == [SEED] * 3
    assert [len(answers) for answers in answers_of(tmp_path / "c", numbered(1))] == [1]


def test_a_slow_answer_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    server = Recorder(lambda index, body: fault("slow" if index == 0 else "", number_of(body)))
    with serving(server) as url:
        tally = ask(url, tmp_path / "c", numbered(3), timeout=0.4)
    assert (tally.faults, tally.answered) == ({"timeout": 1}, 3)


def test_a_request_without_an_answer_is_left_for_the_next_run(tmp_path: Path) -> None:
    def reply(index: int, body: dict[str, Any]) -> Reply:
        return fault("500" if number_of(body) == 3 and len(server.bodies) < 20 else "", number_of(body))

    server, events = Recorder(reply), []
    with serving(server) as url:
        first = ask(url, tmp_path / "c", numbered(5), retries=2, report=events.append)
        server.bodies += [{}] * 20
        second = ask(url, tmp_path / "c", numbered(5), retries=2)
    assert (first.answered, first.unanswered, first.faults) == (4, 1, {"500": 3})
    assert [event.detail for event in events if event.kind == "unanswered"] == ["HTTP 500: Try again."]
    assert (second.sent, second.answered, second.cached) == (1, 1, 4)


def test_a_server_that_is_gone_stops_the_run(tmp_path: Path) -> None:
    server = Recorder(lambda index, body: fault("" if index < 30 else "drop_before", number_of(body)))
    with serving(server) as url, pytest.raises(ServerStop, match="answered none of the last 20 requests"):
        ask(url, tmp_path / "c", numbered(10_000), retries=1)
    assert len(server.bodies) < 30 + 2 * (20 + 8) + 1
    assert sum(len(answers) for answers in answers_of(tmp_path / "c", numbered(100))) == 30


def test_waits_grow_with_full_jitter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[tuple[float, float]] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: waits.append((low, high)) or 0.0)
    with serving(Recorder(lambda index, body: error(500))) as url, pytest.raises(ServerStop):
        ask(url, tmp_path / "c", numbered(1), retries=8, backoff=1.0)
    assert waits == [(0.0, bound) for bound in (1, 2, 4, 8, 16, 32, 60, 60)]


@pytest.mark.parametrize(("header", "value", "seconds"), [("Retry-After", "1", 1.0), ("retry-after-ms", "700", 0.7)])
def test_retry_after_is_honoured(tmp_path: Path, header: str, value: str, seconds: float) -> None:
    server = Recorder(lambda index, body: error(429, **{header: value}) if index == 0 else good(index, body))
    with serving(server) as url:
        assert ask(url, tmp_path / "c", numbered(1)).answered == 1
    assert seconds <= server.times[1] - server.times[0] < seconds + 0.5


def test_retry_after_as_a_date_is_honoured(tmp_path: Path) -> None:
    wanted: list[float] = []
    arrived: list[float] = []

    def reply(index: int, body: dict[str, Any]) -> Reply:
        arrived.append(time.time())
        wanted.append(float(int(arrived[0]) + 2))  # dates have whole seconds
        date = email.utils.formatdate(wanted[0], usegmt=True)
        return error(503, **{"Retry-After": date}) if index == 0 else good(index, body)

    with serving(Recorder(reply)) as url:
        ask(url, tmp_path / "c", numbered(1))
    assert wanted[0] <= arrived[1] < wanted[0] + 0.5


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after-ms": "30", "retry-after": "9"}, 0.03),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:10 GMT"}, 0.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:03:20 GMT"}, 100.0),
    ],
)
def test_retry_after_is_read_as_servers_write_it(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers, now=100.0) == seconds


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"error": {"code": null, "type": "insufficient_quota", "message": "m"}}', ("insufficient_quota", "m")),
        ('{"error": "model not found"}', ("", "model not found")),
        ('{"detail": "Not Found"}', ("", "Not Found")),
        ('{"object": "error", "message": "m", "code": 400}', ("", "m")),
        ("<html>", ("", "<html>")),
        ("[]", ("", "[]")),
    ],
)
def test_errors_are_read_as_servers_write_them(text: str, found: tuple[str, str]) -> None:
    assert error_of(text) == found


# --- what stops a run


@pytest.mark.parametrize(
    ("reply", "match"),
    [
        (error(401, "invalid_api_key", "Incorrect API key."), "HTTP 401: Incorrect API key. Check the key"),
        (error(403, "", "No access."), "HTTP 403: No access. Check what the key may use"),
        (error(404, "model_not_found", "No model `m`."), "HTTP 404: No model `m`. Check base_url"),
        (error(402, "", "Insufficient balance"), "HTTP 402: Insufficient balance. Top up"),
        (error(429, "insufficient_quota", "You exceeded your quota."), "has no quota left: HTTP 429: You exceeded"),
        (error(429, "", "Daily limit.", **{"Retry-After": "7200"}), "asks to wait 7200 s: HTTP 429: Daily limit. Wait"),
    ],
)
def test_a_hopeless_server_stops_the_run_at_the_first_request(tmp_path: Path, reply: Reply, match: str) -> None:
    server = Recorder(lambda index, body: reply)
    with serving(server) as url, pytest.raises(ServerStop, match=match) as caught:
        ask(url, tmp_path / "c", numbered(500), concurrency=50)
    assert len(server.bodies) == 1
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_quota_that_ends_midway_loses_no_answer_under_way(tmp_path: Path) -> None:
    def reply(index: int, body: dict[str, Any]) -> Reply:
        if index == 40:
            return error(429, "insufficient_quota", "Pay.")
        return Reply(completion(make_text(number_of(body))), delay=0.0 if index < 40 else 0.3)

    server = Recorder(reply)
    with serving(server) as url, pytest.raises(ServerStop, match="Pay"):
        ask(url, tmp_path / "c", numbered(500), concurrency=10)
    assert len(server.bodies) <= 51
    assert sum(map(len, answers_of(tmp_path / "c", numbered(500)))) == len(server.bodies) - 1


def test_a_wrong_address_is_one_line(tmp_path: Path) -> None:
    with serving(Recorder(good)) as url:
        pass
    with pytest.raises(ServerStop, match=r"gave no answer in 3 tries: .*[Cc]onnect.* Check base_url") as caught:
        ask(url, tmp_path / "c", numbered(500), retries=2)
    assert "\n" not in str(caught.value)
    assert url in str(caught.value)


def test_a_web_page_is_no_chat_server(tmp_path: Path) -> None:
    server = Recorder(lambda index, body: Reply(b"<html>Welcome</html>", headers={"Content-Type": "text/html"}))
    with serving(server) as url, pytest.raises(ServerStop, match="no chat completion: '<html>Welcome</html>'"):
        ask(url, tmp_path / "c", numbered(500), retries=2)
    assert len(server.bodies) == 3


def test_requests_that_the_server_rejects_are_told_and_stop_a_run_of_nothing_else(tmp_path: Path) -> None:
    def reply(index: int, body: dict[str, Any]) -> Reply:
        return error(400, "", "Too long.") if number_of(body) != 2 else good(index, body)

    with serving(Recorder(reply)) as url:
        tally = ask(url, tmp_path / "c", numbered(5))
        assert (tally.answered, tally.unanswered, tally.retried) == (1, 4, 0)
        with pytest.raises(ServerStop, match="answered none of the last 20 requests: HTTP 400: Too long"):
            ask(url, tmp_path / "c", numbered(500))


def test_a_request_that_a_filter_rejects_is_refused(tmp_path: Path) -> None:
    with serving(Recorder(lambda index, body: error(400, "content_filter", "Filtered."))) as url:
        tally = ask(url, tmp_path / "c", numbered(1), attempts=2)
    assert tally.failed == {"refused": 1}
    assert answers_of(tmp_path / "c", numbered(1))[0][1].detail == "HTTP 400: Filtered."


# --- forms of answers


@pytest.mark.parametrize(("lacking", "mode"), [(1, "json_object"), (2, "text")])
@pytest.mark.parametrize("status", [400, 422])
def test_a_form_that_the_server_lacks_is_told_once_and_not_asked_for_again(
    tmp_path: Path, lacking: int, mode: str, status: int
) -> None:
    missing = MODES[:lacking]

    def reply(index: int, body: dict[str, Any]) -> Reply:
        form = body.get("response_format", {}).get("type", "text")
        return error(status, "", f"response_format {form} is not supported") if form in missing else good(index, body)

    server, events = Recorder(reply), list[Event]()
    with serving(server) as url:
        tally = ask(url, tmp_path / "c", numbered(40), report=events.append)
    assert (tally.answered, tally.retried, tally.sent) == (40, 0, 40 + lacking)
    assert [event.kind for event in events].count("fallback") == lacking
    assert {answers[0].mode for answers in answers_of(tmp_path / "c", numbered(40))} == {mode}


def test_the_fallback_of_requests_under_way_is_told_once(tmp_path: Path) -> None:
    def reply(index: int, body: dict[str, Any]) -> Reply:  # a server that is replaced by a poorer one
        if index > 20 and body.get("response_format", {}).get("type") == "json_schema":
            return Reply(**{**vars(error(400, "", "json_schema is unknown")), "delay": 0.05})
        return Reply(completion(make_text(number_of(body))), delay=0.02)

    server, events = Recorder(reply), list[Event]()
    with serving(server) as url:
        tally = ask(url, tmp_path / "c", numbered(60), report=events.append)
    assert tally.answered == 60
    assert [event.kind for event in events].count("fallback") == 1


def test_a_server_that_takes_no_seed_is_asked_without(tmp_path: Path) -> None:
    def reply(index: int, body: dict[str, Any]) -> Reply:
        return error(422, message="seed: extra fields are not permitted") if "seed" in body else good(index, body)

    server = Recorder(reply)
    events: list[Event] = []
    with serving(server) as url:
        tally = ask(url, tmp_path / "c", numbered(3), report=events.append)
    assert (tally.answered, tally.sent) == (3, 4)
    assert [event.kind for event in events].count("fallback") == 1
    with serving(Recorder(lambda *_: error(422, message="no seed, ever"))) as url:
        assert ask(url, tmp_path / "d", numbered(2, seed=None)).unanswered == 2
        assert ask(url, tmp_path / "d", numbered(2)).unanswered == 2, "left out already: refused, and not sent for ever"


def test_the_name_of_the_length_is_found_out(tmp_path: Path) -> None:
    def reply(index: int, body: dict[str, Any]) -> Reply:
        if "max_tokens" in body:
            return error(400, "", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return good(index, body)

    server, events = Recorder(reply), list[Event]()
    with serving(server) as url:
        assert ask(url, tmp_path / "c", numbered(20), report=events.append).sent == 21
    assert [event.detail for event in events if event.kind == "fallback"] == [
        "max_completion_tokens in place of max_tokens"
    ]


# --- bounds


def test_max_requests_bounds_what_is_sent_and_what_is_under_way_is_recorded(tmp_path: Path) -> None:
    server = Recorder(lambda index, body: Reply(completion(make_text(number_of(body))), delay=0.05))
    with serving(server) as url:
        first = ask(url, tmp_path / "c", numbered(50), max_requests=20)
        second = ask(url, tmp_path / "c", numbered(50), max_requests=30)
    assert (first.sent, first.answered, first.stopped) == (20, 20, "max_requests")
    assert (second.sent, second.answered, second.cached, second.stopped) == (30, 30, 20, "")
    assert len(server.bodies) == 50


def test_retries_count_as_requests(tmp_path: Path) -> None:
    server = Recorder(lambda index, body: fault("500" if index % 2 else "", number_of(body)))
    with serving(server) as url:
        tally = ask(url, tmp_path / "c", numbered(50), max_requests=20)
    assert (len(server.bodies), tally.sent, tally.stopped) == (20, 20, "max_requests")


@pytest.mark.parametrize("concurrency", [1, 40])
def test_max_cost_is_used_and_never_overrun(tmp_path: Path, concurrency: int) -> None:
    def price(model: str, prompt: int, completion_tokens: int) -> float:
        assert model == "m"
        return 0.001 * prompt + 0.01 * completion_tokens

    # the server counts 100 and 20 tokens: 0.3 each; set aside before: 0.01 * 60 for the answer, and the prompt
    bound = price("m", prompt_tokens(make_request(0)), 60)
    server = Recorder(lambda index, body: Reply(completion(make_text(number_of(body))), delay=0.02))
    with serving(server) as url:
        options = {"max_cost": 10.0, "price": price, "concurrency": concurrency}
        tally = ask(url, tmp_path / "c", numbered(200, max_tokens=60), **options)
    assert tally.stopped == "max_cost"
    assert 10.0 - bound < tally.cost <= 10.0
    assert tally.answered == tally.sent == len(server.bodies) == round(tally.cost / 0.3)


def test_max_cost_needs_a_price(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`max_cost` needs the model's price"):
        ask("http://127.0.0.1:9/v1", tmp_path / "c", numbered(1), max_cost=1.0)


def test_the_rate_limit_holds_over_the_wire(tmp_path: Path) -> None:
    server = Recorder(good)
    with serving(server) as url:
        ask(url, tmp_path / "c", numbered(21), limits=RateLimits(1200))
    gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert 0.85 <= server.times[-1] - server.times[0] < 2.0  # 20 gaps of 50 ms, but for the first one's way
    assert sum(gap > 0.02 for gap in gaps) >= 12


def test_a_stop_does_not_wait_for_the_rate_limit(tmp_path: Path) -> None:
    start = time.monotonic()
    with serving(Recorder(good)) as url:
        tally = ask(url, tmp_path / "c", numbered(50), limits=RateLimits(60), max_requests=1)
    assert (tally.sent, tally.stopped) == (1, "max_requests")
    assert time.monotonic() - start < 5.0


def test_a_stopped_run_does_not_wait_to_try_again(tmp_path: Path) -> None:
    def reply(index: int, body: dict[str, Any]) -> Reply:
        if index == 0:
            return good(index, body)
        return Reply(b"", 503, {"Retry-After": "300"}, delay=0.5)  # it comes when the bound has been met

    start = time.monotonic()
    with serving(Recorder(reply)) as url:
        tally = ask(url, tmp_path / "c", numbered(50), max_requests=2)
    assert (tally.sent, tally.answered, tally.faults, tally.stopped) == (2, 1, {"503": 1}, "max_requests")
    assert time.monotonic() - start < 10.0


def test_a_stopped_run_does_not_queue_for_the_rate_limit() -> None:
    class Limits(RateLimits):
        async def acquire(self, tokens: float) -> None:
            raise AssertionError("it queued")

    async def sent() -> None:
        async with ChatClient(Server("http://127.0.0.1:9/v1", KEY), 1, 1.0) as client:
            sender = Sender(client, Limits(), Tally(), lambda event: None, SendOptions(retries=1))
            sender.ended = True
            await sender.completion(make_request(0), 0)

    with pytest.raises(EndedError):
        asyncio.run(sent())


def test_a_cancelled_run_drops_what_is_under_way_and_keeps_the_cache_whole(tmp_path: Path) -> None:
    server = Recorder(lambda index, body: Reply(completion(make_text(number_of(body))), delay=5 * (index >= 20)))

    async def cancelled(url: str) -> None:
        with RequestCache(tmp_path / "c") as cache:
            run = ask_all(numbered(50), cache, Server(url, KEY), check=check, concurrency=8)
            await asyncio.wait_for(run, timeout=1.0)

    with serving(server) as url:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            asyncio.run(cancelled(url))
        assert time.monotonic() - start < 2.5
    assert sum(map(len, answers_of(tmp_path / "c", numbered(50)))) == 20


def test_requests_that_cannot_be_made_end_the_run_after_what_is_under_way(tmp_path: Path) -> None:
    def requests() -> Iterator[ChatRequest]:
        yield from numbered(20)
        raise InputError("captions.csv, line 21: no caption.")

    server = Recorder(lambda index, body: Reply(completion(make_text(number_of(body))), delay=0.05))
    with serving(server) as url, pytest.raises(InputError, match="line 21"):
        ask(url, tmp_path / "c", requests())
    assert sum(map(len, answers_of(tmp_path / "c", numbered(20)))) == 20


# --- the key


def test_the_key_is_sent_and_shows_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    shown, events = f"Incorrect API key: {KEY} ({KEY[:9]}****{KEY[-4:]})", list[Event]()

    def reply(index: int, body: dict[str, Any]) -> Reply:
        replies = [error(500, "", shown), Reply(shown.encode()), error(400, "", shown)]
        replies += [Reply(completion("", refusal=shown)), Reply(completion(shown)), error(401, "", shown)]
        return replies[min(index, 5)]

    server = Recorder(reply)
    with serving(server) as url, pytest.raises(ServerStop) as caught:
        ask(url, tmp_path / "c", numbered(9), concurrency=1, report=events.append)
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)
    assert "sk-***" in str(caught.value) or "***" in str(caught.value)
    chain, error_seen = "", caught.value
    while error_seen is not None:
        chain += repr(error_seen) + str(error_seen)
        error_seen = error_seen.__cause__ or error_seen.__context__  # type: ignore[assignment]
    cached = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    seen = chain + caplog.text + "".join(capfd.readouterr()) + repr(events) + repr(Server(url, KEY))
    for part in (KEY, KEY[-4:]):
        assert part not in chain + repr(events)
        assert KEY not in seen
        assert KEY.encode() not in cached
    assert len(cached) > 0


@pytest.mark.parametrize("text", ["\x1b[2Jno", "no\r\nno", "\u202eno\x00", "no" * 1000])
def test_texts_of_a_server_are_shown_on_one_line_without_control_characters(tmp_path: Path, text: str) -> None:
    def reply(index: int, body: dict[str, Any]) -> Reply:
        replies = [error(500, "", text), error(400, "", f"json_schema {text}"), Reply(completion("", refusal=text))]
        return [*replies, error(400, "", text), error(401, "", text)][min(index, 4)]

    events = list[Event]()
    with serving(Recorder(reply)) as url, pytest.raises(ServerStop) as caught:
        ask(url, tmp_path / "c", numbered(9), concurrency=1, attempts=1, report=events.append)
    assert [event.kind for event in events] == ["retry", "fallback", "failed", "unanswered"]
    for shown in [str(caught.value), *(event.detail for event in events)]:
        assert "no" in shown
        assert shown.isprintable()
        assert len(shown) < 500


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    assert Server.from_environment("http://h/v1", "MY_KEY").api_key == KEY
    monkeypatch.setenv("MY_KEY", " ")
    with pytest.raises(InputError, match="variable MY_KEY must hold the key of http://h/v1, and is not set"):
        Server.from_environment("http://h/v1", "MY_KEY")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        Server.from_environment("http://h/v1")


def test_an_address_or_key_that_is_none_is_one_line() -> None:
    with pytest.raises(InputError, match=r"`base_url` must be a URL .* got 'localhost:8000'"):
        Server("localhost:8000", KEY)
    with pytest.raises(InputError, match="must be printable ASCII") as caught:
        Server("http://h/v1", KEY + "\nsecond line")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", ["http://me:secret@h/v1", "https://secret@h", "me:secret@h:80/v1"])
def test_an_address_with_a_password_is_refused_and_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for make in (lambda: Server(url, KEY), lambda: Server.from_environment(url)):
        with pytest.raises(InputError, match="`base_url` must hold no user and password") as caught:
            make()
        assert "secret" not in str(caught.value)
    assert Server("http://h:80/v1/@me", KEY).base_url == "http://h:80/v1/@me"


# --- killed and run again


def reconcile(
    log: Path, cache: Path, count: int, kept: list[set[tuple[str, int]]], kills: list[float], most: int
) -> None:
    """Checks the cache and the server's log against each other; `kept`: (hash, attempt) in the cache at each kill."""
    received = [json.loads(line) for line in log.read_text().splitlines()]
    requests = {make_request(number).key: number for number in range(count)}
    hashes = {key: request_hash(make_request(number).body("text")) for key, number in requests.items()}
    by_key: dict[str, list[Answer]] = defaultdict(list)
    with sqlite3.connect(cache) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for row in database.execute("SELECT * FROM answers ORDER BY key, attempt"):
            by_key[row[0]].append(Answer(*row))
    # no row lost, doubled or mixed up
    assert by_key.keys() == requests.keys()
    for key, answers in by_key.items():
        assert [answer.attempt for answer in answers] == list(range(len(answers)))
        assert all(answer.outcome != "ok" for answer in answers[:-1])
        assert answers[-1].outcome == "ok" or len(answers) == 3
        assert answers[-1].outcome != "ok" or answers[-1].text == make_text(requests[key])
    # what the cache held at a kill was not sent after it
    for killed, held in zip(kills, kept, strict=True):
        assert not held & {(line["key"], line["attempt"]) for line in received if line["time"] > killed}
    # every attempt in the cache was sent, and what was sent more than once is explained
    sent = Counter((line["key"], line["attempt"]) for line in received)
    assert sent.keys() == {(hashes[key], answer.attempt) for key, answers in by_key.items() for answer in answers}
    asked_again = sum(line["fault"] in RESENT for line in received)  # "slow" ones: the client's time-outs
    assert sent.total() - len(sent) <= asked_again + most * len(kills)


def held_by(path: Path) -> set[tuple[str, int]]:
    """(cache key, attempt) of all answers."""
    with sqlite3.connect(path) as database:
        rows = set(database.execute("SELECT key, attempt FROM answers"))
    database.close()
    return rows


def number_held_by(path: Path) -> int:
    """How many answers there are: cheap enough to ask while a driver works."""
    with sqlite3.connect(path) as database:
        (number,) = database.execute("SELECT count(*) FROM answers").fetchone()
    database.close()
    return number


def kill_and_run_again(folder: Path, *, count: int, kills: int, seed: int) -> None:
    log, cache, concurrency = folder / "log.jsonl", folder / "cache.sqlite", 32
    faults = dict.fromkeys(RESENT + ANSWERED_BADLY, 0.012) | {"slow": 0.002}
    hashes = {make_request(n).key: request_hash(make_request(n).body("text")) for n in range(count)}
    rng, kept, times = random.Random(seed), list[set[tuple[str, int]]](), list[float]()
    with server_process(str(log), str(seed), json.dumps(faults), module="tests.chat_server") as url:
        command = [sys.executable, "-c", DRIVER, url, str(cache), str(count), str(concurrency), "2.0"]
        while len(kept) < kills:
            size = log.stat().st_size if log.exists() else 0
            with subprocess.Popen(command, cwd=ROOT) as driver:
                while not log.exists() or log.stat().st_size == size:  # until it sends
                    assert driver.poll() is None
                    time.sleep(0.01)
                goal = (len(kept[-1]) if kept else 0) + rng.randint(1, count // (kills + 1))
                while number_held_by(cache) < goal:
                    assert driver.poll() is None, "it was done before it could be killed"
                    time.sleep(rng.uniform(0.0, 0.1))
                driver.send_signal(signal.SIGKILL)
                driver.wait()
            time.sleep(0.2)  # what is on its way to the server is from before the kill
            times.append(time.time())
            kept.append({(hashes[key], attempt) for key, attempt in held_by(cache)})
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[1] == "0"
    sizes = [len(held) for held in kept]
    assert sizes[0] > 0
    assert sizes == sorted(set(sizes)), "each run went on from the one before"
    reconcile(log, cache, count, kept, times, concurrency)


def test_a_killed_run_pays_for_nothing_twice(tmp_path: Path) -> None:
    kill_and_run_again(tmp_path, count=300, kills=1, seed=1)


@pytest.mark.slow
def test_ten_thousand_requests_survive_six_kills(tmp_path: Path) -> None:
    kill_and_run_again(tmp_path, count=10_000, kills=6, seed=2)


def test_what_two_processes_on_one_cache_got_is_not_asked_again(tmp_path: Path) -> None:
    server = Recorder(good)
    with serving(server) as url:
        command = [sys.executable, "-c", DRIVER, url, str(tmp_path / "c"), "150", "16", "10"]
        runs = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
        assert [run.wait(timeout=60) for run in runs] == [0, 0]
        seen = Counter(number_of(body) for body in server.bodies)
        assert seen.keys() == set(range(150))
        assert max(seen.values()) <= 2, "no process asks a request twice"
        assert (ask(url, tmp_path / "c", numbered(150)).cached, len(server.bodies)) == (150, seen.total())


def test_memory_does_not_grow_with_the_number_of_requests(tmp_path: Path) -> None:
    with serving(Recorder(good)) as url:
        ask(url, tmp_path / "c", numbered(50))  # imports
        path = tmp_path / "filled"
        with RequestCache(path) as cache:
            for number in range(1000):
                key = make_request(number).key
                cache.record(Answer(key, 0, "ok", "x" * 10_000, "m", 1, 1, "text", "stop"))
        tracemalloc.start()
        try:
            tally = ask(url, path, (make_request(number) for number in range(1000)))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert tally.cached == 1000
    assert peak < 2e6  # the answers are 10 MB


def test_the_bench_tells_its_rate_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate_speed.main(["--captions", "60", "--runs", "2", "--latency", "0.01"]) == 0
    assert re.fullmatch(
        r"60 requests, 64 under way, 10 ms each: \d+ requests/s \(median of 2 runs, \d+ to \d+\), peak \d+ MiB\n",
        capsys.readouterr().out,
    )
