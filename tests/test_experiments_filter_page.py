"""The page of `itm filter`: what it shows of a filter and its certificate, and that captions stay captions."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments.config.filter_schemas import FilterConfig
from experiments.report.filtered.examples import PAIRS_SHOWN, examples_of
from experiments.report.filtered.page import FilterPage, render_filter_page
from experiments.report.filtered.plots import frontier_plot, lessons_plot, rule_looks
from experiments.report.plots import look
from experiments.verbs import filter as verb
from negatives.filtering import (
    THIRDS,
    Certificate,
    CertificatePlan,
    Filtered,
    FrontierPoint,
    Learner,
    Lesson,
    misses,
    not_measured,
    retention,
)
from negatives.judging import TextPairs, build_text_pairs
from negatives.tables import pair_table, text_table
from tests.test_experiments_audit import HOSTILE
from tests.test_negatives_text_pairs import Row, tables

PLAN = CertificatePlan()
GROUPS = ("all", "replace_rel", "swap_obj", *THIRDS)


def filtered_of(text_pairs: TextPairs, keep: np.ndarray, unit: str = "pair", **changes: Any) -> Filtered:
    """What follows from a choice among the pairs."""
    texts = np.zeros(len(text_pairs.captions), dtype=bool)
    texts[text_pairs.pairs[keep].ravel()] = True
    each, ones = np.full(len(keep), 0.75), np.zeros(len(keep), dtype=np.int64)
    whole = texts.astype(float)
    found = Filtered(unit, None, whole.astype(np.int64), whole, whole, texts, ones, each, each, keep)
    return replace(found, **{"strengths": {"replace_rel": 0.6, "swap_obj": 0.25}, **changes})


def rows_of(count: int) -> list[Row]:
    return [
        (str(n), f"a dog on bench {n}", f"a cat on bench {n}", ("swap_obj", "replace_rel")[n % 2]) for n in range(count)
    ]


def pairs_of(rows: list[Row]) -> TextPairs:
    captions, negatives = tables(rows)
    return build_text_pairs(text_table(captions, negatives), pair_table(captions, negatives))


def lesson(judge: str, group: str, value: float, reads: str = "pair") -> Lesson:
    return Lesson(Learner(judge, reads), group, value, value - 0.01, value + 0.01, 0.712, 0.766, 400)


def certificate_of(text_pairs: TextPairs, filtered: Filtered, lessons: list[Lesson], **changes: Any) -> Certificate:
    missed = list(misses(lessons, PLAN.tolerances, changes.pop("slow", ()), PLAN.transformer_tolerance))
    leaks = [lesson("word", group, 0.345) for group in GROUPS[:3]]
    return Certificate(filtered.unit, not missed, missed, retention(text_pairs, filtered), lessons, leaks, **changes)


def point(
    rule: str, dropped: float | None, pairs: float, value: float, furthest_type: str = "swap_obj"
) -> FrontierPoint:
    reached = (value, value - 0.02, value + 0.02, furthest_type, value + 0.1)
    return FrontierPoint(rule, dropped, 0.8, pairs, "word", "text", *reached)


FRONTIER = [
    point("chosen", None, 0.44, 0.507),
    *(point("margins", share, 1 - share, 0.75 - 0.4 * share) for share in (0.3, 0.6)),
    *(point("overlap", share, 1 - share, 0.76 - 0.3 * share) for share in (0.3, 0.6)),
]


def page_of(
    lessons: list[Lesson] | None,
    *,
    rows: list[Row] | None = None,
    frontier: Sequence[FrontierPoint] = (),
    **changes: Any,
) -> str:
    text_pairs = pairs_of(rows or rows_of(40))
    filtered = filtered_of(text_pairs, np.arange(len(text_pairs.pairs)) % 4 == 0)
    certificate = None if lessons is None else certificate_of(text_pairs, filtered, lessons, frontier=[*frontier])
    given = {"origin": {"Unit": "pair"}, "harmonised": True, "plan": PLAN, "certificate": certificate, **changes}
    return render_filter_page(FilterPage(text_pairs=text_pairs, filtered=filtered, **given))


def row(page: str, heading: str) -> list[str]:
    """The plain texts of the cells of the first row with this heading."""
    found = re.search(rf"<tr><th>{re.escape(heading)}</th>(.*?)</tr>", page, re.DOTALL)
    assert found is not None, heading
    return [words(cell) for cell in re.findall(r"<td.*?</td>", found[1], re.DOTALL)]


def words(part: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", part)).split())


ALL_WELL = [lesson(judge, group, 0.5) for judge in ("word", "bayes") for group in GROUPS]
ONE_MISS = [replace(one, value=0.6, high=0.61) if one.group == "swap_obj" else one for one in ALL_WELL[: len(GROUPS)]]


def test_a_balanced_certificate_has_every_part_from_its_verdict_to_examples() -> None:
    page = page_of(ALL_WELL, frontier=FRONTIER)
    found = words(page)
    assert "Balanced : what is kept teaches no blind learner. Kept: 10 of 40 pairs (25.0 %)." in found
    assert "The certificate is of the procedure, not of the very verdicts." in found
    assert "Unit: pair . Negatives have taken their positives' casing" in found
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        "What is kept",
        "What it teaches",
        "What it leaks",
        "What other strengths would keep",
        "Examples",
    ]
    assert row(page, "pairs") == ["10", "40", "25.0 %", ""]
    assert row(page, "pairs of replace_rel")[3] == "60 %"
    assert row(page, "pairs of swap_obj")[3] == "25 %"
    assert row(page, "all")[0] == "0.500 0.490 – 0.510 random 0.712 all 0.766"
    assert "✗" not in page.split("<tbody>", 1)[1].replace("A miss (✗)", "")
    assert page.count("<svg") == 2
    (leaks,) = re.findall(r"<h2>What it leaks</h2>\s*<details><summary>.*?</details>", page, re.DOTALL)
    assert row(leaks, "replace_rel") == ["0.345 0.335 – 0.355 random 0.712 all 0.766", "400"]


def test_a_miss_is_named_first_and_marked_in_its_cell() -> None:
    page = page_of(ONE_MISS)
    assert "Not balanced : swap_obj: what is kept teaches the word learner of pairs 0.600 [0.490, 0.610]" in words(page)
    assert row(page, "swap_obj")[0].startswith("✗ 0.600")
    assert row(page, "replace_rel")[0].startswith("0.500")
    assert page.count('class="worse">✗') == 1
    assert "misses</summary>" not in page, "the only miss stands in the sentence"
    both = page_of([replace(one, value=0.6, high=0.61) for one in ALL_WELL])
    assert "(11 more)" in words(both)
    (listed,) = re.findall(r"<summary>All 12 misses</summary>(.*?)</details>", both, re.DOTALL)
    assert listed.count("<li>") == 12


def test_a_miss_is_filled_in_the_plot_and_the_rest_is_pale() -> None:
    one = lesson("word", "all", 0.6)
    looks, tolerances = {"word, of pairs": look(0)}, {"all": 0.03}
    missed, near = (lessons_plot([one], [miss], looks, tolerances) for miss in (True, False))
    assert ("opacity: 0.5" in missed, "opacity: 0.5" in near) == (False, True)
    filled = [found.count(f"fill: {look(0).colour}") for found in (missed, near)]
    assert filled[0] > filled[1]


@pytest.mark.parametrize("name", ["tolerance", "type_tolerance", "third_tolerance"])
def test_each_kind_of_group_has_its_own_tolerance_in_the_plot(name: str) -> None:
    assert page_of(ALL_WELL, plan=replace(PLAN, **{name: 0.2})) != page_of(ALL_WELL)


def test_a_slow_learner_is_marked_by_its_own_tolerance() -> None:
    """0.465 to 0.535 is no miss of a learner that may be 0.04 off; 0.465 to 0.545 is one."""
    text_pairs = pairs_of(rows_of(40))
    filtered = filtered_of(text_pairs, np.arange(40) % 2 == 0)
    for high, missed in ((0.535, False), (0.545, True)):
        lessons = [replace(lesson("transformer", "all", 0.5), low=0.465, high=high)]
        certificate = certificate_of(text_pairs, filtered, lessons, slow={"transformer"})
        assert certificate.balanced is not missed
        page = render_filter_page(FilterPage({}, False, text_pairs, filtered, PLAN, certificate))
        assert row(page, "all")[0].startswith("✗" if missed else "0.500")


def test_without_a_certificate_the_page_says_what_is_kept_and_promises_nothing() -> None:
    page = page_of(None)
    assert "Not certified : what is left in the texts was not measured. Kept: 10 of 40 pairs" in words(page)
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["What is kept", "Examples"]
    assert "<svg" not in page
    assert "procedure" not in page


def test_what_could_not_be_certified_says_why_and_shows_no_empty_tables() -> None:
    text_pairs = pairs_of(rows_of(8))
    filtered = filtered_of(text_pairs, np.ones(8, dtype=bool), strengths=None)
    certificate = not_measured(text_pairs, filtered, "Nothing is certified. Photos are few.")
    page = render_filter_page(FilterPage({}, False, text_pairs, filtered, PLAN, certificate))
    assert "Not balanced : Nothing is certified. Photos are few. Kept: 8 of 8 pairs" in words(page)
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["What is kept", "Examples"]
    assert "strength" not in page


def test_the_frontier_has_a_row_for_each_point_and_a_line_for_each_rule() -> None:
    page = page_of(ALL_WELL, frontier=FRONTIER)
    assert row(page, "chosen") == [
        "–",
        "80.0 %",
        "44.0 %",
        "word, of texts",
        "0.507 0.487 – 0.527",
        "swap_obj",
        "0.607",
    ]
    assert row(page, "margins")[0] == "30 %"
    assert len(re.findall(r"<tr><th>(?:chosen|margins|overlap)</th>", page)) == len(FRONTIER)
    assert [words(item) for item in re.findall(r"<li>.*?</li>", page)][-3:] == ["● margins", "■ overlap", "★ chosen"]
    assert "What other strengths would keep" not in page_of(ALL_WELL)


def test_a_line_of_the_frontier_runs_by_what_is_kept_in_whatever_order_its_points_come() -> None:
    looks = rule_looks(FRONTIER)
    assert list(looks) == ["margins", "overlap", "chosen"]
    plot = frontier_plot(FRONTIER, looks, 0.03)
    assert frontier_plot(FRONTIER[::-1], looks, 0.03) == plot
    assert frontier_plot(FRONTIER, looks, 0.05) != plot


def test_of_nothing_there_is_a_dash() -> None:
    unknown = [
        replace(one, value=math.nan, low=0.0, high=1.0, control=math.nan, count=0) if one.group == "swap_obj" else one
        for one in ALL_WELL
    ]
    assert row(page_of(unknown), "swap_obj")[0] == "✗ – 0.000 – 1.000 random – all 0.766"


@pytest.mark.parametrize("unit", ["text", "pair"])
def test_examples_are_drawn_from_what_was_dropped_and_kept_and_show_a_wording_once(unit: str) -> None:
    again: list[Row] = [(f"again {n}", "a dog on bench 0", "a cat on bench 0", "swap_obj") for n in range(30)]
    text_pairs = pairs_of([*rows_of(40), *again])
    keep = np.array([int(text_pairs.captions[first].split()[-1]) % 4 < 2 for first, _ in text_pairs.pairs])
    found = {one.negative_type: one for one in examples_of(text_pairs, filtered_of(text_pairs, keep, unit), seed=0)}
    assert list(found) == ["replace_rel", "swap_obj"]
    assert (found["swap_obj"].kept_of, found["swap_obj"].dropped_of) == (40, 10)
    for one in found.values():
        for shown, kept in ((one.kept, True), (one.dropped, False)):
            assert len(shown) == PAIRS_SHOWN
            texts = ["".join(piece.text for piece in pair.positive) for pair in shown]
            assert len(set(texts)) == PAIRS_SHOWN
            assert {int(text.split()[-1]) % 4 < 2 for text in texts} == {kept}
            # of pairs that were judged as such, no text is to blame
            assert {pair.gone for pair in shown} == {(unit == "text" and not kept,) * 2}
    assert [piece.text for piece in found["swap_obj"].kept[0].negative if piece.changed] == ["cat"]
    assert examples_of(text_pairs, filtered_of(text_pairs, keep, unit), seed=1) != list(found.values())


def test_of_many_types_those_with_the_most_pairs_are_shown() -> None:
    rows: list[Row] = [(f"{n} {k}", "a dog", f"a cat {k}", f"type{n}") for n in range(8) for k in range(8 - n)]
    page = page_of(None, rows=rows)
    assert re.findall(r"<h3>(.*?)</h3>", page) == [f"type{n}" for n in range(6)]
    assert "The 6 types with the most pairs, of 8." in page


def test_captions_and_types_cannot_run_or_fetch_anything() -> None:
    rows: list[Row] = [(str(n), f"{HOSTILE} {n}", f"{HOSTILE} <b>cat</b> {n}", "<i>odd</i>") for n in range(12)]
    lessons = [lesson("word", group, 0.7) for group in ("all", "<i>odd</i>")]
    hostile = [point("margins", 0.3, 0.5, 0.7, furthest_type="<i>odd</i>"), point("<b>x</b>", 0.3, 0.5, 0.6)]
    page = page_of(lessons, rows=rows, frontier=hostile, origin={"Captions": "<script>a</script>"})
    assert not re.findall(r"<script|<i>|<b>|@import|<link|<iframe|<object|<img", page)
    assert "&lt;script&gt;" in page
    assert "&lt;i&gt;odd&lt;/i&gt;" in page
    assert "default-src 'none'" in page
    assert not {url for url in re.findall(r"""https?://[^"'<> ]+""", page) if "www.w3.org" not in url}


def test_the_verb_gives_its_page_and_wandb_the_frontier_of_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_pairs = pairs_of(rows_of(40))
    filtered = filtered_of(text_pairs, np.arange(40) % 4 == 0, constant=1.25, strengths=None)
    plain = certificate_of(text_pairs, filtered, ALL_WELL)
    config = FilterConfig(captions="c.parquet", negatives="n.parquet", output_dir="out", harmonise=False)
    logged: dict[str, Any] = {}
    run = SimpleNamespace(log=logged.update, finish=lambda: None)
    monkeypatch.setattr(
        verb, "wandb_logger", lambda *_, **__: SimpleNamespace(log_metrics=logged.update, experiment=run)
    )
    for certificate, points in ((replace(plain, frontier=FRONTIER), len(FRONTIER)), (plain, 0)):
        logged.clear()
        verb._write_page(config, text_pairs, filtered, certificate, tmp_path / "index.html")
        page = (tmp_path / "index.html").read_text(encoding="utf-8")
        assert "Captions: c.parquet . Negatives: n.parquet . Constant: 1.25 ." in words(page)
        assert "final punctuation" not in page
        assert len(re.findall(r"<tr><th>(?:chosen|margins|overlap)</th>", page)) == points
        verb._log(config, certificate, tmp_path)
        assert len(logged["certificate/estimates"].data) == len(ALL_WELL) + 3
        assert [list(row) for row in getattr(logged.get("certificate/frontier"), "data", [])] == [
            list(vars(one).values()) for one in FRONTIER[:points]
        ]
