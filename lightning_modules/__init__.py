"""Image-text matching scorers: LLaVA-1.5, BLIP-2 ITM and CLIP as LightningModules.

    from lightning_modules import load_scorer

    scorer = load_scorer("runs/filtered")  # the folder of an `itm train`, a Transformers folder, or a name on the hub
    scorer.score(image, "a cat on a sofa")  # a float, higher = better match
    scorer.score(images, captions)  # [N]: pairs
    scorer.score(images, captions, matrix=True)  # [M, N]: each image with each caption

`ImageTextScore` is the mean of such scores as a torchmetrics metric.
"""

import lazy_loader

# names and their homes are in __init__.pyi; a home is imported when a name of it is first asked for
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
