"""A benchmark from YAML, for each protocol, and what every reader's benchmark is checked for."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks.pairs import as_pairs
from datamodules.benchmarks.read import read_benchmark
from datamodules.benchmarks.readers.own import COLUMNS, OPTIONAL
from datamodules.benchmarks.table import BENCHMARKS
from experiments.config.evaluation_schemas import EvaluateConfig
from experiments.config.load import load_config
from negatives.tables import InputError
from tests.benchmark_files import items, photos, write_csv, write_json

TABLE = ("file", "other", "a", "b", "kind", "n", "m")
ROWS = [("1.jpg", "2.jpg", "a cat", "a dog", "noun kind", 1, 4), ("2.jpg", "1.jpg", "a bird", "a bus", "verb", 0, "")]
SPECS: dict[str, dict[str, Any]] = {
    "pairs": {"image": "file", "true": "a", "false": ["b", "kind"], "group": "kind"},
    "groups": {"images": ["file", "other"], "texts": ["a", "b"]},
    "labels": {"image": "file", "text": "a", "label": "n"},
    "ratings": {"image": "file", "text": "a", "rating": ["n", "m"]},
    "retrieval": {"image": "file", "text": ["a", "b"]},
    "classes": {"image": "file", "class": "a"},
}


def own(folder: Path, protocol: str, *, rows: Sequence[Sequence[Any]] = ROWS, **changes: Any) -> Any:
    write_csv(folder / "table.csv", TABLE, *rows)
    photos(folder, "1.jpg", "2.jpg")
    spec = {"table": "table.csv", "protocol": protocol, "columns": SPECS.get(str(protocol), {}), **changes}
    # YAML is a superset of JSON
    return read_benchmark("own", annotations=write_json(folder / "spec.yaml", spec))


def test_a_table_of_pairs_needs_no_code(tmp_path: Path) -> None:
    benchmark = own(tmp_path, "pairs")
    first, second = items(benchmark)
    assert (first["true"], first["false"]) == (["a cat"], ["a dog", "noun kind"])
    assert (first["group"], first["item_id"], second["item_id"]) == ("noun_kind", "1", "2")
    assert benchmark.name == "table"
    pairs = as_pairs(benchmark)
    assert pairs.negatives["negative_id"].to_pylist() == ["1#0", "1#1", "2#0", "2#1"]
    assert pairs.captions["caption_id"].to_pylist() == ["1", "2"]


def test_a_table_of_any_protocol_needs_no_code(tmp_path: Path) -> None:
    assert SPECS.keys() == COLUMNS.keys(), "the protocols that a YAML file can name"
    (first, _) = items(own(tmp_path, "groups"))
    assert (first["image_ids"], first["text_ids"]) == (["1", "2"], ["a cat", "a dog"])
    assert [item["label"] for item in items(own(tmp_path, "labels"))] == [1, 0]
    ratings = own(tmp_path, "ratings")
    assert [(item["item_id"], item["rating"]) for item in items(ratings)] == [("1", 1), ("1", 4), ("2", 0)]
    assert ratings.left_out == {"missing ratings": 1}
    assert len(own(tmp_path, "retrieval").key) == 4
    classes = own(tmp_path, "classes", templates=["one {c}", "the {c}"])
    assert classes.texts["text"].to_pylist() == ["one a cat", "the a cat", "one a bird", "the a bird"]
    named = own(tmp_path, "ratings", columns={**SPECS["ratings"], "prompt": "kind", "item": "b"}, name="mine")
    assert (items(named)[0]["prompt_id"], items(named)[0]["item_id"], named.name) == ("noun kind", "a dog", "mine")


EXAMPLE = re.compile(r"^ *table: foils\.csv.*\n *protocol: pairs\n *columns: .*\n", re.MULTILINE)


@pytest.mark.parametrize("page", ["docs/evaluation.md", "datamodules/benchmarks/readers/own.py"])
def test_the_example_of_the_page_is_read_as_it_stands(page: str, tmp_path: Path) -> None:
    (example,) = EXAMPLE.findall((Path(__file__).parents[1] / page).read_text(encoding="utf-8"))
    example = textwrap.dedent(example)
    (tmp_path / "mine.yaml").write_text(example)
    table = write_csv(
        photos(tmp_path, "1.jpg") / "foils.csv",
        ("file", "caption", "foil_1", "foil_2", "kind"),
        ("1.jpg", "a cat", "a dog", "a bus", "noun"),
    )
    benchmark = read_benchmark("own", annotations=tmp_path / "mine.yaml")
    (item,) = items(benchmark)
    assert (item["true"], item["false"], item["group"]) == (["a cat"], ["a dog", "a bus"], "noun")
    # the same inside a configuration
    annotations = textwrap.indent(example.replace("foils.csv", str(table)), " " * 8)
    config = f"run: .\nevaluation:\n  sets:\n    mine:\n      format: own\n      annotations:\n{annotations}"
    (tmp_path / "config.yaml").write_text(config)
    inline = load_config(EvaluateConfig, tmp_path / "config.yaml", check_files=False).evaluation.sets["mine"]
    assert items(read_benchmark("own", annotations=inline.annotations)) == [item]


def test_a_mapping_and_lists_in_a_table_will_do(tmp_path: Path) -> None:
    rows = '{"file": "1.jpg", "true": ["a", "b"], "false": ["c"]}\n'
    (tmp_path / "table.jsonl").write_text(rows)
    photos(tmp_path, "1.jpg")
    columns = {"image": "file", "true": "true", "false": "false"}
    spec = {"table": str(tmp_path / "table.jsonl"), "protocol": "pairs", "columns": columns}
    assert items(read_benchmark("own", annotations=spec))[0]["true"] == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"colums": {}}, "keys must be table, protocol, columns, name, templates, got 'colums'.*Did you mean columns"),
        ({"protocol": "pair"}, "`protocol` must be one of pairs, .*, got 'pair'.*Did you mean pairs"),
        ({"columns": {"image": "file", "true": "a"}}, "`columns` of pairs must name false"),
        ({"columns": {**SPECS["pairs"], "label": "n"}}, "must name image, true, false, group, item, got 'label'"),
        ({"columns": {**SPECS["pairs"], "image": "flie"}}, "got 'flie'.*Did you mean file"),
        ({"columns": None}, "`columns` must be given"),
        ({"columns": {**SPECS["pairs"], "true": "m"}}, "row 2.* has '' for a text"),
        ({"columns": {**SPECS["pairs"], "item": "missing"}}, "got 'missing'"),
        ({"table": "none.csv"}, "none.csv"),
        ({"protocol": "labels", "columns": {"image": "file", "text": "a", "label": "b"}}, "'a dog' for a label"),
        (
            {"protocol": "labels", "columns": {"image": "file", "text": "a", "label": ["n", "m"]}},
            "row 1 has 2 values for label instead of one; mend the table or the columns",
        ),
        ({"protocol": "groups", "columns": {"images": "file", "texts": "a"}}, "there must be two of each"),
        ({"protocol": ["pairs"]}, r"`protocol` must be one of pairs, .*, got \['pairs'\]"),
        ({"columns": {**SPECS["pairs"], "image": {"a": "b"}}}, "must hold names of columns, .* got {'a': 'b'}"),
        ({"columns": {**SPECS["pairs"], "image": [["file"]]}}, r"must hold names of columns, .* got \['file'\]"),
        ({"templates": "plain"}, "`templates` must be those of classes, the protocol is pairs .*take them out"),
        (
            {"table": "table.xlsx"},
            r"`table` must be a file that ends in .parquet, .jsonl, .csv, .tsv, got .*table.xlsx",
        ),
        ({"table": "."}, r"`table` must be a file that ends in .parquet"),
        (
            {"rows": [("1.jpg", "2.jpg")]},
            r"table\.csv is no readable file \(row 1 has not the header's 7 .*; mend it\.$",
        ),
    ],
    ids=str,
)
def test_a_wrong_description_is_one_line_that_says_what(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault) as error:
        own(tmp_path, **{"protocol": "pairs", "columns": SPECS["pairs"], **changes})
    assert "\n" not in str(error.value)


def test_raters_of_an_item_share_its_image_and_text(tmp_path: Path) -> None:
    columns = {**SPECS["ratings"], "item": "b"}
    rows = [(*row[:3], "same", *row[4:]) for row in ROWS]
    with pytest.raises(InputError, match="item_id must be unique, 'same' is there more often; the raters of an item"):
        own(tmp_path, "ratings", columns=columns, rows=rows)
    rows = [(*rows[0][:5], 1, 2), (*rows[0][:5], 3, "")]
    key = own(tmp_path, "ratings", columns=columns, rows=rows).key
    assert key["item_id"].to_pylist() == ["same"] * 3, "two rows of raters, of one image and text"


def test_labels_may_be_written_as_pandas_writes_them(tmp_path: Path) -> None:
    rows = [
        (*row[:5], label, "") for row, label in zip(ROWS * 3, ("1.0", "0.0", "1", "0", "true", "False"), strict=True)
    ]
    labels = own(tmp_path, "labels", rows=rows).key["label"].to_pylist()
    assert labels == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("protocol", "rows", "note"),
    [
        (
            "pairs",
            [("1.jpg", "", "a", "a", "b", "", ""), ("1.jpg", "", "a", "c", "a", "", ""), *ROWS],
            "2 (a text is both",
        ),
        ("groups", [("1.jpg", "1.jpg", "a", "b", "", "", ""), *ROWS], "1 (an image or a text is there twice)"),
        ("groups", [("1.jpg", "2.jpg", "a", "a", "", "", ""), *ROWS], "1 (an image or a text is there twice)"),
        ("labels", [("1.jpg", "", "a", "", "", label, "") for label in (1, 0, 1)], "3 (a text is labelled both"),
    ],
)
def test_items_that_no_scorer_can_answer_are_counted(
    protocol: str, rows: list[tuple[Any, ...]], note: str, tmp_path: Path
) -> None:
    assert own(tmp_path, protocol).notes == ()
    (found,) = own(tmp_path, protocol, rows=rows).notes
    assert found.startswith(f"items that no scorer can answer: {note}")


def test_an_image_that_is_a_link_to_itself_is_one_line(tmp_path: Path) -> None:
    own(tmp_path, "pairs")
    (tmp_path / "1.jpg").unlink()
    (tmp_path / "1.jpg").symlink_to("1.jpg")
    with pytest.raises(
        InputError, match=r"1\.jpg' (cannot be found|does not exist)|1 of 2 images do not exist"
    ) as error:
        read_benchmark("own", annotations=tmp_path / "spec.yaml")
    assert "\n" not in str(error.value)


def test_an_epsilon_that_is_searched_on_a_part_is_noted(tmp_path: Path) -> None:
    def rated(rows: int) -> tuple[str, ...]:
        # the last row says what the one before says, and is searched with it
        lines = [(f"{row % 4}.jpg", f"text {min(row, rows - 2)}", min(row, rows - 2) % 5) for row in range(rows)]
        lines[-1] = lines[-2]
        table = write_csv(tmp_path / "table.csv", ("file", "a", "n"), *lines)
        spec = {"table": str(table), "protocol": "ratings", "columns": {"image": "file", "text": "a", "rating": "n"}}
        return read_benchmark("own", annotations=spec, texts_only=True).notes

    assert rated(10_001) == ()
    (note,) = rated(10_002)
    assert note.startswith("pairwise_accuracy is not the official number: of 10,001 rows")


def test_a_missing_image_of_ones_own_is_refused(tmp_path: Path) -> None:
    own(tmp_path, "pairs")
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(InputError, match="1 of 2 images do not exist"):
        read_benchmark("own", annotations=tmp_path / "spec.yaml")


def test_a_protocol_of_no_pairs_gives_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"table must have true and false texts .* its protocol is groups"):
        as_pairs(own(tmp_path, "groups"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_row_has_a_reader_that_takes_its_inputs(name: str) -> None:
    row = BENCHMARKS[name]
    parameters = inspect.signature(row.load_reader()).parameters
    assert parameters.keys() >= {*row.inputs, "image_root"}
    assert row.on_disk
    assert "\n" not in row.on_disk
    assert row.protocol in {*COLUMNS, "any"}


@pytest.mark.parametrize("name", [name for name, row in BENCHMARKS.items() if row.inputs == ("annotations",)])
def test_a_folder_without_files_is_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="empty") as error:
        read_benchmark(name, annotations=empty, image_root=empty)
    assert "\n" not in str(error.value)


def test_an_option_that_a_reader_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"aro_coco_order must be read with its own options \(seed\), got 'sead'"):
        read_benchmark("aro_coco_order", annotations=tmp_path, texts_only=True, sead=1)


def test_the_documentation_lists_every_benchmark_as_its_row_says() -> None:
    page = (Path(__file__).parents[1] / "docs/evaluation.md").read_text(encoding="utf-8")
    for name, row in BENCHMARKS.items():
        start = f"| `{name}` | {row.protocol} | {row.on_disk} |"
        (line,) = [line for line in page.splitlines() if line.startswith(start)]
        group = f", {row.main.group}" if row.main is not None and row.main.group else ""
        assert line.split("|")[-2].strip() == ("" if row.main is None else f"`{row.main.metric}`{group}")


@pytest.mark.parametrize("protocol", COLUMNS)
def test_the_documentation_lists_the_columns_of_ones_own_tables(protocol: str) -> None:
    page = (Path(__file__).parents[1] / "docs/evaluation.md").read_text(encoding="utf-8")
    heading = "| protocol | needed | optional |"
    assert page.count(heading) == 1
    (line,) = re.findall(rf"^\| `{protocol}` \|(.*)$", page.partition(heading)[2].partition("\n\n")[0], re.MULTILINE)
    needed, optional = (tuple(re.findall(r"`(\w+)`", cell)) for cell in line.strip("|").split("|"))
    assert needed + optional == COLUMNS[protocol]
    assert set(optional) <= set(OPTIONAL)
