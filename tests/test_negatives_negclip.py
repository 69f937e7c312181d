"""Laws of NegCLIP's phrase swaps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from negatives.tables.files import InputError
from negatives.types import NEGATIVE_TYPES
from negatives.writers import build_writer
from negatives.writers.negclip import (
    KINDS,
    NegClipWriter,
    exchangeable,
    exchanged,
    phrases,
    reference_attempt,
    replaced,
    span_text,
)
from negatives.writers.tagging import TaggedCaption, Tagger
from tests.tiny_spacy import pipeline, tagged, tagger

RICH = dataclasses.replace(
    tagged("The old man is slowly standing near two trees and a small dog quickly rides the dogs ."),
    noun_chunks=((0, 3), (7, 9), (10, 13), (15, 17)),
)


def written(caption: TaggedCaption, draws: int = 200) -> set[tuple[str, str, str]]:
    """All that is written for a caption over many draws."""
    attempts = [reference_attempt(caption, np.random.default_rng(seed)) for seed in range(draws)]
    return {(attempt.field, attempt.negative_type, attempt.text) for attempt in attempts}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("noun_chunk", ["The old man", "a small dog"]),  # "two trees" and "the dogs" have two words
        ("verb_phrase", ["is slowly standing", "quickly rides"]),
        ("singular_noun", ["man", "dog"]),
        ("plural_noun", ["trees", "dogs"]),
        ("adverb", ["slowly", "quickly"]),
        ("adjective", ["old", "small"]),
    ],
)
def test_phrases_of_a_kind_are_those_found_by_hand(kind: str, expected: list[str]) -> None:
    assert [span_text(RICH, span) for span in phrases(RICH, kind)] == expected


def test_every_kind_is_drawn_and_exchanges_its_two_phrases() -> None:
    assert written(RICH) == {
        (
            *("noun_chunk", "swap_obj"),
            "A small dog is slowly standing near two trees and the old man quickly rides the dogs .",
        ),
        (
            *("verb_phrase", "swap_att"),
            "The old man quickly rides near two trees and a small dog is slowly standing the dogs .",
        ),
        (
            *("singular_noun", "swap_obj"),
            "The old dog is slowly standing near two trees and a small man quickly rides the dogs .",
        ),
        (
            *("plural_noun", "swap_obj"),
            "The old man is slowly standing near two dogs and a small dog quickly rides the trees .",
        ),
        (
            *("adverb", "swap_att"),
            "The old man is quickly standing near two trees and a small dog slowly rides the dogs .",
        ),
        (
            *("adjective", "swap_att"),
            "The small man is slowly standing near two trees and a old dog quickly rides the dogs .".replace(
                "a old", "an old"
            ),
        ),
    }


def test_kinds_are_drawn_alike_however_many_pairs_they_have() -> None:
    caption = tagged(
        "A man rides a dog under a tree near a horse in a park quickly and an old cat slowly chases trees ."
    )
    fields = [reference_attempt(caption, np.random.default_rng(seed)).field for seed in range(600)]
    # two kinds have a pair (verbs: rides, slowly chases; adverbs), and so have the singular nouns, fifteen pairs
    counts = {kind: fields.count(kind) for kind in set(fields)}
    assert set(counts) == {"verb_phrase", "singular_noun", "adverb"}
    assert all(abs(count - 200) < 50 for count in counts.values())  # a standard deviation is 12


def test_negative_types_are_known_to_the_tables() -> None:
    assert set(KINDS.values()) <= set(NEGATIVE_TYPES)


def test_only_the_phrases_are_hit_and_not_the_letters_elsewhere() -> None:
    caption = tagged("A man chases a woman near an umbrella")
    texts = {text for _, _, text in written(caption)}
    assert texts == {
        "A woman chases a man near an umbrella",
        "An umbrella chases a woman near a man",
    }  # "a woman near an umbrella" is "an umbrella near a woman"


@pytest.mark.parametrize(
    ("text", "first", "second", "expected"),
    [
        ("A dog chases an umbrella", 1, 4, "An umbrella chases a dog"),
        ("Dogs chases trees", 0, 2, "Trees chases dogs"),
        ("A Dog chases a Ball", 1, 4, "A Ball chases a Dog"),
        ("THE DOG CHASES A BALL", 1, 4, "THE BALL CHASES A DOG"),
        ("A DOG CHASES AN UMBRELLA", 1, 4, "AN UMBRELLA CHASES A DOG"),
    ],
)
def test_first_letters_keep_their_case_and_articles_follow(text: str, first: int, second: int, expected: str) -> None:
    assert exchanged(tagged(text), (first, first + 1), (second, second + 1)) == expected


@pytest.mark.parametrize(
    ("caption", "place", "word", "expected"),
    [
        ("A bicycle", 2, "unicycle", "A unicycle"),
        ("An apple", 3, "hour", "An hour"),
        ("A day", 2, "hour", "An hour"),
        ("A hat", 2, "hour", "An hour"),
        ("a book", 2, "umbrella", "an umbrella"),
        ("an apple", 3, "one-way street", "a one-way street"),
        ("A DAY", 2, "HOUR", "AN HOUR"),
    ],
)
def test_an_article_follows_the_sound_and_not_the_letter(caption: str, place: int, word: str, expected: str) -> None:
    assert replaced(caption, place, len(caption), word) == expected


def test_identical_phrases_are_never_exchanged() -> None:
    assert written(tagged("Dog chases a dog")) == {("", "swap_obj", "")}
    assert {text for *_, text in written(tagged("A dog chases a dog under a tree"))} == {
        "A tree chases a dog under a dog",
        "A dog chases a tree under a dog",
    }


@pytest.mark.parametrize(
    "text",
    [
        "a dog and a cat",
        "a dog , a cat and the horse",
        "a dog near a cat",
        "a big red dog",
        "a red and brown dog",
        "a baseball player",
        "a man sitting and standing",
    ],
)
def test_members_of_a_list_say_the_same_in_any_order(text: str) -> None:
    attempt = reference_attempt(tagged(text), np.random.default_rng(0))
    assert (attempt.text, attempt.detail) == ("", "no two phrases of one kind that can change places")


def test_what_modifies_one_member_of_a_list_makes_the_order_say_something() -> None:
    one = tagged("a red dog and a cat")
    assert exchangeable(one, phrases(one, "singular_noun")) == [((2, 3), (5, 6))]
    caption = tagged("a red dog and a brown cat")
    assert {text for *_, text in written(caption)} == {"a red cat and a brown dog", "a brown dog and a red cat"}
    assert exchangeable(caption, [(1, 2), (5, 6)]) == [((1, 2), (5, 6))]


def test_what_the_checks_reject_is_drawn_again() -> None:
    texts = {text for _, _, text in written(tagged("a red dog and cat under a tree"))}
    assert "a red cat and dog under a tree" not in texts, "both may be red"
    assert texts == {"a red tree and cat under a dog", "a red dog and tree under a cat"}


def test_a_caption_of_which_every_exchange_is_rejected_gets_none() -> None:
    attempt = reference_attempt(tagged("a red dog and cat"), np.random.default_rng(0))
    assert (attempt.text, attempt.detail) == ("", "no two phrases of one kind that can change places")


def test_a_row_depends_on_neither_order_nor_batch() -> None:
    texts = ["A small dog chases a red ball", "The old man rides a brown horse", "A dog runs", "a red cat on a big dog"]
    captions = [(f"id{number}", text) for number, text in enumerate(texts * 2)]
    writer = NegClipWriter(tagger(parser=True), "reference")
    rows = writer.attempts(captions, seed=3)
    small = Tagger(pipeline(parser=True), noun_chunks=True, batch_size=3)
    assert NegClipWriter(small, "reference").attempts(captions[::-1], 3) == rows[::-1]
    assert [writer.attempts([caption], 3)[0] for caption in captions] == rows
    assert writer.attempts(captions, seed=4) != rows
    assert [bool(row[0].text) for row in rows[:4]] == [True, True, False, True]


def test_noun_chunks_of_a_parsed_caption_change_places() -> None:
    writer = NegClipWriter(tagger(parser=True), "reference")
    captions = [(str(number), "The old man rides a brown horse.") for number in range(60)]
    chunks = {row[0].text for row in writer.attempts(captions, 0) if row[0].field == "noun_chunk"}
    assert chunks == {"A brown horse rides the old man."}


def test_a_writer_without_a_parser_is_refused_when_the_tagger_is_made() -> None:
    with pytest.raises(ValueError, match="parser for noun chunks"):
        Tagger(pipeline(), noun_chunks=True)


VERSION_2 = [
    "A small dog chases a red ball",
    "The old man rides a brown horse",
    "a dog is slowly standing near a tree and a child quickly rides",
    "a red cat on a big dog",
    "a man in a park near no dog",
]


def test_reference_writes_the_very_texts_of_version_2() -> None:
    captions = [(f"id{number}", text) for number, text in enumerate(VERSION_2)]
    rows = NegClipWriter(tagger(parser=True), "reference").attempts(captions, 3)
    assert [(row[0].field, row[0].text) for row in rows] == [
        ("adjective", "A red dog chases a small ball"),
        ("singular_noun", "The old horse rides a brown man"),
        ("verb_phrase", "a dog quickly rides near a tree and a child is slowly standing"),
        ("adjective", "a big cat on a red dog"),
        ("singular_noun", "a dog in a park near no man"),
    ]


def test_the_mode_and_the_version_are_careful_unless_asked_otherwise() -> None:
    spacy = {"pipeline": pipeline(parser=True)}
    # rows of version 2 recorded no mode
    versions = {
        build_writer("negclip", {"spacy": spacy, **given}).version
        for given in ({}, {"negclip": {}}, {"negclip": {"mode": "careful"}})
    }
    assert versions == {"3-careful"}
    assert build_writer("negclip", {"spacy": spacy, "negclip": {"mode": "reference"}}).version == "2-reference"
    with pytest.raises(InputError, match="must be one of careful reference, got 'fast'"):
        NegClipWriter(tagger(parser=True), "fast")
