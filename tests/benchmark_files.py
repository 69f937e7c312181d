"""Small folders in the layouts of official benchmarks, written by the tests that read them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from datamodules.benchmarks.benchmark import Benchmark


def photos(folder: Path, *names: str, size: tuple[int, int] = (8, 6)) -> Path:
    """Plain images under these names; returns the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path, format="PNG")
    return folder


def picture(colour: tuple[int, int, int], path: str | None = None) -> dict[str, Any]:
    """A picture as Parquet files of Hugging Face have it."""
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": path}


def write_json(path: Path, value: Any) -> Path:
    """JSON in a folder that need not be there yet; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_csv(path: Path, header: Sequence[str], *rows: Sequence[Any], delimiter: str = ",") -> Path:
    """A CSV file; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A Parquet file; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def write_vl_checklist(folder: Path, right: dict[str, int]) -> None:
    """VL-CheckList with one item for each source: "... good" over "... other" where it is right, else "... bad"."""
    for source, wins in right.items():
        path = folder / f"corpus/v1/{source}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'ANNO_PATH: "data/{source}.json"\nIMG_ROOT: "x"\n')
        texts = {"POS": [f"{source} {'good' if wins else 'bad'}"], "NEG": [f"{source} other"]}
        write_json(folder / f"data/{source}.json", [["1.jpg", texts]])


def texts_of(benchmark: Benchmark) -> dict[str, str]:
    """text_id -> text, where a text has one wording."""
    return dict(zip(benchmark.texts["text_id"].to_pylist(), benchmark.texts["text"].to_pylist(), strict=True))


def items(benchmark: Benchmark) -> list[dict[str, Any]]:
    """The rows of the key, with texts instead of their ids."""
    texts = texts_of(benchmark)
    named = {"true", "false", "text_ids"}
    return [
        {
            name: [texts[one] for one in value] if name in named else texts[value] if name == "text_id" else value
            for name, value in row.items()
        }
        for row in benchmark.key.to_pylist()
    ]


def files_of(benchmark: Benchmark) -> dict[str, str]:
    """image_id -> path inside the root."""
    return dict(zip(benchmark.images["image_id"].to_pylist(), benchmark.images["image"].to_pylist(), strict=True))
