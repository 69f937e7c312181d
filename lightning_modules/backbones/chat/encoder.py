"""Images and captions as the sequences that a chat VLM reads: packed by image, or one for each caption."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image

from datamodules.batch import NEGATIVE, POSITIVE, UNKNOWN, CaptionTooLongError
from lightning_modules.backbones.chat.family import Family
from lightning_modules.backbones.chat.prompt import YesNoPrompt
from lightning_modules.backbones.packing import Sequences, pack_branches, shared_prefix

OPENINGS = ("a", "Z", "7")
"""Captions that begin differently: what their prompts share is before any caption."""
IMAGE_KEY = "images."
"""What the vision tower reads has this in front of its name in a batch's inputs."""


class _Fitting(NamedTuple):
    ids: list[int]
    is_cut: bool


def special_pattern(tokenizer: Any, more: Iterable[str] = ()) -> re.Pattern[str]:
    """What finds special tokens in a text, the tokenizer's and `more`."""
    texts = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} | {*more}
    # the longest first: one may begin as another
    return re.compile("|".join(re.escape(text) for text in sorted(filter(None, texts), key=len, reverse=True)))


class ChatEncoder:
    """Images and captions to inputs of `ChatNetwork`; picklable, runs in loader workers.

    Args:
        processor: tokenizer and image processor of the checkpoint.
        family: the model's.
        prompt: the question around a caption.
        answers: append the answer token to labelled captions, for a loss that reads their logits.
        packed: an image's captions share a sequence.
        max_text_tokens: most tokens of a caption's sequence: image, prompt and answer; no limit where None.
        long_captions: `truncate` cuts words off captions that are longer, `error` refuses them.

    Raises:
        ValueError: an answer is no single token, or the prompt does not hold the image in front of the caption.
    """

    def __init__(
        self,
        processor: Any,
        family: Family,
        prompt: YesNoPrompt,
        *,
        answers: bool,
        packed: bool = True,
        max_text_tokens: int | None = None,
        long_captions: str = "truncate",
    ):
        self.processor, self.family, self.answers, self.packed = processor, family, answers, packed
        self.max_text_tokens, self.long_captions = max_text_tokens, long_captions
        self.tokenizer = processor.tokenizer
        # what stands for an image in a template may be another token (Gemma 3) than those for its features
        self.feature_token = self.tokenizer.convert_ids_to_tokens(family.image_id)
        self.special = special_pattern(self.tokenizer, {self.feature_token, processor.image_token})
        # a prompt that begins with the start token, as chat templates write it, gets no second one
        start = self.tokenizer.bos_token
        self.prefixes: dict[str, list[int]] = {}
        self.special_tokens = not (start and prompt("", "").startswith(start))
        self.prompt, self.yes_id, self.no_id = self._spelt(prompt)
        if self._shared(self.feature_token).count(family.image_id) != 1:
            text = prompt("", self.feature_token)
            raise ValueError(f"The prompt must hold {self.feature_token} once, in front of the caption, got {text!r}.")

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=self.special_tokens).input_ids

    def _prompt_ids(self, captions: Sequence[str], image_text: str) -> list[list[int]]:
        return self._all_prompt_ids([captions], [image_text])

    def _all_prompt_ids(self, captions: Sequence[Sequence[str]], image_texts: Sequence[str]) -> list[list[int]]:
        # by one call: a tokenizer of Rust takes several texts at once
        return self._ids(
            [
                self.prompt(self._without_special(caption), image_text)
                for row, image_text in zip(captions, image_texts, strict=True)
                for caption in row
            ]
        )

    def _without_special(self, caption: str) -> str:
        """The caption without special tokens: it has no image, and ends no turn."""
        while self.special.search(caption):  # what is left of a removed token may make another one
            caption = self.special.sub("", caption)
        return caption

    def _shared(self, image_text: str) -> list[int]:
        """What is before any caption; there are few such texts, since runs of features are folded."""
        if image_text not in self.prefixes:
            self.prefixes[image_text] = shared_prefix(self._prompt_ids(OPENINGS, image_text))
        return self.prefixes[image_text]

    def _spelt(self, prompt: YesNoPrompt) -> tuple[YesNoPrompt, int, int]:
        """The prompt with the spelling of both answers that is one token each behind it, and these tokens."""
        text = prompt("a", self.feature_token)
        for one in (prompt, prompt.respelt()):
            alone, *answered = self._ids([text, *(text + answer for answer in one.answers)])
            # a piece that reaches back into the prompt would move the place where the answer is read
            if all(ids[:-1] == alone for ids in answered) and answered[0] != answered[1]:
                return one, answered[0][-1], answered[1][-1]
        yes, no = prompt.words
        pieces = [self.tokenizer.convert_ids_to_tokens(ids[len(shared_prefix([alone, ids])) :]) for ids in answered]
        raise ValueError(
            f"The tokenizer must make {yes} one token behind the prompt, and {no} another one; there it makes "
            f"{pieces[0]} and {pieces[1]}. Give model.answers two words of one token each."
        )

    def __call__(
        self, images: Sequence[Image.Image], captions: Sequence[Sequence[str]], labels: Sequence[Sequence[int]]
    ) -> dict[str, torch.Tensor]:
        """What `ChatNetwork.forward` reads of B images with at most C captions each, N sequences together.

        `input_ids, segment_ids, answer_cells` [N, S], `position_ids` [R, N, S], `image_tokens` [B] (features of an
        image), `image_row` [N] (which image stands in a sequence), `answer_row, answer_index` (B, C) (where a caption's
        answer is read), `cut` [B] (captions that were cut), and what the vision tower reads.

        Raises:
            CaptionTooLongError: a caption does not fit, and `long_captions` is `error`.
        """
        pixels, texts = self.family.images(self.processor, images)
        answer_token = {POSITIVE: [self.yes_id], NEGATIVE: [self.no_id], UNKNOWN: []}
        sequences = Sequences()
        image_row: list[int] = []
        image_tokens, cut = [], []
        answer_row = torch.zeros(len(images), max(map(len, captions)), dtype=torch.long)
        layouts = [self._folded(text) for text in texts]
        prompts = iter(self._all_prompt_ids(captions, [folded for folded, _ in layouts]))
        for index, (row, row_labels, (folded, runs)) in enumerate(zip(captions, labels, layouts, strict=True)):
            beyond = sum(runs) - len(runs)
            fitting = [self._fitted(caption, next(prompts), folded, beyond) for caption in row]
            # a merge across the caption's first letter could shorten it
            shared = shared_prefix([self._shared(folded), *(one.ids for one in fitting)])
            prefix = self._unfolded(shared, runs)
            answers = [answer_token[label] if self.answers else [] for label in row_labels]
            branches = [(one.ids[len(shared) :], answer) for one, answer in zip(fitting, answers, strict=True)]
            positions = self.family.positions(prefix, pixels, index)
            for column, group in enumerate([branches] if self.packed else [[branch] for branch in branches]):
                # packed, all answers stand in the one sequence
                answer_row[index, column:] = len(image_row)
                sequences.add(prefix, positions, group)
                image_row.append(index)
            image_tokens.append(sum(runs))
            cut.append(sum(one.is_cut for one in fitting))
        # where a tokenizer has no padding (Llama 3, Mistral) any id will do: nothing attends to it
        pad_id = self.tokenizer.pad_token_id
        packed = pack_branches(sequences, 0 if pad_id is None else pad_id)
        if not self.packed:
            packed["answer_index"] = packed["answer_index"][answer_row, 0]
        numbers = {"image_row": image_row, "image_tokens": image_tokens, "cut": cut}
        return {
            **packed,
            "answer_row": answer_row,
            **{name: torch.tensor(values) for name, values in numbers.items()},
            **{f"{IMAGE_KEY}{name}": value for name, value in pixels.items()},
        }

    def _folded(self, image_text: str) -> tuple[str, list[int]]:
        """The text of an image with one token in place of each run of its features, and how long the runs are.

        A thousand tokens of an image are then made once, and not for every caption.
        """
        runs = re.compile(f"(?:{re.escape(self.feature_token)})+")
        lengths = [len(run) // len(self.feature_token) for run in runs.findall(image_text)]
        return runs.sub(lambda _: self.feature_token, image_text), lengths

    def _unfolded(self, ids: Sequence[int], runs: Sequence[int]) -> list[int]:
        lengths, unfolded = iter(runs), []
        for token in ids:
            unfolded += [token] * (next(lengths) if token == self.family.image_id else 1)
        return unfolded

    def _fitted(self, caption: str, prompt: list[int], image_text: str, beyond: int) -> _Fitting:
        """A prompt's ids, its caption cut until all fits; `beyond` are tokens of the image that are not among them."""
        if self.max_text_tokens is None:
            return _Fitting(prompt, is_cut=False)
        room = self.max_text_tokens - beyond - self.answers
        if len(prompt) <= room:
            return _Fitting(prompt, is_cut=False)
        if self.long_captions == "error":
            raise CaptionTooLongError.of(caption, len(prompt) + self.max_text_tokens - room, self.max_text_tokens)
        ids = self.tokenizer(caption, add_special_tokens=False).input_ids
        # in rounds: what a cut leaves may be tokenised anew into more pieces than it was
        while ids and (excess := len(prompt) - room) > 0:
            ids = ids[:-excess] if excess < len(ids) else []
            (prompt,) = self._prompt_ids([self.tokenizer.decode(ids)], image_text)
        if len(prompt) > room:
            needed = self.max_text_tokens - room + len(prompt)
            raise CaptionTooLongError(
                f"model.max_text_tokens must be more than {needed}, which prompt and image take without a caption, "
                f"got {self.max_text_tokens}; raise it, or give smaller images."
            )
        return _Fitting(prompt, is_cut=True)
