"""A new benchmark is its reader and its row: then it is audited, evaluated and compared, with types of its own."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.read import read_benchmark
from datamodules.benchmarks.table import BENCHMARKS, Reader, find_benchmark
from experiments.__main__ import main
from experiments.config.data_schemas import PairsConfig
from experiments.config.filter_schemas import AuditConfig
from experiments.config.load import ConfigError, load_config, load_mapping
from experiments.verbs.audit import read_audited
from negatives.tables.captions import InputError
from tests.benchmark_files import write_csv, write_json
from tests.tiny import TINY_OVERRIDES, tiny_tables

ITEMS = [
    {"id": n, "type": kind, "images": [f"{n}_0.png", f"{n}_1.png"], "captions": [f"a red {n}", f"a blue {n}"]}
    for n, kind in enumerate(("Zebra", "object", "both-of-them", "object"))
]
TYPES = {"Zebra", "object", "both-of-them", "mean"}


def read_drawings(*, annotations: Path, image_root: Path | None = None) -> Benchmark:
    """As Winoground: two images with a caption each, of which the other's is the negative."""
    found = Collected("drawings", "pairs", annotations, image_root)
    for item in json.loads((Path(annotations) / "drawings.json").read_text(encoding="utf-8")):
        for side in (0, 1):
            name = f"{item['id']}_{side}"
            found.add(
                item_id=name,
                image_id=found.image(item["images"][side], image_id=name),
                group=item["type"],
                true=[found.text(item["captions"][side])],
                false=[found.text(item["captions"][1 - side])],
            )
    return found.benchmark()


@pytest.fixture
def drawings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the made-up benchmark, which is in the table."""
    monkeypatch.setitem(BENCHMARKS, "drawings", Reader(f"{__name__}.read_drawings"))
    folder = tmp_path / "drawings"
    folder.mkdir()
    (folder / "drawings.json").write_text(json.dumps(ITEMS), encoding="utf-8")
    for item in ITEMS:
        for side, image in enumerate(item["images"]):
            Image.new("RGB", (16, 16), (200, 40 * side, 0)).save(folder / image)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_new_benchmark_is_evaluated_and_compared_by_types_of_its_own(
    drawings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions, negatives = tiny_tables(tmp_path / "scenes")
    run = tmp_path / "tiny-seed=0"
    words = [f"data.captions={captions}", f"data.negatives={negatives}", f"output_dir={run}", "name=tiny-seed=0"]
    words += [f"evaluation.sets.drawn.{key}={drawings}" for key in ("annotations", "image_root")]
    words += ["evaluation.sets.drawn.format=drawings", "evaluation.bootstrap=100", "logging.wandb=disabled"]
    assert main(["train", "experiments/configs/llava_tiny_scenes.yaml", *TINY_OVERRIDES, *words]) == 0
    assert main(["evaluate", str(run), "logging.wandb=disabled"]) == 0
    metrics = rows_of(run / "evaluation/metrics.csv")
    accuracies = [row for row in metrics if row["metric"] == "accuracy" and row["group"]]
    assert {(row["set"], row["group"]) for row in accuracies} == {("drawn", kind) for kind in TYPES}
    assert {row["group"]: int(row["count"]) for row in accuracies}["object"] == 4

    other = tmp_path / "tiny-seed=1"
    shutil.copytree(run, other)
    summary = other / "evaluation/summary.json"
    summary.write_text(summary.read_text().replace("seed=0", "seed=1"))
    capsys.readouterr()
    report = tmp_path / "report"
    assert main(["compare", str(run), str(other), f"output_dir={report}", "logging.wandb=disabled"]) == 0
    printed = capsys.readouterr().out
    page = (report / "index.html").read_text(encoding="utf-8")
    for table in ("comparison", "seeds"):
        rows = rows_of(report / f"{table}.csv")
        assert {row["group"] for row in rows if row["metric"] == "accuracy"} == {*TYPES, ""}
    assert rows_of(report / "differences.csv") == [], "two seeds are one method"
    for kind in TYPES:
        assert kind in printed
        assert re.search(rf"<text[^>]*>{kind}</text>", page), "on the axis of the plot"
        assert re.search(rf"<th[^>]*>{kind}", page), "in the tables"


def test_a_new_benchmark_is_audited_without_images(drawings: Path, tmp_path: Path) -> None:
    for image in drawings.glob("*.png"):
        image.unlink()
    words = ["format=drawings", f"annotations={drawings}", f"output_dir={tmp_path / 'audit'}", "judge.folds=3"]
    words += ["judge.judges=[word]", "bootstrap=20", "logging.wandb=disabled"]
    assert main(["audit", *words]) == 0
    (part,) = json.loads((tmp_path / "audit/audit.json").read_text(encoding="utf-8"))["parts"]
    assert (part["positives"], part["negatives"]) == (8, 8)


def test_a_new_benchmark_in_two_files_is_audited_by_the_inputs_of_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = "datamodules.benchmarks.readers.pairs.tables.read"
    monkeypatch.setitem(BENCHMARKS, "two_files", Reader(reader, inputs=("captions", "negatives")))
    captions, negatives = tiny_tables(tmp_path / "scenes")
    words = ["format=two_files", f"captions={captions}", f"negatives={negatives}", f"output_dir={tmp_path / 'audit'}"]
    words += ["judge.folds=3", "judge.judges=[word]", "bootstrap=20", "logging.wandb=disabled"]
    assert main(["audit", *words]) == 0
    page = (tmp_path / "audit/index.html").read_text(encoding="utf-8")
    assert str(captions) in page
    assert str(negatives) in page


def test_a_format_that_is_no_benchmark_is_refused_with_the_nearest(drawings: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"`format` must be a name of `itm evaluate --list`, got 'drawing'\. Did you mean drawings\?"
    ):
        load_mapping(PairsConfig, {"format": "drawing"}, "here")
    with pytest.raises(InputError, match=r"there is no benchmark 'drawing'\. Did you mean drawings\?"):
        find_benchmark("drawing")


@pytest.mark.parametrize(
    ("name", "missing"),
    [("tables", ["captions", "negatives"]), ("valse", ["annotations", "image_root"])],
)
def test_what_a_benchmark_needs_is_asked_for_by_key(name: str, missing: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_mapping(PairsConfig, {"format": name}, "here")
    assert [fault.split("`")[1] for fault in caught.value.faults] == missing
    with pytest.raises(InputError, match=f"`{missing[0]}` must be given to read {name}"):
        read_benchmark(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"type": "mean"},
            "must be a name without white space and /, such as replace_obj, and not all or mean, got 'm",
        ),
        ({"type": "all"}, "got 'all'"),
        ({"type": "a/b"}, "got 'a/b'"),
        ({"type": "two words"}, "got 'two words'"),
        ({"type": None}, "got None"),
        ({"id": 0, "images": ITEMS[0]["images"]}, "item_id must be unique, '0_0' is there more often"),
        ({"images": ["../0.png", "x.png"]}, "must stay inside"),
    ],
    ids=str,
)
def test_items_that_would_be_scored_wrongly_are_refused(
    drawings: Path, change: dict[str, object], message: str
) -> None:
    items = [*ITEMS, {**ITEMS[0], "id": 9, **change}]
    (drawings / "drawings.json").write_text(json.dumps(items), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(message)):
        read_benchmark("drawings", annotations=drawings, texts_only=True)


def test_a_table_of_ones_own_is_audited_by_a_yaml_file(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "foils.csv", ("file", "a", "b", "c"), *((f"{n}.jpg", f"a cat {n}", "a dog", "x") for n in (0, 1))
    )
    columns = {"image": "file", "true": "a", "false": ["b", "c"]}
    spec = write_json(tmp_path / "foils.yaml", {"table": "foils.csv", "protocol": "pairs", "columns": columns})
    words = ["format=own", f"annotations={spec}", f"output_dir={tmp_path}/audit"]
    tables = read_audited(load_config(AuditConfig, None, words))
    assert tables.captions["caption"].to_pylist() == ["a cat 0", "a cat 1"]
    assert tables.negatives["negative_type"].to_pylist() == ["foils"] * 4, (
        "the benchmark's name where there is no group"
    )


@pytest.mark.parametrize("schema", [PairsConfig, AuditConfig])
def test_a_benchmark_of_no_pairs_is_refused_before_it_is_read(schema: type, tmp_path: Path) -> None:
    keys = {"format": "cola", "annotations": str(tmp_path), "output_dir": "audit", "image_root": str(tmp_path)}
    own = {key: value for key, value in keys.items() if key in {each.name for each in fields(schema)}}
    with pytest.raises(ConfigError, match=r"must be a benchmark of the protocol pairs, cola is of groups"):
        load_mapping(schema, own, "here")
