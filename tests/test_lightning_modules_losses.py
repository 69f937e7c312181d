"""Losses against values worked by hand and against the loss of Transformers itself."""

from __future__ import annotations

import math

import pytest
import torch

from datamodules.batch import ImageTextRow
from lightning_modules.losses.binary import binary_loss
from lightning_modules.losses.listwise import listwise_loss, listwise_terms
from lightning_modules.losses.lm import answer_lm_loss
from lightning_modules.losses.loss import masked_mean
from tests.tiny import CAPTIONS, row, tiny_module


def test_masked_mean_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0], [6.0, float("nan")]])
    assert float(masked_mean(values, torch.tensor([[True, False], [True, False]]))) == 3.5


def test_binary_loss_by_its_formula() -> None:
    logits, labels = torch.tensor([[2.0, -1.0, 0.5], [0.3, 9.0, 9.0]]), torch.tensor([[1, 0, 0], [1, -1, -1]])
    mask = torch.tensor([[True, True, True], [True, False, False]])

    def one(logit: float, label: int) -> float:
        probability = 1 / (1 + math.exp(-logit))
        return -math.log(probability if label else 1 - probability)

    expected = (one(2.0, 1) + one(-1.0, 0) + one(0.5, 0) + one(0.3, 1)) / 4
    assert float(binary_loss(logits, labels, mask)) == pytest.approx(expected, abs=1e-6)


def test_binary_loss_does_not_overflow() -> None:
    loss = binary_loss(torch.tensor([[1e4, -1e4]]), torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool))
    assert float(loss) == 1e4


def slow_listwise(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> list[float]:
    """The loss of each positive, by a loop over the definition."""
    losses = []
    for row_logits, row_labels, row_mask in zip(logits.tolist(), labels.tolist(), mask.tolist(), strict=True):
        cells = [(z, label) for z, label, exists in zip(row_logits, row_labels, row_mask, strict=True) if exists]
        negatives = [z for z, label in cells if label == 0]
        losses += [
            -math.log(math.exp(z) / (math.exp(z) + sum(map(math.exp, negatives))))
            for z, label in cells
            if label == 1 and negatives
        ]
    return losses


def test_listwise_loss_by_hand() -> None:
    # odds 2 : 1 + 1, and two positives that are no rivals of each other, with odds 1 : 3 and 9 : 3
    logits = torch.tensor([[2.0, 1.0, 1.0], [1.0, 9.0, 3.0]]).log()
    loss = listwise_loss(logits, torch.tensor([[1, 0, 0], [1, 1, 0]]), torch.ones(2, 3, dtype=torch.bool))
    assert float(loss) == pytest.approx((math.log(2) + math.log(4) + math.log(4 / 3)) / 3, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_listwise_loss_equals_a_slow_loop_whatever_cells_exist(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(7, 5, generator=generator) * 3
    labels = torch.randint(0, 2, (7, 5), generator=generator)
    labels[0] = 1
    mask = torch.rand(7, 5, generator=generator) < 0.6
    expected = slow_listwise(logits, labels, mask)
    assert 0 < len(expected) < int((mask & (labels == 1)).sum()), "some positives must lack a negative"
    assert int(listwise_terms(labels, mask).sum()) == len(expected)
    garbage = logits.masked_fill(~mask, float("nan"))
    assert float(listwise_loss(garbage, labels, mask)) == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_listwise_gradients_reach_the_cells_of_its_terms_only_and_are_those_of_softmax() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, float("nan")], [3.0, 1.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0]])
    logits.requires_grad_()
    labels = torch.tensor([[1, 0, 0, 0], [1, 1, 0, -1], [1, 1, -1, -1]])
    mask = torch.tensor([[True] * 3 + [False], [True] * 3 + [False], [True, True, False, False]])
    listwise_loss(logits, labels, mask).backward()
    assert logits.grad is not None
    one = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    two, three = torch.tensor([3.0, 0.0]).softmax(0), torch.tensor([1.0, 0.0]).softmax(0)
    expected = torch.zeros(3, 4)  # the third row has no negative
    expected[0, :3] = one - torch.tensor([1.0, 0.0, 0.0])
    expected[1, :3] = torch.stack([two[0] - 1, three[0] - 1, two[1] + three[1]])
    torch.testing.assert_close(logits.grad, expected / 3)


@pytest.mark.parametrize(("positive", "negative", "expected"), [(1e4, -1e4, 0.0), (-1e4, 1e4, 2e4 + math.log(2))])
def test_listwise_loss_does_not_overflow(positive: float, negative: float, expected: float) -> None:
    logits = torch.tensor([[positive, negative, negative]]).requires_grad_()
    loss = listwise_loss(logits, torch.tensor([[1, 0, 0]]), torch.ones(1, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_a_listwise_loss_over_several_batches_is_that_of_one_weighted_by_its_terms() -> None:
    """What makes ranks and accumulation equal one large batch (AlignmentModule)."""
    module = tiny_module("listwise")
    rows = [
        row(0, CAPTIONS[:3], [1, 1, 0]),
        row(1, CAPTIONS[:2], [1, 1]),
        row(2, CAPTIONS[1:5]),
        row(3, CAPTIONS[2:4], [0, 0]),
    ]

    def summed(parts: list[list[ImageTextRow]]) -> tuple[float, int, torch.Tensor]:
        module.zero_grad()
        total, terms = 0.0, 0
        for part in parts:
            batch = module.collator()(part)
            loss = module.loss(batch)[0] * module.loss_terms(batch)
            loss.backward()
            total, terms = total + loss.item(), terms + module.loss_terms(batch)
        return total, terms, torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])

    one, many = summed([rows]), summed([[item] for item in rows])
    assert one[1] == many[1] == 3, "two positives of the first row and one of the third"
    assert one[0] == pytest.approx(many[0], abs=1e-5)
    torch.testing.assert_close(one[2], many[2], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_listwise_loss_reports_the_part_of_positives_above_all_negatives_of_their_row() -> None:
    module = tiny_module("listwise")
    batch = module.collator()(
        [row(0, CAPTIONS, [1, 1, 0, 1, 0]), row(1, CAPTIONS[:3], [0, 1, 1]), row(2, CAPTIONS[:1])]
    )
    logits = module.logits(batch)
    right = [
        bool(logits[i, j] > max(logits[i, k] for k, other in enumerate(labels) if other == 0))
        for i, labels in enumerate(batch.labels.tolist()[:2])
        for j, label in enumerate(labels)
        if label == 1
    ]
    loss, report = module.loss(batch)
    assert float(loss) == pytest.approx(float(listwise_loss(logits, batch.labels, batch.caption_mask)), abs=1e-6)
    assert 0 < sum(right) < len(right) == 5
    assert float(report["listwise/accuracy"]) == pytest.approx(sum(right) / 5)


def test_answer_loss_by_hand() -> None:
    # two answer tokens of a vocabulary of three, in one existing cell: probabilities 1/2 and 1/4
    logits = torch.tensor([[[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], [[9.0, 0, 0], [9.0, 0, 0]]]).log().view(1, 2, 2, 3)
    answers = torch.tensor([[[0, 0], [1, 1]]])
    loss = answer_lm_loss(logits, answers, torch.tensor([[True, False]]))
    assert float(loss) == pytest.approx((math.log(2) + math.log(4)) / 2, abs=1e-6)


@pytest.mark.parametrize("label", [1, 0])
@torch.no_grad()
def test_answer_loss_equals_the_loss_of_transformers(label: int) -> None:
    """`labels` of Transformers' own forward: -100 but for the answer and the end token."""
    module = tiny_module("lm")
    item = row(0, CAPTIONS[:1], [label])
    batch = module.collator()([item])
    encoder = module.encoder
    answer = torch.tensor([[encoder.yes_id if label else encoder.no_id, encoder.tokenizer.eos_token_id]])
    text = encoder.prompt(item.captions[0], encoder.processor.image_token)
    prompt = encoder.processor(images=item.image, text=text, return_tensors="pt").input_ids
    ids = torch.cat([prompt, answer], dim=1)
    theirs = module.network.llava(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=batch.inputs["images.pixel_values"],
        labels=torch.cat([torch.full_like(prompt, -100), answer], dim=1),
    ).loss
    assert float(module.loss(batch)[0]) == pytest.approx(float(theirs), abs=1e-5)


@torch.no_grad()
def test_answer_loss_of_a_batch_is_the_mean_over_its_cells() -> None:
    module = tiny_module("lm")

    def loss(*rows: tuple[int, list[str], list[int]]) -> float:
        return float(module.loss(module.collator()([row(*item) for item in rows]))[0])

    singles = [loss((0, [CAPTIONS[0]], [1])), loss((0, [CAPTIONS[1]], [0])), loss((1, [CAPTIONS[3]], [0]))]
    assert loss((0, CAPTIONS[:2], [1, 0]), (1, [CAPTIONS[3]], [0])) == pytest.approx(sum(singles) / 3, abs=1e-5)


@torch.no_grad()
def test_binary_loss_reads_the_match_logit() -> None:
    module = tiny_module("binary")
    batch = module.collator()([row(0, CAPTIONS[:3], [1, 0, 0]), row(1, CAPTIONS[:1])])
    logits = module.logits(batch)
    values = [
        math.log1p(math.exp(-logit if label else logit))
        for logit, label in zip(
            logits[batch.caption_mask].tolist(), batch.labels[batch.caption_mask].tolist(), strict=True
        )
    ]
    assert float(module.loss(batch)[0]) == pytest.approx(sum(values) / 4, abs=1e-5)


@pytest.mark.parametrize("name", ["binary", "lm", "listwise"])
def test_a_fully_masked_batch_has_loss_zero_and_gradient_zero(name: str) -> None:
    shape = (2, 3, 2, 5) if name == "lm" else (2, 3)
    logits = torch.randn(shape).requires_grad_()
    mask = torch.zeros(2, 3, dtype=torch.bool)
    labels = torch.full((2, 3), -1)
    if name != "lm":
        loss = {"binary": binary_loss, "listwise": listwise_loss}[name](logits, labels, mask)
    else:
        loss = answer_lm_loss(logits, torch.zeros(2, 3, 2, dtype=torch.long), mask)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert bool((logits.grad == 0).all())


@pytest.mark.parametrize("name", ["binary", "lm", "listwise"])
def test_a_batch_of_unknown_labels_only_trains_nothing(name: str) -> None:
    module = tiny_module(name)
    loss, report = module.loss(module.collator()([row(0, CAPTIONS[:2], [-1, -1]), row(1, CAPTIONS[:1], [-1])]))
    loss.backward()
    assert loss.item() == 0
    assert all(bool(value.isfinite()) for value in report.values())
    assert all(bool((p.grad == 0).all()) for p in module.parameters() if p.grad is not None)


def test_masked_cells_have_gradient_zero() -> None:
    logits = torch.randn(2, 3).requires_grad_()
    mask = torch.tensor([[True, False, True], [False, False, True]])
    binary_loss(logits, torch.tensor([[1, -1, 0], [-1, -1, 1]]), mask).backward()
    assert logits.grad is not None
    assert ((logits.grad != 0) == mask).all()


@torch.no_grad()
def test_reported_accuracy_is_the_part_of_cells_on_the_right_side_of_zero() -> None:
    module = tiny_module("lm")
    batch = module.collator()([row(0, CAPTIONS[:4], [1, 0, 1, -1]), row(1, CAPTIONS[3:], [0, 0])])
    logits = module.logits(batch)
    right = [
        (float(logits[i, j]) > 0) == (label == 1)
        for i, labels in enumerate(batch.labels.tolist())
        for j, label in enumerate(labels)
        if label >= 0
    ]
    assert len(right) == 5
    assert float(module.loss(batch)[1]["cells/accuracy"]) == pytest.approx(sum(right) / 5)
