"""Scores that stay: units of work as Parquet files, one folder for each scorer's fingerprint.

A unit is written whole and never changed. What is asked again, in another set, by another metric or after a kill, is
found here by the keys of image and text.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from experiments.runs.outputs import PROVENANCE_FILE
from experiments.runs.progress import say
from experiments.scoring.requests import Places
from negatives.tables import DAMAGED, read_parquet, write_json, write_table

SCORER_FILE = "scorer.json"


class Items(Protocol):
    """What is scored, or encoded, in one folder of a store: pairs, images or texts."""

    kind: str

    def __len__(self) -> int: ...

    def digest(self) -> str:
        """A hash of all of them."""

    def columns(self, places: Places) -> dict[str, pa.Array]:
        """The keys of some of them."""

    def places(self, table: pa.Table) -> Places:
        """The item that each row of a unit is about, -1 where it is none of these.

        Raises:
            KeyError, pa.ArrowException: the table is no unit of this kind.
        """


class Units(Protocol):
    """Where the engine looks for units, and leaves those that it computes: a `Store`, or a process's `Memory`."""

    def begin(self, items: Items, key: str) -> list[str]:
        """The units that were there when these items were first asked for."""

    def has(self, items: Items, name: str, places: Places) -> bool:
        """Whether a unit is there, and has these items."""

    def write(self, items: Items, name: str, places: Places, values: NDArray[np.floating]) -> None:
        """Takes a unit."""

    def meet(self) -> None:
        """Called by each rank when its own units are there; where ranks share no disk, the first one gets all."""

    def files(self, kind: str) -> set[str]:
        """The names of the units of a kind."""

    def found(self, items: Items, names: Sequence[str]) -> Iterator[tuple[Places, NDArray[np.floating]]]:
        """Of units, the items that are asked for, and their values."""


class Keyed:
    """Images or texts, by their key."""

    def __init__(self, kind: str, keys: pa.Array):
        self.kind, self.keys = kind, keys

    def __len__(self) -> int:
        return len(self.keys)

    def digest(self) -> str:
        """See `Items`."""
        return _digest(_bytes(self.keys))

    def columns(self, places: Places) -> dict[str, pa.Array]:
        """See `Items`."""
        return {"key": self.keys.take(pa.array(places))}

    def places(self, table: pa.Table) -> Places:
        """See `Items`."""
        return _index(table["key"], self.keys)


class Paired:
    """Pairs of images and texts.

    Args:
        image_keys, text_keys: of all images and texts.
        pairs: image x T + text, ascending.
    """

    kind = "pairs"

    def __init__(self, image_keys: pa.Array, text_keys: pa.Array, pairs: Places):
        self.image_keys, self.text_keys, self.pairs = image_keys, text_keys, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def digest(self) -> str:
        """See `Items`."""
        return _digest(_bytes(self.image_keys), _bytes(self.text_keys), self.pairs.tobytes())

    def columns(self, places: Places) -> dict[str, pa.Array]:
        """See `Items`."""
        images, texts = np.divmod(self.pairs[places], len(self.text_keys))
        return {"image": self.image_keys.take(pa.array(images)), "text": self.text_keys.take(pa.array(texts))}

    def places(self, table: pa.Table) -> Places:
        """See `Items`."""
        images, texts = _index(table["image"], self.image_keys), _index(table["text"], self.text_keys)
        cells = images * len(self.text_keys) + texts
        found = np.minimum(np.searchsorted(self.pairs, cells), len(self.pairs) - 1)
        return np.where((images >= 0) & (texts >= 0) & (self.pairs[found] == cells), found, -1)


class Store:
    """The units of one scorer.

    Args:
        root: folder of the stores of all scorers.
        fingerprint: what the scores depend on.
    """

    def __init__(self, root: Path, fingerprint: Mapping[str, str]):
        text = json.dumps(dict(fingerprint), sort_keys=True)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        # by it other verbs leave the folder alone when they look for what kills have left behind
        for path, content in ((root / PROVENANCE_FILE, {"verb": "store"}), (self.folder / SCORER_FILE, fingerprint)):
            if not path.is_file():
                write_json(dict(content), path)

    def __str__(self) -> str:
        return str(self.folder)

    def meet(self) -> None:
        """Nothing: the folder is the ranks' meeting place, and none waits."""

    def files(self, kind: str) -> set[str]:
        """The names of the units of a kind."""
        folder = self.folder / kind
        return {path.name for path in folder.glob("[!.]*.parquet")} if folder.is_dir() else set()

    def read(self, items: Items, name: str) -> tuple[Places, NDArray[np.floating]] | None:
        """The item that each row of a unit is about, -1 for none of these, and its value.

        Returns:
            None where the unit is not there, or damaged: then it is made again.
        """
        path = self.folder / items.kind / name
        if not path.is_file():
            return None
        try:
            table = read_parquet(path)
            return items.places(table), _values(table["value"])
        except (*DAMAGED, pa.ArrowException):
            self._say_damaged(path)
            return None

    def has(self, items: Items, name: str, places: Places) -> bool:
        """Whether a unit is there, and has these items; a damaged one is removed."""
        path = self.folder / items.kind / name
        if not path.is_file():
            return False
        found = self.read(items, name)
        if found is not None and np.array_equal(found[0], places):
            return True
        if found is not None:
            self._say_damaged(path)
        path.unlink(missing_ok=True)
        return False

    def _say_damaged(self, path: Path) -> None:
        # a kill leaves none: a unit is written whole or not at all
        say(f"{path} is damaged: it is scored again.")

    def write(self, items: Items, name: str, places: Places, values: NDArray[np.floating]) -> None:
        """Writes a unit: the keys of its items, and their values, [n] or [n, D]."""
        table = pa.table({**items.columns(places), "value": _column(values)})
        path = self.folder / items.kind / name
        # of this unit alone: another rank may be writing its own
        for left in path.parent.glob(f".{name}.*.tmp"):
            left.unlink(missing_ok=True)
        write_table(table, path)

    def begin(self, items: Items, key: str) -> list[str]:
        """The units that were there when these items were first asked for: the plan is of what they lack.

        The list is written once, by whichever rank comes first, so that all ranks and every start have the same plan.
        """
        path = self.folder / "plans" / f"{items.kind}-{key}.json"
        if (known := _read_plan(path)) is None:
            path.parent.mkdir(exist_ok=True)
            beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
            beside.write_text(json.dumps(sorted(self.files(items.kind))), encoding="utf-8")
            try:
                # unlike a rename it does not replace what another rank has written meanwhile
                os.link(beside, path)
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                os.replace(beside, path)
            finally:
                beside.unlink(missing_ok=True)
            known = _read_plan(path) or []
        return known

    def found(self, items: Items, names: Sequence[str]) -> Iterator[tuple[Places, NDArray[np.floating]]]:
        """Of units, the items that are asked for, and their values."""
        for name in names:
            if (unit := self.read(items, name)) is not None:
                places, values = unit
                wanted = np.flatnonzero(places >= 0)
                yield places[wanted], values[wanted]


class Memory:
    """Units that are gone with their values, such as those of one validation; ranks meet by `torch.distributed`."""

    def __init__(self) -> None:
        self._units: dict[tuple[str, str], tuple[Places, NDArray[np.floating]]] = {}

    def begin(self, items: Items, key: str) -> list[str]:
        """None: nothing was there before."""
        return []

    def has(self, items: Items, name: str, places: Places) -> bool:
        """See `Units`."""
        return (items.kind, name) in self._units

    def write(self, items: Items, name: str, places: Places, values: NDArray[np.floating]) -> None:
        """See `Units`."""
        self._units[items.kind, name] = places, values

    def meet(self) -> None:
        """Hands the units of all ranks to the first; to be called by all of them."""
        from torch import distributed

        if not distributed.is_initialized():
            return
        first = distributed.get_rank() == 0
        gathered: list[Any] | None = [None] * distributed.get_world_size() if first else None
        distributed.gather_object(self._units, gathered)
        for units in gathered or ():
            self._units |= units

    def files(self, kind: str) -> set[str]:
        """See `Units`."""
        return {name for own, name in self._units if own == kind}

    def found(self, items: Items, names: Sequence[str]) -> Iterator[tuple[Places, NDArray[np.floating]]]:
        """See `Units`."""
        yield from (self._units[items.kind, name] for name in names)


def unit_name(key: str, unit: int, places: Places) -> str:
    """The file of a unit of a plan; by its items too, so that no other plan of the request takes it for its own."""
    return f"{key}-{unit:07d}-{_digest(places.tobytes())[:8]}.parquet"


def plan_key(items: Items, plan_settings: Sequence[int]) -> str:
    """By what the units of a request are called: its items, and how they are cut."""
    return _digest(items.digest().encode(), repr(tuple(plan_settings)).encode())


def _read_plan(path: Path) -> list[str] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except DAMAGED:
        return None
    return [str(name) for name in content] if isinstance(content, list) else None


def _column(values: NDArray[np.floating]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _values(column: pa.ChunkedArray) -> NDArray[np.floating]:
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type) and pa.types.is_floating(array.type.value_type):
        flat: NDArray[np.floating] = array.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(array), array.type.list_size)
    if not pa.types.is_floating(array.type):
        raise ValueError(f"a value must be a number, got {array.type}")
    values: NDArray[np.floating] = array.to_numpy(zero_copy_only=False)
    return values


def _index(keys: pa.ChunkedArray, among: pa.Array) -> Places:
    return pc.fill_null(pc.index_in(keys, value_set=among), -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _bytes(keys: pa.Array) -> bytes:
    return b"".join(keys.to_pylist()) if keys.offset else bytes(keys.buffers()[1])[: 16 * len(keys)]


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
