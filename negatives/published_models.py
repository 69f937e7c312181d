"""Published models that write or judge texts: loaded quietly, and put on the device that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from negatives.tables.files import InputError, quoted


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
