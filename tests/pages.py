"""The documents that people read, taken apart: README.md and the pages in docs/."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README, EXTENDING = "README.md", "docs/extending.md"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / README, *sorted((ROOT / "docs").glob("*.md")))
}

Command = list[str]


def blocks(text: str, *languages: str) -> list[str]:
    """What stands between the fences of these languages, indented ones too."""
    found = re.findall(r"^( *)```([\w]*)\n(.*?)^\1```", text, flags=re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, language, block in found if language in languages]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^( *)```\w*\n.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str, *languages: str) -> list[Command]:
    lines = [line for block in blocks(text, *languages) for line in block.splitlines()]
    return [words for line in lines if (words := split(line))]


def split(line: str) -> Command:
    """The words of a line; none where it is no line of a shell, such as one of a picture."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


@dataclass(frozen=True)
class Change:
    """What a page adds to a file: a whole new file, or lines beside others (`is_diff`)."""

    path: str
    text: str
    is_diff: bool


def changes(text: str) -> list[Change]:
    """The ```python and ```diff blocks below a line that names their file, such as "`negatives/types.py`:"."""
    found = re.findall(r"^`([\w/.]+)`:\n\n```(python|diff)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [Change(path, block, language == "diff") for path, language, block in found]


def with_blocks(*languages: str) -> list[str]:
    return [page for page, text in PAGES.items() if blocks(text, *languages)]
