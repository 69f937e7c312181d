from .benchmark import Benchmark as Benchmark
from .pairs import Pairs as Pairs
from .pairs import as_pairs as as_pairs
from .pairs import select_captions as select_captions
from .read import read_benchmark as read_benchmark
from .table import BENCHMARKS as BENCHMARKS
