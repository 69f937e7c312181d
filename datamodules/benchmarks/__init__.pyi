from .pairs import Pairs as Pairs
from .read import read_benchmark as read_benchmark
from .read import select_captions as select_captions
from .table import BENCHMARKS as BENCHMARKS
