"""One process at a time: a lock on a folder or a file that ends with its process and says who holds it.

The kernel takes a lock back when its process ends, kill -9 included, so that a lock that is left behind holds nobody
up. On NFS, Linux hands the locks to the server, and they hold between machines. Where a file system has no locks,
`Held.works` is false.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import weakref
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from negatives.tables.files import DAMAGED, InputError, StrPath, quoted

# of file systems without locks: NFS without its lock service, Lustre without the mount option flock
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class Held:
    """A lock that this process holds, until `release` or until nothing refers to it.

    Attributes:
        works: whether the file system knows locks; where it does not, nothing keeps two processes apart.
        inherited: whether forked children hold it too, until the last of them has ended.
    """

    def __init__(self, file: Path, descriptor: int, *, works: bool, inherited: bool):
        self.descriptor, self.works, self.inherited = descriptor, works, inherited
        self.release = weakref.finalize(self, _release, file, descriptor, os.getpid())


_held: weakref.WeakValueDictionary[Path, Held] = weakref.WeakValueDictionary()
"""Lock file -> the lock of this process on it."""


def hold(path: StrPath, *, inherited: bool = False) -> Held:
    """Takes the lock on a folder or a file, which need not exist; a process that has it already gets the same one.

    Args:
        path: of the folder or file.
        inherited: whether forked children are to hold it too; otherwise they never do.

    Raises:
        InputError: another process holds it.
    """
    file = lock_file(path)
    if (held := _held.get(file)) is not None and held.release.alive:
        return held
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, works = _take(file, path)
    held = _held[file] = Held(file, descriptor, works=works, inherited=inherited)
    if works:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        since = datetime.now().astimezone().isoformat(" ", "minutes")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": command}
        # on a full disk the lock holds all the same, and does not say by whom
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    return held


@contextlib.contextmanager
def locks_of_block() -> Iterator[None]:
    """Lets go, when the block ends, of every lock that was taken in it.

    Without it, an error that somebody keeps would keep the lock: its traceback refers to whatever held it.
    """
    before = {*_held}
    try:
        yield
    finally:
        for file, held in list(_held.items()):
            if file not in before:
                held.release()


def is_held(path: StrPath) -> bool:
    """Whether any process holds the lock; asking takes nothing."""
    try:
        with lock_file(path).open("rb") as file:
            # shared: whoever takes the lock at this moment is not refused for it, see `_take`
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or no locks
        return False
    return False


def held_inside(folder: Path) -> Iterator[Path]:
    """What other processes hold in a folder, at any depth, by the locks that lie there."""
    own = {file for file, held in _held.items() if held.release.alive}
    for file in sorted(folder.resolve().rglob(".*.lock")):
        path = file.with_name(file.name[1 : -len(".lock")])
        if file not in own and lock_file(path) == file and is_held(path):
            yield path


def lock_file(path: StrPath) -> Path:
    """Where the lock of a path is: `.NAME.lock` beside it, so that emptying or replacing a folder leaves it."""
    # two names of one folder are one lock
    found = Path(path).resolve()
    # a mounted folder, as a container's /out, is often all that may be written; nothing is beside the root
    if found.is_dir() and (not found.name or not os.access(found.parent, os.W_OK)):
        return found / ".lock"
    return found.with_name(f".{found.name}.lock")


def is_lock_file(path: Path) -> bool:
    """Whether a file is a lock, by its name: no content of the folder that it is in."""
    return path.name.startswith(".") and path.name.endswith(".lock")


def _take(file: Path, path: StrPath) -> tuple[int, bool]:
    """The open and locked file, and whether it could be locked."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _lock(descriptor, fcntl.LOCK_EX):
                # the holder before may have removed the file between the two: then this lock is on no file
                if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
                    return descriptor, True
            # a lock that can be shared is that of `is_held`, which is gone in a moment
            elif not _lock(descriptor, fcntl.LOCK_SH):
                raise InputError(f"{path} is in use by {_holder(descriptor)}. Wait for its end, or stop it.")
        except OSError as error:
            if error.errno in NO_LOCKS:
                return descriptor, False
            os.close(descriptor)
            raise
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    """Who holds a lock, in words."""
    try:
        holder = json.loads(os.pread(descriptor, 1 << 16, 0))
        pid, host = int(holder["pid"]), str(holder["host"])
        who = f"process {pid} on {host}, since {holder['since']}: {quoted(holder['command'], 200)}"
    except DAMAGED:  # it has only just taken it
        return "another process"
    ended = host == socket.gethostname() and not _is_alive(pid)
    return f"a process that was started by {who} (which has ended)" if ended else who


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _release(file: Path, descriptor: int, pid: int) -> None:
    # a forked child must not take its parent's lock away
    if os.getpid() != pid:
        return
    # in a folder that has become read-only the file stays, and holds nobody up
    with contextlib.suppress(OSError):
        # before the lock goes, or it could be the file of the next holder
        file.unlink(missing_ok=True)
    os.close(descriptor)


def _forget_in_child() -> None:
    for held in list(_held.values()):
        if not held.inherited:
            os.close(held.descriptor)
            held.release.detach()


os.register_at_fork(after_in_child=_forget_in_child)
