"""Makes the packaged table of WordNet 3.0 again: `python -m negatives.wordnet.build /usr/share/wordnet`.

The folder is that of Debian's package `wordnet-base`, or `dict/` of Princeton's release. The same files give the same
bytes with the same zlib.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from negatives.wordnet.table import FOLDER, TABLE_FILE

FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
# (part of speech, symbol): a satellite adjective's head ("&" of "s") says less than it does, as a hypernym does of a
# noun; so does what a verb entails ("*")
MORE_GENERAL = {("n", "@"), ("n", "@i"), ("v", "@"), ("v", "*"), ("s", "&")}
PARTS = {"%p", "%m", "%s"}
Synset = tuple[str, int]
"""A part of speech, and the place in its data file by which WordNet names a synset."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    given = sys.argv[1:] if argv is None else list(argv)
    if len(given) not in (1, 2):
        print("usage: python -m negatives.wordnet.build FOLDER [OUTPUT]", file=sys.stderr)
        return 2
    source, output = Path(given[0]), Path(given[1]) if len(given) == 2 else FOLDER
    np.savez_compressed(output / TABLE_FILE, **arrays(source))  # type: ignore[arg-type]
    (output / "LICENSE").write_text(licence(source), encoding="utf-8")
    return 0


def arrays(source: Path) -> dict[str, np.ndarray]:
    """The table's arrays, as `negatives.wordnet.table` reads them."""
    lemmas = {pos: dict(sorted(_lemmas(source, pos))) for pos in FILES}
    synsets = {pos: dict(_synsets(source, pos)) for pos in FILES}
    order = {synset: number for number, synset in enumerate(synset for pos in FILES for synset in synsets[pos])}
    links = [links for pos in FILES for links in synsets[pos].values()]
    made = {
        **_rows("hypernyms", [[order[to] for to in hypernyms] for hypernyms, _ in links]),
        **_rows("parts", [[order[to] for to in parts] for _, parts in links]),
    }
    for pos in FILES:
        made[f"lemmas_{pos}"] = _text(lemmas[pos])
        made |= _rows(f"senses_{pos}", [[order[synset] for synset in senses] for senses in lemmas[pos].values()])
        irregular = [" ".join(line.split()) for line in _lines(source / f"{FILES[pos]}.exc")]
        made[f"irregular_{pos}"] = _text(sorted(irregular))
    return made


def licence(source: Path) -> str:
    """Princeton's licence, as it heads each of the files."""
    with (source / "data.noun").open(encoding="latin1") as file:
        head = [line for line in (next(file) for _ in range(29)) if line.startswith("  ")]
    # each line opens with its number
    return "".join(re.sub(r"^ +\d+ ", "", line).rstrip() + "\n" for line in head)


def _lemmas(source: Path, pos: str) -> Iterator[tuple[str, list[Synset]]]:
    # wndb(5WN): lemma pos count pointers [symbol ...] senses tagged [place ...]
    for line in _lines(source / f"index.{FILES[pos]}"):
        fields = line.split()
        yield fields[0], [(pos, int(place)) for place in fields[6 + int(fields[3]) :]]


def _synsets(source: Path, pos: str) -> Iterator[tuple[Synset, tuple[list[Synset], list[Synset]]]]:
    # place file kind words [word number ...] pointers [symbol place pos source/target ...] | gloss
    for line in _lines(source / f"data.{FILES[pos]}"):
        fields = line.split("|")[0].split()
        start = 4 + 2 * int(fields[3], 16)
        end = start + 1 + 4 * int(fields[start])
        pointers = list(zip(*(fields[start + 1 + column : end : 4] for column in range(3)), strict=True))
        kind = fields[2]
        hypernyms = [_synset(to, at) for symbol, at, to in pointers if (kind, symbol) in MORE_GENERAL]
        parts = [_synset(to, at) for symbol, at, to in pointers if symbol in PARTS]
        yield (pos, int(fields[0])), (hypernyms, parts)


def _synset(pos: str, place: str) -> Synset:
    return ("a" if pos == "s" else pos), int(place)


def _lines(path: Path) -> list[str]:
    # two spaces open the lines of the licence
    return [line for line in path.read_text("latin1").splitlines() if line.strip() and not line.startswith("  ")]


def _rows(name: str, rows: list[list[int]]) -> dict[str, np.ndarray]:
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return {f"{name}_ends": ends, name: np.array([value for row in rows for value in row], dtype=np.int32)}


def _text(lines: Sequence[str] | dict[str, list[Synset]]) -> np.ndarray:
    return np.frombuffer("\n".join(lines).encode(), dtype=np.uint8)


if __name__ == "__main__":
    sys.exit(main())
