from .jobs import collect as collect
from .jobs import submit as submit
from .parts import open_folder as open_folder
from .parts import write_parts as write_parts
from .results import Results as Results
from .results import read_results as read_results
