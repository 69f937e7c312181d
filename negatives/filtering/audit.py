"""The audit: how much of the label the text alone gives away, and what in the texts does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from negatives.filtering.giveaways import Giveaway, LeakingNgram, leaking_ngrams, style_giveaways
from negatives.filtering.plan import AuditPlan
from negatives.judging.bias_metrics import ALL, BIAS_METRICS, STACKED, TIE, Estimate, enough_pairs, estimates, probe
from negatives.judging.crossfit import fold_of_texts
from negatives.judging.panel import Panel
from negatives.judging.text_pairs import TextPairs
from negatives.tables.files import finite


@dataclass(frozen=True)
class Duplicates:
    """Texts that are there more than once, letter for letter.

    Attributes:
        both_classes: different texts that are a positive somewhere and a negative somewhere.
        repeated_positives, repeated_negatives: texts beyond the first of their wording in their class.
        equal_pairs: pairs whose negative equals its positive.
        merged_rows: rows of the tables that repeat a text of their image, class and type and count as one with it; None
            where only a part of the tables is audited.
    """

    both_classes: int
    repeated_positives: int
    repeated_negatives: int
    equal_pairs: int
    merged_rows: int | None


@dataclass(frozen=True)
class GivenText:
    """A text that gives itself away; the logit is positive for positives, negative for negatives."""

    image_id: str
    caption: str
    negative_type: str
    logit: float


@dataclass(frozen=True)
class GivenPair:
    """A pair that gives itself away: the larger the logit, the surer the judge is which one is the positive."""

    image_id: str
    caption: str
    negative_caption: str
    negative_type: str
    logit: float


@dataclass(frozen=True)
class Audit:
    """What the texts give away to judges that never saw an image; counts are of different texts, see `TextPairs`.

    Attributes:
        positives, negatives, images, pairs: how many there are.
        judges: names of the judges.
        judge: the one behind `given_*` and the headline: "stacked", or the only judge.
        estimates: both bias metrics of each judge over all negatives and for each type.
        ngrams: "positive" and "negative": the n-grams used more in that class, largest z first.
        giveaways: habits of style.
        duplicates: texts that repeat.
        given_positives, given_negatives, given_pairs: most confidently right first, each wording once.
    """

    positives: int
    negatives: int
    images: int
    pairs: int
    judges: list[str]
    judge: str
    estimates: list[Estimate]
    ngrams: dict[str, list[LeakingNgram]]
    giveaways: list[Giveaway]
    duplicates: Duplicates
    given_positives: list[GivenText]
    given_negatives: list[GivenText]
    given_pairs: list[GivenPair]

    def find(self, metric: str, negative_type: str = ALL, judge: str | None = None) -> Estimate | None:
        """One estimate, the headline judge's where none is named; None where it was not measured."""
        wanted = (metric, judge or self.judge, negative_type)
        return next((e for e in self.estimates if (e.metric, e.judge, e.negative_type) == wanted), None)

    @property
    def types(self) -> list[str]:
        """The negative types, "all" first, as estimates list them."""
        return list(dict.fromkeys(estimate.negative_type for estimate in self.estimates))

    def to_json(self) -> dict[str, Any]:
        """The audit as plain dicts, lists, strings and finite numbers, named as the attributes; NaN is None.

        Two names are older in the files than here: giveaways are `cues` there, and metrics `estimand`.
        """
        written: dict[str, Any] = {"estimates": [one.to_json() for one in self.estimates]}
        written["giveaways"] = [one.to_json() for one in self.giveaways]
        plain: dict[str, Any] = finite(asdict(self) | written)
        return {"cues" if name == "giveaways" else name: value for name, value in plain.items()}


def audit_texts(panel: Panel, plan: AuditPlan, *, ngrams: int = 2) -> Audit:
    """Fits fresh judges, cross-fitted by image, and says what they reach and what they go by.

    Args:
        panel: judges, of which several are also combined as "stacked", and texts; too few pairs to fit on are left
            unmeasured.
        plan: how closely to look.
        ngrams: longest leaking word n-gram.

    Raises:
        InputError: if the texts cannot be judged (see `crossfit.fold_of_texts`).
    """
    text_pairs, names = panel.text_pairs, [judge.name for judge in panel.judges]
    probed = probe(panel, seed=_fold_seed(plan), stacked=names)
    # with one judge there is nothing to combine
    headline = STACKED if STACKED in probed.texts else names[0]
    positives, negatives = _given_texts(text_pairs, probed.texts[headline], plan.top)
    pairs = _given_pairs(text_pairs, probed.pairs[headline], plan.top) if headline in probed.pairs else []
    return Audit(
        positives=int((text_pairs.labels == 1).sum()),
        negatives=int((text_pairs.labels == 0).sum()),
        images=len(text_pairs.image_ids),
        pairs=len(text_pairs.pairs),
        judges=names,
        judge=headline,
        # the fold seed serves the bootstrap too: the two draw under different names
        estimates=estimates(text_pairs, probed, bootstrap=plan.bootstrap, seed=_fold_seed(plan)),
        ngrams=leaking_ngrams(text_pairs.captions, text_pairs.labels, ngrams=ngrams, top=plan.top),
        giveaways=style_giveaways(text_pairs.captions, text_pairs.labels),
        duplicates=count_duplicates(text_pairs),
        given_positives=positives,
        given_negatives=negatives,
        given_pairs=pairs,
    )


def measurable(panel: Panel, plan: AuditPlan) -> tuple[str, ...]:
    """The bias metrics that `audit_texts` can measure; paired accuracy needs two pairs outside any fold.

    Raises:
        InputError: if the texts cannot be judged (see `crossfit.fold_of_texts`).
    """
    fold = fold_of_texts(panel.text_pairs, panel.folds, _fold_seed(plan))
    return BIAS_METRICS if enough_pairs(panel.text_pairs, fold) else BIAS_METRICS[:1]


def _fold_seed(plan: AuditPlan) -> str:
    """Not the filter's folds at the same seed: what a filter kept, it kept by what its own folds' judges said."""
    return f"audit {plan.seed}"


def keep_of(
    text_pairs: TextPairs, keep: Sequence[bool] | np.ndarray, keep_pairs: Sequence[bool] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Turns verdicts on rows of the tables into verdicts on texts and pairs: each is kept if any of its rows is.

    Args:
        text_pairs: of the tables.
        keep: [N] of the rows of the text table.
        keep_pairs: [R] of the rows of the pair table; all where not given.

    Returns:
        [U] and [P], bool; a pair also needs its texts, which `TextPairs.subset` sees to.
    """
    texts = np.zeros(len(text_pairs.captions), dtype=bool)
    texts[text_pairs.text_of[np.asarray(keep, dtype=bool)]] = True
    # without verdicts on pairs every pair is kept, whose texts are
    pairs = np.full(len(text_pairs.pairs), keep_pairs is None)
    if keep_pairs is not None:
        pairs[text_pairs.pair_of[np.asarray(keep_pairs, dtype=bool)]] = True
    return texts, pairs


def count_duplicates(text_pairs: TextPairs) -> Duplicates:
    """How often texts repeat, letter for letter."""
    # wordings, not texts: the same words for two images count as a repetition here
    by_class = [
        Counter(text_pairs.captions[row] for row in np.flatnonzero(text_pairs.labels == label)) for label in (1, 0)
    ]
    positives, negatives = (count.total() - len(count) for count in by_class)
    return Duplicates(
        both_classes=len(by_class[0].keys() & by_class[1].keys()),
        repeated_positives=positives,
        repeated_negatives=negatives,
        equal_pairs=sum(text_pairs.captions[a] == text_pairs.captions[b] for a, b in text_pairs.pairs.tolist()),
        # a subset has no `text_of`: the rows of the tables are not known there
        merged_rows=len(text_pairs.text_of) - len(text_pairs.captions) if len(text_pairs.text_of) else None,
    )


def _given_texts(text_pairs: TextPairs, logits: np.ndarray, top: int) -> tuple[list[GivenText], list[GivenText]]:
    """The positives and the negatives that the judge is most sure of, and right."""
    found = []
    for label, sign in ((1, 1), (0, -1)):
        rows = np.flatnonzero(text_pairs.labels == label)
        # a negative is given away by a low logit: the sign makes it a high one
        order = rows[_descending(sign * logits[rows])]
        chosen = _first_of_each(order.tolist(), lambda row: text_pairs.captions[row], top)
        found.append(
            [
                GivenText(
                    text_pairs.image_ids[text_pairs.images[row]],
                    text_pairs.captions[row],
                    str(text_pairs.types[row]),
                    logit,
                )
                for row, logit in ((row, float(logits[row])) for row in chosen)
            ]
        )
    return found[0], found[1]


def _given_pairs(text_pairs: TextPairs, logits: np.ndarray, top: int) -> list[GivenPair]:
    def wording(pair: int) -> tuple[str, str]:
        first, second = text_pairs.pairs[pair]
        return text_pairs.captions[first], text_pairs.captions[second]

    return [
        GivenPair(
            text_pairs.image_ids[text_pairs.pair_images[pair]],
            *wording(pair),
            str(text_pairs.types[text_pairs.pairs[pair, 1]]),
            float(logits[pair]),
        )
        for pair in _first_of_each(_descending(logits).tolist(), wording, top)
    ]


def _descending(confidence: np.ndarray) -> np.ndarray:
    """Positions by falling confidence, those that are right only; ties stay in the order of the texts."""
    # rounded: sums in another order must not let equal logits change places
    order = np.argsort(-confidence.round(9), kind="stable")
    return order[confidence[order] > TIE]


def _first_of_each(positions: Iterable[int], key: Callable[[int], Any], top: int) -> list[int]:
    # a wording that many images share would fill the list by itself
    found: dict[Any, int] = {}
    for position in positions:
        if len(found) == top:
            break
        found.setdefault(key(position), position)
    return list(found.values())
