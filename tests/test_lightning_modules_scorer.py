"""Scoring from Python: the same scores as `itm score`, whatever pairs come together, and one line for what is wrong."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import lightning_modules
from datamodules.batch import CaptionTooLongError, ImageTextBatch, InputError
from experiments.__main__ import main
from lightning_modules import Scorer, load_scorer
from lightning_modules.scorer_file import ScorerSettings, parse_scorer_settings
from tests.backbones import BACKBONES, save_published
from tests.tiny import CAPTIONS, TINY_OVERRIDES, photo, row, tiny_tables

IMAGES = [photo(seed) for seed in range(3)]


@pytest.fixture(params=BACKBONES, scope="module")
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return Scorer(BACKBONES[request.param].build(), device="cpu")


@pytest.fixture(scope="module")
def clip() -> Scorer:
    return Scorer(BACKBONES["clip"].build(), device="cpu")


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


@torch.no_grad()
def slow_logits(scorer: Scorer, image: int, caption: str) -> float:
    """One pair by the module itself."""
    return float(scorer.module.logits(scorer.module.collator()([row(image, [caption])]))[0, 0])


# what is computed


def test_a_pair_is_a_float_and_the_score_of_its_logit(scorer: Scorer) -> None:
    logit, score = scorer.logits(IMAGES[0], CAPTIONS[0]), scorer.score(IMAGES[0], CAPTIONS[0])
    assert type(logit) is type(score) is float
    assert logit == pytest.approx(slow_logits(scorer, 0, CAPTIONS[0]), abs=1e-6)
    assert score == pytest.approx(float(scorer.module.score(torch.tensor(logit))), abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_what_is_scored_together_changes_no_logit(scorer: Scorer, batch_size: int) -> None:
    places = [0, 1, 0, 2, 0, 1, 1, 0, 0]
    captions = [CAPTIONS[place % len(CAPTIONS)] for place in range(len(places))]
    expected = [slow_logits(scorer, image, caption) for image, caption in zip(places, captions, strict=True)]
    found = scorer.logits([IMAGES[image] for image in places], captions, batch_size=batch_size)
    assert isinstance(found, torch.Tensor)
    assert (found.shape, found.dtype) == ((9,), torch.float32)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in expected}) > 5, "the pairs must differ for this to tell"


@pytest.mark.parametrize(("images", "captions"), [(3, 5), (3, 2), (1, 5), (3, 1)])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_matrix_holds_every_pair(scorer: Scorer, images: int, captions: int, batch_size: int) -> None:
    pairs = [[slow_logits(scorer, image, text) for text in CAPTIONS[:captions]] for image in range(images)]
    found = scorer.logits(IMAGES[:images], CAPTIONS[:captions], matrix=True, batch_size=batch_size)
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found, torch.tensor(pairs), atol=1e-5, rtol=0)
    scores = scorer.score(IMAGES[:images], CAPTIONS[:captions], matrix=True, batch_size=batch_size)
    torch.testing.assert_close(scores, scorer.module.score(found), atol=1e-6, rtol=0)


def count_calls(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many images and captions the collator has seen."""
    seen = {"images": 0, "captions": 0, "batches": 0}
    collate = scorer.module.collator()

    def counted(rows: Any) -> ImageTextBatch:
        seen["batches"] += 1
        seen["images"] += len(rows)
        seen["captions"] += sum(len(item.captions) for item in rows)
        return collate(rows)

    monkeypatch.setattr(scorer.module, "collator", lambda: counted)
    return seen


def test_an_image_is_computed_once_for_its_captions(clip: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_calls(clip, monkeypatch)
    clip.score([IMAGES[0], IMAGES[1]] * 8, CAPTIONS[:1] * 16)
    assert seen == {"images": 2, "captions": 16, "batches": 1}
    clip.score(IMAGES[0], CAPTIONS[:1] * 17, batch_size=20)
    assert seen == {"images": 4, "captions": 33, "batches": 2}, "a row holds 16 captions"


def test_a_matrix_of_clip_encodes_each_image_and_each_caption_once(
    clip: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_calls(clip, monkeypatch)
    clip.score(IMAGES, CAPTIONS * 2, matrix=True, batch_size=4)
    assert (seen["images"], seen["captions"]) == (3, 10)


def test_shapes_follow_the_arguments(clip: Scorer) -> None:
    image, caption = IMAGES[0], CAPTIONS[0]

    def shape(*arguments: Any, **settings: Any) -> tuple[int, ...]:
        return tuple(clip.score(*arguments, **settings).shape)  # type: ignore[union-attr]

    assert shape([image], [caption]) == shape(image, [caption]) == shape([image], caption) == (1,)
    assert shape(image, CAPTIONS) == shape([image] * 5, caption) == shape(iter([image] * 5), iter(CAPTIONS)) == (5,)
    assert shape(image, caption, matrix=True) == (1, 1)
    assert shape([image, image], CAPTIONS, matrix=True) == (2, 5)
    assert shape([], []) == shape(image, []) == shape([], caption) == (0,)
    assert shape([], CAPTIONS, matrix=True) == (0, 5)
    assert shape(image, [], matrix=True) == (1, 0)


def test_an_image_is_the_same_as_object_path_and_array(clip: Scorer, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    IMAGES[0].save(path)
    given = [IMAGES[0], path, str(path), np.asarray(IMAGES[0]), IMAGES[0].convert("RGBA")]
    assert len(set(clip.logits(given, CAPTIONS[0]).tolist())) == 1  # type: ignore[union-attr]


def test_scores_are_plain_tensors_and_gradients_and_autocast_stay_outside(scorer: Scorer) -> None:
    expected = scorer.score(IMAGES, CAPTIONS[:3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = scorer.score(IMAGES, CAPTIONS[:3])
    assert isinstance(scores, torch.Tensor)
    assert torch.equal(scores, expected)  # type: ignore[arg-type]
    assert not scores.is_inference()
    assert not scores.requires_grad
    scores.requires_grad_().sum().backward()


def test_copies_share_the_model(clip: Scorer) -> None:
    assert copy.deepcopy(clip).module is clip.module
    assert repr(clip) == "Scorer(clip, torch.float32, cpu)"


def test_cut_captions_are_counted(clip: Scorer) -> None:
    before = clip.module.captions_cut
    clip.score(IMAGES[0], ["a dog", "dog " * 100])
    assert clip.module.captions_cut == before + 1


# what can be loaded


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


def test_scorer_json_names_the_score_of_blip2(published: Path, tmp_path: Path) -> None:
    content = {"format": 1, "backbone": "blip2", "model": {"score": "itc"}}
    scorer = load_scorer(exported(published, tmp_path, "blip2", content), device="cpu")
    saved = Scorer(BACKBONES["blip2"].build(score="itc"), device="cpu")
    torch.testing.assert_close(scorer.score(IMAGES, CAPTIONS[:3]), saved.score(IMAGES, CAPTIONS[:3]))


def test_a_name_on_the_hub_brings_its_scorer_json(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "hub/models--some--scorer"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("abc")
    content = {"format": 1, "backbone": "blip2", "model": {"score": "itc"}}
    (cached / "snapshots").mkdir()
    exported(published, tmp_path, "blip2", content).rename(cached / "snapshots/abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load_scorer("some/scorer", device="cpu").module.score_name == "itc"
    (cached / "snapshots/abc/scorer.json").unlink()
    assert load_scorer("some/scorer", device="cpu").module.score_name == "itm"


GOOD = {"format": 1, "backbone": "clip"}
BAD_FILES: dict[str, tuple[Any, str]] = {
    "a list": ([], "must hold a mapping, got []"),
    "no format": ({"backbone": "clip"}, "format must be 1, got None"),
    "a newer format": ({**GOOD, "format": 2, "new": 1}, "format must be 1, got 2; update itm-lightning"),
    "a format that is true": ({**GOOD, "format": True}, "format must be 1, got True"),
    "an unknown key": ({**GOOD, "code": "x"}, "there is no key 'code'; known are format, backbone, model, dtype"),
    "an unknown backbone": ({**GOOD, "backbone": "opt"}, "backbone must be one of llava, blip2, clip, got 'opt'"),
    "a backbone that is a list": ({**GOOD, "backbone": ["clip"]}, "backbone must be one of llava, blip2, clip"),
    "a dtype that is a name of something else": ({**GOOD, "dtype": "load"}, "dtype must be one of float32, bfloat16"),
    "a model that is text": ({**GOOD, "model": "clip"}, "model must be a mapping, got 'clip'"),
    "a checkpoint of another place": ({**GOOD, "model": {"checkpoint": "x/y"}}, "model has no key 'checkpoint'"),
    "a key over two lines": ({**GOOD, "model": {"a\nb": 1}}, "model has no key 'a\\nb'"),
    "a number as text": ({**GOOD, "model": {"max_text_tokens": "9"}}, "model.max_text_tokens must be int, got '9'"),
    "a setting of another backbone": ({**GOOD, "model": {"score": "itc"}}, "model.score belongs to blip2"),
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
        ({**GOOD, "model": {"activation": "relu"}}, "model.activation must be one of quick_gelu, gelu, got 'relu'"),
    ],
)
def test_a_scorer_json_that_does_not_fit_is_one_line(
    content: Any, expected: str, published: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        load_scorer(exported(published, tmp_path, "clip", content), device="cpu")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def copied_run(run: Path, folder: Path, spoil: Callable[[Path], object]) -> Path:
    copied = folder / "copy"
    shutil.copytree(run, copied)
    spoil(copied)
    return copied


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "unfinished": (lambda f: (f / "weights.safetensors").unlink(), "is no finished run (no weights.safetensors)"),
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
        lambda f: (f / "config.yaml").write_text("model: {backbone: llava}\n"),
        "weights.safetensors does not fit the model: ",
    ),
    "settings from elsewhere": (
        lambda f: (f / "config.yaml").write_text("model: {backbone: '${oc.env:HOME}'}\n"),
        "model.backbone must be one of llava, blip2, clip, got '${oc.env:HOME}'",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_run_that_cannot_be_loaded_is_one_line(case: str, run: Path, tmp_path: Path) -> None:
    spoil, expected = SPOILT[case]
    with pytest.raises(InputError) as caught:
        load_scorer(copied_run(run, tmp_path, spoil), device="cpu")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


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
        str(other): "is a checkpoint of type 'opt'; a scorer is made of llava, blip-2, clip.",
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


# what is no image, no caption, or does not go together

DOG = "a dog"
BAD_PAIRS: dict[str, tuple[tuple[Any, Any], str]] = {
    "different lengths": (
        (IMAGES[:2], CAPTIONS[:3]),
        "images and captions must be as many, got 2 and 3; matrix=True scores each image with each caption.",
    ),
    "one in a list beside more": ((IMAGES[:1], CAPTIONS[:3]), "must be as many, got 1 and 3"),
    "no caption": (([*IMAGES], [DOG, None, DOG]), "captions[1] must be a str, got NoneType."),
    "swapped": ((DOG, IMAGES[0]), "captions must be a str or a list of str, got Image."),
    "a number": ((3, DOG), "images must be a Pillow image, a path, an RGB array or a list of these, got int."),
    "a tensor": ((torch.zeros(3, 4, 4), DOG), "images must be a Pillow image, a path, an RGB array or a list of"),
    "none among images": (([IMAGES[0], None], DOG), "images[1] must be a Pillow image, a path or an RGB array, got"),
    "no file": (([IMAGES[0], "no/such.png"], DOG), "images[1]: there is no file 'no/such.png'"),
    "a folder": ((Path("/"), DOG), "images: there is no file '/'"),
    "an array of floats": ((np.zeros((4, 4, 3)), DOG), "images must be an array [H, W, 3] of uint8, got [4, 4, 3] of"),
    "channels first": (([np.zeros((3, 8, 4), np.uint8)], DOG), "images[0] must be an array [H, W, 3] of uint8, got"),
    "no pixels": (([Image.new("RGB", (0, 4))], DOG), "images[0] has no pixels: its size is (0, 4)."),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_bad_pairs_are_one_line_with_their_place(case: str, clip: Scorer) -> None:
    (images, captions), expected = BAD_PAIRS[case]
    with pytest.raises(InputError) as caught:
        clip.score(images, captions)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_file_is_one_line_with_its_place(clip: Scorer, tmp_path: Path) -> None:
    good, broken, text = tmp_path / "good.png", tmp_path / "broken.png", tmp_path / "text.png"
    photo(0, 64, 64).save(good)
    broken.write_bytes(good.read_bytes()[:2000])
    text.write_text("no image")
    for bad in (broken, text, Image.open(broken)):
        with pytest.raises(InputError, match=r"^images\[2\].* cannot be read as an image \(") as caught:
            clip.score([good, good, bad], "a dog", batch_size=1)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True])
def test_a_batch_holds_at_least_a_pair(clip: Scorer, batch_size: Any) -> None:
    with pytest.raises(InputError, match="batch_size must be a whole number from 1"):
        clip.score(IMAGES[0], CAPTIONS[0], batch_size=batch_size)


def test_a_logit_that_is_not_finite_is_no_score() -> None:
    scorer = Scorer(BACKBONES["clip"].build(), device="cpu")
    torch.nn.init.constant_(scorer.module.network.clip.text_projection.weight, float("nan"))  # type: ignore[union-attr, arg-type]
    for matrix in (False, True):
        with pytest.raises(InputError, match=r"images\[0\] and captions\[0\] is not finite"):
            scorer.score(IMAGES, CAPTIONS[:3], matrix=matrix)


# the package


def test_the_package_stays_light_and_lists_what_it_offers() -> None:
    code = "import sys, lightning_modules as l\nassert 'load_scorer' in dir(l)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(lightning_modules.__all__) == set(lightning_modules._HOMES)
    assert all(callable(getattr(lightning_modules, name)) for name in lightning_modules.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lightning_modules.nothing  # noqa: B018
