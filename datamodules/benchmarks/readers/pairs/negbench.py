"""NegBench's multiple-choice parts (Alhamoud et al., CVPR 2025): a CSV of an image and four captions, one of them true.

Columns: `correct_answer` (the place of the true one), `caption_0` to `caption_3`, `correct_answer_template` (positive,
negative or hybrid) and `image_path`. Officially the first of equal scores wins, and in COCO's and VOC's parts that is
always the true caption: a constant scorer would get 100 %. Here a tie is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import find_file, group_name, image_id_of, load_csv, placed, reading, text_in
from negatives.tables import InputError, StrPath, quoted

CHOICES = 4
COLUMNS = ("correct_answer", *(f"caption_{n}" for n in range(CHOICES)), "correct_answer_template", "image_path")
KINDS = ("", "hybrid", "positive", "negative")
"""What the wrong captions are in COCO's and VOC's parts, where the true one is the first."""
SYNTHETIC_KINDS = ("positive", "hybrid", "hybrid", "negative")


def read_coco(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """COCO's part, of `COCO_val_mcq_llama3.1_rephrased.csv` or its folder; see `read`."""
    path = find_file(annotations, "NegBench", "COCO_val_mcq_llama3.1_rephrased.csv")
    return read(path, "negbench_mcq_coco", KINDS, image_root=image_root)


def read_voc(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """VOC2007's part, of `VOC2007_mcq_llama3.1_rephrased.csv` or its folder; see `read`."""
    path = find_file(annotations, "NegBench", "VOC2007_mcq_llama3.1_rephrased.csv")
    return read(path, "negbench_mcq_voc", KINDS, image_root=image_root)


def read_synthetic(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """A synthetic part, where the true caption may be any of the four; see `read`."""
    folder = Path(annotations)
    path = folder if folder.is_file() else next(iter(sorted(folder.glob("synthetic_mcq_*.csv"))), None)
    if path is None:
        raise InputError(f"{annotations} holds no NegBench file such as synthetic_mcq_v1.csv; give its data folder.")
    return read(path, "negbench_mcq_synthetic", SYNTHETIC_KINDS, image_root=image_root)


def read(path: Path, name: str, kinds: Sequence[str], *, image_root: StrPath | None) -> Benchmark:
    """All questions; the group is the template of the true caption, and `kinds` says what each false one is.

    Args:
        path: the CSV.
        name: of the benchmark.
        kinds: of the captions, by place.
        image_root: folder of the images. The official paths start at the authors' root: only their last two parts are
            looked for, or the last one where it lies in the folder itself.

    Raises:
        InputError: a malformed file, or no item.
    """
    found = Collected(name, "pairs", path, image_root)
    with reading(path, "NegBench"):
        for number, row in enumerate(load_csv(path, COLUMNS)):
            captions = [found.text(text_in(row, f"caption_{place}", number)) for place in range(CHOICES)]
            true = int(row["correct_answer"])
            if true not in range(CHOICES):
                raise TypeError(f"item {number} has {quoted(row['correct_answer'])} for the place of its true caption")
            if kinds is KINDS and true:
                raise TypeError(f"item {number} has its true caption at {true}; in this part it is the first")
            wrong = [place for place in range(CHOICES) if place != true]
            parts = PurePosixPath(text_in(row, "image_path", number)).parts
            image = placed(found.root, str(PurePosixPath(*parts[-2:])), parts[-1])
            found.add(
                item_id=str(number),
                image_id=found.image(image, image_id=image_id_of(Path(image).name)),
                group=group_name(text_in(row, "correct_answer_template", number)),
                true=[captions[true]],
                false=[captions[place] for place in wrong],
                kinds=[kinds[place] for place in wrong],
            )
    return found.benchmark()
