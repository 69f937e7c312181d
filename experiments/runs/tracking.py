"""W&B: the logger of a verb, as its `logging` section says."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.config.trainer_schemas import LoggingConfig
from experiments.runs.wandb_id import own_id, wait_for_a_free_name
from negatives.tables import InputError

OFFLINE = ("offline", "dryrun", "disabled")
"""Values of WANDB_MODE, W&B's own variable, under which nothing is sent."""


def check_logging(config: LoggingConfig) -> None:
    """Refuses to go online where W&B would ask for a key on a terminal, and fail in a job, after the work.

    Raises:
        InputError: there is no key in the environment, in `.netrc` or in W&B's own settings, or one that is none; or
            the server cannot be reached, or does not take it.
    """
    if config.wandb != "online" or os.environ.get("WANDB_MODE") in OFFLINE:
        return
    import wandb

    why = "none is found"
    try:
        # older ones only ask; what they find without asking is here
        silent = "prompt" in inspect.signature(wandb.login).parameters
        # verified, which takes 10 s without a network: `wandb.init` would wait 90 s, with the run's folder taken
        if wandb.login(prompt=False, verify=True) if silent else wandb.api.api_key:
            return
    except wandb.errors.Error as error:
        why = " ".join(str(error).split())
    raise InputError(
        f"to go online needs a key of W&B: {why.rstrip('.')}; run `wandb login`, or export WANDB_API_KEY=... A run "
        "without a network logs with logging.wandb=offline, and is uploaded later by `itm sync`."
    )


def wandb_logger(
    config: LoggingConfig,
    *,
    folder: Path,
    name: str,
    job_type: str,
    settings: Any,
    run_id: str | None = None,
    tags: tuple[str, ...] = (),
) -> Any | None:
    """Lightning's WandbLogger as configured, or None where W&B is disabled.

    Args:
        config: the `logging` section.
        folder: in whose `wandb/` its files go.
        name: of the run.
        job_type: of the run; the verb.
        settings: its config: a dataclass, or a mapping.
        run_id: of the run; the one that `folder` keeps where None.
        tags: beside those of the section.

    Raises:
        InputError: `check_logging`.
    """
    check_logging(config)
    if config.wandb == "disabled":
        return None
    # nothing of W&B is imported where it is disabled
    import wandb

    from experiments.runs.metric_log import ExperimentLogger

    folder.mkdir(parents=True, exist_ok=True)
    run_id = run_id or own_id(folder)
    wait_for_a_free_name(folder, run_id)
    logger = ExperimentLogger(
        name=name,
        id=run_id,
        save_dir=str(folder),
        offline=config.wandb == "offline",
        project=config.project,
        group=config.group,
        job_type=job_type,
        tags=list(dict.fromkeys([*config.tags, *tags])) or None,
        config=dict(settings) if isinstance(settings, Mapping) else dataclasses.asdict(settings),
        settings=wandb.Settings(console="off", silent=config.wandb == "offline"),
    )
    # Lightning hands over anonymous=None, and W&B warns of the key whatever its value is
    logger._wandb_init.pop("anonymous", None)
    return logger
