"""Captions and negatives whose distributions are known: two bigram models for each negative type, photos with topics.

What training on such texts teaches can be measured on as many fresh ones as one likes, and how likely a text is under
either model is a sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from negatives.judging import TextPairs, build_text_pairs
from negatives.tables import generator_for, pair_table, text_table

TYPES = ("replace_obj", "replace_rel", "swap_obj")
SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "ti")
VOCABULARY = [first + last for first in SYLLABLES for last in SYLLABLES]
TOPICS, LENGTH, PAIRS = 6, 6, 4
"""Topics of photos; words of a text; pairs of a photo."""


@dataclass(frozen=True)
class World:
    """Bigram models of positives and of each type's negatives, for each topic.

    Attributes:
        positive: [T, V, V] chance of the next word, by topic and word.
        negative: type -> likewise.
    """

    positive: np.ndarray
    negative: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Sample:
    """Texts that were drawn from a world.

    Attributes:
        text_pairs: the texts and pairs.
        evidence: [P] log-likelihood ratio of each pair as it is to the pair with its two texts exchanged.
    """

    text_pairs: TextPairs
    evidence: np.ndarray


def make_world(bias: Mapping[str, float], seed: int | str) -> World:
    """A world in which the negatives of each type favour words of their own.

    Args:
        bias: negative type -> how strongly: 0 for not at all; at 1 a favourite word is e times as likely as before.
        seed: of models and favourites; they do not depend on the bias.
    """
    generator = generator_for("simulated texts", seed)
    words = len(VOCABULARY)
    # few likely words after each, as in language
    positive = generator.dirichlet(np.full(words, 0.2), size=(TOPICS, words)) + 1e-4
    positive /= positive.sum(axis=2, keepdims=True)
    negative = {}
    for name in TYPES:
        favour = generator.choice([-0.5, 0.0, 0.0, 0.5], size=words)
        # a habit is stronger on some topics: the pairs of a photo are won together, so that photos have to be drawn
        strength = bias.get(name, 0.0) * np.linspace(0.0, 2.0, TOPICS)
        tilted = positive * np.exp(strength[:, None, None] * favour)
        negative[name] = tilted / tilted.sum(axis=2, keepdims=True)
    return World(positive, negative)


def draw_sample(world: World, photos: int, seed: int | str) -> Sample:
    """Photos of a topic each, with pairs of types in turn.

    Args:
        world: what is drawn from.
        photos: how many; each has `PAIRS` pairs.
        seed: of topics and texts.
    """
    generator = generator_for("simulated sample", seed)
    topic = np.repeat(generator.integers(TOPICS, size=photos), PAIRS)
    kind = np.arange(photos * PAIRS) % len(TYPES)
    true = _walk(generator, world.positive, topic)
    false, ratio = np.empty_like(true), np.empty(len(topic))
    for number, name in enumerate(TYPES):
        rows = kind == number
        false[rows] = _walk(generator, world.negative[name], topic[rows])
        log = np.log(world.positive) - np.log(world.negative[name])
        ratio[rows] = _summed(log, topic[rows], true[rows]) - _summed(log, topic[rows], false[rows])
    names = [f"{number // PAIRS:06d}" for number in range(len(topic))]
    ids = [str(number) for number in range(len(topic))]
    captions = pa.table({"image_id": names, "image": names, "caption_id": ids, "caption": _written(true)})
    negatives = pa.table(
        {"caption_id": ids, "negative_id": ids, "caption": _written(false)}
        | {"negative_type": [TYPES[number] for number in kind]}
    )
    text_pairs = build_text_pairs(text_table(captions, negatives), pair_table(captions, negatives))
    # rows to pairs; a pair that was drawn twice for a photo is one, and its evidence the same
    evidence = np.empty(len(text_pairs.pairs))
    evidence[text_pairs.pair_of] = ratio
    return Sample(text_pairs, evidence)


def thinned(sample: Sample, strength: Mapping[str, float], seed: int | str) -> np.ndarray:
    """[P] bool: keeps a pair with the chance min(1, exp(-strength * evidence)), by its type's strength.

    At 1, what is kept is as likely the other way round (see `keep_rules.overlap`), so that nothing is to be learnt; at
    0 all is kept; above 1 what is kept teaches the opposite.
    """
    own = np.array([strength.get(str(name), 0.0) for name in sample.text_pairs.pair_types])
    uniform = generator_for("simulated thinning", seed).random(len(own))
    kept: np.ndarray = uniform < np.exp(-np.clip(own * sample.evidence, 0.0, None))
    return kept


def _walk(generator: np.random.Generator, chances: np.ndarray, topic: np.ndarray) -> np.ndarray:
    """[N, LENGTH] words of a Markov chain each; the first is as likely in all."""
    cumulative = np.cumsum(chances, axis=2)
    walk = np.empty((len(topic), LENGTH), dtype=np.int64)
    walk[:, 0] = generator.integers(len(VOCABULARY), size=len(topic))
    for step in range(1, LENGTH):
        row = cumulative[topic, walk[:, step - 1]]
        # the last sum may be rounded to just below 1
        walk[:, step] = np.minimum((row < generator.random((len(topic), 1))).sum(axis=1), len(VOCABULARY) - 1)
    return walk


def _summed(log: np.ndarray, topic: np.ndarray, walk: np.ndarray) -> np.ndarray:
    summed: np.ndarray = log[topic[:, None], walk[:, :-1], walk[:, 1:]].sum(axis=1)
    return summed


def _written(walk: np.ndarray) -> list[str]:
    return [" ".join(VOCABULARY[word] for word in row) for row in walk]
