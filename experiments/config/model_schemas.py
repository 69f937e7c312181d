"""Which dataclass holds a `model` section: that of its backbone, with the section of its loss.

What can be set of a scorer is declared where it is used, in the backbones' and losses' files. A verb's schema has a
field of type `ModelSettings`; while a configuration is read, the backbone's own subclass takes its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_modules import did_you_mean, field_types, keeps_rules, rule_text
from lightning_modules.backbones import ModelSettings, UnknownNameError, model_schema, without_former_keys

SECTION = "model"
"""What the section of a scorer is called, in every verb that has one."""


def has_model(schema: type) -> bool:
    """Whether a verb's configuration has a section for a scorer."""
    return field_types(schema).get(SECTION) is ModelSettings


class Chosen(NamedTuple):
    """The settings to fill from a `model` section.

    Attributes:
        settings: defaults of the class that the section chooses.
        wrong: what is wrong with its backbone or loss, if anything; then the settings are of what is known.
        unresolved: "backbone" or "loss" where its interpolation cannot be followed: then keys that the class lacks may
            belong to what was meant.
    """

    settings: ModelSettings
    wrong: UnknownNameError | None = None
    unresolved: str | None = None


def choose_model(default: ModelSettings, tree: Mapping[str, Any]) -> Chosen:
    """The settings to fill from a configuration's `model` section: defaults of the class that it chooses.

    Args:
        default: of the verb; its backbone is taken where none is given.
        tree: the whole configuration, with interpolations.

    """
    given: dict[str, Any] = {}
    unresolved = None
    for key in ("loss", "backbone"):
        try:
            given[key] = _resolved(tree, f"{SECTION}.{key}")
        except OmegaConfBaseException:
            # a loss is judged by its backbone, and not by the default one
            unresolved, given = key, {}
    section = tree.get(SECTION)
    if isinstance(section, Mapping) and section.get("backbone", "") is None:
        # null is refused by its type, and a loss is not judged by the default backbone
        unresolved, given = "backbone", {}
    backbone = default.backbone if given.get("backbone") is None else given["backbone"]
    try:
        return Chosen(model_schema(backbone, given.get("loss"))(), unresolved=unresolved)
    except UnknownNameError as error:
        # keys of a known backbone are still checked where only its loss is wrong
        known = backbone if error.key == "loss" else default.backbone
        return Chosen(model_schema(known)(), error, unresolved)


def drop_former_keys(tree: dict[str, Any]) -> None:
    """Takes out of a saved configuration what older runs wrote of other backbones and losses, in place."""
    # the file may hold anything by now
    if isinstance(tree, Mapping) and isinstance(section := tree.get(SECTION), Mapping):
        tree[SECTION] = without_former_keys(section)


def is_known_somewhere(key: str) -> bool:
    """Whether some backbone or loss has this key in the section of a scorer; imports all of their files."""
    return bool(owners(key))


def owners(key: str) -> list[str]:
    """The backbones that have this key in the section of a scorer, with some loss; imports all of their files."""
    return list(dict.fromkeys(each.backbone for _, each in variants() if key in field_types(type(each))))


def variants() -> Iterator[tuple[str, ModelSettings]]:
    """Every backbone's settings with those of each of its losses, for a help page; imports all of their files."""
    from lightning_modules.backbones import BACKBONES, backbone_traits
    from lightning_modules.losses import losses_that_read

    for name in BACKBONES:
        for loss in losses_that_read(backbone_traits(name).offers):
            yield loss, model_schema(name, loss)()


def score_faults(run: str, score: str, place: str) -> Iterator[str]:
    """What is wrong with a score chosen for a run; a run that tells no backbone is refused when it is loaded."""
    from lightning_modules.scoring import read_settings
    from negatives.tables import InputError

    try:
        model, _ = read_settings(Path(run))
    except InputError:
        return
    own = {one.name: one.metadata for one in dataclasses.fields(model)}
    if "score" not in own:
        yield f"`{place}score` must be left out: a {model.backbone} has one score only"
    elif not keeps_rules(score, own["score"]):
        near = did_you_mean(score, own["score"]["choices"])
        yield f"`{place}score` must be {rule_text(own['score'])}, got {score!r}{near}"


def _resolved(tree: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, None where it is not given."""
    # the raw tree, since there is no class to fill before the backbone is known
    return OmegaConf.select(OmegaConf.create(dict(tree)), key)
