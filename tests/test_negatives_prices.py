"""Prices: the model that is meant, and no price that is made up."""

from __future__ import annotations

from typing import Any

import pytest

from negatives.chat.prices import Price, estimate_tokens, price_list, price_of
from negatives.tables.files import InputError


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4o-2024-11-20", "gpt-4o"),
        ("gpt-4-0613", "gpt-4"),
        ("gpt-4-turbo-preview", "gpt-4-turbo"),
        ("gpt-5-mini-2025-08-07", "gpt-5-mini"),
    ],
)
def test_a_snapshot_has_the_price_of_its_model(model: str, name: str) -> None:
    assert price_of(model) == Price(name, **price_list()["models"][name])


@pytest.mark.parametrize(
    "model", ["", "gpt", "gpt-4.5-preview", "gpt-4o-audio-preview", "gpt-5.9", "ft:gpt-4o-mini:us::1", "llama-3"]
)
def test_other_models_have_no_price(model: str) -> None:
    assert price_of(model) is None


def test_the_batch_api_takes_half() -> None:
    assert price_of("gpt-4o-mini", batch=True) == Price("gpt-4o-mini", 0.075, 0.3)


def test_a_price_given_by_hand_goes_first_and_counts_as_it_is() -> None:
    own = {"gpt-4o": {"input": 1, "output": 2}, "my-model": {"input": 0, "output": 0.5}}
    assert price_of("gpt-4o-2024-11-20", own, batch=True) == Price("gpt-4o", 1.0, 2.0)
    assert price_of("my-model", own) == Price("my-model", 0.0, 0.5)
    assert price_of("gpt-4o-mini", own) == price_of("gpt-4o-mini"), "another model's price is left alone"


NO_PRICES: list[Any] = [1.0, None, {}, {"input": 1}, {"input": 1, "output": "2"}, {"input": -1, "output": 2}]
NO_PRICES += [
    {"input": True, "output": 2},
    {"input": float("nan"), "output": 1},
    {"input": 1, "output": 2, "cached": 3},
]


@pytest.mark.parametrize("value", NO_PRICES)
def test_a_price_that_is_none_is_told_in_one_line(value: Any) -> None:
    with pytest.raises(InputError, match="price of `m`"):
        price_of("m", {"m": value})


def test_the_list_says_when_its_prices_held_and_is_sane() -> None:
    listed = price_list()
    assert len(listed["as_of"]) == 7
    assert 0 < listed["batch_share"] <= 1
    for price in listed["models"].values():
        assert 0 < price["input"] < price["output"]


def test_cost_is_tokens_times_price() -> None:
    # 2 million prompt tokens at 0.15 and 0.5 million completion tokens at 0.6
    assert Price("x", 0.15, 0.6).cost(2_000_000, 500_000) == pytest.approx(0.3 + 0.3)


def test_the_estimate_of_tokens_is_within_its_error() -> None:
    # counted with o200k_base
    counted = {"A man riding a skateboard up the side of a cement ramp.": 13}
    counted |= {"Two kids fly a kite over the dunes.": 9, "ein brauner Hund": 4}
    for text, tokens in counted.items():
        assert abs(estimate_tokens(text) - tokens) <= 1 + 0.1 * tokens
    assert estimate_tokens("") == 0
    assert estimate_tokens("\ud800") == 1
