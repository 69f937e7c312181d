"""The word lists of the offline rules, read from the text files beside this one.

- `nouns.txt`: common nouns by kind and number: they tell where a noun phrase ends
- `siblings.txt`: what can stand in a noun's place and is false then
- `attributes.txt`: colours, sizes, materials, numbers: before which nouns, and what they become
- `relations.txt`: places and actions: between which nouns, and what they become
- `swaps.txt`: relations whose two sides can change places
- `words.txt`: determiners, auxiliaries and other words with one use

The lists are small on purpose. A word that is left out costs a negative. A word that is wrong writes a negative that is
true.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
# a table of its own in `negatives.checks`, which reads any writer's texts: it goes from plural to singular
IRREGULAR_PLURALS = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "foot": "feet", "mouse": "mice",
    "goose": "geese", "knife": "knives", "shelf": "shelves", "bookshelf": "bookshelves", "leaf": "leaves",
    "calf": "calves", "half": "halves", "loaf": "loaves", "scarf": "scarves", "wolf": "wolves", "wife": "wives",
    "sheep": "sheep", "deer": "deer", "tooth": "teeth",
}  # fmt: skip


@dataclass(frozen=True)
class Noun:
    """A listed noun as a caption has it."""

    lemma: str
    kind: str
    number: str
    """one (a dog), many (dogs), or mass (snow)."""

    def fits(self, wanted: frozenset[str]) -> bool:
        """Whether `wanted` names this noun, its kind, or its last word where that is of the same kind.

        >>> NOUNS["park benches"].fits(frozenset({"bench"})), NOUNS["hot dog"].fits(frozenset({"dog"}))
        (True, False)
        """
        last = NOUNS.get(self.lemma.rsplit(" ", 1)[-1])
        same_kind = last is not None and last.kind == self.kind and last.lemma in wanted
        return (
            bool({"*", self.kind, self.lemma} & wanted) or same_kind or (self.number == "many" and "plural" in wanted)
        )


def plural(noun: str) -> str:
    """The plural of a listed noun.

    >>> [plural(noun) for noun in ("dog", "bench", "butter knife", "cherry", "tomato", "policeman")]
    ['dogs', 'benches', 'butter knives', 'cherries', 'tomatoes', 'policemen']
    """
    before, space, last = noun.rpartition(" ")
    if last in IRREGULAR_PLURALS:
        return before + space + IRREGULAR_PLURALS[last]
    # policemen, but humans, Germans and ottomans
    if last.endswith("man") and last not in ("human", "german", "ottoman"):
        return noun[:-3] + "men"
    if last.endswith(("tomato", "potato", "s", "x", "ch", "sh")):
        return noun + "es"
    if last.endswith("y") and last[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _lines(name: str) -> Iterator[str]:
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line


def _listed(text: str) -> tuple[str, ...]:
    return tuple(item for part in text.split(",") if (item := part.strip()))


def _rows(name: str) -> Iterator[list[str]]:
    for line in _lines(name):
        yield [cell.strip() for cell in line.split("|")]


def _read_nouns() -> dict[str, Noun]:
    nouns: dict[str, Noun] = {}
    for line in _lines("nouns.txt"):
        heading, _, listed = line.partition(":")
        kind, _, number = heading.partition(" ")
        for lemma in _listed(listed):
            # setdefault: of a noun that is listed under two kinds, the first in the file counts
            if number == "plural":
                nouns.setdefault(lemma, Noun(lemma, kind, "many"))
            else:
                nouns.setdefault(lemma, Noun(lemma, kind, number or "one"))
            if not number:
                nouns.setdefault(plural(lemma), Noun(lemma, kind, "many"))
    return nouns


def _read_siblings() -> dict[str, tuple[str, ...]]:
    pairs = (line.split(">") for line in _lines("siblings.txt"))
    return {noun.strip(): _listed(others) for noun, others in pairs}


def _wanted(cell: str) -> frozenset[str]:
    """The kinds and nouns that a table's cell names, with the names of `words.txt` spelled out."""
    named = [WORDS.get(item, frozenset({item})) for item in _listed(cell)]
    return frozenset().union(*named)


@dataclass(frozen=True)
class Attribute:
    """What one attribute becomes before some nouns; nothing where it may only change places with another."""

    group: str
    nouns: frozenset[str]
    becomes: tuple[str, ...]


@dataclass(frozen=True)
class Relation:
    """What one relation becomes between some nouns; an empty `objects` asks for none after it."""

    subjects: frozenset[str]
    objects: frozenset[str]
    becomes: tuple[str, ...]


@dataclass(frozen=True)
class Swap:
    """Nouns on the two sides of a relation that may change places; `oddness` is 1 (could be a photo), 2 or 3."""

    first: frozenset[str]
    second: frozenset[str]
    oddness: int


def _read_attributes() -> dict[str, list[Attribute]]:
    attributes: dict[str, list[Attribute]] = {}
    for group, word, nouns, becomes in _rows("attributes.txt"):
        # "-" stands for nothing: the attribute may change places, but not be replaced
        attributes.setdefault(word, []).append(Attribute(group, _wanted(nouns), _listed(becomes.strip("-"))))
    return attributes


def _read_relations() -> dict[str, list[Relation]]:
    relations: dict[str, list[Relation]] = {}
    for subjects, words, objects, becomes in _rows("relations.txt"):
        wanted = frozenset[str]() if objects == "-" else _wanted(objects)
        relations.setdefault(words, []).append(Relation(_wanted(subjects), wanted, _listed(becomes)))
    return relations


def _read_swaps() -> dict[str, list[Swap]]:
    swaps: dict[str, list[Swap]] = {}
    for first, listed, second, oddness in _rows("swaps.txt"):
        for words in _listed(listed):
            swaps.setdefault(words, []).append(Swap(_wanted(first), _wanted(second), int(oddness)))
    return swaps


# first: the other tables name its lists in their cells
WORDS: dict[str, frozenset[str]] = {
    name: frozenset(_listed(listed)) for name, _, listed in (line.partition(":") for line in _lines("words.txt"))
}
NOUNS = _read_nouns()
SIBLINGS = _read_siblings()
ATTRIBUTES = _read_attributes()
RELATIONS = _read_relations()
SWAPS = _read_swaps()
