"""Every answer that arrived, in one SQLite file: what was paid for once is never asked again.

An answer is committed the moment it arrives. SQLite's write-ahead log keeps the file whole when a process is killed at
any moment, and lets two processes share it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import TracebackType

from negatives.chat.messages import Answer, ChatRequest, Serves, any_serves, final_answer
from negatives.tables.files import InputError, StrPath

# PRAGMA user_version and PRAGMA application_id hold these (sqlite.org/pragma.html)
VERSION = 1
APPLICATION_ID = 0x69746D63  # "itmc": tells a cache from other SQLite files
# how long to wait while another process writes
BUSY_SECONDS = 60.0

# the fields of `Answer` are the columns, in their order: reading and writing rely on it
COLUMNS = ", ".join(field.name for field in fields(Answer))
INSERT = (
    f"INSERT INTO answers ({COLUMNS}) VALUES ({', '.join('?' * len(fields(Answer)))}) "
    # not INSERT OR IGNORE, which passes over a missing value in silence as well
    "ON CONFLICT (key, attempt) DO NOTHING"
)
# written out, not made of the fields: another table is another `VERSION`
CREATE = """
CREATE TABLE answers (
    key TEXT NOT NULL, attempt INTEGER NOT NULL, outcome TEXT NOT NULL, text TEXT NOT NULL, model TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, mode TEXT NOT NULL,
    finish_reason TEXT NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (key, attempt)
)"""


class RequestCache:
    """Answers by request key and attempt; a context manager.

    Args:
        path: the file; it and its folders are made where they are missing.

    Raises:
        InputError: if the file is no cache, is one of another version, or cannot be opened.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"The request cache needs a folder that can be made, {self.path.parent} cannot: {error.strerror}. "
                "Give another folder."
            ) from error
        # isolation_level None: each statement commits by itself, so that an answer is safe once `record` returns
        with self._named_errors():
            self._database = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            with self._named_errors():
                self._open()
        except BaseException:
            self._database.close()
            raise

    def answers(self, key: str) -> list[Answer]:
        """All answers to a request, by attempt."""
        with self._named_errors():
            rows = self._database.execute(f"SELECT {COLUMNS} FROM answers WHERE key = ? ORDER BY attempt", (key,))
            return [Answer(*row) for row in rows]

    def final(self, request: ChatRequest, attempts: int, serves: Serves = any_serves) -> Answer | None:
        """The answer that settles a request, None while it is to be asked again: see `messages.final_answer`."""
        return final_answer(request, self.answers(request.key), attempts, serves)

    def record(self, answer: Answer) -> bool:
        """Commits an answer; False, and nothing is changed, where that attempt is recorded already.

        Raises:
            InputError: if the file cannot be written, as on a full disk.
        """
        with self._named_errors():
            return self._database.execute(INSERT, tuple(vars(answer).values())).rowcount == 1

    def counts(self) -> dict[str, int]:
        """Outcome -> how many answers have it."""
        with self._named_errors():
            return dict(self._database.execute("SELECT outcome, count(*) FROM answers GROUP BY outcome"))

    def close(self) -> None:
        """Closes the file; the last one to do so folds the log into it."""
        self._database.close()

    def __enter__(self) -> RequestCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _open(self) -> None:
        # Before anything is written: the file may be someone else's. In one transaction, since another process may be
        # making it, and what is read before its commit does not go with what is read after.
        self._database.execute("BEGIN")
        try:
            self._check()
        finally:
            self._database.execute("COMMIT")
        self._use_log()
        # With a write-ahead log, NORMAL loses no commit when a process is killed; a power cut may take the last ones
        # (sqlite.org/pragma.html#pragma_synchronous). FULL would wait for the disk at every answer.
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute("BEGIN IMMEDIATE")  # of two processes that make the file at once, one waits
        try:
            if self._check() == 0:
                self._database.execute(CREATE)
                self._database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._database.execute(f"PRAGMA user_version = {VERSION}")
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _use_log(self) -> None:
        """Turns the write-ahead log on; SQLite does not wait by itself where another process does the same."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _check(self) -> int:
        """The version of the cache, 0 for a new file."""
        found = [self._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        # Most databases set neither: without tables the file is new, with tables it is someone else's.
        if found == [0, 0] and not self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return 0
        if found[0] != APPLICATION_ID:
            raise InputError(f"{self.path} must be a request cache, it is another SQLite file. Give another path.")
        if found[1] != VERSION:
            raise InputError(
                f"A request cache must be of version {VERSION}, {self.path} is of version {found[1]}. "
                "Use the release that wrote it, or give another path and keep this one."
            )
        return VERSION

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turns SQLite's errors into one line that names the file."""
        try:
            yield
        # first, since it is a DatabaseError too: a full disk is no damaged file
        except sqlite3.OperationalError as error:
            folder = self.path.parent
            hint = "Check its folder's rights and space" if os.path.isdir(folder) else "Check the path"
            raise InputError(f"The request cache {self.path} cannot be used: {error}. {hint}.") from error
        except sqlite3.DatabaseError as error:
            raise InputError(f"{self.path} must be a request cache: {error}. Give another path.") from error
