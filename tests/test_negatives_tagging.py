"""Laws of tagging captions, on a small spaCy pipeline: words tagged from a list, and a parser trained in a second."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from negatives.files import InputError
from negatives.tagging import TaggedCaption, Tagger, Word

LEXICON = {
    ("DT", "DET"): "a an the",
    ("NN", "NOUN"): "ball baseball cat child dog horse man park player tree umbrella woman",
    ("NNS", "NOUN"): "dogs trees",
    ("JJ", "ADJ"): "big brown old red small",
    ("VBZ", "VERB"): "chases rides runs",
    ("VBG", "VERB"): "sitting standing",
    ("VBN", "VERB"): "lit",
    ("VBZ", "AUX"): "is",
    ("RB", "ADV"): "quickly slowly well",
    ("CC", "CCONJ"): "and or",
    ("IN", "ADP"): "in near on under",
    ("CD", "NUM"): "two",
    (".", "PUNCT"): ". ,",
    ("HYPH", "PUNCT"): "-",
}
WORDS = {word: kinds for kinds, words in LEXICON.items() for word in words.split()}
TREES = (  # word/head/relation
    "A/1/det dog/2/nsubj chases/2/ROOT a/4/det ball/2/dobj ./2/punct",
    "A/2/det small/2/amod dog/3/nsubj chases/3/ROOT a/6/det red/6/amod ball/3/dobj",
    "The/2/det old/2/amod man/3/nsubj rides/3/ROOT a/6/det brown/6/amod horse/3/dobj",
)


def save_pipeline(folder: Path, *, parser: bool = False) -> str:
    """Saves a real pipeline that knows the words of `LEXICON`, and may have learnt to parse a few sentences."""
    import spacy
    from spacy.tokens import Doc
    from spacy.training import Example

    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    for word, (tag, pos) in WORDS.items():
        ruler.add([[{"LOWER": word}]], {"TAG": tag, "POS": pos})
    if parser:
        width = {"width": 32, "depth": 1, "embed_size": 200, "window_size": 1, "maxout_pieces": 2}
        layers = {"@architectures": "spacy.HashEmbedCNN.v2", "pretrained_vectors": None, "subword_features": False}
        nlp.add_pipe("parser", config={"min_action_freq": 1, "model": {"tok2vec": layers | width}})
        rows = [[part.rsplit("/", 2) for part in tree.split()] for tree in TREES]
        docs = [
            Doc(nlp.vocab, [row[0] for row in tree], heads=[int(row[1]) for row in tree], deps=[row[2] for row in tree])
            for tree in rows
        ]
        examples = [Example(nlp.make_doc(doc.text), doc) for doc in docs]
        spacy.util.fix_random_seed(0)
        with nlp.select_pipes(enable="parser"):
            optimizer = nlp.initialize(lambda: examples)
            for _ in range(40):
                nlp.update(examples, sgd=optimizer)
    nlp.to_disk(folder)
    return str(folder)


def tagged(text: str) -> TaggedCaption:
    """A caption tagged from `WORDS` by hand: words and marks are set apart by single spaces."""
    words, start = [], 0
    for part in text.split(" "):
        tag, pos = WORDS[part.lower()]
        words.append(Word(part, start, start + len(part), pos, tag))
        start += len(part) + 1
    return TaggedCaption(text, tuple(words))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_pipeline(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def parsing(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_pipeline(tmp_path_factory.mktemp("parsing"), parser=True)


def test_words_carry_their_kind_and_their_place(plain: str) -> None:
    caption = next(Tagger(plain).tag(["Two dogs,  a red ball."]))
    assert caption.text == "Two dogs,  a red ball."
    assert [(word.text, word.pos, word.tag) for word in caption.words if word.text.strip()] == [
        *(("Two", "NUM", "CD"), ("dogs", "NOUN", "NNS"), (",", "PUNCT", "."), ("a", "DET", "DT")),
        *(("red", "ADJ", "JJ"), ("ball", "NOUN", "NN"), (".", "PUNCT", ".")),
    ]
    assert [caption.text[word.start : word.end] for word in caption.words] == [word.text for word in caption.words]
    assert caption.words[-1] == Word(".", 21, 22, "PUNCT", ".")


def test_what_is_tagged_by_hand_is_what_the_pipeline_tags(plain: str) -> None:
    text = "A well - lit park and two trees , the man is standing near a dog ."
    assert next(Tagger(plain).tag([text])) == tagged(text)


def test_noun_chunks_are_found_by_the_parser_if_asked_for(parsing: str) -> None:
    text = "A brown dog rides the old horse"
    caption = next(Tagger(parsing, noun_chunks=True).tag([text]))
    assert caption.noun_chunks == ((0, 3), (4, 7))
    assert next(Tagger(parsing).tag([text])).noun_chunks == ()


def test_a_caption_is_tagged_alike_in_batches_of_any_size(parsing: str) -> None:
    captions = ["A dog chases a ball.", "The old man rides a brown horse", "", "A small dog runs"] * 3
    alone = [next(Tagger(parsing, noun_chunks=True).tag([caption])) for caption in captions]
    for size in (1, 5, 100):
        assert list(Tagger(parsing, noun_chunks=True, batch_size=size).tag(captions)) == alone


def test_a_tagger_has_the_name_and_version_of_its_pipeline(plain: str) -> None:
    assert Tagger(plain).name == "en_pipeline-0.0.0"


def test_without_spacy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(InputError) as error:
        Tagger()
    line = str(error.value)
    assert "`pip install 'itm-lightning[spacy]'` and `python -m spacy download en_core_web_sm`" in line
    assert "\n" not in line


@pytest.mark.parametrize("name", ["no_such_pipeline", "{tmp}", "{tmp}/missing"])
def test_a_missing_pipeline_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    name = name.format(tmp=tmp_path)
    with pytest.raises(InputError, match="python -m spacy download en_core_web_sm") as error:
        Tagger(name)
    assert repr(name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pipeline_that_does_not_tag_or_parse_is_refused(plain: str, tmp_path: Path) -> None:
    import spacy

    spacy.blank("en").to_disk(tmp_path)
    with pytest.raises(InputError, match="must have a tagger"):
        Tagger(str(tmp_path))
    with pytest.raises(InputError, match="must have a parser for noun chunks"):
        Tagger(plain, noun_chunks=True)
