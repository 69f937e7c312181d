"""Published models that write or judge texts: loaded safely and quietly, put on a device, given padded batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from negatives.tables.files import InputError, quoted

if TYPE_CHECKING:
    import numpy as np
    import torch


def load_with_tokenizer(auto_model: Any, name: str, *, local: bool, unread: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """(tokenizer, model) of a published model, in float32, in eval mode and on the CPU.

    Args:
        auto_model: the class of Transformers' that makes a model of the kind, such as `AutoModelForMaskedLM`.
        name: a folder in safetensors with its tokenizer, or a hub name.
        local: takes no hub name.
        unread: how the names of tensors begin that may lack weights, since nothing reads them.

    Raises:
        ValueError: the tokenizer knows no word, or a tensor has no weights.
        Exception: whatever readers of files that anyone wrote stumble over.
    """
    import torch
    from transformers import AutoTokenizer

    with loading_quietly():
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, local_files_only=local)
        model, found = auto_model.from_pretrained(
            name,
            dtype=torch.float32,
            # a pickled checkpoint, or code beside it, would run whatever it holds
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=local,
            output_loading_info=True,
        )
    # where a folder has no tokenizer, Transformers makes one of special tokens, to which all texts are alike
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError("its tokenizer knows no word")
    # Transformers only warns, and would use weights drawn at random
    if missing := [key for key in found["missing_keys"] if not key.startswith(unread)]:
        raise ValueError(f"no weights for {len(missing)} tensors, such as {min(missing)}")
    return tokenizer, model.eval()


def move_to(model: Any, device: str, name: str) -> None:
    """Puts a model on a device of PyTorch; auto is a CUDA device where there is one.

    Args:
        model: an `nn.Module`, moved in place.
        device: auto, or a name of PyTorch's.
        name: what the error calls the device.

    Raises:
        InputError: this machine has no such device.
    """
    # in the function: texts are mostly written without torch
    import torch

    try:
        model.to("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    except (RuntimeError, AssertionError) as error:  # no such device; a torch that was built without it
        raise InputError(f"{name} must be one of this machine, got {quoted(device)}. Use auto or cpu.") from error


@contextmanager
def loading_quietly() -> Iterator[None]:
    """Without Transformers' notes and bars on loading."""
    from transformers.utils import logging

    verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()


@contextmanager
def checkpoint_errors(setting: str, kind: str, folder: str) -> Iterator[None]:
    """Turns whatever loading a folder raises into an InputError of one line.

    Args:
        setting: what the error calls the setting that names the folder.
        kind: what the folder has to hold.
        folder: the folder.
    """
    try:
        yield
    except Exception as error:  # readers of files that anyone wrote raise whatever they stumble over
        said = str(error).strip().partition("\n")[0].rstrip()
        if said.endswith(":"):  # as where a folder has no tokenizer: the list below says what it could be made of
            said = " ".join(str(error).split())
        raise InputError(
            f"{setting} must be {kind}, a folder of safetensors with its tokenizer, cannot use {quoted(folder, 200)}: "
            f"{quoted(said, 200)}. Give another folder."
        ) from error


def refuse_unknown_tokens(model: Any, rows: Sequence[Sequence[int]], folder: str) -> None:
    """Refuses token ids that the model has no embedding for.

    Raises:
        InputError: there is one.
    """
    known = model.get_input_embeddings().num_embeddings
    if max(map(max, rows), default=0) >= known:
        raise InputError(
            f"The tokenizer of {quoted(folder, 200)} must have no token beyond the model's {known}, and has. "
            "Put the model's own beside it."
        )


def each_wording(texts: Sequence[str], read: Callable[[list[str]], np.ndarray]) -> np.ndarray:
    """[N, ...] what is read of each text, where every wording is read once.

    Sorted: which texts share a batch moves the last digits, and must depend neither on order nor on repetition.

    Args:
        texts: N texts, some of them equal.
        read: different texts -> an array with a row for each.
    """
    wordings = sorted(set(texts))
    place = {text: row for row, text in enumerate(wordings)}
    return read(wordings)[[place[text] for text in texts]]


def padded_batches(
    rows: Sequence[Sequence[int]], batch_size: int, device: Any
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Batches of texts of about one length: their places in `rows`, ids [B, L] and mask [B, L] (True = a token).

    Args:
        rows: token ids of each text, at least one.
        batch_size: the largest B.
        device: that the tensors go to.
    """
    import torch

    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))  # little padding
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        # on the right whatever the tokenizer's side: positions count from the start
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(rows[place]) for place in places], batch_first=True)
        exists = torch.arange(ids.shape[1]) < torch.tensor([len(rows[place]) for place in places])[:, None]
        yield places, ids.to(device), exists.to(device)
