"""TIFA160 (Hu et al., ICCV 2023): 160 prompts, an image of each by five models, rated by people from 1 to 5.

`human_annotations_with_scores.json`: `{"<text_id>_<model>": {"text_id": "coco_1", "image_path": "x.jpg", "text": "..",
"human_scores": [5, 4]}}`. t2v_metrics takes the ratings from DSG's study instead: `dsg_tifa160_anns.csv`, a row for
each answer, with the texts in `tifa160.json`. The rating is the mean over the raters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import (
    find_file,
    load_csv,
    load_json,
    mapping_of,
    number_in,
    reading,
    text_in,
)
from negatives.tables import StrPath

MODELS = {
    "mini-dalle": "mini_dalle",
    "vq-diffusion": "vq_diffusion",
    "sd1dot1": "stable_diffusion_v1_1",
    "sd1dot5": "stable_diffusion_v1_5",
    "sd2dot1": "stable_diffusion_v2_1",
}
"""A model's name in DSG's file -> in the images' names."""
DSG_COLUMNS = ("model_type", "source_id", "answer")


def read(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """All images; the group is where the prompt is from, such as coco, and what is ranked among itself a prompt.

    Args:
        annotations: `human_annotations_with_scores.json`, or the folder of it or of the two other files.
        image_root: folder of the images.

    Raises:
        InputError: no annotation file, a malformed one, or no item.
    """
    path = find_file(annotations, "TIFA160", "human_annotations_with_scores.json", "tifa160.json")
    found = Collected("tifa160", "ratings", path, image_root)
    with reading(path, "TIFA160"):
        items = mapping_of(load_json(path))
    if path.name == "tifa160.json":
        answers = path.parent / "dsg_tifa160_anns.csv"
        with reading(answers, "TIFA160"):
            ratings = _dsg_ratings(answers)
    else:
        with reading(path, "TIFA160"):
            ratings = {key: _numbers(mapping_of(item), key) for key, item in items.items()}
    with reading(path, "TIFA160"):
        for key, item in items.items():
            given = [rating for rating in ratings.get(key, ()) if not math.isnan(rating)]
            if not given:
                found.left_out["not rated"] += 1
                continue
            prompt = text_in(item, "text_id", key)
            image = text_in(item, "image_path", key)
            found.add(
                item_id=key,
                image_id=found.image(image, image_id=Path(image).stem),
                text_id=found.text(text_in(item, "text", key)),
                group=prompt.partition("_")[0],
                rating=sum(given) / len(given),
                prompt_id=prompt,
            )
    return found.benchmark()


def _numbers(item: Mapping[str, Any], key: str) -> list[float]:
    return [number_in(item["human_scores"], place, key) for place in range(len(item["human_scores"]))]


def _dsg_ratings(path: Path) -> dict[str, list[float]]:
    ratings: dict[str, list[float]] = {}
    for number, row in enumerate(load_csv(path, DSG_COLUMNS)):
        model = text_in(row, "model_type", number)
        key = f"{text_in(row, 'source_id', number)}_{MODELS.get(model, model)}"
        ratings.setdefault(key, []).append(number_in(row, "answer", number))
    return ratings
