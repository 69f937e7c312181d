"""The contract that every backbone keeps; a backbone joins by a line in tests/backbones.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from datamodules.batch import ImageTextRow
from lightning_modules.base import AlignmentModule
from lightning_modules.losses.binary import binary_loss
from lightning_modules.optim import parameter_groups
from tests.backbones import TRAININGS, TinyBackbone
from tests.tiny import CAPTIONS, row


@pytest.fixture(params=TRAININGS, scope="module")
def backbone(request: pytest.FixtureRequest) -> TinyBackbone:
    return TRAININGS[request.param]


@pytest.fixture(scope="module")
def module(backbone: TinyBackbone) -> AlignmentModule:
    return backbone.build()


def single(item: ImageTextRow, column: int) -> ImageTextRow:
    part = slice(column, column + 1)
    return replace(
        item,
        text_ids=item.text_ids[part],
        captions=item.captions[part],
        labels=item.labels[part],
        negative_types=item.negative_types[part],
    )


ROWS = [row(0, CAPTIONS), row(1, CAPTIONS[:1]), row(2, CAPTIONS[1:4])]


@torch.no_grad()
def logits_of(module: AlignmentModule, rows: list[ImageTextRow]) -> list[list[float]]:
    batch = module.collator()(rows)
    logits = module.logits(batch)
    assert logits.shape == batch.caption_mask.shape
    assert logits.dtype == torch.float32
    return [logits[index, : len(item.captions)].tolist() for index, item in enumerate(rows)]


@torch.no_grad()
def test_logits_equal_a_plain_forward_of_each_pair(backbone: TinyBackbone, module: AlignmentModule) -> None:
    for item, packed in zip(ROWS, logits_of(module, ROWS), strict=True):
        plain = [float(backbone.pair_logit(module, single(item, column))) for column in range(len(item.captions))]
        assert packed == pytest.approx(plain, abs=1e-5)
        assert len({round(value, 3) for value in plain}) == len(plain), "the captions must differ for this to tell"


def test_logits_do_not_depend_on_batch_size_order_or_number_of_captions(module: AlignmentModule) -> None:
    together = logits_of(module, ROWS)
    assert logits_of(module, ROWS[::-1])[::-1] == [pytest.approx(values, abs=1e-5) for values in together]
    for item, values in zip(ROWS, together, strict=True):
        alone = [logits_of(module, [single(item, column)])[0][0] for column in range(len(item.captions))]
        assert alone == pytest.approx(values, abs=1e-5)


def test_logits_do_not_depend_on_the_tokenizers_padding_side(backbone: TinyBackbone, module: AlignmentModule) -> None:
    expected = logits_of(module, ROWS)
    for side in ("left", "right"):
        other = backbone.build()
        other.processor.tokenizer.padding_side = side
        assert logits_of(other, ROWS) == expected


def test_logits_do_not_depend_on_the_number_of_captions_of_an_image(module: AlignmentModule) -> None:
    together = logits_of(module, ROWS)
    more = [row(index, [*item.captions, *CAPTIONS]) for index, item in enumerate(ROWS)]
    for values, item, seen in zip(together, ROWS, logits_of(module, more), strict=True):
        assert seen[: len(item.captions)] == pytest.approx(values, abs=1e-5)


def test_scores_rise_with_logits(module: AlignmentModule) -> None:
    scores = module.score(torch.linspace(-5, 5, 11))
    assert bool((scores.diff() > 0).all())


def test_masked_cells_change_neither_loss_nor_gradient(module: AlignmentModule) -> None:
    batch = module.collator()(ROWS)
    assert not bool(batch.caption_mask.all())
    results = []
    for filler in (-1, 0, 1):
        labels = torch.where(batch.caption_mask, batch.labels, filler)
        module.zero_grad()
        loss, _ = module.loss(replace(batch, labels=labels))
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in module.parameters() if p.grad is not None)])
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_cells_of_unknown_label_do_not_enter_the_loss(module: AlignmentModule) -> None:
    known = module.collator()([row(0, CAPTIONS[:2], [1, 0])])
    some = module.collator()([row(0, CAPTIONS[:3], [1, 0, -1])])
    assert module.loss(known)[0].item() == pytest.approx(module.loss(some)[0].item(), abs=1e-6)


def assert_same_gradients(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in one.values())
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, two[name], atol=1e-5, rtol=1e-4, msg=name)


def gradients_of(module: AlignmentModule, values: Iterator[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients of the sum of `values`."""
    module.zero_grad()
    for value in values:
        value.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_packed_gradients_equal_those_of_plain_forwards_of_each_pair(
    backbone: TinyBackbone, module: AlignmentModule
) -> None:
    def packed() -> Iterator[torch.Tensor]:
        batch = module.collator()(ROWS)
        yield binary_loss(module.logits(batch), batch.labels, batch.caption_mask) * batch.caption_mask.sum()

    def pairs() -> Iterator[torch.Tensor]:
        for item in ROWS:
            for column, label in enumerate(item.labels):
                logit = backbone.pair_logit(module, single(item, column))
                yield functional.binary_cross_entropy_with_logits(logit, torch.tensor(float(label)))

    assert_same_gradients(gradients_of(module, packed()), gradients_of(module, pairs()))


def test_the_loss_of_packed_captions_has_the_gradients_of_single_pairs(
    backbone: TinyBackbone, module: AlignmentModule
) -> None:
    if not backbone.sums_over_pairs:
        pytest.skip("a contrastive loss has no pairs to be split into; tests/test_lightning_modules_itc.py")

    def losses(batches: list[list[ImageTextRow]]) -> Iterator[torch.Tensor]:
        for rows in batches:
            batch = module.collator()(rows)
            yield module.loss(batch)[0] * batch.caption_mask.sum()

    pairs = [[single(item, column)] for item in ROWS for column in range(len(item.captions))]
    assert_same_gradients(gradients_of(module, losses([ROWS])), gradients_of(module, losses(pairs)))


def test_every_trainable_parameter_gets_a_gradient(module: AlignmentModule) -> None:
    module.zero_grad()
    module.loss(module.collator()(ROWS))[0].backward()
    unreached = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert unreached == [], "DDP fails on parameters that the loss never reaches"


def test_the_collator_travels_to_loader_workers(module: AlignmentModule) -> None:
    import pickle

    collator = pickle.loads(pickle.dumps(module.collator()))
    torch.testing.assert_close(collator(ROWS).inputs, module.collator()(ROWS).inputs)


def test_the_projector_has_a_learning_rate_of_its_own(backbone: TinyBackbone) -> None:
    module = backbone.build(projector_lr=0.5)
    groups = parameter_groups(
        module.named_parameters(), lr=1.0, weight_decay=0.0, projector_lr=0.5, projector=module.parts["projector"]
    )
    slow = {id(parameter) for group in groups if group["lr"] == 0.5 for parameter in group["params"]}
    names = {name for name, parameter in module.named_parameters() if id(parameter) in slow}
    assert names
    assert all(any(part in name.split(".") for part in module.parts["projector"]) for name in names)
