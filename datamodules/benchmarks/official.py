"""What readers of official files share: finding a file, and one line that names what is wrong in it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from negatives.tables import DAMAGED, InputError, StrPath, quoted

MOST_YAML = 8192
"""Bytes of a YAML file that describes a benchmark."""


def find_file(annotations: StrPath, benchmark: str, *names: str) -> Path:
    """The file itself, or the first of `names` that a folder holds.

    Raises:
        InputError: there is none.
    """
    path = Path(annotations)
    if path.is_file():
        return path
    return find_files(annotations, benchmark, *names)[0]


def find_files(annotations: StrPath, benchmark: str, *names: str) -> list[Path]:
    """Those of `names` that a folder holds, in this order.

    Raises:
        InputError: there is none.
    """
    found = [path for name in names if (path := Path(annotations) / name).is_file()]
    if not found:
        raise InputError(f"{annotations} holds no {benchmark} file such as {names[0]}; give its data folder.")
    return found


@contextmanager
def reading(path: Path, benchmark: str, remedy: str = "") -> Iterator[None]:
    """Turns whatever an unusable file raises into one line that names the file and the fault.

    Args:
        path: of the file.
        benchmark: whose file it should be.
        remedy: what to do; to take the official file where "".

    Raises:
        InputError: what the block raised, in one line.
    """
    try:
        yield
    except InputError:
        raise
    except KeyError as error:
        raise _refusal(path, benchmark, f"no {error.args[0] if error.args else error}", remedy) from None
    except DAMAGED as error:
        raise _refusal(path, benchmark, quoted(" ".join(str(error).split()), 200).strip("'\""), remedy) from None


def _refusal(path: Path, benchmark: str, fault: str, remedy: str) -> InputError:
    remedy = remedy or f"take the benchmark's official {path.suffix[1:].upper() or 'file'}"
    return InputError(f"{path} is no {benchmark} file ({fault}); {remedy}.")


def load_json(path: Path) -> Any:
    """What a JSON file holds; raises what reading raises."""
    return json.loads(path.read_text(encoding="utf-8-sig"))


def load_json_lines(path: Path) -> list[Any]:
    """What the lines of a JSONL file hold; raises what reading raises."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]


def load_yaml(path: Path) -> Any:
    """What a YAML file holds; raises what reading raises.

    Raises:
        TypeError: it is no YAML, or longer than a description is.
    """
    # brackets within each other, tens of thousands deep, would end the process
    if path.stat().st_size > MOST_YAML:
        raise TypeError(f"it has more than {MOST_YAML:,} bytes")
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise TypeError(error) from None


def load_csv(path: Path, columns: Iterable[str], delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV file with a header that names `columns` at least.

    Raises:
        TypeError: a column is not there, or a row has another number of fields.
        Exception: what reading raises.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        # strict, or a quote that is never closed makes one field of the rest of the file
        rows = csv.DictReader(file, delimiter=delimiter, strict=True)
        check_columns(columns, rows.fieldnames or ())
        found = list(rows)
    for number, row in enumerate(found, start=1):
        if None in row or None in row.values():
            raise TypeError(f"row {number} has not the header's {len(rows.fieldnames or ())} fields")
    return found


def check_columns(columns: Iterable[str], there: Iterable[str]) -> None:
    """Refuses another version's file by the columns that it lacks.

    Raises:
        TypeError: a column is not there.
    """
    there = list(there)
    if missing := [name for name in columns if name not in there]:
        raise TypeError(f"no column {missing[0]}, got {', '.join(map(str, there))}")


def text_in(item: Any, key: str | int, at: object) -> str:
    """The text under a key.

    Args:
        item: mapping or list that holds it.
        key: where.
        at: names the item in an error.

    Raises:
        TypeError: it is not there, no text, blank, or nothing that UTF-8 can hold.
    """
    try:
        text = item[key]
    except (KeyError, IndexError):
        raise TypeError(f"item {quoted(at)} has no {key}") from None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise TypeError(f"item {quoted(at)} has {quoted(text)} for a text")
    text.encode()  # half a surrogate pair is JSON, and no text
    return text


def number_in(item: Any, key: str | int, at: object) -> float:
    """The number under a key, NaN included: what a missing rating is written as.

    Raises:
        TypeError: it is not there, or no number.
    """
    try:
        value = item[key]
        return float("nan") if value is None or value == "" else float(value)
    except (KeyError, IndexError):
        raise TypeError(f"item {quoted(at)} has no {key}") from None
    except ValueError:
        raise TypeError(f"item {quoted(at)} has {quoted(item[key])} for a number") from None


def mapping_of(data: Any) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"got {quoted(data)} for an object")
    return data


def list_of(data: Any) -> list[Any]:
    """A JSON list.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(data, list):
        raise TypeError(f"got {quoted(data)} for a list")
    return data


def placed(root: Path, *candidates: str) -> str:
    """The first of several places inside `root` that holds a file; the first of all where none does."""
    return next((name for name in candidates if (root / name).is_file()), candidates[0])


def group_name(text: str) -> str:
    """A group's name as metrics may have it: without white space and slashes.

    >>> group_name("to the left of"), group_name("Object/Location")
    ('to_the_left_of', 'Object_Location')
    """
    return re.sub(r"[\s/]+", "_", text.strip())


def image_id_of(image: str) -> str:
    """COCO's number for a COCO photo; the path without its ending for any other image.

    >>> image_id_of("COCO_val2014_000000000042.jpg"), image_id_of("val2017/000000000042.jpg"), image_id_of("a/1.png")
    ('42', '42', 'a/1')
    """
    return coco_number(image) or str(PurePosixPath(image).with_suffix(""))


def coco_number(image: str) -> str:
    """COCO's number without leading zeros, under which other tables of COCO know the photo; "" of another image."""
    coco = re.fullmatch(r"(?:COCO_\w+_)?(\d{12})", Path(image).stem)
    return str(int(coco[1])) if coco else ""
