"""What a comparison says of scorers of any protocol: numbers, ties, the leaderboard, examples, and its tables."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from datamodules.benchmarks import (
    Benchmark,
    Logits,
    MetricName,
    Resampled,
    alpha_debias,
    bootstrap_weights,
    holm,
    intervals,
    measure_benchmark,
    paired,
)
from experiments.config.evaluation_schemas import CompareConfig, EvaluateConfig, EvaluationConfig
from experiments.config.trainer_schemas import LoggingConfig
from experiments.report.comparison.entries import entries_of, shortened
from experiments.report.comparison.examples.choose import DISAGREE, FAIL, RIGHT, _chosen, choose_examples
from experiments.report.comparison.examples.outcomes import outcomes
from experiments.report.comparison.leaderboard import Board, Place, verdict
from experiments.report.comparison.panels import DEBIASED, Draws, compared, panel_of
from experiments.report.comparison.plots import curves_plot
from experiments.report.comparison.reading.evaluated import EvaluatedRun, EvaluatedSet, shared_main
from experiments.report.comparison.reading.runs import read_run, read_runs
from experiments.report.comparison.tables import comparison_markdown, markdown_text
from experiments.report.comparison.terminal import print_comparison
from experiments.report.csv_files import read_csv
from experiments.report.plots import look
from experiments.runs.train_images import Overlap, TrainImages, content_hash, find_overlap
from experiments.scoring.overlaps import set_images
from experiments.scoring.requests import join
from experiments.scoring.sets import ask, of_matrix, of_pairs, text_ids
from experiments.validate_benchmarks import ValidationBenchmarks
from experiments.verbs.compare import compare
from experiments.verbs.compare import run as compare_verb
from experiments.verbs.evaluate import Sets, write_evaluation
from negatives.tables import InputError, hash_of, read_parquet, write_json, write_table
from tests.measured import group_key, pair_key, rating_key, slow_ends

IMAGES = 24
QUIET = LoggingConfig(wandb="disabled")
HOSTILE = "<b>|$x_1$ & \\input{x}%"


def benchmark(name: str, protocol: str, key: pa.Table, root: Path, pairs: list[tuple[str, str]] | None) -> Benchmark:
    """A benchmark whose texts are called as their ids."""
    lists = [
        key[column].to_pylist() for column in ("text_id", "text_ids", "true", "false") if column in key.column_names
    ]
    ids = sorted({text for rows in lists for row in rows for text in ([row] if isinstance(row, str) else row)})
    images = [f"image{i}" for i in range(IMAGES)]
    if "image_ids" in key.column_names:
        images = [image for item in key["image_ids"].to_pylist() for image in item]
    return Benchmark(
        name,
        protocol,
        pa.table({"image_id": images, "image": [f"{i}.png" for i in range(len(images))]}),
        pa.table({"text_id": ids, "text": [f"the text {text}" for text in ids]}),
        key,
        root,
        None
        if pairs is None
        else pa.table(dict(zip(("image_id", "text_id"), map(list, zip(*pairs, strict=False)), strict=True))),
    )


def benchmarks(root: Path) -> dict[str, Benchmark]:
    """One of each protocol."""
    numbers = range(IMAGES)
    pair = pair_key([1 + i % 2 for i in numbers], groups=["swap_att" if i % 3 else "=replace" for i in numbers])
    rows = pair.to_pylist()
    group, rating = group_key(IMAGES // 2), rating_key([float(i % 5) for i in numbers])
    label = rating.drop_columns(["rating", "prompt_id"]).append_column("label", pa.array([i % 2 for i in numbers]))
    two = pa.table({"image_id": [f"image{i}" for i in numbers], "text_id": [f"class{i % 3}" for i in numbers]})
    captions = pa.table({"image_id": two["image_id"], "text_id": [f"caption{i}" for i in numbers]})
    single = list(zip(*(rating[column].to_pylist() for column in ("image_id", "text_id")), strict=True))
    found = [
        benchmark("crepe", "pairs", pair, root, [(r["image_id"], t) for r in rows for t in [*r["true"], *r["false"]]]),
        benchmark(
            "wino",
            "groups",
            group,
            root,
            [(i, t) for row in group.to_pylist() for i in row["image_ids"] for t in row["text_ids"]],
        ),
        benchmark("tifa", "ratings", rating, root, single),
        benchmark("true", "labels", label, root, single),
        benchmark("search", "retrieval", captions, root, None),
        benchmark("kinds", "classes", two, root, None),
    ]
    return {one.name: one for one in found}


def evaluate(
    folder: Path,
    name: str,
    sets: dict[str, Benchmark],
    *,
    skill: float,
    seed: int,
    blind: bool = True,
    overlaps: dict[str, Overlap] | None = None,
) -> str:
    """An evaluation as `itm evaluate` writes it, by made-up logits: `skill` more for what is true."""
    generator, scores = np.random.default_rng(seed), {}
    for key, one in sets.items():
        row = one.key.to_pylist()
        own = {(r["image_id"], t) for r in row if "image_id" in r for t in r.get("true", [r.get("text_id")])}
        own |= {pair for r in row for pair in zip(r.get("image_ids", []), r.get("text_ids", []), strict=True)}
        if one.pairs is None:
            names, _ = text_ids(one)
            pairs = [(i, t) for i in one.images["image_id"].to_pylist() for t in names.to_pylist()]
        else:
            pairs = list(zip(*(one.pairs[column].to_pylist() for column in ("image_id", "text_id")), strict=True))
        worth = {
            (r["image_id"], r["text_id"]): r.get("rating", r.get("label"))
            for r in row
            if "item_id" in r and "text_id" in r
        }
        logits = np.array([worth.get(pair, float(pair in own)) for pair in pairs]) * skill + generator.normal(
            size=len(pairs)
        )
        blind_logits = generator.normal(size=len(pairs))
        if one.pairs is None:
            shape = (len(one.images), len(names))
            noise = blind_logits.reshape(shape).astype(np.float32) if blind else None
            scores[key] = of_matrix(one, names, logits.reshape(shape).astype(np.float32), noise)
        else:
            scores[key] = of_pairs(one, logits, logits, blind_logits if blind else None)
    config = EvaluateConfig(
        scorers=[name], output_dir=str(folder), evaluation=EvaluationConfig(bootstrap=100), logging=QUIET
    )
    scorer: Any = SimpleNamespace(name=name, about={}, fingerprint={"weights": name}, calibrated=False)
    write_evaluation(config, folder, scorer, Sets(sets, overlaps or {}, {}), scores)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scorers on six benchmarks; of the last one the blind logits are not known."""
    folder = tmp_path_factory.mktemp("evaluations")
    for number in range(IMAGES):
        Image.new("RGB", (32, 32), (10 * number, 80, 160)).save(folder / f"{number}.png")
    sets = benchmarks(folder)
    for place, (name, skill) in enumerate({"good": 2.0, "fair": 1.0, HOSTILE: 0.2}.items()):
        evaluate(folder / f"s{place}", name, sets, skill=skill, seed=place, blind=place < 2)
    return folder


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> CompareConfig:
    runs = [str(folder / f"s{place}") for place in range(3)]
    return CompareConfig(runs=runs, output_dir=str(tmp_path / "report"), bootstrap=100, examples=12, logging=QUIET)


def test_scorers_are_compared_on_benchmarks_of_every_protocol(config: CompareConfig, folder: Path) -> None:
    compare_verb(config)
    report = Path(config.output_dir)
    rows = read_csv(report / "comparison.csv")
    assert {row["set"] for row in rows} == {"crepe", "wino", "tifa", "true", "search", "kinds"}
    # the same numbers as each evaluation has, to the last digit
    for place, name in enumerate(("good", "fair", HOSTILE)):
        own = [row for row in rows if row["run"] == name]
        for row, written in zip(own, read_csv(folder / f"s{place}" / "metrics.csv"), strict=True):
            assert {key: row[key] for key in written} == written
    unknown = [row for row in rows if row["run"] == HOSTILE]
    assert {row[key] for row in unknown for key in ("blind_value", *DEBIASED)} == {""}
    board = read_csv(report / "leaderboard.csv")
    assert [row["run"] for row in board] == ["good", "fair", HOSTILE]
    assert board[0]["sets"] == "6"
    assert float(board[0]["debiased_low"]) < float(board[0]["debiased_value"]) < float(board[0]["debiased_high"])
    assert (board[2]["debiased_value"], board[2]["debiased_low"], board[2]["debiased_high"]) == ("", "", "")
    page = (report / "index.html").read_text(encoding="utf-8")
    assert page.count("<article>") == 12
    assert "<b>" not in page
    crepe = next(row for row in rows if (row["run"], row["metric"], row["group"]) == ("good", "accuracy", "mean"))
    for one in (board[0], crepe):
        value, low, high, half = (float(one[key]) for key in ("debiased_value", *DEBIASED[3:], "half_value"))
        assert f"{value:.3f}<small>{low:.3f} – {high:.3f}</small><small>from {half:.3f}" in page
    assert page.index("good is best") < page.index("Leaderboard") < page.index("Benchmarks") < page.index("Examples")


def test_a_benchmark_and_what_is_kept_of_it_beside_its_scores_are_measured_alike(folder: Path) -> None:
    kept = read_run(folder / "s0").sets
    for name, one in benchmarks(folder).items():
        one = replace(one, aggregates={"both": ("swap_att", "=replace")} if name == "crepe" else {})
        found = replace(kept[name], aggregates=one.aggregates, calibrated=True)
        own = measure_benchmark(one, found.logits, calibrated=True)
        assert own.rows == found.measured.rows
        assert own.value().tolist() == found.measured.value().tolist()
        needs_threshold = len(own.rows) > len(measure_benchmark(one, found.logits).rows)
        assert needs_threshold == (name in ("crepe", "true"))
        assert (MetricName("accuracy", "both") in own.rows) == (name == "crepe")
        assert shared_main([found]) in own.rows


def test_differences_are_paired_and_corrected_over_the_scorers_of_a_column(config: CompareConfig) -> None:
    runs = read_runs(config.runs)
    panel = panel_of("crepe", entries_of(runs), "fair", Draws(100, 0, debias=False))
    column = MetricName("accuracy", "mean")
    measured = [run.sets["crepe"].measured for run in runs]
    place = measured[0].rows.index(column)
    against = {"reference": (1, [0, 2]), "best": (0, [1, 2])}
    for kind, (other, ours) in against.items():
        found = [r for r in panel.differences if (r["against"], r["metric"], r["group"]) == (kind, *column)]
        assert [(row["run"], row["other"]) for row in found] == [(runs[i].name, runs[other].name) for i in ours]
        slow = [paired(measured[i], measured[other], resamples=100, seed=0) for i in ours]
        adjusted = holm([one.p[place] for one in slow])
        for row, one, p in zip(found, slow, adjusted, strict=True):
            assert [row[key] for key in ("difference", "low", "high", "p")] == [part[place] for part in one]
            assert (row["p_holm"], row["tied"]) == (p, not p <= 0.05)
    assert {row["tied"] for row in panel.differences} == {True, False}, "both are there"


def test_a_rank_has_no_best(config: CompareConfig) -> None:
    panel = panel_of("search", entries_of(read_runs(config.runs)), "good", Draws(100, 0, debias=False))
    of_best = {row["metric"] for row in panel.differences if row["against"] == "best"}
    assert of_best == {"recall_mean"}, "a mean rank is best where it is lowest"
    assert "i2t_mean_rank" in {row["metric"] for row in panel.differences}


def test_a_leaderboard_is_the_mean_over_sets_and_their_resamples(config: CompareConfig) -> None:
    found = compare(replace(config, examples=0))
    runs = {run.name: run for run in read_runs(config.runs)}
    names = ("crepe", "wino", "tifa", "true", "search", "kinds")
    for place in found.board.places:
        sets = [runs[place.run].sets[name] for name in names]
        mains = [(one.measured, shared_main([one])) for one in sets]
        values = [measured.value()[measured.rows.index(main)] for measured, main in mains]
        assert place.value == pytest.approx(np.mean(values))
        assert place.low < place.value < place.high
        whole = [intervals(measured, resamples=100, seed=0) for measured, _ in mains]
        widths = [
            one.high[m.rows.index(main)] - one.low[m.rows.index(main)]
            for one, (m, main) in zip(whole, mains, strict=True)
        ]
        assert place.high - place.low < np.mean(widths), "sets that move apart have a steadier mean"
        if place.debiased is not None:
            value, low, high = place.debiased
            rows = [panel.entries[place.run][panel.main] for panel in found.panels]
            assert value == pytest.approx(np.mean([row["debiased_value"] for row in rows]))
            assert 0 < high - low < np.mean([row["debiased_high"] - row["debiased_low"] for row in rows])
            assert low < value < high
    assert found.board.places[-1].blind is None
    assert [place.debiased is None for place in found.board.places] == [False, False, True]


def board(second: dict[str, Any], *, tied: bool = False, seeds: int = 1) -> Board:
    place = Place(
        "b", "b", seeds, 0.6, 0.7, 0.65, 0.6, 0.7, None, None, None, second, ("a",) if tied else (), {"s": 0.65}
    )
    first = replace(
        place, run="a", to_best=None, tied_with=("b",) if tied else (), value=0.7, lowest=0.68, highest=0.72
    )
    return Board(("s",), [first, place], [])


def test_the_verdict_says_what_is_best_by_how_much_and_whether_that_decides() -> None:
    row = {"difference": -0.05, "low": -0.08, "high": -0.02, "p_holm": 0.004}
    by = "0.050 above b (95 % interval 0.020 to 0.080, p = 0.004 after Holm)"
    assert verdict(board(row)) == f"a is best: 0.700 (on s), {by}. This decides."
    assert verdict(board(row, tied=True)).endswith(f"{by}. This does not decide: it is tied with b.")
    assert verdict(board(row, seeds=3)).endswith("for the means, but seeds overlap: 0.680 to 0.700.")


def test_what_is_not_known_is_an_empty_cell() -> None:
    row = replace(board({"difference": None}).places[1], value=float("nan")).row()
    assert (row["value"], row["to_best"], row["blind_value"], row["low"]) == (None, None, None, 0.6)


def test_equal_scorers_are_tied_and_the_first_stands_first(folder: Path, tmp_path: Path) -> None:
    runs = [evaluate(tmp_path / name, name, {"wino": benchmarks(folder)["wino"]}, skill=1.0, seed=4) for name in "ab"]
    found = compare(CompareConfig(runs=runs, output_dir="x", bootstrap=100, logging=QUIET))
    assert [(place.run, place.tied_with) for place in found.board.places] == [("a", ("b",)), ("b", ("a",))]
    assert "0.000 above b (95 % interval 0.000 to 0.000, p = 1 after Holm)" in found.verdict


def test_more_scorers_take_the_resamples_that_their_correction_needs(folder: Path, tmp_path: Path) -> None:
    wino = {"wino": benchmarks(folder)["wino"]}
    runs = [evaluate(tmp_path / f"s{i}", f"s{i}", wino, skill=0.0, seed=i) for i in range(4)]
    best = evaluate(tmp_path / "best", "best", wino, skill=9.0, seed=9)
    found = compare(CompareConfig(runs=[*runs, best], output_dir="x", bootstrap=100, examples=0, logging=QUIET))
    assert not found.board.places[0].tied_with
    values = {
        str(i): Resampled(np.array([float(i == 0)]), np.full((100, 1), float(i == 0)), np.array([24])) for i in range(5)
    }
    assert all(row["tied"] for row in compared(values, "0", "best")), "with 100 resamples none of 4 could be decided"


def test_what_the_blind_score_gave_is_taken_off_and_seen_as_a_column(folder: Path, tmp_path: Path) -> None:
    one = benchmarks(folder)["crepe"]
    assert one.pairs is not None
    generator = np.random.default_rng(0)
    seen = np.array([2.0 * text.startswith("true") for text in one.pairs["text_id"].to_pylist()])
    blind_logits = 6 * generator.normal(size=len(seen))
    scorer: Any = SimpleNamespace(name="a", about={}, fingerprint={}, calibrated=False)
    config = EvaluateConfig(scorers=["a"], output_dir="x", evaluation=EvaluationConfig(bootstrap=100), logging=QUIET)
    write_evaluation(
        config,
        tmp_path / "a",
        scorer,
        Sets({"crepe": one}, {}, {}),
        {"crepe": of_pairs(one, seen + blind_logits, seen, blind_logits)},
    )
    compared_ = CompareConfig(runs=[str(tmp_path / "a")], output_dir="x", bootstrap=100, logging=QUIET)
    (place,) = compare(compared_).board.places
    assert place.debiased == (1.0, 1.0, 1.0)
    assert place.half_value is not None
    assert place.half_value < 0.9
    (without,) = compare(replace(compared_, debias=False)).board.places
    assert without.debiased is None


def test_an_interval_of_a_debiased_value_is_over_the_reported_half_and_takes_alpha_as_chosen(
    folder: Path, tmp_path: Path
) -> None:
    crepe = {"crepe": benchmarks(folder)["crepe"]}
    runs = [evaluate(tmp_path / f"{i}", f"clip-seed={i}", crepe, skill=1.5, seed=i) for i in range(2)]
    found = compare(CompareConfig(runs=runs, output_dir="x", bootstrap=200, seed=3, examples=0, logging=QUIET))
    (panel,) = found.panels
    column, drawn = MetricName("accuracy", ""), []
    half = [name for name in sorted(f"image{i}" for i in range(IMAGES)) if hash_of("alpha", name) % 2]
    draws = np.concatenate([*bootstrap_weights(len(half), 200, 3)])
    for run in read_runs(runs):
        (row,) = [row for row in panel.runs if (row["run"], row["metric"], row["group"]) == (run.name, *column)]
        one = run.sets["crepe"]
        assert one.blind is not None
        logits, right = one.logits.debiased(one.blind, row["alpha"]), {}
        for item in one.key.to_pylist():
            true, false = (logits.matrix([item["image_id"]], item[side])[0] for side in ("true", "false"))
            right[item["image_id"]] = float(true.min() > false.max())
        values = np.array([right[name] for name in half])
        drawn.append([np.average(values, weights=weights) for weights in draws])
        expected = (values.mean(), *slow_ends(drawn[-1], len(half)))
        assert [row[name] for name in DEBIASED[2:]] == pytest.approx(expected)
        assert expected[1] < expected[0] < expected[2]
    (pooled,) = [row for row in panel.seeds if (row["metric"], row["group"]) == column]
    expected_ends = slow_ends(np.mean(drawn, axis=0), len(half))
    assert [pooled["debiased_low"], pooled["debiased_high"]] == pytest.approx(expected_ends)
    (place,) = found.board.places
    main = panel.entries["clip"][panel.main]
    assert place.debiased == pytest.approx([main[name] for name in DEBIASED[2:]])


def test_an_evaluation_of_an_older_version_is_compared_with_one_of_this(folder: Path, tmp_path: Path) -> None:
    """Other ids, another order: the same images and wordings are the same items."""
    one = benchmarks(folder)["crepe"]
    key = one.key.filter([len(false) == 1 for false in one.key["false"].to_pylist()])
    pairs = [(r["image_id"], t) for r in key.to_pylist() for t in [*r["true"], *r["false"]]]
    new = Path(evaluate(tmp_path / "new", "new", {"s": benchmark("s", "pairs", key, folder, pairs)}, skill=1.0, seed=1))
    old = read_parquet(new / "s" / "pairs.parquet")
    old = old.take(np.random.default_rng(0).permutation(len(old)))
    write_table(old, tmp_path / "old" / "s" / "pairs.parquet")
    write_json({"run": "old", "sets": {"s": {"image_root": str(folder)}}}, tmp_path / "old" / "summary.json")
    for runs in (["old", "new"], ["new", "old"]):
        found = compare(
            CompareConfig(runs=[str(tmp_path / name) for name in runs], output_dir="x", bootstrap=100, logging=QUIET)
        )
        accuracies = [row for row in found.panels[0].differences if row["metric"] == "accuracy"]
        assert {row["difference"] for row in accuracies} == {0.0}
        assert all(len({v.wrong for v in example.verdicts}) == 1 for example in found.examples)
        assert all(v.logits == example.verdicts[0].logits for example in found.examples for v in example.verdicts)


@pytest.mark.parametrize("name", ["wino", "search"])
def test_scorers_of_other_items_are_refused_in_one_line(name: str, folder: Path, tmp_path: Path) -> None:
    one = benchmarks(folder)[name]
    rest = (
        replace(one, key=one.key.slice(2))
        if name == "wino"
        else replace(
            one, texts=pa.concat_tables([one.texts, pa.table({"text_id": ["more"], "text": ["one more to search"]})])
        )
    )
    runs = [
        evaluate(tmp_path / str(i), str(i), {name: found}, skill=1.0, seed=1) for i, found in enumerate((one, rest))
    ]
    with pytest.raises(InputError) as error:
        read_runs(runs)
    message = str(error.value)
    assert "\n" not in message
    assert f"set {name!r} has {len(one.key)} in {runs[0]} and {len(rest.key)} in {runs[1]}" in message
    assert f"{2 if name == 'wino' else 1} of items and what is searched are in one only" in message


def test_an_evaluation_of_several_scorers_is_all_of_them(config: CompareConfig, folder: Path) -> None:
    write_json({"scorers": {f"s{place}": "word" for place in range(3)}}, folder / "summary.json")
    assert [run.name for run in read_runs([folder])] == ["good", "fair", HOSTILE]
    write_json({"scorers": {"../s1": "word"}}, folder / "summary.json")
    with pytest.raises(InputError, match="names must be a file's name"):
        read_runs([folder])


DAMAGE = {
    "key.parquet": "need column `item_id`",
    "texts.parquet": "need column `text_id`",
    "scores.parquet": "need column `image_id`",
    "matrix.npy": "must be an array",
}


@pytest.mark.parametrize("file", DAMAGE)
def test_a_damaged_set_is_one_line(file: str, folder: Path, tmp_path: Path) -> None:
    name = "search" if file.endswith("npy") else "wino"
    run = Path(evaluate(tmp_path / "run", "run", {name: benchmarks(folder)[name]}, skill=1.0, seed=1))
    (run / name / file).unlink()
    if file.endswith("npy"):
        (run / name / file).write_bytes(b"\x93NUMPY and no more")
    else:
        write_table(pa.table({"other": [1]}), run / name / file)
    with pytest.raises(InputError, match=re.escape(DAMAGE[file])):
        read_run(run)


def test_seeds_that_were_evaluated_by_two_versions_have_the_metrics_of_both(folder: Path, tmp_path: Path) -> None:
    asked = benchmarks(folder)["wino"]
    marked = asked.key.append_column("yes_no", pa.array([True] * len(asked.key)))
    one = {"wino": replace(asked, key=marked)}
    runs = [evaluate(tmp_path / f"{i}", f"clip-seed={i}", one, skill=1.0, seed=i) for i in range(2)]
    summary = (Path(runs[0]) / "summary.json").read_text()
    (Path(runs[0]) / "summary.json").write_text(summary.replace('"calibrated": false', '"calibrated": true'))
    found = compare(CompareConfig(runs=runs, output_dir="x", bootstrap=100, logging=QUIET))
    (place,) = found.board.places
    assert (place.run, place.seeds) == ("clip", 2)
    runs_have, methods_have = (
        {row["metric"] for row in rows} for rows in (found.panels[0].runs, found.panels[0].seeds)
    )
    assert runs_have - methods_have == {"answer", "question_answers", "image_answers", "group_answers"}


def test_examples_are_what_scorers_disagree_on_then_what_they_fail_on() -> None:
    wrong = np.array([[0.0, 1, 1, 0, 0, 1], [0, 0, 1, 0, 1, 1]])
    images = [["a"], ["b"], ["c"], ["d"], ["b"], ["e"]]
    chosen = dict(_chosen(wrong, images, 4, 0))
    disagreed = [place for place, reason in chosen.items() if reason == DISAGREE]
    assert len(disagreed) == 1, "both are of image b, which is shown once"
    assert disagreed[0] in (1, 4)
    assert [place for place, reason in chosen.items() if reason == FAIL] in ([2, 5], [5, 2])
    assert next(place for place, reason in chosen.items() if reason == RIGHT) in (0, 3)
    assert _chosen(wrong, images, 4, 0) == _chosen(wrong, images, 4, 0)
    orders = {
        tuple(place for place, _ in _chosen(np.ones((2, 6)), [[str(i)] for i in range(6)], 3, s)) for s in range(9)
    }
    assert len(orders) > 3, "what is equal is chosen by the seed"


def test_examples_say_what_each_scorer_made_of_them(config: CompareConfig) -> None:
    runs = read_runs(config.runs)
    entries = entries_of(runs)
    for example in choose_examples(entries, ["crepe", "search", "kinds", "wino"], 24, 0):
        assert [verdict.run for verdict in example.verdicts] == ["good", "fair", HOSTILE]
        for said in example.verdicts:
            logits = np.array(said.logits)
            assert logits.shape == (len(example.texts), len(example.pictures))
            if example.set in ("search", "kinds"):
                # the false text shown is that of the scorer that is most wrong: another one may fail by another text
                continue
            if example.set == "wino":
                right = (logits.argmax(0) == [0, 1]).all() and (logits.argmax(1) == [0, 1]).all()
            else:
                true = [role == "true" for _, role in example.texts]
                right = logits[true].min() > logits[np.logical_not(true)].max()
            assert (said.said, said.wrong) == (("✓ right", 0.0) if right else ("✗ wrong", 1.0))


@pytest.mark.parametrize("name", ["search", "kinds"])
def test_an_image_is_wrong_where_a_text_that_is_not_its_own_scores_as_high(name: str, config: CompareConfig) -> None:
    found = read_run(Path(config.runs[1])).sets[name]
    said, texts = outcomes(found, "recall_mean"), found.logits.text_ids.to_pylist()
    assert said.rivals is not None
    for place, row in enumerate(found.key.to_pylist()):
        logits = dict(zip(texts, found.logits.matrix([row["image_id"]], texts)[0], strict=True))
        own = logits.pop(row["text_id"])
        assert said.rivals[place].as_py() == max(logits, key=lambda text: logits[text])
        assert said.wrong[place] == (max(logits.values()) >= own)
    assert 0 < said.wrong.mean() < 1


def test_a_terminal_of_80_columns_holds_twelve_scorers(
    config: CompareConfig, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = {"crepe": benchmarks(folder)["crepe"]}
    names = [f"llava-7b-lora-of-all-layers_{i}-filtered" for i in range(12)]
    runs = [evaluate(tmp_path / name, name, sets, skill=i / 4, seed=i) for i, name in enumerate(names)]
    capsys.readouterr()
    compare_verb(replace(config, runs=runs, examples=0))
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("Report: ")) <= 80
    told = "All names begin with 'llava-7b-lora-of-all-layers_' and end with '-filtered', which is left out."
    assert told in " ".join(lines)
    rows = [line for line in lines if re.match(r" *\d+  \d+ ", line)]
    assert len(rows) == 12
    assert not any("llava" in line for line in rows)
    (head,) = {line.strip() for line in lines if "#12" in line}
    assert head.split() == [f"#{place}" for place in range(1, 13)]


def test_the_main_table_is_markdown_and_latex_in_which_names_are_text(config: CompareConfig) -> None:
    compare_verb(config)
    report = Path(config.output_dir)
    markdown = (report / "comparison.md").read_text(encoding="utf-8").splitlines()
    rows = [re.split(r"(?<!\\)\|", line) for line in markdown if line.startswith("|")]
    assert {len(row) for row in rows} == {4 + 6 + 2}
    assert rows[-1][1].strip() == r"\<b\>\|$x\_1$ \& \\input\{x\}%"
    latex = (report / "comparison.tex").read_text(encoding="utf-8")
    body = [line for line in latex.splitlines() if line.endswith("\\\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {9}
    assert body[-1].startswith(r"\textless{}b\textgreater{}|\$x\_1\$ \& \textbackslash{}input\{x\}\%")
    assert r"\toprule" in latex
    assert all(line.startswith("%") or "%" not in line.replace(r"\%", "") for line in latex.splitlines())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a-x", "a-y"], ["x", "y"]),
        (["a", "a-x"], ["a", "a-x"]),
        (["runs/a/evaluation", "runs/b/evaluation"], ["a", "b"]),
        (["clip", "blip"], ["clip", "blip"]),
        (["a_b_c", "a_d_c", "a_e_f_c"], ["b", "d", "e_f"]),
    ],
)
def test_what_all_names_share_is_left_out_and_told(names: list[str], expected: list[str]) -> None:
    (first, last), short = shortened(names)
    assert short == expected
    assert [f"{first}{name}{last}" for name in short] == names


def test_learning_curves_show_the_main_metric_of_every_benchmark_of_a_validation(folder: Path) -> None:
    """Each protocol's metrics by the names that a training logs, where labels have an accuracy of logits above 0."""
    sets = benchmarks(folder)
    requests = join([ask(one) for one in sets.values()], blind=False)
    logged = ValidationBenchmarks(sets, requests).metrics(calibrated=True)
    logged += ["train/loss/value", "train/loss/itc", "val/mean/accuracy", "val/swap_att/accuracy"]
    assert "val/true/accuracy" in logged
    run = EvaluatedRun("a", folder, {}, {metric: {0: 0.2, 9: 0.4} for metric in logged})
    plot = curves_plot([run], {"a": look(0)})
    assert plot is not None
    titles = re.findall(r"(?:val|train)/[^<\s]+", plot)
    assert titles[:3] == ["train/loss/value", "val/mean/accuracy", "val/swap_att/accuracy"]
    mains = ["crepe/mean_accuracy", "kinds/top1", "search/recall_mean", "tifa/tau_b", "true/roc_auc", "wino/group"]
    assert titles[3:] == [f"val/{name}" for name in mains]


def test_every_table_has_its_head(config: CompareConfig) -> None:
    compare_verb(replace(config, runs=config.runs[:1], examples=0))
    for path in Path(config.output_dir).glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            assert len(next(csv.reader(file))) > 3


def test_a_share_of_training_images_is_of_items_and_never_above_all(folder: Path, tmp_path: Path) -> None:
    every = benchmarks(folder)
    crepe = replace(every["crepe"], aggregates={"both": ("swap_att", "=replace")})
    sets = {"wino": every["wino"], "search": every["search"], "crepe": crepe}
    # of wino's items the first has both images, the second one
    recorded = TrainImages(frozenset(), frozenset(content_hash(folder / f"{n}.png")[1] for n in range(3)))
    overlaps = {name: find_overlap(recorded, set_images(name, one)) for name, one in sets.items()}
    evaluate(tmp_path / "a", "a", sets, skill=1.0, seed=0, overlaps=overlaps)
    evaluation = read_run(tmp_path / "a")
    panels = {name: panel_of(name, entries_of([evaluation]), "a", Draws(20, 0, False)) for name in sets}
    said = {name: panel.overlaps for name, panel in panels.items()}
    assert said == {
        "wino": ["a was trained on the images of 16.7 % of the items."],
        "search": ["a was trained on the images of 12.5 % of the items."],
        "crepe": ["a was trained on the images of 12.5 % of the items."],
    }
    (both,) = [row for row in panels["crepe"].runs if (row["metric"], row["group"]) == ("accuracy", "both")]
    assert both["training_pairs"] == 3


def test_what_is_left_out_of_a_set_stands_beside_its_numbers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = benchmarks(folder)
    notes = ("no item is left of add_obj; mean is over 2 of 3 groups",)
    part = replace(every["crepe"], left_out={"image missing": 7487, "crop outside": 0}, notes=notes)
    sets = {"crepe": part, "tifa": every["tifa"]}
    for place, name in enumerate(("a", "b")):
        evaluate(tmp_path / name, name, sets, skill=1.0, seed=place)
    # an older version said nothing of it
    summary = json.loads((tmp_path / "b/summary.json").read_text())
    del summary["sets"]["crepe"]["left_out"], summary["sets"]["crepe"]["notes"]
    write_json(summary, tmp_path / "b/summary.json")
    runs = [str(tmp_path / name) for name in ("a", "b")]
    compare_verb(CompareConfig(runs=runs, output_dir=str(tmp_path / "report"), bootstrap=100, logging=QUIET))
    texts = [" ".join(capsys.readouterr().out.split())]
    texts += [(tmp_path / "report" / name).read_text() for name in ("index.html", "comparison.md", "comparison.tex")]
    for text, sign in zip(texts, ("", "", "\\", ""), strict=True):
        text = text.replace(sign, "") if sign else text
        assert text.count("24 of 7,511 items: 7,487 image missing") == 1
        assert text.count("no item is left of add_obj; mean is over 2 of 3 groups") == 1
    assert "24 of 24" not in texts[0]


def test_a_summary_counts_what_the_page_of_files_says(folder: Path) -> None:
    summary = json.loads((folder / "s0/summary.json").read_text())["sets"]
    for name, one in benchmarks(folder).items():
        key = read_parquet(folder / "s0" / name / "key.parquet")
        assert (summary[name]["pairs"], summary[name]["images"]) == (len(key), len(one.images))


def test_ratings_that_are_missing_are_no_items(folder: Path) -> None:
    key = rating_key([1.0, 2.0, 3.0, 4.0])
    twice = key.set_column(key.column_names.index("item_id"), "item_id", pa.array(["i", "i", "j", "j"]))
    one = EvaluatedSet("ratings", folder, twice, key, key, Logits.from_table(key.append_column("logit", key["rating"])))
    assert replace(one, left_out={"missing ratings": 3}).told == ["2 items, without: 3 missing ratings"]
    assert replace(one, key=key, left_out={"image missing": 3}).told == ["4 of 7 items: 3 image missing"]


def _said(run: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes what an evaluation's summary says of each of its sets."""
    path = Path(run) / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    for entry in summary["sets"].values():
        change(entry)
    write_json(summary, path)


def test_the_published_number_of_a_benchmark_stands_for_it_wherever_one_is_shown(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mains = {"crepe": ("auroc", "mean"), "wino": ("image", ""), "tifa": ("tau_c", "")}
    sets = {
        name: replace(one, main=MetricName(*mains[name])) for name, one in benchmarks(folder).items() if name in mains
    }
    runs = [evaluate(tmp_path / name, name, sets, skill=skill, seed=3) for name, skill in (("a", 1.5), ("b", 0.2))]
    assert re.search(r"auroc\W+swap_att", capsys.readouterr().out), "the groups of the published metric are printed"
    found = compare(CompareConfig(runs=runs, output_dir=str(tmp_path / "report"), bootstrap=100, examples=12))
    assert {panel.name: panel.main for panel in found.panels} == mains
    assert {panel.name: panel.chance for panel in found.panels} == {"crepe": 0.5, "wino": 0.25, "tifa": 0.0}
    first = read_run(Path(runs[0])).sets
    values = {name: one.measured.value()[one.measured.rows.index(mains[name])] for name, one in first.items()}
    assert found.board.places[0].values == pytest.approx(values)
    assert found.board.places[0].value == pytest.approx(np.mean(list(values.values())))
    print_comparison(found)
    printed = capsys.readouterr().out
    for heading in ("crepe: auroc, mean (chance 0.5)", "wino: image (chance 0.25)", "tifa: tau_c (chance 0)"):
        assert heading in printed
    assert markdown_text("crepe: auroc, mean, wino: image, tifa: tau_c.") in comparison_markdown(found)
    by_image = [
        (np.argmax(verdict.logits, axis=1) == [0, 1]).all() == (verdict.wrong == 0)
        for example in found.examples
        if example.set == "wino"
        for verdict in example.verdicts
    ]
    assert by_image, "an example is right where its image score is"
    assert all(by_image)
    for name, one in first.items():
        assert one.blind is not None
        debiased = alpha_debias(partial(measure_benchmark, one), one.logits, one.blind, main=MetricName(*mains[name]))
        (panel,) = [panel for panel in found.panels if panel.name == name]
        assert panel.entries["a"][panel.main]["alpha"] == debiased.alpha
    logged = ["val/wino/group", "val/wino/image", "val/crepe/mean_accuracy", "val/crepe/mean_auroc"]
    run = EvaluatedRun("a", folder, first, {metric: {0: 0.2, 9: 0.4} for metric in logged})
    assert re.findall(r"val/[^<\s]+", str(curves_plot([run], {"a": look(0)}))) == [
        "val/crepe/mean_auroc",
        "val/wino/image",
    ]


def test_older_evaluations_go_by_the_protocols_number_unless_another_names_the_published_one(
    folder: Path, tmp_path: Path
) -> None:
    one = replace(benchmarks(folder)["true"], main=MetricName("accuracy", ""))
    runs = [evaluate(tmp_path / name, name, {"true": one}, skill=1.0, seed=3) for name in ("old", "new", "other")]
    _said(runs[0], lambda entry: entry.pop("main"))
    read = [read_run(Path(run)).sets["true"] for run in runs]
    assert shared_main(read[:1]) == ("roc_auc", "")
    with_threshold = [replace(found, calibrated=True) for found in read]
    assert shared_main(with_threshold) == ("accuracy", ""), "the older one is measured by it, too"
    assert shared_main(with_threshold[:1]) == ("roc_auc", "")
    assert shared_main([*with_threshold[1:], read[2]]) == ("roc_auc", ""), "a scorer without a threshold has none"
    _said(runs[1], lambda entry: entry.update(calibrated=True))
    found = compare(CompareConfig(runs=runs[1:], output_dir=str(tmp_path / "report"), bootstrap=40, examples=0))
    assert found.panels[0].main == ("roc_auc", "")
    _said(runs[1], lambda entry: entry.update(main=["roc_auc"]))
    with pytest.raises(InputError, match=r"summary\.json must be what `itm evaluate` writes"):
        read_run(Path(runs[1]))


def test_of_a_single_image_nothing_is_decided(
    config: CompareConfig, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = pair_key([1] * 3)
    key = key.set_column(1, "image_id", pa.array(["image0"] * 3))
    pairs = [("image0", f"{kind}{number}_0") for number in range(3) for kind in ("true", "false")]
    one = {"one": benchmark("one", "pairs", key, folder, pairs)}
    runs = [evaluate(tmp_path / name, name, one, skill=skill, seed=0) for name, skill in (("good", 9.0), ("bad", -9.0))]
    assert "[" not in (tmp_path / "good/metrics.csv").read_text()
    capsys.readouterr()
    compare_verb(replace(config, runs=runs, examples=0))
    told = " ".join(capsys.readouterr().out.split())
    assert "by one image or prompt alone, so that there is no interval" in told
    assert "This does not decide" in told
    assert "nan" not in told
    page = (Path(config.output_dir) / "index.html").read_text(encoding="utf-8")
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    (best,) = [row for row in read_csv(Path(config.output_dir) / "leaderboard.csv") if row["run"] == "good"]
    assert (best["value"], best["low"], best["tied_with"]) == ("1.0", "", "bad")
