"""Laws of the package: which way imports go, what a wheel holds, and how soon the command answers."""

from __future__ import annotations

import ast
import configparser
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_experiments_sweep import TINY_DEMO

ROOT = Path(__file__).parents[1]
PACKAGES = ("lightning_modules", "datamodules", "negatives", "experiments")
ALLOWED = {
    "experiments": PACKAGES,
    "datamodules": ("datamodules", "negatives"),
    "lightning_modules": ("lightning_modules", "datamodules.batch", "datamodules.pixels"),
    "negatives": ("negatives",),
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Dotted names of everything a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    assert modules(package)
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(package)
        for name in imported(path)
        if name.split(".")[0] in (*PACKAGES, "tests")
        and not any(f"{name}.".startswith(f"{allowed}.") for allowed in ALLOWED[package])
    ]
    assert wrong == []


def test_nothing_imports_the_command_line() -> None:
    paths = [path for package in PACKAGES for path in modules(package)]
    importers = [path for path in paths for name in imported(path) if ".__main__" in name]
    assert importers == [], "a verb is run by `experiments.verb_table.run_verb`"


def test_negatives_import_no_torch() -> None:
    # the transformer judge is what needs it, and is imported where it is used
    heavy = ("transformer", "transformer_training")
    paths = [path.relative_to(ROOT).with_suffix("") for path in modules("negatives") if path.stem not in heavy]
    imports = "".join(f"import {'.'.join(path.parts).removesuffix('.__init__')}\n" for path in paths)
    code = f"import sys\n{imports}assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for package in PACKAGES for path in modules(package)}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_help_answers_in_under_half_a_second() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "experiments", "--help"], cwd=ROOT, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


def test_the_command_tells_the_version_of_setup_cfg() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    command = [sys.executable, "-m", "experiments", "--version"]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert told.split() == ["itm", setup["metadata"]["version"]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the tree."""
    tmp_path = tmp_path_factory.mktemp("wheel")
    # a copy, so that the build leaves nothing in the checkout and takes nothing from an older build
    source = tmp_path / "source"
    source.mkdir()
    for name in (*PACKAGES, "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, capture_output=True)
    (built,) = tmp_path.glob("itm_lightning-*.whl")
    return built


@pytest.mark.slow
def test_a_wheel_holds_the_packages_with_their_yaml_and_no_tests(wheel: Path) -> None:
    held = zipfile.ZipFile(wheel).namelist()
    shipped = [path for package in PACKAGES for path in modules(package)]
    for pattern in ("*.yaml", "*.j2", "*.html", "*.css"):
        shipped += (ROOT / "experiments").rglob(pattern)
    wordnet = ROOT / "negatives/wordnet"
    shipped += [wordnet / "wordnet.npz", wordnet / "LICENSE"]
    assert {str(path.relative_to(ROOT)) for path in shipped} <= set(held)
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == set(PACKAGES)
    for name in ("LICENSE", "negatives/wordnet/LICENSE"):
        assert any(path.endswith(f"licenses/{name}") for path in held), name


@pytest.mark.slow
def test_an_installed_wheel_runs_the_demo_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site, cwd = tmp_path / "site", tmp_path / "elsewhere"
    cwd.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    command = [sys.executable, "-P", "-m", "experiments", "demo", *TINY_DEMO]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True)
    assert (cwd / "runs/demo/report/index.html").is_file()
    assert json.loads((cwd / "runs/demo/provenance.json").read_text())["git"] is None, "the checkout was run"
