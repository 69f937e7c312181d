"""A masked language model that says which words could stand in a text's gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from negatives.published_models import load_with_tokenizer, move_to
from negatives.tables.files import InputError, quoted

DEFAULT_MODEL = "distilroberta-base"


@dataclass(frozen=True)
class Guess:
    """What a masked LM makes of a text with one mask.

    Attributes:
        ids: the text's tokens.
        place: the mask's position among them.
        best: the most probable tokens for it, the best first.
    """

    ids: list[int]
    place: int
    best: list[int]


class MaskedLm:
    """A masked language model that fills the mask in texts, many at a time.

    Args:
        name: hub name or folder, in safetensors, with its tokenizer.
        batch_size: texts in a batch; the logits take 4 bytes for every token of a batch and of the vocabulary.
        device: torch's name of one, or auto: a GPU where there is one.

    Raises:
        InputError: it cannot be loaded, or is no masked LM.
    """

    def __init__(self, name: str = DEFAULT_MODEL, *, batch_size: int = 64, device: str = "auto") -> None:
        self.name, self.batch_size = name, batch_size
        self._tokenizer, self._model = _load(name)
        move_to(self._model, device, "The masked LM's device")
        # RoBERTa counts positions from behind the padding's id
        positions = self._model.config.max_position_embeddings - 2
        self._longest = min(self._tokenizer.model_max_length, positions)
        self._words: dict[int, str] = {}

    @property
    def mask(self) -> str:
        """The mask as it is written in a text."""
        return str(self._tokenizer.mask_token)

    def guesses(self, texts: Sequence[str], count: int) -> list[Guess | None]:
        """The `count` most probable tokens for the mask of each text; None for a text too long or without one mask."""
        # each text once: captions repeat, and all captions without an adjective give the bare mask
        known: dict[str, Guess | None] = dict.fromkeys(texts)
        encoded = zip(known, self._tokenizer(list(known))["input_ids"], strict=True) if known else ()
        mask = self._tokenizer.mask_token_id
        rows = [(text, ids) for text, ids in encoded if ids.count(mask) == 1 and len(ids) <= self._longest]
        rows.sort(key=lambda row: len(row[1]))  # little padding
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            places = [ids.index(mask) for _, ids in batch]
            best = self._best([ids for _, ids in batch], places, count)
            known |= {text: Guess(ids, *rest) for (text, ids), *rest in zip(batch, places, best, strict=True)}
        return [known[text] for text in texts]

    def _best(self, ids: Sequence[list[int]], places: list[int], count: int) -> list[list[int]]:
        import torch

        device = self._model.device
        lengths = torch.tensor([len(row) for row in ids], device=device)
        padded = torch.full((len(ids), int(lengths.max())), self._tokenizer.pad_token_id, device=device)
        for row, tokens in zip(padded, ids, strict=True):
            row[: len(tokens)] = torch.tensor(tokens, device=device)
        attention = torch.arange(padded.shape[1], device=device) < lengths[:, None]
        with torch.inference_mode():
            logits = self._model(input_ids=padded, attention_mask=attention.long()).logits
            at_mask = logits[torch.arange(len(ids), device=device), torch.tensor(places, device=device)]
            best: list[list[int]] = at_mask.topk(min(count, at_mask.shape[1])).indices.tolist()
        return best

    def filled(self, guess: Guess, token: int) -> str:
        """The text with a token in the mask's place, decoded as a whole, as Transformers' fill-mask pipeline does."""
        ids = [*guess.ids[: guess.place], token, *guess.ids[guess.place + 1 :]]
        return _tidy(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def word(self, token: int) -> str:
        """The whole word of letters that a token is; "" for a piece of a word, a mark or a number."""
        if token not in self._words:
            # behind a word: at a text's start, decoding drops the space that tells a whole word from a piece
            before = self._decoded(self._anchor)
            text = self._decoded([*self._anchor, token]).removeprefix(before)
            self._words[token] = text[1:] if text[:1] == " " and text[1:].isalpha() else ""
        return self._words[token]

    @cached_property
    def _anchor(self) -> list[int]:
        return list(self._tokenizer("a", add_special_tokens=False)["input_ids"])

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _tidy(text: str) -> str:
    """The text without spaces before marks, as the fill-mask pipeline returned it when the authors used it."""
    # `clean_up_tokenization` of Transformers, written out, since its default changed from on to off
    for mark in (".", "?", "!", ","):
        text = text.replace(f" {mark}", mark)
    text = text.replace(" ' ", "'")
    for ending in ("n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(f" {ending}", ending)
    return text


def _load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForMaskedLM

    try:
        tokenizer, model = load_with_tokenizer(AutoModelForMaskedLM, name, local=False)
        if tokenizer.mask_token_id is None:
            raise ValueError("its tokenizer has no mask token")
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise InputError(
            "The masked LM of `ce_clip` must be a hub name, or a folder of one in safetensors with its tokenizer, "
            f"cannot load {quoted(name, 200)}: {quoted(str(error).strip().partition(chr(10))[0], 200)}. Give another, "
            f"such as a folder that holds {DEFAULT_MODEL}."
        ) from error
    return tokenizer, model
