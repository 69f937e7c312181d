"""Parameter groups and the schedule at its corners."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_modules.optim import adamw_warmup_cosine, parameter_groups, warmup_cosine
from tests.tiny import tiny_module


def small_network() -> nn.ModuleDict:
    network = nn.ModuleDict(
        {"multi_modal_projector": nn.Linear(2, 3), "body": nn.Linear(3, 3), "norm": nn.LayerNorm(3)}
    )
    network["frozen"] = nn.Linear(3, 3).requires_grad_(False)
    return network


def group_of(network: nn.Module, groups: list[dict[str, object]], name: str) -> dict[str, object]:
    parameter = dict(network.named_parameters())[name]
    (found,) = [group for group in groups if any(parameter is p for p in group["params"])]  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(
    ("name", "lr", "weight_decay"),
    [
        ("body.weight", 1.0, 0.1),
        ("body.bias", 1.0, 0.0),
        ("norm.weight", 1.0, 0.0),
        ("norm.bias", 1.0, 0.0),
        ("multi_modal_projector.weight", 0.5, 0.1),
        ("multi_modal_projector.bias", 0.5, 0.0),
    ],
)
def test_matrices_decay_and_the_projector_has_its_own_rate(name: str, lr: float, weight_decay: float) -> None:
    network = small_network()
    groups = parameter_groups(network.named_parameters(), lr=1.0, weight_decay=0.1, projector_lr=0.5)
    group = group_of(network, groups, name)
    assert (group["lr"], group["weight_decay"]) == (lr, weight_decay)


def test_without_a_rate_of_its_own_the_projector_has_the_common_one() -> None:
    groups = parameter_groups(small_network().named_parameters(), lr=1.0, weight_decay=0.1)
    assert {group["lr"] for group in groups} == {1.0}


def test_a_projector_rate_of_zero_is_kept() -> None:
    network = small_network()
    groups = parameter_groups(network.named_parameters(), lr=1.0, weight_decay=0.1, projector_lr=0.0)
    assert group_of(network, groups, "multi_modal_projector.weight")["lr"] == 0.0


def test_every_trainable_parameter_is_in_one_group_and_no_frozen_one() -> None:
    module = tiny_module(train_vision=False)
    groups = parameter_groups(module.named_parameters(), lr=1.0, weight_decay=0.1, projector_lr=0.5)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]
    assert sorted(grouped) == sorted(id(parameter) for parameter in module.parameters() if parameter.requires_grad)
    assert len(groups) == 4


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"No parameter is trainable.*model\.tune and model\.adapter\.targets"):
        parameter_groups(small_network().requires_grad_(False).named_parameters(), lr=1.0, weight_decay=0.1)


def test_schedule_at_its_corners() -> None:
    def factor(step: int) -> float:
        return warmup_cosine(step, total_steps=110, warmup_steps=10)

    assert factor(0) == pytest.approx(0.1), "the first step moves"
    assert factor(4) == pytest.approx(0.5)
    assert factor(9) == factor(10) == 1.0
    assert factor(35) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert factor(60) == pytest.approx(0.5)
    assert factor(109) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))
    assert factor(110) == factor(500) == 0.0


def test_schedule_without_warmup_starts_at_one() -> None:
    assert warmup_cosine(0, total_steps=4, warmup_steps=0) == 1.0


def test_schedule_of_one_step_moves() -> None:
    for warmup_steps in (0, 1):
        assert warmup_cosine(0, total_steps=1, warmup_steps=warmup_steps) == 1.0


def test_steps_of_warm_up_overrule_the_ratio() -> None:
    groups = parameter_groups(small_network().named_parameters(), lr=1.0, weight_decay=0.0)
    rule = {"betas": (0.9, 0.999), "total_steps": 30, "warmup_ratio": 0.1}
    for warmup_steps, expected in ((None, 1 / 3), (5, 0.2), (0, 1.0)):
        _, schedule = adamw_warmup_cosine(groups, warmup_steps=warmup_steps, **rule)  # type: ignore[arg-type]
        assert schedule.get_last_lr() == pytest.approx([expected] * len(groups))


def test_rates_of_the_optimiser_follow_the_schedule() -> None:
    network = small_network()
    groups = parameter_groups(network.named_parameters(), lr=1.0, weight_decay=0.1, projector_lr=0.5)
    optimizer, schedule = adamw_warmup_cosine(groups, betas=(0.8, 0.95), total_steps=30, warmup_ratio=0.1)
    base = [group["lr"] for group in groups]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["betas"] == (0.8, 0.95) for group in optimizer.param_groups)
    for step in range(31):
        # ceil(0.1 * 30) = 3 steps of warm-up
        factor = (step + 1) / 3 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / 27))
        expected = [lr * factor for lr in (0.5, 0.5, 1.0, 1.0)]
        assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx(expected, abs=1e-9)
        optimizer.step()
        schedule.step()
    assert sorted(base) != sorted(group["lr"] for group in optimizer.param_groups)
