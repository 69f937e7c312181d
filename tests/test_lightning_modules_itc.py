"""The contrast over the global batch: against a slow loop, and the same on two ranks as in one process."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from datamodules.batch import ImageTextRow
from lightning_modules.losses.ce_clip import CeClipSettings
from lightning_modules.losses.global_batch import (
    ContrastLayout,
    gather_rows,
    identity_hashes,
    local_layout,
    own_rows,
    rank_sizes,
)
from lightning_modules.losses.itc import itc_loss
from tests.launch import run_on_two_ranks
from tests.tiny import CAPTIONS, one_step, row
from tests.tiny_clip import tiny_clip_module

Rows = list[tuple[str, list[int]]]
"""For each row of a batch, the image_id and the labels of its texts."""


@dataclass
class Contrast:
    """The arguments of `itc_loss` for some rows, with random features in float64."""

    rows: Rows
    images: torch.Tensor
    texts: torch.Tensor
    scale: torch.Tensor

    def value(self) -> tuple[torch.Tensor, torch.Tensor]:
        ids = identity_hashes([image_id for image_id, _ in self.rows])
        owners = [index for index, (_, labels) in enumerate(self.rows) for _ in labels]
        anchors = [index for index, (_, labels) in enumerate(self.rows) if labels[0] == 1]
        none = torch.tensor([], dtype=torch.long)
        layout = ContrastLayout(
            anchor_images=torch.tensor(anchors, dtype=torch.long),
            anchor_texts=torch.tensor([owners.index(index) for index in anchors], dtype=torch.long),
            image_ids=ids,
            text_image_ids=ids[owners],
            text_labels=torch.tensor([label for _, labels in self.rows for label in labels]),
            hard_texts=none,
            hard_anchors=none,
            hard_types=none,
        )
        return itc_loss(self.images, self.texts, self.scale, layout)

    def leaves(self) -> list[torch.Tensor]:
        return [self.images, self.texts, self.scale]


def contrast(rows: Rows, seed: int = 0) -> Contrast:
    rng = np.random.default_rng(seed)
    sizes = (len(rows), sum(len(labels) for _, labels in rows))
    images, texts = (F.normalize(torch.tensor(rng.normal(size=(size, 5))), dim=1).requires_grad_() for size in sizes)
    return Contrast(rows, images, texts, torch.tensor([7.0], dtype=torch.float64, requires_grad=True))


def slow_loss(
    rows: Rows, images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, list[bool]]:
    """The definition, text by text: -log(e^own / sum of what may stand in the denominator), both ways."""
    cells = [(place, column) for place, (_, labels) in enumerate(rows) for column in range(len(labels))]
    total, right, anchors = scale.sum() * 0, [], 0
    for place, (image_id, labels) in enumerate(rows):
        if labels[0] != 1:
            continue
        anchors += 1
        own = cells.index((place, 0))
        own_logit = scale[0] * images[place] @ texts[own]
        against = []
        for text, (other, column) in enumerate(cells):
            other_id, label = rows[other][0], rows[other][1][column]
            if text == own or label == 0 or (label == 1 and other_id != image_id):
                against.append(scale[0] * images[place] @ texts[text])
        right.append(all(bool(logit <= own_logit) for logit in against))
        total = total + torch.logsumexp(torch.stack(against), 0) - own_logit
        against = [
            scale[0] * texts[own] @ images[other]
            for other, (other_id, _) in enumerate(rows)
            if other == place or other_id != image_id
        ]
        total = total + torch.logsumexp(torch.stack(against), 0) - own_logit
    return total / (2 * max(1, anchors)), right


CASES: dict[str, Rows] = {
    "two negatives each": [(name, [1, 0, 0]) for name in "abcd"],
    "uneven": [("a", [1, 0]), ("b", [1]), ("c", [1, 0, 0, 0])],
    "no negatives": [("a", [1]), ("b", [1]), ("c", [1])],
    "one image": [("a", [1, 0, 0])],
    "all negatives unknown": [("a", [1, -1]), ("b", [1, -1, -1])],
    "several captions of an image in a row": [("a", [1, 1, 0]), ("b", [1, 0, 1])],
    "an image in several rows": [("a", [1, 0]), ("b", [1, 0]), ("a", [1, 0]), ("a", [1, 1, 0])],
    "rows without an anchor": [("a", [1, 0]), ("b", [0, 1]), ("c", [-1, 0]), ("d", [0]), ("a", [0, 1])],
}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_and_its_gradient_are_those_of_a_slow_loop(name: str) -> None:
    fast, slow = contrast(CASES[name]), contrast(CASES[name])
    loss, right = fast.value()
    expected, expected_right = slow_loss(slow.rows, *slow.leaves())
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert right.tolist() == expected_right
    gradients = zip(torch.autograd.grad(loss, fast.leaves()), torch.autograd.grad(expected, slow.leaves()), strict=True)
    for gradient, expected_gradient in gradients:
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-12, rtol=0)


def test_two_pairs_by_hand() -> None:
    """Scale 1; image a is at 90 degrees of text b: both softmaxes are over (1, 0)."""
    features = torch.eye(2, dtype=torch.float64)
    loss, right = Contrast([("a", [1]), ("b", [1])], features, features, torch.ones(1)).value()
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-1)))
    assert right.tolist() == [True, True]


@pytest.mark.parametrize("rows", [[("a", [1])], [("a", [1, -1]), ("a", [1])], [("a", [0, 1]), ("b", [-1])]])
def test_the_loss_is_a_connected_zero_where_nothing_stands_against_an_anchor(rows: Rows) -> None:
    case = contrast(rows)
    loss, _ = case.value()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    for gradient in torch.autograd.grad(loss, case.leaves()):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_texts_of_unknown_label_get_no_gradient() -> None:
    case = contrast([("a", [1, -1]), ("b", [1, 0])])
    case.value()[0].backward()
    assert case.texts.grad is not None
    assert (case.texts.grad.abs().sum(1) > 0).tolist() == [True, False, True, True]


def test_a_second_positive_stands_against_other_images_and_not_against_its_own() -> None:
    alone, with_it = contrast([("a", [1]), ("b", [1])]), contrast([("a", [1, 1]), ("b", [1])])
    alone.texts, alone.images = with_it.texts[[0, 2]], with_it.images
    difference = with_it.value()[0] - alone.value()[0]
    gradient = torch.autograd.grad(difference, with_it.images)[0]
    assert bool((gradient[0].abs() < 1e-12).all())
    assert bool((gradient[1].abs() > 1e-3).any())


def test_cosines_are_not_rounded_under_autocast() -> None:
    case = contrast(CASES["uneven"])
    case.images, case.texts, case.scale = (leaf.detach().float() for leaf in case.leaves())
    plain, _ = case.value()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(case.value()[0], plain)


def test_identities_do_not_depend_on_the_process() -> None:
    assert identity_hashes(["image-0", "Ünïcode 猫"]).tolist() == [4144742739888525164, 8578982332446075331]


def test_one_process_gathers_nothing() -> None:
    tensor = torch.arange(3.0, requires_grad=True)
    ((size,),) = rank_sizes(len(tensor))
    assert size == 3
    assert gather_rows(tensor, [size]) is tensor
    assert own_rows([size]) == slice(0, 3)


def uneven_rows() -> list[list[ImageTextRow]]:
    """Three rows for the first rank, two for the second: repeated images, several captions, unknown labels.

    The ranks meet different types, whose names no attribute of a module could have.
    """
    return [
        [
            row(0, CAPTIONS[:3], [1, 0, 0], ["", "replace_obj", "swap obj."]),
            row(1, CAPTIONS[3:4]),
            row(2, CAPTIONS[1:5], [1, 1, 0, -1]),
        ],
        [row(0, CAPTIONS[1:3], [1, 0], ["", "training"]), row(3, CAPTIONS[2:4], [0, 1])],
    ]


def rows_without_anchors_on_the_second_rank() -> list[list[ImageTextRow]]:
    return [uneven_rows()[0], [row(0, CAPTIONS[1:3], [0, 1]), row(3, CAPTIONS[2:4], [-1, 0])]]


def rows_with_blind_logits() -> list[list[ImageTextRow]]:
    """As in a training with `data.debias`, where every row has them."""
    logits = [1.5, -2.0, 0.5, -1.0]
    return [[replace(item, blind_logit=logits[: len(item.labels)]) for item in rank] for rank in uneven_rows()]


TYPES = {"replace_obj", "swap obj.", "training"}
ROWS = {
    "uneven": uneven_rows,
    "anchors on one rank": rows_without_anchors_on_the_second_rank,
    "blind logits": rows_with_blind_logits,
}


def test_hard_negatives_are_the_false_texts_of_rows_with_an_anchor() -> None:
    module = tiny_clip_module()
    rows = [
        row(0, CAPTIONS[:3], [1, 0, -1], ["", "swap_obj", ""]),
        row(1, CAPTIONS[:2], [0, 0], ["swap_att", "swap_att"]),
        row(2, CAPTIONS[:3], [1, 1, 0], ["", "", "replace_rel"]),
        row(2, CAPTIONS[:1], [1]),
    ]
    types = ("replace_rel", "swap_att", "swap_obj")
    layout = local_layout(module.collator()(rows), types)
    assert layout.anchor_images.tolist() == [0, 2, 3]
    assert layout.anchor_texts.tolist() == [0, 5, 8]
    assert layout.hard_texts.tolist() == [1, 7]
    assert layout.hard_anchors.tolist() == [0, 1]
    assert [types[index] for index in layout.hard_types.tolist()] == ["swap_obj", "replace_rel"]
    ids = layout.image_ids.tolist()
    assert ids[2] == ids[3] != ids[1]
    apart = local_layout(module.collator()(rows), types, distinct_images=True)
    assert len(set(apart.image_ids.tolist())) == 4
    assert apart.text_image_ids.tolist() == [apart.image_ids.tolist()[place] for place in [0, 0, 0, 1, 1, 2, 2, 2, 3]]


@pytest.mark.parametrize("name", ROWS)
def test_the_module_hands_over_what_its_rows_say(name: str) -> None:
    module = tiny_clip_module().double()
    items = [item for rank in ROWS[name]() for item in rank]
    batch = module.collator()(items)
    with torch.no_grad():
        loss, report = module.loss(batch)
        names = ("pixel_values", "input_ids", "attention_mask")
        features = module.network(**{name: batch.inputs[name] for name in names})
    expected, right = slow_loss([(item.image_id, item.labels) for item in items], *features)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    assert module.loss_terms(batch) == len(right)
    assert report["itc/i2t_accuracy"].item() == pytest.approx(np.mean(right))
    assert report["itc/logit_scale"].item() == pytest.approx(np.exp(2.6592))


def step(rows: list[ImageTextRow], loss: str, **settings: Any) -> dict[str, torch.Tensor]:
    """See `one_step`; also what the loss remembers."""
    own = CeClipSettings(initial_rank_threshold=0.3) if loss == "ce_clip" else None
    module = tiny_clip_module(lr=0.0, loss=loss, loss_settings=own)
    found = one_step(module, rows, **settings)
    return {**found, **module.objective.remembered()}


def save_steps_of_this_rank(folder: str) -> None:
    rank = int(os.environ["RANK"])
    for name, loss in product(ROWS, ("itc", "ce_clip")):
        found = step(ROWS[name]()[rank], loss, strategy="ddp", devices=2)
        torch.save(found, Path(folder) / f"{name} {loss} {rank}.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec|val_dataloader|in eval mode at the start)")
def test_gradients_of_two_ranks_equal_those_of_one_process(tmp_path: Path) -> None:
    run_on_two_ranks(tmp_path, __name__, f"save_steps_of_this_rank({str(tmp_path)!r})")
    for case, loss in product(ROWS, ("itc", "ce_clip")):
        expected = step([item for rank in ROWS[case]() for item in rank], loss, devices=1)
        for rank in range(2):
            found = torch.load(tmp_path / f"{case} {loss} {rank}.pt", weights_only=True)
            assert found.keys() == expected.keys()
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-6, msg=name)
        assert sum(bool(gradient.abs().max() > 1e-4) for gradient in expected.values()) > 50
        first = {name: value.item() for name, value in expected.items() if name in TYPES}
        assert first.keys() == (
            set() if loss == "itc" else TYPES - {"training"} if case == "anchors on one rank" else TYPES
        )
        assert all(value != pytest.approx(0.3, abs=1e-3) for value in first.values()), "every threshold has moved"
