"""The data module: an epoch is one pass over what was kept, whatever the number of workers."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.batch import ImageTextRow, collate_rows
from datamodules.image_text import ImageTextDataModule
from datamodules.loaders import ctrl_c_held_back
from datamodules.mixing_settings import Curriculum, Mixing
from negatives.filtering.harmonise import harmonise_table
from negatives.tables.captions import InputError, pair_table, read_captions, read_negatives, text_table, write_table
from negatives.tables.verdicts import VERDICT_SCHEMA
from tests.tiny import photo, read_pairs, row, tiny_tables

NEIGHBOUR_COLUMNS = ("image_id", "neighbour_image_id")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of six scenes, verdicts that drop about a third, paraphrases, and the next two scenes as neighbours."""
    folder = tmp_path_factory.mktemp("tables")
    captions, negatives = tiny_tables(folder)
    true = read_captions(captions)
    texts = text_table(true, read_negatives(negatives, true))
    keep = np.random.default_rng(0).random(len(texts)) < 0.65
    columns = (texts["text_id"], texts["label"], [0] * len(keep), [0.5] * len(keep), keep.astype(float), keep)
    verdicts = pa.table(dict(zip(VERDICT_SCHEMA.names, columns, strict=True)), schema=VERDICT_SCHEMA)
    # in another order than the texts
    write_table(verdicts.take(np.random.default_rng(1).permutation(len(keep))), folder / "verdicts.parquet")
    write_table(paraphrases_of(true, 8), folder / "paraphrases.parquet")
    ring = [(f"train-{i}", f"train-{(i + step) % 6}") for i in range(6) for step in (1, 2)]
    write_table(pa.table(dict(zip(NEIGHBOUR_COLUMNS, zip(*ring, strict=True), strict=True))), folder / "near.parquet")
    return folder


def paraphrases_of(captions: pa.Table, first: int) -> pa.Table:
    """Two paraphrases of each of the first captions."""
    rows = [
        {**row, "caption_id": f"{row['caption_id']}-{n}", "caption": f"so {n}", "source_caption_id": row["caption_id"]}
        for row in captions.select(["image_id", "image", "caption_id", "caption"]).to_pylist()[:first]
        for n in range(2)
    ]
    return pa.Table.from_pylist(rows)


MIXING_KEYS = {field.name for field in fields(Mixing)}


def data(folder: Path, **settings: Any) -> ImageTextDataModule:
    """A data module whose batches are lists of rows; with paraphrases where their ratio is given.

    `neighbours` is the name of a table in the folder; settings of the mixing are mixed among the others.
    """
    train = folder / "train"
    settings = {"batch_size": 5, "verdicts": folder / "verdicts.parquet", "image_root": train, **settings}
    captions: list[Any] = [train / "captions.parquet"]
    if "paraphrase_ratio" in settings:
        captions.append(folder / "paraphrases.parquet")
    if "neighbours" in settings:
        settings["neighbours"] = folder / settings["neighbours"]
    mixing = Mixing(**{key: settings.pop(key) for key in MIXING_KEYS & settings.keys()})
    module = ImageTextDataModule(captions, train / "negatives.parquet", mixing=mixing, **settings)
    module.connect(list)  # type: ignore[arg-type]
    module.setup()
    return module


def epoch_of(module: ImageTextDataModule, epoch: int = 0) -> list[list[ImageTextRow]]:
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)  # type: ignore[arg-type]


def ranked(module: ImageTextDataModule, rank: int, world_size: int) -> ImageTextDataModule:
    """The data module as one of several ranks at the start of training."""
    trainer = SimpleNamespace(global_rank=rank, world_size=world_size, training=True)
    trainer.fit_loop = SimpleNamespace(batch_idx=-1)
    module.trainer = trainer  # type: ignore[assignment]
    return module


def plain(batches: Iterable[Iterable[ImageTextRow]]) -> list[list[tuple[Any, ...]]]:
    """Batches as values that can be compared, pixels included."""
    return [
        [(r.image_id, r.image.tobytes(), r.text_ids, r.captions, r.labels, r.negative_types) for r in batch]
        for batch in batches
    ]


def kept(folder: Path, label: int) -> set[str]:
    from pyarrow import parquet

    rows = parquet.read_table(folder / "verdicts.parquet").to_pylist()
    return {row["text_id"] for row in rows if row["keep"] and row["label"] == label}


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("unit", ["text", "pair"])
def test_an_epoch_is_one_pass_over_the_kept_positives(folder: Path, unit: str, epoch: int) -> None:
    batches = epoch_of(data(folder, subset="kept", unit=unit), epoch)
    anchors = [row.text_ids[0] for batch in batches for row in batch]
    assert sorted(anchors) == sorted(kept(folder, 1))
    assert [len(batch) for batch in batches] == [5] * (len(anchors) // 5) + [len(anchors) % 5] * (len(anchors) % 5 > 0)


@pytest.mark.parametrize("unit", ["text", "pair"])
def test_rows_hold_the_positive_and_then_kept_negatives_of_its_image(folder: Path, unit: str) -> None:
    module = data(folder, subset="kept", unit=unit, negatives=3)
    texts = {row["text_id"]: row for row in text_table(*tables_of(folder)).to_pylist()}
    for item in (item for batch in epoch_of(module) for item in batch):
        assert item.labels == [1] + [0] * (len(item.labels) - 1)
        assert set(item.text_ids[1:]) <= kept(folder, 0)
        for text_id, caption, kind in zip(item.text_ids, item.captions, item.negative_types, strict=True):
            assert (caption, kind) == (texts[text_id]["caption"], texts[text_id]["negative_type"])
            assert texts[text_id]["image_id"] == item.image_id
            if unit == "pair":
                own = item.text_ids[0].removeprefix("caption:")
                assert text_id in (item.text_ids[0], f"negative:{own}:{kind}:0")
        owner = item.text_ids[0].removeprefix("caption:") if unit == "pair" else item.image_id
        available = sum(text_id.startswith(f"negative:{owner}") for text_id in kept(folder, 0))
        assert len(item.text_ids) - 1 == min(3, available)


def tables_of(folder: Path) -> tuple[pa.Table, pa.Table]:
    captions = read_captions(folder / "train" / "captions.parquet")
    return captions, read_negatives(folder / "train" / "negatives.parquet", captions)


MIXES: dict[str, dict[str, Any]] = {
    "plain": {},
    "curriculum": {
        "negatives": 3.5,
        "curriculum": Curriculum(epochs=1.7, negatives=0.5, swap_ratio=1.0),
    },
    "paraphrases": {
        "paraphrase_ratio": 0.6,
        "curriculum": Curriculum(epochs=2, paraphrase_ratio=0.1),
    },
    "neighbours": {"neighbours": "near.parquet", "paraphrase_ratio": 0.4},
    "rows of several positives": {"positives": 2, "negatives": 1.5, "paraphrase_ratio": 0.5},
}
every_mix = pytest.mark.parametrize("mix", MIXES)


@every_mix
def test_batches_do_not_depend_on_the_number_of_workers(folder: Path, mix: str) -> None:
    one, two = (plain(epoch_of(data(folder, num_workers=workers, **MIXES[mix]), epoch=1)) for workers in (0, 2))
    assert one == two


@every_mix
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_goes_on_behind_what_was_trained_on(folder: Path, world_size: int, workers: int, mix: str) -> None:
    """Also where the iterator was asked for before Lightning knew epoch and batch."""
    for rank in range(world_size):
        settings = {"batch_size": 1, **MIXES[mix]}
        whole = plain(epoch_of(ranked(data(folder, **settings), rank, world_size), epoch=1))
        module = ranked(data(folder, num_workers=workers, **settings), rank, world_size)
        loader = module.train_dataloader()
        iterator = iter(loader)
        loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
        module.trainer.fit_loop.batch_idx = 1  # type: ignore[union-attr, misc]
        assert plain(iterator) == whole[2:]  # type: ignore[arg-type]
        assert len(loader) == len(whole) > 2, "the length is that of a whole epoch"
        module.trainer.training = False  # type: ignore[union-attr, misc]
        assert plain(loader) == whole  # type: ignore[arg-type]


def test_an_epoch_is_the_same_whenever_it_is_asked_for(folder: Path) -> None:
    module = data(folder)
    first = plain(epoch_of(module, 3))
    assert plain(epoch_of(module, 4)) != first
    assert plain(epoch_of(module, 3)) == plain(epoch_of(data(folder), 3)) == first


@every_mix
def test_rows_do_not_depend_on_the_number_of_ranks_or_the_batch_size(folder: Path, mix: str) -> None:
    alone = sorted(row.text_ids for batch in epoch_of(data(folder, **MIXES[mix])) for row in batch)
    assert sum(text_id.startswith("caption:") for text_ids in alone for text_id in text_ids) >= 12
    for world_size in (2, 3):
        seen = []
        for rank in range(world_size):
            module = ranked(data(folder, batch_size=2, **MIXES[mix]), rank, world_size)
            seen += [row.text_ids for batch in epoch_of(module) for row in batch]
        assert sorted(seen) == alone


@pytest.mark.parametrize("unit", ["text", "pair"])
def test_a_curriculum_moves_within_and_across_epochs(folder: Path, unit: str) -> None:
    """From no negative to four over an epoch and a half: row j of the twelve in epoch e stands at e + j / 12."""
    curriculum = Curriculum(epochs=1.5, negatives=0.0)
    module = data(folder, unit=unit, negatives=4, curriculum=curriculum)
    for epoch in range(3):
        rows = [row for batch in epoch_of(module, epoch) for row in batch]
        for place, item in enumerate(rows):
            expected = 4 * min(1.0, (epoch + place / 12) / 1.5)
            assert abs(len(item.labels) - 1 - expected) < 1 + 1e-9, (epoch, place)
    assert len(rows) == 12
    assert {len(item.labels) for item in rows} == {5}


def test_a_curriculum_moves_from_replacements_to_swaps(folder: Path) -> None:
    """One negative for each of twelve positives: the first is no swap, all are behind the curriculum's end."""
    module = data(folder, swap_ratio=1.0, curriculum=Curriculum(epochs=2.0, swap_ratio=0.0))
    swaps = [
        [item.negative_types[-1].startswith("swap") for batch in epoch_of(module, epoch) for item in batch]
        for epoch in range(4)
    ]
    assert not swaps[0][0]
    assert 0 < sum(swaps[0]) + sum(swaps[1]) < 24
    assert all(swaps[2] + swaps[3])


def pool_sizes(module: ImageTextDataModule) -> tuple[int, int]:
    assert module.rows is not None
    pool = module.rows.pool
    return len(pool.anchors), sum(len(texts) for families in pool.by_image.values() for texts in families.values())


def test_a_subset_has_the_size_that_it_says(folder: Path) -> None:
    texts = text_table(*tables_of(folder))
    positives, negatives = len(kept(folder, 1)), len(kept(folder, 0))
    assert pool_sizes(data(folder, subset="all")) == (12, len(texts) - 12)
    assert pool_sizes(data(folder, subset="kept")) == (positives, negatives)
    assert pool_sizes(data(folder, subset="random")) == (positives, negatives), "as many of each class as were kept"


def test_the_random_subset_depends_on_the_seed_and_differs_from_the_kept(folder: Path) -> None:
    def texts(**settings: Any) -> list[str]:
        return sorted(row.text_ids[0] for batch in epoch_of(data(folder, **settings)) for row in batch)

    assert texts(subset="random", seed=0) == texts(subset="random", seed=0)
    assert texts(subset="random", seed=0) != texts(subset="random", seed=1)
    assert texts(subset="random", seed=0) != texts(subset="kept")


@pytest.mark.parametrize("subset", ["kept", "random"])
def test_a_subset_without_verdicts_is_an_error(folder: Path, subset: str) -> None:
    with pytest.raises(InputError, match=rf"data\.subset={subset} needs data\.verdicts: run `itm filter`"):
        data(folder, subset=subset, verdicts=None)


def pair_verdicts(folder: Path, target: Path) -> tuple[Path, dict[tuple[str, str, str], bool]]:
    """The folder's verdicts beside some on pairs, and whether each (caption_id, negative_id, type) is kept."""
    pairs = pair_table(*tables_of(folder))
    keep = np.random.default_rng(2).random(len(pairs)) < 0.4
    judged = pairs.drop_columns(["negative_type"])
    for name, column in (("fold", [0] * len(keep)), ("oof_score", [0.5] * len(keep)), ("keep_probability", keep * 1.0)):
        judged = judged.append_column(name, pa.array(column))
    judged = judged.append_column("keep", pa.array(keep)).take(np.random.default_rng(3).permutation(len(keep)))
    write_table(judged, target / "pair_verdicts.parquet")
    shutil.copy(folder / "verdicts.parquet", target)
    names = [tuple(row.values()) for row in pairs.to_pylist()]
    return target / "verdicts.parquet", dict(zip(names, keep.tolist(), strict=True))  # type: ignore[arg-type]


def pairs_of(module: ImageTextDataModule) -> list[tuple[str, str, str]]:
    """(caption_id, negative_id, type) of an epoch with all negatives, sorted."""
    rows = (row for batch in epoch_of(module) for row in batch)
    return sorted(
        (row.text_ids[0].removeprefix("caption:"), text_id.removeprefix("negative:"), kind)
        for row in rows
        for text_id, kind in zip(row.text_ids[1:], row.negative_types[1:], strict=True)
    )


def anchors_of(module: ImageTextDataModule) -> set[str]:
    return {row.text_ids[0].removeprefix("caption:") for batch in epoch_of(module) for row in batch}


def test_unit_pair_trains_on_the_kept_pairs_where_pairs_were_judged(folder: Path, tmp_path: Path) -> None:
    verdicts, keep = pair_verdicts(folder, tmp_path)
    module = data(folder, verdicts=verdicts, subset="kept", unit="pair", negatives=20)
    kept = sorted(pair for pair, yes in keep.items() if yes)
    assert pairs_of(module) == kept
    assert anchors_of(module) == {caption_id for caption_id, _, _ in kept}


def test_unit_text_goes_by_the_verdicts_on_texts_also_where_pairs_were_judged(folder: Path, tmp_path: Path) -> None:
    verdicts, _ = pair_verdicts(folder, tmp_path)
    for subset in ("kept", "random"):
        one, two = (epoch_of(data(folder, verdicts=path, subset=subset)) for path in (verdicts, folder / verdicts.name))
        assert plain(one) == plain(two)


@pytest.mark.parametrize(("judged", "drawn", "warns"), [("pair", "text", 1), ("pair", "pair", 0), ("both", "text", 0)])
def test_single_texts_of_judged_pairs_are_drawn_with_a_warning(
    folder: Path, tmp_path: Path, judged: str, drawn: str, warns: int
) -> None:
    verdicts, _ = pair_verdicts(folder, tmp_path)
    write_table(pq.read_table(verdicts).replace_schema_metadata({"harmonised": "true", "unit": judged}), verdicts)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        epoch_of(data(folder, verdicts=verdicts, subset="kept", unit=drawn))
    assert sum("promises nothing" in str(one.message) for one in caught) == warns


def test_the_random_subset_of_pairs_has_as_many_of_each_type_and_differs(folder: Path, tmp_path: Path) -> None:
    verdicts, keep = pair_verdicts(folder, tmp_path)
    kept = sorted(pair for pair, yes in keep.items() if yes)

    def drawn(seed: int) -> list[tuple[str, str, str]]:
        settings: dict[str, Any] = {"subset": "random", "unit": "pair", "negatives": 20, "seed": seed}
        module = data(folder, verdicts=verdicts, **settings)
        assert anchors_of(module) == {caption_id for caption_id, _, _ in pairs_of(module)}
        return pairs_of(module)

    assert Counter(kind for *_, kind in drawn(0)) == Counter(kind for *_, kind in kept)
    assert set(drawn(0)) <= set(keep)
    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert drawn(0) != kept


def restyled(folder: Path, target: Path) -> Path:
    """The folder's tables and verdicts with negatives that are written otherwise than their positives."""
    shutil.copytree(folder / "train", target / "train")
    shutil.copy(folder / "verdicts.parquet", target)
    negatives = tables_of(folder)[1]
    captions = [caption.upper() + " ." for caption in negatives["caption"].to_pylist()]
    place = negatives.column_names.index("caption")
    write_table(negatives.set_column(place, "caption", pa.array(captions)), target / "train" / "negatives.parquet")
    return target


@pytest.mark.parametrize("harmonise", [True, False])
def test_negatives_take_their_positives_style_before_they_are_trained_on(
    folder: Path, tmp_path: Path, harmonise: bool
) -> None:
    module = data(restyled(folder, tmp_path), harmonise=harmonise)
    captions, negatives = tables_of(tmp_path)
    expected = text_table(captions, harmonise_table(captions, negatives) if harmonise else negatives)
    assert module.captions_to_train_on() == expected["caption"].to_pylist()
    assert any(caption.endswith(" .") for caption in module.captions_to_train_on()) is not harmonise


@pytest.mark.parametrize("harmonise", [True, False])
def test_the_configuration_says_whether_negatives_are_harmonised(folder: Path, harmonise: bool) -> None:
    from experiments.build import build_datamodule
    from experiments.config.data_schemas import DataConfig

    tables = (str(folder / "train" / f"{name}.parquet") for name in ("captions", "negatives"))
    assert DataConfig().harmonise
    assert build_datamodule(DataConfig(*tables, harmonise=harmonise), seed=0).harmonise is harmonise


def test_the_configuration_says_how_rows_are_mixed(folder: Path) -> None:
    from experiments.build import build_datamodule
    from experiments.config.data_schemas import DataConfig
    from experiments.config.load import load_config

    words = [f"{name}={folder / 'train' / f'{name}.parquet'}" for name in ("captions", "negatives")]
    assert build_datamodule(load_config(DataConfig, None, words), seed=0).mixing == Mixing()
    words += ["mixing.curriculum={epochs: 0.5, negatives: 3, paraphrase_ratio: 0}", "mixing.paraphrase_ratio=0.25"]
    words += ["mixing.unit=pair", "mixing.positives=2", "mixing.negatives=1.5", "mixing.swap_ratio=0.1"]
    words += ["mixing.image_dropout=0.2", f"neighbours={folder / 'near.parquet'}"]
    module = build_datamodule(load_config(DataConfig, None, words), seed=0)
    assert module.mixing == Mixing(
        unit="pair",
        positives=2,
        negatives=1.5,
        swap_ratio=0.1,
        paraphrase_ratio=0.25,
        image_dropout=0.2,
        curriculum=Curriculum(epochs=0.5, negatives=3.0, paraphrase_ratio=0.0),
    )
    assert module.neighbours == str(folder / "near.parquet")


@pytest.mark.parametrize("judged", [True, False, None])
@pytest.mark.parametrize("harmonise", [True, False])
def test_verdicts_on_texts_in_another_style_are_an_error(
    folder: Path, tmp_path: Path, harmonise: bool, judged: bool | None
) -> None:
    from pyarrow import parquet

    metadata = None if judged is None else {b"harmonised": str(judged).lower().encode()}
    path = tmp_path / "verdicts.parquet"
    write_table(parquet.read_table(folder / "verdicts.parquet").replace_schema_metadata(metadata), path)
    data(folder, verdicts=path, harmonise=harmonise)  # subset all asks for no verdict
    if judged in (None, harmonise):
        data(folder, verdicts=path, subset="kept", harmonise=harmonise)
        return
    with pytest.raises(InputError, match=rf"data\.harmonise={str(judged).lower()}, or run `itm filter` again") as error:
        data(folder, verdicts=path, subset="kept", harmonise=harmonise)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("unit", ["text", "pair"])
def test_a_paraphrase_is_a_positive_of_its_own(folder: Path, tmp_path: Path, unit: str) -> None:
    captions, _ = tables_of(folder)
    source = captions.to_pylist()[0]
    row = {name: source[name] for name in ("image_id", "image")}
    row |= {"caption_id": "p", "caption": "said otherwise", "source_caption_id": source["caption_id"]}
    write_table(pa.Table.from_pylist([row]), tmp_path / "paraphrases.parquet")
    train = folder / "train"
    module = ImageTextDataModule(
        [train / "captions.parquet", tmp_path / "paraphrases.parquet"],
        train / "negatives.parquet",
        image_root=train,
        mixing=Mixing(unit=unit, negatives=20),
    )
    module.connect(list)  # type: ignore[arg-type]
    module.setup()
    rows = {row.text_ids[0]: row for batch in epoch_of(module) for row in batch}
    assert len(rows) == len(captions) + 1
    paraphrase, original = rows["caption:p"], rows[f"caption:{source['caption_id']}"]
    assert sorted(paraphrase.text_ids[1:]) == sorted(original.text_ids[1:])
    assert paraphrase.captions[0] == "said otherwise"


@pytest.mark.parametrize("unit", ["text", "pair"])
def test_a_set_ratio_makes_paraphrases_stand_in_for_their_captions(folder: Path, unit: str) -> None:
    def rows(epoch: int, **settings: Any) -> list[ImageTextRow]:
        module = data(folder, unit=unit, negatives=2, **settings)
        return [row for batch in epoch_of(module, epoch) for row in batch]

    written = {row["caption_id"]: row for row in pq.read_table(folder / "paraphrases.parquet").to_pylist()}
    replaced = 0
    for epoch in range(10):
        originals, never = rows(epoch), rows(epoch, paraphrase_ratio=0.0)
        assert plain([originals]) == plain([never]), "what was drawn before does not move"
        for original, item in zip(originals, rows(epoch, paraphrase_ratio=0.75), strict=True):
            source, shown = (row.text_ids[0].removeprefix("caption:") for row in (original, item))
            assert (item.image_id, item.text_ids[1:]) == (original.image_id, original.text_ids[1:])
            assert item.image.tobytes() == original.image.tobytes()
            if shown != source:
                replaced += 1
                assert written[shown]["source_caption_id"] == source
                assert item.captions[0] == written[shown]["caption"]
    assert replaced == pytest.approx(10 * 8 * 0.75, abs=16), "4 standard deviations; 8 of 12 captions have paraphrases"


def test_a_ratio_of_paraphrases_needs_paraphrases(folder: Path) -> None:
    train = folder / "train"
    module = ImageTextDataModule(
        train / "captions.parquet", train / "negatives.parquet", mixing=Mixing(paraphrase_ratio=0.5)
    )
    with pytest.raises(InputError, match=r"needs paraphrases, .*; list a table of paraphrases in data\.cap") as error:
        module.setup()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("unit", ["text", "pair"])
def test_a_batch_is_followed_by_a_row_of_a_neighbour_of_each_of_its_images(folder: Path, unit: str) -> None:
    settings: dict[str, Any] = {"subset": "kept", "unit": unit, "negatives": 2}
    kept_anchors = kept(folder, 1)
    steps, captions = Counter(), Counter()
    for epoch in range(12):
        alone = {row.text_ids[0]: row for batch in epoch_of(data(folder, **settings), epoch) for row in batch}
        assert set(alone) == kept_anchors
        module = data(folder, neighbours="near.parquet", **settings)
        for batch, lone in zip(epoch_of(module, epoch), epoch_of(data(folder, **settings), epoch), strict=True):
            assert plain([batch[: len(lone)]]) == plain([lone])
            hard = batch[len(lone) :]
            assert len(hard) == len(lone), "some neighbour of every image has a kept positive"
            assert plain([hard]) == plain([[alone[row.text_ids[0]] for row in hard]]), "negatives by the same rules"
            for near, one in zip(hard, lone, strict=True):
                steps[(int(near.image_id.removeprefix("train-")) - int(one.image_id.removeprefix("train-"))) % 6] += 1
                captions[near.text_ids[0]] += 1
    assert set(steps) == {1, 2}
    assert set(captions) == kept_anchors


def test_a_row_without_a_usable_neighbour_brings_no_other(folder: Path, tmp_path: Path) -> None:
    rows = [{"image_id": "train-0", "neighbour_image_id": "train-1", "rank": 1, "similarity": 0.5}]
    write_table(pa.Table.from_pylist(rows), tmp_path / "one.parquet")
    module = data(folder, neighbours=tmp_path / "one.parquet")
    for epoch in range(3):
        (batch,) = epoch_of(data(folder, neighbours=tmp_path / "one.parquet", batch_size=12), epoch)
        assert [row.image_id for row in batch[12:]] == ["train-1", "train-1"], "two captions of image 0"
    assert module.rows is not None
    assert len(module.rows) == 12, "an epoch is still one pass over the positives"


BAD_NEIGHBOURS = {
    "neighbour_image_id must be of an image in data.captions, got 'x'": ("train-0", "x"),
    "image_id must be of an image in data.captions, got 'y'": ("y", "train-0"),
    "An image must not be its own neighbour, 'train-0' is": ("train-0", "train-0"),
    "neighbour_image_id must be of an image in data.captions, got None": ("train-0", None),
}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("message", BAD_NEIGHBOURS)
def test_neighbours_of_other_images_are_an_error(folder: Path, tmp_path: Path, message: str, suffix: str) -> None:
    rows = [("train-2", "train-3"), BAD_NEIGHBOURS[message]]
    path = tmp_path / f"bad.{suffix}"
    write_table(pa.Table.from_pylist([dict(zip(NEIGHBOUR_COLUMNS, row, strict=True)) for row in rows]), path)
    with pytest.raises(InputError) as error:
        data(folder, neighbours=path)
    assert str(error.value).startswith(message)
    assert f"{path}, {'line' if suffix == 'jsonl' else 'row'} 2" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_without_neighbours_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match=r"needs column `image_id`.*make it by `itm neighbours`"):
        data(folder, neighbours="verdicts.parquet")


def test_several_tables_train_as_one(folder: Path, tmp_path: Path) -> None:
    splits = [folder / split for split in ("train", "biased")]
    for split in splits:
        shutil.copytree(split / "images", tmp_path / "images", dirs_exist_ok=True)
    captions, negatives = ([split / f"{name}.parquet" for split in splits] for name in ("captions", "negatives"))
    module = ImageTextDataModule(captions, negatives, image_root=tmp_path)
    module.connect(list)  # type: ignore[arg-type]
    module.setup()
    anchors = {row.text_ids[0] for batch in epoch_of(module) for row in batch}
    assert anchors == {f"caption:train-{i}-{side}" for i in range(6) for side in "ab"} | {
        f"caption:biased-{i}-a" for i in range(2)
    }


def test_several_tables_need_the_folder_of_their_images(folder: Path) -> None:
    tables = ([folder / split / f"{name}.parquet" for split in ("train",)] for name in ("captions", "negatives"))
    with pytest.raises(InputError, match=r"data\.image_root must be given where data\.captions lists several"):
        ImageTextDataModule(*tables)


def test_an_unknown_unit_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match=r"data\.mixing\.unit must be one of text, pair, got 'image'"):
        data(folder, unit="image")


def test_a_filter_that_leaves_no_positive_is_an_error(folder: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    verdicts = parquet.read_table(folder / "verdicts.parquet")
    rows = [{**row, "keep": row["label"] == 0} for row in verdicts.to_pylist()]
    write_table(pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA), tmp_path / "verdicts.parquet")
    with pytest.raises(InputError, match="no positive is left to train on"):
        data(folder, subset="kept", verdicts=tmp_path / "verdicts.parquet")


def test_missing_images_are_found_before_training(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="6 of 6 images do not exist"):
        data(folder, image_root=tmp_path)


def test_a_loader_before_connect_and_setup_is_an_error(folder: Path) -> None:
    train = folder / "train"
    module = ImageTextDataModule(train / "captions.parquet", train / "negatives.parquet")
    with pytest.raises(RuntimeError, match=r"setup\(\) and connect"):
        module.train_dataloader()


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_validation_counts_every_text_once_over_all_ranks(folder: Path, world_size: int) -> None:
    held_out = folder / "balanced"
    pairs = read_pairs(held_out / "captions.parquet", held_out / "negatives.parquet")
    expected = sorted(text_table(pairs.captions, pairs.negatives)["text_id"].to_pylist())
    seen, batches = [], []
    for rank in range(world_size):
        dealt = list(ranked(data(folder, validation=pairs, batch_size=2), rank, world_size).val_dataloader())
        rows = [row for batch in dealt for row in batch]
        assert all(set(row.labels) == {-1} or row.labels[0] == 1 for row in rows)
        seen += [text_id for row in rows if row.labels[0] == 1 for text_id in row.text_ids]
        batches.append([len(batch) for batch in dealt])
    assert sorted(seen) == expected
    assert all(sizes == batches[0] for sizes in batches), "a sharded model needs all ranks for every batch"


def test_validation_without_captions_is_an_error(folder: Path) -> None:
    held_out = folder / "biased"
    pairs = read_pairs(held_out / "captions.parquet", held_out / "negatives.parquet")
    empty = replace(pairs, captions=pairs.captions[:0], negatives=pairs.negatives[:0])
    with pytest.raises(InputError, match=r"data\.validation has no captions; check its tables and image_ids"):
        data(folder, validation=empty).val_dataloader()


def test_without_validation_there_is_nothing_to_validate(folder: Path) -> None:
    assert data(folder).val_dataloader() == []


def test_a_batch_says_which_cells_exist_in_the_mask() -> None:
    rows = [row(0, ["a", "b", "c"]), row(1, ["d"]), row(2, ["e", "f"], [-1, -1])]
    seen: list[Any] = []

    def encoder(*arguments: Any) -> dict[str, Any]:
        seen.extend(arguments)
        return {}

    batch = collate_rows(rows, encoder)
    assert batch.caption_mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert batch.labels.tolist() == [[1, 0, 0], [1, -1, -1], [-1, -1, -1]]
    assert batch.text_ids[1] == ["text-1-0", "", ""]
    assert batch.negative_type[0] == ["", "replace_obj", "replace_obj"]
    assert seen[0][1].tobytes() == photo(1).tobytes()
    assert seen[1:] == [[["a", "b", "c"], ["d"], ["e", "f"]], [[1, 0, 0], [1], [-1, -1]]]


def test_image_dropout_replaces_images_by_noise_at_its_rate_and_nothing_else(folder: Path) -> None:
    plain, dropped, all_noise = (epoch_of(data(folder, image_dropout=rate)) for rate in (0.0, 0.5, 1.0))
    shown, changed = 0, 0
    for seen, other, noise in zip(
        *([r for batch in epoch for r in batch] for epoch in (plain, dropped, all_noise)), strict=True
    ):
        assert seen.text_ids == other.text_ids == noise.text_ids
        assert seen.image.tobytes() != noise.image.tobytes()
        assert other.image.tobytes() in (seen.image.tobytes(), noise.image.tobytes())
        shown, changed = shown + 1, changed + (other.image.tobytes() == noise.image.tobytes())
    assert 0.2 < changed / shown < 0.8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_leaves_a_signal_to_the_main_process(number: signal.Signals, folder: Path) -> None:
    loader = data(folder, num_workers=1).train_dataloader()
    first = plain(loader)  # type: ignore[arg-type]
    (worker,) = loader._iterator._workers  # type: ignore[union-attr]
    os.kill(worker.pid, number)
    assert plain(loader) == first, "the same worker makes the next pass"  # type: ignore[arg-type]


def test_ctrl_c_waits_until_workers_have_started() -> None:
    done, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)

    def work() -> None:
        with ctrl_c_held_back():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert done
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_has_workers_too(folder: Path) -> None:
    module = data(folder, num_workers=1)
    with ThreadPoolExecutor(1) as threads:
        assert plain(threads.submit(epoch_of, module).result()) == plain(epoch_of(data(folder)))


def test_rows_travel_to_workers_that_are_not_forked(folder: Path) -> None:
    """macOS and Windows start loader workers anew, and hand the rows over pickled."""
    rows = data(folder, subset="kept").rows
    assert rows is not None
    travelled = pickle.loads(pickle.dumps(rows))
    item = (1, range(3), range(3))
    assert plain([travelled[item]]) == plain([rows[item]])
