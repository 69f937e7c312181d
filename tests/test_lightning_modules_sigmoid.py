"""SigLIP's loss over the global batch: against a slow double loop, and the same on two ranks as in one process."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from datamodules.batch import UNKNOWN, ImageTextRow
from lightning_modules.losses.global_batch import identity_hashes
from lightning_modules.losses.sigmoid import SigmoidLoss, sigmoid_loss
from tests.launch import run_on_two_ranks
from tests.tiny import CAPTIONS, one_step, row, tiny_backbone

Rows = list[tuple[str, list[int]]]
"""For each row of a batch, the image_id and the labels of its texts."""


@dataclass
class Pairs:
    """The arguments of `sigmoid_loss` for some rows, with random features in float64."""

    rows: Rows
    images: torch.Tensor
    texts: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    blind: list[float] | None = None

    def value(self) -> torch.Tensor:
        ids = identity_hashes([image_id for image_id, _ in self.rows])
        owners = [index for index, (_, labels) in enumerate(self.rows) for _ in labels]
        return sigmoid_loss(
            self.images,
            self.texts,
            self.scale,
            self.bias,
            image_ids=ids,
            text_image_ids=ids[owners],
            text_labels=torch.tensor([label for _, labels in self.rows for label in labels]),
            blind_logits=None if self.blind is None else torch.tensor(self.blind, dtype=torch.float64),
        )

    def leaves(self) -> list[torch.Tensor]:
        return [self.images, self.texts, self.scale, self.bias]


def pairs(rows: Rows, seed: int = 0, *, blind: bool = False) -> Pairs:
    rng = np.random.default_rng(seed)
    sizes = (len(rows), sum(len(labels) for _, labels in rows))
    images, texts = (F.normalize(torch.tensor(rng.normal(size=(size, 5))), dim=1).requires_grad_() for size in sizes)
    scale, bias = (torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (7.0, -3.0))
    return Pairs(rows, images, texts, scale, bias, rng.normal(size=sizes[1]).tolist() if blind else None)


def slow_loss(
    rows: Rows,
    images: torch.Tensor,
    texts: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    blind: list[float] | None = None,
) -> torch.Tensor:
    """The definition, pair by pair: -log of the probability of what the pair is, by the number of rows."""
    total = 0 * (images.sum() + texts.sum() + scale.sum() + bias.sum())
    for image, (image_id, _) in enumerate(rows):
        text = -1
        for other_id, labels in rows:
            for label in labels:
                text += 1
                if label not in (0, 1):
                    continue
                logit = scale[0] * (images[image] @ texts[text]) + bias[0]
                if blind is not None and other_id == image_id:
                    logit = logit + blind[text]
                sign = 1 if label == 1 and other_id == image_id else -1
                total = total - torch.log(1 / (1 + torch.exp(-sign * logit)))
    return total / len(rows)


CASES: dict[str, Rows] = {
    "no hard negatives: the paper's": [("a", [1]), ("b", [1]), ("c", [1])],
    "two negatives each": [(name, [1, 0, 0]) for name in "abcd"],
    "uneven": [("a", [1, 0]), ("b", [1]), ("c", [1, 0, 0, 0])],
    "one image": [("a", [1, 0, 0])],
    "several captions of an image in a row": [("a", [1, 1, 0]), ("b", [1, 0, 1])],
    "an image in several rows": [("a", [1, 0]), ("b", [1, 0]), ("a", [1, 0]), ("a", [1, 1, 0])],
    "unknown texts, and rows without a positive": [("a", [1, -1, 0]), ("b", [0, 0]), ("c", [-1])],
    "nothing is known": [("a", [-1]), ("b", [-1, -1])],
}


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_loss_and_its_gradient_are_those_of_a_slow_double_loop(name: str, blind: bool) -> None:
    fast, slow = pairs(CASES[name], blind=blind), pairs(CASES[name], blind=blind)
    loss, expected = fast.value(), slow_loss(slow.rows, *slow.leaves(), slow.blind)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    gradients = zip(torch.autograd.grad(loss, fast.leaves()), torch.autograd.grad(expected, slow.leaves()), strict=True)
    for gradient, expected_gradient in gradients:
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-12, rtol=0)


def test_two_pairs_by_hand() -> None:
    """Scale 2, bias -1: both true pairs have logit 1 and both false ones -1: four times -log sigmoid(1), two images."""
    features = torch.eye(2, dtype=torch.float64)
    loss = Pairs([("a", [1]), ("b", [1])], features, features, torch.tensor([2.0]), torch.tensor([-1.0])).value()
    assert loss.item() == pytest.approx(2 * math.log(1 + math.exp(-1)))


def test_a_hard_negative_adds_a_term_for_every_image_and_moves_no_other() -> None:
    alone, hard = pairs([("a", [1]), ("b", [1])]), pairs([("a", [1, 0]), ("b", [1])])
    alone.images, alone.texts = hard.images, hard.texts[[0, 2]]
    logits = 7 * hard.images @ hard.texts[1] - 3
    added = hard.value() - alone.value()
    assert added.item() == pytest.approx((F.softplus(logits).sum() / 2).item(), abs=1e-12)


def test_a_caption_of_the_same_image_in_another_row_is_a_positive() -> None:
    same, other = pairs([("a", [1]), ("a", [1])]), pairs([("a", [1]), ("b", [1])])
    logits = 7 * torch.stack([same.images[0] @ same.texts[1], same.images[1] @ same.texts[0]]) - 3
    # softplus(-z) - softplus(z) = -z
    assert (same.value() - other.value()).item() == pytest.approx(-logits.sum().item() / 2, abs=1e-12)


def test_the_pairs_of_many_images_are_held_once() -> None:
    """No matrix of signs or masks beside that of logits: what autograd keeps of B x T numbers is one matrix."""
    case, kept = pairs([(str(index), [1, 0]) for index in range(40)]), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        case.value()
    assert sum(size >= 40 * 80 for size in kept) == 1


def test_logits_are_not_rounded_under_autocast() -> None:
    case = pairs(CASES["uneven"])
    case.images, case.texts, case.scale, case.bias = (leaf.detach().float() for leaf in case.leaves())
    plain = case.value()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(case.value(), plain)


def tiny_siglip_module(**settings: object) -> Any:
    return tiny_backbone("siglip", **settings)


def uneven_rows() -> list[list[ImageTextRow]]:
    """Three rows for the first rank, two for the second: a repeated image, several captions, unknown labels."""
    return [
        [row(0, CAPTIONS[:3], [1, 0, 0]), row(1, CAPTIONS[3:4]), row(2, CAPTIONS[1:5], [1, 1, 0, -1])],
        [row(0, CAPTIONS[1:3], [1, 0]), row(3, CAPTIONS[2:4], [0, 1])],
    ]


def rows_with_blind_logits() -> list[list[ImageTextRow]]:
    """As in a training with `data.debias`, where every row has them."""
    logits = [1.5, -2.0, 0.5, -1.0]
    return [[replace(item, blind_logit=logits[: len(item.labels)]) for item in rank] for rank in uneven_rows()]


ROWS = {"uneven": uneven_rows, "blind logits": rows_with_blind_logits}


def test_the_module_hands_over_what_its_rows_say() -> None:
    module = tiny_siglip_module().double()
    assert module.loss_name == "sigmoid", "the backbone's default"
    items = [item for rank in uneven_rows() for item in rank]
    batch = module.collator()(items)
    with torch.no_grad():
        loss, report = module.loss(batch)
        features = module._features(batch)
    expected = slow_loss([(item.image_id, item.labels) for item in items], *features)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    assert module.loss_terms(batch) == len(items)
    assert {name: value.item() for name, value in report.items()} == pytest.approx(
        {"sigmoid/logit_scale": 10.0, "sigmoid/logit_bias": -10.0}
    )


def test_the_mask_alone_says_which_texts_exist() -> None:
    module = tiny_siglip_module()
    batch = module.collator()(uneven_rows()[0])
    mask = batch.caption_mask.clone()
    mask[0, 1] = False
    hidden = replace(batch, caption_mask=mask)
    unknown = replace(batch, labels=batch.labels.where(mask, UNKNOWN))
    assert module.loss(hidden)[0].item() == module.loss(unknown)[0].item() != module.loss(batch)[0].item()


def test_blind_logits_join_in_training_alone() -> None:
    module = tiny_siglip_module()
    batch = module.collator()([item for rank in rows_with_blind_logits() for item in rank])
    plain = replace(batch, blind_logit=None)
    assert module.eval().loss(batch)[0].item() == module.loss(plain)[0].item()
    assert module.train().loss(batch)[0].item() != pytest.approx(module.loss(plain)[0].item(), abs=1e-3)


def test_what_a_batch_teaches_needs_no_hard_negatives() -> None:
    assert not SigmoidLoss.needs_negatives(None)


def step(rows: list[ImageTextRow], **settings: Any) -> dict[str, torch.Tensor]:
    """See `one_step`."""
    return one_step(tiny_siglip_module(lr=0.0), rows, **settings)


def save_steps_of_this_rank(folder: str) -> None:
    rank = int(os.environ["RANK"])
    for name, rows in ROWS.items():
        torch.save(step(rows()[rank], strategy="ddp", devices=2), Path(folder) / f"{name} {rank}.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec|val_dataloader|in eval mode at the start)")
def test_gradients_of_two_ranks_equal_those_of_one_process(tmp_path: Path) -> None:
    run_on_two_ranks(tmp_path, __name__, f"save_steps_of_this_rank({str(tmp_path)!r})")
    for name, rows in ROWS.items():
        expected = step([item for rank in rows() for item in rank], devices=1)
        for rank in range(2):
            found = torch.load(tmp_path / f"{name} {rank}.pt", weights_only=True)
            assert found.keys() == expected.keys()
            for key, gradient in expected.items():
                torch.testing.assert_close(found[key], gradient, atol=1e-6, rtol=1e-6, msg=key)
        assert sum(bool(gradient.abs().max() > 1e-4) for gradient in expected.values()) > 50
