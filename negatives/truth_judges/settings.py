"""What can be set of the judges of truth: a section for each. Nothing here imports torch or loads a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from negatives.truth_judges.causal_lm import LmSettings
from negatives.truth_judges.chat import ChatJudgeSettings
from negatives.truth_judges.image import ImageSettings
from negatives.truth_judges.nli import NliSettings


class JudgeSection(Protocol):
    """What the section of a judge has beside its keys."""

    switch: ClassVar[str]
    """The key that asks for the judge."""
    may_differ: ClassVar[tuple[str, ...]]
    """Keys that change nothing that the judge says, so that they may differ when a run goes on."""
    meanings: ClassVar[Mapping[str, str]]
    """What each of its rejections says of a text, in a sentence, for the page of `itm generate`."""


@dataclass(frozen=True)
class TruthSettings:
    """Judges of truth, which look at the texts that validation passed; none unless it is asked for.

    They are asked in the order of their sections, the cheap ones first: what one rejects, the next one does not see.
    """

    lm: LmSettings = field(default_factory=LmSettings)
    """A causal language model: what is much less likely than its caption is hardly English."""
    nli: NliSettings = field(default_factory=NliSettings)
    """A model of natural language inference: what a caption entails is no negative of it."""
    image: ImageSettings = field(default_factory=ImageSettings)
    """An image-text scorer: what fits the image as well as its caption does is no negative of it."""
    chat: ChatJudgeSettings = field(default_factory=ChatJudgeSettings)
    """A chat model: what could be true of the same image is no negative of its caption."""

    @property
    def sections(self) -> dict[str, JudgeSection]:
        """The sections by the names of their judges, in the order in which these are asked."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def asked(self) -> dict[str, JudgeSection]:
        """The sections of the judges that are asked for: those whose switch is given.

        >>> [*TruthSettings().asked], [*TruthSettings(nli=NliSettings("cross_encoder")).asked]
        ([], ['nli'])
        """
        return {name: section for name, section in self.sections.items() if getattr(section, section.switch)}

    def faults(self, place: str) -> Iterator[str]:
        """Keys of judges that nobody asks: whoever gave one takes its texts for judged."""
        defaults = type(self)().sections
        for name in [name for name in self.sections if name not in self.asked]:
            own, usual = vars(self.sections[name]), vars(defaults[name])
            switch = self.sections[name].switch
            needed = f"`{place}{name}.{switch}{'=true' if own[switch] is False else ''}`"
            for key in own:
                if own[key] != usual[key]:
                    yield f"`{place}{name}.{key}` needs {needed}: nobody would be asked"


def judge_meanings() -> dict[str, str]:
    """What each rejection by a judge says of a text, in a sentence; beside `negatives.MEANINGS`."""
    sections = TruthSettings().sections.values()
    return {reason: sentence for section in sections for reason, sentence in section.meanings.items()}
