"""BLIP-2's contrast and in-batch hard negatives: against slow loops, and the same on two ranks as in one process."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from datamodules.batch import ImageTextBatch, ImageTextRow
from lightning_modules.backbones.blip2_itm import Blip2ItmModule
from lightning_modules.backbones.blip2_network import clean_words
from lightning_modules.losses.global_batch import identity_hashes, rank_share
from lightning_modules.losses.itc_itm import (
    ItcItmLoss,
    ItcItmSettings,
    draw_negatives,
    max_similarity,
    soft_target_itc_loss,
    uniform_numbers,
)
from lightning_modules.losses.table import LOSSES
from tests.launch import run_on_two_ranks
from tests.tiny import CAPTIONS, row
from tests.tiny_blip2 import tiny_blip2_module

SMOOTHING, TEMPERATURE = 0.1, 0.07


class OfLogits(ItcItmLoss):
    """A loss that only reuses the class of the contrast: it reads what the matching head says of the given captions."""

    reads = "itm_logits"


def test_what_a_loss_reads_decides_what_blip2_computes_not_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "of_logits", f"{__name__}.OfLogits")
    module = tiny_blip2_module(loss="of_logits")
    inputs = module.loss_inputs(module.collator()([row(0, CAPTIONS[:2]), row(1, CAPTIONS[:1])]))
    assert set(inputs) == {"itm_logits"}
    assert not module.network.blip2.text_projection.weight.requires_grad
    assert not hasattr(module.network, "itc_temperature")


# --- the contrast


@dataclass
class Contrast:
    """The arguments of `soft_target_itc_loss`: features in float64, and the image of each image and text."""

    images: torch.Tensor
    texts: torch.Tensor
    temperature: torch.Tensor
    image_names: str
    text_names: str

    def value(self, images: slice = slice(None), texts: slice = slice(None)) -> torch.Tensor:
        return soft_target_itc_loss(
            max_similarity(self.images[images], self.texts) / self.temperature,
            max_similarity(self.images, self.texts[texts]).T / self.temperature,
            image_ids=identity_hashes(self.image_names),
            text_image_ids=identity_hashes(self.text_names),
            own_images=images,
            own_texts=texts,
            label_smoothing=SMOOTHING,
        )

    def slow(self) -> torch.Tensor:
        similarity = [torch.stack([(queries @ text).max() for text in self.texts]) for queries in self.images]
        return slow_itc(torch.stack(similarity) / self.temperature, list(self.image_names), list(self.text_names))

    def leaves(self) -> list[torch.Tensor]:
        return [self.images, self.texts, self.temperature]


def slow_itc(logits: torch.Tensor, image_names: list[str], text_names: list[str]) -> torch.Tensor:
    """The definition, row by row: cross entropy against a target that is written out."""
    directions = []
    for matrix, rows, columns in ((logits, image_names, text_names), (logits.T, text_names, image_names)):
        losses = []
        for name, values in zip(rows, matrix, strict=True):
            loss = torch.zeros((), dtype=torch.float64)
            for other, value in zip(columns, values, strict=True):
                target = SMOOTHING / len(columns) + (name == other) * (1 - SMOOTHING) / columns.count(name)
                loss = loss - target * (value - torch.logsumexp(values, 0))
            losses.append(loss)
        directions.append(torch.stack(losses).mean())
    return (directions[0] + directions[1]) / 2


def contrast(image_names: str, text_names: str, seed: int = 0) -> Contrast:
    rng = np.random.default_rng(seed)
    images, texts = (
        F.normalize(torch.tensor(rng.normal(size=size)), dim=-1).requires_grad_()
        for size in ((len(image_names), 3, 5), (len(text_names), 5))
    )
    temperature = torch.tensor([TEMPERATURE], dtype=torch.float64, requires_grad=True)
    return Contrast(images, texts, temperature, image_names, text_names)


NAMES = {
    "one caption each": ("abcd", "abcd"),
    "several captions of an image": ("abc", "aabccc"),
    "an image in several rows": ("abab", "ababb"),
    "one pair": ("a", "a"),
    "one image": ("aa", "aaa"),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_contrast_and_its_gradient_are_those_of_a_slow_loop(name: str) -> None:
    fast, slow = contrast(*NAMES[name]), contrast(*NAMES[name])
    loss, expected = fast.value(), slow.slow()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    gradients = zip(torch.autograd.grad(loss, fast.leaves()), torch.autograd.grad(expected, slow.leaves()), strict=True)
    for gradient, expected_gradient in gradients:
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-12, rtol=0)


def test_two_pairs_by_hand() -> None:
    """Temperature 1, orthogonal pairs: every softmax is over (1, 0), every target (0.95, 0.05)."""
    features = torch.eye(2, dtype=torch.float64)
    case = Contrast(features.unsqueeze(1), features, torch.ones(1), "ab", "ab")
    assert case.value().item() == pytest.approx(np.log(1 + np.e) - 0.95)


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_of_all_ranks_add_up_to_the_contrast(name: str) -> None:
    case = contrast(*NAMES[name])
    for images, texts in ((1, 1), (0, 1), (1, 0)):
        parts = case.value(slice(0, images), slice(0, texts)) + case.value(slice(images, None), slice(texts, None))
        assert parts.item() == pytest.approx(case.value().item(), abs=1e-12)


def test_the_contrast_of_nothing_is_a_connected_zero() -> None:
    case = contrast("", "")
    loss = case.value()
    loss.backward()
    assert loss.item() == 0
    assert case.images.grad is not None


def test_similarities_are_not_rounded_under_autocast() -> None:
    case = contrast("abcd", "aabccd")
    images, texts = case.images.float(), case.texts.float()
    plain = max_similarity(images, texts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(max_similarity(images, texts), plain)


# --- draws


COLUMNS = "abcabdea"


def draws(names: str, texts: int, seed: int = 0, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """For texts of image a, the columns drawn with one row of random logits, and that row."""
    logits = torch.tensor(np.random.default_rng(1).normal(size=len(names)))
    numbers = uniform_numbers([f"caption:{index}" for index in range(texts)], seed=seed, epoch=epoch, drawn="image")
    drawn = draw_negatives(
        logits.expand(texts, -1),
        row_ids=identity_hashes("a").expand(texts),
        column_ids=identity_hashes(names),
        column_keys=identity_hashes(f"{name}{index}" for index, name in enumerate(names)),
        uniform=numbers,
    )
    return drawn, logits


def test_negatives_are_drawn_by_the_softmax_over_other_images() -> None:
    drawn, logits = draws(COLUMNS, 20_000)
    counts = Counter(drawn.tolist())
    weights = [0.0 if name == "a" else float(logit.exp()) for name, logit in zip(COLUMNS, logits, strict=True)]
    for column, weight in enumerate(weights):
        probability = weight / sum(weights)
        deviation = (20_000 * probability * (1 - probability)) ** 0.5
        assert counts[column] == pytest.approx(20_000 * probability, abs=4 * deviation), column


def test_copies_of_the_own_image_are_never_drawn_however_alike() -> None:
    names = "ab" + "a" * 30
    logits = torch.full((500, 32), 1000.0)
    logits[:, 1] = -1000.0
    numbers = torch.cat(
        [torch.linspace(0, 1, 500, dtype=torch.float64)[:-1], torch.tensor([1 - 2**-48], dtype=torch.float64)]
    )
    for seed in range(3):
        keys = torch.tensor(np.random.default_rng(seed).permutation(32))
        drawn = draw_negatives(
            logits,
            row_ids=identity_hashes("a").expand(500),
            column_ids=identity_hashes(names),
            column_keys=keys,
            uniform=numbers,
        )
        assert set(drawn.tolist()) == {1}


def test_nothing_is_drawn_where_there_is_no_other_image() -> None:
    drawn, _ = draws("aaa", 5)
    assert drawn.tolist() == [-1] * 5
    assert draws(COLUMNS, 0)[0].tolist() == []


def test_draws_change_with_seed_epoch_and_text_alone() -> None:
    first, _ = draws(COLUMNS, 100)
    assert torch.equal(first, draws(COLUMNS, 100)[0])
    assert torch.equal(first[:10], draws(COLUMNS, 10)[0]), "a text's draw does not depend on the others"
    for other in (draws(COLUMNS, 100, seed=1)[0], draws(COLUMNS, 100, epoch=1)[0]):
        assert 20 < int((first != other).sum()) < 95


def test_uniform_numbers_do_not_depend_on_the_process() -> None:
    image, text = (uniform_numbers(["caption:1"], seed=3, epoch=2, drawn=drawn).item() for drawn in ("image", "text"))
    assert [image, text] == pytest.approx([0.35736412150682284, 0.8733875849306756], abs=1e-15)


def test_draws_do_not_depend_on_the_order_of_columns() -> None:
    logits = torch.tensor(np.random.default_rng(0).normal(size=(200, 8)))
    rows, columns = identity_hashes("ab" * 100), identity_hashes(COLUMNS)
    keys = identity_hashes("stuvwxyz")
    numbers = uniform_numbers(map(str, range(200)), seed=0, epoch=0, drawn="text")
    drawn = draw_negatives(logits, row_ids=rows, column_ids=columns, column_keys=keys, uniform=numbers)
    for seed in range(3):
        order = torch.tensor(np.random.default_rng(seed).permutation(8))
        other = draw_negatives(
            logits[:, order], row_ids=rows, column_ids=columns[order], column_keys=keys[order], uniform=numbers
        )
        assert torch.equal(order[other], drawn)


# --- shares


def test_shares_weighted_by_terms_make_the_mean_over_all_ranks() -> None:
    sums, terms = [torch.tensor(3.0), torch.tensor(5.0), torch.tensor(0.0)], [4, 1, 0]
    shares = [rank_share(own, 7, own_terms=each, all_terms=5) for own, each in zip(sums, terms, strict=True)]
    weighted = sum(share * each for share, each in zip(shares, terms, strict=True)) / 5
    assert float(weighted) == pytest.approx(8 / 7)


@pytest.mark.parametrize(("count", "terms"), [(0, 2), (3, 0), (0, 0)])
def test_a_share_of_nothing_is_a_connected_zero(count: int, terms: int) -> None:
    own_sum = torch.zeros((), requires_grad=True)
    share = rank_share(own_sum, count, own_terms=terms, all_terms=2)
    share.backward()
    assert share.item() == 0
    assert own_sum.grad is not None


# --- the module


def items(spec: list[tuple[int, list[int]]], start: int = 0) -> list[ImageTextRow]:
    """A row for each image and the labels of its captions, with text ids of its own."""
    made = []
    for number, (image, labels) in enumerate(spec, start):
        captions = [CAPTIONS[(number + column) % len(CAPTIONS)] for column in range(len(labels))]
        made.append(
            replace(row(image, captions, labels), text_ids=[f"text:{number}-{column}" for column in range(len(labels))])
        )
    return made


ROWS = {
    "two negatives each": [(0, [1, 0, 0]), (1, [1, 0, 0]), (2, [1, 0, 0])],
    "no negatives": [(0, [1]), (1, [1]), (2, [1])],
    "repeated images, several captions": [(0, [1, 1, 0]), (1, [1, 0]), (0, [1, 0, 1]), (2, [1])],
    "rows without an anchor, unknown labels": [(0, [1, -1]), (1, [0, 1]), (2, [-1, 0]), (3, [0]), (0, [1, 0, -1])],
    "one image": [(0, [1, 0]), (0, [1])],
    "nothing true": [(0, [0]), (1, [-1, 0])],
}


def double_module(**settings: object) -> Blip2ItmModule:
    return tiny_blip2_module(loss="itc_itm", seed=0, **settings).double()


def plain(module: Blip2ItmModule, item: ImageTextRow, caption: str, *, itm: bool) -> torch.Tensor:
    """`logits_per_image` [1 or 2] of the plain Transformers model for one pair, in float64."""
    text = module.processor.tokenizer(" ".join(clean_words(caption)), return_tensors="pt")
    pixels = module.processor.image_processor(item.image, return_tensors="pt")["pixel_values"].double()
    outputs = module.network.blip2(pixels, text.input_ids, text.attention_mask, use_image_text_matching_head=itm)
    return outputs.logits_per_image[0]


def slow_draw(weights: dict[int, float], keys: dict[int, str], number: float) -> list[int]:
    """Walks along the candidates in the order of their keys' hashes, each as long as its weight."""
    left = number * sum(weights.values())
    for candidate in sorted(weights, key=lambda candidate: int(identity_hashes([keys[candidate]]))):
        left -= weights[candidate]
        if left < 0:
            return [candidate]
    return []


@dataclass
class Slow:
    """The two parts of the loss, and the pairs (row of the image, text id) that were drawn."""

    itc: torch.Tensor
    itm: torch.Tensor
    drawn: list[tuple[int, str]]
    wrong: int


def slow_parts(module: Blip2ItmModule, rows: list[ImageTextRow]) -> Slow:
    """The definition, by the plain Transformers model, pair by pair."""
    cells = [
        (place, *cell)
        for place, item in enumerate(rows)
        for cell in zip(item.captions, item.text_ids, item.labels, strict=True)
    ]
    itm = [
        F.cross_entropy(plain(module, rows[place], caption, itm=True), torch.tensor(label))
        for place, caption, _, label in cells
        if label != -1
    ]
    true = [(place, caption, text_id) for place, caption, text_id, label in cells if label == 1]
    if not true:
        return Slow(torch.zeros(()), torch.stack(itm).mean(), [], 0)
    images = sorted({place for place, _, _ in true})
    names = {place: rows[place].image_id for place in images}
    similarity = [[plain(module, rows[i], caption, itm=False)[0] for _, caption, _ in true] for i in images]
    logits = torch.stack([torch.stack(values) for values in similarity]) / module.network.itc_temperature
    pairs = []
    for own, (place, _, text_id) in enumerate(true):
        if text_id != rows[place].text_ids[0]:
            continue
        one, two = (uniform_numbers([text_id], seed=0, epoch=0, drawn=what).item() for what in ("image", "text"))
        other_images = [k for k, i in enumerate(images) if names[i] != names[place]]
        weights = {k: logits[k, own].exp().item() for k in other_images}
        pairs += [(images[k], own) for k in slow_draw(weights, {k: names[images[k]] for k in weights}, one)]
        other_texts = [t for t, (i, _, _) in enumerate(true) if names[i] != names[place]]
        weights = {t: logits[images.index(place), t].exp().item() for t in other_texts}
        pairs += [(place, t) for t in slow_draw(weights, {t: true[t][2] for t in weights}, two)]
    outputs = [plain(module, rows[image], true[text][1], itm=True) for image, text in pairs]
    itm += [F.cross_entropy(output, torch.tensor(0)) for output in outputs]
    return Slow(
        slow_itc(logits, [names[i] for i in images], [names[i] for i, _, _ in true]),
        torch.stack(itm).mean(),
        [(image, true[text][2]) for image, text in pairs],
        sum(bool(output[1] > output[0]) for output in outputs),
    )


@pytest.mark.parametrize("name", ROWS)
def test_the_loss_and_its_gradients_are_those_of_plain_pairs(name: str) -> None:
    module, rows = double_module(), items(ROWS[name])
    loss, report = module.loss(module.collator()(rows))
    slow = slow_parts(module, rows)
    assert report["itc/loss"].item() == pytest.approx(slow.itc.item(), abs=1e-6)
    assert report["itm/loss"].item() == pytest.approx(slow.itm.item(), abs=1e-6)
    assert loss.item() == pytest.approx((slow.itc + slow.itm).item(), abs=1e-6)
    anchors = sum(item.labels[0] == 1 for item in rows)
    assert len(slow.drawn) == (2 * anchors if name not in ("one image", "nothing true") else 0)
    expected_accuracy = 1 - slow.wrong / len(slow.drawn) if slow.drawn else 0
    assert float(report["itm/in_batch_accuracy"]) == pytest.approx(expected_accuracy)
    parameters = dict(module.named_parameters())
    expected = torch.autograd.grad(slow.itc + slow.itm, list(parameters.values()), allow_unused=True)
    found = torch.autograd.grad(loss, list(parameters.values()))
    for parameter, one, two in zip(parameters, found, expected, strict=True):
        torch.testing.assert_close(
            one, torch.zeros_like(one) if two is None else two, atol=1e-6, rtol=1e-5, msg=parameter
        )


def test_weights_scale_the_parts_and_in_batch_negatives_can_be_left_out() -> None:
    rows = items(ROWS["two negatives each"])
    settings = ItcItmSettings(itc_weight=0.5, itm_weight=3.0, in_batch_negatives=False, temperature=0.2)
    module = tiny_blip2_module(loss="itc_itm", loss_settings=settings)
    batch = module.collator()(rows)
    loss, report = module.loss(batch)
    assert loss.item() == pytest.approx(0.5 * report["itc/loss"].item() + 3 * report["itm/loss"].item(), rel=1e-6)
    assert report["itm/loss"].item() == pytest.approx(tiny_blip2_module().loss(batch)[0].item(), rel=1e-6)
    assert report["itc/temperature"].item() == pytest.approx(0.2)


@torch.no_grad()
def test_the_loss_does_not_depend_on_the_order_of_rows() -> None:
    module, rows = double_module(), items(ROWS["repeated images, several captions"])
    loss = module.loss(module.collator()(rows))[0].item()
    for order in ([3, 1, 0, 2], [2, 3, 1, 0]):
        assert module.loss(module.collator()([rows[place] for place in order]))[0].item() == pytest.approx(
            loss, abs=1e-9
        )


@torch.no_grad()
def test_an_image_passes_the_vision_tower_once() -> None:
    module, seen = tiny_blip2_module(loss="itc_itm"), []
    module.network.blip2.vision_model.register_forward_hook(
        lambda _, args, output: seen.append(len(output.last_hidden_state))
    )
    module.loss(module.collator()(items(ROWS["repeated images, several captions"])))
    assert seen == [4]


def test_gradient_checkpointing_and_half_precision_run_the_same_loss() -> None:
    rows = items(ROWS["repeated images, several captions"])
    plain_module, saving = (
        tiny_blip2_module(loss="itc_itm", gradient_checkpointing=on).train() for on in (False, True)
    )
    batch = plain_module.collator()(rows)
    loss = plain_module.loss(batch)[0]
    loss.backward()
    saving.loss(batch)[0].backward()
    for (name, one), two in zip(plain_module.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, atol=1e-6, rtol=1e-5, msg=name)
    with torch.autocast("cpu", torch.bfloat16):
        half, report = plain_module.loss(batch)
    assert half.dtype == report["itc/loss"].dtype == torch.float32
    half.backward()
    assert half.item() == pytest.approx(loss.item(), abs=0.2)


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec|val_dataloader|in eval mode at the start)")
def test_the_temperature_stays_in_its_range() -> None:
    """A learning rate of 1 moves it by about 1 in the first step."""
    rows = items(ROWS["no negatives"])
    run, module = fit(rows, module=tiny_blip2_module(loss="itc_itm", lr=1.0))
    assert module.network.itc_temperature.item() in (pytest.approx(0.001), pytest.approx(0.5))
    assert "train/itc/temperature" in run.callback_metrics


# --- ranks


def fit(rows: list[ImageTextRow], *, module: Blip2ItmModule, **settings: object) -> tuple[L.Trainer, Blip2ItmModule]:
    """One step on one batch."""
    loader: DataLoader[ImageTextBatch] = DataLoader(rows, batch_size=len(rows), collate_fn=module.collator())  # type: ignore[arg-type]
    run = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,  # type: ignore[arg-type]
    )
    run.fit(module, loader)
    return run, module


DEALS: dict[str, list[list[ImageTextRow]]] = {
    "uneven": [
        items([(0, [1, 0, 0]), (1, [1]), (2, [1, 1, 0, -1])]),
        items([(0, [1, 0]), (3, [0, 1])], start=3),
    ],
    "other rows on the ranks": [
        items([(0, [1, 0]), (3, [0, 1])], start=3)[:1],
        [*items([(3, [0, 1])], start=4), *items([(0, [1, 0, 0]), (1, [1]), (2, [1, 1, 0, -1])])],
    ],
    "nothing true on one rank": [items([(0, [1, 0]), (1, [1])]), items([(2, [0, 0])], start=2)],
    "nothing known on one rank": [items([(0, [1, 0]), (1, [1])]), items([(2, [-1])], start=2)],
}


def gradients(rows: list[ImageTextRow], **settings: object) -> dict[str, torch.Tensor]:
    """The gradients that the optimiser sees in one step, and what is logged; weights stay."""
    module = tiny_blip2_module(loss="itc_itm", lr=0.0)
    run, _ = fit(rows, module=module, precision="64-true", **settings)
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    logged = ("loss/value", "itm/loss", "itc/loss", "cells/accuracy", "itm/in_batch_accuracy")
    return {**found, **{name: run.callback_metrics[f"train/{name}"] for name in logged}}


def save_gradients_of_this_rank(folder: str) -> None:
    rank = int(os.environ["RANK"])
    for index, deal in enumerate(DEALS.values()):
        torch.save(gradients(deal[rank], strategy="ddp", devices=2), Path(folder) / f"{index}_{rank}.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec|val_dataloader|in eval mode at the start)")
def test_gradients_of_two_ranks_equal_those_of_one_process(tmp_path: Path) -> None:
    run_on_two_ranks(tmp_path, __name__, f"save_gradients_of_this_rank({str(tmp_path)!r})")
    one_process = []
    for index, deal in enumerate(DEALS.values()):
        expected = gradients([item for rows in deal for item in rows], devices=1)
        one_process.append(expected["loss/value"].item())
        for rank in range(2):
            found = torch.load(tmp_path / f"{index}_{rank}.pt", weights_only=True)
            assert found.keys() == expected.keys()
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-6, msg=f"{index} {name}")
        assert sum(bool(gradient.abs().max() > 1e-4) for gradient in expected.values()) > 50
    assert one_process[0] == pytest.approx(one_process[1], abs=1e-6), "however rows are dealt to ranks"
