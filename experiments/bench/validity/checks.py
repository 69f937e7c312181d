"""Each check of validation by itself: how much it refuses of what it is there to refuse, and of what it should pass.

The positive class is the text that is to be refused. *Sensitivity* is the share of it that the check refuses by itself,
whatever stands before or behind it in validation; *specificity* is the share of the texts to be accepted that pass it.
A negative caption that is really false is thus to be accepted as a negative, and to be refused as a paraphrase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from experiments.bench.validity.rates import Rate, cell, rate_of
from experiments.bench.validity.texts import ADDITIONS, CHATGPT, Text
from negatives import NEGATIVE_TYPES, PARAPHRASE, PARAPHRASED, family_of

SENSITIVITY, SPECIFICITY = "sensitivity", "specificity"
SAME_WORDS = "true paraphrase in the caption's words"
"""Those that a swap's first check passes: only they can be taken for a swap."""
_CHANGED = ("generalisations", "synonyms", "verbs", "adjectives")
_REPLACED = tuple(f"true {name}" for name in NEGATIVE_TYPES if name.startswith("replace"))
TO_REFUSE: dict[tuple[str, str], tuple[str, ...]] = {
    ("replace", "not_one_span"): ("true paraphrase", "list swaps"),
    ("replace", "fewer"): ("lowered numbers",),
    ("replace", "only_deletes"): ("deletions",),
    ("replace", "only_adds"): (ADDITIONS, "empty additions"),
    ("replace", "implied"): (*_CHANGED, "parts", CHATGPT),
    ("swap", "content_words"): ("true paraphrase", "deletions", *_CHANGED),
    ("swap", "list_order"): ("list swaps",),
    ("swap", "equal_things"): ("synonyms",),
    ("swap", "reordered"): ("true paraphrase", SAME_WORDS),
    ("add", "words_lost"): ("true paraphrase", "deletions", *_CHANGED),
    ("add", "implied"): ("true paraphrase", "empty additions"),
    (PARAPHRASE, "numbers_or_negations"): ("lowered numbers",),
    (PARAPHRASE, "little_shared"): ("random caption",),
    (PARAPHRASE, "small_edit"): (*_REPLACED, "true add_obj", "true add_att"),
    (PARAPHRASE, "reversed_relation"): ("true swap_obj",),
    (PARAPHRASE, "moved_attribute"): ("true swap_att",),
}
"""(Family or "paraphrase", rejection) -> the sources that the check exists to refuse. One that is not here has no
sensitivity."""


EXPLAINED = """\
--checks: the positive class is the text that is to be refused. Sensitivity is the share of such texts that a check
refuses by itself. Specificity is the share of the texts to be accepted that pass it: true negatives of its types, or,
for a check of paraphrases, true paraphrases. What a check is there to refuse:
"""


@dataclass(frozen=True)
class CheckRow(Rate):
    """The sensitivity or the specificity of a check.

    Attributes:
        check: the function.
        kind: what the texts are given as: a family of negative types, or "paraphrase".
        measure: "sensitivity", of a source to be refused, or "specificity", of a source to be accepted.
    """

    check: str
    reason: str
    kind: str
    measure: str
    source: str


def measure(texts: Iterable[Text]) -> list[CheckRow]:
    """The specificity of each check, and behind it its sensitivity for each source; what has no text has no row."""
    by_source: dict[str, list[Text]] = {}
    for text in texts:
        by_source.setdefault(text.source, []).append(text)
    keeps_words = NEGATIVE_TYPES["swap_obj"].check
    by_source[SAME_WORDS] = [
        text for text in by_source.get("true paraphrase", ()) if keeps_words(text.text, text.caption)
    ]
    return [
        CheckRow(**asdict(rate), check=check.__name__, reason=reason, kind=kind, measure=what, source=name)
        for (kind, reason), check in all_checks().items()
        for what, name, sources in _asked(kind, reason)
        for rate in _rates(check, what, [text for source in sources for text in by_source.get(source, ())])
    ]


def all_checks() -> dict[tuple[str, str], Callable[[str, str], bool]]:
    """All checks of `NEGATIVE_TYPES` and of paraphrases, by (family or "paraphrase", rejection), in their order."""
    found = {(row.family, reason): check for row in NEGATIVE_TYPES.values() for reason, check in row.checks.items()}
    return found | {(PARAPHRASE, reason): check for reason, check in PARAPHRASED.items()}


def table(rows: Sequence[CheckRow]) -> Iterator[str]:
    """The lines of the table, in Markdown."""
    yield "| check | rejected as | given as | measure | of | texts | images | rate |"
    yield "| --- | --- | --- | --- | --- | ---: | ---: | --- |"
    for row in rows:
        about = f"| {row.check} | {row.reason} | {row.kind} | {row.measure} | {row.source} "
        yield f"{about}| {row.texts} | {row.images} | {cell(row.rate, row.low, row.high)} |"


def explained() -> str:
    """What counts for what, as the command's help says it."""
    lines = [f"  {kind:<10}  {reason:<20}  {', '.join(sources)}" for (kind, reason), sources in TO_REFUSE.items()]
    return "\n".join([EXPLAINED, *lines])


def _asked(kind: str, reason: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(measure, what its source is called, sources) of a check."""
    own = tuple(f"true {name}" for name in NEGATIVE_TYPES if family_of(name) == kind)
    if kind == PARAPHRASE:
        yield SPECIFICITY, "true paraphrase", ("true paraphrase",)
    else:
        yield SPECIFICITY, f"true {kind}", own
    for source in TO_REFUSE.get((kind, reason), ()):
        yield SENSITIVITY, source, (source,)


def _rates(check: Callable[[str, str], bool], what: str, texts: Sequence[Text]) -> Iterator[Rate]:
    """The rate, if there is a text."""
    if texts:
        passed = [check(text.text, text.caption) for text in texts]
        yield rate_of([one == (what == SPECIFICITY) for one in passed], [text.image for text in texts])
