"""Laws of the request cache."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from negatives.chat.ask import Answer, ChatRequest
from negatives.chat.cache import APPLICATION_ID, VERSION, RequestCache
from negatives.chat.messages import final_answer
from negatives.tables.files import InputError

ROOT = Path(__file__).parent.parent
WRITER = """
import sys
from negatives.chat.messages import Answer
from negatives.chat.cache import RequestCache
print("ready", flush=True)
input()
with RequestCache(sys.argv[1]) as cache:
    for number in range(int(sys.argv[3])):
        cache.record(Answer(f"{number}", 0, "ok", sys.argv[2], "m", 1, 2, "text", "stop"))
        print(number, flush=True)
"""


def make_answer(key: str = "k", attempt: int = 0, outcome: str = "ok", text: str = "a") -> Answer:
    return Answer(key, attempt, outcome, text, "m-2024", 3, 4, "json_schema", "stop", "why")


def start_writer(path: Path, text: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), text, str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def let_go(*writers: subprocess.Popen[str]) -> None:
    """Waits until all writers have started, and lets them open the cache."""
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()


def test_an_answer_comes_back_as_it_went_in(tmp_path: Path) -> None:
    answers = [
        make_answer(attempt=1, outcome="refused", text="é 日本 \x00 'x'"),
        make_answer(attempt=0, outcome="malformed"),
    ]
    with RequestCache(tmp_path / "deep" / "cache.sqlite") as cache:
        for answer in answers:
            assert cache.record(answer)
    with RequestCache(tmp_path / "deep" / "cache.sqlite") as cache:
        assert cache.answers("k") == answers[::-1]
        assert cache.answers("other") == []
        assert cache.counts() == {"refused": 1, "malformed": 1}


def test_only_a_repeated_attempt_is_passed_over(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "c") as cache, pytest.raises(InputError, match="NOT NULL"):
        cache.record(make_answer(text=None))  # type: ignore[arg-type]


def test_an_attempt_is_recorded_once(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "c") as cache:
        assert cache.record(make_answer(text="first"))
        assert not cache.record(make_answer(text="second"))
        assert [answer.text for answer in cache.answers("k")] == ["first"]


def test_a_request_is_settled_by_an_ok_answer_or_by_its_last_attempt(tmp_path: Path) -> None:
    request = ChatRequest("m", (("user", "Hi"),), None)
    answers = [make_answer(request.key, n, outcome) for n, outcome in enumerate(("refused", "malformed", "ok"))]
    with RequestCache(tmp_path / "c") as cache:
        assert cache.final(request, 3) is None
        cache.record(answers[0])
        cache.record(answers[1])
        assert cache.final(request, 3) is None
        assert cache.final(request, 2) == answers[1]
        cache.record(answers[2])
        assert cache.final(request, 5) == answers[2]


def test_an_answer_that_does_not_serve_is_one_attempt_and_the_last_that_serves_is_taken() -> None:
    request = ChatRequest("m", (("user", "Hi"),), None)
    answers = [make_answer(attempt=n, outcome=o) for n, o in enumerate(("ok", "malformed", "ok", "ok", "truncated"))]

    def final(attempts: int, *serving: int) -> Answer | None:
        return final_answer(request, answers, attempts, lambda asked, answer: answer.attempt in serving)

    assert final(6) is None
    assert final(6, 0) == answers[0]
    assert final(6, 0, 2) == final(5, 0, 2) == answers[2]
    assert final(5) == answers[3], "nothing serves: the last one in shape has at least something to look at"
    assert final_answer(request, answers[1:2], 1, lambda *_: False) == answers[1]
    assert final_answer(request, [], 1) is None


def test_a_killed_writer_leaves_every_answer_that_it_recorded(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with start_writer(path, "x" * 3000, 100_000) as writer:
        let_go(writer)
        assert writer.stdout is not None
        written = [int(writer.stdout.readline()) for _ in range(500)][-1]
        writer.send_signal(signal.SIGKILL)
        written = max([written, *map(int, writer.stdout.read().split())])
    with RequestCache(path) as cache:
        kept = cache.counts()["ok"]
        assert written + 1 <= kept <= written + 2
        assert all(cache.answers(str(number))[0].text == "x" * 3000 for number in range(written))
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_processes_share_a_cache_that_they_make_at_once(tmp_path: Path) -> None:
    for turn in range(2):
        path = tmp_path / str(turn)
        writers = [start_writer(path, text, 1000) for text in "ab"]
        let_go(*writers)
        for writer in writers:
            assert writer.communicate(timeout=60)[0].split()[-1] == "999"
            assert writer.returncode == 0
        with RequestCache(path) as cache:
            assert cache.counts() == {"ok": 1000}
            assert all(len(cache.answers(str(number))) == 1 for number in range(1000))


def test_a_writer_waits_for_another_one(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "c"):
        other = sqlite3.connect(tmp_path / "c", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with start_writer(tmp_path / "c", "a", 1) as writer:
            let_go(writer)
            time.sleep(0.3)
            assert writer.poll() is None
            other.execute("COMMIT")
            assert writer.stdout is not None
            assert writer.stdout.readline() == "0\n"
            assert writer.wait(timeout=30) == 0
        other.close()


def expect_error(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        RequestCache(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value) or str(path.parent) in str(caught.value)


def test_a_cache_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with RequestCache(path) as cache:
        cache.record(make_answer())
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    expect_error(path, f"must be of version {VERSION}, .* is of version {VERSION + 1}. Use the release that wrote it")
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM answers").fetchone() == (1,)


def test_another_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE photos (name TEXT)")
    database.close()
    before = path.read_bytes()
    expect_error(path, "it is another SQLite file")
    assert path.read_bytes() == before
    assert APPLICATION_ID.to_bytes(4, "big") == b"itmc"


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are notes, more than a hundred bytes of them. " * 20)
    expect_error(path, "must be a request cache: file is not a database")
    assert path.read_text().startswith("These are notes")


def test_an_empty_file_is_a_new_cache(tmp_path: Path) -> None:
    (tmp_path / "c").touch()
    with RequestCache(tmp_path / "c") as cache:
        assert cache.counts() == {}


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    expect_error(tmp_path / "file" / "cache.sqlite", "needs a folder that can be made")
    expect_error(Path("/proc/none/cache.sqlite"), "needs a folder that can be made")
    expect_error(Path("/proc/cache.sqlite"), "cannot be used: unable to open database file")
    expect_error(tmp_path, "cannot be used: unable to open database file")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "c") as cache:
        cache.record(make_answer())
        pages = cache._database.execute("PRAGMA page_count").fetchone()[0]
        cache._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(InputError, match="cannot be used: database or disk is full"):
            cache.record(make_answer(key="other", text="x" * 100_000))
        assert cache.answers("k") == [make_answer()]
