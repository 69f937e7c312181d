"""The filter on any table of (group, text, label): rows in any order, from any library, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from negatives import CertificatePlan, FilteredRows, FilterPlan, JudgeSettings, filter_labelled_texts
from negatives.filtering import certify, filter_and_rotate, labelled_text_pairs
from negatives.judging import build_judges, seat
from negatives.tables import InputError
from tests.test_negatives_teaching import biased
from tests.test_negatives_text_pairs import text_pairs_of

BIASED = biased(45, {"replace_rel": (0.1, 0.7), "swap_obj": (0.3, 0.3)})
Table = list[tuple[Any, ...]]
"""Rows of group, text, label and kind."""
TABLE: Table = [
    row
    for group, positive, negative, kind in BIASED
    for row in ((group, positive, 1, None), (group, negative, 0, kind))
]
QUICK = JudgeSettings(judges=["word"], folds=3, workers=1)
PROBES = CertificatePlan(probes=["word"], bootstrap=20)
every_unit = pytest.mark.parametrize("unit", ["text", "pair", "both"])


def filtered(table: Table, *, judge: JudgeSettings = QUICK, certificate: Any = PROBES, **plan: Any) -> FilteredRows:
    given = FilterPlan(**({"strength": 0.4} | plan))
    return filter_labelled_texts(*zip(*table, strict=True), plan=given, judge=judge, certificate=certificate)


@every_unit
def test_verdicts_and_certificate_are_those_of_the_filter_on_tables_of_captions(unit: str) -> None:
    strength = None if unit == "pair" else 0.4  # not given: searched
    found = filtered(TABLE, unit=unit, strength=strength)
    # each group of the tables has two captions with a negative each, and here each caption is paired with both
    text_pairs = labelled_text_pairs(*zip(*TABLE, strict=True))
    plain = text_pairs_of(BIASED)
    assert (text_pairs.captions, text_pairs.types.tolist()) == (plain.captions, plain.types.tolist())
    assert len(text_pairs.pairs) == 2 * len(plain.pairs)
    panel = seat(build_judges(["word"], QUICK), text_pairs, folds=3)
    wanted, rotated = filter_and_rotate(panel, FilterPlan(unit=unit, strength=strength))
    assert found.keep.tolist() == wanted.keep[text_pairs.text_of].tolist()
    assert found.score.tolist() == wanted.oof_score[text_pairs.text_of].tolist()
    assert found.pair_keep.tolist() == wanted.pair_keep.tolist()
    assert found.strengths == wanted.strengths
    assert not isinstance(rotated, str | None)
    assert found.certificate == certify(panel, wanted, rotated, PROBES)
    assert 0 < found.keep.mean() < 1


@every_unit
def test_nothing_depends_on_order_on_repeated_rows_or_on_threads(unit: str) -> None:
    order = np.random.default_rng(1).permutation(len(TABLE)).tolist()
    # one row again as it is; and one whose kind says nothing, since its label is 1
    again = [0, 7, *order, 7, 5]
    other: Table = [TABLE[row] for row in again]
    other[0] = (*other[0][:3], "swap_obj")
    one = filtered(TABLE, unit=unit)
    two = filtered(other, unit=unit, judge=JudgeSettings(judges=["word"], folds=3, workers=3))
    assert two.certificate == one.certificate
    assert two.keep.tolist() == one.keep[again].tolist()
    assert two.score.tolist() == one.score[again].tolist()
    assert two.pair_keep.tolist() == one.pair_keep.tolist()
    said, meant = (
        [[own[row][1] for row in pair] for pair in found.pairs] for own, found in ((other, two), (TABLE, one))
    )
    assert said == meant


def test_pairs_are_first_rows_of_a_true_and_a_false_text_of_one_group() -> None:
    table = TABLE[4:6] + TABLE
    found = filtered(table, certificate=False)
    assert found.certificate is None
    assert len(found.pairs) == 45 * 4
    for true, false in found.pairs.tolist():
        (group, _, label, _), (other, _, none, _) = table[true], table[false]
        assert (group, label, none) == (other, 1, 0)
        assert (table.index(table[true]), table.index(table[false])) == (true, false)


def pairs_of_one_group(true: int, false: int, **settings: Any) -> list[tuple[str, str]]:
    labels = [1] * true + [0] * false
    texts = [f"text {number}" for number in range(true + false)]
    found = labelled_text_pairs([0] * len(labels), texts, labels, **settings)
    return [(found.captions[a], found.captions[b]) for a, b in found.pairs]


@pytest.mark.parametrize(
    ("true", "false", "count"), [(3, 30, 90), (10, 10, 100), (12, 10, 100), (2, 300, 300), (1000, 1000, 1000)]
)
def test_a_large_group_has_a_bounded_number_of_pairs_that_leave_out_no_text(true: int, false: int, count: int) -> None:
    pairs = pairs_of_one_group(true, false)
    assert len(pairs) == len(set(pairs)) == count
    for end, texts in enumerate((true, false)):
        times = np.unique([pair[end] for pair in pairs], return_counts=True)[1]
        assert len(times) == texts
        assert times.max() - times.min() <= 1


def test_a_text_beside_itself_is_no_pair() -> None:
    found = labelled_text_pairs(["a"] * 3, ["x", "y", "x"], [1, 0, 0])
    assert [[found.captions[text] for text in pair] for pair in found.pairs] == [["x", "y"]]
    # each prompt is true of one image and false of another: nothing is compared, and nothing certified
    groups = [number for number in range(40) for _ in range(2)]
    texts = [f"a prompt {group}" for group in groups]
    none = filter_labelled_texts(groups, texts, [1, 0] * 40, plan=FilterPlan(strength=0.4), judge=QUICK)
    assert none.pairs.shape == (0, 2)
    assert none.certificate is not None
    assert "takes 30 groups with pairs or more, got 0" in none.certificate.misses[0]


def test_probes_from_inside_join_the_certificate() -> None:
    certificate = CertificatePlan(probes=["word"], bootstrap=20, inside=True, seeds=1, folds=3)
    found = filtered(TABLE, certificate=certificate).certificate
    assert found is not None
    assert found.inside is not None


def test_the_seed_draws_the_pairs_of_a_large_group() -> None:
    draws = [pairs_of_one_group(20, 20, seed=seed, pairs_per_group=30) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == 30


def columns(kind: str) -> list[Any]:
    groups, texts, labels, kinds = (list(column) for column in zip(*TABLE, strict=True))
    numbers = [int(group.split()[1]) for group in groups]
    if kind == "numpy":
        return [np.array(numbers), np.array(texts), np.array(labels, dtype=bool), np.array(kinds, dtype=object)]
    if kind == "pyarrow":
        chunks = pa.chunked_array([texts[:9], texts[9:]])
        return [pa.array(groups), chunks, pa.array(map(bool, labels)), pa.array(kinds)]
    return [iter(numbers), tuple(texts), [float(label) for label in labels], [kind or np.nan for kind in kinds]]


@pytest.mark.parametrize("kind", ["numpy", "pyarrow", "plain"])
def test_columns_of_any_library_are_read(kind: str) -> None:
    found, wanted = labelled_text_pairs(*columns(kind)), labelled_text_pairs(*zip(*TABLE, strict=True))
    assert found.captions == wanted.captions or kind in ("numpy", "plain")  # sorted by other names of the groups
    assert [found.captions[row] for row in found.text_of] == [row[1] for row in TABLE]
    assert [found.types[row] for row in found.text_of] == [row[3] or "" for row in TABLE]
    assert [found.labels[row] for row in found.text_of] == [row[2] for row in TABLE]


def test_without_kinds_there_is_one() -> None:
    groups, texts, labels, _ = zip(*TABLE, strict=True)
    found = filter_labelled_texts(groups, texts, labels, plan=FilterPlan(strength=0.4), judge=QUICK, certificate=PROBES)
    assert found.certificate is not None
    assert list(found.certificate.retention) == ["pairs", "texts", "positives", "negatives", "false"]


GOOD: dict[str, Any] = {"groups": ["a", "a", "b"], "texts": ["x", "y", "z"], "labels": [1, 0, 0]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"groups": ["a", "a"]}, "one value for each row, got 2 groups, 3 texts, 3 labels. Give columns of one table"),
        ({"kinds": ["swap"]}, "got 3 groups, 3 texts, 3 labels, 1 kinds"),
        ({"labels": [1, 0, 2]}, r"`labels\[2\]` must be 1 \(true\) or 0 \(false\), got 2\."),
        ({"labels": [1, "0", 0]}, r"`labels\[1\]` must be 1 \(true\) or 0 \(false\), got '0'"),
        ({"labels": [1, None, 0]}, r"`labels\[1\]` must be .*, got None"),
        ({"labels": np.array([1, np.nan, 0])}, r"`labels\[1\]` must be .*, got nan"),
        ({"labels": [1, 1, 1]}, "Texts of both labels are needed, got 3 true and 0 false ones"),
        ({"texts": ["x", " ", "z"]}, r"`texts\[1\]` must be a string that is not blank, got ' '"),
        ({"texts": ["x", "y", float("nan")]}, r"`texts\[2\]` must be a string that is not blank, got nan"),
        ({"texts": ["x", "y", "\ud800"]}, r"`texts\[2\]` must be a string"),
        ({"texts": ["x", "x", "x"]}, "Texts must differ, and all of these are 'x'"),
        ({"texts": "xyz"}, "`texts` must be a list or a column, got str"),
        ({"texts": {"x", "y", "z"}}, "`texts` must be a list or a column, got set"),
        (
            {"groups": ["a", None, "b"]},
            r"`groups\[1\]` must be a whole number, or a string .*, got None",
        ),
        ({"groups": [1.5, 1.0, 2.0]}, r"`groups\[0\]` must be a whole number"),
        ({"groups": np.array([["a"], ["b"], ["c"]])}, "`groups` must be a list or a column, got ndarray"),
        ({"groups": 3}, "`groups` must be a list or a column, got int"),
        ({"kinds": [None, "swap", None]}, r"`kinds\[2\]` must be a name without white space and /.*, got None"),
        ({"kinds": [None, "", "swap"]}, r"`kinds\[1\]` must be a name without white space and /.*, got ''"),
        ({"kinds": [None, "two words", "swap"]}, r"`kinds\[1\]` must be a name without white space"),
        ({"kinds": [None, "all", "swap"]}, r"`kinds\[1\]` must be a name"),
        ({"pairs_per_group": 0}, "`pairs_per_group` must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as refusal:
        labelled_text_pairs(**(GOOD | change))
    assert "\n" not in str(refusal.value)


def with_groups(count: int) -> Table:
    """The rows of so many groups, and a group with true texts alone."""
    names = list(dict.fromkeys(row[0] for row in TABLE))[:count]
    return [*(row for row in TABLE if row[0] in names), ("alone", "a text of its own", 1, None)]


@pytest.mark.parametrize(("count", "folds", "needed"), [(29, 3, 30), (35, 12, 36)])
def test_too_few_groups_for_a_search_are_counted(count: int, folds: int, needed: int) -> None:
    judge = JudgeSettings(judges=["word"], folds=folds)
    with pytest.raises(
        InputError, match=rf"takes {needed} groups with pairs or more, got {count}\. Give more"
    ) as refusal:
        filtered(with_groups(count), judge=judge, strength=None)
    assert "photo" not in str(refusal.value).lower()


def test_too_few_groups_are_filtered_by_a_given_strength_and_not_certified() -> None:
    found = filtered(with_groups(29))
    assert found.certificate is not None
    assert not found.certificate.balanced
    assert found.certificate.lessons == []
    (why,) = found.certificate.misses
    assert why.startswith("Nothing is certified. Groups are split three ways")
    assert "takes 30 groups with pairs or more, got 29" in why
    assert 0 < found.keep.mean() < 1


@pytest.mark.parametrize(
    ("groups", "settings", "says"),
    [
        (2, {}, "needs a group for each fold, got 2 groups for 3 folds"),
        (40, {"judge": JudgeSettings(judges=["words"])}, r"got \['words'\]\. Did you mean word\?"),
        (40, {"certificate": CertificatePlan(probes=[])}, "`probes` must list some of word, char"),
        (40, {"rule": "margin"}, "must be one of .*, got 'margin'"),
        (40, {"judge": JudgeSettings(folds=1)}, "`folds` must be at least 2, got 1"),
        (40, {"strength": 1.5}, r"`strength` must be at most 0\.99, got 1\.5"),
        (40, {"certificate": CertificatePlan(tolerance=0.0)}, r"`tolerance` must be above 0\.0, got 0\.0"),
    ],
)
def test_what_cannot_be_filtered_is_refused_in_one_line(groups: int, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as refusal:
        filtered(with_groups(groups)[: -1 if groups == 2 else None], **settings)
    assert "\n" not in str(refusal.value)
