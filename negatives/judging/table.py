"""Text-only judges by name. A new judge is a function that builds it, and its line in `JUDGES`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

JUDGES: dict[str, str] = {
    "word": "negatives.judging.linear.build_word",
    "char": "negatives.judging.linear.build_char",
    "surface": "negatives.judging.linear.build_surface",
    "bayes": "negatives.judging.linear.build_bayes",
    "encoder": "negatives.judging.encoder.build_encoder",
    "lm": "negatives.judging.likelihood.build_lm",
    "transformer": "negatives.judging.transformer.build_transformer",
}
"""Name -> function of `JudgeSettings` that returns the judge.

Strings, imported on use: whoever lists the names for a help page must not wait for scikit-learn or torch."""


def faults_of_names(names: Sequence[str], place: str) -> Iterator[str]:
    """What is wrong with a list of judges, in one line: names that are unknown or repeated, or none at all.

    >>> next(faults_of_names(["words"], "judge.judges"))
    "`judge.judges` must list some of word, char, surface, bayes, encoder, lm, transformer, each once, got ['words']. \
Did you mean word?"
    """
    unknown = [name for name in names if name not in JUDGES]
    # unknown, none, or one twice: all break the one rule that the line states
    if not unknown and names and len(set(names)) == len(names):
        return
    from negatives.tables.files import nearest_name  # with pyarrow, for which a help page must not wait

    near = next((offer for name in unknown if (offer := nearest_name(name, JUDGES))), "")
    hint = near and f".{near}"
    yield f"`{place}` must list some of {', '.join(JUDGES)}, each once, got {list(names)}{hint}"
