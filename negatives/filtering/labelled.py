"""The filter and its certificate on any table of (group, text, label): no image, no captions table, no file.

A group is what its texts are about: a photo, a premise, a prompt. Its true texts are compared with its false ones, and
no text is judged by a model that has seen another text of its group.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from negatives.filtering.certificate import Certificate, certify, not_measured
from negatives.filtering.filter import Filtered
from negatives.filtering.inside import probe_inside
from negatives.filtering.plan import CertificatePlan, FilterPlan
from negatives.filtering.rotating import Rotated, filter_and_rotate
from negatives.judging.build import build_judges
from negatives.judging.panel import Panel, seat
from negatives.judging.settings import JudgeSettings
from negatives.judging.text_pairs import TextPairs
from negatives.tables.captions import TYPE_NAME_RULE, is_type_name
from negatives.tables.files import InputError, quoted
from negatives.tables.randomness import generator_for

PAIRS_PER_GROUP = 100
ONE_KIND = "false"
"""What the false texts are called where no kinds are given."""


@dataclass(frozen=True)
class FilteredRows:
    """What a filter keeps of N rows, in their order. Rows that repeat a text have the same verdict.

    Attributes:
        keep: [N] bool.
        score: [N] chance that the text is true, by judges that saw no text of its group; in (0, 1). Where pairs were
            judged, the mean over its pairs of the chance that it is the true one; 0.5 for a text in no pair.
        pairs: [P, 2] a true and a false text of one group: the first row of each.
        pair_keep: [P] bool. For unit text, whether both texts are kept.
        pair_score: [P] chance that the first text of the pair is the true one, likewise.
        strengths: share of each kind that was dropped, where the rule has such shares.
        certificate: what training on the kept texts teaches; None where none was asked for.
    """

    keep: np.ndarray
    score: np.ndarray
    pairs: np.ndarray
    pair_keep: np.ndarray
    pair_score: np.ndarray
    strengths: dict[str, float] | None
    certificate: Certificate | None


def filter_labelled_texts(
    groups: Iterable[Any],
    texts: Iterable[Any],
    labels: Iterable[Any],
    kinds: Iterable[Any] | None = None,
    *,
    plan: FilterPlan | None = None,
    judge: JudgeSettings | None = None,
    certificate: CertificatePlan | bool = True,
    pairs_per_group: int = PAIRS_PER_GROUP,
) -> FilteredRows:
    """Keeps those of labelled texts on which text alone does not tell the label, and certifies what is left.

    Nothing depends on the order of the rows, on repeated rows or on the number of threads.

    Args:
        groups, texts, labels, kinds, pairs_per_group: see `labelled_text_pairs`.
        plan: unit, rule and seed; by default single texts are judged.
        judge: text-only judges, their folds and threads.
        certificate: whether one is made, or its learners and tolerances.

    Raises:
        InputError: see `labelled_text_pairs`; a setting is out of its range; too few groups have texts of both labels
            (a given `strength` needs fewer, and its certificate then says why it certifies nothing); or nothing would
            be kept.
    """
    plan, judge = plan or FilterPlan(), judge or JudgeSettings()
    wanted = CertificatePlan() if certificate is True else certificate
    for settings in (plan, judge, *([wanted] if wanted else [])):
        _check(settings)
    rows = labelled_text_pairs(groups, texts, labels, kinds, seed=plan.seed, pairs_per_group=pairs_per_group)
    with _said_of_groups():
        panel = seat(build_judges(judge.judges, judge), rows, folds=judge.folds, workers=judge.workers)
        # before the fits: a learner that cannot be loaded is refused at once
        learners = panel.with_judges(build_judges(wanted.probes, judge)) if wanted else None
        filtered, rotated = filter_and_rotate(panel, plan, certified=bool(wanted))
        certified = None
        if wanted and learners is not None and rotated is not None:
            certified = _certified(learners, filtered, rotated, wanted, plan.seed)
    # where the text of each row is first
    _, first_row = np.unique(rows.text_of, return_index=True)
    return FilteredRows(
        keep=filtered.keep[rows.text_of],
        score=filtered.oof_score[rows.text_of],
        pairs=first_row[rows.pairs],
        pair_keep=filtered.pair_keep,
        pair_score=filtered.pair_score,
        strengths=filtered.strengths,
        certificate=certified,
    )


def _check(settings: Any) -> None:
    """Refuses what a setting's rule does not allow; a configuration would have been checked when read."""
    for fault in settings.faults(""):
        raise InputError(fault)
    for field in fields(settings):
        value, rule = getattr(settings, field.name), field.metadata
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        tests = {"min": (operator.ge, "at least"), "above": (operator.gt, "above"), "max": (operator.le, "at most")}
        for name, (holds, said) in tests.items():
            if name in rule and not holds(value, rule[name]):
                raise InputError(f"`{field.name}` must be {said} {rule[name]}, got {value}.")


def _certified(
    learners: Panel, filtered: Filtered, rotated: Rotated | str, plan: CertificatePlan, seed: int
) -> Certificate:
    inside = probe_inside(learners, filtered, plan, seed=seed) if plan.inside else None
    if isinstance(rotated, str):
        found = not_measured(learners.text_pairs, filtered, f"Nothing is certified. {rotated}", inside)
    else:
        found = certify(learners, filtered, rotated, plan, seed=seed, inside=inside)
    # without lessons, the one miss is an error's text
    return found if found.lessons else replace(found, misses=[_of_groups(why) for why in found.misses])


def labelled_text_pairs(
    groups: Iterable[Any],
    texts: Iterable[Any],
    labels: Iterable[Any],
    kinds: Iterable[Any] | None = None,
    *,
    seed: int = 0,
    pairs_per_group: int = PAIRS_PER_GROUP,
) -> TextPairs:
    """Labelled texts as the judges see them: each text of a group, label and kind once, with the pairs of each group.

    A pair is a true and a false text of one group that differ. A group with more than `pairs_per_group` of them has as
    many drawn, or more where each text takes it to be in one: a group of 1,000 true and 1,000 false texts has 1,000.

    Args:
        groups: [N] strings or whole numbers: the photo, premise or prompt that the text belongs to. Lists, and columns
            of NumPy, pandas and pyarrow, do.
        texts: [N] strings.
        labels: [N] 1 or True where the text is true of its group, 0 or False where it is not.
        kinds: [N] names of kinds of false texts, which are balanced and certified apart; those of true texts are not
            read. One kind where not given.
        seed: of the pairs that are drawn.
        pairs_per_group: at least 1.

    Raises:
        InputError: columns of different lengths, a value that cannot be read, or texts of one label only.
    """
    if pairs_per_group < 1:
        raise InputError(f"`pairs_per_group` must be at least 1, got {pairs_per_group}.")
    keys = _keys(groups, texts, labels, kinds)
    unique = sorted(set(keys))
    _check_texts(unique)
    place = {key: position for position, key in enumerate(unique)}
    names = sorted({group for group, *_ in unique})
    number = {name: position for position, name in enumerate(names)}
    images = np.array([number[group] for group, *_ in unique], dtype=np.int64)
    is_true = np.array([label for _, label, *_ in unique], dtype=np.int64)
    ends = np.searchsorted(images, np.arange(len(names) + 1))
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for name, start, end in zip(names, ends[:-1], ends[1:], strict=True):
        own = is_true[start:end]
        true, false = (start + np.flatnonzero(own == label) for label in (1, 0))
        pairs.append(_pairs(true, false, pairs_per_group, f"{seed} {name}"))
    pairs_of_all = np.unique(np.concatenate(pairs), axis=0)
    captions = np.array([text for *_, text in unique], dtype=object)
    # a text beside itself asks nothing, and a table of such pairs would be certified as balanced
    differ = captions[pairs_of_all[:, 0]] != captions[pairs_of_all[:, 1]]
    return TextPairs(
        captions=captions.tolist(),
        labels=is_true,
        types=np.array([kind for *_, kind, _ in unique], dtype=object),
        images=images,
        image_ids=names,
        pairs=pairs_of_all[differ],
        text_of=np.array([place[key] for key in keys], dtype=np.int64),
        pair_of=np.empty(0, dtype=np.int64),  # the pairs are of no table
    )


def _pairs(true: np.ndarray, false: np.ndarray, most: int, seed: str) -> np.ndarray:
    """[n, 2] all pairs of a group, or so many of them that each text is in one."""
    count = max(most, len(true), len(false)) if len(true) and len(false) else 0
    if len(true) * len(false) <= count:
        return np.stack([np.repeat(true, len(false)), np.tile(false, len(true))], axis=1)
    # down the diagonals of the table of all pairs: no pair comes twice, and each text as often as the others, give or
    # take one
    generator = generator_for("pairs of a group", seed)
    true, false = generator.permutation(true), generator.permutation(false)
    step = np.arange(count)
    turn = step // np.lcm(len(true), len(false))
    return np.stack([true[step % len(true)], false[(step + turn) % len(false)]], axis=1)


Key = tuple[str, int, str, str]
"""Group, label, kind ("" for true texts) and text: what one text is."""


def _keys(groups: Iterable[Any], texts: Iterable[Any], labels: Iterable[Any], kinds: Iterable[Any] | None) -> list[Key]:
    """The key of each row."""
    columns = {
        "groups": _column("groups", groups),
        "texts": _column("texts", texts),
        "labels": _column("labels", labels),
    }
    if kinds is not None:
        columns["kinds"] = _column("kinds", kinds)
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise InputError(f"Columns must have one value for each row, got {said}. Give columns of one table.")
    names = _read("groups", columns["groups"], "a whole number, or a string that is not blank", _group)
    captions = _read("texts", columns["texts"], "a string that is not blank", _text)
    is_true = _read("labels", columns["labels"], "1 (true) or 0 (false)", _label)
    if kinds is None:
        kind_of = [ONE_KIND * (not label) for label in is_true]
    else:
        # a table may have no kind for its true texts, or NaN
        given = [ONE_KIND if label else kind for label, kind in zip(is_true, columns["kinds"], strict=True)]
        read = _read("kinds", given, f"{TYPE_NAME_RULE}, where the label is 0", _kind)
        kind_of = ["" if label else kind for label, kind in zip(is_true, read, strict=True)]
    return list(zip(names, is_true, kind_of, captions, strict=True))


def _column(name: str, values: Any) -> list[Any]:
    """A column of whatever library as a list of Python's own values."""
    given = values
    for method in ("to_pylist", "tolist"):  # pyarrow's; NumPy's and pandas'
        if hasattr(values, method):
            values = getattr(values, method)()
            break
    # a data frame is iterable too, and gives the names of its columns
    one = getattr(given, "ndim", 1) == 1 and isinstance(values, Iterable)
    if not one or isinstance(values, str | bytes | Mapping | set | frozenset):
        raise InputError(f"`{name}` must be a list or a column, got {type(given).__name__}.")
    return list(values)


def _read(name: str, column: list[Any], rule: str, read: Callable[[Any], Any]) -> list[Any]:
    """The column's values, read one by one; the first that `read` has None for is refused."""
    found = [read(value) for value in column]
    wrong = next((row for row, value in enumerate(found) if value is None), None)
    if wrong is not None:
        raise InputError(f"`{name}[{wrong}]` must be {rule}, got {quoted(column[wrong])}. Mend or leave out the row.")
    return found


def _text(value: Any) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return None
    # half a surrogate pair cannot be encoded, and is no text
    return None if any("\ud800" <= letter <= "\udfff" for letter in value) else str(value)


def _group(value: Any) -> str | None:
    # True is an Integral too
    return str(int(value)) if isinstance(value, Integral) and not isinstance(value, bool) else _text(value)


def _label(value: Any) -> int | None:
    # not `in (0, 1)` alone: pandas' NA equals nothing, not even in a condition
    return int(value == 1) if isinstance(value, Real | np.bool_) and value in (0, 1) else None


def _kind(value: Any) -> str | None:
    return value if _text(value) and is_type_name(value) else None


def _check_texts(unique: list[Key]) -> None:
    """Refuses what no judge could learn from."""
    counts = [sum(label == own for _, own, *_ in unique) for label in (1, 0)]
    if not all(counts):
        raise InputError(
            f"Texts of both labels are needed, got {counts[0]} true and {counts[1]} false ones. Add the others."
        )
    if len({text for *_, text in unique}) == 1:
        raise InputError(f"Texts must differ, and all of these are {quoted(unique[0][-1])}. Check the column.")


@contextmanager
def _said_of_groups() -> Iterator[None]:
    """Errors of the procedure speak of photos and images; here these are groups."""
    try:
        yield
    except InputError as error:
        raise InputError(_of_groups(str(error))) from None


def _of_groups(message: str) -> str:
    """The message, of groups.

    >>> _of_groups("Photos are split: an image is 1 of 30 photos.")
    'Groups are split: a group is 1 of 30 groups.'
    """
    for said, meant in (("an image", "a group"), ("image|photo", "group"), ("Image|Photo", "Group")):
        message = re.sub(rf"\b(?:{said})(s?)\b", rf"{meant}\1", message)
    return message
