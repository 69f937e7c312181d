"""What all tests share: no network, few threads, and the folder of real data where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# before anything imports wandb, transformers or torch; two workers share two cores
os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
os.environ.update(MPLBACKEND="Agg", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first, so that neither of two workers is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that holds the real photos and captions."""
    if not os.environ.get("ITM_SHARED"):
        pytest.skip("ITM_SHARED is not set: export it to the folder that holds data/ to test on real photos")
    return Path(os.environ["ITM_SHARED"])
