"""What can be configured of the verb that writes texts; see `experiments.config.schemas`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

CAPTION_FORMATS = ("auto", "table", "jsonl", "coco", "karpathy", "csv", "tsv")
GPT_TYPES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "paraphrase")
NEEDED: dict[str, tuple[str, ...]] = {
    "rules": ("captions",),
    "gpt": ("captions",),
    "ce_clip": ("captions",),
    "negclip": ("captions",),
    "pairs": ("captions", "pairs"),
    "scenes": (),
}
"""Generator -> the inputs that it needs."""


@dataclass
class ScenesConfig:
    """The embedded data set of drawn scenes."""

    train: int = field(default=3000, metadata={"min": 2})
    """Scenes to train on."""
    held_out: int = field(default=500, metadata={"min": 2})
    """Scenes of each held-out split, for each negative type."""
    image_size: int = field(default=32, metadata={"min": 16})
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
    types: list[str] = field(default_factory=lambda: [*GPT_TYPES])
    """What to write; paraphrase: hard positives, so that a language model's style is no cue for false."""
    texts: int = field(default=1, metadata={"min": 1, "max": 20})
    """The most texts of each type for a caption; all types and texts of a caption are one request."""
    prompt_version: str = field(default="v1", metadata={"choices": ("v1",)})
    """Version of the prompts (`negatives/prompts`)."""
    temperature: float = field(default=1.0, metadata={"min": 0.0, "max": 2.0})
    """Sampling temperature."""
    max_tokens: int = field(default=512, metadata={"min": 16, "max": 1_000_000})
    """Bound on an answer's tokens."""
    seed: int | None = field(default=None, metadata={"min": 0, "max": 2**31 - 1})
    """Sampling seed, for servers that take one."""
    attempts: int = field(default=3, metadata={"min": 1})
    """Answers that are refused, truncated or malformed before a request counts as failed."""
    cache: str | None = None
    """SQLite file of all answers; not given: `requests.sqlite` in `output_dir`, which --overwrite
    leaves there. Runs may share one, one after the other: two at once may both ask for the same."""
    concurrency: int = field(default=64, metadata={"min": 1})
    """Requests under way at a time."""
    requests_per_minute: float | None = field(default=None, metadata={"above": 0.0})
    """The server's limit of requests."""
    tokens_per_minute: float | None = field(default=None, metadata={"above": 0.0})
    """The server's limit of tokens."""
    timeout: float = field(default=60.0, metadata={"above": 0.0})
    """Seconds that one try of a request may take."""
    retries: int = field(default=6, metadata={"min": 0})
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
        """Types that are unknown, repeated or missing; results that nothing would read."""
        if self.results and self.batch != "collect":
            yield f"`{place}results` needs `{place}batch` to be collect, got {self.batch}"
        if not self.types or not set(self.types) <= set(GPT_TYPES) or len(set(self.types)) < len(self.types):
            yield f"`{place}types` must list some of {', '.join(GPT_TYPES)}, each once, got {self.types}"


@dataclass
class SpacyConfig:
    """The spaCy pipeline that tags captions (ce_clip, negclip)."""

    pipeline: str = "en_core_web_sm"
    """Name or folder."""
    batch_size: int = field(default=256, metadata={"min": 1})
    """Captions tagged at once."""


@dataclass
class CeClipConfig:
    """CE-CLIP's generator."""

    mode: str = field(default="careful", metadata={"choices": ("careful", "reference")})
    """careful: writes nothing where the method would write junk. reference: as published, faults included."""
    masked_lm: str = "distilroberta-base"
    """Masked language model that fills words in, by hub name or folder."""
    batch_size: int = field(default=64, metadata={"min": 1})
    """Texts filled at once."""
    device: str = "auto"
    """Device of the masked LM."""


@dataclass
class GenerateConfig:
    """`itm generate`: captions -> negatives."""

    generator: str = field(default="rules", metadata={"choices": tuple(NEEDED)})
    """rules: word lists, for any English captions. gpt: a GPT model on a server. ce_clip, negclip: as in these papers,
    by spaCy (and a masked LM). scenes: draws the embedded data and lets its simulated writer write. pairs: takes
    negatives that someone wrote beforehand from a file of (caption, negative_caption) pairs."""
    output_dir: str = MISSING
    """Folder for the tables (and, for scenes, the images)."""
    captions: str | None = field(default=None, metadata={"exists": "file"})
    """Captions: a table, COCO's or Karpathy's JSON, CSV, TSV or JSONL (all but scenes)."""
    format: str = field(default="auto", metadata={"choices": CAPTION_FORMATS})
    """Of `captions`; auto: by the suffix, and for JSON by its keys."""
    columns: dict[str, str] = field(default_factory=dict)
    """image_id, image, caption_id, caption -> the column's name in `captions`, where it has others."""
    splits: list[str] = field(default_factory=list)
    """Only captions whose `split` is listed, as in Karpathy's files; all where empty."""
    pairs: str | None = field(default=None, metadata={"exists": "file"})
    """JSONL with `type, caption, negative_caption` and `coco_id` or `image_id` (pairs)."""
    folds: list[int] = field(default_factory=list)
    """Only pairs whose `image_fold` is listed; all where empty (pairs)."""
    per_type: int = field(default=1, metadata={"min": 1})
    """The most negatives of each type for a caption (rules)."""
    image_root: str | None = field(default=None, metadata={"exists": "folder"})
    """Writes `captions.parquet` too, its image paths told from this folder, which has to hold that of `captions`."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seeds scenes and negatives."""
    gpt: GptConfig = field(default_factory=GptConfig)
    """The model, its server and its limits (gpt)."""
    spacy: SpacyConfig = field(default_factory=SpacyConfig)
    """The tagger (ce_clip, negclip)."""
    ce_clip: CeClipConfig = field(default_factory=CeClipConfig)
    """How CE-CLIP's negatives are made (ce_clip)."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """Sizes of the embedded data set (scenes)."""

    def faults(self, place: str) -> Iterator[str]:
        """Inputs that the generator needs and that are not given."""
        for key in NEEDED[self.generator]:
            if getattr(self, key) is None:
                yield f"`{place}{key}` must be given where `{place}generator` is {self.generator}"
