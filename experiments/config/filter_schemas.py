"""What can be configured of the verbs that audit and filter texts; see `experiments.config.schemas`.

What a filter, a certificate, an audit or a judge can be set to is declared in `negatives`, where it is used. Here are
the keys that only a command has: files in, a folder out, sections, and where metrics go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from datamodules.benchmarks import BENCHMARKS
from experiments.config.data_schemas import BENCHMARK_RULE
from experiments.config.trainer_schemas import LoggingConfig
from negatives.filtering import AuditPlan, CertificatePlan, FilterPlan
from negatives.judging import JudgeSettings


@dataclass(frozen=True)
class AuditFiles:
    """What `itm audit` reads, and where it writes."""

    format: str = field(default="tables", metadata=BENCHMARK_RULE)
    """tables: `captions` and `negatives`. sugarcrepe, valse ...: a benchmark's official files in `annotations`."""
    captions: str | None = field(default=None, metadata={"exists": "file"})
    """Captions table: the positives (tables)."""
    negatives: str | None = field(default=None, metadata={"exists": "file"})
    """Negatives table of these captions (tables)."""
    paraphrases: str | None = field(default=None, metadata={"exists": "file"})
    """Hard positives: a captions table with `source_caption_id` (tables)."""
    annotations: str | None = field(default=None, metadata={"exists": "file or folder"})
    """The benchmark's official annotations: a folder of files, or a file; no images are needed."""
    verdicts: str | None = field(default=None, metadata={"exists": "file"})
    """Verdicts of `itm filter`: audits what was kept beside everything."""
    harmonise: bool | None = None
    """Whether negatives take their positives' style first; not given: as the filter did, without verdicts not."""
    output_dir: str = MISSING
    """Folder for `audit.json` and `index.html`."""

    def faults(self, place: str) -> Iterator[str]:
        """A benchmark of no pairs, and keys that the format needs and that are not given."""
        benchmark = BENCHMARKS[self.format]
        if benchmark.protocol not in ("pairs", "any"):
            yield f"`{place}format` must be a benchmark of the protocol pairs, {self.format} is of {benchmark.protocol}"
        for key in benchmark.needs(images=False):
            if getattr(self, key) is None:
                yield f"`{place}{key}` must be given where `{place}format` is {self.format}"


# A dataclass takes the fields of its last base first: files head the help page, as a user gives them first.
@dataclass(frozen=True)
class AuditConfig(AuditPlan, AuditFiles):
    """`itm audit`: how much of the label the text alone gives away."""

    judge: JudgeSettings = field(default_factory=JudgeSettings)
    """The judges."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where metrics go."""


@dataclass(frozen=True)
class FilterFiles:
    """What `itm filter` reads, and where it writes."""

    captions: str = field(default=MISSING, metadata={"exists": "file"})
    """Captions table: the positives."""
    negatives: str = field(default=MISSING, metadata={"exists": "file"})
    """Negatives table of these captions."""
    paraphrases: str | None = field(default=None, metadata={"exists": "file"})
    """Hard positives: a captions table with `source_caption_id`; they join the positives."""
    output_dir: str = MISSING
    """Folder for `verdicts.parquet`, `pair_verdicts.parquet`, `certificate.json` and `index.html`."""
    harmonise: bool = True
    """Each negative takes its positive's casing, final punctuation and white space before it is judged."""


@dataclass(frozen=True)
class FilterConfig(FilterPlan, FilterFiles):
    """`itm filter`: keeps the texts or pairs on which text alone says nothing."""

    judge: JudgeSettings = field(default_factory=JudgeSettings)
    """The judges."""
    certify: bool = True
    """Measure what training on the kept texts teaches; exit code 1 where it is not balanced."""
    certificate: CertificatePlan = field(default_factory=CertificatePlan)
    """The blind learners, and what they may get."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where the certificate's metrics go."""

    def faults(self, place: str) -> Iterator[str]:
        """A certificate by the filter's own families alone, or by a judge without its model, and what the plan says."""
        if self.certify and set(self.certificate.probes) <= set(self.judge.judges):
            yield (
                f"`{place}certificate.probes` must hold a judge that is not among `{place}judge.judges`, got "
                f"{self.certificate.probes}: what the filter is blind to, only another family sees; add one"
            )
        if self.certify:
            # what the filter's own judges lack, their settings say
            others = [name for name in self.certificate.probes if name not in self.judge.judges]
            yield from self.judge.faults_of_models(others, f"{place}certificate.probes", f"{place}judge.")
        yield from super().faults(place)
