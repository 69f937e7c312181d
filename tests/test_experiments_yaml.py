"""Every YAML file that is shipped resolves, builds tiny and runs for one step; recipes say where they depart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from experiments.__main__ import main
from experiments.config.layers import read_yaml
from experiments.config.load import load_config, to_yaml
from experiments.config.schemas import ExperimentConfig
from experiments.sweeping.plan import plan
from experiments.verbs import sweep
from negatives.tables.captions import read_captions, write_table
from tests.backbones import BACKBONES, save_published
from tests.sweeps import settings_of
from tests.tiny import TINY_OVERRIDES, tiny_tables

FOLDER = Path(sweep.__file__).parents[1]
FILES = sorted(path.relative_to(FOLDER.parent).as_posix() for path in FOLDER.rglob("*.yaml"))
SWEEPS = [name for name in FILES if {"runs", "prepare"} & read_yaml(FOLDER.parent / name).keys()]
EXPERIMENTS = [name for name in FILES if name not in SWEEPS]


def test_every_yaml_is_found() -> None:
    assert len(FILES) == 29
    assert len(SWEEPS) == 10


def resolved(name: str) -> ExperimentConfig:
    given = ["captions", "negatives", "verdicts", *["neighbours"] * ("negclip" in name)]
    return load_config(ExperimentConfig, name, [f"data.{key}=x" for key in given], check_files=False)


FULL_SIZE = [name for name in EXPERIMENTS if "tiny" not in name]


def leaves(mapping: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a configuration."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def head(name: str) -> dict[str, str]:
    """What the comment that a recipe begins with says behind Paper, Differs and Open."""
    lines = takewhile(lambda line: line.startswith("# "), (FOLDER.parent / name).read_text().splitlines())
    _, *parts = re.split(r"^(Paper|Differs|Open): ", "\n".join(line[2:] for line in lines), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def named(text: str) -> set[str]:
    """The keys that a part of a head names."""
    return set(re.findall(r"`((?:data|model|optim|trainer)\.[\w.]+)`", text))


def test_the_full_size_recipes_are_those_of_published_weights() -> None:
    assert len(FULL_SIZE) == 10
    assert [name for name in EXPERIMENTS if resolved(name).model.checkpoint is not None] == FULL_SIZE


@pytest.mark.parametrize("name", FULL_SIZE)
def test_a_recipe_of_hours_saves_checkpoints_by_time(name: str) -> None:
    assert resolved(name).trainer.checkpoint_minutes == 30


@pytest.mark.parametrize("name", FULL_SIZE)
def test_a_recipe_says_which_paper_it_follows_and_where_it_departs(name: str) -> None:
    said = head(name)
    papers = re.findall(r"^- ([\w.-]+): \*", (FOLDER.parent / "docs/losses.md").read_text(), flags=re.MULTILINE)
    assert said["Paper"].startswith(tuple(f"{paper} (" for paper in papers))
    file = yaml.safe_load((FOLDER.parent / name).read_text())
    keys = set(dict(leaves(file))) - {"base", "name"}
    differs, left_open = named(said["Differs"]), named(said.get("Open", ""))
    assert not differs & left_open
    # a section's name stands for all that the file has of it
    under = {one: {key for key in keys if f"{key}.".startswith(f"{one}.")} for one in differs | left_open}
    assert all(under.values()), "each is a key of the file"
    if "base" in file:
        assert set().union(*under.values()) == keys, "a variant names all that it changes"


# LLaVA's and LAVIS's are of their scripts, the others of their papers' official code
OPEN_CLIP = {"optim.betas": [0.9, 0.98], "optim.eps": 1e-6, "optim.warmup_steps": 50, "data.subset": "all"}
LLAVA = {"optim.weight_decay": 0.0, "optim.warmup_ratio": 0.03, "optim.gradient_clip": 1.0, "trainer.max_epochs": 1}
PUBLISHED: dict[str, dict[str, Any]] = {
    "llava_score_13b": {
        **LLAVA,
        **{"model.checkpoint": "llava-hf/llava-1.5-13b-hf", "model.tune": "full", "data.subset": "kept"},
        **{"optim.lr": 2e-5, "trainer.precision": "bf16-mixed", "data.harmonise": False},
    },
    "llava_score_7b_lora": {
        **LLAVA,
        **{"model.adapter.rank": 128, "model.adapter.alpha": 256, "model.adapter.dropout": 0.05},
        **{"optim.lr": 2e-4, "optim.projector_lr": 2e-5, "model.adapter.targets": []},
    },
    "blip2_coco_retrieval": {
        **{"optim.lr": 1e-5, "optim.weight_decay": 0.05, "optim.betas": [0.9, 0.999], "optim.eps": 1e-8},
        **{"optim.warmup_steps": 1000, "optim.gradient_clip": 0.0, "trainer.max_epochs": 5, "trainer.accumulate": 1},
        **{"data.batch_size": 14, "trainer.devices": 8, "trainer.num_nodes": 2},
        **{"data.mixing.negatives": 0.0, "trainer.precision": "16-mixed"},
        **{"model.itc_itm.label_smoothing": 0.1, "model.train_vision": True, "data.subset": "all"},
    },
    "ce_clip_vit_b32": {
        **OPEN_CLIP,
        **{"optim.lr": 5e-6, "optim.weight_decay": 0.1, "optim.gradient_clip": 0.0, "trainer.precision": "16-mixed"},
        **{"data.mixing.unit": "pair", "data.mixing.negatives": 4.0, "data.harmonise": False},
        **{"model.ce_clip.rank_threshold": "mean", "model.ce_clip.rank_threshold_bound": 10.0},
        **{"model.ce_clip.reference": True},
    },
    "negclip_vit_b32": {
        **OPEN_CLIP,
        **{"optim.lr": 1e-6, "optim.weight_decay": 0.2, "trainer.devices": 1, "data.batch_size": 256},
        **{"data.mixing.unit": "pair", "data.mixing.negatives": 1.0, "data.harmonise": False, "trainer.max_epochs": 5},
    },
}
"""Recipe -> what is published of its settings."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_departs_from_what_is_published_only_where_it_says_so(name: str) -> None:
    file = f"experiments/configs/{name}.yaml"
    said, ours = head(file), dict(leaves(yaml.safe_load(to_yaml(resolved(file)))))
    differs = {key for key, value in PUBLISHED[name].items() if ours[key] != value}
    assert differs <= named(said["Differs"]) | named(said.get("Open", ""))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    tiny_tables(folder)
    words = [f"{name}={folder / 'train' / f'{name}.parquet'}" for name in ("captions", "negatives")]
    assert (
        main(
            ["filter", *words, f"output_dir={folder / 'filter'}", "rule=top_fraction", "judge.folds=3", "certify=false"]
        )
        == 0
    )
    images = read_captions(folder / "train/captions.parquet")["image_id"].unique().to_pylist()
    near = [{"image_id": image, "neighbour_image_id": images[0], "rank": 1, "similarity": 0.5} for image in images[1:]]
    write_table(pa.Table.from_pylist(near), folder / "neighbours.parquet")
    for name, backbone in BACKBONES.items():
        save_published(backbone.build(), folder / "published" / name)
    return folder


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_trains_tiny_for_a_step(name: str, tables: Path, tmp_path: Path) -> None:
    words = [f"data.{key}={tables / 'train' / f'{key}.parquet'}" for key in ("captions", "negatives")]
    words += [f"data.verdicts={tables / 'filter/verdicts.parquet'}", f"output_dir={tmp_path / 'run'}"]
    words += [
        *TINY_OVERRIDES,
        "trainer.devices=1",
        "trainer.num_nodes=1",
        "trainer.strategy=auto",
        "data.num_workers=0",
    ]
    words += ["trainer.accumulate=1", "trainer.precision=32-true", "logging.wandb=disabled"]
    if "negclip" in name:
        words += [f"data.neighbours={tables / 'neighbours.parquet'}"]
    model = load_config(ExperimentConfig, name, words, check_files=False).model
    if model.checkpoint is not None:
        words += [f"model.checkpoint={tables / 'published' / model.backbone}"]
    assert main(["train", name, *words]) == 0
    assert (tmp_path / "run/weights.safetensors").is_file()


def test_the_sweeps_resolve_without_faults() -> None:
    assert len(plan(sweep.load("experiments/sweeps/demo.yaml", []))) == 4 + 2 * 5
    assert len(plan(sweep.load("experiments/sweeps/ce_clip_terms.yaml", []))) == 2 + 2 * 5 * 3
    assert len(plan(sweep.load("experiments/sweeps/methods.yaml", []))) == 4 + 2 * 7 * 3
    assert len(plan(sweep.load("experiments/sweeps/debias.yaml", []))) == 4 + 2 * 6 * 5
    assert len(plan(sweep.load("experiments/sweeps/families.yaml", []))) == 2 + 2 * 10


def test_the_demo_trains_every_backbone_on_what_the_filter_keeps() -> None:
    demo = sweep.load("experiments/sweeps/demo.yaml", [])
    settings = settings_of(demo)
    assert [settings[name]["model"].get("backbone", "llava") for name in settings] == [*["llava"] * 3, "blip2", "clip"]
    assert "system" not in settings["clip_filtered"]["model"], "a run's own base takes the place of the shared one"
    # nothing is tuned for one arm: only the texts differ
    arms = [settings[name] for name in ("unfiltered", "random_subset", "filtered")]
    assert [arm["data"].pop("subset") for arm in arms] == ["all", "random", "kept"]
    for arm in arms:
        del arm["name"], arm["output_dir"], arm["logging"]["tags"]
    assert arms[0] == arms[1] == arms[2]


@pytest.mark.slow
def test_the_coco_sample_ends_in_a_page_with_its_photos(shared: Path, tmp_path: Path) -> None:
    output = tmp_path / "coco"
    words = [f"output_dir={output}", "experiment.trainer.max_steps=2", "experiment.trainer.validate_every=2"]
    words += ["logging.wandb=disabled", "experiment.data.batch_size=4"]
    assert main(["sweep", "experiments/configs/coco_sample.yaml", *words]) == 0
    page = (output / "report/index.html").read_text()
    assert page.count("data:image/") >= 5
    assert "plumbing" in page
    assert "sugarcrepe" in page


def test_the_coco_sample_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ITM_SHARED", raising=False)
    assert main(["sweep", "experiments/configs/coco_sample.yaml"]) == 2
    assert "ITM_SHARED" in capsys.readouterr().err
