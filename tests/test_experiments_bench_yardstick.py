"""The yardstick beside the certificate: what it is given, how its answers are read, and the real one at small size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.bench import yardstick
from experiments.bench.yardstick import Measured, ask_yardstick, files_of
from negatives.filtering import ROTATIONS, THIRDS, Retained, Rotated, part_of_texts
from tests.test_negatives_text_pairs import text_pairs_of, with_giveaway

TEXT_PAIRS = text_pairs_of(with_giveaway(60, 0.2, 0.6))


def test_the_files_hold_what_is_kept_of_one_part_and_all_of_another() -> None:
    part = part_of_texts(TEXT_PAIRS, 0)
    pairs = np.arange(len(TEXT_PAIRS.pairs)) % 2 == 0
    rotated = Rotated(part, [Retained(np.ones(len(part), dtype=bool), pairs)] * 3, {})
    of_pair = part[TEXT_PAIRS.pairs[:, 0]]
    for number, rotation in enumerate(ROTATIONS):
        kept, untouched = files_of(TEXT_PAIRS, rotated, number)
        assert len(kept) == (pairs & (of_pair == rotation.fit)).sum()
        assert len(untouched) == (of_pair == rotation.certify).sum()
        assert not {row["image_id"] for row in kept} & {row["image_id"] for row in untouched}
        first = TEXT_PAIRS.pairs[np.flatnonzero(of_pair == rotation.certify)[0]]
        assert [untouched[0][name] for name in ("caption", "negative")] == [TEXT_PAIRS.captions[text] for text in first]


def test_answers_are_read_by_group(tmp_path: Path) -> None:
    """A program that counts the rows of its files."""
    program = tmp_path / "program.py"
    program.write_text(
        "import json, sys\n"
        "kept, untouched = (len(open(path).readlines()) for path in sys.argv[1:])\n"
        'print(json.dumps({"pair judge": kept, "text judge": untouched, "by type": {"swap_obj": 3}, '
        '"by thirds, weak to strong": [4, 5, 6]}))\n',
        encoding="utf-8",
    )
    row = {"caption": "a", "negative": "b", "image_id": "1", "type": "swap_obj"}
    assert ask_yardstick(program, [row], [row, row]) == {
        **{"all": 1, "all, texts": 2, "swap_obj": 3},
        **dict(zip(THIRDS, (4, 5, 6), strict=True)),
    }


@pytest.mark.parametrize(("value", "agrees"), [(0.45, True), (0.62, True), (0.55, True), (0.44, False), (0.63, False)])
def test_a_value_agrees_within_or_between_the_learners_intervals(value: float, agrees: bool) -> None:
    ours = {"word": (0.5, 0.45, 0.54), "char": (0.58, 0.56, 0.62)}
    assert Measured("all", 0, "all", value, ours).agrees == agrees


@pytest.mark.slow
def test_the_real_yardstick_agrees_at_small_size(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is taught is far from a coin, and both say so. Slow: the yardstick fits 21 judges."""
    program, pairs, out = (
        shared / "tools/taught_bias.py",
        shared / "data/llm_negatives/pairs.jsonl",
        tmp_path / "out.json",
    )
    words = ["--images", "0", "1", "--families", "replace", "--photos", "120", "--arms", "all", "--learners", "word"]
    assert yardstick.main([str(pairs), str(program), *words, "--judges", "word", "--json", str(out)]) == 0
    rows = json.loads(out.read_text("utf-8"))
    assert [(row["rotation"], row["group"]) for row in rows[:2]] == [(0, "all"), (0, "all, texts")]
    assert len(rows) == len(ROTATIONS) * (2 + 3 + len(THIRDS))
    whole = [row for row in rows if row["group"] == "all"]
    assert np.mean([row["yardstick"] for row in whole]) == pytest.approx(
        np.mean([row["ours"]["word"][0] for row in whole]), abs=0.08
    )
    assert np.mean([row["yardstick"] for row in whole]) > 0.55
    assert capsys.readouterr().out.count("| yes |") > 0.8 * len(rows)
