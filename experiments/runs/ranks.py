"""The processes of one training: which of them prepares its folder, and whether all were started."""

from __future__ import annotations

import os

from experiments.config.trainer_schemas import TrainerConfig
from negatives.tables import InputError


def is_main_process() -> bool:
    """Whether this is the one process of a job that prepares the folder, by the launchers' environment variables."""
    # torchrun sets RANK, GROUP_RANK (of the node) and LOCAL_RANK, Slurm SLURM_PROCID, Lightning's own launcher
    # NODE_RANK and LOCAL_RANK; the process that a user starts has none of them
    ranks = ("RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK")
    return all(int(os.environ.get(name, 0)) == 0 for name in ranks)


def check_launched(settings: TrainerConfig) -> None:
    """Refuses a number of processes other than the configured one: alone, each would train a copy of its own.

    Raises:
        InputError: torchrun started another number.
    """
    expected, launched = settings.devices * settings.num_nodes, int(os.environ.get("WORLD_SIZE", 1))
    # torchrun alone sets it; Lightning's own launcher starts as many as the configuration says
    if "TORCHELASTIC_RUN_ID" in os.environ and launched != expected:
        raise InputError(
            f"torchrun started {launched} processes, and trainer.devices x trainer.num_nodes is {expected}; "
            "give both the same number."
        )


def end_ranks() -> None:
    """Ends the process group, before a rank exits while another one still listens."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
