"""Six scorers of all kinds on five benchmarks of real photos, killed twice and compared: the road of measuring."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks import Benchmark, read_benchmark
from experiments.__main__ import main
from experiments.scoring.store import Store
from negatives.tables import read_jsonl, write_json
from tests.backbones import BACKBONES, save_published
from tests.launch import log_tail, start

pytestmark = pytest.mark.slow  # two trainings, and an evaluation that starts four times

SIZES = ["evaluation.batch_size=16", "evaluation.unit_size=64", "evaluation.bootstrap=200", "accelerator=cpu"]
OFFICIAL = ("sugarcrepe", "sugarcrepe_pp", "valse", "captions_retrieval")
TUNED = ("clip", "blip2")


def write_jsonl(rows: list[dict[str, Any]], path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_benchmarks(root: Path, data: Path) -> None:
    """The official files of three benchmarks, a captions table and a table of one's own, with the photos there are."""
    photos = data / "coco_val2017"
    overlap = [row for _, row in read_jsonl(photos / "benchmark_overlap.jsonl")]
    shutil.copytree(data / "sugarcrepe" / "data", root / "sugarcrepe")
    shutil.copytree(photos / "images", root / "sugarcrepe" / "images")
    (root / "sugarcrepe_pp").mkdir()
    (root / "sugarcrepe_pp" / "images").symlink_to(root / "sugarcrepe" / "images")
    for subset in ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att"):
        of_pp = [row for row in overlap if (row["benchmark"], row["subset"]) == ("sugarcrepe_pp", subset)]
        names = ("id", "filename", "caption", "caption2", "negative_caption")
        write_json([{name: row[name] for name in names} for row in of_pp], root / f"sugarcrepe_pp/{subset}.json")
    shutil.copytree(data / "valse", root / "valse")
    (root / "valse" / "images").mkdir()
    for row in overlap:
        if row["benchmark"] == "valse":
            shutil.copy(photos / row["image"], root / "valse" / "images" / row["filename"])
    shutil.copytree(photos / "images", root / "captions_retrieval" / "images")
    captions = [row for _, row in read_jsonl(photos / "captions.jsonl")]
    # every image is asked with every caption: few will do
    rows = [{"image": row["image"], "caption": row["captions"][0]} for row in captions[:20]]
    write_jsonl(rows, root / "captions_retrieval" / "captions.jsonl")
    unrefined = [
        {"image": f"sugarcrepe/{row['image']}", "text": row[name], "label": label, "kind": row["subset"]}
        for row in overlap
        if row["benchmark"] == "sugarcrepe_unrefined"
        for label, name in enumerate(("negative_caption", "caption"))
    ]
    write_jsonl(unrefined, root / "unrefined.jsonl")
    columns = {"image": "image", "text": "text", "label": "label", "group": "kind"}
    write_json({"table": "unrefined.jsonl", "protocol": "labels", "columns": columns}, root / "unrefined.yaml")


def read_all(root: Path) -> dict[str, Benchmark]:
    found = {
        name: read_benchmark(
            name,
            annotations=root / name,
            image_root=root / name / ("" if name == "captions_retrieval" else "images"),
        )
        for name in OFFICIAL
    }
    return {**found, "unrefined": read_benchmark("own", annotations=root / "unrefined.yaml")}


def write_scores(path: Path, benchmarks: Path, data: Path) -> None:
    """A scorer made elsewhere: how many words of a text are in the captions that people wrote for the photo."""
    known = {
        str(row["coco_id"]): {*re.findall(r"\w+", " ".join(row["captions"]).lower())}
        for _, row in read_jsonl(data / "coco_val2017" / "captions.jsonl")
    }
    scores: dict[tuple[str, str], float] = {}
    for benchmark in read_all(benchmarks).values():
        texts = dict(zip(benchmark.texts["text_id"].to_pylist(), benchmark.texts["text"].to_pylist(), strict=True))
        images = benchmark.images["image_id"].to_pylist()
        if benchmark.pairs is None:
            asked = [(image, text) for image in images for text in texts.values()]
        else:
            asked = [(row["image_id"], texts[row["text_id"]]) for row in benchmark.pairs.to_pylist()]
        for image, text in asked:
            words = re.findall(r"\w+", text.lower())
            scores[image, text] = sum(word in known[image] for word in words) / len(words)
    with path.open("w", newline="") as file:
        write = csv.writer(file).writerow
        write(("image_id", "text", "score"))
        for (image, text), score in scores.items():
            write((image, text, score))


def write_scorers(root: Path, data: Path, benchmarks: Path) -> list[str]:
    """Three checkpoints in the published format, two fine-tunes of them, a judge of texts, and a scores table."""
    for name, backbone in BACKBONES.items():
        save_published(backbone.build(), root / name)
    photos, pairs = data / "coco_val2017/captions.jsonl", data / "llm_negatives/pairs.jsonl"
    words = ["generate", "generator=pairs", f"captions={photos}", f"pairs={pairs}", f"image_root={data}"]
    assert main([*words, "folds=[0,1]", f"output_dir={root}/pairs"]) == 0
    captions, negatives = root / "pairs/captions.parquet", root / "pairs/negatives.parquet"
    for name in TUNED:
        words = [f"data.captions={captions}", f"data.negatives={negatives}", f"data.image_root={data}"]
        words += [f"model.backbone={name}", f"model.checkpoint={root / name}", f"output_dir={root}/{name}_tuned"]
        words += ["trainer.max_steps=8", "trainer.accelerator=cpu", "data.batch_size=8", "logging.wandb=disabled"]
        assert main(["train", *words]) == 0
    write_scores(root / "words.csv", benchmarks, data)
    folders = [*BACKBONES, *(f"{name}_tuned" for name in TUNED), "words.csv"]
    return [*(str(root / folder) for folder in folders), f"judge:word:{captions}:{negatives}"]


def evaluate_until(units: int, words: list[str]) -> int:
    """`itm evaluate` in this process, which is killed when it has written so many units."""
    written, real = [], Store.write

    def counting(*arguments: Any) -> None:
        real(*arguments)
        written.append(1)
        if len(written) == units:
            os.kill(os.getpid(), signal.SIGKILL)

    Store.write = counting  # type: ignore[method-assign]  # a process of its own
    return main(words)


def test_six_scorers_on_five_benchmarks_killed_twice_equal_the_unbroken_run(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, benchmarks = shared / "data", tmp_path / "benchmarks"
    write_benchmarks(benchmarks, data)
    scorers = write_scorers(tmp_path, data, benchmarks)
    asked = f"benchmarks=[{','.join(OFFICIAL)},{benchmarks}/unrefined.yaml]"
    words = ["evaluate", *scorers, asked, f"benchmarks_root={benchmarks}", *SIZES, "logging.wandb=disabled"]
    killed = [*words, f"output_dir={tmp_path / 'killed'}", "--resume=auto"]
    # of five units each: in the middle of the first scorer's, and of the fourth's
    for number, units in enumerate((3, 14)):
        process = start(tmp_path / f"log{number}", evaluate_until, units, killed)
        process.join(300)
        assert process.exitcode == -signal.SIGKILL, log_tail(tmp_path / f"log{number}")
    assert main(killed) == 0
    assert main([*words, f"output_dir={tmp_path / 'whole'}"]) == 0
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").glob("*/**/*.parquet"))
    files = [path for path in files if path.parts[0] != "store"]
    names = [Path(word).name for word in scorers[:-2]] + ["words", "judge-word"]
    for file in [*files, *(Path(name, "metrics.csv") for name in names)]:
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file

    capsys.readouterr()
    compared = [str(tmp_path / "killed"), f"output_dir={tmp_path / 'comparison'}"]
    assert main(["compare", *compared, "bootstrap=200", "logging.wandb=disabled"]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if not line.startswith("Report: ")) <= 80
    with (tmp_path / "comparison/leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(names)
    # it knows what people said of the photos
    assert rows[0]["run"] == "words"
    assert {row["run"] for row in rows[1:]} == {*names} - {"words", "judge-word"} | {"judge word"}
    summary = json.loads((tmp_path / "killed/clip_tuned/summary.json").read_text())
    assert summary["sets"]["sugarcrepe"]["training_images"] > 10, "a run among others has a record, too"
