"""What a folder was made from: a manifest of ours, whether W&B is there or not.

Every verb leaves `lineage.json` in its folder: its inputs, each with a hash of its content, and what it made. Inputs
that a verb has made lead on to the manifest of their own folder: tables -> verdicts -> checkpoint -> evaluation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.run_folders import split_checkpoint
from experiments.config.values import texts_in
from experiments.runs.outputs import CONFIG_FILE, without_folders
from negatives.tables import DAMAGED, write_json

LINEAGE_FILE = "lineage.json"
MADE = {
    "generate": ("negatives.parquet", "captions.parquet", "train/negatives.parquet", "train/captions.parquet"),
    "audit": ("audit.json",),
    "filter": ("verdicts.parquet", "pair_verdicts.parquet", "certificate.json"),
    "train": ("weights.safetensors",),
    "evaluate": ("metrics.csv", "summary.json"),
    "score": ("scores.parquet",),
    "export": ("model.safetensors", "adapter_model.safetensors", "scorer.json"),
    "convert": ("model.safetensors",),
    "neighbours": ("neighbours.parquet",),
}
"""Verb -> what it makes; of a verb that is not here, no manifest is written."""
PUBLISHED = ("export", "convert")
"""Verbs whose folder gets published: its manifest names no other one. It lies in that of its run, or stands alone."""
BLOCK = 1 << 22


@dataclass(frozen=True)
class Node:
    """A folder and what it was made from.

    Attributes:
        folder: that a verb wrote.
        verb: which.
        inputs: path -> hash of its content, of what it read.
        made: name in the folder -> hash of its content.
    """

    folder: Path
    verb: str
    inputs: Mapping[str, str]
    made: Mapping[str, str]


def record_lineage(verb: str, config: Any) -> None:
    """Writes the manifest of what a verb has just made; does nothing where it made nothing new.

    Args:
        verb: its name.
        config: its configuration, whose `output_dir` is its folder.
    """
    own = getattr(config, "output_dir", None)
    if verb not in MADE or own is None or not (folder := Path(own)).is_dir():
        return
    file, saved = folder / LINEAGE_FILE, folder / CONFIG_FILE
    made = [name for name in MADE[verb] if (folder / name).is_file()]
    # the configuration is written whenever work begins
    if not made or (file.is_file() and saved.is_file() and file.stat().st_mtime_ns > saved.stat().st_mtime_ns):
        return
    inputs = {str(path): content_hash(path) for path in _inputs(dataclasses.asdict(config), folder.resolve())}
    if verb in PUBLISHED:
        inputs = {without_folders(path): digest for path, digest in inputs.items()}
    write_json({"verb": verb, "inputs": inputs, "made": {name: content_hash(folder / name) for name in made}}, file)


def read_lineage(folder: Path) -> Node | None:
    """The manifest of a folder; None where it has none that can be read."""
    try:
        content = json.loads((folder / LINEAGE_FILE).read_text(encoding="utf-8"))
        inputs = {str(path): str(digest) for path, digest in content["inputs"].items()}
        made = {str(name): str(digest) for name, digest in content["made"].items()}
        return Node(folder, str(content["verb"]), inputs, made)
    except (*DAMAGED, AttributeError):
        return None


def trace(folder: Path) -> list[Node]:
    """A folder's manifest behind those of all that it was made from, each once; what is no verb's has none."""
    found: dict[Path, Node] = {}
    open_folders: set[Path] = set()

    def visit(place: Path) -> None:
        if place in found or place in open_folders or (node := read_lineage(place)) is None:
            return
        # a manifest may be anyone's: one that leads back to itself ends here
        open_folders.add(place)
        for maker in makers(node):
            visit(maker)
        found[place] = node

    visit(folder.resolve())
    return [*found.values()]


def makers(node: Node) -> list[Path]:
    """The folders with a manifest that a node was made from, as far as it names them."""
    paths = [node.folder.parent] if node.verb in PUBLISHED else map(Path, node.inputs)
    return [*dict.fromkeys(maker for path in paths if (maker := maker_of(path)) is not None)]


def maker_of(path: Path) -> Path | None:
    """The nearest folder with a manifest in which a path lies, or that it is; None where there is none."""
    path = path.resolve()
    return next((place for place in (path, *path.parents) if os.path.isfile(place / LINEAGE_FILE)), None)


def content_hash(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of its manifest, or of the names and sizes in it where it has none."""
    digest = hashlib.sha256()
    if path.is_dir():
        if (path / LINEAGE_FILE).is_file():
            return content_hash(path / LINEAGE_FILE)
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _inputs(settings: Any, own: Path) -> Iterator[Path]:
    """Files that a configuration names, and folders that a verb has written, outside the verb's own folder."""
    for text in texts_in(settings):
        if not text:
            continue
        # RUN@best: the run
        path = Path(split_checkpoint(text)[0])
        # not Path.is_file(): any text may stand in a configuration, and of one that is too long it raises
        known = os.path.isfile(path) or os.path.isfile(path / LINEAGE_FILE)
        if known and not path.resolve().is_relative_to(own):
            yield path
