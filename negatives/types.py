"""The negative types, one row each: validation, mixing, prompts and reports all read this table.

A new type is a row here, a writer that writes it (`negatives.writers`), and, where a chat model is to be asked for it,
a prompt text `negatives/gpt/prompts/<version>/<name>.txt`. Tables that someone else wrote may name other types: they
are audited, filtered, mixed and evaluated like these, and only what is to be validated has to have a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from negatives.checks import keeps_caption_words, keeps_content_words, keeps_numbers_and_negations
from negatives.entailment import (
    adds_what_is_new,
    contradicts_by_what_it_adds,
    is_not_implied,
    keeps_numbers_up,
    says_more_than_it_deletes,
)
from negatives.order import (
    moves_beyond_lists,
    moves_no_attribute,
    moves_what_differs,
    reverses_no_relation,
    swaps_places,
)
from negatives.paraphrases import is_no_small_edit, shares_content
from negatives.spans import is_one_span
from negatives.tables.captions import TYPE_NAME_RULE, is_type_name
from negatives.tables.files import InputError, quoted, unknown_name

REPLACE, SWAP, ADD, OTHER = "replace", "swap", "add", "other"
FAMILIES = (REPLACE, SWAP, ADD)
"""SugarCrepe's (Hsieh et al., NeurIPS 2023): a word becomes another, two change places, or one is added.
`OTHER` is the family of a type without a row whose name starts with none of these."""
PARAPHRASE = "paraphrase"
"""What a text is called that is no negative: true, in other words than the caption's (a hard positive)."""

Check = Callable[[str, str], bool]
"""(text, caption) -> whether the text is what it was written as."""


@dataclass(frozen=True)
class NegativeType:
    """A kind of false caption.

    Attributes:
        name: as tables and metric keys have it, such as "swap_obj".
        family: one of `FAMILIES`; mixing draws swaps apart from the others.
        check: (text, caption) -> whether the text is a negative of this type.
        reason: the rejection of a text that fails the check.
        also: what else is asked of a text that passes the check: by the rejection of one that fails, in this order.
        asked: whether a chat model is asked for it unless `gpt.types` says otherwise; it then needs a prompt text.

    Raises:
        ValueError: if the name is no name, or the family is unknown.
    """

    name: str
    family: str
    check: Check
    reason: str
    asked: bool = False
    also: Mapping[str, Check] = field(default_factory=dict)

    @property
    def checks(self) -> dict[str, Check]:
        """All checks, by the rejection of a text that fails, in order."""
        return {self.reason: self.check, **self.also}

    def __post_init__(self) -> None:
        # ValueError, not InputError: a row is code, and a mistake in it is no bad input
        if not is_type_name(self.name):
            raise ValueError(f"The name of a negative type must be {TYPE_NAME_RULE}, got {quoted(self.name)}.")
        if self.family not in FAMILIES:
            raise ValueError(unknown_name(f"The family of {self.name}", self.family, FAMILIES))


REPLACED: dict[str, Check] = {
    "fewer": keeps_numbers_up,
    "only_deletes": says_more_than_it_deletes,
    "only_adds": contradicts_by_what_it_adds,
    "implied": is_not_implied,
}
ADDED: dict[str, Check] = {"implied": adds_what_is_new}
SWAPPED: dict[str, Check] = {
    "list_order": moves_beyond_lists,
    "equal_things": moves_what_differs,
    "reordered": swaps_places,
}
PARAPHRASED: dict[str, Check] = {
    "numbers_or_negations": keeps_numbers_and_negations,
    "little_shared": shares_content,
    "small_edit": is_no_small_edit,
    "reversed_relation": reverses_no_relation,
    "moved_attribute": moves_no_attribute,
}
"""The checks of a paraphrase, by the rejection of a text that fails, in order."""

MEANINGS = {
    "no_words": "It has no words.",
    "equals_caption": "It is the caption, case and punctuation aside.",
    "equals_other_caption": "It is another caption of the image, or says what a valid paraphrase says.",
    "meta_text": 'It speaks about itself ("Here is a caption"), or has the marks of an answer round it.',
    "length": "It is much shorter or longer than the caption.",
    "not_one_span": "More than one span of words changes; spelling may be mended beside it.",
    "fewer": 'A number is lowered: of four people, two people is true. "Only", "exactly" and "single" make it false.',
    "only_deletes": "Words only go, so that it is still true. A negation, or a word like fake, may go.",
    "only_adds": "Words only come, which may be true. A negation, or a word like empty, fake or single, may come.",
    "implied": "It follows from the caption: what is new is a synonym, more general, or a part of what was there.",
    "content_words": "Content words come or go, where a swap only moves them.",
    "list_order": 'A list is in another order: "a cat and a dog", "a dog and a cat". "With" makes no list.',
    "equal_things": "What changes places is the same: a bike and a bicycle.",
    "reordered": "The same is told in another order.",
    "words_lost": "The caption's words are not kept, or none is added.",
    "numbers_or_negations": "Its numbers or negations are not the caption's.",
    "little_shared": "Too few of its content words are the caption's, or related to them.",
    "small_edit": "One thing is replaced or added that does not follow from the caption.",
    "reversed_relation": "Who does what, or what is where, is reversed.",
    "moved_attribute": "An attribute has gone to another thing.",
    "other_edit": "It is not the caption with the edit that the model named.",
}
"""What each rejection says of a text, in a sentence, for the page of `itm generate` and docs/negatives.md.

A reason without a sentence is shown by its name alone. Those of the judges of truth stand in their settings."""

# The order is the order of questions in a request to a chat model, and so part of every request's key in a cache, and
# of rows in a report: a new row goes to the end.
_ROWS = (
    NegativeType("replace_obj", REPLACE, is_one_span, "not_one_span", asked=True, also=REPLACED),
    NegativeType("replace_att", REPLACE, is_one_span, "not_one_span", asked=True, also=REPLACED),
    NegativeType("replace_rel", REPLACE, is_one_span, "not_one_span", asked=True, also=REPLACED),
    NegativeType("swap_obj", SWAP, keeps_content_words, "content_words", asked=True, also=SWAPPED),
    NegativeType("swap_att", SWAP, keeps_content_words, "content_words", asked=True, also=SWAPPED),
    NegativeType("add_obj", ADD, keeps_caption_words, "words_lost", also=ADDED),
    NegativeType("add_att", ADD, keeps_caption_words, "words_lost", also=ADDED),
)
NEGATIVE_TYPES: dict[str, NegativeType] = {row.name: row for row in _ROWS}


def family_of(negative_type: str) -> str:
    """The family of a type; of one without a row, the family that its name starts with, `OTHER` where it has none.

    >>> family_of("swap_att"), family_of("swap_verbs"), family_of("counting-hard")
    ('swap', 'swap', 'other')
    """
    if negative_type in NEGATIVE_TYPES:
        return NEGATIVE_TYPES[negative_type].family
    # with the underscore: "swapped" is no swap, and "addition" none of add
    return next((family for family in FAMILIES if negative_type.startswith(f"{family}_")), OTHER)


def check_is_registered(negative_type: str, place: str) -> None:
    """Refuses a type that has no row: what is written or joined here is validated, and only a row says how.

    Args:
        negative_type: as a writer or a file of pairs calls it.
        place: where, for the error.

    Raises:
        InputError: with the nearest type and all of them.
    """
    if negative_type not in NEGATIVE_TYPES:
        raise InputError(
            f"{unknown_name('negative_type', negative_type, NEGATIVE_TYPES, place)} Rename it, or give it a row in "
            "NEGATIVE_TYPES (negatives/types.py)."
        )
