"""What can be set of the judges of truth: a section for each. Nothing here imports torch or a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from negatives.truth_judges.causal_lm import LmSettings
from negatives.truth_judges.chat import ChatJudgeSettings
from negatives.truth_judges.image import ImageSettings
from negatives.truth_judges.nli import NliSettings
from negatives.truth_judges.table import TRUTH_JUDGES


@dataclass(frozen=True)
class TruthSettings:
    """Judges of truth, which look at the texts that validation passed; none unless it is asked for."""

    nli: NliSettings = field(default_factory=NliSettings)
    """A model of natural language inference: what a caption entails is no negative of it."""
    lm: LmSettings = field(default_factory=LmSettings)
    """A causal language model: what is much less likely than its caption is hardly English."""
    image: ImageSettings = field(default_factory=ImageSettings)
    """An image-text scorer: what fits the image as well as its caption does is no negative of it."""
    chat: ChatJudgeSettings = field(default_factory=ChatJudgeSettings)
    """A chat model: what could be true of the same image is no negative of its caption."""

    @property
    def asked(self) -> list[str]:
        """The judges that are asked for: those whose switch, a key of their section, is given.

        >>> TruthSettings().asked, TruthSettings(NliSettings("cross_encoder")).asked
        ([], ['nli'])
        """
        sections = {name: getattr(self, name) for name in TRUTH_JUDGES}
        return [name for name, section in sections.items() if getattr(section, section.switch)]
