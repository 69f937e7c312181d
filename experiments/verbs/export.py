"""`itm export`: a trained run as a folder that Transformers, or PEFT for adapters, loads without this package.

Writes the weights with processor and tokenizer, `scorer.json`, and a model card with code that scores, `README.md`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from experiments.build import load_run
from experiments.config.schemas import ExperimentConfig, ExportConfig
from experiments.report.card import Card, Licence, render_card
from experiments.report.card_sources import find_certificate, find_evaluations, find_provenance, table_sources
from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import say
from experiments.verbs.filter import CERTIFICATE_FILE
from lightning_modules import describe_kept
from lightning_modules.backbones import BACKBONES, ModelSettings, backbone_class
from lightning_modules.scoring import SCORER_FILE
from negatives.tables import InputError, write_json, write_text

CARD_FILE = "README.md"
PRIVATE = ("run", "output_dir")
"""Keys of the configuration that are no one's business where the folder is published."""


def run(config: ExportConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Writes a run's weights in the format of Transformers or PEFT, and the model card; the folder appears whole.

    Raises:
        InputError: the folder is in use, the run is unfinished, or its base cannot be loaded.
    """
    output = OutputFolder(
        config, verb="export", result=SCORER_FILE, resume=resume, overwrite=overwrite, private=PRIVATE
    )
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return
    module, experiment = load_run(Path(config.run), checkpoint=config.checkpoint)
    base = experiment.model.checkpoint
    # or the export would replace what the run was trained from
    if base is not None and Path(base).is_dir() and output.path.resolve().is_relative_to(Path(base).resolve()):
        raise InputError(f"`output_dir` must not be in the base of the run, {base}, got {output.path}; choose another.")
    from lightning_modules import EDGE
    from lightning_modules.scoring import has_adapters, image_backend, other_parameters, scorer_content

    content, beside = scorer_content(module), other_parameters(module)
    backend, adapted = image_backend(module), has_adapters(module)
    # before the weights are written: a damaged file beside the run is refused at once
    weights = describe_kept(Path(config.run), config.checkpoint)
    found = _found(Path(config.run), experiment, content["model"].get("score"), weights.get("step"))
    with output.whole() as folder:
        try:
            parameters = _write_weights(module, experiment.model, folder, content, merge=config.merge)
        except (ValueError, OSError) as error:
            # of the system, as on a full disk; those of a library have no number
            if getattr(error, "errno", None) is not None:
                raise
            raise InputError(f"{config.run}: {' '.join(str(error).split())}") from error
        card = Card(
            experiment,
            content,
            merged=adapted and "base" not in content,
            licence=licence_of(experiment.model.checkpoint, config.licence),
            image_backend=backend,
            parameters=parameters,
            others=beside,
            weights=weights,
            **found,
        )
        write_text(render_card(card, edge=EDGE), folder / CARD_FILE)
        write_json(content, folder / SCORER_FILE)
    say(f"Exported {experiment.name}: {output.path / CARD_FILE} says how it is used.")


def _write_weights(
    module: Any, model: ModelSettings, folder: Path, content: dict[str, Any], *, merge: bool
) -> list[str]:
    """Writes weights and processor, and for adapters says in `content` what their base is.

    Returns:
        The names of the parameters that trained beside adapters and are no module's.
    """
    from lightning_modules.scoring import base_fingerprint, has_adapters, load_base, save_adapters, save_whole

    # adapters on random weights have no base that anybody could load
    if merge or model.checkpoint is None or not has_adapters(module):
        save_whole(module, folder)
        return []
    # a folder is found from wherever the export is used
    checkpoint = str(Path(model.checkpoint).resolve()) if Path(model.checkpoint).is_dir() else model.checkpoint
    commit = module.commit()
    parameters = save_adapters(module, folder, checkpoint, commit)
    # once more from its files: in the scorer, some of its weights have trained
    base = load_base(content["backbone"], checkpoint, content["model"], dtype="auto", revision=commit)
    content["base"] = {"checkpoint": checkpoint, "weights": base_fingerprint(base)}
    if commit is not None:
        content["base"]["revision"] = commit
    return parameters


def licence_of(base: str | None, given: str | None = None) -> Licence:
    """The licence for a card.

    Args:
        base: hub name or folder of what was trained from; None for a model from scratch.
        given: the hub's name of the licence that the user says it has.

    >>> licence_of("llava-hf/llava-1.5-7b-hf").name, licence_of("me/model").name, licence_of(None).name
    ('llama2', 'other', 'apache-2.0')
    """
    if given is not None:
        return Licence(given, given, "Given by whoever exported it.")
    if base is None:
        return Licence("apache-2.0", "Apache-2.0", "The weights were trained from random ones.")
    reason = "That of the base; what was trained from it is bound by it."
    if Path(base).is_dir():
        # a local folder is often a download or an export, which brings its card
        if own := _licence_in(Path(base) / "README.md"):
            return Licence(own, own, reason)
    else:
        # by the beginning of the name: a family of checkpoints has one licence
        known = {start: licence for name in BACKBONES for start, licence in backbone_class(name).licences.items()}
        for start, (name, title) in known.items():
            if base.startswith(start):
                return Licence(name, title, reason)
    return Licence("other", "other: see the base model", "The base's licence is not known here; it binds this model.")


def _licence_in(card: Path) -> str | None:
    """What the YAML in front of a model card names; None where it names nothing that the hub would know."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    # not a YAML parser: the front matter of others may be malformed, and one line of it is wanted
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"""^licen[sc]e:\s*["']?([\w.-]{1,60})["']?\s*$""", front[1], re.MULTILINE) if front else None
    return found[1] if found else None


def _found(run: Path, experiment: ExperimentConfig, own_score: str | None, step: int | None) -> dict[str, Any]:
    """What a card says about data, evaluation and provenance, as far as the files are there."""
    verdicts = experiment.data.verdicts
    return {
        "tables": list(table_sources(experiment.data)),
        # `itm filter` writes it beside the verdicts
        "certificate": find_certificate(Path(verdicts).parent / CERTIFICATE_FILE) if verdicts else None,
        "evaluations": list(find_evaluations(run, own_score, step)),
        "provenance": find_provenance(run),
    }
