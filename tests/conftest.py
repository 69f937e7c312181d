"""What all tests share: no network, few threads, and the folder of real data where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# before anything imports wandb, transformers or torch; two workers share two cores
os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
os.environ.update(MPLBACKEND="Agg", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that holds the real photos and captions."""
    if not os.environ.get("ITM_SHARED"):
        pytest.skip("ITM_SHARED is not set: export it to the folder that holds data/ to test on real photos")
    return Path(os.environ["ITM_SHARED"])
