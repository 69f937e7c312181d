"""Exit codes of the command line and of a sweep's tasks: what an error means to the shell that started it.

Imports next to nothing, since `itm --help` passes through here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import sys
from collections.abc import Callable

DONE, MISSED, BAD_INPUT, PREEMPTED, INTERRUPTED = 0, 1, 2, 75, 130
"""MISSED: the work is done, but a certificate did not hold. PREEMPTED: the work stopped at a scheduler's signal, and
the same command with --resume=auto goes on (EX_TEMPFAIL, "try again", in <sysexits.h>). INTERRUPTED: 128 + SIGINT, as
shells have it."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a quota that is used up, a limit on the size of files."""
SHORT_WRITE = "PytorchStreamWriter|unexpected pos|iostream error"
"""What torch.save says of a file that is shorter than what it has written."""


class UsageError(Exception):
    """A command line that cannot be read."""


class PreemptedError(Exception):
    """A scheduler needs the machine: what was done is saved, and the same command goes on later."""


def exit_code(work: Callable[[], int]) -> int:
    """Runs `work` and returns its exit code; errors that a user can mend become one line on stderr.

    Raises:
        Exception: whatever is not the user's to mend, with its traceback: a bug.
    """
    try:
        code = work()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("itm: interrupted", file=sys.stderr)
        return INTERRUPTED
    except PreemptedError as error:
        print(f"itm: preempted: {error}", file=sys.stderr)
        return PREEMPTED
    except UsageError as error:
        return _refuse(str(error))
    # the training step raises it where the loss is not finite
    except FloatingPointError as error:
        return _refuse(f"{error} Try a lower optim.lr.")
    except BrokenPipeError:
        if not _is_closed():  # a pipe of our own: a bug
            raise
        return DONE
    except Exception as error:
        if (line := _line_for(error)) is None:
            raise
        return _refuse(line)


def _is_closed() -> bool:
    """Whether nobody reads the output any more, as behind `| head`; what is still to be written then goes nowhere."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # no file: a test's
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not poll.poll(0):
        return False
    # as Python's documentation of SIGPIPE has it: the interpreter flushes once more at its end
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _line_for(error: Exception) -> str | None:
    """The line for an error that a user can mend; None for a bug."""
    if isinstance(error, ValueError):
        # an input error is a ValueError, so that this import waits until there is one
        from negatives.tables import InputError

        if isinstance(error, InputError):
            return _without_worker_traceback(str(error))
    if fault := _write_fault(error) or _memory_fault(error):
        return fault
    if not isinstance(error, OSError):
        return None
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions."
    # a library's own, as of a checkpoint that cannot be loaded, may have several lines
    return " ".join(_without_worker_traceback(str(error)).split())


def _write_fault(error: BaseException | None) -> str:
    """The line for a write that failed for want of space; "" for any other error."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        # safetensors and tokenizers are written in Rust, whose errors have the number in their text alone
        if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
            number = int(found[1])
        reason = os.strerror(number) if number in FULL else ""
        # torch.save gives no number
        if isinstance(error, RuntimeError) and re.search(SHORT_WRITE, str(error)):
            reason = "a file could not be written to its end"
        if reason:
            place = f"{filename}: " if (filename := getattr(error, "filename", None)) else ""
            return f"{place}{reason}. Make room; the same command with --resume=auto goes on."
        error = error.__cause__ or error.__context__
    return ""


def _memory_fault(error: Exception) -> str:
    """The line for memory that is not there, with what was asked for; "" for any other error."""
    # PyTorch has a type of its own for a GPU's memory alone
    no_memory = isinstance(error, RuntimeError) and re.search(r"can't allocate memory|out of memory", str(error))
    if not isinstance(error, MemoryError) and not no_memory:
        return ""
    found = re.search(
        r"[Yy]ou tried to allocate \S+ bytes|Tried to allocate [\d.]+ \wiB|Unable to allocate [^\n]*", str(error)
    )
    asked = f" ({found[0]})" if found else ""
    return f"there is not enough memory{asked}; give a smaller batch_size, fewer workers or a smaller model."


def _refuse(message: str) -> int:
    # the log may be on the disk that is full
    with contextlib.suppress(OSError):
        print(f"itm: error: {message}", file=sys.stderr)
    return BAD_INPUT


def _without_worker_traceback(message: str) -> str:
    """The message of an error in a loader's worker, which PyTorch hands over inside the text of its traceback."""
    return re.split(r"\w+Error: ", message)[-1].strip() if "Original Traceback" in message else message
