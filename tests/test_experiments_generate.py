"""The verb `generate`: what its tables hold, how it goes on, and the whole road behind it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.scenes.writer import SceneWriter
from experiments.__main__ import main
from experiments.bench.chat_server import Reply, completion
from experiments.generating.asking import reporter
from negatives.chat import Event, Tally
from negatives.gpt.recipe import PromptRecipe
from negatives.tables.captions import read_captions, read_negatives, with_paraphrases, write_table
from negatives.truth_judges import NliJudge
from negatives.writers.english.rules import RuleWriter
from negatives.writers.table import WRITERS, build_writer
from negatives.writers.write import Writer, write_negatives
from tests import tiny_spacy
from tests.chat_server import Recorder, as_asked, serving
from tests.test_negatives_ce_clip import save_masked_lm
from tests.test_negatives_truth_judges import save_nli
from tests.tiny import TINY_OVERRIDES, tiny_tables

KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    captions = [
        ("1", "a.jpg", "11", "A red dog on a bench next to a blue car."),
        ("1", "a.jpg", "12", "A dog sits on a wooden bench."),
        ("2", "b.jpg", "21", "Two cats chase a small bird."),
        ("3", "c.jpg", "31", "A red dog on a bench next to a blue car."),
    ]
    columns = dict(zip(("image_id", "image", "caption_id", "caption"), zip(*captions, strict=True), strict=True))
    write_table(pa.table({name: list(column) for name, column in columns.items()}), tmp_path / "captions.parquet")
    return tmp_path


def caption_of(body: dict[str, Any]) -> str:
    return str(json.loads(body["messages"][-1]["content"])["caption"])


def written_by(writer: Writer) -> Callable[[int, dict[str, Any]], Reply]:
    """Negatives by an offline writer, as far as it has some, and a paraphrase."""

    def written(index: int, body: dict[str, Any]) -> Reply:
        caption = caption_of(body)
        texts: dict[str, list[str]] = {
            kind: [] for kind in body["response_format"]["json_schema"]["schema"]["required"]
        }
        for kind, text in writer.write(caption, np.random.default_rng(0)):
            if kind in texts:
                texts[kind].append(text)
        texts["paraphrase"] = [f"In the picture: {caption}"]
        return Reply(completion(as_asked(body, texts)))

    return written


written = written_by(RuleWriter())


def ask(folder: Path, url: str, *words: str, out: str = "out") -> int:
    asked = ["generate", "generator=gpt", f"captions={folder}/captions.parquet", f"gpt.base_url={url}"]
    return main([*asked, f"output_dir={folder / out}", *words])


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "out" / f"{name}.parquet").to_pylist()
    return rows


def test_every_answer_becomes_rows_or_a_reason_and_equal_texts_are_asked_once(folder: Path) -> None:
    recorder = Recorder(written)
    with serving(recorder) as url:
        assert ask(folder, url) == 0
    texts = [
        "A dog sits on a wooden bench.",
        "A red dog on a bench next to a blue car.",
        "Two cats chase a small bird.",
    ]
    assert sorted(map(caption_of, recorder.bodies)) == texts
    negatives, unwritten = table(folder, "negatives"), table(folder, "unwritten")
    assert {(row["caption_id"], row["negative_type"]) for row in [*negatives, *unwritten]} == {
        (caption, kind)
        for caption in ("11", "12", "21", "31")
        for kind in ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")
    }
    assert {row["outcome"] for row in unwritten} == {"nothing_to_write"}
    assert {row["generator"] for row in negatives} == {"gpt"}
    assert {row["model"] for row in negatives} == {"loopback-1"}
    paraphrases = table(folder, "paraphrases")
    assert [row["source_caption_id"] for row in paraphrases] == ["11", "12", "21", "31"]
    summary = json.loads((folder / "out/summary.json").read_text())
    assert summary["prompt_tokens"] == 300
    assert summary["recipe"]["version"] == "v2"
    assert {row["temperature"] for row in negatives} == {0.7}
    for path in folder.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


WRITER_WORDS = {
    "rules": ["per_type=3"],
    "ce_clip": ["ce_clip.mode=reference", "ce_clip.masked_lm={masked_lm}", "spacy.pipeline={tagging}"],
    "negclip": ["negclip.mode=reference", "spacy.pipeline={parsing}"],
}
"""Settings of each writer that are not its defaults, where it has such that decide what it writes."""


@pytest.mark.parametrize("name", WRITERS)
def test_a_row_of_a_writer_is_made_again_from_its_record_alone(name: str, folder: Path) -> None:
    captions = ["The old man rides a brown horse.", "A small dog chases a red ball.", "A cat on a big tree"]
    ids = [str(number) for number in range(3)]
    columns = {"image_id": ids, "image": ids, "caption_id": [f"{i}_0" for i in ids], "caption": captions}
    write_table(pa.table(columns), folder / "captions.parquet")
    places = {"tagging": tiny_spacy.pipeline(), "parsing": tiny_spacy.pipeline(parser=True)}
    if name == "ce_clip":
        places["masked_lm"] = save_masked_lm(folder / "lm")
    words = [word.format(**places) for word in WRITER_WORDS[name]]
    given = [f"captions={folder / 'captions.parquet'}", f"output_dir={folder / 'out'}", "seed=7"]
    assert main(["generate", f"generator={name}", *given, *words]) == 0
    rows = table(folder, "negatives")
    assert len({row["caption_id"] for row in rows}) > 1
    (settings,) = {row["settings"] for row in rows}
    # nothing but the rows, and the captions that they name
    writer = build_writer(rows[0]["generator"], json.loads(settings))
    for row in rows:
        assert (writer.version, getattr(writer, "model", "")) == (row["prompt_version"], row["model"])
        own = read_captions(folder / "captions.parquet").slice(ids.index(row["caption_id"][0]), 1)
        again = write_negatives(own, writer, row["seed"], settings=json.loads(row["settings"])).negatives.to_pylist()
        assert row in again


def animal_of(body: dict[str, Any]) -> str:
    """One of many words, by all that the server was sent."""
    return f"animal{int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(), 16) % 10**9}"


def test_a_row_of_a_chat_model_is_made_again_from_its_record_alone(folder: Path) -> None:
    def answer(index: int, body: dict[str, Any]) -> Reply:
        texts = {"replace_obj": [caption_of(body).replace("dog", animal_of(body))], "paraphrase": ["a dog, it seems"]}
        return Reply(completion(as_asked(body, texts) if index else "a malformed answer, for a second attempt"))

    server = Recorder(answer)
    chosen = ["gpt.types=[replace_obj,paraphrase]", "gpt.texts=3", "gpt.max_tokens=99", "gpt.seed=5"]
    chosen += ["gpt.temperature=0.3", "gpt.concurrency=1"]
    with serving(server) as url:
        assert ask(folder, url, *chosen) == 0
        rows = {"negatives": table(folder, "negatives")[0], "paraphrases": table(folder, "paraphrases")[0]}
        for name, row in rows.items():
            asked = {"temperature": row["temperature"], "seed": row["seed"], "version": row["prompt_version"]}
            recipe = PromptRecipe(row["requested_model"], **asked, **json.loads(row["settings"]))
            source = row["source_caption_id"] if name == "paraphrases" else row["caption_id"]
            (caption,) = [
                c for c in read_captions(folder / "captions.parquet").to_pylist() if c["caption_id"] == source
            ]
            request = recipe.request(caption["caption"])
            assert request.key == row["request_key"]
            assert row["attempt"] == 1
            sent = request.body(row["mode"], row["attempt"])
            assert sent in server.bodies, "the very request, its form and its seed"
            if name == "negatives":
                texts = json.loads(json.loads(answer(1, sent).body)["choices"][0]["message"]["content"])
                assert row["caption"] in [item["text"] for item in texts["replace_obj"]]


def test_tables_and_folders_of_before_the_settings_were_recorded_are_read_and_go_on(folder: Path) -> None:
    with serving(Recorder(written)) as url:
        assert ask(folder, url, "gpt.max_requests=2") == 1
        for name in ("negatives", "paraphrases"):
            path = folder / "out" / f"{name}.parquet"
            older = pq.read_table(path).drop_columns(["settings", "mode"])
            write_table(older, path)
        captions = read_captions(folder / "captions.parquet")
        assert "settings" not in read_negatives(folder / "out/negatives.parquet", captions).column_names
        with_paraphrases(captions, folder / "out/paraphrases.parquet")
        assert ask(folder, url, "--resume") == 0
    assert {row["mode"] for row in table(folder, "negatives")} == {"json_schema"}
    assert len({row["caption_id"] for row in table(folder, "negatives")}) > 2


def test_added_captions_cost_their_own_requests_only(folder: Path) -> None:
    recorder = Recorder(written)
    with serving(recorder) as url:
        assert ask(folder, url, f"gpt.cache={folder}/cache.sqlite") == 0
        captions = read_captions(folder / "captions.parquet")
        more = pa.table({"image_id": ["9"], "image": ["d.jpg"], "caption_id": ["91"], "caption": ["A man on a horse."]})
        write_table(pa.concat_tables([captions, more]), folder / "captions.parquet")
        assert ask(folder, url, f"gpt.cache={folder}/cache.sqlite", out="more") == 0
    assert len(recorder.bodies) == 4
    assert caption_of(recorder.bodies[-1]) == "A man on a horse."


def test_a_run_stopped_by_a_limit_goes_on_with_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(written)
    with serving(recorder) as url:
        assert ask(folder, url, "gpt.max_requests=1") == 1
        assert "max_requests" in capsys.readouterr().out
        assert not (folder / "out/summary.json").exists()
        assert "unanswered" in {row["outcome"] for row in table(folder, "unwritten")}
        assert ask(folder, url, "--resume", "gpt.concurrency=2") == 0
        assert ask(folder, url, "--resume", "gpt.concurrency=2") == 0
    assert len(recorder.bodies) == 3
    assert (folder / "out/summary.json").exists()


def test_a_writer_that_was_added_since_keeps_no_run_from_going_on(folder: Path) -> None:
    recorder = Recorder(written)
    with serving(recorder) as url:
        assert ask(folder, url, "gpt.max_requests=1") == 1
        before = (folder / "out/config.yaml").read_text()
        lines = before.splitlines()
        start = lines.index("ce_clip:")
        stop = next(n for n in range(start + 1, len(lines) + 1) if n == len(lines) or not lines[n].startswith(" "))
        (folder / "out/config.yaml").write_text("\n".join([*lines[:start], *lines[stop:], ""]))
        assert ask(folder, url, "--resume") == 0
    assert len(recorder.bodies) == 3


def test_another_recipe_needs_another_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Recorder(written)) as url:
        assert ask(folder, url, "gpt.max_requests=1") == 1
        assert ask(folder, url, "--resume", "gpt.temperature=0.5") == 2
    assert "gpt.temperature" in capsys.readouterr().err


def test_a_dry_run_tells_what_it_would_take_and_asks_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(written)
    with serving(recorder) as url:
        assert ask(folder, url, "--dry-run") == 0
        assert "3 requests to send" in capsys.readouterr().out
        assert ask(folder, url, "--dry-run", "gpt.model=mine") == 0
        assert "price of mine unknown" in capsys.readouterr().out
    assert recorder.bodies == []
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gpt.model=mine", "gpt.max_cost=1"], "needs the price of mine"),
        (["gpt.types=[swap_obj,swap_at]"], "`gpt.types` must list some of"),
        (["gpt.types=[swap_obj,swap_at]"], "Did you mean swap_att?"),
        (["gpt.types=[swap_obj,swap_obj]"], "each once"),
        (["gpt.base_url=nowhere"], "must be a URL"),
        (["gpt.base_url=http://127.0.0.1:9/v1", "gpt.retries=0"], "http://127.0.0.1:9/v1"),
        (["gpt.cache=CAPTIONS"], "captions.parquet"),
        (["gpt.seed=99999999999"], "`gpt.seed`"),
        (["gpt.results=[x.jsonl]"], "`gpt.batch` to be collect"),
        (["image_root=/usr"], "must hold the folder of the captions table"),
    ],
)
def test_bad_input_is_one_line_and_writes_no_table(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    with serving(Recorder(written)) as url:
        words = [word.replace("CAPTIONS", f"{folder}/captions.parquet") for word in words]
        assert ask(folder, url, *words) == 2
    line = capsys.readouterr().err.strip()
    assert expected in line
    assert KEY not in line
    assert not (folder / "out/negatives.parquet").exists()


def test_no_other_server_gets_the_key_unless_it_is_named(folder: Path) -> None:
    recorder = Recorder(written)
    with serving(recorder) as url:
        assert ask(folder, url) == 0
        assert ask(folder, url, "gpt.api_key_env=OPENAI_API_KEY", out="named") == 0
    sent = [headers["authorization"] for headers in recorder.headers]
    assert sent == ["Bearer none"] * 3 + [f"Bearer {KEY}"] * 3


def test_overwriting_keeps_what_was_paid_for(folder: Path) -> None:
    recorder = Recorder(written)
    with serving(recorder) as url:
        assert ask(folder, url) == 0
        assert ask(folder, url, "--overwrite") == 0
    assert len(recorder.bodies) == 3
    assert (folder / "out/summary.json").exists()


def test_tables_with_an_image_root_belong_together(folder: Path) -> None:
    root = folder.parent
    with serving(Recorder(written)) as url:
        assert ask(folder, url, f"image_root={root}") == 0
    captions = read_captions(folder / "out/captions.parquet")
    assert captions["image"][0].as_py() == f"{folder.name}/a.jpg"
    assert len(with_paraphrases(captions, folder / "out/paraphrases.parquet")) == 8


def test_what_is_unknown_of_the_cost_is_not_shown_as_nothing(folder: Path) -> None:
    seen: list[str] = []
    for priced in (True, False):
        report = reporter(Counter(), lambda done, remark: seen.append(remark), 2, priced=priced)
        report(Event("answered", "", Tally(answered=1)))
    assert "0.00 dollars" in seen[0]
    assert "cost unknown" in seen[1]
    assert "dollars" not in seen[1]


@pytest.mark.parametrize("key", ["gpt.api_key_env", "truth.chat.api_key_env"])
def test_a_key_in_place_of_its_variables_name_is_refused_and_not_shown(
    key: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{key}=sk-verysecret", "truth.chat.ask=true"]
    assert ask(folder, "http://localhost:9/v1", *words) == 2
    line = capsys.readouterr().err.strip()
    assert f"`{key}` must be the name of an environment variable" in line
    assert "verysecret" not in line
    assert "\n" not in line
    assert not (folder / "out").exists()


def test_one_caption_is_counted_as_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = read_captions(folder / "captions.parquet").slice(0, 1)
    write_table(captions, folder / "one.parquet")
    assert main(["generate", f"captions={folder}/one.parquet", f"output_dir={folder}/out"]) == 0
    assert "negatives for 1 caption:" in capsys.readouterr().out


def test_why_requests_fail_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(index: int, body: dict[str, Any]) -> Reply:
        return written(index, body) if index < 2 else Reply(b'{"error": {"message": "too long"}}', status=400)

    with serving(Recorder(fails)) as url:
        ask(folder, url, "gpt.retries=0")
    assert "1 times: " in (out := capsys.readouterr().out)
    assert "too long" in out


def test_a_run_without_one_valid_text_is_not_finished(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Recorder(lambda index, body: Reply(completion("")))) as url:
        assert ask(folder, url, "gpt.attempts=1") == 1
        said = capsys.readouterr().out
        assert "--resume and a larger gpt.attempts" in said
        assert "--overwrite and another gpt.model" in said
        # and not by --resume, for its answers would be mixed with those of the first
        assert ask(folder, url, "gpt.attempts=1", "gpt.model=other", "--resume") == 2
        assert {row["outcome"] for row in table(folder, "unwritten")} == {"malformed"}
        assert not (folder / "out/summary.json").exists()
    with serving(Recorder(written)) as url:
        assert ask(folder, url, "--resume", "gpt.attempts=2") == 0


def test_an_answer_of_rejected_texts_alone_is_asked_again_and_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def late(index: int, body: dict[str, Any]) -> Reply:
        copied = {"old": "a", "new": "a", "text": caption_of(body)}
        rejected = {"replace_obj": [copied], "paraphrase": [caption_of(body)]}
        items = {
            "replace_obj": [{"old": "bench", "new": "sofa", "text": "A dog sits on a wooden sofa."}],
            "paraphrase": [],
        }
        good = body["seed"] == 2 and "wooden" in caption_of(body)
        return Reply(completion(json.dumps(items if good else rejected)))

    server = Recorder(late)
    words = ["gpt.types=[replace_obj,paraphrase]", "gpt.concurrency=1"]
    with serving(server) as url:
        assert ask(folder, url, *words, "gpt.max_requests=4") == 1
        assert ask(folder, url, *words, "--resume") == 0
    assert sorted(body["seed"] for body in server.bodies) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    summary = json.loads((folder / "out/summary.json").read_text())
    assert summary["attempts"] == {"all_rejected": 8, "ok": 1}
    assert summary["asked_again"] == {"all_rejected": 6}
    assert "Asked again: 6 all rejected" in capsys.readouterr().out
    rows = {row["caption_id"]: row for row in table(folder, "negatives")}
    assert (rows["12"]["caption"], rows["12"]["attempt"]) == ("A dog sits on a wooden sofa.", 2)
    assert [rows[name]["rejected"] for name in ("11", "21", "31")] == ["equals_caption"] * 3


def test_a_folder_of_the_first_prompts_goes_on_with_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Recorder(written)
    with serving(server) as url:
        assert ask(folder, url, "gpt.prompt_version=v1", "gpt.max_requests=1") == 1
        assert ask(folder, url, "--resume", "gpt.prompt_version=v2") == 2
        assert "another `gpt.prompt_version`" in capsys.readouterr().err
        assert ask(folder, url, "--dry-run") == 0
        assert "2 requests to send (1 settled)" in capsys.readouterr().out
        assert ask(folder, url, "--resume") == 0
        assert {(len(body["messages"]), body["temperature"], "seed" in body) for body in server.bodies} == {
            (2, 1.0, False)
        }
        assert {row["prompt_version"] for row in table(folder, "negatives")} == {"v1"}
        assert ask(folder, url, "--overwrite") == 0
    assert (len(server.bodies[-1]["messages"]), server.bodies[-1]["seed"]) == (8, 0)
    assert {row["prompt_version"] for row in table(folder, "negatives")} == {"v2"}


def test_what_the_chat_model_is_asked_keeps_no_other_run_from_going_on(folder: Path) -> None:
    words = ["generate", f"captions={folder}/captions.parquet", f"output_dir={folder}/out"]
    assert main(words) == 0
    # as a release with other prompts wrote it
    text = (folder / "out/config.yaml").read_text()
    assert "prompt_version: null" in text
    (folder / "out/config.yaml").write_text(text.replace("prompt_version: null", "prompt_version: v1"))
    (folder / "out/summary.json").unlink()
    assert main([*words, "--resume"]) == 0


@pytest.fixture
def judged(folder: Path) -> str:
    """The word that asks a tiny model, which finds what says "indeed" entailed; caption 11 of two says so."""
    columns = {"image_id": ["1", "2"], "image": ["a.jpg", "b.jpg"], "caption_id": ["11", "21"]}
    own = [f"A red dog on a bench next to a blue car{word}." for word in (" indeed", "")]
    write_table(pa.table({**columns, "caption": own}), folder / "captions.parquet")
    return f"truth.nli.checkpoint={save_nli(folder / 'nli')}"


def test_a_writers_rows_say_what_a_judge_of_truth_says(folder: Path, judged: str) -> None:
    words = ["generate", f"captions={folder}/captions.parquet", f"output_dir={folder}/out", judged]
    assert main(words) == 0
    rows = {"11": [], "21": []}
    for row in table(folder, "negatives"):
        rows[row["caption_id"]].append((row["rejected"], row["checks"]))
    assert ("nli_entailed", "validation") in rows["11"]
    assert ("", "validation,nli") in rows["21"]
    for reason, checks in rows["11"] + rows["21"]:
        assert checks == {"": "validation,nli", "nli_entailed": "validation"}.get(reason, "")
    types = json.loads((folder / "out/summary.json").read_text())["types"].values()
    assert sum(counts["rejected"].get("nli_entailed", 0) for counts in types) == sum(
        reason == "nli_entailed" for reason, _ in rows["11"]
    )
    read = read_negatives(folder / "out/negatives.parquet", read_captions(folder / "captions.parquet"))
    assert set(read["caption_id"].to_pylist()) == {"21"}
    assert "nli_entailed" in (folder / "out/index.html").read_text()


def test_a_judge_of_truth_may_come_later_and_no_text_is_paid_for_again(
    folder: Path, judged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Recorder(written)
    with serving(server) as url:
        assert ask(folder, url) == 0
        assert "checks" not in table(folder, "negatives")[0]
        assert ask(folder, url, judged, "--resume") == 2
        assert "another `truth.nli.checkpoint`" in capsys.readouterr().err
        assert ask(folder, url, judged, "--overwrite") == 0
        assert len(server.bodies) == 2
    negatives, paraphrases = table(folder, "negatives"), table(folder, "paraphrases")
    assert {row["rejected"] for row in negatives if row["caption_id"] == "11"} == {"nli_entailed"}
    assert {row["checks"] for row in negatives if row["caption_id"] == "21"} == {"validation,nli"}
    # here "indeed" makes it true, in both directions
    found = {row["source_caption_id"]: (row["rejected"], row["checks"]) for row in paraphrases}
    assert found == {"11": ("", "validation,nli"), "21": ("nli_not_entailed", "validation")}
    counts = json.loads((folder / "out/summary.json").read_text())["types"]
    assert counts["paraphrase"]["rejected"] == {"nli_not_entailed": 1}


@pytest.mark.parametrize("generator", ["rules", "gpt"])
def test_a_run_that_ends_while_it_is_judged_leaves_no_table_and_goes_on(
    generator: str, folder: Path, judged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(judge: NliJudge, statements: object) -> list[str]:
        raise OSError(28, "No space left on device")

    with serving(Recorder(written)) as url:
        words = [f"generator={generator}", judged]
        with monkeypatch.context() as patch:
            patch.setattr(NliJudge, "rejections", interrupted)
            assert ask(folder, url, *words) == 2
        assert not [*(folder / "out").glob("*.parquet"), *(folder / "out").glob("*.tmp")]
        assert ask(folder, url, *words, "--resume") == 0
    assert {row["checks"] for row in table(folder, "negatives")} >= {"validation", "validation,nli"}


def test_a_run_that_goes_on_judges_only_the_texts_that_are_new(
    folder: Path, judged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    own = NliJudge.rejections

    def counted(judge: NliJudge, statements: list[Any]) -> list[str]:
        seen.extend(statements)
        return own(judge, statements)

    monkeypatch.setattr(NliJudge, "rejections", counted)
    with serving(Recorder(written)) as url:
        assert ask(folder, url, judged, "gpt.max_requests=1", "gpt.concurrency=1") == 1
        first = len(seen)
        assert ask(folder, url, judged, "--resume") == 0
    assert 0 < first < len(seen) == len(set(seen))


def test_what_is_no_judge_of_truth_is_refused_before_a_request_or_a_folder(
    folder: Path, judged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "nli/model.safetensors").unlink()
    server = Recorder(written)
    with serving(server) as url:
        assert ask(folder, url, judged) == 2
    assert "`truth.nli.checkpoint` must be" in capsys.readouterr().err
    assert main(["generate", "generator=scenes", f"output_dir={folder}/out", judged]) == 2
    assert "must not be given where `generator` is scenes" in capsys.readouterr().err
    assert server.bodies == []
    assert not (folder / "out").exists()
    # files of requests hold no text yet that a judge could look at
    assert ask(folder, url, judged, "gpt.batch=write") == 0


def test_paraphrases_alone_have_no_captions_with_negatives(folder: Path) -> None:
    with serving(Recorder(written)) as url:
        assert ask(folder, url, "gpt.types=[paraphrase]", f"image_root={folder}") == 0
    assert table(folder, "captions") == []
    assert len(table(folder, "paraphrases")) == 4


@pytest.mark.parametrize(
    ("word", "expected"), [("gpt.max_requests=2", "3 requests"), ("gpt.max_cost=1e-9", "requests cost")]
)
def test_a_batch_beyond_a_bound_is_not_sent(
    folder: Path, capsys: pytest.CaptureFixture[str], word: str, expected: str
) -> None:
    assert ask(folder, "http://127.0.0.1:9/v1", "gpt.batch=submit", word) == 2
    assert expected in capsys.readouterr().err
    assert not (folder / "out/batches").exists()


def test_a_missing_key_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert main(["generate", "generator=gpt", f"captions={folder}/captions.parquet", f"output_dir={folder}/out"]) == 2
    assert "OPENAI_API_KEY must hold the key" in capsys.readouterr().err


def test_files_for_vllm_come_back_as_rows_without_a_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    openai = "https://api.openai.com/v1"
    assert ask(folder, openai, "gpt.batch=write") == 0
    (part,) = (folder / "out/batches").glob("*.jsonl")
    lines = []
    for number, line in enumerate(part.read_text().splitlines()):
        request = json.loads(line)
        assert request["url"] == "/v1/chat/completions"
        body = json.loads(written(0, request["body"]).body)
        answer = {"id": f"vllm-{number}", "custom_id": request["custom_id"], "error": None}
        lines.append(json.dumps({**answer, "response": {"status_code": 200, "request_id": "r", "body": body}}))
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    words = ["--resume", "gpt.batch=collect", f"gpt.results=[{folder}/results.jsonl]"]
    assert ask(folder, openai, *words) == 0
    assert len(table(folder, "paraphrases")) == 4


def test_coco_json_is_read_and_its_captions_are_written_beside_the_negatives(folder: Path) -> None:
    coco = {
        "images": [{"id": 7, "file_name": "x.jpg"}],
        "annotations": [{"image_id": 7, "id": 70, "caption": "A red car behind a dog."}],
    }
    (folder / "captions_coco.json").write_text(json.dumps(coco))
    words = [f"captions={folder}/captions_coco.json", f"image_root={folder}", f"output_dir={folder}/out"]
    assert main(["generate", *words]) == 0
    captions = read_captions(folder / "out/captions.parquet")
    negatives = read_negatives(folder / "out/negatives.parquet", captions)
    assert captions["image_id"].to_pylist() == ["7"]
    assert len(negatives) > 0
    assert set(json.loads((folder / "out/summary.json").read_text())["types"]) == set(
        negatives["negative_type"].to_pylist()
    )


def test_rejected_rows_stay_in_the_file_and_are_not_read(folder: Path) -> None:
    def spoilt(index: int, body: dict[str, Any]) -> Reply:
        texts = json.loads(json.loads(written(index, body).body)["choices"][0]["message"]["content"])
        texts["replace_obj"] = [{"old": "dog", "new": "DOG", "text": caption_of(body).upper()}]
        return Reply(completion(json.dumps(texts)))

    with serving(Recorder(spoilt)) as url:
        assert ask(folder, url) == 0
    rejected = [row for row in table(folder, "negatives") if row["rejected"]]
    assert {(row["negative_type"], row["rejected"]) for row in rejected} == {("replace_obj", "equals_caption")}
    captions = read_captions(folder / "captions.parquet")
    read = read_negatives(folder / "out/negatives.parquet", captions)
    assert len(read) == len(table(folder, "negatives")) - len(rejected)
    assert len(with_paraphrases(captions, folder / "out/paraphrases.parquet")) == 8


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("scenes")
    tiny_tables(folder, images=60)
    yield folder / "train"
    shutil.rmtree(folder)


def test_the_whole_road_from_captions_to_a_trained_scorer(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    captions = f"captions={scenes}/captions.parquet"
    with serving(Recorder(written_by(SceneWriter()))) as url:
        words = [captions, f"image_root={scenes}", f"gpt.base_url={url}", f"output_dir={tmp_path}/gpt"]
        assert main(["generate", "generator=gpt", *words]) == 0
    tables = [f"captions={tmp_path}/gpt/captions.parquet", f"negatives={tmp_path}/gpt/negatives.parquet"]
    quick = ["judge.judges=[word]", "judge.folds=3", "certificate.probes=[word,bayes]", "certificate.bootstrap=20"]
    code = main(["filter", *tables, *quick, f"output_dir={tmp_path}/filter", "logging.wandb=disabled"])
    assert code in (0, 1)  # so few texts need not be certified
    data = [f"data.{word}" for word in tables]
    data += [f"data.verdicts={tmp_path}/filter/verdicts.parquet", "data.subset=kept", f"data.image_root={scenes}"]
    words = [*data, f"output_dir={tmp_path}/run", *TINY_OVERRIDES, "trainer.max_steps=3", "logging.wandb=disabled"]
    assert main(["train", "experiments/configs/clip_tiny_scenes.yaml", *words]) == 0
    assert (tmp_path / "run/weights.safetensors").is_file()
