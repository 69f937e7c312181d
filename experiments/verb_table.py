"""The verbs that do one task: a row of `TASKS` for each, which the command line and the tasks of sweeps both read.

A new verb is its file in `verbs/`, a dataclass of its settings (in `config/` or in the same file), and its row. Both
are imported when it is used, so that `itm --help` needs neither torch nor OmegaConf. `commands.py` adds the verbs that
run others: these read this table, so that they cannot stand in it.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, NamedTuple

from experiments.exit_codes import DONE


class Verb(NamedTuple):
    """A verb of the command line.

    Attributes:
        module: Module with `run(config, *, resume, overwrite)`, which returns an exit code or None.
        schema: Dotted place of the dataclass of its settings.
        summary: One line of `itm --help`.
        example: A command that teaches the verb.
        bare: Key that takes the arguments which are neither a file of configuration nor `key=value`.
        prepares: Whether it can be a step of a sweep's `prepare`.
        trains: Whether such a step is a training, which the sweep names, seeds and logs like those of its runs.
        logs_to_sweep: Whether such a step logs where the sweep does, unless it says otherwise.
        miss_leaves: File in its folder that a run which missed what was promised leaves behind: a sweep goes on with
            it. None where such a run is of no use.
        is_sweep: Whether its configuration describes other verbs' tasks: then the module also has `load(path,
            overrides)`, which checks them all, and `status(config)`.
        lists: Whether its module has `listing()`, what `--list` prints.
        writes: Whether it writes a folder of its own, which it can go on in or replace; one that only tells what is
            there has `run(config)`.
        estimates: Whether its module has `estimate(config)`, which says by --dry-run what a run would cost or do.
    """

    module: str
    schema: str
    summary: str
    example: str
    bare: str | None = None
    prepares: bool = False
    trains: bool = False
    logs_to_sweep: bool = False
    miss_leaves: str | None = None
    is_sweep: bool = False
    lists: bool = False
    writes: bool = True
    estimates: bool = False

    def load_module(self) -> ModuleType:
        """The verb's module, imported now."""
        return importlib.import_module(self.module)

    def load_schema(self) -> type[Any]:
        """The dataclass of its settings, imported now."""
        # text, not a class: naming the class would import OmegaConf for every verb
        module, _, name = self.schema.rpartition(".")
        schema: type[Any] = getattr(importlib.import_module(module), name)
        return schema


TASKS = {
    "generate": Verb(
        "experiments.verbs.generate",
        "experiments.config.generate_schemas.GenerateConfig",
        "captions -> negatives, by a GPT model, its batch API, offline generators, or from written pairs",
        "itm generate generator=rules captions=captions.jsonl output_dir=negatives",
        prepares=True,
        estimates=True,
    ),
    "audit": Verb(
        "experiments.verbs.audit",
        "experiments.config.filter_schemas.AuditConfig",
        "how much of the label the text alone gives away, and which words do it",
        "itm audit captions=captions.jsonl negatives=negatives/negatives.parquet output_dir=audit",
        prepares=True,
        logs_to_sweep=True,
    ),
    "filter": Verb(
        "experiments.verbs.filter",
        "experiments.config.filter_schemas.FilterConfig",
        "keeps the texts on which text alone says nothing",
        "itm filter captions=captions.jsonl negatives=negatives/negatives.parquet output_dir=filtered",
        prepares=True,
        miss_leaves="verdicts.parquet",
    ),
    "train": Verb(
        "experiments.verbs.train",
        "experiments.config.schemas.ExperimentConfig",
        "one experiment from a YAML file",
        "itm train experiment.yaml optim.lr=1e-4 trainer.max_steps=100",
        prepares=True,
        trains=True,
    ),
    "evaluate": Verb(
        "experiments.verbs.evaluate",
        "experiments.config.evaluation_schemas.EvaluateConfig",
        "scorers on benchmarks, trained here or not, always with their blind control",
        "itm evaluate runs/experiment",
        bare="scorers",
        lists=True,
    ),
    "compare": Verb(
        "experiments.verbs.compare",
        "experiments.config.evaluation_schemas.CompareConfig",
        "several evaluated runs side by side: tables, intervals, plots, one HTML page",
        "itm compare runs/first runs/second output_dir=comparison",
        bare="runs",
    ),
    "score": Verb(
        "experiments.verbs.score",
        "experiments.config.schemas.ScoreConfig",
        "scores a table of image-caption pairs, resumable",
        "itm score run=runs/experiment captions=captions.jsonl output_dir=scores",
    ),
    "export": Verb(
        "experiments.verbs.export",
        "experiments.config.schemas.ExportConfig",
        "a trained run as a Transformers or PEFT folder that loads without this package, with a model card",
        "itm export runs/experiment output_dir=scorer",
        bare="run",
    ),
    "convert": Verb(
        "experiments.verbs.convert",
        "experiments.verbs.convert.ConvertConfig",
        "weights of open_clip's CLIP (NegCLIP, CE-CLIP) as a Transformers folder for model.checkpoint",
        "itm convert weights=negclip.safetensors base=openai/clip-vit-base-patch32 output_dir=negclip",
    ),
    "neighbours": Verb(
        "experiments.verbs.neighbours",
        "experiments.config.schemas.NeighboursConfig",
        "the images nearest to each image by CLIP's features, for data.neighbours",
        "itm neighbours model.checkpoint=openai/clip-vit-base-patch32 captions=captions.jsonl output_dir=neighbours",
        prepares=True,
    ),
}


def run_verb(verb: Verb, config: Any, *, resume: bool = False, overwrite: bool = False, **further: Any) -> int:
    """Runs one verb with its checked configuration and returns its exit code; `further` is of a sweep alone.

    Raises:
        InputError: whatever the verb refuses; metrics that cannot go where they should, before its work starts.
    """
    from negatives.tables import locks_of_block

    if getattr(config, "logging", None) is not None:
        from experiments.runs.tracking import check_logging

        check_logging(config.logging)
    with locks_of_block():
        # most verbs either finish or raise, and return nothing
        code: int | None = verb.load_module().run(config, resume=resume, overwrite=overwrite, **further)
    if (name := next((name for name, row in TASKS.items() if row is verb), None)) is not None:
        from experiments.runs.ranks import is_main_process
        from experiments.tracking.lineage import record_lineage

        if is_main_process():
            record_lineage(name, config)
    return DONE if code is None else code
