from .benchmark import Benchmark as Benchmark
from .logits import Logits as Logits
from .pairs import Pairs as Pairs
from .pairs import as_pairs as as_pairs
from .pairs import select_captions as select_captions
from .protocols.measured import ALL as ALL
from .protocols.measured import MEAN as MEAN
from .protocols.measured import Measured as Measured
from .protocols.measured import MetricName as MetricName
from .protocols.table import PROTOCOLS as PROTOCOLS
from .protocols.table import find_protocol as find_protocol
from .read import read_benchmark as read_benchmark
<<<<<<< HEAD
from .select import of_images as of_images
from .select import with_items as with_items
=======
>>>>>>> R
from .statistics import alpha_debias as alpha_debias
from .statistics import bootstrap_weights as bootstrap_weights
from .statistics import holm as holm
from .statistics import intervals as intervals
from .statistics import paired as paired
from .statistics import pooled as pooled
from .statistics import tied as tied
from .table import BENCHMARKS as BENCHMARKS
from .table import find_benchmark as find_benchmark
