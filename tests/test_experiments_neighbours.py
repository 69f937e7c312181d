"""`itm neighbours`: nearest images by the slow way, through the command line, and into training."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPModel

from experiments.__main__ import main
from experiments.verbs.neighbours import nearest, neighbour_table
from negatives.tables.captions import read_captions, write_table
from tests.backbones import save_published
from tests.tiny import TINY_OVERRIDES, tiny_module, tiny_tables
from tests.tiny_clip import tiny_clip_module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of six scenes, and a tiny CLIP in the published format."""
    folder = tmp_path_factory.mktemp("neighbours")
    tiny_tables(folder)
    save_published(tiny_clip_module(), folder / "clip")
    return folder


def words(folder: Path, output: Path, *more: str) -> list[str]:
    table = f"captions={folder / 'train/captions.parquet'}"
    return ["neighbours", f"model.checkpoint={folder / 'clip'}", table, f"output_dir={output}", *more]


def made(output: Path) -> list[dict[str, object]]:
    return pq.read_table(output / "neighbours.parquet").to_pylist()


@torch.no_grad()
def by_hand(folder: Path) -> dict[str, list[tuple[float, str]]]:
    """image_id -> (cosine, other image) in falling order, by a plain CLIP, image by image."""
    clip, processor = CLIPModel.from_pretrained(folder / "clip").eval(), AutoProcessor.from_pretrained(folder / "clip")
    features = {}
    for row in read_captions(folder / "train/captions.parquet").to_pylist():
        image = Image.open(folder / "train" / row["image"]).convert("RGB")
        pixels = processor.image_processor(images=image, return_tensors="pt")
        features[row["image_id"]] = clip.get_image_features(**pixels).pooler_output[0]
    return {
        one: sorted(
            ((float(torch.cosine_similarity(a, b, dim=0)), two) for two, b in features.items() if two != one),
            reverse=True,
        )
        for one, a in features.items()
    }


@pytest.mark.parametrize(("k", "batch_size"), [(3, 64), (1, 4), (99, 1)])
def test_neighbours_are_the_nearest_other_images_by_cosine(
    folder: Path, tmp_path: Path, k: int, batch_size: int
) -> None:
    assert main(words(folder, tmp_path / "out", f"k={k}", f"batch_size={batch_size}")) == 0
    expected = [
        (image_id, name, rank, pytest.approx(cosine, abs=1e-5))
        for image_id, others in by_hand(folder).items()
        for rank, (cosine, name) in enumerate(others[:k], start=1)
    ]
    assert [tuple(row.values()) for row in made(tmp_path / "out")] == expected
    assert len(expected) == 6 * min(k, 5), "fewer where there are fewer"


def test_the_file_carries_the_fingerprint_of_its_scorer(folder: Path, tmp_path: Path) -> None:
    assert main(words(folder, tmp_path / "out")) == 0
    schema = pq.read_schema(tmp_path / "out/neighbours.parquet")
    assert schema.names == ["image_id", "neighbour_image_id", "rank", "similarity"]
    assert {b"torch", b"transformers", b"precision", b"model", b"image_reader"} <= set(schema.metadata)
    assert json.loads(schema.metadata[b"model"])["checkpoint"] == str(folder / "clip")


def test_images_above_the_limit_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(folder, tmp_path / "out", "max_pixels=65535")) == 2
    assert "16 x 16 pixels grow to 65536" in capsys.readouterr().err


@pytest.mark.parametrize("at_once", [1, 7, 40, 1 << 25])
def test_blocks_of_any_size_find_the_same_neighbours(at_once: int) -> None:
    features = torch.nn.functional.normalize(torch.randn(23, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    whole = (features @ features.T).fill_diagonal_(-torch.inf).sort(dim=1, descending=True)
    values, indices = nearest(features, 4, at_once=at_once)
    torch.testing.assert_close(values, whole.values[:, :4])
    assert torch.equal(indices, whole.indices[:, :4])


def test_an_image_is_never_its_own_neighbour_even_beside_copies() -> None:
    _, indices = nearest(torch.ones(5, 1), 4)
    assert [sorted(row) for row in indices.tolist()] == [[j for j in range(5) if j != i] for i in range(5)]


def test_a_table_of_neighbours_by_hand() -> None:
    table = neighbour_table(["a", "b"], torch.tensor([[0.5], [0.25]]), torch.tensor([[1], [0]]))
    assert table.to_pylist() == [
        {"image_id": "a", "neighbour_image_id": "b", "rank": 1, "similarity": 0.5},
        {"image_id": "b", "neighbour_image_id": "a", "rank": 1, "similarity": 0.25},
    ]


def test_resume_overwrite_and_dry_run_are_those_of_every_verb(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(words(folder, output, "--dry-run")) == 0
    assert not output.exists()
    assert "k: 3" in capsys.readouterr().out
    assert main(words(folder, output)) == 0
    before = made(output)
    assert main(words(folder, output)) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(words(folder, output, "--resume")) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(words(folder, output, "--resume", "k=2")) == 2
    assert "another `k`" in capsys.readouterr().err
    (output / "neighbours.parquet").unlink()
    assert main(words(folder, output, "--resume")) == 0
    assert made(output) == before
    assert main(words(folder, output, "--overwrite", "k=2")) == 0
    assert len(made(output)) == 12


def test_bad_input_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_published(tiny_module(), tmp_path / "llava")
    captions = read_captions(folder / "train/captions.parquet")
    write_table(captions.slice(0, 2), folder / "train/one.parquet")
    cases = {
        "`run` or `model.checkpoint` must be given": ["model.checkpoint=null"],
        "`model.backbone` must be one whose image features can be compared (clip": ["model.backbone=llava"],
        "is a checkpoint of type 'llava', and CLIPModel reads 'clip'": [f"model.checkpoint={tmp_path / 'llava'}"],
        "captions must be of two images or more, got 1": [f"captions={folder / 'train/one.parquet'}"],
        "6 of 6 images do not exist": [f"image_root={tmp_path}"],
        "`k` must be >= 1": ["k=0"],
    }
    for message, more in cases.items():
        assert main(words(folder, tmp_path / "out", *more)) == 2, message
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def train_words(folder: Path, run: Path, *more: str) -> list[str]:
    tables = [f"data.{name}={folder / 'train' / f'{name}.parquet'}" for name in ("captions", "negatives")]
    return ["train", *TINY_OVERRIDES, "logging.wandb=disabled", *tables, f"output_dir={run}", *more]


def test_a_trained_clip_finds_neighbours_to_train_beside(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, output = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    assert main(train_words(folder, first, "model.backbone=clip")) == 0
    table = f"captions={folder / 'train/captions.parquet'}"
    assert main(["neighbours", f"run={first}", table, f"output_dir={output}"]) == 0
    assert b"weights" in pq.read_schema(output / "neighbours.parquet").metadata
    hard = f"data.neighbours={output / 'neighbours.parquet'}"
    assert main(train_words(folder, second, "model.backbone=clip", hard)) == 0
    capsys.readouterr()
    foreign = pa.table({"image_id": ["train-0"], "neighbour_image_id": ["elsewhere"]})
    write_table(foreign, tmp_path / "foreign.parquet")
    assert main(train_words(folder, tmp_path / "third", f"data.neighbours={tmp_path / 'foreign.parquet'}")) == 2
    error = capsys.readouterr().err
    assert "neighbour_image_id must be of an image in data.captions, got 'elsewhere'" in error
    assert error.count("\n") == 1


def test_a_run_of_another_backbone_is_refused_before_its_weights_are_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("data: {captions: a, negatives: b}\nmodel: {backbone: llava}\n")
    table = f"captions={folder / 'train/captions.parquet'}"
    assert main(["neighbours", f"run={run}", table, f"output_dir={tmp_path / 'out'}"]) == 2
    assert "whose image features can be compared, as a clip's, got a llava" in capsys.readouterr().err
