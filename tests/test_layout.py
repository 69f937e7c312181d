"""The house rules of the tree, walked by ast: which way imports go, no cycle, front doors, and how large things get.

Imports inside functions count, and so do those by string (a table's "package.module.Name"); those under `TYPE_CHECKING`
do not, since nothing runs them.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("negatives", "datamodules", "lightning_modules", "experiments")
MAY_IMPORT = {
    "negatives": (),
    "datamodules": ("negatives",),
    "lightning_modules": ("datamodules",),
    "experiments": ("negatives", "datamodules", "lightning_modules"),
}
"""Top folder -> the others that it may import from."""
OPEN_FILES = {("lightning_modules", "datamodules.batch"), ("lightning_modules", "datamodules.pixels")}
"""Files that another top folder imports past the front door: the contract between the two, a batch and its pixels."""
LONGEST_MODULE, LONGEST_FUNCTION, LARGEST_FOLDER = 350, 50, 15


@cache
def files() -> dict[str, Path]:
    """Dotted name -> file, of every module and package."""
    found = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def offered(package: str) -> Mapping[str, str]:
    """What a package's front door offers: name -> the module that it comes from, as `__init__.pyi` says."""
    stub = files()[package].with_suffix(".pyi") if package in files() else Path()
    if not stub.is_file():
        return {}
    imports = [node for node in ast.parse(stub.read_text("utf-8")).body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: f"{package}.{node.module}" for node in imports for alias in node.names}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            assert isinstance(node, ast.If)
            for other in node.orelse:
                yield other
                yield from running_nodes(other)
            continue
        yield node
        yield from running_nodes(node)


@cache
def imports_of(module: str) -> frozenset[tuple[str, str]]:
    """(module, name) of all that a file imports from our packages; the name is "" for a module as a whole."""
    found = set()
    for node in running_nodes(ast.parse(files()[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports are absolute"
            found |= {(node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and named_module(node.value):
            found.add((named_module(node.value), ""))
    return frozenset((name, item) for name, item in found if name.split(".")[0] in PACKAGES)


def named_module(text: str) -> str:
    """The module that a string such as "negatives.writers.negclip.build" names; "" where it names none.

    A package alone is no import: as a word it stands in many a message.
    """
    parts = text.split(".") if text.replace(".", "").replace("_", "").isalnum() else []
    names = [".".join(parts[:length]) for length in range(len(parts), 1, -1)]
    return next((name for name in names if name in files() and files()[name].name != "__init__.py"), "")


def imported_file(module: str, name: str) -> str:
    """The module whose code an import runs; a front door's name leads to the file behind it."""
    if name and f"{module}.{name}" in files():
        return f"{module}.{name}"
    while name and name in offered(module):
        module = offered(module)[name]
    return module


def edges() -> dict[str, set[str]]:
    return {
        module: {imported_file(*item) for item in imports_of(module)} & files().keys() - {module} for module in files()
    }


def cycles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other (Tarjan's strongly connected components), those of one left out."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_a_cycle_is_found_and_a_diamond_is_none() -> None:
    assert cycles({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}) == [["a", "b", "c"]]
    assert cycles({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}) == []


def test_the_walk_sees_imports_in_functions_and_by_string() -> None:
    assert named_module("negatives.validate.rejection") == "negatives.validate"
    assert named_module("negatives") == named_module("negatives.nothing") == named_module("a sentence.") == ""
    assert "negatives.judging.transformer" in set().union(*edges().values()), "it is imported by its name alone"


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    wrong = [
        f"{module} imports {name}"
        for module in files()
        if module.split(".")[0] == package
        for name, _ in imports_of(module)
        if name.split(".")[0] not in (package, *MAY_IMPORT[package])
    ]
    assert wrong == []


def test_no_file_imports_the_tests() -> None:
    assert not [module for module, path in files().items() if "from tests" in path.read_text("utf-8")]


def test_files_import_each_other_in_no_circle() -> None:
    assert cycles(edges()) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_sub_packages_import_each_other_in_no_circle(package: str) -> None:
    """Files beside the sub-packages belong to none: they are what ties these together."""

    def room(module: str) -> str:
        parts = module.split(".")
        inside = len(parts) > 2 or files()[module].name == "__init__.py"
        return parts[1] if parts[0] == package and len(parts) > 1 and inside else ""

    graph: dict[str, set[str]] = {}
    for module, others in edges().items():
        graph.setdefault(room(module), set()).update({room(other) for other in others} - {room(module), ""})
    del graph[""]
    assert graph
    assert cycles(graph) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_other_top_folders_come_in_by_the_front_door(package: str) -> None:
    wrong = [
        f"{module}: {name}.{item}"
        for module in files()
        if module.split(".")[0] == package
        for name, item in imports_of(module)
        if name.split(".")[0] != package and (package, name) not in OPEN_FILES and item not in offered(name)
    ]
    assert wrong == []


def test_every_front_door_opens() -> None:
    for package in files():
        for name in offered(package):
            assert getattr(importlib.import_module(package), name) is not None, f"{package}.{name}"


def test_no_module_is_longer_than_a_reader_holds() -> None:
    lengths = {module: len(path.read_text("utf-8").splitlines()) for module, path in files().items()}
    assert {module: length for module, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_no_function_is_longer_than_a_page() -> None:
    """Its docstring does not count: arguments that are explained are no burden."""
    long = {}
    for module, path in files().items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                lines = len(range(node.lineno, (node.end_lineno or 0) + 1))
                lines -= len(range(first.lineno, (first.end_lineno or 0) + 1)) if documented else 0
                long[f"{module}.{node.name}"] = lines
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FUNCTION} == {}


def test_no_folder_holds_more_modules_than_fit_on_a_page() -> None:
    folders: dict[Path, int] = {}
    for path in files().values():
        folders[path.parent] = folders.get(path.parent, 0) + (path.name != "__init__.py")
    assert {str(folder): count for folder, count in folders.items() if count > LARGEST_FOLDER} == {}
