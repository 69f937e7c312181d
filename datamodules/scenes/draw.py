"""Embedded data: seeded, procedurally drawn scenes and the captions that describe them.

A scene holds two objects that differ in shape and in colour, side by side or one above the other. Its captions
name objects, attributes and one relation, so every SugarCrepe replace and swap type has a well-defined falsehood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "cross", "bar")
COLOURS = {
    "red": (230, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 20, 230),
    "yellow": (240, 240, 20),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
}
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class SceneObject:
    """One object: a colour name and a shape name."""

    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """`subject` stands in `relation` to `other`; both differ in colour and in shape."""

    subject: SceneObject
    relation: str
    other: SceneObject

    @property
    def caption(self) -> str:
        """The caption that names the subject first.

        >>> Scene(SceneObject("red", "circle"), "left of", SceneObject("blue", "square")).caption
        'a red circle left of a blue square'
        """
        return f"a {self.subject} {self.relation} a {self.other}"

    @property
    def converse(self) -> Scene:
        """The same picture told from the other object's side."""
        return Scene(self.other, CONVERSE[self.relation], self.subject)


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene drawn uniformly from all scenes."""
    shapes = rng.permutation(SHAPES)[:2]
    colours = rng.permutation(list(COLOURS))[:2]
    first, second = (SceneObject(str(c), str(s)) for c, s in zip(colours, shapes, strict=True))
    return Scene(first, str(rng.choice(list(RELATIONS))), second)


def draw_scene(scene: Scene, rng: np.random.Generator, size: int = 32) -> Image.Image:
    """Renders a scene as an RGB image of `size` x `size` pixels, with jittered places, sizes and background."""
    scale = 4  # drawn large and shrunk, so that shapes keep smooth edges at 32 pixels
    canvas = size * scale
    grey = int(rng.integers(100, 150))
    image = Image.new("RGB", (canvas, canvas), (grey, grey, grey))
    pen = ImageDraw.Draw(image)
    # centres 0.48 of the side apart, each jittered by at most 0.03: no relation is ever in doubt
    step = np.array(RELATIONS[scene.relation]) * canvas * 0.24
    middle = canvas / 2 + rng.uniform(-0.04, 0.04, 2) * canvas
    for thing, centre in ((scene.subject, middle + step), (scene.other, middle - step)):
        jitter = rng.uniform(-0.03, 0.03, 2) * canvas
        radius = canvas * rng.uniform(0.17, 0.21)
        _draw_shape(pen, thing.shape, centre + jitter, radius, COLOURS[thing.colour])
    return image.resize((size, size), Image.Resampling.BOX)


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, centre: np.ndarray, r: float, fill: tuple[int, int, int]) -> None:
    x, y = (float(v) for v in centre)
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "square":
        pen.rectangle((x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r), fill=fill)
    elif shape == "triangle":
        corners = [
            (x + 1.1 * r * math.sin(a), y - 1.1 * r * math.cos(a)) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)
        ]
        pen.polygon(corners, fill=fill)
    elif shape == "cross":
        pen.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=fill)
        pen.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=fill)
    else:
        pen.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=fill)
