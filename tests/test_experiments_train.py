"""From tables to a trained, evaluated and scored run, through the command line, and every way to refuse bad input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from datamodules import IMAGE_READER
from experiments.__main__ import main
from experiments.config.load import load_config
from experiments.config.schemas import ExperimentConfig
from experiments.runs.fingerprint import file_hash
from experiments.runs.trainer import build_trainer
from negatives.tables.captions import read_jsonl, write_table
from tests.tiny import TINY_OVERRIDES, tiny_module, tiny_tables
from tests.wandb_log import read_offline


def train_words(tables: Path, output: Path, *words: str) -> list[str]:
    data = [f"data.{name}={tables / 'train' / f'{name}.parquet'}" for name in ("captions", "negatives")]
    base = ["train", "experiments/configs/llava_tiny_scenes.yaml", *data, f"output_dir={output}"]
    return [*base, *TINY_OVERRIDES, "logging.wandb=disabled", *words]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    tiny_tables(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, logged to W&B and evaluated."""
    run = tmp_path_factory.mktemp("runs") / "run"
    held_out = {name: tables / "balanced" / f"{name}.parquet" for name in ("captions", "negatives")}
    words = [f"data.validation.{name}={path}" for name, path in held_out.items()]
    words += [f"evaluation.sets.balanced.{name}={path}" for name, path in held_out.items()]
    words += ["logging.wandb=offline", "logging.group=group", "trainer.max_steps=2", "trainer.validate_every=1"]
    words += ["trainer.log_every=1", "name=tiny"]
    assert main(train_words(tables, run, *words)) == 0
    assert main(["evaluate", str(run), "logging.group=group"]) == 0
    return run


def test_a_run_says_how_to_make_it_again(trained: Path) -> None:
    provenance = json.loads((trained / "provenance.json").read_text())
    assert {"git", "packages", "python"} <= provenance.keys()
    assert "transformers" in provenance["packages"]
    assert "tiny" in (trained / "config.yaml").read_text()


def test_metrics_go_to_the_record_and_wandb_under_stage_set_name(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "logs/metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["epoch"]) for line in lines] == [(0, 0), (0, 0), (1, 0), (1, 0)]
    recorded = {key for line in lines for key in line["metrics"]}
    logged = read_offline(trained, 0)
    assert (logged.group, logged.job_type, logged.name) == ("group", "train", "tiny")
    assert logged.config["trainer"]["max_steps"] == 2
    for key in ("train/loss/value", "val/swap_obj/accuracy", "val/replace_att/accuracy", "val/mean/accuracy"):
        assert key in recorded
        assert key in logged.values
        assert len(key.split("/")) == 3


def test_evaluation_has_a_blind_control_and_an_interval_beside_every_number(trained: Path) -> None:
    rows = [line.split(",") for line in (trained / "evaluation/metrics.csv").read_text().splitlines()]
    intervals = ["value", "low", "high", "blind_value", "blind_low", "blind_high"]
    assert rows[0] == ["run", "set", "metric", "group", *intervals, "count", "images"]
    types = {"replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "mean", ""}
    assert {row[3] for row in rows[1:] if row[2] == "accuracy"} == types
    for row in rows[1:]:
        for place in (4, 7):
            assert float(row[place + 1]) <= float(row[place]) <= float(row[place + 2])
    logged = read_offline(trained, 1)
    assert (logged.group, logged.job_type, logged.run_id) == ("group", "train", read_offline(trained, 0).run_id)
    assert logged.values["evaluate/balanced/swap_att_accuracy"] == pytest.approx(
        next(float(row[4]) for row in rows if row[2:4] == ["accuracy", "swap_att"])
    )
    assert "evaluate/balanced/mean_blind_accuracy" in logged.values


def test_scores_carry_the_fingerprint_of_their_scorer(trained: Path) -> None:
    schema = pq.read_schema(trained / "evaluation/balanced/scores.parquet")
    assert schema.names == ["image_id", "text_id", "logit", "score", "blind_logit"]
    assert {b"weights", b"processor", b"transformers"} <= schema.metadata.keys()
    assert schema.metadata[b"image_reader"] == str(IMAGE_READER).encode()


def test_an_evaluation_refuses_images_above_its_limit(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"output_dir={tmp_path / 'evaluation'}", "evaluation.max_pixels=65535"]
    assert main(["evaluate", str(trained), *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "16 x 16 pixels grow to 65536" in line


def test_a_hash_of_files_tells_their_contents_and_names(tmp_path: Path) -> None:
    for name, content in {"a/x": "1", "b/x": "1", "a/y": "1", "c/x": "2"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    hashes = [file_hash([tmp_path / name]) for name in ("a/x", "b/x", "a/y", "c/x")]
    assert hashes[0] == hashes[1], "wherever they lie"
    assert len(set(hashes)) == 3


def test_a_loaded_run_scores_as_the_trained_one(trained: Path, tables: Path, tmp_path: Path) -> None:
    words = [f"captions={tables / 'balanced/captions.parquet'}", f"output_dir={tmp_path / 'scores'}"]
    assert main(["score", f"run={trained}", *words]) == 0
    pairs = pq.read_table(trained / "evaluation/balanced/pairs.parquet").to_pylist()
    logits = {row["text_id"]: row["logit"] for row in pq.read_table(tmp_path / "scores/scores.parquet").to_pylist()}
    for pair in pairs:
        assert logits[f"caption:{pair['caption_id']}"] == pytest.approx(pair["positive_logit"], abs=1e-5)


def test_scores_of_the_verb_are_evaluated_as_its_run(trained: Path, tables: Path, tmp_path: Path) -> None:
    files = [tables / f"balanced/{name}.parquet" for name in ("captions", "negatives")]
    captions, negatives = (pq.read_table(path).to_pylist() for path in files)
    of = {row["caption_id"]: row for row in captions}
    foils = [
        {**of[row["caption_id"]], "caption_id": f"foil-{n}", "caption": row["caption"]}
        for n, row in enumerate(negatives)
    ]
    write_table(pa.Table.from_pylist([*captions, *foils]), tmp_path / "all.parquet")
    words = [
        f"captions={tmp_path / 'all.parquet'}",
        f"image_root={files[0].parent}",
        f"output_dir={tmp_path / 'scores'}",
    ]
    assert main(["score", f"run={trained}", *words]) == 0
    sets = [f"evaluation.sets.balanced.{path.stem}={path}" for path in files]
    assert main(["evaluate", str(tmp_path / "scores/scores.parquet"), *sets, f"output_dir={tmp_path / 'out'}"]) == 0
    found, expected = (
        pq.read_table(folder / "balanced/scores.parquet") for folder in (tmp_path / "out", trained / "evaluation")
    )
    assert found["text_id"].to_pylist() == expected["text_id"].to_pylist()
    assert found["logit"].to_pylist() == pytest.approx(expected["logit"].to_pylist(), abs=1e-5)


def test_a_finished_run_is_not_trained_again(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "weights.safetensors").stat().st_mtime_ns
    again = ["train", str(trained / "config.yaml")]
    assert main([*again, "--resume"]) == 0
    assert "nothing to resume" in capsys.readouterr().out
    assert main(again) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*again, "--resume", "optim.lr=0.5"]) == 2
    assert "another `optim.lr`" in capsys.readouterr().err
    assert (trained / "weights.safetensors").stat().st_mtime_ns == before


def test_training_goes_on_from_the_last_checkpoint(tables: Path, tmp_path: Path) -> None:
    words = ["trainer.max_steps=4", "trainer.checkpoint_every=2"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(train_words(tables, whole, *words)) == 0
    assert main(train_words(tables, parts, *words)) == 0
    (parts / "weights.safetensors").unlink()
    assert torch.load(parts / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    assert main(train_words(tables, parts, *words, "--resume")) == 0
    assert (whole / "weights.safetensors").read_bytes() == (parts / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("words", [[], ["trainer.checkpoint_every=2"]], ids=["by epochs", "by steps"])
def test_the_end_of_a_training_is_in_its_last_checkpoint(words: list[str], tables: Path, tmp_path: Path) -> None:
    """What is lost while the weights are gathered and written can be taken up from there."""
    whole = tmp_path / "run"
    assert main(train_words(tables, whole, "trainer.max_steps=3", *words)) == 0
    assert torch.load(whole / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    weights = (whole / "weights.safetensors").read_bytes()
    (whole / "weights.safetensors").unlink()
    assert main(train_words(tables, whole, "trainer.max_steps=3", *words, "--resume")) == 0
    assert (whole / "weights.safetensors").read_bytes() == weights


def test_a_checkpoint_of_a_run_with_another_configuration_is_not_gone_on_from(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for run, seed in ((one, 0), (two, 1)):
        assert main(train_words(tables, run, f"seed={seed}")) == 0
    (two / "weights.safetensors").unlink()
    last = two / "checkpoints/last.ckpt"
    own = last.read_bytes()
    last.write_bytes((one / "checkpoints/last.ckpt").read_bytes())
    assert main(train_words(tables, two, "seed=1", "--resume")) == 2
    assert "is the checkpoint of a run with another configuration" in capsys.readouterr().err
    last.write_bytes(own)
    assert main(train_words(tables, two, "seed=1", "--resume")) == 0
    assert f"{two} goes on from step 1." in capsys.readouterr().out
    (two / "weights.safetensors").unlink()
    last.unlink()
    assert main(train_words(tables, two, "seed=1", "--resume")) == 0
    assert f"{two} has no checkpoint yet; it starts from step 0." in capsys.readouterr().out


def test_a_training_says_what_trains_and_what_it_cut(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model.tune=lora", "model.train_vision=false", "model.max_text_tokens=10"]
    assert main(train_words(tables, tmp_path / "run", *words)) == 0
    printed = capsys.readouterr().out
    (title,) = re.findall(r"What trains: ([\d,]+) of ([\d,]+) parameters", printed)
    weights = load_file(tmp_path / "run/weights.safetensors")
    total = sum(tensor.numel() for tensor in weights.values())
    assert int(title[1].replace(",", "")) == total
    adapters = sum(tensor.numel() for name, tensor in weights.items() if "lora_" in name)
    projector = sum(tensor.numel() for name, tensor in weights.items() if "multi_modal_projector" in name)
    assert int(title[0].replace(",", "")) == adapters + projector
    cut = re.search(r"Captions were cut (\d+) times", printed)
    assert cut is not None
    assert int(cut[1]) > 0


def test_the_same_seed_trains_the_same_weights(tables: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main(train_words(tables, tmp_path / name, "trainer.max_steps=2")) == 0
    one, two = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_scoring_goes_on_where_it_stopped(
    trained: Path, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scores"
    words = ["score", f"run={trained}", f"captions={tables / 'balanced/captions.parquet'}", f"output_dir={output}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if it had been killed before
        assert main([*words, "shard_size=5"]) == 0
    whole = pq.read_table(output / "scores.parquet")
    (output / "scores.parquet").unlink()
    # A part that says something else proves that it is taken as it is; the other one is not there.
    said, missing = sorted(output.glob("parts/*/pairs/*.parquet"))[:2]
    part = pq.ParquetFile(said).read()
    write_table(part.set_column(2, "value", pa.array([7.0] * len(part), pa.float32())), said)
    missing.unlink()
    # a limit is no other configuration
    assert main([*words, "shard_size=5", "max_pixels=65535", "--resume"]) == 2
    assert "16 x 16 pixels grow to 65536" in capsys.readouterr().err
    assert main([*words, "shard_size=5", "--resume"]) == 0
    again = pq.read_table(output / "scores.parquet")
    changed = [a for a, b in zip(again["logit"].to_pylist(), whole["logit"].to_pylist(), strict=True) if a != b]
    assert changed == [7.0] * len(part)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Scenes of their own as JSONL, for a test to break."""
    tiny_tables(tmp_path)
    for name in ("captions", "negatives"):
        write_table(pq.read_table(tmp_path / f"train/{name}.parquet"), tmp_path / f"train/{name}.jsonl")
    return tmp_path


def edit(path: Path, line: int, **changes: str) -> None:
    rows = [row for _, row in read_jsonl(path)]
    rows[line] |= changes
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


BAD_INPUT = {
    "missing image": (lambda t: (t / "train/images/train-0.png").unlink(), [], ["train-0.png", "image_root"]),
    "unreadable image": (
        lambda t: (t / "train/images/train-0.png").write_bytes(b"no image"),
        [],
        ["train-0.png", "replace it"],
    ),
    "unreadable image in a loader worker": (
        lambda t: (t / "train/images/train-0.png").write_bytes(b"no image"),
        ["data.num_workers=1"],
        ["train-0.png", "replace it"],
    ),
    "an image larger than the limit": (
        lambda t: None,
        ["data.max_pixels=65535"],
        ["images/train-", "16 x 16 pixels grow to 65536", "max_pixels is 65535: make the image smaller or raise"],
    ),
    "a caption longer than the limit in a loader worker": (
        lambda t: edit(t / "train/captions.jsonl", 0, caption="red " * 3000),
        ["data.num_workers=1", "model.long_captions=error", "data.batch_size=64"],
        ["'red red", "2048", "long_captions=truncate"],
    ),
    "a loss of another backbone": (lambda t: None, ["model.loss=itc"], ["model.loss", "lm, binary", "llava"]),
    "adapters on a part that is not there": (
        lambda t: None,
        ["model.tune=lora", "model.adapter.targets=[qformer]"],
        ["qformer", "language_model, ", "projector"],
    ),
    "fewer processes than torchrun started": (lambda t: None, [], ["torchrun started 2", "is 1"]),
    "a patch that does not divide the image": (
        lambda t: None,
        ["model.tiny.patch_size=7"],
        ["`model.tiny.patch_size` must divide"],
    ),
    "no room for a caption": (
        lambda t: None,
        ["model.max_text_tokens=8", "model.tiny.patch_size=4"],
        ["model.max_text_tokens must be more than", "got 8; raise it"],
    ),
    "escaping image": (
        lambda t: edit(t / "train/captions.jsonl", 0, image_id="other", image="../../secret.png"),
        [],
        ["../../secret.png", "image_root"],
    ),
    "empty caption": (lambda t: edit(t / "train/captions.jsonl", 1, caption=" "), [], ["captions.jsonl", "caption"]),
    "duplicate ids": (
        lambda t: edit(t / "train/captions.jsonl", 1, caption_id="train-0-a"),
        [],
        ["train-0-a", "captions.jsonl"],
    ),
    "negatives of other captions": (
        lambda t: edit(t / "train/negatives.jsonl", 0, caption_id="stranger"),
        [],
        ["stranger", "negatives.jsonl"],
    ),
    "unknown format": (
        lambda t: (t / "train/captions.jsonl").rename(t / "train/captions.xlsx"),
        ["data.captions={tables}/train/captions.xlsx"],
        ["captions.xlsx", ".parquet"],
    ),
    "a GPU where there is none": (lambda t: None, ["trainer.accelerator=gpu"], ["accelerator", "cpu"]),
    "a checkpoint that is not there": (
        lambda t: None,
        ["model.checkpoint={tables}/nothing"],
        ["nothing", "model"],
    ),
    "more heads than width": (lambda t: None, ["model.tiny.heads=7"], ["model"]),
    "a question without a caption": (lambda t: None, ["model.question=why"], ["question", "{caption}"]),
    "an unknown key": (lambda t: None, ["optim.learning_rate=1"], ["learning_rate", "lr"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(
    case: str, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if "torchrun" in case:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
        monkeypatch.setenv("WORLD_SIZE", "2")
    spoil, words, expected = BAD_INPUT[case]
    spoil(broken)
    data = [f"data.{name}={broken / 'train' / f'{name}.jsonl'}" for name in ("captions", "negatives")]
    words = [word.format(tables=broken) if "{tables}" in word else word for word in words]
    output = tmp_path / "run"
    assert main(train_words(broken, output, *data, *words)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("itm: error: ")
    for text in expected:
        assert text in line
    assert not (output / "weights.safetensors").exists()


def test_half_precision_rounds_no_buffer(tmp_path: Path) -> None:
    words = ["data.captions=c", "data.negatives=n", "trainer.precision=bf16-true", "trainer.accelerator=cpu"]
    config = load_config(ExperimentConfig, None, [*words, "logging.wandb=disabled"], check_files=False)
    module, before = tiny_module(), dict(tiny_module().named_buffers())
    trainer = build_trainer(config, tmp_path)
    assert trainer.precision == "bf16-true"
    trainer.precision_plugin.convert_module(module)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    # a position of some hundreds times a frequency of 8 bits would be wrong by up to a radian
    assert any(name.endswith("rotary_emb.inv_freq") for name in before)
    for name, buffer in module.named_buffers():
        assert buffer.dtype == before[name].dtype, name
        assert buffer.equal(before[name]), name
