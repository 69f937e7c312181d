"""The losses, one file each. A loss joins by its file and a line in `LOSSES`; it is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_modules.settings import did_you_mean, settings_from

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
    "sigmoid": "lightning_modules.losses.sigmoid.SigmoidLoss",
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
        raise ValueError(f"model.loss must be one of {', '.join(LOSSES)}, got {name!r}{did_you_mean(name, LOSSES)}")
    # by name, so that the table is read without torch: `itm --help` does
    module, _, attribute = LOSSES[name].rpartition(".")
    found: type[Loss] = getattr(import_module(module), attribute)
    return found


def losses_that_read(offers: Iterable[str]) -> list[str]:
    """Names of the losses that are computed from one of the inputs that a backbone `offers`; in the order of `LOSSES`.

    >>> losses_that_read(["features"])
    ['itc', 'ce_clip']
    """
    offered = set(offers)
    return [name for name in LOSSES if loss_class(name).reads in offered]


def build_loss(name: str, settings: Any | None = None, *, offers: Collection[str]) -> Loss:
    """The loss of this name, for a backbone.

    Args:
        name: one of `LOSSES`.
        settings: of the loss, an instance of its `Settings`; their defaults where None.
        offers: what the backbone can compute, see `Loss.reads`.

    Raises:
        ValueError: an unknown loss, one that reads what the backbone does not offer, or settings that are out of range
            or another loss's.
    """
    found = loss_class(name)
    if found.reads not in offers:
        fitting = ", ".join(losses_that_read(offers))
        raise ValueError(f"model.loss must be one of {fitting}, got {name!r}: this backbone offers no {found.reads}.")
    if settings is not None and not isinstance(settings, found.Settings):
        raise ValueError(f"model.{name} must be {found.Settings.__name__}, got {type(settings).__name__}.")
    given = {} if settings is None else vars(settings)
    # again, though configurations are checked when they are read: settings made in Python come here unchecked
    return found(settings_from(found.Settings, given, f"model.{name}."))
