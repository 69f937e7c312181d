"""Bias-offset training, the losses' part: the blind logit joins the match logit in training, and nowhere else."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from datamodules.batch import ImageTextBatch, ImageTextRow
from datamodules.debias import Debias
from datamodules.image_text import ImageTextDataModule
from lightning_modules.backbones.blip2_itm import Blip2ItmModule
from lightning_modules.losses.ce_clip import CeClipSettings
from lightning_modules.losses.table import LOSSES, build_loss, loss_class
from negatives.tables.captions import text_table, write_table
from negatives.tables.verdicts import VERDICT_SCHEMA
from tests.tiny import CAPTIONS, SHAPE, photo, row, tiny_backbone

LABELS = [[1, 0, 0], [1, 0, -1], [1]]
BLIND = [[0.75, -2.0, 1.0], [-0.5, -1.5, 3.0], [2.0]]
BACKBONE_OF = {
    **{"lm": "llava", "binary": "llava", "listwise": "llava", "itm": "blip2", "itc": "clip", "ce_clip": "clip"},
    "sigmoid": "siglip",
}
every_loss = pytest.mark.parametrize("name", BACKBONE_OF)


def rows(blind: list[list[float]] | None) -> list[ImageTextRow]:
    found = [row(place, CAPTIONS[place : place + len(labels)], labels) for place, labels in enumerate(LABELS)]
    return found if blind is None else [replace(one, blind_logit=own) for one, own in zip(found, blind, strict=True)]


def cells(blind: list[list[float]] | None = BLIND) -> ImageTextBatch:
    """The rows as a batch without a backbone's inputs: (3, 3), the last row has one cell."""
    mask = torch.tensor([[len(labels) > column for column in range(3)] for labels in LABELS])
    labels = torch.tensor([labels + [-1] * (3 - len(labels)) for labels in LABELS])
    # what is in a cell that does not exist is nobody's business
    padded = None if blind is None else torch.tensor([own + [math.nan] * (3 - len(own)) for own in blind])
    none = [[""] * 3] * 3
    return ImageTextBatch(["a", "b", "c"], none, labels, mask, none, {}, padded)


MATCH = [[0.3, 0.1, -1.2], [2.0, 0.4, 9.0], [-0.6, 9.0, 9.0]]


def leaf() -> torch.Tensor:
    return torch.tensor(MATCH, requires_grad=True)


def loss_and_gradient(name: str, batch: ImageTextBatch, logits: torch.Tensor, **inputs: Any) -> tuple[float, Any]:
    objective = build_loss(name, offers=[loss_class(name).reads])
    loss, _ = objective(batch, **inputs)
    loss.backward()
    assert logits.grad is not None
    return loss.item(), logits.grad


def test_losses_that_take_an_offset_say_of_which_kind() -> None:
    found = {name: loss_class(name).blind_unit for name in LOSSES}
    assert found == {
        **dict.fromkeys(("lm", "binary", "itm", "sigmoid"), "text"),
        **dict.fromkeys(("listwise", "itc", "ce_clip"), "pair"),
        "itc_itm": None,
    }


@pytest.mark.parametrize("name", ["binary", "itm"])
def test_each_cell_is_judged_together_with_its_blind_logit(name: str) -> None:
    logits = leaf()
    loss, gradient = loss_and_gradient(name, cells(), logits, **{loss_class(name).reads: logits})
    known = [(r, c) for r, labels in enumerate(LABELS) for c, label in enumerate(labels) if label >= 0]
    expected, total = torch.zeros(3, 3), 0.0
    for r, c in known:
        chance = 1 / (1 + math.exp(-(MATCH[r][c] + BLIND[r][c])))
        total -= math.log(chance if LABELS[r][c] else 1 - chance)
        expected[r, c] = (chance - LABELS[r][c]) / len(known)
    assert len(known) == 6
    assert loss == pytest.approx(total / 6, abs=1e-6)
    torch.testing.assert_close(gradient, expected)


def test_a_positive_stands_against_its_negatives_with_their_blind_logits() -> None:
    logits = leaf()
    loss, gradient = loss_and_gradient("listwise", cells(), logits, match_logits=logits)
    # row 0: a positive and two negatives; row 1: a positive and one, beside an unknown text; row 2 has no negative
    first = torch.tensor([0.3 + 0.75, 0.1 - 2.0, -1.2 + 1.0]).softmax(0)
    second = torch.tensor([2.0 - 0.5, 0.4 - 1.5]).softmax(0)
    assert loss == pytest.approx(-(first[0].log() + second[0].log()).item() / 2, abs=1e-6)
    expected = torch.zeros(3, 3)
    expected[0], expected[1, :2] = first, second
    expected[:2, 0] -= 1
    torch.testing.assert_close(gradient, expected / 2)


def test_of_the_answer_yes_gets_half_of_the_blind_logit_and_no_gives_it() -> None:
    """Five tokens, Yes is 3 and No is 1; of two places the second, the end token's, has no blind logit."""
    yes, no, end = 3, 1, 4
    values = torch.randn(3, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    logits = values.clone().requires_grad_()
    batch = cells()
    first = torch.where(batch.labels == 1, yes, no)
    ids = torch.stack([first, torch.full_like(first, end)], -1)
    match = values[:, :, 0, yes] - values[:, :, 0, no]
    loss, gradient = loss_and_gradient(
        "lm", batch, logits, answer_logits=logits, answer_ids=ids, yes_no_ids=(yes, no), match_logits=match
    )
    total, expected = 0.0, torch.zeros_like(values)
    known = [(r, c) for r, labels in enumerate(LABELS) for c, label in enumerate(labels) if label >= 0]
    for r, c in known:
        together = values[r, c].clone()
        together[0, yes] += BLIND[r][c] / 2
        together[0, no] -= BLIND[r][c] / 2
        for place in range(2):
            chances, wanted = together[place].softmax(0), int(ids[r, c, place])
            total -= chances[wanted].log().item()
            expected[r, c, place] = (chances - F.one_hot(torch.tensor(wanted), 5)) / (2 * len(known))
    assert loss == pytest.approx(total / (2 * len(known)), abs=1e-6)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", ["lm", "binary", "listwise"])
def test_half_precision_takes_an_offset_too(name: str) -> None:
    """As Lightning's bf16-true does: weights, what floats in a batch, and what PyTorch makes by default."""
    module, batch = module_and_batch(name)
    module = module.bfloat16()
    inputs = {key: value.bfloat16() if value.is_floating_point() else value for key, value in batch.inputs.items()}
    assert batch.blind_logit is not None
    found = []
    torch.set_default_dtype(torch.bfloat16)
    try:
        for blind_logit in (batch.blind_logit.bfloat16(), None):
            loss, _ = module.loss(replace(batch, inputs=inputs, blind_logit=blind_logit))
            loss.backward()
            found.append(loss)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found[0].dtype == torch.float32
    assert found[0].item() != found[1].item()


def module_and_batch(name: str, blind: list[list[float]] | None = BLIND, **settings: Any) -> tuple[Any, ImageTextBatch]:
    module = tiny_backbone(BACKBONE_OF[name], loss=name, **settings).train()
    return module, module.collator()(rows(blind))


def slow_contrast(module: Any, batch: ImageTextBatch) -> dict[str, torch.Tensor]:
    """ITC, IMC and CMR by loops over the definition: a hard negative's logit grows by its own against its anchor's."""
    names = ("pixel_values", "input_ids", "attention_mask")
    images, texts, scale = module.network(**{name: batch.inputs[name] for name in names})
    places = [(r, c) for r, labels in enumerate(LABELS) for c in range(len(labels))]
    own = [places.index((r, 0)) for r in range(3)]
    hard = [text for text, (r, c) in enumerate(places) if LABELS[r][c] == 0]
    blind = {text: BLIND[places[text][0]][places[text][1]] - BLIND[places[text][0]][0] for text in hard}
    total, imc, cmr = scale.sum() * 0, [], []
    for r in range(3):
        logit = scale[0] * images[r] @ texts[own[r]]
        among = [scale[0] * images[r] @ texts[text] + blind.get(text, 0.0) for text in (*own, *hard)]
        among_images = [scale[0] * texts[own[r]] @ images[other] for other in range(3)]
        total = total - 2 * logit + sum(torch.stack(them).logsumexp(0) for them in (among, among_images))
        near = [scale[0] * texts[own[r]] @ texts[text] + blind[text] for text in hard]
        imc.append(torch.stack([logit, *near]).logsumexp(0) - logit)
        for text in hard:
            if places[text][0] == r:
                cmr.append(F.relu(1.5 + scale[0] * images[r] @ texts[text] + blind[text] - logit))
    return {"itc": total / 6, "imc": torch.stack(imc).mean(), "cmr": torch.stack(cmr).mean()}


def gradients(loss: torch.Tensor, module: Any) -> list[torch.Tensor]:
    trained = [parameter for parameter in module.network.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("name", ["itc", "ce_clip"])
def test_hard_negatives_of_a_contrast_bring_their_blind_logit_against_their_anchors(name: str) -> None:
    own = CeClipSettings(initial_rank_threshold=1.5, imc_weight=0.7, cmr_weight=0.4) if name == "ce_clip" else None
    module, batch = module_and_batch(name, loss_settings=own)
    module = module.double()
    loss, report = module.loss(batch)
    slow = slow_contrast(module, batch)
    expected = slow["itc"] if name == "itc" else slow["itc"] + 0.7 * slow["imc"] + 0.4 * slow["cmr"]
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    for got, wanted in zip(gradients(loss, module), gradients(expected, module), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-6)
    if name == "ce_clip":
        assert report["cmr/loss"].item() == pytest.approx(slow["cmr"].item(), abs=1e-6)
        assert slow["cmr"].item() > 0


def test_rank_thresholds_follow_the_scorer_alone() -> None:
    own = CeClipSettings(initial_rank_threshold=1.5)
    found = []
    for blind in (None, BLIND):
        module, batch = module_and_batch("ce_clip", blind, seed=12, loss_settings=own)
        module.loss(batch)
        module.objective.on_optimizer_step()
        found.append(module.objective.remembered())
    assert found[0] == found[1] != {"replace_obj": 1.5}


@every_loss
def test_a_blind_logit_of_zero_changes_no_bit(name: str) -> None:
    zeros = [[0.0] * len(own) for own in BLIND]
    results = []
    for blind in (None, zeros, BLIND):
        module, batch = module_and_batch(name, blind)
        loss, _ = module.loss(batch)
        results.append((loss, gradients(loss, module)))
    (plain, expected), (same, got), (other, _) = results
    assert plain.item() == same.item() != other.item()
    assert all(torch.equal(one, two) for one, two in zip(expected, got, strict=True))


@every_loss
def test_outside_training_a_scorer_answers_alone(name: str) -> None:
    module, batch = module_and_batch(name)
    plain = replace(batch, blind_logit=None)
    assert module.loss(batch)[0].item() != module.loss(plain)[0].item()
    with torch.no_grad():
        # what is logged in training, and what validation and scores are made of
        reports = [module.loss(one)[1] for one in (batch, plain)]
        logged = [{key: value for key, value in report.items() if "loss" not in key} for report in reports]
        assert logged[0] == logged[1] != {}
        module.eval()
        assert module.loss(batch)[0].item() == module.loss(plain)[0].item()
        assert torch.equal(module.logits(batch), module.logits(plain))


def test_a_loss_that_takes_no_offset_refuses_a_batch_that_brings_one() -> None:
    module = tiny_backbone("blip2", loss="itc_itm").train()
    with pytest.raises(ValueError, match=r"^data\.debias must be none where model\.loss is itc_itm"):
        module.training_step(module.collator()(rows(BLIND)), 0)


# --- what an offset is for


WORDS = ("red", "blue", "green", "big", "small", "old", "new", "wet", "dry", "soft", "hard", "dark", "loud", "calm")
LEAN = {word: 2.2 * (-1) ** place for place, word in enumerate(WORDS)}
"""Log odds that a text with the word is true: nine of ten."""


def chances(sign: int) -> np.ndarray:
    """Of each word among true (1) and among false texts (-1)."""
    found = 1 / (1 + np.exp(-sign * np.array(list(LEAN.values()))))
    return found / found.sum()


def write_giveaway(folder: Path) -> None:
    """Texts of one word each, which says nothing of the image but much of the label; verdicts that know how much."""
    rng = np.random.default_rng(0)
    drawn = {sign: [f"a {word} dog" for word in rng.choice(WORDS, size=256, p=chances(sign))] for sign in (1, -1)}
    photo(0, 16, 16).save(folder / "photo.png")
    names = [str(place) for place in range(256)]
    captions = {"image_id": names, "image": ["photo.png"] * 256, "caption_id": names, "caption": drawn[1]}
    negatives = {"caption_id": names, "negative_id": names, "caption": drawn[-1]}
    negatives |= {name: ["x"] * 256 for name in ("negative_type", "generator", "model", "prompt_version")}
    texts = text_table(pa.table(captions), pa.table(negatives))
    scores = [1 / (1 + math.exp(-LEAN[caption.split()[1]])) for caption in texts["caption"].to_pylist()]
    columns = (texts["text_id"], texts["label"], [0] * 512, scores, [1.0] * 512, [True] * 512)
    verdicts = pa.table(dict(zip(VERDICT_SCHEMA.names, columns, strict=True)), schema=VERDICT_SCHEMA)
    tables = {"captions": pa.table(captions), "negatives": pa.table(negatives), "verdicts": verdicts}
    for name, table in tables.items():
        write_table(table, folder / f"{name}.parquet")


def blind_accuracy(folder: Path, debias: Debias | None) -> float:
    """How often a scorer prefers a true text to a false one before noise; less than 0.1 apart is a coin."""
    tables = (folder / f"{name}.parquet" for name in ("captions", "negatives"))
    data = ImageTextDataModule(*tables, verdicts=folder / "verdicts.parquet", debias=debias, batch_size=16)
    data.setup()
    torch.manual_seed(0)
    shape = replace(SHAPE, hidden_size=16, layers=1, vision_hidden_size=16, vision_layers=1)
    settings = Blip2ItmModule.Settings(tiny=shape)
    module = Blip2ItmModule(*Blip2ItmModule.tiny(settings, data.captions_to_train_on(), None), lr=1e-2)
    data.connect(module.collator())
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    L.Trainer(accelerator="cpu", max_steps=30, max_epochs=-1, **dict.fromkeys(quiet, False)).fit(module, data)  # type: ignore[arg-type]
    texts = [f"a {word} dog" for word in WORDS]
    with torch.no_grad():
        noise = ImageTextRow("noise", photo(1, 16, 16), texts, texts, [1] * len(texts), [""] * len(texts))
        logits = module.eval().logits(module.collator()([noise]))[0].double().numpy()
    gaps = logits[:, None] - logits
    wins = np.where(np.abs(gaps) < 0.1, 0.5, gaps > 0)
    return float(chances(1) @ wins @ chances(-1))


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec|val_dataloader|in eval mode at the start)")
def test_with_an_offset_a_scorer_does_not_learn_what_the_text_gives_away(tmp_path: Path) -> None:
    write_giveaway(tmp_path)
    assert blind_accuracy(tmp_path, None) > 0.8
    assert blind_accuracy(tmp_path, Debias()) == pytest.approx(0.5, abs=0.1)
