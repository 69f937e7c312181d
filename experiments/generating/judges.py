"""The judges of truth of a run: those that `negatives` builds alone, and one that needs a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.config.generate_schemas import GenerateConfig
from experiments.generating.asking import JudgeAsker, Purse
from experiments.runs.progress import say
from negatives.truth_judges import TruthJudge

JUDGED_FILE = "judged.sqlite"
HOW_TO_JUDGE = (
    *("truth.nli.batch_size", "truth.nli.device"),
    *("truth.chat.base_url", "truth.chat.api_key_env"),
)
"""Keys that may change when a run goes on: none of them changes what a judge says."""


def build_judges(config: GenerateConfig, folder: Path, purse: Purse) -> list[TruthJudge]:
    """The judges that a run asks for; what they computed is found again in `JUDGED_FILE` of its folder.

    Args:
        config: of the run.
        folder: the output folder.
        purse: what the run has spent.

    Raises:
        InputError: a judge's model cannot be loaded, or the chat model cannot be asked.
    """
    from negatives.truth_judges import ChatJudge, build_truth_judges, remembering

    def build_chat(settings: Any) -> TruthJudge:
        asker = JudgeAsker(config, folder, purse)
        how = {"attempts": asker.settings.attempts, "max_tokens": settings.max_tokens}
        return ChatJudge(asker.settings.model, asker, asker.cache, **how)

    builders = {"chat": build_chat}
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
