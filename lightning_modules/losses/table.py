"""The losses, one file each. A loss joins by its file and a line in `LOSSES`; it is imported when it is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.losses.loss import Loss

LOSSES: dict[str, str] = {
    "lm": "lightning_modules.losses.lm.LmLoss",
    "binary": "lightning_modules.losses.binary.BinaryLoss",
    "listwise": "lightning_modules.losses.listwise.ListwiseLoss",
    "itm": "lightning_modules.losses.itm.ItmLoss",
    "itc": "lightning_modules.losses.itc.ItcLoss",
    "ce_clip": "lightning_modules.losses.ce_clip.CeClipLoss",
    "itc_itm": "lightning_modules.losses.itc_itm.ItcItmLoss",
}
"""Name in `model.loss` -> where its class is."""


def loss_class(name: str) -> type[Loss]:
    """The class of a loss; imports its file, and torch with it.

    Raises:
        ValueError: an unknown name; says which is nearest and which there are.

    >>> loss_class("itc").reads
    'features'
    """
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, n=1)
        raise ValueError(
            f"model.loss must be one of {', '.join(LOSSES)}, got {name!r}."
            + (f" Did you mean {near[0]}?" if near else "")
        )
    module, _, attribute = LOSSES[name].rpartition(".")
    found: type[Loss] = getattr(import_module(module), attribute)
    return found


def losses_that_read(kinds: Iterable[str]) -> list[str]:
    """Names of the losses that are computed from one of `kinds`, which a backbone offers; in the order of `LOSSES`.

    >>> losses_that_read(["features"])
    ['itc', 'ce_clip']
    """
    offered = set(kinds)
    return [name for name in LOSSES if loss_class(name).reads in offered]


def build_loss(name: str, settings: Any | None = None, *, offers: Collection[str]) -> Loss:
    """The loss of this name, for a backbone.

    Args:
        name: one of `LOSSES`.
        settings: of the loss, an instance of its `Settings`; their defaults where None.
        offers: the kinds of inputs that the backbone can compute.

    Raises:
        ValueError: an unknown loss, one that reads what the backbone does not offer, or settings that are out of range
            or another loss's.
    """
    from lightning_modules.losses.loss import broken_rules

    found = loss_class(name)
    if found.reads not in offers:
        fitting = ", ".join(losses_that_read(offers))
        raise ValueError(f"model.loss must be one of {fitting}, got {name!r}: this backbone offers no {found.reads}.")
    if settings is not None and not isinstance(settings, found.Settings):
        raise ValueError(f"model.{name} must be {found.Settings.__name__}, got {type(settings).__name__}.")
    settings = found.Settings() if settings is None else settings
    if faults := list(broken_rules(settings, f"model.{name}.")):
        raise ValueError(f"{'; '.join(faults)}.")
    return found(settings)
