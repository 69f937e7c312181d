"""The judges of truth of a run: those that `negatives` builds alone, and those that need a scorer or a server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from experiments.config.generate_schemas import GenerateConfig
from experiments.generating.asking import JudgeAsker, Spending
from experiments.generating.tables import JUDGED_FILE
from experiments.runs.progress import say, tracker
from negatives.truth_judges import (
    BOTH_TRUE,
    NOT_SAME,
    UNASKED,
    UNDECIDED,
    ChatJudge,
    ChatJudgeSettings,
    ImageJudge,
    ImageSettings,
    Score,
    TruthJudge,
    TruthSettings,
    build_truth_judges,
    check_truth,
    folder_state,
    remembering,
)

if TYPE_CHECKING:
    from lightning_modules import Scorer

JUDGED_AT_ONCE = 2000  # rows, between two steps of the progress bar: a server answers many at a time
READ_AT_ONCE = 128  # where a model on this machine reads them: some seconds on a CPU
HOW_TO_JUDGE = tuple(
    f"truth.{name}.{key}" for name, section in TruthSettings().sections.items() for key in section.may_differ
)
"""Keys that may change when a run goes on: none of them changes what a judge says."""


def build_judges(config: GenerateConfig, captions: pa.Table, folder: Path, spending: Spending) -> list[TruthJudge]:
    """The judges that a run asks for; what they computed is found again in `JUDGED_FILE` of its folder.

    Args:
        config: of the run.
        captions: that texts are written for.
        folder: the output folder.
        spending: what the run has spent.

    Raises:
        InputError: a judge's model cannot be loaded, an image is missing, or the chat model cannot be asked.
    """

    def build_chat(settings: ChatJudgeSettings) -> ChatJudge:
        asker = JudgeAsker(config, folder, spending)
        asked = asker.settings
        return ChatJudge(asked.model, asker, asker.cache, attempts=asked.attempts, max_tokens=settings.max_tokens)

    def build_image(settings: ImageSettings) -> ImageJudge:
        return build_image_judge(settings, captions, images_of(config))

    judges = build_truth_judges(config.truth, {"chat": build_chat, "image": build_image})
    return remembering(judges, folder / JUDGED_FILE)


def judged(negatives: pa.Table, captions: pa.Table, judges: Sequence[TruthJudge]) -> pa.Table:
    """The negatives with what the judges of truth say (`check_truth`), and a bar that shows how far they are."""
    if not judges:
        return negatives
    size = rows_at_once(judges)
    parts = [negatives.slice(start, size) for start in range(0, len(negatives), size)]
    return pa.concat_tables(check_truth(part, captions, judges) for part in tracker("Judging")(parts))


def rows_at_once(judges: Sequence[TruthJudge]) -> int:
    """How many rows are judged between two steps of the progress bar."""
    names = {judge.name for judge in judges}
    # of a small part an image is computed with some of its texts only, and again with the others
    return READ_AT_ONCE if names - {ChatJudge.name} and ImageJudge.name not in names else JUDGED_AT_ONCE


def usage_of(judges: Sequence[TruthJudge]) -> dict[str, Any] | None:
    """What the answers of the chat model that judges took, of all starts; None where none judges."""
    chat = next((judge for judge in judges if isinstance(judge, ChatJudge)), None)
    return None if chat is None else {"model": chat.model, **chat.usage}


def all_are_judged(types: Mapping[str, Mapping[str, Any]], spending: Spending) -> bool:
    """Whether the chat model has answered about every text, and about some by yes or no.

    Says so where it has not, and what it was sent.

    Args:
        types: as of `counts_by_type`.
        spending: of the run.
    """
    asked = spending.judging
    if asked["sent"]:
        tokens = f"{asked['prompt_tokens']} prompt and {asked['completion_tokens']} completion tokens"
        say(f"`truth.chat` was sent {asked['sent']} requests in this start: {tokens}.")
    found = sum((Counter(counts["rejected"], valid=counts["valid"]) for counts in types.values()), Counter[str]())
    if missing := found[UNASKED]:
        say(f"{missing} texts have no answer of `truth.chat` yet ({UNASKED}). Ask again by --resume.")
        return False
    # as with a writer: a model that decides nothing is a wrong model or server, and has judged nothing
    if found[UNDECIDED] and not any(found[name] for name in ("valid", BOTH_TRUE, NOT_SAME)):
        say(
            f"`truth.chat` said neither yes nor no about any of {found[UNDECIDED]} texts ({UNDECIDED}). Go on by "
            "--resume and a larger gpt.attempts, or by --overwrite and another truth.chat.model or its max_tokens."
        )
        return False
    return True


def images_of(config: GenerateConfig) -> Path:
    """The folder that the image paths of the captions start from."""
    assert config.captions is not None
    return Path(config.truth.image.image_root or config.image_root or Path(config.captions).parent)


def build_image_judge(settings: ImageSettings, captions: pa.Table, root: Path) -> ImageJudge:
    """The judge that looks at the images of a captions table, its scorer loaded.

    Args:
        settings: the scorer and the bounds; the scorer has to be given.
        captions: with `image`.
        root: folder that image paths start from.

    Raises:
        InputError: an image is missing, or the scorer cannot be loaded.
    """
    from datamodules.sources import check_images
    from lightning_modules import load_scorer

    assert settings.scorer is not None
    # all images are looked for now, not hours later
    check_images(root, captions["image"].to_pylist(), "`truth.image.image_root`")
    folder = Path(settings.scorer).expanduser()
    # before the weights are read: files that change meanwhile are another state
    state = folder_state(folder) if folder.is_dir() else ""
    device = None if settings.device == "auto" else settings.device
    scorer = load_scorer(settings.scorer, device=device, checkpoint=settings.checkpoint)
    module: Any = scorer.module
    # a model of the hub has no folder: its commit says which weights these are
    identity = [settings.scorer, settings.checkpoint, state or module.commit(), str(root.resolve())]
    return ImageJudge(settings, scores_by(scorer, root, settings.batch_size), json.dumps(identity))


def scores_by(scorer: Scorer, root: Path, batch_size: int) -> Score:
    """A scorer's scores of images whose paths start at `root`."""
    from datamodules.sources import image_path

    def score(images: Sequence[str], texts: Sequence[str]) -> list[float]:
        paths = [str(image_path(root, image)) for image in images]
        scores: Any = scorer.score(paths, texts, batch_size=batch_size)
        found: list[float] = scores.tolist()
        return found

    return score
