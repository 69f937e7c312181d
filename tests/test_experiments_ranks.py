"""Which process a training is, and that all of them were started, by the variables that launchers set."""

from __future__ import annotations

import os
import re

import pytest

from experiments.config.trainer_schemas import TrainerConfig
from experiments.runs.ranks import check_launched, starts_ranks
from negatives.tables import InputError

SRUN = {"SLURM_PROCID": "0", "SLURM_JOB_NAME": "train.sh"}
BY_HAND = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that no launcher started."""
    names = r"(SLURM|TORCHELASTIC|OMPI|PMI|JSM|MASTER)_\w+|(WORLD_SIZE|(\w+_)?RANK)"
    for name in [name for name in os.environ if re.fullmatch(names, name)]:
        monkeypatch.delenv(name)


def started(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], **settings: int) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_launched(TrainerConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"MASTER_ADDR": "10.0.0.1"},
        {"NODE_RANK": "0"},
        # the shell of an allocation, from which nothing was started by srun
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "bash"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "interactive"},
    ],
)
def test_several_nodes_without_a_launcher_are_refused_instead_of_waited_for(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"^trainer\.num_nodes=2 needs a launcher, .* torchrun or srun") as caught:
        started(monkeypatch, variables, num_nodes=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "4", "RANK": "0"},
        {**SRUN, "SLURM_NTASKS": "4"},
        {**BY_HAND, "NODE_RANK": "1"},
        {"MASTER_ADDR": "10.0.0.1", "NODE_RANK": "0"},
        # a rank that Lightning's own launcher starts on a node
        {**BY_HAND, "NODE_RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4"},
        {"OMPI_COMM_WORLD_SIZE": "4"},
    ],
)
def test_several_nodes_are_started_by_a_launcher_or_by_hand(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started(monkeypatch, variables, devices=2, num_nodes=2)


@pytest.mark.parametrize(
    ("tasks", "settings"), [("1", {"devices": 2}), ("8", {}), ("2", {"devices": 2, "num_nodes": 2})]
)
def test_another_number_of_slurm_tasks_is_refused(
    tasks: str, settings: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = settings.get("devices", 1) * settings.get("num_nodes", 1)
    rule = rf"^Slurm started {tasks} processes, and trainer\.devices x trainer\.num_nodes is {expected};"
    with pytest.raises(InputError, match=rule):
        started(monkeypatch, {**SRUN, "SLURM_NTASKS": tasks}, **settings)


def test_torchrun_inside_slurm_counts_its_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "8", "RANK": "0"}
    started(monkeypatch, {**SRUN, "SLURM_NTASKS": "2", **torchrun}, devices=4, num_nodes=2)


def test_one_node_needs_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, {}, devices=4)
    started(monkeypatch, {"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "bash"}, devices=4)
    started(monkeypatch, {**SRUN, "SLURM_NTASKS": "1"})


@pytest.mark.parametrize(
    ("variables", "devices", "expected"),
    [
        ({}, 1, True),
        ({}, 2, True),
        ({"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "1", "RANK": "0"}, 1, True),
        ({"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "0"}, 2, False),
        ({**SRUN, "SLURM_NTASKS": "2"}, 2, False),
        # the second rank, of Lightning's own launcher
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, 2, False),
        ({**BY_HAND, "NODE_RANK": "0"}, 2, False),
    ],
)
def test_a_rank_that_others_wait_for_does_not_end_before_the_first_step(
    variables: dict[str, str], devices: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert starts_ranks(TrainerConfig(devices=devices)) == expected
