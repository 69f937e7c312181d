"""Mixing: draws are functions of (seed, epoch, caption_id), and an epoch is dealt out evenly to the ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datamodules.mixing import (
    TextPool,
    batch_places,
    batches_in_epoch,
    build_pool,
    draw_hard_anchor,
    draw_negatives,
    rank_batches,
    rank_rows,
    set_paraphrases_aside,
    shown_positive,
    texts_of_pairs,
)
from datamodules.mixing_settings import UNITS, Curriculum, Mixing
from negatives.tables.captions import pair_table, text_table

TYPES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")


def tables(images: int = 6, captions: int = 2) -> tuple[pa.Table, pa.Table]:
    """Captions of a few images, and one negative of each type for every caption."""
    true = [
        {"image_id": f"{i}", "image": f"{i}.png", "caption_id": f"{i}_{c}", "caption": f"true {i} {c}"}
        for i in range(images)
        for c in range(captions)
    ]
    false = [
        {
            "caption_id": row["caption_id"],
            "negative_id": f"{row['caption_id']}:{name}",
            "caption": f"{name} of {row['caption']}",
            "negative_type": name,
        }
        for row in true
        for name in TYPES
    ]
    return pa.Table.from_pylist(true), pa.Table.from_pylist(false)


CAPTIONS, NEGATIVES = tables()
TEXTS, PAIRS = text_table(CAPTIONS, NEGATIVES), pair_table(CAPTIONS, NEGATIVES)
OWNERS = CAPTIONS["caption_id"].to_pylist() + NEGATIVES["caption_id"].to_pylist()
ROWS = TEXTS.to_pylist()


def pool_without(*dropped: str) -> TextPool:
    """The pool of all texts but those with these ids."""
    return build_pool(TEXTS, PAIRS, np.array([row["text_id"] not in dropped for row in ROWS]))


def draw(pool: TextPool, caption_id: str, unit: str = "text", **settings: Any) -> list[str]:
    """The text ids that join a positive."""
    settings = {"negatives": 3, "swap_ratio": 0.5, "seed": 0, "epoch": 0, **settings}
    drawn = draw_negatives(pool, image_id=caption_id.split("_")[0], caption_id=caption_id, unit=unit, **settings)
    return [ROWS[index]["text_id"] for index in drawn]


def swaps(names: list[str]) -> int:
    return sum(":swap_" in name for name in names)


CAPTION_IDS = [owner for owner, row in zip(OWNERS, ROWS, strict=True) if row["label"] == 1]


def test_draw_is_independent_of_world_size() -> None:
    pool = pool_without()
    alone = {caption_id: draw(pool, caption_id) for caption_id in CAPTION_IDS}
    for world_size in (1, 2, 3):
        for rank in range(world_size):
            batches = rank_batches(len(pool.anchors), batch_size=2, seed=0, epoch=0, rank=rank, world_size=world_size)
            for anchor in (anchor for batch in batches for anchor in batch):
                caption_id = OWNERS[pool.anchors[anchor]]
                assert draw(pool, caption_id) == alone[caption_id]


def test_draw_is_independent_of_what_was_drawn_before() -> None:
    pool = pool_without()
    forward = {caption_id: draw(pool, caption_id) for caption_id in CAPTION_IDS}
    backward = {caption_id: draw(pool, caption_id) for caption_id in reversed(CAPTION_IDS)}
    assert forward == backward


def test_draw_is_the_same_in_another_process() -> None:
    code = "from tests.test_datamodules_mixing import *; print([draw(pool_without(), c) for c in CAPTION_IDS])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert result.stdout.strip() == str([draw(pool_without(), caption_id) for caption_id in CAPTION_IDS])


def test_draw_is_independent_of_other_images() -> None:
    foreign = [row["text_id"] for row in ROWS if row["image_id"] != "3"]
    assert draw(pool_without(*foreign), "3_1") == draw(pool_without(), "3_1")


@pytest.mark.parametrize("changed", ["seed", "epoch"])
@pytest.mark.parametrize("unit", UNITS)
def test_draws_differ_between_epochs_and_seeds(unit: str, changed: str) -> None:
    pool = pool_without()
    draws = [[draw(pool, name, unit, **{changed: value}) for name in CAPTION_IDS] for value in range(4)]
    assert all(one != two for i, one in enumerate(draws) for two in draws[:i])


@pytest.mark.parametrize("unit", UNITS)
def test_draws_reach_every_negative_of_a_family_equally_often(unit: str) -> None:
    counts = Counter(
        draw(pool_without(), "0_0", unit, negatives=1, swap_ratio=0.4, epoch=epoch)[0] for epoch in range(2000)
    )
    captions = 2 if unit == "text" else 1
    assert len(counts) == 5 * captions
    for name, count in counts.items():
        # of 2,000 draws 40 % are one of two swaps and 60 % one of three replacements for each caption
        assert count == pytest.approx(2000 * 0.2 / captions, abs=72), name  # 4 standard deviations


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("negatives", [0, 1, 3, 5])
def test_draw_has_as_many_negatives_as_asked_for_and_repeats_none(unit: str, negatives: int) -> None:
    for caption_id in CAPTION_IDS:
        names = draw(pool_without(), caption_id, unit, negatives=negatives)
        assert len(names) == len(set(names)) == negatives


def test_whole_numbers_of_negatives_draw_what_they_always_drew() -> None:
    drawn = {
        (unit, n): [draw(pool_without(), name, unit, negatives=n, epoch=n, seed=1) for name in ("0_0", "3_1")]
        for unit in UNITS
        for n in (1, 3)
    }
    names = {key: [[name.removeprefix("negative:") for name in row] for row in rows] for key, rows in drawn.items()}
    assert names == {
        ("text", 1): [["0_1:swap_obj"], ["3_1:replace_rel"]],
        ("text", 3): [
            ["0_1:swap_obj", "0_0:swap_obj", "0_1:replace_rel"],
            ["3_0:swap_obj", "3_1:replace_obj", "3_1:swap_att"],
        ],
        ("pair", 1): [["0_0:replace_rel"], ["3_1:swap_obj"]],
        ("pair", 3): [
            ["0_0:swap_obj", "0_0:replace_rel", "0_0:swap_att"],
            ["3_1:swap_att", "3_1:replace_rel", "3_1:swap_obj"],
        ],
    }


@pytest.mark.parametrize("negatives", [0.25, 1.3, 2.5])
def test_a_fraction_of_a_negative_joins_as_often_as_it_says(negatives: float) -> None:
    whole = int(negatives)
    sizes = Counter(len(draw(pool_without(), "0_0", negatives=negatives, epoch=epoch)) for epoch in range(1000))
    assert set(sizes) == {whole, whole + 1}
    assert sizes[whole + 1] == pytest.approx(1000 * (negatives - whole), abs=64)  # 4 standard deviations
    for epoch in range(50):
        fewer, drawn, more = (
            draw(pool_without(), "0_0", negatives=n, epoch=epoch) for n in (whole, negatives, whole + 1)
        )
        assert drawn in (fewer, more), "what joins is what a whole number would have brought"


@pytest.mark.parametrize(("unit", "available"), [("text", 9), ("pair", 4)])
def test_draw_takes_all_where_fewer_exist(unit: str, available: int) -> None:
    names = draw(pool_without("negative:2_0:swap_obj"), "2_0", unit, negatives=20)
    assert len(names) == len(set(names)) == available
    assert "negative:2_0:swap_obj" not in names


@pytest.mark.parametrize(("swap_ratio", "expected"), [(0.0, 0), (0.25, 500), (0.5, 1000), (1.0, 2000)])
def test_swap_ratio_is_the_part_of_swaps(swap_ratio: float, expected: int) -> None:
    drawn = [draw(pool_without(), "0_0", negatives=2, swap_ratio=swap_ratio, epoch=epoch) for epoch in range(1000)]
    assert sum(map(swaps, drawn)) == pytest.approx(expected, abs=90)  # 4 standard deviations
    assert sum(map(swaps, drawn)) in ({expected} if swap_ratio in (0, 1) else range(2000))


@pytest.mark.parametrize(("swap_ratio", "expected"), [(1.0, 2), (0.0, 1)])
def test_the_other_family_fills_in_where_one_has_run_out(swap_ratio: float, expected: int) -> None:
    names = draw(pool_without(), "0_0", "pair", negatives=4, swap_ratio=swap_ratio)
    assert len(names) == 4
    assert swaps(names) == expected  # of two swaps and three replacements


def test_draw_is_empty_where_no_negative_is_left() -> None:
    gone = [row["text_id"] for row in ROWS if row["image_id"] == "2" and row["label"] == 0]
    assert draw(pool_without(*gone), "2_0") == []


def test_unit_pair_draws_own_negatives_only() -> None:
    for caption_id in CAPTION_IDS:
        assert all(name.startswith(f"negative:{caption_id}:") for name in draw(pool_without(), caption_id, "pair"))


def test_unit_text_draws_negatives_of_all_captions_of_the_image_and_of_no_other() -> None:
    names = {name for epoch in range(30) for name in draw(pool_without(), "2_0", "text", epoch=epoch)}
    assert {name.split(":")[1] for name in names} == {"2_0", "2_1"}


def test_unit_text_keeps_a_negative_whose_positive_was_removed() -> None:
    pool = pool_without("caption:2_0")
    assert "2_0" not in [OWNERS[anchor] for anchor in pool.anchors]
    names = draw(pool, "2_1", "text", negatives=20)
    assert sorted(names) == sorted(f"negative:{owner}:{name}" for owner in ("2_0", "2_1") for name in TYPES)


@pytest.mark.parametrize("unit", UNITS)
def test_dropped_texts_are_never_drawn(unit: str) -> None:
    rng = np.random.default_rng(0)
    dropped = {row["text_id"] for row in ROWS if rng.random() < 0.4}
    pool = pool_without(*dropped)
    assert {ROWS[anchor]["text_id"] for anchor in pool.anchors} == {f"caption:{c}" for c in CAPTION_IDS} - dropped
    for epoch in range(20):
        for caption_id in CAPTION_IDS:
            assert not dropped & set(draw(pool, caption_id, unit, epoch=epoch))


def test_unit_pair_draws_negatives_of_kept_pairs_only_and_all_of_them() -> None:
    keep_pairs = np.random.default_rng(0).random(len(PAIRS)) < 0.4
    kept = {
        (row["caption_id"], f"negative:{row['negative_id']}")
        for row, keep in zip(PAIRS.to_pylist(), keep_pairs, strict=True)
        if keep
    }
    keep = texts_of_pairs(TEXTS, PAIRS, keep_pairs)
    pool = build_pool(TEXTS, PAIRS, keep, keep_pairs)
    anchors = [OWNERS[anchor] for anchor in pool.anchors]
    assert sorted(anchors) == sorted({caption_id for caption_id, _ in kept})
    drawn = {(name, text_id) for name in CAPTION_IDS for text_id in draw(pool, name, "pair", negatives=20)}
    assert drawn == kept
    assert {row["text_id"] for row, yes in zip(ROWS, keep, strict=True) if yes} == {
        text_id for caption_id, negative in kept for text_id in (f"caption:{caption_id}", negative)
    }


def with_paraphrases(source_of: dict[str, str]) -> pa.Table:
    """The captions and a paraphrase of each name in `source_of`, all of image 2."""
    captions = CAPTIONS.append_column("source_caption_id", pa.nulls(len(CAPTIONS), pa.string()))
    rows = [
        {"image_id": "2", "image": "2.png", "caption_id": name, "caption": name, "source_caption_id": source}
        for name, source in source_of.items()
    ]
    return pa.concat_tables([captions, pa.Table.from_pylist(rows, schema=captions.schema)])


def test_a_paraphrase_draws_the_negatives_of_its_source() -> None:
    captions = with_paraphrases({"p": "2_0"})
    texts = text_table(captions, NEGATIVES)
    text_ids = texts["text_id"].to_pylist()
    pool = build_pool(texts, pair_table(captions, NEGATIVES))
    assert text_ids.index("caption:p") in pool.anchors
    arguments: dict[str, Any] = {"unit": "pair", "negatives": 20, "swap_ratio": 0.5, "seed": 0, "epoch": 0}
    own, source = (
        {text_ids[i] for i in draw_negatives(pool, image_id="2", caption_id=name, **arguments)} for name in ("p", "2_0")
    )
    assert own == source == {f"negative:2_0:{name}" for name in TYPES}


def test_a_curriculum_moves_linearly_to_the_values_of_the_mixing_and_stays_there() -> None:
    mixing = Mixing(negatives=3.0, swap_ratio=0.5, curriculum=Curriculum(epochs=0.25, negatives=1.0, swap_ratio=0.0))
    seen = [(mixing.at(time).negatives, mixing.at(time).swap_ratio) for time in (0, 0.0625, 0.125, 0.25, 0.3, 7)]
    assert seen == [(1.0, 0.0), (1.5, 0.125), (2.0, 0.25), (3.0, 0.5), (3.0, 0.5), (3.0, 0.5)]


def test_a_curriculum_leaves_alone_what_it_has_no_start_of() -> None:
    mixing = Mixing(negatives=0.3, swap_ratio=0.7, curriculum=Curriculum(epochs=2, negatives=0.9))
    assert {mixing.at(time / 7).swap_ratio for time in range(20)} == {0.7}
    assert Mixing(negatives=0.3).at(0.5) == Mixing(negatives=0.3)


def paraphrase_pool(source_of: dict[str, str], dropped: str = "") -> tuple[TextPool, list[str]]:
    """The pool with paraphrases set aside, and the caption id of every text."""
    captions = with_paraphrases(source_of)
    texts = text_table(captions, NEGATIVES)
    text_ids = texts["text_id"].to_pylist()
    keep = np.array([text_id != f"caption:{dropped}" for text_id in text_ids])
    pool = build_pool(texts, pair_table(captions, NEGATIVES), keep)
    set_paraphrases_aside(pool, texts, source_of)
    return pool, [text_id.removeprefix("caption:") for text_id in text_ids]


def shown(pool: TextPool, names: list[str], caption_id: str, ratio: float | None, epoch: int = 0) -> str:
    anchor = names.index(caption_id)
    drawn = shown_positive(pool, anchor, caption_id=caption_id, paraphrase_ratio=ratio, seed=0, epoch=epoch)
    return names[drawn]


def test_paraphrases_set_aside_are_no_anchors_and_stand_in_for_their_captions_only() -> None:
    pool, names = paraphrase_pool({"p": "2_0", "q": "2_0", "r": "2_1"})
    assert [names[anchor] for anchor in pool.anchors] == CAPTION_IDS
    assert {shown(pool, names, "2_0", 1.0, epoch) for epoch in range(20)} == {"p", "q"}
    assert {shown(pool, names, "2_1", 1.0, epoch) for epoch in range(20)} == {"r"}
    assert [shown(pool, names, name, 1.0) for name in CAPTION_IDS if not name.startswith("2")] == [
        name for name in CAPTION_IDS if not name.startswith("2")
    ]
    assert {shown(pool, names, "2_0", ratio, epoch) for ratio in (None, 0.0) for epoch in range(20)} == {"2_0"}


def test_a_caption_is_told_otherwise_as_often_as_the_ratio_says_and_uniformly() -> None:
    pool, names = paraphrase_pool({"p": "2_0", "q": "2_0"})
    counts = Counter(shown(pool, names, "2_0", 0.4, epoch) for epoch in range(2000))
    for name, expected in (("2_0", 1200), ("p", 400), ("q", 400)):
        assert counts[name] == pytest.approx(expected, abs=88), name  # 4 standard deviations


def test_what_an_anchor_shows_depends_on_seed_epoch_and_caption() -> None:
    pool = TextPool(anchors=[0], paraphrases={0: list(range(1, 50))})

    def drawn(caption_id: str = "c", seed: int = 0) -> list[int]:
        settings: dict[str, Any] = {"caption_id": caption_id, "paraphrase_ratio": 0.8, "seed": seed}
        return [shown_positive(pool, 0, epoch=epoch, **settings) for epoch in range(20)]

    assert drawn() == drawn()
    assert len(set(drawn())) > 10, "epochs draw for themselves"
    assert drawn() != drawn(seed=1) != drawn("d") != drawn()


def test_whether_a_paraphrase_stands_in_tells_nothing_of_the_other_draws() -> None:
    """On one stream it would be the coin of the first negative's family, and the hard image's caption."""
    pool = TextPool(anchors=[0], by_image={"i": {"swap": [2], "other": [3]}}, paraphrases={0: [1]})
    key: dict[str, Any] = {"caption_id": "c", "seed": 0}
    negatives: dict[str, Any] = {"image_id": "i", "unit": "text", "negatives": 1, "swap_ratio": 0.5}
    near = {"a": [0, 1], "b": [2, 3]}
    counts: Counter[tuple[str, int, int]] = Counter()
    for epoch in range(2000):
        stands_in = shown_positive(pool, 0, paraphrase_ratio=0.5, epoch=epoch, **key)
        (negative,) = draw_negatives(pool, epoch=epoch, **negatives, **key)
        hard = draw_hard_anchor(["a", "b"], near, epoch=epoch, **key)
        assert hard is not None
        counts.update([("negative", stands_in, negative), ("hard anchor", stands_in, hard % 2)])
    assert len(counts) == 8
    for ends, count in counts.items():
        assert count == pytest.approx(500, abs=78), ends  # 4 standard deviations


def test_a_paraphrase_whose_source_is_no_anchor_is_not_used() -> None:
    pool, names = paraphrase_pool({"p": "2_0", "q": "2_1", "r": "q"}, dropped="2_0")
    assert {names[anchor]: [names[p] for p in found] for anchor, found in pool.paraphrases.items()} == {"2_1": ["q"]}
    assert not {"p", "q", "r", "2_0"} & {names[anchor] for anchor in pool.anchors}


@pytest.mark.parametrize("unit", UNITS)
def test_a_paraphrase_that_stands_in_keeps_the_draw_of_its_caption(unit: str) -> None:
    pool, _ = paraphrase_pool({"p": "2_0"})
    arguments: dict[str, Any] = {"image_id": "2", "caption_id": "2_0", "unit": unit, "negatives": 3, "seed": 0}
    for epoch in range(10):
        one, two = (
            draw_negatives(pool, shown_id=shown_id, swap_ratio=0.5, epoch=epoch, **arguments)
            for shown_id in ("2_0", "p")
        )
        assert one == two


def test_a_paraphrase_that_stands_in_has_negatives_of_its_own_kept_pairs_only() -> None:
    captions = with_paraphrases({"p": "2_0"})
    texts, pairs = text_table(captions, NEGATIVES), pair_table(captions, NEGATIVES)
    text_ids = texts["text_id"].to_pylist()
    kept = ("swap_obj", "replace_rel")
    keep_pairs = np.array([row["caption_id"] != "p" or row["negative_type"] in kept for row in pairs.to_pylist()])
    pool = build_pool(texts, pairs, texts_of_pairs(texts, pairs, keep_pairs), keep_pairs)
    arguments: dict[str, Any] = {"image_id": "2", "caption_id": "2_0", "unit": "pair", "negatives": 20, "seed": 0}
    drawn = draw_negatives(pool, shown_id="p", swap_ratio=0.5, epoch=0, **arguments)
    assert {text_ids[index] for index in drawn} == {f"negative:2_0:{name}" for name in kept}


def test_hard_anchors_are_drawn_uniformly_of_neighbours_that_have_one_and_of_their_positives() -> None:
    anchors_of = {"a": [1], "b": [2, 3], "far": [9]}
    counts = Counter(
        draw_hard_anchor(["a", "gone", "b"], anchors_of, caption_id="c", seed=0, epoch=epoch) for epoch in range(2000)
    )
    for anchor, expected in ((1, 1000), (2, 500), (3, 500)):
        assert counts[anchor] == pytest.approx(expected, abs=90), anchor  # 4 standard deviations
    assert set(counts) == {1, 2, 3}


def test_a_hard_anchor_depends_on_seed_epoch_and_caption() -> None:
    def drawn(caption_id: str = "c", seed: int = 0) -> list[int | None]:
        anchors_of = {"a": list(range(50))}
        return [draw_hard_anchor(["a"], anchors_of, caption_id=caption_id, seed=seed, epoch=e) for e in range(20)]

    assert drawn() == drawn()
    assert len(set(drawn())) > 10, "epochs draw for themselves"
    assert drawn() != drawn(seed=1) != drawn("d") != drawn()


@pytest.mark.parametrize("neighbours", [[], ["gone"]])
def test_without_a_usable_neighbour_there_is_no_hard_anchor(neighbours: list[str]) -> None:
    assert draw_hard_anchor(neighbours, {"a": [1]}, caption_id="c", seed=0, epoch=0) is None


SIZES = [(n, b, w) for n in (1, 2, 5, 8, 13, 64, 101) for b in (1, 2, 3, 8, 200) for w in (1, 2, 3, 4, 8)]


def ranks(n: int, batch_size: int, world_size: int, epoch: int = 0) -> list[list[list[int]]]:
    return [
        rank_batches(n, batch_size=batch_size, seed=0, epoch=epoch, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]


def test_all_ranks_get_the_same_number_of_batches_and_none_is_empty() -> None:
    for n, batch_size, world_size in SIZES:
        dealt = ranks(n, batch_size, world_size)
        assert len({len(batches) for batches in dealt}) == 1, (n, batch_size, world_size)
        assert all(1 <= len(batch) <= batch_size for batches in dealt for batch in batches)


def test_batches_are_counted_without_drawing_them() -> None:
    for n, batch_size, world_size in SIZES:
        drawn = len(ranks(n, batch_size, world_size)[0])
        assert batches_in_epoch(n, batch_size=batch_size, world_size=world_size) == drawn


def test_an_epoch_is_one_pass_but_for_fewer_anchors_than_ranks() -> None:
    for n, batch_size, world_size in SIZES:
        seen = [anchor for batches in ranks(n, batch_size, world_size) for batch in batches for anchor in batch]
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(range(n))
        assert n - len(seen) < world_size, (n, batch_size, world_size)


def test_a_place_tells_where_a_row_stands_in_the_order_of_all_ranks() -> None:
    for n, batch_size, world_size in SIZES:
        order = [row for batch in rank_batches(n, batch_size=n, seed=0, epoch=0) for row in batch]
        for rank, batches in enumerate(ranks(n, batch_size, world_size)):
            for number, batch in enumerate(batches):
                sizes = {"batch_size": batch_size, "rank": rank, "world_size": world_size}
                assert [order[place] for place in batch_places(number, len(batch), **sizes)] == batch


def test_one_rank_leaves_nothing_out() -> None:
    for n, batch_size, _ in SIZES:
        (batches,) = ranks(n, batch_size, 1)
        assert sorted(anchor for batch in batches for anchor in batch) == list(range(n))


def test_what_an_epoch_leaves_out_changes_with_the_epoch() -> None:
    left_out = set()
    for epoch in range(40):
        left_out |= set(range(5)) - {
            anchor for batches in ranks(5, 2, 2, epoch) for batch in batches for anchor in batch
        }
    assert left_out == set(range(5))


@pytest.mark.parametrize("n", [8, 13, 30, 31])
def test_two_ranks_take_the_global_batches_of_one_rank_with_double_batch_size(n: int) -> None:
    (one,), two = ranks(n, 6, 1), ranks(n, 3, 2)
    together = [sorted(first + second) for first, second in zip(*two, strict=True)]
    assert together == [sorted(batch) for batch in one if len(batch) >= 2]


def test_order_differs_between_epochs() -> None:
    orders = [rank_batches(20, batch_size=20, seed=0, epoch=epoch)[0] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 8, 13])
def test_every_validation_row_counts_once_and_all_ranks_have_equally_many(n: int, world_size: int) -> None:
    dealt = [rank_rows(n, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(row for rows in dealt for row, counts in rows if counts) == list(range(n))
    assert {len(rows) for rows in dealt} == {-(-n // world_size)}
    assert all(row in range(n) for rows in dealt for row, _ in rows)
