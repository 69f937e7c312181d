"""A training's recipe in words, for its model card: what a row holds, and how the optimiser was set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from datamodules import Mixing
from experiments.config.data_schemas import DataConfig
from experiments.config.schemas import ExperimentConfig
from experiments.config.trainer_schemas import OptimConfig
from lightning_modules.backbones import ModelSettings


def recipe(
    experiment: ExperimentConfig, provenance: Mapping[str, Any], weights: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """How a scorer was trained, name -> value.

    Args:
        experiment: configuration of the run.
        provenance: of the run, its `git` and `packages`; empty where it is gone.
        weights: which of its weights, see `describe_kept`; the last ones where None.
    """
    model, optim, trainer = experiment.model, experiment.optim, experiment.trainer
    git, packages = provenance.get("git") or {}, provenance.get("packages") or {}
    adapter = model.adapter
    lora = f"LoRA of rank {adapter.rank}, alpha {adapter.alpha}, dropout {adapter.dropout}"
    versions = [f"{name} {version}" for name, version in packages.items() if version]
    return {
        **_loss(model),
        **_debias(experiment.data),
        "trained": lora if model.tune == "lora" else "all weights that the backbone trains",
        "learning rate": _learning_rate(optim),
        "weight decay": f"{optim.weight_decay:g}",
        "warm-up": f"{_warm_up(optim)}, then cosine to 0",
        # max_steps overrules the epochs
        "length": f"{trainer.max_steps} steps" if trainer.max_steps >= 0 else f"{trainer.max_epochs} epochs",
        **_kept(weights or {}),
        "rows in a step": _rows_in_a_step(experiment),
        "precision": trainer.precision,
        "seed": str(experiment.seed),
        "commit": (str(git.get("commit")) + (" with changes" if git.get("dirty") else "")) if git else "not known",
        "versions": ", ".join(versions) or "not known",
    }


def _kept(weights: Mapping[str, Any]) -> dict[str, str]:
    """Which weights these are, where they are not those of the training's end."""
    if "step" not in weights:
        return {}
    return {"weights": f"after step {weights['step']}, by {weights['metric']} {weights['value']:.3f}"}


def _loss(model: ModelSettings) -> dict[str, str]:
    """The loss, and its own settings where it has some."""
    name = model.own_loss
    if model.loss_section is None:
        return {"loss": name}
    settings = [f"{key}: {_word(value)}" for key, value in asdict(model.loss_section).items()]
    return {"loss": name, f"settings of {name}": ", ".join(settings)}


def _debias(data: DataConfig) -> dict[str, str]:
    """How far the filter's judges answered beside the scorer, where they did."""
    if data.debias == "none":
        return {}
    strength = data.debias_strength
    by_type = strength.items() if isinstance(strength, Mapping) else [("", strength)]
    listed = ", ".join(f"{name} {value:g}".strip() for name, value in by_type)
    return {"text bias": f"the filter's judges answered beside the scorer (offset), strength {listed}"}


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " and ".join(value) or "all"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _learning_rate(optim: OptimConfig) -> str:
    # two equal rates are one
    apart = optim.projector_lr is not None and optim.projector_lr != optim.lr
    return f"{optim.lr:g}" + (f", of projector, heads or projections {optim.projector_lr:g}" if apart else "")


def _warm_up(optim: OptimConfig) -> str:
    return (
        f"{_percent(optim.warmup_ratio)} of the steps" if optim.warmup_steps is None else f"{optim.warmup_steps} steps"
    )


def _rows_in_a_step(experiment: ExperimentConfig) -> str:
    trainer = experiment.trainer
    # batch_size is that of one device, and `accumulate` batches make one step
    rows = experiment.data.batch_size * trainer.devices * trainer.num_nodes * trainer.accumulate
    return f"{rows}, with those of neighbours up to {2 * rows}" if experiment.data.neighbours else str(rows)


def row_of_training(data: DataConfig) -> str:
    """What a row of the training holds, after "a row holds".

    >>> row_of_training(DataConfig(mixing=Mixing(unit="pair", negatives=1.5, swap_ratio=0.25)))
    'an image with a positive and its own kept negatives, 1.5 for each positive (swaps: 25%; unit: pair)'
    """
    mixing = data.mixing
    many = f"up to {mixing.positives} positives" if mixing.positives > 1 else "a positive"
    positives = "a positive and its own" if mixing.unit == "pair" else f"{many} and any"
    return "; ".join(
        (
            f"an image with {positives} kept negatives, {mixing.negatives:g} for each positive "
            f"(swaps: {_percent(mixing.swap_ratio)}; unit: {mixing.unit})",
            *_also(mixing),
            *["beside it stands a row of an image near its own (hard images)"] * bool(data.neighbours),
        )
    )


def _also(mixing: Mixing) -> list[str]:
    """What mixes beside negatives, as far as it is turned on."""
    parts = []
    if mixing.paraphrase_ratio is not None:
        parts.append(
            f"a kept paraphrase stands in for its caption with a chance of {_percent(mixing.paraphrase_ratio)}"
        )
    if mixing.image_dropout:
        parts.append(f"{_percent(mixing.image_dropout)} of images are noise")
    if mixing.curriculum is not None:
        start = mixing.curriculum
        # the end of the curriculum is the mixing itself, told above
        values = [f"{start.negatives:g} negatives for each positive"] if start.negatives is not None else []
        for name, ratio in (("swaps", start.swap_ratio), ("paraphrases", start.paraphrase_ratio)):
            values += [f"{_percent(ratio)} {name}"] if ratio is not None else []
        parts.append(f"it starts with {', '.join(values)} and moves there over the first {start.epochs:g} epochs")
    return parts


def _percent(part: float) -> str:
    """A part of one; half a percent is not none.

    >>> _percent(0.5), _percent(0.005)
    ('50%', '0.5%')
    """
    return f"{100 * part:.4g}%"
