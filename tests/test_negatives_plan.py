"""Plans: what a command may set is what a function takes, checked alike, and said to the user in the same words."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from experiments.build import plan_of
from experiments.config.filter_schemas import AuditConfig, FilterConfig
from experiments.config.help import describe
from experiments.config.load import ConfigError, load_mapping, to_yaml
from negatives.filtering.filter import filter_texts
from negatives.filtering.plan import RULES, SEARCHED, UNITS, AuditPlan, CertificatePlan, FilterPlan
from negatives.judging.linear import word_judge
from negatives.judging.panel import seat
from negatives.tables.files import InputError
from tests.test_negatives_text_pairs import text_pairs_of, with_giveaway

FILES = {"captions": __file__, "negatives": __file__, "output_dir": "out"}


def test_every_setting_of_a_plan_is_a_key_of_its_command() -> None:
    for schema, plan in ((FilterConfig, FilterPlan), (AuditConfig, AuditPlan)):
        keys = {key.name: key for key in describe(schema)}
        assert all(keys[field.name].doc for field in fields(plan))
    certificate = {key.name for key in describe(FilterConfig) if key.name.startswith("certificate.")}
    assert certificate == {f"certificate.{field.name}" for field in fields(CertificatePlan)}


def test_a_configuration_becomes_the_plan_that_it_spells_out() -> None:
    values = {"unit": "pair", "rule": "aflite", "top_fraction": 0.2, "per_type": True, "seed": 7}
    config = load_mapping(FilterConfig, FILES | values | {"certificate": {"seeds": 9}}, "test")
    assert plan_of(FilterPlan, config) == FilterPlan(**values)
    assert config.certificate == CertificatePlan(seeds=9)
    audit = load_mapping(AuditConfig, FILES | {"top": 3}, "test")
    assert plan_of(AuditPlan, audit) == AuditPlan(top=3)
    assert load_mapping(FilterConfig, FILES, "test").certificate == CertificatePlan(), "one filling leaves no trace"


def test_plans_and_configurations_are_frozen() -> None:
    config = load_mapping(FilterConfig, FILES, "test")
    for frozen in (FilterPlan(), AuditPlan(), CertificatePlan(), config, config.judge):
        with pytest.raises(FrozenInstanceError):
            setattr(frozen, fields(frozen)[0].name, None)


def test_only_the_rules_with_strengths_search_and_only_what_is_not_given() -> None:
    assert {rule: FilterPlan(rule=rule).searches for rule in RULES} == {rule: rule in SEARCHED for rule in RULES}
    for rule in SEARCHED:
        given = FilterPlan(rule=rule, strength=0.0)
        assert (given.searches, given.has_strengths) == (False, True)
    constant = FilterPlan(rule="overlap", constant=1.0)
    assert (constant.searches, constant.has_strengths) == (False, False)


def test_a_configuration_and_a_call_refuse_the_same_plans() -> None:
    panel = seat([word_judge(1)], text_pairs_of(with_giveaway(9, 0.2, 0.5)), folds=3)
    contradicting = FilterPlan(unit="both", rule="aflite")
    with pytest.raises(InputError, match="`unit` must be text or pair where `rule` is aflite, got both"):
        filter_texts(panel, contradicting)
    with pytest.raises(ConfigError, match="`unit` must be text or pair where `rule` is aflite, got both"):
        load_mapping(FilterConfig, FILES | {"unit": "both", "rule": "aflite"}, "test")
    for changed, message in (
        ({"rule": "overlp"}, f"`rule` must be one of {', '.join(RULES)}, got 'overlp'. Did you mean overlap?"),
        ({"unit": "pairs"}, f"`unit` must be one of {', '.join(UNITS)}, got 'pairs'. Did you mean pair?"),
    ):
        with pytest.raises(InputError) as caught:
            filter_texts(panel, replace(FilterPlan(), **changed))
        assert str(caught.value) == message
        with pytest.raises(ConfigError, match="must be one of"):
            load_mapping(FilterConfig, FILES | changed, "test")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rule": "aflite", "constant": 2.0}, "`constant` must be left out where `rule` is aflite, got 2: use overlap"),
        (
            {"rule": "margins", "constant": 1.5},
            "`constant` must be left out where `rule` is margins, got 1.5: use overlap",
        ),
        (
            {"rule": "margins", "sharpness": 2.0},
            "`sharpness` must be left out where `rule` is margins, got 2: use overlap",
        ),
        (
            {"rule": "overlap", "constant": 1.5, "strength": 0.2},
            "`strength` must be left out where `constant` is given, got 0.2",
        ),
        (
            {"rule": "top_fraction", "strength": 0.2},
            "`strength` must be left out where `rule` is top_fraction, got 0.2: use overlap",
        ),
        (
            {"rule": "margins", "per_type": True},
            "`per_type` must be left out where `rule` is margins: use `by_type`",
        ),
        ({"per_type": True}, "`per_type` must be left out where `rule` is overlap: use `by_type`"),
    ],
)
def test_a_setting_that_nothing_would_read_is_refused(values: dict[str, object], message: str) -> None:
    panel = seat([word_judge(1)], text_pairs_of(with_giveaway(9, 0.2, 0.5)), folds=3)
    with pytest.raises(InputError) as caught:
        filter_texts(panel, FilterPlan(**values))  # type: ignore[arg-type]
    assert str(caught.value) == message
    with pytest.raises(ConfigError, match=rf"^{message} \(test\)$"):
        load_mapping(FilterConfig, FILES | values, "test")


def test_a_key_that_an_older_version_wrote_is_left_out_and_refused_where_it_said_something() -> None:
    (key,) = FilterPlan.former_keys
    config = load_mapping(FilterConfig, FILES | {key: None}, "test")
    assert plan_of(FilterPlan, config) == FilterPlan()
    assert key not in to_yaml(config)
    with pytest.raises(ConfigError, match=f"`{key}` is no known key"):
        load_mapping(FilterConfig, FILES | {key: 0.6}, "test")
    with pytest.raises(ConfigError, match=f"`{key}` is no known key"):
        load_mapping(AuditConfig, FILES | {key: None}, "test")
