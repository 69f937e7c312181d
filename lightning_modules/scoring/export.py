"""Trained scorers as folders that Transformers, and PEFT for adapters, load without this package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin
from transformers.image_processing_backends import PilBackend

from lightning_modules.backbones.backbone import Backbone
from lightning_modules.backbones.model_section import model_settings
from lightning_modules.backbones.published import load_processor, reading
from lightning_modules.backbones.table import backbone_class
from lightning_modules.checkpoint import weights_fingerprint
from lightning_modules.scoring.adapter_files import PEFT_PREFIX, check_adapter_tensors, read_lora_config
from lightning_modules.scoring.adapter_files import TENSORS_FILE as ADAPTERS_FILE
from lightning_modules.scoring.scorer_file import FORMAT, ScorerSettings, find_scorer_settings


def other_parameters(module: Backbone) -> dict[str, float]:
    """What a scorer and its loss hold beside the Transformers model, which has no place for it: name -> value."""
    own = [(f"loss.{name}", value) for name, value in module.objective.named_parameters()]
    beside = [*module.network.named_parameters(recurse=False), *own]
    return {name: value.detach().item() for name, value in beside if value.numel() == 1}


def image_backend(module: Backbone) -> str:
    """What resizes the scorer's images, `pil` or `torchvision`: the two round differently."""
    processor: Any = module.processor
    return "pil" if isinstance(processor.image_processor, PilBackend) else "torchvision"


def scorer_content(module: Backbone) -> dict[str, Any]:
    """`scorer.json` of a whole model; adapters add their `base`."""
    dtype = str(next(module.network.parameters()).dtype).removeprefix("torch.")
    return {"format": FORMAT, "backbone": module.backbone, "model": module.scorer_settings(), "dtype": dtype}


def has_adapters(module: Backbone) -> bool:
    """Whether a scorer was trained by adapters."""
    return any(isinstance(layer, LoraLayer) for layer in module.network.modules())


def save_whole(module: Backbone, folder: Path) -> None:
    """Writes model, processor and tokenizer in Transformers' format; adapters are merged into the model, in place.

    Raises:
        ValueError: an adapter holds a number that is not finite.
    """
    model = module.to_transformers()
    merge_adapters(model)
    model.save_pretrained(folder)
    module.plain_processor().save_pretrained(folder)


def merge_adapters(model: PreTrainedModel) -> None:
    """Adds every LoRA update to the weight that it adapts, in place, and takes the adapters out.

    Raises:
        ValueError: an adapter holds a number that is not finite.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    for name, layer in layers.items():
        # safe: PEFT then refuses an update that is not finite, and leaves the weight as it was
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if layers:
        del model.peft_config


def save_adapters(module: Backbone, folder: Path, base: str, revision: str | None = None) -> list[str]:
    """Writes adapters, and what trained beside them, in PEFT's format, with processor and tokenizer.

    What trained whole becomes `modules_to_save`. A parameter that is no module's (BLIP-2's query tokens, CLIP's scale)
    cannot be one; it stands in the same file under the name that it has in PEFT's model, and `PeftModel` loads it
    over the base's.

    Args:
        module: a scorer that was trained by adapters.
        folder: to write to.
        base: the checkpoint that the adapters belong to, by hub name or folder.
        revision: its commit, where it is on the hub.

    Returns:
        The names of the parameters that are no module's.
    """
    model = module.to_transformers()
    modules, parameters = trained_beside(model)
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    state = model.state_dict()
    tensors |= {name: value for name, value in state.items() if name.startswith(tuple(f"{m}." for m in modules))}
    tensors |= {name: state[name] for name in parameters}
    settings: LoraConfig = model.peft_config["default"]  # type: ignore[assignment]
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        bias="none",
        modules_to_save=modules or None,
        base_model_name_or_path=base,
        revision=revision,
        inference_mode=True,
        auto_mapping={"base_model_class": type(model).__name__, "parent_library": type(model).__module__},
    )
    # after the constructor, which would make a set of them, in an order of its own
    config.target_modules = [name for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    # clones: safetensors refuses tensors that share memory
    whole = {f"{PEFT_PREFIX}{name}": tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / ADAPTERS_FILE, metadata={"format": "pt"})
    module.plain_processor().save_pretrained(folder)
    return parameters


def trained_beside(model: nn.Module) -> tuple[list[str], list[str]]:
    """What trained beside adapters: the largest modules that trained whole, and parameters outside of them.

    Args:
        model: with adapters.

    Returns:
        Names of modules that PEFT can save and finds by no other module's name, and of parameters.
    """
    trained = [name for name, value in model.named_parameters() if value.requires_grad and "lora_" not in name]
    names = [name for name, _ in model.named_modules()]
    modules: list[str] = []
    parameters: list[str] = []
    for parameter in trained:
        if parameter.startswith(tuple(f"{module}." for module in modules)):
            continue
        parts = parameter.split(".")[:-1]
        # from the outermost module inwards: the largest that trained whole comes first
        around = [".".join(parts[: length + 1]) for length in range(len(parts))]
        whole = [name for name in around if _trained_whole(model.get_submodule(name)) and _only(name, names)]
        (modules if whole else parameters).append(whole[0] if whole else parameter)
    return modules, parameters


def _trained_whole(module: nn.Module) -> bool:
    if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict):
        return False  # PEFT cannot wrap what has no forward
    # an adapted layer's own weight does not train, so a module with one is not whole
    return all(parameter.requires_grad for parameter in module.parameters())


def _only(name: str, names: list[str]) -> bool:
    """Whether PEFT, which goes by how names end, takes `name` for one module."""
    return sum(other.endswith(name) for other in names) == 1


def base_fingerprint(model: nn.Module) -> str:
    """A hash by which two bases of one shape are told apart, see `weights_fingerprint`; buffers do not count."""
    return weights_fingerprint(model.named_parameters())


def load_base(
    backbone: str,
    checkpoint: str | Path,
    settings: Mapping[str, Any],
    *,
    dtype: torch.dtype | str,
    revision: str | None = None,
) -> PreTrainedModel:
    """The published model that adapters belong to.

    Args:
        backbone: the scorer's family.
        checkpoint: hub name or folder.
        settings: `scorer_settings` of the scorer.
        dtype: of its weights, "auto" as they were saved.
        revision: of a hub name.

    Raises:
        OSError: there is no such checkpoint, or the hub cannot be reached.
        ValueError: it is of another kind, or incomplete.
    """
    own = model_settings({"backbone": backbone, "checkpoint": str(checkpoint), "revision": revision, **settings})
    model, _ = backbone_class(backbone).load_model(checkpoint, own, dtype=dtype)
    return cast(PreTrainedModel, model)


def load_adapters(
    folder: Path, base: str | Path | None = None, *, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, ProcessorMixin, ScorerSettings]:
    """The model of exported adapters on the base that they were trained on, in eval mode, processor and `scorer.json`.

    PEFT alone takes any base of the right shapes, and goes on without the tensors that a file lacks.

    Args:
        folder: written by `save_adapters`, with its `scorer.json`.
        base: hub name or folder of the base where it is not where it was in training.
        dtype: of base and adapters; what `scorer.json` says where None.

    Raises:
        OSError: the base cannot be loaded.
        ValueError: the folder holds no adapters, they are damaged or not whole, or the base holds other weights than
            those they were trained on.
    """
    scorer = find_scorer_settings(folder)
    if scorer is None or scorer.base is None or not (folder / ADAPTERS_FILE).is_file():
        raise ValueError(f"{folder} holds no exported adapters; give a folder that `itm export` made of a LoRA run.")
    config, dtype = read_lora_config(folder), dtype or scorer.dtype
    checkpoint = base or scorer.base.checkpoint
    # another base has commits of its own
    revision = scorer.base.revision if base is None else None
    # as saved: what is rounded to load has another fingerprint
    model = load_base(scorer.backbone, checkpoint, scorer.model, dtype="auto", revision=revision)
    if (found := base_fingerprint(model)) != scorer.base.weights:
        raise ValueError(
            f"{folder}: these adapters were trained on {scorer.base.checkpoint} (weights {scorer.base.weights}), and "
            f"{checkpoint} holds other weights ({found}); give the base that they were trained on."
        )
    if any(parameter.dtype != dtype for parameter in model.parameters()):
        del model  # first: two of them may not fit
        model = load_base(scorer.backbone, checkpoint, scorer.model, dtype=dtype, revision=revision)
    with reading(f"the adapters in {folder}"):
        # PEFT would lift half precision to float32, which training did not
        adapted = PeftModel(model, config, autocast_adapter_dtype=False)
    check_adapter_tensors(adapted, folder)
    with reading(f"the adapters in {folder}"):
        adapted.load_adapter(str(folder), "default", autocast_adapter_dtype=False)
    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # what asks for an nn.Linear must find one, as in training
            model.set_submodule(name, module.modules_to_save["default"])
    return model.eval(), load_processor(folder), scorer
