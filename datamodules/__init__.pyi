from .batch import NEGATIVE as NEGATIVE
from .batch import POSITIVE as POSITIVE
from .batch import ImageTextBatch as ImageTextBatch
from .batch import ImageTextRow as ImageTextRow
from .image_text import ImageTextDataModule as ImageTextDataModule
from .mixing_settings import Mixing as Mixing
