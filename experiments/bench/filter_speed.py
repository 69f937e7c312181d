"""How long a filter takes: `python -m experiments.bench.filter_speed --help`.

Texts are made from written pairs: in each, words are exchanged for others of the same file, alike on both sides of a
pair, so that as many different texts come out as are asked for.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from experiments.bench.generators import TYPES
from negatives.filtering import AuditPlan, CertificatePlan, FilterPlan
from negatives.judging import JudgeSettings, build_judges
from negatives.tables import generator_for, read_jsonl

# part of a pair's words that become others
EXCHANGED = 0.2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.filter_speed",
        description="Times a filter and, beside it, its certificate and an audit; each size in a process of its own.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("pairs", help="JSONL with type, caption and negative_caption")
    add("--texts", nargs="+", type=int, default=[25_000, 250_000], help="how many (default: 25000 250000)")
    add("--judges", nargs="+", default=["word", "char", "surface"], help="judges of both (default: word char surface)")
    add("--unit", choices=("text", "pair", "both"), default="text", help="of the filter (default: text)")
    add("--constant", type=float, help="of rule overlap; where not given, its strengths are searched")
    add("--audit", action="store_true", help="also time an audit")
    add("--certificate", action="store_true", help="also time the certificate, with its default learners")
    add("--workers", type=int, default=2, help="threads")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    arguments = parser().parse_args(argv)
    first = None
    for texts in arguments.texts:
        receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
        # a peak never falls, so each size has a process of its own; spawned, it inherits no memory
        child = multiprocessing.get_context("spawn").Process(target=_measure, args=(sender, arguments, texts))
        child.start()
        # or recv would wait for ever where the child dies: this end would stay open
        sender.close()
        found: dict[str, Any] = receiver.recv()
        child.join()
        total = sum(found["seconds"][name] for name in ("texts", "n-grams", "filter"))
        first = first or (texts, total)
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found["seconds"].items())
        print(
            f"{texts} texts: {total:.1f} s ({parts}), {total / first[1]:.1f} times those of {first[0]}, "
            f"peak {found['gibibytes']:.2f} GiB, kept {found['kept']:.3f}",
            flush=True,
        )
    return 0


def make_tables(path: str, texts: int) -> tuple[pa.Table, pa.Table]:
    """A text table of about so many texts, half of them positives, two pairs to an image, and its pair table."""
    pairs = [record for _, record in read_jsonl(path) if record["type"] in TYPES]
    words = sorted({word for record in pairs for word in record["caption"].lower().split()})
    columns: dict[str, list[Any]] = {name: [] for name in ("text_id", "image_id", "caption", "label", "negative_type")}
    ids: dict[str, list[str]] = {"caption_id": [], "negative_id": []}
    for number in range(texts // 2):
        rng = generator_for("filter_speed", number)
        record = pairs[int(rng.integers(len(pairs)))]
        own = dict.fromkeys((record["caption"] + " " + record["negative_caption"]).split(), "")
        drawn = rng.random(len(own))
        others = rng.integers(len(words), size=len(own))
        # the same word becomes the same word on both sides, so a pair differs where it differed
        exchange = {w: words[o] if d < EXCHANGED else w for w, d, o in zip(own, drawn, others, strict=True)}
        for key, label, negative_type in (("caption", 1, ""), ("negative_caption", 0, record["type"])):
            text = " ".join(exchange[word] for word in record[key].split())
            row = (f"{'caption' if label else 'negative'}:{number}", str(number // 2), text, label, negative_type)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
        ids["caption_id"].append(str(number))
        ids["negative_id"].append(str(number))
    return pa.table(columns), pa.table(ids)


def _measure(sender: Any, arguments: argparse.Namespace, texts: int) -> None:
    from negatives.filtering import audit_texts, certify, filter_and_rotate
    from negatives.judging import build_text_pairs, seat

    tables = make_tables(arguments.pairs, texts)
    seconds = {}
    start = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start
        seconds[name] = time.perf_counter() - start
        start = time.perf_counter()

    text_pairs = build_text_pairs(*tables)
    lap("texts")
    panel = seat(build_judges(arguments.judges, JudgeSettings()), text_pairs, workers=arguments.workers)
    lap("n-grams")
    plan = FilterPlan(unit=arguments.unit, constant=arguments.constant)
    filtered, rotated = filter_and_rotate(panel, plan, certified=False)
    lap("filter")
    if arguments.certificate:
        assert rotated is not None
        assert not isinstance(rotated, str), rotated
        learners = panel.with_judges(build_judges(CertificatePlan().probes, JudgeSettings()))
        certify(learners, filtered, rotated, CertificatePlan())
        lap("certificate")
    if arguments.audit:
        audit_texts(panel, AuditPlan())
        lap("audit")
    # Linux counts KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {"gibibytes": peak, "kept": float(filtered.keep.mean())}
    sender.send(result | {"seconds": seconds})


if __name__ == "__main__":
    sys.exit(main())
