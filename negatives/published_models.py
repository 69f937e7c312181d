"""Published models that write or judge texts: loaded safely and quietly, and put on the device that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from negatives.tables.files import InputError, quoted


def load_with_tokenizer(auto_model: Any, name: str, *, local: bool) -> tuple[Any, Any]:
    """(tokenizer, model) of a published model, in float32, in eval mode and on the CPU.

    Args:
        auto_model: the class of Transformers' that makes a model of the kind, such as `AutoModelForMaskedLM`.
        name: a folder in safetensors with its tokenizer, or a hub name.
        local: takes no hub name.

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
    if missing := found["missing_keys"]:
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
