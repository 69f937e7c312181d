"""Collects what a reader finds into a benchmark: each image and each text once, items in the order of the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.official import image_id_of
from datamodules.benchmarks.protocols.table import find_protocol
from datamodules.benchmarks.select import asked_pairs
from negatives.tables import InputError, StrPath, hash_of, quoted

STRINGS = pa.list_(pa.string())
OPTIONAL: Mapping[str, pa.DataType] = {
    "tags": STRINGS,
    "kinds": STRINGS,
    "caption_id": pa.string(),
    "yes_no": pa.bool_(),
}
"""Columns that a key may have besides, such as tags: further groups that an item is in."""


class Collected:
    """A benchmark as far as it is read.

    Args:
        name: of the benchmark.
        protocol: whose key the items make.
        annotations, image_root: as the reader was given them; images lie beside the annotations where there is no root.
    """

    def __init__(self, name: str, protocol: str, annotations: StrPath, image_root: StrPath | None):
        self.name, self.protocol = name, protocol
        beside = Path(annotations)
        self.root = Path(image_root) if image_root is not None else beside.parent if beside.is_file() else beside
        self.left_out: Counter[str] = Counter()
        self._images: dict[str, dict[str, Any]] = {}
        self._texts: dict[str, str] = {}
        self._wordings: list[tuple[str, str]] = []
        self._items: list[dict[str, Any]] = []
        self._relevant: set[tuple[str, str]] = set()

    def image(
        self, path: str, *, image_id: str | None = None, box: Sequence[int] | None = None, same: bool = False
    ) -> str:
        """Adds an image, or finds it again, and returns its id.

        Args:
            path: inside the root.
            image_id: what it is called; by `image_id_of` where not given.
            box: x, y, width and height of a crop, which joins the id.
            same: another path under a known id is the same photo under another name, and either file will do.

        Raises:
            InputError: two images of one id.
        """
        name = image_id_of(path) if image_id is None else image_id
        if box is not None:
            name = f"{name}@{','.join(map(str, box))}"
        known = self._images.setdefault(name, {"image_id": name, "image": path, "box": box, "other_names": []})
        if known["image"] != path and path not in known["other_names"]:
            if not same:
                raise InputError(
                    f"{self.name}: an image id must be of one image, {quoted(name)} is of {quoted(known['image'])} and "
                    f"{quoted(path)}; rename one."
                )
            known["other_names"].append(path)
        return name

    def text(self, text: str) -> str:
        """Adds a text, or finds it again, and returns its id: a hash of it, the same in every benchmark."""
        text_id = f"{hash_of('text', text):016x}"
        self._texts[text_id] = text
        return text_id

    def wordings(self, text_id: str, texts: Iterable[str]) -> str:
        """Adds one text in several wordings, such as a class in all templates; returns its id."""
        self._wordings += [(text_id, text) for text in texts]
        return text_id

    def add(self, **item: Any) -> None:
        """Adds a row of the key; a `group` that is not given is ""."""
        self._items.append(item)

    def add_once(self, *, image_id: str, text_id: str) -> None:
        """Adds a relevant pair of retrieval where it is not there yet."""
        if (image_id, text_id) not in self._relevant:
            self._relevant.add((image_id, text_id))
            self.add(image_id=image_id, text_id=text_id)

    def classes(self) -> list[str]:
        """The texts that the items name, each once: the classes of the images."""
        return list(dict.fromkeys(item["text_id"] for item in self._items))

    def __len__(self) -> int:
        """How many rows the key has so far."""
        return len(self._items)

    def groups(self) -> list[str]:
        """The groups of the items so far, each once."""
        return list(dict.fromkeys(item.get("group", "") for item in self._items))

    def benchmark(
        self, *, aggregates: Mapping[str, Iterable[str]] | None = None, notes: Iterable[str] = ()
    ) -> Benchmark:
        """What was collected.

        Args:
            aggregates: name -> groups; where one of them has no item, the aggregate is not measured.
            notes: sentences that belong beside the benchmark's numbers.

        Raises:
            InputError: no item.
        """
        if not self._items:
            what = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            raise InputError(f"{self.name}: the files hold no item to ask about{what and f' ({what})'}; check them.")
        key = self._key()
        texts = [*self._texts.items(), *self._wordings]
        return Benchmark(
            self.name,
            self.protocol,
            images=self._image_table(),
            texts=pa.table(
                {
                    name: pa.array(column, pa.string())
                    for name, column in zip(("text_id", "text"), zip(*texts, strict=True), strict=True)
                }
            ),
            key=key,
            root=self.root,
            pairs=asked_pairs(self.protocol, key),
            aggregates={name: tuple(groups) for name, groups in (aggregates or {}).items()},
            left_out=dict(self.left_out),
            notes=tuple(notes),
        )

    def _key(self) -> pa.Table:
        columns = dict(find_protocol(self.protocol).columns)
        columns |= {name: kind for name, kind in OPTIONAL.items() if any(name in item for item in self._items)}
        empty: dict[str, Any] = {"group": "", "tags": [], "kinds": []}
        return pa.table(
            {
                name: pa.array([item.get(name, empty.get(name)) for item in self._items], kind)
                for name, kind in columns.items()
            }
        )

    def _image_table(self) -> pa.Table:
        rows = list(self._images.values())
        columns = {name: pa.array([row[name] for row in rows], pa.string()) for name in ("image_id", "image")}
        if any(row["box"] is not None for row in rows):
            columns["box"] = pa.array([row["box"] for row in rows], pa.list_(pa.int32()))
        if any(row["other_names"] for row in rows):
            # one photo under several names, as in VALSE: the file that is there is taken
            columns["other_names"] = pa.array([row["other_names"] for row in rows], STRINGS)
        return pa.table(columns)
