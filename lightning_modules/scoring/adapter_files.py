"""The two files of exported adapters, which anybody may have written: what they may say, and that they hold all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open

from lightning_modules.backbones.published import reading
from lightning_modules.checkpoint import misfit

CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
SETTINGS: dict[str, type | tuple[type, ...]] = {
    "r": int,
    "lora_alpha": (int, float),
    "lora_dropout": (int, float),
    "target_modules": list,
    "modules_to_save": (list, type(None)),
}
"""What of PEFT's configuration an export sets, name -> types."""
NOTES = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision")
"""What changes no score."""
WRAPPED = re.compile(r"\b(lora_\w+|base_layer|original_module|modules_to_save)\.")
"""In names of what PEFT has put into a model, or put something around."""


def read_lora_config(folder: Path) -> LoraConfig:
    """The LoRA of exported adapters; PEFT's other settings, which an export leaves alone, are refused.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, describes no LoRA, or sets what an export does not.
    """
    path = folder / CONFIG_FILE
    with reading(str(path)):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping, got {content!r:.60}; export the scorer again.")
    if content.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type must be LORA, got {content.get('peft_type')!r:.60}; export again.")
    given = {name: content.get(name) for name in SETTINGS}
    for name, value in given.items():
        words = value if isinstance(value, list) else []
        # bool is an int to Python
        if isinstance(value, bool) or not isinstance(value, SETTINGS[name]) or not all(type(w) is str for w in words):
            raise ValueError(f"{path}: {name} cannot be {value!r:.60}; export the scorer again.")
    with reading(str(path)):
        config = LoraConfig(**given, inference_mode=True)  # type: ignore[arg-type]
        known: dict[str, Any] = config.to_dict()
    # a key that this PEFT does not know has no default to compare with
    for name in sorted(content.keys() & known.keys() - {*SETTINGS, *NOTES}):
        if content[name] != known[name]:
            raise ValueError(f"{path}: {name} must be {known[name]!r}, got {content[name]!r:.60}; export again.")
    return config


def check_adapter_tensors(adapted: PeftModel, folder: Path) -> None:
    """Checks that the file holds all that the adapted model takes from it; PEFT loads on where tensors are missing.

    That is LoRA, `modules_to_save`, and the parameters of the model itself (BLIP-2's query tokens, CLIP's scale), which
    always train beside adapters. Further parameters of the model may be there, see `export.trained_beside`.

    Raises:
        ValueError: names what is missing, unknown, or of another shape.
    """
    path = folder / TENSORS_FILE
    with reading(str(path)), safe_open(path, framework="pt") as file:
        # shapes alone: no tensor is read before all names fit
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no mapping)
    model = adapted.get_base_model()
    expected = {
        name: value.shape for name, value in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()
    }
    expected |= {f"{PEFT_PREFIX}{name}": value.shape for name, value in model.named_parameters(recurse=False)}
    beside = {
        f"{PEFT_PREFIX}{name}": value.shape for name, value in model.named_parameters() if not WRAPPED.search(name)
    }
    expected |= {name: shape for name, shape in beside.items() if name in found}
    if fault := misfit(found, expected):
        raise ValueError(f"{path} does not fit {CONFIG_FILE} and the base: {fault}. Export the scorer again.")
