"""Images stay inside their folder, errors name the file, and no text of an image is lost."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from datamodules.batch import ImageTextRow
from datamodules.sources.image_rows import ImageRows
from datamodules.sources.images import check_images, image_path, load_image, noise_image
from datamodules.sources.tables import read_tables
from negatives.tables.captions import InputError, write_table


def save(path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one image; another image lies beside the folder."""
    save(tmp_path / "secret.png")
    save(tmp_path / "root-too" / "x.png")
    save(tmp_path / "root" / "in" / "x.png")
    return tmp_path / "root"


@pytest.mark.parametrize("image", ["../secret.png", "in/../../secret.png", "../root-too/x.png", "/etc/passwd"])
def test_an_image_path_cannot_leave_the_folder(root: Path, image: str) -> None:
    for reach in (image_path, load_image, lambda root, image: check_images(root, [image])):
        with pytest.raises(InputError, match=r"must stay inside .*image_root"):
            reach(root, image)


def test_an_absolute_image_path_is_refused_even_inside_the_folder(root: Path) -> None:
    with pytest.raises(InputError, match="must stay inside"):
        load_image(root, str(root / "in" / "x.png"))


def test_a_link_cannot_lead_out_of_the_folder(root: Path) -> None:
    os.symlink(root.parent / "secret.png", root / "link.png")
    os.symlink(root.parent, root / "up")
    for image in ("link.png", "up/secret.png"):
        with pytest.raises(InputError, match="must stay inside"):
            load_image(root, image)


def test_paths_and_links_inside_the_folder_are_followed(root: Path) -> None:
    os.symlink(root / "in", root / "also")
    os.symlink(root, root.parent / "linked-root")
    assert load_image(root, "in/../also/x.png").size == (6, 4)
    assert load_image(root.parent / "linked-root", "in/x.png").size == (6, 4)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_every_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    save(tmp_path / "x.tiff", mode=mode)
    assert load_image(tmp_path, "x.tiff").mode == "RGB"


def one_line(error: pytest.ExceptionInfo[InputError]) -> bool:
    return "\n" not in str(error.value)


def test_a_missing_image_is_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"in/gone\.png' does not exist; check the captions table") as error:
        load_image(root, "in/gone.png")
    assert one_line(error)


def test_missing_images_are_counted_before_anything_starts(root: Path) -> None:
    with pytest.raises(InputError, match=r"2 of 3 images do not exist, .*/a\.png' for one; set image_root") as error:
        check_images(root, ["in/x.png", "a.png", "b.png", "a.png"])
    assert one_line(error)
    check_images(root, ["in/x.png", "in/x.png"])


def broken(kind: str, whole: bytes) -> bytes:
    return {"empty": b"", "text": b"no picture", "truncated": whole[: len(whole) // 2], "html": b"<html></html>"}[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "html"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_unreadable_image_is_named(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    noise_image((64, 64), 0, "x").save(path)
    path.write_bytes(broken(kind, path.read_bytes()))
    with pytest.raises(InputError, match=rf"x\.{suffix}' cannot be read .*replace it or drop its rows") as error:
        load_image(tmp_path, path.name)
    assert one_line(error)


def test_a_folder_is_no_image(root: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_image(root, "in")


def test_noise_depends_on_seed_and_image_id_and_size_only() -> None:
    def pixels(size: tuple[int, int] = (5, 3), seed: int = 0, image_id: str = "a") -> np.ndarray:
        return np.asarray(noise_image(size, seed, image_id))

    np.random.seed(1)
    first = pixels()
    np.random.seed(2)
    assert first.shape == (3, 5, 3)
    assert (pixels() == first).all()
    assert not (pixels(seed=1) == first).all()
    assert not (pixels(image_id="b") == first).all()


def test_noise_is_uniform() -> None:
    values = np.asarray(noise_image((100, 100), 0, "a"))
    assert values.mean() == pytest.approx(127.5, abs=1.7)  # 4 standard errors of 30,000 values
    assert (values.min(), values.max()) == (0, 255)


def tables(*captions_of: int) -> tuple[pa.Table, pa.Table]:
    """Images with so many captions, two negatives for each caption; the images' captions are interleaved."""
    true = [
        {"image_id": f"{i}", "image": f"in/{i}.png", "caption_id": f"{i}_{c}", "caption": f"true {i} {c}"}
        for c in range(max(captions_of))
        for i, count in enumerate(captions_of)
        if c < count
    ]
    false = [
        {
            "caption_id": row["caption_id"],
            "negative_id": f"{row['caption_id']}:{name}",
            "caption": f"{name} {row['caption']}",
            "negative_type": name,
        }
        for row in true
        for name in ("replace_obj", "swap_att")
    ]
    return pa.Table.from_pylist(true), pa.Table.from_pylist(false)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index in range(3):
        save(tmp_path / "in" / f"{index}.png", size=(4 + index, 3))
    return tmp_path


def texts_of(rows: list[ImageTextRow]) -> list[tuple[str, str, str, int, str]]:
    return [
        (row.image_id, *text)
        for row in rows
        for text in zip(row.text_ids, row.captions, row.labels, row.negative_types, strict=True)
    ]


@pytest.mark.parametrize("max_captions", [1, 2, 4, 16])
def test_rows_keep_every_text_of_an_image_once(photos: Path, max_captions: int) -> None:
    captions, negatives = tables(3, 1, 2)
    rows = list(ImageRows(captions, negatives, photos, max_captions=max_captions))
    image_of = {row["caption_id"]: row["image_id"] for row in captions.to_pylist()}
    expected = [
        (row["image_id"], f"caption:{row['caption_id']}", row["caption"], 1, "") for row in captions.to_pylist()
    ] + [
        (image_of[row["caption_id"]], f"negative:{row['negative_id']}", row["caption"], 0, row["negative_type"])
        for row in negatives.to_pylist()
    ]
    assert sorted(texts_of(rows)) == sorted(expected)
    assert all(1 <= len(row.captions) <= max_captions for row in rows)
    assert all(row.image.size == (4 + int(row.image_id), 3) for row in rows)


def test_an_image_is_split_only_where_it_has_to_be(photos: Path) -> None:
    captions, negatives = tables(3, 1, 2)  # 9, 3 and 6 texts
    widths = [len(row.captions) for row in ImageRows(captions, negatives, photos, max_captions=4)]
    assert widths == [4, 4, 1, 3, 4, 2]


def test_positives_come_first(photos: Path) -> None:
    for row in ImageRows(*tables(3, 1, 2), photos):
        assert row.labels == sorted(row.labels, reverse=True)


def test_captions_without_negatives_have_no_known_label(photos: Path) -> None:
    rows = list(ImageRows(tables(3, 1, 2)[0], None, photos))
    assert [row.labels for row in rows] == [[-1] * 3, [-1], [-1] * 2]


def test_the_blind_control_replaces_pixels_and_nothing_else(photos: Path) -> None:
    tables_of = tables(3, 1, 2)
    seeing, blind = (list(ImageRows(*tables_of, photos, blind_seed=seed, max_captions=4)) for seed in (None, 5))
    assert texts_of(seeing) == texts_of(blind)
    for one, two in zip(seeing, blind, strict=True):
        assert one.image.size == two.image.size
        assert two.image.tobytes() == noise_image(one.image.size, 5, one.image_id).tobytes()


def split_tables(folder: Path, *parts: slice) -> tuple[list[Path], list[Path]]:
    """The tables of three images in several files, by rows of the captions table."""
    captions, negatives = (table.to_pylist() for table in tables(1, 1, 1))
    negatives = [{**row, "generator": "test", "model": "", "prompt_version": "1"} for row in negatives]
    paths: tuple[list[Path], list[Path]] = ([], [])
    for number, part in enumerate(parts):
        owners = {row["caption_id"] for row in captions[part]}
        own = [row for row in negatives if row["caption_id"] in owners]
        for rows, name, listed in ((captions[part], "captions", paths[0]), (own, "negatives", paths[1])):
            listed.append(folder / f"{name}{number}.jsonl")
            write_table(pa.Table.from_pylist(rows), listed[-1])
    return paths


def test_several_tables_read_as_one(tmp_path: Path) -> None:
    captions, negatives = read_tables(*split_tables(tmp_path, slice(0, 2), slice(2, 3)))  # type: ignore[arg-type]
    true, false = tables(1, 1, 1)
    assert captions["caption_id"].to_pylist() == true["caption_id"].to_pylist()
    assert negatives["negative_id"].to_pylist() == false["negative_id"].to_pylist()


def test_several_tables_must_not_share_an_id(tmp_path: Path) -> None:
    captions, negatives = split_tables(tmp_path, slice(0, 2), slice(1, 3))
    with pytest.raises(InputError, match="caption_id must be unique over all tables"):
        read_tables(captions, negatives)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="negative_id must be unique over all tables"):
        read_tables(captions[0], [negatives[0], negatives[0]])


def paraphrases(path: Path, **changes: object) -> Path:
    """A table with one paraphrase, of caption 1_0."""
    row = {"image_id": "1", "image": "in/1.png", "caption_id": "p", "caption": "so to say", "source_caption_id": "1_0"}
    write_table(pa.Table.from_pylist([{**row, **changes}]), path)
    return path


def test_paraphrases_may_be_of_the_images_of_other_tables(tmp_path: Path) -> None:
    paths, negatives = split_tables(tmp_path, slice(0, 2), slice(2, 3))
    plain, _ = read_tables(paths, negatives)  # type: ignore[arg-type]
    assert "source_caption_id" not in plain.column_names
    captions, _ = read_tables([*paths, paraphrases(tmp_path / "p.jsonl")], negatives)  # type: ignore[arg-type]
    assert captions["source_caption_id"].to_pylist() == [None, None, None, "1_0"]
    assert captions.drop_columns(["source_caption_id"])[:3].equals(plain)


def test_an_ordinary_caption_has_no_source(tmp_path: Path) -> None:
    paths, negatives = split_tables(tmp_path, slice(0, 3))
    ordinary = paraphrases(tmp_path / "p.jsonl", source_caption_id="")
    captions, _ = read_tables([*paths, ordinary], negatives)  # type: ignore[arg-type]
    assert captions["source_caption_id"].to_pylist() == [None] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_caption_id": "9_9"}, "source_caption_id must name a caption of the same image, got '9_9'"),
        ({"source_caption_id": "2_0"}, "source_caption_id must name a caption of the same image, got '2_0'"),
        ({"image": "in/2.png"}, "image_id must be unique over all tables"),
        ({"caption_id": "1_0"}, "caption_id must be unique over all tables"),
    ],
)
def test_a_paraphrase_belongs_to_a_caption_of_its_image(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    paths, negatives = split_tables(tmp_path, slice(0, 3))
    with pytest.raises(InputError, match=message) as error:
        read_tables([*paths, paraphrases(tmp_path / "p.jsonl", **changes)], negatives)  # type: ignore[arg-type]
    assert one_line(error)
