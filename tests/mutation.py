"""How many small faults the fast tests find: `python -m tests.mutation --seed 7 --mutations 40`, or `make mutation`.

Lines of the packages that fast tests run are drawn at random, and one fault is put into each, in a copy of the tree.
The tests that run the line are run on it: the fault is caught where one of them fails. What survives is read by a
person: a rule that no test states, or a change that makes no difference.

Which test runs which line is found out once, by all fast tests, and kept in `--coverage-file` until a module or a test
changes. Where only `tests/test_*.py` have changed, their tests are run again and no others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.mutants import Mutation, mutated, mutations

ROOT = Path(__file__).parents[1]
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "runs", "wandb", "build", "dist", "*.egg-info")
LEFT_OUT = "bench"
"""A folder whose modules measure: their numbers are no law."""
OWN = {"mutation.py", "mutants.py", "coverage_map.py"}
"""Files beside the tests that no test of a package reads."""
PYTEST = ("-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider")


@dataclass
class Coverage:
    """Which fast tests run which lines.

    Attributes:
        files: hash of each module and test that it was made from.
        lines: test function -> module -> the lines that it runs.
        seconds: of each test function, under the tracer.
        failed: test functions that fail without any fault.
    """

    files: dict[str, str] = field(default_factory=dict)
    lines: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def tests_of(self, mutation: Mutation) -> list[str]:
        """The tests that run the mutation's line, or where none is known to, its statement's first line.

        Those that run the fewest lines in all come first: they say most about one of them, and are quick.
        """
        of = self._of_line
        return of.get((mutation.path, mutation.line)) or of.get((mutation.path, mutation.statement)) or []

    def without(self, files: Sequence[str]) -> Coverage:
        """Without the tests of these files."""
        stay = {test for test in self.lines.keys() | self.seconds.keys() if test.split("::")[0] not in files}
        return Coverage(
            self.files,
            {test: lines for test, lines in self.lines.items() if test in stay},
            {test: seconds for test, seconds in self.seconds.items() if test in stay},
            [test for test in self.failed if test in stay],
        )

    @cached_property
    def _of_line(self) -> dict[tuple[str, int], list[str]]:
        result: dict[tuple[str, int], list[str]] = {}
        for test in sorted(self.lines, key=lambda test: (sum(map(len, self.lines[test].values())), test)):
            if test not in self.failed:
                for path, lines in self.lines[test].items():
                    for line in lines:
                        result.setdefault((path, line), []).append(test)
        return result


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation.

    Attributes:
        caught: whether a test failed, or ran so long that it had to be ended.
        by: the test that failed first; "time" for the latter, or the signal that ended pytest.
        tests: how many were to be run.
        seconds: how long they ran.
    """

    caught: bool
    by: str
    tests: int
    seconds: float


def modules(root: Path) -> dict[str, str]:
    """Path from the root -> source of every module whose faults count, of the packages that mypy checks."""
    packages = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["files"]
    paths = sorted(path.relative_to(root) for package in packages for path in (root / package).rglob("*.py"))
    return {str(path): (root / path).read_text(encoding="utf-8") for path in paths if LEFT_OUT not in path.parts}


def draw(sources: Mapping[str, str], coverage: Coverage, seed: int, count: int) -> Iterator[Mutation]:
    """So many mutations, of as many lines that tests run; the first of more are the same."""
    of_line: dict[tuple[str, int], list[Mutation]] = {}
    for path, source in sources.items():
        for mutation in mutations(path, source):
            of_line.setdefault((path, mutation.line), []).append(mutation)
    order = sorted(of_line)
    random.Random(seed).shuffle(order)
    for path, line in order:
        chosen = random.Random(f"{seed} {path} {line}").choice(of_line[path, line])
        if count > 0 and coverage.tests_of(chosen):
            count -= 1
            yield chosen


def read_coverage(file: Path, root: Path, copy: Path) -> Coverage:
    """The coverage of the tree at `root`, from the file as far as it still holds; what is missing is run in `copy`."""
    tests = [path for path in sorted((root / "tests").rglob("*.py")) if path.name not in OWN]
    names = [*modules(root), *(str(path.relative_to(root)) for path in tests)]
    files = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names}
    known = Coverage(**json.loads(file.read_text())) if file.exists() else Coverage()
    changed = sorted(name for name in files.keys() | known.files.keys() if files.get(name) != known.files.get(name))
    if not changed:
        return known
    some = all(name.startswith("tests/test_") for name in changed)
    result = known.without(changed) if some else Coverage()
    wanted = [name for name in changed if name in files] if some else []
    if wanted or not some:
        print("which test runs which line: running " + (", ".join(wanted) or "all fast tests"), flush=True)
        start = time.monotonic()
        _trace(copy, wanted, result)
        print(f"{time.monotonic() - start:.0f} s; {len(result.seconds)} test functions", flush=True)
    result.files = files
    for test in result.failed:
        print(f"left out, since it fails without a fault: {test}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(result)))
    return result


def _trace(copy: Path, tests: Sequence[str], into: Coverage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # a folder that is a word of its own is taken for tests, and the tree's settings for another's
        words = ["-p", "tests.coverage_map", f"--coverage-map={folder}", "-n", "2", "--dist", "loadfile"]
        subprocess.run([sys.executable, *PYTEST, *words, *tests], cwd=copy, env=_environment(copy), check=False)
        for path in sorted(Path(folder).iterdir()):
            seen = Coverage(**json.loads(path.read_text()))
            into.lines.update(seen.lines)
            into.seconds.update(seen.seconds)
            into.failed = sorted({*into.failed, *seen.failed})
    if not into.lines:
        raise SystemExit("No test ran any line of the packages; look at what pytest says above.")


def run(copy: Path, mutation: Mutation, tests: Sequence[str], limit: float) -> Outcome:
    """Puts the fault into the copy, runs the tests until one fails, and takes it out again.

    Args:
        copy: of the tree.
        mutation: the fault.
        tests: ids of test functions, all of which pass without it.
        limit: seconds after which the fault counts as caught, since something waits for ever.

    Raises:
        RuntimeError: there is no such test.
    """
    path = copy / mutation.path
    source = path.read_text(encoding="utf-8")
    path.write_text(mutated(source, mutation), encoding="utf-8")
    start = time.monotonic()
    try:
        code, output = _pytest(copy, ["-x", *tests], limit)
    finally:
        path.write_text(source, encoding="utf-8")
    seconds = time.monotonic() - start
    if code is None:
        return Outcome(True, "time", len(tests), seconds)
    failed = [line.split()[1] for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if code > 0 and not failed:
        raise RuntimeError(f"pytest ran no test ({code}):\n{output}")
    by = f"signal {-code}" if code < 0 else "".join(failed[:1])
    return Outcome(code != 0, by, len(tests), seconds)


def _pytest(copy: Path, words: Sequence[str], limit: float) -> tuple[int | None, str]:
    command = [sys.executable, *PYTEST, *words]
    # a session of its own, so that ranks and workers end with it
    process = subprocess.Popen(
        command,
        cwd=copy,
        env=_environment(copy),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, ""
    return process.returncode, output


def _environment(copy: Path) -> dict[str, str]:
    # bytecode of a module that changes twice within a second would be taken for the new one's
    return {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}


def show(mutation: Mutation, source: str, outcome: Outcome) -> str:
    """A mutation's place, line before and after, and what became of it."""
    before, after = (text.splitlines()[mutation.line - 1].strip() for text in (source, mutated(source, mutation)))
    verdict = f"caught by {outcome.by}" if outcome.caught else "SURVIVED"
    return (
        f"{mutation.path}:{mutation.line} {mutation.operator}: {verdict} ({outcome.tests} tests, "
        f"{outcome.seconds:.0f} s)\n    - {before}\n    + {after}"
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--mutations", type=int, default=40, help="how many")
    parser.add_argument("--tests", type=int, default=60, help="most test functions that are run on one")
    parser.add_argument("--coverage-file", type=Path, default=ROOT / "runs/mutation/coverage.json")
    parser.add_argument("--json", type=Path, help="where to write every mutation and what became of it")
    options = parser.parse_args(words)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        coverage, sources = read_coverage(options.coverage_file, ROOT, copy), modules(ROOT)
        for mutation in draw(sources, coverage, options.seed, options.mutations):
            tests = coverage.tests_of(mutation)[: options.tests]
            # the tracer's seconds are more than the tests need; the rest is for imports and a busy machine
            limit = 120 + 3 * sum(coverage.seconds[test] for test in tests)
            outcome = run(copy, mutation, tests, limit)
            rows.append({**asdict(mutation), **asdict(outcome)})
            print(f"{len(rows)}/{options.mutations} {show(mutation, sources[mutation.path], outcome)}", flush=True)
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps({"seed": options.seed, "mutations": rows}, indent=2))
    caught = sum(row["caught"] for row in rows)
    print(f"{caught} of {len(rows)} caught ({caught / max(1, len(rows)):.0%})")


if __name__ == "__main__":
    main()
