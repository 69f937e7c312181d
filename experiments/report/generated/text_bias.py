"""What the text alone gives away of written negatives, by one cheap judge: a first look, before `itm audit`."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from negatives.judging import Estimate, JudgeSettings, build_judges, build_text_pairs, estimates, probe, seat
from negatives.tables import pair_table, text_table

JUDGE = "word"
MOST_NEGATIVES = 5000
"""About how many negatives are judged: the judge is fitted and asked within some seconds, however long the table is."""
FEWEST_IMAGES, FEWEST_NEGATIVES = 20, 20
BOOTSTRAP = 100


@dataclass(frozen=True)
class TextBias:
    """AUC of single texts by negative type.

    Attributes:
        estimates: type, or "all" -> the judge's AUC; types with fewer than `FEWEST_NEGATIVES` are left out.
        negatives: how many were judged.
        skipped: why nothing was measured; "" where it was.
    """

    estimates: dict[str, Estimate] = field(default_factory=dict)
    negatives: int = 0
    skipped: str = ""


def measure(captions: pa.Table, negatives: pa.Table, seed: int = 0) -> TextBias:
    """Cross-fits the judge by image, on negatives and the captions that they were written for.

    It is the judge "word" of `itm audit`, with the audit's folds: the same texts give the same value.

    Args:
        captions: captions table.
        negatives: valid negatives of these captions.
        seed: of the folds and of the bootstrap.
    """
    captions = captions.filter(pc.is_in(captions["caption_id"], value_set=pc.unique(negatives["caption_id"])))
    images = pc.count_distinct(captions["image_id"]).as_py()
    if images < FEWEST_IMAGES or len(negatives) < FEWEST_NEGATIVES:
        needed = f"it takes {FEWEST_NEGATIVES} valid negatives and {FEWEST_IMAGES} images"
        return TextBias(skipped=f"{needed}, and there are {len(negatives)} of {images}")
    text_pairs = build_text_pairs(text_table(captions, negatives), pair_table(captions, negatives))
    panel = seat(build_judges([JUDGE], JudgeSettings()), text_pairs)
    folds = f"audit {seed}"
    probed = probe(panel, seed=folds, metrics=("auc",))
    counts = {kind: int((text_pairs.types == kind).sum()) for kind in set(text_pairs.types)}
    found = {one.negative_type: one for one in estimates(text_pairs, probed, bootstrap=BOOTSTRAP, seed=folds)}
    enough = {name: one for name, one in found.items() if counts.get(name, len(negatives)) >= FEWEST_NEGATIVES}
    return TextBias(enough, len(negatives))
