"""The mean score as a torchmetrics metric: what it keeps, and that ranks together equal one process."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torchmetrics import MetricCollection

from datamodules.batch import InputError
from lightning_modules import ImageTextScore, Scorer
from tests.backbones import BACKBONES, save_published
from tests.launch import run_on_two_ranks
from tests.tiny import CAPTIONS, photo

IMAGES = [photo(seed) for seed in range(5)]
UPDATES = [slice(0, 2), slice(2, 5), slice(1, 2)]
"""Uneven updates; the first rank takes one, the second two."""


def make_scorer() -> Scorer:
    return Scorer(BACKBONES["clip"].build(), device="cpu")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return make_scorer()


def slow_mean(scorer: Scorer, parts: list[slice]) -> float:
    scores = [
        scorer.score(image, caption)
        for part in parts
        for image, caption in zip(IMAGES[part], CAPTIONS[part], strict=True)
    ]
    return float(sum(scores) / len(scores))


def test_the_metric_is_the_mean_over_pairs_and_not_over_updates(scorer: Scorer) -> None:
    metric = ImageTextScore(scorer)
    for part in UPDATES:
        metric.update(IMAGES[part], CAPTIONS[part])
    metric.update(IMAGES[0], CAPTIONS[0])
    assert float(metric.compute()) == pytest.approx(slow_mean(scorer, [*UPDATES, slice(0, 1)]), abs=1e-6)
    means = [slow_mean(scorer, [part]) for part in [*UPDATES, slice(0, 1)]]
    assert float(metric.compute()) != pytest.approx(sum(means) / 4, abs=1e-3), (
        "the updates must differ for this to tell"
    )


def test_a_call_gives_the_mean_of_its_pairs_and_adds_them(scorer: Scorer) -> None:
    metric = ImageTextScore(scorer)
    for part in UPDATES:
        assert float(metric(IMAGES[part], CAPTIONS[part])) == pytest.approx(slow_mean(scorer, [part]), abs=1e-6)
    assert float(metric.compute()) == pytest.approx(slow_mean(scorer, UPDATES), abs=1e-6)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_reset_forgets_and_nothing_seen_is_nan(scorer: Scorer) -> None:
    metric = ImageTextScore(scorer)
    metric.update(IMAGES[0], CAPTIONS[0])
    metric.reset()
    assert torch.isnan(metric.compute())
    metric.update([], [])
    assert torch.isnan(metric.compute())


def test_bad_pairs_are_refused_and_add_nothing(scorer: Scorer) -> None:
    metric = ImageTextScore(scorer)
    metric.update(IMAGES[0], CAPTIONS[0])
    with pytest.raises(InputError, match="must be as many, got 2 and 3"):
        metric.update(IMAGES[:2], CAPTIONS[:3])
    assert int(metric.count) == 1


def test_only_a_sum_and_a_count_are_kept(scorer: Scorer) -> None:
    metric = ImageTextScore(scorer)
    metric.persistent(True)
    metric.update(IMAGES, CAPTIONS)
    assert set(metric.state_dict()) == {"total", "count"}
    assert list(metric.parameters()) == []
    assert metric.higher_is_better is True


def test_clones_and_collections_share_the_model(scorer: Scorer) -> None:
    metrics = MetricCollection({"itm": ImageTextScore(scorer)})
    cloned = metrics.clone(prefix="val_")
    cloned.update(IMAGES[:2], CAPTIONS[:2])
    assert cloned["itm"].scorer.module is scorer.module
    assert float(cloned.compute()["val_itm"]) == pytest.approx(slow_mean(scorer, [slice(0, 2)]), abs=1e-6)
    assert int(metrics["itm"].count) == 0
    assert copy.deepcopy(metrics["itm"]).scorer is scorer


def test_a_metric_travels_to_another_process(scorer: Scorer) -> None:
    metric = ImageTextScore(scorer)
    metric.update(IMAGES[0], CAPTIONS[0])
    other = pickle.loads(pickle.dumps(metric))
    other.update(IMAGES[1], CAPTIONS[1])
    assert float(other.compute()) == pytest.approx(slow_mean(scorer, [slice(0, 2)]), abs=1e-6)


def test_a_folder_stands_for_its_scorer(scorer: Scorer, tmp_path: Path) -> None:
    save_published(scorer.module, tmp_path)
    metric = ImageTextScore(tmp_path, batch_size=2)
    metric.update(IMAGES, CAPTIONS)
    assert float(metric.compute()) == pytest.approx(slow_mean(scorer, [slice(0, 5)]), abs=1e-5)


def update_on_a_rank(folder: Path) -> None:
    """Saves what both ranks compute after one update on the first and two on the second."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    metric = ImageTextScore(make_scorer())
    for part in (UPDATES[:1], UPDATES[1:])[rank]:
        metric.update(IMAGES[part], CAPTIONS[part])
    torch.save(metric.compute(), folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_with_uneven_updates_equal_one_process(scorer: Scorer, tmp_path: Path) -> None:
    run_on_two_ranks(tmp_path, __name__, f"update_on_a_rank(Path({str(tmp_path)!r}))")
    ranks = [float(torch.load(tmp_path / f"rank{rank}.pt")) for rank in range(2)]
    assert ranks[0] == ranks[1] == pytest.approx(slow_mean(scorer, UPDATES), abs=1e-6)
