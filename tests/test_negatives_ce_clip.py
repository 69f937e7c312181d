"""Laws of CE-CLIP's four negatives, on a small spaCy pipeline and a two-layer RoBERTa."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from negatives.tables.files import InputError
from negatives.tables.randomness import generator_for
from negatives.types import NEGATIVE_TYPES
from negatives.writers.ce_clip import (
    FIELDS,
    UNFIT,
    CeClipWriter,
    MaskedLm,
    careful_choice,
    careful_mask,
    careful_relation,
    record,
    reference_mask,
    reference_relation,
)
from negatives.writers.tagging import Tagger
from tests import tiny_spacy
from tests.tiny_spacy import WORDS, tagged

CAPTION = "A red dog chases a ball in the park."
CAPTIONS = [
    CAPTION,
    "A man and a woman in the park.",
    "Two dogs, a horse and a brown cat on an old tree",
    "a dog",
    "The old man rides a big horse slowly , near a park .",
    "is",
]
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


def save_masked_lm(folder: Path, best: Sequence[str] = ()) -> str:
    """Saves a tiny RoBERTa of random weights that knows the words of the tests; `best` are its best guesses always."""
    from tokenizers import AddedToken, ByteLevelBPETokenizer
    from tokenizers.processors import RobertaProcessing
    from transformers import RobertaConfig, RobertaForMaskedLM

    trained = ByteLevelBPETokenizer()
    mask = AddedToken("<mask>", lstrip=True, special=True)
    text = " ".join(WORDS) + " rode redder"
    trained.train_from_iterator([text, text.title()], 2000, 1, special_tokens=[*SPECIAL, mask])
    trained._tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    folder.mkdir(exist_ok=True)
    trained.save(str(folder / "tokenizer.json"))
    trained.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}))
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    torch.manual_seed(0)
    model = RobertaForMaskedLM(
        RobertaConfig(vocab_size=trained.get_vocab_size(), max_position_embeddings=66, type_vocab_size=1, **size, **ids)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    for rank, token in enumerate(best):
        model.lm_head.bias.data[trained.token_to_id(token.replace(" ", "Ġ"))] = 1000.0 - 50 * rank
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return tiny_spacy.tagger()


@pytest.fixture(scope="module")
def random_lm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_masked_lm(tmp_path_factory.mktemp("random") / "lm")


@pytest.fixture(scope="module")
def known_lm(tmp_path_factory: pytest.TempPathFactory) -> str:
    # " red" and " ball" are in the caption, "dog" begins no word, " the" is a function word, " redder" is like "red"
    best = [" red", " the", "dog", " big", " old", " ball", " redder", " brown", " small", " horse"]
    return save_masked_lm(tmp_path_factory.mktemp("known") / "lm", best)


def five_best(folder: str, text: str) -> list[str]:
    """The text with each of the five most probable tokens in the mask's place, worked out one by one."""
    from transformers import RobertaForMaskedLM

    vocabulary = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]["vocab"]
    token_of = {number: token for token, number in vocabulary.items()}
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(Path(folder) / "tokenizer.json")).encode(text).ids
    with torch.no_grad():
        logits = RobertaForMaskedLM.from_pretrained(folder).eval()(torch.tensor([ids])).logits[0, ids.index(4)].tolist()
    filled = []
    for token in sorted(range(len(logits)), key=lambda token: -logits[token])[:5]:
        pieces = [token_of[token if number == 4 else number] for number in ids[1:-1]]
        text = "".join(piece for piece in pieces if piece not in (*SPECIAL, "<mask>")).replace("Ġ", " ")
        filled.append(text.replace(" .", ".").replace(" ,", ","))
    return filled


# ---- reference mode


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog chases a ball in the park .", "A ball chases a dog in the park ."),
        ("A man and a woman in the park", "A woman and a wowoman in the park"),
        ("A dog chases a dog in the park", "A dog chases a dog in the park"),
        ("A dog chases a ball", ""),
        ("A cat in the park and a cat", "A park in the cat and a park"),
    ],
)
def test_reference_exchanges_letters_wherever_they_occur(text: str, expected: str) -> None:
    attempt = reference_relation(tagged(text))
    assert (attempt.text, attempt.negative_type) == (expected, "swap_obj")
    assert attempt.detail == ("" if expected else "fewer than three nouns")


def test_reference_masks_the_first_place_where_the_letters_occur() -> None:
    caption = tagged("A woman and a man in the park")
    texts = [reference_mask(caption, "NOUN", np.random.default_rng(seed), "<mask>")[1] for seed in range(300)]
    expected = [
        "A <mask> and a man in the park",
        "A wo<mask> and a man in the park",
        "A woman and a man in the <mask>",
    ]
    assert set(texts) == set(expected)
    assert all(abs(texts.count(text) - 100) < 40 for text in expected)  # uniform: a standard deviation is 8
    assert reference_mask(caption, "ADJ", np.random.default_rng(0), "<mask>") == (None, "<mask>")


def test_reference_takes_the_fourth_of_the_five_most_probable_fills(tagger: Tagger, random_lm: str) -> None:
    """The whole record against a slow loop, text by text, that shares no code with the writer."""
    writer = CeClipWriter(tagger, MaskedLm(random_lm), mode="reference")
    captions = [(f"id{number}", text) for number, text in enumerate(CAPTIONS)]
    for (caption_id, text), attempts in zip(captions, writer.attempts(captions, seed=0), strict=True):
        rng = generator_for(0, "ce_clip", caption_id)
        for attempt, pos in zip(attempts[1:], ("ADJ", "NOUN", "VERB"), strict=True):
            words = [
                word for word in text.replace(".", " .").replace(",", " ,").split() if WORDS[word.lower()][1] == pos
            ]
            masked = text.replace(words[int(rng.integers(len(words)))], "<mask>", 1) if words else "<mask>"
            assert attempt.text == five_best(random_lm, masked)[3], (text, pos)
            assert attempt.detail == ""


def test_reference_gives_the_whole_record_of_the_specification(tagger: Tagger, known_lm: str) -> None:
    annotation = {"image_id": 1, "id": 10, "caption": "A dog chases a ball in the park."}
    attempts = CeClipWriter(tagger, MaskedLm(known_lm), mode="reference").attempts([("10", annotation["caption"])], 0)
    made = record(annotation, attempts[0])
    assert list(made) == ["image_id", "id", "caption", *FIELDS, "valid_caption"]
    noun = made.pop("noun_aug_caption")
    assert made == annotation | {
        "relation_aug_caption": "A ball chases a dog in the park.",
        "adj_aug_caption": " big",  # no adjective: a caption of one junk word, and valid all the same
        "verb_aug_caption": "A dog big a ball in the park.",
        "valid_caption": [1, 1, 1, 1, 1],
    }
    assert noun in (
        "A big chases a ball in the park.",
        "A dog chases a big in the park.",
        "A dog chases a ball in the big.",
    )


def test_only_the_relation_of_a_reference_record_is_ever_invalid(tagger: Tagger, known_lm: str) -> None:
    attempts = CeClipWriter(tagger, MaskedLm(known_lm), mode="reference").attempts([("1", "is"), ("2", "A red dog")], 0)
    for caption, row in zip(("is", "A red dog"), attempts, strict=True):
        made = record({"image_id": 1, "id": 1, "caption": caption}, row)
        assert made["relation_aug_caption"] == "###"
        assert made["valid_caption"] == [1, 0, 1, 1, 1]


def test_reference_puts_a_piece_of_a_word_where_it_is_the_fourth(tagger: Tagger, tmp_path: Path) -> None:
    lm = MaskedLm(save_masked_lm(tmp_path / "lm", [" red", " the", " big", "dog", " old"]))
    row = CeClipWriter(tagger, lm, mode="reference").attempts([("1", "A small cat , a dog .")], 0)[0]
    assert row[1].text == "Adog cat, a dog."  # spaces before marks went as in the authors' pipeline


# ---- careful mode


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog chases a ball in the park .", "A ball chases a dog in the park ."),
        ("A man chases a woman in the park", "A woman chases a man in the park"),
        ("An umbrella on a man in the park", "A man on an umbrella in the park"),
        ("A dog chases a dog in the park", "A park chases a dog in the dog"),
        ("A dog chases a dog on a dog", ""),
        ("A dog chases a ball", ""),
        ("A man and a woman and a child", ""),
        ("A man chases dogs under trees", "A man chases trees under dogs"),
        ("A baseball player chases a dog", "A dog chases a baseball player"),
        ("A red dog and cat under a tree", "A red tree and cat under a dog"),  # "a red cat and dog" is rejected
    ],
)
def test_careful_exchanges_the_first_two_nouns_that_make_a_difference(text: str, expected: str) -> None:
    attempt = careful_relation(tagged(text))
    assert attempt.text == expected
    assert bool(attempt.detail) == (not expected)


def test_careful_masks_the_word_that_was_drawn_and_no_part_of_another(tagger: Tagger) -> None:
    caption = tagged("A woman and a man in the park")
    masks = {careful_mask(caption, "NOUN", np.random.default_rng(seed), "<mask>")[1] for seed in range(100)}
    assert masks == {
        "A <mask> and a man in the park",
        "A woman and a <mask> in the park",
        "A woman and a man in the <mask>",
    }
    assert careful_mask(caption, "ADJ", np.random.default_rng(0), "<mask>") == (None, "")
    hyphen = next(tagger.tag(["a well-lit park"]))
    assert [word.text for word in hyphen.words if word.pos == "VERB"] == ["lit"]
    assert careful_mask(hyphen, "VERB", np.random.default_rng(0), "<mask>") == (None, "")


@pytest.mark.parametrize(
    ("guesses", "expected"),
    [
        (["dog", "the", "", "Red", "big", "old", "brown", "tiny", "huge"], "tiny"),
        (["big", "old", "brown", "tiny"], "tiny"),
        (["big", "big", "old"], "old"),
        (["reddish", "Redder", "big"], "big"),
        (["red", "", "and", "DOG"], ""),
        ([], ""),
    ],
)
def test_careful_takes_the_fourth_guess_that_fits_or_the_last_one(guesses: list[str], expected: str) -> None:
    caption = tagged("A red dog")
    assert careful_choice(guesses, caption, caption.words[1], "replace_att") == expected


def test_careful_takes_no_guess_that_the_caption_implies() -> None:
    caption = tagged("A red dog")
    assert careful_choice(["cat", "animal", "carnivore", "canine"], caption, caption.words[2], "replace_obj") == "cat"


def test_careful_writes_the_whole_record_by_places(tagger: Tagger, known_lm: str) -> None:
    """For "red" big, old, brown, small fit, in this order; for the others redder does too, before brown."""
    row = CeClipWriter(tagger, MaskedLm(known_lm)).attempts([("1", CAPTION)], seed=0)[0]
    assert [(attempt.field, attempt.negative_type) for attempt in row] == list(FIELDS.items())
    relation, adjective, noun, verb = (attempt.text for attempt in row)
    assert relation == "A red ball chases a dog in the park."
    assert adjective == "A small dog chases a ball in the park."
    assert noun in {CAPTION.replace(word, "brown") for word in ("dog", "ball", "park")}
    assert verb == "A red dog brown a ball in the park."
    assert set(FIELDS.values()) <= set(NEGATIVE_TYPES)


def test_careful_edits_nothing_behind_a_negation(tagger: Tagger) -> None:
    (caption,) = tagger.tag(["A big dog chases a ball without a red cat running in the park"])
    assert careful_relation(caption).text == "A big ball chases a dog without a red cat running in the park"
    masks = {
        pos: {careful_mask(caption, pos, np.random.default_rng(seed), "<mask>")[1] for seed in range(60)}
        for pos in ("ADJ", "NOUN", "VERB")
    }
    assert masks == {
        "ADJ": {caption.text.replace("big", "<mask>")},
        "NOUN": {caption.text.replace(word, "<mask>") for word in ("dog", "ball")},
        "VERB": {caption.text.replace("chases", "<mask>")},
    }
    (denied,) = tagger.tag(["No dog chases a ball in the park"])
    assert careful_relation(denied).detail == "no two different nouns of one number that the caption does not just list"
    # the published texts stay as they are
    assert reference_relation(denied).text == "No ball chases a dog in the park"


def test_careful_writes_no_row_where_it_cannot_and_says_why(tagger: Tagger, known_lm: str) -> None:
    writer = CeClipWriter(tagger, MaskedLm(known_lm))
    row = writer.attempts([("1", "two dogs")], seed=0)[0]
    assert [(attempt.text, attempt.detail) for attempt in row] == [
        ("", "fewer than three nouns"),
        ("", "no adjective that stands by itself"),
        ("two ball", ""),  # red, big, old, ball
        ("", "no verb that stands by itself"),
    ]
    assert [attempt.text for attempt in writer.attempts([("2", "is")], seed=0)[0]] == [""] * 4
    assert record({"caption": "two dogs"}, row)["valid_caption"] == [1, 0, 0, 1, 0]


@pytest.mark.parametrize("mode", ["careful", "reference"])
@pytest.mark.parametrize("text", ["A red dog" + " and a dog" * 40, "A <mask> on a red dog"])
def test_what_the_masked_lm_cannot_read_is_told_and_stops_nothing(
    mode: str, text: str, tagger: Tagger, known_lm: str
) -> None:
    rows = CeClipWriter(tagger, MaskedLm(known_lm), mode).attempts([("1", text), ("2", CAPTION)], seed=0)
    assert (rows[0][1].text, rows[0][1].detail) == ("", UNFIT)
    assert rows[1][1].text


def test_a_capital_stays_and_an_article_follows_the_fill(tagger: Tagger, tmp_path: Path) -> None:
    lm = MaskedLm(save_masked_lm(tmp_path / "lm", [" big", " brown", " small", " old"]))
    rows = CeClipWriter(tagger, lm).attempts([("1", "Red dogs"), ("2", "A red dog")], seed=0)
    assert [row[1].text for row in rows] == ["Old dogs", "An old dog"]


# ---- the masked LM


def test_only_whole_words_of_letters_are_words(known_lm: str) -> None:
    lm = MaskedLm(known_lm)
    vocabulary = json.loads((Path(known_lm) / "tokenizer.json").read_text())["model"]["vocab"]
    for token, number in vocabulary.items():
        expected = token[1:] if token.startswith("Ġ") and token[1:].isalpha() and token[1:].isascii() else ""
        assert lm.word(number) == expected, token
    assert lm.word(vocabulary["Ġdog"]) == "dog"


@pytest.mark.parametrize("mode", ["careful", "reference"])
def test_a_row_depends_on_neither_order_nor_batch(mode: str, tagger: Tagger, random_lm: str) -> None:
    captions = [(f"id{number}", text) for number, text in enumerate(CAPTIONS * 2)]
    lm = MaskedLm(random_lm, batch_size=1)
    writer = CeClipWriter(tagger, lm, mode)
    rows = writer.attempts(captions, seed=1)
    assert writer.attempts(captions, seed=2) != rows
    lm.batch_size = 64
    assert [writer.attempts([caption], seed=1)[0] for caption in captions] == rows
    for size in (2, 7, 64):
        lm.batch_size = size
        assert writer.attempts(captions, seed=1) == rows
    assert writer.attempts(captions[::-1], seed=1) == rows[::-1]


def test_a_writer_names_its_mode_and_its_models(tagger: Tagger, known_lm: str) -> None:
    writer = CeClipWriter(tagger, MaskedLm(known_lm), "reference")
    assert (writer.name, writer.version) == ("ce_clip", "1-reference")
    assert writer.model == f"{known_lm} en_pipeline-0.0.0"
    assert CeClipWriter(tagger, MaskedLm(known_lm)).version == "3-careful"
    with pytest.raises(InputError, match="must be one of careful reference, got 'fast'"):
        CeClipWriter(tagger, MaskedLm(known_lm), "fast")


def test_a_masked_lm_that_cannot_be_had_is_named_in_one_line(known_lm: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    encoder = str(tmp_path / "encoder")
    RobertaModel(RobertaConfig(vocab_size=400, **size)).save_pretrained(encoder)
    AutoTokenizer.from_pretrained(known_lm).save_pretrained(encoder)
    for name in ("distilroberta-base-that-is-not-there", str(tmp_path / "missing"), str(tmp_path), encoder):
        with pytest.raises(InputError, match="must be a hub name, or a folder") as error:
            MaskedLm(name)
        assert repr(name) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="device must be one of this machine, got 'cuda:99'"):
        MaskedLm(known_lm, device="cuda:99")


def test_modules_that_need_spacy_and_torch_are_imported_without_them() -> None:
    modules = "negatives.writers.ce_clip, negatives.writers.negclip"
    code = f"import sys, {modules}; print({{'spacy', 'torch', 'transformers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
