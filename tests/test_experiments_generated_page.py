"""The page of `itm generate`: its counts, the rows that it shows, the text-only AUC, and when it is written."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from experiments.__main__ import main
from experiments.bench.chat_server import Reply, completion
from experiments.generating import tables
from experiments.report.generated import draw as draw_module
from experiments.report.generated.draw import NEGATIVES, UNWRITTEN, Draw, valid_negatives
from experiments.report.generated.marks import marked
from experiments.report.generated.page import GeneratedPage, render_generated_page
from experiments.report.generated.text_bias import measure
from negatives import MEANINGS
from negatives.filtering import AuditPlan, audit_texts
from negatives.judging import JudgeSettings, build_judges, build_text_pairs, seat
from negatives.tables import pair_table, text_table, write_table
from tests.chat_server import Recorder, serving
from tests.test_experiments_audit import HOSTILE
from tests.test_experiments_generate import caption_of
from tests.test_negatives_audit import planted

NAMES = ("caption_id", "negative_id", "caption", "negative_type", "rejected")


def captions_of(rows: list[tuple[str, str, str]]) -> pa.Table:
    """A captions table of (image_id, caption_id, caption)."""
    return pa.Table.from_pylist(
        [{"image_id": image, "image": f"{image}.jpg", "caption_id": own, "caption": text} for image, own, text in rows]
    )


def write_rows(path: Path, rows: list[tuple[str, ...]], names: tuple[str, ...] = NAMES) -> Path:
    schema = pa.schema([(name, pa.string()) for name in names])
    write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema), path)
    return path


def page_of(folder: Path, captions: pa.Table, **changes: Any) -> str:
    paths = {name: folder / f"{name}.parquet" for name in ("negatives", "paraphrases", "unwritten")}
    return render_generated_page(GeneratedPage({"Generator": "hand"}, captions, **paths, **changes))


def row_of(page: str, heading: str) -> list[str]:
    """The plain texts of the first table row whose first cell is the heading."""
    found = re.search(rf"<tr><th>{re.escape(heading)}</th>(.*?)</tr>", page)
    assert found is not None
    return [html.unescape(re.sub(r"<[^>]*>", " ", cell)).strip() for cell in re.findall(r"<td.*?</td>", found[1])]


def many(number: int) -> list[tuple[str, ...]]:
    """Rows of 7 captions a type, every third rejected."""
    return [
        (f"c{n // 7}", f"n{n}", f"text {n}", ("swap_obj", "replace_obj")[n % 2], ("", "", "length")[n % 3])
        for n in range(number)
    ]


def drawn(path: Path, most: int = 4, seed: int = 0) -> dict[str, list[str]]:
    draw = Draw(seed, most)
    draw.add(path, NEGATIVES)
    found = {name: draw.rows_of(negative_type=name) for name in ("swap_obj", "replace_obj")}
    found["length"] = draw.rows_of(reason="length")
    return {name: [row.text for row in rows] for name, rows in found.items()}


def test_rows_are_drawn_by_their_ids_whatever_their_order_and_their_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = many(200)
    expected = drawn(write_rows(tmp_path / "a.parquet", rows))
    assert [len(texts) for texts in expected.values()] == [4, 4, 4]
    for name, texts in expected.items():
        kinds = {(kind, reason) for _, _, text, kind, reason in rows if text in texts}
        assert all(name == (reason or kind) for kind, reason in kinds)
    assert drawn(tmp_path / "a.parquet", seed=1) != expected
    monkeypatch.setattr(draw_module, "BATCH", 7)
    shuffled = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]
    assert drawn(write_rows(tmp_path / "b.parquet", shuffled)) == expected
    # what is added changes no draw but by being drawn itself
    more = drawn(write_rows(tmp_path / "c.parquet", [*rows, *many(400)[200:]]))
    for name, texts in more.items():
        old = [text for text in texts if int(text.split()[1]) < 200]
        assert old == expected[name][: len(old)]


def test_several_attempts_at_one_type_are_rows_of_their_own(tmp_path: Path) -> None:
    rows = [(f"c{n // 3}", "swap_obj", "nothing_to_write", f"field {n % 3}") for n in range(300)]
    write_rows(tmp_path / "u.parquet", rows, ("caption_id", "negative_type", "outcome", "detail"))
    draw = Draw(0, 6)
    draw.add(tmp_path / "u.parquet", UNWRITTEN)
    found = draw.rows_of(reason="nothing_to_write")
    assert len({row.caption_id for row in found}) > 2, "those of one caption are not drawn together"
    assert draw.counts == {("swap_obj", "nothing_to_write"): 300}


def test_of_a_large_table_some_captions_are_judged_with_all_their_negatives(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", many(2100))
    assert len(valid_negatives(path, valid=1400, most=1400, seed=0)) == 1400
    some = valid_negatives(path, valid=1400, most=350, seed=0)
    assert 200 < len(some) < 500
    wanted = set(some["caption_id"].to_pylist())
    assert some["negative_id"].to_pylist() == [row[1] for row in many(2100) if row[0] in wanted and not row[4]]


def test_counts_are_those_of_the_tables(tmp_path: Path) -> None:
    captions = captions_of([("1", f"c{n}", f"caption {n}") for n in range(40)])
    write_rows(tmp_path / "negatives.parquet", many(240))
    unwritten = [
        ("c1", "swap_att", "nothing_to_write", "no <b>attribute</b>"),
        *[(f"c{n}", "swap_att", "refused", "") for n in (2, 3)],
    ]
    write_rows(tmp_path / "unwritten.parquet", unwritten, ("caption_id", "negative_type", "outcome", "detail"))
    page = page_of(tmp_path, captions)
    assert row_of(page, "swap_obj")[:4] == ["120", "80 66.7 %", "40 33.3 %", "0"]
    assert row_of(page, "swap_att")[:4] == ["0", "0 –", "0 –", "3"]
    assert row_of(page, "length") == ["40 33.3 %", "40 33.3 %", "80 33.3 %", MEANINGS["length"]]
    assert row_of(page, "refused") == ["2 66.7 %", "2 66.7 %"]
    assert page.index("<th>refused</th>") < page.index("<th>nothing_to_write</th>"), "the most frequent first"
    assert "swap_obj <small>8 of 80</small>" in page
    assert "length <small>5 of 80</small>" in page
    assert "refused <small>all 2</small>" in page
    assert "no &lt;b&gt;attribute&lt;/b&gt;" in page
    assert "No text-only AUC: it takes 20 valid negatives and 20 images, and there are 160 of 1." in page


def test_a_reason_without_a_sentence_is_shown_and_what_was_asked_again_is_counted(tmp_path: Path) -> None:
    write_rows(tmp_path / "negatives.parquet", [("c1", "n1", "a cat", "swap_obj", "own_check")])
    spent = {"models": {}, "attempts": {"ok": 3, "truncated": 2000}, "cost": None, "prices_as_of": "2026"}
    captions = captions_of([("1", "c1", "a dog")])
    page = page_of(tmp_path, captions, spent={**spent, "asked_again": {"truncated": 1500, "all_rejected": 1}})
    assert row_of(page, "own_check") == ["1 100.0 %", "1 100.0 %", ""]
    assert "truncated 2,000.\nAnother attempt followed on truncated 1,500, all_rejected 1.\n" in page
    assert "Cost: unknown, because the list of prices lacks a model (<code>gpt.prices</code>).</p>" in page
    assert "Another attempt" not in page_of(tmp_path, captions, spent={**spent, "asked_again": {}})


def test_a_captions_marks_of_direction_end_with_it_and_a_row_of_any_type_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "negatives.parquet", [("c1", "n1", "a \u202ecat", "swap_obj", "")])
    names = ("caption_id", "negative_type", "outcome", "detail")
    write_rows(tmp_path / "unwritten.parquet", [("c2", "", "too_long", "more than 100 words")], names)
    page = page_of(tmp_path, captions_of([("1", "c1", "a dog"), ("1", "c2", "a dog")]))
    assert re.search(r"\nq \{[^}]*unicode-bidi: isolate", page)
    assert "<q>a <mark>\u202ecat</mark></q>" in page
    assert row_of(page, "any type")[3] == "1"


def test_the_words_in_which_a_text_and_its_caption_differ_are_marked() -> None:
    def shown(caption: str, text: str) -> list[str]:
        return [
            "".join(f"[{piece.text}]" if piece.changed else piece.text for piece in pieces)
            for pieces in marked(caption, text)
        ]

    assert shown("A dog on a bench .", "a CAT on a bench.") == ["A [dog] on a bench .", "a [CAT] on a bench."]
    assert shown("A man in a red hat", "A man") == ["A man [in a red hat]", "A man"]
    assert shown("two old dogs, one cat", "one young pup, one cat") == [
        "[two old dogs,] one cat",
        "[one young pup,] one cat",
    ]
    # an exchange: what stands between the two stays, and an article follows its phrase
    assert shown("A black dog chasing an elephant.", "An elephant chasing a black dog.") == [
        "A [black dog] chasing an [elephant.]",
        "An [elephant] chasing a [black dog.]",
    ]
    assert shown("a red ball on the big blue mat", "a big blue ball on the red mat") == [
        "a [red] ball on the [big blue] mat",
        "a [big blue] ball on the [red] mat",
    ]
    # one phrase that moved is no exchange
    assert shown("a dog sits in the park", "in the park a dog sits") == [
        "a dog sits [in the park]",
        "[in the park] a dog sits",
    ]
    assert shown("一只狗", "一只猫") == ["一只[狗]", "一只[猫]"]
    assert shown("", "a") == ["", "[a]"]


def test_auc_is_that_of_the_audit_with_the_judge_of_words(tmp_path: Path) -> None:
    rows = planted(images=60)
    captions = captions_of([(image, f"c{n}", text) for n, (image, text, _, _) in enumerate(rows)])
    write_rows(
        tmp_path / "negatives.parquet",
        [(f"c{n}", f"n{n}", text, kind, "") for n, (_, _, text, kind) in enumerate(rows)],
    )
    negatives = valid_negatives(tmp_path / "negatives.parquet", valid=len(rows), most=len(rows), seed=0)
    text_pairs = build_text_pairs(text_table(captions, negatives), pair_table(captions, negatives))
    audit = audit_texts(seat(build_judges(["word"], JudgeSettings()), text_pairs), AuditPlan(bootstrap=20))
    audited = {one.negative_type: one.value for one in audit.estimates if one.metric == "auc"}
    found = measure(captions, negatives)
    assert {name: one.value for name, one in found.estimates.items()} == audited
    assert max(audited.values()) > 0.9, "a word gives the label away"
    page = page_of(tmp_path, captions)
    assert row_of(page, "swap_obj")[4].startswith(f"{audited['swap_obj']:.3f} ")


def test_markup_in_texts_types_and_names_is_shown_not_run(tmp_path: Path) -> None:
    captions = captions_of([("1", "c1", f"{HOSTILE} in a caption")])
    negatives = [("c1", "n1", f"{HOSTILE} in a text", HOSTILE, ""), ("c1", "n2", "x", "swap_obj", HOSTILE)]
    write_rows(tmp_path / "negatives.parquet", negatives)
    unwritten = [("c1", HOSTILE, HOSTILE, f"{HOSTILE} in a detail")]
    write_rows(tmp_path / "unwritten.parquet", unwritten, ("caption_id", "negative_type", "outcome", "detail"))
    model = {"answers": 1, "prompt_tokens": 1, "completion_tokens": 1}
    spent = {"models": {HOSTILE: model}, "attempts": {HOSTILE: 1}, "cost": None, "prices_as_of": HOSTILE}
    page = page_of(tmp_path, captions, spent={**spent, "asked_again": {HOSTILE: 1}})
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#39;$x$&#39;)&lt;/script&gt;") > 8
    assert "default-src 'none'" in page
    assert not re.findall(r"@import|<link|<iframe|<object|<img", page)
    assert "http" not in page.replace("http-equiv", "")


def write_captions(folder: Path) -> str:
    animals = ("dog", "cat", "horse", "cow", "bird", "sheep")
    texts = [f"A {color} {animal} next to a bench." for color in ("red", "small") for animal in animals]
    write_table(captions_of([(str(n), f"{n}_0", text) for n, text in enumerate(texts)]), folder / "captions.parquet")
    return f"captions={folder}/captions.parquet"


def answer(index: int, body: dict[str, Any]) -> Reply:
    caption = caption_of(body)
    texts = {"replace_obj": [caption.replace("bench", "lamp")], "paraphrase": [caption.upper()], "swap_obj": []}
    return Reply(completion(json.dumps(texts)))


# `answer` has the form that the first version of the prompts asks for
ASKED = ("gpt.types=[replace_obj,swap_obj,paraphrase]", "gpt.prompt_version=v1")


def ask(folder: Path, url: str, out: str, *words: str) -> int:
    given = [f"captions={folder}/captions.parquet", *ASKED, f"gpt.base_url={url}", "gpt.concurrency=1"]
    return main(["generate", "generator=gpt", *given, f"output_dir={folder / out}", *words])


def test_the_page_of_a_resumed_run_is_that_of_a_straight_one_and_says_what_it_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_captions(tmp_path)
    with serving(Recorder(answer)) as url:
        assert ask(tmp_path, url, "straight") == 0
        assert f"Page: {tmp_path}/straight/index.html" in capsys.readouterr().out
        assert ask(tmp_path, url, "stopped", "gpt.max_requests=4") == 1
        stopped = (tmp_path / "stopped/index.html").read_text()
        assert ask(tmp_path, url, "stopped", "--resume") == 0
    assert "Not finished" in stopped
    assert row_of(stopped, "unanswered")[0] == "8 100.0 %"
    page = (tmp_path / "stopped/index.html").read_text()
    assert page == (tmp_path / "straight/index.html").read_text()
    assert "Not finished" not in page
    summary = json.loads((tmp_path / "stopped/summary.json").read_text())
    assert row_of(page, "loopback-1") == ["12", "1,200", f"{summary['completion_tokens']:,}"]
    assert "12 requests" in page
    assert re.search(r"Attempts at them:\s+ok 12\.", page)
    assert f"Cost: {summary['cost']:.4f} dollars" in page
    found = row_of(page, "equals_caption")
    assert found == ["–", "12 100.0 %", "12 50.0 %", MEANINGS["equals_caption"]], "a paraphrase in capitals is none"
    for name, counts in summary["types"].items():
        written, valid, _, lacking = (int(cell.split()[0]) for cell in row_of(page, name)[:4])
        assert (written, valid) == (counts["written"], counts["valid"])
        assert lacking == sum(counts["unwritten"].values())


@pytest.mark.parametrize("generator", ["rules", "pairs", "gpt"])
def test_the_page_is_whole_before_the_folder_counts_as_finished(
    generator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["generate", f"generator={generator}", write_captions(tmp_path), f"output_dir={tmp_path}/out", *ASKED]
    pair = {"type": "replace_obj", "image_id": "0", "caption": "A red dog next to a bench."}
    (tmp_path / "pairs.jsonl").write_text(json.dumps({**pair, "negative_caption": "A red cat next to a bench."}))
    words += [f"pairs={tmp_path}/pairs.jsonl"]
    page, summary = tmp_path / "out/index.html", tmp_path / "out/summary.json"

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with serving(Recorder(answer)) as url:
        words += [f"gpt.base_url={url}"]
        with monkeypatch.context() as patch:
            patch.setattr(tables, "write_json", killed)
            assert main(words) != 0
        assert page.read_text().endswith("</html>")
        assert not summary.exists()
        # as of a version that wrote no page
        page.unlink()
        assert main([*words, "--resume"]) == 0
        assert page.is_file()
        assert summary.is_file()
        page.unlink()
        assert main([*words, "--resume"]) == 0
    assert not page.exists(), "a finished folder is left alone"
