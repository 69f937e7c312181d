"""The comparison's main table as Markdown and as LaTeX: a line for each scorer, a column for each benchmark."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from experiments.report.comparison.content import Comparison
from experiments.report.comparison.leaderboard import Place

LATEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    # these two are quotes of some encodings, and ligatures of others
    **{"<": r"\textless{}", ">": r"\textgreater{}"},
}
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~&])")
Cells = list[list[str]]


def comparison_markdown(comparison: Comparison) -> str:
    """Markdown: the verdict, what is missing, and a table in which the best of each column is bold."""
    head, rows = _cells(comparison, markdown_text, lambda text: f"**{text}**", "≈")
    lines = [head, [":---", *["---:"] * (len(head) - 1)], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    sentences = (comparison.verdict, comparison.not_compared, comparison.stand_in)
    parts = [markdown_text(sentence) for sentence in sentences if sentence]
    for name, why in comparison.failed.items():
        # in an indented block nothing is Markdown or HTML, and no line can end it as one can end a fence
        parts += [f"{markdown_text(name)}:", "\n".join(f"    {line}" for line in why.splitlines())]
    return "\n\n".join([*parts, table, markdown_text(_caption(comparison))]) + "\n"


def comparison_latex(comparison: Comparison) -> str:
    r"""LaTeX with booktabs: a `tabular` for `\input`."""
    head, rows = _cells(comparison, latex_text, lambda text: rf"\textbf{{{text}}}", r"$\approx$")
    lines = [f"{' & '.join(line)} \\\\" for line in [head, *rows]]
    columns = f"l{'r' * (len(head) - 1)}"
    # a comment ends with its line, and a caption has none
    parts = [
        f"% {_one_line(comparison.verdict)}",
        f"% {_one_line(_caption(comparison))}",
        "% needs \\usepackage{booktabs}",
    ]
    parts += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([*parts, r"\end{tabular}", ""])


def _cells(
    comparison: Comparison, text: Callable[[str], str], bold: Callable[[str], str], same: str
) -> tuple[list[str], Cells]:
    board = comparison.board
    # of one set its mean is the set itself
    sets = board.sets if len(board.sets) > 1 else ()
    head = ["scorer", "mean" if sets else board.sets[0], "blind", "debiased", *sets]
    known = {name: [place.values[name] for place in board.places] for name in sets}
    best = {name: max((value for value in values if value is not None), default=None) for name, values in known.items()}
    rows = []
    for place in board.places:
        name = place.run + (f" ({place.seeds} seeds)" if place.seeds > 1 else "")
        mark = same if place.to_best is not None and place.tied_with else ""
        interval = f"{place.value:.3f}{mark}"
        # a single image has none
        interval += "" if math.isnan(place.low) else f" [{place.low:.3f}, {place.high:.3f}]"
        blind = "" if place.blind is None else f"{place.blind[0]:.3f}"
        row = [text(name), bold(interval) if place.to_best is None else interval, blind, halves(place)]
        for one in sets:
            value = place.values[one]
            cell = "" if value is None else f"{value:.3f}"
            row.append(bold(cell) if value is not None and value == best[one] else cell)
        rows.append(row)
    return [text(cell) for cell in head], rows


def halves(place: Place) -> str:
    """The mean on the reported halves of the images, as it is and without the blind score.

    >>> halves(Place("a", "a", 1, 0.7, 0.7, 0.7, 0.6, 0.8, None, None, None, None, (), {}))
    ''
    """
    if place.half_value is None or place.debiased is None:
        return ""
    return f"{place.half_value:.3f} / {place.debiased[0]:.3f}"


def _caption(comparison: Comparison) -> str:
    panels = [panel for panel in comparison.panels if panel.name in comparison.board.sets]
    metrics = ", ".join(f"{panel.name}: {label(panel.main)}" for panel in panels)
    notes = "".join(f" {panel.name}: {note}." for panel in panels for note in panel.notes)
    return (
        f"{metrics}. Brackets: 95 % intervals over images. blind: on noise images. debiased: on half of the images, as "
        "it is / without alpha x the blind logit. ≈: tied with the best (Holm)."
        f"{notes}"
    )


def label(column: Sequence[str]) -> str:
    """A metric and its group, as tables write them.

    >>> label(("accuracy", "mean")), label(("tau_b", ""))
    ('accuracy, mean', 'tau_b')
    """
    metric, group = column
    return f"{metric}, {group}" if group else metric


def markdown_text(text: str) -> str:
    r"""A text in which nothing is Markdown or HTML, in one line.

    >>> markdown_text("a|b_c\n<i>")
    'a\\|b\\_c \\<i\\>'
    """
    return MARKDOWN.sub(r"\\\1", _one_line(text))


def latex_text(text: str) -> str:
    r"""A text in which nothing is a command, in one line.

    >>> latex_text("50 % of a_b & {c}\\input")
    '50 \\% of a\\_b \\& \\{c\\}\\textbackslash{}input'
    """
    return "".join(LATEX.get(sign, sign) for sign in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
