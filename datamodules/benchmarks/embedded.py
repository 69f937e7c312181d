"""Pictures inside Parquet files, as Hugging Face data sets have them, saved as the files that scorers read."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from datamodules.benchmarks.official import check_columns, reading
from negatives.tables import InputError, StrPath, quoted, replaced


def parquet_files(annotations: StrPath, benchmark: str, start: str) -> list[Path]:
    """The Parquet file itself, or all in a folder or its `data` whose names begin with `start`, in order.

    Raises:
        InputError: there is none.
    """
    path = Path(annotations)
    if path.is_file():
        return [path]
    for folder in (path, path / "data"):
        if files := sorted(folder.glob(f"{start}*.parquet")):
            return files
    raise InputError(
        f"{annotations} holds no {benchmark} file such as {start or 'test'}-00000-of-00001.parquet; give its folder."
    )


def load_rows(
    files: Iterable[Path], columns: Sequence[str], pictures: Sequence[str], benchmark: str
) -> list[dict[str, Any]]:
    """The rows of Parquet files, shard after shard; of pictures only the names that they had, None where there is none.

    Raises:
        InputError: a file that cannot be read, or another version's columns.
    """
    rows: list[dict[str, Any]] = []
    for path in files:
        with reading(path, benchmark), pq.ParquetFile(path) as file:
            check_columns((*columns, *pictures), file.schema_arrow.names)
            # of a picture's struct {bytes, path}; bytes are many times the rest
            found = file.read(columns=[*columns, *(f"{name}.path" for name in pictures)]).to_pylist()
            for row in found:
                rows.append({**row, **{name: (row.get(name) or {}).get("path") for name in pictures}})
    return rows


def save_pictures(files: Iterable[Path], names: Mapping[str, Sequence[str]], folder: Path, benchmark: str) -> None:
    """Saves the pictures of Parquet files that are not in the folder yet, see `save_once`.

    Args:
        files: Parquet files with columns of {bytes, path}.
        names: column -> the file name of each row's picture, over all files.
        folder: where they go.
        benchmark: what an error calls the files.

    Raises:
        InputError: a file that cannot be read, a row without a picture, or another picture of its name in the folder.
    """
    row = 0
    for path in files:
        with reading(path, benchmark):
            for batch in _batches(path, list(names)):
                for pictures in batch:
                    for column, picture in pictures.items():
                        if not picture or not picture.get("bytes"):
                            raise TypeError(f"row {row} has {quoted(picture)} for a picture")
                        save_once(picture["bytes"], folder / names[column][row])
                    row += 1


def save_once(content: bytes, path: Path) -> None:
    """Writes a picture that others see whole or not at all; one that is there already stays.

    Raises:
        InputError: what is there is another picture. Names are numbers of rows, and two shards have the same ones.
    """
    if path.is_file():
        if path.read_bytes() != content and not _same_pixels(content, path):
            raise InputError(
                f"{path} must be the benchmark's own picture, and is another one: files of a data set, or parts of it, "
                "have pictures of one name; give each an `image_root` of its own."
            )
        return
    with replaced(path) as temporary:
        temporary.write_bytes(content)


def _same_pixels(content: bytes, path: Path) -> bool:
    # another version of Pillow may have packed the same pixels otherwise
    try:
        with Image.open(io.BytesIO(content)) as one, Image.open(path) as other:
            return one.size == other.size and one.convert("RGBA").tobytes() == other.convert("RGBA").tobytes()
    except (OSError, ValueError):
        return False


def _batches(path: Path, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64, columns=columns):
            yield batch.to_pylist()
