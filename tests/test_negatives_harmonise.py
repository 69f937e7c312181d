"""Harmonising changes how a negative is written and never what it says."""

from __future__ import annotations

import random
import re
import time

import pyarrow as pa
import pytest

from negatives.filtering.harmonise import harmonise, harmonise_table
from negatives.tables.files import InputError

PIECES = (
    *("a", "A", "the", "dog", "Dog", "DOG", "cat", "Paris", "NASA", "iPhone", "U", "S", "don", "t", "2", "_"),
    *("İstanbul", "istanbul", "ısı", "Isı", "Straße", "STRASSE", "ẞ", "ŉ", "ǰ", "ǅ", "ﬁn", "Σίσυφος", "猫", "كلب"),
    *("🐈", "\u0307", "\u200d", '"', "'", "’", "(", ")", "-", "/", "…", "。", ".", "!", "?", ";", ":"),
    *(",", ", ", " , ", " ", " ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u3000"),
)


def words_of(text: str) -> list[str]:
    return [word.casefold() for word in re.findall(r"\w+", text)]


def random_texts(number: int, seed: int) -> list[tuple[str, str]]:
    """Pairs of texts of arbitrary pieces; the second half of them share many words, as a positive and its negative."""
    rng = random.Random(seed)
    pairs = []
    for index in range(number):
        positive = rng.choices(PIECES, k=rng.randrange(14))
        negative = rng.choices(PIECES, k=rng.randrange(14))
        if index % 2:
            negative = [rng.choice(PIECES) if rng.random() < 0.3 else piece for piece in positive]
            place = rng.randrange(len(negative) + 1)
            negative = negative[place:] + negative[:place] if index % 4 == 1 else negative
        pairs.append(("".join(positive), "".join(negative)))
    return pairs


RANDOM = random_texts(4000, seed=0)


def test_the_words_of_the_negative_never_change() -> None:
    for positive, negative in RANDOM:
        assert words_of(harmonise(positive, negative)) == words_of(negative), (positive, negative)


def test_harmonising_twice_changes_nothing_more() -> None:
    for positive, negative in RANDOM:
        once = harmonise(positive, negative)
        assert harmonise(positive, once) == once, (positive, negative)


def restyled(text: str, rng: random.Random) -> str:
    """The same words in another casing, with other marks and white space around and between them."""
    cases = (str.lower, str.upper, str.title, str)
    marks = (" ", "  ", ", ", " - ", ". ", "\n")
    words = re.findall(r"\w+", text)
    recased = [rng.choice(cases)(word) for word in words]
    same = [new if words_of(new) == words_of(old) else old for new, old in zip(recased, words, strict=True)]
    return rng.choice(("", " ", '"')) + rng.choice(marks).join(same) + rng.choice(("", ".", " !", "  ", '."'))


def test_the_positive_in_another_style_becomes_the_positive() -> None:
    rng = random.Random(1)
    for positive, _ in RANDOM:
        if words_of(positive):
            assert harmonise(positive, restyled(positive, rng)) == positive, positive


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("A dog runs.", "A cat runs."),
        ("a man rides a horse", "a horse rides a man"),
        ("Two dogs, one brown, on grass. ", "Two dogs, one black, on grass. "),
        ("A man visits Paris", "A woman visits London"),
        ("TWO DOGS", "TWO CATS"),
        ("一只猫。", "一只狗。"),
    ],
)
def test_a_negative_of_equal_style_stays_as_it_is(positive: str, negative: str) -> None:
    assert harmonise(positive, negative) == negative


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        ("a dog runs", "A cat runs.", "a cat runs"),
        ("A dog runs ", "A dog sits.", "A dog sits "),
        (" A dog  runs !", "A cat runs.", " A cat  runs !"),
        ("A dog runs.", "a cat runs", "A cat runs."),
        ("A DOG RUNS", "A cat runs.", "A CAT RUNS"),
        ("A dog in PARIS", "Dogs in Paris.", "Dogs in PARIS"),
    ],
)
def test_casing_final_marks_and_white_space_are_the_positives(positive: str, negative: str, expected: str) -> None:
    assert harmonise(positive, negative) == expected


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        ("A dog and a cat on grass", "A dog, and a bird on grass", "A dog and a bird on grass"),
        ("A dog , a cat , a bird", "A dog, a horse, a bird", "A dog , a horse , a bird"),
        ("A black and white cat", "A big black-and-white cat", "A big black and white cat"),
        ("A dogs tail", "A red,green tail", "A red green tail"),
        ("A dog, a cat", "A dog, a red; cat", "A dog, a red; cat"),
        ("A dog's tail", "A dog’s ear", "A dog's ear"),
    ],
)
def test_marks_between_shared_words_are_the_positives(positive: str, negative: str, expected: str) -> None:
    assert harmonise(positive, negative) == expected


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        ("A man visits Paris", "A man visits London.", "A man visits London"),
        ("Bob sees a dog", "A dog sees Bob.", "A dog sees Bob"),
        ("the dog sees Bob", "Bob sees the dog.", "Bob sees the dog"),
        ("A rocket of NASA", "An iPhone of ESA.", "An iPhone of ESA"),
        ("the rocket of NASA", "ESA has a rocket.", "ESA has a rocket"),
        ("the rocket of NASA", "A rocket of ESA.", "a rocket of ESA"),
        ("2 dogs in Paris", "Two dogs in Paris", "Two dogs in Paris"),
    ],
)
def test_names_keep_their_capital_where_the_positive_has_capitals(positive: str, negative: str, expected: str) -> None:
    assert harmonise(positive, negative) == expected


@pytest.mark.parametrize(
    ("positive", "negative"),
    [("a man visits paris", "A man visits London."), ("a dog", "NASA has a Dog"), ("the dog 🐈", "An iPhone 🐈")],
)
def test_nothing_has_a_capital_where_the_positive_has_none(positive: str, negative: str) -> None:
    assert harmonise(positive, negative) == harmonise(positive, negative).lower()


def test_a_first_word_that_moves_leaves_its_capital_behind() -> None:
    assert harmonise("Two dogs sit", "A cat and two dogs sit.") == "A cat and two dogs sit"
    assert harmonise("Two dogs sit", "dogs sit.") == "Dogs sit"


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        ("", "A cat.", "A cat."),
        ("...", "A cat.", "A cat."),
        ("a dog", "", ""),
        ("a dog", " ?! ", " ?! "),
        ("", "", ""),
        ("🐕", "A cat 🐈", "A cat 🐈"),
        ("a dog 🐕", "A cat 🐈", "a cat 🐈"),
        ("istanbulda bir kedi", "İstanbulda bir köpek.", "İstanbulda bir köpek"),  # its small letter is two signs
        ("ISI VE KEDİ", "ısı ve köpek", "ısı VE KÖPEK"),  # the capital of ı is the capital of i
        ("DIE STRASSE", "die große Straße", "DIE GROSSE STRASSE"),  # ß and SS are one word, case aside
        ("die straße", "Die Strasse und der Hund.", "die straße und der hund"),
        ("一只猫 在草地上", "一只狗 在草地上。", "一只狗 在草地上"),
        ("قطة على العشب", "كلب على العشب.", "كلب على العشب"),
        ("猫", "TV.", "TV"),
    ],
)
def test_texts_of_any_script_and_of_no_word(positive: str, negative: str, expected: str) -> None:
    assert harmonise(positive, negative) == expected


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("a dog and " * 1000, "A cat, or " * 1000),
        ("a b " * 2500, "B A " * 2500),
        ("a" + " ." * 5000 + '"', "b" + " ." * 5000 + "'"),
        (" " * 10_000 + "a", "b" + "," * 10_000 + "c"),
        ("x" * 10_000, "Y" * 10_000),
        ("a" + ", " * 5000 + "b", ", ".join("cdefghij" * 1250)),
    ],
)
def test_long_texts_are_quick(positive: str, negative: str) -> None:
    start = time.process_time()
    once = harmonise(positive, negative)
    assert time.process_time() - start < 1.0
    assert words_of(once) == words_of(negative)


def tables() -> tuple[pa.Table, pa.Table]:
    captions = pa.table({"caption_id": ["1", "2"], "caption": ["a dog runs", "A man , smiling. "]})
    negatives = pa.table(
        {
            "note": [1, 2, 3, 4],
            "caption_id": ["2", "1", "2", "1"],
            "negative_id": ["p", "q", "r", "s"],
            "caption": ["A woman, smiling", "A cat runs.", "A man, crying.", "..."],
            "extra": [None, "x", None, "y"],
        }
    )
    return captions, negatives


def test_a_table_is_rewritten_by_caption_id_and_in_its_captions_only() -> None:
    captions, negatives = tables()
    table = harmonise_table(captions, negatives)
    assert table["caption"].to_pylist() == ["A woman , smiling. ", "a cat runs", "A man , crying. ", "..."]
    assert table.column_names == negatives.column_names
    assert table.drop_columns(["caption"]).equals(negatives.drop_columns(["caption"]))
    assert captions.equals(tables()[0])


def test_the_order_of_rows_does_not_matter() -> None:
    captions, negatives = tables()
    shuffled = harmonise_table(captions.take([1, 0]), negatives.take([3, 1, 0, 2]))
    assert shuffled.equals(harmonise_table(captions, negatives).take([3, 1, 0, 2]))


def test_a_table_without_negatives_stays_empty() -> None:
    captions, negatives = tables()
    assert harmonise_table(captions, negatives[:0]).equals(negatives[:0])


def test_progress_sees_every_negative() -> None:
    seen: list[object] = []
    harmonise_table(*tables(), progress=lambda rows: (seen.append(row) or row for row in rows))
    assert len(seen) == 4


def test_a_negative_without_its_caption_is_an_error() -> None:
    captions, negatives = tables()
    with pytest.raises(InputError, match=r"2 of 4 rows .* such as '1'\. Give their captions too") as error:
        harmonise_table(captions[1:], negatives)
    assert "\n" not in str(error.value)
