"""Sweeps: what they plan, what they survive, what they never do twice."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from experiments.__main__ import main
from experiments.config.filter_schemas import FilterConfig
from experiments.config.load import ConfigError
from experiments.config.schemas import ExperimentConfig
from experiments.sweeping.children import Child, Slot
from experiments.sweeping.manifest import FAILED, FINISHED, PENDING
from experiments.sweeping.plan import Task, plan
from experiments.verb_table import TASKS
from experiments.verbs import sweep
from lightning_modules.base import AlignmentModule
from negatives.tables import hold
from tests.launch import start
from tests.sweeps import settings_of, states
from tests.tiny import TINY_OVERRIDES, tiny_tables

TINY_DEMO = [
    *("prepare.scenes.config.scenes.train=12", "prepare.scenes.config.scenes.held_out=2"),
    *("prepare.scenes.config.scenes.image_size=16", "logging.wandb=disabled"),
    *("prepare.filter.config.rule=top_fraction", "prepare.filter.config.constant=null"),
    "prepare.filter.config.certify=false",
    *(f"prepare.{step}.config.judge.folds=3" for step in ("audit_before", "filter", "audit_after")),
    *(f"experiment.{word}" for word in TINY_OVERRIDES),
    *("experiment.trainer.validate_every=1", "experiment.evaluation.bootstrap=100", "compare.bootstrap=100"),
]


def test_runs_are_grouped_under_the_sweep_and_seeded_by_it() -> None:
    config = sweep.load("experiments/sweeps/demo.yaml", ["name=other", "seed=5"])
    for name, settings in settings_of(config).items():
        assert settings["logging"]["group"] == "other"
        assert settings["seed"] == 5
        assert settings["output_dir"] == f"runs/other/runs/{name}"


def test_a_shipped_sweep_can_be_copied_anywhere(tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    copy.write_bytes(Path("experiments/sweeps/demo.yaml").read_bytes())
    assert settings_of(sweep.load(copy, [])) == settings_of(sweep.load("experiments/sweeps/demo.yaml", []))


def test_a_training_before_the_runs_is_named_seeded_and_placed_by_the_sweep() -> None:
    own = "{base: experiments/configs/clip_tiny_scenes.yaml, output_dir: elsewhere, logging: {wandb: disabled}}"
    words = ["name=other", "seed=5", f"prepare.encoder={{verb: train, config: {own}}}"]
    table = "out/scenes/train/captions.parquet"
    words += [f"prepare.encoder.config.data={{captions: {table}, negatives: {table}}}", "output_dir=out"]
    config = sweep.load("experiments/sweeps/demo.yaml", words)
    assert config.prepare["encoder"].config["model"]["backbone"] == "clip"
    (task,) = [task for task in plan(config) if task.name == "prepare/encoder"]
    assert task.verb == "train"
    for line in ("seed: 5", "output_dir: out/encoder", "group: other", "wandb: disabled"):
        assert line in task.config


def test_a_step_does_not_choose_its_folder() -> None:
    with pytest.raises(ConfigError, match=r"`prepare.filter.config.output_dir` is the sweep's, runs/demo/filter"):
        sweep.load("experiments/sweeps/demo.yaml", ["prepare.filter.config.output_dir=elsewhere"])


def test_a_missing_base_is_told_with_its_run() -> None:
    with pytest.raises(ConfigError, match=r"`runs\.filtered\.base` must be an existing file, got '.*nowhere\.yaml'"):
        sweep.load("experiments/sweeps/demo.yaml", ["runs.filtered.base=nowhere.yaml"])


def test_faults_of_all_runs_and_steps_are_one_error() -> None:
    words = ["experiment.optim.lr=-1", "prepare.filter.config.top_fraction=2", "runs.filtered.data.subset=best"]
    with pytest.raises(ConfigError) as caught:
        sweep.load("experiments/sweeps/demo.yaml", words)
    for text in ("optim.lr", "top_fraction", "data.subset"):
        assert text in str(caught.value)


def start_demo(output: Path, *words: str) -> BaseProcess:
    """Starts the demo at tiny size in a process of its own."""
    return start(output.with_suffix(".log"), main, ["demo", f"output_dir={output}", *TINY_DEMO, *words])


def wait_for(task: str, output: Path, process: BaseProcess) -> None:
    """Returns once the task has been started."""
    deadline = time.monotonic() + 240
    while states(output.parent, output.name).get(task, PENDING) == PENDING:
        assert process.is_alive(), output.with_suffix(".log").read_text()
        assert time.monotonic() < deadline, f"{task} did not start"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo at tiny size, killed twice on its way: in the middle of a training and between tasks."""
    output = tmp_path_factory.mktemp("demo") / "demo"
    for started in ("train/unfiltered", "evaluate/random_subset"):
        process = start_demo(output, "--resume=auto")
        wait_for(started, output, process)
        process.kill()
        process.join()
    times = {path: path.stat().st_mtime_ns for path in output.glob("runs/*/weights.safetensors")}
    assert times
    process = start_demo(output, "--resume=auto")
    process.join(400)
    assert process.exitcode == 0, output.with_suffix(".log").read_text()
    assert all(path.stat().st_mtime_ns == before for path, before in times.items()), "finished runs ran again"
    return output


def test_a_certificate_that_misses_stops_no_sweep(tmp_path: Path) -> None:
    filtering = Task("prepare/filter", "filter", "filter", "1", (), FilterConfig())
    training = Task("train/filter", "train", "filter", "2", (), ExperimentConfig())

    def missed(task: Task, code: int) -> bool:
        child = Child(task, tmp_path, Slot(None, None), hold(tmp_path / "claim"))
        child.process = SimpleNamespace(exitcode=code)
        return child.missed()

    assert not missed(filtering, 1)  # it failed before it wrote anything
    (tmp_path / "filter").mkdir()
    (tmp_path / "filter" / "verdicts.parquet").touch()
    assert missed(filtering, 1)
    assert not missed(filtering, 2)
    assert not missed(training, 1)


def test_what_a_sweep_does_with_a_step_is_said_by_the_row_of_its_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("audit", "filter", "train"):
        monkeypatch.setitem(TASKS, f"other_{name}", TASKS[name])
    own = "{base: experiments/configs/clip_tiny_scenes.yaml, data: {captions: out/c, negatives: out/c}}"
    tables = "{captions: out/c, negatives: out/c}"
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"output_dir: out\nname: mine\nprepare:\n  t: {{verb: train, config: {own}}}\n"
        f"  a: {{verb: audit, config: {tables}}}\n  f: {{verb: filter, config: {tables}}}\n"
    )
    config, renamed = sweep.load(path, []), sweep.load(path, [])
    for step in renamed.prepare.values():
        step.verb = f"other_{step.verb}"
    assert [task.config for task in plan(renamed)] == [task.config for task in plan(config)]


def preempted_sweep(path: Path) -> int:
    """A sweep that is signalled alone, while its first training is in its second step."""
    step, count = AlignmentModule.training_step, 0

    def training_step(self: AlignmentModule, *arguments: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == 2:
            listening = signal.getsignal(signal.SIGTERM).__self__
            os.kill(os.getppid(), signal.SIGTERM)
            # the sweep hands it on
            while listening.asked is None:
                time.sleep(0.01)
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AlignmentModule, "training_step", training_step)
        return main(["sweep", str(path), "--resume=auto"])


@pytest.mark.slow
def test_a_preempted_sweep_stops_with_its_training_and_goes_on_by_the_same_command(tmp_path: Path) -> None:
    tiny_tables(tmp_path / "scenes")
    path, log = tmp_path / "sweep.yaml", tmp_path / "log"
    data = {name: str(tmp_path / f"scenes/train/{name}.parquet") for name in ("captions", "negatives")}
    experiment = {"base": str(Path("experiments/configs/llava_tiny_scenes.yaml").absolute()), "data": data}
    held_out = {"balanced": {name: str(tmp_path / f"scenes/balanced/{name}.parquet") for name in data}}
    experiment |= {"evaluation": {"sets": held_out, "bootstrap": 100}}
    overrides = OmegaConf.from_dotlist([*TINY_OVERRIDES, "trainer.max_steps=4"])
    content = {"name": "mine", "output_dir": str(tmp_path / "out"), "logging": {"wandb": "disabled"}}
    merged = OmegaConf.merge(experiment, overrides)
    path.write_text(OmegaConf.to_yaml({**content, "experiment": merged, "runs": {"only": {}}}))
    stopped = start(log, preempted_sweep, path)
    stopped.join(200)
    assert stopped.exitcode == 75, log.read_text()
    assert "itm: preempted: train/only has stopped" in log.read_text()
    assert states(tmp_path) == {"train/only": PENDING, "evaluate/only": PENDING}
    assert torch.load(tmp_path / "out/runs/only/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    assert main(["sweep", str(path), "--resume=auto"]) == 0
    assert (tmp_path / "out/report/index.html").is_file()


@pytest.mark.slow
def test_a_sweep_killed_twice_ends_in_a_report(finished: Path) -> None:
    found = states(finished.parent, finished.name)
    assert {*found.values()} == {FINISHED}
    assert len(found) == 15
    page = (finished / "report/index.html").read_text()
    for text in ("unfiltered", "random_subset", "filtered", "balanced", "biased", "vibrant", "clip_filtered"):
        assert text in page


@pytest.mark.slow
def test_a_finished_sweep_runs_nothing_and_needs_a_flag(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "report/index.html").stat().st_mtime_ns
    words = ["demo", f"output_dir={finished}", *TINY_DEMO]
    assert main(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert "Report:" in capsys.readouterr().out
    assert (finished / "report/index.html").stat().st_mtime_ns == before


@pytest.mark.slow
def test_status_lists_every_task(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", f"output_dir={finished}", *TINY_DEMO, "--status"]) == 0
    printed = capsys.readouterr().out
    for task in json.loads((finished / "manifest.json").read_text())["tasks"]:
        assert task["name"] in printed
    assert printed.count(FINISHED) == 15


@pytest.mark.slow
def test_a_failing_run_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, file = tmp_path / "failing", tmp_path / "failing.yaml"
    shipped = Path("experiments/sweeps/demo.yaml").read_text()
    runs = "runs: {bad: {model.checkpoint: nowhere}, good: {data.subset: kept}}\n"
    file.write_text(shipped[: shipped.index("runs:\n")] + runs)
    words = [word for word in TINY_DEMO if not word.startswith("compare.")]
    assert main(["sweep", str(file), f"output_dir={output}", *words]) == 2
    found = states(tmp_path, "failing")
    assert found["train/bad"] == FAILED
    assert found["evaluate/good"] == FINISHED
    assert "train/bad" in capsys.readouterr().err
    page = (output / "report/index.html").read_text()
    assert "good" in page


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_in_one_line_and_it_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    process = start_demo(output)
    wait_for("train/unfiltered", output, process)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert output.with_suffix(".log").read_text().strip().splitlines()[-1] == "itm: interrupted"
    # the signal went to the sweep alone, which lets a training of a few seconds end
    assert states(tmp_path, "demo")["train/unfiltered"] in (PENDING, FINISHED)
