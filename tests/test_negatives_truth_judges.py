"""Judges of truth: what they reject, what they are refused for, and what a row says of the checks that it passed."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from negatives.tables import InputError
from negatives.truth_judges import (
    NliJudge,
    NliSettings,
    Statement,
    TruthSettings,
    build_truth_judges,
    check_truth,
    judge_meanings,
)

MARKED = {"indeed": "entailment", "perhaps": "neutral", "never": "contradiction"}
"""Word -> the class that the tiny model finds where the hypothesis has it; without such a word all three alike."""
WORDS = ["a", "dog", "cat", "runs", "red", *MARKED]
LABELS = ("contradiction", "entailment", "neutral")
SIZE, LONGEST = 16, 64


def save_nli(folder: Path, labels: Sequence[str] = LABELS, *, sharpness: float = 10.0) -> str:
    """A BERT of two layers in the published format, with set weights: a marked word in the second text makes the class.

    Layer 1 finds tokens that are a marked word and of the second text, layer 2 takes the mean of all tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=LONGEST).save_pretrained(folder)
    sizes = {"hidden_size": SIZE, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": SIZE}
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: place for place, label in enumerate(labels)}}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=len(vocabulary), max_position_embeddings=LONGEST + 2, **sizes, **names)
    )
    weights = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    weights |= {name: torch.ones_like(tensor) for name, tensor in weights.items() if "LayerNorm.weight" in name}
    first, second, segment = "bert.encoder.layer.0", "bert.encoder.layer.1.attention", 7
    weights["bert.embeddings.token_type_embeddings.weight"][1, segment] = 1
    weights["bert.embeddings.word_embeddings.weight"][0, 3] = 1  # padding that is read looks like entailment
    weights[f"{first}.intermediate.dense.bias"][:3] = -45  # of two normalised ones 53, of a single one 36
    for place, (word, label) in enumerate(MARKED.items()):
        weights["bert.embeddings.word_embeddings.weight"][vocabulary.index(word), place] = 1
        weights[f"{first}.intermediate.dense.weight"][place, [place, segment]] = 10
        weights[f"{first}.output.dense.weight"][place + 3, place] = 10
        weights[f"{second}.self.value.weight"][place + 3, place + 3] = 1
        weights[f"{second}.output.dense.weight"][place + 3, place + 3] = 100
        # against the others, since what tokens without a mark add to the mean is the same in all three
        weights["bert.pooler.dense.weight"][place, 3:6] = -0.5
        weights["bert.pooler.dense.weight"][place, place + 3] = 1
        if label in map(str.lower, labels):
            weights["classifier.weight"][[name.lower() for name in labels].index(label), place] = sharpness
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_nli(tmp_path_factory.mktemp("nli"))


@pytest.fixture(scope="module")
def judge(checkpoint: str) -> NliJudge:
    return NliJudge(NliSettings(checkpoint, device="cpu"))


def reason(judge: NliJudge, caption: str, text: str, kind: str = "replace_obj") -> str:
    return judge.rejections([Statement(caption, text, kind)])[0]


def test_the_classes_are_those_of_the_hypothesis_in_whatever_order_the_checkpoint_has_them(
    judge: NliJudge, tmp_path: Path
) -> None:
    pairs = [("a dog", f"a cat {word}") for word in MARKED] + [("a dog indeed", "a cat"), ("a dog never", "a red cat")]
    found = judge.probabilities(pairs)
    assert found.shape == (5, 3)
    # each marked word is the class in its place, and says nothing in the premise
    assert (np.diag(found[:3]) > 0.99).all()
    np.testing.assert_allclose(found[3:], 1 / 3, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)
    other = NliJudge(NliSettings(save_nli(tmp_path, ("NEUTRAL", "Contradiction", "ENTAILMENT")), device="cpu"))
    np.testing.assert_allclose(other.probabilities(pairs), found, atol=1e-6)


def test_a_negative_must_not_be_entailed(judge: NliJudge) -> None:
    assert reason(judge, "a dog runs", "a cat indeed") == "nli_entailed"
    assert [reason(judge, "a dog runs", text) for text in ("a cat perhaps", "a cat never", "a cat")] == ["", "", ""]
    # what the negative entails does not make it true
    assert reason(judge, "a dog indeed", "a cat never") == ""


def test_a_negative_may_be_asked_to_be_contradicted(checkpoint: str) -> None:
    strict = NliJudge(NliSettings(checkpoint, least_contradiction=0.9, device="cpu"))
    texts = ["a cat indeed", "a cat perhaps", "a cat", "a cat never"]
    expected = ["nli_entailed", "nli_not_contradicted", "nli_not_contradicted", ""]
    assert [reason(strict, "a dog", text) for text in texts] == expected


@pytest.mark.parametrize(
    ("caption", "text", "expected"),
    [
        ("a dog indeed", "a cat indeed", ""),
        ("a dog", "a cat indeed", "nli_not_entailed"),
        ("a dog indeed", "a cat", "nli_not_entailed"),
        ("a dog never", "a cat indeed", "nli_not_entailed"),
    ],
)
def test_a_paraphrase_must_be_entailed_in_both_directions(
    judge: NliJudge, caption: str, text: str, expected: str
) -> None:
    assert reason(judge, caption, text, "paraphrase") == expected


def test_bounds_are_settings(checkpoint: str) -> None:
    # without a marked word each class has a third
    lenient = NliJudge(NliSettings(checkpoint, most_entailment=0.3, least_paraphrase=0.3, device="cpu"))
    assert reason(lenient, "a dog", "a cat") == "nli_entailed"
    assert reason(lenient, "a dog", "a cat", "paraphrase") == ""


def test_other_bounds_or_other_weights_are_another_judge(tmp_path: Path) -> None:
    folder = save_nli(tmp_path)
    settings = [
        {},
        {"batch_size": 1},
        {"most_entailment": 0.1},
        {"least_contradiction": 0.1},
        {"least_paraphrase": 0.1},
    ]
    found = [NliJudge(NliSettings(folder, device="cpu", **own)).identity for own in settings]  # type: ignore[arg-type]
    assert found[0] == found[1]
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    found.append(NliJudge(NliSettings(folder, device="cpu")).identity)
    assert len({*found}) == 5


def test_neither_batch_mates_nor_their_size_change_a_judgement(tmp_path: Path) -> None:
    folder = save_nli(tmp_path, sharpness=0.5)  # far from 0 and 1, where all would look alike
    pairs = [("a dog", "a cat indeed"), ("a red dog runs", "a red cat runs perhaps"), ("a", "never"), ("a", "")] * 2
    one, all_at_once = (NliJudge(NliSettings(folder, batch_size=size, device="cpu")) for size in (1, 8))
    np.testing.assert_allclose(one.probabilities(pairs), all_at_once.probabilities(pairs), atol=1e-6)
    assert 0.4 < one.probabilities(pairs)[0, 0] < 0.9
    assert one.probabilities([]).shape == (0, 3)
    assert one.rejections([]) == []


def test_a_text_that_is_too_long_for_the_model_is_cut(judge: NliJudge) -> None:
    assert reason(judge, "a dog", "a cat indeed" + " red" * 100) == "nli_entailed"


@pytest.mark.parametrize(
    "names",
    [
        {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
        {"0": "entailment", "1": "neutral", "2": "neutral"},
        {"0": "contradiction", "1": "neutral", "5": "entailment"},
        {"0": 0, "1": 1, "2": 2},
    ],
)
def test_a_checkpoint_without_the_three_classes_is_refused(names: dict[str, object], tmp_path: Path) -> None:
    config = Path(save_nli(tmp_path)) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "id2label": names}))
    with pytest.raises(InputError, match=r"classes entailment, neutral, contradiction.*id2label.*Give another"):
        NliJudge(NliSettings(str(tmp_path), device="cpu"))


def test_a_folder_that_lacks_or_breaks_a_part_is_refused_in_one_line(tmp_path: Path) -> None:
    for name, text in {"config.json": '{"model_type": "bert", "hidden_size": "x"}', "tokenizer.json": "{}"}.items():
        folder = Path(save_nli(tmp_path / name))
        (folder / name).write_text(text)
        with pytest.raises(InputError) as caught:
            NliJudge(NliSettings(str(folder), device="cpu"))
        assert "\n" not in str(caught.value)
    for path in Path(folder := save_nli(tmp_path / "wordless")).glob("[tv]*"):
        path.unlink()
    with pytest.raises(InputError, match="its tokenizer knows no word"):
        NliJudge(NliSettings(folder, device="cpu"))


def test_a_checkpoint_without_weights_of_its_own_is_refused(checkpoint: str, tmp_path: Path) -> None:
    folder = save_nli(tmp_path / "headless")
    weights = load_file(f"{folder}/model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if "classifier" not in name},
        f"{folder}/model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(InputError, match=r"no weights for 2 tensors, such as classifier\.bias"):
        NliJudge(NliSettings(folder, device="cpu"))
    pickled = Path(save_nli(tmp_path / "pickled"))
    torch.save(weights, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(InputError, match="folder of safetensors"):
        NliJudge(NliSettings(str(pickled), device="cpu"))
    with pytest.raises(InputError, match=r"`truth\.nli\.device` must be one of this machine, got 'abacus'"):
        NliJudge(NliSettings(checkpoint, device="abacus"))


def test_logits_that_are_not_finite_let_nothing_pass(tmp_path: Path) -> None:
    broken = NliJudge(NliSettings(save_nli(tmp_path, sharpness=float("nan")), device="cpu"))
    with pytest.raises(InputError, match="must be finite"):
        reason(broken, "a dog", "a cat")


CAPTIONS = pa.table({"image_id": ["1", "2"], "caption_id": ["1_0", "2_0"], "caption": ["a dog indeed", "a cat runs"]})


def test_a_row_says_which_checks_it_passed_or_failed(checkpoint: str) -> None:
    judges = build_truth_judges(TruthSettings(nli=NliSettings(checkpoint, device="cpu")))
    rows = {
        "caption_id": ["2_0", "1_0", "1_0"],
        "caption": ["a dog indeed", "a red dog", "a cat never"],
        "negative_type": ["replace_obj", "swap_obj", "replace_obj"],
        "rejected": ["", "content_words", ""],
    }
    negatives = check_truth(pa.table(rows), CAPTIONS, judges)
    assert negatives["rejected"].to_pylist() == ["nli_entailed", "content_words", ""]
    assert negatives["checks"].to_pylist() == ["validation", "", "validation,nli"]
    # a batch, as a chat model's rows come; its captions are in another column, and its texts are paraphrases
    rows = {"caption_id": ["1_0:p"], "source_caption_id": ["1_0"], "caption": ["a cat indeed"], "rejected": [""]}
    paraphrases = check_truth(pa.RecordBatch.from_pydict(rows), CAPTIONS, judges)
    assert paraphrases.to_pylist() == [{key: value[0] for key, value in rows.items()} | {"checks": "validation,nli"}]


def test_no_judge_is_asked_about_what_another_one_rejected() -> None:
    class Recorder:
        def __init__(self, name: str, answer: str) -> None:
            self.name, self.answer, self.asked = name, answer, 0

        def rejections(self, statements: Sequence[Statement]) -> list[str]:
            self.asked += len(statements)
            return [self.answer if one.text.endswith("runs") else "" for one in statements]

    judges = [Recorder("first", "first_no"), Recorder("second", "")]
    rows = {"caption_id": ["1_0"] * 3, "caption": ["a cat runs", "a dog", "a red cat"]}
    rows |= {"negative_type": ["swap_obj"] * 3, "rejected": ["", "", "length"]}
    found = check_truth(pa.table(rows), CAPTIONS, judges)
    assert [judge.asked for judge in judges] == [2, 1]
    assert found["checks"].to_pylist() == ["validation", "validation,first,second", ""]
    assert found["rejected"].to_pylist() == ["first_no", "", "length"]


@pytest.mark.parametrize("name", TruthSettings().sections)
def test_every_rejection_by_a_judge_has_a_sentence(name: str) -> None:
    section = TruthSettings().sections[name]
    assert {*re.findall(rf'"({name}_\w+)"', inspect.getsource(inspect.getmodule(type(section))))} == {*section.meanings}
    assert all(re.fullmatch(r"[A-Z].*\.", judge_meanings()[reason]) for reason in section.meanings)


def test_without_judges_a_table_stays_as_it_was() -> None:
    assert build_truth_judges(TruthSettings()) == []
    rows = pa.table({"caption_id": ["1_0"], "caption": ["a cat"], "negative_type": ["swap_obj"], "rejected": [""]})
    assert check_truth(rows, CAPTIONS, []) is rows
