"""Laws of tagging captions, on small spaCy pipelines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from negatives.tables.files import InputError
from negatives.writers.tagging import Tagger, Word
from tests.tiny_spacy import pipeline, tagged, tagger


def test_words_carry_their_kind_and_their_place() -> None:
    caption = next(tagger().tag(["Two dogs,  a red ball."]))
    assert caption.text == "Two dogs,  a red ball."
    assert [(word.text, word.pos, word.tag) for word in caption.words if word.text.strip()] == [
        *(("Two", "NUM", "CD"), ("dogs", "NOUN", "NNS"), (",", "PUNCT", "."), ("a", "DET", "DT")),
        *(("red", "ADJ", "JJ"), ("ball", "NOUN", "NN"), (".", "PUNCT", ".")),
    ]
    assert [caption.text[word.start : word.end] for word in caption.words] == [word.text for word in caption.words]
    assert caption.words[-1] == Word(".", 21, 22, "PUNCT", ".")


def test_what_is_tagged_by_hand_is_what_the_pipeline_tags() -> None:
    text = "A well - lit park and two trees , the man is standing near a dog ."
    assert next(tagger().tag([text])) == tagged(text)


def test_noun_chunks_are_found_by_the_parser_if_asked_for() -> None:
    text = "A brown dog rides the old horse"
    caption = next(tagger(parser=True).tag([text]))
    assert caption.noun_chunks == ((0, 3), (4, 7))
    assert next(Tagger(pipeline(parser=True)).tag([text])).noun_chunks == ()


def test_a_caption_is_tagged_alike_in_batches_of_any_size() -> None:
    captions = ["A dog chases a ball.", "The old man rides a brown horse", "", "A small dog runs"] * 3
    shared = tagger(parser=True)
    alone = [next(shared.tag([caption])) for caption in captions]
    other = Tagger(pipeline(parser=True), noun_chunks=True)  # another one, which each size is set for: loading is slow
    for size in (1, 5, 100):
        other.batch_size = size
        assert list(other.tag(captions)) == alone


def test_a_tagger_has_the_name_and_version_of_its_pipeline() -> None:
    assert tagger().name == "en_pipeline-0.0.0"


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


def test_a_pipeline_that_does_not_tag_or_parse_is_refused(tmp_path: Path) -> None:
    import spacy

    spacy.blank("en").to_disk(tmp_path)
    with pytest.raises(InputError, match="must have a tagger"):
        Tagger(str(tmp_path))
    with pytest.raises(InputError, match="must have a parser for noun chunks"):
        Tagger(pipeline(), noun_chunks=True)
