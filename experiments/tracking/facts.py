"""What W&B's config says of a run's data, so that results can be set against it: counts, retention, taught bias."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from negatives.tables import DAMAGED

CERTIFICATE = "certificate.json"


def data_facts(data: Any, verdicts: str | None) -> dict[str, Any]:
    """Counts of what a training draws from, and what is known of its text bias.

    Args:
        data: an `ImageTextDataModule` that is set up.
        verdicts: path of its verdicts table, beside which a filter left its certificate.

    Returns:
        `images`, `captions`, `negatives`, `negatives_of_TYPE`: counts that training draws from; `retention`: the
        share of captions and negatives that is kept; `taught_bias`: how far the worst of the certificate's learners
        is from 0.5, in 0 ... 0.5; left out where there is no certificate.
    """
    rows = data.rows
    positives = [*rows.pool.anchors, *(index for others in rows.pool.paraphrases.values() for index in others)]
    families = [index for families in rows.pool.by_image.values() for index in families.values()]
    negatives = [index for indices in families for index in indices]
    types = Counter(rows.types[index] for index in negatives)
    facts: dict[str, Any] = {
        "images": len({rows.image_ids[index] for index in positives}),
        "captions": len(positives),
        "negatives": len(negatives),
        **{f"negatives_of_{name}": types[name] for name in sorted(types)},
        "retention": (len(positives) + len(negatives)) / len(rows.captions),
    }
    if verdicts is not None and (bias := taught_bias(Path(verdicts).parent / CERTIFICATE)) is not None:
        facts["taught_bias"] = bias
    return facts


def taught_bias(certificate: Path) -> float | None:
    """How far the worst learner of a certificate, over all kept data, is from 0.5; None where there is none."""
    try:
        lessons = json.loads(certificate.read_text(encoding="utf-8"))["teaching"]
        values = [float(one["value"]) for one in lessons if one["group"] == "all" and one["value"] is not None]
    except (*DAMAGED, AttributeError):
        return None
    return max((abs(value - 0.5) for value in values if np.isfinite(value)), default=None)
