"""Times sentence-transformers' CrossEncoder with LogitScore beside this package's scorer, on one model and its pairs.

`python -m experiments.bench.peer.cross_encoder`, in an environment that has sentence-transformers (6.2 was tried).
Both get Pillow images and captions, and do all the rest: image processor, tokenizer, forward. Scores have to be equal
before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from experiments.bench.implementations import BACKBONES, PACKED, Implementation, rows_of_noise
from experiments.bench.measure import LogitsDifferError, check_equal_logits, ratios, seconds_in_turns
from experiments.bench.models import FULL, PRESETS
from experiments.bench.report import positive
from lightning_modules import Scorer
from lightning_modules.backbones import ChatVlmModule

OURS, THEIRS = "this package", "CrossEncoder"
TOLERANCE = 1e-4
"""How far two match logits of a pair may lie apart."""
MODULES = [
    ("", "sentence_transformers.base.modules.transformer.Transformer"),
    ("1_LogitScore", "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
]


def write_cross_encoder(module: ChatVlmModule, folder: Path) -> None:
    """The scorer as a folder that `CrossEncoder` reads: the image is its query, the caption its document.

    Args:
        module: a chat VLM.
        folder: gets the Transformers model, its processor with a chat template of its own, and four files (as
            sentence-transformers 6.2 saves them).
    """
    encoder = module.encoder
    module.to_transformers().save_pretrained(folder)
    processor = module.plain_processor()
    processor.chat_template = chat_template(
        encoder.prompt("{caption}", module.processor.image_token), module.processor.image_token
    )
    processor.save_pretrained(folder)
    message = {"message": {"method": "forward", "method_output_name": "logits", "format": "structured"}}
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": kind} for index, (path, kind) in enumerate(MODULES)
        ],
        "config_sentence_transformers.json": {
            "model_type": "CrossEncoder",
            "__version__": {},
            "prompts": {},
            "default_prompt_name": None,
            "activation_fn": "torch.nn.modules.linear.Identity",
        },
        "sentence_bert_config.json": {
            "transformer_task": "any-to-any",
            "modality_config": message,
            "module_output_name": "causal_logits",
            "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
        },
        "1_LogitScore/config.json": {
            "true_token_id": encoder.yes_id,
            "false_token_id": encoder.no_id,
            "module_input_name": "causal_logits",
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def chat_template(prompt: str, image_token: str) -> str:
    """Jinja that makes a prompt, up to its {caption}, of the query's message, and all of it with the document's.

    >>> chat_template("USER: <image> {caption}? ASSISTANT:", "<image>").startswith("{% for message in messages %}")
    True
    """
    before, after = prompt.split("{caption}")
    start, between, end = (json.dumps(part) for part in (*before.split(image_token), after))
    # a message that is a text, and text in the query, are what CrossEncoder tries a template with
    part = "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}" + image_token + "{% endif %}"
    content = (
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    )
    content += part + "{% endfor %}{% endif %}"
    query = "{% if message['role'] == 'query' %}{{ " + start + " }}" + content + "{{ " + between + " }}"
    return "{% for message in messages %}" + query + "{% else %}" + content + "{% endif %}{% endfor %}{{ " + end + " }}"


def row(scorer: Scorer, peer: Any, images: int, captions: int, repetitions: int) -> str:
    """A line of the table: both score `images` photos of noise with `captions` captions each, in turns.

    Raises:
        LogitsDifferError: match logits differ by more than `TOLERANCE`, or are too much alike to tell.
    """
    pairs = [(one.image, caption) for one in rows_of_noise(images, captions) for caption in one.captions]
    pictures, texts = [image for image, _ in pairs], [caption for _, caption in pairs]
    ways: dict[str, Callable[[], Any]] = {
        PACKED: lambda: scorer.logits(pictures, texts),
        THEIRS: lambda: peer.predict(pairs, batch_size=len(pairs), show_progress_bar=False),
    }

    def once(way: Callable[[], Any]) -> Iterator[torch.Tensor]:
        yield torch.as_tensor(way()).float()

    difference = check_equal_logits({name: Implementation(partial(once, way)) for name, way in ways.items()}, TOLERANCE)
    seconds = seconds_in_turns(ways, repetitions, torch.device("cpu"))
    rates = {name: len(pairs) / statistics.median(taken) for name, taken in seconds.items()}
    slower = ratios(seconds, THEIRS)
    return (
        f"| {captions} | {rates[PACKED]:.2f} | {rates[THEIRS]:.2f} | {statistics.median(slower):.2f} "
        f"[{min(slower):.2f}, {max(slower):.2f}] | {difference:.1e} |"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("python -m experiments.bench.peer.cross_encoder", description=__doc__)
    add = made.add_argument
    add("--backbone", choices=("llava", "gemma3"), default="gemma3", help="which model (default: gemma3)")
    add("--preset", choices=("tiny", "small"), default="small", help="its sizes (default: small)")
    add("--captions", nargs="+", type=positive, default=[2, 4, 10], help="per image (default: 2 4 10)")
    add("--images", type=positive, default=2, help="in a call (default: 2)")
    add("--repetitions", type=positive, default=7, help="medians are shown (default: 7)")
    add("--threads", type=positive, help="of PyTorch (default: its own choice)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints a Markdown table; 1 where the scores differ, 2 without sentence-transformers."""
    arguments = parser().parse_args(argv)
    try:
        import sentence_transformers
    except ImportError:
        print("cross_encoder: sentence-transformers is needed: pip install sentence-transformers", file=sys.stderr)
        return 2
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    torch.manual_seed(0)
    module = cast(ChatVlmModule, BACKBONES[arguments.backbone].build(PRESETS[arguments.preset], FULL))
    with tempfile.TemporaryDirectory() as folder:
        write_cross_encoder(module, Path(folder))
        peer = sentence_transformers.CrossEncoder(folder, device="cpu")
    scorer = Scorer(module, device="cpu")
    versions = f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}"
    print(f"{arguments.backbone}, {arguments.preset}, float32, {torch.get_num_threads()} threads, {versions},")
    print(f"load average {os.getloadavg()[0]:.2f}, medians of {arguments.repetitions} turns\n")
    print(f"| captions of an image | {OURS}, pairs/s | {THEIRS}, pairs/s | ratio | largest difference of logits |")
    print("| --- | --- | --- | --- | --- |")
    try:
        for captions in arguments.captions:
            print(row(scorer, peer, arguments.images, captions, arguments.repetitions), flush=True)
    except LogitsDifferError as error:
        print(f"cross_encoder: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
