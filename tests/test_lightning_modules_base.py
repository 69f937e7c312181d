"""The training step: a step does not depend on how its cells were spread over batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.batch import ImageTextBatch, ImageTextRow
from lightning_modules.backbones.llava import LlavaModule
from lightning_modules.losses.loss import labelled_cells
from tests.tiny import CAPTIONS, row, tiny_module

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
]


def trainer(**settings: object) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0, **quiet, **settings}
    return L.Trainer(enable_model_summary=False, use_distributed_sampler=False, **settings)  # type: ignore[arg-type]


def loader(module: LlavaModule, rows: Sequence[ImageTextRow], batch_size: int) -> DataLoader[ImageTextBatch]:
    return DataLoader(list(rows), batch_size=batch_size, collate_fn=module.collator())  # type: ignore[arg-type]


def uneven_rows(count: int) -> list[ImageTextRow]:
    """Rows of one to five captions, some of them of unknown label."""
    rows = []
    for index in range(count):
        labels = [1, 0, 0, 1, 0][: 1 + index % 5]
        labels[-1] = -1 if index % 4 == 3 else labels[-1]
        rows.append(row(index, CAPTIONS[: len(labels)], labels))
    return rows


def trained(batch_size: int, rows: Sequence[ImageTextRow], loss: str = "lm", **settings: object) -> LlavaModule:
    module = tiny_module(loss, warmup_ratio=0.0)
    # in double precision, Adam does not turn rounding errors of parameters without gradient into steps
    run = trainer(precision="64-true", **settings)
    run.fit(module, loader(module, rows, batch_size))
    assert run.global_step == 3
    return module


def assert_same_weights(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("loss", ["lm", "binary"])
def test_accumulated_batches_equal_one_large_batch(loss: str) -> None:
    """Nine rows: steps of four, four and one, the last one of a single accumulated batch."""
    rows = uneven_rows(9)
    large = trained(4, rows, loss)
    accumulated = trained(2, rows, loss, accumulate_grad_batches=2)
    assert_same_weights(large.state_dict(), accumulated.state_dict())
    untrained = tiny_module(loss).double().state_dict()
    moved = [name for name, tensor in large.state_dict().items() if not torch.allclose(tensor, untrained[name])]
    assert len(moved) > 30


@pytest.mark.parametrize(
    ("projector_lr", "logged"),
    [
        (0.25, {"train/optim/lr": 1.0, "train/optim/projector_lr": 0.25}),
        (None, {"train/optim/lr": 1.0}),
    ],
)
def test_the_logged_rate_is_that_of_the_main_part(projector_lr: float | None, logged: dict[str, float]) -> None:
    module = tiny_module(lr=1.0, projector_lr=projector_lr, warmup_ratio=0.0)
    run = trainer(max_steps=1)
    run.fit(module, loader(module, uneven_rows(2), 2))
    rates = {name: float(value) for name, value in run.logged_metrics.items() if name.endswith("lr")}
    assert rates == logged


@pytest.mark.parametrize("clip", [None, 1.01, 0.5])
def test_a_step_follows_the_gradient_of_the_mean_over_all_cells(clip: float | None) -> None:
    """The second of two steps of four rows, at weights that stay; clipping sees the same gradient."""
    rows = uneven_rows(8)
    module, plain = tiny_module(lr=0.0), tiny_module()
    plain.on_fit_start()
    plain.loss(plain.collator()(rows[4:]))[0].backward()
    expected = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    norm = float(torch.stack([gradient.norm() for gradient in expected.values()]).norm())
    clip_value = None if clip is None else clip * norm
    run = trainer(accumulate_grad_batches=4, gradient_clip_val=clip_value)
    run.fit(module, loader(module, rows, 1))
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    assert float(run.logged_metrics["train/optim/gradient_norm"]) == pytest.approx(norm, rel=1e-4), "before clipping"
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient * min(1, clip or 1), atol=1e-5, rtol=1e-4, msg=name)


def test_labelled_cells_exist_and_have_a_known_label() -> None:
    batch = tiny_module().collator()([row(0, CAPTIONS[:3], [1, -1, 0]), row(1, CAPTIONS[:1], [1])])
    assert labelled_cells(batch).tolist() == [[True, False, True], [True, False, False]]


def test_a_loss_that_is_no_number_stops_with_the_image_ids() -> None:
    module = tiny_module()
    with torch.no_grad():
        module.network.llava.lm_head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"The loss is nan at step 0, images \['image-0', 'image-1'\]"):
        trainer().fit(module, loader(module, uneven_rows(4), 2))


def test_a_batch_without_labels_does_not_move_a_weight() -> None:
    module = tiny_module()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    rows = [row(0, CAPTIONS[:2], [-1, -1]), row(1, CAPTIONS[:1], [-1])]
    trainer().fit(module, loader(module, rows, 2))
    assert_same_weights(before, module.state_dict(), tolerance=0)


def test_training_runs_in_train_mode_and_validation_in_eval_mode() -> None:
    module = tiny_module()
    module.network.eval()
    seen: list[tuple[str, bool]] = []
    module.network.register_forward_hook(lambda network, *_: seen.append((stage(), network.llava.training)))
    run = trainer()

    def stage() -> str:
        return "val" if run.validating or run.state.stage == "validate" else "train"

    rows = uneven_rows(2)
    run.fit(module, loader(module, rows, 1), loader(module, rows, 2))
    assert seen == [("train", True), ("train", True), ("val", False)]


def test_validation_logs_the_accuracy_of_every_type_and_their_mean() -> None:
    module = tiny_module()
    rows = [
        row(0, CAPTIONS[:3], [1, 0, 0], ["", "swap_obj", "replace_att"]),
        row(1, CAPTIONS[1:3], [1, 0], ["", "swap_obj"]),
    ]
    (logged,) = trainer().validate(module, loader(module, rows, 1), verbose=False)
    with torch.no_grad():
        first, second = (module.logits(module.collator()([item]))[0].tolist() for item in rows)
    swap = ((first[0] > first[1]) + (second[0] > second[1])) / 2
    expected = {"val/swap_obj/accuracy": swap, "val/replace_att/accuracy": float(first[0] > first[2])}
    mean = sum(expected.values()) / 2
    assert logged == pytest.approx({**expected, "val/mean/accuracy": mean})
