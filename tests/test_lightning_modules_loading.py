"""Scorers from files that anybody may have written: the scores of `itm score`, or one line, and no code is run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from datamodules.batch import CaptionTooLongError, InputError
from experiments.__main__ import main
from lightning_modules import Scorer, load_scorer
from lightning_modules.backbones.table import BACKBONES as REGISTERED
from lightning_modules.scoring.runs import check_finished
from lightning_modules.scoring.scorer_file import ScorerSettings, find_scorer_settings, parse_scorer_settings
from tests.backbones import BACKBONES, save_published
from tests.tiny import CAPTIONS, TINY_OVERRIDES, photo, tiny_tables

IMAGES = [photo(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    tiny_tables(folder)
    return folder / "train"


@pytest.fixture(scope="module")
def run(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA trained for a step."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    data = [f"data.{name}={tables / f'{name}.parquet'}" for name in ("captions", "negatives")]
    words = [*data, f"output_dir={folder}", *TINY_OVERRIDES, "logging.wandb=disabled"]
    assert main(["train", "experiments/configs/llava_tiny_scenes.yaml", *words]) == 0
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for name, backbone in BACKBONES.items():
        save_published(backbone.build(), folder / name)
    return folder


def test_a_run_scores_as_the_command_does(run: Path, tables: Path, tmp_path: Path) -> None:
    words = [f"captions={tables / 'captions.parquet'}", f"output_dir={tmp_path / 'scores'}"]
    assert main(["score", f"run={run}", *words]) == 0
    rows = {item["text_id"]: item for item in pq.read_table(tmp_path / "scores/scores.parquet").to_pylist()}
    captions = pq.read_table(tables / "captions.parquet").to_pylist()
    expected = [rows[f"caption:{item['caption_id']}"] for item in captions]
    images, texts = [tables / item["image"] for item in captions], [item["caption"] for item in captions]
    scorer = load_scorer(run, device="cpu")
    for found, name in ((scorer.score(images, texts), "score"), (scorer.logits(images, texts), "logit")):
        assert found.tolist() == pytest.approx([item[name] for item in expected], abs=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_transformers_folder_scores_as_the_model_it_was_saved_from(backbone: str, published: Path) -> None:
    scorer = load_scorer(str(published / backbone), device="cpu")
    saved = Scorer(BACKBONES[backbone].build(), device="cpu")
    torch.testing.assert_close(scorer.score(IMAGES, CAPTIONS[:3]), saved.score(IMAGES, CAPTIONS[:3]))


def test_the_dtype_is_float32_or_what_is_asked_for(run: Path, published: Path) -> None:
    for path in (run, published / "clip"):
        assert repr(load_scorer(path, device="cpu")).endswith("torch.float32, cpu)")
        half = load_scorer(path, device="cpu", dtype="bfloat16")
        assert {parameter.dtype for parameter in half.module.parameters()} == {torch.bfloat16}
        assert half.logits(IMAGES[0], CAPTIONS).dtype == torch.float32  # type: ignore[union-attr]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_command_and_load_scorer_score_weights_saved_in_half_alike(
    backbone: str, published: Path, tables: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(published / backbone, tmp_path / "half")
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # as a checkpoint that was saved in half says it, of its parts too
    config = re.sub(r'("dtype": )"float32"', r'\1"float16"', (folder / "config.json").read_text())
    assert '"dtype": "float16"' in config
    (folder / "config.json").write_text(config)
    words = [f"model.backbone={backbone}", f"model.checkpoint={folder}", f"captions={tables / 'captions.parquet'}"]
    assert main(["score", *words, f"output_dir={tmp_path / 'scores'}"]) == 0
    table = pq.read_table(tmp_path / "scores/scores.parquet")
    assert table.schema.metadata[b"precision"] == b"torch.float32"
    by_text = {item["text_id"]: item["logit"] for item in table.to_pylist()}
    captions = pq.read_table(tables / "captions.parquet").to_pylist()
    images, texts = [tables / item["image"] for item in captions], [item["caption"] for item in captions]
    found = load_scorer(folder, device="cpu").logits(images, texts)
    assert [by_text[f"caption:{item['caption_id']}"] for item in captions] == pytest.approx(found.tolist(), abs=1e-5)  # type: ignore[union-attr]


def exported(published: Path, folder: Path, backbone: str, content: Any) -> Path:
    """A copy of a published checkpoint with a `scorer.json`; text is written as it is."""
    copied = folder / "exported"
    shutil.copytree(published / backbone, copied)
    text = content if isinstance(content, str) else json.dumps(content)
    (copied / "scorer.json").write_text(text, encoding="utf-8")
    return copied


def test_scorer_json_says_how_a_checkpoint_scores(published: Path, tmp_path: Path) -> None:
    settings = {"question": "Is it {caption}?", "system": "", "score": None, "long_captions": "error"}
    content = {"format": 1, "backbone": "llava", "model": settings, "dtype": "bfloat16"}
    scorer = load_scorer(exported(published, tmp_path, "llava", content), device="cpu")
    assert scorer.module.encoder.prompt("a dog", "<image>") == "USER: <image>\nIs it a dog? ASSISTANT:"
    assert repr(scorer) == "Scorer(llava, torch.bfloat16, cpu)"
    with pytest.raises(CaptionTooLongError, match="long_captions=truncate"):
        scorer.score(IMAGES[0], "red " * 3000)


def test_the_command_heeds_scorer_json_where_nothing_else_is_said(
    published: Path, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"format": 1, "backbone": "blip2", "model": {"score": "itc"}}
    folder = exported(published, tmp_path, "blip2", content)
    captions = pq.read_table(tables / "captions.parquet").to_pylist()
    images, texts = [tables / item["image"] for item in captions], [item["caption"] for item in captions]
    words = ["score", f"model.checkpoint={folder}", f"captions={tables / 'captions.parquet'}"]
    for score, more in (("itc", []), ("itm_itc", ["model.backbone=blip2", "model.score=itm_itc"])):
        assert main([*words, f"output_dir={tmp_path / score}", *more]) == 0
        found = pq.read_table(tmp_path / score / "scores.parquet").to_pylist()
        by_text = {item["text_id"]: item["logit"] for item in found}
        expected = Scorer(BACKBONES["blip2"].build(score=score), device="cpu").logits(images, texts)
        logits = [by_text[f"caption:{item['caption_id']}"] for item in captions]
        assert logits == pytest.approx(expected.tolist(), abs=1e-5)  # type: ignore[union-attr]
    (folder / "scorer.json").write_text('{"format": 2}')
    assert main([*words, f"output_dir={tmp_path / 'bad'}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "scorer.json: format must be 1, got 2" in line


@pytest.fixture
def cached(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache of some/scorer, whose commit is abc."""
    cached = tmp_path / "hub/models--some--scorer"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("abc")
    content = {"format": 1, "backbone": "blip2", "model": {"score": "itc"}}
    (cached / "snapshots").mkdir()
    exported(published, tmp_path, "blip2", content).rename(cached / "snapshots/abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return cached


def test_a_name_on_the_hub_brings_its_scorer_json(cached: Path) -> None:
    assert load_scorer("some/scorer", device="cpu").module.score_name == "itc"


def test_a_scorer_json_that_the_hub_does_not_have_is_none(
    cached: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    (cached / "snapshots/abc/scorer.json").unlink()
    (cached / ".no_exist/abc").mkdir(parents=True)
    (cached / ".no_exist/abc/scorer.json").touch()
    for offline in (True, False):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        monkeypatch.setattr("lightning_modules.scoring.scorer_file.hf_hub_download", unreachable)
        assert find_scorer_settings("some/scorer") is None
    monkeypatch.setattr("lightning_modules.scoring.scorer_file.hf_hub_download", not_there)
    assert find_scorer_settings("some/scorer") is None
    assert not [warning for warning in recwarn if "scorer.json" in str(warning.message)]


def unreachable(name: str, file: str, revision: str | None) -> str:
    """`hf_hub_download` where nothing is cached and no hub answers."""
    raise LocalEntryNotFoundError("An error happened\nwhile trying") from OSError("connection refused\nby hub")


def not_there(name: str, file: str, revision: str | None) -> str:
    raise EntryNotFoundError("404")


def test_without_the_hub_a_scorer_json_is_never_taken_for_absent(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cached / "snapshots/abc/scorer.json").unlink()
    with pytest.warns(UserWarning, match=r"some/scorer: no scorer\.json was downloaded .* backbone's defaults") as seen:
        assert load_scorer("some/scorer", device="cpu").module.score_name == "itm"
    assert len([warning for warning in seen if "scorer.json" in str(warning.message)]) == 1
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("lightning_modules.scoring.scorer_file.hf_hub_download", unreachable)
    with pytest.raises(InputError, match=r"whether it has a scorer\.json \(connection refused\); try again") as caught:
        find_scorer_settings("some/scorer")
    assert "\n" not in str(caught.value)


GOOD = {"format": 1, "backbone": "clip"}
BAD_FILES: dict[str, tuple[Any, str]] = {
    "a list": ([], "must hold a mapping, got []"),
    "no format": ({"backbone": "clip"}, "format must be 1, got None"),
    "a newer format": ({**GOOD, "format": 2, "new": 1}, "format must be 1, got 2; update itm-lightning"),
    "a format that is true": ({**GOOD, "format": True}, "format must be 1, got True"),
    "an unknown key": ({**GOOD, "code": "x"}, "there is no key 'code'; known are format, backbone, model, dtype"),
    "an unknown backbone": ({**GOOD, "backbone": "opt"}, f"backbone must be one of {', '.join(REGISTERED)}, got 'opt'"),
    "a backbone that is a list": ({**GOOD, "backbone": ["clip"]}, "backbone must be one of llava, "),
    "a dtype that is a name of something else": ({**GOOD, "dtype": "load"}, "dtype must be one of float32, bfloat16"),
    "a model that is text": ({**GOOD, "model": "clip"}, "model must be a mapping, got 'clip'"),
    "a checkpoint of another place": ({**GOOD, "model": {"checkpoint": "x/y"}}, "model has no key 'checkpoint'"),
    "a key over two lines": ({**GOOD, "model": {"a\nb": 1}}, "model has no key 'a\\nb'"),
    "a number as text": (
        {**GOOD, "model": {"max_text_tokens": "9"}},
        "`model.max_text_tokens` must be int or null, got '9'",
    ),
    "a setting of another backbone": (
        {**GOOD, "model": {"score": "itc"}},
        "model has no key 'score'; known are activation, max_text_tokens, long_captions",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_scorer_json_that_cannot_be_trusted_is_one_line(case: str) -> None:
    content, expected = BAD_FILES[case]
    with pytest.raises(InputError) as caught:
        parse_scorer_settings(json.loads(json.dumps(content)), Path("export/scorer.json"))
    assert str(caught.value).startswith("export/scorer.json")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scorer_json_of_defaults_leaves_all_to_the_backbone() -> None:
    nothing = dict.fromkeys(("system", "question", "score", "max_text_tokens", "long_captions", "activation"))
    assert parse_scorer_settings({**GOOD, "model": nothing}, Path("scorer.json")) == ScorerSettings("clip")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[" * 100_000, "scorer.json is no JSON"),
        ({**GOOD, "backbone": "blip2"}, "must be clip, as config.json says, got blip2"),
        ({**GOOD, "model": {"max_text_tokens": 500}}, "model.max_text_tokens must be in [3, 77]"),
        ({**GOOD, "model": {"activation": "relu"}}, "`model.activation` must be one of quick_gelu, gelu, got 'relu'"),
    ],
)
def test_a_scorer_json_that_does_not_fit_is_one_line(
    content: Any, expected: str, published: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        load_scorer(exported(published, tmp_path, "clip", content), device="cpu")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def set_in(file: str, **settings: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **settings}))

    return edit


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a type that is a list": (set_in("config.json", model_type=["clip"]), "is a checkpoint of type ['clip']; a scorer"),
    "a type that is null": (set_in("config.json", model_type=None), "is a checkpoint of type None; a scorer"),
    "a list": (lambda f: (f / "config.json").write_text("[1]"), "config.json"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "text as text_config": (
        set_in("config.json", text_config="x"),
        "text_config must be a mapping, got 'x' (config.json)",
    ),
    "an unknown activation": (
        lambda f: set_in("config.json", **{f"{part}_config": {"hidden_act": "x"} for part in ("text", "vision")})(f),
        "cannot be read (KeyError: ",
    ),
    "a name that is a list": (set_in("config.json", _name_or_path=["x"]), ""),
    "an empty tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "the processor of "),
    "a tokenizer that is no JSON": (lambda f: (f / "tokenizer.json").write_text("{"), "the processor of "),
    "a tokenizer that is a list": (lambda f: (f / "tokenizer_config.json").write_text("[]"), "the processor of "),
    "a processor that is a list": (lambda f: (f / "processor_config.json").write_text("[]"), "the processor of "),
    "no processor": (lambda f: (f / "processor_config.json").unlink(), "the processor of "),
    "a million layers": (
        set_in("config.json", text_config={"num_hidden_layers": 10**6}),
        "num_hidden_layers must be from 1 to 1000, got 1000000",
    ),
    "a tokenizer that Rust panics at": (
        set_in("tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "(PanicException: ",
    ),
    "damaged weights": (lambda f: (f / "model.safetensors").write_bytes(b"xx"), "the weights of "),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_checkpoint_is_one_line(case: str, published: Path, tmp_path: Path) -> None:
    spoil, expected = DAMAGED[case]
    shutil.copytree(published / "clip", tmp_path / "copy")
    spoil(tmp_path / "copy")
    if not expected:  # what no score depends on
        load_scorer(tmp_path / "copy", device="cpu")
        return
    with pytest.raises(InputError) as caught:
        load_scorer(tmp_path / "copy", device="cpu")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def copied_run(run: Path, folder: Path, spoil: Callable[[Path], object]) -> Path:
    copied = folder / "copy"
    shutil.copytree(run, copied)
    spoil(copied)
    return copied


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "unfinished": (lambda f: (f / "weights.safetensors").unlink(), "is no finished run (no weights.safetensors)"),
    "of another verb": (
        lambda f: ((f / "weights.safetensors").unlink(), (f / "config.yaml").write_text("rule: overlap\n")),
        "is no folder of a training; give one that `itm train` wrote",
    ),
    "exported": (lambda f: (f / "scorer.json").write_text("{}"), "is an exported scorer, and no run"),
    "no processor": (lambda f: shutil.rmtree(f / "processor"), "lacks its processor/"),
    "damaged weights": (
        lambda f: (f / "weights.safetensors").write_bytes(b"no weights"),
        "is no readable safetensors file",
    ),
    "no configuration": (lambda f: (f / "config.yaml").unlink(), "config.yaml is no configuration of a run"),
    "a configuration that is no YAML": (
        lambda f: (f / "config.yaml").write_text("a: [\n"),
        "config.yaml is no configuration of a run",
    ),
    "no model": (lambda f: (f / "config.yaml").write_text("a: 1\n"), "config.yaml is no configuration of a run"),
    "another model": (
        lambda f: (f / "config.yaml").write_text("model: {backbone: llava, tiny: {image_size: 16}}\n"),
        "weights.safetensors does not fit the model: ",
    ),
    "settings from elsewhere": (
        lambda f: (f / "config.yaml").write_text("model: {backbone: '${oc.env:HOME}'}\n"),
        f"`model.backbone` must be one of {', '.join(REGISTERED)}, got '${{oc.env:HOME}}'",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_run_that_cannot_be_loaded_is_one_line(case: str, run: Path, tmp_path: Path) -> None:
    spoil, expected = SPOILT[case]
    with pytest.raises(InputError) as caught:
        load_scorer(copied_run(run, tmp_path, spoil), device="cpu")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_run_is_told_what_it_is(published: Path, tmp_path: Path) -> None:
    checkpoint = published / "clip"
    with pytest.raises(InputError, match=rf"is a checkpoint, and no run; .*`itm score model.checkpoint={checkpoint}`"):
        check_finished(checkpoint)
    (tmp_path / "pairs.csv").touch()
    with pytest.raises(InputError, match="is no folder of a training; give one that `itm train` wrote"):
        check_finished(tmp_path)


def test_what_is_no_scorer_is_one_line(tmp_path: Path) -> None:
    file, empty, other, adapters = (tmp_path / name for name in ("file.txt", "empty", "opt", "adapters"))
    file.write_text("x")
    for folder, name in ((empty, "notes.txt"), (other, "config.json"), (adapters, "adapter_config.json")):
        folder.mkdir()
        (folder / name).write_text('{"model_type": "opt"}')
    cases = {
        str(file): "is no folder; give the folder of a finished `itm train`",
        str(tmp_path / "nothing"): "nothing is no folder",
        str(empty): "holds neither config.yaml nor config.json",
        str(other): "is a checkpoint of type 'opt'; a scorer is made of llava, qwen2_vl, ",
        str(adapters): "holds no exported adapters",
        "no-such/model": "there is no folder no-such/model, and no such model on the hub",
    }
    for path, expected in cases.items():
        with pytest.raises(InputError) as caught:
            load_scorer(path, device="cpu")
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"device": "toaster"}, "device must be one that this machine has, got 'toaster'"),
        ({"device": "meta"}, "device must be one that this machine has, got 'meta'"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16, got 'int8'"),
        ({"dtype": torch.int8}, "dtype must be one of float32, bfloat16, float16, got torch.int8"),
    ],
)
def test_a_device_or_dtype_that_is_not_there_is_told_before_anything_is_loaded(
    settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError) as caught:
        load_scorer("no-such/model", **settings)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
