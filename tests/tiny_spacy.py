"""Small spaCy pipelines: words tagged from a list, and a parser trained in a second; made once for all tests."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from negatives.writers.tagging import TaggedCaption, Tagger, Word

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


@cache
def pipeline(*, parser: bool = False) -> str:
    """The folder of a pipeline that all tests share; it goes when they end."""
    return save_pipeline(Path(_FOLDER.name) / ("parsing" if parser else "plain"), parser=parser)


@cache
def tagger(*, parser: bool = False) -> Tagger:
    """A tagger that all tests share; with a parser it finds noun chunks."""
    return Tagger(pipeline(parser=parser), noun_chunks=parser)


_FOLDER = tempfile.TemporaryDirectory(prefix="tiny_spacy_")
