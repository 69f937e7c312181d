"""The one rule for names that become files or folders: sets of an evaluation, runs, and steps of a sweep.

A configuration or a run's folder may have come from anyone. As a path, a name such as `/etc/cron.d/x` or `../other`
would leave the folder that it is joined to.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

LONGEST = 200
"""Bytes of a name; file systems take 255, and some names get a prefix or suffix here."""
NAME_RULE = (
    r"a file's name: without / and \ and control characters, no dot or space at either end, no device of Windows "
    f"(C:, nul), at most {LONGEST} bytes"
)
"""In words that fit after "must be"."""
DEVICE = re.compile(r"[a-z]:.*|(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
"""A drive, and what Windows takes for a device whatever stands behind the dot."""


def is_file_name(name: object) -> bool:
    """Whether a name is that of one file on any system (`NAME_RULE`): joined to a folder, it stays inside.

    >>> [is_file_name(name) for name in ("swap obj", "lr=1e-4", "coco:val", "猫")]
    [True, True, True, True]
    >>> [is_file_name(name) for name in ("", "..", ".git", "a/b", "/etc", "C:x", "nul.txt", "a\\0b", 3)]
    [False, False, False, False, False, False, False, False, False]
    """
    if not isinstance(name, str) or not name or name.strip(". ") != name or DEVICE.fullmatch(name):
        return False
    # printable leaves out control characters, halves of surrogate pairs, and what turns the direction of writing
    return name.isprintable() and not {"/", "\\"} & set(name) and len(name.encode()) <= LONGEST


def name_faults(names: Iterable[object], key: str, taken: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with names under a key of the configuration, one fault each.

    Args:
        names: to check.
        key: named in the fault.
        taken: names of other files in the folder where these go.
    """
    for name in names:
        if not is_file_name(name):
            yield f"`{key}` names must be {NAME_RULE}, got {name!r}"
        # some file systems do not tell cases apart
        elif str(name).casefold() in taken:
            yield f"`{key}` names must not be those of other files there ({', '.join(taken)}), got {name!r}"
