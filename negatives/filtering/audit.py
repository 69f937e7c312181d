"""The audit: how much of the label the text alone gives away, and what in the texts does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from negatives.filtering.giveaways import Cue, LeakingNgram, leaking_ngrams, style_cues
from negatives.judging.bias_metrics import (
    ALL,
    ESTIMANDS,
    STACKED,
    TIE,
    Estimate,
    encode,
    enough_pairs,
    estimates,
    probe,
)
from negatives.judging.crossfit import fold_of_texts
from negatives.judging.linear import Judge
from negatives.judging.text_pairs import Corpus
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
    """What the texts give away to judges that never saw an image; counts are of different texts, see `Corpus`.

    Attributes:
        positives, negatives, images, pairs: how many there are.
        judges: names of the judges.
        judge: the one behind `given_*` and the headline: "stacked", or the only judge.
        estimates: both estimands of each judge over all negatives and for each type.
        ngrams: "positive" and "negative": the n-grams used more in that class, largest z first.
        cues: habits of style.
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
    cues: list[Cue]
    duplicates: Duplicates
    given_positives: list[GivenText]
    given_negatives: list[GivenText]
    given_pairs: list[GivenPair]

    def find(self, estimand: str, negative_type: str = ALL, judge: str | None = None) -> Estimate | None:
        """One estimate, the headline judge's where none is named; None where it was not measured."""
        wanted = (estimand, judge or self.judge, negative_type)
        return next((e for e in self.estimates if (e.estimand, e.judge, e.negative_type) == wanted), None)

    @property
    def types(self) -> list[str]:
        """The negative types, "all" first, as estimates list them."""
        return list(dict.fromkeys(estimate.negative_type for estimate in self.estimates))

    def to_json(self) -> dict[str, Any]:
        """The audit as plain dicts, lists, strings and finite numbers, named as the attributes; NaN is None."""
        plain: dict[str, Any] = finite(asdict(self))
        return plain


def audit_corpus(
    corpus: Corpus,
    judges: Sequence[Judge],
    encoded: Mapping[str, Any] | None = None,
    *,
    folds: int = 5,
    ngrams: int = 2,
    top: int = 20,
    bootstrap: int = 200,
    seed: int = 0,
    workers: int = 1,
    advance: Callable[[], None] | None = None,
) -> Audit:
    """Fits fresh judges, cross-fitted by image, and says what they reach and what they go by.

    Args:
        corpus: texts and pairs; too few pairs to fit on are told nothing about.
        judges: to fit; several are also combined as "stacked".
        encoded: judge -> its features of the corpus; made here where not given.
        folds: of the judges, by image; at least 3.
        ngrams: longest leaking word n-gram.
        top: n-grams, texts and pairs listed, of each kind.
        bootstrap: resamples of images behind each interval.
        seed: of folds and bootstrap.
        workers: threads that fit.
        advance: called after each fit.

    Raises:
        InputError: if the texts cannot be judged (see `crossfit.fold_of_texts`).
    """
    names = [judge.name for judge in judges]
    own_seed = f"audit {seed}"  # not the filter's folds at the same seed: the judges are fresh to what the filter kept
    probed = probe(
        corpus,
        judges,
        encode(judges, corpus) if encoded is None else encoded,
        folds=folds,
        seed=own_seed,
        stacked=names,
        workers=workers,
        advance=advance,
    )
    headline = STACKED if STACKED in probed.texts else names[0]
    positives, negatives = _given_texts(corpus, probed.texts[headline], top)
    return Audit(
        positives=int((corpus.labels == 1).sum()),
        negatives=int((corpus.labels == 0).sum()),
        images=len(corpus.image_ids),
        pairs=len(corpus.pairs),
        judges=names,
        judge=headline,
        estimates=estimates(corpus, probed, bootstrap=bootstrap, seed=own_seed),
        ngrams=leaking_ngrams(corpus.captions, corpus.labels, ngrams=ngrams, top=top),
        cues=style_cues(corpus.captions, corpus.labels),
        duplicates=count_duplicates(corpus),
        given_positives=positives,
        given_negatives=negatives,
        given_pairs=_given_pairs(corpus, probed.pairs[headline], top) if headline in probed.pairs else [],
    )


def measurable(corpus: Corpus, folds: int, seed: int) -> tuple[str, ...]:
    """The estimands that `audit_corpus` can measure: no paired accuracy where two folds may hold all pairs but one.

    Raises:
        InputError: if the texts cannot be judged (see `crossfit.fold_of_texts`).
    """
    fold = fold_of_texts(corpus, folds, f"audit {seed}")
    return ESTIMANDS if enough_pairs(corpus, fold) else ESTIMANDS[:1]


def keep_of(
    corpus: Corpus, keep: Sequence[bool] | np.ndarray, keep_pairs: Sequence[bool] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts on rows of the tables as verdicts on texts and pairs: kept where one of their rows is.

    Args:
        corpus: of the tables.
        keep: [N] of the rows of the text table.
        keep_pairs: [R] of the rows of the pair table; all where not given.

    Returns:
        [U] and [P], bool; a pair also needs its texts, which `Corpus.subset` sees to.
    """
    texts = np.zeros(len(corpus.captions), dtype=bool)
    texts[corpus.text_of[np.asarray(keep, dtype=bool)]] = True
    pairs = np.full(len(corpus.pairs), keep_pairs is None)
    if keep_pairs is not None:
        pairs[corpus.pair_of[np.asarray(keep_pairs, dtype=bool)]] = True
    return texts, pairs


def count_duplicates(corpus: Corpus) -> Duplicates:
    """How often texts repeat, letter for letter."""
    by_class = [Counter(corpus.captions[row] for row in np.flatnonzero(corpus.labels == label)) for label in (1, 0)]
    positives, negatives = (count.total() - len(count) for count in by_class)
    return Duplicates(
        both_classes=len(by_class[0].keys() & by_class[1].keys()),
        repeated_positives=positives,
        repeated_negatives=negatives,
        equal_pairs=sum(corpus.captions[a] == corpus.captions[b] for a, b in corpus.pairs.tolist()),
        merged_rows=len(corpus.text_of) - len(corpus.captions) if len(corpus.text_of) else None,
    )


def _given_texts(corpus: Corpus, logits: np.ndarray, top: int) -> tuple[list[GivenText], list[GivenText]]:
    """The positives and the negatives that the judge is most sure of, and right."""
    found = []
    for label, sign in ((1, 1), (0, -1)):
        rows = np.flatnonzero(corpus.labels == label)
        order = rows[_descending(sign * logits[rows])]
        chosen = _first_of_each(order.tolist(), lambda row: corpus.captions[row], top)
        found.append(
            [
                GivenText(corpus.image_ids[corpus.images[row]], corpus.captions[row], str(corpus.types[row]), logit)
                for row, logit in ((row, float(logits[row])) for row in chosen)
            ]
        )
    return found[0], found[1]


def _given_pairs(corpus: Corpus, logits: np.ndarray, top: int) -> list[GivenPair]:
    def wording(pair: int) -> tuple[str, str]:
        first, second = corpus.pairs[pair]
        return corpus.captions[first], corpus.captions[second]

    return [
        GivenPair(
            corpus.image_ids[corpus.pair_images[pair]],
            *wording(pair),
            str(corpus.types[corpus.pairs[pair, 1]]),
            float(logits[pair]),
        )
        for pair in _first_of_each(_descending(logits).tolist(), wording, top)
    ]


def _descending(confidence: np.ndarray) -> np.ndarray:
    """Positions by falling confidence, those that are right only; ties stay in the order of the corpus."""
    order = np.argsort(-confidence.round(9), kind="stable")
    return order[confidence[order] > TIE]


def _first_of_each(positions: Iterable[int], key: Callable[[int], Any], top: int) -> list[int]:
    found: dict[Any, int] = {}
    for position in positions:
        if len(found) == top:
            break
        found.setdefault(key(position), position)
    return list(found.values())
