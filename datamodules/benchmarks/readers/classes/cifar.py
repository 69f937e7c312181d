"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): the test batch of the Python version, or folders of classes.

A batch is a pickle of `data` (uint8, images x 3,072: all of red, then green, then blue), `filenames` and `labels` or
`fine_labels`; the names of the classes lie beside it. Underscores in names stay.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.embedded import save_once
from datamodules.benchmarks.official import reading
from datamodules.benchmarks.readers.classes.folders import class_folders, classified
from datamodules.benchmarks.readers.classes.templates import templates_of, wordings_of
from negatives.tables import InputError, StrPath

SIDE = 32


class Layout(NamedTuple):
    """What one of the two calls its files and columns."""

    batch: str
    meta: str
    labels: bytes
    names: bytes


CIFAR10 = Layout("test_batch", "batches.meta", b"labels", b"label_names")
CIFAR100 = Layout("test", "meta", b"fine_labels", b"fine_label_names")


def read_cifar10(
    annotations: StrPath, *, image_root: StrPath | None = None, templates: str | Sequence[str] = "cifar"
) -> Benchmark:
    """CIFAR-10's test images; see `_read`."""
    return _read("cifar10", CIFAR10, Path(annotations), image_root, templates)


def read_cifar100(
    annotations: StrPath, *, image_root: StrPath | None = None, templates: str | Sequence[str] = "cifar"
) -> Benchmark:
    """CIFAR-100's test images, by their fine classes; see `_read`."""
    return _read("cifar100", CIFAR100, Path(annotations), image_root, templates)


def _read(
    name: str, layout: Layout, folder: Path, image_root: StrPath | None, templates: str | Sequence[str]
) -> Benchmark:
    """Every test image with every class.

    Args:
        name: of the benchmark.
        layout: of its files.
        folder: holds the batch, or `test` with a folder of images for each class.
        image_root: folder in which a batch's images are saved, once; None where only texts are wanted.
        templates: see `templates_of`.

    Raises:
        InputError: no batch, one that is damaged or holds anything but arrays and plain values, a bad template, or
            another picture of a name that is saved.
    """
    batch = folder / layout.batch
    if not batch.is_file():
        root = folder / "test" if (folder / "test").is_dir() else folder
        if not root.is_dir():
            raise InputError(f"{folder} holds no CIFAR file such as {layout.batch}; give its data folder.")
        return classified(name, root, {each: each for each in class_folders(root)}, templates)
    found = Collected(name, "classes", folder, image_root)
    with reading(folder / layout.meta, "CIFAR"):
        classes = [text.decode() for text in _load(folder / layout.meta)[layout.names]]
    for each in classes:
        found.wordings(each, wordings_of(each, templates_of(templates)))
    with reading(batch, "CIFAR"):
        content = _load(batch)
        pixels = np.asarray(content[b"data"], dtype=np.uint8).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        # a name may say anything: only its last part is used
        files = [Path(text.decode()).name for text in content[b"filenames"]]
        if len(set(files)) < len(files):
            raise TypeError("two images have one file name")
        for file, label, image in zip(files, content[layout.labels], pixels, strict=True):
            found.add(image_id=found.image(file, image_id=Path(file).stem), text_id=classes[label])
            if image_root is not None:
                save_once(_png(image), found.root / file)
    return found.benchmark()


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


class _Plain(pickle.Unpickler):
    """Unpickles arrays and plain values alone: a pickle may run any program."""

    ALLOWED = frozenset({"_reconstruct", "_frombuffer", "ndarray", "dtype"})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        if module.split(".")[0] == "numpy" and name in self.ALLOWED:
            # NumPy 2 has moved them
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _load(path: Path) -> dict[bytes, Any]:
    try:
        with path.open("rb") as file:
            return dict(_Plain(file, encoding="bytes").load())
    except (pickle.UnpicklingError, EOFError, ImportError) as error:
        raise ValueError(error) from None
