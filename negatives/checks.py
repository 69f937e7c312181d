"""The form of a text that was written for a caption: pure functions of texts.

They judge words, as `negatives.word_forms` reads them. What a text says is judged beside: `negatives.entailment`,
`negatives.order` and `negatives.paraphrases`.

The bounds were set on negatives and paraphrases that ChatGPT wrote for COCO captions: what they reject there changes
two things at once, or mends the caption's spelling on the way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from negatives.spans import mended
from negatives.word_forms import (
    TWOS,
    are_forms,
    content,
    content_words,
    is_negation,
    is_within,
    numbers,
    stem,
    words,
)

# words of other form in a swap or an addition: more is another sentence, and would make the pairing of forms quadratic
MAX_INFLECTED = 8

# 1,000 is one number, "2, 3" are two
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_META = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # an answer that speaks to who asked
        r"^\W*(?:here(?:['’]s| is| are) |sure\b|certainly\b|of course\b|okay\b|sorry\b|unfortunately\b)",
        # a model about itself, as in a refusal
        r"^\W*(?:i['’]m|i am|as an ai|i can(?:['’]t|not)?|i could)\b",
        # words of the task, which captions of photos hardly hold
        r"\b(?:captions?|paraphras\w*|rewrit\w+|rephras\w*)\b",
        # a label before the text
        r"^\W*(?:output|answer|response|note|result|negative|positive|original|[a-z]{1,20}_[a-z]{1,20})\s*:",
        r"^\s*(?:[-*•#>`]|\(?\d+[.)]\s|[{\[])",  # a list's item, markdown, JSON
        # quotes round the whole text
        r"""^\s*["“”'‘«].*["“”'’»][.!]?\s*$""",
        r"\*\*|`|<\w+>",
    )
)


def equals_caption(text: str, caption: str) -> bool:
    """Whether two texts are the same, case, punctuation and white space aside.

    >>> equals_caption("a dog, running ", "A dog running.")
    True
    """
    # a text of emoji or marks alone has no words: compared as it is, without white space
    return (words(text) or tuple(text.split())) == (words(caption) or tuple(caption.split()))


def keeps_content_words(text: str, caption: str) -> bool:
    """Whether a swap has the caption's content words in another order.

    Function words and inflection do not count: "a dog and two cats are" may become "two dogs and a cat is". Of a word
    that is there twice one may go, or trade places with one that is there once: black, white, white becomes white,
    black, black.

    >>> keeps_content_words("Two dogs chase a cat.", "A dog chases two cats.")
    True
    >>> keeps_content_words("A dog chases a bird.", "A dog chases two cats.")
    False
    """
    if content_words(text) == _mended_content(text, caption):
        return False
    ours, theirs = content(text), list(map(stem, _mended_content(text, caption)))
    # sets and not counts: of white, white, black may become white, black, black
    if len(ours) == len(theirs):
        return set(ours) == set(theirs) or _are_inflected(_difference(theirs, ours), _difference(ours, theirs))
    short, long = sorted((ours, theirs), key=len)
    return set(short) == set(long) and len(long) == len(short) + 1 and not is_within(short, long)


def keeps_caption_words(text: str, caption: str) -> bool:
    """Whether an addition has the caption's content words, and more.

    >>> keeps_caption_words("A man and a dog are on a bench", "A man is on a bench")
    True
    >>> keeps_caption_words("A dog is on a bench by a tree", "A man is on a bench")
    False
    """
    ours, theirs = content(text), list(map(stem, _mended_content(text, caption)))
    return len(ours) > len(theirs) and _are_inflected(_difference(theirs, ours), _difference(ours, theirs))


def keeps_numbers_and_negations(text: str, caption: str) -> bool:
    """Whether a paraphrase has the caption's numbers, and a negation if and only if the caption has one.

    Digits and number words are the same. One is no number, an article says as much; `TWOS` are two where that fits.

    >>> keeps_numbers_and_negations("A pair of dogs without a leash", "2 dogs with no leash")
    True
    >>> keeps_numbers_and_negations("Three dogs", "Two dogs")
    False
    """
    ours, theirs = (words(_THOUSANDS.sub("", one)) for one in (text, caption))
    return _same_numbers(ours, theirs) and _is_negated(text) == _is_negated(caption)


def length_within(text: str, caption: str) -> bool:
    """Whether a text is at least a third as long as the caption, and at most 30 characters more than three times.

    >>> length_within("A dog that sits", "A dog on a bench"), length_within("A dog " * 30, "A dog on a bench")
    (True, False)
    """
    length, base = len(text.strip()), len(caption.strip())
    # 30 characters more, so that a caption of one or two words may become a sentence
    return base / 3 <= length <= 3 * base + 30


def is_meta_text(text: str, caption: str = "") -> bool:
    """Whether a text speaks about itself or has the marks of an answer round it, as the caption does not.

    >>> is_meta_text("Here is a paraphrase: A dog."), is_meta_text("**A dog.**"), is_meta_text('"A dog"')
    (True, True, True)
    >>> is_meta_text("Here is a dog", "Here is a dog in a park")
    False
    """
    marked = any(pattern.search(text) and not pattern.search(caption) for pattern in _META)
    return marked or _lines(text) > max(1, _lines(caption))


def _lines(text: str) -> int:
    return sum(any(map(str.isalnum, line)) for line in text.splitlines())


def _mended_content(text: str, caption: str) -> list[str]:
    """The caption's content words, as the text spells them."""
    ours, theirs = content_words(text), content_words(caption)
    return mended(theirs, ours) if set(ours) != set(theirs) else theirs


def _are_inflected(lost: list[str], gained: list[str]) -> bool:
    """Whether each lost stem has a gained one of its own that looks like a form of it."""
    rest = list(gained)
    for one in lost:
        form = next((other for other in rest if are_forms(one, other)), None)
        if form is None or len(lost) > MAX_INFLECTED:
            return False
        rest.remove(form)
    return True


def _difference(one: list[str], other: list[str]) -> list[str]:
    return list((Counter(one) - Counter(other)).elements())


def _same_numbers(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    our, their = numbers(ours), numbers(theirs)
    # what may say two ("a pair of skis" may not) need not, but can stand for a two that the other text has
    more, fewer = our.pop("2", 0), their.pop("2", 0)
    fits = fewer <= more + _twos(ours) and more <= fewer + _twos(theirs)
    return our == their and fits


def _twos(found: Sequence[str]) -> int:
    return sum(word in TWOS for word in found)


def _is_negated(text: str) -> bool:
    return any(map(is_negation, words(text)))
