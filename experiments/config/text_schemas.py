"""What can be configured of the verbs that write, audit and filter texts; see `experiments.config.schemas`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from datamodules.benchmarks import BENCHMARKS
from experiments.config.trainer_schemas import LoggingConfig

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


JUDGES = ("word", "char", "surface", "bayes", "transformer")


@dataclass
class TransformerConfig:
    """The transformer judge: a sequence classifier, fine-tuned for each fold."""

    checkpoint: str | None = "distilbert-base-uncased"
    """Weights to start from, by hub name or folder; null: from scratch, at the sizes below."""
    hidden_size: int = field(default=64, metadata={"min": 8})
    """Width of a model from scratch."""
    layers: int = field(default=2, metadata={"min": 1})
    """Layers of a model from scratch."""
    heads: int = field(default=4, metadata={"min": 1})
    """Attention heads of a model from scratch."""
    epochs: int = field(default=3, metadata={"min": 1})
    """Passes over the texts or pairs; a model from scratch needs about twice as many as fine-tuning."""
    lr: float = field(default=5e-5, metadata={"above": 0.0})
    """Peak learning rate; from scratch 1e-3."""
    batch_size: int = field(default=64, metadata={"min": 1})
    """Texts or pairs in a batch."""
    max_tokens: int = field(default=64, metadata={"min": 8})
    """Tokens of a text; longer ones are cut."""
    accelerator: str = field(default="auto", metadata={"choices": ("auto", "cpu", "gpu", "cuda", "mps")})
    """Hardware to fit on."""

    def faults(self, place: str) -> Iterator[str]:
        """Sizes that do not divide."""
        if self.hidden_size % self.heads:
            yield f"`{place}heads` must divide `{place}hidden_size`, got {self.heads} and {self.hidden_size}"


@dataclass
class JudgeConfig:
    """The text-only judges, cross-fitted by image and combined on out-of-fold scores."""

    judges: list[str] = field(default_factory=lambda: ["word", "char", "surface"])
    """word, char: logistic regression on n-grams. surface: on length, punctuation, casing, repetition. bayes: naive
    Bayes on word n-grams. transformer: a sequence classifier. Several are combined."""
    folds: int = field(default=5, metadata={"min": 3})
    """Folds, by image: no text is judged by a model that saw another text of its image. With K of them, each of
    K (K - 1) / 2 fits sees all but two: 10 are worth their time where pairs are few."""
    word_ngrams: int = field(default=2, metadata={"min": 1, "max": 5})
    """Longest word n-gram."""
    char_ngrams: int = field(default=5, metadata={"min": 2, "max": 8})
    """Longest character n-gram."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """The transformer judge, where it is one of `judges`."""
    workers: int = field(default=2, metadata={"min": 1})
    """Threads that fit judges; results do not depend on them."""

    def faults(self, place: str) -> Iterator[str]:
        """Judges that are unknown, named twice, or missing."""
        unknown = [name for name in self.judges if name not in JUDGES]
        if unknown or not self.judges or len(set(self.judges)) < len(self.judges):
            yield f"`{place}judges` must list some of {', '.join(JUDGES)}, each once, got {self.judges}"


@dataclass
class CertificateConfig:
    """What has to hold of the kept texts before they are called balanced: over all negatives; types are reported."""

    probes: list[str] = field(default_factory=lambda: ["word", "char", "surface", "bayes"])
    """Judges, fitted anew on what was kept, with new folds; at least one of them should not be among the filter's."""
    tolerance: float = field(default=0.02, metadata={"above": 0.0, "max": 0.5})
    """Every probe has to be at 0.5, give or take this. Below is a miss too: an over-corrected set is not balanced."""
    transformer_tolerance: float = field(default=0.03, metadata={"above": 0.0, "max": 0.5})
    """The same for the transformer probe, whose estimates vary more."""
    seeds: int = field(default=3, metadata={"min": 1})
    """Fold seeds that each probe's estimate is the mean of."""
    folds: int = field(default=5, metadata={"min": 3})
    """Folds of each."""
    bootstrap: int = field(default=200, metadata={"min": 20})
    """Resamples of images behind each 95 % interval."""

    def faults(self, place: str) -> Iterator[str]:
        """Probes that are unknown, named twice, or missing."""
        unknown = [name for name in self.probes if name not in JUDGES]
        if unknown or not self.probes or len(set(self.probes)) < len(self.probes):
            yield f"`{place}probes` must list some of {', '.join(JUDGES)}, each once, got {self.probes}"


@dataclass
class AuditConfig:
    """`itm audit`: how much of the label the text alone gives away."""

    format: str = field(default="tables", metadata={"choices": BENCHMARKS})
    """tables: `captions` and `negatives`. sugarcrepe, valse: a benchmark's official files in `annotations`."""
    captions: str | None = field(default=None, metadata={"exists": "file"})
    """Captions table: the positives (tables)."""
    negatives: str | None = field(default=None, metadata={"exists": "file"})
    """Negatives table of these captions (tables)."""
    paraphrases: str | None = field(default=None, metadata={"exists": "file"})
    """Hard positives: a captions table with `source_caption_id` (tables)."""
    annotations: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder of the benchmark's official annotation files; no images are needed."""
    verdicts: str | None = field(default=None, metadata={"exists": "file"})
    """Verdicts of `itm filter`: audits what was kept beside everything."""
    harmonise: bool | None = None
    """Whether negatives take their positives' style first; not given: as the filter did, without verdicts not."""
    output_dir: str = MISSING
    """Folder for `audit.json` and `index.html`."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """The judges."""
    bootstrap: int = field(default=200, metadata={"min": 20})
    """Resamples of images behind each 95 % interval."""
    top: int = field(default=20, metadata={"min": 1})
    """Leaking n-grams, and texts most given away, listed for each class."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seeds folds and bootstrap."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where metrics go."""

    def faults(self, place: str) -> Iterator[str]:
        """Keys that the format needs and that are not given."""
        for key in BENCHMARKS[self.format].needs(images=False):
            if getattr(self, key) is None:
                yield f"`{place}{key}` must be given where `{place}format` is {self.format}"


@dataclass
class FilterConfig:
    """`itm filter`: keeps the texts or pairs on which text alone says nothing."""

    captions: str = field(default=MISSING, metadata={"exists": "file"})
    """Captions table: the positives."""
    negatives: str = field(default=MISSING, metadata={"exists": "file"})
    """Negatives table of these captions."""
    paraphrases: str | None = field(default=None, metadata={"exists": "file"})
    """Hard positives: a captions table with `source_caption_id`; they join the positives."""
    output_dir: str = MISSING
    """Folder for `verdicts.parquet`, `pair_verdicts.parquet` and `certificate.json`."""
    harmonise: bool = True
    """Each negative takes its positive's casing, final punctuation and white space before it is judged."""
    unit: str = field(default="text", metadata={"choices": ("text", "pair", "both")})
    """text: judges single texts, for losses that do (lm, binary, itm). pair: judges a positive beside its negative,
    for losses and benchmarks that compare. both: satisfies the two."""
    rule: str = field(default="overlap", metadata={"choices": ("overlap", "top_fraction", "aflite")})
    """overlap: keeps with probability proportional to the odds of the other class. top_fraction: drops the most
    confidently judged (LLaVA-score). aflite: drops, again and again, what the first judge predicts (AFLite)."""
    constant: float | None = field(default=None, metadata={"above": 0.0, "max": 1e6})
    """overlap: the factor of the odds; not given: the one that keeps most while probes stay within `target`."""
    target: float | None = field(default=None, metadata={"min": 0.5, "max": 1.0})
    """overlap: the largest AUC or paired accuracy that probes may reach while the constant is searched; not given:
    0.505 for unit text, 0.512 for pairs."""
    top_fraction: float = field(default=0.3, metadata={"min": 0.0, "max": 0.99})
    """top_fraction, aflite: part of each class (or of the pairs) that is dropped."""
    per_type: bool = False
    """Keep the same share of every negative type, so that none starves; types then are no longer balanced alike."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """The judges."""
    certify: bool = True
    """Measure what is left with fresh probes; exit code 1 where it is not balanced."""
    certificate: CertificateConfig = field(default_factory=CertificateConfig)
    """The probes and what they may reach."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seeds folds and draws."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where the certificate's metrics go."""

    def faults(self, place: str) -> Iterator[str]:
        """A certificate by the filter's own families alone, and a rule that satisfies one unit."""
        if self.certify and set(self.certificate.probes) <= set(self.judge.judges):
            yield (
                f"`{place}certificate.probes` must hold a judge that is not among `{place}judge.judges`, got "
                f"{self.certificate.probes}: what the filter is blind to, only another family sees"
            )
        if self.rule == "aflite" and self.unit == "both":
            yield f"`{place}unit` must be text or pair where `{place}rule` is aflite, got both"
