"""Starts a function of a test module in two processes, as torchrun starts a training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_on_two_ranks(folder: Path, module: str, call: str, *, timeout: int = 300) -> None:
    """Runs `call`, a function of `module` with its arguments as source, on two gloo ranks; a failing rank fails it."""
    script = folder / "two_ranks.py"
    script.write_text(f"from pathlib import Path\nfrom {module} import *\n{call}\n", encoding="utf-8")
    root = Path(__file__).parent.parent
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(launcher, capture_output=True, text=True, cwd=root, env=environment, timeout=timeout)
    assert result.returncode == 0, result.stderr[-3000:]
