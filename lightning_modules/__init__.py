"""Image-text matching scorers: LLaVA-1.5, BLIP-2 ITM and CLIP as LightningModules.

    from lightning_modules import load_scorer

    scorer = load_scorer("runs/filtered")  # the folder of an `itm train`, a Transformers folder, or a name on the hub
    scorer.score(image, "a cat on a sofa")  # a float, higher = better match
    scorer.score(images, captions)  # [N]: pairs
    scorer.score(images, captions, matrix=True)  # [M, N]: each image with each caption

`ImageTextScore` is the mean of such scores as a torchmetrics metric.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.scoring.loading import load_scorer
    from lightning_modules.scoring.metric import ImageTextScore
    from lightning_modules.scoring.scorer import Scorer

__all__ = ["ImageTextScore", "Scorer", "load_scorer"]

_HOMES = {"ImageTextScore": "scoring.metric", "Scorer": "scoring.scorer", "load_scorer": "scoring.loading"}


def __getattr__(name: str) -> Any:
    # on first use: the command imports this package, and must answer before torch is there
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
