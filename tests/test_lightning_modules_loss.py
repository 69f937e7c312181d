"""A loss is a file and a line in the table; one with a parameter trains it, shows it, saves it and goes on with it."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from datamodules.batch import ImageTextBatch
from experiments.report.trainable import trainable_table
from experiments.verbs.train import save_run
from lightning_modules.backbones.blip2_itm import Blip2ItmModule
from lightning_modules.backbones.clip import ClipModule
from lightning_modules.backbones.llava import LlavaModule
from lightning_modules.backbones.siglip import SiglipModule
from lightning_modules.checkpoint import full_state_dict, load_weights, save_weights
from lightning_modules.losses.loss import Loss
from lightning_modules.losses.table import LOSSES, build_loss, loss_class, losses_that_read
from lightning_modules.optim import parameter_groups
from lightning_modules.scoring.export import other_parameters
from lightning_modules.sharding import shard_network
from tests.tiny import CAPTIONS, row
from tests.tiny_blip2 import tiny_blip2_module
from tests.tiny_clip import tiny_clip_module
from tests.tiny_loss import BiasedSettings, biased_clip_module, in_table

ROWS = [row(0, CAPTIONS[:3]), row(1, CAPTIONS[1:2]), row(2, CAPTIONS[2:4]), row(3, CAPTIONS[:2])]


def test_the_table_is_read_without_torch() -> None:
    code = "import sys, lightning_modules.losses\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_says_what_it_reads_and_what_can_be_set(name: str) -> None:
    found = loss_class(name)
    assert issubclass(found, Loss)
    assert found.reads in {
        kind for module in (LlavaModule, ClipModule, Blip2ItmModule, SiglipModule) for kind in module.offers
    }
    assert is_dataclass(found.Settings)
    assert not found.Settings.__dataclass_params__.frozen, "a configuration has to fill it"
    assert found().settings == found.Settings()
    source = inspect.getsource(found.Settings)
    for setting in fields(found.Settings):
        (after,) = source.split(f"\n    {setting.name}: ")[1:]
        assert after.splitlines()[1].startswith('    """'), f"{name}.{setting.name} has no docstring"


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (LlavaModule, ["lm", "binary", "listwise"]),
        (ClipModule, ["binary", "listwise", "itc", "ce_clip"]),
        (Blip2ItmModule, ["binary", "listwise", "itm", "itc_itm"]),
        (SiglipModule, ["binary", "listwise", "itc", "ce_clip", "sigmoid"]),
    ],
)
def test_a_backbone_has_the_losses_that_read_what_it_offers(module: type[Any], names: list[str]) -> None:
    found = losses_that_read(module.offers)
    assert found[: len(names)] == names
    # losses that join later stand behind, and may be anyone's
    assert not {"lm", "itc", "ce_clip", "itc_itm", "sigmoid"} & set(found[len(names) :])


def test_an_unknown_loss_is_refused_with_the_nearest_and_the_list() -> None:
    with pytest.raises(ValueError, match=r"^model\.loss must be one of lm, .*, got 'clip'\. Did you mean ce_clip\?$"):
        loss_class("clip")
    with pytest.raises(ValueError, match=r"got 'zzz'$"):
        tiny_clip_module(loss="zzz")


def test_settings_of_another_loss_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^model\.itc must be NoSettings, got BiasedSettings\.$"):
        tiny_clip_module(loss="itc", loss_settings=BiasedSettings())
    with pytest.raises(
        ValueError, match=r"^`model\.biased\.bias` must be <= 0\.0, got 1\.0; `model\.biased\.bound` must be > 0"
    ):
        biased_clip_module(loss_settings=BiasedSettings(bias=1.0, bound=0.0))


NEGATIVES = {
    "lm": ({}, True),
    "binary": ({}, True),
    "listwise": ({}, True),
    "itm": ({}, True),
    "itc": ({}, False),
    "ce_clip": ({}, True),
    "ce_clip without its own terms": ({"imc_weight": 0.0, "cmr_weight": 0.0}, False),
    "ce_clip with IMC alone": ({"cmr_weight": 0.0}, True),
    "itc_itm": ({}, False),
    "sigmoid": ({}, False),
    "itc_itm on its rows": ({"in_batch_negatives": False}, True),
    "itc_itm without ITM": ({"in_batch_negatives": False, "itm_weight": 0.0}, False),
}


@pytest.mark.parametrize("case", NEGATIVES)
def test_a_loss_says_whether_it_can_do_without_negatives(case: str) -> None:
    settings, needed = NEGATIVES[case]
    found = loss_class(case.split()[0])
    assert found.needs_negatives(found.Settings(**settings)) is needed


def test_losses_over_all_rows_say_so() -> None:
    assert [name for name in LOSSES if loss_class(name).contrasts_rows] == ["itc", "ce_clip", "itc_itm", "sigmoid"]
    assert [name for name in LOSSES if loss_class(name).anchors_only] == ["itc", "ce_clip"]


@pytest.mark.parametrize("loss", ["binary", "listwise"])
@torch.no_grad()
def test_a_loss_on_match_logits_reads_those_of_every_backbone(loss: str) -> None:
    """BLIP-2's are those of the matching head, whatever its score is."""
    for module in (tiny_clip_module(loss=loss), tiny_blip2_module(loss=loss, score="itc")):
        batch = module.collator()(ROWS)
        logits = module.itm_logits(batch) if isinstance(module, Blip2ItmModule) else module.logits(batch)
        alone, report = build_loss(loss, offers=["match_logits"])(batch, match_logits=logits)
        found, logged = module.loss(batch)
        assert found.item() == alone.item()
        assert logged == report


@torch.no_grad()
def test_itm_is_binary_by_another_name() -> None:
    batch = tiny_blip2_module().collator()(ROWS)
    itm, binary = (tiny_blip2_module(loss=loss).loss(batch)[0] for loss in ("itm", "binary"))
    assert itm.item() == binary.item()


# --- a loss with a parameter of its own; on two ranks see test_lightning_modules_ranks.py


def trained(module: Any, **settings: Any) -> L.Trainer:
    """A trainer after two epochs of two batches, an optimiser step each."""
    loader: DataLoader[ImageTextBatch] = DataLoader(ROWS, batch_size=2, collate_fn=module.collator())  # type: ignore[arg-type]
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    run = L.Trainer(accelerator="cpu", max_epochs=2, **dict.fromkeys(quiet, False), **settings)  # type: ignore[arg-type]
    run.fit(module, loader)
    return run


quietly = pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec|val_dataloader|logging interval)")


@quietly
def test_a_parameter_of_a_loss_trains_and_is_logged() -> None:
    module = biased_clip_module(lr=0.01, warmup_ratio=0.0)
    run = trained(module)
    moved = module.objective.bias.item() + 1.0
    assert 1e-3 < abs(moved) < 0.04, "four steps of at most 0.01"
    assert -1.0 != run.callback_metrics["train/bias"].item() != module.objective.bias.item(), "before the last step"


def test_the_gradient_of_a_bias_is_that_of_the_sum_of_sigmoids() -> None:
    module = biased_clip_module()
    batch = module.collator()(ROWS)
    module.loss(batch)[0].backward()
    with torch.no_grad():
        logits = module.logits(batch)[batch.caption_mask] - 1.0
    expected = (logits.sigmoid() - batch.labels[batch.caption_mask]).mean()
    assert module.objective.bias.grad.item() == pytest.approx(expected.item(), abs=1e-6)


@quietly
def test_hooks_of_a_loss_run_once_for_each_epoch_and_optimiser_step() -> None:
    module = biased_clip_module(loss_settings=BiasedSettings(bound=0.5))
    trained(module, accumulate_grad_batches=2)
    assert (module.objective.epochs, module.objective.steps.item()) == (2, 2)
    assert module.objective.bias.item() == -0.5, "its bound holds after a step"


def test_a_bias_does_not_decay() -> None:
    module = biased_clip_module()
    groups = parameter_groups(module.named_parameters(), lr=1.0, weight_decay=0.1)
    (own,) = (group for group in groups if any(p is module.objective.bias for p in group["params"]))  # type: ignore[attr-defined]
    assert own["weight_decay"] == 0.0


def printed(module: Any) -> str:
    console = Console(width=120, file=io.StringIO())
    with console.capture() as captured:
        console.print(trainable_table(module))
    return captured.get()


def test_a_loss_with_parameters_is_a_row_of_what_trains() -> None:
    module = biased_clip_module()
    (line,) = (line for line in printed(module).splitlines() if line.split()[:1] == ["loss"])
    assert line.split() == ["loss", "weights", "1", "1", "float32"]
    total = sum(parameter.numel() for parameter in module.parameters())
    assert f"What trains: {total:,} of {total:,} parameters" in printed(module)
    assert "loss" not in printed(tiny_clip_module())


@pytest.mark.parametrize("trainable_only", [True, False])
def test_a_runs_weights_hold_the_parameters_of_its_loss_and_not_its_buffers(
    trainable_only: bool, tmp_path: Path
) -> None:
    module, fresh = biased_clip_module(0), biased_clip_module(1)
    module.trainable_only = trainable_only
    with torch.no_grad():
        module.objective.bias.fill_(-0.25)
        module.objective.steps.fill_(7)
    module.objective.bias.requires_grad_(False)  # no published checkpoint brings it along, so it is saved either way
    save_run(module, tmp_path, write=True)
    path = tmp_path / "weights.safetensors"
    names = {name for name in load_file(path) if name.startswith(("loss.", "objective."))}
    assert names == {"loss.bias"}
    load_weights(fresh.network, path, trainable_only=trainable_only, backbone="clip", loss=fresh.objective)
    assert (fresh.objective.bias.item(), fresh.objective.steps.item()) == (-0.25, 0)
    for name, tensor in module.network.state_dict().items():
        assert torch.equal(fresh.network.state_dict()[name], tensor), name


def test_weights_of_another_loss_are_refused_and_those_without_parameters_are_as_ever(tmp_path: Path) -> None:
    plain, biased = tiny_clip_module(), biased_clip_module()
    save_weights(plain.network, tmp_path / "plain", trainable_only=False, loss=plain.objective)
    save_weights(plain.network, tmp_path / "former", trainable_only=False)
    save_weights(biased.network, tmp_path / "biased", trainable_only=False, loss=biased.objective)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "former").read_bytes()
    load_weights(plain.network, tmp_path / "former", trainable_only=False, loss=plain.objective)
    with pytest.raises(ValueError, match=r"does not fit the model: missing loss\.bias"):
        load_weights(biased.network, tmp_path / "plain", trainable_only=False, loss=biased.objective)
    with pytest.raises(ValueError, match=r"does not fit the model: unexpected loss\.bias"):
        load_weights(plain.network, tmp_path / "biased", trainable_only=False, loss=plain.objective)


def test_an_export_names_the_parameters_of_a_loss_among_what_has_no_place_in_the_model() -> None:
    assert other_parameters(biased_clip_module()) == {"loss.bias": -1.0}


def test_a_sharded_loss_gathers_its_parameter_and_is_saved_whole(tmp_path: Path) -> None:
    plain, sharded = biased_clip_module(), biased_clip_module()
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        for part in (sharded.network, sharded.objective):
            shard_network(part, init_device_mesh("cpu", (1,)))
        assert isinstance(sharded.objective.bias, DTensor)
        batch = plain.collator()(ROWS)
        losses = [module.loss(batch)[0] for module in (plain, sharded)]
        for loss in losses:
            loss.backward()
        assert losses[0].item() == losses[1].item()
        assert sharded.objective.bias.grad.full_tensor().item() == plain.objective.bias.grad.item()
        state = full_state_dict(sharded.network, trainable_only=False, loss=sharded.objective)
    finally:
        distributed.destroy_process_group()
    expected = full_state_dict(plain.network, trainable_only=False, loss=plain.objective)
    assert list(state) == list(expected)
    assert state["loss.bias"].tolist() == [-1.0]


@in_table()
def test_a_loss_joins_by_a_line_in_the_table() -> None:
    assert "biased" in losses_that_read(["match_logits"])
    assert loss_class("biased").Settings is BiasedSettings
