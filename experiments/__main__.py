"""The command line: `itm VERB [CONFIG.yaml] [key=value ...]`, one row of `VERBS` for each verb.

Only the verb that runs is imported, and nothing at all for `itm --help`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

DEMO = Path(__file__).parent / "sweeps/demo.yaml"
DEMO_FULL = DEMO.with_name("demo_full.yaml")


class Verb(NamedTuple):
    """A verb of the command line.

    Attributes:
        module: Module with `run(config, *, resume, overwrite)`; sweeps also `load(path, overrides)`, `status(config)`;
            where there is something to tell before a run, `estimate(config)`, printed by --dry-run.
        schema: Its dataclass in `experiments.config.schemas`, `generate_schemas` or `filter_schemas`.
        summary: One line of `itm --help`.
        example: A command that teaches the verb.
        bare: Key that takes the arguments which are neither a file of configuration nor `key=value`.
    """

    module: str
    schema: str
    summary: str
    example: str
    bare: str | None = None

    @property
    def is_sweep(self) -> bool:
        return self.schema == "SweepConfig"


VERBS = {
    "demo": Verb(
        "experiments.verbs.sweep",
        "SweepConfig",
        "the whole road on the embedded data set, on a CPU, ending in a comparison report",
        "itm demo",
    ),
    "generate": Verb(
        "experiments.verbs.generate",
        "GenerateConfig",
        "captions -> negatives, by a GPT model, its batch API, offline generators, or from written pairs",
        "itm generate generator=rules captions=captions.jsonl output_dir=negatives",
    ),
    "audit": Verb(
        "experiments.verbs.audit",
        "AuditConfig",
        "how much of the label the text alone gives away, and which words do it",
        "itm audit captions=captions.jsonl negatives=negatives/negatives.parquet output_dir=audit",
    ),
    "filter": Verb(
        "experiments.verbs.filter",
        "FilterConfig",
        "keeps the texts on which text alone says nothing",
        "itm filter captions=captions.jsonl negatives=negatives/negatives.parquet output_dir=filtered",
    ),
    "train": Verb(
        "experiments.verbs.train",
        "ExperimentConfig",
        "one experiment from a YAML file",
        "itm train experiment.yaml optim.lr=1e-4 trainer.max_steps=100",
    ),
    "sweep": Verb(
        "experiments.verbs.sweep",
        "SweepConfig",
        "many experiments from one YAML file, resumable",
        "itm sweep sweep.yaml --resume",
    ),
    "evaluate": Verb(
        "experiments.verbs.evaluate",
        "EvaluateConfig",
        "a trained run on benchmarks, always with its blind control",
        "itm evaluate runs/experiment",
        bare="run",
    ),
    "compare": Verb(
        "experiments.verbs.compare",
        "CompareConfig",
        "several evaluated runs side by side: tables, intervals, plots, one HTML page",
        "itm compare runs/first runs/second output_dir=comparison",
        bare="runs",
    ),
    "score": Verb(
        "experiments.verbs.score",
        "ScoreConfig",
        "scores a table of image-caption pairs, resumable",
        "itm score run=runs/experiment captions=captions.jsonl output_dir=scores",
    ),
    "export": Verb(
        "experiments.verbs.export",
        "ExportConfig",
        "a trained run as a Transformers or PEFT folder that loads without this package, with a model card",
        "itm export runs/experiment output_dir=scorer",
        bare="run",
    ),
    "neighbours": Verb(
        "experiments.verbs.neighbours",
        "NeighboursConfig",
        "the images nearest to each image by CLIP's features, for data.neighbours",
        "itm neighbours model.checkpoint=openai/clip-vit-base-patch32 captions=captions.jsonl output_dir=neighbours",
    ),
}


class UsageError(Exception):
    """A command line that cannot be read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0 done, 1 not balanced, 2 bad input, 130 interrupted."""
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        print("itm: interrupted", file=sys.stderr)
        return 130
    except UsageError as error:
        print(f"itm: error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"itm: error: {error} Try a lower optim.lr.", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"itm: error: {error.filename}: {error.strerror}; check the path and its permissions.", file=sys.stderr)
        return 2
    except ValueError as error:
        from negatives.tables.captions import InputError

        if not isinstance(error, InputError):
            raise
        print(f"itm: error: {_without_worker_traceback(str(error))}", file=sys.stderr)
        return 2


def _without_worker_traceback(message: str) -> str:
    """What a loader worker's error says: PyTorch hands it over inside the text of its traceback."""
    return re.split(r"\w+Error: ", message)[-1].strip() if "Original Traceback" in message else message


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        _show(_overview())
        return 0
    if argv[0] == "--version":
        print(f"itm {_version()}")
        return 0
    name, verb = argv[0], VERBS.get(argv[0])
    if verb is None:
        raise UsageError(f"the verb must be one of {', '.join(VERBS)}, got {name!r}.{_nearest(name)}")
    parser = _parser(name, verb)
    arguments = parser.parse_intermixed_args(argv[1:])
    if arguments.help:
        _show(_verb_page(verb, parser))
        return 0
    return _run(name, verb, arguments)


def _run(name: str, verb: Verb, arguments: argparse.Namespace) -> int:
    config = _configure(name, verb, arguments.words, full=name == "demo" and arguments.full)
    if arguments.dry_run:
        from experiments.config.load import to_yaml

        _show(to_yaml(config).rstrip())
        if estimate := getattr(importlib.import_module(verb.module), "estimate", None):
            estimate(config)
        return 0
    module = importlib.import_module(verb.module)
    if verb.is_sweep and arguments.status:
        module.status(config)
        return 0
    return module.run(config, resume=arguments.resume, overwrite=arguments.overwrite) or 0


def _configure(name: str, verb: Verb, words: Sequence[str], *, full: bool = False) -> Any:
    """The checked configuration that the words after the verb ask for."""
    path, overrides = _sort_words(name, verb, words)
    if name == "demo":
        if path is not None:
            raise UsageError(f"itm demo brings its own configuration, got {path}; run it by: itm sweep {path}")
        path = str(DEMO_FULL if full else DEMO)
    if verb.is_sweep:
        if path is None:
            raise UsageError("itm sweep needs a YAML file: itm sweep CONFIG.yaml")
        return importlib.import_module(verb.module).load(path, overrides)
    from experiments.config import load as config

    return config.load_config(_schema(verb), path, overrides)


def _schema(verb: Verb) -> type[Any]:
    from experiments.config import filter_schemas, generate_schemas, schemas

    home = next(file for file in (schemas, generate_schemas, filter_schemas) if hasattr(file, verb.schema))
    schema: type[Any] = getattr(home, verb.schema)
    return schema


def _sort_words(name: str, verb: Verb, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The YAML file, and the overrides with the bare words turned into one."""
    overrides = [word for word in words if re.match(r"[\w.-]+=", word)]
    files = [word for word in words if word not in overrides and word.endswith((".yaml", ".yml"))]
    bare = [word for word in words if word not in overrides and word not in files]
    if len(files) > 1:
        raise UsageError(f"itm {name} takes one YAML file, got {', '.join(files)}")
    if bare and verb.bare is None:
        raise UsageError(f"{bare[0]!r} is neither a .yaml file nor key=value; see itm {name} --help")
    if len(bare) > 1 and verb.bare == "run":
        raise UsageError(f"itm {name} takes one run, got {', '.join(bare)}")
    if bare:
        overrides.insert(0, f"{verb.bare}={json.dumps(bare if verb.bare == 'runs' else bare[0], ensure_ascii=False)}")
    return (files[0] if files else None), overrides


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def _parser(name: str, verb: Verb) -> argparse.ArgumentParser:
    words = "[--full] [key=value ...]" if name == "demo" else "[CONFIG.yaml] [key=value ...]"
    bare = {"run": "[RUN] ", "runs": "[RUN ...] "}.get(verb.bare or "", "")
    flags = "[--dry-run] [--resume | --overwrite]" + (" [--status]" if verb.is_sweep else "")
    usage = f"itm {name} {bare}{words} {flags}"
    description = f"{verb.summary[0].upper()}{verb.summary[1:]}."
    parser = _Parser(f"itm {name}", usage=usage, description=description, add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true", help="show this page")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the configuration, and what a GPT run would cost",
    )
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument("--resume", action="store_true", help="go on in an output folder that exists")
    folder.add_argument("--overwrite", action="store_true", help="replace an output folder that itm wrote")
    if name == "demo":
        parser.add_argument("--full", action="store_true", help="train BLIP-2 and CLIP too (some minutes more)")
    if verb.is_sweep:
        parser.add_argument("--status", action="store_true", help="say which runs are done and stop")
    return parser


def _verb_page(verb: Verb, parser: argparse.ArgumentParser) -> str:
    """What `itm VERB --help` prints: options, an example, and every key of the configuration."""
    from experiments.config import help as reference

    keys = reference.key_table(_schema(verb))
    return f"{parser.format_help()}\nexample:\n  {verb.example}\n\nkeys (type, default, rule):\n{keys}"


def _overview() -> str:
    width = max(map(len, VERBS))
    return "\n".join(
        [
            "usage: itm VERB [CONFIG.yaml] [key=value ...] [--dry-run] [--resume | --overwrite]",
            "",
            "Trains, audits and compares image-text matching scorers.",
            "",
            "verbs:",
            *(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items()),
            "",
            "itm VERB --help explains a verb and lists the keys of its configuration; itm --version tells the version.",
        ]
    )


def _show(text: str) -> None:
    """Prints a page; a reader that stops half-way (`| head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails again


def _nearest(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, VERBS, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("itm-lightning")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
