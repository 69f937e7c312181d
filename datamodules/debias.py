"""Bias-offset training (`data.debias: offset`): what the text alone says joins the match logit inside the loss.

A product of experts (Clark et al., "Don't Take the Easy Way Out", EMNLP 2019, "bias product"; He et al., "Unlearn
Dataset Bias in Natural Language Inference by Fitting the Residual", 2019): the scorer is trained beside a text-only
judge whose answer is fixed, and so has no reason to learn it. The judge is that of `itm filter`; out of fold, it has
seen no text of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from datamodules.mixing import positions
from negatives.tables import InputError, StrPath, nearest_name, pair_verdicts_beside, read_pair_verdicts, read_verdicts

DEFAULT = "default"
"""Key of a mapping of strengths: the types that it does not name, and positives."""
LARGEST_BLIND_LOGIT = 5.0
"""Logits of the judge are clipped to this on both sides: odds of 148 to 1 are more than a few thousand texts show."""


@dataclass(frozen=True)
class Debias:
    """How the judge's logits join those of the scorer.

    Attributes:
        unit: "text" for losses that judge each text by itself. "pair" for losses that compare: a text has its logit
            against the first text of its row.
        strength: what logits are multiplied by, >= 0; or one for each negative type, where `DEFAULT` (1 where not
            given) stands for other types and for positives.
    """

    unit: str = "text"
    strength: float | Mapping[str, float] = 1.0

    def strength_of(self, negative_type: str) -> float:
        """The strength for texts of a type; "" is that of positives.

        >>> Debias(strength={"default": 0.5, "swap_obj": 2.0}).strength_of("swap_obj")
        2.0
        """
        if not isinstance(self.strength, Mapping):
            return self.strength
        return self.strength.get(negative_type, self.strength.get(DEFAULT, 1.0))


@dataclass(frozen=True)
class BlindLogits:
    """The judge's logits for the N texts of a text table.

    Attributes:
        strengths: [N].
        texts: [N] logit of each text; None where pairs were judged.
        pairs: positions of a positive and of its negative -> logit that the first is the positive; None where texts
            were judged.
        relative: a row's logits are against its first text, as those of pairs are.
    """

    strengths: np.ndarray
    texts: np.ndarray | None = None
    pairs: Mapping[tuple[int, int], float] | None = None
    relative: bool = False

    def of_row(self, places: Sequence[int]) -> list[float]:
        """The `blind_logit` of a row of texts, given by their positions; the first one is a positive."""
        first = places[0]
        if self.texts is not None:
            logits = self.texts[list(places)] - (self.texts[first] if self.relative else 0.0)
        else:
            assert self.pairs is not None
            logits = np.array([0.0, *(-self.pairs[first, negative] for negative in places[1:])])
        scaled: list[float] = (self.strengths[list(places)] * logits).tolist()
        return scaled


def read_blind_logits(
    verdicts: StrPath, texts: pa.Table, pairs: pa.Table, debias: Debias, *, drawn: str
) -> BlindLogits:
    """The logits of a filter's judges, from its verdicts.

    Args:
        verdicts: path; where pairs were judged, theirs lie beside it.
        texts, pairs: text table and pair table.
        debias: which logits, and how strongly they count.
        drawn: the mixing's unit.

    Raises:
        InputError: the verdicts are not those of these texts, hold no such logits, or a strength is for a type that no
            text has.
    """
    types = texts["negative_type"].to_pylist()
    _check_types(debias, set(types) - {""})
    strengths = np.array([debias.strength_of(name) for name in types])
    beside = pair_verdicts_beside(verdicts)
    if beside is None:
        scores = read_verdicts(verdicts, texts)["oof_score"].to_numpy()
        return BlindLogits(strengths, texts=logits_of(scores, verdicts), relative=debias.unit == "pair")
    # where pairs were judged, a text's score is a mean over its pairs, and no chance that it is true
    if debias.unit == "text":
        raise InputError(
            f"data.debias=offset needs verdicts on single texts for this loss, and pairs were judged ({verdicts}); run "
            "`itm filter` with unit=text."
        )
    if drawn != "pair":
        raise InputError(
            f"data.debias=offset needs data.mixing.unit=pair where pairs were judged ({verdicts}), got {drawn}; or run "
            "`itm filter` with unit=text."
        )
    judged = logits_of(read_pair_verdicts(beside, pairs)["oof_score"].to_numpy(), beside)
    places = zip(*(ends.tolist() for ends in positions(texts, pairs)), strict=True)
    return BlindLogits(strengths, pairs=dict(zip(places, judged.tolist(), strict=True)))


def logits_of(scores: np.ndarray, path: StrPath) -> np.ndarray:
    """[N] logits of chances [N], clipped to `LARGEST_BLIND_LOGIT`.

    Raises:
        InputError: a score of the file `path` is no chance.

    >>> logits_of(np.array([0.0, 0.5, 0.75]), "verdicts.parquet").round(2).tolist()
    [-5.0, 0.0, 1.1]
    """
    # what must hold, and not what must not: nan is on no side of a bound
    wrong = ~((scores >= 0) & (scores <= 1))
    if wrong.any():
        raise InputError(f"`oof_score` must be in [0, 1], got {scores[wrong][0]:g} ({path}). Run `itm filter` again.")
    with np.errstate(divide="ignore"):
        logits: np.ndarray = np.log(scores) - np.log1p(-scores)
    return logits.clip(-LARGEST_BLIND_LOGIT, LARGEST_BLIND_LOGIT)


def _check_types(debias: Debias, types: set[str]) -> None:
    named = debias.strength if isinstance(debias.strength, Mapping) else {}
    for name in named:
        if name not in types and name != DEFAULT:
            known = ", ".join([*sorted(types), DEFAULT])
            raise InputError(
                f"data.debias_strength must name negative types of data.negatives ({known}), got {name!r}."
                f"{nearest_name(name, types)}"
            )
