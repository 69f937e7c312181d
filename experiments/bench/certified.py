"""How often a certificate is right where the truth is known: `python -m experiments.bench.certified --help`."""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

from experiments.bench.known_texts.repeat import KINDS, SETTINGS, Job, Outcome, Said, repeat
from experiments.bench.validity.rates import wilson
from negatives.filtering import CertificatePlan
from negatives.tables import write_json

DISTANCES = (-1.0, 0.5, 1.0, 1.5, math.inf)
EXAMPLES = """\
Texts are drawn from bigram models of positives and of each type's negatives, and some of them are kept. The certificate
says whether what was kept is balanced, and so do the probes from inside, which were the certificate of older versions.
Then the same learners are asked about fresh pairs of the same models: that is the truth. A certificate is wrong where
it says balanced, and the truth of any learner on any group is further from 0.5 than the tolerance that it promises.

settings:
  silent         no bias, all kept
  faint          a bias that can hardly be learnt, all kept
  just outside   a small bias, all kept
  far outside    a strong bias, all kept
  thinned        a strong bias, pairs dropped by their known chances: what is kept teaches nothing
  cancelling     a strong bias: one type over-corrected, one thinned, one left as it is
  cross-fitted   a strong bias, filtered by rule overlap with a cross-fitted judge

examples:
  python -m experiments.bench.certified --workers 2
  python -m experiments.bench.certified --settings silent thinned --photos 1000 --repetitions 100
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.certified",
        description="Counts wrong and right certificates on texts whose distributions are known.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="see below (default: all)")
    add("--repetitions", type=int, default=40, help="of each setting (default: 40)")
    add("--first-seed", type=int, default=0, help="of the first repetition (default: 0)")
    add("--photos", type=int, default=1500, help="of each repetition, with four pairs each (default: 1500)")
    add("--fresh", type=int, default=15_000, help="photos that tell the truth (default: 15000)")
    add("--learners", nargs="+", default=["word", "bayes"], help="judges (default: word bayes)")
    add("--bootstrap", type=int, default=200, help="resamples of photos behind an interval (default: 200)")
    add("--fold-seeds", type=int, default=1, help="of the probes from inside (default: 1)")
    add("--workers", type=int, default=1, help="processes")
    add("--json", help="file for all outcomes")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    given = parser().parse_args(argv)
    plan = CertificatePlan(probes=given.learners, bootstrap=given.bootstrap, seeds=given.fold_seeds)
    # a seed of every setting, then the next seed: a run that is cut short has seen them all
    jobs = [
        Job(name, given.first_seed + number, given.photos, given.fresh, plan)
        for number in range(given.repetitions)
        for name in given.settings
    ]
    outcomes = []
    for outcome in _done(jobs, given.workers):
        outcomes.append(outcome)
        print(line(outcome), file=sys.stderr, flush=True)
        if given.json:  # each time, so that a run that is cut short leaves what it found
            write_json({"arguments": vars(given), "outcomes": [asdict(one) for one in outcomes]}, Path(given.json))
    print("\n\n".join([by_setting(outcomes), by_distance(outcomes), by_promise(outcomes)]))
    return 0


def _done(jobs: Sequence[Job], workers: int) -> Iterator[Outcome]:
    if workers == 1:
        yield from map(repeat, jobs)
        return
    # spawned: a fork would share the threads of linear algebra
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(repeat, jobs)


def line(outcome: Outcome) -> str:
    """One repetition, in a line."""
    said = {"certificate": outcome.whole, "inside": outcome.inside}
    parts = [f"{name} {_word(one)} (truth {one.truth:.3f})" for name, one in said.items()]
    return f"{outcome.setting}, seed {outcome.seed}, kept {outcome.kept:.2f}: " + ", ".join(parts)


def _word(said: Said) -> str:
    return ("right" if said.balanced != said.outside else "wrong") + (", balanced" if said.balanced else ", a miss")


def by_setting(outcomes: Sequence[Outcome]) -> str:
    """Markdown: each setting and, where there are several, all of them, with both certificates."""
    headings = ["setting", "pairs kept", "furthest truth: all", "type", "third", *_promise_headings("certificate")]
    rows = []
    for name in dict.fromkeys(one.setting for one in outcomes):
        own = [one for one in outcomes if one.setting == name]
        truths = [_mean([one.kinds[kind].truth for one in own]) for kind in KINDS]
        rows.append([name, f"{statistics.mean(one.kept for one in own):.2f}", *truths, *_cells(own)])
    rows.append(["all", "", "", "", "", *_cells(outcomes)])
    return _markdown([*headings, *_promise_headings("inside")], rows)


def _cells(outcomes: Sequence[Outcome]) -> list[str]:
    return [
        *_counted([one.whole for one in outcomes]),
        *_counted([one.inside for one in outcomes]),
    ]


def _promise_headings(name: str) -> list[str]:
    return [f"{name}: balanced, of those outside", f"{name}: balanced, of those inside"]


def by_distance(outcomes: Sequence[Outcome]) -> str:
    """Markdown: how often each certificate says balanced, by how far the truth is from 0.5."""
    rows = []
    for low, high in itertools.pairwise(DISTANCES):
        cells = [
            _rate([one for one in said if low < one.distance <= high])
            for said in ([one.whole for one in outcomes], [one.inside for one in outcomes])
        ]
        rows.append([f"above {low:g}" if high == math.inf else f"{max(low, 0):g} - {high:g}", *cells])
    return _markdown(["truth, in tolerances from 0.5", "certificate: balanced", "inside: balanced"], rows)


def by_promise(outcomes: Sequence[Outcome]) -> str:
    """Markdown: each kind of group alone, with how many of its intervals hold the truth."""
    rows = []
    for kind in KINDS:
        covered, intervals = (sum(getattr(one, name)[kind] for one in outcomes) for name in ("covered", "intervals"))
        held = f"{covered / intervals:.3f} of {intervals}" if intervals else ""
        rows.append([kind, *_counted([one.kinds[kind] for one in outcomes]), held])
    return _markdown(["group", "balanced, of those outside", "balanced, of those inside", "intervals with truth"], rows)


def _counted(said: Sequence[Said]) -> list[str]:
    """How many are called balanced of those whose truth lies outside, and of those whose truth lies inside."""
    return [_rate([one for one in said if one.outside == outside]) for outside in (True, False)]


def _rate(said: Sequence[Said]) -> str:
    if not said:
        return "none"
    count = sum(one.balanced for one in said)
    low, high = wilson(count / len(said), len(said))
    return f"{count} / {len(said)} [{low:.2f}, {high:.2f}]"


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f}"


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    sys.exit(main())
