"""Validation knows what is false: what follows from a caption is no negative, and what does not is no paraphrase."""

from __future__ import annotations

from pathlib import Path

import pytest

from negatives.types import NEGATIVE_TYPES, PARAPHRASE, PARAPHRASED
from negatives.validate import REASONS, rejection

REPLACED = [name for name, row in NEGATIVE_TYPES.items() if row.family == "replace"]


def rejected(caption: str, text: str, kind: str = "replace_obj") -> str:
    return rejection(text, caption, kind, ())


@pytest.mark.parametrize("kind", REPLACED)
@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("A man is flying a kite at the beach.", "A man is flying a kite."),
        ("A young boy rides a horse", "A boy rides a horse"),
        ("A computer sitting on top of a desk", "A computer on a desk"),
        ("A man without a hat on a bench", "A man on a bench"),
        ("A man in an empty room", "A man in a room"),
        ("Two dogs on a bed", "Dogs on a bed"),
    ],
)
def test_a_replacement_that_only_deletes_is_rejected(kind: str, caption: str, text: str) -> None:
    assert rejected(caption, text, kind) == "only_deletes"


@pytest.mark.parametrize(
    ("caption", "text"),
    [("A room with no people", "A room with people"), ("A man on a fake horse", "A man on a horse")],
)
def test_what_a_negation_or_a_fake_takes_back_may_be_deleted(caption: str, text: str) -> None:
    assert rejected(caption, text) == ""


@pytest.mark.parametrize(
    ("caption", "text", "reason"),
    [
        ("A man on a bench", "A tall man on a bench", "only_adds"),
        ("A man on a bench", "A man in a coat on a bench", "only_adds"),
        ("Dogs on a bench", "Two dogs on a bench", "only_adds"),
        ("A man is on a bench", "A man is not on a bench", ""),
        ("A man on a bench", "A man on an empty bench", ""),
        ("People smoking in a room", "People non-smoking in a room", ""),
        ("Dogs on a bench", "A single dog on a bench", ""),
        ("A man is on a bench", "Three men are on a bench", ""),
    ],
)
def test_an_insertion_passes_only_where_it_contradicts(caption: str, text: str, reason: str) -> None:
    assert rejected(caption, text, "replace_att") == reason


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("A man rides a horse", "A person rides a horse"),
        ("Two women ride horses", "Two people ride horses"),
        ("People ride horses", "Individuals ride horses"),
        ("A spaniel sleeps on a rug", "A dog sleeps on a rug"),
        ("A goblet on a table", "A glass on a table"),
        ("A boy on a bike", "A boy on a bicycle"),
        ("A young boy on a bike", "A male child on a bike"),
        ("A scarlet coat on a hook", "A red coat on a hook"),
        ("A car in the rain", "A bumper in the rain"),
        ("A man strolls along a canal", "A man walks along a canal"),
        ("A man competing in a race", "A man contending in a race"),
        ("A cat beneath a table", "A cat under a table"),
        ("A woman in makeup", "A woman in make-up"),
        ("A herd of motocycles in a lot", "A herd of motorcycles in a lot"),
        ("A dog stands in the grass", "A dog is positioned in the grass"),
    ],
)
@pytest.mark.parametrize("kind", REPLACED)
def test_a_synonym_a_more_general_word_or_a_part_is_rejected(kind: str, caption: str, text: str) -> None:
    assert rejected(caption, text, kind) == "implied"


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("A person rides a horse", "A fisherman rides a horse"),
        ("A man rides a horse", "A woman rides a horse"),
        ("A young boy rides a horse", "An elderly man rides a horse"),
        ("A black dog on a rug", "A brown animal on a rug"),
        ("Two kids fly a kite", "Two kids repair a kite"),
        ("A man holds a ball", "A man throws a ball"),
        ("A bumper in the rain", "A car in the rain"),
        ("A hot dog on a plate", "A teddy bear on a plate"),
        ("A man on a bench", "A man by a bench"),
        ("A full vase on a desk", "An empty vase on a desk"),
        ("The plane on a desk", "The plan on a desk"),
        ("The ski against a wall", "The sky against a wall"),
        ("A cut cake", "A cute cake"),
    ],
)
def test_what_does_not_follow_passes(caption: str, text: str) -> None:
    assert rejected(caption, text) == ""


@pytest.mark.parametrize(
    ("caption", "text", "reason"),
    [
        ("Four people on a hill", "Two people on a hill", "fewer"),
        ("4 people on a hill", "2 people on a hill", "fewer"),
        ("Several people on a hill", "Two people on a hill", "fewer"),
        ("A group of men on a hill", "A couple of men on a hill", "fewer"),
        ("Many dogs on a hill", "A dog on a hill", "fewer"),
        ("Two people on a hill", "A person on a hill", "fewer"),
        ("Dogs on a hill", "Dog on a hill", "fewer"),
        ("Two people on a hill", "Four people on a hill", ""),
        ("Four men on a hill", "Only two men on a hill", ""),
        ("Four men on a hill", "A lone man on a hill", ""),
        ("Four men on a hill", "Exactly two men on a hill", ""),
        ("A four door car on a hill", "A two door car on a hill", ""),
        ("Bus number 12 stops", "Bus number 7 stops", ""),
    ],
)
def test_numbers_know_their_direction(caption: str, text: str, reason: str) -> None:
    assert rejected(caption, text, "replace_att") == reason


@pytest.mark.parametrize("kind", ["swap_obj", "swap_att"])
@pytest.mark.parametrize(
    ("caption", "text", "reason"),
    [
        ("A cat and a dog on a bed", "A dog and a cat on a bed", "list_order"),
        ("A black cat and a white dog", "A white dog and a black cat", "list_order"),
        ("A cup, a fork, and a plate on a mat", "A plate, a cup and a fork on a mat", "list_order"),
        ("A man sits between a cat or a dog", "A man sits between a dog or a cat", "list_order"),
        ("Two dogs and a cat on a bed", "A cat and two dogs on a bed", "list_order"),
        ("A cat next to a dog", "A dog next to a cat", "list_order"),
        ("A bike chases a bicycle", "A bicycle chases a bike", "equal_things"),
        ("A man flies a kite in a park", "In a park, a man flies a kite", "reordered"),
        ("A dog chases a ball", "A ball is chased by a dog", "reordered"),
        ("A black and white cat", "A white and black cat", "list_order"),
        ("A red dog and cat on a bed", "A red cat and dog on a bed", "list_order"),  # either may be red
        ("A black cat and a white dog", "A white cat and a black dog", ""),
        ("A red dog and a cat on a bed", "A red cat and a dog on a bed", ""),
        ("A room with brown, soft chairs and a red wall", "A room with red, soft chairs and a brown wall", ""),
        ("Two dogs and a cat on a bed", "A dog and two cats on a bed", ""),
        ("Two dogs and a cat on a bed", "Two cats and a dog on a bed", ""),
        ("A dog chases a cat", "A cat chases a dog", ""),
        ("A man with a hat on a bench", "A hat with a man on a bench", ""),
        ("A cat on a mat under a table", "A cat on a table under a mat", ""),
    ],
)
def test_a_swap_moves_more_than_a_list(kind: str, caption: str, text: str, reason: str) -> None:
    assert rejected(caption, text, kind) == reason


@pytest.mark.parametrize(
    ("caption", "text", "reason"),
    [
        ("A cup of cappuccino", "A cup of cappuccino coffee", "implied"),
        ("A cat on a bed", "A cat positioned on a bed", "implied"),
        ("A cat on a bed", "A bed contains a cat in it", "implied"),
        ("A cat on a bed", "A cat on a bed in this scene", "implied"),
        ("A cat on a bed", "A cat and a giraffe on a bed", ""),
        ("A blue bike on a side walk", "A blue bike and a trumpet on a sidewalk", ""),
        ("A bike by a post", "A giraffe by a post next to a bike", ""),
    ],
)
def test_an_addition_says_more_than_the_caption(caption: str, text: str, reason: str) -> None:
    assert rejected(caption, text, "add_obj") == reason


@pytest.mark.parametrize(
    ("caption", "text", "reason"),
    [
        ("A dog sleeps on a red couch", "A train at a station", "little_shared"),
        ("A dog sleeps on a red couch", "A cat sleeps on a red couch", "small_edit"),
        ("A dog sleeps on a red couch", "A dog sleeps on a red couch by a lamp", "small_edit"),
        ("A dog chases a man", "A man chases a dog", "reversed_relation"),
        ("A black cat on a white rug", "A white cat is lying on a black rug", "moved_attribute"),
        ("A dog sleeps on a red couch", "A dog is sleeping on a scarlet sofa", ""),
        ("A dog sleeps on a red couch", "On a red couch sleeps a dog", ""),
        ("A cat next to a dog", "A dog next to a cat", ""),
        ("A dog chases a man", "A man is chased by a dog", ""),
        ("A group of people on horses", "Individuals on equines", ""),
        ("A cat on a couch", "A cat is positioned on a couch", ""),
        ("A cat sitting on a mat", "A cat lying on a mat", "small_edit"),
        ("A cat on a mat", "A cat sitting on a mat", ""),
        ("A cat with a dog in the background", "A dog with a cat in the background", "reversed_relation"),
        ("There are two dogs that pull a cart", "A cart that pulls two dogs", "reversed_relation"),
        ("A man falls off his board in a park", "A board falls off a man in a park", "reversed_relation"),
    ],
)
def test_a_paraphrase_says_the_same(caption: str, text: str, reason: str) -> None:
    assert rejected(caption, text, PARAPHRASE) == reason


def test_every_check_has_a_reason_of_its_own_and_a_test_that_names_it() -> None:
    reasons = {*PARAPHRASED, *(reason for row in NEGATIVE_TYPES.values() for reason in row.checks)}
    assert reasons < set(REASONS)
    here, beside = (Path(__file__).with_name(f"test_negatives_{name}.py").read_text() for name in ("truth", "validate"))
    assert [reason for reason in reasons if f'"{reason}"' not in here + beside] == []
