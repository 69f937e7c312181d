"""Which runs a sweep has, and what they are called."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.config.layers import ConfigError
from experiments.config.load import load_config
from experiments.config.sweep_schemas import SweepConfig
from experiments.sweeping.points import points


def found(*words: str, **content: Any) -> list[Any]:
    config = load_config(SweepConfig, None, list(words))
    for key, value in {"experiment": {"seed": 0}, **content}.items():
        setattr(config, key, value)
    return points(config)


def names(*words: str, **content: Any) -> list[str]:
    return [point.name for point in found(*words, **content)]


def test_the_grid_is_run_for_every_listed_run() -> None:
    grid = {"optim.lr": [0.1, 0.2], "seed": [3]}
    assert names(runs={"a": {}, "b": {}}, grid=grid) == [
        *("a-lr=0.1-seed=3", "a-lr=0.2-seed=3", "b-lr=0.1-seed=3", "b-lr=0.2-seed=3")
    ]
    point = found(runs={"a": {}, "b": {}}, grid=grid)[3]
    assert (point.run, point.changes, point.arm) == ("b", {"optim.lr": 0.2, "seed": 3}, "b-lr=0.2")


def test_a_sweep_without_axes_is_one_run_and_one_of_steps_none() -> None:
    assert names() == ["sweep"]
    assert names(experiment={}) == []


def test_named_values_name_the_runs() -> None:
    variants = {"size": {"small": {"model.tiny.layers": 2}, "large": {"model.tiny.layers": 4, "optim.lr": 1e-5}}}
    every = found(variants=variants, grid={"seed": [0, 1]})
    assert [point.name for point in every] == ["small-seed=0", "small-seed=1", "large-seed=0", "large-seed=1"]
    assert every[2].changes == {"model.tiny.layers": 4, "optim.lr": 1e-5, "seed": 0}
    assert every[2].arm == "large"


def test_zipped_axes_advance_together() -> None:
    grid = {"optim.lr": [0.1, 0.2], "seed": [0, 1], "trainer.max_steps": [10, 20]}
    every = names(grid=grid, zip=[["optim.lr", "trainer.max_steps"]])
    assert every == [
        f"lr={lr}-seed={seed}-max_steps={steps}" for lr, steps in ((0.1, 10), (0.2, 20)) for seed in (0, 1)
    ]
    variants = {"size": {"small": {}, "large": {}}}
    every = names(variants=variants, grid={"optim.lr": [0.1, 0.2]}, zip=[["size", "optim.lr"]])
    assert every == ["small-lr=0.1", "large-lr=0.2"]


def test_points_are_left_out_and_added() -> None:
    grid, runs = {"optim.lr": [0.1, 0.2], "seed": [0, 1]}, {"a": {}, "b": {}}
    every = names(grid=grid, runs=runs, exclude=[{"optim.lr": 0.2, "run": "a"}, {"seed": 1, "optim.lr": 0.1}])
    assert every == ["a-lr=0.1-seed=0", "b-lr=0.1-seed=0", "b-lr=0.2-seed=0", "b-lr=0.2-seed=1"]
    every = names(grid={"seed": [0]}, runs=runs, include=[{"seed": 5, "optim.lr": 0.5}, {"run": "b", "seed": 6}])
    assert every == ["a-seed=0", "a-seed=5-lr=0.5", "b-seed=0", "b-seed=5-lr=0.5", "b-seed=6"]
    variants = {"size": {"small": {"seed": 1}, "large": {"seed": 2}}}
    every = found(variants=variants, exclude=[{"size": "small"}], include=[{"size": "small", "optim.lr": 0.5}])
    assert [(point.name, point.changes) for point in every] == [
        *(("large", {"seed": 2}), ("small-lr=0.5", {"seed": 1, "optim.lr": 0.5}))
    ]


def test_names_are_short_and_tell_apart() -> None:
    grid = {"model.lora.rank": [1], "model.other.rank": [2], "seed": [0]}
    assert names(grid=grid) == ["lora.rank=1-other.rank=2-seed=0"]


def test_an_axis_on_the_command_line_is_the_files_or_a_further_one() -> None:
    config = load_config(SweepConfig, None, ["grid.model.loss=[lm,binary]", "grid.seed=[0,1]"])
    config.experiment = {"seed": 0}
    assert [point.name for point in points(config)] == [
        f"loss={loss}-seed={n}" for loss in ("lm", "binary") for n in (0, 1)
    ]
    config.grid = {"model.loss": ["listwise"], **config.grid}
    assert [point.changes["model.loss"] for point in points(config)] == ["lm", "lm", "binary", "binary"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"grid": {"seed": 3}}, r"`grid.seed` must be a list of values, got 3: `grid: \{seed: \[1, 2\]\}`, or"),
        ({"grid": {"seed": []}}, "`grid.seed` must be a list of values"),
        ({"grid": {"seed": [0, 0]}}, "run names must differ, got 'seed=0' twice"),
        ({"grid": {"seed": [0]}, "include": [{"seed": 0}]}, "run names must differ, got 'seed=0' twice"),
        ({"grid": {"optim.lr": ["a/b", "a_b"]}}, "run names must differ, got 'lr=a_b' twice"),
        ({"zip": [["seed", "optim.lr"]], "grid": {"seed": [0]}}, r"`zip` must name axes .*\(seed\), got 'optim.lr'"),
        ({"zip": [["seed", "b"]], "grid": {"seed": [0], "b": [1, 2]}}, "equally many values: seed has 1, b has 2"),
        ({"zip": [["a", "b"], ["a"]], "grid": {"a": [0], "b": [1]}}, "`zip` must name an axis once, got 'a' twice"),
        ({"exclude": [{"seed": 7}], "grid": {"seed": [0]}}, "`exclude.0` must leave out a point, and none is"),
        ({"exclude": [{}], "grid": {"seed": [0]}}, "`exclude.0` must leave out a point"),
        ({"exclude": [{"lr": 7}], "grid": {"seed": [0]}}, r"`exclude.0` must name axes \(run, seed\), got 'lr'"),
        ({"include": [{"run": "c"}], "runs": {"a": {}}}, r"`include.0.run` must be one of `runs` \(a\), got 'c'"),
        ({"variants": {"size": {}}}, "`variants.size` must name at least one value"),
        ({"variants": {"size": {"../x": {}}}}, "`variants.size` names must be a file's name"),
        ({"variants": {"seed": {"a": {}}}, "grid": {"seed": [0]}}, "`grid.seed` must not be an axis twice"),
        ({"runs": {"../a": {}}}, "`runs` names must be a file's name"),
    ],
)
def test_axes_that_cannot_be_are_one_line(content: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        names(**content)
