"""What judges say of the texts or pairs that a rule will choose from: calibrated chances, out of fold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from negatives.filtering.keep_rules import ties_of
from negatives.judging.crossfit import combine_pairs, combine_texts, fold_of_texts, fold_scores
from negatives.judging.panel import Panel
from negatives.judging.text_pairs import TextPairs
from negatives.tables.files import InputError


@dataclass(frozen=True)
class Judged:
    """What is filtered: the texts (unit text) or the pairs, with what the judges say of them.

    Attributes:
        fold: [U] fold of each text; a pair has that of its texts.
        oof_score: [N] chance that a text is a positive, or that the first of a pair is.
        labels: [N] 1 or 0; 1 for all pairs.
        groups: N names of class and type: what shrinks alike where types are kept apart.
        keys: N names that draws depend on.
    """

    fold: np.ndarray
    oof_score: np.ndarray
    labels: np.ndarray
    groups: list[str]
    keys: list[str]

    @cached_property
    def ties(self) -> np.ndarray:
        """[N] see `keep_rules.ties_of`: a search asks for them again and again."""
        return ties_of(self.keys)


def judge_texts(panel: Panel, *, unit: str, seed: int) -> Judged:
    """Cross-fits the judges by image and combines them.

    With unit "both", judges that were fitted on single texts judge pairs too, by the difference of their two scores. A
    pair is then dropped for what gives away either text, as well as for what the two give away side by side.

    Args:
        panel: judges and texts.
        unit: see `plan.UNITS`.
        seed: of the folds.

    Raises:
        InputError: if the texts cannot be judged (see `crossfit.fold_of_texts`), or there are no pairs to judge.
    """
    pairs = panel.text_pairs.pairs
    if unit != "text" and not len(pairs):
        raise InputError(f"`unit` must be text where no negative belongs to any caption, got {unit}.")
    # a seed of the filter's own: a certificate or an audit at the same seed deals the images out anew
    fold = fold_of_texts(panel.text_pairs, panel.folds, f"filter {seed}")
    if unit == "text":
        return _of_texts(panel, fold, combine_texts(_columns(panel, "text", fold), panel.text_pairs.labels, fold))
    columns = _columns(panel, "pair", fold)
    if unit == "both":
        columns += _columns(panel, "text", fold)
    return _of_pairs(panel, fold, combine_pairs(columns, pairs, fold), one_draw_per_positive=unit == "both")


def texts_and_pairs(text_pairs: TextPairs, unit: str, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kept texts [U] and pairs [P]: a pair needs both texts, and where pairs are judged a text needs a pair.

    Args:
        text_pairs: all of them.
        unit: see `plan.UNITS`.
        kept: [U] bool for unit text, else [P].
    """
    if unit == "text":
        return kept, kept[text_pairs.pairs].all(axis=1)
    keep = np.zeros(len(text_pairs.captions), dtype=bool)
    keep[text_pairs.pairs[kept].ravel()] = True
    return keep, kept


def _columns(panel: Panel, unit: str, fold: np.ndarray) -> list[np.ndarray]:
    return [fold_scores(panel, judge, unit=unit, fold=fold) for judge in panel.judges]


def _of_texts(panel: Panel, fold: np.ndarray, logits: np.ndarray) -> Judged:
    texts = panel.text_pairs
    groups = [f"{label} {negative_type}" for label, negative_type in zip(texts.labels, texts.types, strict=True)]
    keys = [texts.key(text) for text in range(len(texts.captions))]
    return Judged(fold, _chance(logits), texts.labels, groups, keys)


def _of_pairs(panel: Panel, fold: np.ndarray, logits: np.ndarray, *, one_draw_per_positive: bool) -> Judged:
    texts = panel.text_pairs
    # With one draw for each pair, a positive that gives itself away would stay as a text although most of its many
    # pairs go: that one of them is kept would be likely. Where texts have to be balanced too, its pairs share a draw.
    parts = texts.pairs[:, :1] if one_draw_per_positive else texts.pairs
    keys = ["\n".join(texts.key(text) for text in part) for part in parts]
    # the first text of a pair is its positive, so that every pair has label 1
    ones = np.ones(len(texts.pairs), dtype=np.int64)
    return Judged(fold, _chance(logits), ones, [str(name) for name in texts.pair_types], keys)


def _chance(logits: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logits))
