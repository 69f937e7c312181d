from .types import MEANINGS as MEANINGS
from .types import NEGATIVE_TYPES as NEGATIVE_TYPES
from .types import OTHER as OTHER
from .types import SWAP as SWAP
from .types import family_of as family_of
from .validate import rejection as rejection
from .validate import validation_table as validation_table
from .word_forms import bare_words as bare_words
