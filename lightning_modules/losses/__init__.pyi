from .binary import binary_loss as binary_loss
from .ce_clip import CeClipLoss as CeClipLoss
from .ce_clip import CeClipSettings as CeClipSettings
from .global_batch import ContrastLayout as ContrastLayout
from .table import LOSSES as LOSSES
from .table import loss_class as loss_class
from .table import losses_that_read as losses_that_read
