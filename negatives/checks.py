"""What is asked of a text that was written for a caption: pure functions of texts.

They judge words: case, punctuation, white space and a letter's encoding never count. Scripts without spaces (Chinese,
Japanese, Thai, ...) are judged character by character. The word lists (articles, numbers, negations) are English; a
text in another language merely finds nothing in them.

The bounds were set on negatives and paraphrases that ChatGPT wrote for COCO captions: what they reject there changes
two things at once, or mends the caption's spelling on the way.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _listed("a an the")
BE = _listed("is are was were be been being am")
PRONOUNS = _listed("he she it they him her them his hers its it's their theirs himself herself itself themselves")
LIGHT_WORDS = _listed(
    "has have had do does did there that which who this these those some one each of in on at to with by for from into "
    "onto and or while as"
)
FUNCTION_WORDS = ARTICLES | BE | PRONOUNS | LIGHT_WORDS
"""Words that a swap may drop, add or change so that the sentence stays English. `over`, `behind`, ... are not among
them: a bridge over a lake says the same as a lake under a bridge."""

# `_stem` brings the others to their singular by their endings
IRREGULAR_PLURALS = {"men": "man", "women": "woman", "people": "person", "children": "child"}
IRREGULAR_PLURALS |= {"feet": "foot", "teeth": "tooth", "mice": "mouse", "geese": "goose"}

_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
# "one" counts as 1, which `_numbers` leaves out: an article says as much
NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())}
NUMBERS |= {"trio": "3", "dozen": "12", "thirty": "30", "forty": "40", "fifty": "50", "hundred": "100"}
TWOS = _listed("both couple pair pairs double duo twin twins")
"""Words that may say two, and may not: a pair of dogs, a pair of skis."""

NEGATIONS = _listed(
    "no not none nobody nothing nowhere never neither nor without cannot lack lacks lacking devoid absent"
)

# words of other form in a swap or an addition: more is another sentence, and would make the pairing of forms quadratic
MAX_INFLECTED = 8
MIN_SPAN, MAX_SPAN_SHARE = 4, 0.5  # in short captions "sitting on top of" is more than half of the words

_ASCII_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")
# scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
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


def _spaced(text: str) -> str:
    # `\w` would split words at the vowel signs of many scripts
    return "".join(letter if letter.isalnum() or letter == "'" or _is_mark(letter) else " " for letter in text)


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter).startswith("M")


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
    if _content_words(text) == _content_words(caption):
        return False
    ours, theirs = _content(text), _content(caption)
    # sets and not counts: of white, white, black may become white, black, black
    if len(ours) == len(theirs):
        return set(ours) == set(theirs) or _are_inflected(_difference(theirs, ours), _difference(ours, theirs))
    short, long = sorted((ours, theirs), key=len)
    return set(short) == set(long) and len(long) == len(short) + 1 and not _is_within(short, long)


def keeps_caption_words(text: str, caption: str) -> bool:
    """Whether an addition has the caption's content words, and more.

    >>> keeps_caption_words("A man and a dog are on a bench", "A man is on a bench")
    True
    >>> keeps_caption_words("A dog is on a bench by a tree", "A man is on a bench")
    False
    """
    ours, theirs = _content(text), _content(caption)
    return len(ours) > len(theirs) and _are_inflected(_difference(theirs, ours), _difference(ours, theirs))


def changed_span(text: str, caption: str) -> tuple[list[str], list[str]]:
    """The smallest span of words that turns `caption` into `text`: as it was, and as it is.

    Articles and forms of to be are left out; plurals are as their singulars, and pronouns as each other.

    >>> changed_span("An old horse on the beach", "A dog is on a beach")
    (['dog'], ['old', 'hors'])
    """
    ours, theirs = _span_words(text), _span_words(caption)
    start = _common_start(ours, theirs)
    stop = _common_start(ours[start:][::-1], theirs[start:][::-1])
    return theirs[start : len(theirs) - stop], ours[start : len(ours) - stop]


def is_one_span(text: str, caption: str) -> bool:
    """Whether a replace changes one span of words and keeps the rest.

    The span has at most half of the words, or four, and no word inside it stays: there it would part two changes. But
    `of` may: "a herd of cows" is one thing, and so is "a pack of wolves".

    >>> is_one_span("A horse on a sandy beach", "A dog on a sandy beach")
    True
    >>> is_one_span("A horse on a rocky beach", "A dog on a sandy beach")
    False
    """
    before, after = changed_span(text, caption)
    if not before and not after:
        # stems and pronouns are alike in spans, but he for she and dogs for dog are changes
        return _plain_words(text) != _plain_words(caption)
    limit = max(MIN_SPAN, MAX_SPAN_SHARE * len(_span_words(caption)))
    return max(len(before), len(after)) <= limit and set(before[1:-1]) & set(after[1:-1]) <= {"of"}


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


def _content_words(text: str) -> list[str]:
    return [word for word in words(text) if word not in FUNCTION_WORDS]


def _content(text: str) -> list[str]:
    return [_stem(word) for word in _content_words(text)]


def _plain_words(text: str) -> list[str]:
    # "with a cup and a fork" becomes "without a cup or a fork"
    return ["and" if word == "or" else word for word in words(text) if word not in ARTICLES and word not in BE]


def _span_words(text: str) -> list[str]:
    return ["it" if word in PRONOUNS else _stem(word) for word in _plain_words(text)]


def _stem(word: str) -> str:
    """What a noun's singular and plural have in common, roughly: knif of knife and knives.

    Number is all that it takes off, unlike Porter's stemmer: in a replace, "walked" for "walking" is a change.
    """
    word = IRREGULAR_PLURALS.get(word, word).removesuffix("'s").replace("'", "")
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")):
        word = word[:-1]
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    return word[:-1] + {"v": "f", "i": "y"}.get(word[-1:], word[-1:])


def _are_inflected(lost: list[str], gained: list[str]) -> bool:
    """Whether each lost stem has a gained one of its own that looks like a form of it."""
    rest = list(gained)
    for stem in lost:
        form = next((other for other in rest if _are_forms(stem, other)), None)
        if form is None or len(lost) > MAX_INFLECTED:
            return False
        rest.remove(form)
    return True


def _are_forms(one: str, other: str) -> bool:
    shared, (short, long) = _common_start(one, other), sorted((len(one), len(other)))
    # the shorter but for a letter, and at most three letters more: chase and chasing
    return shared >= max(3, short - 1) and long - shared <= 3


def _common_start(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _is_within(short: list[str], long: list[str]) -> bool:
    """Whether leaving out words of `long` gives `short`."""
    # `in` moves the iterator on, so that the words are found in order
    rest = iter(long)
    return all(word in rest for word in short)


def _difference(one: list[str], other: list[str]) -> list[str]:
    return list((Counter(one) - Counter(other)).elements())


def _same_numbers(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    our, their = _numbers(ours), _numbers(theirs)
    # what may say two ("a pair of skis" may not) need not, but can stand for a two that the other text has
    more, fewer = our.pop("2", 0), their.pop("2", 0)
    fits = fewer <= more + _twos(ours) and more <= fewer + _twos(theirs)
    return our == their and fits


def _numbers(found: Sequence[str]) -> Counter[str]:
    digits = (number.lstrip("0") for word in found for number in re.findall(r"\d+", NUMBERS.get(word, word)))
    return Counter(number for number in digits if number != "1")


def _twos(found: Sequence[str]) -> int:
    return sum(word in TWOS for word in found)


def _is_negated(text: str) -> bool:
    return any(word in NEGATIONS or word.endswith("n't") for word in words(text))
