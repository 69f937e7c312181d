"""What a chat model's texts are worth: the edit that it names is the edit that it made."""

from __future__ import annotations

import json

import pytest

from negatives.chat.messages import Answer, ChatRequest
from negatives.gpt.prompts import write_request
from negatives.gpt.prompts.answers import Item
from negatives.gpt.recipe import PromptRecipe
from negatives.gpt.verdict import OTHER_EDIT, reason_of

CAPTION = "A dog chases two cats near an old dog."
KINDS = ("replace_obj", "swap_obj", "paraphrase")


@pytest.mark.parametrize(
    ("kind", "edit", "text", "reason"),
    [
        ("replace_obj", ("dog", "fox"), "A fox chases two cats near an old dog.", ""),
        # the second of two places, and an article that follows
        ("replace_obj", ("old dog", "hare"), "A dog chases two cats near a hare.", ""),
        # case, punctuation and number of the verb are no edits of their own
        ("replace_obj", ("A DOG", "two foxes"), "Two foxes chase two cats near an old dog", ""),
        ("replace_obj", ("dog", "wolf"), "A fox chases two cats near an old dog.", OTHER_EDIT),
        ("replace_obj", ("dog", "fox"), "A fox chases two birds near an old dog.", OTHER_EDIT),
        ("replace_obj", ("kitten", "fox"), "A fox chases two cats near an old dog.", OTHER_EDIT),
        ("replace_obj", ("do", "fo"), "A fog chases two cats near an old dog.", OTHER_EDIT),
        ("replace_obj", ("", "fox"), "A fox chases two cats near an old dog.", OTHER_EDIT),
        ("replace_obj", ("", "small"), "A small dog chases two cats near an old dog.", OTHER_EDIT),
        ("replace_obj", ("near an old dog", ""), "A dog chases two cats.", OTHER_EDIT),
        ("replace_obj", ("dog", "fox"), "A dog chases two cats near an old dog.", "equals_caption"),
        ("swap_obj", ("A dog", "two cats"), "Two cats chase a dog near an old dog.", ""),
        ("swap_obj", ("two cats", "old dog"), "A dog chases an old dog near two cats.", ""),
        ("swap_obj", ("two cats", "cats near"), "Two cats chase a dog near an old dog.", OTHER_EDIT),
        ("swap_obj", ("dog chases", "chases two"), "A chases two dog chases cats near an old dog.", OTHER_EDIT),
        ("swap_obj", ("dog", "fox"), "Two cats chase a dog near an old dog.", OTHER_EDIT),
        ("swap_obj", ("A dog", "two cats"), "An old dog chases two cats near a dog, two cats.", "content_words"),
        ("paraphrase", None, "Two cats are being chased by a dog close to an old dog.", ""),
    ],
)
def test_a_text_is_the_caption_with_the_edit_that_is_said(
    kind: str, edit: tuple[str, str] | None, text: str, reason: str
) -> None:
    # stricter checks of the text alone come first, and may find another fault than the edit
    found = reason_of(Item(text, edit), CAPTION, kind, ())
    assert found == reason or (found and reason == OTHER_EDIT)


def test_words_without_spaces_are_edited_too() -> None:
    item = Item("一只猫在沙发上", ("狗", "猫"))
    assert reason_of(item, "一只狗在沙发上", "replace_obj", ()) == ""
    assert reason_of(item._replace(edit=("狗", "鸟")), "一只狗在沙发上", "replace_obj", ()) == OTHER_EDIT


def answer_to(request: ChatRequest, **texts: list[object]) -> Answer:
    text = json.dumps({kind: texts.get(kind, []) for kind in KINDS})
    return Answer(request.key, 0, "ok", text, "m", 1, 1, "text", "stop")


def test_an_answer_serves_by_one_valid_text_or_by_saying_that_there_is_none() -> None:
    recipe = PromptRecipe("m", KINDS)
    request = recipe.request("A dog on a mat")
    good, bad = ({"old": "dog", "new": new, "text": "A fox on a mat"} for new in ("fox", "cat"))
    assert recipe.serves(request, answer_to(request))
    assert recipe.serves(request, answer_to(request, replace_obj=[good]))
    assert not recipe.serves(request, answer_to(request, replace_obj=[bad]))
    assert not recipe.serves(request, answer_to(request, replace_obj=[bad], paraphrase=["A dog on a mat!"]))
    assert recipe.serves(request, answer_to(request, replace_obj=[bad], paraphrase=["On a mat there is a dog"]))
    # texts beyond the recipe's count are not used
    first = write_request("A dog on a mat", KINDS, model="m", version="v1")
    assert not recipe.serves(first, answer_to(first, replace_obj=["a dog on a mat", "A fox on a mat"]))
    # settled when it arrived, whatever today's parser says of it
    assert recipe.serves(request, Answer(request.key, 0, "ok", "{}", "m", 1, 1, "text", "stop"))
