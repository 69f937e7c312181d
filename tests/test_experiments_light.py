"""Checking a configuration imports none of the libraries that a run needs seconds to import."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from lightning_modules.backbones.backbone import Backbone
from lightning_modules.backbones.settings import BackboneTraits
from lightning_modules.backbones.table import BACKBONES, backbone_class, backbone_traits

ROOT = Path(__file__).parents[1]
# torch itself is imported for the losses, which are one file each
HEAVY = ("transformers", "lightning", "peft", "torchmetrics", "sklearn", "scipy")
DRY_RUN = """
import sys
from experiments.__main__ import main

run, table = sys.argv[1:]
data = [f"data.captions={table}", f"data.negatives={table}"]
texts = [f"captions={table}", f"negatives={table}"]
written = f"output_dir={run}/new"
for words in (
    ["sweep", "experiments/sweeps/methods.yaml"],
    ["train", "experiments/configs/blip2_itc_tiny_scenes.yaml", *data],
    ["train", "model.backbone=llava", *data],
    ["evaluate", run, f"evaluation.sets.own.captions={table}", f"evaluation.sets.own.negatives={table}"],
    ["compare", run, run + "/..", written],
    ["score", f"run={run}", f"captions={table}", "score=itc", written],
    ["neighbours", "model.checkpoint=clip", f"captions={table}", written],
    ["export", run],
    ["convert", f"weights={table}", "base=clip", written],
    ["filter", *texts, written],
    ["audit", *texts, written],
    ["generate", "generator=rules", f"captions={table}", written],
):
    assert main([*words, "--dry-run"]) == 0, words
    found = set(%r) & sys.modules.keys()
    assert not found, (words[0], found)
"""


def test_a_dry_run_imports_no_library_of_training(tmp_path: Path) -> None:
    run, table = tmp_path / "run", tmp_path / "captions.jsonl"
    run.mkdir()
    table.write_text("")
    (run / "config.yaml").write_text("model: {backbone: blip2}\n")
    subprocess.run([sys.executable, "-c", DRY_RUN % (HEAVY,), str(run), str(table)], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_what_its_traits_say(name: str) -> None:
    module, traits = backbone_class(name), backbone_traits(name)
    assert issubclass(module, traits)
    assert not issubclass(traits, Backbone), "or its file would be imported"
    for trait in BackboneTraits.__annotations__:
        assert trait not in vars(module), "said twice"
        assert getattr(module, trait) == getattr(traits, trait)
    assert {field.name for field in fields(module.Settings)} >= {"backbone", "loss"}
