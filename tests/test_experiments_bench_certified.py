"""Texts of known distributions: what is kept of them, what fresh ones say, and how certificates are counted."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from experiments.bench import certified as bench
from experiments.bench.known_texts.repeat import KINDS, SETTINGS, Job, Outcome, Said, kept_of, repeat
from experiments.bench.known_texts.texts import LENGTH, PAIRS, TYPES, VOCABULARY, draw_sample, make_world, thinned
from experiments.bench.known_texts.truth import Asked, Fresh, draw_fresh
from negatives.filtering import CertificatePlan, Learner, Retained
from negatives.judging import Judge, seat
from negatives.judging.linear import bayes_judge

BIASED = make_world(dict.fromkeys(TYPES, 1.5), 0)
SAMPLE = draw_sample(BIASED, 300, 0)
JUDGES: list[Judge] = [bayes_judge(1)]


def test_photos_have_pairs_of_every_type_and_a_seed_draws_them_again() -> None:
    text_pairs = SAMPLE.text_pairs
    assert np.bincount(text_pairs.pair_images).tolist() == [PAIRS] * 300
    assert set(text_pairs.pair_types) == set(TYPES)
    assert {len(caption.split()) for caption in text_pairs.captions} == {LENGTH}
    again = draw_sample(BIASED, 300, 0)
    assert again.text_pairs.captions == text_pairs.captions
    assert draw_sample(BIASED, 300, 1).text_pairs.captions != text_pairs.captions


def test_evidence_is_what_both_models_say_of_both_texts() -> None:
    """By a slow loop; of all topics, that of the photo gives the evidence."""
    text_pairs = SAMPLE.text_pairs
    for pair in range(20):
        positive, negative = (text_pairs.captions[text].split() for text in text_pairs.pairs[pair])
        other = BIASED.negative[text_pairs.pair_types[pair]]
        possible = []
        for topic in range(len(other)):
            total = 0.0
            for sign, words in ((1, positive), (-1, negative)):
                for before, after in pairwise(words):
                    place = topic, VOCABULARY.index(before), VOCABULARY.index(after)
                    total += sign * np.log(BIASED.positive[place] / other[place])
            possible.append(total)
        assert np.abs(np.array(possible) - SAMPLE.evidence[pair]).min() < 1e-9


def test_what_is_kept_by_known_chances_is_as_likely_the_other_way_round() -> None:
    sample = draw_sample(BIASED, 2000, 0)
    told = {}
    for strength in (0.0, 1.0, 2.0):
        keep = thinned(sample, dict.fromkeys(TYPES, strength), 0)
        told[strength] = float((sample.evidence[keep] > 0).mean() + (sample.evidence[keep] == 0).mean() / 2)
    assert told[0.0] > 0.65
    assert told[1.0] == pytest.approx(0.5, abs=0.02)
    assert told[2.0] < 0.45
    one = thinned(sample, {TYPES[0]: 1.0}, 0)
    assert one[sample.text_pairs.pair_types != TYPES[0]].all()
    assert not one.all()


def test_the_truth_is_that_of_the_fresh_texts() -> None:
    """The learners are those of the sample: texts without its bias say that nothing was learnt."""
    panel = seat(JUDGES, SAMPLE.text_pairs)
    _, rotated = kept_of(panel, SAMPLE, SETTINGS["far outside"], 0)
    learner = Learner("bayes", "pair")
    values = {}
    for name, world in (("alike", BIASED), ("unbiased", make_world({}, 0))):
        asked = Asked(panel, draw_fresh(world, 600, JUDGES, 0))
        truths = asked.truths(rotated, "pair")
        whole = Retained(np.ones(asked.own, dtype=bool), np.ones(asked.own_pairs, dtype=bool))
        values[name] = truths[learner, "all"], asked.taught_by_all(whole)["bayes"]
        assert truths[learner, "all"] == pytest.approx(np.mean([truths[learner, kind] for kind in TYPES]), abs=0.02)
    assert values["alike"][1] > values["alike"][0] > 0.53, "three times the photos teach more"
    assert values["unbiased"] == pytest.approx((0.5, 0.5), abs=0.03)


def test_nothing_is_learnt_from_fresh_texts() -> None:
    panel = seat(JUDGES, SAMPLE.text_pairs)
    _, rotated = kept_of(panel, SAMPLE, SETTINGS["thinned"], 0)
    fresh = draw_fresh(BIASED, 100, JUDGES, 0)
    swapped = replace(fresh.text_pairs, pairs=fresh.text_pairs.pairs[:, ::-1], labels=1 - fresh.text_pairs.labels)
    there, back = (Asked(panel, one).truths(rotated, "pair") for one in (fresh, Fresh(swapped, fresh.encoded)))
    for (learner, group), value in there.items():
        if group == "all":
            assert back[learner, group] == pytest.approx(1 - value)


def test_a_strong_bias_is_outside_and_no_certificate_says_balanced() -> None:
    plan = CertificatePlan(probes=["bayes"], bootstrap=20, seeds=1, folds=3)
    found = repeat(Job("far outside", 0, 300, 300, plan))
    assert not found.whole.balanced
    assert found.whole.distance == max(one.distance for one in found.kinds.values()) > 1
    assert found.inside.outside
    assert not found.inside.balanced
    assert found.intervals == {"all": 2, "type": 2 * len(TYPES), "third": 6}
    assert all(0 <= found.covered[kind] <= found.intervals[kind] for kind in KINDS)


def outcome(balanced: bool, distance: float, inside: tuple[bool, float]) -> Outcome:
    said = Said(balanced, 0.5, distance)
    counts = dict.fromkeys(KINDS, 1)
    return Outcome("silent", 0, 1.0, said, dict.fromkeys(KINDS, said), counts, counts, Said(inside[0], 0.5, inside[1]))


def test_wrong_and_right_certificates_are_counted_apart() -> None:
    outcomes = [
        *[outcome(True, 1.2, (False, 0.2))] * 1,
        *[outcome(False, 1.2, (True, 1.01))] * 3,
        *[outcome(True, 0.4, (True, 1.0))] * 5,
        *[outcome(False, 0.9, (False, 3.0))] * 2,
    ]
    row = bench.by_setting(outcomes).splitlines()[2].strip("| ").split(" | ")
    assert [cell.split(" [")[0] for cell in row[-4:]] == ["1 / 4", "5 / 7", "3 / 5", "5 / 6"]
    rates = [line.strip("| ").split(" | ") for line in bench.by_distance(outcomes).splitlines()[2:]]
    assert [[cell.split(" [")[0] for cell in row] for row in rates] == [
        ["0 - 0.5", "5 / 5", "0 / 1"],
        ["0.5 - 1", "0 / 2", "5 / 5"],
        ["1 - 1.5", "1 / 4", "3 / 3"],
        ["above 1.5", "none", "0 / 2"],
    ]


def test_the_tables_are_printed_and_every_outcome_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "certified.json"
    words = ["--settings", "cancelling", "--repetitions", "2", "--photos", "60", "--fresh", "60", "--learners", "bayes"]
    assert bench.main([*words, "--bootstrap", "20", "--json", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("cancelling, seed ") == 2
    assert printed.out.count("\n| --- |") == 3
    assert [one["seed"] for one in json.loads(out.read_text("utf-8"))["outcomes"]] == [0, 1]
