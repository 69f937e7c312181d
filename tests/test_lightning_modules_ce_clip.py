"""CE-CLIP's losses: the official code's vectors, slow loops, and thresholds that are part of a run's state."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_modules.base import AlignmentModule
from lightning_modules.losses.ce_clip import (
    CeClipLoss,
    CeClipSettings,
    CeClipTerms,
    ce_clip_terms,
    imc_loss,
    pair_logits,
)
from lightning_modules.losses.global_batch import ContrastLayout
from lightning_modules.losses.itc import itc_loss
from lightning_modules.losses.rank_thresholds import next_rank_thresholds
from lightning_modules.losses.table import build_loss
from tests.tiny import CAPTIONS, row
from tests.tiny_clip import tiny_clip_module

DTYPES = [torch.float64, torch.float32]
Vector = Mapping[str, Any]
Thresholds = Mapping[str, torch.Tensor]


def grid_layout(exists: torch.Tensor) -> ContrastLayout:
    """The layout of the official code: B captions, then K hard negatives of each; `exists` [B, K]."""
    batch, negatives = exists.shape
    place = torch.arange(batch)
    owners = place.repeat_interleave(negatives)
    labels = torch.where(exists.flatten().bool(), 0, -1)
    return ContrastLayout(
        anchor_images=place,
        anchor_texts=place,
        image_ids=place,
        text_image_ids=torch.cat([place, owners]),
        text_labels=torch.cat([torch.ones(batch, dtype=torch.long), labels]),
        hard_texts=batch + torch.arange(batch * negatives),
        hard_anchors=owners,
        hard_types=torch.arange(negatives).repeat(batch),
    )


def leaf(values: object, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


@pytest.fixture(scope="module")
def vectors(shared: Path) -> Vector:
    found: Vector = json.loads((shared / "vectors/loss_vectors.json").read_text(encoding="utf-8"))
    return found


def official_steps(vectors: Vector) -> list[Vector]:
    return [*vectors["cases"], *(step for sequence in vectors["threshold_sequences"] for step in sequence["steps"])]


def terms_of(step: Vector, dtype: torch.dtype) -> tuple[CeClipTerms, torch.Tensor, list[torch.Tensor]]:
    """The reference's terms of an official step, the total loss and its gradients."""
    settings, inputs = step["settings"], step["inputs"]
    leaves = [leaf(inputs[name], dtype) for name in ("image_features", "text_features")]
    terms = ce_clip_terms(
        leaves[0],
        leaves[1],
        torch.tensor([settings["logit_scale"]], dtype=dtype),
        grid_layout(torch.tensor(inputs["valid_caption_mask"])),
        torch.tensor(inputs["thresholds_in"], dtype=dtype),
        hard_negatives=settings["hardnegative"],
        reference=True,
    )
    weights = [settings[f"{name}_loss"] * settings[f"{name}_loss_weight"] for name in ("imc", "cmr")]
    total = terms.itc + weights[0] * terms.imc + weights[1] * terms.cmr
    return terms, total, list(torch.autograd.grad(total, leaves))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_reference_equals_the_official_losses_and_gradients(vectors: Vector, dtype: torch.dtype) -> None:
    tolerance = {"rel": 1e-9} if dtype == torch.float64 else {"rel": 1e-4}
    steps = official_steps(vectors)
    assert len(steps) == 5
    for step in steps:
        terms, total, gradients = terms_of(step, dtype)
        expected = step["outputs"]
        assert total.item() == pytest.approx(expected["total_loss"], **tolerance)
        for name in ("imc", "cmr"):
            if step["settings"][f"{name}_loss"]:
                value = getattr(terms, name).item()
                assert value == pytest.approx(expected[f"{name}_loss_unweighted"], **tolerance)
        for gradient, name in zip(gradients, ("grad_image_features", "grad_text_features"), strict=True):
            rtol, atol = (1e-9, 1e-12) if dtype == torch.float64 else (1e-3, 1e-5)
            torch.testing.assert_close(gradient, torch.tensor(expected[name], dtype=dtype), rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_thresholds_follow_the_official_sequence_from_step_to_step(vectors: Vector, dtype: torch.dtype) -> None:
    (sequence,) = vectors["threshold_sequences"]
    thresholds = torch.full((4,), sequence["initial_threshold"], dtype=dtype)
    for step in sequence["steps"]:
        torch.testing.assert_close(thresholds, torch.tensor(step["inputs"]["thresholds_in"], dtype=dtype))
        terms, _, _ = terms_of(step, dtype)
        thresholds = next_rank_thresholds(
            thresholds,
            terms.positive_logits,
            terms.negative_logits,
            terms.types,
            upper_bound=sequence["upper_bound"],
            anchor_logits=terms.anchor_logits,
        )
        expected = torch.tensor(step["outputs"]["thresholds_out_after_clamp"], dtype=dtype)
        tolerance = 1e-9 if dtype == torch.float64 else 1e-4
        torch.testing.assert_close(thresholds, expected, rtol=tolerance, atol=tolerance)
    assert int((thresholds > 0).sum()) == 3


def test_imc_is_the_state_of_january_2024_and_the_reference_the_newest_one(vectors: Vector) -> None:
    variants = vectors["imc_variants"]
    inputs, scale = variants["inputs"], torch.tensor([variants["logit_scale"]], dtype=torch.float64)
    images, texts = (torch.tensor(inputs[name], dtype=torch.float64) for name in ("image_features", "text_features"))
    captions, negatives = texts[: len(images)], texts[len(images) :]
    logits = pair_logits(images, captions, scale)
    revisions = {entry["revision"].split()[0]: entry["imc_loss"] for entry in variants["by_revision"]}
    assert imc_loss(captions, negatives, logits, scale).item() == pytest.approx(revisions["7f4433a"], rel=1e-9)
    newest = imc_loss(captions, negatives, logits, scale, reference=True).item()
    assert newest == pytest.approx(revisions["ef87eb7"], rel=1e-9)


def test_itc_on_hard_images_equals_the_official_negclip(vectors: Vector) -> None:
    (case,) = vectors["negclip"]
    images, texts = (leaf(case["inputs"][name], torch.float64) for name in ("image_features", "text_features"))
    place, scale = torch.arange(len(images)), torch.tensor([case["logit_scale"]], dtype=torch.float64)
    layout = grid_layout(torch.ones(len(images), 1))
    assert torch.equal(layout.text_image_ids, place.repeat(2))
    loss, _ = itc_loss(images, texts, scale, layout)
    assert loss.item() == pytest.approx(case["outputs"]["loss"], rel=1e-9)
    for leaf_, name in ((images, "grad_image_features"), (texts, "grad_text_features")):
        (gradient,) = torch.autograd.grad(loss, leaf_, retain_graph=True)
        torch.testing.assert_close(
            gradient, torch.tensor(case["outputs"][name], dtype=torch.float64), rtol=1e-9, atol=1e-12
        )


@dataclass
class Grid:
    """A random batch in the official layout, in float64: B captions with K hard negatives each, some of which exist."""

    exists: list[list[int]]
    seed: int = 0
    scale: float = 7.0
    leaves: list[torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.batch = len(self.exists)
        self.negatives = len(self.exists[0]) if self.exists else 0
        rng = np.random.default_rng(self.seed)
        sizes = (self.batch, self.batch * (1 + self.negatives))
        features = [F.normalize(torch.tensor(rng.normal(size=(size, 6))), dim=1) for size in sizes]
        thresholds = torch.tensor(rng.uniform(0, 3, self.negatives))
        self.leaves = [*(tensor.requires_grad_() for tensor in features), thresholds]
        self.leaves.append(torch.tensor([self.scale], dtype=torch.float64, requires_grad=True))

    def fast(self, **settings: bool) -> CeClipTerms:
        images, texts, thresholds, scale = self.leaves
        exists = torch.tensor(self.exists).view(self.batch, self.negatives)
        return ce_clip_terms(images, texts, scale, grid_layout(exists), thresholds, **settings)

    def slow(self, hard_negatives: bool, reference: bool) -> list[torch.Tensor]:
        """ITC, IMC and CMR cell by cell."""
        images, texts, thresholds, scale = self.leaves
        cells = [(i, k) for i in range(self.batch) for k in range(self.negatives)]
        existing = [cell for cell in cells if self.exists[cell[0]][cell[1]]]
        there = cells if reference else existing
        negative = {cell: texts[self.batch + index] for index, cell in enumerate(cells)}
        itc, imc = scale.sum() * 0, scale.sum() * 0
        for i in range(self.batch):
            own = scale[0] * images[i] @ texts[i]
            against = [scale[0] * images[i] @ texts[j] for j in range(self.batch)]
            if hard_negatives:
                against += [scale[0] * images[i] @ negative[cell] for cell in there]
            itc = itc + torch.logsumexp(torch.stack(against), 0) - own
            against = [scale[0] * texts[i] @ images[j] for j in range(self.batch)]
            itc = itc + torch.logsumexp(torch.stack(against), 0) - own
            similar = [scale[0] * texts[i] @ negative[cell] for cell in there]
            if similar and reference:
                imc = imc + torch.logsumexp(torch.stack(similar), 0) - similar[0]
            elif similar:
                imc = imc + torch.logsumexp(torch.stack([own, *similar]), 0) - own
        cmr = scale.sum() * 0
        for i, k in existing:
            gap = thresholds[k] + scale[0] * images[i] @ negative[i, k] - scale[0] * images[i] @ texts[i]
            cmr = cmr + gap.clamp(min=0)
        return [itc / (2 * self.batch), imc / self.batch, cmr / max(1, len(there))]


MASKS: dict[str, list[list[int]]] = {
    "all exist": [[1, 1, 1]] * 3,
    "some are missing": [[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]],
    "a row without any": [[0, 0], [1, 1], [0, 1], [1, 0], [1, 1]],
    "a type without any": [[1, 0], [1, 0]],
    "none exists": [[0, 0], [0, 0]],
    "one image": [[1, 1, 0]],
    "one negative": [[1]] * 4,
    "K = 0": [[], []],
}


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("hard_negatives", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_terms_and_gradients_are_those_of_a_slow_loop(name: str, hard_negatives: bool, reference: bool) -> None:
    for seed, scale in enumerate((1.0, 14.3, 100.0)):
        grid = Grid(MASKS[name], seed, scale)
        terms = grid.fast(hard_negatives=hard_negatives, reference=reference)
        found, expected = [terms.itc, terms.imc, terms.cmr], grid.slow(hard_negatives, reference)
        for value, slow_value in zip(found, expected, strict=True):
            torch.testing.assert_close(value, slow_value, rtol=1e-9, atol=1e-9)
        wanted = [grid.leaves[index] for index in (0, 1, 3)]
        gradients = torch.autograd.grad(sum(found), wanted)  # type: ignore[type-var]
        slow_gradients = torch.autograd.grad(sum(expected), wanted, allow_unused=True)  # type: ignore[type-var]
        for gradient, slow_gradient in zip(gradients, slow_gradients, strict=True):
            assert slow_gradient is not None
            torch.testing.assert_close(gradient, slow_gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["some are missing", "a row without any"])
def test_a_missing_negative_changes_nothing_but_the_reference(name: str) -> None:
    one, other = Grid(MASKS[name]), Grid(MASKS[name])
    gone = grid_layout(torch.tensor(MASKS[name])).text_labels == -1
    with torch.no_grad():
        other.leaves[1][gone] = F.normalize(torch.randn(int(gone.sum()), 6, dtype=torch.float64), dim=1)
    for reference in (False, True):
        same = [
            torch.equal(getattr(one.fast(reference=reference), term), getattr(other.fast(reference=reference), term))
            for term in ("itc", "imc", "cmr")
        ]
        assert same == ([False, False, True] if reference else [True, True, True])


def test_terms_of_one_pair_by_hand() -> None:
    """Image and caption at a cosine of 0.6, its negative at 0.8 of the image and 0 of the caption; scale 10."""
    images = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    texts = torch.tensor([[0.6, 0.8], [0.8, -0.6]], dtype=torch.float64)
    layout, scale = grid_layout(torch.ones(1, 1)), torch.tensor([10.0], dtype=torch.float64)
    terms = ce_clip_terms(images, texts, scale, layout, torch.tensor([1.5], dtype=torch.float64))
    assert terms.itc.item() == pytest.approx(math.log(1 + math.exp(8 - 6)) / 2)
    assert terms.imc.item() == pytest.approx(math.log(1 + math.exp(0 - 6)))
    assert terms.cmr.item() == pytest.approx(1.5 + 8 - 6)
    assert terms.right.tolist() == [False]


def test_terms_are_finite_on_logits_that_overflow_an_exponential() -> None:
    grid = Grid(MASKS["all exist"], scale=1e4)
    terms = grid.fast()
    total = terms.itc + terms.imc + terms.cmr
    gradients = torch.autograd.grad(total, grid.leaves[:2])
    assert all(bool(torch.isfinite(value).all()) for value in (total, *gradients))


def test_cosines_are_not_rounded_under_autocast() -> None:
    grid = Grid(MASKS["some are missing"])
    grid.leaves = [tensor.detach().float() for tensor in grid.leaves]
    plain = grid.fast()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = grid.fast()
    for term in ("itc", "imc", "cmr", "anchor_logits", "negative_logits"):
        assert torch.equal(getattr(plain, term), getattr(rounded, term)), term


LOGITS = (
    torch.tensor([5.0, 3.0, 1.0]),
    torch.tensor([1.0, 2.0, 9.0]),
    torch.tensor([0, 0, 2]),
)
"""Positives, negatives and types: two hard negatives of the first type, one of the third."""


def test_a_type_without_a_row_keeps_its_threshold() -> None:
    previous = torch.tensor([0.5, 0.7, 0.9])
    assert next_rank_thresholds(previous, *LOGITS).tolist() == pytest.approx([2.5, 0.7, 0.0])
    assert previous.tolist() == pytest.approx([0.5, 0.7, 0.9])


def test_thresholds_stay_between_zero_and_their_bound() -> None:
    assert next_rank_thresholds(torch.zeros(3), *LOGITS, upper_bound=2.0).tolist() == [2.0, 0.0, 0.0]


def test_in_the_reference_all_anchors_stand_against_a_types_negatives() -> None:
    anchors = torch.tensor([5.0, 3.0, 1.0, 11.0])
    assert next_rank_thresholds(torch.zeros(3), *LOGITS, anchor_logits=anchors).tolist() == [3.5, 0.0, 0.0]


def test_thresholds_may_follow_the_largest_gap_or_stay() -> None:
    assert next_rank_thresholds(torch.zeros(3), *LOGITS, mode="max").tolist() == pytest.approx([0.8, 0.0, 0.0])
    previous = torch.tensor([2.0, 30.0, 0.1])
    assert torch.equal(next_rank_thresholds(previous, *LOGITS, mode="fixed"), previous)
    with pytest.raises(ValueError, match=r"rank_threshold` must be one of mean, max, fixed, got 'median'"):
        build_loss("ce_clip", CeClipSettings(rank_threshold="median"), offers=["features"])


def test_thresholds_without_any_logits_stay() -> None:
    none = torch.tensor([])
    assert next_rank_thresholds(torch.tensor([0.4]), none, none, none.long()).tolist() == pytest.approx([0.4])


ROWS = [
    row(0, CAPTIONS[:3], [1, 0, 0], ["", "replace_obj", "swap_att"]),
    row(1, CAPTIONS[1:3], [1, 0], ["", "replace_obj"]),
    row(2, CAPTIONS[3:4], [1]),
    row(3, CAPTIONS[2:4], [1, 0], ["", "swap_att"]),
]


SEED = 12
"""Of a tiny CLIP whose positives are on average above their negatives."""


def trained(batch_size: int, rows: list[Any], seen: list[Thresholds], **settings: Any) -> AlignmentModule:
    """A tiny CLIP after training on rows in order; appends the thresholds after every batch to `seen`."""
    trainer = {"max_epochs": 1, **settings.pop("trainer", {})}
    module = tiny_clip_module(SEED, loss="ce_clip", lr=0.0, **settings)
    loader: DataLoader[Any] = DataLoader(rows, batch_size=batch_size, collate_fn=module.collator())  # type: ignore[arg-type]

    class Watch(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            seen.append(module.objective.remembered())

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    L.Trainer(accelerator="cpu", callbacks=[Watch()], **quiet, **trainer).fit(module, loader)  # type: ignore[arg-type]
    return module


def expected_thresholds(rows: list[Any]) -> dict[str, float]:
    """Mean difference of the logits of positives and negatives, type by type, pair by pair."""
    module = tiny_clip_module(SEED)
    gaps: dict[str, list[float]] = {}
    with torch.no_grad():
        for item in rows:
            positive, *negatives = module.logits(module.collator()([item]))[0].tolist()
            for name, logit in zip(item.negative_types[1:], negatives, strict=True):
                gaps.setdefault(name, []).append(positive - logit)
    return {name: min(10.0, max(0.0, sum(values) / len(values))) for name, values in gaps.items()}


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec|val_dataloader|in eval mode at the start)")
@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 1), (2, 2), (1, 4)])
def test_a_step_moves_each_threshold_by_all_of_its_batches(batch_size: int, accumulate: int) -> None:
    module = trained(batch_size, ROWS, [], trainer={"accumulate_grad_batches": accumulate})
    expected = expected_thresholds(ROWS)
    assert all(0 < value < 10 for value in expected.values())
    assert module.objective.remembered() == pytest.approx(expected, abs=1e-4)


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec|val_dataloader|in eval mode at the start)")
@pytest.mark.parametrize("reference", [False, True])
def test_thresholds_live_on_between_epochs_but_in_the_reference(reference: bool) -> None:
    steps: list[Thresholds] = []
    settings = CeClipSettings(initial_rank_threshold=0.25, reference=reference)
    rows = [ROWS[2], ROWS[0]]
    trained(1, rows, steps, loss_settings=settings, trainer={"max_epochs": 2})
    first, second, third, fourth = steps
    assert first == {}, "a row without negatives names no type"
    assert second == pytest.approx(expected_thresholds(ROWS[:1]), abs=1e-4)
    assert third == (dict.fromkeys(second, 0.25) if reference else second)
    assert fourth == second


def test_the_loss_is_the_weighted_sum_that_the_report_shows() -> None:
    settings = CeClipSettings(imc_weight=0.7, cmr_weight=0.4, initial_rank_threshold=2.0)
    module = tiny_clip_module(loss="ce_clip", loss_settings=settings).double()
    with torch.no_grad():
        loss, report = module.loss(module.collator()(ROWS))
    expected = report["itc/loss"] + 0.7 * report["imc/loss"] + 0.4 * report["cmr/loss"]
    assert loss.item() == pytest.approx(expected.item())
    assert min(report[f"{name}/loss"].item() for name in ("itc", "imc", "cmr")) > 0
    assert report["rank_threshold/swap_att"].item() == 2.0
    plain, _ = tiny_clip_module().double().loss(module.collator()(ROWS))
    assert report["itc/loss"].item() == pytest.approx(plain.item())


def test_the_reference_in_training_is_the_one_that_the_vectors_hold() -> None:
    """Two hard negatives for each of three images, two of which are copies: the official code takes them for others."""
    types = ("replace_obj", "swap_att")
    items = [row(image, CAPTIONS[image : image + 3], [1, 0, 0], ["", *types]) for image in (0, 1, 1)]
    settings = CeClipSettings(initial_rank_threshold=1.5, reference=True)
    module = tiny_clip_module(SEED, loss="ce_clip", loss_settings=settings).double()
    batch = module.collator()(items)
    with torch.no_grad():
        _, report = module.loss(batch)
        images, texts, scale = module.network(
            **{name: batch.inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")}
        )
    captions, negatives = texts[::3], texts[[1, 2, 4, 5, 7, 8]]
    grid = Grid([[1, 1]] * 3)
    grid.leaves = [images, torch.cat([captions, negatives]), torch.full((2,), 1.5, dtype=torch.float64), scale]
    expected = [value.item() for value in grid.slow(hard_negatives=True, reference=True)]
    assert [report[f"{name}/loss"].item() for name in ("itc", "imc", "cmr")] == pytest.approx(expected, rel=1e-9)
    careful = [value.item() for value in grid.slow(hard_negatives=True, reference=False)]
    assert careful[1] != pytest.approx(expected[1], rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"imc_weight": -1.0}, "imc_weight` must be >= 0.0, got -1.0"),
        ({"cmr_weight": math.nan}, "cmr_weight` must be >= 0.0, got nan"),
        (
            {"initial_rank_threshold": 20.0},
            "initial_rank_threshold` must be at most .*rank_threshold_bound`, got 20 and 10",
        ),
        ({"rank_threshold_bound": 0.0}, "rank_threshold_bound` must be > 0.0, got 0.0"),
    ],
)
def test_settings_that_make_no_loss_are_errors(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rf"^`model\.ce_clip\.{rule}$"):
        tiny_clip_module(loss="ce_clip", loss_settings=CeClipSettings(**settings))


def test_a_batch_without_a_negative_is_plain_contrast() -> None:
    rows = [row(0, CAPTIONS[:1]), row(1, CAPTIONS[1:2])]
    module = tiny_clip_module(loss="ce_clip")
    batch = module.collator()(rows)
    loss, report = module.loss(batch)
    assert report["imc/loss"].item() == report["cmr/loss"].item() == 0
    assert loss.item() == pytest.approx(tiny_clip_module().loss(batch)[0].item())
    loss.backward()


KEPT = {"swap_att": torch.tensor(0.125), "of some other data.": torch.tensor(3.0)}


def test_a_checkpoint_brings_its_thresholds_whatever_types_a_module_knows() -> None:
    module, fresh, other = (tiny_clip_module(loss="ce_clip") for _ in range(3))
    module.objective.recall(KEPT)
    other.objective.recall({"swap_att": torch.tensor(9.0), "replace_obj": torch.tensor(9.0)})
    for again in (fresh, other):
        for made in (module, again):
            made.trainable_only = True
        checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(checkpoint)
        again.on_load_checkpoint(checkpoint)
        again.load_state_dict(checkpoint["state_dict"], strict=again.strict_loading)
        assert again.objective.remembered() == KEPT


@pytest.mark.parametrize("trainable_only", [True, False])
def test_thresholds_of_former_checkpoints_stood_among_the_weights(trainable_only: bool) -> None:
    module, fresh = (tiny_clip_module(loss="ce_clip") for _ in range(2))
    module.trainable_only = fresh.trainable_only = trainable_only
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    names = ("replace_obj", "swap_att")
    checkpoint["state_dict"] |= {f"ce_clip.rank_thresholds.of.{name}": torch.tensor(0.5) for name in names}
    fresh.on_load_checkpoint(checkpoint)
    fresh.load_state_dict(checkpoint["state_dict"], strict=fresh.strict_loading)
    assert fresh.objective.remembered() == dict.fromkeys(names, 0.5)


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ({"loss_state": {"swap_att": torch.zeros(2)}}, "the rank thresholds of swap_att are no single numbers"),
        ({"loss_state": {"swap_att": "high"}}, "the rank thresholds of swap_att are no single numbers"),
        (
            {"state_dict": {"objective.rank_thresholds.swap_att": torch.zeros(())}},
            "unexpected objective.rank_thresholds",
        ),
        ({"state_dict": {"ce_clip.other": torch.zeros(())}}, "unexpected ce_clip.other"),
    ],
)
def test_what_is_no_threshold_is_refused(state: dict[str, dict[str, Any]], fault: str) -> None:
    module = tiny_clip_module(loss="ce_clip")
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    for part, values in state.items():
        checkpoint[part] = {**checkpoint.get(part, {}), **values}
    with pytest.raises(ValueError, match=f"does not fit the model: {fault}"):
        module.on_load_checkpoint(checkpoint)


def test_a_loss_without_thresholds_takes_no_checkpoint_that_has_some() -> None:
    module = tiny_clip_module(loss="itc")
    with pytest.raises(ValueError, match=r"unexpected state of the loss, of some other data\., swap_att"):
        module.on_load_checkpoint({"state_dict": module.state_dict(), "loss_state": KEPT})


def test_a_type_that_a_checkpoint_lacks_begins_anew_and_is_named_once() -> None:
    settings = CeClipSettings(initial_rank_threshold=0.75)
    module = tiny_clip_module(loss="ce_clip", loss_settings=settings)
    batch = module.collator()(ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_clip_module(loss="ce_clip").loss(batch)  # where no checkpoint is, nothing is missing
    module.objective.recall({"swap_att": torch.tensor(2.0)})
    with pytest.warns(UserWarning, match=r"no rank threshold of replace_obj; there it begins with 0\.75"):
        _, report = module.loss(batch)
    assert report["rank_threshold/swap_att"].item() == 2.0
    assert module.objective.remembered() == {"swap_att": 2.0, "replace_obj": 0.75}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.loss(batch)


def test_validation_moves_no_threshold() -> None:
    loss = CeClipLoss().eval()
    grid = Grid([[1], [1]])
    images, texts, _, scale = grid.leaves
    loss.rank_thresholds.meet(["a"])
    loss.contrast(images, texts, scale, grid_layout(torch.ones(2, 1)), anchors=2, hard_texts=2)
    loss.on_optimizer_step()
    assert loss.remembered() == {"a": 0.0}
