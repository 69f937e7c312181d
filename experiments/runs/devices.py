"""The device that a configured accelerator stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from negatives.tables import InputError

if TYPE_CHECKING:
    import torch


def resolve_device(accelerator: str) -> torch.device:
    """The device that an accelerator's name stands for: auto takes the best there is, gpu CUDA's or Apple's.

    It is only looked up. A tensor put there to try it would open a CUDA context on the first GPU in every rank.

    Raises:
        InputError: the machine has none.
    """
    import torch

    from lightning_modules.scoring import find_device

    # the rule of load_scorer, so that command line and Python choose alike
    best = find_device(None)
    if accelerator == "cpu":
        return torch.device("cpu")
    if accelerator != "auto" and best.type not in (("cuda", "mps") if accelerator == "gpu" else (accelerator,)):
        raise InputError(
            f"accelerator={accelerator} needs a GPU and this machine has none; use accelerator=cpu or auto."
        )
    return best
