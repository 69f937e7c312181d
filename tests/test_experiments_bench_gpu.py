"""The GPU script: it runs whole without what a GPU machine may lack, its checks can fail, and its FLOPs are right."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask
from torch.utils.flop_counter import FlopCounterMode

from experiments.bench.gpu import __main__ as gpu
from experiments.bench.gpu import training as gpu_training
from experiments.bench.gpu.attention import FLEX, SDPA, packed_block_mask
from experiments.bench.gpu.flops import model_flops
from experiments.bench.gpu.memory import layers_that_fit, needs_recomputing, trained_weights
from experiments.bench.gpu.scoring import WARM_UP, timed
from experiments.bench.gpu.shapes import MODELS, QWEN_8B, build, build_qwen
from experiments.bench.gpu.table import NOT_REACHED, Report, Row
from experiments.bench.implementations import LOOP, PACKED, PADDED, rows_of_noise
from experiments.bench.measure import CPU_ATTENTION
from experiments.bench.models import count_parameters
from lightning_modules import base
from lightning_modules.backbones import branch_attention_mask
from lightning_modules.backbones.chat.qwen_vl import QwenVl

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TINY = ["--size", "tiny", "--device", "cpu", "--turns", "1"]
BLOCKED = """
import importlib.machinery, sys

blocked, found = {"omegaconf", "wandb", "openai"}, importlib.machinery.PathFinder.find_spec


def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in blocked else found(name, path, target)


importlib.machinery.PathFinder.find_spec = find_spec
for name in blocked:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(name)
from experiments.bench.gpu.__main__ import main

code = main(sys.argv[1:])
assert not blocked & sys.modules.keys()
sys.exit(code)
"""
ONE_LENGTH = ["A train travels through a snowy valley."] * 3
"""Captions that leave no padding, which a counter of operations would count."""


def lines_of(path: Path) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in path.read_text().splitlines() if line.startswith("| ")]


def batch_of(module: Any, captions: list[str] | None = None) -> Any:
    rows = rows_of_noise(2, 3)
    return module.collator()([replace(row, captions=captions) for row in rows] if captions else rows)


@pytest.mark.slow
def test_everything_runs_at_tiny_size_without_what_stock_machines_lack(tmp_path: Path) -> None:
    path = tmp_path / "gpu.md"
    words = [sys.executable, "-c", BLOCKED, *TINY, "--out", str(path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    # what is printed is what is written
    assert path.read_text() == done.stdout
    lines = lines_of(path)
    results = {line[0]: line[1] for line in lines if line[1] in ("PASS", "FAIL", NOT_REACHED)}
    assert list(results.values()) == ["PASS"] * (len(MODELS) + 2)
    wanted = set()
    for model in MODELS.values():
        for captions in ("1 caption", "4 captions", "10 captions"):
            wanted |= {(f"{model.label}, scoring, {captions}", way) for way in (PACKED, PADDED, LOOP)}
        wanted |= {(f"{model.label}, training step ({tune}), 4 captions", PACKED) for tune in ("LoRA", "full")}
    for name in ("llava", "qwen3_vl"):
        wanted |= {(f"{MODELS[name].label}, packed forward, 10 captions", way) for way in (SDPA, FLEX)}
    rates = {(line[0], line[1]): line for line in lines if len(line) > 4}
    assert wanted <= rates.keys()
    assert all(float(rates[key][4]) > 0 for key in wanted), "pairs per second"
    assert "failed" not in path.read_text()
    assert "- checks: all passed" in path.read_text()


@pytest.mark.slow
def test_a_check_that_fails_is_written_and_gives_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is made to: positions of one axis, an optimiser that forgets, a shard that is another number."""
    one_axis: Callable[..., torch.Tensor] = lambda self, prefix, *_: torch.arange(len(prefix)).expand(3, -1)  # noqa: E731
    honest = base.shard_network

    def shard(network: torch.nn.Module, *arguments: Any, **settings: Any) -> None:
        with torch.no_grad():
            next(parameter for parameter in network.parameters() if parameter.requires_grad).mul_(1.01)
        honest(network, *arguments, **settings)

    monkeypatch.setattr(QwenVl, "positions", one_axis)
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda self, state: None)
    monkeypatch.setattr(base, "shard_network", shard)
    monkeypatch.setattr(gpu, "quiet", lambda: None)  # of which other tests would hear
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    path = tmp_path / "gpu.md"
    assert gpu.main([*TINY, "--out", str(path), "--only", "checks", "--models", "qwen3_vl"]) == 1
    results = {line[0]: line[1:] for line in lines_of(path)}
    assert [line[0] for line in results.values()].count("FAIL") == 3, results
    assert all("Error" not in measured for _, measured, _ in results.values()), "failed by its number"
    assert "checks: not passed: packed = plain, Qwen3-VL-8B (tiny); resumed = unbroken" in path.read_text()


def test_what_the_time_does_not_reach_is_written_as_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "quiet", lambda: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    path = tmp_path / "gpu.md"
    # a check that was not made is none that passed
    assert gpu.main([*TINY, "--out", str(path), "--minutes", "0"]) == 1
    reached = [line for line in lines_of(path) if line[1] not in (NOT_REACHED, "---", "result", "way")]
    assert not reached
    # 5 checks; 3 lines of scoring and 2 of training for each model, and FlexAttention for two of them
    assert path.read_text().count(NOT_REACHED) == 5 + 3 * 5 + 2
    assert gpu.main([*TINY, "--out", str(path), "--minutes", "0", "--only", "scoring"]) == 0


def test_a_line_that_fails_says_why_and_the_next_one_is_measured(tmp_path: Path) -> None:
    report = Report(tmp_path / "gpu.md", minutes=1, peak=100.0)

    def full() -> list[Row]:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate | 2 GiB")

    report.measure("first", full)
    report.measure(
        "second", lambda: [Row("second", PACKED, "1 image", seconds=2.0, pairs=4, flops=50, peak_bytes=2**31)]
    )
    report.check("third", lambda: (1 // 0 > 0, ""))
    first, second, third = lines_of(report.path)
    assert first[:2] == ["first", "failed"]
    assert first[-1] == "OutOfMemoryError: CUDA out of memory. Tried to allocate / 2 GiB"
    assert second[3:8] == ["2.0000", "2.0", "2.5e-11", "25.0%", "2.0 GiB"]
    assert third[:2] == ["third", "FAIL"]
    assert "ZeroDivisionError" in third[2]
    assert report.failed == ["third"]
    assert [row.what for row in report.rows] == ["second"]


def test_nothing_is_begun_that_would_end_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("experiments.bench.gpu.table.time.monotonic", lambda: now)
    report = Report(tmp_path / "gpu.md", minutes=1, peak=None)

    def twenty_seconds() -> list[Row]:
        nonlocal now
        now += 20
        return []

    for name in ("first", "second", "third"):
        report.measure(name, twenty_seconds)
    # at 40 seconds a third one would just reach the end
    assert [line[:2] for line in lines_of(report.path)] == [["third", NOT_REACHED]]


@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize(
    ("name", "scoring", "trained"), [("llava", 0.01, 0.01), ("qwen3_vl", 1e-9, 1e-9), ("blip2", 0.025, 0.06)]
)
def test_products_by_formula_are_those_that_pytorch_counts(
    name: str, scoring: float, trained: float, tune: str
) -> None:
    """A class token is no patch; behind BLIP-2's last text layer PyTorch multiplies gradients of 0."""
    # with dropout a CPU has no kernel for attention, whose products would be counted among the others
    module = build(name, "tiny", CPU, torch.float32, tune=tune).eval()
    batch = batch_of(module, ONE_LENGTH)
    for training, tolerance in ((True, trained), (False, scoring)):
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter, torch.set_grad_enabled(training):
            loss, _ = module.loss(batch)
            if training:
                loss.backward()
        counted = counter.get_flop_counts()["Global"].items()
        products = sum(count for kernel, count in counted if "attention" not in str(kernel))
        assert model_flops(module, batch, training=training).products == pytest.approx(products, rel=tolerance)


def test_flops_are_6_n_t_in_full_training_and_4_n_t_with_adapters_as_by_hand() -> None:
    # a layer of 32 x 64: four matrices of attention, three of the feed-forward
    layers, head, projector = 2 * (4 * 32 * 32 + 3 * 32 * 64), 1200 * 32, 2 * 32 * 32
    # 39 weights of a tower of two layers: queries, keys, values, outputs, feed-forward, and patches of 14 x 14
    tower, patches = 2 * (4 * 32 * 32 + 2 * 32 * 64) + 3 * 14 * 14 * 32, 2 * (2 * 2 + 1)
    flops = {}
    for tune in ("full", "lora"):
        module = build("llava", "tiny", CPU, torch.float32, tune=tune)
        batch = batch_of(module)
        flops[tune] = model_flops(module, batch, training=True)
    segments = batch.inputs["segment_ids"]
    tokens, answers, features = int((segments >= 0).sum()), 6, 2 * 2 * 2
    assert tokens < segments.numel(), "or padding would not be told from tokens"
    # in front of the projector's first matrix no gradient is needed
    both = 2 * tower * patches + (6 * projector - 2 * 32 * 32) * features
    assert flops["full"].products == both + 6 * (layers * tokens + head * answers)
    adapters = sum(weight.numel() for name, weight in module.named_parameters() if "lora_" in name)
    assert flops["lora"].products == both + (4 * layers + 6 * adapters) * tokens + 4 * head * answers
    # a token sees the prefix and what is in front of it in its branch: 4 operations for each number, twice so backward
    places = 0
    for row in segments.tolist():
        prefix = row.count(0)
        places += prefix * (prefix + 1) // 2
        for branch in (1, 2, 3):
            length = row.count(branch)
            places += prefix * length + length * (length + 1) // 2
    assert flops["full"].attention == 3 * 4 * places * 32 * 2 + 4 * 2 * 5**2 * 32 * 2


def test_the_blocks_allow_what_the_dense_mask_allows() -> None:
    module = build("qwen3_vl", "tiny", CPU, torch.float32)
    segments = batch_of(module).inputs["segment_ids"]
    assert int(segments.min()) == -1, "padding"
    blocks = packed_block_mask(segments)
    count, length = segments.shape
    allowed = create_mask(blocks.mask_mod, count, 1, length, length, device="cpu")
    assert torch.equal(allowed, branch_attention_mask(segments))


def test_recomputed_activations_give_the_same_gradients() -> None:
    plain, recomputing = (build("qwen3_vl", "tiny", CPU, torch.float32, recomputes=value) for value in (False, True))
    for module in (plain, recomputing):
        module.train().loss(batch_of(module, ONE_LENGTH))[0].backward()
    layers = [part for part in recomputing.modules() if getattr(part, "gradient_checkpointing", False)]
    assert layers, "something is recomputed"
    for (name, one), other in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_made_in_half_precision_keeps_its_buffers(name: str) -> None:
    exact, half = (build(name, "tiny", CPU, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    buffers = dict(exact.named_buffers())
    for key, buffer in half.named_buffers():
        assert buffer.dtype == buffers[key].dtype, key
        assert torch.equal(buffer, buffers[key]), key


def test_qwen_at_full_size_is_the_published_model() -> None:
    with torch.device("meta"):
        assert count_parameters(build_qwen(QWEN_8B, "full")) == 8_767_123_696


@pytest.mark.slow
def test_as_many_layers_train_as_memory_holds() -> None:
    fitting = layers_that_fit("qwen3_vl", "full", int(84e9))
    assert 8 <= fitting < layers_that_fit("qwen3_vl", "full", int(400e9)) == QWEN_8B.layers
    # weights, gradients and moments alone, of a bf16 model on the card that this is made for
    module = build("qwen3_vl", "full", torch.device("meta"), torch.bfloat16, layers=fitting)
    assert 8 * trained_weights(module) < 0.85 * 84e9
    # an H100 holds all adapters and activations, half of it does not
    assert not needs_recomputing("qwen3_vl", "full", int(84e9))
    assert needs_recomputing("qwen3_vl", "full", int(42e9))
    with pytest.raises(ValueError, match=r"5\.0 GiB are free, and a model of one layer needs"):
        layers_that_fit("qwen3_vl", "full", 5 * 2**30)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--size", "full", "--device", "cpu"], "--size full needs --device cuda"),
        (["--turns", "0"], "--turns must be at least 1"),
        (["--minutes", "-3"], "--minutes must be at least 0"),
        (["--only", "speed"], "invalid choice"),
    ],
)
def test_arguments_that_cannot_be_met_are_refused(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu.main(words)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_goals_are_held_against_the_packed_rows_of_large_models(tmp_path: Path) -> None:
    report = Report(tmp_path / "gpu.md", minutes=1, peak=1000.0)
    label = MODELS["llava"].label
    report.rows = [
        Row(f"{label}, scoring, 1 caption", PACKED, "", seconds=1.0, pairs=60),
        Row(f"{label}, scoring, 1 caption", PADDED, "", seconds=1.0, pairs=10),
        Row(f"{label}, scoring, 10 captions", PACKED, "", seconds=1.0, pairs=340),
        Row(f"{label}, training step (full), 4 captions", PACKED, "", seconds=1.0, pairs=4, flops=510),
        Row(f"{label}, training step (LoRA), 4 captions", PACKED, "", seconds=1.0, pairs=4, flops=390),
        Row("BLIP-2 ViT-g ITM, scoring, 1 caption", PACKED, "", seconds=1.0, pairs=1),
    ]
    arguments = gpu.parser().parse_args(["--only", "scoring", "training", "--models", "llava", "blip2"])
    assert gpu.goals(report, arguments) == [
        f"- {label}, scoring, 1 caption: 60.0 pairs/s, goal 50: met",
        f"- {label}, scoring, 10 captions: 340.0 pairs/s, goal 350: missed",
        f"- {label}, training step (full): MFU 51.0%, goal 50%: met",
        f"- {label}, training step (LoRA): MFU 39.0%, goal 40%: missed",
    ]


def test_a_goal_that_was_not_measured_is_not_left_out(tmp_path: Path) -> None:
    report, label = Report(tmp_path / "gpu.md", minutes=1, peak=1000.0), MODELS["qwen3_vl"].label
    arguments = gpu.parser().parse_args(["--only", "scoring", "training", "--models", "qwen3_vl"])
    assert gpu.goals(report, arguments) == [
        f"- {label}, scoring, 1 caption: not measured, goal 50",
        f"- {label}, scoring, 10 captions: not measured, goal 350",
        f"- {label}, training step (full): not measured, goal 50%",
        f"- {label}, training step (LoRA): not measured, goal 40%",
    ]


def test_a_step_is_warmed_up_and_moves_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(gpu_training, "build", lambda *words, **more: made.append(build(*words, **more)) or made[-1])
    before = {name: value.clone() for name, value in build("llava", "tiny", CPU, torch.bfloat16).named_parameters()}
    gpu_training.training_rows("llava", "full", "tiny", CPU, 1)
    moved = [name for name, value in made[0].named_parameters() if not torch.equal(value, before[name])]
    assert any("language_model" in name for name in moved)
    calls = []
    seconds, peaks = timed({"step": lambda: calls.append(1)}, 3, CPU)
    assert len(calls) == WARM_UP + 3, "what is compiled or allocated by the first calls is not timed"
    assert seconds["step"] >= 0
    assert peaks == {"step": None}
