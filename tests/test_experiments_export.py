"""Exported folders: vanilla libraries score as the training did, and what a card says is true and harmless."""

from __future__ import annotations

import copy
import html
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from PIL import ExifTags, Image, ImageOps
from transformers import AutoProcessor
from transformers.utils import logging as transformers_logging
from transformers.video_processing_utils import BaseVideoProcessor

from datamodules.batch import UNKNOWN, ImageTextRow
from datamodules.mixing_settings import Curriculum, Mixing
from datamodules.pixels import read_rgb
from experiments.__main__ import main
from experiments.build import load_run
from experiments.config.data_schemas import DataConfig
from experiments.config.schemas import ExperimentConfig
from experiments.report.card import Card, Licence, render_card
from experiments.report.card_sources import (
    MEASURED,
    Certified,
    Evaluation,
    TableSource,
    find_certificate,
    find_evaluations,
    table_sources,
)
from experiments.report.csv_files import csv_text
from experiments.report.training_recipe import recipe, row_of_training
from experiments.verbs import export
from lightning_modules import load_scorer
from lightning_modules.backbones.chat.table import FAMILIES
from lightning_modules.backbones.model_section import model_settings
from lightning_modules.backbones.published import load_processor
from negatives.filtering.certificate import Certificate, Kept
from negatives.filtering.lessons import Lesson
from negatives.filtering.teaching import Learner
from negatives.tables.captions import InputError, write_json, write_text
from tests.backbones import BACKBONES, save_published
from tests.tiny import CAPTIONS, TINY_OVERRIDES, photo, tiny_backbone, tiny_tables

LONG = " ".join(["two cats and a dog sleep on an old sofa (on its back);"] * 12)
LONG_CONTEXT = ("llava-lora", "chat_vlm-lora")
"""Runs that read all of it."""
PAIRS = [
    *(((16, 16), caption) for caption in CAPTIONS),
    ((41, 17), CAPTIONS[0]),
    ((13, 37), 'A "Red" circle; left of <image> a dog.'),
    ((24, 16), LONG),
]
"""Sizes of an image, square and not, and a caption: plain, with marks and special tokens, too long."""
RUN_CARDS = r"""
import json, os, re, sys
from PIL import ExifTags, Image
work = json.load(sys.stdin)
scores = {}
for folder in work["folders"]:
    os.chdir(folder)
    text = open("README.md", encoding="utf-8").read()
    (block,) = re.findall(r"^```python\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)
    card = {"__name__": "card"}
    exec(compile(block, folder, "exec"), card)
    pairs = [(Image.open(image), caption) for image, caption in work["pairs"]]
    scores[folder] = [[card["score"](*pair), float(card["match_logit"](*pair))] for pair in pairs]
ours = {"lightning_modules", "datamodules", "negatives", "experiments", "lightning"}
assert not ours & set(sys.modules), ours & set(sys.modules)
json.dump(scores, sys.stdout)
"""


def train_words(tables: Path, backbone: str, output: Path, *words: str) -> list[str]:
    data = [f"data.{name}={tables / 'train' / f'{name}.parquet'}" for name in ("captions", "negatives")]
    base = ["train", f"experiments/configs/{BACKBONES[backbone].config}.yaml", f"model.backbone={backbone}", *data]
    return [*base, f"output_dir={output}", f"name={backbone}", *TINY_OVERRIDES, "logging.wandb=disabled", *words]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    tiny_tables(folder)
    return folder


@pytest.fixture(scope="module")
def run(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP trained for one step from scratch."""
    folder = tmp_path_factory.mktemp("runs") / "clip"
    assert main(train_words(tables, "clip", folder)) == 0
    return folder


@pytest.fixture(scope="module")
def adapted(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of a CLIP trained for one step; their base is the folder `base` beside them, `other` another one."""
    folder = tmp_path_factory.mktemp("adapted")
    for name, seed in (("base", 0), ("other", 1)):
        save_published(BACKBONES["clip"].build(seed=seed), folder / name)
    lora = [f"model.checkpoint={folder / 'base'}", "model.tune=lora", "model.adapter.rank=2"]
    assert main(train_words(tables, "clip", folder / "run", *lora)) == 0
    return folder / "run"


@pytest.fixture
def exported(run: Path, tmp_path: Path) -> Path:
    assert main(["export", str(run), f"output_dir={tmp_path / 'export'}"]) == 0
    return tmp_path / "export"


@torch.no_grad()
def scores_in_training(run: Path, images: list[Path]) -> torch.Tensor:
    """(pairs, 2): score and match logit by the trained module, pair by pair."""
    module, _ = load_run(run)
    found = []
    for path, (_, caption) in zip(images, PAIRS, strict=True):
        item = ImageTextRow("image", read_rgb(path), ["text"], [caption], [UNKNOWN], [""])
        batch = module.collator()([item])
        assert caption != LONG or run.name in LONG_CONTEXT or batch.inputs["cut"].any(), "cutting is tried too"
        logits = module.logits(batch)
        found.append([float(module.score(logits)), float(logits)])
    return torch.tensor(found)


@pytest.mark.slow
def test_the_code_on_a_card_scores_as_the_training_did(tables: Path, tmp_path: Path) -> None:
    images = [tmp_path / f"{index}.png" for index in range(len(PAIRS))]
    for index, (path, (size, _)) in enumerate(zip(images, PAIRS, strict=True)):
        photo(index, *size).save(path)
    # half of one is transparent, and a camera turned it
    turned = Image.open(images[0]).convert("RGBA")
    turned.putalpha(Image.linear_gradient("L").resize(turned.size))
    turned.getexif()[ExifTags.Base.Orientation] = 6
    turned.save(images[0], exif=turned.getexif())
    expected, tolerance = {}, {}
    for backbone, tiny in BACKBONES.items():
        save_published(tiny.build(), tmp_path / "base" / backbone)
        full = [word.format(base=tmp_path / "base" / backbone) for word in tiny.export]
        lora = [f"model.checkpoint={tmp_path / 'base' / backbone}", "model.tune=lora", "model.adapter.rank=2"]
        lora += ["model.train_vision=false", "optim.lr=0.02"]  # so that all that trains moves a score
        for kind, words in {"full": full, "lora": lora}.items():
            folder = tmp_path / f"{backbone}-{kind}"
            assert main(train_words(tables, backbone, folder, *words, "trainer.max_steps=2")) == 0
            trained = scores_in_training(folder, images)
            for merge in (False, True) if kind == "lora" else (False,):
                output = tmp_path / f"{backbone}-{kind}-{merge}"
                assert main(["export", str(folder), f"output_dir={output}", f"merge={merge}"]) == 0
                expected[str(output)], tolerance[str(output)] = trained, 1e-5 if merge else 1e-6
    work = {
        "folders": list(expected),
        "pairs": [(str(path), caption) for path, (_, caption) in zip(images, PAIRS, strict=True)],
    }
    command = [sys.executable, "-I", "-c", RUN_CARDS]
    done = subprocess.run(command, input=json.dumps(work), capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    for folder, found in json.loads(done.stdout).items():
        scores, logits = torch.tensor(found).unbind(1)
        own_scores, own_logits = expected[folder].unbind(1)
        assert len(own_scores.unique()) > len(PAIRS) // 2, "scores differ, so that they can be mistaken"
        name, allowed = Path(folder).name, tolerance[folder]
        assert (scores - own_scores).abs().max() < allowed, name
        assert (logits - own_logits).abs().max() < 20 * allowed, f"{name}: CLIP's logits are its cosines times 14"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_code_on_a_card_scores_every_family(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_backbone("chat_vlm", family=family, max_text_tokens=200)
    copy.deepcopy(module).to_transformers().save_pretrained(tmp_path)
    module.plain_processor().save_pretrained(tmp_path)
    scorer = {"format": 1, "backbone": "chat_vlm", "model": module.scorer_settings(), "dtype": "float32"}
    experiment = ExperimentConfig(name="a")
    experiment.model = model_settings({"backbone": "chat_vlm"})
    text = render_card(
        Card(experiment, scorer, merged=False, licence=Licence("mit", "MIT", ""), image_backend="pil"), edge=16
    )
    if find_spec("torchvision") is None and "video_processor" in (tmp_path / "processor_config.json").read_text():
        # Transformers' own wants torchvision, for videos
        monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda folder, backend: load_processor(folder))
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)
    card: dict[str, Any] = {"__name__": "card"}
    exec(block, card)
    for index, (size, caption) in enumerate(PAIRS):
        image, ending = photo(index, *size), module.processor.tokenizer.eos_token
        item = ImageTextRow("image", image, ["text"], [f"{caption}{ending} b"], [UNKNOWN], [""])
        with torch.no_grad():
            logit = module.logits(module.collator()([item]))
        assert abs(card["match_logit"](image, f"{caption}{ending} b") - float(logit)) < 1e-5


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "internvl", "llava_onevision"])
def test_an_export_names_a_video_processor(family: str, tmp_path: Path) -> None:
    processor = tiny_backbone("chat_vlm", family=family).plain_processor()
    processor.save_pretrained(tmp_path)
    found, _ = BaseVideoProcessor.get_video_processor_dict(tmp_path)
    assert hasattr(transformers, found["video_processor_type"])
    # what a checkpoint says of videos is kept
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    saved["video_processor"] |= {"fps": 3}
    (tmp_path / "processor_config.json").write_text(json.dumps(saved))
    load_processor(tmp_path).save_pretrained(tmp_path / "again")
    assert BaseVideoProcessor.get_video_processor_dict(tmp_path / "again")[0] == {**found, "fps": 3}


def test_an_exported_folder_says_what_it_is(exported: Path) -> None:
    assert json.loads((exported / "scorer.json").read_text()) == {
        "format": 1,
        "backbone": "clip",
        "model": {"activation": "quick_gelu", "max_text_tokens": 77, "long_captions": "truncate"},
        "dtype": "float32",
    }
    card = (exported / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["library_name"]) == ("apache-2.0", "transformers")
    assert "base_model" not in front
    assert "It was not evaluated." in card
    assert "There is no certificate" in card
    assert "| loss | itc |" in card
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= names(exported)


def test_the_code_on_a_card_refuses_another_base(
    adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, other = adapted.with_name("base"), adapted.with_name("other")
    assert main(["export", str(adapted), f"output_dir={tmp_path / 'export'}"]) == 0
    monkeypatch.chdir(tmp_path / "export")
    block = Path("README.md").read_text().split("```python\n")[1].split("\n```\n")[0]
    exec(block, {"__name__": "card"})
    with pytest.raises(AssertionError, match="holds other weights than in training"):
        exec(block.replace(str(base), str(other)), {"__name__": "card"})


def holding(folder: Path, words: str) -> set[str]:
    """The files in a folder that hold these words."""
    return {path.name for path in folder.rglob("*") if path.is_file() and words.encode() in path.read_bytes()}


def test_an_export_names_no_folder_of_the_machine(
    run: Path, adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path.parent)  # of all folders here
    assert str(run).startswith(root)
    assert str(adapted).startswith(root)
    for source, output, words in ((run, "whole", []), (adapted, "merged", ["merge=true"])):
        command = ["export", str(source), f"output_dir={tmp_path / output}", *words]
        monkeypatch.setattr(sys, "argv", ["itm", *command])
        assert main(command) == 0
        assert holding(tmp_path / output, root) == set()
        assert "argv" not in json.loads((tmp_path / output / "provenance.json").read_text())
    assert "Adapters (LoRA) were added to the weights of base;" in (tmp_path / "merged/README.md").read_text()


def test_adapters_on_a_local_base_name_it_where_they_load_it_and_say_so(adapted: Path, tmp_path: Path) -> None:
    assert main(["export", str(adapted), f"output_dir={tmp_path / 'export'}"]) == 0
    assert holding(tmp_path / "export", str(tmp_path.parent)) == {"README.md", "scorer.json", "adapter_config.json"}
    card = (tmp_path / "export/README.md").read_text()
    prose, code = card.split("```python\n")[0], card.split("```python\n")[1].split("\n```\n")[0]
    assert card.count(str(tmp_path.parent)) == 1
    assert f"BASE = {str(adapted.with_name('base'))!r}" in code
    assert "they belong to base and to" in prose
    assert "That base is a local folder of who trained this: before publishing, replace it" in prose


def test_an_export_is_resumed_by_its_own_configuration_only(
    run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", f"output_dir={exported}", "--resume"]
    assert main([*words, str(run), "merge=true"]) == 2
    assert "another `merge`" in capsys.readouterr().err
    elsewhere = tmp_path / "elsewhere" / run.name  # of the same name
    shutil.copytree(run, elsewhere)
    assert main([*words, str(elsewhere)]) == 2
    assert "another `run`" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["score", "neighbours", "train"])
def test_adapters_are_refused_by_one_line_where_a_whole_model_is_needed(
    verb: str, adapted: Path, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(adapted), f"output_dir={tmp_path / 'export'}"]) == 0
    capsys.readouterr()
    checkpoint = f"model.checkpoint={tmp_path / 'export'}"
    table = [f"captions={tables / 'train/captions.parquet'}", f"output_dir={tmp_path / 'out'}"]
    words = train_words(tables, "clip", tmp_path / "out") if verb == "train" else [verb, *table]
    assert main([*words, checkpoint]) == 2
    error = capsys.readouterr().err
    assert "holds adapters alone, and a whole model is needed; export the run with merge=true" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_card_names_its_data_without_the_folders_of_the_machine(exported: Path, tables: Path) -> None:
    card = (exported / "README.md").read_text()
    assert re.search(r"captions: train/captions.parquet, \d+ rows", card)
    assert str(tables) not in card


def test_an_existing_folder_needs_overwrite(run: Path, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(run), f"output_dir={exported}"]
    assert main(words) == 2
    assert "exists" in capsys.readouterr().err
    (exported / "of the old one").touch()
    assert main([*words, "--resume"]) == 0
    assert "nothing to resume" in capsys.readouterr().out
    assert main([*words, "--overwrite"]) == 0
    assert not (exported / "of the old one").exists()
    assert names(exported.parent) == {"export"}, "nothing is left beside it"


def test_an_export_that_fails_leaves_what_was_there(
    run: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (exported / "provenance.json").read_bytes()

    def fail(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "render_card", fail)
    for output, flags in ((tmp_path / "new", []), (exported, ["--overwrite"])):
        assert main(["export", str(run), f"output_dir={output}", *flags]) == 130
    assert names(tmp_path) == {"export"}
    assert (exported / "provenance.json").read_bytes() == before


def test_a_kill_while_the_folders_change_places_loses_nothing(
    run: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (exported / "provenance.json").read_bytes()
    exported.rename(tmp_path / ".export.before")  # what a kill after the first of two renames leaves

    def fail(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "render_card", fail)
    assert main(["export", str(run), f"output_dir={exported}"]) == 130
    assert names(tmp_path) == {"export"}
    assert (exported / "provenance.json").read_bytes() == before


def test_an_unfinished_run_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    assert main(["export", str(unfinished), f"output_dir={tmp_path / 'export'}"]) == 2
    assert "is no finished run" in capsys.readouterr().err
    assert names(tmp_path) == {"unfinished"}


def test_a_run_is_refused_on_a_base_that_has_changed(
    adapted: Path, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_scorer(adapted, device="cpu").backbone == "clip"
    base, aside = adapted.parent / "base", tmp_path / "aside"
    base.rename(aside)
    shutil.copytree(adapted.parent / "other", base)
    pairs = [f"evaluation.sets.b.{key}={tables / 'balanced' / f'{key}.parquet'}" for key in ("captions", "negatives")]
    words = [f"model.checkpoint={base}", "model.tune=lora", "model.adapter.rank=2"]
    try:
        with pytest.raises(InputError, match=r"base holds other weights \(\w+\) than when .*run was trained on it"):
            load_scorer(adapted, device="cpu")
        (adapted / "weights.safetensors").rename(tmp_path / "weights")  # as if it had not ended
        assert main([*train_words(tables, "clip", adapted, *words), "--resume"]) == 2
        (tmp_path / "weights").rename(adapted / "weights.safetensors")
        for command in (["evaluate", str(adapted), *pairs], ["export", str(adapted), f"output_dir={tmp_path / 'e'}"]):
            assert main(command) == 2
        assert capsys.readouterr().err.count("holds other weights") == 3
    finally:
        shutil.rmtree(base)
        aside.rename(base)


def test_a_run_is_scored_with_its_own_processor(adapted: Path, tables: Path) -> None:
    image, caption = next((tables / "balanced/images").iterdir()), "a red circle"
    before = load_scorer(adapted, device="cpu").score(image, caption)
    config = adapted.parent / "base/preprocessor_config.json"
    if not config.is_file():
        config = adapted.parent / "base/processor_config.json"
    kept = config.read_text(encoding="utf-8")
    try:
        config.write_text(kept.replace("0.48145466", "0.1"), encoding="utf-8")
        assert config.read_text(encoding="utf-8") != kept
        assert load_scorer(adapted, device="cpu").score(image, caption) == before
    finally:
        config.write_text(kept, encoding="utf-8")


def test_an_export_does_not_replace_its_base(
    exported: Path, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"model.checkpoint={exported}", "model.tune=lora", "model.adapter.rank=2"]
    assert main(train_words(tables, "clip", tmp_path / "run", *words)) == 0
    before = names(exported)
    assert main(["export", str(tmp_path / "run"), f"output_dir={exported}", "merge=true", "--overwrite"]) == 2
    assert "`output_dir` must not be in the base of the run" in capsys.readouterr().err
    assert names(exported) == before


def test_a_dry_run_prints_and_writes_nothing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), f"output_dir={tmp_path / 'export'}", "--dry-run"]) == 0
    assert "merge: false" in capsys.readouterr().out
    assert names(tmp_path) == set()


HOSTILE = "x`\n# <img src=x onerror=alert(1)> [a](javascript:b) | *c* ---\u202e{{ 7*7 }} https://a.b www.a.b a@b.c"


def hostile_card(backbone: str = "llava", **changed: str) -> str:
    """A card whose every name, path, question and note wants to be Markdown, HTML, YAML or Python."""
    experiment = ExperimentConfig(name=HOSTILE)
    experiment.model = model_settings({"backbone": backbone, "checkpoint": HOSTILE})
    experiment.data.verdicts, experiment.data.neighbours, experiment.data.subset = HOSTILE, HOSTILE, "kept"
    experiment.data.debias, experiment.data.debias_strength = "offset", {HOSTILE: 2.0, "default": 0.5}
    quoting = '\'"""\n```\nraise SystemExit(7)\n{caption}'
    settings = BACKBONES[backbone].build().scorer_settings()
    settings |= {"system": HOSTILE, "question": quoting} if "question" in settings else {}
    settings |= {"max_text_tokens": 77, **changed}
    scorer = {"format": 1, "backbone": backbone, "model": settings, "dtype": "float32"}
    scorer["base"] = {"checkpoint": quoting, "weights": "0123456789abcdef"}
    row = dict.fromkeys(("set", "negative_type", "pairs"), HOSTILE)
    row |= dict.fromkeys(("accuracy", "low", "high", "blind_accuracy", "blind_low", "blind_high"), "0.500")
    probe = {"judge": HOSTILE, "estimand": HOSTILE, "value": "0.500", "interval": "– – –", "random": "0.750"}
    lesson = {"learner": HOSTILE, "group": HOSTILE, "value": "0.500", "interval": "– – –", "random": "0.625"}
    certificate = Certified(HOSTILE, HOSTILE, False, [HOSTILE], {"pairs": "1 of 2"}, [probe], [lesson])
    card = Card(
        experiment,
        scorer,
        merged=False,
        licence=Licence(HOSTILE, HOSTILE, HOSTILE),
        image_backend="pil",
        parameters=[HOSTILE],
        others={HOSTILE: 0.07},
        tables=[TableSource(HOSTILE, HOSTILE, None)],
        certificate=certificate,
        evaluations=[Evaluation(HOSTILE, [row], HOSTILE)],
        provenance={"git": {"commit": HOSTILE, "dirty": True}, "packages": {HOSTILE: HOSTILE}},
    )
    return render_card(card, edge=16)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_hostile_words_on_a_card_are_only_words(backbone: str) -> None:
    text = hostile_card(backbone)
    (block,) = re.findall(r"^```python\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)
    compile(block, "card", "exec")
    assert not re.search(r"^\s*raise SystemExit", block, re.MULTILINE)
    prose = text.replace(block, "")
    front = yaml.safe_load(prose.split("\n---\n")[0])
    assert front["license"] == HOSTILE
    assert "base_model" not in front, "it is no name on the hub"
    prose = prose.split("\n---\n", 1)[1]
    for sign in ("<img", "](", "\u202e", "# &", "*c*", "{{"):
        assert sign not in prose
    assert "49" not in prose
    tables = [line.replace("\\|", "") for line in prose.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {3, 6, 8}, "no value splits a cell"
    assert prose.count("\n# ") == 1
    # as GFM finds addresses without marks; some renderers look once entities are characters
    assert not re.search(r"\w://|www\.|\w@\w", html.unescape(prose), re.IGNORECASE)


def test_the_code_on_a_card_refuses_the_pixels_that_it_would_cut_off() -> None:
    (code,) = re.findall(r"^def rgb.*?(?=^\n\n)", f"{hostile_card()}", re.DOTALL | re.MULTILINE)
    card: dict[str, Any] = {"Image": Image, "ImageOps": ImageOps}
    exec(code, card)
    assert card["rgb"](photo(0)).tobytes() == photo(0).tobytes()
    for mode in ("I", "F", "I;16", "I;16B"):
        with pytest.raises(ValueError, match="an image of 8 bits is needed"):
            card["rgb"](Image.new(mode, (2, 2), 300))


@pytest.mark.parametrize(
    ("name", "on_hub"),
    [
        ("me/no", True),
        ("1/2", True),
        ("null", True),
        ("me/clip\nlicense: mit", False),
        ('me/clip", "x": "', False),
        ("me/clip\u2028---", False),
        ("/home/me/clip", False),
        ("me/𝒸lip", False),
    ],
)
def test_only_a_name_on_the_hub_becomes_the_cards_base_model(name: str, on_hub: bool) -> None:
    experiment = ExperimentConfig(name="x")
    experiment.model = model_settings({"backbone": "clip", "checkpoint": name})
    settings = {"activation": "gelu", "max_text_tokens": 77, "long_captions": "truncate"}
    scorer: dict[str, object] = {"format": 1, "backbone": "clip", "model": settings, "dtype": "float32"}
    card = Card(experiment, scorer, merged=False, licence=Licence("mit", "MIT", ""), image_backend="pil")
    text = render_card(card, edge=16)
    front = yaml.safe_load(text.split("\n---\n")[0])
    assert front.get("base_model") == (name if on_hub else None)
    assert front["license"] == "mit"
    assert (card.base_is_local, "/home/me" in text) == (not on_hub, False)


def test_a_card_shows_the_certificate_and_the_blind_control() -> None:
    text = hostile_card()
    assert "**did not balance**" in text
    assert "| 0.500 | – – – | 0.750 |" in text
    assert "| 0.500 | – – – | 0.625 |" in text
    assert "Kept pairs: 1 of 2." in text
    assert "| 0.500 | 0.500 – 0.500 | 0.500 | 0.500 – 0.500 |" in text
    assert re.search(r"^\| text bias \| the filter.s judges answered .* 2, default 0\.5 \|$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("backbone", "changed"),
    [
        *[(backbone, {"long_captions": "error"}) for backbone in BACKBONES],
        ("blip2", {"score": "itc"}),
        ("blip2", {"score": "itm_itc"}),
        ("llava", {"loss": "binary"}),
    ],
)
def test_every_setting_makes_code_that_compiles(backbone: str, changed: dict[str, str]) -> None:
    block = hostile_card(backbone, **changed).split("```python\n")[1].split("\n```\n")[0]
    compile(block, "card", "exec")
    assert ("too long" in block) == (changed.get("long_captions") == "error" or backbone == "llava")


def test_a_card_reads_certificate_evaluation_and_provenance(run: Path, tmp_path: Path) -> None:
    certificate = Certificate(
        unit="pair",
        balanced=True,
        misses=[],
        retention={"pairs": Kept(54, 100), "texts": Kept(80, 200)},
        lessons=[
            Lesson(Learner("word", "pair"), "all", 0.507, 0.48, 0.53, 0.701, 0.71, 54),
            Lesson(Learner("char", "text"), "weak third", 0.512, 0.47, 0.56, 0.4, 0.3, 18),
        ],
        leaks=[Lesson(Learner("word", "pair"), "all", 0.333, 0.3, 0.4, 0.7, 0.71, 54)],
    )
    copy, filtered = tmp_path / "run", tmp_path / "filtered"
    shutil.copytree(run, copy)
    settings = (copy / "config.yaml").read_text()
    settings = settings.replace("verdicts: null", f"verdicts: {filtered}/verdicts.parquet")
    (copy / "config.yaml").write_text(settings.replace("subset: all", "subset: kept"))
    write_json({"rule": "overlap", "constant": None} | certificate.to_json(), filtered / "certificate.json")
    metrics = copy / "evaluation_held_out" / "metrics.csv"
    metrics.parent.mkdir()
    head = "set,negative_type,accuracy,low,high,blind_accuracy,blind_low,blind_high,pairs\n"
    metrics.write_text(f"{head}sugar,swap_obj,0.75,0.70,0.80,0.51,0.45,0.56,40\n")
    assert main(["export", str(copy)]) == 0
    card = (copy / "export/README.md").read_text()
    assert "**balanced** these texts by overlap (unit: pair)" in card
    assert "Kept pairs: 54 of 100." in card
    assert "| word, of pairs | all | 0.507 | 0.480 – 0.530 | 0.701 |" in card
    assert "| char, of texts | weak third | 0.512 | 0.470 – 0.560 | 0.400 |" in card
    assert "0.333" not in card, "what leaks is no fault"
    assert "probe" not in card, "of older certificates"
    assert "In evaluation_held_out:" in card
    assert "| sugar | swap_obj | 0.750 | 0.700 – 0.800 | 0.510 | 0.450 – 0.560 | 40 |" in card
    assert f"transformers {importlib.metadata.version('transformers')}" in card
    assert "not evaluated" not in card
    assert "no certificate" not in card
    metrics.write_text("something\nelse\n")
    assert main(["export", str(copy), "--overwrite"]) == 2
    (copy / "provenance.json").unlink()
    metrics.unlink()
    assert main(["export", str(copy), "--overwrite"]) == 0
    assert "| commit | not known |" in (copy / "export/README.md").read_text()


LESSON = {"judge": "word", "reads": "pair", "group": "all", "value": 0.5, "low": 0.4, "high": 0.6, "control": None}
ESTIMATE = {"judge": "word", "estimand": "auc", "negative_type": "all", "value": 0.5, "low": None, "high": None}
CERTIFICATE = {
    **{"rule": "overlap", "unit": "text", "balanced": True, "misses": [], "estimates": [ESTIMATE], "control": []},
    "retention": {"pairs": {"kept": 1, "of": 2}},
}


@pytest.mark.parametrize(
    "changed",
    [
        {"estimates": [{name: value for name, value in ESTIMATE.items() if name != "negative_type"}]},
        {"estimates": [{**ESTIMATE, "value": "much"}]},
        {"estimates": 3},
        {"teaching": 3},
        {"teaching": [{**LESSON, "value": "much"}]},
        {"teaching": [{name: value for name, value in LESSON.items() if name != "reads"}]},
        {"retention": {"pairs": 1}},
        {"retention": []},
        {"balanced": "yes"},
        {"misses": None},
        None,
    ],
)
def test_a_damaged_certificate_is_one_line(changed: dict[str, object] | None, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    write_json(CERTIFICATE, path)
    found = find_certificate(path)
    assert found is not None
    expected = {"judge": "word", "estimand": "AUC of single texts", "value": "0.500", "interval": "– – –"}
    assert found.probes == [{**expected, "random": "–"}]
    assert found.lessons == [], "the first version had none"
    write_json({"balanced": True} if changed is None else {**CERTIFICATE, **changed}, path)
    with pytest.raises(
        InputError, match=r"certificate.json is no certificate of `itm filter` \(.*; filter again"
    ) as got:
        find_certificate(path)
    assert "\n" not in str(got.value)


def test_a_certificate_without_probes_shows_its_lessons(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    old = ("estimates", "control")
    write_json({name: value for name, value in CERTIFICATE.items() if name not in old} | {"teaching": [LESSON]}, path)
    found = find_certificate(path)
    assert found is not None
    assert (found.probes, found.balanced) == ([], True)
    expected = {"learner": "word, of pairs", "group": "all", "value": "0.500", "interval": "0.400 – 0.600"}
    assert found.lessons == [{**expected, "random": "–"}]


def test_an_evaluation_by_another_score_is_marked(tmp_path: Path) -> None:
    head = "set,negative_type,accuracy,low,high,blind_accuracy,blind_low,blind_high,pairs\n"
    for name, score in {"evaluation": "null", "evaluation_itc": "itc", "evaluation_itm": "itm"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text(f"{head}sugar,swap_obj,0.75,0.7,0.8,0.5,0.4,0.6,40\n")
        (tmp_path / name / "config.yaml").write_text(f"run: somewhere\nscore: {score}\n")
    marked = {found.name: found.score for found in find_evaluations(tmp_path, "itm")}
    assert marked == {"evaluation": None, "evaluation_itc": "itc", "evaluation_itm": None}
    (tmp_path / "evaluation/config.yaml").write_text("- nothing")
    with pytest.raises(InputError, match="does not say by which score"):
        list(find_evaluations(tmp_path, "itm"))
    assert not any(found.score for found in find_evaluations(tmp_path, None)), "there is one score only"
    assert re.search(r"^In x.*, by another score than that of this folder, x.*:$", hostile_card("blip2"), re.MULTILINE)


def test_a_card_counts_the_rows_of_files_only() -> None:
    (source,) = table_sources(DataConfig(captions="/dev/null", negatives=[]))
    assert source.rows is None


def test_a_guarded_name_is_read_back_from_an_evaluation(tmp_path: Path) -> None:
    row = {"set": "=1+1", "negative_type": "-x", **dict.fromkeys(MEASURED, 0.5), "pairs": 3}
    write_text(csv_text(list(row), [row]), tmp_path / "evaluation" / "metrics.csv")
    (found,) = find_evaluations(tmp_path, None)
    assert [(found["set"], found["negative_type"]) for found in found.rows] == [("=1+1", "-x")]


def test_a_recipe_tells_what_overrules_what() -> None:
    experiment = ExperimentConfig()
    experiment.optim.warmup_ratio, experiment.data.batch_size, experiment.trainer.accumulate = 0.005, 8, 2
    told = recipe(experiment, {})
    assert (told["warm-up"], told["rows in a step"]) == ("0.5% of the steps, then cosine to 0", "16")
    assert told["learning rate"] == "2e-05"
    experiment.optim.warmup_steps, experiment.optim.projector_lr = 0, 0.001
    experiment.data.neighbours = "neighbours.parquet"
    told = recipe(experiment, {})
    assert (told["warm-up"], told["rows in a step"]) == (
        "0 steps, then cosine to 0",
        "16, with those of neighbours up to 32",
    )
    assert told["learning rate"] == "2e-05, of projector, heads or projections 0.001"


def test_a_recipe_tells_the_settings_of_its_loss_and_of_no_other() -> None:
    experiment = ExperimentConfig(model=model_settings({"backbone": "clip"}))
    assert not any(name.startswith("settings") for name in recipe(experiment, {}))
    ranked = {"backbone": "clip", "loss": "ce_clip", "ce_clip": {"imc_weight": 0.25}}
    experiment.model = model_settings(ranked)
    told = recipe(experiment, {})
    assert told["loss"] == "ce_clip"
    assert told["settings of ce_clip"] == (
        "hard_negatives: yes, imc_weight: 0.25, cmr_weight: 0.2, rank_threshold: mean, initial_rank_threshold: 0, "
        "rank_threshold_bound: 10, reference: no"
    )
    experiment.model = model_settings({"backbone": "blip2", "loss": "itc_itm"})
    told = recipe(experiment, {})
    assert "settings of ce_clip" not in told
    assert told["settings of itc_itm"].startswith("itc_weight: 1, itm_weight: 1, in_batch_negatives: yes, label_")


def test_a_card_tells_all_that_is_mixed() -> None:
    curriculum = Curriculum(epochs=0.5, negatives=0.0, swap_ratio=0.1, paraphrase_ratio=0.0)
    mixing = Mixing(negatives=1.3, paraphrase_ratio=0.3, image_dropout=0.05, curriculum=curriculum)
    assert row_of_training(DataConfig(mixing=mixing, neighbours="neighbours.parquet")).split("; ")[1:] == [
        "unit: text)",
        "a kept paraphrase stands in for its caption with a chance of 30%",
        "5% of images are noise",
        "it starts with 0 negatives for each positive, 10% swaps, 0% paraphrases and moves there over the first 0.5 "
        "epochs",
        "beside it stands a row of an image near its own (hard images)",
    ]
    assert "1.3 for each positive (swaps: 50%" in row_of_training(DataConfig(mixing=mixing))


@pytest.mark.parametrize(
    ("base", "name"),
    [
        (None, "apache-2.0"),
        ("llava-hf/llava-1.5-7b-hf", "llama2"),
        ("Salesforce/blip2-itm-vit-g", "mit"),
        ("openai/clip-vit-base-patch32", "mit"),
        ("llava-hf/llava-v1.6-mistral-7b-hf", "other"),
        ("someone/clip", "other"),
    ],
)
def test_the_licence_is_that_of_the_base(base: str | None, name: str) -> None:
    assert export.licence_of(base).name == name
    assert export.licence_of(base, "cc-by-4.0").name == "cc-by-4.0"


@pytest.mark.parametrize(
    ("front", "name"),
    [("license: cc-by-nc-4.0\ntags: [a]", "cc-by-nc-4.0"), ("tags: [a]", "other"), ("license: a b | c", "other")],
)
def test_a_local_base_says_its_licence_itself(front: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\nlicense: mit\n")
    assert export.licence_of(str(tmp_path)).name == name


transformers_logging.disable_progress_bar()
