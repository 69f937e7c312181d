"""Texts and pairs: each text once, pairs by image, folds by image, and nothing that depends on the order of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from negatives.judging.text_pairs import TextPairs, build_text_pairs, fold_of
from negatives.tables.captions import InputError, pair_table, strings, text_table

Row = tuple[str, str, str, str]
WORDS = np.array(["dog", "cat", "horse", "bus", "tree", "bed", "kite", "cup"])


def tables(rows: Sequence[Row]) -> tuple[pa.Table, pa.Table]:
    """Captions and negatives of (image, caption, negative, type); each row has a caption of its own."""
    ids = [str(number) for number in range(len(rows))]
    images, captions, negatives, kinds = (list(column) for column in zip(*rows, strict=True))
    return (
        pa.table({"image_id": images, "image": images, "caption_id": ids, "caption": captions}),
        pa.table({"caption_id": ids, "negative_id": ids, "caption": negatives, "negative_type": kinds}),
    )


def text_pairs_of(rows: Sequence[Row]) -> TextPairs:
    captions, negatives = tables(rows)
    return build_text_pairs(text_table(captions, negatives), pair_table(captions, negatives))


def with_giveaway(images: int, positive: float, negative: float, seed: int = 0, giveaway: str = "indeed") -> list[Row]:
    """Two captions for each image, one negative for each, of random words; so many of either end with the giveaway."""
    rng = np.random.default_rng(seed)
    rows = []
    for image in range(images):
        for _ in range(2):
            texts = []
            for share in (positive, negative):
                a, b, c = rng.choice(WORDS, 3)
                texts.append(f"a {a} and {b} near a {c}" + f" {giveaway}" * bool(rng.random() < share))
            rows.append((f"image {image}", *texts, str(rng.choice(["replace_rel", "swap_obj"]))))
    return rows


def shuffled(table: pa.Table, seed: int = 1) -> pa.Table:
    return table.take(np.random.default_rng(seed).permutation(len(table)))


TEXTS = pa.table(
    {
        "text_id": ["caption:b", "negative:n2", "caption:a", "negative:n0", "negative:n1", "caption:c"],
        "image_id": ["2", "1", "1", "1", "2", "1"],
        "caption": ["a cat", "a bus", "a dog", "a bus", "a bus", "a dog"],
        "label": [1, 0, 1, 0, 0, 1],
        "negative_type": ["", "swap_obj", "", "swap_obj", "swap_obj", ""],
    }
)
PAIRS = pa.table({"caption_id": ["b", "a", "c", "a"], "negative_id": ["n1", "n0", "n0", "n2"]})


def test_each_text_is_there_once_sorted_by_image_label_type_and_caption() -> None:
    text_pairs = build_text_pairs(TEXTS, PAIRS)
    assert text_pairs.image_ids == ["1", "2"]
    assert text_pairs.captions == ["a bus", "a dog", "a bus", "a cat"]
    assert text_pairs.labels.tolist() == [0, 1, 0, 1]
    assert text_pairs.types.tolist() == ["swap_obj", "", "swap_obj", ""]
    assert text_pairs.images.tolist() == [0, 0, 1, 1]
    assert text_pairs.text_of.tolist() == [3, 0, 1, 0, 2, 1]
    assert text_pairs.pairs.tolist() == [[1, 0], [3, 2]]
    assert text_pairs.pair_of.tolist() == [1, 0, 0, 0]
    assert (text_pairs.pair_types.tolist(), text_pairs.pair_images.tolist()) == (["swap_obj", "swap_obj"], [0, 1])


@pytest.mark.parametrize(
    "change", [{"image_id": "3"}, {"label": 1}, {"negative_type": "add_obj"}, {"caption": "A bus"}]
)
def test_texts_that_differ_in_image_label_type_or_caption_are_two(change: dict[str, object]) -> None:
    row = {"text_id": "x", "image_id": "1", "caption": "a bus", "label": 0, "negative_type": "swap_obj"}
    for number, rows in ((1, [row, row]), (2, [row, row | change])):
        assert len(build_text_pairs(pa.Table.from_pylist(rows), PAIRS.slice(0, 0)).captions) == number


def test_corpus_does_not_depend_on_the_order_of_rows() -> None:
    captions, negatives = tables(with_giveaway(30, 0.2, 0.5))
    texts, pairs = text_table(captions, negatives), pair_table(captions, negatives)
    there, back = build_text_pairs(texts, pairs), build_text_pairs(shuffled(texts), shuffled(pairs))
    assert (there.captions, there.image_ids) == (back.captions, back.image_ids)
    for name in ("labels", "types", "images", "pairs"):
        assert (getattr(there, name) == getattr(back, name)).all()
    places = [
        dict(zip(strings(table, "text_id"), text_pairs.text_of.tolist(), strict=True))
        for table, text_pairs in ((texts, there), (shuffled(texts), back))
    ]
    assert places[0] == places[1]


def test_pairs_are_of_a_positive_and_a_negative_of_one_image() -> None:
    rows = with_giveaway(30, 0.2, 0.5)
    text_pairs = text_pairs_of(rows)
    first, second = text_pairs.pairs.T
    assert (text_pairs.labels[first] == 1).all()
    assert (text_pairs.labels[second] == 0).all()
    assert (text_pairs.images[first] == text_pairs.images[second]).all()
    found = {
        (text_pairs.image_ids[text_pairs.images[a]], text_pairs.captions[a], text_pairs.captions[b])
        for a, b in text_pairs.pairs
    }
    assert found == {row[:3] for row in rows}


def test_a_corpus_may_have_no_pairs() -> None:
    text_pairs = build_text_pairs(TEXTS, PAIRS.slice(0, 0))
    assert (text_pairs.pairs.shape, text_pairs.pair_of.shape, len(text_pairs.pair_types)) == ((0, 2), (0,), 0)


@pytest.mark.parametrize(
    ("caption_id", "negative_id", "named"), [("z", "n0", "'caption:z'"), ("a", "z", "'negative:z")]
)
def test_a_pair_of_an_unknown_text_is_refused(caption_id: str, negative_id: str, named: str) -> None:
    pairs = pa.table({"caption_id": [caption_id], "negative_id": [negative_id]})
    with pytest.raises(InputError, match=f"{named}.*Give its captions table"):
        build_text_pairs(TEXTS, pairs)


def test_subset_keeps_texts_their_images_and_the_pairs_of_which_both_are_kept() -> None:
    text_pairs = text_pairs_of(
        [
            ("1", "a dog", "a cat", "swap_obj"),
            ("1", "a dog", "a bus", "swap_obj"),
            ("2", "a kite", "a cup", "swap_obj"),
            ("3", "a bed", "a tree", "swap_att"),
        ]
    )
    # texts: 1 bus-, 1 cat-, 1 dog+, 2 cup-, 2 kite+, 3 tree-, 3 bed+; pairs: dog-bus, dog-cat, kite-cup, bed-tree
    assert text_pairs.pairs.tolist() == [[2, 0], [2, 1], [4, 3], [6, 5]]
    keep = np.array([True, True, True, False, True, True, True])
    part = text_pairs.subset(keep, np.array([True, False, True, True]))
    assert part.captions == ["a bus", "a cat", "a dog", "a kite", "a tree", "a bed"]
    assert part.labels.tolist() == [0, 0, 1, 1, 0, 1]
    assert part.types.tolist() == ["swap_obj", "swap_obj", "", "", "swap_att", ""]
    assert part.pairs.tolist() == [[2, 0], [5, 4]]
    assert part.image_ids == ["1", "2", "3"]
    last = text_pairs.subset(np.arange(7) >= 5, np.ones(4, dtype=bool))
    assert (last.image_ids, last.images.tolist(), last.pairs.tolist()) == (["3"], [0, 0], [[1, 0]])


def test_keys_tell_texts_apart() -> None:
    text_pairs = text_pairs_of(
        [*with_giveaway(20, 0.2, 0.5), ("1", "a dog", "a dog", "swap_obj"), ("2", "a dog", "a dog", "swap_att")]
    )
    keys = [text_pairs.key(text) for text in range(len(text_pairs.captions))]
    assert len(set(keys)) == len(keys)


def test_folds_differ_by_one_image_at_most_and_depend_on_the_seed() -> None:
    ids = [str(number) for number in range(23)]
    fold = fold_of(ids, folds=5, seed=0)
    assert sorted(np.bincount(fold).tolist()) == [4, 4, 5, 5, 5]
    assert (fold_of(ids, folds=5, seed=1) != fold).any()
    assert (fold_of(ids, folds=5, seed="0") != fold).any()


def test_the_fold_of_an_image_depends_on_the_set_of_images_alone() -> None:
    ids = [str(number) for number in range(23)]
    assert (fold_of(ids[::-1], folds=5, seed=0)[::-1] == fold_of(ids, folds=5, seed=0)).all()


def test_fewer_images_than_folds_are_refused() -> None:
    with pytest.raises(InputError, match=r"got 2 images for 3 folds.*fewer folds"):
        fold_of(["a", "b"], folds=3, seed=0)
