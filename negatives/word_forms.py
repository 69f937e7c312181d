"""The words of a text, and which of them are alike: what writers, and the checks of what they write, look at.

Case, punctuation, white space and a letter's encoding never count. Scripts without spaces (Chinese, Japanese, Thai,
...) are read character by character. The word lists (articles, numbers, negations) are English; a text in another
language merely finds nothing in them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache


def listed(text: str) -> frozenset[str]:
    """The words of a list in the code."""
    return frozenset(text.split())


ARTICLES = listed("a an the")
BE = listed("is are was were be been being am")
PRONOUNS = listed("he she it they him her them his hers its it's their theirs himself herself itself themselves")
LIGHT_WORDS = listed(
    "has have had do does did there that which who this these those some one each of in on at to with by for from into "
    "onto and or while as"
)
FUNCTION_WORDS = ARTICLES | BE | PRONOUNS | LIGHT_WORDS
"""Words that a swap may drop, add or change so that the sentence stays English. `over`, `behind`, ... are not among
them: a bridge over a lake says the same as a lake under a bridge."""

PREPOSITIONS = listed(
    "over under behind above below beside near next front between through across along around off out up down inside "
    "outside without against toward towards"
)
"""Those that are content words; the others are among `LIGHT_WORDS`."""

# `stem` brings the others to their singular by their endings
IRREGULAR_PLURALS = {"men": "man", "women": "woman", "people": "person", "children": "child"}
IRREGULAR_PLURALS |= {"feet": "foot", "teeth": "tooth", "mice": "mouse", "geese": "goose"}

PLURAL_E = ("se", "xe", "ze", "che", "she", "oe", "ie", "ve", "fe")
"""What is left of the plurals that add or change more than an s, as of buses, skies and knives, and the ends of nouns
that have an e themselves: horses."""

VOWELS = frozenset("aeiouy")

_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
# "one" counts as 1, which `numbers` leaves out: an article says as much
NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())}
NUMBERS |= {"trio": "3", "dozen": "12", "thirty": "30", "forty": "40", "fifty": "50", "hundred": "100"}
TWOS = listed("both couple pair pairs double duo twin twins")
"""Words that may say two, and may not: a pair of dogs, a pair of skis."""

NEGATIONS = listed(
    "no not none nobody nothing nowhere never neither nor without cannot lack lacks lacking devoid absent"
)

PRIVATIVE = listed("non fake false toy former imaginary pretend almost nearly hardly barely rarely except instead")
"""Words that, as negations do, take back what another word says: a toy car is no car, and a car is no toy car."""
EXCLUSIVE = listed(
    "empty vacant bare hidden missing invisible only single sole lone alone solitary exactly just few fewer less "
    "nowhere away far opposite unlike"
)
"""Words that make a sentence false by being added, and leave it true by going."""

_ASCII_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")
# scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")


def bare_words(text: str) -> str:
    """The words of a text, without case, punctuation and spacing.

    >>> bare_words("A red-brown  Dog!") == bare_words("a red brown dog")
    True
    """
    return " ".join(re.findall(r"\w+", text.casefold()))


@lru_cache(maxsize=1024)  # a caption is asked for by each check of each of its texts
def words(text: str) -> tuple[str, ...]:
    """The words of a text, case-folded, in order; a character each where a script has no spaces.

    >>> words("Two cats AREN’T on a T-shirt!")
    ('two', 'cats', "aren't", 'on', 'a', 't', 'shirt')
    >>> words("一只狗")
    ('一', '只', '狗')
    """
    # NFKC, not NFC: full-width letters and ligatures are the letters that they show
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("‘", "'")
    if not text.isascii():
        text = _UNSPACED.sub(r" \g<0> ", text)
        return tuple(word for word in (part.strip("'") for part in _spaced(text).split()) if word)
    return tuple(_ASCII_WORD.findall(text))


def words_and_commas(text: str) -> list[str]:
    """The words of a text in order, and its commas, but those within a number.

    >>> words_and_commas("A dog, a cat and 1,000 birds.")
    ['a', 'dog', ',', 'a', 'cat', 'and', '1', '000', 'birds']
    """
    parts = re.split(r",(?!\d)", text)
    return [word for part in parts for word in (",", *words(part))][1:]


def content_words(text: str) -> list[str]:
    """The words of a text that are no function words."""
    return [word for word in words(text) if word not in FUNCTION_WORDS]


def content(text: str) -> list[str]:
    """The stems of `content_words`."""
    return [stem(word) for word in content_words(text)]


def plain_words(text: str) -> list[str]:
    """The words of a text without articles and forms of to be."""
    return [word for word in words(text) if word not in ARTICLES and word not in BE]


def span_word(word: str) -> str:
    """A word's stem; pronouns are as each other."""
    return "it" if word in PRONOUNS else stem(word)


@lru_cache(maxsize=2**14)  # captions have few different words
def stem(word: str) -> str:
    """What a noun's singular and plural have in common, roughly: knif of knife and knives.

    Number is all that it takes off, unlike Porter's stemmer: in a replace, "walked" for "walking" is a change, and so
    is "plan" for "plane".
    """
    word = IRREGULAR_PLURALS.get(word, word).removesuffix("'s").replace("'", "")
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")):
        word = word[:-1]
    if len(word) > 3 and word.endswith(PLURAL_E):
        word = word[:-1]
        word = word[:-1] + {"v": "f", "i": "y"}.get(word[-1], word[-1])
    return word


def is_participle(word: str) -> bool:
    """Whether a word looks like one: it has a vowel before -ing or -ed (Porter's step 1b, 1980).

    >>> is_participle("standing"), is_participle("parked"), is_participle("red"), is_participle("string")
    (True, True, False, False)
    """
    return any(not VOWELS.isdisjoint(word.removesuffix(end)) for end in ("ing", "ed") if word.endswith(end))


def is_negation(word: str) -> bool:
    """Whether a word negates: one of `NEGATIONS`, or with n't.

    >>> is_negation("isn't"), is_negation("nothing"), is_negation("notes")
    (True, True, False)
    """
    return word in NEGATIONS or word.endswith("n't")


def first_negation(found: Sequence[str]) -> int:
    """The place of the first negation among words in lower case; their number where there is none.

    What stands behind a negation is not there, and what would replace it may not be there either: "a room with no
    stoves" may well be true of a room with no toilets.

    >>> first_negation(["a", "room", "with", "no", "toilets"]), first_negation(["a", "room"])
    (3, 2)
    """
    return next((place for place, word in enumerate(found) if is_negation(word)), len(found))


def contradicts(word: str) -> bool:
    """Whether a word makes a sentence false by being added: a negation, one of `PRIVATIVE` or of `EXCLUSIVE`.

    >>> contradicts("fake"), contradicts("empty"), contradicts("red")
    (True, True, False)
    """
    return word in PRIVATIVE or word in EXCLUSIVE or is_negation(word)


def are_forms(one: str, other: str) -> bool:
    """Whether two stems look like forms of one word: chas and chasing."""
    shared, (short, long) = common_start(one, other), sorted((len(one), len(other)))
    # the shorter but for a letter, and at most three letters more: chase and chasing
    return shared >= max(3, short - 1) and long - shared <= 3


def common_start(one: Sequence[str], other: Sequence[str]) -> int:
    """How many items two sequences have in common at their start."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def is_within(short: list[str], long: list[str]) -> bool:
    """Whether leaving out words of `long` gives `short`."""
    # `in` moves the iterator on, so that the words are found in order
    rest = iter(long)
    return all(word in rest for word in short)


def numbers(found: Sequence[str]) -> Counter[str]:
    """The numbers in a text's words but for 1, as digits without leading zeros."""
    digits = (number.lstrip("0") for word in found for number in re.findall(r"\d+", NUMBERS.get(word, word)))
    return Counter(number for number in digits if number != "1")


def _spaced(text: str) -> str:
    # `\w` would split words at the vowel signs of many scripts
    return "".join(letter if letter.isalnum() or letter == "'" or _is_mark(letter) else " " for letter in text)


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter).startswith("M")
