"""GenAI-Bench (Lin et al., ECCV 2024; Li et al., 2024): generated images that people rated from 1 to 5.

`genai_image.json`: `{"00000": {"prompt": "...", "models": {"DALLE_3": [5, 4, 5], ...}}}`, images `<model>/<id>.jpeg`.
The ranking set has nine images of each prompt and model, `human_rating.json`: `{"00001": {"prompt": "...", "models":
{"DALLE_3": {"1": [5, 4, 5], ...}}}}`, images `<model>/<id>_<two digits>.jpeg`. `genai_skills.json`: skill -> prompts.
The rating is the mean over the raters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import (
    find_file,
    group_name,
    list_of,
    load_json,
    mapping_of,
    number_in,
    reading,
    text_in,
)
from negatives.tables import StrPath

SKILLS = "genai_skills.json"


def read(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """An image of each model for each prompt: those of a prompt are ranked among themselves. Skills are tags.

    Args:
        annotations: `genai_image.json`, or its folder.
        image_root: folder that holds a folder of images for each model.

    Raises:
        InputError: no annotation file, a malformed one, or no item.
    """
    path = find_file(annotations, "GenAI-Bench", "genai_image.json")
    found = Collected("genai_bench", "ratings", path, image_root)
    skills = _skills(path.parent)
    with reading(path, "GenAI-Bench"):
        for prompt_id, item in mapping_of(load_json(path)).items():
            for model, ratings in mapping_of(item["models"]).items():
                _add(found, prompt_id, item, f"{model}/{prompt_id}", ratings, prompt_id, skills)
    return found.benchmark()


def read_ranking(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """The ranking set: the images of one prompt by one model are ranked among themselves. Skills are tags.

    Args:
        annotations: `human_rating.json`, or its folder.
        image_root: folder that holds a folder of images for each model.

    Raises:
        InputError: no annotation file, a malformed one, or no item.
    """
    path = find_file(annotations, "GenAI-Bench ranking", "human_rating.json")
    found = Collected("genai_ranking", "ratings", path, image_root)
    skills = _skills(path.parent)
    with reading(path, "GenAI-Bench ranking"):
        for prompt_id, item in mapping_of(load_json(path)).items():
            for model, number, ratings in _images(item):
                name = f"{model}/{prompt_id}_{number:02}"
                _add(found, prompt_id, item, name, ratings, f"{prompt_id}:{model}", skills)
    return found.benchmark()


def _images(item: Mapping[str, Any]) -> Iterator[tuple[str, int, Any]]:
    for model, images in mapping_of(item["models"]).items():
        # by number: three that follow each other are ranked among themselves, too
        for number, ratings in sorted(mapping_of(images).items(), key=lambda image: int(image[0])):
            yield model, int(number), ratings


def _add(
    found: Collected,
    prompt_id: str,
    item: Any,
    name: str,
    ratings: Any,
    ranked: str,
    skills: Mapping[str, list[str]],
) -> None:
    numbers = [number_in(list_of(ratings), place, name) for place in range(len(ratings))]
    given = [number for number in numbers if not math.isnan(number)]
    if not given:
        found.left_out["not rated"] += 1
        return
    found.add(
        item_id=name,
        image_id=found.image(f"{name}.jpeg"),
        text_id=found.text(text_in(item, "prompt", prompt_id)),
        rating=sum(given) / len(given),
        prompt_id=ranked,
        tags=skills.get(str(int(prompt_id)), []),
    )


def _skills(folder: Path) -> dict[str, list[str]]:
    """Prompt number -> its skills; empty where the file is not there."""
    path = folder / SKILLS
    if not path.is_file():
        return {}
    skills: dict[str, list[str]] = {}
    with reading(path, "GenAI-Bench"):
        for skill, prompts in mapping_of(load_json(path)).items():
            for prompt in list_of(prompts):
                skills.setdefault(str(int(prompt)), []).append(group_name(skill))
    return skills
