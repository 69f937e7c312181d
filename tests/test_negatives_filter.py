"""The filter: the same verdict in any order and with any number of workers, and texts that say nothing afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from negatives.filtering.filter import Filtered, filter_fits, filter_texts
from negatives.filtering.judged import judge_texts
from negatives.filtering.plan import SEARCHED, FilterPlan
from negatives.judging.bias_metrics import paired_wins
from negatives.judging.judge import Judge
from negatives.judging.linear import surface_judge, word_judge
from negatives.judging.panel import seat
from negatives.judging.text_pairs import TextPairs, build_text_pairs, fold_of
from negatives.tables.captions import InputError, pair_table, strings, text_table
from tests.test_negatives_text_pairs import Row, shuffled, tables, text_pairs_of, with_giveaway

JUDGES: list[Judge] = [word_judge(1), surface_judge()]
UNITS = ("text", "pair", "both")
RULES: dict[str, dict[str, Any]] = {
    "constant": {"constant": 1.2},
    "overlap": {"strength": 0.4, "sharpness": 1.5, "judges": JUDGES[:1]},
    "margins": {"rule": "margins", "strength": 0.3, "judges": JUDGES[:1]},
    "top_fraction": {"rule": "top_fraction", "judges": JUDGES[:1]},
    "aflite": {"rule": "aflite", "top_fraction": 0.1, "judges": JUDGES[:1]},
}
ROWS: list[Row] = with_giveaway(40, 0.2, 0.7)
TEXT_PAIRS = text_pairs_of(ROWS)
# strengths are shares of each type, and the others have a setting for it
RULED_BY_TYPE: dict[str, dict[str, Any]] = {
    "overlap": {"rule": "overlap", "strength": 0.4},
    "top_fraction": {"rule": "top_fraction", "top_fraction": 0.4, "per_type": True},
    "aflite": {"rule": "aflite", "top_fraction": 0.2, "per_type": True},
}
every_unit = pytest.mark.parametrize("unit", UNITS)
# aflite judges texts or pairs, and no plan asks it for both
every_unit_and_rule = pytest.mark.parametrize(
    ("unit", "rule"), [(unit, rule) for unit in UNITS for rule in RULES if (unit, rule) != ("both", "aflite")]
)


def filtered(
    text_pairs: TextPairs, judges: Sequence[Judge] = JUDGES, *, folds: int = 3, workers: int = 1, **plan: Any
) -> Filtered:
    """By rule overlap with constant 1 where the plan names no rule."""
    plan = ({"rule": "overlap", "constant": None if "strength" in plan else 1.0} if "rule" not in plan else {}) | plan
    return filter_texts(seat(judges, text_pairs, folds=folds, workers=workers), FilterPlan(**plan))


def verdicts(texts: pa.Table, pairs: pa.Table, **arguments: Any) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Verdicts by text id, and by the ids of a pair."""
    text_pairs = build_text_pairs(texts, pairs)
    found = filtered(text_pairs, **arguments)
    parts = (found.fold, found.oof_score, found.keep_probability, found.keep)
    pair_parts = (found.pair_fold, found.pair_score, found.pair_keep_probability, found.pair_keep)
    names = list(zip(strings(pairs, "caption_id"), strings(pairs, "negative_id"), strict=True))
    return (
        {
            name: tuple(p[i] for p in parts)
            for name, i in zip(strings(texts, "text_id"), text_pairs.text_of, strict=True)
        },
        {name: tuple(p[i] for p in pair_parts) for name, i in zip(names, text_pairs.pair_of, strict=True)},
    )


@every_unit_and_rule
def test_a_verdict_does_not_depend_on_the_order_of_rows_nor_on_workers(unit: str, rule: str) -> None:
    captions, negatives = tables(ROWS)
    texts, pairs = text_table(captions, negatives), pair_table(captions, negatives)
    there = verdicts(texts, pairs, unit=unit, workers=1, **RULES[rule])
    back = verdicts(shuffled(texts), shuffled(pairs), unit=unit, workers=2, **RULES[rule])
    assert there == back
    assert len({verdict[3] for verdict in there[unit != "text"].values()}) == 2, "some are kept, some are not"


@every_unit
def test_a_text_that_is_there_many_times_has_one_verdict_and_counts_once(unit: str) -> None:
    captions, negatives = tables(ROWS)
    again = [pa.array([f"again {name}" for name in strings(captions, "caption_id")])]
    copies = captions.set_column(2, "caption_id", again[0])
    more = negatives.set_column(0, "caption_id", again[0]).set_column(
        1, "negative_id", pa.array([f"again {name}" for name in strings(negatives, "negative_id")])
    )
    captions, negatives = pa.concat_tables([captions, copies]), pa.concat_tables([negatives, more])
    once = verdicts(*(table(*tables(ROWS)) for table in (text_table, pair_table)), unit=unit, constant=1.2)
    twice = verdicts(*(table(captions, negatives) for table in (text_table, pair_table)), unit=unit, constant=1.2)
    assert len(twice[0]) == 2 * len(once[0])
    for name, verdict in once[0].items():
        kind, own = name.split(":")
        assert twice[0][name] == twice[0][f"{kind}:again {own}"] == verdict
    for (first, second), verdict in once[1].items():
        assert twice[1][first, second] == twice[1][f"again {first}", f"again {second}"] == verdict


@every_unit
def test_what_overlap_keeps_has_the_giveaway_alike_in_both_classes(unit: str) -> None:
    """With and without the giveaway, all of the rarer class and as much of the other is kept: 0.2 + 0.3 of texts."""
    text_pairs = text_pairs_of(with_giveaway(500, 0.2, 0.7))
    found = filtered(text_pairs, [word_judge(1)], unit=unit, constant=1.0)
    giveaway = np.array(["indeed" in caption for caption in text_pairs.captions])
    first, second = text_pairs.pairs.T
    if unit == "text":
        weight = found.keep_probability
        rows = [np.flatnonzero(text_pairs.labels == label) for label in (1, 0)]
        positive, negative = (np.average(giveaway[row], weights=weight[row]) for row in rows)
        assert weight.mean() == pytest.approx(0.2 + 0.3, abs=0.05)
    else:
        # pairs: 0.14 + 0.24 that have it alike, 2 * 0.06 of those that have it on either side alone
        weight = found.pair_keep_probability
        positive, negative = (np.average(giveaway[end], weights=weight) for end in (first, second))
        assert weight.mean() == pytest.approx(0.14 + 0.24 + 0.12, abs=0.05)
    assert positive == pytest.approx(negative, abs=0.05)
    assert abs(giveaway[text_pairs.labels == 1].mean() - giveaway[text_pairs.labels == 0].mean()) > 0.4


@every_unit
def test_each_filter_makes_as_many_fits_as_it_announces(unit: str) -> None:
    # 2 judges, 3 folds, in each way that the unit reads
    ways = {"text": 1, "pair": 1, "both": 2}[unit]
    for plan in ({"rule": "overlap", "constant": 1.0}, {"strength": 0.3}):
        calls: list[int] = []
        panel = seat(JUDGES, TEXT_PAIRS, folds=3, advance=lambda calls=calls: calls.append(1))
        filter_texts(panel, FilterPlan(unit=unit, **plan))
        assert len(calls) == filter_fits(panel, FilterPlan(unit=unit, **plan)) == 2 * 3 * ways


def test_pairs_get_the_verdict_of_both_texts_where_texts_are_judged() -> None:
    found = filtered(TEXT_PAIRS, unit="text", constant=1.2)
    for number, (first, second) in enumerate(TEXT_PAIRS.pairs):
        a, b = found.oof_score[first], found.oof_score[second]
        assert found.pair_keep[number] == (found.keep[first] and found.keep[second])
        assert found.pair_score[number] == pytest.approx(a * (1 - b) / (a * (1 - b) + b * (1 - a)))
        both = found.keep_probability[first] * found.keep_probability[second]
        assert found.pair_keep_probability[number] == pytest.approx(both)
        assert found.pair_fold[number] == found.fold[first] == found.fold[second]


@pytest.mark.parametrize("unit", ["pair", "both"])
def test_texts_get_the_verdicts_of_their_pairs_where_pairs_are_judged(unit: str) -> None:
    captions, negatives = tables([*ROWS, ("image 3", "a dog", "a dog and a cat", "add_obj")])
    alone = captions.slice(0, 1).set_column(2, "caption_id", pa.array(["x"])).set_column(3, "caption", pa.array(["!"]))
    captions = pa.concat_tables([captions, alone])
    text_pairs = build_text_pairs(text_table(captions, negatives), pair_table(captions, negatives))
    found = filtered(text_pairs, unit=unit, constant=1.2)
    for text in range(len(text_pairs.captions)):
        own = [pair for pair, ends in enumerate(text_pairs.pairs) if text in ends]
        scores = [found.pair_score[p] if text_pairs.pairs[p, 0] == text else 1 - found.pair_score[p] for p in own]
        assert found.oof_score[text] == pytest.approx(np.mean(scores) if own else 0.5)
        probabilities = found.pair_keep_probability[own]
        shared = unit == "both" and text_pairs.labels[text] == 1  # one draw for all pairs of a positive
        chance = probabilities.max(initial=0) if shared else 1 - math.prod(1 - probabilities)
        assert found.keep_probability[text] == pytest.approx(chance)
        assert found.keep[text] == any(found.pair_keep[pair] for pair in own)
    lone = text_pairs.captions.index("!")
    assert (found.oof_score[lone], found.keep_probability[lone], found.keep[lone]) == (0.5, 0.0, False)


def test_judges_of_both_units_join_the_two_kinds_of_evidence() -> None:
    """A chance of `both` is neither that of pairs alone, nor of texts alone."""
    panel = seat(JUDGES, TEXT_PAIRS, folds=3)
    pair, both = (judge_texts(panel, unit=unit, seed=0) for unit in ("pair", "both"))
    assert (pair.fold == both.fold).all()
    assert np.abs(pair.oof_score - both.oof_score).max() > 0.01
    assert (both.labels == 1).all()


@pytest.mark.parametrize("unit", ["pair", "both"])
def test_a_pair_that_looks_equal_has_one_half(unit: str) -> None:
    rows = [*ROWS, ("image 3", "a dog", "A DOG", "swap_obj"), ("image 4", "a cat", "a cat", "swap_obj")]
    text_pairs = text_pairs_of(rows)
    found = filtered(text_pairs, [word_judge(2)], unit=unit, constant=1.0)
    equal = [
        number
        for number, (a, b) in enumerate(text_pairs.pairs)
        if text_pairs.captions[a].lower() == text_pairs.captions[b].lower()
    ]
    assert len(equal) >= 2
    assert found.pair_score[equal].tolist() == [0.5] * len(equal)
    assert found.pair_keep[equal].all()
    assert paired_wins(found.pair_score[equal] - 0.5).tolist() == [0.5] * len(equal)


@every_unit
def test_texts_that_say_nothing_are_judged_near_one_half_and_all_kept(unit: str) -> None:
    text_pairs = text_pairs_of([(f"{i}", f"a {i % 7}", f"a {(i + 3) % 7}", "swap_obj") for i in range(300)])
    found = filtered(text_pairs, [word_judge(1)], unit=unit, constant=1.2)
    assert found.pair_score.mean() == pytest.approx(0.5, abs=0.02)
    assert found.constant == 1.2
    assert found.keep.mean() > 0.9
    assert found.keep_probability.mean() > 0.9


def test_all_pairs_equal_keep_everything() -> None:
    rows = [(str(i), f"a {word}", f"a {word}", "swap_obj") for i, word in enumerate(["dog", "cat", "bus"] * 10)]
    for unit in UNITS:
        found = filtered(text_pairs_of(rows), unit=unit)
        assert found.pair_keep.all()
        np.testing.assert_allclose(found.pair_score, 0.5, atol=1e-3)


def test_constants_below_one_can_be_asked_for_and_keep_less() -> None:
    kept = [filtered(TEXT_PAIRS, constant=constant).keep_probability.mean() for constant in (0.5, 1.0, 2.0)]
    assert kept[0] < kept[1] < kept[2]


def typed(images: int) -> list[Row]:
    """Swaps say nothing, replacements nearly always have the giveaway, attributes sometimes."""
    rng = np.random.default_rng(0)
    rows = []
    for image in range(images):
        for kind, share in (("swap_obj", 0.1), ("replace_rel", 0.9), ("replace_att", 0.5)):
            a, b = rng.choice(["dog", "cat", "bus", "bed"], 2)
            texts = [
                f"a {a} by a {b} no {image} {kind[-3:]}" + " indeed" * bool(rng.random() < p) for p in (0.1, share)
            ]
            rows.append((f"image {image}", *texts, kind))
    return rows


@pytest.mark.parametrize(
    ("unit", "rule"), [(unit, rule) for unit in UNITS for rule in RULED_BY_TYPE if (unit, rule) != ("both", "aflite")]
)
def test_types_kept_apart_keep_the_same_share(unit: str, rule: str) -> None:
    text_pairs = text_pairs_of(typed(100))
    plan = RULED_BY_TYPE[rule]
    apart = filtered(text_pairs, [word_judge(1)], unit=unit, **plan)
    kinds = ("swap_obj", "replace_rel", "replace_att")
    if unit == "text":
        shares = [apart.keep_probability[text_pairs.types == kind].mean() for kind in kinds]
    else:
        shares = [apart.pair_keep_probability[text_pairs.pair_types == kind].mean() for kind in kinds]
    if rule == "aflite":  # what is not predictable stays; no type loses more than its part
        assert min(shares) >= 0.8 - 1e-9
        assert shares[0] > shares[1]
        return
    assert max(shares) - min(shares) < 0.02
    alike = {"constant": 1.0, "rule": "overlap"} if rule == "overlap" else plan | {"per_type": False}
    together = filtered(text_pairs, [word_judge(1)], unit=unit, **alike)
    keep = (together.pair_keep if unit != "text" else together.keep).astype(float)
    types = text_pairs.pair_types if unit != "text" else text_pairs.types
    assert keep[types == "swap_obj"].mean() - keep[types == "replace_rel"].mean() > 0.1


@every_unit
def test_top_fraction_drops_its_part_of_each_class_or_of_the_pairs(unit: str) -> None:
    found = filtered(TEXT_PAIRS, unit=unit, rule="top_fraction", top_fraction=0.29)
    assert found.constant is None
    if unit != "text":
        size = len(TEXT_PAIRS.pairs)
        assert (~found.pair_keep).sum() == math.floor(0.29 * size)
        assert found.pair_score[~found.pair_keep].min() >= found.pair_score[found.pair_keep].max()
        return
    for label in (1, 0):
        rows = TEXT_PAIRS.labels == label
        assert (~found.keep[rows]).sum() == math.floor(0.29 * rows.sum())
        score = found.oof_score * (2 * label - 1)
        assert score[rows & ~found.keep].min() >= score[rows & found.keep].max()


@every_unit
def test_margins_at_a_given_strength_drop_that_share_of_each_type_and_class(unit: str) -> None:
    found = filtered(TEXT_PAIRS, unit=unit, rule="margins", strength=0.29)
    assert (found.constant, found.strengths) == (None, {"all": 0.29})
    keep, types = (found.keep, TEXT_PAIRS.types) if unit == "text" else (found.pair_keep, TEXT_PAIRS.pair_types)
    for name in set(types):
        assert (~keep[types == name]).sum() == math.floor(0.29 * (types == name).sum()), name
    assert (found.keep_probability[~found.keep] == 0).all()


@every_unit
def test_overlap_at_a_given_strength_drops_that_share_of_each_type_and_class_on_average(unit: str) -> None:
    found = filtered(TEXT_PAIRS, unit=unit, rule="overlap", strength=0.29)
    assert (found.constant, found.strengths) == (None, {"all": 0.29})
    chance, types = (
        (found.keep_probability, TEXT_PAIRS.types)
        if unit == "text"
        else (found.pair_keep_probability, TEXT_PAIRS.pair_types)
    )
    for name in set(types):
        assert chance[types == name].mean() == pytest.approx(1 - 0.29, abs=1e-6), name
    keep = found.keep if unit == "text" else found.pair_keep
    assert keep.mean() == pytest.approx(chance.mean(), abs=0.1)
    assert chance[keep].mean() > chance[~keep].mean() + 0.1
    sharper = filtered(TEXT_PAIRS, unit=unit, rule="overlap", strength=0.29, sharpness=8.0)
    chances = found.keep_probability, sharper.keep_probability
    assert np.ptp(chances[1]) > np.ptp(chances[0]), "the surest are dropped more surely"


@every_unit
@pytest.mark.parametrize("rule", SEARCHED)
def test_a_strength_of_zero_keeps_everything(unit: str, rule: str) -> None:
    found = filtered(TEXT_PAIRS, unit=unit, rule=rule, strength=0.0)
    assert found.keep.all()
    assert found.pair_keep.all()


@every_unit
def test_overlap_with_a_constant_keeps_by_the_odds_to_the_power_of_the_sharpness(unit: str) -> None:
    found = filtered(TEXT_PAIRS, unit=unit, rule="overlap", constant=1.5, sharpness=2.0)
    assert (found.constant, found.strengths) == (1.5, None)
    score, chance, labels = (
        (found.oof_score, found.keep_probability, TEXT_PAIRS.labels)
        if unit == "text"
        else (found.pair_score, found.pair_keep_probability, np.ones(len(TEXT_PAIRS.pairs)))
    )
    own = np.where(labels == 1, score, 1 - score)
    np.testing.assert_allclose(chance, np.minimum(1, 1.5 * ((1 - own) / own) ** 2), rtol=1e-9)


@pytest.mark.parametrize("rule", SEARCHED)
def test_a_rule_without_strengths_is_refused_where_nothing_searches_them(rule: str) -> None:
    with pytest.raises(InputError, match=f"Rule {rule} needs strengths: give `strength`, or search them by"):
        filtered(TEXT_PAIRS, rule=rule)


@pytest.mark.parametrize("unit", ["text", "pair"])
def test_aflite_drops_what_has_the_giveaway(unit: str) -> None:
    """The judge is always right about what has it, and about few others by chance."""
    text_pairs = text_pairs_of(with_giveaway(150, 0.0, 0.5))
    found = filtered(text_pairs, [word_judge(1)], unit=unit, rule="aflite", top_fraction=0.2)
    giveaway = np.array(["indeed" in caption for caption in text_pairs.captions])
    if unit == "text":
        negative = text_pairs.labels == 0
        assert (~found.keep[negative]).sum() <= 0.2 * negative.sum()
        assert giveaway[negative & ~found.keep].mean() > 0.9
    else:
        assert (~found.pair_keep).sum() <= 0.2 * len(text_pairs.pairs)
        assert giveaway[text_pairs.pairs[~found.pair_keep, 1]].mean() > 0.7  # of all, it is 0.5
    before, after = (
        giveaway[rows & (text_pairs.labels == 0)].mean() for rows in (np.ones(len(giveaway), dtype=bool), found.keep)
    )
    assert after < before - 0.04


@pytest.mark.parametrize(
    "text", [".", "🐶", "一只狗坐在床上。", "كلب يجلس على السرير", "a dog " * 1667], ids=lambda t: t[:8]
)
def test_strange_texts_are_judged_and_leave_the_others_alone(text: str) -> None:
    rows = [*ROWS, ("image 3", text, f"{text} indeed", "swap_obj"), ("image 4", f"not {text}", text, "swap_att")]
    text_pairs = text_pairs_of(rows)
    for unit in UNITS:
        found = filtered(text_pairs, unit=unit, constant=1.2)
        for part in (found.oof_score, found.keep_probability, found.pair_score, found.pair_keep_probability):
            assert ((part >= 0) & (part <= 1)).all()
    plain, found = (filtered(which, [word_judge(1)], constant=1.2) for which in (TEXT_PAIRS, text_pairs))
    among = {text_pairs.key(row): score for row, score in enumerate(found.oof_score)}
    alone = [among[TEXT_PAIRS.key(row)] for row in range(len(TEXT_PAIRS.captions))]
    np.testing.assert_allclose(plain.oof_score, alone, atol=0.05)


@pytest.mark.parametrize("language", ["一只狗和{}在{}旁边", "كلب و{} قرب {}", "🐶 {} 🐱 {}"])
def test_a_giveaway_is_found_in_any_script(language: str) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for image in range(100):
        texts = [language.format(*rng.choice(["一", "二", "三", "四"], 2)) for _ in range(2)]
        rows.append((str(image), texts[0], texts[1] + " 的确!" * bool(rng.random() < 0.8), "swap_obj"))
    text_pairs = text_pairs_of(rows)
    found = filtered(text_pairs, unit="text", constant=1.0)
    giveaway = np.array(["的确" in caption for caption in text_pairs.captions])
    assert found.oof_score[giveaway].max() < 0.1 < found.oof_score[~giveaway].min()
    assert found.keep[giveaway].mean() < 0.2 < found.keep[~giveaway].mean()


@pytest.mark.parametrize("unit", ["pair", "both"])
def test_units_of_pairs_without_any_pair_are_refused(unit: str) -> None:
    captions, negatives = tables(ROWS)
    text_pairs = build_text_pairs(text_table(captions, negatives), pair_table(captions, negatives.slice(0, 0)))
    with pytest.raises(InputError, match=rf"`unit` must be text where no negative.*got {unit}"):
        filtered(text_pairs, unit=unit)
    assert filtered(text_pairs, unit="text").pair_keep.tolist() == []


@every_unit
def test_a_filter_that_would_keep_nothing_is_refused(unit: str) -> None:
    with pytest.raises(InputError, match="Nothing would be kept"):
        filtered(TEXT_PAIRS, unit=unit, constant=1e-300)


def test_folds_of_texts_are_those_of_their_images() -> None:
    found = filtered(TEXT_PAIRS, constant=1.0, seed=4)
    assert (found.fold == fold_of(TEXT_PAIRS.image_ids, 3, "filter 4")[TEXT_PAIRS.images]).all()
    assert (found.pair_fold == found.fold[TEXT_PAIRS.pairs[:, 0]]).all()


def test_the_seed_changes_folds_and_draws() -> None:
    one, other = (filtered(TEXT_PAIRS, constant=1.0, seed=seed) for seed in (0, 1))
    assert (one.fold != other.fold).any()
    assert (one.keep != other.keep).any()
