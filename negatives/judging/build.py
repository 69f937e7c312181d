"""From names and settings to judges."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

from negatives.judging.judge import Judge
from negatives.judging.settings import JudgeSettings
from negatives.judging.table import JUDGES, faults_of_names
from negatives.tables.files import InputError


def build_judges(names: Sequence[str], settings: JudgeSettings) -> list[Judge]:
    """The judges of these names, in this order.

    Args:
        names: keys of `JUDGES`; they need not be `settings.judges`, since probes are built from the same settings.
        settings: of all judges.

    Raises:
        InputError: a name is unknown or repeated, none is given, or a judge needs a checkpoint that is not given.
    """
    # for calls from Python: a configuration was checked when it was read
    for fault in (*faults_of_names(names, "judges"), *settings.faults_of_models(names, "judges", "judge.")):
        raise InputError(fault)
    return [_builder(name)(settings) for name in names]


def _builder(name: str) -> Callable[[JudgeSettings], Judge]:
    module, _, function = JUDGES[name].rpartition(".")
    build: Callable[[JudgeSettings], Judge] = getattr(importlib.import_module(module), function)
    return build
