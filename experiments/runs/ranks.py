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
    """Refuses a number of processes other than the configured one.

    With too many, each would train a copy of its own; with too few, the first waits for the others without an end.

    Raises:
        InputError: a launcher started another number, or there are several nodes and nothing that starts them.
    """
    expected, found = settings.devices * settings.num_nodes, _launched()
    if found is not None and found[1] != expected:
        raise InputError(
            f"{found[0]} started {found[1]} processes, and trainer.devices x trainer.num_nodes is {expected}; give "
            "both the same number."
        )
    if found is None and settings.num_nodes > 1 and not _is_one_of_several():
        raise InputError(
            f"trainer.num_nodes={settings.num_nodes} needs a launcher, or this process waits for the other nodes: "
            "start it by torchrun or srun, or on every node with NODE_RANK, MASTER_ADDR and MASTER_PORT set."
        )


def starts_ranks(settings: TrainerConfig) -> bool:
    """Whether no other rank runs yet, so that this process may end before the first step.

    A rank that ended alone would leave the others waiting for it, those that a scheduler's signal has not reached or
    that had started before it.
    """
    alone = settings.devices * settings.num_nodes == 1
    return alone or (is_main_process() and _launched() is None and not _is_one_of_several())


def _launched() -> tuple[str, int] | None:
    """The launcher that started this process, and how many it started; None where Lightning has to start the others."""
    # in the order in which Lightning looks for them
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun", int(os.environ.get("WORLD_SIZE", 1))
    # in the shell of an allocation, whose job is called so, srun did not start this process
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return "Slurm", int(os.environ["SLURM_NTASKS"])
    return None


def _is_one_of_several() -> bool:
    """Whether LSF, MPI or a person on each node started this process as one of several."""
    if any(name in os.environ for name in ("JSM_NAMESPACE_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")):
        return True
    return "MASTER_ADDR" in os.environ and any(name in os.environ for name in ("NODE_RANK", "GROUP_RANK", "RANK"))


def end_ranks() -> None:
    """Ends the process group, before a rank exits while another one still listens."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
