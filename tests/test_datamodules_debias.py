"""Bias-offset training, the data's part: a row carries what the text-only judge says of its texts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from datamodules.batch import ImageTextRow, collate_rows
from datamodules.debias import Debias
from datamodules.image_text import ImageTextDataModule
from datamodules.mixing_settings import Mixing
from datamodules.sources.tables import read_tables
from negatives.tables.captions import InputError, pair_table, read_captions, read_negatives, text_table, write_table
from negatives.tables.verdicts import PAIR_VERDICT_SCHEMA, PAIR_VERDICTS_FILE, VERDICT_SCHEMA
from tests.tiny import photo, tiny_tables


def write_verdicts(path: Path, texts: pa.Table, scores: np.ndarray, **metadata: str) -> Path:
    """Verdicts that keep every other text."""
    keep = np.arange(len(texts)) % 2 == 0
    columns = (texts["text_id"], texts["label"], [0] * len(keep), scores, keep.astype(float), keep)
    table = pa.table(dict(zip(VERDICT_SCHEMA.names, columns, strict=True)), schema=VERDICT_SCHEMA)
    write_table(table.replace_schema_metadata({"harmonised": "true", "unit": "text", **metadata}), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of six scenes; verdicts on their texts, and in `pairs` on their pairs."""
    folder = tmp_path_factory.mktemp("tables")
    paths = tiny_tables(folder)
    texts, pairs = tables_of(paths)
    scores = np.random.default_rng(0).random(len(texts))
    scores[:2] = 0.0, 1.0  # as certain as can be
    write_verdicts(folder / "verdicts.parquet", texts, scores)
    (folder / "pairs").mkdir()
    write_verdicts(folder / "pairs" / "verdicts.parquet", texts, scores, unit="pair")
    write_pair_verdicts(folder / "pairs" / PAIR_VERDICTS_FILE, pairs, np.random.default_rng(1).random(len(pairs)))
    return folder


def write_pair_verdicts(path: Path, pairs: pa.Table, scores: np.ndarray) -> None:
    columns = (pairs["caption_id"], pairs["negative_id"], [0] * len(scores), scores, scores, scores < 0.5)
    judged = pa.table(dict(zip(PAIR_VERDICT_SCHEMA.names, columns, strict=True)), schema=PAIR_VERDICT_SCHEMA)
    write_table(judged, path)


def tables_of(paths: tuple[Path, Path]) -> tuple[pa.Table, pa.Table]:
    captions = read_captions(paths[0])
    negatives = read_negatives(paths[1], captions)
    return text_table(captions, negatives), pair_table(captions, negatives)


def data(folder: Path, debias: Debias | None, *, pairs: bool = False, **settings: Any) -> ImageTextDataModule:
    train = folder / "train"
    verdicts = folder / "pairs" / "verdicts.parquet" if pairs else folder / "verdicts.parquet"
    mixing = Mixing(unit=settings.pop("unit", "text"), negatives=3.0, positives=settings.pop("positives", 1))
    module = ImageTextDataModule(
        settings.pop("captions", train / "captions.parquet"),
        train / "negatives.parquet",
        **{"verdicts": verdicts, "mixing": mixing, "debias": debias, **settings},
    )
    module.connect(list)  # type: ignore[arg-type]
    module.setup()
    return module


def rows_of(module: ImageTextDataModule) -> list[ImageTextRow]:
    return [row for batch in module.train_dataloader() for row in batch]


def text_logits(folder: Path) -> dict[str, float]:
    """text_id -> its logit, clipped at 5, by a loop over the definition."""
    from pyarrow import parquet

    rows = parquet.read_table(folder / "verdicts.parquet").to_pylist()
    chances = {row["text_id"]: min(max(row["oof_score"], 1e-9), 1 - 1e-9) for row in rows}
    return {name: min(max(math.log(p / (1 - p)), -5.0), 5.0) for name, p in chances.items()}


def test_each_text_carries_its_own_logit_clipped_at_five(folder: Path) -> None:
    expected, seen = text_logits(folder), []
    for row in rows_of(data(folder, Debias())):
        assert row.blind_logit == pytest.approx([expected[text_id] for text_id in row.text_ids])
        seen += row.blind_logit or []
    assert max(seen) == 5.0 == -min(expected.values())


@pytest.mark.parametrize("unit", ["text", "pair"])
@pytest.mark.parametrize("positives", [1, 2])
def test_where_a_loss_compares_a_text_has_its_logit_against_the_first_one(
    folder: Path, unit: str, positives: int
) -> None:
    expected = text_logits(folder)
    for row in rows_of(data(folder, Debias(unit="pair", strength=0.5), unit=unit, positives=positives)):
        first, *_ = (expected[text_id] for text_id in row.text_ids)
        assert row.blind_logit == pytest.approx([0.5 * (expected[name] - first) for name in row.text_ids])


def test_where_pairs_were_judged_a_negative_has_its_pairs_logit(folder: Path) -> None:
    from pyarrow import parquet

    judged = parquet.read_table(folder / "pairs" / PAIR_VERDICTS_FILE).to_pylist()
    chance = {(row["caption_id"], row["negative_id"]): row["oof_score"] for row in judged}
    for row in rows_of(data(folder, Debias(unit="pair"), pairs=True, unit="pair")):
        own, *negatives = (text_id.split(":", 1)[1] for text_id in row.text_ids)
        first = [chance[own, negative] for negative in negatives]
        # the chance that the negative is the positive one is the rest of 1
        assert row.blind_logit == pytest.approx([0.0, *(math.log((1 - p) / p) for p in first)], abs=1e-6)
        assert len(negatives) == 3


def test_a_paraphrase_that_stands_in_has_the_logits_of_its_own_pairs(folder: Path, tmp_path: Path) -> None:
    captions = read_captions(folder / "train" / "captions.parquet").select(
        ["image_id", "image", "caption_id", "caption"]
    )
    said = [
        {**row, "caption_id": f"{row['caption_id']}-p", "source_caption_id": row["caption_id"]}
        for row in captions.to_pylist()
    ]
    write_table(
        pa.Table.from_pylist([{**row, "caption": f"so {row['caption']}"} for row in said]), tmp_path / "p.parquet"
    )
    tables = [folder / "train" / "captions.parquet", tmp_path / "p.parquet"]
    true, false = read_tables(tables, folder / "train" / "negatives.parquet")
    pairs = pair_table(true, false)
    write_verdicts(tmp_path / "verdicts.parquet", text_table(true, false), np.full(len(true) + len(false), 0.5))
    write_pair_verdicts(
        tmp_path / PAIR_VERDICTS_FILE,
        pairs,
        np.where(np.char.endswith(pairs["caption_id"].to_pylist(), "-p"), 0.9, 0.1),
    )
    mixing = Mixing(unit="pair", paraphrase_ratio=0.5)
    settings = {"verdicts": tmp_path / "verdicts.parquet", "mixing": mixing, "image_root": folder / "train"}
    rows = rows_of(data(folder, Debias(unit="pair"), captions=tables, **settings))
    shown = [row.text_ids[0].endswith("-p") for row in rows]
    assert 0 < sum(shown) < len(shown)
    for row, is_paraphrase in zip(rows, shown, strict=True):
        assert row.blind_logit == pytest.approx([0.0, math.log(9) * (-1 if is_paraphrase else 1)])


def test_a_strength_can_be_that_of_a_type(folder: Path) -> None:
    expected = text_logits(folder)
    strength = {"swap_obj": 2.0, "default": 0.25}
    rows = rows_of(data(folder, Debias(strength=strength)))
    assert {"swap_obj", "replace_obj", ""} <= {name for row in rows for name in row.negative_types}
    for row in rows:
        factors = [strength.get(name, 0.25) for name in row.negative_types]
        wanted = [factor * expected[name] for factor, name in zip(factors, row.text_ids, strict=True)]
        assert row.blind_logit == pytest.approx(wanted)
    assert Debias(strength={"swap_obj": 2.0}).strength_of("replace_obj") == 1.0, "where no default is given"


def test_offset_drops_no_text(folder: Path) -> None:
    rows, plain = rows_of(data(folder, Debias())), rows_of(data(folder, None, verdicts=None))
    assert [row.text_ids for row in rows] == [row.text_ids for row in plain]
    assert {row.blind_logit for row in plain} == {None}
    assert all(row.blind_logit for row in rows_of(data(folder, Debias(), subset="random")))


def test_a_batch_carries_the_logits_where_its_captions_are() -> None:
    def encoder(*_: object) -> dict[str, torch.Tensor]:
        return {}

    def row(logits: list[float] | None, captions: int) -> ImageTextRow:
        names = [str(place) for place in range(captions)]
        return ImageTextRow("1", photo(0), names, names, [1] * captions, [""] * captions, logits)

    batch = collate_rows([row([1.5], 1), row([-2.0, 0.25], 2)], encoder)
    assert batch.blind_logit is not None
    assert batch.blind_logit.dtype == torch.float32
    assert batch.blind_logit.tolist() == [[1.5, 0.0], [-2.0, 0.25]]
    moved = batch.to("meta").blind_logit
    assert moved is not None
    assert moved.device.type == "meta"
    assert collate_rows([row(None, 1), row(None, 2)], encoder).to("meta").blind_logit is None


def refused(folder: Path, debias: Debias, **settings: Any) -> str:
    with pytest.raises(InputError) as error:
        data(folder, debias, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_an_offset_cannot_be_made_of_is_one_line(folder: Path, tmp_path: Path) -> None:
    texts, _ = tables_of((folder / "train" / "captions.parquet", folder / "train" / "negatives.parquet"))
    scores, path = np.full(len(texts), 0.5), tmp_path / "verdicts.parquet"
    assert "data.debias=offset needs data.verdicts: run `itm filter`" in refused(folder, Debias(), verdicts=None)
    assert "needs data.subset=all (or random), got kept" in refused(folder, Debias(), subset="kept")
    assert "verdicts on single texts for this loss, and pairs were judged" in refused(folder, Debias(), pairs=True)
    message = refused(folder, Debias(unit="pair"), pairs=True, unit="text")
    assert "needs data.mixing.unit=pair where pairs were judged" in message
    named = refused(folder, Debias(strength={"swap_ob": 1.0}))
    assert "data.debias_strength must name negative types" in named
    assert "got 'swap_ob'. Did you mean swap_obj?" in named
    wrong = np.where(np.arange(len(texts)) == 3, np.nan, scores)
    write_verdicts(path, texts, wrong)
    assert "`oof_score` must be in [0, 1], got nan" in refused(folder, Debias(), verdicts=path)
    write_verdicts(path, texts.slice(1), scores[1:])
    assert f"1 of {len(texts)} texts have no verdict" in refused(folder, Debias(), verdicts=path)
    write_verdicts(path, texts, scores, harmonised="false")
    assert "data.harmonise must be as in the verdicts' filter" in refused(folder, Debias(), verdicts=path)
    table = pa.table({"text_id": texts["text_id"], "label": texts["label"]})
    write_table(table, path)
    assert "`fold`" in refused(folder, Debias(), verdicts=path)
