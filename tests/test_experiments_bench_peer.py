"""The bench beside other libraries: the folder that they read asks what the scorer asks."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from experiments.bench.implementations import BACKBONES
from experiments.bench.models import FULL, PRESETS
from experiments.bench.peer import cross_encoder


@pytest.mark.parametrize("backbone", ["llava", "gemma3"])
def test_a_cross_encoders_prompt_is_the_scorers(backbone: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = BACKBONES[backbone].build(PRESETS["tiny"], FULL)
    cross_encoder.write_cross_encoder(module, tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    messages = [
        {"role": "query", "content": [{"type": "image"}]},
        {"role": "document", "content": [{"type": "text", "text": 'a "red" {dog}'}]},
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == module.encoder.prompt('a "red" {dog}', processor.image_token)
    saved = json.loads((tmp_path / "1_LogitScore/config.json").read_text())
    assert (saved["true_token_id"], saved["false_token_id"]) == (module.encoder.yes_id, module.encoder.no_id)
    AutoModelForImageTextToText.from_pretrained(tmp_path)


def test_a_missing_library_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec("sentence_transformers") is not None:
        pytest.skip("sentence-transformers is installed here")
    assert cross_encoder.main(["--preset", "tiny"]) == 2
    assert "pip install sentence-transformers" in capsys.readouterr().err


def test_both_score_alike(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    assert cross_encoder.main(["--preset", "tiny", "--repetitions", "1"]) == 0
    assert capsys.readouterr().out.count("\n| ") == 5
