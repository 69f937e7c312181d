"""The contract that every backbone keeps; a backbone joins by a line in BACKBONES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from datamodules.batch import ImageTextRow
from lightning_modules.base import AlignmentModule
from tests.tiny import CAPTIONS, row, tiny_module


def llava_pair_logit(module: AlignmentModule, item: ImageTextRow) -> torch.Tensor:
    """One pair through the plain Transformers model and processor, on a padded image."""
    encoder = module.encoder
    image = encoder.processor.image_processor
    from lightning_modules.llava import pad_to_square

    square = pad_to_square(item.image, encoder.background)
    inputs = encoder.processor(
        images=square, text=encoder.prompt(item.captions[0], encoder.image_token), return_tensors="pt"
    )
    assert image.do_center_crop
    logits = module.network.llava(**inputs).logits[0, -1]
    return logits[encoder.yes_id] - logits[encoder.no_id]


PairLogit = Callable[[AlignmentModule, ImageTextRow], torch.Tensor]
BACKBONES: dict[str, tuple[Callable[[], AlignmentModule], PairLogit]] = {
    "llava-lm": (lambda: tiny_module("lm"), llava_pair_logit),
    "llava-binary": (lambda: tiny_module("binary"), llava_pair_logit),
}


@pytest.fixture(params=BACKBONES, scope="module")
def backbone(request: pytest.FixtureRequest) -> tuple[AlignmentModule, PairLogit]:
    build, pair_logit = BACKBONES[request.param]
    return build(), pair_logit


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
def test_logits_equal_a_plain_forward_of_each_pair(backbone: tuple[AlignmentModule, PairLogit]) -> None:
    module, pair_logit = backbone
    for item, packed in zip(ROWS, logits_of(module, ROWS), strict=True):
        plain = [float(pair_logit(module, single(item, column))) for column in range(len(item.captions))]
        assert packed == pytest.approx(plain, abs=1e-5)
        assert len({round(value, 3) for value in plain}) == len(plain), "the captions must differ for this to tell"


def test_logits_do_not_depend_on_batch_size_order_or_number_of_captions(
    backbone: tuple[AlignmentModule, PairLogit],
) -> None:
    module, _ = backbone
    together = logits_of(module, ROWS)
    assert logits_of(module, ROWS[::-1])[::-1] == [pytest.approx(values, abs=1e-5) for values in together]
    for item, values in zip(ROWS, together, strict=True):
        alone = [logits_of(module, [single(item, column)])[0][0] for column in range(len(item.captions))]
        assert alone == pytest.approx(values, abs=1e-5)


def test_scores_rise_with_logits(backbone: tuple[AlignmentModule, PairLogit]) -> None:
    module, _ = backbone
    scores = module.score(torch.linspace(-5, 5, 11))
    assert bool((scores.diff() > 0).all())


def test_masked_cells_change_neither_loss_nor_gradient(backbone: tuple[AlignmentModule, PairLogit]) -> None:
    module, _ = backbone
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


def test_cells_of_unknown_label_do_not_enter_the_loss(backbone: tuple[AlignmentModule, PairLogit]) -> None:
    module, _ = backbone
    known = module.collator()([row(0, CAPTIONS[:2], [1, 0])])
    some = module.collator()([row(0, CAPTIONS[:3], [1, 0, -1])])
    assert module.loss(known)[0].item() == pytest.approx(module.loss(some)[0].item(), abs=1e-6)


def test_packed_gradients_equal_those_of_single_pairs(backbone: tuple[AlignmentModule, PairLogit]) -> None:
    module, _ = backbone

    def gradients(batches: list[list[ImageTextRow]]) -> dict[str, torch.Tensor]:
        module.zero_grad()
        cells = sum(len(item.captions) for rows in batches for item in rows)
        for rows in batches:
            batch = module.collator()(rows)
            (module.loss(batch)[0] * batch.caption_mask.sum() / cells).backward()
        return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}

    packed = gradients([ROWS])
    pairs = gradients([[single(item, column)] for item in ROWS for column in range(len(item.captions))])
    assert packed.keys() == pairs.keys()
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, pairs[name], atol=1e-5, rtol=1e-4, msg=name)


def test_every_trainable_parameter_gets_a_gradient(backbone: tuple[AlignmentModule, PairLogit]) -> None:
    module, _ = backbone
    module.zero_grad()
    module.loss(module.collator()(ROWS))[0].backward()
    unreached = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert unreached == [], "DDP fails on parameters that the loss never reaches"


def test_the_collator_travels_to_loader_workers(backbone: tuple[AlignmentModule, PairLogit]) -> None:
    import pickle

    module, _ = backbone
    collator = pickle.loads(pickle.dumps(module.collator()))
    torch.testing.assert_close(collator(ROWS).inputs, module.collator()(ROWS).inputs)
