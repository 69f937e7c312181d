"""Scorers that read texts alone: what a benchmark gives away to whoever never looks at an image.

SugarCrepe's authors report two such priors, Vera (plausibility) and a grammar model (Hsieh et al., NeurIPS 2023).
Neither is here: `lm:` is a mean log-likelihood, which is another number.
"""

from __future__ import annotations

import hashlib
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.scoring.engine import EngineSettings, Values
from experiments.scoring.models import TextAnswers, answer_texts
from experiments.scoring.ranks import World, rank_device
from experiments.scoring.requests import Requests
from experiments.scoring.scorer import Engine, Options
from experiments.scoring.store import Store
from negatives import CausalLm, JudgeSettings
from negatives.judging import Judge, build_judges, build_text_pairs
from negatives.tables import InputError, pair_table, quoted, read_captions, read_negatives, text_table
from negatives.truth_judges import folder_state


def open_judge(word: str, options: Options) -> Engine:
    """A judge of the filter, fitted on a captions and a negatives table: how likely is a text a true caption?

    Raises:
        InputError: the word is not as in `KINDS`, there is no such judge, or a table cannot be read.
    """
    parts = word.split(":")
    if len(parts) != 4:
        raise InputError(f"a judge must be given as judge:NAME:CAPTIONS:NEGATIVES, got {quoted(word)}.")
    _, kind, captions, negatives = parts
    (judge,) = build_judges([kind], JudgeSettings(judges=[kind]))
    true = read_captions(captions)
    false = read_negatives(negatives, true)
    texts = build_text_pairs(text_table(true, false), pair_table(true, false))
    if len(np.unique(texts.labels)) < 2:
        raise InputError(f"{negatives}: a judge is fitted on captions and negatives, and there are none; give others.")
    digest = hashlib.sha256("\0".join([*texts.captions, *map(str, texts.labels)]).encode("utf-8", "surrogatepass"))
    return Engine(
        f"judge {kind}",
        True,
        {"judge": kind, "fitted_on": digest.hexdigest()[:16]},
        partial(_judged, judge, texts.captions, texts.labels),
        _sigmoid,
        reads_images=False,
        about={"judge": kind, "captions": captions, "negatives": negatives},
    )


def _judged(
    judge: Judge,
    captions: list[str],
    labels: NDArray[np.int64],
    requests: Requests,
    store: Store,
    settings: EngineSettings,
    world: World,
) -> TextAnswers | None:
    # a fit takes seconds, and a judge reads what it is fitted on and what it is asked together: not by units
    if world.rank:
        return None
    asked: list[str] = requests.texts.to_pylist()
    encoded = judge.encode([*captions, *asked])
    scorer = judge.fit(encoded, np.arange(len(captions)), labels)
    return TextAnswers(scorer(len(captions) + np.arange(len(asked))), {"texts": len(asked)})


def open_lm(word: str, options: Options) -> Engine:
    """A causal language model: the mean log-probability of a text's tokens, in nats, on the device of this rank.

    Raises:
        InputError: the folder holds no causal language model.
    """
    folder = Path(word.removeprefix("lm:"))
    model = CausalLm(str(folder), section="lm", device=str(rank_device(options.accelerator)))
    batch_size = options.engine.batch_size

    def read(texts: list[str]) -> Values:
        found = model.token_log_probabilities(texts, batch_size)
        # an empty text has no token
        return np.array([values.mean() if len(values) else 0.0 for values in found])

    return Engine(
        folder.name,
        False,
        {"lm": folder_state(folder), **{name: version(name) for name in ("torch", "transformers")}},
        partial(answer_texts, read),
        np.exp,
        reads_images=False,
        about={"lm": str(folder)},
    )


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits))
