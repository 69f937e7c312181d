"""The prompts before a real language model, on llama.cpp's own server: forms, bounds and seeds as a server takes them.

It needs the two packages of `tests.small_model`. So small a model follows the form, and writes few real negatives.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from experiments.__main__ import main
from negatives.gpt.prompts.answers import Item
from tests.readings import FOLDER
from tests.small_model import MAX_TOKENS, TYPES, VERSIONS, accepted, ask, made, missing, served, write_captions


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if packages := missing():
        pytest.skip(f"{packages}: not installed")
    with served() as address:
        yield address


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_real_model_is_held_to_the_form(version: str, url: str, tmp_path: Path) -> None:
    caption = "A small dog sleeps on a red sofa."
    row = {"image_id": "1", "image": "1.jpg", "captions": [caption]}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row) + "\n")
    words = ["generate", "generator=gpt", f"captions={tmp_path}/captions.jsonl", f"output_dir={tmp_path}/out"]
    words += [f"gpt.base_url={url}", "gpt.model=smollm2", f"gpt.prompt_version={version}", "gpt.timeout=300"]
    main([*words, "gpt.attempts=2", "gpt.max_tokens=300", "gpt.types=[replace_obj,swap_obj]"])
    answers = sqlite3.connect(tmp_path / "out/requests.sqlite").execute(
        "SELECT attempt, outcome, mode, text, prompt_tokens FROM answers ORDER BY attempt"
    )
    found = answers.fetchall()
    assert [attempt for attempt, *_ in found] == list(range(len(found)))
    assert {mode for _, _, mode, _, _ in found} == {"json_schema"}, "the server takes the schema as it is"
    assert all(tokens > 300 for *_, tokens in found), "system message and examples arrive"
    if version == "v2":
        assert {outcome for _, outcome, *_ in found} == {"ok"}, "bounded lists end"
        assert all(len(items) <= 1 for *_, text, _ in found for items in json.loads(text).values())
        if len(found) == 2:
            assert found[0][3] != found[1][3], "another seed, another answer"
    rows = pq.read_table(tmp_path / "out/negatives.parquet").to_pylist()
    assert {row["prompt_version"] for row in rows} <= {version}


@pytest.mark.slow
def test_bounded_lists_keep_the_second_version_from_being_cut_off(url: str, tmp_path: Path) -> None:
    texts = [("1", "A black cat lies on a wooden bench."), ("2", "A man in a red hat rides a horse along the beach.")]
    captions = write_captions(tmp_path / "captions.jsonl", texts)
    truncated, written, valid = {}, {}, {}
    for version in VERSIONS:
        folder = tmp_path / version
        # the likeliest token each time, so that the same model writes the same
        ask(url, captions, folder, version, "gpt.attempts=1", "gpt.temperature=0", "gpt.seed=0")
        answers = sqlite3.connect(folder / "requests.sqlite").execute("SELECT outcome, completion_tokens FROM answers")
        found = answers.fetchall()
        assert len(found) == len(texts)
        assert all((outcome == "truncated") == (tokens == MAX_TOKENS) for outcome, tokens in found)
        truncated[version] = sum(outcome == "truncated" for outcome, _ in found)
        written[version] = pq.read_table(folder / "negatives.parquet").num_rows
        valid[version] = sum(1 for _ in accepted(captions, folder, version))
    assert truncated == {"v1": 2, "v2": 0}
    assert written["v1"] == valid["v1"] == 0
    assert valid["v2"] <= written["v2"]
    assert 0 < written["v2"] <= len(texts) * len(TYPES)


def test_the_readings_come_to_what_their_page_says() -> None:
    rows = [json.loads(line) for line in (FOLDER / "smollm2.jsonl").read_text("utf-8").splitlines()]
    table = (FOLDER / "README.md").read_text("utf-8").partition("## A small chat model")[2]
    counts = re.findall(r"^\| (v\d[\w ]*) \| \d+ \| \d+ \| ([\d |]+) \|$", table, re.MULTILINE)
    assert [version for version, _ in counts] == [*VERSIONS, "v2 with edits"]
    for version, numbers in counts:
        own = [row for row in rows if row["version"] == version]
        kinds = [sum(row["type"] == kind for row in own) for kind in TYPES]
        false, fluent = ({row["id"] for row in own if row[name] == "yes"} for name in ("false", "fluent"))
        found = [len(own), *kinds, len(false), len(fluent), len(false & fluent)]
        assert [int(number) for number in numbers.split("|")] == found


@pytest.mark.parametrize(
    ("kind", "edit", "text", "expected"),
    [
        ("replace_obj", ("dog", "ape"), "A dog chases a cat on a mat", "An ape chases a cat on a mat"),
        # as the model wrote it, and another edit than the one it named
        ("replace_obj", ("dog", "ape"), "An ape chases a cat on a mat", "An ape chases a cat on a mat"),
        ("replace_obj", ("mat", "sofa"), "A dog chases a bird on a mat", "A dog chases a cat on a sofa"),
        ("swap_obj", ("dog", "cat"), "A dog chases a cat on a mat", "A cat chases a dog on a mat"),
        # in two places, in none, one in the other, part of a word, followed from by the caption
        ("replace_obj", ("a", "two"), "A dog chases a cat on a mat", ""),
        ("replace_obj", ("bird", "cow"), "A dog chases a cat on a mat", ""),
        ("swap_obj", ("dog", "bird"), "A dog chases a cat on a mat", ""),
        ("swap_obj", ("a cat", "cat"), "A dog chases a cat on a mat", ""),
        ("replace_obj", ("do", "fo"), "A dog chases a cat on a mat", ""),
        ("replace_obj", ("dog", "animal"), "A dog chases a cat on a mat", ""),
    ],
)
def test_a_copied_caption_gets_the_edit_that_the_model_named(
    kind: str, edit: tuple[str, str], text: str, expected: str
) -> None:
    assert made(Item(text, edit), "A dog chases a cat on a mat", kind) == expected
