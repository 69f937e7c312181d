"""CSV as it is written here: no cell is a formula to a spreadsheet, whatever a set, run or type is called.

Spreadsheets run cells that begin with one of `= + - @`, a tab or a line's end (OWASP, "CSV Injection"). A text that
does so gets a single quote in front, which they take for "text". Numbers stay numbers, negative ones too.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# quotes already there count in, so that reading gives every text back: '=x becomes ''=x, and 'tis stays
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A CSV file: its head, and a line for each row."""
    text = io.StringIO()
    # the default of csv is "\r\n"
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: guarded(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a file of `csv_text`, with the texts as they were.

    Raises:
        OSError, ValueError, csv.Error: no CSV.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: unguarded(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def guarded(value: Any) -> Any:
    """A cell that no spreadsheet runs.

    >>> guarded("=1+1"), guarded("swap_obj"), guarded("'=x"), guarded(-0.3)
    ("'=1+1", 'swap_obj', "''=x", -0.3)
    """
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def unguarded(cell: Any) -> Any:
    """The text of a cell that `guarded` made; whatever else stands there is left as it is.

    >>> unguarded("'=1+1"), unguarded("''=x"), unguarded("'tis"), unguarded("-0.3")
    ('=1+1', "'=x", "'tis", '-0.3')
    """
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and FORMULA.match(cell) else cell
