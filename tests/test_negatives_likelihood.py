"""The judge by likelihood: its features by hand, whatever shares a batch, and what it can learn from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from negatives.judging import JudgeSettings, LikelihoodSettings, build_judges
from negatives.judging.likelihood import LIKELIHOOD_FEATURES, likelihood_features
from negatives.tables import InputError
from tests.test_negatives_causal_lm import LONGEST, WORDS, save_lm
from tests.test_negatives_transformer import auc

TEXTS = ["a dog runs on a red grass", "a cat", "dog", "grass red a on runs dog a cat", "", "a " * 50]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_lm(tmp_path_factory.mktemp("lm"))


def settings(folder: Path | str, **values: int) -> LikelihoodSettings:
    return LikelihoodSettings(str(folder), device="cpu", **values)


@torch.no_grad()
def by_hand(folder: str, texts: list[str]) -> list[list[float]]:
    """Sum and mean of the words' log-probabilities, each by a forward of what is before it, and their number."""
    model, rows = AutoModelForCausalLM.from_pretrained(folder).eval(), []
    for text in texts:
        read, found = [WORDS.index("<s>")], []
        for word in text.split()[: LONGEST - 1]:
            token = WORDS.index(word)
            found.append(model(torch.tensor([read])).logits[0, -1].double().log_softmax(dim=0)[token].item())
            read.append(token)
        rows.append([sum(found), sum(found) / len(found), len(found)] if found else [0.0] * 3)
    return rows


@pytest.mark.parametrize("batch_size", [1, 4])
def test_features_are_those_of_a_text_alone_whatever_is_beside_it(checkpoint: str, batch_size: int) -> None:
    found = likelihood_features(TEXTS, settings(checkpoint, batch_size=batch_size))
    assert found.dtype == np.float32
    assert found.shape == (len(TEXTS), len(LIKELIHOOD_FEATURES))
    np.testing.assert_allclose(found, by_hand(checkpoint, TEXTS), atol=1e-3, rtol=1e-5)


def test_a_feature_depends_on_neither_order_nor_repetition(checkpoint: str) -> None:
    found = likelihood_features(TEXTS, settings(checkpoint, batch_size=2))
    order = [5, 3, 0, 3, 1, 4, 2, 0]
    again = likelihood_features([TEXTS[row] for row in order], settings(checkpoint, batch_size=2))
    assert np.array_equal(again, found[order])


def test_fewer_tokens_are_read_where_that_is_set(checkpoint: str) -> None:
    words = ["dog", "cat", "red"] * 3
    long, cut = likelihood_features([" ".join(words), " ".join(words[:8])], settings(checkpoint, max_tokens=8))
    assert np.array_equal(long, cut)
    assert long[list(LIKELIHOOD_FEATURES).index("tokens")] == 8


@pytest.mark.parametrize("unit", ["text", "pair"])
def test_it_learns_that_negatives_are_less_likely(checkpoint: str, unit: str) -> None:
    rng = np.random.default_rng(0)
    texts = np.array([" ".join(rng.choice(WORDS[2:], 6)) for _ in range(400)])
    # which text is likely only the model knows: the half that it finds likelier are positives
    likely = np.argsort(likelihood_features(list(texts), settings(checkpoint))[:, 0])
    pairs = np.stack([rng.permutation(likely[200:]), rng.permutation(likely[:200])], axis=1)
    labels = np.zeros(400, dtype=np.int64)
    labels[pairs[:, 0]] = 1
    (judge,) = build_judges(["lm"], JudgeSettings(lm=settings(checkpoint)))
    assert (judge.name, judge.threads) == ("lm", True)
    encoded, seen, held = judge.encode(list(texts)), pairs[:100], pairs[100:].ravel()
    scorer = (
        judge.fit_pairs(encoded, seen) if unit == "pair" else judge.fit(encoded, seen.ravel(), labels[seen.ravel()])
    )
    assert auc(scorer(held), labels[held]) > 0.95


def test_a_folder_device_or_logit_that_is_none_is_refused_under_the_judges_keys(
    checkpoint: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"^`judge\.lm\.checkpoint` must be a causal language model, .*[^\n]$"):
        likelihood_features(["a dog"], settings(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"^`judge\.lm\.device` must be one of this machine, got 'abacus'"):
        likelihood_features(["a dog"], LikelihoodSettings(checkpoint, device="abacus"))
    path = Path(save_lm(tmp_path)) / "model.safetensors"
    weights = load_file(path)
    weights["transformer.ln_f.bias"] += float("nan")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(InputError, match="must be finite"):
        likelihood_features(["a dog"], settings(tmp_path))
