"""NaturalBench (Li et al., NeurIPS 2024): two images and two questions, each answered otherwise on the other image.

The Parquet files have `Index`, `Image_0`, `Image_1`, `Question_0`, `Question_1`, the four answers
`Image_0_Question_0` ..., and `Question_Type` (yes_no or multiple_choice). The retrieval form has captions instead:
`metadata.json`, a list of objects with `index`, `image_0`, `image_1`, `caption_0` and `caption_1`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.embedded import load_rows, parquet_files, save_pictures
from datamodules.benchmarks.official import find_file, list_of, load_json, reading, text_in
from negatives.tables import StrPath, quoted

PICTURES = ("Image_0", "Image_1")
QUESTIONS = ("Question_0", "Question_1")
ANSWERS = tuple(f"{image}_{question}" for question in QUESTIONS for image in PICTURES)
SUFFIXES = {
    "yes_no": "Please answer Yes or No.",
    "multiple_choice": "Please output the letter corresponding to the correct option.",
}
"""What is asked for behind a question, officially without a space between."""
NOTES = (
    "its texts are questions, which its authors ask as they are; a scorer that puts a caption into a question of its "
    "own asks another one",
    "answer, question_answers, image_answers and group_answers are over the yes/no questions alone: multiple choice, "
    "which the official numbers include, is asked for A or B",
)


def read_questions(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """The questions: text k is right (Yes, or A) on image k and wrong (No, or B) on the other one.

    The group is the type of the questions. Those of yes and no are marked by `yes_no`: a logit above 0 says Yes of
    them. Of multiple choice it does not say A, so that no metric with a threshold is of it.

    Args:
        annotations: folder of the Parquet files, or one of them.
        image_root: folder in which the images are saved, once; None where only texts are wanted.

    Raises:
        InputError: no Parquet file, another version's columns, a malformed row, or no item.
    """
    files = parquet_files(annotations, "NaturalBench", "")
    found = Collected("naturalbench", "groups", annotations, image_root)
    rows = load_rows(files, ("Index", *QUESTIONS, *ANSWERS, "Question_Type"), PICTURES, "NaturalBench")
    names = {column: [f"{number}_{column}" for number in range(len(rows))] for column in PICTURES}
    with reading(files[0], "NaturalBench"):
        for number, row in enumerate(rows):
            kind = text_in(row, "Question_Type", number)
            if kind not in SUFFIXES:
                raise TypeError(f"item {number} has {quoted(kind)} for a type, none of {', '.join(SUFFIXES)}")
            on = _image_of_yes(row, number)
            if set(on) != {0, 1}:
                found.left_out["answers do not tell its images apart"] += 1
                continue
            images = [found.image(names[column][number]) for column in PICTURES]
            found.add(
                item_id=str(row["Index"]),
                group=kind,
                yes_no=kind == "yes_no",
                image_ids=images,
                # in the order of the images that they are right on
                text_ids=[
                    found.text(f"{text_in(row, QUESTIONS[on.index(image)], number)}{SUFFIXES[kind]}")
                    for image in (0, 1)
                ],
            )
    if image_root is not None:
        save_pictures(files, names, found.root, "NaturalBench")
    return found.benchmark(notes=NOTES)


def read_retrieval(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """The retrieval form: two images with a caption each.

    Args:
        annotations: `metadata.json`, or its folder.
        image_root: folder that the paths of the images start from.

    Raises:
        InputError: no annotation file, a malformed one, or no item.
    """
    path = find_file(annotations, "NaturalBench-Retrieval", "metadata.json")
    found = Collected("naturalbench_retrieval", "groups", path, image_root)
    with reading(path, "NaturalBench-Retrieval"):
        for number, item in enumerate(list_of(load_json(path))):
            found.add(
                item_id=str(item["index"]),
                image_ids=[found.image(text_in(item, f"image_{side}", number)) for side in (0, 1)],
                text_ids=[found.text(text_in(item, f"caption_{side}", number)) for side in (0, 1)],
            )
    return found.benchmark()


def _image_of_yes(row: Mapping[str, Any], number: int) -> list[int]:
    """For each question the image on which its answer is Yes or A; -1 where it is both or none."""
    images = []
    for question in QUESTIONS:
        said = [
            bool(re.match(r"(yes|a)\b", text_in(row, f"{image}_{question}", number).strip(), re.I))
            for image in PICTURES
        ]
        images.append(said.index(True) if sum(said) == 1 else -1)
    return images
