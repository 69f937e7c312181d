"""The contract that every backbone keeps; a backbone joins by a line in tests/backbones.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.nn import functional

from datamodules.batch import ImageTextRow
from datamodules.benchmarks.pairs import Pairs
from datamodules.benchmarks.readers.pairs import tables
from datamodules.image_text import ImageTextDataModule
from experiments.config.schemas import ScoreConfig
from experiments.scoring.engine import EngineSettings
from experiments.scoring.model_scorers import engine_of
from experiments.scoring.ranks import World
from experiments.scoring.scorer import Options
from experiments.scoring.set_files import pair_table
from experiments.verbs.score import pair_logits, read_asked
from lightning_modules import load_scorer
from lightning_modules.base import AlignmentModule
from lightning_modules.losses.binary import binary_loss
from lightning_modules.optim import parameter_groups
from negatives.tables.captions import read_captions, read_negatives, write_table
from tests.backbones import BACKBONES, TRAININGS, TinyBackbone, save_published
from tests.pictures import save_pictures
from tests.tiny import CAPTIONS, photo, row


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


# of different shapes, of which chat VLMs make different numbers of tiles and tokens
ROWS = [
    row(0, CAPTIONS),
    replace(row(1, CAPTIONS[:1]), image=photo(1, 20, 20)),
    replace(row(2, CAPTIONS[1:4]), image=photo(2, 60, 18)),
]


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
    more = [replace(row(index, [*item.captions, *CAPTIONS]), image=item.image) for index, item in enumerate(ROWS)]
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


# pictures of every kind, on every road


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files by what is special about them, with tables beside them: a caption of each, and a negative."""
    folder = tmp_path_factory.mktemp("pictures")
    files = save_pictures(folder)
    images = [(name, files[name].name) for name in files]
    captions = [{"image_id": n, "image": file, "caption_id": n, "caption": "a red dog"} for n, file in images]
    columns = dict.fromkeys(("generator", "model", "prompt_version", "rejected"), "")
    false = {"negative_id": "n", "caption": "a blue dog", "negative_type": "replace_att", **columns}
    write_table(pa.Table.from_pylist(captions), folder / "captions.parquet")
    negatives = [{**false, "caption_id": name, "negative_id": name} for name in files]
    write_table(pa.Table.from_pylist(negatives), folder / "negatives.parquet")
    return files


@torch.no_grad()
def logits_by_road(module: AlignmentModule, folder: Path, tmp_path: Path) -> dict[str, dict[str, float]]:
    """text_id -> logit, as training, validation, `itm evaluate` and `itm score` come to it."""
    captions = read_captions(folder / "captions.parquet")
    pairs = Pairs(captions, read_negatives(folder / "negatives.parquet", captions), folder)
    files = (folder / "captions.parquet", folder / "negatives.parquet")
    data = ImageTextDataModule(*files, batch_size=5, validation=pairs)
    data.connect(module.collator())
    data.setup()
    roads = {}
    for road, loader in (("train", data.train_dataloader()), ("validate", data.val_dataloader())):
        found = roads[road] = {}
        for batch in loader:  # type: ignore[union-attr]
            values = module.logits(batch).flatten().tolist()
            texts = [text_id for row in batch.text_ids for text_id in row]
            assert len(values) == len(texts), "one number for each picture and text"
            found.update(zip(texts, values, strict=True))
    options = Options(tmp_path / "store", accelerator="cpu", engine=EngineSettings(batch_size=5))
    benchmark = tables.read(*files)
    scores = engine_of(module, "tiny", options, {}).scores_of({"set": benchmark}, options, World())
    assert scores is not None
    table = pair_table(benchmark, scores["set"]).to_pylist()
    roads["evaluate"] = {f"caption:{row['caption_id']}": row["positive_logit"] for row in table}
    roads["evaluate"] |= {f"negative:{row['negative_id']}": row["negative_logit"] for row in table}
    config = ScoreConfig(captions=str(files[0]), output_dir=str(tmp_path / "scores"), batch_size=5)
    asked, ids = read_asked(config)
    logits = pair_logits(config, engine_of(module, "", options, {}), {}, asked, World())
    roads["score"] = dict(zip(ids["text_id"].to_pylist(), logits, strict=True))
    return roads


@pytest.mark.parametrize("name", BACKBONES)
def test_every_kind_of_picture_has_one_logit_on_every_road(
    name: str, pictures: dict[str, Path], tmp_path: Path
) -> None:
    module = BACKBONES[name].build()
    save_published(module, tmp_path / "published")
    scorer = load_scorer(str(tmp_path / "published"), device="cpu")
    files = list(pictures.values())
    roads = logits_by_road(module, files[0].parent, tmp_path)
    for prefix, caption in (("caption", "a red dog"), ("negative", "a blue dog")):
        texts = [f"{prefix}:{kind}" for kind in pictures]
        by_path = scorer.logits(files, caption)
        by_object = scorer.logits([Image.open(file) for file in files], caption)
        assert isinstance(by_path, torch.Tensor)
        assert by_path.shape == (len(pictures),)
        assert bool(by_path.isfinite().all())
        assert by_path.tolist() == by_object.tolist()  # type: ignore[union-attr]
        for road, found in roads.items():
            if road != "score" or prefix == "caption":  # of a table of captions alone
                assert [found[text] for text in texts] == pytest.approx(by_path.tolist(), abs=1e-4), road
        by_kind = dict(zip(pictures, by_path.tolist(), strict=True))
        assert by_kind["rotated"] == pytest.approx(by_kind["portrait"], abs=1e-5), "the same picture, upright"
        assert by_kind["grey of 16 bits"] == pytest.approx(by_kind["grey"], abs=1e-5)
        assert abs(by_kind["landscape"] - by_kind["portrait"]) > 1e-3, "pictures must differ for this to tell"
