"""Small faults of a module, each within one line, found in its syntax tree and written at exact positions."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Lines = list[bytes]
"""A module's lines; columns of a syntax tree count bytes."""
Edit = tuple[int, int, int, str]
"""Line, first column, column behind the last, and what takes their place."""


@dataclass(frozen=True, order=True)
class Mutation:
    """One fault.

    Attributes:
        path: of the module, from the root of the tree.
        line: that it changes, from 1.
        start, end: which columns of it, in bytes.
        operator: name in `OPERATORS`.
        new: what takes their place.
        statement: the line on which the statement begins.
    """

    path: str
    line: int
    start: int
    end: int
    operator: str
    new: str
    statement: int


COMPARISONS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
ARITHMETIC: dict[type[ast.AST], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
}
BOOLEAN: dict[type[ast.AST], tuple[str, str]] = {ast.And: ("and", "or"), ast.Or: ("or", "and")}
TEXTS = {"print", "_print", "warn", "rank_zero_warn", "debug", "info", "warning", "error", "exception"}
"""Calls whose arguments are read by people."""
BY_KEY = {"get", "pop", "setdefault"}
"""Methods whose first argument is a key."""


def mutations(path: str, source: str) -> list[Mutation]:
    """All mutations of what a module's functions do when they are called, in the order of lines.

    Left alone: docstrings, annotations, defaults and decorators, `raise` and what is printed or logged, and f-strings,
    which mostly are messages (and whose parts have no positions in Python 3.11).
    """
    lines = source.encode().split(b"\n")
    return sorted(
        Mutation(path, line, start, end, name, new, statement)
        for node, statement in _reached(ast.parse(source))
        for name, operator in OPERATORS.items()
        for line, start, end, new in operator(node, lines)
    )


def mutated(source: str, mutation: Mutation) -> str:
    """The source with the fault in it."""
    lines = source.encode().split(b"\n")
    line = lines[mutation.line - 1]
    lines[mutation.line - 1] = line[: mutation.start] + mutation.new.encode() + line[mutation.end :]
    return b"\n".join(lines).decode()


def _reached(tree: ast.AST, statement: int = 0) -> Iterator[tuple[ast.AST, int]]:
    """The nodes that run when a function is called, each with the line on which its statement begins; 0 outside."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in node.body:
                yield from _of_statement(part)
        elif isinstance(node, ast.stmt) and statement:
            yield from _of_statement(node)
        elif not _left_alone(node, tree):
            if statement:
                yield node, statement
            yield from _reached(node, statement)


def _of_statement(node: ast.stmt) -> Iterator[tuple[ast.AST, int]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for part in node.body:
            yield from _of_statement(part)
    elif not _left_alone(node, node):
        yield node, node.lineno
        yield from _reached(node, node.lineno)


def _left_alone(node: ast.AST, parent: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        return isinstance(value, ast.Constant) or _is_text(value)
    if isinstance(parent, ast.AnnAssign) and node is parent.annotation:
        return True
    if isinstance(parent, ast.Assert) and node is parent.msg:
        return True
    # `zip(strict=True)` says what is so: nothing can be seen of it
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return True
    return isinstance(node, ast.Raise | ast.JoinedStr) or _is_text(node)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _name(node.func) in TEXTS


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _comparison(node: ast.AST, lines: Lines) -> Iterator[Edit]:
    if isinstance(node, ast.Compare):
        ends = [node.left, *node.comparators]
        for left, operator, right in zip(ends, node.ops, ends[1:], strict=False):
            yield from _between(left, right, COMPARISONS[type(operator)], lines)


def _arithmetic(node: ast.AST, lines: Lines) -> Iterator[Edit]:
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        # texts and paths have one operator: any other fails wherever it is run
        if not any(isinstance(end, ast.JoinedStr) or _text_of(end) is not None for end in (node.left, node.right)):
            yield from _between(node.left, node.right, ARITHMETIC[type(node.op)], lines)
    elif isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield from _between(node.target, node.value, ARITHMETIC[type(node.op)], lines)


def _boolean(node: ast.AST, lines: Lines) -> Iterator[Edit]:
    if isinstance(node, ast.BoolOp):
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from _between(left, right, BOOLEAN[type(node.op)], lines)


def _negation(node: ast.AST, lines: Lines) -> Iterator[Edit]:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        found = re.match(rb"not\s*", lines[node.lineno - 1][node.col_offset :])
        assert found is not None
        yield node.lineno, node.col_offset, node.col_offset + found.end(), ""


def _constant(node: ast.AST, lines: Lines) -> Iterator[Edit]:
    if not isinstance(node, ast.Constant):
        return
    value = node.value
    if isinstance(value, bool):
        yield from _whole(node, str(not value))
    elif isinstance(value, int):
        yield from _whole(node, str(value + 1))
    # smaller ones are margins of rounding, which any other small number is as well
    elif isinstance(value, float) and not 0 < abs(value) < 1e-5:
        yield from _whole(node, repr(round(value * 1.2, 9)) if value else "0.1")


def _key(node: ast.AST, lines: Lines) -> Iterator[Edit]:
    """Strings by which something is looked up, and strings that something is compared with."""
    keys: list[ast.expr | None] = []
    if isinstance(node, ast.Dict):
        keys = node.keys
    elif isinstance(node, ast.Subscript):
        keys = [node.slice]
    elif isinstance(node, ast.Call) and _name(node.func) in BY_KEY:
        keys = [*node.args[:1]]
    elif isinstance(node, ast.Compare):
        keys = [node.left, *node.comparators]
    for key in keys:
        if key is not None and (text := _text_of(key)) is not None:
            yield from _whole(key, repr(f"{text}_"))


def _result(node: ast.AST, lines: Lines) -> Iterator[Edit]:
    if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield from _whole(node.value, "None")


def _call(node: ast.AST, lines: Lines) -> Iterator[Edit]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await):
        yield from _whole(node, "pass")


OPERATORS: dict[str, Callable[[ast.AST, Lines], Iterator[Edit]]] = {
    "comparison": _comparison,
    "arithmetic": _arithmetic,
    "boolean": _boolean,
    "negation dropped": _negation,
    "constant": _constant,
    "key": _key,
    "returns None": _result,
    "call dropped": _call,
}


def _between(left: ast.expr, right: ast.expr, swap: tuple[str, str], lines: Lines) -> Iterator[Edit]:
    """The operator between two operands, where it stands on the line of the second one."""
    start = left.end_col_offset or 0 if left.end_lineno == right.lineno else 0
    old = r"\s+".join(map(re.escape, swap[0].split()))
    word = rb"\b%b\b" if swap[0].isalpha() or " " in swap[0] else rb"%b"
    if found := re.search(word % old.encode(), lines[right.lineno - 1][start : right.col_offset]):
        yield right.lineno, start + found.start(), start + found.end(), swap[1]


def _whole(node: ast.expr | ast.stmt, new: str) -> Iterator[Edit]:
    if node.lineno == node.end_lineno and node.end_col_offset is not None:
        yield node.lineno, node.col_offset, node.end_col_offset, new


def _text_of(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
