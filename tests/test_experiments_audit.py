"""`itm audit` from its command to `audit.json` and the page, on tiny tables and benchmark folders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.benchmarks import BENCHMARKS
from experiments.__main__ import main
from experiments.config.filter_schemas import AuditConfig
from experiments.config.load import load_config
from experiments.report.audits import read_audits
from experiments.verbs.audit import read_audited
from negatives.filtering.audit import Audit
from negatives.filtering.harmonise import harmonise_table
from negatives.judging.text_pairs import build_text_pairs
from negatives.tables.captions import InputError, pair_table, strings, text_table, write_table
from negatives.tables.verdicts import VERDICT_SCHEMA
from tests.test_negatives_audit import Row, planted, tables
from tests.wandb_log import read_wandb

HOSTILE = "<script>alert('$x$')</script>"
QUICK = ("judge.judges=[word,surface]", "bootstrap=20", "top=5", "judge.workers=1")
QUIET = (*QUICK, "logging.wandb=disabled")


def write(folder: Path, rows: list[Row]) -> tuple[list[str], pa.Table, pa.Table]:
    """The arguments that name the tables, and the tables."""
    captions, negatives = tables(rows)
    for name in ("generator", "model", "prompt_version"):
        negatives = negatives.append_column(name, pa.array(["test"] * len(negatives)))
    write_table(captions, folder / "captions.parquet")
    write_table(negatives, folder / "negatives.parquet")
    return [f"captions={folder}/captions.parquet", f"negatives={folder}/negatives.parquet"], captions, negatives


def write_verdicts(folder: Path, texts: pa.Table, keep: list[bool], harmonised: bool = False) -> str:
    values = {"fold": 0, "oof_score": 0.5, "keep_probability": 0.5}
    columns = {name: [value] * len(texts) for name, value in values.items()}
    table = pa.table(
        {"text_id": texts["text_id"], "label": texts["label"], **columns, "keep": keep}, schema=VERDICT_SCHEMA
    )
    mark = {b"harmonised": b"true" if harmonised else b"false"}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(mark), folder / "verdicts.parquet")
    return f"verdicts={folder}/verdicts.parquet"


def write_pair_verdicts(folder: Path, pairs: pa.Table, keep: list[bool]) -> None:
    values = {"fold": 0, "oof_score": 0.5, "keep_probability": 0.5}
    table = pa.table(
        {
            "caption_id": pairs["caption_id"],
            "negative_id": pairs["negative_id"],
            **{name: pa.array([value] * len(pairs)) for name, value in values.items()},
            "keep": keep,
        }
    )
    pq.write_table(table.replace_schema_metadata({b"harmonised": b"false"}), folder / "pair_verdicts.parquet")


def audit(folder: Path, *words: str, quick: tuple[str, ...] = QUIET) -> dict[str, Any]:
    """The content of `audit.json` of a run that has to succeed."""
    assert main(["audit", *words, f"output_dir={folder}", *quick]) == 0
    content: dict[str, Any] = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    return content


def value(part: dict[str, Any], metric: str, negative_type: str = "all") -> float:
    (found,) = [
        float(entry["value"])
        for entry in part["estimates"]
        if (entry["estimand"], entry["judge"], entry["negative_type"]) == (metric, part["judge"], negative_type)
    ]
    return found


def test_audit_shows_what_a_filter_kept_beside_everything(tmp_path: Path) -> None:
    words, captions, negatives = write(tmp_path, planted())
    texts = text_table(captions, negatives)
    keep = ["without" not in caption for caption in strings(texts, "caption")]
    content = audit(tmp_path / "audit", *words, write_verdicts(tmp_path, texts, keep))
    before, after = content["parts"]
    assert (before["name"], after["name"], content["harmonised"]) == ("all", "kept", False)
    for metric in ("auc", "paired_accuracy"):
        assert value(before, metric) > value(after, metric) + 0.1
    assert "without" in {item["ngram"] for item in before["ngrams"]["negative"]}
    assert "without" not in {item["ngram"] for item in after["ngrams"]["negative"]}
    assert set(before) == {"name", *Audit.__dataclass_fields__} - {"giveaways"} | {"cues"}
    page = (tmp_path / "audit" / "index.html").read_text(encoding="utf-8")
    assert "Hollow: all texts. Filled: those that were kept." in page
    for text in ("AUC of single texts", "accuracy on pairs", "swap_obj", "without", "full stop last", "Duplicates"):
        assert text in page
    (labelled,) = read_audits({"after": str(tmp_path / "audit" / "audit.json")})
    assert labelled.auc.value == value(after, "auc")
    assert labelled.paired is not None
    assert labelled.paired.value == value(after, "paired_accuracy")
    assert [row["negative_type"] for row in labelled.rows()] == ["all", "swap_obj"]
    assert labelled.rows()[1]["pairs"] == after["pairs"]


def test_pairs_go_by_their_own_verdicts_where_there_are_some(tmp_path: Path) -> None:
    words, captions, negatives = write(tmp_path, planted())
    texts, pairs = text_table(captions, negatives), pair_table(captions, negatives)
    verdicts = write_verdicts(tmp_path, texts, [True] * len(texts))
    write_pair_verdicts(tmp_path, pairs, [kind == "swap_obj" for kind in strings(pairs, "negative_type")])
    before, after = audit(tmp_path / "audit", *words, verdicts)["parts"]
    assert (after["positives"], after["negatives"]) == (before["positives"], before["negatives"])
    assert after["pairs"] < before["pairs"]
    assert value(before, "paired_accuracy", "replace_rel") == 1.0
    measured = {e["negative_type"]: e["count"] for e in after["estimates"] if e["estimand"] == "paired_accuracy"}
    assert measured["replace_rel"] == 0


def test_negatives_are_harmonised_as_the_filter_did_or_as_asked(tmp_path: Path) -> None:
    rows = [(image, caption, f"{negative.capitalize()}.", kind) for image, caption, negative, kind in planted()]
    words, captions, negatives = write(tmp_path, rows)
    texts = text_table(captions, negatives)
    verdicts = write_verdicts(tmp_path / "filter", texts, [True] * len(texts), harmonised=True)
    for more, harmonised in (
        ([], False),
        (["harmonise=true"], True),
        ([verdicts], True),
        ([verdicts, "harmonise=false"], False),
    ):
        read = read_audited(load_config(AuditConfig, None, [*words, *more, f"output_dir={tmp_path}/audit"]))
        assert read.harmonised == harmonised
        assert read.negatives.equals(harmonise_table(captions, negatives) if harmonised else negatives)
    content = audit(tmp_path / "audit", *words, verdicts, "judge.folds=3")
    full_stops = [
        row["negatives"] for part in content["parts"] for row in part["cues"] if row["cue"] == "full stop last"
    ]
    assert (content["harmonised"], full_stops) == (True, [0.0, 0.0])


def write_paraphrased(folder: Path) -> tuple[list[str], pa.Table, pa.Table]:
    """As `write`, with a paraphrase of every caption."""
    words, captions, negatives = write(folder, planted())
    paraphrases = pa.table(
        {
            **{name: captions[name] for name in ("image_id", "image")},
            "caption_id": pa.array([f"p{name}" for name in strings(captions, "caption_id")]),
            "caption": pa.array([f"one can see {caption}" for caption in strings(captions, "caption")]),
            "source_caption_id": captions["caption_id"],
        }
    )
    write_table(paraphrases, folder / "paraphrases.parquet")
    return [*words, f"paraphrases={folder}/paraphrases.parquet"], captions, negatives


def test_paraphrases_are_positives_with_pairs_of_their_own(tmp_path: Path) -> None:
    words, captions, negatives = write_paraphrased(tmp_path)
    text_pairs = build_text_pairs(text_table(captions, negatives), pair_table(captions, negatives))
    (part,) = audit(tmp_path / "audit", *words)["parts"]
    assert part["positives"] == 2 * (text_pairs.labels == 1).sum()
    assert part["pairs"] == 2 * len(text_pairs.pairs)


def test_tables_are_read_with_paraphrases_whatever_their_row_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, captions = write_paraphrased(tmp_path)[:2]
    monkeypatch.setitem(BENCHMARKS, "own", BENCHMARKS["tables"])
    read = read_audited(load_config(AuditConfig, None, [*words, "format=own", f"output_dir={tmp_path}/audit"]))
    assert len(read.captions) == 2 * len(captions)


def test_markup_in_captions_types_and_paths_is_shown_not_run(tmp_path: Path) -> None:
    rows = [(image, f"{HOSTILE} {a}", f"{HOSTILE} not {b}", kind) for image, a, b, kind in planted(images=12)]
    items = {
        str(number): {
            "image_file": f"{image}.jpg",
            "caption": caption,
            "foil": negative,
            "mturk": {"caption": 3, "foil": 0, "other": 0},
        }
        for number, (image, caption, negative, _) in enumerate(rows)
    }
    folder = tmp_path / "{{ 7 * 7 }} <script>"
    folder.mkdir()
    (folder / "<script>alert(1)<|script>.json").write_text(json.dumps(items), encoding="utf-8")
    audit(tmp_path / "audit", "format=valse", f"annotations={json.dumps(str(folder))}")
    page = (tmp_path / "audit" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;$x$&#39;)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }} &lt;script&gt;" in page
    assert "default-src 'none'" in page
    assert not re.findall(r"@import|<link|<iframe|<object|<img", page)
    assert not {url for url in re.findall(r"""https?://[^"'<> ]+""", page) if "www.w3.org" not in url}


def test_a_sugarcrepe_folder_is_audited_without_photos(tmp_path: Path) -> None:
    folder = tmp_path / "sugarcrepe"
    folder.mkdir()
    for name in ("swap_obj", "replace_rel"):
        items = {
            str(number): {"filename": f"{int(image.split()[1]):012}.jpg", "caption": caption, "negative_caption": text}
            for number, (image, caption, text, kind) in enumerate(planted())
            if kind == name
        }
        (folder / f"{name}.json").write_text(json.dumps(items), encoding="utf-8")
    content = audit(tmp_path / "audit", "format=sugarcrepe", f"annotations={folder}")
    (part,) = content["parts"]
    assert part["name"] == "all"
    assert value(part, "paired_accuracy", "replace_rel") == 1.0
    assert value(part, "auc", "replace_rel") > 0.9


def test_a_valse_folder_is_audited_piece_by_piece(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "valse"
    folder.mkdir()
    for piece, kind in (("existence", "replace_rel"), ("actant-swap", "swap_obj")):
        items = {
            f"{piece}:{number}": {
                "image_file": f"{image}.jpg",
                "caption": caption,
                "foil": text,
                "mturk": {"caption": 1 if number == 0 else 3, "foil": 0, "other": 0},
            }
            for number, (image, caption, text, _) in enumerate(row for row in planted() if row[3] == kind)
        }
        (folder / f"{piece}.json").write_text(json.dumps(items), encoding="utf-8")
    content = audit(tmp_path / "audit", "format=valse", f"annotations={folder}")
    assert content["left_out"] == 2
    (part,) = content["parts"]
    assert value(part, "paired_accuracy", "existence") == 1.0
    assert value(part, "paired_accuracy", "actant-swap") < 0.8
    printed = capsys.readouterr().out
    assert "actant-swap" in printed
    assert printed.splitlines()[-1] == f"Audit: {tmp_path}/audit/index.html"
    assert "2 items that their annotators did" in (tmp_path / "audit" / "index.html").read_text(encoding="utf-8")


def test_one_judge_alone_is_the_headline(tmp_path: Path) -> None:
    words, _, _ = write(tmp_path, planted())
    (part,) = audit(tmp_path / "audit", *words, quick=(*QUIET, "judge.judges=[surface]"))["parts"]
    assert (part["judge"], part["judges"]) == ("surface", ["surface"])
    assert value(part, "auc") > 0.5


def test_bad_input_is_counted_in_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, captions, negatives = write(tmp_path, planted(images=12))
    texts = text_table(captions, negatives)
    nothing = write_verdicts(tmp_path / "nothing", texts, [label == 1 for label in texts["label"].to_pylist()])
    others = write_verdicts(tmp_path / "others", texts.slice(1), [True] * (len(texts) - 1))
    (tmp_path / "empty").mkdir()
    for more, expected in (
        ([*words, nothing], "both classes, got"),
        ([*words, others], "have no verdict"),
        (["format=valse", f"annotations={tmp_path}/empty"], "holds no VALSE file"),
        (["format=sugarcrepe", f"annotations={tmp_path}/empty"], "holds no SugarCrepe file"),
        (["format=valse"], "annotations"),
    ):
        assert main(["audit", *more, f"output_dir={tmp_path}/audit", *QUIET]) == 2
        assert expected in capsys.readouterr().err
        assert not (tmp_path / "audit").exists()


@pytest.mark.parametrize("damage", ["parts", "estimates", "ngrams", "judge"])
def test_a_damaged_audit_is_named_by_the_comparison(tmp_path: Path, damage: str) -> None:
    words, _, _ = write(tmp_path, planted(images=12))
    content = audit(tmp_path / "audit", *words, quick=(*QUIET, "judge.judges=[surface]"))
    if damage == "parts":
        content["parts"] = []
    else:
        content["parts"][0][damage] = "nobody"
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"audits\.before must be an audit\.json of `itm audit`"):
        read_audits({"before": str(path)})


def test_audit_reaches_wandb_offline(tmp_path: Path) -> None:
    words, captions, negatives = write(tmp_path, planted())
    texts = text_table(captions, negatives)
    keep = ["without" not in caption for caption in strings(texts, "caption")]
    folder = tmp_path / "audit"
    words.append(write_verdicts(tmp_path, texts, keep))
    last = audit(folder, *words, quick=(*QUICK, "logging.wandb=offline"))["parts"][-1]
    logged = read_wandb(folder)
    assert logged.job_type == "audit"
    for metric in ("auc", "paired_accuracy"):
        assert logged.values[f"audit/all/{metric}"] == pytest.approx(value(last, metric))
        assert logged.values[f"audit/swap_obj/{metric}"] == pytest.approx(value(last, metric, "swap_obj"))
    for name, column in (("estimates", "estimand"), ("ngrams", "ngram"), ("cues", "cue"), ("given_away", "caption")):
        (table,) = folder.glob(f"wandb/offline-run-*/files/media/table/audit/{name}_*.table.json")
        content = json.loads(table.read_text(encoding="utf-8"))
        assert column in content["columns"]
        assert {row[0] for row in content["data"]} == {"all", "kept"}


@pytest.mark.parametrize("name", ["sugarcrepe", "valse"])
def test_published_benchmarks_give_themselves_away(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared / "data" / name / ("data" if name == "sugarcrepe" else "")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: put the official files into it")
    quick = ("judge.judges=[word]", "judge.word_ngrams=1", "judge.folds=3", "bootstrap=20", "logging.wandb=disabled")
    (part,) = audit(tmp_path / "audit", f"format={name}", f"annotations={folder}", quick=quick)["parts"]
    assert value(part, "paired_accuracy") > 0.6
    assert value(part, "auc") > 0.58
