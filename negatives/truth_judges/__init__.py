"""Judges of truth, each by a model of its own: optional, they look at the texts that validation by words passed."""

import lazy_loader

# names and their homes are in __init__.pyi; a home is imported when a name of it is first asked for
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
