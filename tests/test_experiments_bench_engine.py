"""The benches of the engine and of the intervals: each says what it measures, in numbers that can be worked by hand."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.bench.coverage.__main__ import coverage
from experiments.bench.engine import __main__ as engine
from experiments.bench.engine.asked import captions, pairs_of, tiny_scorer, write_photos
from experiments.bench.engine.measure import peak, plain_cost
from experiments.scoring.requests import Asked, join


def measured(out: Path, *words: str) -> list[dict[str, Any]]:
    """The rows of one call."""
    assert engine.main([*words, "--json", str(out)]) == 0
    rows: list[dict[str, Any]] = json.loads(out.read_text())
    return rows


@pytest.mark.parametrize("backbone", ["clip", "llava"])
def test_a_rate_stands_beside_what_two_cores_could_do(backbone: str, tmp_path: Path) -> None:
    words = ["--backbones", backbone, "--rows", "12", "--batch-size", "2", "--workers", "0", "--times", "1"]
    (row,) = measured(tmp_path / "out.json", "speed", *words)
    assert row["backbone"] == backbone
    assert row["of the bound"] == row["rows per second"] / row["bound"]
    assert min(row[name] for name in ("rows per second", "bound", "CPU of the plain loop / CPU of the engine")) > 0


@pytest.mark.parametrize("rows", [2, 6])
def test_a_plain_loop_costs_no_more_than_the_process_has_spent_in_it(rows: int, tmp_path: Path) -> None:
    module, pairs = tiny_scorer("clip"), pairs_of(rows, rows, rows)
    requests = join([Asked(write_photos(tmp_path, rows, (64, 64)), captions(rows), pairs, tmp_path)], blind=False)
    before = time.process_time()
    cost = plain_cost(module, requests, batch_size=2)
    # of three batches the last one alone is counted
    assert 0 < cost * 2 <= time.process_time() - before


def test_images_and_texts_are_encoded_once_and_not_again(tmp_path: Path) -> None:
    first, second = measured(tmp_path / "out.json", "retrieval", "--images", "3", "--texts", "5")
    assert (first["encoded"], second["encoded"]) == (8, 0)
    assert first["logits"] == second["logits"] == 15


@pytest.mark.slow  # two processes, each with all imports
def test_memory_is_of_all_requests_in_a_process_of_its_own(tmp_path: Path) -> None:
    held = np.ones(2**25)  # 256 MiB beside the same imports
    pairs, clip = measured(tmp_path / "out.json", "memory", "--requests", "400")
    # half of them on noise: 100 images with 2 texts
    assert (pairs["computed"], clip["computed"]) == ({"pairs": 400}, {"images": 200, "texts": 2})
    for row in (pairs, clip):
        # scoring adds to a program with PyTorch; what this process holds is not in it
        assert 50 < row["MiB before"] < row["MiB"]
        assert row["MiB before"] < peak() - held.nbytes / 2**20 / 2


def test_intervals_are_held_against_a_truth_of_a_large_draw() -> None:
    found = {row.metric: row for row in coverage("pairs", 60, draws=60, resamples=200, seed=0, population=4000)}
    row = found["accuracy"]
    assert 0.5 < row.truth < 1
    # too wide an interval holds every truth: of 60 draws the spread is known to 10 %
    assert 0.7 < row.width / (3.92 * row.spread) < 1.4
    # 60 draws of .95 hold the truth 50 to 60 times, but for one seed in ten thousand
    assert 50 <= row.held <= row.draws == 60
