from .recipe import NEGATIVE_SCHEMA as NEGATIVE_SCHEMA
from .recipe import PARAPHRASE_SCHEMA as PARAPHRASE_SCHEMA
from .recipe import PromptRecipe as PromptRecipe
from .recipe import requests_for as requests_for
from .recipe import rows_from as rows_from
from .summary import CostEstimate as CostEstimate
from .summary import Summary as Summary
from .summary import estimate as estimate
