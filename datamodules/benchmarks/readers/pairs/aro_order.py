"""ARO's order parts (Yuksekgonul et al., ICLR 2023): a test caption against four shuffles of its words.

`[{"image": "val2014/COCO_val2014_000000000042.jpg", "caption": ["...", ...]}, ...]`. The official sets are drawn anew
wherever they are loaded; ours depend on the seed and the caption alone. Nouns and adjectives are told by WordNet, not
by spaCy. Officially, a tie with a shuffle that equals its caption is right; here such shuffles are not asked about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import find_file, list_of, load_json, reading, text_in
from negatives.tables import StrPath, generator_for
from negatives.wordnet import parts_of_speech

MOST_WORDS = 30
CLOSED = (
    " "
    "a an the this that these those his her its their my your our i you he she it we they him them me us who "
    "which what and or but nor so if as of to in on at by for from with into onto over under near behind above "
    "below between one two three four five six through during before after off out up down around across along "
    "inside outside beside against is are was were be been being am do does did has have had can could will would "
    "may might must shall should not no very there "
)
"""Words of closed classes, which WordNet knows as nouns too: an inch, the letter a, iodine."""


def read_coco(annotations: StrPath, *, image_root: StrPath | None = None, seed: int = 0) -> Benchmark:
    """COCO Order, of `coco_karpathy_test.json` or its folder; see `read`."""
    return read(annotations, "aro_coco_order", "coco_karpathy_test.json", image_root=image_root, seed=seed)


def read_flickr30k(annotations: StrPath, *, image_root: StrPath | None = None, seed: int = 0) -> Benchmark:
    """Flickr30k Order, of `flickr30k_test.json` or its folder; see `read`."""
    return read(annotations, "aro_flickr30k_order", "flickr30k_test.json", image_root=image_root, seed=seed)


def read(annotations: StrPath, name: str, file: str, *, image_root: StrPath | None, seed: int) -> Benchmark:
    """Every test caption against its shuffles, each once; `kinds` names them. Captions of one word are left out.

    Args:
        annotations: the file, or its folder.
        name: of the benchmark.
        file: name of its file.
        image_root: folder that the paths of the images start from.
        seed: of the shuffles.

    Raises:
        InputError: no annotation file, a malformed one, or no item.
    """
    path = find_file(annotations, name, file)
    found = Collected(name, "pairs", path, image_root)
    with reading(path, name):
        for number, item in enumerate(list_of(load_json(path))):
            image = text_in(item, "image", number)
            for place in range(len(list_of(item["caption"]))):
                caption = cleaned(text_in(item["caption"], place, number))
                shuffles = shuffled(caption, seed, image, place)
                if not shuffles:
                    found.left_out["no other order of its words"] += 1
                    continue
                found.add(
                    item_id=f"{number}:{place}",
                    image_id=found.image(image),
                    true=[found.text(caption)],
                    false=[found.text(text) for text in shuffles.values()],
                    kinds=list(shuffles),
                )
    note = f"the order of words is shuffled by seed {seed}; the official shuffles are not fixed"
    return found.benchmark(notes=[note])


def cleaned(caption: str) -> str:
    """A caption in lower case without most marks, of at most 30 words, as BLIP cleans it.

    >>> cleaned('A "big" dog (brown) runs.')
    'a big dog brown runs'
    """
    return " ".join(re.sub(r'[.!"()*#:;~]', " ", caption.lower()).split()[:MOST_WORDS])


def shuffled(caption: str, *key: int | str) -> dict[str, str]:
    """The shuffles of a caption that differ from it and from each other, by their kinds.

    Args:
        caption: as `cleaned` returns it.
        key: what the draw depends on.
    """
    words = caption.split()
    is_content = [bool(_class_of(word)) for word in words]
    trigrams = [tuple(range(start, min(start + 3, len(words)))) for start in range(0, len(words), 3)]
    kinds: dict[str, Callable[[np.random.Generator], Sequence[int]]] = {
        "nouns_and_adjectives": lambda draw: _within(
            len(words), [[n for n, word in enumerate(words) if _class_of(word) == kind] for kind in "na"], draw
        ),
        "all_but_nouns_and_adjectives": lambda draw: _within(
            len(words), [[n for n, content in enumerate(is_content) if not content]], draw
        ),
        "within_trigrams": lambda draw: _within(len(words), trigrams, draw),
        "trigrams": lambda draw: [n for place in draw.permutation(len(trigrams)) for n in trigrams[place]],
    }
    texts = {
        kind: " ".join(words[place] for place in order(generator_for("aro_order", kind, *key)))
        for kind, order in kinds.items()
    }
    first = {text: kind for kind, text in reversed(texts.items()) if text != " ".join(words)}
    return {kind: text for kind, text in texts.items() if first.get(text) == kind}


def _within(words: int, parts: Sequence[Sequence[int]], draw: np.random.Generator) -> list[int]:
    """An order of words in which those of each part are shuffled among their own places."""
    order = list(range(words))
    for part in parts:
        for place, word in zip(part, draw.permutation(part).tolist() if part else (), strict=True):
            order[place] = word
    return order


@lru_cache(maxsize=1 << 16)
def _class_of(word: str) -> str:
    """a for an adjective, n for a noun, "" for any other word; what can be both, such as red, is an adjective."""
    bare = word.strip(",'?-")
    known = "" if f" {bare} " in CLOSED else parts_of_speech(bare)
    # a verb's -ing and -ed are in WordNet as adjectives, too
    return "" if "v" in known and bare.endswith(("ing", "ed")) else next((kind for kind in "an" if kind in known), "")
