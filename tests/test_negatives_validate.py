"""Validation: what is refused and what is not, worked by hand, and laws that hold for every text."""

from __future__ import annotations

import random
import time
import unicodedata

import pytest

from negatives.checks import (
    equals_caption,
    is_meta_text,
    keeps_caption_words,
    keeps_content_words,
    keeps_numbers_and_negations,
    length_within,
)
from negatives.spans import changed_span, is_one_span
from negatives.types import NEGATIVE_TYPES
from negatives.validate import REASONS, rejection, validation_table
from negatives.word_forms import bare_words, words

KINDS = (*NEGATIVE_TYPES, "paraphrase")
CAPTION = "A brown dog sits on a red couch near two windows."


def random_words(rng: random.Random, count: int) -> list[str]:
    """Words of several scripts, with marks, numbers and punctuation among them."""
    pool = ["dog", "Hündin", "cats", "собака", "犬が", "สุนัข", "कुत्ता", "two", "2", "isn’t", "the", "🐶", "a-b", "'", "…"]
    return [rng.choice(pool) for _ in range(count)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A dog.", " a DOG"),
        ("a dog, asleep", "A dog asleep!"),
        ("café on the beach", unicodedata.normalize("NFD", "Café on the beach")),
        ("it’s a dog", "It's a dog"),
        ("a ｄｏｇ", "a dog"),
        ("STRASSE", "straße"),
        ("🐶", " 🐶 "),
    ],
)
def test_case_punctuation_space_and_encoding_never_count(one: str, other: str) -> None:
    assert equals_caption(one, other)
    assert equals_caption(other, one)
    for kind in KINDS:
        assert rejection(one, other, kind, ()) == "equals_caption"


@pytest.mark.parametrize(("one", "other"), [("🐶", "🐱"), ("a dog", "a dogs"), ("कि", "की"), ("the dog", "a dog")])
def test_other_words_are_not_the_caption(one: str, other: str) -> None:
    assert not equals_caption(one, other)


def test_scripts_without_spaces_are_judged_by_the_character() -> None:
    caption = "一只狗坐在红色的沙发上"
    assert rejection("一只猫坐在红色的沙发上", caption, "replace_obj", ()) == ""
    assert rejection("一只猫坐在蓝色的沙发上", caption, "replace_obj", ()) == "not_one_span"
    assert rejection("沙发坐在红色的一只狗上", caption, "swap_obj", ()) == ""
    assert rejection("一只猫坐在红色的沙发上", caption, "swap_obj", ()) == "content_words"


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("A cat chases a dog.", "a dog chases a cat"),
        ("Two dogs and a cat are here.", "a dog and two cats are here"),
        ("Women watch a child", "Children watch a woman"),
        ("A dog sits while cats stand", "A cat sits while dogs stand"),
        ("A black tub and black shelves on a white floor", "A white tub and white shelves on a black floor"),
        ("A donut with an ornate cup of coffee and a holder", "A donut with a coffee cup and an ornate holder"),
        ("A train car on a blue track", "A blue train car on a train track"),
        ("Some women ride bikes in front of a car", "A woman rides a bike in front of some cars"),
        ("Кошка гонит собаку", "Собака гонит кошку"),
        ("Eine Katze jagt einen Hund", "Ein Hund jagt eine Katze"),
    ],
)
def test_a_swap_may_change_articles_number_and_inflection(text: str, caption: str) -> None:
    assert keeps_content_words(text, caption)
    assert rejection(text, caption, "swap_obj", ()) == ""


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("A dog chases a bird", "A dog chases a cat"),
        ("A cat chases the dog", "A cat chases a dog"),
        ("A cat is chasing a small dog", "A dog is chasing a cat"),
        ("A white sink under a mirror", "A white bathroom sink under a bathroom mirror"),
        ("A white bathroom sink under a mirror", "A white bathroom sink under a bathroom mirror"),
        ("A lake under a bridge", "A bridge over a lake"),
        ("A coat floats near a boar", "A boar floats near a boat"),
    ],
)
def test_a_swap_that_changes_content_words_is_refused(text: str, caption: str) -> None:
    assert not keeps_content_words(text, caption)
    assert rejection(text, caption, "swap_att", ()) == "content_words"


def test_any_shuffle_of_words_keeps_them_and_no_replacement_does() -> None:
    rng = random.Random(0)
    names = ["apple", "bench", "cat", "dog", "engine", "frisbee", "giraffe", "house", "island", "jacket"]
    for _ in range(300):
        caption = rng.sample(names, rng.randint(2, 8))
        shuffled = rng.sample(caption, len(caption))
        assert keeps_content_words(" ".join(shuffled), " ".join(caption)) == (shuffled != caption)
        shuffled[0] = next(name for name in names if name not in caption)
        assert not keeps_content_words(" ".join(shuffled), " ".join(caption))


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("An elephant sits on a bench", "a dog sits on a bench."),
        ("An ox with blinders walks through a wooded area", "Horse with blinders walks through wooded area"),
        ("People are standing far from a bus", "People standing next to a bus"),
        ("A computer under a table", "A computer sitting on top of a table"),
        ("A pack of wolves lies on dry grass", "A herd of cows lies on dry grass"),
        ("A bathroom without a sink or a mirror", "A bathroom with a sink and a mirror"),
        ("Three men are on a bench", "A man is on a bench"),
        ("He is skiing with his dog", "She is skiing with her dog"),
        ("A dog does not sit on a bench", "A dog does sit on a bench"),
        ("cat", "dog"),
    ],
)
def test_a_replace_changes_one_span(text: str, caption: str) -> None:
    assert is_one_span(text, caption)
    assert rejection(text, caption, "replace_rel", ()) == ""


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("A black dog sits on a blue couch", "A brown dog sits on a red couch"),
        ("A cat on a chair", "A dog on a couch"),
        ("A cat or the dog", "A cat and a dog"),
        (
            "A man sits in a park with a dog and looks at birds",
            "A man eats in a cafe near some friends and looks at birds",
        ),
        ("An undecorated hydrant stands on the street", "A fire hydrant with an American flag design"),
    ],
)
def test_a_replace_of_more_than_one_span_is_refused(text: str, caption: str) -> None:
    assert not is_one_span(text, caption)
    assert rejection(text, caption, "replace_obj", ()) == "not_one_span"


def test_articles_alone_are_no_change() -> None:
    for kind in NEGATIVE_TYPES:
        assert rejection("The dog on the bench", "A dog is on a bench", kind, ()) != ""


def test_the_changed_span_is_the_smallest_that_a_slow_search_finds() -> None:
    rng = random.Random(1)
    for _ in range(300):
        caption = [rng.choice("bcdfg") * 3 for _ in range(rng.randint(1, 7))]
        text = list(caption)
        text[rng.randrange(len(text)) :][:1] = []
        start = rng.randint(0, len(text))
        text[start : start + rng.randint(0, 2)] = [rng.choice("bcdfg") * 3 for _ in range(rng.randint(0, 2))]
        before, after = changed_span(" ".join(text), " ".join(caption))
        lengths = [
            (len(caption) - head - tail)
            for head in range(len(caption) + 1)
            for tail in range(len(caption) - head + 1)
            if head + tail <= len(text) and caption[:head] == text[:head]
            if caption[len(caption) - tail :] == text[len(text) - tail :]
        ]
        assert len(before) == min(lengths)
        assert len(after) == min(lengths) + len(text) - len(caption)


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("There are 2 dogs", "Two dogs"),
        ("A pair of dogs", "two dogs"),
        ("Two dogs, both brown", "two brown dogs"),
        ("A person who skis", "A person on a pair of skis"),
        ("A dog and a cat", "one dog with one cat"),
        ("A room with no people", "A room without people"),
        ("A dog that isn’t wet", "a dog that is not wet"),
        ("A crowd of 1,000 at 10:30", "At 10:30, a 1000 people"),
        ("Bus no. ٣", "No. ٣ bus"),
    ],
)
def test_a_paraphrase_may_write_numbers_and_negations_otherwise(text: str, caption: str) -> None:
    assert keeps_numbers_and_negations(text, caption)
    assert rejection(text, caption, "paraphrase", ()) == ""


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("Three dogs on a bench", "Two dogs on a bench"),
        ("Dogs on a bench", "Two dogs on a bench"),
        ("Two men and dogs", "Two men and two dogs"),
        ("a couple of dogs", "three dogs"),
        ("A bus with number 12", "A bus with number 21"),
        ("A room with people in it", "A room with nobody in it"),
        ("A dog isn't wet", "a dog is wet"),
    ],
)
def test_a_paraphrase_of_other_numbers_or_negations_is_refused(text: str, caption: str) -> None:
    assert not keeps_numbers_and_negations(text, caption)
    assert rejection(text, caption, "paraphrase", ()) == "numbers_or_negations"


def test_an_addition_keeps_the_caption_and_has_more() -> None:
    assert keeps_caption_words("Two dogs and a cat are on a bench", "Two dogs on a bench")
    assert not keeps_caption_words("Two dogs are on a bench", "Two dogs on a bench")
    assert rejection("A wet dog on a chair by a tree", "A dog on a bench", "add_att", ()) == "words_lost"


@pytest.mark.parametrize(
    "text",
    [
        "Here is a cat on a bench",
        "Here's the caption: a cat",
        "Sure! A cat on a bench.",
        "The caption shows a cat",
        "Paraphrase: a cat on a bench",
        "I'm sorry, but a cat ...",
        "I cannot write this",
        "As an AI, I see a cat",
        "replace_obj: A cat on a bench",
        "1. A cat on a bench",
        "- A cat on a bench",
        "# A cat on a bench",
        "A **cat** on a bench",
        "`A cat on a bench`",
        '"A cat on a bench."',
        "“A cat on a bench”.",
        '{"replace_obj": "a cat"}',
        "A cat on a bench.\n\nA bird on a bench.",
        "<b>A cat</b>",
    ],
)
def test_meta_text_is_refused_unless_the_caption_has_it(text: str) -> None:
    assert is_meta_text(text)
    assert not is_meta_text(text, text)
    for kind in KINDS:
        assert rejection(text, "A dog on a bench", kind, ()) == "meta_text"


@pytest.mark.parametrize(
    "text",
    [
        "Two cats, 1.5 m apart",
        "3 cats on a bench",
        'A sign that says "here is a cat"',
        "'Tis a cat's bench",
        "A man (left) sure of himself",
        " A cat on a bench.\n",
        "A cat, of course",
        "The negative of a photo",
        "A street where I can see cats",
        "An i phone on a desk",
    ],
)
def test_what_people_write_is_no_meta_text(text: str) -> None:
    assert not is_meta_text(text)


def test_length_has_bounds_that_grow_with_the_caption() -> None:
    assert not length_within("x" * 9, "x" * 30)
    assert length_within("x" * 10, "x" * 30)
    assert length_within("x" * 120, "x" * 30)
    assert not length_within("x" * 121, "x" * 30)
    assert rejection("a dog " * 40, "a dog on a bench", "paraphrase", ()) == "length"


def test_a_text_of_another_caption_or_of_no_words_is_refused() -> None:
    others = {bare_words(text) for text in (CAPTION, "The dog's bed", "un café")}
    for kind in KINDS:
        assert rejection("the DOG’S bed!", CAPTION, kind, others) == "equals_other_caption"
        assert rejection(unicodedata.normalize("NFD", "Un café."), CAPTION, kind, others) == "equals_other_caption"
        assert rejection(" ...\n", CAPTION, kind, others) == "no_words"
        assert rejection("", CAPTION, kind, others) == "no_words"


def test_a_kind_that_does_not_exist_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of paraphrase, replace_obj, .* got 'flip'"):
        rejection("a cat", "a dog", "flip", ())


def test_any_text_gets_a_known_answer() -> None:
    rng = random.Random(2)
    for _ in range(500):
        text, caption = (" ".join(random_words(rng, rng.randint(0, 9))) for _ in range(2))
        for kind in KINDS:
            assert rejection(text, caption, kind, {bare_words(caption)}) in ("", *REASONS)
    for letters in ("\0\x85\u2028", "\ud800", "İıſK", "\u0301\u200d\ufeff", "²½⅓9" * 3000, "'" * 50, "((((", "[" * 99):
        for kind in KINDS:
            assert rejection(letters, CAPTION, kind, ()) in ("", *REASONS)
            assert rejection(CAPTION, letters, kind, ()) in ("", *REASONS)


def test_no_word_has_case_or_marks_round_it() -> None:
    rng = random.Random(3)
    for _ in range(200):
        text = " ".join(random_words(rng, 6))
        assert words(text) == words(text.upper().lower()) == words(f" «{text}» ")


@pytest.mark.parametrize("piece", ["dog ", "a_", "犬", "' \n", "<a", "12,", "caté", "* ", "“"])
def test_long_texts_take_time_in_proportion(piece: str) -> None:
    def seconds(length: int, run: int) -> float:
        text = f"{run} {piece * length}"[:length]  # a text that no run before has asked for
        start = time.perf_counter()
        for kind in ("swap_obj", "replace_att", "add_obj", "paraphrase"):
            for one, other in ((text + "x", text + "y"), ("cat " + text, "dog " + text + " two"), (text, "a dog")):
                rejection(one, other, kind, {other})
        return time.perf_counter() - start

    short, long = (min(seconds(length, run) for run in range(2)) for length in (1_000, 10_000))
    assert long < 40 * short + 0.1  # ten times the text; a quadratic step would take a hundred times as long


@pytest.mark.parametrize("kind", ["swap_obj", "paraphrase"])
def test_long_texts_in_another_order_take_time_in_proportion(kind: str) -> None:
    def seconds(length: int, run: int) -> float:
        # no word twice, two words alternating, and a noun that has all other words before it
        unlike = [f"word{run}{number}" for number in range(length)]
        alternating = [f"dog{run}", f"cat{run}"] * (length // 2)
        attributes = [f"{word} dog," for word in unlike]
        start = time.perf_counter()
        for found in (unlike, alternating, attributes):
            rejection(" ".join(found[::-1]), " ".join(found), kind, ())
        return time.perf_counter() - start

    seconds(10, 9)  # reads WordNet
    short, long = (min(seconds(length, run) for run in range(2)) for length in (200, 2_000))
    assert long < 40 * short + 0.1  # as above


def test_the_table_counts_by_kind_and_reason() -> None:
    rows = [("swap_obj", "meta_text"), ("paraphrase", ""), ("swap_obj", ""), ("swap_obj", "no_words"), ("swap_obj", "")]
    table = validation_table(iter(rows))
    assert table == {"swap_obj": {"valid": 2, "no_words": 1, "meta_text": 1}, "paraphrase": {"valid": 1}}
    assert list(table["swap_obj"]) == ["valid", "no_words", "meta_text"]
