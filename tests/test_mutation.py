"""The mutation sampler: what its operators write, what they leave alone, what it draws, and when a fault is caught."""

from __future__ import annotations

import ast
import random
import shutil
from pathlib import Path

import pytest

from tests.mutants import OPERATORS, Mutation, mutated, mutations
from tests.mutation import ROOT, Coverage, draw, modules, read_coverage, run


def faults(operator: str, line: str) -> list[str]:
    """The line of a function after each mutation by the operator."""
    source = f"def f(a, b, c):\n    {line}\n    g()\n"
    found = [one for one in mutations("m.py", source) if one.operator == operator and one.line == 2]
    return [mutated(source, one).splitlines()[1].strip() for one in found]


@pytest.mark.parametrize(
    ("operator", "line", "expected"),
    [
        ("comparison", "x = a < b", ["x = a <= b"]),
        ("comparison", "x = (a + 1) >= (b)", ["x = (a + 1) > (b)"]),
        ("comparison", "x = 0 <= a < b", ["x = 0 < a < b", "x = 0 <= a <= b"]),
        ("comparison", "x = a == b", ["x = a != b"]),
        ("comparison", "x = index in b", ["x = index not in b"]),
        ("comparison", "x = a not  in b", ["x = a in b"]),
        ("comparison", "x = a is b", ["x = a is not b"]),
        ("comparison", "x = 'é' + a > b", ["x = 'é' + a >= b"]),
        ("arithmetic", "x = a + b * c", ["x = a - b * c", "x = a + b / c"]),
        ("arithmetic", "x = a // b", ["x = a / b"]),
        ("arithmetic", "x **= b", ["x *= b"]),
        ("arithmetic", "x = 'text' + a + b / 'name'", ["x = 'text' + a - b / 'name'"]),
        ("boolean", "x = a and b and c", ["x = a or b and c", "x = a and b or c"]),
        ("boolean", "x = (a) or (b)", ["x = (a) and (b)"]),
        ("negation dropped", "x = a and not (b)", ["x = a and (b)"]),
        ("constant", "x = a[0] + 30_000", ["x = a[1] + 30_000", "x = a[0] + 30001"]),
        ("constant", "x = (0.5, 0.0, 1e-9)", ["x = (0.6, 0.0, 1e-9)", "x = (0.5, 0.1, 1e-9)"]),
        ("constant", "x = g(False, None, 'a')", ["x = g(True, None, 'a')"]),
        ("constant", "x = zip(a, b, strict=True)", []),
        ("key", 'x = {"a": "b", **c}', ["x = {'a_': \"b\", **c}"]),
        ("key", 'x = a["b"] + a.get("c", "d")', ['x = a[\'b_\'] + a.get("c", "d")', 'x = a["b"] + a.get(\'c_\', "d")']),
        ("key", 'x = a == "b"', ["x = a == 'b_'"]),
        ("returns None", "return a, b", ["return None"]),
        ("returns None", "return None", []),
        ("call dropped", "a.append(b)", ["pass"]),
        ("call dropped", "x = g(b)", []),
    ],
)
def test_an_operator_changes_what_it_says(operator: str, line: str, expected: list[str]) -> None:
    assert faults(operator, line) == expected


def test_an_operator_on_the_line_of_its_second_operand_is_found() -> None:
    source = "def f(a, b):\n    return (\n        a\n        and b\n    )\n"
    assert [mutated(source, one) for one in mutations("m.py", source)] == [source.replace("and b", "or b")]


LEFT_ALONE = '''"""In a module: 1 < 2."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from a import b

__all__ = ["f"]
LIMIT = 3 + 4


class A:
    """In a class: 1 < 2."""

    size: Literal["x"] = 5

    @decorated(1)
    def f(self, a: Literal["x"] = 2, *, b: dict[Literal["y"], int] = not True) -> Literal["z"]:
        """In a function: 1 < 2."""
        c: dict[Literal["x"], int]
        if a:
            raise ValueError("at most", 3 + 4, {"a": 1})
        print("that", a + 1)
        self.logger.warning("that %d", a + 1)
        warnings.warn("of", stacklevel=2)
        assert a, "because" + 1
        c = f"{a + 1} {c['x']}"

        def inner(d: int = 1, e: Literal["x"] = 2) -> None:
            """Within: 1 < 2."""
'''


def test_what_is_not_done_when_a_function_is_called_is_left_alone() -> None:
    assert mutations("m.py", LEFT_ALONE) == []


def spoken(source: str) -> list[str]:
    """The docstrings and annotations of a module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(ast.get_docstring(node) or "")
        for name in ("annotation", "returns"):
            if (annotation := getattr(node, name, None)) is not None:
                found.append(ast.unparse(annotation))
    return found


def test_faults_of_the_packages_are_valid_python_on_one_line_and_never_in_docstrings_or_annotations() -> None:
    sources = modules(ROOT)
    every = [one for path, source in sources.items() for one in mutations(path, source)]
    # some of each: of all together a rare one is drawn or not, as the code happens to be
    kinds = {name: [one for one in every if one.operator == name] for name in OPERATORS}
    draw_some = random.Random(0)
    chosen = [one for own in kinds.values() for one in draw_some.sample(own, min(15, len(own)))]
    assert all(kinds.values())
    for one in chosen:
        before, after = sources[one.path], mutated(sources[one.path], one)
        pairs = list(zip(before.split("\n"), after.split("\n"), strict=True))
        assert [number for number, (x, y) in enumerate(pairs, start=1) if x != y] == [one.line], one
        assert spoken(before) == spoken(after), one


def test_modules_that_measure_are_left_out() -> None:
    assert len(modules(ROOT)) > 100
    assert not [path for path in modules(ROOT) if "bench" in Path(path).parts or not path.endswith(".py")]


SOURCE = "def f(a):\n" + "".join(f"    a = a + {number}\n" for number in range(30)) + "    return a\n"


def drawn(seed: int, count: int, lines: list[int]) -> list[Mutation]:
    coverage = Coverage(lines={"tests/test_m.py::test_f": {"m.py": lines}})
    return list(draw({"m.py": SOURCE}, coverage, seed, count))


def test_a_seed_alone_says_what_is_drawn_and_more_begins_with_the_same() -> None:
    everything = list(range(2, 33))
    first = drawn(7, 10, everything)
    assert first == drawn(7, 10, everything)
    assert first == drawn(7, 20, everything)[:10]
    assert first != drawn(8, 10, everything)
    assert len({one.line for one in first}) == 10
    # what tests run decides which are taken, and not which fault a line has
    assert [one for one in drawn(7, 40, everything) if one.line < 9] == drawn(7, 40, list(range(2, 9)))


def test_only_lines_that_passing_tests_run_are_drawn() -> None:
    assert sorted(one.line for one in drawn(7, 40, [3, 5, 9])) == [3, 5, 9]
    failing = Coverage(lines={"t": {"m.py": [3]}}, failed=["t"])
    assert list(draw({"m.py": SOURCE}, failing, 7, 40)) == []


def test_tests_that_run_the_fewest_lines_come_first_and_a_statement_speaks_for_its_lines() -> None:
    coverage = Coverage(lines={"all": {"m.py": [1, 2, 3]}, "one": {"m.py": [2]}, "other": {"n.py": [2]}})
    assert coverage.tests_of(Mutation("m.py", 2, 0, 1, "key", "", 2)) == ["one", "all"]
    assert coverage.tests_of(Mutation("m.py", 4, 0, 1, "key", "", 2)) == ["one", "all"]
    assert coverage.tests_of(Mutation("m.py", 4, 0, 1, "key", "", 5)) == []


MODULE = """def count(n):
    steps = 0
    while n > 0:
        n -= 1
        steps += 1
    return steps


def shared():
    return 5
"""
TESTS = """import pytest

from pack.m import count, shared


@pytest.fixture(scope="module")
def five():
    return shared()


def test_counts():
    assert count(3) == 3


def test_first_of_fixture(five):
    assert five


def test_second_of_fixture(five):
    assert five == 5


def test_fails():
    assert count(1) == 2
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package of one module, and tests of it."""
    tree = tmp_path / "tree"
    for folder in ("pack", "tests"):
        (tree / folder).mkdir(parents=True)
        (tree / folder / "__init__.py").touch()
    shutil.copy(ROOT / "tests/coverage_map.py", tree / "tests")
    (tree / "pyproject.toml").write_text(
        '[tool.mypy]\nfiles = ["pack"]\n[tool.pytest.ini_options]\ntestpaths = ["tests"]\n'
    )
    (tree / "pack/m.py").write_text(MODULE)
    (tree / "tests/test_m.py").write_text(TESTS)
    return tree


@pytest.mark.parametrize(
    ("text", "new", "test", "by"),
    [
        ("0", "1", "test_counts", "tests/test_m.py::test_counts"),
        ("5", "6", "test_first_of_fixture", ""),
        ("5", "6", "test_second_of_fixture", "tests/test_m.py::test_second_of_fixture"),
        ("-=", "+=", "test_counts", "time"),
    ],
    ids=["caught", "survived", "caught by another", "never ends"],
)
def test_a_fault_is_caught_where_a_test_fails_and_is_taken_out_again(
    tree: Path, text: str, new: str, test: str, by: str
) -> None:
    line, start = next((n, row.index(text)) for n, row in enumerate(MODULE.splitlines(), start=1) if text in row)
    mutation = Mutation("pack/m.py", line, start, start + len(text), "constant", new, line)
    outcome = run(tree, mutation, [f"tests/test_m.py::{test}"], limit=2.0 if by == "time" else 120.0)
    assert (outcome.caught, outcome.by) == (bool(by), by)
    assert (tree / "pack/m.py").read_text() == MODULE


def test_names_of_tests_that_are_not_there_are_no_caught_fault(tree: Path) -> None:
    with pytest.raises(RuntimeError, match="test_gone"):
        run(tree, Mutation("pack/m.py", 2, 12, 13, "constant", "1", 2), ["tests/test_m.py::test_gone"], limit=120.0)


def test_lines_are_those_of_tests_and_of_all_that_share_a_fixture(tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "coverage.json"
    coverage = read_coverage(file, tree, tree)
    name = "tests/test_m.py::test_"
    assert coverage.failed == [f"{name}fails"]
    fixture = {"pack/m.py": [10]}
    assert coverage.lines == {
        f"{name}counts": {"pack/m.py": [2, 3, 4, 5, 6]},
        f"{name}fails": {"pack/m.py": [2, 3, 4, 5, 6]},
        f"{name}first_of_fixture": fixture,
        f"{name}second_of_fixture": fixture,
    }
    assert read_coverage(file, tree, tmp_path / "not run") == coverage
    (tree / "tests/test_m.py").unlink()
    (tree / "tests/test_n.py").write_text("from pack.m import shared\n\n\ndef test_shared():\n    assert shared()\n")
    assert read_coverage(file, tree, tree).lines == {"tests/test_n.py::test_shared": fixture}
