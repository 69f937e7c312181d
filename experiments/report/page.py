"""What the HTML pages have in common: templates that escape all they show, and how they write numbers.

Captions, names and n-grams come from data files that anyone may have written: control characters in them are not shown,
and a page's own policy forbids scripts and requests.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.runs.progress import CONTROL

# marks of direction stay in a page: a caption's end with it, see page.css
NOT_SHOWN = re.compile(f"[{CONTROL}]")


def template_environment() -> Environment:
    """Templates of this folder, with everything that they show escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,  # a misspelt name in a template is an error, not an empty cell
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "share": share, "spaced": spaced}
    return environment


def _finalized(value: Any) -> Any:
    # a text that is escaped already stays of its own type, Markup
    return type(value)(NOT_SHOWN.sub("\ufffd", value)) if isinstance(value, str) else value


def number(value: float | None, digits: int = 3) -> str:
    """A value as the page writes it.

    >>> number(0.98765), number(2), number(None)
    ('0.988', '2.000', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """A difference as the page writes it, with a sign as wide as the plus.

    >>> signed(0.1), signed(-0.0254), signed(0.0), signed(None)
    ('+0.100', '−0.025', '0.000', '–')
    """
    if value is None:
        return "–"
    # rounded first: -0.0002 is shown as 0.000, without a sign
    rounded = round(value, 3)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else ''}{abs(rounded):.3f}"


def share(part: int, whole: int) -> str:
    """A part in percent.

    >>> share(1, 8), share(1, 800), share(1, 100_000), share(0, 0)
    ('12.5 %', '0.1 %', '< 0.1 %', '–')
    """
    if not whole:
        return "–"
    return "< 0.1 %" if 0 < 1000 * part < whole else f"{100 * part / whole:.1f} %"


def spaced(count: int) -> str:
    """A count with commas.

    >>> spaced(1234567)
    '1,234,567'
    """
    return f"{count:,}"
