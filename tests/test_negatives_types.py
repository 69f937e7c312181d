"""A negative type is one row: what reads the table follows it, and tables of others may name types without a row."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import negatives.types
from datamodules.batch import ImageTextBatch
from datamodules.mixing import build_pool, draw_family, draw_negatives
from experiments.__main__ import main
from experiments.report.negative_types import types_in_order
from lightning_modules.metrics import PairedAccuracy
from negatives.gpt.verdict import OTHER_EDIT
from negatives.tables.captions import pair_table, read_captions, read_negatives, strings, text_table, write_table
from negatives.tables.verdicts import read_pair_verdicts, read_verdicts
from negatives.types import MEANINGS, NEGATIVE_TYPES, NegativeType, family_of
from negatives.validate import REASONS, rejection, validation_table
from negatives.writers.write import write_negatives
from tests.pages import PAGES
from tests.tiny import TINY_OVERRIDES, tiny_tables

QUICK = ["judge.judges=[word]", "judge.folds=3", "logging.wandb=disabled"]
QUICK_FILTER = [*QUICK, "certificate.probes=[word,bayes]", "certificate.bootstrap=20", "rule=top_fraction"]


def test_a_type_without_a_row_has_the_family_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = dict(NEGATIVE_TYPES)
    monkeypatch.setattr(
        negatives.types, "NEGATIVE_TYPES", {}
    )  # removing rows and putting them back changes their order
    assert {name: family_of(name) for name in rows} == {name: row.family for name, row in rows.items()}
    assert [family_of(name) for name in ("swap_verbs", "swapped", "counting-hard")] == ["swap", "other", "other"]


def test_a_row_says_the_family_whatever_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEGATIVE_TYPES, "shuffle", NegativeType("shuffle", "swap", lambda *_: True, "not_shuffled"))
    monkeypatch.setitem(NEGATIVE_TYPES, "swap_in", NegativeType("swap_in", "replace", lambda *_: True, "not_in"))
    assert [draw_family(name) for name in ("shuffle", "swap_in")] == ["swap", "other"]


@pytest.mark.parametrize("name", ["", " ", "swap obj", "mean", "all", "swap_obj\n", "swap/obj"])
def test_a_row_needs_a_name_that_tables_can_hold(name: str) -> None:
    with pytest.raises(ValueError, match="without white space"):
        NegativeType(name, "swap", lambda *_: True, "wrong")


def test_a_row_needs_a_known_family() -> None:
    with pytest.raises(ValueError, match=r"family of flip must be one of replace, swap, add, got 'swp'.*mean swap\?"):
        NegativeType("flip", "swp", lambda *_: True, "wrong")


def test_every_rejection_has_a_sentence_and_the_page_of_negatives_has_the_same() -> None:
    assert {*REASONS, OTHER_EDIT} == set(MEANINGS)
    assert all(re.fullmatch(r"[A-Z].*\.", sentence) for sentence in MEANINGS.values())
    rows = re.findall(
        r"^\|[ \w]*\| `(\w+)` \| (.*) \|$", PAGES["docs/negatives.md"].partition("What is accepted")[0], re.MULTILINE
    )
    assert dict(rows) == {reason: MEANINGS[reason] for reason in REASONS}


def is_reversed(text: str, caption: str) -> bool:
    return text.lower().split() == caption.lower().split()[::-1]


REVERSED = NegativeType("reversed", "swap", is_reversed, "not_reversed")


class Reverser:
    """Writes every caption backwards, and once more with its first word at the front."""

    name, version = "reverser", "1"

    def write(self, caption: str, rng: np.random.Generator) -> list[tuple[str, str]]:
        first, *others = caption.split()
        return [("reversed", " ".join([*others[::-1], first])), ("reversed", " ".join([first, *others[::-1]]))]


def test_a_row_and_a_writer_are_all_that_a_new_type_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEGATIVE_TYPES, REVERSED.name, REVERSED)
    source, _ = tiny_tables(tmp_path, images=40)
    captions = read_captions(source)

    written = write_negatives(captions, Reverser(), seed=0).negatives
    assert rejection("dog a", "A dog", "reversed", ()) == ""
    assert set(strings(written, "rejected")) == {"", "not_reversed"}
    counts = validation_table(zip(strings(written, "negative_type"), strings(written, "rejected"), strict=True))
    assert counts["reversed"] == {"valid": len(captions), "not_reversed": len(captions)}

    write_table(written, tmp_path / "negatives.parquet")
    negatives = read_negatives(tmp_path / "negatives.parquet", captions)
    assert len(negatives) == len(captions)
    tables = [f"captions={source}", f"negatives={tmp_path}/negatives.parquet"]
    main(["audit", *tables, *QUICK, "bootstrap=20", f"output_dir={tmp_path}/audit"])
    types = {
        row["negative_type"] for row in json.loads((tmp_path / "audit/audit.json").read_text())["parts"][0]["estimates"]
    }
    assert types == {"all", "reversed"}
    main(["filter", *tables, *QUICK_FILTER, "per_type=true", "unit=both", f"output_dir={tmp_path}/filter"])
    texts, pairs = text_table(captions, negatives), pair_table(captions, negatives)
    kept = read_pair_verdicts(tmp_path / "filter/pair_verdicts.parquet", pairs)["keep"].to_numpy()
    assert len(read_verdicts(tmp_path / "filter/verdicts.parquet", texts)) == len(texts)

    pool = build_pool(texts, pairs, keep_pairs=kept)
    caption = pairs.filter(pa.array(kept))["caption_id"][0].as_py()
    (image,) = {row["image_id"] for row in captions.to_pylist() if row["caption_id"] == caption}
    place = {"image_id": image, "caption_id": caption, "unit": "pair", "negatives": 1.0, "seed": 0, "epoch": 0}
    assert set(pool.by_caption[caption]) == {"swap"}
    (drawn,) = draw_negatives(pool, swap_ratio=1.0, **place)
    assert texts["negative_type"][drawn].as_py() == "reversed"
    assert types_in_order(["mean", texts["negative_type"][drawn].as_py()]) == ["reversed", "mean"]


def test_paired_accuracy_is_named_by_the_types_of_the_batch() -> None:
    batch = ImageTextBatch(["1"], [["a", "b"]], torch.tensor([[1, 0]]), torch.ones(1, 2).bool(), [["", "reversed"]])
    metric = PairedAccuracy()
    metric.update(torch.tensor([[1.0, 0.0]]), batch)
    assert {name: float(value) for name, value in metric.compute().items()} == {"reversed": 1.0, "mean": 1.0}


def test_types_without_a_row_are_audited_filtered_drawn_and_trained_on(tmp_path: Path) -> None:
    source, path = tiny_tables(tmp_path, images=40)
    names = {"replace_obj": "counting-hard", "swap_att": "swap_colours", "swap_obj": "Ünïcode"}
    table = pq.read_table(path)
    types = pa.array([names.get(name, name) for name in strings(table, "negative_type")])
    own = tmp_path / "own.parquet"
    write_table(table.set_column(table.column_names.index("negative_type"), "negative_type", types), own)
    tables = [f"captions={source}", f"negatives={own}"]
    main(["filter", *tables, *QUICK_FILTER, "per_type=true", "unit=both", f"output_dir={tmp_path}/filter"])
    verdicts = tmp_path / "filter/verdicts.parquet"
    assert main(["audit", *tables, *QUICK, "bootstrap=20", f"verdicts={verdicts}", f"output_dir={tmp_path}/audit"]) == 0
    for part in json.loads((tmp_path / "audit/audit.json").read_text())["parts"]:
        assert {row["negative_type"] for row in part["estimates"]} == {"all", *types.to_pylist()}
    captions = read_captions(source)
    negatives = read_negatives(own, captions)
    pool = build_pool(text_table(captions, negatives), pair_table(captions, negatives))
    drawn_apart = {name: draw_family(name) for name in names.values()}
    assert drawn_apart == {"counting-hard": "other", "swap_colours": "swap", "Ünïcode": "other"}
    assert len(pool.by_caption) == len(captions)
    words = [*TINY_OVERRIDES, "logging.wandb=disabled", f"data.verdicts={verdicts}", "data.subset=random"]
    words += [f"data.{word}" for word in tables]
    assert main(["train", "experiments/configs/clip_tiny_scenes.yaml", *words, f"output_dir={tmp_path}/run"]) == 0


WRITER_FILE = '''
from dataclasses import dataclass, field

@dataclass
class BackwardSettings:
    """Captions backwards."""

    mark: str = field(default="!!", metadata={"choices": ("!!", "..")})
    """What ends them."""

class Backward:
    name, version = "backward", "1"

    def __init__(self, mark):
        self.mark = mark

    def write(self, caption, rng):
        return [("swap_obj", " ".join(caption.split()[::-1]) + self.mark)]

def build(backward: BackwardSettings):
    return Backward(backward.mark)
'''
PROGRAM = """
import sys
from negatives.writers.table import WRITERS
WRITERS["backward"] = "backward.build"
from experiments.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_writer_is_a_file_and_a_line_and_brings_its_own_keys(tmp_path: Path) -> None:
    (tmp_path / "backward.py").write_text(WRITER_FILE)
    captions = pa.table({"image_id": ["1"], "image": ["a.jpg"], "caption_id": ["11"], "caption": ["Dogs chase cats"]})
    write_table(captions, tmp_path / "captions.parquet")
    root = Path(__file__).parents[1]

    def itm(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]\n{PROGRAM}"]
        return subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True)

    words = ["generate", "generator=backward", "captions=captions.parquet", "output_dir=out"]
    assert "`backward.mark` must be one of !!, .., got '.'" in itm(*words, "backward.mark=.").stderr
    assert itm(*words, "backward.mark=..").returncode == 0
    (row,) = pq.read_table(tmp_path / "out/negatives.parquet").to_pylist()
    assert (row["caption"], row["generator"], row["rejected"]) == ("cats chase Dogs..", "backward", "")
    help_page = itm("generate", "--help").stdout
    assert "backward.mark" in help_page
    assert "What ends them." in help_page
