"""The judge by a causal language model: how likely a text is, which one is rejected, and which model is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel
from transformers import PreTrainedTokenizerFast as FastTokenizer

from negatives.published_models import checkpoint_errors
from negatives.tables import InputError
from negatives.truth_judges import LmJudge, LmSettings, Statement, TruthSettings, build_truth_judges
from tests.lm_readings import lines

WORDS = ["<unk>", "<s>", "a", "dog", "cat", "runs", "red", "on", "grass"]
LONGEST = 24


def save_lm(folder: Path, *, start: str = "bos_token") -> str:
    """A GPT-2 of two layers in the published format, its weights drawn large enough that every word matters."""
    folder.mkdir(parents=True, exist_ok=True)
    words = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    # on the left, as for writing: a text would be read from its padding
    FastTokenizer(tokenizer_object=words, unk_token="<unk>", padding_side="left", **{start: "<s>"}).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": LONGEST, "vocab_size": len(WORDS)}
    GPT2LMHeadModel(GPT2Config(initializer_range=0.7, **sizes)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_lm(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def judge(checkpoint: str) -> LmJudge:
    return LmJudge(LmSettings(checkpoint, device="cpu"))


@torch.no_grad()
def by_hand(folder: str, text: str) -> float:
    """A text's log-probability by the chain rule, each word by a forward of what is before it."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    read, total = [WORDS.index("<s>")], 0.0
    for word in text.split():
        token = WORDS.index(word)
        total += model(torch.tensor([read])).logits[0, -1].double().log_softmax(dim=0)[token].item()
        read.append(token)
    return total


TEXTS = ["a dog runs on a red grass", "a cat", "dog", "grass red a on runs dog a cat", ""]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_text_is_as_likely_as_its_words_one_after_another_whatever_is_beside_it(
    checkpoint: str, batch_size: int
) -> None:
    found = LmJudge(LmSettings(checkpoint, batch_size=batch_size, device="cpu")).log_likelihoods(TEXTS)
    np.testing.assert_allclose(found, [by_hand(checkpoint, text) for text in TEXTS], atol=1e-4)
    assert found[0] < -5


def test_without_a_token_that_begins_a_text_it_begins_with_the_one_that_ends_it(
    checkpoint: str, tmp_path: Path
) -> None:
    other = LmJudge(LmSettings(save_lm(tmp_path, start="eos_token"), device="cpu"))
    np.testing.assert_allclose(other.log_likelihoods(["a dog"]), [by_hand(checkpoint, "a dog")], atol=1e-4)
    save_lm(tmp_path, start="pad_token")
    with pytest.raises(InputError, match="no token that begins or ends a text"):
        LmJudge(LmSettings(str(tmp_path), device="cpu"))


@pytest.mark.parametrize("kind", ["swap_obj", "paraphrase"])
def test_a_text_is_rejected_where_it_drops_further_below_its_caption_than_the_bound(
    kind: str, judge: LmJudge, checkpoint: str
) -> None:
    likely, unlikely = sorted(("a dog runs on a cat", "a cat runs on a dog"), key=lambda t: -by_hand(checkpoint, t))
    drop = by_hand(checkpoint, likely) - by_hand(checkpoint, unlikely)
    assert drop > 0.1
    for bound, expected in ((drop + 0.01, ""), (drop - 0.01, "lm_unlikely")):
        strict = LmJudge(LmSettings(checkpoint, most_drop=bound, device="cpu"))
        found = strict.rejections([Statement(likely, unlikely, kind), Statement(unlikely, likely, kind)])
        # bad English that the caption has is forgiven
        assert found == [expected, ""]
    assert judge.rejections([]) == []


def test_a_text_of_more_words_is_taken_at_its_captions_length(judge: LmJudge, checkpoint: str) -> None:
    short, long = "a dog runs", "a red dog runs on grass"
    expected = [
        by_hand(checkpoint, short) - by_hand(checkpoint, long) / 2,
        by_hand(checkpoint, long) - by_hand(checkpoint, short),
    ]
    found = judge.drops([Statement(short, long, "paraphrase"), Statement(long, short, "paraphrase")])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_text_that_is_too_long_for_the_model_is_cut(judge: LmJudge) -> None:
    # one token begins it
    text, cut = " ".join(["dog"] * 100), " ".join(["dog"] * (LONGEST - 1))
    np.testing.assert_allclose(judge.log_likelihoods([text]), judge.log_likelihoods([cut]), atol=1e-4)


def test_the_judge_is_asked_where_its_checkpoint_is_given(checkpoint: str) -> None:
    (found,) = build_truth_judges(TruthSettings(lm=LmSettings(checkpoint, device="cpu")))
    assert isinstance(found, LmJudge)
    assert found.name == "lm"


def refused(folder: Path | str) -> str:
    with pytest.raises(InputError, match=r"`truth\.lm\.checkpoint` must be a causal language model") as caught:
        LmJudge(LmSettings(str(folder), device="cpu"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_masked_language_model_is_refused(tmp_path: Path) -> None:
    """Transformers loads it as a causal one, of which every token sees the whole text."""
    folder = save_lm(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(folder)
    assert "its tokens see what follows them" in refused(folder)


def test_a_folder_that_lacks_or_breaks_a_part_is_refused(tmp_path: Path) -> None:
    for path in (wordless := Path(save_lm(tmp_path / "wordless"))).glob("tokenizer*"):
        path.unlink()
    refused(wordless)
    for name, text in {"config.json": '{"model_type": "gpt2", "n_embd": "x"}', "tokenizer.json": "{}"}.items():
        (Path(folder := save_lm(tmp_path / name)) / name).write_text(text)
        refused(folder)
    short = Path(save_lm(tmp_path / "short")) / "model.safetensors"
    weights = load_file(short)
    save_file({name: w for name, w in weights.items() if "h.1.mlp.c_fc" not in name}, short, {"format": "pt"})
    assert "no weights for 2 tensors, such as transformer.h.1.mlp.c_fc.bias" in refused(short.parent)
    pickled = Path(save_lm(tmp_path / "pickled"))
    torch.save(weights, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert "safetensors" in refused(pickled).partition("cannot use")[2]


def test_a_device_that_is_not_there_is_refused(checkpoint: str) -> None:
    with pytest.raises(InputError, match=r"`truth\.lm\.device` must be one of this machine, got 'abacus'"):
        LmJudge(LmSettings(checkpoint, device="abacus"))


def test_logits_that_are_not_finite_let_nothing_pass(tmp_path: Path) -> None:
    path = Path(save_lm(tmp_path)) / "model.safetensors"
    weights = load_file(path)
    weights["transformer.ln_f.bias"] += float("nan")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(InputError, match="must be finite"):
        LmJudge(LmSettings(str(tmp_path), device="cpu")).rejections([Statement("a dog", "a cat", "replace_obj")])


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    path = Path(save_lm(tmp_path)) / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["zebra"] = 99
    path.write_text(json.dumps(content))
    judge = LmJudge(LmSettings(str(tmp_path), device="cpu"))
    assert judge.log_likelihoods(["a dog"]) < 0  # what is never read may be there
    with pytest.raises(InputError, match="no token beyond the model's 9"):
        judge.log_likelihoods(["a dog", "a zebra"])


def test_without_a_bound_the_table_of_what_was_read_says_what_the_readers_said(checkpoint: str) -> None:
    """The shares are those that tests/data/readings/README.md has."""
    rows = [line.split(" | ") for line in lines(checkpoint, [np.inf])]
    assert {row[0]: row[3:6] for row in rows} == {
        "| rules, swaps, 8": ["100.0 %", "87.5 %", "87.5 %"],
        "| rules, others, 192": ["100.0 %", "97.9 %", "94.3 %"],
        "| rules, 200": ["100.0 %", "97.5 %", "94.0 %"],
        "| negclip, 98": ["100.0 %", "92.9 %", "82.7 %"],
    }


def test_an_error_that_ends_in_a_list_is_shown_with_the_list() -> None:
    # Transformers' own, where a folder has no tokenizer
    said = "Couldn't instantiate the backend tokenizer from one of: \n(1) a serialization file, \n(2) a slow tokenizer."
    expected = r"one of: \(1\) a serialization file, \(2\) a slow tokenizer"
    with pytest.raises(InputError, match=expected) as caught, checkpoint_errors("`a.b`", "a language model", "here"):
        raise ValueError(said)
    assert "\n" not in str(caught.value)
