"""Which weights a run's folder holds: its last ones, and those of its best validations where they were kept.

`checkpoints/best.json` names the latter, the best first:

    {"metric": "val/mean/accuracy", "kept": [{"step": 40, "value": 0.81, "file": "step-40.safetensors"}]}
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEST_FILE = "best.json"
BEST, LAST = "best", "last"
CHECKPOINT = rf"{BEST}|{LAST}|\d{{1,12}}"
"""The setting `checkpoint`: the best weights of a run, the last ones, or those of a step that were kept."""


@dataclass(frozen=True)
class KeptWeights:
    """Weights of one step: the optimiser steps made, the metric's value, and their safetensors file's name."""

    step: int
    value: float
    file: str


@dataclass(frozen=True)
class KeptRecord:
    """What was kept by which metric, the best first."""

    metric: str
    kept: tuple[KeptWeights, ...]


def weights_file(step: int) -> str:
    """The name of the file with a step's weights."""
    return f"step-{step}.safetensors"


def read_kept(folder: Path, *, missing_ok: bool = False) -> KeptRecord:
    """What `BestWeights` kept in a folder of checkpoints.

    Args:
        folder: of the checkpoints.
        missing_ok: an empty record where there is none.

    Raises:
        InputError: there is none, or it is not as it is written here.
    """
    # imported here: batch.py imports torch, and configurations are checked without it
    from datamodules.batch import DAMAGED, InputError

    path = folder / BEST_FILE
    if missing_ok and not path.is_file():
        return KeptRecord("", ())
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kept = [KeptWeights(int(one["step"]), float(one["value"]), str(one["file"])) for one in content["kept"]]
        record = KeptRecord(str(content["metric"]), tuple(kept))
    except FileNotFoundError:
        raise InputError(
            f"{folder.parent} kept no weights but its last ones; train with trainer.keep_best=1 or more."
        ) from None
    except DAMAGED as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error}); copy the run anew.") from None
    # a run's folder may be anyone's: a path would lead out of it
    if any(one.file != weights_file(one.step) or not math.isfinite(one.value) for one in record.kept):
        raise InputError(f"{path} must name files step-N.safetensors in its folder; copy the run anew.")
    return record


def find_kept(run: Path, checkpoint: str) -> tuple[KeptRecord, KeptWeights]:
    """The weights that a run kept: `best`, or those of a step.

    Args:
        run: folder of the run.
        checkpoint: as the setting; not `last`, whose weights stand beside the kept ones.

    Raises:
        InputError: the run kept none, or none of that step.
    """
    from datamodules.batch import InputError

    record = read_kept(run / "checkpoints")
    steps = [one for one in record.kept if checkpoint == BEST or one.step == int(checkpoint)]
    if not steps:
        known = ", ".join(str(one.step) for one in record.kept)
        raise InputError(f"checkpoint must be {BEST}, {LAST} or a step that {run} kept ({known}), got {checkpoint}.")
    return record, steps[0]


def checkpoint_faults(checkpoint: str, place: str) -> Iterator[str]:
    """What is wrong with the setting `checkpoint`."""
    if not re.fullmatch(CHECKPOINT, checkpoint):
        yield f"`{place}checkpoint` must be {BEST}, {LAST} or the number of a step, got {checkpoint!r}"


def describe_kept(run: Path, checkpoint: str) -> dict[str, Any]:
    """What is written of the weights that were read: `name`, and of kept ones `step`, `metric` and `value`."""
    if checkpoint == LAST:
        return {"name": LAST}
    record, kept = find_kept(run, checkpoint)
    return {"name": checkpoint, "step": kept.step, "metric": record.metric, "value": kept.value}


def run_label(run: str, weights: Mapping[str, Any]) -> str:
    """The name of a run in tables, with its weights (`describe_kept`) where they are not the last ones.

    >>> run_label("clip", {"name": "last"}), run_label("clip", {"name": "best", "step": 40}), run_label("clip", {})
    ('clip', 'clip (best, step 40)', 'clip')
    """
    parts = [] if weights.get("name", LAST) in (LAST, str(weights.get("step"))) else [str(weights["name"])]
    parts += [f"step {weights['step']}"] if "step" in weights else []
    return f"{run} ({', '.join(parts)})" if parts else run
