"""Laws of NegCLIP's careful mode: what changes places is understood, and leaves a false English sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
import pytest

from negatives.types import NEGATIVE_TYPES
from negatives.writers import negclip_careful
from negatives.writers.english.rules import RuleWriter
from negatives.writers.negclip import NegClipWriter, reference_attempt
from negatives.writers.negclip_careful import KINDS, careful_attempt, careful_texts
from negatives.writers.tagging import TaggedCaption, Tagger, Word

POS = {
    **dict.fromkeys(("NN", "NNS"), "NOUN"),
    **dict.fromkeys(("VBG", "VBZ", "VBN", "VBP"), "VERB"),
    **{"DT": "DET", "PDT": "DET", "PRP$": "PRON", "PRP": "PRON", "JJ": "ADJ", "RB": "ADV", "IN": "ADP", "CD": "NUM"},
    **{"CC": "CCONJ", "AUX": "AUX", "NNP": "PROPN", ",": "PUNCT", "SP": "SPACE"},
}


def read(line: str) -> TaggedCaption:
    """A caption as a tagger reads it: word/tag, [ ] around noun chunks, and _ for a further space, which has a word."""
    words: list[Word] = []
    chunks, begun, start = [], 0, 0
    for part in line.split(" "):
        text, _, tag = part.strip("[]").replace("_", " ").rpartition("/")
        if part.startswith("["):
            begun = len(words)
        words.append(Word(text, start, start + len(text), POS[tag], "VBZ" if tag == "AUX" else tag))
        if part.endswith("]"):
            chunks.append((begun, len(words)))
        start += len(text) + 1
    return TaggedCaption(" ".join(word.text for word in words), tuple(words), tuple(chunks))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "[A/DT white/JJ stove/NN] next/RB to/IN [black/JJ cabinets/NNS]",
            {"adjective": ["A black stove next to white cabinets"]},
        ),
        (
            "[A/DT black/JJ and/CC white/JJ truck/NN] near/IN [an/DT orange/JJ brick/NN building/NN]",
            {"adjective": ["An orange truck near a black and white brick building"]},
        ),
        (
            "[A/DT big/JJ truck/NN] beside/IN [a/DT small/JJ car/NN]",
            {"adjective": ["A small truck beside a big car"]},
        ),
        (
            "[Two/CD cats/NNS] and/CC [a/DT dog/NN] on/IN [a/DT bed/NN]",
            {"noun_chunk": ["Two dogs and a cat on a bed"]},
        ),
        (
            "[A/DT bird/NN] on/IN [a/DT chair/NN] next/RB to/IN [a/DT table/NN]",
            {"noun_chunk": ["A bird on a table next to a chair"]},
        ),
        (
            "[A/DT man/NN] chasing/VBG [a/DT woman/NN] in/IN [a/DT park/NN]",
            {"noun_chunk": ["A woman chasing a man in a park"]},
        ),
        # a fire hydrant moves as one
        (
            "[A/DT black/JJ fire/NN hydrant/NN] under/IN [a/DT street/NN sign/NN]",
            {"noun_chunk": ["A street sign under a black fire hydrant"]},
        ),
        # nothing better than an odd one
        (
            "[A/DT pizza/NN] on/IN [a/DT plate/NN]",
            {"noun_chunk": ["A plate on a pizza"]},
        ),
        (
            "[A/DT pizza/NN] on/IN [a/DT white/JJ plate/NN] on/IN [a/DT black/JJ table/NN]",
            {"adjective": ["A pizza on a black plate on a white table"]},
        ),
        (
            "[Two/CD men/NNS] and/CC [a/DT dog/NN] on/IN [a/DT bed/NN]",
            {"noun_chunk": ["Two dogs and a man on a bed"]},
        ),
        (
            "[A/DT soup/NN spoon/NN] on/IN [top/NN] of/IN [a/DT pizza/NN]",
            {"noun_chunk": ["A pizza on top of a soup spoon"]},
        ),
        # the chunk ends before its verb
        (
            "[A/DT rusted/VBN white/JJ truck/NN parked/NN] near/IN [a/DT red/JJ car/NN]",
            {"adjective": ["A rusted red truck parked near a white car"]},
        ),
        # the list knows that a teddy bear is one thing, and a space between words is none
        (
            "[A/DT teddy/JJ bear/VBP] on/IN [a/DT _/SP pillow/NN]",
            {"noun_chunk": ["A pillow on a   teddy bear"]},
        ),
    ],
)
def test_exchanges_are_those_found_by_hand(line: str, expected: dict[str, list[str]]) -> None:
    assert careful_texts(read(line)) == expected


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[A/DT living/NN room/NN] with/IN [a/DT chair/NN]", "half of a compound"),
        ("[A/DT group/NN] of/IN [people/NNS] on/IN [a/DT street/NN]", "a quantity"),
        ("[A/DT man/NN] at/IN [a/DT bar/NN] in/IN [front/NN] of/IN [a/DT window/NN]", "a place without an article"),
        ("[A/DT truck/NN] in/IN [front/NN] of/IN [a/DT sign/NN]", "each may be in front"),
        ("[A/DT lamp/NN] beside/IN [a/DT table/NN]", "the same both ways"),
        ("[A/DT dog/NN] chases/VBZ [a/DT ball/NN]", "living and not"),
        ("[A/DT skateboard/NN] with/IN [a/DT man/NN] on/IN [a/DT ramp/NN]", "living and not, the other way"),
        ("[A/DT boy/NN] riding/VBG [a/DT horse/NN]", "a person and an animal, doing something"),
        ("[A/DT man/NN] holding/VBG [a/DT baby/NN]", "a baby"),
        ("[A/DT man/NN] holding/VBG [a/DT baby/NN boy/NN]", "a baby boy"),
        ("[Two/CD soup/NN spoons/NNS] and/CC [a/DT fork/NN]", "a soup spoon is no soup fork"),
        ("[A/DT laptop/NN] on/IN [a/DT table/NN]", "of other sizes"),
        ("[A/DT spoon/NN] in/IN [a/DT bowl/NN]", "in, and not on"),
        ("[A/DT pizza/NN] topped/VBN with/IN [a/DT tomato/NN]", "what tops is on top"),
        ("[A/DT woman/NN] chasing/VBG [a/DT girl/NN]", "a girl may be a woman"),
        ("[A/DT man/NN] chasing/VBG [a/DT woman/NN] in/IN [a/DT park/NN] with/IN [a/DT woman/NN]", "another woman"),
        ("[A/DT white/JJ plate/NN] near/IN [a/DT black/JJ cup/NN] by/IN [a/DT plate/NN]", "another plate"),
        ("[A/DT white/JJ stove/NN] near/IN [red/JJ signs/VBZ]", "a verb by its tag"),
        ("[A/DT blicket/NN] on/IN [a/DT plate/NN]", "not listed"),
        ("[A/DT white/JJ plate/NN] and/CC [a/DT black/JJ plate/NN]", "one noun"),
        ("[A/DT white/JJ wood/NN table/NN] and/CC [a/DT black/JJ picnic/NN table/NN]", "both are tables"),
        ("[A/DT white/JJ chair/NN] and/CC [a/DT black/JJ armchair/NN]", "an armchair is a chair"),
        ("[A/DT blue/JJ square/JJ white/JJ kite/NN] near/IN [a/DT red/JJ truck/NN]", "two colours, not in a row"),
        ("[A/DT white/JJ stove/NN] near/IN [wooden/JJ cabinets/NNS]", "cabinets may be wooden and white"),
        ("[A/DT sausage/NN] on/IN [a/DT bun/NN]", "either way, it is a hot dog"),
        ("[Bananas/NNS] and/CC [a/DT cup/NN] on/IN [a/DT plate/NN]", "what is listed is on it together"),
        ("[A/DT white/JJ cat/NN] on/IN [a/DT black/JJ and/CC white/JJ chair/NN]", "white stays true"),
        ("[A/DT black/JJ man/NN] near/IN [a/DT white/JJ car/NN]", "no painted man"),
        ("[A/DT white/JJ car/NN] near/IN [a/DT black/JJ man/NN]", "no painted man"),
        ("[A/DT red/JJ car/NN] near/IN [a/DT big/JJ truck/NN]", "a truck may be big and red"),
        ("[A/DT big/JJ car/NN] near/IN [a/DT huge/JJ truck/NN]", "a truck may be big and huge"),
        ("[An/DT old/JJ fashioned/JJ stove/NN] near/IN [a/DT modern/JJ oven/NN]", "old fashioned"),
        ("[A/DT plate/NN] of/IN [rice/NN] and/CC [a/DT bowl/NN] of/IN [food/NN]", "rice is food"),
        ("[Two/CD other/JJ men/NNS] near/IN [each/DT other/JJ]", "no attributes"),
        ("[A/DT man/NN] sits/VBZ quickly/RB wearing/VBG [a/DT hat/NN] slowly/RB", "verbs and adverbs"),
    ],
)
def test_what_may_be_true_or_broken_is_left_alone(line: str, why: str) -> None:
    assert careful_texts(read(line)) == {}, why
    attempt = careful_attempt(read(line), np.random.default_rng(0))
    assert (attempt.field, attempt.text) == ("", "")
    assert attempt.detail


@pytest.mark.parametrize("no", ["no/DT", "without/IN", "n’t/RB", "No/DT"])
def test_nothing_behind_a_negation_changes_places(no: str) -> None:
    line = "[A/DT white/JJ stove/NN] {} next/RB to/IN [black/JJ cabinets/NNS]"
    assert careful_texts(read(line.format("is/AUX")))
    assert careful_texts(read(line.format(no))) == {}


def test_what_was_denied_is_still_written_by_the_published_method() -> None:
    caption = read("[A/DT white/JJ stove/NN] with/IN no/DT [wooden/JJ cabinet/NN] under/IN [it/PRP]")
    texts = {reference_attempt(caption, np.random.default_rng(seed)).text for seed in range(20)}
    assert "A wooden stove with no white cabinet under it" in texts


def test_kinds_are_drawn_alike_and_have_known_types() -> None:
    caption = read("[Two/CD white/JJ cats/NNS] and/CC [a/DT dog/NN] on/IN [a/DT black/JJ bed/NN]")
    attempts = [careful_attempt(caption, np.random.default_rng(seed)) for seed in range(200)]
    fields = [attempt.field for attempt in attempts]
    assert set(fields) == set(KINDS)
    assert abs(fields.count("adjective") - 100) < 40  # a standard deviation is 7
    assert all(attempt.negative_type == KINDS[attempt.field] for attempt in attempts)
    assert set(KINDS.values()) <= set(NEGATIVE_TYPES)


def test_what_the_checks_reject_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    caption = read("[A/DT white/JJ stove/NN] next/RB to/IN [black/JJ cabinets/NNS]")
    assert careful_texts(caption)
    monkeypatch.setattr(negclip_careful, "rejection", lambda *_: "length")
    assert careful_texts(caption) == {}


def test_a_caption_in_capitals_keeps_them() -> None:
    line = "[A/DT WHITE/JJ STOVE/NN] NEAR/IN [AN/DT ORANGE/JJ TABLE/NN]"
    assert careful_texts(read(line)) == {"adjective": ["AN ORANGE STOVE NEAR A WHITE TABLE"]}


def test_the_word_lists_own_writer_makes_absurd_swaps_where_it_may() -> None:
    texts = dict(
        RuleWriter(oddest_swap=3).write("A man holding a frisbee in a forest field.", np.random.default_rng(0))
    )
    assert texts["swap_obj"] == "A frisbee holding a man in a forest field."


class Reader:
    """A tagger of one caption, which a trained one of the tests would not know."""

    name = "reader-0"

    def tag(self, captions: Iterable[str]) -> Iterator[TaggedCaption]:
        """The same reading for every caption."""
        for _ in captions:
            yield read("[Two/CD white/JJ cats/NNS] and/CC [a/DT dog/NN] on/IN [a/DT black/JJ bed/NN]")


def test_a_row_depends_on_neither_order_nor_batch() -> None:
    writer = NegClipWriter(cast(Tagger, Reader()))
    captions = [(f"id{number}", "any") for number in range(20)]
    rows = writer.attempts(captions, seed=3)
    assert {row[0].field for row in rows} == set(KINDS)
    assert writer.attempts(captions[::-1], 3) == rows[::-1]
    assert [writer.attempts([one], 3)[0] for one in captions] == rows
    assert writer.attempts(captions, seed=4) != rows
