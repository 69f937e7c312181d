"""Laws of the documents: their commands, configurations and tables work.

A page is README.md or a file in docs/. Its ```bash and ```python blocks run, at tiny size, after those of the README.
Its other commands are resolved: the configuration is built and checked, and nothing runs. The blocks of
docs/extending.md are files, which tests/test_extending.py adds to a copy of the repository.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pyarrow.parquet import read_table
from torch.distributed.run import get_args_parser

from experiments.__main__ import main
from experiments.config.load import load_config
from experiments.config.schemas import ExperimentConfig
from experiments.sweeping.points import points
from experiments.verbs import sweep
from negatives.tables.captions import read_captions, read_negatives
from tests.pages import EXTENDING, PAGES, README, ROOT, Command, blocks, commands, prose, split, with_blocks
from tests.test_experiments_sweep import TINY_DEMO
from tests.tiny import TINY_OVERRIDES

TINY = {
    "generate": ["scenes.train=12", "scenes.held_out=2", "scenes.image_size=16"],
    "audit": ["judge.folds=3", "logging.wandb=disabled"],
    "filter": ["rule=top_fraction", "judge.folds=3", "certify=false", "logging.wandb=disabled"],
    "train": [*TINY_OVERRIDES, "logging.wandb=disabled"],
    "evaluate": ["logging.wandb=disabled", "evaluation.bootstrap=100"],
    "compare": ["logging.wandb=disabled", "bootstrap=100"],
    "sweep": TINY_DEMO,
}
"""Verb -> what is added to its commands, so that they run in seconds."""


def write_tables(page: str, folder: Path) -> None:
    """Writes each ```jsonl block into the file that the text before it names last."""
    before = ""
    for part in re.split(r"(^```jsonl\n.*?^```)", PAGES[page], flags=re.MULTILINE | re.DOTALL):
        for block in blocks(part, "jsonl"):
            (folder / re.findall(r"`([\w/]+\.jsonl)`", before)[-1]).write_text(block, encoding="utf-8")
        before = part


def run_page(page: str) -> dict[str, Any]:
    """Runs the page's ```bash blocks and then its ```python blocks; the names that these define."""
    write_tables(page, Path())
    for itm, verb, *words in commands(PAGES[page], "bash"):
        assert itm == "itm"
        assert main([verb, *words, *TINY.get(verb, [])]) == 0, [verb, *words]
    seen: dict[str, Any] = {}
    for code in blocks(PAGES[page], "python"):
        exec(code, seen)
    return seen


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder in which the README's commands have run, and what its Python defined."""
    folder = tmp_path_factory.mktemp("road")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, run_page(README)


@pytest.mark.slow
def test_the_road_step_by_step(road: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, seen = road
    monkeypatch.chdir(folder)
    verbs = [verb for _, verb, *_ in commands(PAGES[README], "bash")]
    assert verbs == ["generate", "audit", "filter", "train", "evaluate", "compare", "score", "export"]
    for made in ("runs/audit/audit.json", "runs/comparison/index.html", "runs/scores/scores.parquet"):
        assert (folder / made).is_file()
    assert 0 < seen["score"] < 1
    pair = (seen["image"], "a red circle above a blue bar")
    exported = seen["load_scorer"]("runs/exported")
    assert seen["scorer"].score(*pair) == pytest.approx(exported.score(*pair), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in with_blocks("bash", "python") if page not in (README, EXTENDING)])
def test_the_commands_of_every_page_run_after_the_readmes(
    page: str, road: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(road[0])
    seen = run_page(page)
    if page == "docs/export.md":
        assert seen["one_each"].shape == seen["one_image"].shape == (2,)
        assert torch.allclose(seen["every_pair"].diagonal(), seen["one_each"])
        assert seen["mean"] == pytest.approx(seen["one_each"].mean().item())
    if page == "docs/tutorial.md":
        assert seen["bias"].low > 0.55
        assert {"red", "a green"} <= {leak.ngram for leak in seen["audit"].ngrams["negative"][:4]}
        assert 0.4 < len(seen["kept"]) / len(seen["texts"]) < 0.9
        (word,) = [one for one in seen["certificate"].lessons if (one.learner.judge, one.group) == ("word", "all")]
        assert abs(word.value - 0.5) < min(word.control, word.everything) - 0.5
        assert seen["certificate"].misses
    if page == "docs/negatives.md":
        table = read_table("negatives_by_rules/negatives.parquet")
        written = set(zip(table["caption"].to_pylist(), table["negative_type"].to_pylist(), strict=True))
        quoted = re.findall(r"\*([^*]+)\*\s\(`(\w+)`\)", PAGES[page])
        assert quoted
        assert set(quoted) <= written


def other_commands() -> Iterator[tuple[str, Command]]:
    """Commands that are resolved: those of plain blocks, and those of the prose that set a key or name a file."""
    for page, text in PAGES.items():
        for words in commands(text, "", "console", "sh"):
            yield page, words
        for line in re.findall(r"`(itm [^`]+)`", re.sub(r"\s*\n\s*", " ", prose(text))):
            if re.search(r"=|\.yaml", line) and "[key=value" not in line:
                yield page, split(line)


OTHERS = list(other_commands())
ITM = [(page, words[1:]) for page, words in OTHERS if words[0] == "itm"]
LAUNCHES = [words for _, words in OTHERS if words[0] in ("torchrun", "sbatch")]
BENCHES = [words[2:] for _, words in OTHERS if words[:2] == ["python", "-m"] and words[2].startswith("experiments")]
TARGETS = [target for _, words in OTHERS if words[0] == "make" for target in words[1:]]


def make_inputs(folder: Path, words: Sequence[str]) -> None:
    """Makes what the words name as input, for a check that it is there; a caption where somebody reads it."""
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            key, value = "", word
        if key.endswith("output_dir") or value.startswith(("experiments/", "-")):
            continue
        path = folder / value
        if value.endswith(".json"):
            image, caption = {"id": 1, "file_name": "1.jpg"}, {"id": 1, "image_id": 1, "caption": "a dog on a sofa"}
            path.write_text(json.dumps({"images": [image], "annotations": [caption]}), encoding="utf-8")
        elif value.endswith((".parquet", ".jsonl", ".safetensors")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        elif (
            key in ("run", "annotations", "benchmarks_root")
            or key.endswith(("image_root", "nli.checkpoint", "lm.checkpoint", "encoder.checkpoint"))
            or "/" in word.partition("=")[0]
        ):
            path.mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(("page", "words"), ITM, ids=[f"{page}: {' '.join(words)}"[:90] for page, words in ITM])
def test_every_other_command_resolves(
    page: str, words: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any("coco_sample" in word for word in words) and not os.environ.get("ITM_SHARED"):
        pytest.skip("ITM_SHARED is not set: export it to the folder that holds data/ to resolve the sample's sweep")
    monkeypatch.chdir(tmp_path)
    make_inputs(tmp_path, words[1:])
    assert main([*words, *["--dry-run"] * ("--dry-run" not in words)]) == 0


def test_commands_of_every_sort_are_found() -> None:
    assert {"generate", "audit", "train", "evaluate", "sweep", "demo", "neighbours"} <= {words[0] for _, words in ITM}
    assert len(LAUNCHES) == 5
    assert BENCHES
    assert {"demo", "test"} <= set(TARGETS)


@pytest.mark.parametrize("page", with_blocks("yaml"))
def test_every_example_of_a_configuration_resolves(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks(PAGES[page], "yaml")):
        tree = yaml.safe_load(block)
        make_inputs(tmp_path, [f"{key}={value}" for key, value in leaves(tree)])
        (tmp_path / f"{number}.yaml").write_text(block, encoding="utf-8")
        verb = "sweep" if "runs" in tree or "grid" in tree else "train"
        assert main([verb, f"{number}.yaml", "--dry-run"]) == 0, block


def leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested mapping, each with its last key."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from leaves(value, str(name))
    else:
        yield key, tree


def resolved(words: Sequence[str]) -> ExperimentConfig:
    """The configuration of `train FILE key=value ...`; raises on what is no such command."""
    verb, file, *overrides = words
    assert verb == "train"
    return load_config(ExperimentConfig, file, overrides, check_files=False)


def test_launches_by_torchrun_start_as_many_ranks_as_the_trainer_expects() -> None:
    launches = [words for name, *words in LAUNCHES if name == "torchrun"]
    assert len(launches) == 2
    for words in launches:
        launcher = get_args_parser().parse_args(words)
        assert launcher.module
        assert launcher.training_script == "experiments"
        trainer = resolved(launcher.training_script_args).trainer
        assert int(launcher.nproc_per_node) == trainer.devices
        assert int(launcher.nnodes.split(":")[-1]) == trainer.num_nodes


def test_the_slurm_launch_starts_as_many_ranks_as_the_trainer_expects() -> None:
    ((_, *words),) = [words for words in LAUNCHES if words[0] == "sbatch" and "--wrap" in words]
    parser = argparse.ArgumentParser()
    for flag in ("--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task"):
        parser.add_argument(flag, type=int, required=True)
    parser.add_argument("--wrap", required=True)
    job = parser.parse_args(words)
    srun, kill, itm, *rest = shlex.split(job.wrap)
    assert (srun, kill, itm) == ("srun", "--kill-on-bad-exit=1", "itm")
    config = resolved(rest)
    assert (job.ntasks_per_node, job.nodes) == (config.trainer.devices, config.trainer.num_nodes)
    assert job.gpus_per_node == config.trainer.devices
    assert job.cpus_per_task > config.data.num_workers


def test_the_slurm_scripts_start_the_sweep_that_they_are_given() -> None:
    launches = [words[1:] for words in LAUNCHES if words[0] == "sbatch" and "--wrap" not in words]
    assert len(launches) == 2
    for *flags, script, path in launches:
        *_, line = (ROOT / script).read_text(encoding="utf-8").splitlines()
        srun, itm, *words = shlex.split(line)
        assert (srun, itm, words[:2]) == ("srun", "itm", ["sweep", "$1"])
        assert words[2:] == ["--resume=auto", *["--index", "$SLURM_ARRAY_TASK_ID"] * bool(flags)]
        assert flags in ([], [f"--array=0-{len(points(sweep.load(path, []))) - 1}"])


@pytest.mark.parametrize("words", BENCHES, ids=" ".join)
def test_every_bench_takes_its_arguments(words: Command) -> None:
    name, *arguments = words
    module = importlib.import_module(name)
    # of a package, `python -m` runs the file __main__.py
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    module.parser().parse_args(arguments)


def test_every_target_of_make_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in TARGETS:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_tables_written_by_hand_are_read(tmp_path: Path) -> None:
    write_tables("docs/files.md", tmp_path)
    table = read_captions(tmp_path / "captions.jsonl")
    assert table["caption_id"].to_pylist() == ["1_0", "1_1", "2_0"]
    assert read_negatives(tmp_path / "negatives.jsonl", table).num_rows == 2
