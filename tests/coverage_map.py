"""A pytest plugin that writes which tests run which lines: `-p tests.coverage_map --coverage-map FOLDER`.

A fixture that several tests share runs once. What it runs counts for each of them, since any of them may look at it.
Each process writes a file of its own, so that it goes with pytest-xdist. Lines that only other processes of a test run
(ranks, loader workers, command lines) are not seen.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import coverage
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--coverage-map", required=True, help="the folder to write to")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(CoverageMap(config.rootpath.resolve(), Path(config.getoption("--coverage-map"))))


def function_of(test: str) -> str:
    """The test without its parameters."""
    return test.split("[")[0]


class CoverageMap:
    """Traces the modules below `root` that are no tests; a context of coverage is a test, or a shared fixture."""

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = root, folder
        self.context = ""
        self.fixtures: dict[str, list[str]] = {}
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.failed: set[str] = set()
        self.coverage = coverage.Coverage(data_file=None, config_file=False, source=[str(root)], omit=["*/tests/*"])
        # where others run the tests, this process sees nothing
        self.coverage.set_option("run:disable_warnings", ["no-data-collected"])
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._switch(function_of(item.nodeid))
        result = yield
        self._switch("")
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        test, name = self.context, fixturedef.argname
        self._switch(f"{name} of {fixturedef.baseid}")
        self.fixtures[self.context] = sorted(
            {
                function_of(item.nodeid)
                for item in request.session.items
                if item.nodeid.startswith(fixturedef.baseid) and name in getattr(item, "fixturenames", ())
            }
        )
        try:
            return (yield)
        finally:
            self._switch(test)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[function_of(report.nodeid)] += report.duration
        if report.failed:
            self.failed.add(function_of(report.nodeid))

    def pytest_unconfigure(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines: dict[str, dict[str, list[int]]] = {}
        for name in data.measured_files():
            path = str(Path(name).relative_to(self.root))
            for line, contexts in data.contexts_by_lineno(name).items():
                # no context is the import
                for test in {test for context in contexts if context for test in self.fixtures.get(context, [context])}:
                    lines.setdefault(test, {}).setdefault(path, []).append(line)
        content = {"lines": lines, "seconds": self.seconds, "failed": sorted(self.failed)}
        (self.folder / f"{os.getpid()}.json").write_text(json.dumps(content))

    def _switch(self, context: str) -> None:
        self.context = context
        self.coverage.switch_context(context)
