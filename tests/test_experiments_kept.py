"""The weights of the best validations: kept, read again by every verb, and the same after an interruption."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from experiments.__main__ import main
from experiments.report.comparison.reading.curves import read_curves
from lightning_modules import load_scorer
from lightning_modules.kept_weights import find_kept, read_kept
from lightning_modules.scoring.runs import find_weights
from negatives.tables import InputError
from tests.test_experiments_resume import assert_same_run, train_until_killed
from tests.test_experiments_train import train_words
from tests.tiny import tiny_tables

METRIC = "val/mean/accuracy"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    tiny_tables(folder)
    return folder


def words_for(tables: Path, run: Path) -> list[str]:
    """A training of eight steps, validated after each, that keeps the two best."""
    held_out = {name: tables / "balanced" / f"{name}.parquet" for name in ("captions", "negatives")}
    words = [f"data.validation.{name}={path}" for name, path in held_out.items()]
    words += [f"evaluation.sets.balanced.{name}={path}" for name, path in held_out.items()]
    words += ["trainer.max_steps=8", "trainer.validate_every=1", "trainer.log_every=1", "optim.lr=0.05", "name=kept"]
    words += ["trainer.checkpoint_every=1", "trainer.keep_best=2", f"trainer.best_metric={METRIC}"]
    return train_words(tables, run, *words)


@pytest.fixture(scope="module")
def kept(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    assert main(words_for(tables, run)) == 0
    return run


def test_the_two_best_validations_are_kept_the_earlier_of_equals_first(kept: Path) -> None:
    logged = read_curves(kept / "logs")[METRIC]
    # a validation is logged with the number of the step before
    best = sorted(logged, key=lambda step: (-logged[step], step))[:2]
    record = read_kept(kept / "checkpoints")
    assert [(one.step, one.value) for one in record.kept] == [(step + 1, pytest.approx(logged[step])) for step in best]
    assert len({*logged.values()}) > 1, "or the order would show nothing"
    assert {path.name for path in (kept / "checkpoints").glob("step-*")} == {one.file for one in record.kept}
    assert find_weights(kept, "best").read_bytes() != find_weights(kept).read_bytes()


def test_the_record_of_metrics_says_which_step_was_best(kept: Path) -> None:
    curves, best = read_curves(kept / "logs"), read_kept(kept / "checkpoints").kept[0]
    assert [*curves["best/optim/step"].values()][-1] == best.step
    assert [*curves["best/mean/accuracy"].values()][-1] == pytest.approx(best.value)


def test_the_best_weights_are_evaluated_compared_scored_and_exported(
    kept: Path, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, other = read_kept(kept / "checkpoints").kept
    for which in ("last", "best", str(other.step)):
        assert main(["evaluate", str(kept), f"checkpoint={which}", "logging.wandb=disabled"]) == 0
    accuracy = {}
    for name in ("evaluation", "evaluation_best", f"evaluation_{other.step}"):
        rows = csv.DictReader((kept / name / "metrics.csv").open())
        accuracy[name] = {row["group"]: float(row["value"]) for row in rows if row["metric"] == "accuracy"}["mean"]
    # the benchmark holds the pairs of the validation
    assert accuracy["evaluation_best"] == pytest.approx(best.value)
    assert accuracy[f"evaluation_{other.step}"] == pytest.approx(other.value)
    assert f"kept (best, step {best.step})" in capsys.readouterr().out
    summary = json.loads((kept / "evaluation_best/summary.json").read_text())
    assert summary["checkpoint"] == {"name": "best", "step": best.step, "metric": METRIC, "value": best.value}

    folders = [str(kept), str(kept / "evaluation_best"), str(kept / f"evaluation_{other.step}")]
    assert main(["compare", *folders, f"output_dir={tmp_path / 'report'}", "logging.wandb=disabled"]) == 0
    compared = {row["run"] for row in csv.DictReader((tmp_path / "report/comparison.csv").open())}
    assert compared == {"kept", f"kept (best, step {best.step})", f"kept (step {other.step})"}

    captions = tables / "balanced/captions.parquet"
    words = [f"run={kept}", f"captions={captions}", "checkpoint=best", f"output_dir={tmp_path / 'scores'}"]
    assert main(["score", *words]) == 0
    scored = json.loads((tmp_path / "scores/scorer.json").read_text())
    assert scored["weights"] == summary["scorer"]["weights"]

    assert main(["export", str(kept), "checkpoint=best", f"output_dir={tmp_path / 'export'}"]) == 0
    card = (tmp_path / "export/README.md").read_text()
    assert f"after step {best.step}" in card
    assert f"{best.value:.3f}" in card
    assert card.count("swap_att |") == 1, "evaluations of other weights are not on the card"
    image = next((tables / "balanced").rglob("*.png"))
    logits = {load_scorer(folder).logits(image, "a red circle") for folder in (tmp_path / "export",)}
    assert load_scorer(kept, checkpoint="best").logits(image, "a red circle") == pytest.approx(*logits, abs=1e-5)
    assert load_scorer(kept, checkpoint=best.step).logits(image, "a red circle") == pytest.approx(*logits, abs=1e-5)


def test_a_dry_run_names_the_folder_of_the_evaluation(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(kept), "checkpoint=best", "--dry-run"]) == 0
    assert f"output_dir: {kept}/evaluation_best\n" in capsys.readouterr().out
    assert main(["evaluate", str(kept), "checkpoint=best", "output_dir=own", "--dry-run"]) == 0
    assert "output_dir: own\n" in capsys.readouterr().out


def test_weights_of_a_step_that_nothing_was_kept_of_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"kept no weights but its last ones; train with trainer\.keep_best=1"):
        find_kept(tmp_path, "7")


def test_an_interrupted_training_keeps_the_same_weights(
    kept: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = words_for(tables, tmp_path / "parts")
    train_until_killed(command, 4, monkeypatch)
    assert main([*command, "--resume"]) == 0
    assert_same_run(kept, tmp_path / "parts")
    one, two = kept / "checkpoints", tmp_path / "parts/checkpoints"
    assert (one / "best.json").read_text() == (two / "best.json").read_text()
    files = sorted(path.name for path in one.glob("step-*"))
    assert [(two / name).read_bytes() for name in files] == [(one / name).read_bytes() for name in files]
    assert sorted(path.name for path in two.glob("step-*")) == files


def test_a_metric_that_validation_does_not_give_is_refused_before_training(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_for(tables, tmp_path / "run")
    assert main([*words, "trainer.best_metric=val/swap_atts/accuracy"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "`trainer.best_metric` must be one that data.validation gives (val/" in line
    assert "Did you mean val/swap_att/accuracy?" in line
    assert main([*words, "data.validation=null"]) == 2
    assert "`data.validation` must be given where `trainer.keep_best` is above 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("which", "why"),
    [("7", "must be best, last or a step that"), ("../x", "best, last or the number of a step"), ("-1", "the number")],
)
def test_weights_that_were_not_kept_are_one_line(
    which: str, why: str, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(kept), f"checkpoint={which}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert why in line
    with pytest.raises(InputError, match=why):
        load_scorer(kept, checkpoint=which)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"metric": "m", "kept": [{"step": Infinity, "value": 1.0, "file": "step-4.safetensors"}]}',
        '{"metric": "m", "kept": [{"step": 4, "value": 1.0, "file": "../../../secret.safetensors"}]}',
        '{"metric": "m", "kept": [{"step": 4, "value": NaN, "file": "step-4.safetensors"}]}',
    ],
)
def test_a_record_that_anybody_wrote_is_one_line_and_leads_nowhere_else(content: Any, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.json").write_text(content)
    with pytest.raises(InputError, match=r"best\.json .*copy the run anew"):
        find_kept(tmp_path, "best")
