"""`itm filter` from its command to verdicts and certificate: what is written, exit codes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.__main__ import main
from experiments.verbs.filter import _worst
from negatives.filtering.filter import filter_texts
from negatives.filtering.harmonise import harmonise_table
from negatives.filtering.lessons import Lesson
from negatives.filtering.plan import FilterPlan
from negatives.filtering.teaching import Learner
from negatives.judging.bias_metrics import paired_wins, probe
from negatives.judging.linear import LinearJudge, word_judge
from negatives.judging.panel import seat
from negatives.judging.text_pairs import build_text_pairs
from negatives.tables.captions import pair_table, strings, text_table, with_paraphrases, write_table
from negatives.tables.randomness import hash_of
from negatives.tables.verdicts import is_harmonised, read_pair_verdicts, read_verdicts
from tests.test_negatives_causal_lm import save_lm
from tests.test_negatives_text_pairs import Row, tables, with_giveaway
from tests.test_negatives_transformer import save_checkpoint

QUIET = ("judge.judges=[word]", "judge.word_ngrams=1", "judge.folds=3", "judge.workers=1", "logging.wandb=disabled")
PROBES = ("certificate.probes=[word,bayes]", "certificate.folds=3", "certificate.seeds=1", "certificate.bootstrap=20")
QUICK = (*QUIET, *PROBES)
LOOSE = tuple(f"certificate.{name}=0.5" for name in ("tolerance", "type_tolerance", "third_tolerance"))
"""Nothing is missed: every interval lies within 0.5 +- 0.5."""
FILES = {"lineage.json", "verdicts.parquet", "certificate.json", "index.html", "config.yaml", "provenance.json"}
SOME = with_giveaway(9, 0.2, 0.5)
every_unit = pytest.mark.parametrize("unit", ["text", "pair", "both"])


def write(folder: Path, rows: Sequence[Row]) -> tuple[list[str], pa.Table, pa.Table]:
    """The arguments that name the tables, and the tables."""
    captions, negatives = tables(rows)
    for name in ("generator", "model", "prompt_version"):
        negatives = negatives.append_column(name, pa.array(["test"] * len(negatives)))
    write_table(captions, folder / "captions.parquet")
    write_table(negatives, folder / "negatives.parquet")
    return [f"captions={folder}/captions.parquet", f"negatives={folder}/negatives.parquet"], captions, negatives


def run(folder: Path, *words: str, quick: tuple[str, ...] = QUICK) -> int:
    return main(["filter", *words, f"output_dir={folder}", *quick])


def kept(table: pa.Table) -> np.ndarray:
    keep: np.ndarray = np.array(table["keep"].to_pylist())
    return keep


UNITS_AND_RULES = [
    (unit, rule)
    for unit in ("text", "pair", "both")
    for rule in ("margins", "overlap", "top_fraction", "aflite")
    if (unit, rule) != ("both", "aflite")
]
GIVEN = {"margins": ["strength=0.3"], "overlap": ["constant=0.9"]}
"""Rule -> what it would search otherwise."""


@pytest.mark.parametrize(("unit", "rule"), UNITS_AND_RULES)
def test_what_is_written_is_read_and_says_how_it_came_to_be(tmp_path: Path, unit: str, rule: str) -> None:
    words, captions, negatives = write(tmp_path, with_giveaway(40, 0.2, 0.5))
    code = run(
        tmp_path / "out", *words, f"unit={unit}", f"rule={rule}", "top_fraction=0.1", *LOOSE, *GIVEN.get(rule, []),
    )  # fmt: skip
    assert code == 0
    texts, pairs = text_table(captions, negatives), pair_table(captions, negatives)
    verdicts = read_verdicts(tmp_path / "out" / "verdicts.parquet", texts)
    assert 0.2 < kept(verdicts).mean() < 1
    metadata = pq.read_schema(tmp_path / "out" / "verdicts.parquet").metadata
    wanted = {b"harmonised": b"true", b"unit": unit.encode(), b"rule": rule.encode()}
    assert {name: metadata[name] for name in wanted} == wanted
    assert is_harmonised(tmp_path / "out" / "verdicts.parquet") is True
    certificate = json.loads((tmp_path / "out" / "certificate.json").read_text(encoding="utf-8"))
    assert (certificate["unit"], certificate["balanced"]) == (unit, True)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    if unit == "text":
        assert files == FILES
        return
    assert files == FILES | {"pair_verdicts.parquet"}
    judged = read_pair_verdicts(tmp_path / "out" / "pair_verdicts.parquet", pairs)
    assert is_harmonised(tmp_path / "out" / "pair_verdicts.parquet") is True
    assert certificate["retention"]["pairs"]["kept"] == kept(judged).sum()  # no pair is there twice
    names = zip(strings(pairs, "caption_id"), strings(pairs, "negative_id"), strict=True)
    alive = {
        name for ends, keep in zip(names, kept(judged), strict=True) if keep
        for name in (f"caption:{ends[0]}", f"negative:{ends[1]}")
    }  # fmt: skip
    assert alive <= {name for name, keep in zip(strings(verdicts, "text_id"), kept(verdicts), strict=True) if keep}


def test_the_verdicts_are_those_of_the_filter(tmp_path: Path) -> None:
    words, captions, negatives = write(tmp_path, with_giveaway(40, 0.2, 0.5))
    assert run(tmp_path / "out", *words, "unit=pair", "rule=overlap", "constant=1.2", "certify=false", "seed=3") == 0
    pairs = pair_table(captions, negatives)
    judged = read_pair_verdicts(tmp_path / "out" / "pair_verdicts.parquet", pairs)
    text_pairs = build_text_pairs(text_table(captions, harmonise_table(captions, negatives)), pairs)
    found = filter_texts(
        seat([word_judge(1)], text_pairs, folds=3), FilterPlan(unit="pair", rule="overlap", constant=1.2, seed=3)
    )
    assert judged["oof_score"].to_pylist() == found.pair_score[text_pairs.pair_of].tolist()
    assert judged["fold"].to_pylist() == found.pair_fold[text_pairs.pair_of].tolist()
    assert judged["keep"].to_pylist() == found.pair_keep[text_pairs.pair_of].tolist()


@pytest.mark.parametrize("rule", [["rule=overlap", "constant=1000"], ["rule=margins"]], ids=["overlap", "margins"])
def test_without_a_certificate_nothing_is_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rule: list[str]
) -> None:
    words, *_ = write(tmp_path, with_giveaway(40, 0.0, 0.9))
    words += [*rule, "certify=false"]
    assert run(tmp_path / "out", *words) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES - {"certificate.json"}
    assert "Not certified" in capsys.readouterr().out
    assert run(tmp_path / "out", *words, "--resume") == 0


def test_a_giveaway_that_is_left_is_exit_code_one_and_resume_says_so_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, *_ = write(tmp_path, with_giveaway(60, 0.1, 0.9))
    assert run(tmp_path / "out", *words, "rule=overlap", "constant=1000") == 1
    printed = capsys.readouterr().out
    assert "Not balanced: all: what is kept teaches the word learner of texts 0." in printed
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    certificate = json.loads((tmp_path / "out" / "certificate.json").read_text(encoding="utf-8"))
    assert certificate["balanced"] is False
    assert certificate["misses"][0] in printed
    assert run(tmp_path / "out", *words, "rule=overlap", "constant=1000", "--resume") == 1
    assert "Not balanced: see" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert run(tmp_path / "out", *words, "rule=overlap", "constant=1000") == 2
    assert "--resume" in capsys.readouterr().err


def test_a_balanced_set_is_exit_code_zero_and_so_is_its_resumption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, *_ = write(tmp_path, with_giveaway(300, 0.2, 0.6))
    tolerances = {"tolerance": 0.1, "type_tolerance": 0.15, "third_tolerance": 0.3}
    words += ["unit=pair", "rule=margins", *(f"certificate.{name}={value}" for name, value in tolerances.items())]
    assert run(tmp_path / "out", *words) == 0
    printed = capsys.readouterr().out
    assert "Balanced: what is kept teaches no blind learner." in printed
    certificate = json.loads((tmp_path / "out" / "certificate.json").read_text(encoding="utf-8"))
    shares = {name: part["kept"] / part["of"] for name, part in certificate["retention"].items()}
    assert 0.4 < shares["pairs"] < 0.9
    assert set(certificate["strengths"]) == {"replace_rel", "swap_obj"}
    for name, dropped in certificate["strengths"].items():
        assert shares[name] == pytest.approx(1 - dropped, abs=0.01)
        assert f"{name} {dropped:.0%} dropped" in printed
    metadata = pq.read_schema(tmp_path / "out" / "verdicts.parquet").metadata
    assert json.loads(metadata[b"strengths"]) == certificate["strengths"]
    for one in certificate["teaching"]:
        if one["group"] == "all":
            assert one["control"] > 0.6 < one["everything"]
            assert f"{one['value']:.3f}" in printed
    assert run(tmp_path / "out", *words, "--resume") == 0


def test_what_cannot_be_certified_is_exit_code_one_with_its_reason_and_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, captions, negatives = write(tmp_path, with_giveaway(20, 0.2, 0.5))
    words += ["strength=0.3"]
    assert run(tmp_path / "out", *words) == 1
    printed = capsys.readouterr().out
    assert "Not balanced: Nothing is certified. Photos are split three ways before anything is judged" in printed
    assert "learner" not in printed, "no table of nothing"
    assert 0 < kept(read_verdicts(tmp_path / "out/verdicts.parquet", text_table(captions, negatives))).mean() < 1
    certificate = json.loads((tmp_path / "out" / "certificate.json").read_text(encoding="utf-8"))
    assert (certificate["balanced"], certificate["teaching"], certificate["leaking"]) == (False, [], [])
    assert run(tmp_path / "out", *words, "--resume") == 1


def test_probes_from_inside_are_written_where_they_are_asked_for_and_decide_nothing(tmp_path: Path) -> None:
    words, *_ = write(tmp_path, with_giveaway(40, 0.1, 0.9))
    words += ["rule=overlap", "constant=1000", "certificate.tolerance=0.001"]
    content = {}
    for inside in ("false", "true"):
        assert run(tmp_path / inside, *words, f"certificate.inside={inside}") == 1
        content[inside] = json.loads((tmp_path / inside / "certificate.json").read_text(encoding="utf-8"))
    assert "inside" not in content["false"]
    found = content["true"].pop("inside")
    assert content["true"] == content["false"]
    assert found["misses"]
    assert {one["judge"] for one in found["estimates"]} == {"word", "bayes", "stacked"}


@pytest.mark.parametrize(("balanced", "code"), [(True, 0), (False, 1)])
def test_a_folder_with_a_certificate_of_the_first_version_is_finished_and_says_what_it_said(
    tmp_path: Path, balanced: bool, code: int
) -> None:
    words, *_ = write(tmp_path, with_giveaway(20, 0.2, 0.5))
    assert run(tmp_path / "out", *words, "strength=0.3") == 1
    estimate = {"estimand": "auc", "judge": "word", "negative_type": "all", "value": 0.51, "low": 0.5, "high": 0.52}
    old = {
        **{"rule": "overlap", "constant": 1.3, "unit": "text", "balanced": balanced, "misses": [], "known": {}},
        **{"estimates": [estimate], "control": [estimate], "retention": {"pairs": {"kept": 1, "of": 2}}},
    }
    (tmp_path / "out" / "certificate.json").write_text(json.dumps(old), encoding="utf-8")
    assert run(tmp_path / "out", *words, "strength=0.3", "--resume") == code


def test_the_table_has_each_learner_over_all_and_of_each_group_the_one_furthest_from_a_coin() -> None:
    def lesson(judge: str, group: str, value: float) -> Lesson:
        return Lesson(Learner(judge, "pair"), group, value, value, value, value, value, 9)

    found = [
        *(lesson("word", "all", 0.5), lesson("word", "swap_obj", 0.6), lesson("word", "weak third", 0.45)),
        *(lesson("bayes", "all", 0.52), lesson("bayes", "swap_obj", 0.3), lesson("bayes", "weak third", 0.52)),
    ]
    assert [(one.learner.judge, one.group) for one in _worst(found)] == [
        *(("word", "all"), ("bayes", "all"), ("bayes", "swap_obj"), ("word", "weak third"))
    ]


def test_published_models_judge_and_probe_and_one_that_cannot_be_loaded_is_refused_before_the_first_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, *_ = write(tmp_path, with_giveaway(40, 0.2, 0.5))
    models = [f"judge.encoder.checkpoint={save_checkpoint(tmp_path / 'encoder')}", "judge.encoder.device=cpu"]
    models += [f"judge.lm.checkpoint={save_lm(tmp_path / 'lm')}", "judge.lm.device=cpu", "judge.judges=[encoder]"]
    quick = (
        *QUICK,
        *models,
        "certificate.probes=[encoder,lm]",
        *LOOSE,
        "unit=both",
        "rule=overlap",
        "constant=1.2",
    )
    assert run(tmp_path / "out", *words, quick=quick) == 0
    certificate = json.loads((tmp_path / "out" / "certificate.json").read_text(encoding="utf-8"))
    measured = {(one["judge"], one["reads"]) for one in certificate["teaching"]}
    assert measured == {(name, reads) for name in ("encoder", "lm") for reads in ("text", "pair")}
    (tmp_path / "lm" / "config.json").write_text("{", encoding="utf-8")
    monkeypatch.setattr(LinearJudge, "fit", None)
    monkeypatch.setattr(LinearJudge, "fit_pairs", None)
    assert run(tmp_path / "other", *words, quick=quick) == 2
    assert "`judge.lm.checkpoint` must be a causal language model" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("harmonise", [True, False])
def test_style_is_judged_only_where_negatives_are_not_harmonised(tmp_path: Path, harmonise: bool) -> None:
    """Four negatives of five end in a full stop: harmonised, they do not, and nothing is left to tell."""
    rows = [
        (image, a, b + "." * (row % 5 > 0), kind) for row, (image, a, b, kind) in enumerate(with_giveaway(60, 0.3, 0.3))
    ]
    words, captions, negatives = write(tmp_path, rows)
    quick = (*QUICK, "judge.judges=[surface]")
    words += [f"harmonise={str(harmonise).lower()}", "rule=overlap", "constant=1", "certify=false"]
    assert run(tmp_path / "out", *words, quick=quick) == 0
    assert is_harmonised(tmp_path / "out" / "verdicts.parquet") is harmonise
    verdicts = read_verdicts(tmp_path / "out" / "verdicts.parquet", text_table(captions, negatives))
    share = float(np.mean(verdicts["keep_probability"].to_pylist()))
    assert share > 0.8 if harmonise else share < 0.4


@every_unit
def test_a_strength_drops_the_same_share_of_each_type_and_a_constant_does_not(tmp_path: Path, unit: str) -> None:
    rows = [
        (image, positive, negative + " indeed" * (kind == "swap_obj" and number % 4 < 3), kind)
        for number, (image, positive, negative, kind) in enumerate(with_giveaway(200, 0.1, 0.1))
    ]
    words, captions, negatives = write(tmp_path, rows)
    wanted = text_table(captions, negatives) if unit == "text" else pair_table(captions, negatives)
    kinds = np.array(strings(wanted, "negative_type"))
    differences = {}
    for given in ("strength=0.4", "constant=1"):
        out = tmp_path / given
        assert run(out, *words, f"unit={unit}", "rule=overlap", given, "certify=false") == 0
        if unit == "text":
            table = read_verdicts(out / "verdicts.parquet", wanted)
        else:
            table = read_pair_verdicts(out / "pair_verdicts.parquet", wanted)
        chance = np.array(table["keep_probability"].to_pylist())
        differences[given] = chance[kinds == "replace_rel"].mean() - chance[kinds == "swap_obj"].mean()
    assert abs(differences["strength=0.4"]) < 0.03
    assert differences["constant=1"] > 0.2


def test_hard_positives_join_the_positives_and_their_pairs(tmp_path: Path) -> None:
    words, captions, negatives = write(tmp_path, with_giveaway(40, 0.2, 0.5))
    ids, images = strings(captions, "caption_id"), strings(captions, "image_id")
    half = range(0, len(ids), 2)
    paraphrases = pa.table(
        {
            "image_id": [images[row] for row in half],
            "image": [images[row] for row in half],
            "caption_id": [f"{ids[row]} again" for row in half],
            "caption": [f"near something, {row}" for row in half],
            "source_caption_id": [ids[row] for row in half],
        }
    )
    write_table(paraphrases, tmp_path / "paraphrases.parquet")
    more = (*words, f"paraphrases={tmp_path}/paraphrases.parquet")
    assert run(tmp_path / "out", *more, "unit=pair", "rule=overlap", "constant=1.2", "certify=false") == 0
    joined = with_paraphrases(captions, tmp_path / "paraphrases.parquet")
    pairs = pair_table(joined, negatives)
    assert len(pairs) == len(negatives) + len(half)
    judged = read_pair_verdicts(tmp_path / "out" / "pair_verdicts.parquet", pairs)
    found = set(zip(strings(judged, "caption_id"), strings(judged, "negative_id"), strict=True))
    assert found >= {(f"{name} again", name) for name in ids[::2]} | {(name, name) for name in ids}
    verdicts = read_verdicts(tmp_path / "out" / "verdicts.parquet", text_table(joined, negatives))
    assert sum(verdicts["label"].to_pylist()) == len(captions) + len(half)


@pytest.mark.parametrize(
    ("rows", "words", "expected"),
    [
        (SOME, [], "takes 30 photos with pairs or more, got 9. Give more; fewer can be filtered by a given `strength`"),
        (
            [("1", "a dog", "a cat", "swap_obj"), ("1", "a bus", "a bed", "swap_obj")],
            ["strength=0.2"],
            "got 1 images for 3 folds",
        ),
        (
            [("1", "a dog", "a cat", "swap_obj"), ("2", "a bus", "a bed", "swap_obj")],
            ["strength=0.2"],
            "got 2 images for 3 folds",
        ),
        ([(str(image), "a dog", "a dog", "swap_obj") for image in range(30)], [], "got 20 times 'a dog'"),
        ([(str(image), "a dog", "a dog", "swap_obj") for image in range(30)], ["unit=pair"], "texts that differ"),
        (SOME, ["rule=overlap", "constant=1e-300"], "Nothing would be kept"),
        (SOME, ["rule=overlap", "constant=-1"], "`constant` must be"),
        (SOME, ["judge.folds=1"], "`judge.folds` must be"),
        (SOME, ["judge.judges=[]"], "`judge.judges` must list"),
        (SOME, ["certificate.probes=[oracle]"], "`certificate.probes` must list"),
        (SOME, ["unit=image"], "`unit` must be"),
        (SOME, ["unit=both", "rule=aflite"], "`unit` must be text or pair where `rule` is aflite"),
        (SOME, ["certificate.probes=[word]"], "must hold a judge that is not among `judge.judges`"),
    ],
    ids=["too few photos", "one image", "fewer images than folds", "all texts equal", "all pairs equal", "nothing kept",
         "constant", "folds", "no judge", "unknown probe", "unknown unit", "aflite of both", "no fresh family"],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Row], words: list[str], expected: str
) -> None:
    named, *_ = write(tmp_path, rows)
    assert main(["filter", *named, f"output_dir={tmp_path}/out", *QUICK, *words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("itm: error:")]
    assert len(errors) == 1
    assert expected in errors[0]
    assert not (tmp_path / "out").exists()


def test_strange_captions_go_through(tmp_path: Path) -> None:
    strange = [".", "🐶", "一只狗坐在床上", "كلب يجلس على السرير", "a dog " * 1667, "a\u2028b", "'\"<b>"]
    rows: list[Row] = [
        *with_giveaway(30, 0.2, 0.5),
        *((f"s{i}", text, f"{text} not", "swap_obj") for i, text in enumerate(strange)),
    ]
    words, captions, negatives = write(tmp_path, rows)
    for unit in ("text", "both"):
        assert run(tmp_path / unit, *words, f"unit={unit}", "rule=overlap", "constant=2", *LOOSE) == 0
        verdicts = read_verdicts(tmp_path / unit / "verdicts.parquet", text_table(captions, negatives))
        assert np.isfinite(verdicts["oof_score"].to_pylist()).all()


def test_a_seed_decides_the_certificate(tmp_path: Path) -> None:
    words, *_ = write(tmp_path, with_giveaway(40, 0.2, 0.5))
    content: dict[str, Any] = {}
    for seed in (0, 0, 1):
        out = tmp_path / f"{seed} {len(content)}"
        run(out, *words, "rule=overlap", "constant=1.2", f"seed={seed}")
        content[out.name] = (out / "certificate.json").read_text(encoding="utf-8")
    first, again, other = content.values()
    assert first == again
    assert first != other


@pytest.fixture(scope="module")
def real_pairs(shared: Path) -> tuple[pa.Table, pa.Table]:
    """800 pairs that a language model wrote for COCO captions, harmonised."""
    path = shared / "data" / "llm_negatives" / "pairs.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["type"] in ("replace_rel", "swap_obj")]
    rows = sorted(rows, key=lambda row: hash_of("smoke", json.dumps(row, sort_keys=True)))[:800]
    captions, negatives = tables(
        [(str(row["coco_id"]), row["caption"], row["negative_caption"], row["type"]) for row in rows]
    )
    return captions, harmonise_table(captions, negatives)


def test_of_real_pairs_most_replaced_relations_go_and_most_swaps_stay(real_pairs: tuple[pa.Table, pa.Table]) -> None:
    text_pairs = build_text_pairs(text_table(*real_pairs), pair_table(*real_pairs))
    panel = seat([word_judge(1)], text_pairs, folds=4)
    found = filter_texts(panel, FilterPlan(unit="pair", rule="overlap", constant=1.5))
    share = {name: found.pair_keep[text_pairs.pair_types == name].mean() for name in ("replace_rel", "swap_obj")}
    assert share["replace_rel"] < 0.6 < 0.85 < share["swap_obj"]
    accuracy = []
    for part in (panel, panel.subset(found.keep, found.pair_keep)):
        probed = probe(part, seed="fresh", metrics=("paired_accuracy",))
        accuracy.append(paired_wins(probed.pairs["word"]).mean())
    assert accuracy[0] > 0.65
    assert accuracy[1] < accuracy[0] - 0.1
