"""Rules: out-of-fold scores in, what to keep out. Pure functions of their arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from negatives.tables.randomness import hash_of


def overlap(
    oof_score: np.ndarray, labels: np.ndarray, constant: float | np.ndarray = 1.0, sharpness: float = 1.0
) -> np.ndarray:
    """Keep probability by the odds of the other class: min(1, constant * (p(other) / p(own)) ** sharpness).

    Where the scores are calibrated (both classes weighing the same), and constant and sharpness are 1, the kept
    positives and the kept negatives both have the density min(f1, f0), the overlap of the two: no judge can tell them
    apart, and nothing that keeps more has this property. Real judges miss some of what others learn, so that at
    constant 1 the kept texts still teach it.

    Why: let texts have the density f1 among positives and f0 among negatives. With both classes weighing the same, a
    calibrated score is p = f1 / (f1 + f0), so that the odds of the other class are (1 - p) / p = f0 / f1 for a positive
    and f1 / f0 for a negative. Of the positives, f1 * min(1, c * f0 / f1) = min(f1, c * f0) is left; of the negatives
    min(f0, c * f1). At c = 1 these are the same function, in shape and in mass. More cannot be kept: what is left of
    either class is at most its own density, so that a common density is at most the smaller of the two.

    Args:
        oof_score: [N] probability that the label is 1. For pairs, that the first text is the positive.
        labels: [N] 1 or 0; 1 for all pairs.
        constant: factor of the odds, one or [N].
        sharpness: power of the odds, above 0; towards infinity, the surest are dropped and nothing is drawn.

    Returns:
        [N] in [0, 1].

    >>> overlap(np.array([0.8, 0.5, 0.8, 0.2]), np.array([1, 1, 0, 0])).round(2).tolist()
    [0.25, 1.0, 1.0, 0.25]
    """
    own = np.where(np.asarray(labels) == 1, oof_score, 1.0 - np.asarray(oof_score))
    # tiny keeps the logarithms finite: a text whose own class has chance 0 is kept for certain
    tiny = np.finfo(float).tiny
    log_odds = np.log(np.maximum(1.0 - own, tiny)) - np.log(np.maximum(own, tiny))
    # capped before exp, which would overflow
    return np.exp(np.minimum(0.0, np.log(constant) + sharpness * log_odds))


def constants_for_shares(
    oof_score: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    shares: Mapping[str, float],
    sharpness: float = 1.0,
) -> np.ndarray:
    """[N] for each group the constant of `overlap` with which its share is dropped on average.

    Args:
        oof_score, labels, sharpness: see `overlap`.
        groups: N names of groups.
        shares: name of a group -> part of it to drop, in [0, 1); infinity for 0.
    """
    names = np.asarray(groups, dtype=object)
    constants = np.empty(len(names))
    for name in sorted(set(groups)):
        rows = np.flatnonzero(names == name)
        if shares[name] <= 0:
            # no number is large enough for a text that is given away for certain, or for a large sharpness
            constants[rows] = math.inf
            continue
        # by halves: what is kept rises with the constant, and 60 halvings are below what a float can tell apart
        low, high = -700.0, 700.0  # of the logarithm, as far as exp can go
        for _ in range(60):
            middle = (low + high) / 2
            kept = overlap(oof_score[rows], labels[rows], math.exp(middle), sharpness).mean()
            low, high = (middle, high) if kept < 1.0 - shares[name] else (low, middle)
        constants[rows] = math.exp(high)
    return constants


def draw(keep_probability: np.ndarray, keys: Sequence[str], seed: int | str) -> np.ndarray:
    """[N] bool: keeps each row with its probability. A row's draw depends on the seed and its key alone.

    Rows with one key share a draw, and what a smaller probability keeps, a larger one keeps too: a smaller strength
    keeps all that a larger one does, and more.
    """
    # a hash on the unit interval, and no generator, whose draws would depend on the order of rows
    uniform = _hashes(f"draw {seed}", keys) / 2.0**64
    return uniform < keep_probability


def top_fraction(
    oof_score: np.ndarray, groups: Sequence[str], labels: np.ndarray, keys: Sequence[str], fraction: float
) -> np.ndarray:
    """Keeps all but the rows that the judge is most confidently right about (LLaVA-score, arXiv 2410.00905).

    Within each group, floor(fraction * n) of its n rows are dropped: positives with the highest score, negatives with
    the lowest. Ties are broken by a hash of the row's key: at random, and always in the same way.

    Args:
        oof_score: [N] probability that the label is 1.
        groups: N names; the paper's are the two classes.
        labels: [N] 1 or 0; 1 for all pairs.
        keys: N names of rows.
        fraction: part of each group to drop, in [0, 1).

    Returns:
        [N] bool, True = kept.

    >>> score, labels = np.array([0.9, 0.6, 0.2, 0.8]), np.array([1, 1, 0, 0])
    >>> top_fraction(score, ["+", "+", "-", "-"], labels, ["a", "b", "c", "d"], 0.5).tolist()
    [False, True, False, True]
    """
    return drop_shares(oof_score, groups, labels, ties_of(keys), dict.fromkeys(groups, fraction))


def ties_of(keys: Sequence[str]) -> np.ndarray:
    """[N] numbers by which rows with equal scores are put in order: a hash of each row's key."""
    return _hashes("top_fraction", keys)


def drop_shares(
    oof_score: np.ndarray, groups: Sequence[str], labels: np.ndarray, ties: np.ndarray, shares: Mapping[str, float]
) -> np.ndarray:
    """`top_fraction` with a share of its own for each group.

    Args:
        oof_score, groups, labels: see `top_fraction`.
        ties: [N] see `ties_of`.
        shares: name of a group -> part of it to drop, in [0, 1).
    """
    names = np.asarray(groups, dtype=object)
    # -score, not 1 - score: rounding would tie the scores nearest to zero
    confidence = np.where(np.asarray(labels) == 1, oof_score, -np.asarray(oof_score))
    keep = np.ones(len(names), dtype=bool)
    for name in set(groups):
        rows = np.flatnonzero(names == name)
        dropped = math.floor(shares[name] * len(rows) + 1e-9)  # 0.29 * 100 is 28.999999999999996
        ranked = rows[np.lexsort((ties[rows], -confidence[rows]))]
        keep[ranked[:dropped]] = False
    return keep


def aflite(
    predictability: Callable[[np.ndarray, int], np.ndarray],
    groups: Sequence[str],
    keys: Sequence[str],
    *,
    fraction: float,
    slice_fraction: float = 0.05,
    drop_threshold: float = 0.75,
) -> np.ndarray:
    """Drops, round after round, the rows that linear judges predict most often.

    AFLite: Le Bras et al., "Adversarial Filters of Dataset Biases", ICML 2020, algorithm 1. Rounds matter: with the
    most predictable rows gone, the judges of the next round learn from what is left, and find other habits. Unlike the
    paper's, this one bounds what each group loses, so that no class or type is all that is left.

    Args:
        predictability: (rows kept so far [N] bool, round) -> [N] share of the judges fitted on random parts of the
            kept rows that were right about each row they had not seen.
        groups: N names; rows are dropped within each group, so that the groups shrink alike.
        keys: N names of rows; ties are broken by their hash.
        fraction: most of each group that is dropped, in [0, 1).
        slice_fraction: part of each group dropped in a round at most.
        drop_threshold: rows predicted less often than this stay.

    Returns:
        [N] bool, True = kept.
    """
    names, ties = np.asarray(groups, dtype=object), _hashes("aflite", keys)
    members = [np.flatnonzero(names == name) for name in sorted(set(groups))]
    keep = np.ones(len(names), dtype=bool)
    for number in range(math.ceil(1 / slice_fraction)):
        scores = predictability(keep, number)
        dropped = 0
        for rows in members:
            # of the group as it was, not of what is left: rounds together drop no more than `fraction`
            room = math.floor(fraction * len(rows) + 1e-9) - int((~keep[rows]).sum())
            # one at least, or a group of fewer than 1 / slice_fraction rows would never shrink
            size = min(room, max(1, math.floor(slice_fraction * len(rows))))
            candidates = rows[keep[rows] & (scores[rows] >= drop_threshold)]
            ranked = candidates[np.lexsort((ties[candidates], -scores[candidates]))][: max(0, size)]
            keep[ranked] = False
            dropped += len(ranked)
        if not dropped:
            break
    return keep


def aflite_rounds(fraction: float, slice_fraction: float = 0.05) -> int:
    """How many rounds `aflite` takes at most, with one that finds nothing more to drop.

    >>> aflite_rounds(0.3)
    7
    """
    return min(math.ceil(1 / slice_fraction), math.ceil(fraction / slice_fraction - 1e-9) + 1)


def random_subset(labels: np.ndarray, keep: np.ndarray, text_ids: Sequence[str], seed: int | str) -> np.ndarray:
    """The control of a filter: as many rows of each class (or group) as `keep` keeps, drawn at random.

    Returns:
        [N] bool, True = kept; a function of the seed, the ids and the numbers kept, not of the rows' order.
    """
    labels, keep = np.asarray(labels), np.asarray(keep, dtype=bool)
    # by hash, as in `draw`, and under another name: the control must not follow the filter's own draws
    draws = _hashes(f"random_subset {seed}", text_ids)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        chosen[rows[np.argsort(draws[rows], kind="stable")][: keep[rows].sum()]] = True
    return chosen


def _hashes(purpose: str, keys: Sequence[str]) -> np.ndarray:
    return np.array([hash_of(purpose, key) for key in keys], dtype=np.uint64)
