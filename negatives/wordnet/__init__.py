"""WordNet 3.0 as a compact table: what a word says at least, by synonyms, more general words and parts."""

import lazy_loader

# names and their homes are in __init__.pyi; a home is imported when a name of it is first asked for
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
