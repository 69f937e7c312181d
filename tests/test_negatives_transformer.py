"""The transformer judge: deterministic, fair to both classes, blind to batch mates, and it learns."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertTokenizer,
)
from transformers.utils import logging as transformers_logging

from negatives.judging.build import build_judges
from negatives.judging.crossfit import fold_of_texts, fold_scores
from negatives.judging.panel import seat
from negatives.judging.settings import JudgeSettings
from negatives.judging.text_pairs import build_text_pairs
from negatives.judging.transformer import TransformerJudge
from negatives.judging.transformer_settings import TransformerSettings
from negatives.judging.transformer_training import class_weights, judge_loss, schedule, without_words, word_ids
from negatives.tables.files import InputError

WORDS = ["dog", "cat", "horse", "bus", "tree", "bed", "kite", "cup", "man", "boat"]
TINY = TransformerSettings(
    checkpoint=None, hidden_size=16, layers=2, epochs=1, lr=5e-3, batch_size=16, accelerator="cpu"
)
SHORT = TransformerJudge(TINY)
SCRATCH = TransformerJudge(replace(TINY, hidden_size=32, layers=1, epochs=8, batch_size=32))


def planted(count: int) -> tuple[list[str], np.ndarray]:
    """Texts of words in any order; a negative has "without" somewhere in it, a positive "with"."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    texts = []
    for label in labels:
        words = list(rng.choice(WORDS, size=rng.integers(3, 9)))
        words.insert(rng.integers(len(words) + 1), "with" if label else "without")
        texts.append(" ".join(words))
    return texts, labels


TEXTS, LABELS = planted(400)


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """By its definition: how often a positive scores above a negative."""
    return float((scores[labels == 1][:, None] > scores[labels == 0]).mean())


def save_checkpoint(folder: Path, *, dropout: float = 0.1, head: int | None = None, seed: int = 0) -> str:
    """A tiny DistilBERT as published: with a language model's head, or a classifier's of `head` classes."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "with", "##out", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    DistilBertTokenizer(str(folder / "vocab.txt"), model_max_length=24).save_pretrained(folder)
    config = DistilBertConfig(
        vocab_size=len(vocabulary),
        max_position_embeddings=24,
        dim=16,
        hidden_dim=32,
        n_layers=2,
        n_heads=2,
        dropout=dropout,
        attention_dropout=dropout,
        seq_classif_dropout=0.0,
        num_labels=head or 2,
        initializer_range=0.3,  # at a tenth of it, so few weights say the same of all texts
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = DistilBertForSequenceClassification(config) if head else DistilBertForMaskedLM(config)
    network.save_pretrained(folder)
    return str(folder)


def from_checkpoint(checkpoint: str, *, lr: float = 1e-3, epochs: int = 1) -> TransformerJudge:
    settings = TransformerSettings(checkpoint=checkpoint, lr=lr, epochs=epochs, batch_size=32, accelerator="cpu")
    return TransformerJudge(settings)


def fitted_scores(judge: TransformerJudge, count: int = 100) -> np.ndarray:
    encoded = judge.encode(TEXTS)
    return judge.fit(encoded, np.arange(count), LABELS[:count])(np.arange(len(TEXTS)))


def test_scores_do_not_depend_on_batch_mates(tmp_path: Path) -> None:
    for judge in (SHORT, from_checkpoint(save_checkpoint(tmp_path))):
        encoded = judge.encode([*TEXTS, "dog " * 500, ""])
        scorer = judge.fit(encoded, np.arange(100), LABELS[:100])
        together = scorer(np.arange(len(encoded)))
        assert together.dtype == np.float64
        rows = np.array([401, 3, 400, 17, 0])
        assert np.allclose(together[rows], scorer(rows), atol=1e-5)
        assert np.allclose(together[rows], [scorer(np.array([row]))[0] for row in rows], atol=1e-5)
        assert np.ptp(together) > 1e-4
        assert scorer(np.empty(0, dtype=np.int64)).shape == (0,)


def test_fits_depend_on_their_arguments_only_and_leave_generators_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
    scores = fitted_scores(SHORT)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    torch.manual_seed(2)
    assert np.array_equal(fitted_scores(SHORT), scores)
    encoded = SHORT.encode(TEXTS)
    pairs = np.arange(100).reshape(50, 2)
    twice = [SHORT.fit_pairs(encoded, pairs)(np.arange(100)) for _ in range(2)]
    assert np.array_equal(*twice)
    assert not np.array_equal(fitted_scores(replace(SHORT, seed=1)), scores)


def test_learns_a_planted_giveaway_on_texts() -> None:
    encoded = SCRATCH.encode(TEXTS)
    scores = SCRATCH.fit(encoded, np.arange(300), LABELS[:300])(np.arange(300, 400))
    assert auc(scores, LABELS[300:]) > 0.9


def test_learns_a_planted_giveaway_on_pairs() -> None:
    encoded = SCRATCH.encode(TEXTS)
    pairs = np.stack([np.flatnonzero(LABELS == 1), np.flatnonzero(LABELS == 0)], axis=1)
    scores = SCRATCH.fit_pairs(encoded, pairs[:150])(np.arange(400))
    assert (scores[pairs[150:, 0]] > scores[pairs[150:, 1]]).mean() > 0.9


def test_both_classes_weigh_the_same() -> None:
    scores, labels = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)), np.arange(50) % 5 == 0
    loss = judge_loss(scores, torch.from_numpy(labels).float(), torch.from_numpy(class_weights(labels)))
    means = []
    for label in (True, False):
        right = [1 / (1 + np.exp(-float(s) if label else float(s))) for s in scores[labels == label, 0]]
        means.append(sum(-np.log(p) for p in right) / len(right))
    assert loss.item() == pytest.approx(sum(means) / 2, abs=1e-6)


def test_class_imbalance_does_not_shift_scores() -> None:
    """Of words that say nothing, one class in five leaves the mean probability at a half, not at a fifth."""
    labels = (np.arange(400) % 5 == 0).astype(np.int64)
    texts = [" ".join(np.random.default_rng(row).choice(WORDS, size=5)) for row in range(400)]
    judge = TransformerJudge(replace(TINY, epochs=4))
    scores = judge.fit(judge.encode(texts), np.arange(400), labels)(np.arange(400))
    assert abs(scores.mean()) < 0.3 < abs(np.log(0.2 / 0.8))


def test_pair_loss_is_softplus_of_the_negated_margin_and_antisymmetric() -> None:
    scores = torch.tensor([[1.0, -0.5], [0.2, 2.0]])
    loss = judge_loss(scores, torch.ones(2), torch.ones(2))
    assert loss.item() == pytest.approx((np.log1p(np.exp(-1.5)) + np.log1p(np.exp(1.8))) / 2)
    assert judge_loss(scores.flip(1), torch.zeros(2), torch.ones(2)).item() == pytest.approx(loss.item())


def test_both_texts_of_a_pair_lose_the_same_words() -> None:
    ids = torch.tensor([[1, *range(3, 40), 0, 1, *range(39, 2, -1), 2]]).repeat(50, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = without_words(ids, 0.2) != ids
    assert torch.equal(dropped[:, 1:38], dropped[:, 40:77].flip(1))
    assert not dropped[:, [0, 38, 39, 77]].any()
    assert dropped[:, 1:38].float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_every_example_comes_once_an_epoch_in_batches_of_about_one_size() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, size=1003)
    batches = list(schedule(lengths, 64, 2, np.random.default_rng(0)))
    assert {len(batch) for batch in batches} == {62, 63}
    for epoch in (batches[:16], batches[16:]):
        assert np.array_equal(np.sort(np.concatenate(epoch)), np.arange(1003))
    assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 8
    assert not np.array_equal(batches[0], batches[16])


def test_encoding_does_not_depend_on_the_order_of_texts(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    for judge in (SHORT, from_checkpoint(save_checkpoint(tmp_path))):
        encoded, other = judge.encode(TEXTS), judge.encode([TEXTS[row] for row in order])
        assert encoded.vocabulary == other.vocabulary
        assert len(encoded[order[:7]]) == 7
        pairs = zip(encoded[order].ids, other.ids, strict=True)
        assert all(np.array_equal(mine, theirs) for mine, theirs in pairs)


def test_a_word_of_one_text_is_unknown() -> None:
    ids = word_ids(["zebra zebra dog", "Dog, cat", "cat"], max_tokens=8).ids
    assert [row.tolist() for row in ids] == [[1, 2, 2, 4], [1, 4, 2, 3], [1, 3]]


def test_unknown_empty_long_and_foreign_texts_are_scored(tmp_path: Path) -> None:
    odd = ["", "  ", "qwertz", "dog " * 2500, "x" * 10_000, "狗在树下", "собака и кот", "🐕 🐈", "e\u0301\n\x00"]
    texts = [*odd, *TEXTS[:40]]
    labels = np.arange(len(texts)) % 2
    for judge in (SHORT, from_checkpoint(save_checkpoint(tmp_path))):
        encoded = judge.encode(texts)
        assert encoded.lengths.min() >= 1
        assert encoded.lengths.max() == (64 if judge is SHORT else 24)
        scores = judge.fit(encoded, np.arange(len(texts)), labels)(np.arange(len(texts)))
        assert np.isfinite(scores).all()


def test_weights_of_a_checkpoint_are_used(tmp_path: Path) -> None:
    one, other = save_checkpoint(tmp_path / "one"), save_checkpoint(tmp_path / "other")
    path = tmp_path / "other" / "model.safetensors"
    weights = load_file(path)
    name = "distilbert.transformer.layer.0.attention.q_lin.weight"
    weights[name] = 10 * weights[name] + 1
    save_file(weights, path, metadata={"format": "pt"})
    scores = fitted_scores(from_checkpoint(one))
    assert np.array_equal(scores, fitted_scores(from_checkpoint(one)))
    assert np.abs(scores - fitted_scores(from_checkpoint(other))).max() > 1e-4


def test_a_checkpoint_is_trained_in_train_mode(tmp_path: Path) -> None:
    """Without dropout, a config that asks for much of it would change nothing."""
    scores = [fitted_scores(from_checkpoint(save_checkpoint(tmp_path / str(p), dropout=p))) for p in (0.0, 0.5)]
    assert np.abs(scores[0] - scores[1]).max() > 1e-4


def test_a_checkpoint_learns_a_planted_giveaway(tmp_path: Path) -> None:
    judge = from_checkpoint(save_checkpoint(tmp_path, dropout=0.0), lr=1e-2, epochs=6)
    assert auc(fitted_scores(judge, count=300)[300:], LABELS[300:]) > 0.9


def test_a_classifier_of_other_classes_gets_a_new_head(tmp_path: Path) -> None:
    assert np.ptp(fitted_scores(from_checkpoint(save_checkpoint(tmp_path, head=3)))) > 0


@pytest.mark.parametrize("checkpoint", ["missing", "no_weights", "other_weights", "pickled", "no_json"])
def test_a_folder_that_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, checkpoint: str) -> None:
    folder = tmp_path / checkpoint
    if checkpoint != "missing":
        save_checkpoint(folder)
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        if checkpoint == "other_weights":
            renamed = {f"bert.{name}": tensor for name, tensor in weights.items()}
            save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
        if checkpoint == "pickled":
            torch.save(weights, folder / "pytorch_model.bin")
        if checkpoint == "no_json":
            (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="cannot load") as error:
        fitted_scores(from_checkpoint(str(folder)))
    assert str(folder) in str(error.value)
    assert "Give a folder" in str(error.value)
    assert "\n" not in str(error.value)


def test_fits_are_silent_and_leave_logging_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def levels() -> tuple[object, ...]:
        names = ("lightning.pytorch", "lightning.fabric", "transformers")
        progress = transformers_logging.is_progress_bar_enabled()
        return *(logging.getLogger(name).level for name in names), progress, len(warnings.filters)

    checkpoint = save_checkpoint(tmp_path)
    before = levels()
    capfd.readouterr()
    fitted_scores(from_checkpoint(checkpoint))
    assert capfd.readouterr() == ("", "")
    assert levels() == before


def test_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fitted_scores(SHORT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("unit", ["text", "pair"])
def test_is_cross_fitted(unit: str) -> None:
    images = [str(row // 8) for row in range(400)]
    names = [f"{'caption' if label else 'negative'}:{row}" for row, label in enumerate(LABELS)]
    types = ["" if label else "replace_rel" for label in LABELS]
    columns = {"text_id": names, "image_id": images, "caption": TEXTS, "label": LABELS.tolist()}
    numbers = {"caption_id": range(1, 400, 2), "negative_id": range(0, 400, 2)}
    pairs = pa.table({name: [str(row) for row in rows] for name, rows in numbers.items()})
    text_pairs = build_text_pairs(pa.table({**columns, "negative_type": types}), pairs)
    fold = fold_of_texts(text_pairs, 3, 0)
    scores = fold_scores(seat([SCRATCH], text_pairs, workers=2), SCRATCH, unit=unit, fold=fold)
    if unit == "text":
        assert auc(scores, text_pairs.labels) > 0.9
    assert (scores[text_pairs.pairs[:, 0]] > scores[text_pairs.pairs[:, 1]]).mean() > 0.9


def test_a_configuration_reaches_the_judge_as_it_is() -> None:
    settings = JudgeSettings(transformer=TINY)
    assert build_judges(["transformer"], settings) == [TransformerJudge(TINY)]
    assert build_judges(["transformer"], JudgeSettings()) != build_judges(["transformer"], settings)
