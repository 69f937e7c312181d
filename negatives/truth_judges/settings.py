"""What can be set of the judges of truth: a section for each. Nothing here imports torch or a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from negatives.truth_judges.causal_lm import LmSettings
from negatives.truth_judges.nli import NliSettings
from negatives.truth_judges.table import TRUTH_JUDGES


@dataclass(frozen=True)
class TruthSettings:
    """Judges of truth, which look at the texts that validation passed; none unless its model is given."""

    nli: NliSettings = field(default_factory=NliSettings)
    """A model of natural language inference: what a caption entails is no negative of it."""
    lm: LmSettings = field(default_factory=LmSettings)
    """A causal language model: what is much less likely than its caption is hardly English."""

    @property
    def asked(self) -> list[str]:
        """The judges that are asked for: those whose checkpoint is given.

        >>> TruthSettings().asked, TruthSettings(NliSettings("cross_encoder")).asked
        ([], ['nli'])
        """
        return [name for name in TRUTH_JUDGES if getattr(self, name).checkpoint is not None]
