"""The examples of docs/extending.md work: each is added to a copy of the repository, line by line, and used there.

What a section shows is all that is added: new files whole, and lines beside others that stand in their file once. A
test runs the section's commands at tiny size, in one process, then what else the example has to stand.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from tests.pages import EXTENDING, PAGES, README, ROOT, Change, Command, blocks, changes, commands
from tests.test_docs import TINY
from tests.tiny import TINY_OVERRIDES, photo

PACKAGES = ("negatives", "datamodules", "lightning_modules", "experiments")
SECTIONS = {
    title: text
    for title, text in (part.split("\n", 1) for part in PAGES[EXTENDING].split("\n## ")[1:])
    if "```" in text
}
MOST_FILES = {
    "A negative type with its writer": 3,
    "A writer": 2,
    "A judge of truth": 3,
    "A backbone": 4,  # the fourth is its line in the tests
    "A loss with a parameter of its own": 2,
    "A benchmark": 3,  # the third is its test
    "A verb": 3,  # the third is its line in the README
}
"""Section -> how many files an example of it may touch."""
COUNTS = {2: "Two", 3: "Three", 4: "Four"}
SCENES = ["generate", "generator=scenes", "output_dir=data/scenes", *TINY["generate"]]
QUIET = "logging.wandb=disabled"
CAPTIONS = (
    "Two dogs run along a sandy beach",
    "A man holds three red balloons",
    "Four people sit around a wooden table",
    "A plate with two slices of pizza on it",
    "Five sheep graze on a green hillside",
    "Six boats are docked in a small harbor",
    "A woman walks two horses down a dirt road",
    "Three children play soccer in the park",
    "There are seven books on the shelf",
    "A street sign with eight stickers on it",
    "Two of the cats sleep left of three white pillows",
    "A bird sits above a lamp, left of a window",
)
RUNNER = """
import json, sys
import negatives
assert negatives.__file__.startswith(sys.argv[1]), negatives.__file__
from experiments.__main__ import main
for step in json.loads(sys.argv[2]):
    if isinstance(step, str):
        exec(compile(step, "step", "exec"), {"main": main})
    else:
        assert main(step) == 0, step
"""
"""Runs commands, given as lists of words, and Python, given as texts."""


@dataclass
class Copy:
    """A copy of the repository with a section's example in it, and a folder to work in.

    Attributes:
        root: of the copy.
        work: where commands run; it has captions of photos.
        commands: the section's own.
    """

    root: Path
    work: Path
    commands: list[Command] = field(default_factory=list)

    def run(self, *steps: Sequence[str] | str) -> str:
        """Runs commands and Python in one process, in the order given; what was printed."""
        return self.python("-c", RUNNER, str(self.root), json.dumps(steps), folder=self.work)

    def python(self, *arguments: str, folder: Path) -> str:
        environment = {**os.environ, "PYTHONPATH": str(self.root), "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def pytest(self, file: str, chosen: str) -> int:
        """How many of a file's tests pass, which are all that `chosen` (of -k) says."""
        words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", file, "-k", chosen)
        return int(re.search(r"(\d+) passed", self.python(*words, folder=self.root))[1])  # type: ignore[index]

    def documented(self, *, module: str) -> str:
        """Python that runs a module's doctests, and fails where it has none."""
        return f"import doctest, {module}\ndone = doctest.testmod({module})\nassert done.attempted and not done.failed"


def apply(change: Change, root: Path) -> None:
    """Adds to a file what a page shows.

    Raises:
        ValueError: a new file is there already, or the lines around a change are not there exactly once.
    """
    path = root / change.path
    if not change.is_diff:
        if path.exists():
            raise ValueError(f"{change.path} is there already")
        path.write_text(change.text, encoding="utf-8")
        return
    lines = change.text.splitlines()
    unmarked = [line for line in lines if line[:1] not in (" ", "+", "-")]
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
    text = f"\n{path.read_text(encoding='utf-8')}"
    if unmarked or not old.strip() or text.count(f"\n{old}") != 1:
        raise ValueError(f"{change.path} must hold these lines once:\n{old or unmarked}")
    path.write_text(text.replace(f"\n{old}", f"\n{new}")[1:], encoding="utf-8")


def copy_repository(root: Path) -> None:
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "first_version"))
    for name in (README, "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)


def copy_with(title: str, folder: Path) -> Copy:
    """A copy of the repository with the example of a section, and captions of drawn photos in its work folder."""
    made = Copy(folder / "copy", folder / "work")
    copy_repository(made.root)
    for change in changes(SECTIONS[title]):
        apply(change, made.root)
    made.work.mkdir()
    (made.work / "images").mkdir()
    with (made.work / "captions.jsonl").open("w", encoding="utf-8") as file:
        for number, caption in enumerate(CAPTIONS):
            photo(number).save(made.work / f"images/{number}.png")
            line = {"image_id": str(number), "image": f"images/{number}.png", "captions": [caption]}
            file.write(f"{json.dumps(line)}\n")
    for itm, verb, *words in commands(SECTIONS[title], "bash"):
        assert itm == "itm"
        made.commands.append([verb, *words, *([] if verb == "generate" else TINY.get(verb, []))])
    return made


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_block_of_the_page_is_part_of_an_example() -> None:
    assert {title for title, text in SECTIONS.items() if changes(text)} == MOST_FILES.keys()
    for language in ("python", "diff"):
        shown = blocks(PAGES[EXTENDING], language)
        used = [change.text for change in changes(PAGES[EXTENDING]) if change.is_diff == (language == "diff")]
        assert shown == used
    in_examples = sum(len(commands(SECTIONS[title], "bash")) for title in MOST_FILES)
    assert len(commands(PAGES[EXTENDING], "bash")) == in_examples


@pytest.mark.parametrize("title", MOST_FILES)
def test_an_example_touches_as_many_files_as_the_page_says(title: str) -> None:
    found = changes(SECTIONS[title])
    files = {change.path for change in found}
    assert len(files) <= MOST_FILES[title]
    assert SECTIONS[title].startswith(f"\n{COUNTS[len(files)]} files. ")
    added = [line for change in found for line in change.text.splitlines() if not change.is_diff or line[:1] == "+"]
    table = re.findall(r"^\|[^|]*\| `\w+` \| `([\w/.]+)` \| (\d+), (\d+) \|$", PAGES[EXTENDING], re.MULTILINE)
    path, *counts = table[list(MOST_FILES).index(title)]
    assert path in files
    assert [int(count) for count in counts] == [len(files), len(added)]


def test_lines_that_are_there_twice_or_not_at_all_are_refused(tmp_path: Path) -> None:
    (tmp_path / "table.py").write_text("a\nb\na\nc\n")
    for context in (" a\n+new\n", " d\n+new\n", "+new\n", " a\nb\n", ""):
        with pytest.raises(ValueError, match=r"table\.py must hold these lines once"):
            apply(Change("table.py", context, is_diff=True), tmp_path)
    apply(Change("table.py", " a\n-c\n+new\n+new\n", is_diff=True), tmp_path)
    assert (tmp_path / "table.py").read_text() == "a\nb\na\nnew\nnew\n"
    with pytest.raises(ValueError, match="is there already"):
        apply(Change("table.py", "new", is_diff=False), tmp_path)


@pytest.mark.slow
def test_the_examples_can_stand_together_and_keep_the_rules_of_the_tree(tmp_path: Path) -> None:
    copy = Copy(tmp_path, tmp_path)
    copy_repository(copy.root)
    for title in MOST_FILES:
        for change in changes(SECTIONS[title]):
            apply(change, copy.root)
    copy.pytest("tests/test_layout.py", "not opens")


@pytest.mark.slow
def test_a_negative_type_goes_from_its_writer_to_the_comparison(tmp_path: Path) -> None:
    copy = copy_with("A negative type with its writer", tmp_path)
    tables = ["captions=captions.jsonl", "negatives=negatives/negatives.parquet"]
    data = [f"data.{word}" for word in tables]
    copy.run(
        copy.documented(module="negatives.writers.numbers"),
        'from negatives import rejection\nassert rejection("Two dogs", "Four dogs", "replace_num", ()) == "fewer"',
        *copy.commands,
        ["filter", *tables, "output_dir=filter", *TINY["filter"]],
        ["train", "experiments/configs/clip_tiny_scenes.yaml", "name=numbers", *data, "data.subset=kept"]
        + [
            "data.verdicts=filter/verdicts.parquet",
            QUIET,
            *TINY_OVERRIDES,
            "trainer.max_steps=2",
            "trainer.validate_every=2",
        ]
        + [f"data.validation.{word}" for word in tables],
        ["evaluate", "runs/numbers", *[f"evaluation.sets.own.{word}" for word in tables], *TINY["evaluate"]],
        ["compare", "runs/numbers", "output_dir=comparison", *TINY["compare"]],
    )
    written = pq.read_table(copy.work / "negatives/negatives.parquet").to_pylist()
    assert len(written) == len(CAPTIONS) - 1, "one of the captions has no number"
    assert {row["negative_type"] for row in written} == {"replace_num"}
    assert {row["rejected"] for row in written} == {""}
    assert "val/replace_num/accuracy" in (copy.work / "runs/numbers/logs/metrics.jsonl").read_text()
    for path in ("runs/numbers/evaluation/metrics.csv", "comparison/comparison.csv"):
        found = {row["group"]: row for row in rows(copy.work / path) if row["metric"] == "accuracy"}
        assert set(found) == {"replace_num", "mean", ""}
        assert int(found["replace_num"]["count"]) == len(written)


def test_a_writer_brings_its_own_setting(tmp_path: Path) -> None:
    copy = copy_with("A writer", tmp_path)
    text = copy.run(
        copy.documented(module="negatives.writers.opposites"),
        *copy.commands,
        ["generate", "generator=opposites", "captions=captions.jsonl", "output_dir=one"],
        ["generate", "--help"],
        'assert main(["generate", "generator=opposites", "opposites.most=0", "captions=captions.jsonl", '
        '"output_dir=none"]) == 2',
    )
    assert "`opposites.most` must be >= 1, got 0" in text
    assert "The most negatives of a caption" in text
    two, one = (pq.read_table(copy.work / folder / "negatives.parquet").to_pylist() for folder in ("negatives", "one"))
    assert {row["caption"] for row in two} == {
        "Two of the cats sleep right of three white pillows",
        "A bird sits below a lamp, left of a window",
        "A bird sits above a lamp, right of a window",
    }
    assert {(row["negative_type"], row["rejected"]) for row in two} == {("replace_rel", "")}
    assert len(one) == 2
    assert {row["caption"] for row in one} < {row["caption"] for row in two}


SAME_LOGITS = """
import os, re
import torch
from PIL import Image
from transformers import AutoProcessor, ViltForImageAndTextRetrieval
from lightning_modules import load_scorer

scorer = load_scorer("runs/vilt_scorer", device="cpu")
model = ViltForImageAndTextRetrieval.from_pretrained("runs/vilt_scorer").eval()
processor = AutoProcessor.from_pretrained("runs/vilt_scorer")
image = Image.open("images/0.png")
logits = []
for caption in ("Two dogs", "a red circle left of a blue square", "two cats sleep on an old sofa, on their backs"):
    with torch.no_grad():
        plain = model(**processor(images=image, text=caption, return_tensors="pt")).logits.item()
    assert abs(scorer.logits(image, caption) - plain) < 1e-5, (caption, plain)
    assert abs(scorer.score(image, caption) - torch.tensor(plain).sigmoid().item()) < 1e-6
    logits.append(plain)
assert len({round(logit, 5) for logit in logits}) == 3, logits
trained = load_scorer("runs/vilt", device="cpu")
assert abs(trained.logits(image, "Two dogs") - logits[0]) < 1e-5
os.chdir("runs/vilt_scorer")
(block,) = re.findall(r"^```python\\n(.*?)^```", open("README.md").read(), re.DOTALL | re.MULTILINE)
card = {"__name__": "card"}
exec(block, card)
assert abs(float(card["match_logit"](image, "Two dogs")) - logits[0]) < 1e-5
assert abs(card["score"](image, "Two dogs") - torch.tensor(logits[0]).sigmoid().item()) < 1e-6
"""
"""The training, `load_scorer`, plain Transformers and the code on the card agree."""


@pytest.mark.slow  # starts a process in a copy of the repository
def test_a_judge_of_truth_is_asked_and_explained(tmp_path: Path) -> None:
    copy = copy_with("A judge of truth", tmp_path)
    text = copy.run(copy.documented(module="negatives.truth_judges.unwanted"), *copy.commands, ["generate", "--help"])
    assert "Words that a text may have only where its caption has them." in text
    written = pq.read_table(copy.work / "judged/negatives.parquet").to_pylist()
    captions = {f"{number}_0": caption for number, caption in enumerate(CAPTIONS)}
    reasons = {"": "validation,unwanted", "unwanted_word": "validation"}
    for row in written:
        new = {*row["caption"].lower().split()} - {*captions[row["caption_id"]].lower().split()}
        assert row["rejected"] == ("unwanted_word" if new & {"three", "cats"} else "")
        assert row["checks"] == reasons[row["rejected"]]
    assert {row["rejected"] for row in written} == set(reasons)
    assert "It brings in a word of the list." in (copy.work / "judged/index.html").read_text()


@pytest.mark.slow
def test_a_backbone_is_trained_scored_exported_and_held_to_the_contract(tmp_path: Path) -> None:
    copy = copy_with("A backbone", tmp_path)
    verbs = [verb for verb, *_ in copy.commands]
    assert verbs == ["train", "evaluate", "compare", "score", "export"]
    text = copy.run(SCENES, *copy.commands, SAME_LOGITS)
    assert "vilt.rank_output" in text, "it is in the table of what trains"
    scores = pq.read_table(copy.work / "runs/scores_vilt/scores.parquet")["score"].to_pylist()
    assert all(0 < score < 1 for score in scores)
    assert {row["run"] for row in rows(copy.work / "runs/comparison_vilt/comparison.csv")} == {"vilt"}
    card = (copy.work / "runs/vilt_scorer/README.md").read_text(encoding="utf-8")
    assert "the output of its matching head" in card
    assert copy.pytest("tests/test_lightning_modules_contract.py", "vilt") >= 12


INTERRUPTED = """
from lightning_modules.base import AlignmentModule

start = AlignmentModule.on_train_batch_start

def stop(self, batch, number):
    if self.global_step == 2:
        raise KeyboardInterrupt
    start(self, batch, number)

AlignmentModule.on_train_batch_start = stop
assert main({command}) == 130
AlignmentModule.on_train_batch_start = start
assert main([*{command}, "--resume"]) == 0
"""


@pytest.mark.slow
def test_a_loss_with_a_parameter_trains_saves_resumes_and_exports_it(tmp_path: Path) -> None:
    copy = copy_with("A loss with a parameter of its own", tmp_path)
    train, export = copy.commands
    train += ["trainer.max_steps=4", "trainer.checkpoint_every=1", "trainer.log_every=1", "optim.lr=0.01"]
    again = [*train, "name=parts", "output_dir=runs/parts"]
    text = copy.run(
        SCENES,
        train,
        export,
        INTERRUPTED.format(command=again),
        'assert main(["train", "model.backbone=clip", "model.loss=biased_binary", "model.biased_binary.bias=1", '
        '"data.captions=c.parquet", "data.negatives=n.parquet"]) == 2',
    )
    assert re.search(r"loss +weights +1 +1 +float32", text), "it is in the table of what trains"
    assert "`model.biased_binary.bias` must be <= 0.0, got 1" in text
    weights = load_file(copy.work / "runs/biased/weights.safetensors")
    learnt = weights["loss.bias"].item()
    assert learnt != pytest.approx(-5.0, abs=1e-4)
    assert learnt == pytest.approx(-5.0, abs=0.1)
    whole, parts = ((copy.work / f"runs/{name}/weights.safetensors").read_bytes() for name in ("biased", "parts"))
    assert whole == parts
    card = (copy.work / "runs/biased_scorer/README.md").read_text(encoding="utf-8")
    assert f"The training also learnt loss.bias = {learnt:.6g}" in card
    assert "settings of biased_binary | bias: -5" in card
    logged = [json.loads(line)["metrics"] for line in (copy.work / "runs/biased/logs/metrics.jsonl").open()]
    assert sum("train/biased_binary/bias" in metrics for metrics in logged) == 4


def test_a_benchmark_is_audited_and_can_be_evaluated(tmp_path: Path) -> None:
    copy = copy_with("A benchmark", tmp_path)
    assert copy.pytest("tests/test_datamodules_benchmarks_readers_foils.py", "caption or foil") == 2
    # what holds for all benchmarks holds for it: there is no list of them to be added to
    assert copy.pytest("tests/test_datamodules_benchmarks_readers_damage.py", "official") == 1
    (copy.work / "foils").mkdir()
    with (copy.work / "foils/foils.jsonl").open("w", encoding="utf-8") as file:
        for number, caption in enumerate(CAPTIONS):
            foil = caption.replace(caption.split()[-1], "elephant")
            item = {"image": f"{number}.png", "caption": caption, "foil": foil, "type": "last-word"}
            file.write(f"{json.dumps(item)}\n")
    (line,) = (
        line for line in SECTIONS["A benchmark"].splitlines() if '"foil"' in line and line.startswith("of lines")
    )
    assert json.loads(re.search(r"`(\{.*\})`", line)[1]).keys() == item.keys()  # type: ignore[index]
    copy.run(
        *copy.commands,
        "from datamodules.benchmarks.read import read_benchmark\n"
        'pairs = read_benchmark("foils", annotations="foils", image_root="images")\n'
        f"assert len(pairs.key) == len(pairs.images) == {len(CAPTIONS)}",
    )
    audit = json.loads((copy.work / "runs/audit_foils/audit.json").read_text(encoding="utf-8"))
    assert {row["negative_type"] for row in audit["parts"][0]["estimates"]} == {"all", "last-word"}


def test_a_verb_runs_and_is_explained(tmp_path: Path) -> None:
    copy = copy_with("A verb", tmp_path)
    text = copy.run(
        ["generate", "generator=rules", "captions=captions.jsonl", "output_dir=negatives"], *copy.commands, ["--help"]
    )
    written = pq.read_table(copy.work / "negatives/negatives.parquet").to_pylist()
    valid = [row for row in written if row["negative_type"] == "replace_obj" and not row["rejected"]]
    assert f"replace_obj: {len(valid)}\n" in text
    assert re.search(r"^  count +how many negatives of each type", text, re.MULTILINE)
    assert "| `itm count` |" in (copy.root / "README.md").read_text(encoding="utf-8")
