"""The bench: all implementations compute the same, one that does not is refused, and what is written was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from experiments.bench import __main__ as bench
from experiments.bench import loss_cost
from experiments.bench.implementations import (
    BACKBONES,
    LOOP,
    PACKED,
    PADDED,
    PREFIX_CACHE,
    Implementation,
    prefix_and_branches,
)
from experiments.bench.measure import (
    SCORE,
    TRAIN,
    Case,
    LogitsDifferError,
    Ready,
    build_module,
    cast_parameters,
    check_equal_logits,
    count_operations,
    cuda_peak,
    prepare,
    ratios,
    seconds_in_turns,
    steps_of,
    training_step,
)
from experiments.bench.models import LORA, PRESETS, count_parameters
from experiments.bench.report import LABELS
from tests.test_lightning_modules_packing import packed_rows

TINY = ["--preset", "tiny", "--repetitions", "2", "--no-memory", "--threads", "1", "--captions-trained", "2"]
CASE = Case("tiny", "llava", SCORE, "full", images=2, captions=3, device="cpu", dtype="float32", threads=1)


def ready(case: Case) -> Ready:
    module = build_module(case)
    module.eval()
    return prepare(case, module)


def implementation_of(*values: float) -> Implementation:
    def parts() -> Iterator[torch.Tensor]:
        yield torch.tensor(values)

    return Implementation(parts)


@pytest.fixture(scope="module", params=BACKBONES)
def tiny(request: pytest.FixtureRequest) -> Ready:
    return ready(replace(CASE, backbone=request.param))


def test_every_way_gives_the_same_logits(tiny: Ready) -> None:
    assert {PACKED, PADDED, LOOP} <= tiny.implementations.keys()
    assert check_equal_logits(tiny.implementations, 1e-4) < 1e-4


def test_a_training_step_leaves_the_same_gradients_in_every_way(tiny: Ready) -> None:
    gradients = []
    for name, implementation in tiny.implementations.items():
        if implementation.trains:
            training_step(tiny, name)
            gradients.append({n: p.grad.clone() for n, p in tiny.module.named_parameters() if p.grad is not None})
    assert len(gradients) == 3
    for other in gradients[1:]:
        assert other.keys() == gradients[0].keys()
        for name, gradient in other.items():
            torch.testing.assert_close(gradient, gradients[0][name], atol=1e-5, rtol=1e-3, msg=name)


def test_the_prefix_cache_only_scores() -> None:
    assert PREFIX_CACHE in ready(CASE).implementations
    assert PREFIX_CACHE not in ready(replace(CASE, work=TRAIN)).implementations


@pytest.mark.parametrize("wrong", [2.001, float("nan")])
def test_a_way_with_other_logits_is_refused(wrong: float) -> None:
    assert (
        check_equal_logits({PACKED: implementation_of(1.0, 2.0), "other": implementation_of(1.0, 2.00005)}, 1e-4) < 1e-4
    )
    with pytest.raises(LogitsDifferError, match="'other' computes something else"):
        check_equal_logits({PACKED: implementation_of(1.0, 2.0), "other": implementation_of(1.0, wrong)}, 1e-4)


def test_logits_too_much_alike_to_tell_are_refused() -> None:
    with pytest.raises(LogitsDifferError, match="cannot tell"):
        check_equal_logits({PACKED: implementation_of(1.0, 1.0005), "other": implementation_of(1.0, 1.0005)}, 1e-4)


def test_a_wrong_way_stops_the_bench_before_anything_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = BACKBONES["llava"]

    def with_a_wrong_one(*arguments: object) -> dict[str, Implementation]:
        implementations = honest.implementations(*arguments)  # type: ignore[arg-type]

        def parts() -> Iterator[torch.Tensor]:
            yield torch.cat(list(implementations[PACKED].parts())) + 1e-3

        return {**implementations, "quick": Implementation(parts)}

    monkeypatch.setitem(BACKBONES, "llava", replace(honest, implementations=with_a_wrong_one))
    assert bench.main([*TINY, "--backbones", "llava", "--json", str(tmp_path / "bench.json")]) == 1
    told = capsys.readouterr()
    assert "'quick' computes something else than 'packed'" in told.err
    assert "repetitions" not in told.err
    assert not told.out
    assert not list(tmp_path.iterdir())


def test_the_bench_writes_every_repetition_and_its_conditions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "bench.json"
    assert bench.main([*TINY, "--images", "1", "--captions-scored", "2", "3", "--markdown", "--json", str(path)]) == 0
    written = json.loads(path.read_text(encoding="utf-8"))
    for key in ("device", "threads", "torch", "transformers", "preset", "dtype", "repetitions", "memory", "models"):
        assert written["conditions"][key], key
    assert written["conditions"]["models"].keys() == LABELS.keys()
    cases: dict[tuple[str, str, str, str], dict[str, dict[str, object]]] = {}
    for result in written["results"]:
        case = (result["backbone"], result["work"], result["tune"], str(result["captions"]))
        cases.setdefault(case, {})[result["way"]] = result
        assert len(result["seconds"]) == len(result["ratios"]) == 2
        assert min(result["seconds"]) > 0
        assert result["pairs_per_second"] == pytest.approx(result["captions"] / result["median_seconds"])
        assert result["operations"] > 0
        assert 0 <= result["largest_difference"] <= 1e-4
        assert result["peak_bytes"] is result["utilisation"] is None
    works = [("train", "full", "2"), ("train", "lora", "2"), ("score", "full", "2"), ("score", "full", "3")]
    assert set(cases) == {(backbone, *work) for backbone in BACKBONES for work in works}
    for case, by_way in cases.items():
        extra = {PREFIX_CACHE} if case[:2] == ("llava", "score") else set()
        assert by_way.keys() == {PACKED, PADDED, LOOP} | extra
        assert by_way[PACKED]["ratios"] == [1, 1]
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + len(written["results"])
    assert rows[0].startswith("| what | way | seconds |")
    assert {row.count("|") for row in rows} == {rows[0].count("|")}
    assert any(row.startswith("| BLIP-2 ITM, training step (LoRA), 2 captions | loop over pairs |") for row in rows)


def test_half_precision_is_timed_and_held_against_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    # the road of `--preset 7b --device cuda`, at tiny size on a CPU
    words = ["--backbones", "llava", "--work", "train", "--dtype", "bfloat16", "--peak-tflops", "0.001"]
    assert bench.main([*TINY, *words]) == 0
    shown = capsys.readouterr().out
    assert "MFU" in shown
    assert "bfloat16" in shown


def test_casting_leaves_buffers_alone() -> None:
    module = build_module(CASE)
    cast_parameters(module, torch.bfloat16)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for name, buffer in module.named_buffers() if "inv_freq" in name} == {torch.float32}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--preset", "7b"], "needs --device cuda"),
        (["--repetitions", "0"], "at least 1"),
        (["--backbones", "clip9"], "invalid choice"),
    ],
)
def test_arguments_that_cannot_be_met_are_refused(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        bench.main(words)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_presets_and_backbones_are_named_alike_everywhere() -> None:
    assert set(bench.PRESET_NAMES) == set(PRESETS)
    assert set(LABELS) == set(BACKBONES)


@pytest.mark.parametrize(("backbone", "published"), [("llava", 7.06), ("blip2", 1.17)])
def test_the_large_preset_has_the_published_size(backbone: str, published: float) -> None:
    case = Case("7b", backbone, SCORE, "full", images=1, captions=1, device="meta", dtype="bfloat16", threads=1)
    assert round(count_parameters(build_module(case)) / 1e9, 2) == published
    adapted = build_module(replace(case, work=TRAIN, tune=LORA))
    assert any("lora_A" in name for name, parameter in adapted.named_parameters() if parameter.requires_grad)


def test_operations_of_attention_and_products_are_counted_forward_and_backward() -> None:
    batch, heads, places, width = 1, 2, 24, 8
    inputs = torch.randn(batch, heads, places, width, requires_grad=True)
    weight = torch.randn(width, width, requires_grad=True)
    mask = torch.ones(places, places, dtype=torch.bool).tril()

    def forward() -> torch.Tensor:
        return F.scaled_dot_product_attention(inputs, inputs, inputs, attn_mask=mask)

    product = 2 * batch * heads * places * places * width  # a multiplication and an addition for each term
    with torch.no_grad():
        assert count_operations(forward) == 2 * product
        assert count_operations(lambda: inputs @ weight) == 2 * batch * heads * places * width * width
    # backward: the scores once more, and the gradients of scores, values, queries and keys
    assert count_operations(lambda: forward().sum().backward()) == (2 + 5) * product


def test_ways_take_turns_and_every_other_turn_runs_backwards() -> None:
    order: list[str] = []
    steps: dict[str, Callable[[], None]] = {name: partial(order.append, name) for name in (PACKED, "b", "c")}
    seconds = seconds_in_turns(steps, 3, torch.device("cpu"))
    assert order == [PACKED, "b", "c", "c", "b", PACKED, PACKED, "b", "c"]
    assert [len(taken) for taken in seconds.values()] == [3, 3, 3]
    assert ratios(seconds, "b") == [b / packed for b, packed in zip(seconds["b"], seconds[PACKED], strict=True)]


def test_steps_run_in_the_mode_of_their_work() -> None:
    case = replace(CASE, work=TRAIN)
    made = ready(case)
    assert not made.module.network.training
    steps_of(case, made)
    assert made.module.network.training
    steps_of(CASE, made)
    assert not made.module.network.training


def test_branches_behind_a_cached_prefix_are_laid_out_as_by_hand() -> None:
    packed = packed_rows([7, 8], [[[1, 2, 3], [4]], [[5], [6, 9]]], [[3, 1], [1, 2]])
    cut = prefix_and_branches(packed, captions=2)
    assert cut["prefix_ids"].tolist() == [[7, 8], [7, 8]]
    assert cut["branch_ids"].tolist() == [[1, 2, 3], [0, 0, 4], [0, 0, 5], [0, 6, 9]]
    assert cut["position_ids"].tolist() == [[2, 3, 4], [2, 2, 2], [2, 2, 2], [2, 2, 3]]
    kept = [[1, 1, 1, 1, 1], [1, 1, 0, 0, 1], [1, 1, 0, 0, 1], [1, 1, 0, 1, 1]]
    assert cut["attention_mask"].tolist() == kept


def test_a_gpu_peak_is_that_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = 900  # of an earlier step

    def reset(device: torch.device) -> None:
        nonlocal peak
        peak = 0

    def step() -> None:
        nonlocal peak
        peak = max(peak, 7)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak)
    assert cuda_peak(step, torch.device("cuda")) == 7


@pytest.mark.parametrize(
    ("name", "words", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", [], 989e12),
        ("NVIDIA H100 PCIe", [], 756e12),
        ("NVIDIA A100-SXM4-80GB", [], 312e12),
        ("NVIDIA RTX A1000", [], None),
        ("NVIDIA RTX A1000", ["--peak-tflops", "27"], 27e12),
        ("NVIDIA H100 80GB HBM3", ["--dtype", "float32"], None),
    ],
)
def test_a_gpu_is_held_against_its_own_peak(
    name: str, words: list[str], peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert bench.device_peak(bench.parser().parse_args(words), torch.device("cuda")) == peak


@pytest.mark.slow
def test_peak_memory_is_measured_in_fresh_processes(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    words = ["--preset", "small", "--backbones", "llava", "--work", "score", "--captions-scored", "4"]
    assert bench.main([*words, "--repetitions", "1", "--json", str(path)]) == 0
    peaks = {result["way"]: result["peak_bytes"] for result in json.loads(path.read_text())["results"]}
    # four images' activations stand against one's; less than half in practice
    assert 2**20 < peaks[PACKED] < 0.8 * peaks[PADDED]


def test_a_loss_is_timed_with_all_the_similarities_that_it_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    """4 images, 2 hard negatives each: 2 x 16 similarities of positives, 32 with negatives, 32 of texts with texts."""
    sizes = loss_cost.parser().parse_args(["--images", "4", "--negatives", "2", "--width", "3"])
    names = (loss_cost.PLAIN, *loss_cost.SETTINGS)
    assert [round(loss_cost.similarities(name, sizes) * 1e6) for name in names] == [32, 64, 64, 96]
    for name in names:
        loss_cost.make_step(name, sizes)()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_cost, "_peak", lambda name, sizes: 1.0 + len(name))
        assert loss_cost.main(["--images", "4", "--width", "3", "--turns", "2", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(names)
    assert "1.00 [1.00, 1.00]" in lines[2]
