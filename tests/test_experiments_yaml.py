"""Every YAML file that is shipped resolves, builds tiny and runs for one step."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from experiments.__main__ import main
from experiments.config.layers import read_yaml
from experiments.config.load import load_config
from experiments.config.schemas import ExperimentConfig
from experiments.verbs import sweep
from negatives.tables.captions import read_captions, write_table
from tests.backbones import BACKBONES, save_published
from tests.tiny import TINY_OVERRIDES, tiny_tables

FOLDER = Path(sweep.__file__).parents[1]
FILES = sorted(path.relative_to(FOLDER.parent).as_posix() for path in FOLDER.rglob("*.yaml"))
SWEEPS = [name for name in FILES if "runs" in read_yaml(FOLDER.parent / name)]
EXPERIMENTS = [name for name in FILES if name not in SWEEPS]


def test_every_yaml_is_found() -> None:
    assert len(FILES) == 19
    assert len(SWEEPS) == 5


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
    words += [*TINY_OVERRIDES, "trainer.devices=1", "trainer.strategy=auto", "data.num_workers=0"]
    words += ["trainer.accumulate=1", "trainer.precision=32-true", "logging.wandb=disabled"]
    if "negclip" in name:
        words += [f"data.neighbours={tables / 'neighbours.parquet'}"]
    model = load_config(ExperimentConfig, name, words, check_files=False).model
    if model.checkpoint is not None:
        words += [f"model.checkpoint={tables / 'published' / model.backbone}"]
    assert main(["train", name, *words]) == 0
    assert (tmp_path / "run/weights.safetensors").is_file()


def test_the_sweeps_resolve_without_faults() -> None:
    assert len(sweep.plan(sweep.load("experiments/sweeps/demo.yaml", []))) == 11
    assert len(sweep.plan(sweep.load("experiments/sweeps/ce_clip_terms.yaml", []))) == 2 + 2 * 5 * 3 + 1
    assert len(sweep.plan(sweep.load("experiments/sweeps/methods.yaml", []))) == 4 + 2 * 7 * 3 + 1
    full = sweep.load("experiments/sweeps/demo_full.yaml", [])
    assert len(sweep.plan(full)) == 15
    settings = dict(sweep.run_settings(full))
    assert [settings[name]["model"].get("backbone", "llava") for name in settings] == [*["llava"] * 3, "blip2", "clip"]
    assert "system" not in settings["clip_filtered"]["model"], "a run's own base takes the place of the shared one"


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
