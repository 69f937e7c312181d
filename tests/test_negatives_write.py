"""Writers and pairs: negatives are false, reproducible and belong to their captions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from negatives.tables.captions import InputError, read_captions, read_negatives, strings, write_table
from negatives.tables.randomness import generator_for, hash_of
from negatives.word_forms import bare_words
from negatives.writers.english.rules import RuleWriter
from negatives.writers.write import MAX_WORDS, Attempt, join_pairs, write_negatives
from tests import readings
from tests.draw_readings import ROWS, drawn

TEXTS = [
    "A man riding a brown horse on a large beach.",
    "Two dogs sitting under a red umbrella next to a white car",
    "a cat in front of a small black laptop",
    "An elephant behind a tall woman with an apple",
    "a teddy bear eats noodles",
]


def captions_table(texts: list[str] = TEXTS) -> pa.Table:
    ids = [str(number) for number in range(len(texts))]
    return pa.table({"image_id": ids, "image": ids, "caption_id": [f"{i}_0" for i in ids], "caption": texts})


def test_draws_depend_on_the_key_only() -> None:
    assert generator_for(1, "a").integers(1 << 60) == generator_for(np.int64(1), np.str_("a")).integers(1 << 60)
    keys = [(0, "a"), (1, "a"), (0, "b"), ("0", "a"), ("0a",), (0, "a", 0)]
    assert len({hash_of(*key) for key in keys}) == len(keys)


def test_draws_are_the_same_in_every_process() -> None:
    program = "from negatives.tables.randomness import generator_for; print(generator_for(3, 'x').integers(1 << 60))"
    root = Path(__file__).parents[1]
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == f"{generator_for(3, 'x').integers(1 << 60)}\n"


def test_negatives_imports_without_torch() -> None:
    root = Path(__file__).parents[1]
    files = [path.relative_to(root).with_suffix("") for path in (root / "negatives").rglob("*.py")]
    heavy = {f"negatives.judging.{name}" for name in ("transformer", "transformer_training")}
    modules = {".".join(file.parts).removesuffix(".__init__") for file in files} - heavy
    program = f"import sys, {', '.join(sorted(modules))}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert run.stdout == "False\n", run.stderr


def test_negatives_do_not_depend_on_row_order() -> None:
    captions = captions_table()
    forward = write_negatives(captions, RuleWriter(), seed=3).negatives
    backward = write_negatives(captions.take([4, 3, 2, 1, 0]), RuleWriter(), seed=3).negatives
    assert forward.sort_by("negative_id").equals(backward.sort_by("negative_id"))
    assert not forward.equals(write_negatives(captions, RuleWriter(), seed=4).negatives)


def test_written_negatives_can_be_read_again(tmp_path: Path) -> None:
    captions = captions_table()
    table = write_negatives(captions, RuleWriter(), seed=0).negatives
    write_table(table, tmp_path / "negatives.parquet")
    valid = [row for row in table.to_pylist() if not row["rejected"]]
    assert read_negatives(tmp_path / "negatives.parquet", captions).to_pylist() == valid
    assert set(strings(table, "generator")) == {"rules"}
    assert set(strings(table, "model")) == {""}
    first = table.to_pylist()[0]
    assert first["negative_id"] == f"{first['caption_id']}:{first['negative_type']}:0"


class Parrot:
    name = "parrot"
    version = "1"

    def __init__(self, *negative_types: str) -> None:
        self.negative_types = negative_types or ("replace_obj", "replace_att")

    def write(self, caption: str, rng: np.random.Generator) -> list[tuple[str, str]]:
        return list(zip(self.negative_types, ("A  SMALL dog!", "a large dog"), strict=False))


@pytest.mark.parametrize("place", [0, 1])
def test_a_writer_writes_only_types_that_have_a_row(place: int) -> None:
    types = ["swap_obj", "swap_obj"]
    types[place] = "swap_ob"
    expected = r"swap_att, .* got 'swap_ob' \(writer parrot\). Did you mean swap_obj\?.*negatives/types.py"
    with pytest.raises(InputError, match=expected) as caught:
        write_negatives(captions_table(), Parrot(*types), seed=0)
    assert "\n" not in str(caught.value)


def test_a_negative_that_another_caption_of_the_image_says_is_marked() -> None:
    captions = pa.table(
        {
            "image_id": ["1", "1", "2"],
            "image": ["a", "a", "b"],
            "caption_id": ["x", "y", "z"],
            "caption": ["A cat.", "a small dog", "a cow"],
        }
    )
    seen: list[Any] = []

    def progress(items: Any) -> Any:
        for item in items:
            seen.append(item)
            yield item

    table = write_negatives(captions, Parrot(), seed=0, progress=progress).negatives
    assert strings(table, "negative_id") == [f"{name}:replace_{kind}:0" for name in "xyz" for kind in ("obj", "att")]
    assert strings(table, "rejected")[:3] == ["equals_other_caption", "", "equals_caption"]
    assert len(seen) == 3


def test_a_writer_without_a_word_to_say_is_an_error() -> None:
    with pytest.raises(InputError, match=r"nothing for 1 caption, .*'noodles'.*know words.*another generator"):
        write_negatives(captions_table(["noodles"]), RuleWriter(), seed=0)


class Noting:
    """Writes nothing, and notes what it was to write for; as many captions at once, it says why."""

    name, version, model = "noting", "1", ""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def attempts(self, captions: Sequence[tuple[str, str]], seed: int) -> list[list[Attempt]]:
        self.seen += [caption for _, caption in captions]
        return [[Attempt("", "swap_obj", "", "nothing that could change places")] for _ in captions]


def test_a_writer_that_says_why_it_wrote_nothing_is_taken_at_its_word() -> None:
    with pytest.raises(InputError, match=r"for 1 caption, such as .*: nothing that could change places\. Use another"):
        write_negatives(captions_table([TEXTS[0]]), Noting(), seed=0)


def test_no_writer_sees_a_caption_of_more_words_than_it_can_exchange() -> None:
    longest = " ".join(["A dog chases a cat."] * (MAX_WORDS // 5))
    captions = captions_table([longest + " Twice", longest, TEXTS[0]])
    noting = Noting()
    with pytest.raises(InputError, match="wrote nothing for 3 captions"):
        write_negatives(captions, noting, seed=0)
    assert noting.seen == [longest, TEXTS[0]]
    found = write_negatives(captions, RuleWriter(), seed=0)
    assert set(strings(found.negatives, "caption_id")) == {"1_0", "2_0"}
    assert found.unwritten.to_pylist() == [
        {"caption_id": "0_0", "negative_type": "", "outcome": "too_long", "detail": f"more than {MAX_WORDS} words"}
    ]


def test_rows_are_drawn_for_reading_among_the_accepted_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = captions_table()
    monkeypatch.setitem(ROWS, "rules", 3)
    rows = drawn(captions, "rules", {})
    assert rows == drawn(captions, "rules", {})
    accepted = {
        row["negative_id"]: row for row in write_negatives(captions, RuleWriter(), seed=0).negatives.to_pylist()
    }
    assert len({row["id"] for row in rows}) == 3
    for row in rows:
        assert (row["text"], row["negative_type"]) == tuple(
            accepted[row["id"]][key] for key in ("caption", "negative_type")
        )
        assert row["caption"] == TEXTS[int(row["id"].split("_")[0])]


def pairs_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


PAIR = {
    "type": "add_obj",
    "coco_id": 0,
    "caption": "a CAT on  a mat",
    "negative_caption": "a cat and a hat",
    "image_fold": 1,
}
ONE = captions_table(["A cat on a mat. "])


def test_pairs_join_by_image_and_text(tmp_path: Path) -> None:
    rows = [
        PAIR,
        PAIR,  # repeated
        PAIR | {"negative_caption": "A cat and a bat"},
        PAIR | {"coco_id": 9},  # another image
        PAIR | {"caption": "a cat"},  # another caption
        PAIR | {"negative_caption": "a cat on a mat"},  # says what the caption says
        PAIR | {"image_fold": 0, "negative_caption": "fold 0"},
    ]
    table = join_pairs(ONE, pairs_file(tmp_path / "pairs.jsonl", rows), folds=[1])
    assert strings(table, "negative_id") == ["0_0:add_obj:0", "0_0:add_obj:1", "0_0:add_obj:2"]
    assert strings(table, "caption") == ["a cat and a hat", "A cat and a bat", "a cat on a mat"]
    assert set(strings(table, "generator")) == {"pairs"}
    assert strings(table, "rejected") == ["words_lost", "words_lost", "equals_caption"]
    assert len(join_pairs(ONE, tmp_path / "pairs.jsonl")) == 4


@pytest.mark.parametrize(
    ("row", "folds", "expected"),
    [
        (PAIR | {"coco_id": 5}, [], "none of 1 pairs does.*pairs.jsonl.*Give the captions"),
        (PAIR, [0], r"none of 0 pairs of folds \[0\] does"),
        (
            PAIR | {"type": "ad_obj"},
            [],
            r"replace_obj, .*'ad_obj' \(.*pairs.jsonl, line 1\). Did you mean add_obj",
        ),
        (PAIR | {"negative_caption": ""}, [], "`negative_caption`.*line 1.*Fill it in"),
        ({k: v for k, v in PAIR.items() if k != "coco_id"}, [], "`image_id` or `coco_id`.*None.*line 1"),
        ({k: v for k, v in PAIR.items() if k != "image_fold"}, [1], "`image_fold`.*line 1.*leave `folds` empty"),
    ],
)
def test_bad_pairs_are_refused_with_place_and_remedy(
    tmp_path: Path, row: dict[str, Any], folds: list[int], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        join_pairs(ONE, pairs_file(tmp_path / "pairs.jsonl", [row]), folds)


@pytest.mark.skipif(
    "ITM_SHARED" not in os.environ, reason="needs ITM_SHARED: a folder with COCO captions and LLM pairs"
)
def test_real_pairs_join_real_captions() -> None:
    data = Path(os.environ["ITM_SHARED"]) / "data"
    captions = read_captions(data / "coco_val2017" / "captions.jsonl")
    table = join_pairs(captions, data / "llm_negatives" / "pairs.jsonl")
    assert (len(captions), len(table)) == (590, 378)
    assert len({name.rsplit("_", 1)[0] for name in strings(table, "caption_id")}) == 51
    caption_of = dict(zip(strings(captions, "caption_id"), strings(captions, "caption"), strict=True))
    for row in table.to_pylist():
        same = bare_words(caption_of[row["caption_id"]]) == bare_words(row["caption"])
        assert same == (row["rejected"] == "equals_caption")


def test_a_row_can_be_made_again_from_its_columns() -> None:
    captions = pa.table(
        {"image_id": ["1"], "image": ["1.jpg"], "caption_id": ["1_0"], "caption": ["a red cat on a blue table"]}
    )
    for row in write_negatives(captions, RuleWriter(), seed=7).negatives.to_pylist():
        assert (row["generator"], row["prompt_version"]) == (RuleWriter.name, RuleWriter.version)
        rng = generator_for(row["seed"], row["generator"], row["caption_id"])
        assert (row["negative_type"], row["caption"]) in RuleWriter().write("a red cat on a blue table", rng)


def test_the_readings_come_to_what_their_page_says() -> None:
    page = (readings.FOLDER / "README.md").read_text("utf-8")
    found = list(readings.lines())
    assert len(found) == len(readings.READ) * len(readings.QUESTIONS)
    assert all(line in page for line in found)
