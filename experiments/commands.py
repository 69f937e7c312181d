"""All verbs of the command line: those of one task, and the sweeps that run them."""

from __future__ import annotations

from experiments.exit_codes import UsageError
from experiments.verb_table import TASKS, Verb

VERBS = {
    "demo": Verb(
        "experiments.verbs.sweep",
        "experiments.config.sweep_schemas.SweepConfig",
        "the whole road on the embedded data set, on a CPU, ending in a comparison report",
        "itm demo",
        is_sweep=True,
    ),
    **TASKS,
    "runs": Verb(
        "experiments.verbs.finding.runs",
        "experiments.finding.settings.RunsConfig",
        "the runs in a folder: what differs, their state, how good they are",
        "itm runs runs/sweep sort=-metric",
        bare="folders",
        writes=False,
    ),
    "diff": Verb(
        "experiments.verbs.finding.diff",
        "experiments.finding.settings.DiffConfig",
        "what differs between runs: settings, versions, metrics",
        "itm diff runs/first runs/second",
        bare="runs",
        writes=False,
    ),
    "best": Verb(
        "experiments.verbs.finding.best",
        "experiments.finding.settings.BestConfig",
        "the best weights below a folder as one word, for scripts",
        "itm best runs/sweep metric=balanced/mean_accuracy",
        bare="folders",
        writes=False,
    ),
    "sync": Verb(
        "experiments.verbs.sync",
        "experiments.verbs.sync.SyncConfig",
        "what runs recorded for W&B offline to its server, in order, resumable",
        "itm sync runs/sweep --dry-run",
        bare="folder",
        writes=False,
        estimates=True,
    ),
    "sweep": Verb(
        "experiments.verbs.sweep",
        "experiments.config.sweep_schemas.SweepConfig",
        "many experiments from one YAML file, resumable",
        "itm sweep sweep.yaml --resume",
        is_sweep=True,
    ),
}


def find_verb(name: str) -> Verb:
    """The row of a verb.

    Raises:
        UsageError: there is no such verb; names the nearest one and lists all.
    """
    if name not in VERBS:
        # only a wrong verb pays for the import
        from lightning_modules import did_you_mean

        raise UsageError(f"the verb must be one of {', '.join(VERBS)}, got {name!r}{did_you_mean(name, VERBS)}")
    return VERBS[name]
