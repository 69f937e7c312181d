"""The filter: the same verdict in any order and with any number of workers, and texts that say nothing afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from negatives.filtering.filter import (
    LARGEST_CONSTANT,
    Filtered,
    Judged,
    filter_corpus,
    filter_fits,
    judge_texts,
    keep_probabilities,
    search_constant,
)
from negatives.judging.bias_metrics import auc, encode, paired_wins, probe
from negatives.judging.linear import Judge, surface_judge, word_judge
from negatives.judging.text_pairs import Corpus, build_corpus, fold_of
from negatives.tables.captions import InputError, pair_table, strings, text_table
from tests.test_negatives_text_pairs import Row, corpus_of, cued, shuffled, tables

JUDGES: list[Judge] = [word_judge(1), surface_judge()]
UNITS = ("text", "pair", "both")
RULES: dict[str, dict[str, Any]] = {
    "constant": {"constant": 1.2},
    "search": {"judges": JUDGES[:1]},
    "per type": {"constant": 1.2, "per_type": True, "judges": JUDGES[:1]},
    "top_fraction": {"rule": "top_fraction", "judges": JUDGES[:1]},
    "aflite": {"rule": "aflite", "fraction": 0.1, "judges": JUDGES[:1]},
}
ROWS: list[Row] = cued(40, 0.2, 0.7)
CORPUS = corpus_of(ROWS)
every_unit = pytest.mark.parametrize("unit", UNITS)
every_rule = pytest.mark.parametrize("rule", RULES)


def filtered(corpus: Corpus, judges: Sequence[Judge] = JUDGES, **arguments: Any) -> Filtered:
    return filter_corpus(corpus, judges, encode(judges, corpus), **{"folds": 3, **arguments})


def verdicts(texts: pa.Table, pairs: pa.Table, **arguments: Any) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Verdicts by text id, and by the ids of a pair."""
    corpus = build_corpus(texts, pairs)
    found = filtered(corpus, **arguments)
    parts = (found.fold, found.oof_score, found.keep_probability, found.keep)
    pair_parts = (found.pair_fold, found.pair_score, found.pair_keep_probability, found.pair_keep)
    names = list(zip(strings(pairs, "caption_id"), strings(pairs, "negative_id"), strict=True))
    return (
        {name: tuple(p[i] for p in parts) for name, i in zip(strings(texts, "text_id"), corpus.text_of, strict=True)},
        {name: tuple(p[i] for p in pair_parts) for name, i in zip(names, corpus.pair_of, strict=True)},
    )


@every_rule
@every_unit
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
def test_what_overlap_keeps_has_the_cue_alike_in_both_classes(unit: str) -> None:
    """With and without the cue, all of the rarer class and as much of the other is kept: 0.2 + 0.3 of texts."""
    corpus = corpus_of(cued(500, 0.2, 0.7))
    found = filtered(corpus, [word_judge(1)], unit=unit, constant=1.0)
    cue = np.array(["indeed" in caption for caption in corpus.captions])
    first, second = corpus.pairs.T
    if unit == "text":
        weight = found.keep_probability
        rows = [np.flatnonzero(corpus.labels == label) for label in (1, 0)]
        positive, negative = (np.average(cue[row], weights=weight[row]) for row in rows)
        assert weight.mean() == pytest.approx(0.2 + 0.3, abs=0.05)
    else:
        # pairs: 0.14 + 0.24 that have it alike, 2 * 0.06 of those that have it on either side alone
        weight = found.pair_keep_probability
        positive, negative = (np.average(cue[end], weights=weight) for end in (first, second))
        assert weight.mean() == pytest.approx(0.14 + 0.24 + 0.12, abs=0.05)
    assert positive == pytest.approx(negative, abs=0.05)
    assert abs(cue[corpus.labels == 1].mean() - cue[corpus.labels == 0].mean()) > 0.4


@every_unit
def test_each_filter_makes_as_many_fits_as_it_announces(unit: str) -> None:
    for arguments, searched in (({"constant": 1.0}, False), ({}, True)):
        told: list[int] = []
        filtered(CORPUS, unit=unit, advance=lambda told=told: told.append(1), **arguments)
        assert len(told) == filter_fits(2, 3, unit, searching=2 if searched else 0)
    kinds = {"text": 1, "pair": 1, "both": 2}[unit]
    assert filter_fits(2, 3, unit, searching=0) == 2 * 3 * kinds


def test_pairs_get_the_verdict_of_both_texts_where_texts_are_judged() -> None:
    found = filtered(CORPUS, unit="text", constant=1.2)
    for number, (first, second) in enumerate(CORPUS.pairs):
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
    corpus = build_corpus(text_table(captions, negatives), pair_table(captions, negatives))
    found = filtered(corpus, unit=unit, constant=1.2)
    for text in range(len(corpus.captions)):
        own = [pair for pair, ends in enumerate(corpus.pairs) if text in ends]
        scores = [found.pair_score[p] if corpus.pairs[p, 0] == text else 1 - found.pair_score[p] for p in own]
        assert found.oof_score[text] == pytest.approx(np.mean(scores) if own else 0.5)
        probabilities = found.pair_keep_probability[own]
        shared = unit == "both" and corpus.labels[text] == 1  # one draw for all pairs of a positive
        chance = probabilities.max(initial=0) if shared else 1 - math.prod(1 - probabilities)
        assert found.keep_probability[text] == pytest.approx(chance)
        assert found.keep[text] == any(found.pair_keep[pair] for pair in own)
    lone = corpus.captions.index("!")
    assert (found.oof_score[lone], found.keep_probability[lone], found.keep[lone]) == (0.5, 0.0, False)


def test_judges_of_both_units_join_the_two_kinds_of_evidence() -> None:
    """A chance of `both` is neither that of pairs alone, nor of texts alone."""
    encoded = encode(JUDGES, CORPUS)
    pair, both = (judge_texts(CORPUS, JUDGES, encoded, unit=unit, folds=3, seed=0) for unit in ("pair", "both"))
    assert (pair.fold == both.fold).all()
    assert np.abs(pair.oof_score - both.oof_score).max() > 0.01
    assert (both.labels == 1).all()


@pytest.mark.parametrize("unit", ["pair", "both"])
def test_a_pair_that_looks_equal_has_one_half(unit: str) -> None:
    rows = [*ROWS, ("image 3", "a dog", "A DOG", "swap_obj"), ("image 4", "a cat", "a cat", "swap_obj")]
    corpus = corpus_of(rows)
    found = filtered(corpus, [word_judge(2)], unit=unit, constant=1.0)
    equal = [
        number for number, (a, b) in enumerate(corpus.pairs) if corpus.captions[a].lower() == corpus.captions[b].lower()
    ]
    assert len(equal) >= 2
    assert found.pair_score[equal].tolist() == [0.5] * len(equal)
    assert found.pair_keep[equal].all()
    assert paired_wins(found.pair_score[equal] - 0.5).tolist() == [0.5] * len(equal)


@every_unit
def test_texts_that_say_nothing_are_judged_near_one_half_and_all_kept(unit: str) -> None:
    corpus = corpus_of([(f"{i}", f"a {i % 7}", f"a {(i + 3) % 7}", "swap_obj") for i in range(300)])
    found = filtered(corpus, [word_judge(1)], unit=unit)
    assert found.pair_score.mean() == pytest.approx(0.5, abs=0.02)
    assert found.constant == math.inf
    assert found.keep.all()
    assert (found.keep_probability == 1).all()


def test_all_pairs_equal_keep_everything() -> None:
    rows = [(str(i), f"a {word}", f"a {word}", "swap_obj") for i, word in enumerate(["dog", "cat", "bus"] * 10)]
    for unit in UNITS:
        found = filtered(corpus_of(rows), unit=unit)
        assert found.pair_keep.all()
        np.testing.assert_allclose(found.pair_score, 0.5, atol=1e-3)


@every_unit
def test_the_searched_constant_leaves_fresh_judges_near_the_target(unit: str) -> None:
    corpus = corpus_of(cued(300, 0.2, 0.7))
    judges: list[Judge] = [word_judge(1)]
    encoded = encode(judges, corpus)
    judged = judge_texts(corpus, judges, encoded, unit=unit, folds=3, seed=0)
    reached = []
    for target in (0.52, 0.62):
        constant = search_constant(corpus, judged, judges, encoded, unit=unit, target=target, seed=0)
        assert 1.0 <= constant <= LARGEST_CONSTANT
        found = filtered(corpus, judges, unit=unit, target=target)
        assert found.constant == constant
        part = corpus.subset(found.keep, found.pair_keep)
        said = probe(part, judges, encode(judges, part), folds=3, seed="fresh")
        values = [auc(said.texts["word"], part.labels), float(paired_wins(said.pairs["word"]).mean())]
        reached.append({"text": values[0], "pair": values[1], "both": max(values)}[unit])
        assert reached[-1] == pytest.approx(target, abs=0.05)
    assert reached[0] < reached[1] - 0.04


def test_a_target_that_everything_meets_keeps_everything() -> None:
    found = filtered(CORPUS, target=1.0)
    assert found.constant == math.inf
    assert found.keep.all()


def test_constants_below_one_can_be_asked_for_and_keep_less() -> None:
    kept = [filtered(CORPUS, constant=constant).keep_probability.mean() for constant in (0.5, 1.0, 2.0)]
    assert kept[0] < kept[1] < kept[2]


def typed(images: int) -> list[Row]:
    """Swaps say nothing, replacements nearly always have the cue, attributes sometimes."""
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


@pytest.mark.parametrize("rule", ["overlap", "top_fraction", "aflite"])
@every_unit
def test_types_kept_apart_keep_the_same_share(unit: str, rule: str) -> None:
    corpus = corpus_of(typed(100))
    arguments = {"constant": 1.0} if rule == "overlap" else {"rule": rule, "fraction": 0.2 if rule == "aflite" else 0.4}
    apart = filtered(corpus, [word_judge(1)], unit=unit, per_type=True, **arguments)
    kinds = ("swap_obj", "replace_rel", "replace_att")
    if unit == "text":
        shares = [apart.keep_probability[corpus.types == kind].mean() for kind in kinds]
    else:
        shares = [apart.pair_keep_probability[corpus.pair_types == kind].mean() for kind in kinds]
    if rule == "aflite":  # what is not predictable stays; no type loses more than its part
        assert min(shares) >= 0.8 - 1e-9
        assert shares[0] > shares[1]
        return
    assert max(shares) - min(shares) < 0.02
    together = filtered(corpus, [word_judge(1)], unit=unit, per_type=False, **arguments)
    keep = (together.pair_keep if unit != "text" else together.keep).astype(float)
    types = corpus.pair_types if unit != "text" else corpus.types
    assert keep[types == "swap_obj"].mean() - keep[types == "replace_rel"].mean() > 0.1


def test_keep_probabilities_per_type_keep_the_share_that_all_would() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.6])
    judged = Judged(np.zeros(4), score, np.ones(4), ["a", "a", "b", "b"], list("wxyz"))
    # 1/9, 1/4, 3/7, 2/3
    share = np.mean([1 / 9, 1 / 4, 3 / 7, 2 / 3])
    np.testing.assert_allclose(keep_probabilities(judged, 1.0), [1 / 9, 1 / 4, 3 / 7, 2 / 3])
    apart = keep_probabilities(judged, 1.0, per_type=True)
    assert (apart[:2].mean(), apart[2:].mean()) == (pytest.approx(share), pytest.approx(share))
    assert keep_probabilities(judged, math.inf, per_type=True).tolist() == [1, 1, 1, 1]


@every_unit
def test_top_fraction_drops_its_part_of_each_class_or_of_the_pairs(unit: str) -> None:
    found = filtered(CORPUS, unit=unit, rule="top_fraction", fraction=0.29)
    assert found.constant is None
    if unit != "text":
        size = len(CORPUS.pairs)
        assert (~found.pair_keep).sum() == math.floor(0.29 * size)
        assert found.pair_score[~found.pair_keep].min() >= found.pair_score[found.pair_keep].max()
        return
    for label in (1, 0):
        rows = CORPUS.labels == label
        assert (~found.keep[rows]).sum() == math.floor(0.29 * rows.sum())
        score = found.oof_score * (2 * label - 1)
        assert score[rows & ~found.keep].min() >= score[rows & found.keep].max()


@every_unit
def test_aflite_drops_what_has_the_cue(unit: str) -> None:
    """The judge is always right about what has it, and about few others by chance."""
    corpus = corpus_of(cued(150, 0.0, 0.5))
    found = filtered(corpus, [word_judge(1)], unit=unit, rule="aflite", fraction=0.2)
    cue = np.array(["indeed" in caption for caption in corpus.captions])
    if unit == "text":
        negative = corpus.labels == 0
        assert (~found.keep[negative]).sum() <= 0.2 * negative.sum()
        assert cue[negative & ~found.keep].mean() > 0.9
    else:
        assert (~found.pair_keep).sum() <= 0.2 * len(corpus.pairs)
        assert cue[corpus.pairs[~found.pair_keep, 1]].mean() > 0.7  # of all, it is 0.5
    before, after = (cue[rows & (corpus.labels == 0)].mean() for rows in (np.ones(len(cue), dtype=bool), found.keep))
    assert after < before - 0.04


@pytest.mark.parametrize(
    "text", [".", "🐶", "一只狗坐在床上。", "كلب يجلس على السرير", "a dog " * 1667], ids=lambda t: t[:8]
)
def test_strange_texts_are_judged_and_leave_the_others_alone(text: str) -> None:
    rows = [*ROWS, ("image 3", text, f"{text} indeed", "swap_obj"), ("image 4", f"not {text}", text, "swap_att")]
    corpus = corpus_of(rows)
    for unit in UNITS:
        found = filtered(corpus, unit=unit, constant=1.2)
        for part in (found.oof_score, found.keep_probability, found.pair_score, found.pair_keep_probability):
            assert ((part >= 0) & (part <= 1)).all()
    plain, found = (filtered(which, [word_judge(1)], constant=1.2) for which in (CORPUS, corpus))
    among = {corpus.key(row): score for row, score in enumerate(found.oof_score)}
    alone = [among[CORPUS.key(row)] for row in range(len(CORPUS.captions))]
    np.testing.assert_allclose(plain.oof_score, alone, atol=0.05)


@pytest.mark.parametrize("language", ["一只狗和{}在{}旁边", "كلب و{} قرب {}", "🐶 {} 🐱 {}"])
def test_a_cue_is_found_in_any_script(language: str) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for image in range(100):
        texts = [language.format(*rng.choice(["一", "二", "三", "四"], 2)) for _ in range(2)]
        rows.append((str(image), texts[0], texts[1] + " 的确!" * bool(rng.random() < 0.8), "swap_obj"))
    corpus = corpus_of(rows)
    found = filtered(corpus, unit="text", constant=1.0)
    cue = np.array(["的确" in caption for caption in corpus.captions])
    assert found.oof_score[cue].max() < 0.1 < found.oof_score[~cue].min()
    assert found.keep[cue].mean() < 0.2 < found.keep[~cue].mean()


@pytest.mark.parametrize("unit", ["pair", "both"])
def test_units_of_pairs_without_any_pair_are_refused(unit: str) -> None:
    captions, negatives = tables(ROWS)
    corpus = build_corpus(text_table(captions, negatives), pair_table(captions, negatives.slice(0, 0)))
    with pytest.raises(InputError, match=rf"unit: {unit} needs pairs.*Ask for unit: text"):
        filtered(corpus, unit=unit)
    assert filtered(corpus, unit="text").pair_keep.tolist() == []


@every_unit
def test_a_filter_that_would_keep_nothing_is_refused(unit: str) -> None:
    with pytest.raises(InputError, match="Nothing would be kept"):
        filtered(CORPUS, unit=unit, constant=1e-300)


@every_unit
def test_a_search_on_classes_that_do_not_overlap_keeps_next_to_nothing_or_says_so(unit: str) -> None:
    corpus = corpus_of(cued(60, 0.0, 1.0))
    try:
        found = filtered(corpus, unit=unit)
    except InputError as error:
        assert "Nothing would be kept" in str(error)  # noqa: PT017
    else:
        assert found.pair_keep.mean() < 0.5


def test_folds_of_texts_are_those_of_their_images() -> None:
    found = filtered(CORPUS, constant=1.0, seed=4)
    assert (found.fold == fold_of(CORPUS.image_ids, 3, "filter 4")[CORPUS.images]).all()
    assert (found.pair_fold == found.fold[CORPUS.pairs[:, 0]]).all()


def test_the_seed_changes_folds_and_draws() -> None:
    one, other = (filtered(CORPUS, constant=1.0, seed=seed) for seed in (0, 1))
    assert (one.fold != other.fold).any()
    assert (one.keep != other.keep).any()
