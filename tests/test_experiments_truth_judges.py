"""Judges of truth in `itm generate`: one that asks a chat server, and one that looks at the image."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.batch import ImageTextRow
from experiments.__main__ import main
from experiments.bench.chat_server import Reply, completion
from experiments.config.generate_schemas import GenerateConfig, GptConfig
from experiments.generating import judges
from experiments.generating.asking import judge_config
from experiments.generating.judges import images_of, scores_by
from experiments.runs import progress
from lightning_modules import Scorer, load_scorer
from negatives.tables.captions import read_captions, read_negatives, write_table
from negatives.truth_judges import ChatJudgeSettings, ImageJudge, ImageSettings, LmJudge, Statement, TruthSettings
from tests.backbones import BACKBONES
from tests.chat_server import Recorder, as_asked, serving
from tests.test_negatives_causal_lm import save_lm
from tests.tiny import photo

KEY = "sk-test-0123456789abcdef"
CAPTIONS = {"11": "A red dog on a bench next to a blue car.", "21": "Two cats chase a small bird."}
RUN = Path(__file__).with_name("first_version")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    columns = {"image_id": ["1", "2"], "image": ["a.jpg", "b.jpg"]}
    columns |= {"caption_id": list(CAPTIONS), "caption": list(CAPTIONS.values())}
    write_table(pa.table(columns), tmp_path / "captions.parquet")
    return tmp_path


def table(folder: Path, name: str = "negatives") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "out" / f"{name}.parquet").to_pylist()
    return rows


def generate(folder: Path, url: str, *words: str) -> int:
    given = [f"captions={folder}/captions.parquet", f"output_dir={folder}/out"]
    return main(["generate", *given, "truth.chat.ask=true", f"gpt.base_url={url}", *words])


def texts_of(body: dict[str, Any]) -> tuple[str, str] | None:
    """(caption, text) that a judge's request asks about; None of a writer's request."""
    asked = json.loads(body["messages"][-1]["content"])
    return (asked["first"], asked["second"]) if "second" in asked else None


def said(word: str) -> Reply:
    return Reply(completion(json.dumps({"answer": word})))


def car_is_true(index: int, body: dict[str, Any]) -> Reply:
    """Takes what is written for the caption with a car for true, and all else for false."""
    pair = texts_of(body)
    assert pair is not None
    return said("yes" if "car" in pair[0] else "no")


def test_a_writers_rows_say_what_the_chat_model_says_and_no_text_is_asked_twice(folder: Path) -> None:
    server = Recorder(car_is_true)
    with serving(server) as url:
        assert generate(folder, url) == 0
        rows = table(folder)
        found = {(row["caption_id"], row["rejected"], row["checks"]) for row in rows}
        assert {row for row in found if row[0] == "11"} == {("11", "chat_both_true", "validation")}
        assert {row for row in found if row[0] == "21" and not row[1]} == {("21", "", "validation,chat")}
        judged = [row for row in rows if row["checks"]]
        assert Counter(map(texts_of, server.bodies)) == {
            (CAPTIONS[row["caption_id"]], row["caption"]): 1 for row in judged
        }
        # overwritten, say to be judged by another model too: what was paid for stays
        assert generate(folder, url, "--overwrite") == 0
        assert table(folder) == rows
        assert len(server.bodies) == len(judged)
    counts = json.loads((folder / "out/summary.json").read_text())["types"]
    assert sum(types["rejected"].get("chat_both_true", 0) for types in counts.values()) > 1
    read = read_negatives(folder / "out/negatives.parquet", read_captions(folder / "captions.parquet"))
    assert set(read["caption_id"].to_pylist()) == {"21"}


def test_a_run_that_is_stopped_while_it_is_judged_is_not_finished_and_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges, "JUDGED_AT_ONCE", 3)
    server = Recorder(car_is_true)
    with serving(server) as url:
        assert generate(folder, url, "gpt.max_requests=2", "gpt.concurrency=1") == 1
        out = capsys.readouterr().out
        assert out.count("Stopped: max_requests") == 1
        assert "`truth.chat` was sent 2 requests in this start: 200 prompt and 40 completion tokens." in out
        rejected = Counter(row["rejected"] for row in table(folder) if row["checks"])
        assert rejected["chat_unasked"] == rejected.total() - 2
        assert f"{rejected['chat_unasked']} texts have no answer of `truth.chat` yet" in out
        assert not (folder / "out/summary.json").exists()
        assert len(server.bodies) == 2
        assert generate(folder, url, "--resume") == 0
    assert set(Counter(map(texts_of, server.bodies)).values()) == {1}
    assert "chat_unasked" not in {row["rejected"] for row in table(folder)}
    # of both starts
    usage = json.loads((folder / "out/summary.json").read_text())["truth_chat"]
    asked = len(server.bodies)
    tokens = {"prompt_tokens": 100 * asked, "completion_tokens": 20 * asked}
    assert usage == {"model": "gpt-4o-mini", "answers": asked, **tokens}
    page = " ".join((folder / "out/index.html").read_text().split())
    assert f"The judge <code>truth.chat</code> (gpt-4o-mini) gave {asked} answers: {100 * asked:,} prompt" in page


def test_a_chat_model_that_decides_nothing_has_not_judged_and_may_be_asked_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nonsense, speaking = Recorder(lambda index, body: Reply(completion("It depends."))), Recorder(car_is_true)
    with serving(nonsense) as url:
        assert generate(folder, url, "gpt.attempts=2") == 1
    judged = [row for row in table(folder) if row["checks"]]
    assert {row["rejected"] for row in judged} == {"chat_undecided"}
    lines = capsys.readouterr().out.splitlines()
    expected = f"`truth.chat` said neither yes nor no about any of {len(judged)} texts"
    assert [line for line in lines if line.startswith(expected) and "gpt.attempts" in line and "--resume" in line]
    assert not (folder / "out/summary.json").exists()
    with serving(speaking) as url:
        assert generate(folder, url, "gpt.attempts=3", "--resume") == 0
    assert {row["rejected"] for row in table(folder) if row["checks"]} == {"", "chat_both_true"}


def test_no_part_of_a_run_spends_what_another_part_has_spent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "JUDGED_AT_ONCE", 2)
    server, most = Recorder(car_is_true), 0.0007
    with serving(server) as url:
        prices = "gpt.prices={gpt-4o-mini: {input: 1, output: 1}}"
        assert generate(folder, url, prices, f"gpt.max_cost={most}", "gpt.concurrency=1") == 1
    # more than one part, and less than the bound: an answer has 120 tokens
    assert 2 < len(server.bodies) <= most / 120e-6
    assert "chat_unasked" in {row["rejected"] for row in table(folder)}


@pytest.mark.slow  # starts a real process to kill it; the run that is stopped, above, covers the rest
def test_a_killed_run_asks_no_answered_question_again(folder: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def kills(index: int, body: dict[str, Any]) -> Reply:
        if index == 3:
            os.kill(started[0].pid, signal.SIGKILL)
        return car_is_true(index, body)

    server = Recorder(kills)
    with serving(server) as url:
        words = [f"captions={folder}/captions.parquet", f"output_dir={folder}/out", "gpt.concurrency=1"]
        words += ["truth.chat.ask=true", f"gpt.base_url={url}"]
        with (folder / "log").open("wb") as log:
            command = [sys.executable, "-m", "experiments", "generate", *words]
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
            assert started[0].wait(60) == -signal.SIGKILL, (folder / "log").read_text()
        assert len(server.bodies) == 4
        assert main(["generate", *words, "--resume"]) == 0
    asked = Counter(map(texts_of, server.bodies))
    # the one that was under way never had its answer
    assert asked.pop(texts_of(server.bodies[3])) == 2
    assert set(asked.values()) == {1}
    assert len(asked) > 4
    assert {row["rejected"] for row in table(folder) if row["caption_id"] == "11"} == {"chat_both_true"}


def writes_and_judges(index: int, body: dict[str, Any]) -> Reply:
    if texts_of(body) is not None:
        return car_is_true(index, body)
    caption = json.loads(body["messages"][-1]["content"])["caption"]
    texts = {"replace_obj": [caption.replace("bird", "frog").replace("bench", "sofa")]}
    texts["paraphrase"] = [f"In the picture: {caption}"]
    return Reply(completion(as_asked(body, texts)))


def test_the_writing_model_judges_its_own_texts_within_the_bounds_of_one_run(folder: Path) -> None:
    server = Recorder(writes_and_judges)
    words = ["generator=gpt", "gpt.types=[replace_obj,paraphrase]", "gpt.concurrency=1"]
    with serving(server) as url:
        # two captions, and two of four texts, one of which is valid
        assert generate(folder, url, *words, "gpt.max_requests=4") == 1
        assert len(server.bodies) == 4
        rows = [*table(folder), *table(folder, "paraphrases")]
        assert Counter(row["rejected"] for row in rows) == {"": 1, "chat_both_true": 1, "chat_unasked": 2}
        assert generate(folder, url, *words, "--resume") == 0
    assert Counter(map(texts_of, server.bodies)).pop(None) == 2
    assert len(server.bodies) == 6
    assert {body["model"] for body in server.bodies} == {"gpt-4o-mini"}
    found = {row["caption_id"]: (row["rejected"], row["checks"]) for row in table(folder)}
    assert found == {"11": ("chat_both_true", "validation"), "21": ("", "validation,chat")}
    found = {row["source_caption_id"]: (row["rejected"], row["checks"]) for row in table(folder, "paraphrases")}
    assert found == {"11": ("", "validation,chat"), "21": ("chat_not_same", "validation")}
    # of the writer alone: the cost of its requests
    summary = json.loads((folder / "out/summary.json").read_text())
    assert (summary["attempts"], summary["truth_chat"]["answers"]) == ({"ok": 2}, 4)
    assert "Not in it: the judge <code>truth.chat</code>" in (folder / "out/index.html").read_text()


def test_no_other_server_gets_the_writers_key(folder: Path) -> None:
    writer, judge = Recorder(writes_and_judges), Recorder(writes_and_judges)
    words = ["generator=gpt", "gpt.types=[replace_obj,paraphrase]", "gpt.api_key_env=OPENAI_API_KEY"]
    with serving(writer) as url, serving(judge) as other:
        words += [f"truth.chat.base_url={other}", "truth.chat.model=judge"]
        assert generate(folder, url, *words) == 0
    assert {body["model"] for body in judge.bodies} == {"judge"}
    assert {headers["authorization"] for headers in judge.headers} == {"Bearer none"}
    assert {headers["authorization"] for headers in writer.headers} == {f"Bearer {KEY}"}
    assert [texts_of(body) for body in writer.bodies] == [None] * 2


def test_the_judge_asks_as_the_writer_does_unless_it_is_told_otherwise() -> None:
    def asked(**chat: Any) -> GptConfig:
        gpt = GptConfig(base_url="http://here/v1", api_key_env="MINE", batch="collect", results=["x"])
        truth = TruthSettings(chat=ChatJudgeSettings(ask=True, **chat))
        return judge_config(GenerateConfig(output_dir="out", gpt=gpt, truth=truth))

    own = asked()
    assert (own.model, own.base_url, own.api_key_env, own.batch) == ("gpt-4o-mini", "http://here/v1", "MINE", "none")
    assert asked(api_key_env="OTHER").api_key_env == "OTHER"
    assert asked(base_url="http://there/v1").api_key_env is None
    assert asked(base_url="http://there/v1", api_key_env="THEIRS").api_key_env == "THEIRS"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["truth.chat.model=judge"], "`truth.chat.model` needs `truth.chat.ask=true`"),
        (["truth.chat.ask=true", "gpt.api_key_env=NOWHERE"], "The environment variable NOWHERE must hold the key"),
        (["truth.chat.ask=true", "gpt.model=mine", "gpt.max_cost=1"], "needs the price of mine"),
        (["truth.chat.max_tokens=128"], "`truth.chat.max_tokens` needs `truth.chat.ask=true`"),
        (["truth.image.image_root=."], "`truth.image.image_root` needs `truth.image.scorer`"),
        (["truth.image.checkpoint=best"], "`truth.image.checkpoint` needs `truth.image.scorer`"),
        (["truth.lm.most_drop=3"], "`truth.lm.most_drop` needs `truth.lm.checkpoint`: nobody would be asked"),
        (["truth.nli.batch_size=8"], "`truth.nli.batch_size` needs `truth.nli.checkpoint`"),
        (["truth.image.scorer=.", "truth.image.image_root=.", "image_root=."], "must not be given beside `image_root`"),
        (["truth.image.scorer=."], "2 of 2 images do not exist"),
        (["generator=scenes", "truth.image.scorer=."], "`truth.image.scorer` must not be given"),
    ],
)
def test_a_judge_that_cannot_judge_is_one_line_and_leaves_no_table(
    folder: Path, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", f"captions={folder}/captions.parquet", f"output_dir={folder}/out", *words]) == 2
    line = capsys.readouterr().err.strip()
    assert expected in line
    assert "\n" not in line
    assert not [*folder.glob("out/*")]


def test_a_run_goes_on_with_other_batches_of_a_judge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(judge: LmJudge, given: list[Statement]) -> list[str]:
        raise OSError(28, "No space left on device")

    words = ["generate", f"captions={folder}/captions.parquet", f"output_dir={folder}/out"]
    words += [f"truth.lm.checkpoint={save_lm(folder / 'lm')}"]
    with monkeypatch.context() as patch:
        patch.setattr(LmJudge, "rejections", interrupted)
        assert main(words) == 2
    assert main([*words, "truth.lm.batch_size=1", "truth.lm.device=cpu", "--resume"]) == 0
    assert {row["checks"] for row in table(folder)} >= {"validation,lm"}


@pytest.mark.parametrize("generator", ["rules", "gpt"])
def test_a_model_that_reads_texts_here_shows_how_far_it_is(
    generator: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges, "READ_AT_ONCE", 2)
    # every step takes longer than the time between two lines
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    words = [f"captions={folder}/captions.parquet", f"output_dir={folder}/out", f"generator={generator}"]
    words += ["gpt.types=[replace_obj,paraphrase]", f"truth.lm.checkpoint={save_lm(folder / 'lm')}"]
    with serving(Recorder(writes_and_judges)) as url:
        assert main(["generate", *words, f"gpt.base_url={url}"]) == 0
    found = [line for line in capsys.readouterr().out.splitlines() if "udging: " in line]
    # two rows a step; of a chat model the texts of one caption
    steps = 2 if generator == "gpt" else math.ceil(len(table(folder)) / 2)
    assert len(found) == steps > 1
    assert f"udging: 1 of {steps} in " in found[1]


# the image


IMAGES = {"a.png": photo(0), "b.png": photo(1)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, image in IMAGES.items():
        image.save(folder / name)
    return folder


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(BACKBONES["clip"].build(), device="cpu")


TEXTS = [f"{words} {place}" for place in ("sofa", "cat") for words in ("a red", "two old", "an emoji of a")]


def statements(kind: str) -> list[Statement]:
    return [Statement("a dog", text, kind, image) for text in TEXTS for image in IMAGES]


@pytest.mark.parametrize("kind", ["replace_obj", "paraphrase"])
def test_a_text_is_judged_by_how_much_less_than_its_caption_it_fits_the_image(
    kind: str, root: Path, scorer: Scorer
) -> None:
    margins = {}
    for one in statements(kind):
        caption, text = (scorer.score(IMAGES[one.image], words) for words in (one.caption, one.text))
        assert isinstance(caption, float)
        margins[one] = caption - text  # type: ignore[operator]
    bounds = sorted(margins.values())
    middle = (bounds[5] + bounds[6]) / 2
    for bound in (middle, 0.0):
        settings = ImageSettings(".", least_margin=bound, most_drop=bound)
        judge = ImageJudge(settings, scores_by(scorer, root, 64), "")
        found = dict(zip(margins, judge.rejections(list(margins)), strict=True))
        for one, reason in found.items():
            rejected = margins[one] > bound if kind == "paraphrase" else margins[one] < bound
            assert reason == (("image_mismatch" if kind == "paraphrase" else "image_matches") if rejected else "")
    assert judge.rejections([]) == []
    # as true as its caption is not false
    same = Statement("a dog", "a dog", kind, "a.png")
    assert judge.rejections([same]) == ["" if kind == "paraphrase" else "image_matches"]


def test_an_image_is_computed_once_with_all_of_its_texts(
    root: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    collate: Callable[[list[ImageTextRow]], Any] = scorer.module.collator()
    seen: list[list[str]] = []

    def counted(rows: list[ImageTextRow]) -> Any:
        seen.extend(row.captions for row in rows)
        return collate(rows)

    monkeypatch.setattr(scorer.module, "collator", lambda: counted)
    ImageJudge(ImageSettings("."), scores_by(scorer, root, 64), "").rejections(statements("swap_obj"))
    assert [sorted(captions) for captions in seen] == [sorted(["a dog", *TEXTS])] * 2


@pytest.fixture
def pictured(folder: Path, root: Path) -> list[str]:
    """The words that ask a trained scorer; the two captions have pictures."""
    columns = {"image_id": ["1", "2"], "image": list(IMAGES), "caption_id": list(CAPTIONS)}
    write_table(pa.table({**columns, "caption": list(CAPTIONS.values())}), folder / "captions.parquet")
    words = [f"truth.image.scorer={RUN}/run", f"truth.image.image_root={root}", "truth.image.device=cpu"]
    return [f"captions={folder}/captions.parquet", f"output_dir={folder}/out", *words]


def test_a_trained_scorer_judges_a_writers_rows(folder: Path, root: Path, pictured: list[str]) -> None:
    assert main(["generate", *pictured]) == 0
    scorer, images = load_scorer(RUN / "run", device="cpu"), dict(zip(CAPTIONS, IMAGES, strict=True))
    rows = [row for row in table(folder) if row["checks"]]
    for row in rows:
        caption, text = (
            scorer.score(root / images[row["caption_id"]], said)
            for said in (CAPTIONS[row["caption_id"]], row["caption"])
        )
        assert row["rejected"] == ("image_matches" if text >= caption else ""), row  # type: ignore[operator]
    assert {row["checks"] for row in rows} == {"validation", "validation,image"}
    assert not (folder / "out/judged.sqlite").exists(), "of a finished run nothing is read again"


def test_what_the_scorer_rejects_costs_no_question(folder: Path, pictured: list[str]) -> None:
    server = Recorder(car_is_true)
    with serving(server) as url:
        words = [*pictured, "truth.image.least_margin=1000", "truth.chat.ask=true", f"gpt.base_url={url}"]
        assert main(["generate", *words]) == 0
    assert {row["rejected"] for row in table(folder) if row["checks"]} == {"image_matches"}
    assert server.bodies == []


def test_images_start_where_the_captions_say(folder: Path) -> None:
    def found(image_root: str | None = None, own: str | None = None) -> Path:
        truth = TruthSettings(image=ImageSettings("scorer", image_root=own))
        config = GenerateConfig(output_dir="out", captions="tables/c.jsonl", image_root=image_root, truth=truth)
        return images_of(config)

    # with `image_root`, `read_source` has made the paths start there
    assert (found(), found(image_root="all"), found(own="photos")) == (Path("tables"), Path("all"), Path("photos"))


def test_an_unfinished_run_judges_no_text_twice(
    folder: Path, pictured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start of a chat model's run reads all answers anew; what the image says of them is found again."""
    seen: list[list[Statement]] = []
    own = ImageJudge.rejections

    def counted(judge: ImageJudge, given: list[Statement]) -> list[str]:
        seen.append(given)
        return own(judge, given)

    monkeypatch.setattr(ImageJudge, "rejections", counted)
    words = ["generator=gpt", "gpt.types=[replace_obj,paraphrase]", "gpt.concurrency=1"]
    words += ["truth.image.most_drop=1000", "truth.image.least_margin=-1000"]
    with serving(Recorder(writes_and_judges)) as url:
        words = ["generate", *pictured, *words, f"gpt.base_url={url}"]
        assert main([*words, "gpt.max_requests=1"]) == 1
        assert main([*words, "--resume"]) == 0
    # each time a negative and a paraphrase, which share an image
    assert [[one.kind for one in given] for given in seen] == [["replace_obj", "paraphrase"]] * 2
    assert len({*seen[0], *seen[1]}) == 4
    assert {row["checks"] for row in [*table(folder), *table(folder, "paraphrases")]} == {"validation,image"}


def test_a_photo_that_cannot_be_read_is_named_and_the_run_goes_on_once_it_can(
    folder: Path, pictured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    IMAGES["a.png"].save(photos / "a.png")
    (photos / "b.png").write_bytes(b"no photo")
    words = ["generate", *pictured, f"truth.image.image_root={photos}"]
    assert main(words) == 2
    assert "b.png" in capsys.readouterr().err
    assert not (folder / "out/negatives.parquet").exists()
    IMAGES["b.png"].save(photos / "b.png")
    assert main([*words, "--resume"]) == 0
    assert {row["caption_id"] for row in table(folder) if row["checks"]} == set(CAPTIONS)
