"""Paired accuracy against a slow loop, and merged over two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from datamodules.batch import ImageTextBatch
from lightning_modules import metrics
from lightning_modules.metrics import PairedAccuracy
from tests.launch import run_on_two_ranks

TYPES = ("replace_obj", "swap_att", "add_att")


def batch_of(labels: torch.Tensor, mask: torch.Tensor, types: list[list[str]]) -> ImageTextBatch:
    names = [[""] * labels.shape[1]] * len(labels)
    return ImageTextBatch([str(i) for i in range(len(labels))], names, labels, mask, types)


def random_batch(seed: int) -> tuple[torch.Tensor, ImageTextBatch]:
    """Logits with many ties, labels of all three kinds, and holes."""
    generator = torch.Generator().manual_seed(seed)
    shape = (5, 7)
    logits = torch.randint(0, 4, shape, generator=generator).float()
    labels = torch.randint(-1, 2, shape, generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.7
    kinds = torch.randint(0, len(TYPES), shape, generator=generator).tolist()
    types = [
        [TYPES[kind] if label == 0 else "" for kind, label in zip(row, row_labels, strict=True)]
        for row, row_labels in zip(kinds, labels.tolist(), strict=True)
    ]
    return logits, batch_of(labels, mask, types)


def slow(batches: list[tuple[torch.Tensor, ImageTextBatch]]) -> dict[str, float]:
    wins: dict[str, list[bool]] = {}
    for logits, batch in batches:
        rows, columns = logits.shape
        for row in range(rows):
            there = [c for c in range(columns) if batch.caption_mask[row, c]]
            for positive in (c for c in there if batch.labels[row, c] == 1):
                for negative in (c for c in there if batch.labels[row, c] == 0):
                    won = float(logits[row, positive]) > float(logits[row, negative])
                    wins.setdefault(batch.negative_type[row][negative], []).append(won)
    result = {name: sum(won) / len(won) for name, won in wins.items()}
    return {**result, "mean": sum(result.values()) / len(result)}


def plain(result: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in result.items()}


@pytest.mark.parametrize("seed", range(5))
def test_paired_accuracy_equals_a_slow_loop(seed: int) -> None:
    batches = [random_batch(10 * seed + index) for index in range(3)]
    metric = PairedAccuracy()
    for logits, batch in batches:
        metric.update(logits, batch)
    assert plain(metric.compute()) == pytest.approx(slow(batches))


def test_paired_accuracy_by_hand() -> None:
    metric = PairedAccuracy()
    labels = torch.tensor([[1, 0, 0, 1]])
    types = [["", "swap_obj", "replace_rel", ""]]
    metric.update(torch.tensor([[2.0, 1.0, 3.0, 4.0]]), batch_of(labels, torch.ones(1, 4, dtype=torch.bool), types))
    # swap_obj: 2 > 1 and 4 > 1; replace_rel: 2 < 3 and 4 > 3
    assert plain(metric.compute()) == {"swap_obj": 1.0, "replace_rel": 0.5, "mean": 0.75}


def test_ties_are_wrong() -> None:
    metric = PairedAccuracy()
    batch = batch_of(torch.tensor([[1, 0]]), torch.ones(1, 2, dtype=torch.bool), [["", "swap_obj"]])
    metric.update(torch.zeros(1, 2), batch)
    assert plain(metric.compute()) == {"swap_obj": 0.0, "mean": 0.0}


def test_cells_that_do_not_exist_are_ignored() -> None:
    logits, batch = random_batch(0)
    results = []
    for filler in (-100.0, float("nan"), 100.0):
        metric = PairedAccuracy()
        types = [
            [kind if there else "" for kind, there in zip(kinds, row, strict=True)]
            for kinds, row in zip(batch.negative_type, batch.caption_mask.tolist(), strict=True)
        ]
        hidden = batch_of(batch.labels, batch.caption_mask, types)
        metric.update(torch.where(batch.caption_mask, logits, filler), hidden)
        results.append(plain(metric.compute()))
    assert results[0] == results[1] == results[2] == pytest.approx(slow([(logits, batch)]))


def test_mean_weighs_types_alike_however_many_pairs_they_have() -> None:
    metric = PairedAccuracy()
    labels = torch.tensor([[1, 0, 0, 0, 0]])
    types = [["", "swap_obj", "swap_obj", "swap_obj", "add_obj"]]
    batch = batch_of(labels, torch.ones(1, 5, dtype=torch.bool), types)
    metric.update(torch.tensor([[1.0, 0, 0, 0, 2]]), batch)
    assert float(metric.compute()["mean"]) == 0.5


def test_two_processes_together_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [random_batch(seed) for seed in range(5)]
    ranks = PairedAccuracy(), PairedAccuracy()
    for index, (logits, batch) in enumerate(batches):
        ranks[index % 2].update(logits, batch)
    first, second = ranks
    gathered = iter([[first.right.clone(), second.right.clone()], [first.total.clone(), second.total.clone()]])

    def gather(tensor: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
        return next(gathered)

    monkeypatch.setattr(metrics, "gather_names", lambda names, **_: sorted({*names, *second.types}))
    first.dist_sync_fn, first.distributed_available_fn = gather, lambda: True
    assert plain(first.compute()) == pytest.approx(slow(batches))


DEALS: list[list[list[tuple[str, bool]]]] = [
    [[("swap_obj", True), ("Ünïcode 猫", False)], [("add_obj", True), ("swap_obj", False), ("zeta", True)]],
    [[("swap_obj", True)], []],
    [[], []],
]
"""For each rank, the types of its pairs, and whether the positive is above the negative."""


def metric_of(pairs: list[tuple[str, bool]]) -> PairedAccuracy:
    metric = PairedAccuracy()
    for name, right in pairs:
        batch = batch_of(torch.tensor([[1, 0]]), torch.ones(1, 2, dtype=torch.bool), [["", name]])
        metric.update(torch.tensor([[float(right), 0.5]]), batch)
    return metric


def count_on_this_rank(folder: Path) -> None:
    """Counts its own pairs of each deal, twice over, as validations of one training do."""
    distributed.init_process_group("gloo")
    rank, found = distributed.get_rank(), []
    for deal in DEALS:
        metric = metric_of(deal[rank])
        found.append([plain(metric.compute()), metric.types])
        metric.reset()
        metric.update(torch.tensor([[1.0, 0.0]]), batch_of(*PAIR, [["", f"rank {rank}"]]))
        found[-1].append(plain(metric.compute()))
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


PAIR = (torch.tensor([[1, 0]]), torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_ranks_that_have_met_different_types_count_them_all(tmp_path: Path) -> None:
    run_on_two_ranks(tmp_path, __name__, f"count_on_this_rank(Path({str(tmp_path)!r}))")
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for (accuracy, _, again), deal in zip(found, DEALS, strict=True):
            assert accuracy == pytest.approx(plain(metric_of([pair for pairs in deal for pair in pairs]).compute()))
            assert again == {"rank 0": 1.0, "rank 1": 1.0, "mean": 1.0}


def test_types_are_listed_by_name_whatever_came_first() -> None:
    assert list(metric_of([("b", True), ("c", True), ("a", False)]).compute()) == ["a", "b", "c", "mean"]
    assert plain(metric_of([("b", True), ("c", True), ("a", False)]).compute()) == {
        "a": 0.0,
        "b": 1.0,
        "c": 1.0,
        "mean": pytest.approx(2 / 3),
    }


def test_nothing_seen_gives_nothing() -> None:
    metric = PairedAccuracy()
    metric.update(torch.zeros(1, 2), batch_of(torch.tensor([[1, 1]]), torch.ones(1, 2, dtype=torch.bool), [["", ""]]))
    assert metric.compute() == {}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_reset_forgets() -> None:
    metric = PairedAccuracy()
    metric.update(*random_batch(0))
    metric.reset()
    assert metric.compute() == {}
