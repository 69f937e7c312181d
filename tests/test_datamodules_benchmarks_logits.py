"""Laws of a scorer's logits: every pair is found by its ids, and what is missing, doubled or no number is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datamodules.benchmarks import Logits
from negatives.tables import InputError


def table(rows: int = 40) -> pa.Table:
    rng = np.random.default_rng(0)
    order = rng.permutation(rows)
    return pa.table(
        {
            "image_id": [f"image{i // 4}" for i in order],
            "text_id": [f"text{i % 7}" for i in order],
            "logit": rng.normal(size=rows),
        }
    )


def test_each_pair_of_a_table_has_its_own_logit() -> None:
    found = table()
    shuffled = found.take(np.random.default_rng(1).permutation(len(found)))
    logits = Logits.from_table(found).of(shuffled["image_id"], shuffled["text_id"].to_pylist())
    assert logits.tolist() == shuffled["logit"].to_pylist()


def test_a_matrix_and_a_table_of_all_its_cells_are_the_same() -> None:
    matrix = np.arange(6.0).reshape(2, 3)
    dense = Logits.from_matrix(["a", "b"], ["x", "y", "z"], matrix)
    cells = [(i, t, matrix[r, c]) for c, t in enumerate("xyz") for r, i in enumerate("ab")]
    sparse = Logits.from_table(
        pa.table(dict(zip(("image_id", "text_id", "logit"), zip(*cells, strict=True), strict=True)))
    )
    for logits in (dense, sparse):
        assert logits.matrix(["b", "a"], ["z", "x"]).tolist() == [[5.0, 3.0], [2.0, 0.0]]
        assert logits.of(["b", "a"], ["z", "x"]).tolist() == [5.0, 0.0]


def test_wordings_of_a_text_are_averaged() -> None:
    logits = Logits.from_matrix(["a", "b"], ["cat", "dog", "cat"], [[1, 5, 2], [3, 6, 7]])
    assert logits.text_ids.to_pylist() == ["cat", "dog"]
    assert logits.matrix(["a", "b"], ["cat", "dog"]).tolist() == [[1.5, 5.0], [5.0, 6.0]]


@pytest.mark.parametrize("reordered", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_debiased_logits_are_differences_pair_by_pair(dense: bool, reordered: bool) -> None:
    matrix, blind = np.arange(6.0).reshape(2, 3), np.arange(6.0)[::-1].reshape(2, 3) ** 2
    names = ["a", "b"], ["x", "y", "z"]
    made = [Logits.from_matrix(*names, values) for values in (matrix, blind)]
    if reordered:
        made[1] = Logits.from_matrix(names[0][::-1], names[1][::-1], blind[::-1, ::-1])
    if not dense:
        rows, columns = np.indices(matrix.shape).reshape(2, -1)[:, ::-1]
        made[0] = Logits.from_table(
            pa.table(
                {
                    "image_id": [names[0][r] for r in rows],
                    "text_id": [names[1][c] for c in columns],
                    "logit": matrix[rows, columns],
                }
            )
        )
    assert made[0].debiased(made[1], 0.5).matrix(*names).tolist() == (matrix - 0.5 * blind).tolist()


def test_a_missing_pair_is_named() -> None:
    found = table()
    logits = Logits.from_table(found.slice(0, 39))
    image, text = found["image_id"][39].as_py(), found["text_id"][39].as_py()
    with pytest.raises(
        InputError, match=f"1 of 40 pairs have no logit, the first is image '{image}' and text '{text}'"
    ):
        logits.of(found["image_id"], found["text_id"])
    for pair in (("image0", "nowhere"), ("nowhere", "text0")):
        with pytest.raises(InputError, match="'nowhere'"):
            logits.of(*([name] for name in pair))
        with pytest.raises(InputError, match="'nowhere'"):
            Logits.from_matrix(["image0"], ["text0"], [[1.0]]).matrix(*([name] for name in pair))


def test_a_pair_that_is_there_twice_is_named() -> None:
    found = table()
    image, text = found["image_id"][7].as_py(), found["text_id"][7].as_py()
    with pytest.raises(
        InputError, match=rf"scores\.csv: a pair must be there once, got image '{image}' and text '{text}'"
    ):
        Logits.from_table(pa.concat_tables([found, found.slice(7, 1)]), "scores.csv")
    with pytest.raises(InputError, match="an image must be there once, got 2 rows of 1"):
        Logits.from_matrix(["a", "a"], ["x"], [[1.0], [2.0]])


@pytest.mark.parametrize("wrong", [None, float("nan"), float("inf")])
def test_a_logit_that_is_no_number_is_named(wrong: float | None) -> None:
    found = table(5)
    numbers = [*found["logit"].to_pylist()[:4], wrong]
    with pytest.raises(InputError, match=rf"finite number.*'{found['image_id'][4].as_py()}'"):
        Logits.from_table(found.set_column(2, "logit", [numbers]))
    with pytest.raises(InputError, match=r"finite number.*'b'.*'y'"):
        Logits.from_matrix(["a", "b"], ["x", "y"], [[1, 2], [3, np.nan if wrong is None else wrong]])


def test_an_empty_table_and_a_matrix_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="there is no row"):
        Logits.from_table(table().slice(0, 0))
    with pytest.raises(InputError, match=r"must have the shape \(1, 2\), got \(2, 1\)"):
        Logits.from_matrix(["a"], ["x", "y"], [[1.0], [2.0]])
