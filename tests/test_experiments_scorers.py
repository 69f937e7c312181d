"""Scorers by name: what a word stands for, what a scores table must hold, and texts that are read without an image."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from datamodules.benchmarks import PROTOCOLS, Benchmark, Logits, read_benchmark
from datamodules.benchmarks.readers import own
from datamodules.benchmarks.readers.pairs import tables
from experiments.__main__ import main
from experiments.config.evaluation_schemas import EvaluateConfig
from experiments.scoring.ranks import World
from experiments.scoring.scorer import Options
from experiments.scoring.scorers import KINDS, folder_names, open_scorer
from experiments.scoring.set_files import write_set
from experiments.scoring.set_metrics import metric_rows
from experiments.scoring.sets import SetScores, ask, asked_rows, set_scores
from lightning_modules import load_scorer
from negatives.causal_lm import CausalLm
from negatives.tables import InputError, write_table
from tests.backbones import BACKBONES, save_published
from tests.benchmark_files import write_json
from tests.launch import log_tail, start_ranks
from tests.tiny import photo, tiny_tables


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    tiny_tables(folder)
    return folder


@pytest.fixture(scope="module")
def benchmark(scenes: Path) -> Benchmark:
    return tables.read(scenes / "balanced/captions.parquet", scenes / "balanced/negatives.parquet")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "tiny-clip"
    save_published(BACKBONES["clip"].build(), folder)
    return folder


def scores_of(word: str, benchmark: Benchmark, folder: Path) -> SetScores:
    options = Options(folder / "store", accelerator="cpu")
    found = open_scorer(word, options).scores_of({"set": benchmark}, options, World())
    assert found is not None
    return found["set"]


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("judge:word:c.parquet:n.parquet", "judge"),
        ("lm:models/gpt2", "lm"),
        ("elsewhere/scores.csv", "table"),
        ("scores.parquet", "table"),
        ("runs/first@best", "model"),
        ("openai/clip-vit-base-patch32", "model"),
    ],
)
def test_a_word_names_a_kind(word: str, kind: str) -> None:
    assert next(name for name, row in KINDS.items() if row.is_one(word)) == kind


@pytest.mark.parametrize(
    "words", [["runs/a", "b", "runs/a"], ["runs/a", "b", "runs/a/"], ["runs/a", "b", "x/a", "runs-a"], ["a", "A"]]
)
def test_no_two_scorers_share_a_folder(words: list[str]) -> None:
    with pytest.raises(InputError, match=f"'{words[0]}' and '{words[-1]}' would share a folder"):
        folder_names(words)


@pytest.mark.parametrize("word", ["models/store", "Summary.json", "wandb.csv"])
def test_a_scorer_does_not_take_the_place_of_another_file(word: str) -> None:
    with pytest.raises(InputError, match=r"would have the folder .*, which is another's; rename it"):
        folder_names([word, "b"])


@pytest.mark.parametrize(
    "word", ["none.csv", "./none", "judge:word:none.parquet:none.jsonl", "/none@best", "lm:/none", "lm:"]
)
def test_a_scorer_that_is_not_there_is_told_before_another_one_is_scored(
    word: str, scenes: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(checkpoint), word, f"output_dir={tmp_path / 'out'}", "logging.wandb=disabled"]
    words += [f"evaluation.sets.balanced.{name}={scenes}/balanced/{name}.parquet" for name in ("captions", "negatives")]
    assert main(words) == 2
    assert "must be there, and is not" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("before", [[], ["none.csv"]])
def test_a_folder_of_other_files_is_told_what_a_scorer_is(
    before: list[str], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/pairs.yaml").touch()
    words = ["evaluate", str(tmp_path / "own"), *before, f"output_dir={tmp_path / 'out'}", "logging.wandb=disabled"]
    words += [f"evaluation.sets.balanced.{name}={scenes}/balanced/{name}.parquet" for name in ("captions", "negatives")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "A scorer must be a run (RUN, RUN@best), a checkpoint's FOLDER, " in error
    assert f"got '{tmp_path}/own', a folder that holds none." in error
    assert not (tmp_path / "out").exists()


def test_a_finished_scorer_that_was_replaced_is_evaluated_anew(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = {name: scenes / f"balanced/{name}.parquet" for name in ("captions", "negatives")}
    asked = tables.read(**sets)
    pairs = asked.pairs.to_pylist()
    for number, name in enumerate(("a", "b")):
        rows = [{**pair, "logit": float(place * (1 - number))} for place, pair in enumerate(pairs)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    words = ["evaluate", *(str(tmp_path / f"{name}.parquet") for name in "ab"), f"output_dir={tmp_path / 'out'}"]
    words += [f"evaluation.sets.balanced.{name}={path}" for name, path in sets.items()]
    words += ["logging.wandb=disabled", "evaluation.bootstrap=100"]
    assert main(words) == 0
    before = (tmp_path / "out/a/metrics.csv").read_text(), (tmp_path / "out/b/metrics.csv").read_text()
    (tmp_path / "out/summary.json").unlink()
    (tmp_path / "b.parquet").replace(tmp_path / "a.parquet")
    shutil.copy(tmp_path / "a.parquet", tmp_path / "b.parquet")
    capsys.readouterr()
    assert main([*words, "--resume"]) == 0
    out = capsys.readouterr().out
    assert "a.parquet is another one than when" in out
    assert f"{tmp_path / 'out/b'} is finished." in out
    after = (tmp_path / "out/a/metrics.csv").read_text()
    assert after != before[0]
    assert after.replace("a,balanced", "b,balanced") == before[1]


def test_a_single_run_is_the_key_run_and_keeps_its_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    config = EvaluateConfig(scorers=[str(run)])
    assert (config.run, config.scorers) == (str(run), [])
    assert (config.output_dir, config.store) == (f"{run}/evaluation", f"{run}/evaluation/store")
    best = EvaluateConfig(scorers=[f"{run}@best"])
    assert (best.run, best.checkpoint, best.output_dir) == (str(run), "best", f"{run}/evaluation_best")
    (run / "config.json").touch()
    exported = EvaluateConfig(scorers=[str(run)])
    assert (exported.run, exported.scorers) == (None, [str(run)]), "a checkpoint in Transformers' format is no run"


def table_of(benchmark: Benchmark) -> pa.Table:
    pairs = benchmark.pairs
    assert pairs is not None
    draw = np.random.default_rng(0)
    return pairs.append_column("logit", pa.array(draw.normal(size=len(pairs))))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_scores_table_in_any_order_is_looked_up(suffix: str, benchmark: Benchmark, tmp_path: Path) -> None:
    table, path = table_of(benchmark), tmp_path / f"scores{suffix}"
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    if suffix == ".csv":
        from pyarrow import csv as arrow_csv

        arrow_csv.write_csv(shuffled, path)
    else:
        write_table(shuffled, path)
    found = scores_of(str(path), benchmark, tmp_path)
    assert found.table is not None
    assert found.table["logit"].to_pylist() == pytest.approx(table["logit"].to_pylist())
    assert found.blind is None
    rows = metric_rows("made elsewhere", "set", benchmark, found, calibrated=False, resamples=100, seed=0)
    assert {row["blind_value"] for row in rows} == {None}
    assert {row["metric"] for row in rows} == {"accuracy", "auroc"}, "nobody says what 0 means"


@pytest.mark.parametrize("empty", [None, float("nan")])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_what_was_written_without_a_blind_logit_is_read_again(
    suffix: str, empty: float | None, benchmark: Benchmark, tmp_path: Path
) -> None:
    table = table_of(benchmark)
    for name in ("score", "blind_logit"):
        table = table.append_column(name, pa.array([empty] * len(table), pa.float64()))
    if suffix == "csv":
        from pyarrow import csv as arrow_csv

        arrow_csv.write_csv(table, tmp_path / "scores.csv")
    else:
        write_table(table, tmp_path / f"scores.{suffix}")
    found = scores_of(str(tmp_path / f"scores.{suffix}"), benchmark, tmp_path)
    assert found.table is not None
    assert found.blind is None
    assert found.table["score"].to_pylist() == pytest.approx(table["logit"].to_pylist())
    # what is written again is the same
    write_set(tmp_path / "set", benchmark, found, {})
    again = scores_of(str(tmp_path / "set/scores.parquet"), benchmark, tmp_path)
    assert again.table is not None
    assert again.table.equals(found.table)
    part = table.set_column(4, "blind_logit", pa.array([1.0] + [empty] * (len(table) - 1), pa.float64()))
    write_table(part, tmp_path / "part.parquet")
    with pytest.raises(InputError, match="must be a finite number"):
        scores_of(str(tmp_path / "part.parquet"), benchmark, tmp_path)


def test_a_scores_table_may_name_texts_by_their_wording_and_sets(benchmark: Benchmark, tmp_path: Path) -> None:
    table = table_of(benchmark)
    wording = dict(zip(benchmark.texts["text_id"].to_pylist(), benchmark.texts["text"].to_pylist(), strict=True))
    texts = [wording[text_id] for text_id in table["text_id"].to_pylist()]
    named = pa.table(
        {"image_id": table["image_id"], "text": texts, "score": table["logit"], "set": ["set"] * len(table)}
    )
    other = named.set_column(3, "set", pa.array(["other"] * len(named)))
    other = other.set_column(2, "score", pa.array([0.0] * len(named)))
    write_table(pa.concat_tables([other, named]), tmp_path / "scores.parquet")
    found = scores_of(str(tmp_path / "scores.parquet"), benchmark, tmp_path)
    assert found.table is not None
    assert found.table["logit"].to_pylist() == table["logit"].to_pylist()


@pytest.fixture
def classified(tmp_path: Path) -> tuple[Benchmark, pa.Table]:
    """Two images of two classes in two templates, one wording theirs in common; scores by wording."""
    texts = pa.table(
        {"text_id": ["bird", "bird", "machine", "machine"], "text": ["a crane", "big", "a crane", "steel"]}
    )
    images = pa.table({"image_id": ["1", "2"], "image": ["1.png", "2.png"]})
    key = pa.table({"image_id": ["1", "2"], "text_id": ["bird", "machine"]})
    rows = [("1", "a crane", 1.0), ("1", "big", 4.0), ("1", "steel", 3.0)]
    rows += [("2", "steel", 7.0), ("2", "big", -2.0), ("2", "a crane", 0.0)]
    rows += [("2", "asked by nobody", 9.0), ("2", "asked by nobody", 8.0), ("3", "big", 5.0), ("3", "big", 6.0)]
    table = pa.table(dict(zip(("image_id", "text", "logit"), zip(*rows, strict=True), strict=True)))
    return Benchmark("own", "classes", images, texts, key, tmp_path, None), table


def test_a_scores_table_by_wording_gives_a_class_the_mean_over_its_templates(
    classified: tuple[Benchmark, pa.Table], tmp_path: Path
) -> None:
    benchmark, table = classified
    write_table(table.append_column("blind_logit", pa.array([1.0] * len(table))), tmp_path / "scores.parquet")
    found = scores_of(str(tmp_path / "scores.parquet"), benchmark, tmp_path)
    assert found.matrix is not None
    assert found.matrix.tolist() == [[2.5, 2.0], [-1.0, 3.5]]
    assert found.blind_matrix is not None
    assert found.blind_matrix.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_a_class_needs_all_its_wordings_once(classified: tuple[Benchmark, pa.Table], tmp_path: Path) -> None:
    benchmark, table = classified
    write_table(table.slice(1), tmp_path / "scores.parquet")
    with pytest.raises(InputError, match=r"2 of 4 pairs have no logit, the first is image '1'"):
        scores_of(str(tmp_path / "scores.parquet"), benchmark, tmp_path)
    # one wording twice in the place of the other is not the mean of both
    twice = table.set_column(1, "text", pa.array(["big", *table["text"].to_pylist()[1:]]))
    write_table(twice, tmp_path / "scores.parquet")
    with pytest.raises(InputError, match="a pair must be there once, got image '1' with 'big' more often"):
        scores_of(str(tmp_path / "scores.parquet"), benchmark, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda table: table.slice(1),
            r"1 of \d+ pairs have no logit, the first is image .* Add them, or leave the set",
        ),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "a pair must be there once"),
        (lambda table: table.set_column(2, "logit", pa.array([float("nan")] * len(table))), "must be a finite number"),
        (
            lambda table: table.append_column("blind_logit", pa.array([float("nan"), *[0.0] * (len(table) - 1)])),
            "a blind_logit must be a finite number",
        ),
        (lambda table: table.drop_columns(["logit"]), "must have a column logit or score, got image_id, text_id"),
        (lambda table: table.drop_columns(["text_id"]), "must have a column text_id or text"),
        (lambda table: table.drop_columns(["image_id"]), "must have a column image_id"),
        (lambda table: table.set_column(2, "logit", pa.array(["much"] * len(table))), "logits numbers"),
    ],
)
def test_a_scores_table_that_cannot_be_used_is_one_line(
    change: Callable[[pa.Table], pa.Table], message: str, benchmark: Benchmark, tmp_path: Path
) -> None:
    path = tmp_path / "scores.parquet"
    write_table(change(table_of(benchmark)), path)
    with pytest.raises(InputError, match=message) as caught:
        scores_of(str(path), benchmark, tmp_path)
    assert "\n" not in str(caught.value)
    assert "scores.parquet" in str(caught.value)


@pytest.mark.parametrize(
    ("column", "other", "message"),
    [
        (
            "image_id",
            "images/1.png",
            r"no image_id .* asked for is 'balanced-.*', for one, and the table has 'images/1",
        ),
        (
            "text_id",
            "caption:1",
            r"asked for is '\w{16}', for one, and the table has 'caption:1'.* by a column text, or",
        ),
        ("text", "nothing", r"no text of the table is asked for; asked for is 'a .*, and the table has 'nothing'"),
        ("set", "other", r"no set of the table is asked for; asked for is 'set', for one, and the table has 'other'"),
    ],
)
def test_ids_that_never_meet_are_shown_from_both_sides(
    column: str, other: str, message: str, benchmark: Benchmark, tmp_path: Path
) -> None:
    table = table_of(benchmark)
    columns = {**{name: table[name] for name in table.column_names}, column: pa.array([other] * len(table))}
    if column == "text":
        del columns["text_id"]
    write_table(pa.table(columns), tmp_path / "scores.parquet")
    with pytest.raises(InputError, match=message) as caught:
        scores_of(str(tmp_path / "scores.parquet"), benchmark, tmp_path)
    assert "\n" not in str(caught.value)


def test_texts_are_found_by_wording_where_their_ids_are_of_elsewhere(benchmark: Benchmark, tmp_path: Path) -> None:
    table = table_of(benchmark)
    wording = dict(zip(benchmark.texts["text_id"].to_pylist(), benchmark.texts["text"].to_pylist(), strict=True))
    texts = pa.array([wording[text_id] for text_id in table["text_id"].to_pylist()])
    foreign = table.append_column("text", texts).set_column(1, "text_id", pa.array(map(str, range(len(table)))))
    # an image that has a caption twice
    twice = foreign.slice(0, 1).set_column(1, "text_id", pa.array(["twice"]))
    write_table(pa.concat_tables([foreign, twice]), tmp_path / "scores.parquet")
    found = scores_of(str(tmp_path / "scores.parquet"), benchmark, tmp_path)
    assert found.table is not None
    assert found.table["logit"].to_pylist() == table["logit"].to_pylist()
    # ids of the benchmark are followed, whatever the wording beside them
    write_table(table.append_column("text", pa.array([*texts.to_pylist()[::-1]])), tmp_path / "scores.parquet")
    found = scores_of(str(tmp_path / "scores.parquet"), benchmark, tmp_path)
    assert found.table is not None
    assert found.table["logit"].to_pylist() == table["logit"].to_pylist()


def test_a_scores_table_that_is_none_is_one_line(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no scores table '.*gone.csv'"):
        scores_of(str(tmp_path / "gone.csv"), benchmark, tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="must be a scores table, and cannot be read"):
        scores_of(str(tmp_path / "broken.parquet"), benchmark, tmp_path)


def test_a_judge_is_its_own_blind_control_and_needs_no_image(scenes: Path, tmp_path: Path) -> None:
    biased = [scenes / f"biased/{name}.parquet" for name in ("captions", "negatives")]
    benchmark = replace(tables.read(*biased), root=tmp_path / "no such folder")
    found = scores_of(f"judge:word:{biased[0]}:{biased[1]}", benchmark, tmp_path)
    assert found.table is not None
    assert found.table["blind_logit"].to_pylist() == found.table["logit"].to_pylist()
    rows = metric_rows("judge", "set", benchmark, found, calibrated=True, resamples=100, seed=0)
    whole = {row["metric"]: row for row in rows if not row["group"]}
    # it has read these very texts, so that it knows them
    assert whole["accuracy"]["value"] == whole["accuracy"]["blind_value"] > 0.9
    assert whole["p_c"]["value"] > 0.9


@pytest.mark.parametrize("word", ["judge:word", "judge:word:a:b:c"])
def test_a_judge_without_its_tables_is_one_line(word: str, benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a judge must be given as judge:NAME:CAPTIONS:NEGATIVES"):
        scores_of(word, benchmark, tmp_path)


def test_a_language_model_scores_by_the_mean_over_tokens(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def token_log_probabilities(self: Any, texts: list[str], batch_size: int) -> list[np.ndarray]:
        read.extend(texts)
        return [-np.arange(1.0, len(text.split()) + 1) for text in texts]

    monkeypatch.setattr(CausalLm, "__init__", lambda self, *args, **settings: None)
    monkeypatch.setattr(CausalLm, "token_log_probabilities", token_log_probabilities)
    found = scores_of(f"lm:{tmp_path}", benchmark, tmp_path)
    wording = dict(zip(benchmark.texts["text_id"].to_pylist(), benchmark.texts["text"].to_pylist(), strict=True))
    assert found.table is not None
    words = [len(wording[text_id].split()) for text_id in found.table["text_id"].to_pylist()]
    assert found.table["logit"].to_pylist() == [-(count + 1) / 2 for count in words]
    assert sorted(read) == sorted({*wording.values()}), "each text once"
    scores_of(f"lm:{tmp_path}", benchmark, tmp_path)
    assert len(read) == len(wording), "kept"


def test_each_rank_has_a_language_model_on_a_device_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []
    monkeypatch.setattr(CausalLm, "__init__", lambda self, folder, *, section, device: devices.append(device))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank in range(3):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 3), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, str(value))
        open_scorer(f"lm:{tmp_path}", Options(tmp_path / "store"))
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    open_scorer(f"lm:{tmp_path}", Options(tmp_path / "store"))
    open_scorer(f"lm:{tmp_path}", Options(tmp_path / "store", accelerator="cpu"))
    assert devices == ["cuda:0", "cuda:1", "cuda:0", "cuda", "cpu"]


def test_scores_of_a_language_model_name_what_computed_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CausalLm, "__init__", lambda self, *args, **settings: None)
    found = open_scorer(f"lm:{tmp_path}", Options(tmp_path / "store", accelerator="cpu")).fingerprint
    assert torch.__version__.startswith(found["torch"])
    assert found["transformers"] == transformers.__version__


class Lengths:
    """Answers that say which image and text they are of."""

    counts: dict[str, int] = {}  # noqa: RUF012

    def pairs(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        return images * 100.0 + texts

    def matrix(self, images: np.ndarray, texts: np.ndarray, groups: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def test_a_text_of_several_wordings_has_their_mean(tmp_path: Path) -> None:
    texts = pa.table({"text_id": ["cat", "dog", "cat", "cat"], "text": ["a", "b", "c", "d"]})
    pairs = pa.table({"image_id": ["2", "1", "2"], "text_id": ["dog", "cat", "cat"]})
    images = pa.table({"image_id": ["1", "2"], "image": ["1.png", "2.png"]})
    benchmark = Benchmark("own", "labels", images, texts, pairs, tmp_path, pairs)
    asked = ask(benchmark)
    assert asked.pairs is not None
    assert asked.pairs.tolist() == [[1, 1], [0, 0], [0, 2], [0, 3], [1, 0], [1, 2], [1, 3]]
    assert asked_rows(benchmark)[2].tolist() == [0, 1, 1, 1, 2, 2, 2]
    places: Any = type("Places", (), {"images": np.arange(2), "blind": None, "texts": np.arange(4), "asked": None})
    found = set_scores(benchmark, places, Lengths(), lambda logits: logits)
    assert found.table is not None
    assert found.table["logit"].to_pylist() == pytest.approx([101, 5 / 3, 100 + 5 / 3])


def test_several_scorers_are_evaluated_side_by_side_and_gone_on_with(
    scenes: Path, checkpoint: Path, benchmark: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(
        table_of(benchmark).append_column("blind_logit", table_of(benchmark)["logit"]), tmp_path / "own.parquet"
    )
    judge = f"judge:word:{scenes}/biased/captions.parquet:{scenes}/biased/negatives.parquet"
    words = ["evaluate", str(checkpoint), str(tmp_path / "own.parquet"), judge, f"output_dir={tmp_path / 'out'}"]
    words += [f"evaluation.sets.balanced.{name}={scenes}/balanced/{name}.parquet" for name in ("captions", "negatives")]
    words += ["evaluation.bootstrap=100", "accelerator=cpu", "logging.wandb=disabled"]
    assert main(words) == 0
    names = ["tiny-clip", "own", "judge-word"]
    assert "judge-word, balanced: " in capsys.readouterr().out, "titled by its folder: two scorers may have one name"
    for name in names:
        folder = tmp_path / "out" / name
        with (folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len({row["run"] for row in rows}) == 1
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["sets"]["balanced"]["protocol"] == "pairs"
        assert summary["sets"]["balanced"]["calibrated"] == (name == "judge-word")
        stored = {path.name for path in (folder / "balanced").iterdir()}
        assert {f"{one}.parquet" for one in ("key", "images", "texts", "scores", "pairs")} == stored
    assert json.loads((tmp_path / "out/tiny-clip/summary.json").read_text())["computed"]["images"] > 0

    # killed while the last one was written
    for path in (tmp_path / "out/summary.json", tmp_path / "out/judge-word/summary.json"):
        path.unlink()
    before = (tmp_path / "out/tiny-clip/metrics.csv").stat().st_mtime_ns
    assert main([*words, "--resume", "evaluation.batch_size=3"]) == 0
    assert (tmp_path / "out/tiny-clip/metrics.csv").stat().st_mtime_ns == before
    capsys.readouterr()
    assert main([*words, "--resume", "evaluation.batch_size=3"]) == 0
    assert "is finished; nothing to resume" in capsys.readouterr().out
    # anew: what is scored stays
    assert main([*words, "--overwrite"]) == 0
    assert json.loads((tmp_path / "out/tiny-clip/summary.json").read_text())["computed"] == {"images": 0, "texts": 0}

    folders = [str(tmp_path / "out" / name) for name in names]
    assert main(["compare", *folders, f"output_dir={tmp_path / 'report'}", "logging.wandb=disabled"]) == 0
    scores = pq.read_table(tmp_path / "out/tiny-clip/balanced/scores.parquet")
    assert scores.column_names == ["image_id", "text_id", "logit", "score", "blind_logit"]
    assert b"network" in scores.schema.metadata


def test_parts_of_images_are_evaluated_and_compared(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = [(0, 0, 20, 20), (8, 8, 20, 20), (0, 0, 20, 20)]
    rows = [
        {**dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), box, strict=True)), "image_path": "7.png"}
        | {"relation_name": "on", "true_caption": f"a cat on mat {row}", "false_caption": f"a mat on cat {row}"}
        for row, box in enumerate(boxes)
    ]
    write_json(tmp_path / "aro_relation/visual_genome_relation.json", rows)
    photo(7).save(tmp_path / "aro_relation/7.png")
    benchmark = read_benchmark(
        "aro_relation", annotations=tmp_path / "aro_relation", image_root=tmp_path / "aro_relation"
    )
    table = table_of(benchmark)
    write_table(table.append_column("blind_logit", table["logit"]), tmp_path / "own.parquet")
    words = ["evaluate", str(checkpoint), str(tmp_path / "own.parquet"), f"output_dir={tmp_path / 'out'}"]
    words += ["benchmarks=[aro_relation]", f"benchmarks_root={tmp_path}", "evaluation.bootstrap=100"]
    assert main([*words, "accelerator=cpu", "logging.wandb=disabled"]) == 0
    for name in ("tiny-clip", "own"):
        pairs = pq.read_table(tmp_path / "out" / name / "aro_relation/pairs.parquet")
        assert pairs["image_id"].to_pylist() == ["7@0,0,20,20", "7@8,8,20,20", "7@0,0,20,20"]
        assert pairs["image"].to_pylist() == ["7.png"] * 3
    # the last scorer's, whose logits are those of its table
    logits = table["logit"].to_pylist()
    assert pairs["positive_logit"].to_pylist() == logits[::2]
    assert pairs["negative_logit"].to_pylist() == logits[1::2]
    folders = [str(tmp_path / "out" / name) for name in ("tiny-clip", "own")]
    assert main(["compare", *folders, f"output_dir={tmp_path / 'report'}", "logging.wandb=disabled"]) == 0
    assert "aro_relation" in capsys.readouterr().out


@pytest.mark.slow  # two processes, each with all imports
def test_two_devices_find_what_one_finds(scenes: Path, checkpoint: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(checkpoint), "evaluation.unit_size=2", "evaluation.bootstrap=100", "accelerator=cpu"]
    words += [f"evaluation.sets.balanced.{name}={scenes}/balanced/{name}.parquet" for name in ("captions", "negatives")]
    words += ["logging.wandb=disabled"]
    for devices in (1, 2):
        assert main([*words, f"devices={devices}", f"output_dir={tmp_path / str(devices)}"]) == 0
    one, two = (pq.read_table(tmp_path / name / "balanced/scores.parquet") for name in ("1", "2"))
    assert one.equals(two)


def test_the_benchmarks_are_listed_with_what_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    (line,) = [line for line in listed if line.startswith("sugarcrepe ")]
    assert line.split()[1] == "pairs"
    assert "COCO val2017" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.csv", "b.csv", "benchmarks=[sugarcrepe]", "benchmarks_root=."], "`output_dir` must be given"),
        (["a.csv", "output_dir=o"], "`benchmarks` or `evaluation.sets` must be given"),
        (
            ["a.csv", "output_dir=o", "benchmarks=[sugarcrep]", "benchmarks_root=."],
            "Did you mean sugarcrepe?",
        ),
        (["a.csv", "output_dir=o", "benchmarks=[sugarcrepe]"], "`benchmarks_root` must be given"),
        (["a.csv", "output_dir=o", "benchmarks=[valse]", "benchmarks_root=.", "score=itc"], "`score` needs `run`"),
        (["a.csv", "output_dir=o", "benchmarks=[mine.yaml]"], "`benchmarks` must be files that exist, got 'mine.yaml'"),
        (["a.csv", "output_dir=o", "benchmarks=[own]", "benchmarks_root=."], "or YAML files of your own, got 'own'"),
        (["a.csv", "output_dir=o", "benchmarks=[a.yaml,b/a.yaml]"], "must have different names, got 'a' twice"),
        (["a.csv", "output_dir=o", "benchmarks=[valse,valse]", "benchmarks_root=."], "got 'valse' twice"),
        (["a.csv", "output_dir=o", "benchmarks=[a.yaml]", "evaluation.sets.a.format=own"], "got 'a' twice"),
        (["a.csv", "output_dir=o", "benchmarks=[b/store.yaml]"], "must not be those of other files there"),
        (["a.csv", "run=.", "output_dir=o"], "`scorers` or `run` must be given, and not both"),
        (["@", "output_dir=o", "benchmarks=[a.yaml]"], "scores table (.parquet, .csv, .jsonl), judge:NAME:"),
        (["a.csv", "@best", "output_dir=o", "benchmarks=[a.yaml]"], "or lm:FOLDER, got '@best'"),
        (["scorers=['']", "output_dir=o", "benchmarks=[a.yaml]"], "or lm:FOLDER, got ''"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *words]) == 2
    assert message in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


COLUMNS: dict[str, dict[str, Any]] = {
    "pairs": {"image": "a", "true": "one", "false": ["two", "three"], "group": "kind"},
    "groups": {"images": ["a", "b"], "texts": ["one", "two"], "group": "kind"},
    "labels": {"image": "a", "text": "one", "label": "label", "group": "kind"},
    "ratings": {"image": "a", "text": "one", "rating": "rating", "group": "kind"},
    "retrieval": {"image": "a", "text": ["one", "two"]},
    "classes": {"image": "a", "class": "kind"},
}


def values_of(metrics: Path) -> dict[tuple[str, str], float]:
    with metrics.open(newline="") as file:
        return {(row["metric"], row["group"]): float(row["value"]) for row in csv.DictReader(file) if row["value"]}


@pytest.fixture(scope="module")
def own_benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each protocol as `benchmarks_root` has them: a table, a YAML file, and images beside."""
    folder = tmp_path_factory.mktemp("own")
    names = ("a", "b", "one", "two", "three", "kind", "label", "rating")
    for number in range(8):
        photo(number).save(folder / f"{number}.png")
    with (folder / "table.csv").open("w", newline="") as file:
        write = csv.writer(file).writerow
        write(names)
        for number in range(8):
            colours = [f"a {colour} thing of kind {number}" for colour in ("red", "blue", "green")]
            images = f"{number}.png", f"{(number + 1) % 8}.png"
            write([*images, *colours, "cat" if number % 2 else "dog", number % 2, number])
    for protocol, columns in COLUMNS.items():
        content = {"table": "table.csv", "protocol": protocol, "columns": columns}
        if protocol == "classes":
            content["templates"] = ["a photo of a {c}", "a drawing of a {c}"]
        (folder / f"{protocol}.yaml").write_text(json.dumps(content))
    return folder


def mean_lengths(module: Any, benchmark: Benchmark) -> list[float]:
    """For each wording, how long the mean of the normalised features of all wordings of its text is."""
    features = []
    for text in benchmark.texts["text"].to_pylist():
        with torch.no_grad():
            found = module.network.clip.get_text_features(**module.processor(text=[text], return_tensors="pt"))
        features.append(found.pooler_output[0].numpy() / np.linalg.norm(found.pooler_output[0].numpy()))
    names = benchmark.texts["text_id"].to_pylist()
    own = {name: [one for one, of in zip(features, names, strict=True) if of == name] for name in names}
    return [float(np.linalg.norm(sum(own[name]) / len(own[name]))) for name in names]


@pytest.mark.parametrize("backbone", ["clip", "llava"])
def test_every_protocol_is_evaluated_on_the_logits_of_single_pairs(
    backbone: str, own_benchmarks: Path, tmp_path: Path
) -> None:
    module = BACKBONES[backbone].build()
    save_published(module, tmp_path / "scorer")
    words = ["evaluate", str(tmp_path / "scorer"), f"output_dir={tmp_path / 'out'}", "logging.wandb=disabled"]
    words += ["evaluation.bootstrap=100", "accelerator=cpu", "evaluation.batch_size=3", "evaluation.unit_size=2"]
    sets = [f"evaluation.sets.{protocol}" for protocol in COLUMNS]
    words += [f"{one}.format=own" for one in sets]
    words += [f"{one}.annotations={own_benchmarks / one.split('.')[-1]}.yaml" for one in sets]
    assert main([*words, *(f"{one}.image_root={own_benchmarks}" for one in sets)]) == 0
    with (tmp_path / "out/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scorer = load_scorer(tmp_path / "scorer", device="cpu")
    for protocol, row in PROTOCOLS.items():
        benchmark = own.read(own_benchmarks / f"{protocol}.yaml", image_root=own_benchmarks)
        paths = [own_benchmarks / image for image in benchmark.images["image"].to_pylist()]
        matrix: Any = scorer.logits(paths, benchmark.texts["text"].to_pylist(), matrix=True)
        matrix = matrix.numpy()
        if backbone == "clip" and protocol == "classes":
            # of features, the mean over templates has length 1 again; the mean logit is of the mean before that
            matrix = matrix / mean_lengths(module, benchmark)
        logits = Logits.from_matrix(benchmark.images["image_id"], benchmark.texts["text_id"], matrix)
        expected = row.measure(benchmark.key, logits, calibrated=module.calibrated)
        found = {(one["metric"], one["group"]): one["value"] for one in rows if one["set"] == protocol}
        assert {*found} == {*expected.rows}
        for name, value in zip(expected.rows, expected.value(), strict=True):
            # an empty cell is a metric of nothing
            assert float(found[name] or "nan") == pytest.approx(value, abs=1e-4, nan_ok=True), (protocol, name)
        folder = tmp_path / "out" / protocol
        if benchmark.pairs is None:
            stored = np.load(folder / "matrix.npy")
            blind = np.load(folder / "blind_matrix.npy")
            distinct = list(dict.fromkeys(benchmark.texts["text_id"].to_pylist()))
            np.testing.assert_allclose(stored, logits.matrix(benchmark.images["image_id"], distinct), atol=1e-5)
            assert stored.shape == blind.shape
            assert not (folder / "scores.parquet").exists()
        else:
            scores = pq.read_table(folder / "scores.parquet")
            assert len(scores) == len(benchmark.pairs)
            assert not (folder / "pairs.parquet").exists(), "two false texts are no pair"
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    if backbone == "clip":
        assert summary["computed"]["images"] == 16, "all sets show the same photos, once seen and once as noise"


def test_scores_of_a_table_stay_apart_where_float32_ties_them(own_benchmarks: Path, tmp_path: Path) -> None:
    benchmark = own.read(own_benchmarks / "retrieval.yaml")
    relevant = {(row["image_id"], row["text_id"]) for row in benchmark.key.to_pylist()}
    rows = [
        {"image_id": image, "text_id": text, "score": 1 - 1e-9 * ((image, text) not in relevant)}
        for image in benchmark.images["image_id"].to_pylist()
        for text in benchmark.texts["text_id"].to_pylist()
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    words = ["evaluate", str(tmp_path / "table.parquet"), f"benchmarks=[{own_benchmarks}/retrieval.yaml]"]
    assert main([*words, f"output_dir={tmp_path / 'out'}", "evaluation.bootstrap=100", "logging.wandb=disabled"]) == 0
    metrics = values_of(tmp_path / "out/metrics.csv")
    assert metrics["i2t_r1", ""] == metrics["t2i_r1", ""] == 1


@pytest.mark.slow  # two processes of a launcher
def test_ranks_of_torchrun_find_what_one_process_finds(own_benchmarks: Path, checkpoint: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(checkpoint), "evaluation.unit_size=2", "evaluation.bootstrap=100", "accelerator=cpu"]
    words += ["evaluation.sets.own.format=own", f"evaluation.sets.own.annotations={own_benchmarks}/pairs.yaml"]
    words += [f"evaluation.sets.own.image_root={own_benchmarks}", "logging.wandb=disabled"]
    assert main([*words, f"output_dir={tmp_path / 'one'}"]) == 0
    ranks = start_ranks(tmp_path / "log", main, [*words, f"output_dir={tmp_path / 'two'}"])
    ranks.join(120)
    assert ranks.exitcode == 0, log_tail(tmp_path / "log")
    one, two = (pq.read_table(tmp_path / name / "own/scores.parquet") for name in ("one", "two"))
    assert one.equals(two)


@pytest.mark.parametrize("verb", ["evaluate", "score"])
def test_a_rank_that_is_ahead_of_the_first_does_not_keep_it_from_its_folder(
    verb: str, own_benchmarks: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(number) for number in range(8)]
    captions = {"caption_id": names, "image_id": names, "image": [f"{name}.png" for name in names], "caption": names}
    pq.write_table(pa.table(captions), tmp_path / "captions.parquet")
    words = {
        "evaluate": [
            *("evaluate", str(checkpoint), f"benchmarks=[{own_benchmarks}/pairs.yaml]", "logging.wandb=disabled"),
            *("evaluation.unit_size=2", "evaluation.bootstrap=100"),
        ],
        "score": [
            *(
                "score",
                f"model.checkpoint={checkpoint}",
                "model.backbone=clip",
                f"captions={tmp_path}/captions.parquet",
            ),
            *(f"image_root={own_benchmarks}", "shard_size=2"),
        ],
    }[verb]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for flags in [], ["--overwrite"]:
        for rank in "1", "0":
            monkeypatch.setenv("RANK", rank)
            assert main([*words, "accelerator=cpu", f"output_dir={tmp_path / 'out'}", *flags]) == 0
    assert (tmp_path / "out" / {"evaluate": "metrics.csv", "score": "scores.parquet"}[verb]).is_file()
