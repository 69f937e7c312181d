"""A simulated caption writer for the scenes, with the failing that this product exists for: favourite words.

People and the writer describe scenes alike, but for a decoration in front of an object: each has favourite words that
the other hardly uses. Whatever the writer changes, it decorates anew, so text alone tells its negatives from people's
positives (AUC about 0.75), although no decoration says anything about the picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from datamodules.scenes.draw import COLOURS, RELATIONS, SHAPES, Scene, SceneObject
from negatives.tables import InputError

PEOPLES_WORDS, WRITERS_WORDS = "plain little", "strikingly vibrant"
OWN_WORDS, OTHERS_WORDS = 0.34, 0.04
"""Chance that a caption has its author's favourite words, or the other's. Dropping the most telling 30 % of each class
(LLaVA-score's rule) leaves as many of either in both classes: (0.34 - 0.30) / 0.70 = 0.04 / 0.70."""

_CAPTION = re.compile(
    rf"a (?:({PEOPLES_WORDS}|{WRITERS_WORDS}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) ({'|'.join(RELATIONS)}) "
    rf"a (?:({PEOPLES_WORDS}|{WRITERS_WORDS}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
)


@dataclass(frozen=True)
class Telling:
    """A scene as somebody tells it: a decoration ("" for none) in front of either object."""

    scene: Scene
    subject_words: str = ""
    other_words: str = ""

    @property
    def caption(self) -> str:
        """The caption.

        >>> red, blue = SceneObject("red", "circle"), SceneObject("blue", "square")
        >>> Telling(Scene(red, "left of", blue), other_words="strikingly vibrant").caption
        'a red circle left of a strikingly vibrant blue square'
        """
        subject, other = (f"{word} {thing}".strip() for word, thing in self._parts())
        return f"a {subject} {self.scene.relation} a {other}"

    def _parts(self) -> tuple[tuple[str, SceneObject], tuple[str, SceneObject]]:
        return (self.subject_words, self.scene.subject), (self.other_words, self.scene.other)


def parse_caption(caption: str) -> Telling:
    """The scene that a caption of the embedded data tells of.

    Raises:
        InputError: it is no such caption.
    """
    match = _CAPTION.fullmatch(caption)
    if match is None:
        raise InputError(
            f"caption {caption!r} is none of the embedded scenes'; use generator=rules for other captions."
        )
    subject_words, colour, shape, relation, other_words, other_colour, other_shape = match.groups()
    scene = Scene(SceneObject(colour, shape), relation, SceneObject(other_colour, other_shape))
    return Telling(scene, subject_words or "", other_words or "")


def tell(scene: Scene, rng: np.random.Generator, *, by_writer: bool = False) -> Telling:
    """The scene in the words of a person, or of the writer."""
    own, others = (WRITERS_WORDS, PEOPLES_WORDS) if by_writer else (PEOPLES_WORDS, WRITERS_WORDS)
    draw = rng.random()
    if draw >= OWN_WORDS + OTHERS_WORDS:
        return Telling(scene)
    words = own if draw < OWN_WORDS else others
    return Telling(scene, subject_words=words) if rng.random() < 0.5 else Telling(scene, other_words=words)


def replace_obj(scene: Scene, rng: np.random.Generator) -> Scene:
    """Another shape for one of the objects, one that the picture does not show."""
    return _replace_one(scene, rng, "shape", SHAPES)


def replace_att(scene: Scene, rng: np.random.Generator) -> Scene:
    """Another colour for one of the objects, one that the picture does not show."""
    return _replace_one(scene, rng, "colour", tuple(COLOURS))


def _replace_one(scene: Scene, rng: np.random.Generator, attribute: str, words: tuple[str, ...]) -> Scene:
    shown = {getattr(scene.subject, attribute), getattr(scene.other, attribute)}
    # not the other object's word either: objects of a scene differ in both
    word = str(rng.choice([w for w in words if w not in shown]))
    place = "subject" if rng.random() < 0.5 else "other"
    return replace(scene, **{place: replace(getattr(scene, place), **{attribute: word})})


def replace_rel(scene: Scene, rng: np.random.Generator) -> Scene:
    """Another relation between the objects."""
    return replace(scene, relation=str(rng.choice([r for r in RELATIONS if r != scene.relation])))


def swap_obj(scene: Scene, rng: np.random.Generator) -> Scene:
    """The objects, with their colours, in each other's place."""
    return replace(scene, subject=scene.other, other=scene.subject)


def swap_att(scene: Scene, rng: np.random.Generator) -> Scene:
    """The objects in each other's colour."""
    subject, other = scene.subject, scene.other
    return replace(scene, subject=replace(subject, colour=other.colour), other=replace(other, colour=subject.colour))


FALSIFIERS: dict[str, Callable[[Scene, np.random.Generator], Scene]] = {
    function.__name__: function for function in (replace_obj, replace_att, replace_rel, swap_obj, swap_att)
}


class SceneWriter:
    """The simulated writer: one negative of every type for a caption of the embedded data."""

    name, version = "scenes", "1"

    def write(self, caption: str, rng: np.random.Generator) -> list[tuple[str, str]]:
        """(negative_type, negative caption) for all five types, each decorated in the writer's way."""
        scene = parse_caption(caption).scene
        return [
            (negative_type, tell(falsify(scene, rng), rng, by_writer=True).caption)
            for negative_type, falsify in FALSIFIERS.items()
        ]
