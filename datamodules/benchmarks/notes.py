"""Sentences that belong beside a benchmark's numbers: what is missing in them, and what they cannot tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import pyarrow.compute as pc

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.protocols.tie_calibration import MOST_ROWS
from datamodules.benchmarks.select import WHOLE


def count_note(benchmark: Benchmark, official: Mapping[str, int]) -> str:
    """A sentence that says where a benchmark has other numbers of items than its official files; "" where it has not.

    Args:
        benchmark: as its reader read it, before any image is looked for.
        official: group -> items; "" for all of them.
    """
    if benchmark.protocol in WHOLE:
        found = Counter({"": len(pc.unique(benchmark.key["image_id"]))})
    else:
        items = dict(zip(benchmark.key["item_id"].to_pylist(), benchmark.key["group"].to_pylist(), strict=True))
        found = Counter(items.values())
        found[""] = len(items)
    # a whole file that is missing says more than files that are there in part
    groups = sorted(
        (group for group in official if found[group] != official[group]), key=lambda group: found[group] > 0
    )
    wrong = [f"{group or 'items'} {found[group]:,} instead of {official[group]:,}" for group in groups]
    more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return f"counts are not the official ones: {', '.join(wrong[:3])}{more}" if wrong else ""


def group_note(benchmark: Benchmark, groups: Iterable[str]) -> str:
    """A sentence that names the groups of which no item is left: "mean" is over the others; "" where it is over all.

    Args:
        benchmark: as it is asked.
        groups: that it should have; "" is none.
    """
    if "group" not in benchmark.key.column_names:
        return ""
    left = {*benchmark.key["group"].to_pylist()} - {""}
    lost = sorted({*groups} - {"", *left})
    if not lost or not left:
        return ""
    listed = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
    return f"no item is left of {listed}; mean is over {len(left)} of {len(left) + len(lost)} groups"


def search_note(benchmark: Benchmark) -> str:
    """A sentence that says where pairwise accuracy is not the official one; "" where it is, or there is none."""
    if benchmark.protocol != "ratings":
        return ""
    # rows that agree in all of these have one score and one rating, and are searched as one
    rows = len(benchmark.key.group_by(["image_id", "text_id", "rating"]).aggregate([]))
    if rows <= MOST_ROWS:
        return ""
    return (
        f"pairwise_accuracy is not the official number: of {rows:,} rows its epsilon is searched on at most "
        f"{MOST_ROWS:,}, not on all"
    )


def doubt_note(benchmark: Benchmark) -> str:
    """A sentence that counts the items that no scorer can answer; "" where there is none.

    Official files may hold such items, and their published numbers count them.
    """
    key, protocol = benchmark.key, benchmark.protocol
    if protocol == "pairs":
        rows = zip(key["true"].to_pylist(), key["false"].to_pylist(), strict=True)
        count, fault = sum(not set(true).isdisjoint(false) for true, false in rows), "a text is both true and false"
    elif protocol == "groups":
        items = zip(key["image_ids"].to_pylist(), key["text_ids"].to_pylist(), strict=True)
        count = sum(any(len({*ids}) < len(ids) for ids in item) for item in items)
        fault = "an image or a text is there twice"
    elif protocol == "labels":
        pairs = key.group_by(["image_id", "text_id"]).aggregate([("label", "count_distinct"), ([], "count_all")])
        count = pc.sum(pairs.filter(pc.greater(pairs["label_count_distinct"], 1))["count_all"]).as_py() or 0
        fault = "a text is labelled both 0 and 1 for one image"
    else:
        return ""
    return f"items that no scorer can answer: {count:,} ({fault})" if count else ""
