"""The encoder judge: what its features are, that neither padding nor order moves them, and which model is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BartConfig, BartModel, DistilBertModel

from negatives.judging import EncoderSettings, JudgeSettings, build_judges
from negatives.judging.encoder import encoder_features
from negatives.tables import InputError
from tests.test_negatives_transformer import TEXTS, WORDS, auc, save_checkpoint

LONGEST = 22
"""Tokens that are read of a text: the tiny model has 24 positions, and two may be the padding's, as RoBERTa's are."""
SOME = ["dog", "", *TEXTS[:9], "dog " * 100]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_checkpoint(tmp_path_factory.mktemp("encoder"))


def settings(folder: Path | str, batch_size: int = 64) -> EncoderSettings:
    return EncoderSettings(str(folder), batch_size=batch_size, device="cpu")


@torch.no_grad()
def by_hand(folder: str, texts: list[str]) -> np.ndarray:
    """The mean of each text's states, the text alone, at unit length."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), DistilBertModel.from_pretrained(folder).eval()
    found = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        # a text that is cut keeps the token that ends it
        ids = ids if len(ids) <= LONGEST else [*ids[: LONGEST - 1], ids[-1]]
        mean = model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0).numpy()
        found.append(mean / np.linalg.norm(mean))
    return np.stack(found)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_features_are_the_mean_state_of_a_text_at_unit_length_whatever_is_beside_it(
    checkpoint: str, batch_size: int
) -> None:
    found = encoder_features(SOME, settings(checkpoint, batch_size))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(checkpoint, SOME), atol=1e-5)
    assert np.ptp(found, axis=0).max() > 0.1


def test_a_feature_depends_on_neither_order_nor_repetition(checkpoint: str) -> None:
    found = encoder_features(TEXTS[:50], settings(checkpoint, 8))
    order = np.random.default_rng(0).permutation([*range(50), *range(7)])
    assert np.array_equal(encoder_features([TEXTS[row] for row in order], settings(checkpoint, 8)), found[order])


def test_fewer_tokens_are_read_where_that_is_set(checkpoint: str) -> None:
    words = ["dog", "cat"] * 4
    short = replace(settings(checkpoint), max_tokens=8)
    # six words stand between the two tokens that enclose a text
    long, cut = encoder_features([" ".join(words), " ".join(words[:6])], short)
    assert np.array_equal(long, cut)
    long, cut = encoder_features([" ".join(words), " ".join(words[:6])], settings(checkpoint))
    assert not np.allclose(long, cut, atol=1e-3)


def test_a_folder_of_sentence_transformers_is_read_wherever_its_transformer_is(checkpoint: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "0_Transformer")
    modules = [
        {"path": path, "type": f"sentence_transformers.models.{path[2:]}"} for path in ("0_Transformer", "1_Pooling")
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    found = encoder_features(SOME, settings(tmp_path))
    assert np.array_equal(found, encoder_features(SOME, settings(checkpoint)))


@pytest.mark.parametrize("unit", ["text", "pair"])
def test_it_learns_words_that_one_class_prefers(checkpoint: str, unit: str) -> None:
    rng, labels = np.random.default_rng(0), np.arange(400) % 2
    # two of ten words are in both classes
    texts = [" ".join(rng.choice(WORDS[:6] if label else WORDS[4:], size=5)) for label in labels]
    (judge,) = build_judges(["encoder"], JudgeSettings(encoder=settings(checkpoint)))
    assert (judge.name, judge.threads) == ("encoder", True)
    encoded = judge.encode(texts)
    pairs = np.arange(400).reshape(-1, 2)[:, ::-1]  # odd rows are positives
    seen = np.arange(300)
    scorer = judge.fit_pairs(encoded, pairs[:150]) if unit == "pair" else judge.fit(encoded, seen, labels[seen])
    assert auc(scorer(np.arange(300, 400)), labels[300:]) > 0.8


def refused(folder: Path | str) -> str:
    with pytest.raises(InputError, match=r"`judge\.encoder\.checkpoint` must be a text encoder") as caught:
        encoder_features(["a dog"], settings(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "fault", ["missing", "no_json", "no_modules", "other_weights", "pickled", "wordless", "decoder"]
)
def test_a_folder_that_is_no_text_encoder_is_refused_in_one_line(tmp_path: Path, fault: str) -> None:
    if fault != "missing":
        save_checkpoint(tmp_path)
        weights = load_file(path := tmp_path / "model.safetensors")
    if fault == "no_json":
        (tmp_path / "config.json").write_text("{", encoding="utf-8")
    if fault == "no_modules":
        (tmp_path / "modules.json").write_text("[{}]", encoding="utf-8")
    if fault == "other_weights":
        save_file({f"other.{name}": tensor for name, tensor in weights.items()}, path, {"format": "pt"})
    if fault == "pickled":
        torch.save(weights, tmp_path / "pytorch_model.bin")
        path.unlink()
    if fault == "wordless":
        for file in (*tmp_path.glob("tokenizer*"), tmp_path / "vocab.txt"):
            file.unlink(missing_ok=True)
    if fault == "decoder":
        sizes = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
        sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "vocab_size": 17}
        BartModel(BartConfig(**sizes)).save_pretrained(tmp_path)
    told = refused(tmp_path / "nothing" if fault == "missing" else tmp_path)
    reasons = {"other_weights": "no weights for", "decoder": "it has a decoder"}
    assert reasons.get(fault, "Give another folder") in told


def test_what_is_no_number_or_no_token_of_the_model_is_refused(tmp_path: Path) -> None:
    path = Path(save_checkpoint(tmp_path)) / "model.safetensors"
    weights = load_file(path)
    embeddings = weights["distilbert.embeddings.word_embeddings.weight"]
    embeddings[-1] = float("nan")  # "boat"
    save_file(weights, path, {"format": "pt"})
    assert np.isfinite(encoder_features(["dog"], settings(tmp_path))).all()
    with pytest.raises(InputError, match="must be finite, and are not"):
        encoder_features(["dog", "boat"], settings(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no token beyond the model's 17"):
        encoder_features(["dog", "zebra"], settings(tmp_path))


def test_a_device_that_is_not_there_is_refused(checkpoint: str) -> None:
    with pytest.raises(InputError, match=r"`judge\.encoder\.device` must be one of this machine, got 'abacus'"):
        encoder_features(["a dog"], replace(settings(checkpoint), device="abacus"))
