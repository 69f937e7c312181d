"""The command line: `itm VERB [CONFIG.yaml] [key=value ...]`; its verbs are the rows of `experiments.commands.VERBS`.

Only the verb that runs is imported, and nothing at all for `itm --help`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from experiments.commands import VERBS, find_verb
from experiments.exit_codes import DONE, UsageError, exit_code
from experiments.verb_table import Verb, run_verb

AUTO = "auto"
DEMO = Path(__file__).parent / "sweeps/demo.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code, see `experiments.exit_codes`."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _main(words))


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return DONE
    if argv[0] == "--version":
        print(f"itm {_version()}")
        return DONE
    name, verb = argv[0], find_verb(argv[0])
    if verb.trains or verb.is_sweep:
        from lightning_modules import Preemption

        # from the first moment on: the imports of a training may take longer than the notice that a scheduler gives
        with Preemption():
            return _run_words(name, verb, argv[1:])
    return _run_words(name, verb, argv[1:])


def _run_words(name: str, verb: Verb, words: list[str]) -> int:
    parser = _parser(name, verb)
    # plain parse_args ends the words at the first flag: it would refuse `a.yaml --resume key=value`
    arguments = parser.parse_intermixed_args([_plain_word(word, parser) for word in words])
    if arguments.help:
        print(_verb_page(verb, parser))
        return DONE
    if verb.lists and arguments.list:
        print(verb.load_module().listing())
        return DONE
    return _run(name, verb, arguments)


def _run(name: str, verb: Verb, arguments: argparse.Namespace) -> int:
    # what became of a sweep is told without checking its runs, for which their libraries would be imported
    config = _configure(name, verb, arguments.words, check=not (verb.is_sweep and arguments.status))
    if verb.trains:
        from experiments.config.trials import in_trial

        config = in_trial(config, arguments.words)
    if arguments.dry_run:
        from experiments.config.load import to_yaml

        print(to_yaml(config).rstrip())
        # not asked of the module: a configuration is checked without the libraries that a run needs
        if verb.estimates:
            verb.load_module().estimate(config)
        return DONE
    if verb.is_sweep and _answer(verb, config, arguments):
        return DONE
    if not verb.writes:
        verb.load_module().run(config)
        return DONE
    if arguments.resume is True:
        _check_something_to_resume(name, config)
    further = {"index": arguments.index} if verb.is_sweep and arguments.index is not None else {}
    return run_verb(verb, config, resume=bool(arguments.resume), overwrite=arguments.overwrite, **further)


def _answer(verb: Verb, config: Any, arguments: argparse.Namespace) -> bool:
    """Does what a sweep is asked for beside running it; whether it was asked for anything."""
    sweep = verb.load_module()
    if arguments.status:
        sweep.status(config)
    if arguments.prune:
        sweep.prune(config, arguments.prune)
    if arguments.plan:
        sweep.show_plan(config)
    if arguments.wandb_export:
        sweep.export_to_wandb(config)
    return bool(arguments.status or arguments.prune or arguments.plan or arguments.wandb_export)


def _check_something_to_resume(name: str, config: Any) -> None:
    """Refuses to go on where nothing is: it would start anew without a word, in a folder of a mistyped name.

    Raises:
        InputError: there is no output folder, or it is empty.
    """
    from experiments.runs.outputs import is_empty
    from negatives.tables import InputError

    folder = Path(config.output_dir)
    # a file in its place is refused by the verb
    if not folder.is_file() and is_empty(folder):
        raise InputError(
            f"--resume needs a folder that `itm {name}` began, and {folder} is "
            f"{'empty' if folder.exists() else 'not there'}; start without --resume, or give --resume=auto for both."
        )


def _configure(name: str, verb: Verb, words: Sequence[str], *, check: bool = True) -> Any:
    """The checked configuration that the words after the verb ask for."""
    path, overrides = _sort_words(name, verb, words)
    if name == "demo":
        if path is not None:
            raise UsageError(f"itm demo brings its own configuration, got {path}; run it by: itm sweep {path}")
        path = str(DEMO)
    if verb.is_sweep:
        if path is None:
            raise UsageError("itm sweep needs a YAML file: itm sweep CONFIG.yaml")
        return verb.load_module().load(path, overrides, check=check)
    from experiments.config.load import load_config

    return load_config(verb.load_schema(), path, overrides)


def _sort_words(name: str, verb: Verb, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The YAML file, and the overrides with the bare words turned into one."""
    # a key has no slash: the folder runs/lr=0.1, as sweeps name them, is no override
    overrides = [word for word in words if re.match(r"[\w.-]+=", word)]
    files = [word for word in words if word not in overrides and word.endswith((".yaml", ".yml"))]
    bare = [word for word in words if word not in overrides and word not in files]
    if len(files) > 1:
        raise UsageError(f"itm {name} takes one YAML file, got {', '.join(files)}")
    if bare and verb.bare is None:
        raise UsageError(f"{bare[0]!r} is neither a .yaml file nor key=value; see itm {name} --help")
    if len(bare) > 1 and verb.bare in ("run", "folder"):
        raise UsageError(f"itm {name} takes one {verb.bare}, got {', '.join(bare)}")
    if bare:
        # first, so that the same key given by name wins; in JSON, or YAML would read a folder 2024 as a number
        settings = _bare_settings(verb.bare, bare)
        overrides[:0] = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
    return (files[0] if files else None), overrides


def _bare_settings(key: str | None, words: list[str]) -> dict[str, Any]:
    """What bare words say: a list, or one folder; of a run perhaps with its weights, RUN@best."""
    if key != "run":
        return {str(key): words if key in ("runs", "scorers", "folders") else words[0]}
    from experiments.config.run_folders import split_checkpoint

    run, weights = split_checkpoint(words[0])
    return {key: run} if weights is None else {key: run, "checkpoint": weights}


# argparse would print its usage and exit: an error is one line here, by the way of all others
class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def _parser(name: str, verb: Verb) -> argparse.ArgumentParser:
    words = "[key=value ...]" if name == "demo" else "[CONFIG.yaml] [key=value ...]"
    bare = {"run": "[RUN] ", "runs": "[RUN ...] ", "scorers": "[SCORER ...] ", "folder": "FOLDER "}
    bare["folders"] = "[FOLDER ...] "
    flags = "[--dry-run] [--resume[=auto] | --overwrite]" if verb.writes else "[--dry-run]"
    flags += "\n           [--plan] [--status] [--prune=FOLDER] [--index=N] [--wandb-export]" if verb.is_sweep else ""
    flags += " [--list]" if verb.lists else ""
    usage = f"itm {name} {bare.get(verb.bare or '', '')}{words}\n           {flags}"
    description = f"{verb.summary[0].upper()}{verb.summary[1:]}."
    # help is an option like others, since its page ends with the keys, which argparse does not know;
    # an abbreviated flag could become --overwrite by a slip
    parser = _Parser(f"itm {name}", usage=usage, description=description, add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true", help="show this page")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the configuration, and what a GPT run would cost",
    )
    if verb.writes:
        _add_folder_flags(parser)
    if verb.lists:
        parser.add_argument("--list", action="store_true", help="print what there is to choose from and stop")
    if verb.is_sweep:
        parser.add_argument("--status", action="store_true", help="say which tasks are done and stop")
        parser.add_argument("--plan", action="store_true", help="say what would run and what is kept, and stop")
        parser.add_argument(
            "--prune",
            action="append",
            metavar="FOLDER",
            help="remove the folder of a run or step that is asked for no more, as --plan names it, and stop",
        )
        parser.add_argument("--wandb-export", action="store_true", help="write the sweep as one of W&B, and stop")
        parser.add_argument("--index", type=int, metavar="N", help="do the N-th run alone, as a job array does")
    return parser


def _add_folder_flags(parser: argparse.ArgumentParser) -> None:
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument("--resume", action="store_true", help="go on in an output folder that exists")
    # a name with its value: an option that takes a word would take the next `key=value`
    folder.add_argument(
        "--resume=auto",
        dest="resume",
        action="store_const",
        const=AUTO,
        help="go on where there is something to go on with, else start: one command for a job that is requeued",
    )
    folder.add_argument("--overwrite", action="store_true", help="replace an output folder that itm wrote")


def _plain_word(word: str, parser: argparse.ArgumentParser) -> str:
    """`key=value` for the `--key=value` that W&B's agents write, and FILE for `--config=FILE`; flags stay."""
    name, equals, value = word.partition("=")
    if not equals or not re.fullmatch(r"--[\w.]+", name) or {name, word} & parser._option_string_actions.keys():
        return word
    return value if name == "--config" else f"{name.removeprefix('--')}={_as_yaml(value)}"


def _as_yaml(value: str) -> str:
    """A value that an agent wrote as Python does: None in it would be text to YAML."""
    if value == "None":
        return "null"
    if value[:1] not in ("[", "{"):
        return value
    import ast

    try:
        return json.dumps(ast.literal_eval(value))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # YAML's own, written by a person
        return value


def _verb_page(verb: Verb, parser: argparse.ArgumentParser) -> str:
    """What `itm VERB --help` prints: options, an example, and every key of the configuration."""
    from experiments.config.help import key_table

    keys = key_table(verb.load_schema())
    return f"{parser.format_help()}\nexample:\n  {verb.example}\n\nkeys (type, default, rule):\n{keys}"


def _overview() -> str:
    width = max(map(len, VERBS))
    return "\n".join(
        [
            "usage: itm VERB [CONFIG.yaml] [key=value ...] [--dry-run] [--resume[=auto] | --overwrite]",
            "",
            "Trains, audits and compares image-text matching scorers.",
            "",
            "verbs:",
            *(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items()),
            "",
            "itm VERB --help explains a verb and lists the keys of its configuration; itm --version tells the version.",
        ]
    )


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("itm-lightning")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
