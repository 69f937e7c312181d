"""What another order of words changes: relations and attributes, but no list, nor what only comes earlier or later."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise, product

from negatives.spans import MAX_ALIGNED
from negatives.word_forms import (
    ARTICLES,
    BE,
    FUNCTION_WORDS,
    PREPOSITIONS,
    PRONOUNS,
    common_start,
    content,
    is_participle,
    listed,
    plain_words,
    span_word,
    stem,
    words,
    words_and_commas,
)
from negatives.wordnet import is_a, parts_of_speech

LISTS = frozenset({"and", "or", ","})
SYMMETRIC = listed("beside near nearby alongside")
"""Relations that hold both ways, as `_items` writes them: next to is beside."""
SILENT = ARTICLES | BE | {"both"}
CLAUSES = listed(", and or that which who while as has have there by")
"""Words at which neighbours part."""
PLACES = listed("in on at into onto")
RELATIONS = listed(
    "do does did there that which who this these those each of in on at to with by for from into onto while as"
)
LONGEST_ITEM = 6  # words of an item of a list, such as "a large bowl of soup"
OPENINGS = PLACES | PREPOSITIONS
"""Words with which a place comes first, and changes nothing by that."""
PASSIVE = listed("by has have while as that which who")
"""Words by which a sentence tells the same the other way round."""
JOINING = LISTS | set(map(span_word, SYMMETRIC | listed("with next to while as")))
"""Words whose two sides may change places."""
HANGING = set(map(span_word, listed("it behind atop top side end front back middle foreground background")))
"""Words that tell where one thing is of another: behind them, the two sides of "with" may not change places."""
NEAR_WORDS = 4  # of what stands behind "with" and its thing: "in the very background"
POINTING = listed("there that which")


def moves_beyond_lists(text: str, caption: str) -> bool:
    """Whether a swap does more than list the same things in another order, with or without their attributes.

    >>> moves_beyond_lists("A dog and a cat on a bed", "A cat and a dog on a bed")
    False
    >>> moves_beyond_lists("A white dog and a black cat", "A black cat and a white dog")
    False
    >>> moves_beyond_lists("A white cat and a black dog", "A black cat and a white dog")
    True
    >>> moves_beyond_lists("A white cat and a dog", "A white dog and a cat")
    True
    """
    has_articles = any(a in LISTS and b in ARTICLES for a, b in pairwise(words_and_commas(caption)))
    return not _is_list_order(_items(text), _items(caption), has_articles=has_articles)


def moves_what_differs(text: str, caption: str) -> bool:
    """Whether a swap puts another thing in at least one place: a bike in the place of a bicycle is none.

    >>> moves_what_differs("A bike near a bicycle", "A bicycle near a bike")
    False
    >>> moves_what_differs("A bike near a car", "A car near a bike")
    True
    """
    ours, theirs = _items(text), _items(caption)
    if len(ours) != len(theirs):
        return True
    pairs = zip(ours, theirs, strict=True)
    return not all(span_word(one) == span_word(two) or (is_a(one, two) and is_a(two, one)) for one, two in pairs)


def swaps_places(text: str, caption: str) -> bool:
    """Whether a swap puts something in another's place, and does not tell the same in another order.

    Two phrases are exchanged, or an attribute has moved; or else words have new neighbours and no relation was added,
    as "by" and "with" are in "a ball is hit by a man" and "a bed with a cat on it". A place that comes first moves
    nothing.

    >>> swaps_places("A cat chases a dog", "A dog chases a cat")
    True
    >>> swaps_places("In a park, a man flies a kite", "A man flies a kite in a park")
    False
    """
    if _opens_with_place(text) and not _opens_with_place(caption):
        return False
    if not reverses_no_relation(text, caption) or not moves_no_attribute(text, caption):
        return True
    if not _adds(text, caption, PASSIVE) and _exchanged_around(content(text), content(caption)):
        return True
    ours, theirs = _neighbours(text), _neighbours(caption)
    return bool(ours - theirs) and bool(theirs - ours) and not _adds_relation(text, caption)


def reverses_no_relation(text: str, caption: str) -> bool:
    """Whether no two phrases change places while what stands between them stays: "a man bites a dog".

    >>> reverses_no_relation("A man bites a dog", "A dog bites a man")
    False
    >>> reverses_no_relation("A man is bitten by a dog", "A dog bites a man")
    True
    >>> reverses_no_relation("A cat next to a dog", "A dog next to a cat")
    True
    >>> reverses_no_relation("On a couch sits a dog", "A dog sits on a couch")
    True
    >>> reverses_no_relation("A cat with a dog in the background", "A dog with a cat in the background")
    False
    """
    if _opens_with_place(text) and not _opens_with_place(caption):
        return True
    # "there are two horses that pull a cart"
    ours, theirs = ([span_word(word) for word in plain_words(one) if word not in POINTING] for one in (text, caption))
    if _exchanged_around(ours, theirs):
        return False
    # a text may leave out or add function words, but for those by which it tells the same in another order
    retold = _adds_relation(text, caption) or _adds(text, caption, PASSIVE)
    return retold or not _exchanged_around(content(text), content(caption))


def moves_no_attribute(text: str, caption: str) -> bool:
    """Whether no noun loses a word before it to another noun of the caption: a black cat and a white dog stay so.

    >>> moves_no_attribute("A white cat is with a black dog", "A black cat with a white dog")
    False
    >>> moves_no_attribute("A white dog is with a cat that is black", "A black cat with a white dog")
    True
    """
    theirs = [list(map(span_word, run)) for run in _runs(caption)]
    known = {word for run in theirs for word in run}
    runs = list(_runs(text, known))
    ours = [list(map(span_word, run)) for run in runs]
    # of each word: the runs that it is in, and the nouns that they end with; by number, since sets of all words beside
    # a word would take quadratic time
    inside, head = defaultdict(set), defaultdict(set)
    for number, run in enumerate(theirs):
        for word in run[:-1]:
            head[word].add(run[-1])
        for word in run:
            inside[word].add(number)
    first, last = _ends(ours)
    lost = {
        word: not any(
            first[word][number] < last[noun][number]
            for noun in nouns
            for number in first[word].keys() & last[noun].keys()
        )
        for word, nouns in head.items()
        if word in first and not nouns.isdisjoint(last)
    }
    return not any(
        lost.get(word) and inside[word].isdisjoint(inside[run[-1]])
        for run, plain in zip(ours, runs, strict=True)
        if _is_noun(plain[-1])
        for word in run[:-1]
    )


def _ends(runs: Sequence[Sequence[str]]) -> tuple[dict[str, dict[int, int]], ...]:
    """Word -> run -> where it stands there first, and where last."""
    first: dict[str, dict[int, int]] = defaultdict(dict)
    last: dict[str, dict[int, int]] = defaultdict(dict)
    for number, run in enumerate(runs):
        for place, word in enumerate(run):
            first[word].setdefault(number, place)
            last[word][number] = place
    return first, last


def _items(text: str) -> list[str]:
    found = [word for word in words_and_commas(text) if word not in SILENT]
    return " ".join(found).replace("next to", "beside").split(" ") if "next" in found else found


def _is_list_order(our: Sequence[str], their: Sequence[str], *, has_articles: bool) -> bool:
    # words, not stems: "two dogs and a cat" may become "two cats and a dog"
    start = common_start(our, their)
    stop = common_start(our[start:][::-1], their[start:][::-1])
    changed = their[start : len(their) - stop]
    # side by side holds both ways, but for what hangs on either side: only where that is the whole text
    if not SYMMETRIC.isdisjoint(changed) and _have_equal_parts(our, their, SYMMETRIC):
        return True
    if LISTS.isdisjoint(changed) or _bag(our) != _bag(their):
        return False
    # of "a black cat and a black dog" the common start takes the list's first word
    lefts, rights = (range(end, max(0, end - LONGEST_ITEM) - 1, -1) for end in (start, stop))
    return any(
        _have_equal_parts(our[left : len(our) - right], their[left : len(their) - right], LISTS)
        and not _parts_noun_from_adjective(their, left, len(their) - right, has_articles=has_articles)
        for left, right in product(lefts, rights)
    )


def _parts_noun_from_adjective(found: Sequence[str], left: int, right: int, *, has_articles: bool) -> bool:
    """Whether a list between two places would begin behind an adjective of its first item, or end before a noun.

    Before items with articles of their own, an adjective is the first one's: "a red dog and a cat". Where all items are
    adjectives, they share the noun: "a black and white dog".
    """
    ends_early = 0 < right < len(found) and _is_adjective(found[right - 1]) and "n" in parts_of_speech(found[right])
    if ends_early and not all(_is_adjective(word) for word in found[left:right] if word not in LISTS):
        return True
    return has_articles and left > 0 and _is_adjective(found[left - 1]) and "n" in parts_of_speech(found[left])


def _have_equal_parts(our: Sequence[str], their: Sequence[str], separators: Collection[str]) -> bool:
    one, two = _parts(our, separators), _parts(their, separators)
    return len(two) > 1 and "" not in two and sorted(one) == sorted(two)


def _bag(found: Sequence[str]) -> list[str]:
    return sorted(word for word in found if word not in LISTS)


def _parts(found: Sequence[str], separators: Collection[str]) -> list[str]:
    """What stands between separators; nothing stands between a comma and its "and"."""
    parts = [""]
    for word in found:
        if word not in separators:
            parts[-1] += f" {word}"
        elif parts[-1]:
            parts.append("")
    return parts


def _exchanged_around(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether exchanging two phrases turns one text into the other, around words that do not just join them."""
    start = common_start(ours, theirs)
    stop = common_start(ours[start:][::-1], theirs[start:][::-1])
    behind = theirs[len(theirs) - stop :][:NEAR_WORDS]
    joining = JOINING if HANGING.isdisjoint(behind) else JOINING - {"with"}
    ours, theirs = ours[start : len(ours) - stop], theirs[start : len(theirs) - stop]
    # beyond MAX_ALIGNED the pairs of phrases would take cubic time: no exchange is seen there
    if len(ours) != len(theirs) or not 3 <= len(ours) <= MAX_ALIGNED or Counter(ours) != Counter(theirs):
        return False
    return any(not set(between) <= joining for between in _between_exchanged(ours, theirs))


def _between_exchanged(ours: Sequence[str], theirs: Sequence[str]) -> Iterator[Sequence[str]]:
    """What stands between two phrases whose exchange turns one text into the other, for every such pair."""
    size = len(ours)
    for first in range(1, size - 1):
        if ours[size - first :] == theirs[:first]:
            for second in range(1, size - first):
                between = theirs[first : size - second]
                if ours[:second] == theirs[size - second :] and ours[second : size - first] == between:
                    yield between


def _runs(text: str, known: Collection[str] | None = None) -> Iterator[list[str]]:
    """The words between function words, prepositions and commas; with `known`, between words of other stems too.

    Participles at the end of a run are none of its nouns: "a black cat sitting".
    """
    run: list[str] = []
    for word in [*words_and_commas(text), ","]:
        if word != "," and word not in FUNCTION_WORDS | PREPOSITIONS and (known is None or span_word(word) in known):
            run.append(word)
            continue
        while run and is_participle(run[-1]):
            run.pop()
        if run:
            yield run
        run = []


def _is_noun(word: str) -> bool:
    # an adjective at the end of a run is coordinated: a small black and orange bird
    found = parts_of_speech(word)
    return "n" in found and "a" not in found


def _is_adjective(word: str) -> bool:
    # participles say what a thing does, and begin no noun: holding a dog and a cat
    return "a" in parts_of_speech(word) and not is_participle(word)


def _neighbours(text: str) -> set[tuple[str, str]]:
    """Pairs of a word and the content word behind it, within a clause, without participles and adverbs.

    A participle stands before its noun and behind it: sparkling material, material that is sparkling.
    """
    found: set[tuple[str, str]] = set()
    before = ""
    for word in words_and_commas(text):
        if word in CLAUSES | BE:
            before = ""
        elif word not in SILENT and word not in PRONOUNS and not word.endswith("ly"):
            participle = is_participle(word)
            if before and not participle and word not in FUNCTION_WORDS | PREPOSITIONS:
                found.add((before, stem(word)))
            before = "" if participle else stem(word)
    return found


def _opens_with_place(text: str) -> bool:
    return not OPENINGS.isdisjoint(words(text)[:1])


def _adds(text: str, caption: str, some: Collection[str]) -> bool:
    """Whether a text has one of some words more often than its caption."""
    return bool(Counter(word for word in words(text) if word in some) - Counter(words(caption)))


def _adds_relation(text: str, caption: str) -> bool:
    ours, theirs = (Counter(word for word in words(one) if word in RELATIONS) for one in (text, caption))
    new, lost = ours - theirs, theirs - ours
    # in may become on, but no relation may be there that was none
    return not new.keys() <= PLACES or new.total() > sum(number for word, number in lost.items() if word in PLACES)
