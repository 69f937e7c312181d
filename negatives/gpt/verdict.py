"""What a chat model's texts are worth: each is validated, and where none of an answer is valid, it is asked again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from negatives.chat.messages import Answer, ChatRequest
from negatives.gpt.prompts import caption_of
from negatives.gpt.prompts.answers import AnswerError, Item, parse_answer
from negatives.spans import changed_span
from negatives.types import SWAP, family_of
from negatives.validate import rejection
from negatives.word_forms import words

OTHER_EDIT = "other_edit"
"""The rejection of a text that is not the caption with the change that the model says it made."""


def reason_of(item: Item, caption: str, kind: str, others: Collection[str]) -> str:
    """Why a text of an answer is to be rejected: as `validate.rejection`, or `OTHER_EDIT`; "" where nothing speaks
    against it.

    >>> reason_of(Item("A cat on a mat", ("dog", "cat")), "A dog on a mat", "replace_obj", ())
    ''
    >>> reason_of(Item("A cat on a mat", ("mat", "rug")), "A dog on a mat", "replace_obj", ())
    'other_edit'
    """
    reason = rejection(item.text, caption, kind, others)
    if reason or item.edit is None:
        return reason
    return "" if _is_said(item.text, caption, item.edit, is_swap=family_of(kind) == SWAP) else OTHER_EDIT


def serves(request: ChatRequest, answer: Answer, count: int) -> bool:
    """Whether an "ok" answer settles its request: it has a valid text, or says that there is nothing to write.

    Whoever asks, counts or reads answers goes by this one rule (`chat.messages.final_answer`). It looks at the request
    alone, so that captions may come and go: what the image's other captions say rejects a row, and asks nothing anew.

    Args:
        request: of `write_request`.
        answer: to it, with the outcome "ok".
        count: the most texts of a type that are used.
    """
    try:
        found = parse_answer(answer.text, request.schema or {}, count)
    except AnswerError:  # accepted when it arrived, by an older parser: settled as it was then
        return True
    caption = caption_of(request)
    items = [(kind, item) for kind, items in found.items() for item in items]
    return not items or any(not reason_of(item, caption, kind, ()) for kind, item in items)


def _is_said(text: str, caption: str, edit: tuple[str, str], *, is_swap: bool) -> bool:
    """Whether a text is the caption with its edit made, but for articles, forms of to be and endings of number."""
    made = _swapped(words(caption), *edit) if is_swap else _replaced(words(caption), *edit)
    # a word may stand in a caption more than once, and either place can be meant
    return any(changed_span(text, " ".join(one)) == ([], []) for one in made)


def _replaced(caption: Sequence[str], old: str, new: str) -> Iterator[list[str]]:
    put = words(new)
    # nothing in its place would be a deletion
    for start, stop in _places(caption, words(old)) if put else ():
        yield [*caption[:start], *put, *caption[stop:]]


def _swapped(caption: Sequence[str], first: str, second: str) -> Iterator[list[str]]:
    for one in _places(caption, words(first)):
        for other in _places(caption, words(second)):
            (start, stop), (begin, end) = sorted((one, other))
            if stop <= begin:
                middle = caption[stop:begin]
                yield [*caption[:start], *caption[begin:end], *middle, *caption[start:stop], *caption[end:]]


def _places(caption: Sequence[str], span: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where a run of words stands in a caption; nowhere if it has no words."""
    size = len(span)
    for start in range(len(caption) - size + 1) if size else ():
        if tuple(caption[start : start + size]) == tuple(span):
            yield start, start + size
