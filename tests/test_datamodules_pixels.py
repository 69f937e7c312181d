"""An image is the same pixels wherever it is read: upright, on white, in 8 bits, and not too large."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from datamodules.batch import InputError
from datamodules.pixels import read_rgb
from datamodules.sources.images import load_image
from lightning_modules.scoring.inputs import open_image
from tests.pictures import UPRIGHT, exif, grey, hidden, save_pictures


def by_path(path: Path) -> Image.Image:
    return open_image(path, "images[0]")


def by_object(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return open_image(image, "images[0]")


def by_table(path: Path) -> Image.Image:
    return load_image(path.parent, path.name)


READERS = {"table": by_table, "path": by_path, "object": by_object}
every_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS)
Reader = Callable[[Path], Image.Image]


def array(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def saved(folder: Path, image: Image.Image, name: str = "x.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


@every_reader
def test_rgb_is_read_as_it_is(read: Reader, tmp_path: Path) -> None:
    assert read(saved(tmp_path, UPRIGHT)).tobytes() == UPRIGHT.tobytes()
    photo = saved(tmp_path, UPRIGHT, "x.jpg")
    with Image.open(photo) as image:
        assert read(photo).tobytes() == image.convert("RGB").tobytes(), "trainings keep their pixels"


@every_reader
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tiff"])
def test_exif_turns_an_image_upright(read: Reader, orientation: int, name: str, tmp_path: Path) -> None:
    path = saved(tmp_path, UPRIGHT, name, exif=exif(orientation))
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    found = read(path)
    assert (found.size, found.tobytes()) == (expected.size, expected.tobytes())
    assert open_image(found, "images[0]").tobytes() == found.tobytes(), "it is turned once"


def test_an_image_of_the_caller_stays_as_it_was() -> None:
    image = UPRIGHT.copy()
    image.info["exif"] = exif(6).tobytes()
    assert open_image(image, "images[0]").size == (20, 12)
    assert (image.size, image.info.keys(), image.tobytes()) == ((12, 20), {"exif"}, UPRIGHT.tobytes())


def test_damaged_exif_says_nothing(tmp_path: Path) -> None:
    image = UPRIGHT.copy()
    for damaged in (b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0", b"Exif\0\0nothing of the kind"):
        image.info["exif"] = damaged
        assert open_image(image, "images[0]").tobytes() == UPRIGHT.tobytes()


@every_reader
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(read: Reader, mode: str, tmp_path: Path) -> None:
    for name in ("x.png", "x.gif") if mode == "P" else ("x.png",):
        pixels = array(read(saved(tmp_path, hidden(mode), name)))
        assert (pixels[:, :6] == 255).all(), "no red shines through"
        seen = np.asarray(UPRIGHT.convert("L").convert("RGB") if mode == "LA" else UPRIGHT)[:, 6:].astype(int)
        assert np.abs(pixels[:, 6:] - seen).mean() < (4 if mode == "P" else 1)


def test_modes_that_only_pillow_holds_are_on_white_too() -> None:
    premultiplied, palette = hidden("RGBA").convert("RGBa"), hidden("P").convert("RGBA").convert("PA")
    for image in (premultiplied, hidden("LA").convert("La"), palette):
        assert (array(open_image(image, "images[0]"))[:, :6] == 255).all(), image.mode


def test_what_shines_through_is_mixed_with_white() -> None:
    half = Image.new("RGBA", (1, 1), (0, 100, 255, 51))  # a fifth of it
    assert array(open_image(half, "images[0]")).tolist() == [[[204, 224, 255]]]


@pytest.mark.parametrize(("values", "key"), [(grey(), 3), (grey().astype(np.uint16) * 257, 3 * 257)])
def test_a_colour_that_stands_for_transparent_is_white(values: np.ndarray, key: int, tmp_path: Path) -> None:
    values[5, 5] = key
    pixels = array(by_path(saved(tmp_path, Image.fromarray(values), transparency=key)))[..., 0]
    assert pixels[5, 5] == 255
    assert pixels[0, :2].tolist() == [0, 255]


WIDE = {
    "16 bits": grey().astype(np.uint16) * 257,
    "16 bits, big-endian": (grey().astype(np.uint16) * 257).astype(">u2"),
    "32 bits up to 255": grey().astype(np.int32),
    "32 bits up to 65535": grey().astype(np.int32) * 257,
    "float up to 1": grey() / np.float32(255),
    "float up to 255": grey().astype(np.float32),
    "float up to 65535": grey().astype(np.float32) * 257,
}


@every_reader
@pytest.mark.parametrize("kind", WIDE)
def test_wider_grey_is_the_grey_of_8_bits(read: Reader, kind: str, tmp_path: Path) -> None:
    pixels = array(read(saved(tmp_path, Image.fromarray(WIDE[kind]), "x.tiff")))
    assert (pixels == grey()[..., None]).all()


def test_wider_values_are_rounded_and_what_is_no_number_is_black() -> None:
    deep = Image.fromarray(np.array([[0, 128, 129, 65406, 65407, 65535]], dtype=np.uint16))
    assert array(open_image(deep, "x"))[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]  # halves of 257 apart
    odd = Image.fromarray(np.array([[np.nan, -np.inf, -0.5, 0.5, 1]], dtype=np.float32))
    assert array(open_image(odd, "x"))[0, :, 0].tolist() == [0, 0, 0, 128, 255]


@pytest.mark.parametrize("value", [65536, 2**30, np.inf])
def test_values_that_8_bits_cannot_tell_apart_are_refused(value: float) -> None:
    image = Image.fromarray(np.array([[0, value]], dtype=np.float32))
    with pytest.raises(InputError, match=r"^images\[3\] .* exceeds 65535, the largest white: save the image in 8 or"):
        open_image(image, "images[3]")


@every_reader
def test_every_kind_of_file_is_read(read: Reader, tmp_path: Path) -> None:
    pictures = save_pictures(tmp_path / "pictures")
    seen = {name: array(read(path)) for name, path in pictures.items()}
    assert {pixels.shape for name, pixels in seen.items() if name != "landscape"} == {(20, 12, 3)}
    assert (seen["rotated"] == seen["portrait"]).all()
    assert (seen["grey of 16 bits"] == seen["grey"]).all()
    assert (seen["float"] == seen["grey"]).all()
    assert np.abs(seen["LAB"].astype(int) - seen["portrait"]).mean() < 2
    assert (seen["palette"] == seen["RGBA"]).all()


def test_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("blue", "red")]
    for name in ("x.gif", "x.tiff", "x.png", "x.webp"):
        path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], lossless=True)
        assert array(by_path(path))[0, 0].tolist() == [0, 0, 255], name


# limits


def png_of(width: int, height: int) -> bytes:
    """A file that ends where its pixels begin."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"")


LARGE = {
    "tall": (1, 60_000),
    "wide": (60_000, 1),
    "narrow": (1, 2100),
    "square": (13_000, 13_000),
    "a bomb": (10**9, 9),
}


@pytest.mark.parametrize("size", LARGE.values(), ids=LARGE)
def test_what_is_too_large_is_refused_by_its_header(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png_of(*size))
    for read in (by_table, by_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(InputError) as error:
                read(tmp_path / "x.png")
        assert f"{size[0]} x {size[1]} pixels grow to" in str(error.value)
        assert "max_pixels is 134217728: make the image smaller or raise max_pixels" in str(error.value)
        assert "\n" not in str(error.value)


def test_the_limit_is_the_padded_square_and_the_enlarged_shorter_side() -> None:
    for size, needed in (((300, 400), 160_000), ((400, 300), 160_000), ((2, 8), 262_144)):
        image = Image.new("RGB", size)
        assert open_image(image, "x", max_pixels=needed).size == size
        with pytest.raises(InputError, match=f"{size[0]} x {size[1]} pixels grow to {needed} "):
            open_image(image, "x", max_pixels=needed - 1)
        with pytest.raises(InputError, match="grow to"):
            open_image(np.asarray(image), "x", max_pixels=needed - 1)


def test_a_limit_of_ones_own_overrules_that_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, UPRIGHT)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert by_path(path).tobytes() == UPRIGHT.tobytes()
    assert Image.MAX_IMAGE_PIXELS == 10, "it is Pillow's again"


def test_postscript_is_not_run(tmp_path: Path) -> None:
    """Pillow would hand it to Ghostscript, where that is installed."""
    file = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(file, format="EPS")
    with pytest.raises(ValueError, match="EPS is no image but a program"):
        read_rgb(file)
