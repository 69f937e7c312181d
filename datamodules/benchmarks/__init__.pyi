from .pairs import Pairs as Pairs
from .read import only as only
from .read import read_benchmark as read_benchmark
from .table import BENCHMARKS as BENCHMARKS
