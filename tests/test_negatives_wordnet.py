"""The packaged WordNet table: what it holds, that it is made again from WordNet's files, and that it is light."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from negatives.wordnet import has_part, is_a, is_known, parts_of_speech
from negatives.wordnet.build import arrays, licence, main
from negatives.wordnet.table import FOLDER, TABLE_FILE, lemmas, table

# the folder of WordNet's own variable, or that of Debian's package wordnet-base
WORDNET = Path(os.environ.get("WNSEARCHDIR", "/usr/share/wordnet"))
LICENCE = "".join(f"  {number} {line}\n" for number, line in enumerate(("WordNet 3.0", "", "AS IS"), 1)) + "  \n" * 26
SMALL = {
    "data.noun": (
        "00000100 03 n 02 animal 0 beast 0 000 | lives\n"
        "00000200 03 n 01 dog 0 002 @ 00000100 n 0000 %p 00000300 n 0000 | barks\n"
        "00000300 03 n 01 tail 0 001 #p 00000200 n 0000 | wags\n"
    ),
    "data.verb": "00000400 03 v 01 snore 0 001 * 00000500 v 0000 01 + 02 00 |\n00000500 03 v 01 sleep 0 000 00 |\n",
    "data.adj": (
        "00000600 03 a 01 red 0 001 & 00000700 a 0000 | red\n00000700 03 s 01 crimson 0 001 & 00000600 a 0000 | deep\n"
    ),
    "data.adv": "",
    "index.noun": (
        "animal n 1 0 1 0 00000100\nbeast n 1 0 1 0 00000100\ndog n 1 2 @ %p 1 1 00000200\ntail n 1 1 #p 1 0 00000300\n"
    ),
    "index.verb": "snore v 1 1 * 1 0 00000400\nsleep v 1 0 1 0 00000500\n",
    "index.adj": "red a 1 1 & 1 0 00000600\ncrimson a 1 1 & 1 0 00000700\n",
    "index.adv": "",
    **{"noun.exc": "dawgs dog\n", "verb.exc": "slept sleep\n", "adj.exc": "", "adv.exc": ""},
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for name, text in SMALL.items():
        (tmp_path / name).write_text(LICENCE + text, "latin1")
    return tmp_path


def test_a_small_wordnet_becomes_the_arrays_worked_by_hand(small: Path) -> None:
    made = arrays(small)
    # animal 0, dog 1, tail 2, snore 3, sleep 4, red 5, crimson 6
    assert made["hypernyms"].tolist() == [0, 4, 5]
    assert made["hypernyms_ends"].tolist() == [0, 0, 1, 1, 2, 2, 2, 3]
    assert (made["parts"].tolist(), made["parts_ends"].tolist()) == ([2], [0, 0, 1, 1, 1, 1, 1, 1])
    assert made["lemmas_n"].tobytes() == b"animal\nbeast\ndog\ntail"
    assert made["senses_n"].tolist() == [0, 0, 1, 2]
    assert made["irregular_n"].tobytes() == b"dawgs dog"
    assert licence(small) == "WordNet 3.0\n\nAS IS\n" + "\n" * 26


def test_the_same_files_give_the_same_bytes(small: Path, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert main([str(small), str(tmp_path / name)]) == 0
        written.append((tmp_path / name / TABLE_FILE).read_bytes())
    assert written[0] == written[1]
    assert main([]) == 2


@pytest.mark.slow  # all of WordNet is read
@pytest.mark.skipif(not WORDNET.is_dir(), reason="needs the files of Debian's package wordnet-base")
def test_the_packaged_table_is_the_one_that_is_made_from_debians_files() -> None:
    with np.load(FOLDER / TABLE_FILE) as packaged:
        for name, made in arrays(WORDNET).items():
            np.testing.assert_array_equal(packaged[name], made, err_msg=name)
    assert (FOLDER / "LICENSE").read_text("utf-8") == licence(WORDNET)


def test_the_table_is_all_of_wordnet() -> None:
    # counts of WordNet 3.0: https://wordnet.princeton.edu/documentation/wnstats7wn
    assert {pos: len(rows) for pos, rows in table().rows.items()} == {"n": 117798, "v": 11529, "a": 21479, "r": 4481}
    assert len(table().hypernyms.ends) - 1 == 117659
    assert sum(len(senses.values) for senses in table().senses.values()) == 206941


@pytest.mark.parametrize(
    ("word", "more_general"),
    [
        ("men", "person"),
        ("women", "people"),
        ("kittens", "animals"),
        ("spaniel", "dog"),
        ("automobile", "cars"),
        ("gobbling", "eating"),
        ("snoring", "sleeping"),
        ("scarlet", "red"),
        ("teddy_bear", "toy"),
    ],
)
def test_a_word_is_its_synonyms_and_what_is_more_general(word: str, more_general: str) -> None:
    assert is_a(word, more_general)


@pytest.mark.parametrize(
    ("word", "other"),
    [("person", "man"), ("man", "woman"), ("dog", "cat"), ("red", "blue"), ("toy", "teddy_bear"), ("blicket", "wug")],
)
def test_a_word_is_no_sibling_and_nothing_more_special(word: str, other: str) -> None:
    assert not is_a(word, other)


def test_parts_come_from_the_kinds_that_a_thing_is() -> None:
    assert has_part("car", "bumper")
    assert has_part("spaniel", "paw") or has_part("dog", "paw")
    assert not has_part("bumper", "car")


def test_forms_of_words_are_found() -> None:
    assert lemmas("geese", "n") == ["goose"]
    assert lemmas("running", "v") == ["run"]
    assert lemmas("jogged", "v") == ["jog"]
    assert lemmas("wettest", "a") == ["wet"]
    assert lemmas("knives", "n") == ["knife"]
    assert "n" in parts_of_speech("skateboarders")
    assert not is_known("blickets")


def test_nothing_is_read_before_a_word_is_asked_for() -> None:
    code = "import negatives.validate, negatives.wordnet.table as t; assert t.table.cache_info().currsize == 0"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)
