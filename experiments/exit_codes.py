"""Exit codes of the command line and of a sweep's tasks: what an error means to the shell that started it.

Imports nothing, since `itm --help` passes through here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

DONE, MISSED, BAD_INPUT, PREEMPTED, INTERRUPTED = 0, 1, 2, 75, 130
"""MISSED: the work is done, but a certificate did not hold. PREEMPTED: the work stopped at a scheduler's signal, and
the same command with --resume=auto goes on (EX_TEMPFAIL, "try again", in <sysexits.h>). INTERRUPTED: 128 + SIGINT, as
shells have it."""


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
        return work()
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
    except OSError as error:
        # without a path there is nothing that a user could check: a bug, or a library's own error
        if error.filename is None:
            raise
        return _refuse(f"{error.filename}: {error.strerror}; check the path and its permissions.")
    except ValueError as error:
        # an input error is a ValueError, so that this import waits until there is one
        from negatives.tables import InputError

        if not isinstance(error, InputError):
            raise
        return _refuse(_without_worker_traceback(str(error)))


def _refuse(message: str) -> int:
    print(f"itm: error: {message}", file=sys.stderr)
    return BAD_INPUT


def _without_worker_traceback(message: str) -> str:
    """The message of an error in a loader's worker, which PyTorch hands over inside the text of its traceback."""
    return re.split(r"\w+Error: ", message)[-1].strip() if "Original Traceback" in message else message
