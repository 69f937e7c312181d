from .pairs import Pairs as Pairs
from .read import read_benchmark as read_benchmark
from .table import BENCHMARKS as BENCHMARKS
