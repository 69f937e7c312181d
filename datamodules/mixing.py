"""Online mixing: which negatives join a positive in this epoch. Pure functions of (seed, epoch, caption_id)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from negatives import OTHER, SWAP, family_of
from negatives.tables import generator_for


@dataclass
class TextPool:
    """The kept texts, indexed for drawing: positions in the text table.

    Attributes:
        anchors: kept positives; an epoch is one pass over them.
        by_image: image_id -> family ("swap" or "other") -> kept negatives of any caption of the image.
        by_caption: caption_id -> family -> negatives of the kept pairs with that caption.
        paraphrases: anchor -> kept paraphrases that stand in for it, where they are no anchors of their own.
    """

    anchors: list[int] = field(default_factory=list)
    by_image: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    by_caption: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    paraphrases: dict[int, list[int]] = field(default_factory=dict)


def draw_family(negative_type: str) -> str:
    """The family that a type is drawn with: swaps keep the caption's words, all others change, add or drop some.

    >>> draw_family("swap_att"), draw_family("replace_obj"), draw_family("counting-hard")
    ('swap', 'other', 'other')
    """
    return SWAP if family_of(negative_type) == SWAP else OTHER


def build_pool(
    texts: pa.Table, pairs: pa.Table, keep: np.ndarray | None = None, keep_pairs: np.ndarray | None = None
) -> TextPool:
    """Indexes the kept texts.

    Args:
        texts: text table (`negatives.tables.captions.text_table`).
        pairs: its pairs (`negatives.tables.captions.pair_table`).
        keep: bool, for each text; all where None.
        keep_pairs: bool, for each pair; those of kept texts where None.
    """
    pool = TextPool()
    keep = np.ones(len(texts), dtype=bool) if keep is None else keep
    columns = (texts[name].to_pylist() for name in ("image_id", "label", "negative_type"))
    for index, (image_id, label, negative_type) in enumerate(zip(*columns, strict=True)):
        if keep[index] and label == 1:
            pool.anchors.append(index)
        elif keep[index]:
            # by image and not by caption: unit "text" draws any kept negative of the image
            pool.by_image.setdefault(image_id, {}).setdefault(draw_family(negative_type), []).append(index)
    positives, negatives = positions(texts, pairs)
    # a pair is kept where both of its texts are
    keep_pairs = keep[positives] & keep[negatives] if keep_pairs is None else keep_pairs
    columns = (pairs[name].to_pylist() for name in ("caption_id", "negative_type"))
    for kept, index, caption_id, negative_type in zip(keep_pairs, negatives.tolist(), *columns, strict=True):
        if kept:
            pool.by_caption.setdefault(caption_id, {}).setdefault(draw_family(negative_type), []).append(index)
    return pool


def set_paraphrases_aside(pool: TextPool, texts: pa.Table, source_of: Mapping[str, str]) -> None:
    """Makes paraphrases stand in for the caption behind them, instead of being anchors of their own.

    A paraphrase whose source is no anchor is not used: its source was dropped, or is a paraphrase itself.

    Args:
        pool: of `texts`; changed.
        texts: text table.
        source_of: caption_id of each paraphrase -> that of its source.
    """
    text_ids = texts["text_id"].to_pylist()
    names = {anchor: text_ids[anchor].removeprefix("caption:") for anchor in pool.anchors}
    pool.anchors = [anchor for anchor, name in names.items() if name not in source_of]
    place = {names[anchor]: anchor for anchor in pool.anchors}
    for index, name in names.items():
        if (anchor := place.get(source_of.get(name, ""))) is not None:
            pool.paraphrases.setdefault(anchor, []).append(index)


def positions(texts: pa.Table, pairs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The positions in the text table of each pair's positive and of its negative."""
    place = {text_id: index for index, text_id in enumerate(texts["text_id"].to_pylist())}
    positives = [place[f"caption:{name}"] for name in pairs["caption_id"].to_pylist()]
    negatives = [place[f"negative:{name}"] for name in pairs["negative_id"].to_pylist()]
    return np.array(positives, dtype=np.int64), np.array(negatives, dtype=np.int64)


def texts_of_pairs(texts: pa.Table, pairs: pa.Table, keep_pairs: np.ndarray) -> np.ndarray:
    """Bool, for each text: whether a kept pair has it."""
    keep = np.zeros(len(texts), dtype=bool)
    for ends in positions(texts, pairs):
        keep[ends[keep_pairs]] = True
    return keep


def shown_positive(
    pool: TextPool, anchor: int, *, caption_id: str, paraphrase_ratio: float | None, seed: int, epoch: int
) -> int:
    """The text that an anchor shows in an epoch: itself, or with chance `paraphrase_ratio` one of its paraphrases.

    Args:
        pool: kept texts, paraphrases set aside.
        anchor: position of the anchor in the text table.
        caption_id: of the anchor.
        paraphrase_ratio: 0 for None.
        seed, epoch: with `caption_id` all that the draw depends on.
    """
    if paraphrase_ratio is None or not (paraphrases := pool.paraphrases.get(anchor)):
        return anchor
    # a stream of its own: whether there are paraphrases changes no negative
    rng = generator_for(seed, epoch, caption_id, "paraphrase")
    return paraphrases[rng.integers(len(paraphrases))] if rng.random() < paraphrase_ratio else anchor


def draw_negatives(
    pool: TextPool,
    *,
    image_id: str,
    caption_id: str,
    unit: str,
    negatives: float,
    swap_ratio: float,
    seed: int,
    epoch: int,
    taken: Collection[int] = (),
    shown_id: str | None = None,
) -> list[int]:
    """The negatives that join a positive in an epoch, as positions in the text table, none of them twice.

    Args:
        pool: kept texts.
        image_id, caption_id: of the positive.
        unit: "text" draws from all kept negatives of the image, "pair" from the caption's own.
        negatives: how many; all there are where there are fewer. Of 1.3, one joins, and a second with chance 0.3.
        swap_ratio: chance that a negative is a swap one; the other family fills in where one has run out.
        seed, epoch: with `caption_id` all that the draw depends on: not rank, worker or history.
        taken: texts that other positives of the row have drawn.
        shown_id: caption_id of the paraphrase that stands in for the caption. It has the caption's negatives; of judged
            pairs, those that were kept with it.
    """
    own = pool.by_caption.get(caption_id if shown_id is None else shown_id, {})
    available = pool.by_image.get(image_id, {}) if unit == "text" else own
    rng = generator_for(seed, epoch, caption_id)
    # All texts are shuffled before those taken go, so that no random number depends on what other positives drew.
    shuffled = {family: [texts[i] for i in rng.permutation(len(texts))] for family, texts in sorted(available.items())}
    left = {family: [text for text in texts if text not in taken] for family, texts in shuffled.items()}
    drawn = []
    # a number beyond what there is means all there is; no coins are tossed for the rest
    negatives = min(negatives, sum(map(len, left.values())))
    whole = int(negatives)
    # two coins more than there are whole negatives: the family of the one behind them, and whether it joins
    *coins, last, joins = rng.random(whole + 2)
    for coin in [*coins, last] if joins < negatives - whole else coins:
        first, second = (SWAP, OTHER) if coin < swap_ratio else (OTHER, SWAP)
        if candidates := left.get(first) or left.get(second):
            # from the end of a shuffled list: without replacement
            drawn.append(candidates.pop())
    return drawn


def draw_hard_anchor(
    neighbours: Sequence[str], anchors_of: Mapping[str, Sequence[int]], *, caption_id: str, seed: int, epoch: int
) -> int | None:
    """A kept positive of one of an image's neighbours, both drawn uniformly: NegCLIP's hard image and its caption.

    Yuksekgonul et al., ICLR 2023, section 4; their training file lists three hard images for each caption.

    Args:
        neighbours: ids of the images near an anchor's.
        anchors_of: image_id -> positions of its kept positives; the images that can be drawn.
        caption_id: of the anchor.
        seed, epoch: with `caption_id` all that the draw depends on.

    Returns:
        A position in the text table, None where no neighbour has a kept positive.
    """
    usable = [anchors_of[name] for name in neighbours if name in anchors_of]
    if not usable:
        return None
    # a stream of its own, as for paraphrases
    rng = generator_for(seed, epoch, caption_id, "neighbour")
    # first the image, then its caption: an image with many captions is no likelier
    positives = usable[int(rng.integers(len(usable)))]
    return positives[int(rng.integers(len(positives)))]


def group_anchors(anchors: Sequence[int], image_ids: Sequence[str], size: int) -> list[list[int]]:
    """The anchors of each image in groups of at most `size`: the positives of one row, which share its image.

    >>> group_anchors([0, 1, 2, 3], ["x", "y", "x", "x"], size=2)
    [[0, 2], [3], [1]]
    """
    by_image: dict[str, list[int]] = defaultdict(list)
    for anchor in anchors:
        by_image[image_ids[anchor]].append(anchor)
    return [group[start : start + size] for group in by_image.values() for start in range(0, len(group), size)]


def rank_batches(
    rows: int, *, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> list[list[int]]:
    """One rank's batches of an epoch: the same global batches, in the same order, whatever the number of ranks.

    A global batch holds `batch_size * world_size` rows and is dealt out to the ranks in turn. All ranks get the same
    number of batches, so none waits for another; a last global batch with fewer rows than ranks is left out.

    >>> [rank_batches(5, batch_size=2, seed=0, epoch=0, rank=r, world_size=2) for r in (0, 1)]
    [[[2, 4]], [[1, 0]]]
    """
    # every rank shuffles all rows: the order needs no exchange, and the global batches are the same on any world size
    order = generator_for(seed, epoch, "order").permutation(rows).tolist()
    size = batch_size * world_size
    chunks = (order[start : start + size] for start in range(0, rows, size))
    return [chunk[rank::world_size] for chunk in chunks if len(chunk) >= world_size]


def batch_places(batch: int, size: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> range:
    """Where the rows of a rank's batch stand in the order of the epoch, which no number of ranks changes.

    Args:
        batch: number of the batch in `rank_batches`.
        size: rows in it.
        batch_size, rank, world_size: as in `rank_batches`.

    >>> [list(batch_places(1, 2, batch_size=2, rank=r, world_size=2)) for r in (0, 1)]
    [[4, 6], [5, 7]]
    """
    first = batch * batch_size * world_size + rank
    return range(first, first + size * world_size, world_size)


def batches_in_epoch(rows: int, *, batch_size: int, world_size: int = 1) -> int:
    """How many batches `rank_batches` gives to each rank; counting needs no order.

    >>> batches_in_epoch(5, batch_size=2, world_size=2), batches_in_epoch(6, batch_size=2, world_size=2)
    (1, 2)
    """
    whole, rest = divmod(rows, batch_size * world_size)
    return whole + (rest >= world_size)


def rank_rows(rows: int, *, rank: int = 0, world_size: int = 1) -> list[tuple[int, bool]]:
    """One rank's rows for validation, as (row, whether it counts): every row counts on exactly one rank.

    All ranks get the same number, since a sharded model needs all of them for every batch: a rank that has no row left
    repeats one without counting it.

    >>> [rank_rows(3, rank=r, world_size=2) for r in (0, 1)]
    [[(0, True), (2, True)], [(1, True), (0, False)]]
    """
    # rounded up to whole turns of all ranks
    turns = range(rank, -(-rows // world_size) * world_size, world_size)
    return [(turn % rows, turn < rows) for turn in turns]
