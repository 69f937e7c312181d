"""Laws of the documents: files, links and the layout are true, and numbers name where they come from.

`python -m tests.test_docs_pages` prints the picture of the layout, to be pasted into docs/extending.md.
"""

from __future__ import annotations

import configparser
import re
import textwrap

import pytest
import yaml

from experiments.__main__ import VERBS
from lightning_modules.backbones import backbone_class
from lightning_modules.losses import losses_that_read
from lightning_modules.losses.table import LOSSES
from tests.pages import EXTENDING, PAGES, README, ROOT, blocks, changes, commands, prose

PACKAGES = ("negatives", "datamodules", "lightning_modules", "experiments")
MOST_LINES = 200
"""Of the README: it is read in one sitting."""


def test_the_readme_is_short() -> None:
    assert len(PAGES[README].splitlines()) <= MOST_LINES


def test_every_page_is_named_in_the_readme() -> None:
    assert len(PAGES) > 10
    for page in PAGES:
        assert page == README or f"]({page})" in PAGES[README], page


@pytest.mark.parametrize("page", [page for page in PAGES if page not in (README, "docs/limits.md")])
def test_every_page_opens_with_the_shortest_thing_that_works(page: str) -> None:
    title, opening = PAGES[page].split("\n## ")[0].split("\n", 1)
    assert re.fullmatch(r"# \w[\w ]*", title)
    assert blocks(opening, "bash", "", "jsonl", "python")


def test_every_verb_is_explained() -> None:
    for verb in VERBS:
        assert f"| `itm {verb}` |" in PAGES[README], verb


def test_the_losses_that_the_pages_give_a_backbone_are_those_that_it_has() -> None:
    explained = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", PAGES["docs/losses.md"], re.MULTILINE))
    assert explained.keys() <= LOSSES.keys()
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\|[^|]*\| ([^|]*) \|$", PAGES[README], re.MULTILINE))
    assert len(rows) == 5
    for name, losses in rows.items():
        found = backbone_class(name)
        default = found.Settings.default_loss
        offered = [loss for loss in losses_that_read(found.offers) if loss in explained and loss != default]
        assert losses == ", ".join(f"`{loss}`" for loss in [default, *offered])
        for loss, backbones in explained.items():
            named = backbones == "all" or f"`{name}`{' (default)' * (loss == default)}" in backbones
            assert named == (loss in [default, *offered]), (name, loss)


def test_every_recipe_is_explained() -> None:
    named = re.findall(r"`(?:experiments/\w+/)?([\w*]+\.yaml)`", PAGES[README] + PAGES["docs/sweeps.md"])
    folders = (ROOT / "experiments/configs", ROOT / "experiments/sweeps")
    found = {name: {path for folder in folders for path in folder.glob(name)} for name in named}
    assert [name for name, paths in found.items() if not paths] == []
    assert set().union(*found.values()) == {path for folder in folders for path in folder.glob("*.yaml")}


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    folders = "|".join((*PACKAGES, "tests", "docs", r"\.ci"))
    names = re.findall(rf"`((?:{folders})/[\w/.]*|[\w.]+\.(?:md|cfg|cff|toml))`", text)
    added = {change.path for change in changes(text) if not change.is_diff}
    for name in set(names) - added:
        path = ROOT / name
        assert path.is_dir() if name.endswith("/") else path.is_file(), name


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), target


def test_every_result_names_its_command_and_its_commit() -> None:
    opening, *sections = PAGES["docs/results.md"].split("\n## ")
    assert not re.search(r"\d\.\d\d", opening)
    for section in sections:
        assert commands(section, ""), section.splitlines()[0]
        assert re.search(r"Commit `[0-9a-f]{7}`|: commit `[0-9a-f]{7}`", section), section.splitlines()[0]


def test_what_the_readme_repeats_of_the_results_is_equal() -> None:
    cells = [cell.strip() for line in PAGES[README].splitlines() for cell in line.split("|") if "[0." in cell]
    assert len(cells) == 15
    for cell in cells:
        assert cell in PAGES["docs/results.md"], cell


def test_the_citation_is_of_this_version() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == setup["metadata"]["version"]
    assert citation["license"] == setup["metadata"]["license"]


def layout() -> str:
    """The picture of the layout: a line for each folder of code with its files, wrapped."""
    folders = sorted(
        {path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("[!_]*.py")},
        key=lambda folder: (PACKAGES.index(folder.parts[0]), folder.parts),
    )
    width = max(len(folder.as_posix()) for folder in folders) + 4
    lines = []
    for folder in folders:
        names = " ".join(sorted(path.name for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"))
        lines += textwrap.wrap(f"{folder.as_posix() + '/':{width}}{names}", 118, subsequent_indent=" " * width)
    return "\n".join(lines)


def test_the_picture_of_the_layout_is_true() -> None:
    (picture,) = [block for block in blocks(PAGES[EXTENDING], "") if "negatives/" in block]
    assert picture.rstrip("\n") == layout(), "python -m tests.test_docs_pages prints the picture as it should be"


if __name__ == "__main__":
    print(layout())
