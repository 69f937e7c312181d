"""Draws accepted rows of the offline writers to be read: `python -m tests.draw_readings SHARED FOLDER [PIPELINE]`.

SHARED is the folder of the shared data, as in `ITM_SHARED`, PIPELINE a spaCy pipeline; without one only `rules` is
drawn. The same data, writers and pipeline give the same files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from negatives.tables.randomness import generator_for
from negatives.writers import build_writer, write_negatives

SEED = 0
FOLD = 2
"""Of the shared pairs; the rules of the writers and checks were made on the others."""
ROWS = {"rules": 200, "negclip": 100}


def captions_table(shared: Path) -> pa.Table:
    """The human captions of the shared pairs in `FOLD`, as a captions table; `caption_id` is `<coco_id>_<k>`."""
    captions: dict[str, list[str]] = {}
    for line in (shared / "data" / "llm_negatives" / "pairs.jsonl").read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        own = captions.setdefault(str(pair["coco_id"]), []) if pair["image_fold"] == FOLD else []
        if pair["caption"] not in own:
            own.append(pair["caption"])
    rows = [
        {"image_id": image, "image": f"{image}.jpg", "caption_id": f"{image}_{number}", "caption": caption}
        for image, own in sorted(captions.items())
        for number, caption in enumerate(own)
    ]
    return pa.Table.from_pylist(rows)


def drawn(captions: pa.Table, writer: str, settings: dict[str, Any]) -> list[dict[str, str]]:
    """Accepted rows of a writer, drawn without repeats, in the order of the draw."""
    own = dict(zip(captions["caption_id"].to_pylist(), captions["caption"].to_pylist(), strict=True))
    written = write_negatives(captions, build_writer(writer, settings), SEED).negatives.to_pylist()
    accepted = [row for row in written if not row["rejected"]]
    picks = generator_for(SEED, "readings", writer).permutation(len(accepted))[: ROWS[writer]]
    return [
        {
            "id": row["negative_id"],
            "caption": own[row["caption_id"]],
            "text": row["caption"],
            "negative_type": row["negative_type"],
        }
        for row in map(accepted.__getitem__, np.asarray(picks).tolist())
    ]


def main(shared: str, folder: str, pipeline: str = "") -> None:
    """Writes a file for each writer that can write; what was read (`tests/data/readings`) stays as it was read."""
    captions = captions_table(Path(shared))
    settings: dict[str, dict[str, Any]] = {"rules": {}}
    if pipeline:
        settings["negclip"] = {"spacy": {"pipeline": pipeline}}
    for writer, given in settings.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in drawn(captions, writer, given)]
        (Path(folder) / f"{writer}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
