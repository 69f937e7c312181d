"""`itm convert`: weights of open_clip's CLIP (NegCLIP, CE-CLIP) as a Transformers folder for `model.checkpoint`.

A state dict does not tell heads, activation, tokenizer and image processor: they are those of a base of its sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import say
from lightning_modules.backbones import ACTIVATIONS
from negatives.tables import InputError, write_text

CARD_FILE, RESULT_FILE = "README.md", "model.safetensors"
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""A zip archive, as torch writes it, and the protocols of pickle itself."""


@dataclass
class ConvertConfig:
    """`itm convert`: weights of open_clip's CLIP as a Transformers folder."""

    weights: str = field(default=MISSING, metadata={"exists": "file"})
    """Safetensors file with the state dict. Pickled files (.pt, .bin, .ckpt) are refused: unpickling can run code."""
    base: str = MISSING
    """CLIP in Transformers' format and of the same sizes, by hub name or folder: its configuration and processor are
    taken, and none of its weights."""
    revision: str | None = None
    """Branch, tag or commit of `base` on the hub; its default branch where not given."""
    output_dir: str = MISSING
    """Folder for configuration, weights, processor and a short model card, `README.md`."""
    activation: str | None = field(default=None, metadata={"choices": ACTIVATIONS})
    """What the weights were trained with, which they do not tell; that of `base` where not given. What was trained from
    OpenAI's weights needs quick_gelu, LAION's models gelu."""

    def faults(self, place: str) -> Iterator[str]:
        """A file whose reading could run code, or a revision of a folder."""
        if self.weights != MISSING and is_pickled(Path(self.weights)):
            yield (
                f"`{place}weights` must be a safetensors file, got {self.weights}, which is pickled: unpickling can "
                "run code; turn it into one by torch.load(..., weights_only=True) and safetensors.torch.save_file, as "
                'docs/training.md shows under "Weights of open_clip"'
            )
        if self.revision is not None and Path(self.base).is_dir():
            yield f"`{place}revision` must be left out, got {self.revision!r}: `{place}base` is a folder, {self.base}"


def run(config: ConvertConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Writes the folder, which appears whole.

    Raises:
        InputError: the folder is in use, the weights are damaged or another model's, or the base cannot be read or has
            other sizes.
    """
    private = ("weights", "output_dir", *["base"] * Path(config.base).is_dir())
    output = OutputFolder(
        config, verb="convert", result=RESULT_FILE, resume=resume, overwrite=overwrite, private=private
    )
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return
    if Path(config.base).is_dir() and output.path.resolve().is_relative_to(Path(config.base).resolve()):
        raise InputError(f"`output_dir` must not be in the base, {config.base}, got {output.path}; choose another.")
    from experiments.tracking.lineage import content_hash
    from lightning_modules.backbones import (
        convert_state_dict,
        read_base,
        read_state_dict,
        save_converted,
        with_activation,
    )

    try:
        base, processor, commit = read_base(config.base, config.revision)
        state = read_state_dict(config.weights)
    except (OSError, ValueError) as error:
        raise InputError(" ".join(str(error).split())) from error
    try:
        clip = with_activation(base, config.activation)
        weights = convert_state_dict(state, clip)
    except ValueError as error:
        raise InputError(f"{config.weights} cannot be converted by base={config.base}: {error}") from error
    digest = content_hash(Path(config.weights))
    with output.whole() as folder:
        save_converted(weights, clip, processor, folder)
        chosen = clip.text_config.hidden_act
        dtype = str(weights["logit_scale"].dtype).removeprefix("torch.")
        write_text(_card(config, digest=digest, commit=commit, activation=chosen, dtype=dtype), folder / CARD_FILE)
    whose = "as given" if config.activation else "that of the base"
    say(f"Converted {len(weights)} weights; activation {chosen} ({whose}), {dtype}: model.checkpoint={output.path}.")


def is_pickled(path: Path) -> bool:
    """Whether a file is a pickle by its name or by its first bytes."""
    if path.suffix.lower() in PICKLED:
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(9)
    # the length of a safetensors' header may begin with the same bytes; behind its eight stands a JSON object
    return start.startswith(PICKLE_STARTS) and start[8:] != b"{"


def _card(config: ConvertConfig, *, digest: str, commit: str | None, activation: str, dtype: str) -> str:
    from experiments.report.card import one_line

    # a folder by its own name: those that it lies in are no one's business
    base = Path(config.base).resolve().name if Path(config.base).is_dir() else config.base
    at = f", commit {commit}" if commit else ""
    rows = {
        "weights": f"{one_line(Path(config.weights).name)}, SHA-256 {digest}",
        "configuration, tokenizer, image processor": f"{one_line(base)}{at}",
        "activation": f"{activation} ({'as given' if config.activation else 'that of the configuration'})",
        "precision": dtype,
    }
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return CARD.format(rows=lines)


CARD = """\
---
library_name: transformers
pipeline_tag: zero-shot-image-classification
---

# A CLIP of converted weights

Converted by `itm convert` of itm-lightning; no weight has changed. The licence is that of the weights' publisher.

| what | from |
|---|---|
{rows}

```python
from transformers import CLIPModel, CLIPProcessor

model, processor = CLIPModel.from_pretrained("."), CLIPProcessor.from_pretrained(".")
```
"""
