"""Laws of the configuration: every fault at once, each with its key, rule, value and place."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import MISSING

from datamodules import Debias
from experiments.build import build_datamodule
from experiments.commands import VERBS
from experiments.config import (
    data_schemas,
    evaluation_schemas,
    filter_schemas,
    generate_schemas,
    schemas,
    sweep_schemas,
    trainer_schemas,
)
from experiments.config.help import key_table
from experiments.config.load import (
    ConfigError,
    describe,
    find_yaml,
    load_config,
    load_mapping,
    load_saved,
    read_yaml,
    to_yaml,
)
from experiments.config.model_schemas import variants
from lightning_modules import field_types
from lightning_modules.backbones import BACKBONES, ModelSettings, backbone_class
from lightning_modules.backbones.model_section import model_schema
from lightning_modules.losses import loss_class, losses_that_read


@dataclass
class Inner:
    """A part."""

    rate: float = field(default=0.1, metadata={"above": 0.0, "max": 1.0})
    """Between 0 and 1."""
    kind: str = field(default="a", metadata={"choices": ("a", "b")})
    """Which kind."""


@dataclass
class Outer:
    """A whole."""

    name: str = "run"
    """Its name."""
    count: int = field(default=1, metadata={"min": 1})
    """How many."""
    table: str | None = field(default=None, metadata={"exists": "file"})
    """A file."""
    folders: list[str] = field(default_factory=list, metadata={"exists": "folder"})
    """Some folders."""
    files: dict[str, str] = field(default_factory=dict, metadata={"exists": "file"})
    """Some files."""
    output_dir: str = "runs/${name}"
    """Where to."""
    inner: Inner = field(default_factory=Inner)
    """A part."""
    spare: Inner | None = None
    """A part that may be absent."""
    parts: dict[str, Inner] = field(default_factory=dict)
    """Parts by name."""
    steps: list[Inner] = field(default_factory=list)
    """Parts in order."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Two numbers."""
    anything: dict[str, Any] = field(default_factory=dict)
    """Unchecked."""


@dataclass
class Required:
    """Something that must be given."""

    name: str = MISSING
    """Its name."""
    copy: str = "${name}/copy"
    """Follows the name."""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def faults(schema: type, path: Path | None = None, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(schema, path, overrides)
    return caught.value.faults


def test_defaults_need_no_file() -> None:
    assert load_config(Outer, None) == Outer(output_dir="runs/run")


def test_a_file_holds_only_differences_from_its_bases(tmp_path: Path) -> None:
    write(tmp_path / "deep/first.yaml", "name: first\ncount: 2\ninner: {rate: 0.5, kind: b}\nfolders: []")
    write(tmp_path / "second.yaml", "base: deep/first.yaml\ncount: 3\ninner: {rate: 0.25}")
    third = write(tmp_path / "third.yaml", "base: second.yaml\nname: third")
    config = load_config(Outer, third, ["inner.kind=a"])
    assert config == Outer(name="third", count=3, inner=Inner(0.25, "a"), output_dir="runs/third")
    assert read_yaml(third) == {"name": "third", "count": 3, "inner": {"rate": 0.25, "kind": "b"}, "folders": []}


def test_overrides_are_yaml_and_come_last(tmp_path: Path) -> None:
    config = load_config(
        Outer,
        write(tmp_path / "a.yaml", "count: 2\nsteps: [{rate: 1}, {kind: b}]"),
        ["count=4", "inner.rate=2e-5", "betas=[0, 1]", "spare={kind: b}", "steps.1.rate=0.5", "anything.x.y=[1, a]"],
    )
    assert (config.count, config.inner.rate, config.betas, config.spare) == (4, 2e-5, (0.0, 1.0), Inner(kind="b"))
    assert config.steps == [Inner(rate=1.0), Inner(rate=0.5, kind="b")]
    assert config.anything == {"x": {"y": [1, "a"]}}


def test_all_faults_come_in_one_error_with_their_places(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", "conut: 3\ninner: {rate: 1.5}\ncount: two")
    path = write(tmp_path / "top.yaml", "base: base.yaml\ntable: nowhere.jsonl\nparts: {p: {kind: c}}")
    found = faults(Outer, path, "folders=[nowhere]", "files.a=nowhere", "steps=[{rte: 1}]", "name=null", "spare=3")
    assert sorted(found) == sorted(
        [
            f"`conut` is no known key, did you mean `count`? ({base})",
            f"`inner.rate` must be in (0.0, 1.0], got 1.5 ({base})",
            f"`count` must be int, got 'two' ({base})",
            f"`table` must be an existing file, got 'nowhere.jsonl' ({path})",
            f"`parts.p.kind` must be one of a, b, got 'c' ({path})",
            "`folders.0` must be an existing folder, got 'nowhere' (command line)",
            "`files.a` must be an existing file, got 'nowhere' (command line)",
            "`steps.0.rte` is no known key, did you mean `steps.0.rate`? (command line)",
            "`name` must be str, got null (command line)",
            "`spare` must be a mapping or null, got 3 (command line)",
        ]
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("count=0", "`count` must be >= 1, got 0 (command line)"),
        ("count=1.5", "`count` must be int, got 1.5 (command line)"),
        ("count=true", "`count` must be int, got true (command line)"),
        ("inner.rate=.nan", "`inner.rate` must be in (0.0, 1.0], got nan (command line)"),
        ("betas=[1]", "`betas` must be tuple[float, float], got [1] (command line)"),
        ("inner=3", "`inner` must be a mapping, got 3 (command line)"),
        ("steps=[3]", "`steps.0` must be a mapping, got 3 (command line)"),
        ("parts.p=3", "`parts.p` must be a mapping, got 3 (command line)"),
        ("parts={1: {}}", "`parts.1` must be text: put quotes around the key, got 1 (command line)"),
        ("rate=1", "`rate` is no known key, did you mean `inner.rate`? (command line)"),
        ("inner.x=1", "`inner.x` is no known key, the keys here are rate, kind (command line)"),
        ("count", "an override must be written key=value, got 'count' (command line)"),
        ("steps.2.rate=1", "`steps` must be list[a mapping], got {'2': {'rate': 1}} (command line)"),
    ],
)
def test_a_fault_names_key_rule_value_and_place(override: str, message: str) -> None:
    assert faults(Outer, None, override) == (message,)


def test_an_override_cannot_lengthen_a_list(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "steps: [{rate: 1}]")
    (message,) = faults(Outer, path, "steps.1.rate=1")
    assert message == "`steps.1.rate` must name one of 1 list entries by 0 ... 0 (command line)"


def test_missing_values_are_told_once_with_the_remedy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "{}")
    assert faults(Required) == ("`name` must be given: add name=... on the command line",)
    assert faults(Required, path) == (f"`name` must be given: add it to {path} or name=... on the command line",)


def test_an_unset_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ITM_NOWHERE", raising=False)
    (message,) = faults(Outer, None, "table=${oc.env:ITM_NOWHERE}/a.jsonl")
    assert "`table` needs the environment variable ITM_NOWHERE, which is not set: export ITM_NOWHERE=..." in message


@pytest.mark.parametrize("value", ["${nowhere}", "${count", "${oc.nothing:x}", "${name}"])
def test_an_interpolation_that_does_not_resolve_is_a_fault_of_its_key(value: str) -> None:
    messages = faults(Outer, None, f"name={value}")
    assert messages[0].startswith("`name` must ")
    assert value in messages[0]


def test_interpolated_values_are_checked_like_written_ones() -> None:
    assert "`count` must resolve" in faults(Outer, None, "count=${name}")[0]
    assert faults(Outer, None, "anything.n=0", "count=${anything.n}") == ("`count` must be >= 1, got 0 (command line)",)
    config = load_config(Outer, None, ["parts.p.rate=0.5", "spare=${parts.p}"])
    assert config.spare == Inner(rate=0.5)


@pytest.mark.parametrize("text", ["a: [1", "- 1", "a: 1\na: 2", "a: ${b"])
def test_a_file_that_is_no_mapping_is_one_line_that_names_it(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.yaml", text)
    (message,) = faults(Outer, path)
    assert message.startswith(f"{path} must ")
    assert "\n" not in message


@pytest.mark.filterwarnings("error")
def test_what_yaml_reads_as_another_type_becomes_the_declared_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "count: '2'\ninner: {rate: '1e-3'}\nfolders: []")
    config = load_config(Outer, path, ["name=2024", "inner.kind=a"])
    assert (config.name, config.count, config.inner.rate) == ("2024", 2, 0.001)
    for word in ("true", "Yes", "off"):
        with pytest.raises(
            ConfigError, match=r"`name` must be text, and YAML reads Yes, No, on and off as true and false"
        ):
            load_config(Outer, None, [f"name={word}"])
    assert load_config(Outer, None, ["name='Yes'"]).name == "Yes"
    words = [*DATA, "data.harmonise=0", "model.adapter.targets=[3]"]
    experiment = load_config(schemas.ExperimentConfig, None, words, check_files=False)
    assert (experiment.data.harmonise, experiment.model.adapter.targets) == (False, ["3"])
    assert load_config(schemas.ExperimentConfig, None, [*DATA, "data.harmonise=1"], check_files=False).data.harmonise


def test_only_0_and_1_are_taken_for_true_and_false() -> None:
    words = [*DATA, "data.harmonise=2", "model.train_vision=-1"]
    with pytest.raises(ConfigError) as caught:
        load_config(schemas.ExperimentConfig, None, words, check_files=False)
    assert caught.value.faults == (
        "`data.harmonise` must be bool, got 2 (command line)",
        "`model.train_vision` must be bool or null, got -1 (command line)",
    )


@pytest.mark.parametrize("tables", ["[]", "{}", "{a: null}", "[null]"])
def test_what_is_no_table_is_told_so(tables: str) -> None:
    words = [f"data.captions={tables}", f"data.negatives={tables}", "data.image_root=."]
    with pytest.raises(ConfigError) as caught:
        load_config(schemas.ExperimentConfig, None, words, check_files=False)
    rule = "must be a table or a list of tables, got"
    assert [fault.split(" [")[0].split(" {")[0] for fault in caught.value.faults] == [
        f"`data.captions` {rule}",
        f"`data.negatives` {rule}",
    ]


def test_a_fault_names_the_place_that_its_key_was_given_in(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "data: {captions: a, negatives: b}\nmodel: {question: why}")
    with pytest.raises(ConfigError) as caught:
        load_config(schemas.ExperimentConfig, path, ["data.captions=[]", "data.subset=kept"], check_files=False)
    captions, verdicts, question = sorted(caught.value.faults)
    assert captions.endswith("(command line)")
    assert verdicts.endswith(f"({path})"), "not given: it can be added there"
    assert question.endswith(f"({path})")
    with pytest.raises(ConfigError, match=r"^`model\.itc_itm` belongs to .* \(command line\)$"):
        load_config(schemas.ExperimentConfig, path, ["model.itc_itm.itc_weight=1"], check_files=False)


def test_a_missing_base_or_file_is_offered_the_recipe_of_its_name(tmp_path: Path) -> None:
    recipe = r"Did you mean experiments.configs.clip_tiny_scenes\.yaml\?$"
    with pytest.raises(ConfigError, match=recipe):
        read_yaml(write(tmp_path / "a.yaml", "base: clip_tiny_scenes.yaml"))
    with pytest.raises(ConfigError, match=recipe):
        find_yaml("configs/clip_tiny_scene.yaml")


def test_a_missing_file_or_base_is_one_line_that_names_it(tmp_path: Path) -> None:
    assert "nowhere.yaml' does not exist" in faults(Outer, tmp_path / "nowhere.yaml")[0]
    path = write(tmp_path / "a.yaml", "base: nowhere.yaml")
    (message,) = faults(Outer, path)
    assert message == f"`base` must be an existing file, got {str(tmp_path / 'nowhere.yaml')!r} ({path})"


def test_bases_that_lead_back_are_an_error(tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", "base: b.yaml")
    second = write(tmp_path / "b.yaml", "base: a.yaml")
    (message,) = faults(Outer, first)
    assert f"{first} -> {second} -> {first}" in message


def test_an_empty_file_is_a_file_without_differences(tmp_path: Path) -> None:
    assert load_config(Outer, write(tmp_path / "a.yaml", "")) == load_config(Outer, None)


def test_files_that_are_still_to_be_made_are_not_missed(tmp_path: Path) -> None:
    later = str(tmp_path / "made/later.jsonl")
    assert load_mapping(Outer, {"table": later}, "step 1", made_in=tmp_path / "made").table == later
    assert load_config(Outer, None, [f"table={later}"], check_files=False).table == later
    for elsewhere in (None, tmp_path / "other"):
        with pytest.raises(ConfigError, match=r"`table` must be an existing file, got '.*later.jsonl' \(step 1\)"):
            load_mapping(Outer, {"table": later}, "step 1", made_in=elsewhere)


def test_noise_images_are_not_for_a_contrastive_loss() -> None:
    words = ["data.captions=a", "data.negatives=b", "model.backbone=clip", "data.mixing.image_dropout=0.1"]
    with pytest.raises(ConfigError, match=r"`data\.mixing\.image_dropout` must be 0 where `model\.loss` is itc"):
        load_config(schemas.ExperimentConfig, None, words, check_files=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["model.system=a"],
            r"`model\.system` belongs to llava and chat_vlm, and `model\.backbone` is blip2: leave it out",
        ),
        (["model.itc_itm.itc_weight=2"], r"`model\.itc_itm` belongs to the loss itc_itm, which is not .*`model\.loss`"),
        (["model.loss=itm", "model.itc_itm.temperature=0.1"], r"`model\.itc_itm` belongs to .*`model\.loss`: choose"),
        (
            ["model.loss=itm", "model.score=itc"],
            r"`model\.score` must be itm without `model\.checkpoint`, or .*itc_itm",
        ),
        (["model.loss=itc_itm", "model.itc_itm.label_smoothing=1"], r"label_smoothing` must be in \[0, 1\), got 1"),
        (
            ["model.loss=itc_itm", "model.itc_itm.temperature=0"],
            r"`model\.itc_itm\.temperature` must be in \[0\.001, 0\.5\], got 0",
        ),
        (
            ["model.loss=itc_itm", "model.itc_itm.itc_weight=0", "model.itc_itm.itm_weight=0"],
            r"itm_weight` must be above 0",
        ),
        (
            ["model.loss=itc_itm", "data.mixing.image_dropout=0.1"],
            r"image_dropout` must be 0 where `model\.loss` is itc_itm",
        ),
    ],
)
def test_what_does_not_go_with_the_itc_itm_section_is_a_fault(words: list[str], message: str) -> None:
    data = ["data.captions=a", "data.negatives=b", "model.backbone=blip2"]
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(schemas.ExperimentConfig, None, [*data, *words], check_files=False)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize("score", ["itm", "itc", "itm_itc"])
def test_a_tiny_blip2_that_itc_trains_has_all_scores(score: str) -> None:
    words = [
        "data.captions=a",
        "data.negatives=b",
        "model.backbone=blip2",
        "model.loss=itc_itm",
        f"model.score={score}",
    ]
    model = load_config(schemas.ExperimentConfig, None, words, check_files=False).model
    assert model == model_schema("blip2", "itc_itm")(loss="itc_itm", score=score)  # type: ignore[call-arg]


def test_what_does_not_go_with_clip_is_a_fault() -> None:
    words = ["data.captions=a", "data.negatives=b", "model.backbone=clip", "model.tune=lora", "model.train_vision=true"]
    words += ["trainer.strategy=fsdp", "trainer.precision=bf16-mixed"]
    with pytest.raises(ConfigError) as caught:
        load_config(schemas.ExperimentConfig, None, words, check_files=False)
    for key in ("model.train_vision", "trainer.strategy"):
        assert f"`{key}` must not be" in str(caught.value)


@pytest.mark.parametrize(
    "model",
    [
        ["model.backbone=clip"],
        ["model.backbone=clip", "model.loss=binary"],
        ["model.backbone=clip", "model.loss=listwise"],
        ["model.backbone=blip2", "model.loss=itc_itm"],
    ],
)
def test_a_learnt_scale_of_similarities_is_not_rounded(model: list[str]) -> None:
    words = ["data.captions=a", "data.negatives=b", *model]
    for own in (["trainer.strategy=fsdp", "trainer.precision=bf16-mixed"], ["trainer.precision=bf16-true"]):
        with pytest.raises(ConfigError, match="round"):
            load_config(schemas.ExperimentConfig, None, [*words, *own], check_files=False)
    load_config(schemas.ExperimentConfig, None, [*words, "trainer.precision=bf16-mixed"], check_files=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["model.backbone=blip2", "model.loss=itc_itm", "model.itc_itm.itm_weight=0"],
            "`model.itc_itm.itm_weight` must be",
        ),
        (
            ["model.backbone=blip2", "model.loss=itc_itm", "model.itc_itm.itc_weight=0", "model.score=itm_itc"],
            "`model.itc_itm.itc_weight` must be above 0 where `model.score` is itm_itc",
        ),
        (
            ["model.backbone=clip", "model.loss=ce_clip", "model.ce_clip.initial_rank_threshold=20"],
            "`model.ce_clip.initial_rank_threshold` must be at most `model.ce_clip.rank_threshold_bound`, got 20 and",
        ),
        (["data.mixing.negatives=0"], "`data.mixing.negatives` must be above 0 where `model.loss` is lm"),
        (["model.backbone=clip", "data.mixing.negatives=.inf"], "`data.mixing.negatives` must be a finite number"),
        (["data.mixing.curriculum={epochs: .inf, negatives: 1}"], "`data.mixing.curriculum.epochs` must be a finite"),
    ],
)
def test_what_cannot_be_learnt_is_a_fault(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(schemas.ExperimentConfig, None, ["data.captions=a", "data.negatives=b", *words], check_files=False)


def test_one_scorer_is_given() -> None:
    words = ["run=a", "model.checkpoint=b", "captions=c", "output_dir=d"]
    for schema in (schemas.ScoreConfig, schemas.NeighboursConfig):
        with pytest.raises(ConfigError, match=r"`model\.checkpoint` must not be given beside `run`"):
            load_config(schema, None, words, check_files=False)


def test_a_curriculum_and_the_rows_of_a_contrast_fit_the_training() -> None:
    words = ["data.captions=a", "data.negatives=b", "data.mixing.curriculum={epochs: 2.5, swap_ratio: 0.0}"]
    with pytest.raises(
        ConfigError, match=r"`data.mixing.curriculum.epochs` must be at most `trainer.max_epochs`, got 2.5"
    ):
        load_config(schemas.ExperimentConfig, None, words, check_files=False)
    load_config(schemas.ExperimentConfig, None, [*words, "trainer.max_epochs=3"], check_files=False)
    words = ["data.captions=a", "data.negatives=b", "model.backbone=clip", "data.mixing.positives=2"]
    with pytest.raises(ConfigError, match=r"`data.mixing.positives` must be 1 where `model.loss` is itc"):
        load_config(schemas.ExperimentConfig, None, words, check_files=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["model.loss=itc", "model.ce_clip.imc_weight=0.5"],
            "`model.ce_clip` belongs to the loss ce_clip, which is not the one of `model.loss`",
        ),
        (["model.loss=ce_clip", "data.mixing.negatives=0"], "`data.mixing.negatives` must be above 0"),
    ],
)
def test_ce_clip_refuses_what_it_cannot_rank(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(
            schemas.ExperimentConfig,
            None,
            ["data.captions=a", "data.negatives=b", "model.backbone=clip", *words],
            check_files=False,
        )


def test_a_listwise_loss_without_negatives_is_a_fault() -> None:
    words = ["data.captions=a", "data.negatives=b", "model.loss=listwise", "data.mixing.negatives=0"]
    with pytest.raises(ConfigError, match=r"`data\.mixing\.negatives` must be above 0 where `model\.loss` is listwise"):
        load_config(schemas.ExperimentConfig, None, words, check_files=False)


MIXING_FAULTS = {
    "data.mixing.curriculum.epochs=0.5": "`data.mixing.curriculum.negatives`, `data.mixing.curriculum.swap_ratio` or",
    "data.mixing.curriculum={paraphrase_ratio: 0.5}": "`data.mixing.paraphrase_ratio` must be given where",
    "data.mixing.paraphrase_ratio=1.1": "`data.mixing.paraphrase_ratio` must be in [0.0, 1.0], got 1.1",
    "data.mixing.curriculum={epochs: 0, negatives: 1}": "`data.mixing.curriculum.epochs` must be > 0.0, got 0",
    "data.mixing.curriculum={negatives: -1}": "`data.mixing.curriculum.negatives` must be >= 0.0, got -1",
    "data.mixing.curriculum={swap_ratio: 1.5}": "`data.mixing.curriculum.swap_ratio` must be in [0.0, 1.0], got 1.5",
    "data.mixing.negatives=-0.5": "`data.mixing.negatives` must be >= 0.0, got -0.5",
}


@pytest.mark.parametrize("word", MIXING_FAULTS)
def test_a_mixing_that_cannot_be_drawn_is_a_fault(word: str) -> None:
    words = ["data.captions=a", "data.negatives=b", word]
    with pytest.raises(ConfigError) as caught:
        load_config(schemas.ExperimentConfig, None, words, check_files=False)
    (message,) = caught.value.faults
    assert message.startswith(MIXING_FAULTS[word])


BLIP2_ITC = ["model.backbone=blip2", "model.loss=itc_itm"]
BY_TYPE = "data.debias_strength={swap_obj: 2}"
OFFSET = ["data.debias=offset", "data.verdicts=v"]
DEBIAS_FAULTS = {
    "no verdicts": (["data.debias=offset"], "`data.verdicts` must be given where `data.debias` is offset: run `itm"),
    "what was kept": ([*OFFSET, "data.subset=kept"], "`data.subset` must be all (or random) where `data.debias` is"),
    "no offset": ([*OFFSET, *BLIP2_ITC], "`data.debias` must be none where `model.loss` is itc_itm; those with an"),
    "below 0": ([*OFFSET, "data.debias_strength=-1"], "`data.debias_strength` must be a number >= 0, or one for each"),
    "no number": ([*OFFSET, "data.debias_strength={swap_obj: x}"], "`data.debias_strength` must be a number >= 0"),
    "a truth value": (["data.debias_strength=true"], "`data.debias_strength` must be a number >= 0, or one for"),
    "several positives": (
        [*OFFSET, BY_TYPE, "model.loss=listwise", "data.mixing.positives=2"],
        "`data.debias_strength` must be one number where `model.loss` is listwise and `data.mixing.positives` is above",
    ),
    "misspelt": (["data.debias=ofset"], "`data.debias` must be one of none, offset, got 'ofset'. Did you mean offset?"),
}


@pytest.mark.parametrize("case", DEBIAS_FAULTS)
def test_an_offset_that_cannot_be_is_a_fault(case: str) -> None:
    words, message = DEBIAS_FAULTS[case]
    with pytest.raises(ConfigError) as caught:
        load_config(schemas.ExperimentConfig, None, ["data.captions=a", "data.negatives=b", *words], check_files=False)
    (fault,) = caught.value.faults
    assert fault.startswith(message)


@pytest.mark.parametrize("loss", ["listwise", "binary"])
def test_the_loss_says_which_blind_logits_a_training_takes(loss: str, tmp_path: Path) -> None:
    tables = write(tmp_path / "a.jsonl", "")
    words = [*OFFSET, "data.debias_strength.swap_obj=2", "data.debias_strength.default=0.5", f"model.loss={loss}"]
    words += [f"data.captions={tables}", f"data.negatives={tables}"]
    config = load_config(schemas.ExperimentConfig, None, words, check_files=False)
    (unit,) = {loss_class(config.model.own_loss).blind_unit}
    debias = build_datamodule(config.data, 0, blind_unit=unit).debias
    assert debias == Debias({"listwise": "pair", "binary": "text"}[loss], {"swap_obj": 2, "default": 0.5})
    assert build_datamodule(replace(config.data, debias="none"), 0, blind_unit=unit).debias is None
    again = load_config(schemas.ExperimentConfig, write(tmp_path / "b.yaml", to_yaml(config)), check_files=False)
    assert again == config


def test_rules_between_keys_are_reported_together() -> None:
    words = ["data.subset=kept", "data.captions=[a, b]", "data.negatives=c", "model.question=why"]
    words += ["trainer.strategy=fsdp", "trainer.precision=16-mixed", "model.backbone=llava"]
    with pytest.raises(ConfigError) as caught:
        load_config(schemas.ExperimentConfig, None, words, check_files=False)
    for key in ("data.verdicts", "data.image_root", "trainer.precision", "model.question"):
        assert f"`{key}` must" in str(caught.value)


def test_yaml_of_a_configuration_reads_back_as_itself(tmp_path: Path) -> None:
    config = load_config(Outer, None, ["name=x", "parts.p.rate=1", "steps=[{kind: b}]", "anything.a={b: [1]}"])
    assert "${" not in to_yaml(config)
    assert load_config(Outer, write(tmp_path / "a.yaml", to_yaml(config))) == config


FILES = (data_schemas, evaluation_schemas, filter_schemas, generate_schemas, schemas, sweep_schemas, trainer_schemas)
ALL = {name: schema for file in FILES for name, schema in vars(file).items()}
VERB_SCHEMAS = [schema for name, schema in ALL.items() if name.endswith("Config")]


@pytest.mark.parametrize("schema", VERB_SCHEMAS, ids=lambda schema: schema.__name__)
def test_every_key_is_documented(schema: type) -> None:
    keys = describe(schema)
    assert keys
    assert [key.name for key in keys if not key.doc] == []


def test_description_shows_type_default_rule_and_nesting() -> None:
    keys = {key.name: key for key in describe(Outer)}
    assert keys["inner.rate"][1:] == ("float", "0.1", "Between 0 and 1.", "in (0.0, 1.0]")
    assert keys["table"][1:] == ("str or null", "null", "A file.", "an existing file")
    assert {"spare.rate", "parts.NAME.kind", "steps.N.kind"} <= set(keys)
    assert {key.name: key.default for key in describe(Required)}["name"] == "required"


DATA = ["data.captions=a", "data.negatives=b"]
UNKNOWN = {
    "model.backbone=clp": f"`model.backbone` must be one of {', '.join(BACKBONES)}, got 'clp'. Did you mean clip?",
    "model.loss=listwize": (
        f"`model.loss` must be one of {', '.join(losses_that_read(backbone_class('llava').offers))} where the backbone "
        "is llava, got 'listwize'. Did you mean listwise?"
    ),
}


@pytest.mark.parametrize("word", UNKNOWN)
def test_an_unknown_backbone_or_loss_is_one_fault_with_the_nearest_and_the_list(word: str) -> None:
    # keys that may belong to what was meant are not judged by what it is not
    with pytest.raises(ConfigError) as caught:
        load_config(schemas.ExperimentConfig, None, [*DATA, word, "model.activation=gelu"], check_files=False)
    assert caught.value.faults == (f"{UNKNOWN[word]} (command line)",)


CHOICES = {
    (verb, key.name.replace("NAME", "a"), key.rule): ()
    for verb in VERBS
    for key in describe(VERBS[verb].load_schema())
    if key.rule.startswith("one of ") and key.name != "model.loss"  # its rule says where: see above
} | {
    ("train", f"model.{key.name}", key.rule): (f"model.backbone={settings.backbone}", f"model.loss={loss}")
    for loss, settings in variants()
    for key in describe(settings)
    if key.rule.startswith("one of ") and key.name not in field_types(ModelSettings)
}
"""(verb, key, rule) of every key that takes one of a list -> the overrides without which the key is unknown."""


@pytest.mark.parametrize(("verb", "key", "rule"), CHOICES)
def test_a_misspelt_choice_is_told_the_nearest(verb: str, key: str, rule: str) -> None:
    choice = rule.removeprefix("one of ").split(", ")[-1]
    found = faults(VERBS[verb].load_schema(), None, *CHOICES[verb, key, rule], f"{key}={choice}z")
    assert f"`{key}` must be {rule}, got '{choice}z'. Did you mean {choice}? (command line)" in found


def test_a_model_section_has_the_keys_of_its_backbone_and_loss_alone() -> None:
    words = [*DATA, "model.backbone=clip", "model.score=itc", "model.activaton=gelu"]
    with pytest.raises(ConfigError) as caught:
        load_config(schemas.ExperimentConfig, None, words, check_files=False)
    of_another, misspelt = caught.value.faults
    remedy = "leave it out, or set it to null where a base has it"
    assert of_another == f"`model.score` belongs to blip2, and `model.backbone` is clip: {remedy} (command line)"
    assert misspelt == "`model.activaton` is no known key, did you mean `model.activation`? (command line)"


def test_null_takes_out_what_a_base_says_of_another_backbone(tmp_path: Path) -> None:
    write(tmp_path / "llava.yaml", "model: {backbone: llava, question: 'is it {caption}?'}")
    path = write(tmp_path / "clip.yaml", "base: llava.yaml\nmodel: {backbone: clip}")
    with pytest.raises(
        ConfigError, match=r"`model\.question` belongs to llava and chat_vlm, .* set it to null where a base has it"
    ):
        load_config(schemas.ExperimentConfig, path, DATA, check_files=False)
    config = load_config(schemas.ExperimentConfig, path, [*DATA, "model.question=null"], check_files=False)
    assert config.model == model_schema("clip")()
    with pytest.raises(ConfigError, match=r"`model\.questions` is no known key"):
        load_config(schemas.ExperimentConfig, path, [*DATA, "model.question=null", "model.questions=null"])


def test_a_backbone_may_be_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITM_BACKBONE", "clip")
    words = [*DATA, "model.backbone=${oc.env:ITM_BACKBONE}", "model.activation=gelu"]
    model = load_config(schemas.ExperimentConfig, None, words, check_files=False).model
    assert (model.backbone, model.activation) == ("clip", "gelu")  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["backbone", "loss"])
def test_keys_are_not_judged_by_a_backbone_or_loss_that_cannot_be_told(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ITM_UNSET", raising=False)
    words = [*DATA, f"model.{key}=${{oc.env:ITM_UNSET}}", "model.activation=gelu", "model.ce_clip.imc_weight=1"]
    with pytest.raises(ConfigError) as caught:
        load_config(schemas.ExperimentConfig, None, words, check_files=False)
    (fault,) = caught.value.faults
    assert fault.startswith(f"`model.{key}` needs the environment variable ITM_UNSET, which is not set")


def test_a_backbone_that_only_a_default_tells_is_refused() -> None:
    # `name` has a default, which is known too late to choose by: unknown keys would pass
    with pytest.raises(ConfigError, match=r"^`model\.backbone` must lead to a key that is given: "):
        load_config(schemas.ExperimentConfig, None, [*DATA, "model.backbone=${name}", "model.x=1"], check_files=False)


def test_a_backbone_of_null_is_one_fault() -> None:
    # the loss is not judged by the default backbone
    words = [*DATA, "model.backbone=null", "model.loss=itc", "model.activation=gelu"]
    with pytest.raises(ConfigError) as caught:
        load_config(schemas.ExperimentConfig, None, words, check_files=False)
    assert caught.value.faults == ("`model.backbone` must be str, got null (command line)",)


def test_a_score_is_one_that_the_backbone_of_the_run_has(tmp_path: Path) -> None:
    score = [f"run={tmp_path}", "captions=c", f"output_dir={tmp_path}/scores"]
    verbs = [(schemas.ScoreConfig, score), (evaluation_schemas.EvaluateConfig, score[:1])]
    for schema, words in verbs:
        (tmp_path / "config.yaml").unlink(missing_ok=True)
        # the run says nothing of its backbone: told when it is loaded
        assert load_config(schema, None, [*words, "score=itm"], check_files=False).score == "itm"
        write(tmp_path / "config.yaml", "model: {backbone: clip}")
        with pytest.raises(ConfigError, match=r"^`score` must be left out: a clip has one score only"):
            load_config(schema, None, [*words, "score=itc"], check_files=False)
        write(tmp_path / "config.yaml", "model: {backbone: blip2}")
        assert load_config(schema, None, [*words, "score=itc"], check_files=False).score == "itc"
        rule = r"^`score` must be one of itm, itc, itm_itc, got 'itmitc'\. Did you mean itm_itc\?"
        with pytest.raises(ConfigError, match=rule):
            load_config(schema, None, [*words, "score=itmitc"], check_files=False)


def test_a_score_is_not_passed_over_where_a_checkpoint_scores() -> None:
    words = ["model.checkpoint=b", "captions=c", "output_dir=d", "score=itc"]
    with pytest.raises(ConfigError, match=r"^`score` needs `run`; give `model\.score`"):
        load_config(schemas.ScoreConfig, None, words, check_files=False)


def test_a_configuration_of_an_older_run_reads_as_todays(tmp_path: Path) -> None:
    words = [*DATA, "model.backbone=clip", "model.activation=gelu"]
    config = load_config(schemas.ExperimentConfig, None, words, check_files=False)
    older = to_yaml(config).replace(
        "  activation: gelu", "  activation: gelu\n  score: null\n  itc_itm: {itc_weight: 1.0}"
    )
    path = write(tmp_path / "config.yaml", older)
    assert load_saved(schemas.ExperimentConfig, path) == config
    with pytest.raises(ConfigError, match=r"`model\.itc_itm` belongs to the loss"):
        load_config(schemas.ExperimentConfig, path, check_files=False)


@dataclass
class WideConfig:
    """Keys that have no room in a line."""

    names: list[str] = field(default_factory=lambda: ["a-name-of-some-length"] * 5)
    """What it is."""
    count: int = field(default=1, metadata={"min": 0})
    """How many."""
    kind: str = field(default="kind-0", metadata={"choices": [f"kind-{number}" for number in range(20)]})


def test_what_has_no_room_beside_a_key_is_told_under_it() -> None:
    kinds = ", ".join(f"kind-{number}" for number in range(20))
    wrapped = textwrap.wrap(f"Must be one of {kinds}.", 74, break_on_hyphens=False)
    assert key_table(WideConfig).splitlines() == [
        "  names  list[str]",
        "      What it is. Default: [a-name-of-some-length, a-name-of-some-length,",
        "      a-name-of-some-length, a-name-of-some-length, a-name-of-some-length].",
        "  count  int        1  >= 0",
        "      How many.",
        "  kind   str        kind-0",
        *(f"      {line}" for line in wrapped),
    ]


def test_the_help_says_whose_a_key_is() -> None:
    table = key_table(schemas.ExperimentConfig)
    lines = dict(re.findall(r"^  (model\.\S+) .*\n      (.*)$", table, re.MULTILINE))
    assert lines["model.activation"].startswith("(backbone clip) Overrules")
    assert lines["model.score"].startswith("(backbone blip2) The match logit")
    assert lines["model.ce_clip.imc_weight"].startswith("(loss ce_clip) Weight of IMC")
    assert re.search(r"^  model\.backbone +str +llava$", table, re.MULTILINE)
    assert lines["model.tune"].startswith("full: all weights")
    words = " ".join(table.split())
    assert "table of backbones. Must be one of llava, chat_vlm, blip2, clip, siglip. model." in words
    for backbone, default in {"llava": "lm", "blip2": "itm", "clip": "itc"}.items():
        assert f" {backbone}: {default}, " in words, "the default first"
    assert table.count("  model.score ") == 1, "a key that both losses have is listed once"
    assert table.index("model.ce_clip.imc_weight") < table.index("optim.lr")
