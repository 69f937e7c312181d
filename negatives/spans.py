"""Where a text departs from its caption: the one span of words that a replace changes."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from negatives.word_forms import (
    FUNCTION_WORDS,
    are_forms,
    common_start,
    contradicts,
    plain_words,
    span_word,
    stem,
)
from negatives.wordnet import is_known

MIN_SPAN, MAX_SPAN_SHARE = 5, 0.5  # in short captions "sitting on top of" is more than half of the words
MAX_ALIGNED = 100  # words of a caption: aligning two longer texts takes quadratic time
Change = tuple[list[str], list[str]]
"""Words of a caption, and those that a text has in their place."""


def changed_span(text: str, caption: str) -> Change:
    """The smallest span of words that turns `caption` into `text`: as it was, and as it is.

    Articles and forms of to be are left out; plurals are as their singulars, and pronouns as each other.

    >>> changed_span("An old horse on the beach", "A dog is on a beach")
    (['dog'], ['old', 'hors'])
    """
    before, after = _span(_plain(text), _plain(caption))
    return list(map(span_word, before)), list(map(span_word, after))


def is_one_span(text: str, caption: str) -> bool:
    """Whether a replace changes one span of words and keeps the rest.

    The span has at most half of the words, or five, and no word inside it stays: there it would part two changes. But
    `of` may: "a herd of cows" is one thing, and so is "a pack of wolves". Beside the span a text may mend the spelling
    and change function words and inflection, as "holds a cup and looks" does in "drops a cup while looking".

    >>> is_one_span("A horse on a sandy beach", "A dog on a sandy beach")
    True
    >>> is_one_span("A horse on a rocky beach", "A dog on a sandy beach")
    False
    """
    before, after = changed_words(text, caption)
    if not before and not after:
        # stems and pronouns are alike in spans, but he for she and dogs for dog are changes
        return _plain(text) != _plain(caption)
    limit = max(MIN_SPAN, MAX_SPAN_SHARE * len(_plain(caption)))
    return max(len(before), len(after)) <= limit and not _keeps_words_inside(before, after)


def changed_words(text: str, caption: str) -> Change:
    """The words that a replace changes, as they stand: those of the caption, and those in their place.

    The smallest span, without articles and forms of to be. Where words inside it stay, the one change of `changes`, if
    there is just one.

    >>> changed_words("Old horses on the beach", "A dog is on a beach")
    (['dog'], ['old', 'horses'])
    >>> changed_words("A man drops a cup while looking", "A man holds a cup and looks")
    (['holds'], ['drops'])
    """
    before, after = _span(_plain(text), _plain(caption))
    if _keeps_words_inside(before, after):
        found = changes(text, caption)
        if len(found) == 1:
            return found[0]
    return before, after


def changes(text: str, caption: str) -> list[Change]:
    """All changes that turn `caption` into `text`, but those of spelling, function words and inflection.

    >>> changes("A horse on rocky beaches", "A dog on a sandy beach")
    [(['dog'], ['horse']), (['sandy'], ['rocky'])]
    >>> changes("Motorcycles on a sidewalk", "motocycles on the side walk")
    []
    """
    ours, theirs = _plain(text), _plain(caption)
    if max(len(ours), len(theirs)) > MAX_ALIGNED:
        return [_span(ours, theirs)]
    ours, theirs = _joined(ours, theirs), _joined(theirs, ours)
    matcher = SequenceMatcher(None, list(map(span_word, theirs)), list(map(span_word, ours)), autojunk=False)
    places = [places for what, *places in matcher.get_opcodes() if what != "equal"]
    found = [(theirs[a:b], ours[c:d]) for a, b, c, d in places]
    return [change for change in found if _counts(*change)]


def mends(word: str, misspelt: str) -> bool:
    """Whether a word mends the spelling of one that is none, by one letter more, less or other.

    >>> mends("motorcycle", "motocycle"), mends("cat", "bat")
    (True, False)
    """
    if word == misspelt or abs(len(word) - len(misspelt)) > 1 or len(misspelt) < 3:
        return False
    start = common_start(word, misspelt)
    stop = common_start(word[start:][::-1], misspelt[start:][::-1])
    return max(len(word), len(misspelt)) - start - stop <= 1 and not is_known(misspelt) and is_known(word)


def mended(found: Sequence[str], other: Sequence[str]) -> list[str]:
    """Words, as another text spells those that are none, and those in two parts that it writes as one.

    >>> mended(["lap", "top", "on", "tablle"], ["table", "laptop"])
    ['laptop', 'on', 'table']
    """
    if max(len(found), len(other)) > MAX_ALIGNED:
        return list(found)
    new = set(other).difference(found)
    return [next((word for word in other if word in new and mends(word, one)), one) for one in _joined(found, other)]


def _span(ours: list[str], theirs: list[str]) -> Change:
    our, their = list(map(span_word, ours)), list(map(span_word, theirs))
    start = common_start(our, their)
    stop = common_start(our[start:][::-1], their[start:][::-1])
    return theirs[start : len(theirs) - stop], ours[start : len(ours) - stop]


def _keeps_words_inside(before: Sequence[str], after: Sequence[str]) -> bool:
    inside = set(map(span_word, before[1:-1])) & set(map(span_word, after[1:-1]))
    contents = ({span_word(word) for word in found if word not in FUNCTION_WORDS} for found in (before, after))
    # a content word at the edge has moved: "brown dogs", "dogs that are brown"; but "an empty vase" is no "full vase"
    moved = bool(set.intersection(*contents)) and not any(map(contradicts, after))
    return moved or not inside <= {"of"}


def _plain(text: str) -> list[str]:
    # "with a cup and a fork" becomes "without a cup or a fork"
    return ["and" if word == "or" else word for word in plain_words(text)]


def _joined(found: Sequence[str], other: Sequence[str]) -> list[str]:
    """Words, those in two parts that the other text writes as one joined: side walk and sidewalk."""
    known, made = set(other), list(found[:1])
    for word in found[1:]:
        if made[-1] + word in known:
            made[-1] += word
        else:
            made.append(word)
    return made


def _counts(before: Sequence[str], after: Sequence[str]) -> bool:
    kept = [[word for word in found if word not in FUNCTION_WORDS] for found in (before, after)]
    return len(kept[0]) != len(kept[1]) or not all(map(_is_respelt, *kept))


def _is_respelt(word: str, other: str) -> bool:
    return are_forms(stem(word), stem(other)) or mends(other, word)
