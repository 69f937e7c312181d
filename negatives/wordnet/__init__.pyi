from .relations import has_part as has_part
from .relations import is_a as is_a
from .relations import is_known as is_known
from .relations import more_general as more_general
from .relations import parts_of_speech as parts_of_speech
from .relations import phrases as phrases
from .relations import synonyms as synonyms
