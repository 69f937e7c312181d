"""`itm compare` on small evaluated runs that the tests write themselves."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
import re
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from experiments.config.evaluation_schemas import CompareConfig
from experiments.config.trainer_schemas import LoggingConfig
from experiments.report.comparison.examples.thumbnails import thumbnail
from experiments.report.comparison.reading.curves import read_curves
from experiments.report.comparison.tables import markdown_text
from experiments.report.csv_files import csv_text, read_csv
from experiments.verbs.compare import run as compare
from negatives.tables.captions import InputError, write_json, write_table, write_text
from tests.wandb_log import read_wandb

HOSTILE = "<script>alert('$x$')</script>"
QUIET = LoggingConfig(wandb="disabled")


def pair_rows(images: int = 12, skill: float = 2.0, seed: int = 0, hostile: bool = False) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    rows = []
    for image, kind in ((i, kind) for i in range(images) for kind in ("swap_att", "replace_att")):
        caption = HOSTILE if hostile and image == 0 else f"a red disc left of a blue square {image}"
        logits = generator.normal([skill, 0, 0, 0])
        rows.append(
            {
                "image_id": f"i{image}",
                "image": f"images/{image}.png",
                "caption_id": f"c{image}",
                "negative_id": f"n{image}_{kind}",
                "negative_type": kind,
                "caption": caption,
                "negative_caption": f"a blue disc left of a red square {image}",
                "positive_logit": logits[0],
                "negative_logit": logits[1],
                "positive_score": 1 / (1 + np.exp(-logits[0])),
                "negative_score": 1 / (1 + np.exp(-logits[1])),
                "blind_positive_logit": logits[2],
                "blind_negative_logit": logits[3],
            }
        )
    return rows


def write_run(
    folder: Path,
    name: str,
    sets: dict[str, list[dict[str, Any]]],
    data: Path | None = None,
    training_pairs: dict[str, int] | None = None,
) -> str:
    root = data or folder.parent
    entries = {}
    for set_name, rows in sets.items():
        write_table(pa.Table.from_pylist(rows), folder / "evaluation" / set_name / "pairs.parquet")
        entries[set_name] = {"image_root": str(root), "pairs": len(rows), "images": len({r["image_id"] for r in rows})}
        entries[set_name] |= {"training_pairs": training_pairs} if training_pairs is not None else {}
    write_json({"run": name, "sets": entries, "scorer": {}}, folder / "evaluation" / "summary.json")
    lines = ["epoch,step,train/loss/value,val/swap_att/accuracy,val/mean/accuracy"]
    lines += [f"0,{step},{2 / (1 + step / 10)},," for step in range(0, 60, 10)] + ["0,59,,0.7,0.8"]
    write_text("\n".join(lines) + "\n", folder / "logs" / "version_0" / "metrics.csv")
    return str(folder)


def write_images(folder: Path, count: int = 12) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for image in range(count):
        Image.new("RGB", (32, 32), (20 * image, 80, 160)).save(folder / "images" / f"{image}.png")


def audit_file(path: Path, ngram: str = "elephant") -> str:
    """What `itm audit` writes: everything, and what was kept, which is what a comparison shows."""

    def estimates(auc: float) -> list[dict[str, Any]]:
        values = (
            ("auc", "word", "all", 0.9, 0.9, 0.9, 130),
            ("auc", "stacked", "all", auc, 0.7, 0.8, 130),
            ("auc", "stacked", "swap_att", 0.7, 0.6, 0.8, 90),
            ("paired_accuracy", "stacked", "all", 0.8, 0.75, 0.85, 80),
            ("paired_accuracy", "stacked", "swap_att", None, None, None, 0),
        )
        names = ("estimand", "judge", "negative_type", "value", "low", "high", "count")
        return [dict(zip(names, row, strict=True)) for row in values]

    word = {"ngram": ngram, "positives": 3, "negatives": 41, "z": 5.5}
    parts = [
        {
            **{"name": name, "positives": 50, "negatives": 80, "images": 50, "pairs": 80, "judge": "stacked"},
            **{"estimates": estimates(auc), "ngrams": {"positive": [], "negative": [word]}},
        }
        for name, auc in (("all", 0.95), ("kept", 0.75))
    ]
    write_json({"parts": parts}, path)
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> CompareConfig:
    """Three runs on one set."""
    write_images(tmp_path)
    skills = {"unfiltered": 0.5, "random": 0.6, "filtered": 2.5}
    runs = [
        write_run(tmp_path / name, name, {"balanced": pair_rows(skill=skill, seed=position)})
        for position, (name, skill) in enumerate(skills.items())
    ]
    return CompareConfig(runs=runs, output_dir=str(tmp_path / "report"), bootstrap=100, logging=QUIET)


def rows_of(config: CompareConfig, name: str) -> list[dict[str, str]]:
    with (Path(config.output_dir) / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def page_of(config: CompareConfig) -> str:
    return (Path(config.output_dir) / "index.html").read_text(encoding="utf-8")


def only(rows: Sequence[dict[str, str]], **wanted: str) -> dict[str, str]:
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_tables_hold_accuracies_worked_by_hand_with_ties_wrong(tmp_path: Path, config: CompareConfig):
    rows = pair_rows(images=2)
    logits = [(2.0, 1.0), (1.0, 1.0), (0.0, 1.0), (5.0, 1.0)]  # swap, replace, swap, replace: 1, tie, 0, 1
    for row, (positive, negative) in zip(rows, logits, strict=True):
        row |= {"positive_logit": positive, "negative_logit": negative}
        row |= {"blind_positive_logit": 1.0, "blind_negative_logit": 1.0}
    right = [{**row, "positive_logit": 9.0} for row in rows]
    runs = [write_run(tmp_path / "a", "a", {"s": rows}), write_run(tmp_path / "b", "b", {"s": right})]
    compare(replace(config, runs=runs))
    found = rows_of(config, "comparison.csv")
    for kind in ("swap_att", "replace_att", "mean"):
        row = only(found, run="a", set="s", metric="accuracy", group=kind)
        assert (float(row["value"]), float(row["blind_value"])) == (0.5, 0.0)
        assert (row["count"], row["images"]) == (("4", "2") if kind == "mean" else ("2", "2"))
        about = {"set": "s", "metric": "accuracy", "group": kind}
        difference = only(rows_of(config, "differences.csv"), run="b", other="a", against="reference", **about)
        assert float(difference["difference"]) == 0.5


def test_seeds_of_a_method_are_averaged_pair_by_pair(tmp_path: Path, config: CompareConfig, capsys):
    """Two seeds: the first right on every pair, the second on the swaps alone; one run has no other seed."""
    rows = pair_rows(images=3)
    first = [{**row, "positive_logit": 9.0, "blind_positive_logit": 9.0} for row in rows]
    second = [{**row, "positive_logit": 9.0 if row["negative_type"] == "swap_att" else -9.0} for row in first]
    names = {"clip-seed=0": first, "clip-seed=1": second, "other-seed=0": first, "seedless": second}
    runs = [write_run(tmp_path / name, name, {"s": pairs}) for name, pairs in names.items()]
    compare(replace(config, runs=runs))
    found = rows_of(config, "seeds.csv")
    assert {row["method"] for row in found} == {"clip"}
    for kind, expected in {
        "swap_att": (1.0, 1.0, 1.0),
        "replace_att": (0.5, 0.0, 1.0),
        "mean": (0.75, 0.5, 1.0),
    }.items():
        row = only(found, set="s", metric="accuracy", group=kind)
        assert tuple(float(row[name]) for name in ("value", "lowest_seed", "highest_seed")) == expected
        assert (row["seeds"], float(row["low"]), float(row["blind_value"])) == ("2", expected[0], 1.0)
    assert "2 seeds 0.500 – 1.000" in page_of(config)
    assert "clip x2" in capsys.readouterr().out
    board = {row["run"]: row["seeds"] for row in rows_of(config, "leaderboard.csv")}
    assert board == {"clip": "2", "other-seed=0": "1", "seedless": "1"}


def test_report_is_complete_and_ends_with_its_path(config: CompareConfig, capsys: pytest.CaptureFixture[str]):
    config = replace(config, title="Three arms", note="Plumbing only.", reference="random")
    audits = {"before": audit_file(Path(config.output_dir).with_name("audit.json"))}
    compare(replace(config, audits=audits))
    written = {path.name for path in Path(config.output_dir).iterdir()}
    tables = {"comparison.csv", "comparison.md", "comparison.tex", "leaderboard.csv"}
    tables |= {"seeds.csv", "differences.csv", "learning_curves.csv", "audits.csv"}
    assert written == {"index.html", "config.yaml", "provenance.json", *tables}
    assert capsys.readouterr().out.splitlines()[-1] == f"Report: {config.output_dir}/index.html"
    to_reference = [row for row in rows_of(config, "differences.csv") if row["against"] == "reference"]
    assert {row["run"] for row in to_reference} == {"unfiltered", "filtered"}
    curve = [row for row in rows_of(config, "learning_curves.csv") if row["run"] == "filtered"]
    assert only(curve, metric="val/mean/accuracy") == {
        "run": "filtered", "step": "59", "metric": "val/mean/accuracy", "value": "0.8"
    }  # fmt: skip
    assert only(rows_of(config, "audits.csv"), negative_type="all") == {
        **{"label": "before", "negative_type": "all", "positives": "50", "negatives": "80"},
        **{"auc": "0.75", "low": "0.7", "high": "0.8"},
        **{"pairs": "80", "paired_accuracy": "0.8", "paired_low": "0.75", "paired_high": "0.85"},
    }
    swaps = only(rows_of(config, "audits.csv"), negative_type="swap_att")
    assert (swaps["negatives"], swaps["auc"], swaps["pairs"], swaps["paired_accuracy"]) == ("", "0.7", "0", "")
    page = page_of(config)
    for text in ("Three arms", "Plumbing only.", "Differences to random", "Favourite words", "elephant", "swap_att"):
        assert text in page
    assert page.count("<figure") == page.count("<svg") == 3
    assert page.count("✓ right") + page.count("✗ wrong") == 8 * 3


def test_page_asks_nothing_of_the_network(config: CompareConfig):
    compare(config)
    page = page_of(config)
    links = re.findall(r"""(?:src|href|xlink:href|action|data)=["']([^"']*)""", page)
    assert links
    assert all(link.startswith(("#", "data:image/")) for link in links)
    assert not re.findall(r"<script|@import|<link|<iframe|<object", page)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", page))
    outside = {url for url in re.findall(r"""https?://[^"'<> ]+""", page) if "www.w3.org" not in url}
    assert not outside


def test_markup_in_names_captions_and_ngrams_is_shown_not_run(tmp_path: Path, config: CompareConfig):
    runs = [
        write_run(
            tmp_path / folder, name, {"balanced": pair_rows(hostile=True), HOSTILE.replace("/", "|"): pair_rows()}
        )
        for folder, name in (("one", HOSTILE), ("two", "_$broken {{ 7 * 7 }} [red]"))
    ]
    audits = {HOSTILE: audit_file(tmp_path / "audit.json", ngram=HOSTILE)}
    config = replace(config, runs=runs, audits=audits, title=HOSTILE, note=HOSTILE, examples=12)
    compare(config)
    page = page_of(config)
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;$x$&#39;)&lt;/script&gt;" in page
    assert "_$broken {{ 7 * 7 }} [red]" in page


def test_control_characters_of_files_reach_neither_terminal_nor_page(
    tmp_path: Path, config: CompareConfig, capsys: pytest.CaptureFixture[str]
):
    orders = "\x1b[31m\x9b2J\u202egnp\x07"
    rows = [{**row, "caption": f"caption {orders}<b>", "negative_type": f"kind{orders}"} for row in pair_rows()]
    runs = [write_run(tmp_path / name, f"{name}{orders}", {"balanced": rows}) for name in ("one", "two")]
    compare(replace(config, runs=runs, audits={}, examples=12))
    texts = {"page": page_of(config), "terminal": capsys.readouterr().out}
    for place, text in texts.items():
        signs = {sign for sign in text if unicodedata.category(sign) in ("Cc", "Cf")}
        # a caption's marks of direction end with it
        assert signs <= {"\n", "\t", *["\u202e"] * (place == "page")}, place
        assert "\ufffd[31m\ufffd2J\ufffdgnp\ufffd" in text, place
    assert "caption \ufffd[31m\ufffd2J\u202egnp\ufffd&lt;b&gt;" in texts["page"]


def test_no_cell_of_a_table_is_a_formula_and_every_name_is_read_back(tmp_path: Path, config: CompareConfig):
    names = ["=HYPERLINK(1)", "+x", "-x", "@x", "'=x", "'tis"]
    rows = [{**row, "negative_type": name} for name in names for row in pair_rows(images=3)[::2]]
    runs = [write_run(tmp_path / f"run{index}", name, {"=set": rows}) for index, name in enumerate(("=a", "-b"))]
    config = replace(config, runs=runs, audits={}, reference="=a")
    compare(config)
    for name in ("comparison", "differences"):
        cells = [cell for row in rows_of(config, f"{name}.csv") for cell in row.values()]
        # a number may begin with a minus
        assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r") and not is_number(cell)]
        read = read_csv(Path(config.output_dir) / f"{name}.csv")
        assert {row["group"] for row in read} == {*names, "mean", ""}
        assert {row["set"] for row in read} - {""} == {"=set"}
    assert min(float(row["difference"]) for row in read) <= 0
    assert {row["run"] for row in read if row["against"] == "reference"} == {"-b"}


def is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def test_a_negative_number_stays_one():
    text = csv_text(["name", "value"], [{"name": "-0.3", "value": -0.3}, {"name": "\tx", "value": float("-inf")}])
    assert text == "name,value\n'-0.3,-0.3\n'\tx,-inf\n"


@pytest.mark.parametrize(
    "content",
    [r'{"run": "\ud800", "sets": {}}', r'{"run": "a", "sets": {"b": {"image_root": "\u0000"}}}', "[" * 100000],
)
def test_a_summary_that_no_page_can_hold_is_one_line(content: str, tmp_path: Path, config: CompareConfig):
    (tmp_path / "random" / "evaluation" / "summary.json").write_text(content)
    assert "summary.json must be what `itm evaluate` writes" in refusal(config)


def test_runs_evaluated_on_what_they_were_trained_on_are_named(
    tmp_path: Path, config: CompareConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {
        "seen": {"mean": 5, "swap_att": 5, "replace_att": 0},
        "unseen": {"mean": 0},
        HOSTILE: {"mean": 24},
        "older": None,
    }
    runs = [
        write_run(tmp_path / str(place), name, {"balanced": pair_rows()}, training_pairs=trained)
        for place, (name, trained) in enumerate(counts.items())
    ]
    config = replace(config, runs=runs, logging=LoggingConfig(wandb="offline"))
    compare(config)
    rows = {(row["run"], row["group"]): row["training_pairs"] for row in rows_of(config, "comparison.csv")}
    assert [rows["seen", kind] for kind in ("mean", "swap_att", "replace_att")] == ["5", "5", "0"]
    assert (rows["unseen", "mean"], rows["older", "mean"]) == ("0", ""), "not known is not none"
    page, printed = page_of(config), " ".join(capsys.readouterr().out.split())
    assert "<script" not in page
    for text in (printed, html.unescape(page)):
        assert "seen was trained on the images of 20.8 % of the items." in text
        assert f"{HOSTILE} was trained on the images of 100.0 % of the items." in text
        assert "not known whether older saw images" in text
        assert "unseen was trained" not in text
    logged = read_wandb(Path(config.output_dir)).values
    assert logged["compare/balanced/seen.training_pairs"] == 5
    assert logged["compare/balanced/older.training_pairs"] == "not known"


def test_examples_carry_their_pictures_or_say_that_they_cannot(tmp_path: Path, config: CompareConfig):
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    (tmp_path / "images" / "4.png").unlink()
    compare(replace(config, examples=12))
    page = page_of(config)
    assert page.count("data:image/png;base64,") == 10
    assert page.count("cannot be shown") == 2
    encoded = re.findall(r"data:image/png;base64,([^\"]+)", page)[0]
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (32, 32)


def test_thumbnails_stay_inside_the_image_root_and_carry_only_pixels(tmp_path: Path):
    root = tmp_path / "root"
    write_images(root, 1)
    Image.new("RGB", (800, 400)).save(root / "large.jpg", exif=_exif("secret place"))
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    for path in ("../outside.png", str(tmp_path / "outside.png"), "link.png", "images", "nul\0.png"):
        assert thumbnail(root, path) == (None, False)
    data, small = thumbnail(root, "large.jpg")
    assert data is not None
    assert not small
    encoded = base64.b64decode(data.partition(",")[2])
    assert Image.open(io.BytesIO(encoded)).size == (320, 160)
    assert b"secret" not in encoded


def _exif(text: str) -> Image.Exif:
    exif = Image.Exif()
    exif[270] = text
    return exif


def test_examples_and_intervals_depend_on_the_seed_only(config: CompareConfig):
    compare(config)
    first = page_of(config)
    compare(config, resume=True)
    assert page_of(config) == first
    compare(replace(config, seed=1), overwrite=True)
    assert page_of(config) != first


def test_resumed_curves_replace_what_was_logged_twice(tmp_path: Path):
    write_text("epoch,step,train/loss/value\n0,10,3.0\n0,20,2.0\n0,40,1.", tmp_path / "version_9" / "metrics.csv")
    write_text("epoch,step,train/loss/value\n0,20,1.5\n0,30,1.0\n0,40,nan\n", tmp_path / "version_10" / "metrics.csv")
    assert read_curves(tmp_path) == {"train/loss/value": {10: 3.0, 20: 1.5, 30: 1.0}}


def test_one_run_without_logs_or_audits_makes_a_page(tmp_path: Path, config: CompareConfig):
    (tmp_path / "filtered" / "logs" / "version_0" / "metrics.csv").unlink()
    compare(replace(config, runs=config.runs[2:], examples=0))
    page = page_of(config)
    assert not any(text in page for text in ("Learning curves", "Differences to", "Favourite words", "Examples"))
    assert rows_of(config, "differences.csv") == []


def test_runs_that_are_missing_are_named_with_what_failed(config: CompareConfig, capsys: pytest.CaptureFixture[str]):
    lines = [
        "train/broken ended with exit code 1",
        "Traceback:",
        f"```{HOSTILE}",
        "OutOfMemoryError: \x1b[31m\u202egnp",
    ]
    config = replace(config, examples=0)
    compare(replace(config, missing={"late": "", "broken": "\n".join(lines)}))
    sentence = "2 of 5 runs are not compared: broken (failed), late (not evaluated yet)."
    page, printed = page_of(config), capsys.readouterr().out
    assert f'<p class="note">{sentence}</p>' in page
    (said,) = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    assert html.unescape(said).split("\n") == [*lines[:3], "OutOfMemoryError: \ufffd[31m\ufffdgnp"]
    assert "<script" not in page
    assert f"{sentence} broken: OutOfMemoryError: \ufffd[31m\ufffdgnp # " in " ".join(printed.split())
    assert "Traceback" not in printed
    markdown = (Path(config.output_dir) / "comparison.md").read_text(encoding="utf-8")
    assert markdown_text(sentence) in markdown.splitlines()
    block = markdown.split("\n\nbroken:\n\n")[1].split("\n\n")[0].split("\n")
    assert block == [f"    {line}" for line in html.unescape(said).split("\n")]

    compare(replace(config, missing={f"late{number}": "" for number in range(5)}), overwrite=True)
    names = ", ".join(f"late{number} (not evaluated yet)" for number in range(3))
    assert f"5 of 8 runs are not compared: {names} and 2 more (not evaluated yet)." in page_of(config)
    compare(replace(config, missing={HOSTILE: HOSTILE}), overwrite=True)
    assert "<script" not in page_of(config)
    assert f"1 of 4 runs is not compared: {HOSTILE} (failed)." in html.unescape(page_of(config))
    capsys.readouterr()
    compare(config, overwrite=True)
    assert "not compared" not in page_of(config) + capsys.readouterr().out


def test_a_reference_that_is_missing_is_stood_in_for(
    tmp_path: Path, config: CompareConfig, capsys: pytest.CaptureFixture[str]
):
    seed = write_run(tmp_path / "seed", "clip-seed=1", {"balanced": pair_rows()})
    missing = {"clip-seed=0": "", "raw": ""}
    config = replace(config, runs=[config.runs[0], seed], missing=missing, examples=0, debias=False)
    for wanted, taken in {"raw": "unfiltered", "clip-seed=0": "clip-seed=1", "clip": "clip-seed=1"}.items():
        compare(replace(config, reference=wanted), overwrite=True)
        sentence = f"The reference {wanted} is not among the compared runs: differences are to {taken}."
        for text in (page_of(config), " ".join(capsys.readouterr().out.split())):
            assert sentence in text
        assert f"Differences to {taken}," in page_of(config)
        others = {row["other"] for row in rows_of(config, "differences.csv") if row["against"] == "reference"}
        assert others == {taken}
        assert f"got '{wanted}'" in refusal(replace(config, reference=wanted, missing={}), overwrite=True)
    compare(replace(config, reference="unfiltered"), overwrite=True)
    assert "not among the compared" not in page_of(config) + capsys.readouterr().out


def test_the_first_run_of_many_is_compared_alone(config: CompareConfig, capsys: pytest.CaptureFixture[str]):
    compare(replace(config, runs=config.runs[:1], reference="filtered", missing={"random": "", "filtered": ""}))
    for text in (page_of(config), " ".join(capsys.readouterr().out.split())):
        assert "there is nothing to compare it with." in text
        assert "2 of 3 runs are not compared: random (not evaluated yet), filtered (not evaluated yet)." in text
        assert "The reference filtered is not among the compared runs: differences are to unfiltered." in text


def test_runs_of_one_name_are_called_by_their_folders(tmp_path: Path, config: CompareConfig):
    runs = [write_run(tmp_path / folder, "same", {"balanced": pair_rows()}) for folder in ("one", "two")]
    compare(replace(config, runs=runs))
    assert {row["run"] for row in rows_of(config, "comparison.csv")} == set(runs)


def test_runs_may_have_sets_of_their_own_beside_a_common_one(tmp_path: Path, config: CompareConfig):
    both = {"own": pair_rows(images=3), "balanced": pair_rows()}
    compare(replace(config, runs=[*config.runs, write_run(tmp_path / "more", "more", both)]))
    assert {row["run"] for row in rows_of(config, "comparison.csv") if row["set"] == "own"} == {"more"}
    # the empty set is the mean of the leaderboard
    assert {row["set"] for row in rows_of(config, "differences.csv")} == {"balanced", ""}


def refusal(config: CompareConfig, **flags: bool) -> str:
    with pytest.raises(InputError) as error:
        compare(config, **flags)
    message = str(error.value)
    del error  # it refers to this frame, and its traceback to the folder's lock
    assert "\n" not in message
    return message


def test_bad_input_is_named_with_its_remedy_and_leaves_nothing(tmp_path: Path, config: CompareConfig):
    (tmp_path / "bare/logs").mkdir(parents=True)
    (tmp_path / "wrong").mkdir()
    other = write_run(tmp_path / "other", "other", {"elsewhere": pair_rows()})
    fewer = write_run(tmp_path / "fewer", "fewer", {"balanced": pair_rows(images=11)})
    reworded = [{**row, "negative_caption": "another"} for row in pair_rows()]
    changed = write_run(tmp_path / "changed", "changed", {"balanced": reworded})
    doubled = write_run(tmp_path / "doubled", "doubled", {"balanced": pair_rows() + pair_rows()})
    before = sorted(tmp_path.iterdir())
    bare = str(tmp_path / "bare")
    assert "at least one evaluated run" in refusal(replace(config, runs=[]))
    assert f"run `itm evaluate {bare}`" in refusal(replace(config, runs=[*config.runs, bare]))
    wrong = str(tmp_path / "wrong")
    assert f"{wrong} holds no evaluation: give an evaluated" in refusal(replace(config, runs=[*config.runs, wrong]))
    assert "other: elsewhere" in refusal(replace(config, runs=[*config.runs, other]))
    assert "24 in" in (message := refusal(replace(config, runs=[config.runs[0], fewer])))
    assert "22 in" in message
    assert "2 of items and what is searched are in one only" in message
    assert "same tables" in refusal(replace(config, runs=[config.runs[0], changed]))
    assert "A pair can be there once" in refusal(replace(config, runs=[doubled]))
    assert "listed more often" in refusal(replace(config, runs=[config.runs[0]] * 2))
    assert "(unfiltered, random, filtered), got 'raw'. Change it." in refusal(replace(config, reference="raw"))
    assert "got 'filtred'. Did you mean filtered?" in refusal(replace(config, reference="filtred"))
    assert "audit.json of `itm audit`" in refusal(replace(config, audits={"x": f"{fewer}/evaluation/summary.json"}))
    assert sorted(tmp_path.iterdir()) == before


def test_an_evaluation_that_was_not_finished_is_told_to_go_on(tmp_path: Path, config: CompareConfig):
    of_run, of_several = tmp_path / "random/evaluation", tmp_path / "several"
    (of_run / "summary.json").unlink()
    scorer = of_several / "clip"
    scorer.mkdir(parents=True)
    for place, folder in ((of_run, config.runs[1]), (of_several, str(of_several)), (of_several, str(scorer))):
        write_json({"verb": "evaluate"}, place / "provenance.json")
        expected = f"{place} is an unfinished evaluation: run its `itm evaluate` again, with --resume."
        assert refusal(replace(config, runs=[config.runs[0], folder])) == expected
    write_json({"scorers": {"clip": "runs/clip"}}, of_several / "summary.json")
    message = refusal(replace(config, runs=[config.runs[0], str(of_several)]))
    assert message.endswith(f"summary.json names clip, and {scorer} holds no evaluation; copy the whole folder.")


def test_an_evaluated_set_that_cannot_be_measured_is_named(tmp_path: Path, config: CompareConfig):
    pairs = [{"image_id": str(row), "text_id": text, "logit": 0.0} for row in range(3) for text in ("true", "false")]
    key = {"item_id": ["0", "1", "2"], "image_id": ["0", "1", "2"], "group": ["a"] * 3}
    key |= {"true": [["true"]] * 3, "false": [["false"]] * 3}
    folder = tmp_path / "own"
    for name, table in {
        "key": pa.table(key),
        "images": pa.table({"image_id": ["0", "1", "2"], "image": ["i.png"] * 3}),
        "texts": pa.table({"text_id": ["true", "false"], "text": ["a cat", "a dog"]}),
        "scores": pa.Table.from_pylist(pairs[1:]),
    }.items():
        write_table(table, folder / f"set/{name}.parquet")
    for protocol, expected in (
        ("pairs", f"{folder}/set/scores.parquet: 1 of 3 pairs have no logit, the first is image '0' and text 'true'."),
        ("pair", f"{folder}/summary.json, set set: the protocol must be one of pairs, "),
    ):
        entry = {"image_root": str(tmp_path), "protocol": protocol}
        write_json({"run": "own", "sets": {"set": entry}}, folder / "summary.json")
        assert refusal(replace(config, runs=[str(folder)])).startswith(expected)


def test_damaged_runs_are_named(tmp_path: Path, config: CompareConfig):
    evaluation = tmp_path / "random" / "evaluation"
    (evaluation / "balanced" / "pairs.parquet").write_bytes(b"PAR1 and no more")
    assert "pairs.parquet must be a Parquet file" in refusal(config)
    write_run(tmp_path / "random", "random", {"balanced": [{"image_id": "a"}]})
    assert "need column `caption_id`" in refusal(config)
    for column in ("caption", "positive_logit"):
        nested = [{**row, column: [{"a": 1}]} for row in pair_rows()]
        write_run(tmp_path / "random", "random", {"balanced": nested})
        assert "pairs need texts and numbers" in refusal(config)
    write_run(tmp_path / "random", "random", {"balanced": [{**row, "negative_logit": math.nan} for row in pair_rows()]})
    assert "need finite logits, `negative_logit` has others" in refusal(config)
    (evaluation / "summary.json").write_text("{}")
    assert "summary.json must be what `itm evaluate` writes" in refusal(config)


def test_an_existing_report_needs_a_flag_and_runs_are_never_overwritten(tmp_path: Path, config: CompareConfig):
    compare(config)
    folder = Path(config.output_dir)
    (folder / "mine.txt").write_text("kept")
    assert "--resume" in refusal(config)
    compare(config, resume=True)
    assert (folder / "mine.txt").read_text() == "kept"
    assert "needs a folder of `itm compare`" in refusal(replace(config, output_dir=str(tmp_path)), overwrite=True)
    assert "needs a folder of `itm compare`" in refusal(replace(config, output_dir=config.runs[0]), overwrite=True)
    assert not list(tmp_path.glob(".*"))


def test_an_interrupted_comparison_leaves_the_older_report(config: CompareConfig, monkeypatch: pytest.MonkeyPatch):
    compare(config)
    older = page_of(config)

    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.verbs.compare.render_page", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compare(replace(config, title="newer"), overwrite=True)
    assert page_of(config) == older
    assert not list(Path(config.output_dir).parent.glob(".*"))


def test_comparison_reaches_wandb_offline(config: CompareConfig):
    config = replace(config, logging=LoggingConfig(wandb="offline", group="arms"))
    compare(config)
    (recorded,) = Path(config.output_dir).glob("wandb/offline-run-*")
    (table,) = (recorded / "files" / "media" / "table" / "compare" / "comparison").glob("table_*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"][:5] == ["run", "set", "metric", "group", "value"]
    assert len(content["data"]) == 3 * 2 * 4
    logged = read_wandb(Path(config.output_dir))
    assert (logged.group, logged.job_type) == ("arms", "compare")
    about = {"run": "filtered", "metric": "accuracy", "group": "swap_att"}
    accuracy = only(rows_of(config, "comparison.csv"), **about)["value"]
    assert logged.values["compare/balanced/filtered.swap_att_accuracy"] == pytest.approx(float(accuracy))
    assert logged.values["compare/comparison/table/path"].endswith(table.name)
    compare(config, overwrite=True)
    assert read_wandb(Path(config.output_dir)).run_id == logged.run_id, "made anew it is the same comparison"


def test_an_evaluation_with_another_score_is_compared_beside_the_run(tmp_path: Path, config: CompareConfig) -> None:
    run = Path(config.runs[0])
    other = run / "evaluation_itc"
    shutil.copytree(run / "evaluation", other)
    compared = replace(config, runs=[str(run), str(other)])
    compare(compared)
    rows = rows_of(compared, "comparison.csv")
    assert {row["run"] for row in rows} == {"unfiltered", "unfiltered (evaluation_itc)"}
    assert len({row["value"] for row in rows if (row["metric"], row["group"]) == ("accuracy", "mean")}) == 1
