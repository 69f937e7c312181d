"""The judges of truth of a run: those that `negatives` builds alone, and those that need a scorer or a server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from experiments.config.generate_schemas import GenerateConfig
from experiments.generating.asking import JudgeAsker, Purse
from experiments.runs.progress import say
from negatives.truth_judges import ImageSettings, Statement, TruthJudge, reason_by_scores

if TYPE_CHECKING:
    from lightning_modules import Scorer

JUDGED_FILE = "judged.sqlite"
HOW_TO_JUDGE = (
    *("truth.nli.batch_size", "truth.nli.device", "truth.image.batch_size", "truth.image.device"),
    *("truth.chat.base_url", "truth.chat.api_key_env"),
)
"""Keys that may change when a run goes on: none of them changes what a judge says."""


def build_judges(config: GenerateConfig, captions: pa.Table, folder: Path, purse: Purse) -> list[TruthJudge]:
    """The judges that a run asks for; what they computed is found again in `JUDGED_FILE` of its folder.

    Args:
        config: of the run.
        captions: that texts are written for.
        folder: the output folder.
        purse: what the run has spent.

    Raises:
        InputError: a judge's model cannot be loaded, an image is missing, or the chat model cannot be asked.
    """
    from negatives.truth_judges import ChatJudge, build_truth_judges, remembering

    def build_chat(settings: Any) -> TruthJudge:
        asker = JudgeAsker(config, folder, purse)
        how = {"attempts": asker.settings.attempts, "max_tokens": settings.max_tokens}
        return ChatJudge(asker.settings.model, asker, asker.cache, **how)

    builders = {"chat": build_chat, "image": lambda settings: build_image_judge(settings, captions, images_of(config))}
    return remembering(build_truth_judges(config.truth, builders), folder / JUDGED_FILE)


def all_are_judged(types: Mapping[str, Mapping[str, Any]], purse: Purse) -> bool:
    """Whether the chat model has answered about every text; says so where it has not, and what it was sent.

    Args:
        types: as of `counts_by_type`.
        purse: of the run.
    """
    from negatives.truth_judges import UNASKED

    if sent := purse.judging["sent"]:
        tokens = f"{purse.judging['prompt_tokens']} prompt and {purse.judging['completion_tokens']} completion tokens"
        say(f"`truth.chat` was sent {sent} requests in this start: {tokens}.")
    missing = sum(counts["rejected"].get(UNASKED, 0) for counts in types.values())
    if missing:
        say(f"{missing} texts have no answer of `truth.chat` yet ({UNASKED}). Ask again by --resume.")
    return not missing


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
    from negatives.truth_judges import folder_state

    assert settings.scorer is not None
    # all images are looked for now, not hours later
    check_images(root, captions["image"].to_pylist(), "`truth.image.image_root`")
    folder = Path(settings.scorer).expanduser()
    # before the weights are read: files that change meanwhile are another state
    state = folder_state(folder) if folder.is_dir() else ""
    device = None if settings.device == "auto" else settings.device
    scorer = load_scorer(settings.scorer, device=device, checkpoint=settings.checkpoint)
    module: Any = scorer.module  # of the hub the commit says which weights these are
    weights = [settings.scorer, settings.checkpoint, state or module.commit()]
    return ImageJudge(scorer, root, settings, json.dumps(weights))


class ImageJudge:
    """Rejects negatives that fit their image as well as their caption does, and paraphrases that fit it much worse.

    Args:
        scorer: gives the scores; an image is computed with all of its texts.
        root: folder that image paths start from.
        settings: the bounds.
        weights: says which scorer it is.
    """

    name = "image"

    def __init__(self, scorer: Scorer, root: Path, settings: ImageSettings, weights: str) -> None:
        self.scorer, self.root, self.settings = scorer, root, settings
        bounds = (settings.least_margin, settings.most_drop)
        self.identity = json.dumps([self.name, bounds, str(root.resolve()), weights])

    def rejections(self, statements: Sequence[Statement]) -> list[str]:
        """See `TruthJudge.rejections`.

        Raises:
            InputError: an image cannot be read, or a score is not finite.
        """
        if not statements:
            return []
        pairs = [pair for one in statements for pair in ((one.image, one.caption), (one.image, one.text))]
        # each once: a caption stands beside all that is written for it
        wanted = list(dict.fromkeys(pairs))
        images, texts = [self._path(image) for image, _ in wanted], [text for _, text in wanted]
        scores: Any = self.scorer.score(images, texts, batch_size=self.settings.batch_size)
        found = dict(zip(wanted, scores.tolist(), strict=True))
        scored = [(one.kind, found[one.image, one.caption], found[one.image, one.text]) for one in statements]
        return [reason_by_scores(*row, self.settings) for row in scored]

    def _path(self, image: str) -> str:
        from datamodules.sources import image_path

        return str(image_path(self.root, image))
