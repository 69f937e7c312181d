"""What can be configured of `itm runs`, `itm diff` and `itm best`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

FORMATS = ("table", "csv", "json")


@dataclass
class RunsConfig:
    """`itm runs`: the runs in a folder."""

    folders: list[str] = field(default_factory=lambda: ["runs"])
    """Folders in which runs are looked for, at any depth."""
    metric: str | None = None
    """val/TYPE/accuracy of the validations, the best of them; or SET/GROUP_METRIC of the evaluation, such as
    balanced/mean_accuracy. Where not given, `trainer.best_metric` of the runs, or a mean of their evaluation."""
    sort: str = "folder"
    """best (the best first), folder, metric, age, state, or a key such as optim.lr; with a minus before it the other
    way round."""
    columns: list[str] | None = None
    """Keys of the configuration to show, such as optim.lr or lr, and metrics; the keys that differ between the runs
    where not given."""
    limit: int = field(default=100, metadata={"min": 1})
    """Most runs to show."""
    format: str = field(default="table", metadata={"choices": FORMATS})
    """table for people; csv and json for programs, with every differing key."""


@dataclass
class DiffConfig:
    """`itm diff`: what differs between runs."""

    runs: list[str] = field(default_factory=list, metadata={"exists": "folder"})
    """Folders of two or more runs."""
    all: bool = False
    """What they have in common, too."""

    def faults(self, place: str) -> Iterator[str]:
        """Fewer than two runs."""
        if len(self.runs) < 2:
            yield f"`{place}runs` must name at least two runs, got {len(self.runs)}: itm diff RUN RUN"


@dataclass
class BestConfig:
    """`itm best`: the best run in folders."""

    folders: list[str] = field(default_factory=lambda: ["runs"])
    """Folders in which runs are looked for, at any depth: that of a sweep."""
    metric: str | None = None
    """As of `itm runs`."""
    mode: str | None = field(default=None, metadata={"choices": ("max", "min")})
    """Whether the highest or the lowest value is best, where the metric's name does not tell."""
    weights: bool = False
    """Print the path of the weights' file, and no word for `itm evaluate` and `itm export`."""
