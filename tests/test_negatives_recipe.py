"""GPT rows: every caption and type ends as rows or as an outcome, and every row says how it came to be."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from negatives.chat.cache import RequestCache
from negatives.chat.messages import Answer
from negatives.gpt.prompts import TYPES
from negatives.gpt.recipe import NEGATIVE_SCHEMA, PARAPHRASE_SCHEMA, PromptRecipe, Rows, requests_for, rows_from
from negatives.gpt.summary import Summary, estimate
from negatives.tables.captions import read_captions, read_negatives, with_paraphrases, write_table
from negatives.tables.files import InputError

RECIPE = PromptRecipe("m", ("replace_obj", "swap_obj", "paraphrase"), temperature=0.7, seed=5, version="v1")
TEXTS = ["A dog chases a cat.", "a red car", "A dog chases a cat.", "Two dogs run after a cat."]


def captions_table(texts: list[str] = TEXTS, images: list[str] | None = None) -> pa.Table:
    images = images or [str(row) for row in range(len(texts))]
    ids = [f"c{row}" for row in range(len(texts))]
    return pa.table({"image_id": images, "image": [f"{i}.jpg" for i in images], "caption_id": ids, "caption": texts})


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[RequestCache]:
    with RequestCache(tmp_path / "cache.sqlite") as opened:
        yield opened


def record(
    cache: RequestCache,
    caption: str,
    answer: object,
    attempt: int = 0,
    outcome: str = "ok",
    recipe: PromptRecipe = RECIPE,
) -> None:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    key = recipe.request(caption).key
    cache.record(Answer(key, attempt, outcome, text, "m-2024-07-18", 100, 20, "json_schema", "stop", f"is {outcome}"))


def answer(replace: str = "", swap: str = "", paraphrase: str = "") -> dict[str, list[str]]:
    texts = {"replace_obj": replace, "swap_obj": swap, "paraphrase": paraphrase}
    return {kind: [text] if text else [] for kind, text in texts.items()}


def tables(
    captions: pa.Table, cache: RequestCache, recipe: PromptRecipe = RECIPE, **kwargs: int
) -> dict[str, pa.Table]:
    batches = list(rows_from(captions, recipe, cache, **kwargs))
    return {name: pa.Table.from_batches([getattr(rows, name) for rows in batches]) for name in Rows._fields[:4]}


def test_one_text_is_one_request_and_serves_all_its_captions(cache: RequestCache) -> None:
    captions = captions_table()
    assert [row for row, _ in requests_for(captions, RECIPE)] == [0, 1, 3]
    record(cache, TEXTS[0], answer("A dog chases a bird.", "A cat chases a dog.", "A cat is chased by a dog."))
    found = tables(captions, cache)
    assert found["negatives"]["negative_id"].to_pylist() == [
        "c0:replace_obj:0",
        "c0:swap_obj:0",
        "c2:replace_obj:0",
        "c2:swap_obj:0",
    ]
    assert found["paraphrases"]["caption_id"].to_pylist() == ["c0:paraphrase:0", "c2:paraphrase:0"]
    assert found["answers"]["prompt_tokens"].to_pylist() == [100], "paid for once, counted once"


def test_every_caption_and_type_ends_as_rows_or_as_one_outcome(cache: RequestCache) -> None:
    texts = ["A dog sits.", "a b", "c d", "e f", "g h", "i j"]
    record(cache, "A dog sits.", answer("A cat sits.", "", "A dog is sitting."))
    for attempt in range(3):
        record(cache, "a b", "I will not", attempt, "refused")
        record(cache, "c d", "{", attempt, "malformed" if attempt else "refused")
        record(cache, "e f", "{", attempt, "truncated")
    record(cache, "g h", "{", 0, "malformed")
    found = tables(captions_table(texts), cache)
    outcomes = {(r["caption_id"], r["negative_type"]): r["outcome"] for r in found["unwritten"].to_pylist()}
    expected = {("c0", "swap_obj"): "nothing_to_write"}
    for name, outcome in (("c1", "refused"), ("c2", "malformed"), ("c3", "truncated"), ("c4", "unanswered")):
        expected |= {(name, kind): outcome for kind in RECIPE.types}
    expected |= {("c5", kind): "unanswered" for kind in RECIPE.types}
    assert outcomes == expected
    details = dict(zip(*(found["unwritten"][name].to_pylist() for name in ("caption_id", "detail")), strict=True))
    assert details["c1"] == "is refused"
    assert details["c4"] == "1 of 3 attempts, the last malformed"
    assert found["negatives"].num_rows == found["paraphrases"].num_rows == 1


def test_a_good_answer_after_bad_ones_counts_and_says_which_attempt(cache: RequestCache) -> None:
    record(cache, TEXTS[1], "{", 0, "malformed")
    record(cache, TEXTS[1], answer("a red bus"), 1)
    (row,) = tables(captions_table(TEXTS[1:2]), cache)["negatives"].to_pylist()
    assert row == {
        "caption_id": "c0",
        "negative_id": "c0:replace_obj:0",
        "caption": "a red bus",
        "negative_type": "replace_obj",
        "generator": "gpt",
        "model": "m-2024-07-18",
        "prompt_version": "v1",
        "request_key": RECIPE.request(TEXTS[1]).key,
        "requested_model": "m",
        "temperature": 0.7,
        "seed": 5,
        "settings": json.dumps({"count": 1, "max_tokens": 512, "types": ["replace_obj", "swap_obj", "paraphrase"]}),
        "attempt": 1,
        "mode": "json_schema",
        "rejected": "",
    }


def test_rejected_rows_stay_with_their_reason(cache: RequestCache) -> None:
    captions = captions_table(images=["x", "y", "z", "x"])
    record(cache, TEXTS[0], answer("a dog chases a CAT", "Two dogs run after a cat", "Two dogs chase a cat."))
    found = tables(captions, cache, attempts=1)
    assert found["negatives"]["rejected"].to_pylist() == [
        "equals_caption",
        "equals_other_caption",  # of image x, two rows further on
        "equals_caption",
        "content_words",  # image z has no other caption
    ]
    assert found["paraphrases"]["rejected"].to_pylist() == ["numbers_or_negations"] * 2


def test_answers_of_rejected_texts_alone_are_attempts_and_the_last_with_a_valid_text_is_used(
    cache: RequestCache,
) -> None:
    bad, good = answer("A dog chases a CAT"), answer("A dog chases a bird.")
    captions = captions_table(TEXTS[:1])
    record(cache, TEXTS[0], bad)
    asked = tables(captions, cache)
    assert (asked["negatives"].num_rows, asked["answers"]["outcome"].to_pylist()) == (0, ["all_rejected"])
    assert set(asked["unwritten"]["detail"].to_pylist()) == {"1 of 3 attempts, the last all_rejected"}
    assert estimate(captions, RECIPE, cache).requests == 1
    assert estimate(captions, RECIPE, cache, attempts=1).requests == 0
    record(cache, TEXTS[0], "{", 1, "malformed")
    assert tables(captions, cache, attempts=2)["negatives"]["rejected"].to_pylist() == ["equals_caption"]
    record(cache, TEXTS[0], good, 2)
    assert estimate(captions, RECIPE, cache).requests == 0
    (row,) = tables(captions, cache)["negatives"].to_pylist()
    assert (row["caption"], row["attempt"], row["rejected"]) == ("A dog chases a bird.", 2, "")
    summary = Summary(RECIPE)
    for rows in rows_from(captions, RECIPE, cache):
        summary.add(rows)
    assert summary.to_dict()["attempts"] == {"all_rejected": 1, "malformed": 1, "ok": 1}
    assert summary.to_dict()["asked_again"] == {"all_rejected": 1, "malformed": 1}


def test_a_text_that_is_not_the_edit_it_names_is_rejected(cache: RequestCache) -> None:
    recipe = PromptRecipe("m", ("replace_obj",))
    items = [{"old": "cat", "new": "bird", "text": "A dog chases a fish."}]
    record(cache, TEXTS[0], {"replace_obj": items}, recipe=recipe)
    (row,) = tables(captions_table(TEXTS[:1]), cache, recipe, attempts=1)["negatives"].to_pylist()
    assert (row["rejected"], row["prompt_version"], row["temperature"], row["seed"]) == ("other_edit", "v2", 0.7, 0)


def test_a_negative_that_says_what_a_valid_paraphrase_says_is_rejected(cache: RequestCache) -> None:
    record(cache, TEXTS[0], answer("A dog chases a kitty.", "", "a dog chases a kitty"))
    found = tables(captions_table(TEXTS[:1]), cache)
    assert found["paraphrases"]["rejected"].to_pylist() == [""]
    assert found["negatives"]["rejected"].to_pylist() == ["equals_other_caption"]


def test_an_answer_that_is_no_longer_read_as_good_is_malformed(cache: RequestCache) -> None:
    record(cache, TEXTS[1], {"replace_obj": []})
    assert set(tables(captions_table(TEXTS[1:2]), cache)["unwritten"]["outcome"].to_pylist()) == {"malformed"}


def test_adding_moving_and_renaming_captions_invalidates_nothing() -> None:
    before = {request.key for _, request in requests_for(captions_table(), RECIPE)}
    more = captions_table(["new", *reversed(TEXTS)], images=["a", "a", "a", "b", "b"])
    after = {request.key for _, request in requests_for(more, RECIPE)}
    assert before < after
    assert len(after) == len(before) + 1
    assert replace(RECIPE, types=tuple(reversed(RECIPE.types))) == RECIPE


def test_batches_are_the_same_rows_whatever_their_size(cache: RequestCache) -> None:
    for text in TEXTS:
        record(cache, text, answer(text.replace("cat", "bird"), "", text.replace("dog", "hound")))
    whole = tables(captions_table(), cache)
    assert whole["answers"].num_rows == 3
    for size in (1, 3):
        assert tables(captions_table(), cache, batch_size=size) == whole
    sliced = captions_table(["pad", *TEXTS]).slice(1)
    assert tables(sliced, cache)["negatives"]["caption"].to_pylist() == whole["negatives"]["caption"].to_pylist()


def test_the_tables_are_read_back_by_the_other_verbs(cache: RequestCache, tmp_path: Path) -> None:
    record(cache, TEXTS[0], answer("A dog chases a bird.", "A cat chases a dog.", "A cat is chased by a dog."))
    captions, found = captions_table(TEXTS[:1]), tables(captions_table(TEXTS[:1]), cache)
    write_table(captions, tmp_path / "captions.parquet")
    write_table(found["negatives"], tmp_path / "negatives.parquet")
    write_table(found["paraphrases"], tmp_path / "paraphrases.parquet")
    read = read_captions(tmp_path / "captions.parquet")
    assert read_negatives(tmp_path / "negatives.parquet", read).schema.names == NEGATIVE_SCHEMA.names
    assert len(with_paraphrases(read, tmp_path / "paraphrases.parquet")) == 2
    assert found["paraphrases"].schema == PARAPHRASE_SCHEMA


def test_the_summary_counts_what_the_tables_hold(cache: RequestCache) -> None:
    record(cache, TEXTS[0], "{", 0, "malformed")
    record(cache, TEXTS[0], answer("A dog chases a bird.", "A cow jumps.", "A cat is chased by a dog."), 1)
    record(cache, TEXTS[1], answer("a red bus"))
    summary = Summary(RECIPE)
    for rows in rows_from(captions_table(), RECIPE, cache, batch_size=1):
        summary.add(rows)
    result = summary.to_dict(prices={"m": {"input": 1000, "output": 10_000}})
    json.dumps(result, allow_nan=False)
    assert result["captions"] == 4
    assert result["types"]["replace_obj"] == {
        "written": 3,
        "valid": 3,
        "rejected": {},
        "unwritten": {"unanswered": 1},
        "valid_rate": 1.0,
        "caption_rate": 0.75,
    }
    assert result["types"]["swap_obj"]["rejected"] == {"content_words": 2}
    assert result["types"]["swap_obj"]["unwritten"] == {"nothing_to_write": 1, "unanswered": 1}
    assert result["attempts"] == {"malformed": 1, "ok": 2}
    assert result["models"] == {"m-2024-07-18": {"answers": 3, "prompt_tokens": 300, "completion_tokens": 60}}
    assert result["cost"] == pytest.approx(300 * 1e-3 + 60 * 1e-2)
    assert result["recipe"]["version"] == "v1"
    assert summary.to_dict()["cost"] is None, "no price, no cost"


def test_the_estimate_asks_for_what_the_cache_has_not_settled(cache: RequestCache) -> None:
    captions = captions_table()
    everything = estimate(captions, RECIPE, cache)
    assert (everything.requests, everything.settled, everything.cost) == (3, 0, None)
    record(cache, TEXTS[0], answer())
    record(cache, TEXTS[1], "{", 0, "malformed")
    rest = estimate(captions, RECIPE, cache, prices={"m": {"input": 1, "output": 2}})
    assert (rest.requests, rest.settled) == (2, 1)
    assert rest.prompt_tokens < everything.prompt_tokens
    assert rest.cost == pytest.approx((rest.prompt_tokens + 2 * rest.completion_tokens) / 1e6)
    assert estimate(captions, RECIPE).requests == 3
    more = estimate(captions, replace(RECIPE, count=3))
    assert more.completion_tokens > 2 * everything.completion_tokens


def test_the_batch_api_is_estimated_at_its_price() -> None:
    full, half = (estimate(captions_table(), PromptRecipe("gpt-4o-mini"), batch=batch).cost for batch in (False, True))
    assert full is not None
    assert half == pytest.approx(full / 2)


@pytest.mark.parametrize("wrong", [{"types": ()}, {"types": ("add_obj",)}, {"count": 0}, {"version": "v9"}])
def test_a_recipe_that_cannot_be_fails_before_any_request(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        PromptRecipe("m", **wrong)  # type: ignore[arg-type]


def test_memory_does_not_grow_with_the_captions(cache: RequestCache) -> None:
    recipe = PromptRecipe("m", TYPES)

    def peak(number: int) -> int:
        captions = captions_table([f"caption number {row}" for row in range(number)])
        tracemalloc.start()
        for rows in rows_from(captions, recipe, cache, batch_size=100):
            assert rows.captions == 100
        sum(1 for _ in requests_for(captions, recipe))
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(100)
    # row numbers are kept, no texts: 100,000 captions take less than 20 MB
    assert peak(2000) - peak(500) < 1500 * 200


def test_the_generator_imports_no_torch_and_no_openai() -> None:
    program = (
        "import sys, negatives.gpt.summary, negatives.chat.batch.jobs; print({'torch', 'openai'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr
