"""The batch API against a loopback server: whatever breaks, no batch is made twice and no answer is lost."""

from __future__ import annotations

import json
import math
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import negatives.chat.batch.jobs
from negatives.chat.ask import Server, ServerStop
from negatives.chat.batch.client import open_client
from negatives.chat.batch.jobs import Collected, collect, read_results, submit
from negatives.chat.batch.parts import BatchFolder, id_in_batch, open_folder, places_of, request_at, write_parts
from negatives.chat.cache import RequestCache
from negatives.chat.messages import Answer, ChatRequest
from negatives.gpt.prompts import check_answer, write_request
from negatives.gpt.recipe import PromptRecipe
from negatives.tables.files import InputError
from tests.chat_server import tls_context

KEY = "sk-very-secret-key-0123456789"
TYPES = ("replace_obj", "swap_obj")
GOOD = json.dumps({"replace_obj": ["A cat"], "swap_obj": []})
Line = dict[str, Any]


class BatchServer:
    """Speaks `/v1/files` and `/v1/batches`; batches stay `in_progress` until the test ends them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Line] = {}
        self.calls: list[str] = []
        self.drop: list[str] = []  # calls whose next reply is lost after they took effect
        self.refuse: list[tuple[str, int, str]] = []  # (call, status, code) for the next calls
        self.break_downloads = 0
        handler = type("Handler", (_Handler,), {"owner": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server = Server(f"http://127.0.0.1:{self.http.server_address[1]}/v1", KEY)

    def add_file(self, content: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

    def make(self, body: Line) -> Line:
        batch = {"id": f"batch_{len(self.batches)}", "object": "batch", "status": "in_progress", **body}
        batch |= {"created_at": int(time.time()), "output_file_id": None, "error_file_id": None, "errors": None}
        self.batches[batch["id"]] = batch
        return batch

    def lines(self, batch: str) -> list[Line]:
        content = self.files[self.batches[batch]["input_file_id"]]
        return [json.loads(line) for line in content.splitlines()]

    def end(self, batch: str, output: list[bytes], error: list[bytes] = [], status: str = "completed") -> None:  # noqa: B006
        found = self.batches[batch]
        found["status"] = status
        found["output_file_id"] = self.add_file(b"\n".join(output) + b"\n") if output else None
        found["error_file_id"] = self.add_file(b"\n".join(error) + b"\n") if error else None

    def finish(self, batch: str, text: str = GOOD) -> None:
        self.end(batch, [done(line, text) for line in self.lines(batch)])


class _Handler(BaseHTTPRequestHandler):
    owner: BatchServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/v1/batches":
            found = [*reversed(self.owner.batches.values())]
            after = re.search(r"after=(\w+)", query)
            names = [batch["id"] for batch in found]
            start = names.index(after[1]) + 1 if after else 0
            page = found[start : start + 2]  # small pages, so that the client has to turn them
            last = {"last_id": page[-1]["id"]} if page else {}
            self._reply("list", {"object": "list", "data": page, "has_more": start + 2 < len(found), **last})
        elif path.startswith("/v1/batches/"):
            self._reply("retrieve", self.owner.batches.get(path.rsplit("/", 1)[1]))
        else:
            content = self.owner.files.get(path.split("/")[3])
            cut = self.owner.break_downloads and content is not None
            self.owner.break_downloads -= bool(cut)
            self._reply("content", content, cut=bool(cut))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/files":
            boundary = b"--" + self.headers["Content-Type"].split("boundary=")[1].encode()
            parts = {re.search(rb'name="(\w+)"', part)[1]: part for part in body.split(boundary)[1:-1]}  # type: ignore[index]
            assert parts[b"purpose"].endswith(b"\r\n\r\nbatch\r\n")
            content = parts[b"file"].split(b"\r\n\r\n", 1)[1][:-2]
            self._reply("upload", lambda: {"id": self.owner.add_file(content), "object": "file"})
        else:
            self._reply("create", lambda: self.owner.make(json.loads(body)))

    def _reply(self, call: str, value: Any, cut: bool = False) -> None:
        self.owner.calls.append(call)
        assert self.headers["Authorization"] == f"Bearer {KEY}"
        refusal = next((item for item in self.owner.refuse if item[0] == call), None)
        status = 200 if value is not None else 404
        if refusal:
            self.owner.refuse.remove(refusal)
            status, value = refusal[1], {"error": {"code": refusal[2], "message": f"no, {KEY}"}}
        value = value() if callable(value) else value
        if call in self.owner.drop:
            self.owner.drop.remove(call)
            self.close_connection = True
            return
        content = value if isinstance(value, bytes) else json.dumps(value or {"error": {"message": "none"}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut or self.close_connection

    def log_message(self, *_: object) -> None:
        pass


def done(line: Line, text: str = GOOD, finish: str = "stop", **message: Any) -> bytes:
    """A line of an output file."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    body = {"model": "m-1", "choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
    response = {"status_code": 200, "request_id": "r", "body": body}
    return json.dumps({"id": "x", "custom_id": line["custom_id"], "response": response, "error": None}).encode()


def expired(line: Line) -> bytes:
    error = {"code": "batch_expired", "message": "This request could not be executed in time."}
    return json.dumps({"custom_id": line["custom_id"], "response": None, "error": error}).encode()


def requests(number: int = 5) -> list[ChatRequest]:
    return [write_request(f"A dog number {row} “é”", TYPES, model="m", seed=7, version="v1") for row in range(number)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    monkeypatch.setattr(negatives.chat.batch.jobs, "CREATE_WAITS", (0.01, 0.01))
    monkeypatch.setattr(ssl, "create_default_context", tls_context)
    found = BatchServer()
    thread = threading.Thread(target=found.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.http.shutdown()
    thread.join()
    found.http.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[RequestCache]:
    with RequestCache(tmp_path / "cache.sqlite") as opened:
        yield opened


@pytest.fixture
def run(tmp_path: Path, server: BatchServer, cache: RequestCache) -> Callable[..., Any]:
    """`submit` or `collect` in the test's folder."""

    def call(verb: str, number: int = 5, **kwargs: Any) -> Any:
        folder = kwargs.pop("folder", tmp_path / "batch")
        if verb == "submit":
            return submit(folder, requests(number), cache, kwargs.pop("server", server.server), **kwargs)
        return collect(folder, cache, kwargs.pop("server", server.server), check_answer, **kwargs)

    return call


def test_requests_go_out_and_answers_come_back(
    run: Callable[..., Any], server: BatchServer, cache: RequestCache, tmp_path: Path
) -> None:
    submitted = run("submit")
    assert (submitted.requests, submitted.batches, submitted.running) == (5, ("batch_0",), 0)
    assert server.batches["batch_0"]["endpoint"] == "/v1/chat/completions"
    assert run("collect").running == {"batch_0": "in_progress"}
    server.finish("batch_0")
    collected = run("collect")
    assert (dict(collected.results.recorded), collected.missing, collected.ended) == (
        {"ok": 5},
        0,
        {"batch_0": "completed"},
    )
    (answer,) = cache.answers(requests()[0].key)
    assert (answer.attempt, answer.outcome, answer.text, answer.model) == (0, "ok", GOOD, "m-1")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.mode) == (10, 5, "json_schema")
    assert run("submit").batches == ()
    assert run("collect") == Collected(), "what is merged is not looked at again"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), "the key is written nowhere"


def test_the_lines_are_those_of_the_batch_api(tmp_path: Path, cache: RequestCache) -> None:
    with open_folder(tmp_path / "b") as folder:
        (part,) = write_parts(folder, requests(2), cache)
        lines = [json.loads(line) for line in folder.file_of(part).read_text("utf-8").split("\n")[:-1]]
    request = requests(1)[0]
    assert lines[0].keys() == {"custom_id", "method", "url", "body"}
    name = f"0-{request.key[:60]}"
    assert (lines[0]["custom_id"], lines[0]["method"], lines[0]["url"]) == (name, "POST", "/v1/chat/completions")
    assert len(id_in_batch(request, 999)) == 64, "the most that the API takes"
    body = request.body("json_schema")
    assert lines[0]["body"] == {**{k: v for k, v in body.items() if k != "max_tokens"}, "max_completion_tokens": 512}


def test_a_request_is_read_back_from_its_line_as_it_was(tmp_path: Path, cache: RequestCache) -> None:
    with open_folder(tmp_path / "b") as folder:
        (part,) = write_parts(folder, requests(3), cache)
        places = places_of(folder, part)
        with folder.file_of(part).open("rb") as file:
            assert [request_at(file, places[id_in_batch(request, 0)]) for request in requests(3)] == requests(3)


def test_parts_keep_their_bounds_and_hold_every_request_once(tmp_path: Path, cache: RequestCache) -> None:
    with open_folder(tmp_path / "b") as folder:
        parts = write_parts(folder, requests(7) + requests(7), cache, max_lines=3)
        assert [part.requests for part in parts] == [3, 3, 1]
        size = folder.file_of(parts[0]).stat().st_size // 3
        parts = write_parts(folder, requests(7), cache, max_bytes=2 * size + 10)
        assert [part.requests for part in parts] == [2, 2, 2, 1]
        assert all(folder.file_of(part).stat().st_size <= 2 * size + 10 for part in parts)
        keys = [key for part in parts for key in places_of(folder, part)]
        assert sorted(keys) == sorted(id_in_batch(request, 0) for request in requests(7))
        with pytest.raises(InputError, match="must fit into 100 bytes"):
            write_parts(folder, requests(1), cache, max_bytes=100)


def test_what_is_on_its_way_or_settled_is_not_sent_again(run: Callable[..., Any], server: BatchServer) -> None:
    run("submit", 3)
    assert run("submit", 5).requests == 2
    server.finish("batch_0")
    run("collect")
    again = run("submit", 6)
    assert (again.requests, again.running) == (1, 1)
    sent = [line["custom_id"] for batch in server.batches for line in server.lines(batch)]
    assert sorted(sent) == sorted(id_in_batch(request, 0) for request in requests(6))


class Crash(BaseException):
    """A kill, as far as a process can see it."""


STEPS = [(f"save {number}", before) for number in range(7) for before in (True, False)]
STEPS += [("upload", False), ("create", True), ("create", False)]


@pytest.mark.parametrize(("step", "before"), STEPS)
def test_a_submission_killed_at_any_step_makes_no_batch_twice(
    run: Callable[..., Any], server: BatchServer, monkeypatch: pytest.MonkeyPatch, step: str, before: bool
) -> None:
    saves = 0
    save, create = BatchFolder.save, negatives.chat.batch.jobs._create

    def dying_save(folder: BatchFolder) -> None:
        nonlocal saves
        saves += 1
        if before and step == f"save {saves - 1}":
            raise Crash
        save(folder)
        if not before and step == f"save {saves - 1}":
            raise Crash

    def dying_create(client: Any, folder: BatchFolder, part: Any) -> Any:
        if step == "create" and before:
            raise Crash
        batch = create(client, folder, part)
        if step == "create":
            raise Crash
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(BatchFolder, "save", dying_save)
        patch.setattr(negatives.chat.batch.jobs, "_create", dying_create)
        if step == "upload":
            patch.setattr(negatives.chat.batch.jobs, "id_of", lambda *_: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            run("submit", 5, max_lines=3)
    run("submit", 5, max_lines=3)
    assert run("submit", 5).requests == 0
    sent = [line["custom_id"] for batch in server.batches for line in server.lines(batch)]
    assert sorted(sent) == sorted(id_in_batch(request, 0) for request in requests(5))
    for batch in server.batches:
        server.finish(batch)
    assert run("collect").results.recorded == {"ok": 5}


def test_a_lost_reply_to_the_making_of_a_batch_makes_no_second_one(
    run: Callable[..., Any], server: BatchServer
) -> None:
    for _ in range(3):  # other batches on the server, more than one page of its list
        server.make({"input_file_id": "x", "metadata": None})
    server.drop = ["create"]
    assert run("submit").batches == ("batch_3",)
    assert len(server.batches) == 4


def test_a_batch_that_never_reached_the_server_is_made_and_no_other_one_is_taken_for_it(
    run: Callable[..., Any], server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.make({"input_file_id": "x", "metadata": {"itm_intent": "other"}})
    server.refuse = [("create", 503, "")] * 3
    with pytest.raises(InputError, match="HTTP 503"):
        run("submit")
    assert len(server.batches) == 1
    assert run("collect") == Collected()
    assert run("submit").batches == ("batch_1",)
    server.finish("batch_1")
    assert run("collect").results.recorded == {"ok": 5}


def test_collect_finds_a_batch_whose_id_was_never_written(
    run: Callable[..., Any], server: BatchServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    create = negatives.chat.batch.jobs._create

    def dying(*args: Any) -> Any:
        create(*args)
        raise Crash

    monkeypatch.setattr(negatives.chat.batch.jobs, "_create", dying)
    with pytest.raises(Crash):
        run("submit")
    assert '"batch_id": ""' in (tmp_path / "batch" / "batches.json").read_text()
    server.finish("batch_0")
    for _ in range(3):  # newer ones, of other people, more than one page of the server's list
        server.make({"input_file_id": "x", "metadata": {"itm_intent": "other"}})
    assert run("collect").results.recorded == {"ok": 5}


def test_errors_of_the_server_are_tried_again_without_a_second_batch(
    run: Callable[..., Any], server: BatchServer
) -> None:
    server.refuse = [("create", 500, ""), ("create", 429, "rate_limit_exceeded")]
    assert run("submit").batches == ("batch_0",)


@pytest.mark.parametrize(
    ("refusal", "error", "word"),
    [
        (("upload", 401, "invalid_api_key"), ServerStop, "key"),
        (("upload", 403, ""), ServerStop, "key"),
        (("create", 429, "insufficient_quota"), ServerStop, "Top up"),
        (("create", 400, "invalid_model"), InputError, "HTTP 400"),
        (("create", 413, ""), InputError, "HTTP 413"),
        (("create", 422, ""), InputError, "HTTP 422"),
    ],
)
def test_a_refused_submission_is_one_line_without_the_key_and_goes_on_later(
    run: Callable[..., Any], server: BatchServer, refusal: tuple[str, int, str], error: type[InputError], word: str
) -> None:
    server.refuse = [refusal]
    with pytest.raises(error, match=word) as caught:
        run("submit")
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert server.calls.count(refusal[0]) == 1, "it is not tried again"
    assert len(run("submit").batches) == 1
    server.finish("batch_0")
    assert run("collect").results.recorded == {"ok": 5}


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 503])
def test_what_was_settled_since_its_upload_is_not_sent(
    run: Callable[..., Any], server: BatchServer, cache: RequestCache, status: int
) -> None:
    server.refuse = [("create", status, "")] * (1 if status < 500 else 3)
    with pytest.raises(InputError):
        run("submit", 5)
    for request in requests(3):
        cache.record(Answer(request.key, 0, "ok", GOOD, "m", 1, 1, "text", "stop"))
    assert run("submit", 5).requests == 2
    assert len(server.batches) == 1
    assert [line["custom_id"] for line in server.lines("batch_0")] == [id_in_batch(r, 0) for r in requests(5)[3:]]


def test_texts_of_the_server_are_told_on_one_line_without_control_characters(
    run: Callable[..., Any], server: BatchServer
) -> None:
    expected: list[str] = []
    run("submit", say=expected.append)
    assert expected == ["Batch batch_0: 5 requests"]
    server.end("batch_0", [], [], "failed")
    fault = {"code": "\x1b[2J", "message": f"Bad\nkey {KEY}\r\u202e\ud800" + "x" * 1000}
    server.batches["batch_0"]["errors"] = {"data": [fault]}
    (problem,) = run("collect").problems
    assert problem.startswith("batch_0: ?[2J: Bad key *** ??xxx")
    assert problem.isprintable()
    assert len(problem) == 300


def test_an_id_that_cannot_be_printed_is_none(run: Callable[..., Any], server: BatchServer) -> None:
    make = server.make
    server.make = lambda body: {**make(body), "id": "batch\x1b[2J"}  # type: ignore[method-assign]
    with pytest.raises(InputError, match="must be a server with a batch API"):
        run("submit")


def test_connections_are_closed_after_use(
    run: Callable[..., Any], server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def keeping(asked: Server) -> Any:
        opened.append(open_client(asked))
        return opened[-1]

    monkeypatch.setattr(negatives.chat.batch.jobs, "open_client", keeping)
    run("submit")
    run("collect")
    server.refuse = [("upload", 403, "")]
    with pytest.raises(ServerStop):
        run("submit", 6)
    assert [client.is_closed() for client in opened] == [True] * 3


def test_partial_failed_and_expired_batches_leave_only_what_is_missing(
    run: Callable[..., Any], server: BatchServer, cache: RequestCache
) -> None:
    run("submit", 9, max_lines=3)
    one, two, three = (server.lines(f"batch_{number}") for number in range(3))
    server.end("batch_0", [done(one[0])], [expired(one[1]), expired(one[2])], "expired")
    server.end("batch_1", [], [], "failed")
    server.batches["batch_1"]["errors"] = {"data": [{"code": "token_limit_exceeded", "message": "Too much."}]}
    bad = json.dumps({"custom_id": three[1]["custom_id"], "response": {"status_code": 500, "body": {}}, "error": None})
    server.end("batch_2", [done(three[0])], [bad.encode()], "cancelled")
    collected: Collected = run("collect")
    assert collected.results.recorded == {"ok": 2}
    assert collected.results.failed == {"batch_expired": 2, "500": 1}
    assert collected.missing == 7
    assert collected.problems == ["batch_1: token_limit_exceeded: Too much."]
    assert run("submit", 9).requests == 7
    sent = {line["custom_id"] for line in server.lines("batch_3")}
    assert sent == {line["custom_id"] for line in one[1:] + two + three[1:]}
    server.finish("batch_3")
    run("collect")
    assert cache.counts() == {"ok": 9}


def test_bad_answers_are_attempts_and_end_after_three(
    run: Callable[..., Any], server: BatchServer, cache: RequestCache
) -> None:
    lines = run("submit", 4) and server.lines("batch_0")
    filtered = {"status_code": 400, "body": {"error": {"code": "content_filter", "message": "Filtered."}}}
    refused = json.dumps({"custom_id": lines[3]["custom_id"], "response": filtered, "error": None}).encode()
    output = [done(lines[0], "nonsense"), done(lines[1], GOOD[:9], "length"), done(lines[2], "", refusal="I will not")]
    server.end("batch_0", output, [refused])
    collected = run("collect")
    assert collected.results.recorded == {"malformed": 1, "truncated": 1, "refused": 2}
    assert collected.missing == 4
    for batch in ("batch_1", "batch_2"):
        assert run("submit", 4).requests == 4
        seeds = {line["body"]["seed"] for line in server.lines(batch)}
        assert seeds == {7 + int(batch[-1])}, "each attempt has its own seed"
        server.finish(batch, "nonsense")
        collected = run("collect")
    assert collected.missing == 0
    assert run("submit", 4).requests == 0
    answers = cache.answers(requests(4)[3].key)
    assert [(a.attempt, a.outcome) for a in answers] == [(0, "refused"), (1, "malformed"), (2, "malformed")]


def test_answers_of_rejected_texts_alone_are_submitted_again(
    run: Callable[..., Any], server: BatchServer, cache: RequestCache
) -> None:
    recipe = PromptRecipe("m", TYPES, seed=7, version="v1")
    serves = recipe.serves
    run("submit", 3, serves=serves)
    lines = server.lines("batch_0")
    texts = [
        json.dumps({"replace_obj": [text], "swap_obj": []}) for text in ("A dog number 0 “é”", "A cat number 1 “é”")
    ]
    server.end("batch_0", [done(line, text) for line, text in zip(lines, [*texts, texts[1]], strict=True)])
    collected = run("collect", serves=serves)
    assert (dict(collected.results.recorded), collected.missing) == ({"ok": 3}, 2)
    assert run("submit", 3, serves=serves).requests == 2
    again = server.lines("batch_1")
    assert {line["custom_id"] for line in again} == {id_in_batch(requests()[row], 1) for row in (0, 2)}
    assert {line["body"]["seed"] for line in again} == {8}
    server.end("batch_1", [done(line, json.dumps({"replace_obj": [], "swap_obj": []})) for line in again])
    assert run("collect", serves=serves).missing == 0
    assert run("submit", 3, serves=serves).batches == ()
    assert recipe.request("A dog number 0 “é”") == requests()[0]


def test_lines_that_are_no_results_are_counted_and_skipped(
    run: Callable[..., Any], server: BatchServer, cache: RequestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("negatives.chat.batch.results.MAX_LINE", 5000)
    run("submit", 3)
    lines = server.lines("batch_0")
    strange = [b"{", b"[]", b"\xff\xfe", b'{"a":' * 500, b"null", b'{"custom_id": 3}', b"x" * 14_999, b"y" * 10_000]
    strange += [json.dumps({"custom_id": lines[0]["custom_id"], "response": response}).encode() for response in HOLLOW]
    deep = b'{"status_code": 200, "body": ' + b"[" * 900 + b"]" * 900 + b"}"
    strange += [b'{"custom_id": "%s", "response": %s}' % (lines[0]["custom_id"].encode(), deep)]
    foreign = [done({"custom_id": "f" * 64}), done({"custom_id": "../../x"})]
    server.end("batch_0", [*strange, done(lines[0]), *foreign, b"", done(lines[0], "again"), done(lines[2], "\ud800")])
    results = run("collect").results
    assert results.broken == len(strange)
    assert results.unknown == 2
    assert (results.recorded, results.known) == ({"ok": 1, "malformed": 1}, 1)
    assert cache.answers(requests(1)[0].key)[0].text == GOOD


COUNTS: list[tuple[Any, int]] = [(7, 7), (7.9, 7), (-3, 0), (10**300, 10**9), (1e300, 10**9), (2**63, 10**9)]
COUNTS += [(math.inf, 0), (math.nan, 0), ("7", 0), ([7], 0), (None, 0)]


def test_counts_that_no_server_could_mean_break_nothing(
    run: Callable[..., Any], server: BatchServer, cache: RequestCache
) -> None:
    run("submit", len(COUNTS))
    lines = [json.loads(done(line)) for line in server.lines("batch_0")]
    for line, (count, _) in zip(lines, COUNTS, strict=True):
        line["response"]["body"]["usage"] = {"prompt_tokens": count, "completion_tokens": count}
    server.end("batch_0", [json.dumps(line).encode() for line in lines])
    assert run("collect").results.recorded == {"ok": len(COUNTS)}
    for request, (_, kept) in zip(requests(len(COUNTS)), COUNTS, strict=True):
        (answer,) = cache.answers(request.key)
        assert (answer.prompt_tokens, answer.completion_tokens) == (kept, kept)


def test_messages_that_no_file_can_hold_are_mended(
    run: Callable[..., Any], server: BatchServer, cache: RequestCache
) -> None:
    names = [line["custom_id"] for line in run("submit", 3) and server.lines("batch_0")]
    errors = [{"code": "content_filter", "message": "no \ud800 way"}, {"code": "content_filter", "message": ["no"]}]
    errors += [{"code": "\ud800\x1b[2J" + "x" * 99}]
    pairs = zip(names, errors, strict=True)
    server.end("batch_0", [], [json.dumps({"custom_id": name, "error": error}).encode() for name, error in pairs])
    results = run("collect").results
    assert results.failed == {"??[2J" + "x" * 55: 1}
    assert results.recorded == {"refused": 2}
    assert [cache.answers(r.key)[0].detail for r in requests(2)] == ["no ? way", "content_filter"]


HOLLOW: list[Any] = [None, [], {}, {"status_code": 200}, {"status_code": 200, "body": {"choices": []}}]
HOLLOW += [{"status_code": 200, "body": {"choices": [{"message": None}]}}]


def test_collecting_again_after_a_crash_adds_nothing_twice(
    run: Callable[..., Any], server: BatchServer, cache: RequestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("submit")
    server.finish("batch_0", "nonsense")
    record = RequestCache.record

    def dying(self: RequestCache, answer: Any) -> bool:
        if sum(self.counts().values()) == 3:
            raise Crash
        return record(self, answer)

    monkeypatch.setattr(RequestCache, "record", dying)
    with pytest.raises(Crash):
        run("collect")
    monkeypatch.setattr(RequestCache, "record", record)
    results = run("collect").results
    assert (results.known, results.recorded) == (3, {"malformed": 2})
    assert cache.counts() == {"malformed": 5}


def test_a_broken_download_is_one_line_and_goes_on_later(run: Callable[..., Any], server: BatchServer) -> None:
    run("submit")
    server.finish("batch_0")
    server.break_downloads = 1
    with pytest.raises(InputError, match="cannot be reached"):
        run("collect")
    assert run("collect").results.recorded == {"ok": 5}


@pytest.mark.parametrize("left", [b"", b'{"custom_id": "0-'])
def test_results_that_a_damaged_disk_left_are_downloaded_again(
    run: Callable[..., Any], server: BatchServer, tmp_path: Path, left: bytes
) -> None:
    """Or what they answered would be paid for twice."""
    run("submit")
    server.finish("batch_0")
    (tmp_path / "batch/output-00001.jsonl").write_bytes(left)
    assert run("collect").results.recorded == {"ok": 5}


def test_results_that_the_server_keeps_no_longer_are_asked_again(run: Callable[..., Any], server: BatchServer) -> None:
    run("submit")
    server.finish("batch_0")
    del server.files[server.batches["batch_0"]["output_file_id"]]
    collected = run("collect")
    assert collected.missing == 5
    assert "no longer" in collected.problems[0]
    assert run("submit").requests == 5


def test_the_folder_goes_to_another_machine(
    run: Callable[..., Any], server: BatchServer, tmp_path: Path, cache: RequestCache
) -> None:
    run("submit")
    server.finish("batch_0")
    (tmp_path / "batch").rename(tmp_path / "elsewhere")
    assert run("collect", folder=tmp_path / "elsewhere").results.recorded == {"ok": 5}


@pytest.mark.parametrize("verb", ["submit", "collect"])
def test_another_server_is_not_asked_for_these_batches(run: Callable[..., Any], verb: str) -> None:
    run("submit")
    with pytest.raises(InputError, match="Give that `base_url`"):
        run(verb, server=Server("http://127.0.0.1:9/v1", KEY))


def test_two_processes_do_not_submit_at_once(run: Callable[..., Any], tmp_path: Path) -> None:
    with open_folder(tmp_path / "batch"), pytest.raises(InputError, match="another process"):
        run("submit")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"version": 9, "parts": []}', '{"version": 1, "base_url": "", "parts": [{}]}']
)
def test_a_damaged_state_is_told_and_left_alone(run: Callable[..., Any], tmp_path: Path, text: str) -> None:
    (tmp_path / "batch").mkdir()
    (tmp_path / "batch" / "batches.json").write_text(text)
    with pytest.raises(InputError, match=r"batches\.json"):
        run("submit")
    assert (tmp_path / "batch" / "batches.json").read_text() == text


def test_a_missing_or_damaged_part_is_told(run: Callable[..., Any], server: BatchServer, tmp_path: Path) -> None:
    run("submit")
    server.finish("batch_0")
    part = tmp_path / "batch" / "part-00001.jsonl"
    content = part.read_bytes()
    for damage in (content[: len(content) // 2], content + b"\xff\n", b""):
        part.write_bytes(damage)
        with pytest.raises(InputError, match="Copy it again"):
            run("collect")
    part.unlink()
    with pytest.raises(InputError, match="Copy the whole folder"):
        run("collect")


def test_offline_results_are_merged_once(tmp_path: Path, cache: RequestCache) -> None:
    """Lines as `vllm run-batch` writes them: failures have a response too."""
    with open_folder(tmp_path / "b") as folder:
        parts = write_parts(folder, requests(3), cache, max_lines=2)
        lines = [json.loads(line) for part in parts for line in folder.file_of(part).open()]
    failed = {"custom_id": lines[2]["custom_id"], "response": {"status_code": 400, "request_id": "r", "body": None}}
    failed["error"] = {"message": "too long", "type": "BadRequestError", "code": 400}
    output = [done(line).replace(b'"id": "x"', b'"id": "vllm-1"') for line in lines[:2]]
    (tmp_path / "results.jsonl").write_bytes(b"\n".join([*output, json.dumps(failed).encode()]) + b"\n")
    first = read_results(tmp_path / "results.jsonl", tmp_path / "b", cache, check_answer)
    assert (first.recorded, first.failed) == ({"ok": 2}, {"400": 1})
    assert read_results(tmp_path / "results.jsonl", tmp_path / "b", cache, check_answer).known == 2
    assert cache.counts() == {"ok": 2}
    with open_folder(tmp_path / "b") as folder:
        assert [part.requests for part in write_parts(folder, requests(3), cache)] == [1], "only the missing one"
    with pytest.raises(InputError, match="Give the folder of the parts"):
        read_results(tmp_path / "results.jsonl", tmp_path / "none", cache, check_answer)
    with pytest.raises(InputError, match="Cannot read"):
        read_results(tmp_path / "nothing.jsonl", tmp_path / "b", cache, check_answer)


def test_every_offline_result_counts_for_the_attempt_that_it_answers(tmp_path: Path, cache: RequestCache) -> None:
    names = ["first.jsonl", "second.jsonl"]
    for name, text in zip(names, ("nonsense", GOOD), strict=True):
        with open_folder(tmp_path / "b") as folder:
            (part,) = write_parts(folder, requests(3), cache)
            lines = [json.loads(line) for line in folder.file_of(part).open()]
        (tmp_path / name).write_bytes(b"\n".join(done(line, text) for line in lines))
        if text != GOOD:
            assert read_results(tmp_path / name, tmp_path / "b", cache, check_answer).recorded == {"malformed": 3}
    read = [read_results(tmp_path / name, tmp_path / "b", cache, check_answer) for name in names]
    assert [dict(results.recorded) for results in read] == [{}, {"ok": 3}]
    for request in requests(3):
        assert [(a.attempt, a.outcome) for a in cache.answers(request.key)] == [(0, "malformed"), (1, "ok")]


def test_results_read_late_count_for_their_attempt_too(
    run: Callable[..., Any], server: BatchServer, cache: RequestCache, tmp_path: Path
) -> None:
    """Two batches that were sent, whose files are then read in any order, as often as one likes."""
    for batch, text in (("batch_0", "nonsense"), ("batch_1", GOOD)):
        run("submit", 2)
        server.finish(batch, text)
        run("collect")
    files = sorted((tmp_path / "batch").glob("output-*.jsonl"))
    with RequestCache(tmp_path / "new.sqlite") as new:
        for path in (files[1], files[0], files[1]):
            read_results(path, tmp_path / "batch", new, check_answer)
        for request in requests(2):
            assert new.answers(request.key) == cache.answers(request.key)
