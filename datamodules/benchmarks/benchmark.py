"""What any benchmark is once it is read: images, texts, which pairs of them are asked about, and what answers mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from datamodules.benchmarks.protocols.measured import MetricName


@dataclass(frozen=True)
class Benchmark:
    """What a scorer is asked, and what its answers mean.

    All ids are strings. COCO's photos are called by COCO's number without leading zeros, others by the benchmark's own
    file name, so that scores and contamination join over benchmarks. A crop is called `<image_id>@x,y,w,h`.

    Attributes:
        name: of the benchmark.
        protocol: a name of `PROTOCOLS`, which says what columns the key has.
        images: columns `image_id` (unique) and `image` (a path inside `root`); where parts of images are shown, `box`,
            a list of 4 whole numbers x, y, width, height in pixels, null for a whole image.
        texts: columns `text_id` and `text`. Rows that share a `text_id` are wordings of one text (the templates of a
            class): its logit is the mean over them, or of their mean features where a scorer has such.
        key: what the logits are compared with; `group` is a subset, a type or "", and `tags`, where it is there, a list
            of further groups that an item counts in.
        root: folder of the images.
        pairs: columns `image_id` and `text_id`: what is asked, each pair once; None where every image meets every text.
        aggregates: name -> the groups whose unweighted mean it is, such as SugarCrepe's "replace".
        left_out: reason -> how many items of the official files are not asked about.
        notes: sentences that belong beside its numbers, such as counts that are not the official ones.
        main: the number that is published of it, see `main_metric`; None where nobody publishes one.
    """

    name: str
    protocol: str
    images: pa.Table
    texts: pa.Table
    key: pa.Table
    root: Path
    pairs: pa.Table | None
    aggregates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    main: MetricName | None = None
