"""What the first version wrote still loads: `tests/first_version` holds its tables, verdicts, a run and its scores.

They were made by commit 688ab61: `itm generate generator=scenes`, `itm filter unit=pair`, four steps of CE-CLIP with a
checkpoint after each two, `itm evaluate`, `itm score`.
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from datamodules import IMAGE_READER
from experiments.__main__ import main
from experiments.config.load import load_saved
from experiments.config.schemas import ExperimentConfig
from experiments.sweeping.manifest import Manifest
from experiments.sweeping.plan import Task
from experiments.sweeping.standing import KEEP, RUN, stand
from lightning_modules import load_scorer
from negatives.tables import write_text

TOLERANCE = 1e-5
"""Of logits: the machine that wrote them may have summed in another order."""


@pytest.fixture
def former(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that commands run in, since the paths in its configurations are relative."""
    folder = tmp_path / "former"
    shutil.copytree(Path(__file__).with_name("first_version"), folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return folder


def stored_logits(folder: Path) -> dict[str, float]:
    table = pq.read_table(folder / "scores/scores.parquet")
    return dict(zip(table["text_id"].to_pylist(), table["logit"].to_pylist(), strict=True))


def command(folder: str = "run") -> list[str]:
    """The command that made a folder."""
    words: list[str] = json.loads(Path(folder, "provenance.json").read_text())["argv"][1:]
    return words


def test_a_run_is_loaded_as_a_scorer_and_scores_as_it_did(former: Path) -> None:
    scorer, captions = load_scorer(former / "run"), pq.read_table(former / "data/balanced/captions.parquet").to_pylist()
    found = scorer.logits(
        [former / "data/balanced" / row["image"] for row in captions], [r["caption"] for r in captions]
    )
    expected = [stored_logits(former)[f"caption:{row['caption_id']}"] for row in captions]
    assert found.tolist() == pytest.approx(expected, abs=TOLERANCE)


def test_a_run_is_scored_evaluated_and_exported(former: Path) -> None:
    data = "data/balanced"
    assert main(["score", "run=run", f"captions={data}/captions.parquet", "output_dir=new_scores"]) == 0
    new = pq.read_table("new_scores/scores.parquet")
    assert new["logit"].to_pylist() == pytest.approx([*stored_logits(former).values()], abs=TOLERANCE)
    sets = [f"evaluation.sets.balanced.{name}={data}/{name}.parquet" for name in ("captions", "negatives")]
    words = ["evaluate", "run", *sets, "output_dir=new_evaluation", "evaluation.bootstrap=100"]
    assert main(words) == 0
    # the columns are others now, the numbers are the same to the last digit; intervals of few images are wider
    columns = {"negative_type": "group", "accuracy": "value", "blind_accuracy": "blind_value", "pairs": "count"}
    with Path("run/evaluation/metrics.csv").open() as old, Path("new_evaluation/metrics.csv").open() as new:
        accuracies = {row["group"]: row for row in csv.DictReader(new) if row["metric"] == "accuracy"}
        for row in csv.DictReader(old):
            found = {name: accuracies[row["negative_type"]][columns.get(name, name)] for name in row}
            for name in ("low", "blind_low", "high", "blind_high"):
                sign = 1 if name.endswith("low") else -1
                assert sign * float(found.pop(name)) <= sign * float(row.pop(name)), name
            assert row == found
    assert main(["export", "run", "output_dir=exported"]) == 0


def test_what_a_run_without_a_record_was_trained_on_is_not_known(
    former: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = "data/train"
    words = ["evaluate", "run", "evaluation.bootstrap=100", "output_dir=own_evaluation"]
    words += [f"evaluation.sets.own.{name}={data}/{name}.parquet" for name in ("captions", "negatives")]
    assert main([*words, "exclude_training_images=true"]) == 2
    assert "run has no train_images.parquet" in capsys.readouterr().err
    assert main(words) == 0
    own = json.loads(Path("own_evaluation/summary.json").read_text())["sets"]["own"]
    assert (own["training_images"], own["training_pairs"]) == (None, None)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("own: ")]
    assert "is not known" in line
    assert f"its captions have {own['images']} of the set's image ids, such as 'train-0'" in line


def test_scores_that_were_begun_go_on(former: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, scorer = Path("scores/scores.parquet"), Path("scores/scorer.json")
    stored = stored_logits(former)
    table.unlink()
    now = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    write_text(json.dumps(json.loads(scorer.read_text()) | now), scorer)
    assert main([*command("scores"), "--resume"]) == 2
    assert "made from another image_reader" in capsys.readouterr().err, "an older rule made the parts from its images"
    # as if the rule had been the same
    write_text(json.dumps(json.loads(scorer.read_text()) | {"image_reader": str(IMAGE_READER)}), scorer)
    assert main([*command("scores"), "--resume"]) == 0
    assert pq.read_table(table)["logit"].to_pylist() == pytest.approx([*stored.values()], abs=TOLERANCE)


def test_evaluated_runs_are_compared(former: Path) -> None:
    summary = former / "run/evaluation/summary.json"
    content = json.loads(summary.read_text())
    content["sets"]["balanced"]["image_root"] = str(former / "data/balanced")
    summary.write_text(json.dumps(content))
    assert main(["compare", "run", "output_dir=comparison", "bootstrap=100", "logging.wandb=disabled"]) == 0
    curves = Path("comparison/learning_curves.csv").read_text().splitlines()
    assert len(curves) > 4, "the learning curves are read from the CSV that it logged"


@pytest.mark.parametrize("folder", ["run", "scores", "run/evaluation"])
def test_a_finished_folder_has_nothing_to_resume(folder: str, former: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command(folder), "--resume"]) == 0
    assert f"{folder} is finished" in capsys.readouterr().out


def test_a_finished_task_of_a_sweep_is_not_run_again(former: Path) -> None:
    config = former / "run/config.yaml"
    (former / "runs").mkdir()
    (former / "runs/a").symlink_to(former / "run")
    write_text(config.read_text(), former / "tasks/train-a.yaml")
    record = {"name": "train/a", "verb": "train", "needs": None, "state": "finished", "seconds": 1.0}
    write_text(json.dumps({"tasks": [{**record, "config_hash": "0123456789abcdef"}]}), former / "manifest.json")

    def action_today(*overrides: str) -> str:
        settings = load_saved(ExperimentConfig, config, overrides)
        task = Task("train/a", "train", "runs/a", "key", (), settings, run="a")
        (one,) = stand([task], Manifest(former).read(), former)
        return one.action

    assert action_today() == KEEP, "though it named every backbone's keys"
    assert action_today("optim.lr=0.5") == RUN


def test_a_run_goes_on_from_its_checkpoint(former: Path) -> None:
    weights = former / "run/weights.safetensors"
    before = load_file(weights)
    weights.unlink()
    assert main([*command(), "--resume"]) == 0
    after = load_file(weights)
    assert after.keys() == before.keys()
    assert all(after[name].equal(before[name]) for name in before), "the last step was made: nothing is trained again"


def test_its_verdicts_choose_what_is_trained_on(former: Path) -> None:
    assert "data.verdicts=filter/verdicts.parquet" in command()
    words = ["output_dir=again", "trainer.max_steps=1", "trainer.validate_every=null", "trainer.checkpoint_every=null"]
    assert main([*command(), *words]) == 0
    Path("filter/pair_verdicts.parquet").unlink()
    assert main([*command(), *words, "--overwrite"]) == 2, "verdicts on pairs belong to them"


def test_a_finished_filter_is_known_by_its_command_and_by_its_configuration(former: Path) -> None:
    assert main([*command("filter"), "--resume"]) == 0
    assert main(["filter", "filter/config.yaml", "--resume"]) == 0
    assert main([*command("filter"), "unit=text", "--resume"]) == 2
