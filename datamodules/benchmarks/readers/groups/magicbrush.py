"""MagicBrush (Zhang et al., NeurIPS 2023): edits of photos by instructions, as pairs of an image before and after.

`edit_sessions.json`: `{"<id>": [{"input": "<id>-input.png", "output": "<id>-output1.png", ...}, ...]}`, images in
`images/<id>/`, and one caption for each image in a file of captions. How the literature makes pairs of these is not
published: an edit turn is an item here, two images with their captions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import find_file, list_of, load_json, mapping_of, placed, reading, text_in
from negatives.tables import StrPath

CAPTIONS = (
    "global_descriptions.json",
    "global_description.json",
    "local_descriptions.json",
    "local_captions.json",
)


def read(annotations: StrPath, *, image_root: StrPath | None = None, captions: StrPath | None = None) -> Benchmark:
    """All edit turns, which join images in sequence; those whose captions are equal are left out and counted.

    Args:
        annotations: folder of `edit_sessions.json`, or that file.
        image_root: folder that holds `images`, or the folders of the sessions.
        captions: file of the captions; sought in the folder where None.

    Raises:
        InputError: no annotation file, a malformed one, or no item.
    """
    path = find_file(annotations, "MagicBrush", "edit_sessions.json")
    texts_path = find_file(path.parent if captions is None else captions, "MagicBrush captions", *CAPTIONS)
    found = Collected("magicbrush", "groups", path, image_root)
    with reading(texts_path, "MagicBrush captions"):
        texts = mapping_of(load_json(texts_path))
    with reading(path, "MagicBrush"):
        for session, turns in mapping_of(load_json(path)).items():
            for number, turn in enumerate(list_of(turns), start=1):
                images = [text_in(turn, side, session) for side in ("input", "output")]
                own = [_caption(texts, session, image) for image in images]
                if None in own:
                    found.left_out["without a caption"] += 1
                elif own[0] == own[1]:
                    found.left_out["both images have one caption"] += 1
                else:
                    found.add(
                        item_id=f"{session}:{number}",
                        image_ids=[_image(found, session, image) for image in images],
                        text_ids=[found.text(caption) for caption in own if caption],
                    )
    return found.benchmark(notes=["pairs of one edit each; not the protocol of a paper"])


def _image(found: Collected, session: str, image: str) -> str:
    return found.image(placed(found.root, f"images/{session}/{image}", f"{session}/{image}"), image_id=Path(image).stem)


def _caption(texts: Mapping[str, Any], session: str, image: str) -> str | None:
    """Captions come as session -> image -> caption, or as image -> caption."""
    own = texts.get(session, texts)
    return text_in(own, image, session).strip() if isinstance(own, Mapping) and own.get(image) else None
