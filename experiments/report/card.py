"""The model card of an exported scorer: Markdown with YAML in front and a block of Python that scores.

Names, questions, paths and notes come from files that anyone may have written. So every value becomes text of one line
in which nothing is Markdown or HTML, unless a filter (`yaml`, `python`) writes it as a literal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.config.schemas import ExperimentConfig
from experiments.report.card_sources import Certified, Evaluation, TableSource
from experiments.report.training_recipe import recipe, row_of_training
from lightning_modules.backbones import backbone_class

if TYPE_CHECKING:
    from lightning_modules.backbones import CardText

HUB_NAME = re.compile(r"([\w-][\w.-]*/)?[\w.-]+", re.ASCII)
LONGEST = 500
"""Characters of a value that are shown."""
PLAIN = frozenset(" .,:;=+%()/–-'\"?")
"""Beside letters and digits: what says nothing to Markdown within a line."""
LINKED = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?=@)", re.IGNORECASE)
"""Where a space makes an address a text: GFM links bare ones, and some renderers decode `&#58;` before they look."""
SUBSETS = {
    "all": "all (not filtered)",
    "kept": "what the filter kept",
    "random": "drawn at random, as many of each class as the filter kept (not filtered)",
}


@dataclass(frozen=True)
class Licence:
    """The hub's name of a licence, its name for people, and why it is on the card."""

    name: str
    title: str
    reason: str


@dataclass(frozen=True)
class Card:
    """All that a card shows.

    Attributes:
        experiment: configuration of the run.
        scorer: content of `scorer.json`.
        merged: whether adapters were merged.
        licence: of the weights.
        image_backend: `pil` or `torchvision`.
        parameters: what trained beside adapters and is no module's.
        others: what the training learnt and the Transformers model has no place for.
        tables: what was trained on.
        certificate: the filter's, where there is one.
        evaluations: one for each evaluation of the run.
        provenance: of the run; empty where it is gone.
        weights: which of the run's weights these are, see `describe_kept`.
    """

    experiment: ExperimentConfig
    scorer: Mapping[str, Any]
    merged: bool
    licence: Licence
    image_backend: str
    parameters: Sequence[str] = ()
    others: Mapping[str, float] = field(default_factory=dict)
    tables: Sequence[TableSource] = ()
    certificate: Certified | None = None
    evaluations: Sequence[Evaluation] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Mapping[str, str] | None:
        """`checkpoint` and `weights` of what adapters belong to; None where the folder holds a whole model."""
        return self.scorer.get("base")

    @property
    def library(self) -> str:
        """`peft` for adapters."""
        return "peft" if self.base else "transformers"

    @property
    def base_on_hub(self) -> str | None:
        """The base's name on the hub, if it has one."""
        name = self.experiment.model.checkpoint or ""
        # a name of a hub repository may also be a folder here, which then is the base
        return name if HUB_NAME.fullmatch(name) and not Path(name).exists() else None

    @property
    def base_is_local(self) -> bool:
        """Whether the base is a folder, which nobody else has."""
        return self.experiment.model.checkpoint is not None and self.base_on_hub is None

    @property
    def base_name(self) -> str | None:
        """What the card calls the base: a folder by its own name, without those it lies in."""
        name = self.experiment.model.checkpoint
        return Path(name).resolve().name if name is not None and self.base_is_local else name

    @cached_property
    def text(self) -> CardText:
        """What the backbone says of itself."""
        return backbone_class(self.scorer["backbone"]).card_text(self.scorer["model"])

    @property
    def tags(self) -> list[str]:
        """Of the card."""
        # merged adapters are no adapters any more
        lora = ["lora"] if self.base else []
        return ["image-text-matching", "itm-lightning", self.scorer["backbone"], *lora]

    @property
    def subset(self) -> str:
        """Which texts were trained on."""
        return SUBSETS[self.experiment.data.subset]

    @property
    def row(self) -> str:
        """What a row of the training holds."""
        return row_of_training(self.experiment.data)

    @property
    def recipe(self) -> dict[str, str]:
        """How it was trained."""
        return recipe(self.experiment, self.provenance, self.weights)


def render_card(card: Card, *, edge: int) -> str:
    """The card as Markdown.

    Args:
        card: what it shows.
        edge: elements of a tensor's start and end in the base's fingerprint.
    """
    # the code of a backbone's card stands beside the backbone, not in this folder
    templates = [FileSystemLoader(Path(__file__).parent), DictLoader({"card_code.py.j2": card.text.code})]
    environment = Environment(
        loader=ChoiceLoader(templates),
        autoescape=False,  # `finalize` does it, for Markdown
        finalize=lambda value: value if isinstance(value, Markup) else one_line(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        # a JSON string is a YAML string too, with everything escaped
        "yaml": lambda value: Markup(json.dumps(value)),
        # repr is a literal that Python reads back, whatever the text holds
        "python": lambda value: Markup(repr(value)),
        "markup": Markup,
    }
    return environment.get_template("card.md.j2").render(
        card=card,
        data=card.experiment.data,
        settings=card.scorer["model"],
        values=card.text.values,
        edge=edge,
    )


def one_line(value: object) -> str:
    """A value as text of one line in which nothing is Markdown, HTML or a link.

    >>> one_line("a <b>\\n# c|d"), one_line("`x` [y](z) _u_ v_w")
    ('a &#60;b&#62; &#35; c&#124;d', '&#96;x&#96; &#91;y&#93;(z) &#95;u&#95; v_w')
    >>> one_line("https://x.y"), one_line("www.x.y")
    ('https: //x.y', 'www .x.y')
    """
    # control characters and line ends first: a line break ends a table or starts a heading
    text = " ".join("".join(character if character.isprintable() else " " for character in str(value)).split())
    # cut before it is escaped, or half of a `&#60;` could be left
    shown = LINKED.sub(" ", text if len(text) <= LONGEST else text[:LONGEST] + "…")
    # an underscore within a word stays: it stresses nothing there
    return re.sub(
        r"[^\w]|(?<![^\W_])_|_(?![^\W_])", lambda found: found[0] if found[0] in PLAIN else f"&#{ord(found[0])};", shown
    )
