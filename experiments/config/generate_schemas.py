"""What can be configured of `itm generate`; see `experiments.config.schemas`.

Writers bring their own keys: `WRITERS` names their builders, and each builder's settings become a section here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

from omegaconf import MISSING

from negatives.chat import variable_faults
from negatives.gpt import LATEST, TYPES, VERSIONS, askable_types
from negatives.tables import FORMATS, nearest_name
from negatives.truth_judges import TruthSettings
from negatives.writers import WRITERS, builder_keys

T = TypeVar("T")

NEEDED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*WRITERS, "gpt"), ("captions",)),
    "pairs": ("captions", "pairs"),
    # its captions are drawn with its images
    "scenes": (),
}
"""Generator -> the inputs that it needs. A writer writes for captions, whatever it is; three generators are no writers:
gpt asks a server and keeps every answer, pairs joins what is written, scenes draws images too."""


@dataclass_transform(field_specifiers=(field,))
def with_writer_sections(schema: type[T]) -> type[T]:
    """Makes a class a dataclass with one more field for each section that a writer's builder takes.

    Raises:
        TypeError: a builder takes what is another key, or a plain value that is no key.
    """
    keys = set(schema.__annotations__)
    for writer in WRITERS:
        for key, hint in builder_keys(writer).items():
            is_section = dataclasses.is_dataclass(hint)
            # a section is declared by the builder alone, a plain value by the schema alone;
            # two builders may share a section, of one type
            if is_section == (key in keys) or (is_section and schema.__annotations__.get(key, hint) is not hint):
                raise TypeError(f"The builder of writer {writer} takes `{key}`: it needs a section named {writer}.")
            if is_section:
                # `__future__` makes the others strings; `get_type_hints` takes both
                schema.__annotations__[key] = hint
                setattr(schema, key, field(default_factory=hint))
    return dataclass(schema)


@dataclass
class ScenesConfig:
    """The embedded data set of drawn scenes."""

    train: int = field(default=3000, metadata={"min": 2, "max": 10_000_000})
    """Scenes to train on."""
    held_out: int = field(default=500, metadata={"min": 2, "max": 10_000_000})
    """Scenes of each held-out split, for each negative type."""
    image_size: int = field(default=32, metadata={"min": 16, "max": 4096})
    """Pixels of an image's side."""


@dataclass
class GptConfig:
    """A GPT model that writes negatives and paraphrases, on any server that speaks OpenAI's chat completions."""

    model: str = "gpt-4o-mini"
    """The model, as the server names it."""
    base_url: str = "https://api.openai.com/v1"
    """The server's address, such as http://localhost:8000/v1 for vLLM."""
    api_key_env: str | None = None
    """Environment variable that holds the key, which is never written anywhere; not given: OPENAI_API_KEY for OpenAI's
    own server, and no key for any other."""
    types: list[str] = field(default_factory=lambda: [*TYPES])
    """What to write: any types with a prompt text. paraphrase: hard positives, so that a language model's style does
    not give its negatives away."""
    texts: int = field(default=1, metadata={"min": 1, "max": 20})
    """The most texts of each type for a caption; all types and texts of a caption are one request."""
    prompt_version: str | None = field(default=None, metadata={"choices": tuple(VERSIONS)})
    """Version of the prompts (`negatives/gpt/prompts`); not given: the folder's own where a run goes on, else v2."""
    temperature: float | None = field(default=None, metadata={"min": 0.0, "max": 2.0})
    """Sampling temperature; not given: that of the prompts, 0.7 for v2 and 1 for v1."""
    max_tokens: int = field(default=512, metadata={"min": 16, "max": 1_000_000})
    """Bound on an answer's tokens."""
    seed: int | None = field(default=None, metadata={"min": 0, "max": 2**31 - 1})
    """Sampling seed, to which each attempt adds its number; not given: 0 for v2, and none for v1. Servers that take no
    seed are asked without."""
    attempts: int = field(default=3, metadata={"min": 1, "max": 1000})
    """Answers that are refused, truncated or malformed, or of which every text is rejected, before a request is not
    asked again."""
    cache: str | None = None
    """SQLite file of all answers; not given: `requests.sqlite` in `output_dir`, which --overwrite
    leaves there. Runs may share one, one after the other: a second one at the same time is refused."""
    concurrency: int = field(default=64, metadata={"min": 1, "max": 100_000})
    """Requests under way at a time."""
    requests_per_minute: float | None = field(default=None, metadata={"above": 0.0})
    """The server's limit of requests."""
    tokens_per_minute: float | None = field(default=None, metadata={"above": 0.0})
    """The server's limit of tokens."""
    timeout: float = field(default=60.0, metadata={"above": 0.0})
    """Seconds that one try of a request may take."""
    retries: int = field(default=6, metadata={"min": 0, "max": 1000})
    """Tries after the first, on a busy or failing server."""
    max_requests: int | None = field(default=None, metadata={"min": 1})
    """Stops this run after so many requests; --resume goes on."""
    max_cost: float | None = field(default=None, metadata={"above": 0.0})
    """Stops this run before it costs more, in dollars; --resume goes on."""
    prices: dict[str, dict[str, float]] = field(default_factory=dict)
    """Model -> {input, output}: dollars per million tokens, where the built-in list lacks the model or is old."""
    batch: str = field(default="none", metadata={"choices": ("none", "submit", "collect", "write")})
    """none: asks now. submit: by the batch API, at half the price. collect: fetches what submitted batches brought; any
    day, on any machine with the folder. write: only the JSONL files, as for `vllm run-batch`."""
    results: list[str] = field(default_factory=list)
    """Result files of `vllm run-batch` for the files that batch=write wrote; read by batch=collect."""

    def faults(self, place: str) -> Iterator[str]:
        """Types that are unknown, repeated or missing; results that nothing would read; a key in place of a name."""
        yield from variable_faults(self.api_key_env, f"{place}api_key_env")
        if self.results and self.batch != "collect":
            yield f"`{place}results` needs `{place}batch` to be collect, got {self.batch}"
        askable = askable_types(self.prompt_version or LATEST)
        unknown = [name for name in self.types if name not in askable]
        if not self.types or unknown or len(set(self.types)) < len(self.types):
            offer = f".{near}" if unknown and (near := nearest_name(unknown[0], askable)) else ""
            yield f"`{place}types` must list some of {', '.join(askable)}, each once, got {self.types}{offer}"


@with_writer_sections
class GenerateConfig:
    """`itm generate`: captions -> negatives."""

    generator: str = field(default="rules", metadata={"choices": tuple(NEEDED)})
    """rules: word lists, for any English captions. gpt: a chat model on a server. ce_clip, negclip: as in these papers,
    by spaCy (and a masked LM). scenes: draws the embedded data and lets its simulated writer write. pairs: takes
    negatives that someone wrote beforehand from a file of (caption, negative_caption) pairs."""
    output_dir: str = MISSING
    """Folder for the tables (and, for scenes, the images)."""
    captions: str | None = field(default=None, metadata={"exists": "file"})
    """Captions: a table, COCO's or Karpathy's JSON, CSV, TSV or JSONL (all but scenes)."""
    format: str = field(default="auto", metadata={"choices": FORMATS})
    """Of `captions`; auto: by the suffix, and for JSON by its keys."""
    columns: dict[str, str] = field(default_factory=dict)
    """image_id, image, caption_id, caption -> the column's name in `captions`, where it has others."""
    splits: list[str] = field(default_factory=list)
    """Only captions whose `split` is listed, as in Karpathy's files; all where empty."""
    pairs: str | None = field(default=None, metadata={"exists": "file"})
    """JSONL with `type, caption, negative_caption` and `coco_id` or `image_id` (pairs)."""
    folds: list[int] = field(default_factory=list)
    """Only pairs whose `image_fold` is listed; all where empty (pairs)."""
    per_type: int = field(default=1, metadata={"min": 1, "max": 1000})
    """The most negatives of each type for a caption (rules)."""
    image_root: str | None = field(default=None, metadata={"exists": "folder"})
    """Writes `captions.parquet` too, with image paths from this folder, which has to hold that of `captions`."""
    seed: int = field(default=0, metadata={"min": 0, "max": 2**32 - 1})
    """Seeds scenes and negatives."""
    gpt: GptConfig = field(default_factory=GptConfig)
    """The model, its server and its limits (gpt, and truth.chat with any generator)."""
    truth: TruthSettings = field(default_factory=TruthSettings)
    """Judges that look at the valid texts too, by models of their own (all but scenes)."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """Sizes of the embedded data set (scenes)."""

    def faults(self, place: str) -> Iterator[str]:
        """Inputs that the generator needs and that are not given; judges whom nothing would ask."""
        if self.generator == "scenes" and self.truth.asked:
            keys = ", ".join(f"`{place}truth.{name}.{one.switch}`" for name, one in self.truth.asked.items())
            yield f"{keys} must not be given where `{place}generator` is scenes: what is drawn needs no judge"
        if self.image_root is not None and self.truth.image.image_root is not None:
            yield f"`{place}truth.image.image_root` must not be given beside `{place}image_root`: that one counts"
        for key in NEEDED[self.generator]:
            if getattr(self, key) is None:
                yield f"`{place}{key}` must be given where `{place}generator` is {self.generator}"
