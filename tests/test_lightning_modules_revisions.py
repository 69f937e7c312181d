"""Revisions of checkpoints on the hub: which commit is loaded, noted, and loaded again, in the hub's own cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datamodules.batch import InputError
from experiments.__main__ import main
from experiments.config.load import load_saved
from experiments.config.schemas import ExperimentConfig
from experiments.verbs.score import _check_same
from experiments.verbs.train import build_parts
from lightning_modules import load_scorer
from lightning_modules.backbones.model_section import model_settings
from lightning_modules.checkpoint import frozen_fingerprint
from lightning_modules.scoring.scorer_file import parse_scorer_settings
from negatives.tables import write_json
from tests.backbones import BACKBONES, save_published
from tests.tiny import CAPTIONS, TINY_OVERRIDES, photo, tiny_tables

OLD, NEW = "1" * 40, "2" * 40
IMAGES = [photo(seed) for seed in range(2)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub's cache of some/BACKBONE, each with the commits OLD, tagged v1, and NEW, which is on main."""
    hub = tmp_path_factory.mktemp("hub")
    for name, backbone in BACKBONES.items():
        for seed, commit in enumerate((OLD, NEW)):
            folder = hub / f"models--some--{name}/snapshots" / commit
            save_published(backbone.build(seed=seed), folder)
            # the processors differ too
            processor = json.loads((folder / "processor_config.json").read_text())
            processor["image_processor"]["image_mean"] = [0.4 + seed / 10] * 3
            (folder / "processor_config.json").write_text(json.dumps(processor))
    return hub


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for name in BACKBONES:
        point(cache, name, v1=OLD, main=NEW)
    return cache


def point(hub: Path, name: str, **refs: str) -> None:
    """Moves branches and tags."""
    folder = hub / f"models--some--{name}/refs"
    folder.mkdir(exist_ok=True)
    for ref, commit in refs.items():
        (folder / ref).write_text(commit)


def logits(name: str, **settings: Any) -> list[float]:
    return load_scorer(name, device="cpu", **settings).logits(IMAGES, CAPTIONS[:2]).tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_revision_is_a_branch_a_tag_or_a_commit(backbone: str, hub: Path) -> None:
    folder = hub / f"models--some--{backbone}/snapshots"
    old, new = logits(str(folder / OLD)), logits(str(folder / NEW))
    assert old != pytest.approx(new, abs=1e-3)
    name = f"some/{backbone}"
    assert logits(name) == logits(name, revision="main") == logits(name, revision=NEW) == new
    assert logits(name, revision="v1") == logits(name, revision=OLD) == old
    assert load_scorer(name, device="cpu", revision="v1").module.commit() == OLD  # type: ignore[operator]
    with pytest.raises(InputError, match=r"no such model on the hub at revision v3 \(") as caught:
        load_scorer(name, device="cpu", revision="v3")
    assert "\n" not in str(caught.value)


def test_a_scorer_json_is_that_of_the_revision(hub: Path) -> None:
    snapshot = hub / "models--some--blip2/snapshots" / OLD
    write_json({"format": 1, "backbone": "blip2", "model": {"score": "itc"}}, snapshot / "scorer.json")
    try:
        assert load_scorer("some/blip2", device="cpu", revision="v1").module.score_name == "itc"
        assert load_scorer("some/blip2", device="cpu").module.score_name == "itm"
    finally:
        (snapshot / "scorer.json").unlink()


def test_a_revision_of_no_hub_name_is_one_line(hub: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = hub / "models--some--clip/snapshots" / OLD
    with pytest.raises(InputError, match=r"^revision must be left out, got 'v1': .* is no name on the hub"):
        load_scorer(folder, device="cpu", revision="v1")
    with pytest.raises(ValueError, match=r"^`model.revision` must not be given without `model.checkpoint`"):
        model_settings({"backbone": "clip", "revision": "v1"})
    (tmp_path / "captions.jsonl").write_text('{"image_id": "0", "image": "0.png", "caption_id": "0", "caption": "a"}')
    photo(0).save(tmp_path / "0.png")
    words = ["model.backbone=clip", f"model.checkpoint={folder}", "model.revision=v1", f"output_dir={tmp_path / 'out'}"]
    assert main(["score", f"captions={tmp_path / 'captions.jsonl'}", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "`model.revision` must be left out, got 'v1': " in line


def test_a_run_stays_on_its_commit(hub: Path, tmp_path: Path) -> None:
    """Whatever the tag says by then: loaded, gone on with, exported, and loaded as an export."""
    tiny_tables(tmp_path / "scenes")
    tables = [f"data.{name}={tmp_path / 'scenes/train' / f'{name}.parquet'}" for name in ("captions", "negatives")]
    words = ["model.checkpoint=some/clip", "model.revision=v1", "model.tune=lora", "model.adapter.rank=2"]
    words += [*tables, *TINY_OVERRIDES, f"output_dir={tmp_path / 'run'}", "logging.wandb=disabled"]
    assert main(["train", "experiments/configs/clip_tiny_scenes.yaml", *words]) == 0
    assert json.loads((tmp_path / "run/base.json").read_text())["revision"] == OLD
    before = logits(str(tmp_path / "run"))
    point(hub, "clip", v1=NEW)
    assert logits(str(tmp_path / "run")) == before
    config = load_saved(ExperimentConfig, tmp_path / "run/config.yaml")
    assert config.model.revision == "v1", "as it was given"
    first, again = (build_parts(config, recorded=recorded)[0] for recorded in (False, True))
    assert (first.commit(), again.commit()) == (NEW, OLD)
    assert frozen_fingerprint(again.network) == json.loads((tmp_path / "run/base.json").read_text())["frozen"]
    assert main(["export", str(tmp_path / "run"), f"output_dir={tmp_path / 'export'}"]) == 0
    for file, place in (("scorer.json", "base"), ("adapter_config.json", "")):
        content = json.loads((tmp_path / "export" / file).read_text())
        assert (content[place] if place else content)["revision"] == OLD
    assert logits(str(tmp_path / "export")) == pytest.approx(before, abs=1e-6)
    assert f"from_pretrained(BASE, revision='{OLD}', " in (tmp_path / "export/README.md").read_text()


def test_scores_name_the_commit_that_made_them(hub: Path, tmp_path: Path) -> None:
    tiny_tables(tmp_path / "scenes")
    captions = f"captions={tmp_path / 'scenes/train/captions.parquet'}"
    words = ["score", "model.backbone=clip", "model.checkpoint=some/clip", captions, f"output_dir={tmp_path / 'out'}"]
    assert main([*words, "model.revision=v1"]) == 0
    assert pq.read_schema(tmp_path / "out/scores.parquet").metadata[b"revision"] == OLD.encode()
    file = tmp_path / "out/scorer.json"
    made_from = json.loads(file.read_text())
    write_json({key: value for key, value in made_from.items() if key != "revision"}, file)
    _check_same(tmp_path / "out", made_from)  # as an older version wrote it
    write_json({**made_from, "revision": NEW}, file)
    with pytest.raises(InputError, match="holds scores made from another revision"):
        _check_same(tmp_path / "out", made_from)


def test_a_revision_of_a_base_is_a_text() -> None:
    base = {"checkpoint": "some/clip", "weights": "0", "revision": 1}
    with pytest.raises(InputError, match=r"revision of base must be a text, got 1"):
        parse_scorer_settings({"format": 1, "backbone": "clip", "base": base}, Path("scorer.json"))
