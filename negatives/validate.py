"""Validation of written texts: what a negative or a paraphrase must be, whatever wrote it.

The form of a text is judged in `negatives.checks` and `negatives.spans`, what it says in `negatives.entailment`,
`negatives.order` and `negatives.paraphrases`. Which checks a text has to pass, `negatives.types` says.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable

from negatives.checks import equals_caption, is_meta_text, length_within
from negatives.tables.files import unknown_name
from negatives.types import NEGATIVE_TYPES, PARAPHRASE, PARAPHRASED
from negatives.word_forms import bare_words, words

_GENERAL = ("no_words", "equals_caption", "equals_other_caption", "meta_text", "length")
# several types share a check
_OF_TYPES = dict.fromkeys(reason for row in NEGATIVE_TYPES.values() for reason in row.checks)
REASONS = (*_GENERAL, *_OF_TYPES, *PARAPHRASED)
"""What `rejection` answers, in the order in which it looks."""


def rejection(text: str, caption: str, kind: str, others: Collection[str]) -> str:
    """Why a written text is to be rejected: the first of `REASONS` that holds, "" where none does.

    Args:
        text: what was written.
        caption: the caption that it was written for.
        kind: a negative type, or "paraphrase".
        others: the bare words (`bare_words`) of all captions of the image.

    Raises:
        ValueError: if `kind` is no kind of text.

    >>> rejection("A cat on a mat", "A dog on a mat", "replace_obj", {"a dog on a mat"})
    ''
    >>> rejection("A cat on a mat", "A dog on a mat", "swap_obj", {"a dog on a mat"})
    'content_words'
    """
    if kind != PARAPHRASE and kind not in NEGATIVE_TYPES:
        raise ValueError(unknown_name("kind", kind, (PARAPHRASE, *NEGATIVE_TYPES)))
    # a caption without letters or digits, such as one of emoji, has no words that a text could lack
    if words(caption) and not words(text):
        return "no_words"
    if equals_caption(text, caption):
        return "equals_caption"
    # NFC: a text may spell in two signs a letter that the caption spells in one
    if bare_words(text) in others or bare_words(unicodedata.normalize("NFC", text)) in others:
        return "equals_other_caption"
    if is_meta_text(text, caption):
        return "meta_text"
    if not length_within(text, caption):
        return "length"
    checks = PARAPHRASED if kind == PARAPHRASE else NEGATIVE_TYPES[kind].checks
    return next((reason for reason, check in checks.items() if not check(text, caption)), "")


def validation_table(rows: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Counts of rows, given as (kind, reason), by kind and reason; "valid" counts those without one.

    Reasons come in the order of `REASONS`, those of other programs behind them.

    >>> validation_table([("swap_obj", ""), ("swap_obj", "meta_text"), ("swap_obj", "")])
    {'swap_obj': {'valid': 2, 'meta_text': 1}}
    """
    counts: dict[str, Counter[str]] = {}
    for kind, reason in rows:
        counts.setdefault(kind, Counter())[reason or "valid"] += 1
    order = ("valid", *REASONS)
    return {
        kind: {name: found[name] for name in dict.fromkeys((*order, *sorted(found))) if found[name]}
        for kind, found in counts.items()
    }
