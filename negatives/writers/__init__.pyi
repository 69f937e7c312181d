from .table import WRITERS as WRITERS
from .table import builder_keys as builder_keys
from .table import find_builder as find_builder
from .write import UNWRITTEN_SCHEMA as UNWRITTEN_SCHEMA
from .write import BatchWriter as BatchWriter
from .write import Writer as Writer
from .write import join_pairs as join_pairs
from .write import write_negatives as write_negatives
