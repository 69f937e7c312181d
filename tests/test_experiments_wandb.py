"""What W&B gets of an experiment: one id, config, curves, an evaluation with its images, and its lineage."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pyarrow as pa
import pytest
import torch
from PIL import Image

from experiments.__main__ import main
from experiments.config.data_schemas import DataConfig
from experiments.config.evaluation_schemas import EvaluateConfig
from experiments.config.load import to_yaml
from experiments.config.schemas import ExperimentConfig
from experiments.config.trainer_schemas import LoggingConfig
from experiments.report.comparison.reading.curves import read_curves
from experiments.runs import speed
from experiments.runs.metric_record import MetricRecord
from experiments.runs.speed import Speed, peak_memory, peak_of
from experiments.runs.wandb_id import keep_id, new_id, offline_folders, own_id, recorded_id, wait_for_a_free_name
from experiments.tracking import artifacts, evaluated, upload
from experiments.tracking.evaluated import COLUMNS, picture
from experiments.tracking.facts import taught_bias
from experiments.tracking.lineage import LINEAGE_FILE, content_hash, read_lineage, record_lineage, trace
from experiments.tracking.summary import training_summary
from lightning_modules.base import AlignmentModule
from negatives.tables import InputError, hold, write_json
from tests.launch import start
from tests.sweeps import write_sweep
from tests.tiny import tiny_tables
from tests.wandb_log import read_offline
from tests.wandb_server import wandb_server


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three arms of two seeds, trained and evaluated with W&B offline, on what a step has filtered."""
    folder = tmp_path_factory.mktemp("wandb")
    tiny_tables(folder / "scenes")
    tables = {name: str(folder / f"scenes/train/{name}.parquet") for name in ("captions", "negatives")}
    config = {**tables, "rule": "top_fraction", "judge": {"judges": ["word"], "folds": 3}, "certify": False}
    path = write_sweep(
        folder,
        prepare={"filter": {"verb": "filter", "config": config}},
        runs={"a": {}, "b": {"optim.lr": 0.01}, "c": {"optim.lr": 0.02}},
        grid={"seed": [0, 1]},
        logging={"wandb": "offline"},
        experiment={
            "trainer": {"log_every": 1, "validate_every": 1},
            "data": {"verdicts": str(folder / "out/filter/verdicts.parquet"), "subset": "kept", "validation": tables},
        },
    )
    process = start(folder / "log", main, ["sweep", str(path)])
    process.join(300)
    assert process.exitcode == 0, (folder / "log").read_text()
    return folder


@pytest.mark.slow  # seven trainings and evaluations
def test_an_experiment_is_one_run_with_config_curves_and_evaluation(swept: Path) -> None:
    ids = set()
    for run in sorted((swept / "out/runs").iterdir()):
        training, evaluation = (read_offline(run, number) for number in range(2))
        assert len([*offline_folders(run)]) == 2, "as many as processes"
        assert training.run_id == evaluation.run_id == recorded_id(run)
        ids.add(training.run_id)
        for one in (training, evaluation):
            assert (one.name, one.group, one.job_type) == (run.name, "mine", "train")
            assert one.tags == [run.name.split("-")[0], "clip"], "the arm and the backbone"
            assert one.config["optim"]["lr"] == {"a": 1e-3, "b": 0.01, "c": 0.02}[run.name[0]]
            curves = read_curves(run / "logs")
            for name, best in (("val/mean/accuracy", max), ("train/loss/value", min)):
                values = [*curves[name].values()]
                assert one.summary[name] == {best.__name__: best(values), "last": values[-1]}
            assert one.summary["train/optim/lr"] == [*curves["train/optim/lr"].values()][-1]
            assert {*one.summary["speed/pairs_per_second"]} == {"mean", "last"}
        assert {"val/mean/accuracy", "train/loss/value", "speed/memory_gib"} <= {*training.metrics}
        facts = training.config["facts"]
        assert facts["captions"] + facts["negatives"] == pytest.approx(facts["retention"] * 72)
        assert facts["negatives"] == sum(value for key, value in facts.items() if key.startswith("negatives_of_"))
        curve = [row["train/loss/value"] for row in training.history if "train/loss/value" in row]
        assert len(curve) == 2
        keys = {key for row in training.history for key in row}
        assert {"val/mean/accuracy", "speed/pairs_per_second", "speed/memory_gib", "train/optim/gradient_norm"} <= keys
        metrics = (run / "evaluation/metrics.csv").read_text().splitlines()
        row = next(line.split(",") for line in metrics if ",accuracy,swap_att," in line)
        found = {key: evaluation.summary[f"evaluate/balanced/swap_att_{key}"] for key in PARTS}
        assert list(found.values()) == pytest.approx([float(value) for value in row[4:10]])
        # as it was logged: a table that the summary has in parts cannot be shown
        assert evaluation.summary["evaluate/samples"]["_type"] == "table-file"
        assert evaluation.config["evaluate"]["evaluation"]["bootstrap"] == 100
    assert len(ids) == 6


PARTS = (
    *("accuracy", "accuracy/low", "accuracy/high"),
    *("blind_accuracy", "blind_accuracy/low", "blind_accuracy/high"),
)


@pytest.mark.slow  # as above
def test_a_table_of_samples_has_its_images(swept: Path) -> None:
    run = swept / "out/runs/a-seed=0"
    evaluation = read_offline(run, 1)
    table = json.loads(Path(evaluation.files["evaluate/samples.table.json"]).read_text())
    assert table["columns"] == list(COLUMNS)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in table["data"]]
    assert len(rows) == 20, "all there are"
    for row in rows:
        assert row["outcome"] == ("right" if row["logit"] > row["other_logit"] else "wrong")
        place = Path(evaluation.files[row["image"]["path"]])
        assert place.is_relative_to(run), "an upload finds it in the run's own folder"
        assert Image.open(place).size == (16, 16)


@pytest.mark.slow  # as above
def test_what_was_made_from_what_is_in_our_own_manifest(swept: Path) -> None:
    out = swept / "out"
    nodes = trace(out / "runs/b-seed=1/evaluation")
    assert [(node.verb, node.folder.name) for node in nodes] == [
        *(("filter", "filter"), ("train", "b-seed=1"), ("evaluate", "evaluation"))
    ]
    captions = str(swept / "scenes/train/captions.parquet")
    assert nodes[0].inputs[captions] == nodes[1].inputs[captions] == content_hash(Path(captions))
    verdicts = out / "filter/verdicts.parquet"
    assert nodes[1].inputs[str(verdicts)] == nodes[0].made["verdicts.parquet"] == content_hash(verdicts)
    assert nodes[1].made["weights.safetensors"] == content_hash(out / "runs/b-seed=1/weights.safetensors")


@pytest.mark.slow  # as above
def test_a_sweeps_folders_are_uploaded_in_order_once(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = _copied(swept, tmp_path)
    assert main(["sync", str(out), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "13 of 13 offline folders would be uploaded, of 7 runs." in printed
    first, second = offline_folders(out / "runs/a-seed=0")
    assert f"{first}: makes run {recorded_id(first.parent.parent)}" in printed
    assert f"{second}: appends to run {recorded_id(first.parent.parent)}" in printed
    calls: list[list[str]] = []

    def sync(words: list[str]) -> int:
        calls.append(words[3:])
        if len(calls) == 5:
            return 1
        (log,) = Path(words[-1]).glob("*.wandb")
        log.with_name(f"{log.name}.synced").touch()
        return 0

    monkeypatch.setattr(upload, "run_command", sync)
    # whether there is a key is asked elsewhere
    monkeypatch.setattr("experiments.runs.tracking.check_logging", lambda _: None)
    assert main(["sync", str(out), "lineage=false"]) == 2
    assert "ended with exit code 1" in capsys.readouterr().err
    assert main(["sync", str(out), "lineage=false"]) == 0
    failed = calls[4]
    assert calls.index(failed, 5) >= 12, "the others first, and then the one that failed"
    calls.remove(failed)
    done = calls
    assert len({call[-1] for call in done}) == len(done) == 13
    for run in (out / "runs").iterdir():
        own = [call for call in done if Path(call[-1]).is_relative_to(run)]
        assert [Path(call[-1]) for call in own] == [*offline_folders(run)]
        assert [call[2:-1] for call in own] == [[], ["--id", recorded_id(run)]]
    assert main(["sync", str(out), "lineage=false"]) == 0
    assert "nothing to upload" in capsys.readouterr().out


@pytest.mark.slow  # as above
def test_a_folder_without_a_log_keeps_none_from_the_server(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _copied(swept, tmp_path)
    first, _ = offline_folders(out / "runs/a-seed=0")
    for log in first.glob("*.wandb"):
        log.unlink()
    assert main(["sync", str(out), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"{first}: is left out: it holds no log" in printed
    assert "12 of 13 offline folders would be uploaded" in printed


@pytest.mark.slow  # as above
def test_files_that_are_gone_or_elsewhere_are_not_uploaded(swept: Path, tmp_path: Path) -> None:
    run = _copied(swept, tmp_path) / "runs/a-seed=0"
    manifest = json.loads((run / "lineage.json").read_text())
    (run / "weights.safetensors").unlink()
    (tmp_path / "secret").write_text("mine")
    manifest["made"]["../../../secret"] = "0"
    (run / "lineage.json").write_text(json.dumps(manifest))
    made: list[Any] = []
    begin = SimpleNamespace(use_artifact=lambda _: None, log_artifact=made.append, finish=lambda: None)
    nodes = [node for node in artifacts.lineages(run) if node.folder == run.resolve()]
    assert len([*artifacts.declare(nodes, "p", lambda **_: begin, files=True)]) == 1
    assert {*made[0].manifest.entries} == {"lineage.json"}


def test_what_a_server_does_not_take_is_one_line(tmp_path: Path) -> None:
    import wandb

    ended: list[bool] = []

    def refuse(_: Any) -> None:
        raise wandb.errors.CommError("no\nsuch project")

    begin = SimpleNamespace(use_artifact=refuse, log_artifact=refuse, finish=lambda: ended.append(True))
    write_json({"version": 1, "verb": "train", "inputs": {}, "made": {}}, tmp_path / "lineage.json")
    with pytest.raises(InputError, match=r"W&B did not take the artifact .* \(no such project\)"):
        [*artifacts.declare(artifacts.lineages(tmp_path), "p", lambda **_: begin)]
    assert ended == [True]


@pytest.mark.slow  # as above
def test_lineage_is_declared_as_artifacts(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[tuple[str, str]] = []

    def begin(**keys: Any) -> Any:
        log.append(("run", keys["id"]))
        return SimpleNamespace(
            use_artifact=lambda name: log.append(("uses", name)),
            log_artifact=lambda artifact: log.append(("makes", f"{artifact.type} {artifact.name}")),
            finish=lambda: None,
        )

    nodes = artifacts.lineages(swept / "out")
    assert len(nodes) == 13
    declared = [name for _, name in artifacts.declare(nodes, "p", begin)]
    assert len({*declared}) == 13
    made = [name for kind, name in log if kind == "makes"]
    assert sorted({name.split()[0] for name in made}) == ["evaluation", "model", "verdicts"]
    used = [name.removeprefix("p/").removesuffix(":latest") for kind, name in log if kind == "uses"]
    # a training uses the verdicts, an evaluation the training
    assert len(used) == 12
    assert {*used} <= {*declared}
    ids = [run_id for kind, run_id in log if kind == "run"]
    runs = [recorded_id(run) for run in (swept / "out/runs").iterdir()]
    assert sorted(ids)[:12] == sorted([*runs, *runs]), "a training and its evaluation are one run"
    assert [*artifacts.declare(nodes, "p", begin)] == [], "nothing is declared twice"
    assert artifacts.undeclared(nodes, "q") == nodes, "but in each project"


@pytest.mark.slow  # as above
def test_a_server_gets_one_run_of_an_experiment(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    out = _copied(swept, tmp_path)
    run = out / "runs/a-seed=0"
    own = str(recorded_id(run))
    # what a cluster's environment may say
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        wandb.teardown()
        assert main(["sync", str(run)]) == 0
        assert os.environ["WANDB_MODE"] == "offline"
        stored, files = server.runs[own], list(server.files)
        assert main(["sync", str(run)]) == 0
        assert "nothing to upload" in capsys.readouterr().out
        assert server.files == files
    wandb.teardown()
    assert server.faults == []
    others = {*server.runs} - {own}
    assert len(others) == 1, "that of the filter, which logs none of its own"
    assert others.pop().startswith("lineage-")
    rows = [stored.history[place] for place in sorted(stored.history)]
    steps = [row["_step"] for row in rows]
    assert steps == sorted({*steps}), "an evaluation goes on where the training ended"
    curve = [place for place, row in enumerate(rows) if "train/loss/value" in row]
    (evaluated,) = (place for place, row in enumerate(rows) if "evaluate/balanced/swap_att_accuracy" in row)
    (sampled,) = (place for place, row in enumerate(rows) if "evaluate/samples" in row)
    assert len(curve) == 2
    assert curve[-1] < evaluated < sampled
    assert {"optim", "facts", "evaluate"} <= {*stored.config}
    assert stored.config["facts"]["value"]["captions"] > 0
    assert {"evaluate/balanced/swap_att_accuracy/low", "train/loss/value"} <= {*stored.summary}
    assert stored.exit_code == 0
    pictures = {name for name in read_offline(run, 1).files if name.endswith(".png")}
    assert sum(file.endswith(".png") for file in files) == len(pictures) > 1
    types = {name: given["artifactTypeName"] for name, given in server.artifacts.items()}
    edges = [(who == own, kind, types[name]) for who, kind, name in server.edges]
    assert edges == [
        (True, "makes", "run_table"),
        (False, "makes", "verdicts"),
        *((True, "uses", "verdicts"), (True, "makes", "model")),
        *((True, "uses", "model"), (True, "makes", "evaluation")),
    ]


def _copied(swept: Path, folder: Path) -> Path:
    """The sweep elsewhere, with manifests that lead to there, of which nothing is uploaded."""
    out = shutil.copytree(swept / "out", folder / "out")
    for file in out.rglob(LINEAGE_FILE):
        file.write_text(file.read_text().replace(str(swept / "out"), str(out)))
    for mark in [*out.rglob("*.synced"), *out.rglob(artifacts.DECLARED)]:
        mark.unlink()
    return out


def test_a_training_that_begins_anew_keeps_its_id_and_its_ghost_is_left_out(tmp_path: Path) -> None:
    tiny_tables(tmp_path / "scenes")
    killed = start(tmp_path / "log", _killed_in_its_first_step, tmp_path)
    killed.join(120)
    assert killed.exitcode == -9, (tmp_path / "log").read_text()
    run = tmp_path / "out"
    (ghost,) = offline_folders(run)
    assert main([*_train_words(tmp_path), "--resume=auto"]) == 0
    first, second = offline_folders(run)
    assert first == ghost
    assert recorded_id(run) == ghost.name.rsplit("-", 1)[-1] == second.name.rsplit("-", 1)[-1]
    assert [(one.state, one.appends) for one in upload.uploads(tmp_path)] == [("superseded", False), ("new", False)]


def _train_words(folder: Path) -> list[str]:
    from tests.tiny import TINY_OVERRIDES

    tables = [f"data.{name}={folder}/scenes/train/{name}.parquet" for name in ("captions", "negatives")]
    words = ["train", "experiments/configs/clip_tiny_scenes.yaml", *TINY_OVERRIDES, *tables, "logging.wandb=offline"]
    return [*words, f"output_dir={folder / 'out'}"]


def _killed_in_its_first_step(folder: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_modules.base.AlignmentModule.training_step", lambda *_: os.kill(os.getpid(), 9))
        return main(_train_words(folder))


@pytest.mark.slow  # two trainings and an evaluation, each with W&B's client online
def test_an_experiment_online_is_one_run_however_often_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    tiny_tables(tmp_path / "scenes")
    words = [*_train_words(tmp_path), "logging.wandb=online", "logging.project=p", "trainer.log_every=1"]
    tables = [f"{name}={tmp_path}/scenes/train/{name}.parquet" for name in ("captions", "negatives")]
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.delenv("WANDB_MODE")
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        wandb.teardown()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AlignmentModule, "on_train_batch_start", _fail_in_the_second_step)
            with pytest.raises(pytest.fail.Exception):
                main([*words, "trainer.max_steps=2", "trainer.checkpoint_every=1"])
        (own,) = server.runs
        assert main([*words, "trainer.max_steps=2", "trainer.checkpoint_every=1", "--resume"]) == 0
        sets = [f"evaluation.sets.held_out.{word}" for word in tables]
        assert main(["evaluate", str(tmp_path / "out"), *sets, "logging.wandb=online", "accelerator=cpu"]) == 0
    wandb.teardown()
    assert server.faults == []
    assert [*server.runs] == [own] == [recorded_id(tmp_path / "out")]
    rows = [row for _, row in sorted(server.runs[own].history.items())]
    assert [row["_step"] for row in rows] == [*range(len(rows))]
    assert sum("train/loss/value" in row for row in rows) == 2
    assert {"train/loss/value", "evaluate/held_out/accuracy"} <= {*server.runs[own].summary}
    assert server.runs[own].summary["train/loss/value"].keys() == {"min", "last"}
    assert {"optim", "facts", "evaluate"} <= {*server.runs[own].config}


def _fail_in_the_second_step(module: AlignmentModule, *_: Any) -> None:
    if module.trainer.global_step == 1:
        pytest.fail("as a crash would")


def test_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recorded_id(tmp_path) is None
    assert own_id(tmp_path) == own_id(tmp_path) == recorded_id(tmp_path)
    keep_id(tmp_path, "../x")
    assert recorded_id(tmp_path) is None, "it becomes a file's name"
    monkeypatch.setenv("WANDB_RUN_ID", "trial1")
    assert new_id() == "trial1"
    monkeypatch.setenv("WANDB_RUN_ID", "a/b")
    assert new_id() != new_id()


def test_two_folders_of_one_id_do_not_share_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(["20260101_000000", "20260101_000000", "20260101_000001"])
    monkeypatch.setattr("time.strftime", lambda _: next(now))
    (tmp_path / "wandb/offline-run-20260101_000000-abc").mkdir(parents=True)
    wait_for_a_free_name(tmp_path, "abc")
    assert next(now, None) is None


def test_taught_bias_is_that_of_the_worst_learner(tmp_path: Path) -> None:
    file = tmp_path / "certificate.json"
    assert taught_bias(file) is None
    lessons = [("all", 0.52), ("all", 0.41), ("swap_att", 0.9), ("all", None)]
    file.write_text(json.dumps({"teaching": [{"group": group, "value": value} for group, value in lessons]}))
    assert taught_bias(file) == pytest.approx(0.09)
    for bad in ("[]", "{", '{"teaching": [1]}'):
        file.write_text(bad)
        assert taught_bias(file) is None


def test_the_summary_is_that_of_the_whole_training(tmp_path: Path) -> None:
    assert training_summary(tmp_path) == {}
    record = MetricRecord(tmp_path / "logs/metrics.jsonl")
    for step, accuracy in enumerate((0.5, 0.9, 0.7)):
        metrics = {"val/mean/accuracy": accuracy, "train/loss/value": 3.0 - step, "train/optim/lr": 0.1 * step}
        record.add(json.dumps({"step": step, "epoch": 0, "metrics": metrics}))
    MetricRecord(tmp_path / "logs/speed.jsonl").add('{"step": 1, "epoch": 0, "metrics": {"speed/memory_gib": 2}}')
    assert training_summary(tmp_path) == {
        "val/mean/accuracy": {"max": 0.9, "last": 0.7},
        "train/loss/value": {"min": 1.0, "last": 1.0},
        "train/optim/lr": 0.2,
        "speed/memory_gib": {"mean": 2, "last": 2},
    }
    (tmp_path / "logs/metrics.jsonl").write_text("[1]\n")
    assert training_summary(tmp_path) == {}, "an evaluation does not fail by it"


def test_a_table_has_as_many_samples_as_asked_for_whatever_the_number_of_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[int] = []
    monkeypatch.setattr(evaluated, "samples", lambda _, __, count: shares.append(count) or [])
    for sets in (3, 7, 40):
        names: dict[str, Any] = dict.fromkeys(map(str, range(sets)))
        evaluated._table(names, names, 32)
        assert (sum(shares), max(shares) - min(shares)) == (32, 1)
        shares.clear()


def test_an_evaluation_of_anothers_run_logs_under_its_id_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, own = tmp_path / "run", tmp_path / "own"
    run.mkdir()
    keep_id(run, "abc")
    data = DataConfig("c.csv", "n.csv")
    (run / "config.yaml").write_text(
        to_yaml(ExperimentConfig("theirs", data=data, logging=LoggingConfig(project="theirs")))
    )
    monkeypatch.setattr("os.access", lambda path, *_: Path(path) != run)
    config = EvaluateConfig(run=str(run), output_dir=str(own), logging=LoggingConfig(samples=0))
    about = {"checkpoint": {"name": "best", "step": 3}}
    scorer: Any = SimpleNamespace(name="theirs (best, step 3)", trained=SimpleNamespace(run=run), about=about)
    row = {"set": "s", "group": "", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6}
    row |= {"blind_value": None, "blind_low": None, "blind_high": None}
    evaluated.log_evaluation(config, own, scorer, {}, {}, [row], {})
    logged = read_offline(own, 0)
    assert not (run / "wandb").exists()
    assert (logged.run_id, logged.name, logged.job_type, logged.project) == ("abc", "theirs", "train", "theirs")
    assert {"evaluate_best/s/accuracy", "evaluate_best/s/accuracy/low", "evaluate_best/s/accuracy/high"} <= {
        *logged.summary
    }


def test_what_is_at_work_or_has_no_mark_is_not_uploaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run/wandb/offline-run-20260101_000000-abc").mkdir(parents=True)
    (tmp_path / "run/wandb/offline-run-20260101_000000-abc/run-abc.wandb").touch()
    held = hold(tmp_path / "run")
    assert [one.state for one in upload.uploads(tmp_path)] == ["running"]
    assert main(["sync", str(tmp_path)]) == 0
    assert "abc is left for later: a process works on it" in capsys.readouterr().out
    held.release()
    (one,) = upload.uploads(tmp_path)
    assert one.state == "new"
    # what W&B's command gives where a server refuses a run
    with pytest.raises(InputError, match="was not uploaded: `wandb sync` ended with exit code 0 and left no mark"):
        upload.upload(one, lambda _: 0)


def test_an_export_leads_to_its_run_by_place_or_by_hash(tmp_path: Path) -> None:
    for place in ("run", "run/export", "elsewhere"):
        (tmp_path / place).mkdir()
    run, inside, outside = tmp_path / "run", tmp_path / "run/export", tmp_path / "elsewhere"
    (run / LINEAGE_FILE).write_text('{"verb": "train", "inputs": {}, "made": {}}')
    keep_id(run, "abc")
    export = {"verb": "export", "inputs": {"run-0": content_hash(run)}, "made": {}}
    for folder in (inside, outside):
        (folder / LINEAGE_FILE).write_text(json.dumps(export))
    log: list[tuple[str, str]] = []

    def begin(**keys: Any) -> Any:
        log.append((keys["id"], keys["project"]))
        return SimpleNamespace(
            use_artifact=lambda name: log.append(("uses", name.split("-")[-2])),
            log_artifact=lambda _: None,
            finish=lambda: None,
        )

    (run / "config.yaml").write_text("logging: {project: mine}")
    nodes = {node.folder: node for node in artifacts.lineages(tmp_path)}
    list(artifacts.declare([nodes[run], nodes[inside], nodes[outside]], None, begin))
    assert log[:3] == [("abc", "mine"), ("abc", "mine"), ("uses", "run")], "in the run's folder it is of its run"
    assert log[3][0].startswith("lineage-")
    assert log[4:] == [("uses", "run")]


def test_weights_that_are_named_behind_a_run_lead_to_it(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    for folder in (run, out):
        folder.mkdir()
    (run / LINEAGE_FILE).write_text('{"verb": "train", "inputs": {}, "made": {}}')
    (out / "metrics.csv").touch()
    config = EvaluateConfig(scorers=[f"{run}@best", "judge:word:a:b"], output_dir=str(out))
    record_lineage("evaluate", config)
    assert [node.verb for node in trace(out)] == ["train", "evaluate"]


def test_a_text_that_is_no_path_is_no_input(tmp_path: Path) -> None:
    for name in ("run", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "out/metrics.csv").touch()
    config = EvaluateConfig(scorers=["x" * 300, "@" * 5000, "a\0@b"], output_dir=str(tmp_path / "out"))
    record_lineage("evaluate", config)
    assert read_lineage(tmp_path / "out").inputs == {}  # type: ignore[union-attr]
    (tmp_path / "run" / LINEAGE_FILE).write_text(json.dumps({"verb": "train", "inputs": {"x" * 300: ""}, "made": {}}))
    assert len(trace(tmp_path / "run")) == 1


def test_a_lineage_of_anyone_ends(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        content = {"verb": "train", "inputs": {str(tmp_path / other): "0"}, "made": {}}
        (tmp_path / name / LINEAGE_FILE).write_text(json.dumps(content))
    assert [node.folder.name for node in trace(tmp_path / "a")] == ["b", "a"]
    (tmp_path / "a" / LINEAGE_FILE).write_text("[" * 100_000)
    assert read_lineage(tmp_path / "a") is None


def test_utilisation_is_known_where_the_peak_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_of(torch.device("cpu")) is None
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    assert peak_of(torch.device("cuda")) == 989e12
    peaks = {"NVIDIA L40": 181e12, "NVIDIA L4": 121e12, "NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA RTX A1000": None}
    for name, peak in peaks.items():
        monkeypatch.setattr("torch.cuda.get_device_name", lambda _, name=name: name)
        assert peak_of(torch.device("cuda")) == peak, name
    assert 0.01 < peak_memory(torch.device("cpu")) < 100
    logged: dict[str, float] = {}
    # a validation takes from 10 to 17
    clock = iter([0.0, 10.0, 10.0, 17.0, 19.0, 19.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(speed, "peak_of", lambda _: 1000.0)
    weight = torch.ones(4, 5, requires_grad=True)
    module: Any = SimpleNamespace(device=torch.device("cpu"), log_dict=lambda values, **_: logged.update(values))
    trainer: Any = SimpleNamespace(global_step=1, log_every_n_steps=1, world_size=2)
    batch = SimpleNamespace(caption_mask=torch.ones(2, 5, dtype=torch.bool))
    callback: L.Callback = Speed()
    callback.on_train_start(trainer, module)
    for number in range(2):
        if number:
            callback.on_validation_start(trainer, module)
            callback.on_validation_end(trainer, module)
        callback.on_train_batch_start(trainer, module, batch, 0)
        (torch.ones(3, 4) @ weight).sum().backward()
        callback.on_train_batch_end(trainer, module, None, batch, 0)
    # 2 x 3 x 4 x 5 operations forward, and as many for the weight's gradient; 10 pairs in 2 s on each rank
    assert logged["speed/pairs_per_second"] == 10
    assert logged["speed/mfu"] == pytest.approx(5 * (240 / 10) / 1000)


def test_nothing_to_upload_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", str(tmp_path)]) == 0
    assert "holds nothing to upload" in capsys.readouterr().out
    with pytest.raises(InputError, match="there is no folder"):
        upload.uploads(tmp_path / "nowhere")


def test_a_sample_shows_what_of_its_box_lies_in_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    boxes = {"inside": [2, 2, 8, 4], "over": [15, 5, 50, 50], "outside": [30, 0, 5, 5], "whole": None}
    table = pa.table({"image_id": [*boxes], "image": ["a.png"] * 4, "box": [*boxes.values()]})
    benchmark: Any = SimpleNamespace(images=table, root=tmp_path)
    shown = {name: picture(benchmark, name) for name in boxes}
    sizes = {name: None if image is None else image.size for name, image in shown.items()}
    assert sizes == {"inside": (8, 4), "over": (5, 5), "outside": None, "whole": (20, 10)}
