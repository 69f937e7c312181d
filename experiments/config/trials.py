"""A training that one of W&B's agents starts: a trial, with a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from experiments.config.names import is_file_name
from experiments.config.schemas import ExperimentConfig

SWEEP, RUN = "WANDB_SWEEP_ID", "WANDB_RUN_ID"
"""What an agent tells its trials by."""


def in_trial(config: ExperimentConfig, words: Sequence[str]) -> ExperimentConfig:
    """The configuration with a folder and a name of the trial's own, where an agent has started this process.

    Args:
        config: of the experiment, which all trials share.
        words: of the command line: a folder that is given there stays.
    """
    trial = os.environ.get(RUN, "")
    given = any(word.startswith("output_dir=") for word in words)
    if not os.environ.get(SWEEP) or not is_file_name(trial) or given:
        return config
    return replace(config, name=f"{config.name}-{trial}", output_dir=f"{config.output_dir}/{trial}")
