"""Tasks known by what they compute, and configurations that are checked by what differs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from experiments.config.layers import ConfigError, nested
from experiments.config.load import load_mapping, read_yaml
from experiments.config.schemas import ExperimentConfig
from experiments.sweeping import resolve
from experiments.sweeping.plan import merged, plan
from experiments.sweeping.resolve import Resolver
from experiments.verbs import sweep
from tests.sweeps import write_sweep
from tests.tiny import tiny_tables

VALUES: dict[str, list[Any]] = {
    "seed": [0, 1, -1, "x", 2**40, True, None],
    "name": ["a", "b", "../c", 3],
    "output_dir": ["out/x", "out/y", "${name}", "a\0b"],
    "optim.lr": [0.1, 1, "1e-3", "fast", 0, float("nan"), None],
    "optim.projector_lr": [None, 0.5],
    "optim.betas": [[0.9, 0.99], [0.9]],
    "optim.nothing": [1],
    "data.captions": ["out/made.parquet", "nowhere.parquet"],
    "data.validation": [None],
    "data.mixing.negatives": [1, 0, 2.5],
    "data.mixing.image_dropout": [0.0, 0.5],
    "model.backbone": ["clip", "llava", "blop"],
    "model.loss": ["ce_clip", "nothing"],
    "trainer.max_steps": [5, 2.0, 1, True],
    "trainer.keep_best": [0, 1],
    "evaluation.sets": [{"x": {"captions": "out/a", "negatives": "out/b"}}],
    "trainer": [3],
}


def checked(mapping: dict[str, Any]) -> tuple[ExperimentConfig | None, tuple[str, ...]]:
    """The configuration that is checked in full, or what is wrong with it."""
    try:
        return load_mapping(ExperimentConfig, mapping, "here", made_in=Path("out")), ()
    except ConfigError as error:
        return None, error.faults


@pytest.mark.parametrize("backbone", ["llava", "clip"])
def test_a_configuration_checked_by_what_differs_is_the_one_checked_in_full(backbone: str) -> None:
    base = read_yaml(f"experiments/configs/{backbone}_tiny_scenes.yaml")
    tables = {"captions": "out/captions.parquet", "negatives": "out/negatives.parquet"}
    base = merged(base, {"data": tables, "output_dir": "out/runs/a"})
    draw, resolver = random.Random(0), Resolver(ExperimentConfig, Path("out"))
    right = 0
    for _ in range(150):
        keys = draw.sample(list(VALUES), draw.choice([0, 1, 1, 2]))
        mapping = merged(base, nested({key: draw.choice(VALUES[key]) for key in keys}))
        wanted, faults = checked(mapping)
        if wanted is None:
            with pytest.raises(ConfigError) as caught:
                resolver.resolve(mapping, "here")
            assert caught.value.faults == faults, mapping
            continue
        assert resolver.resolve(mapping, "here") == wanted, mapping
        right += 1
    assert 40 < right < 140


def test_a_thousand_runs_are_not_a_thousand_full_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_tables(tmp_path / "scenes")
    path = write_sweep(tmp_path, grid={"seed": [*range(100)], "optim.lr": [0.1 * n for n in range(1, 11)]})
    count, check = 0, resolve.load_mapping

    def counted(*arguments: Any, **further: Any) -> Any:
        nonlocal count
        count += 1
        return check(*arguments, **further)

    monkeypatch.setattr(resolve, "load_mapping", counted)
    config = sweep.load(path, [])
    # one of each verb: training, evaluation, comparison
    assert count == 3
    assert len(plan(config)) == 2000
    assert count == 3, "the plan of what was checked is there"


@pytest.fixture
def keys(tmp_path: Path) -> Any:
    """Name of a task -> its key, of a sweep's content."""
    tiny_tables(tmp_path / "scenes")

    def found(**content: Any) -> dict[str, str]:
        return {task.name: task.key for task in plan(sweep.load(write_sweep(tmp_path, **content), []))}

    return found


def test_keys_are_of_what_is_computed(keys: Any) -> None:
    runs = {"a": {}, "b": {"optim.lr": 0.01}}
    before = keys(runs=runs)
    assert len({*before.values()}) == 4
    for same in ({"name": "other"}, {"logging": {"project": "x"}}, {"compare": {"title": "x"}}, {"workers": 3}):
        assert keys(runs=runs, **same) == before
    assert keys(runs={"b": runs["b"], "a": {"optim.lr": 1e-3}})["train/b"] == before["train/b"]
    renamed = keys(runs={"c": runs["a"]})
    assert renamed["train/c"] == before["train/a"]
    assert renamed["evaluate/c"] != before["evaluate/a"], "it holds the name"
    longer = keys(runs=runs, experiment={"evaluation": {"bootstrap": 200}})
    assert longer["train/a"] == before["train/a"]
    assert longer["evaluate/a"] != before["evaluate/a"]
    other = keys(runs=runs, experiment={"trainer": {"max_steps": 3}})
    assert all(other[name] != before[name] for name in before)


def test_two_runs_that_are_the_same_work_are_refused(keys: Any) -> None:
    for twins in ({"a": {}, "b": {}}, {"a": {"seed": 0}, "b": {}}):
        with pytest.raises(ConfigError, match=r"train/a and train/b are the same work: .* Change one") as caught:
            keys(runs=twins)
        assert len(caught.value.faults) == 1


def test_a_fault_of_many_runs_is_one_line(keys: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        keys(grid={"seed": [0, 1, 2], "optim.lrr": [1]})
    (fault,) = caught.value.faults
    assert fault.endswith("`optim.lr`? (train/seed=0-lrr=1 and 2 more)")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"exclude": [{"seed": 0}], "grid": {"seed": [0]}}, "`exclude` must leave a run, and leaves none"),
        ({"grid": {"name": ["a", "b"]}}, r"`grid\.name` must be left out: the sweep names each run"),
        (
            {"grid": {"optim.lr": [1]}, "variants": {"size": {"s": {"optim.lr": 2}}}},
            r"`grid\.optim\.lr` must be left out of `grid` or of `variants`",
        ),
        ({"variants": {"run": {"a": {"seed": 1}}}}, r"`variants\.run` must have another name"),
        ({"compare": {"runs": ["x"]}}, r"`compare\.runs` is the sweep's: leave it out"),
    ],
)
def test_what_would_do_nothing_is_refused(content: dict[str, Any], said: str, keys: Any) -> None:
    with pytest.raises(ConfigError, match=said):
        keys(**content)


def test_a_sweep_of_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("\n")
    with pytest.raises(ConfigError, match="a sweep must have `runs`, an `experiment` or `prepare`"):
        sweep.load(tmp_path / "empty.yaml", [])


def test_a_nested_value_of_another_type_is_another_value() -> None:
    base = read_yaml("experiments/configs/clip_tiny_scenes.yaml")
    base = merged(base, {"data": {"captions": "out/c", "negatives": "out/n"}, "output_dir": "out/runs/a"})
    resolver = Resolver(ExperimentConfig, Path("out"))
    resolver.resolve(merged(base, {"trainer": {"max_steps": 1}}), "here")
    with pytest.raises(ConfigError, match=r"`trainer\.max_steps` must be"):
        resolver.resolve(merged(base, {"trainer": {"max_steps": True}}), "here")


def test_a_set_that_validations_score_is_of_the_training(keys: Any) -> None:
    validated = {"trainer": {"validate_benchmarks": ["balanced"], "validate_every": 1}}
    experiment = {"data": {"validation": dict.fromkeys(("captions", "negatives"), "README.md")}}
    one = keys(experiment={**experiment, **validated})
    other = keys(experiment={**experiment, **validated, "evaluation": {"sets": {"balanced": {"image_root": "/"}}}})
    assert one["train/mine"] != other["train/mine"]


def test_a_task_needs_those_whose_folders_it_names(tmp_path: Path) -> None:
    tiny_tables(tmp_path / "scenes")
    step = {"verb": "generate", "config": {"generator": "scenes"}}
    made = {"data.captions": str(tmp_path / "out/made/train/captions.parquet")}
    after = {"model.checkpoint": str(tmp_path / "out/runs/reads")}
    path = write_sweep(tmp_path, prepare={"made": step}, runs={"reads": made, "not": {}, "after": after})
    needs = {task.name: task.needs for task in plan(sweep.load(path, []))}
    assert needs["train/reads"] == ("prepare/made",)
    assert needs["train/not"] == ()
    assert needs["train/after"] == ("train/reads",)
    assert needs["evaluate/reads"] == ("train/reads",)


def test_all_faults_of_a_sweep_are_one_error(tmp_path: Path) -> None:
    tiny_tables(tmp_path / "scenes")
    path = write_sweep(
        tmp_path,
        grid={"optim.lr": [0.1, "fast", 0.2], "optim.rl": [1], "seed": [0, -1]},
        prepare={"runs": {"verb": "generate"}},
        compare={"live": 3, "titel": "x"},
    )
    with pytest.raises(ConfigError) as caught:
        sweep.load(path, [])
    for text in (
        "`optim.lr` must be float, got 'fast'",
        "`optim.rl` is no known key",
        "`seed` must be in [0",
        "`compare.live` must be true or false, got 3",
    ):
        assert text in str(caught.value)
    assert "titel" in str(caught.value)
    assert "`prepare` names must not be" in str(caught.value)
