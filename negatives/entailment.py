"""Whether a caption implies a replacement: what follows from a true caption is true, and no negative.

"A man flies a kite at the beach" implies "a man flies a kite", "a person flies a kite" and, of four men, "two men fly a
kite". What words say of each other comes from WordNet, by all senses of both, so that doubt goes against a text.
The word lists are English.
"""

from __future__ import annotations

from collections.abc import Sequence

from negatives.spans import changed_words, mends
from negatives.word_forms import (
    FUNCTION_WORDS,
    IRREGULAR_PLURALS,
    NUMBERS,
    PREPOSITIONS,
    PRIVATIVE,
    PRONOUNS,
    are_forms,
    content,
    contradicts,
    is_negation,
    is_participle,
    is_within,
    listed,
    plain_words,
    span_word,
    words,
)
from negatives.wordnet import has_part, is_a, parts_of_speech, phrases

AT_LEAST = {"both": 2, "couple": 2, "pair": 2, "pairs": 2, "duo": 2, "twin": 2, "twins": 2, "double": 2}
AT_LEAST |= dict.fromkeys(listed("multiple some"), 2)
AT_LEAST |= dict.fromkeys(listed("several various numerous group groups bunch crowd herd flock many lots dozens"), 3)
"""How many there are at least of what a word counts."""
MEASURES = listed("year month week day hour minute foot inch mile story storey tier level lane way door wheel decker")
"""What a number measures: of a four-door car, two doors are false."""
NUMBERED = listed("number no bus train route line gate platform track room flight highway")
"""What a figure names: bus 7 is not bus 12."""
PLURAL_ENDINGS = ("s", "men", "people", "children", "sheep")
_PREPOSITIONS = (
    listed("near nearby beside alongside by next adjacent close"),
    listed("atop on upon onto"),
    listed("beneath under below underneath"),
    listed("in inside within into"),
    listed("over above"),
    listed("amid amidst among"),
)
ALIKE = {word: group for group in _PREPOSITIONS for word in group}
"""Prepositions that say the same, which WordNet leaves out: word -> all of its group."""
PRESENT = listed(
    "positioned located situated placed displayed contained featured shown seen visible present depicting depicts "
    "featuring features containing contains includes including"
)
"""Words that say no more than that a thing is there, or that the photo shows it."""
NEUTRAL = PRESENT | listed(
    "standing sitting seated resting parked lying laying view photo picture image photograph shows showing along "
    "together side area front top up out down there various other another group number scene shot what where whom "
    "whose color colored colour coloured being"
)
"""Words that a text may add without a claim: a thing has to be somewhere, in some posture."""


def says_more_than_it_deletes(text: str, caption: str) -> bool:
    """Whether a text is more than the caption with words left out; a word such as no or fake may be left out.

    >>> says_more_than_it_deletes("A man flies a kite.", "A man flies a kite at the beach.")
    False
    >>> says_more_than_it_deletes("A room with people", "A room with no people")
    True
    """
    before, after = changed_words(text, caption)
    gone = [word for word in before if word not in after and word not in FUNCTION_WORDS]
    # "without a hat" may go, "without" alone may not
    if not before or (gone and all(is_negation(word) or word in PRIVATIVE for word in gone)):
        return True
    return not is_within(*(list(map(span_word, found)) for found in (after, before)))


def contradicts_by_what_it_adds(text: str, caption: str) -> bool:
    """Whether a text that only adds to the caption adds a word that makes it false, such as no, fake or single.

    So does a number with which a thing becomes several. A text that does more than add passes.

    >>> contradicts_by_what_it_adds("A man in a hat on a beach", "A man on a beach")
    False
    >>> contradicts_by_what_it_adds("A man is not on a beach", "A man is on a beach")
    True
    >>> contradicts_by_what_it_adds("Two men", "A man"), contradicts_by_what_it_adds("Two men", "Men")
    (True, False)
    """
    before, after = changed_words(text, caption)
    if not after or not is_within(*(list(map(span_word, found)) for found in (before, after))):
        return True
    added = [word for word in after if word not in before]
    if any(contradicts(word) for word in added):
        return True
    # where a word's stem stayed and the word did not, its number changed
    return any(_least(word) for word in added) and any(
        word not in plain_words(caption) for word in plain_words(text) if word not in added
    )


def keeps_numbers_up(text: str, caption: str) -> bool:
    """Whether a text does more than lower a number: of four people, two people is true as well.

    A text that says "and no more" (only two, a single one) passes, and so does a number that measures (a two-year-old).

    >>> keeps_numbers_up("Two people", "Four people"), keeps_numbers_up("Four people", "Two people")
    (False, True)
    >>> keeps_numbers_up("A man", "Several men"), keeps_numbers_up("A single man", "Several men")
    (False, True)
    """
    before, after = changed_words(text, caption)
    counted = [any(_least(word) for word in found) for found in (before, after)]
    # "two dogs", "a dog": articles are left out of what changed
    lowered = counted == [True, True] or (not after and counted[0]) or not (before or after)
    if not lowered or (not counted[1] and not _is_singular(text, caption)):
        return True
    return not _follows(after, before) or _is_name_or_measure(text, after)


def is_not_implied(text: str, caption: str) -> bool:
    """Whether what a text says in place of the caption's words goes beyond a synonym, a more general word or a part.

    Each new word has to follow from a word that went. So "elderly man" is new where the caption has "young boy",
    although a boy is a man in one sense of the words, and "person" is not.

    >>> is_not_implied("A person on a bike", "A man on a bike"), is_not_implied("A dog on a bike", "A man on a bike")
    (False, True)
    >>> is_not_implied("An elderly man", "A young boy"), is_not_implied("A male child", "A young boy")
    (True, False)
    """
    before, after = changed_words(text, caption)
    return not before or not after or not _follows(after, before) or _is_name_or_measure(text, after)


def adds_what_is_new(text: str, caption: str) -> bool:
    """Whether an addition says more than the caption: a cappuccino coffee is a cappuccino.

    What says only that a thing is there, or shown, is nothing new. Where the caption's words are in another order, as
    in a paraphrase, the new word has to be a noun and nothing else.

    >>> adds_what_is_new("A cup of cappuccino coffee", "A cup of cappuccino")
    False
    >>> adds_what_is_new("A cup of cold cappuccino", "A cup of cappuccino")
    True
    >>> adds_what_is_new("A bed holds a cat", "A cat on a bed")
    False
    >>> adds_what_is_new("A bed, a cat and a giraffe", "A cat on a bed")
    True
    """
    stems, given = set(map(span_word, words(caption))), phrases(plain_words(caption))
    found = [word for word in phrases(plain_words(text)) if not stems.issuperset(map(span_word, word.split("_")))]
    # by parts: "in this" is one entry of WordNet
    claims = [word for word in found if not (NEUTRAL | FUNCTION_WORDS).issuperset(word.split("_"))]
    new = [word for word in claims if not follows_from(word, given)]
    if _keeps_order(content(text), content(caption)):
        return bool(new)
    new = [word for word in new if PREPOSITIONS.isdisjoint(word.split("_"))]
    return any(set(parts_of_speech(word)) & {"n", "v"} == {"n"} and not is_participle(word) for word in new)


def follows_from(word: str, others: Sequence[str]) -> bool:
    """Whether a word, or a phrase joined by "_", says no more than one of the others does.

    >>> follows_from("animal", ["small", "dog"]), follows_from("two", ["four"]), follows_from("cat", ["animal"])
    (True, True, False)
    """
    if word in FUNCTION_WORDS and word not in ALIKE:
        return True
    least = _least(word)
    for other in others:
        if span_word(word) == span_word(other) or (least and least <= _least(other)):
            return True
        if other in ALIKE.get(word, ()) or is_a(other, word) or has_part(other, word) or mends(word, other):
            return True
    return False


def _follows(after: Sequence[str], before: Sequence[str]) -> bool:
    given = phrases(before)
    new = [word for place, word in enumerate(after) if word not in PRESENT and not _is_passive_by(after, place)]
    # what is on a thing is on top of it
    new = [word for word in new if word != "top" or ALIKE["on"].isdisjoint(before)]
    return all(follows_from(word, given) for word in phrases(new))


def _is_passive_by(found: Sequence[str], place: int) -> bool:
    return found[place] == "by" and place > 0 and "v" in parts_of_speech(found[place - 1])


def _keeps_order(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    # the iterator moves on, so that the words are found in order
    rest = iter(ours)
    return all(any(one == other or are_forms(one, other) for other in rest) for one in theirs)


def _least(word: str) -> int:
    """How many a word says there are at least; 0 where it counts nothing."""
    return AT_LEAST.get(word) or int(word if word.isdecimal() and len(word) < 4 else NUMBERS.get(word, 0))


def _is_singular(text: str, caption: str) -> bool:
    """Whether words of the caption lost their plural: a singular is shorter, but for person."""
    kept = set(plain_words(caption))
    ours = {span_word(word): word for word in plain_words(text) if word not in kept}
    pairs = [(ours[span_word(word)], word) for word in kept if span_word(word) in ours and word not in PRONOUNS]
    return any(len(one) < len(other) or IRREGULAR_PLURALS.get(other) == one for one, other in pairs)


def _is_name_or_measure(text: str, after: Sequence[str]) -> bool:
    """Whether the last of some words is a number that does not count: of a four-door car, of bus number 7."""
    if not after or not _least(after[-1]):
        return False
    found = ["", *plain_words(text), ""]
    places = [place for place, word in enumerate(found) if word == after[-1]]
    return any(
        found[place + 1] in MEASURES
        # a figure alone, or behind what it numbers, is a name
        or (after[-1].isdecimal() and (found[place - 1] in NUMBERED or not found[place + 1].endswith(PLURAL_ENDINGS)))
        for place in places
    )
