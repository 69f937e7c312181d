"""The packaged table of WordNet 3.0 (Princeton University; `LICENSE` beside it), and how a word finds its synsets.

`negatives.wordnet.build` makes the table. It is read when a word is first asked for, in about a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
TABLE_FILE = "wordnet.npz"
NOUN, VERB, ADJECTIVE, ADVERB = "n", "v", "a", "r"
PARTS_OF_SPEECH = (NOUN, VERB, ADJECTIVE, ADVERB)

# WordNet's rules of detachment (morphy): an ending, and what the lemma has for it
DETACHMENT = {
    NOUN: (
        *(("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh")),
        *(("men", "man"), ("ies", "y")),
    ),
    VERB: (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    ADJECTIVE: (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    ADVERB: (),
}
# verbs have dozens of senses: one throws a party and holds it, and holding would be throwing
VERB_SENSES = 6


class Rows:
    """Lists of numbers behind each other in one array, as sparse matrices are stored."""

    def __init__(self, values: np.ndarray, ends: np.ndarray) -> None:
        # lists: an item of a NumPy array takes four times as long to read
        self.values, self.ends = values.tolist(), ends.tolist()

    def __getitem__(self, row: int) -> list[int]:
        return self.values[self.ends[row] : self.ends[row + 1]]


class Table:
    """The arrays of the packaged file.

    Attributes:
        rows: part of speech -> lemma -> its row in `senses`.
        senses: part of speech -> the synsets of each lemma, the most frequent first.
        phrase_starts: the first words of the lemmas that are phrases.
        irregular: part of speech -> an irregular form -> its lemmas.
        hypernyms: the more general synsets of each synset, one step up.
        parts: the parts, members and substances of each synset.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.hypernyms, self.parts = _rows(file, "hypernyms"), _rows(file, "parts")
            self.senses = {pos: _rows(file, f"senses_{pos}") for pos in PARTS_OF_SPEECH}
            lemmas = {pos: _lines(file, f"lemmas_{pos}") for pos in PARTS_OF_SPEECH}
            irregular = {pos: _lines(file, f"irregular_{pos}") for pos in PARTS_OF_SPEECH}
        self.rows = {pos: dict(zip(names, range(len(names)), strict=True)) for pos, names in lemmas.items()}
        self.phrase_starts = {name.split("_", 1)[0] for names in lemmas.values() for name in names if "_" in name}
        self.irregular = {
            pos: {form: others for form, *others in map(str.split, lines)} for pos, lines in irregular.items()
        }


@cache
def table() -> Table:
    """The table, read once."""
    return Table(FOLDER / TABLE_FILE)


def lemmas(word: str, pos: str) -> list[str]:
    """The lemmas of a word that WordNet has, as its own `morphy` finds them.

    Args:
        word: in lower case; words of a phrase are joined by "_".
        pos: one of `PARTS_OF_SPEECH`.

    >>> lemmas("children", NOUN), lemmas("sitting", VERB), lemmas("blicket", NOUN)
    (['child'], ['sit'], [])
    """
    known, irregular = table().rows[pos], table().irregular[pos]
    candidates = [word, *irregular.get(word, ())]
    if "_" in word:  # "make_up" is "make-up" and "makeup" too
        candidates += [word.replace("_", "-"), word.replace("_", "")]
    if word == "people":  # the list of irregular forms lacks it
        candidates.append("person")
    for ending, instead in DETACHMENT[pos]:
        if word.endswith(ending):
            stem = word.removesuffix(ending)
            candidates.append(stem + instead)
            # the list of irregular forms has most doubled letters, not all of them
            if pos == VERB and not instead and len(stem) > 2 and stem[-1] == stem[-2]:
                candidates.append(stem[:-1])
    return [lemma for lemma in dict.fromkeys(candidates) if lemma in known]


@lru_cache(maxsize=2**15)
def senses(word: str) -> frozenset[int]:
    """The synsets of a word, whatever its part of speech; none where WordNet does not have it.

    Of a verb's lemma the `VERB_SENSES` most frequent.

    >>> bool(senses("bikes") & senses("bicycle")), senses("blicket")
    (True, frozenset())
    """
    found = table()
    return frozenset(
        synset
        for pos in PARTS_OF_SPEECH
        for lemma in lemmas(word, pos)
        for synset in found.senses[pos][found.rows[pos][lemma]][: VERB_SENSES if pos == VERB else None]
    )


@lru_cache(maxsize=2**15)
def ancestors(word: str) -> frozenset[int]:
    """The synsets of a word, and all that are more general."""
    hypernyms, found = table().hypernyms, set(senses(word))
    todo = list(found)
    while todo:
        new = [synset for synset in hypernyms[todo.pop()] if synset not in found]
        found.update(new)
        todo += new
    return frozenset(found)


@lru_cache(maxsize=2**15)
def parts(word: str) -> frozenset[int]:
    """The synsets of what a word's thing has, by itself or as one of its kind has it."""
    return frozenset(part for synset in ancestors(word) for part in table().parts[synset])


def _rows(file: Mapping[str, np.ndarray], name: str) -> Rows:
    return Rows(file[name], file[f"{name}_ends"])


def _lines(file: Mapping[str, np.ndarray], name: str) -> list[str]:
    return file[name].tobytes().decode().split("\n")
