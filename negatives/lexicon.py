"""Word lists of the offline rules: common COCO words, in groups whose members can stand for each other.

Words that are often something else (orange the colour, glass the material, train the verb, little the adverb) are left
out: a smaller list makes fewer true "negatives".
"""

from __future__ import annotations

COLOURS = ("red", "blue", "green", "yellow", "purple", "pink", "black", "white", "brown", "gray", "grey")

# word -> what it can become; grey for gray would be no falsehood, nor would large for big
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    colour: tuple(other for other in COLOURS if other != colour and {other, colour} != {"gray", "grey"})
    for colour in COLOURS
} | {
    "big": ("small", "tiny"),
    "large": ("small", "tiny"),
    "huge": ("small", "tiny"),
    "small": ("large", "huge"),
    "tiny": ("large", "huge"),
    "tall": ("short",),
    "short": ("tall",),
    "young": ("old",),
    "old": ("young", "new"),
    "empty": ("full",),
    "wooden": ("metal",),
    "metal": ("wooden",),
}

OBJECT_GROUPS: tuple[tuple[str, ...], ...] = (
    ("man", "woman"),  # "girl" would often be no falsehood for "woman"
    ("boy", "girl"),
    ("dog", "cat", "horse", "cow", "elephant", "giraffe", "zebra", "bear", "bird"),
    ("car", "bus", "truck", "motorcycle", "bicycle", "airplane", "boat"),
    ("bench", "chair", "couch", "bed", "table"),
    ("pizza", "sandwich", "hot dog", "cake", "donut", "salad"),
    ("apple", "banana", "carrot", "tomato"),
    ("skateboard", "surfboard", "snowboard", "frisbee", "kite", "umbrella"),
    ("laptop", "cell phone", "keyboard", "television", "camera"),
    ("oven", "refrigerator", "microwave", "sink", "toilet", "bathtub"),
    ("cup", "bottle", "bowl", "plate", "vase"),
    ("knife", "fork", "spoon"),
    ("hat", "helmet", "tie", "backpack", "suitcase"),
    ("kitchen", "bathroom", "bedroom"),
    ("beach", "mountain", "forest", "river"),
    ("stop sign", "fire hydrant", "traffic light", "parking meter"),
)
IRREGULAR_PLURALS = {"man": "men", "woman": "women", "knife": "knives"}
# compounds with a listed word that means something else there
COMPOUNDS = ("teddy bear", "fire truck", "car park", "table tennis", "bow tie", "bottle cap")

RELATIONS: dict[str, tuple[str, ...]] = {
    "in front of": ("behind",),
    "behind": ("in front of",),
    "on top of": ("underneath",),
    "underneath": ("on top of",),
    "under": ("on top of",),
    "above": ("below",),
    "below": ("above",),
    "over": ("under",),
    "left of": ("right of",),
    "right of": ("left of",),
    "inside": ("outside",),
    "outside": ("inside",),
    "on": ("under",),
    "into": ("out of",),
    "out of": ("into",),
    "next to": ("far from",),
    "near": ("far from",),
    "beside": ("far from",),
    "far from": ("next to",),
    "with": ("without",),
    "without": ("with",),
    "sitting": ("standing", "lying"),
    "standing": ("sitting", "lying"),
    "lying": ("standing", "sitting"),
    "walking": ("running",),
    "running": ("walking",),
    "holding": ("dropping",),
    "throwing": ("catching",),
    "catching": ("throwing",),
    "pushing": ("pulling",),
    "pulling": ("pushing",),
    "wearing": ("carrying",),
    "riding": ("leading",),
}
# exchanging what stands on their two sides gives another sentence, yet says the same
SYMMETRIC_RELATIONS = ("next to", "near", "beside", "far from", "with", "without", "sitting", "standing", "lying")


def plural(noun: str) -> str:
    """The plural of a listed noun.

    >>> [plural(noun) for noun in ("dog", "bench", "knife", "cell phone", "cherry")]
    ['dogs', 'benches', 'knives', 'cell phones', 'cherries']
    """
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun == "tomato" or noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
