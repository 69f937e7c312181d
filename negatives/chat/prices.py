"""What tokens cost: prices by model name from `prices.json`, and a count of tokens without a tokenizer.

Prices change and servers differ, so every price can be given by hand; a model without a price has cost None, never 0.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from negatives.tables.files import InputError, quoted

# how near this comes: `estimate_tokens`
BYTES_PER_TOKEN = 4.2

# what providers append to a model's name: -2024-07-18, -0613, -latest, -preview
_SNAPSHOT = re.compile(r"(?:-\d{4}-\d{2}-\d{2}|-\d{4}|-latest|-preview|-\d{4}-preview)?")


@dataclass(frozen=True)
class Price:
    """Prices of one model.

    Attributes:
        name: the name in the price list.
        input: dollars per million prompt tokens.
        output: dollars per million completion tokens.
    """

    name: str
    input: float
    output: float

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars for these tokens.

        >>> Price("x", input=2.0, output=8.0).cost(1_000_000, 500_000)
        6.0
        """
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


def price_of(model: str, override: Mapping[str, Any] | None = None, *, batch: bool = False) -> Price | None:
    """The price of a model, None where it is not known.

    A name in the list stands for itself and for its snapshots (`gpt-4o-mini-2024-07-18`, `...-latest`); of several the
    longest counts. Other names that begin alike (`gpt-4o-audio-preview`, `gpt-4.5`) are other models: unknown.

    Args:
        model: model as it is asked for, or as the server names it.
        override: `{model: {input, output}}` in dollars per million tokens, which go before the list of the package.
        batch: the batch API's share of the list's prices; a price given by hand counts as it is.

    Raises:
        InputError: an overriding price is not `{input, output}` with numbers >= 0.
    """
    by_hand = {str(name): _checked(str(name), value) for name, value in (override or {}).items()}
    if name := _longest(model, by_hand):
        return by_hand[name]
    listed = price_list()
    if not (name := _longest(model, listed["models"])):
        return None
    share = listed["batch_share"] if batch else 1.0
    price = listed["models"][name]
    return Price(name, share * price["input"], share * price["output"])


@functools.cache
def price_list() -> dict[str, Any]:
    """The package's price list: `as_of` (when the prices held), `batch_share`, `models`."""
    listed: dict[str, Any] = json.loads(
        resources.files(__package__).joinpath("prices.json").read_text(encoding="utf-8")
    )
    return listed


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: one for every 4.2 bytes of its UTF-8, rounded up.

    Against OpenAI's tokenizers (`cl100k_base`, `o200k_base`) this is within 10 % for English captions, the prompts of
    this package and their answers. Other scripts differ: up to half too few for Chinese or Japanese, a third too many
    for Cyrillic or Devanagari.

    >>> estimate_tokens("a dog on a red sofa")
    5
    """
    return math.ceil(len(text.encode(errors="replace")) / BYTES_PER_TOKEN)


def _longest(model: str, names: Mapping[str, Any]) -> str:
    fitting = [name for name in names if model.startswith(name) and _SNAPSHOT.fullmatch(model[len(name) :])]
    return max(fitting, key=len, default="")


def _checked(name: str, value: Any) -> Price:
    numbers = dict(value) if isinstance(value, Mapping) else {}
    # bool is an int, and JSON and YAML can spell infinity
    good = all(isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < math.inf for n in numbers.values())
    if not good or set(numbers) != {"input", "output"}:
        raise InputError(
            f"The price of `{name}` must be {{input: ..., output: ...}} in dollars per million tokens, "
            f"got {quoted(value)}. Give both as numbers >= 0."
        )
    return Price(name, float(numbers["input"]), float(numbers["output"]))
