"""One process at a time: who holds a folder is said, and a lock ends with its process."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from negatives.tables import InputError, hold, is_held, locks_of_block
from negatives.tables.locks import lock_file

HOLD = """
import os, sys
from negatives.tables import hold
lock = hold(sys.argv[1], inherited=sys.argv[2] == "inherited")
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder `out`, with a child that it forked, until its input ends."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "out"), getattr(request, "param", "alone")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("holder", ["alone"], indirect=True)
def test_the_second_process_says_who_holds_it_and_a_killed_one_holds_nothing(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Its forked child, which lives on, does not hold it either."""
    out = tmp_path / "out"
    assert is_held(out)
    with pytest.raises(InputError) as caught:
        hold(out)
    said = str(caught.value)
    for part in (str(out), f"in use by process {holder.pid} on ", "since 20", str(out), "-c", "Wait for its end"):
        assert part in said
    assert "\n" not in said
    holder.kill()
    holder.wait()
    assert lock_file(out).exists(), "what a kill leaves"
    assert not is_held(out)
    hold(out)
    assert list(tmp_path.iterdir()) == [], "nothing is left of a lock that was let go"


@pytest.mark.parametrize("holder", ["inherited"], indirect=True)
def test_a_child_may_hold_it_for_a_process_that_was_killed(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    with pytest.raises(InputError, match=rf"started by process {holder.pid} .*has ended"):
        hold(tmp_path / "out")


def test_a_process_has_one_lock_on_a_folder_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    first = hold(tmp_path / "out")
    assert hold(tmp_path / "link") is first
    assert json.loads(lock_file(tmp_path / "out").read_text())["pid"] == os.getpid()
    del first
    gc.collect()
    assert not lock_file(tmp_path / "out").exists()


def test_a_block_lets_go_of_its_locks_whoever_refers_to_them(tmp_path: Path) -> None:
    before = hold(tmp_path / "before")
    with contextlib.suppress(InputError), locks_of_block():
        held = hold(tmp_path / "out")
        raise InputError("refused")
    assert not held.release.alive
    assert not is_held(tmp_path / "out")
    assert hold(tmp_path / "out") is not held
    assert before.release.alive


def test_a_lock_whose_file_was_replaced_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder before removes the file after this process has opened it, and before it has locked it."""
    from negatives.tables import locks

    file, taken = lock_file(tmp_path / "out"), locks._lock

    def lock(descriptor: int, kind: int) -> bool:
        monkeypatch.undo()
        file.unlink()
        return taken(descriptor, kind)

    monkeypatch.setattr(locks, "_lock", lock)
    held = hold(tmp_path / "out")
    assert os.path.samestat(os.fstat(held.descriptor), file.stat())


def test_where_nothing_beside_may_be_written_the_lock_is_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    held = hold(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    del held


def test_the_root_folder_has_its_lock_inside() -> None:
    """A mistyped variable in `output_dir=$DIR/` asks for it; it is refused as any folder that is not empty."""
    assert lock_file("/") == Path("/.lock")


def test_a_file_system_without_locks_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from negatives.tables import locks

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    held = hold(tmp_path / "out")
    assert not held.works
