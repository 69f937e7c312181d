"""The table of judges: a new judge is its function and its line, and whoever lists the names loads none of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.config.filter_schemas import AuditConfig, FilterConfig
from experiments.config.load import ConfigError, load_config
from negatives.judging import EncoderSettings, LikelihoodSettings
from negatives.judging.build import build_judges
from negatives.judging.judge import Judge
from negatives.judging.linear import LinearJudge, word_judge
from negatives.judging.settings import JudgeSettings
from negatives.judging.table import JUDGES
from negatives.tables.captions import write_table
from negatives.tables.files import InputError
from tests.test_negatives_text_pairs import tables, with_giveaway

PLACE = f"{__name__}.build_single_words"


def build_single_words(settings: JudgeSettings) -> Judge:
    """A stranger's judge: single words, under a name of its own."""
    return LinearJudge("single_words", word_judge(1).features)


@pytest.mark.parametrize("name", [name for name in JUDGES if name != "transformer"])
def test_a_judge_is_built_by_the_name_that_it_bears(name: str) -> None:
    # a model is loaded when its judge encodes
    settings = JudgeSettings(encoder=EncoderSettings("a_folder"), lm=LikelihoodSettings("a_folder"))
    (judge,) = build_judges([name], settings)
    assert judge.name == name


@pytest.mark.parametrize("name", ["encoder", "lm"])
def test_a_judge_that_reads_a_published_model_is_refused_without_one(name: str) -> None:
    line = f"`judge.{name}.checkpoint` must be given where `%s` has {name}: a folder with its model"
    with pytest.raises(InputError) as caught:
        build_judges(["word", name], JudgeSettings())
    assert str(caught.value) == line % "judges"
    files = ["captions=a", "negatives=b", "output_dir=c"]
    judges, probes = (f"{listed}=[word,{name}]" for listed in ("judge.judges", "certificate.probes"))
    found = []
    for schema, words in ((AuditConfig, [judges]), (FilterConfig, [judges]), (FilterConfig, [probes])):
        with pytest.raises(ConfigError) as refused:
            load_config(schema, None, [*files, *words], check_files=False)
        found.append(str(refused.value))
    for told, listed in zip(found, ("judge.judges", "judge.judges", "certificate.probes"), strict=True):
        assert line % listed in told
        assert told.count("checkpoint") == 1
    # without a certificate there is no probe
    load_config(FilterConfig, None, [*files, probes, "certify=false"], check_files=False)


def test_judges_are_built_as_set_and_in_the_order_of_their_names() -> None:
    wide, narrow = (build_judges(["char", "word"], JudgeSettings(word_ngrams=n, char_ngrams=2)) for n in (2, 1))
    assert [judge.name for judge in wide] == ["char", "word"]
    assert [judges[1].encode(["a dog"]).nnz for judges in (wide, narrow)] == [3, 2]
    assert [judge.encode(["abc"]).nnz for judge in (wide[0], build_judges(["char"], JudgeSettings())[0])] == [2, 3]


def test_an_unknown_judge_is_refused_with_the_nearest_and_all_names() -> None:
    with pytest.raises(InputError) as caught:
        build_judges(["word", "bias"], JudgeSettings())
    assert str(caught.value) == (
        "`judges` must list some of word, char, surface, bayes, encoder, lm, transformer, each once, got "
        "['word', 'bias']. "
        "Did you mean bayes?"
    )
    with pytest.raises(InputError, match=r"each once, got \['word', 'word'\]$"):
        build_judges(["word", "word"], JudgeSettings())


def test_an_added_judge_filters_probes_and_audits_by_its_line_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions, negatives = tables(with_giveaway(60, 0.1, 0.9))
    for name in ("generator", "model", "prompt_version"):
        negatives = negatives.append_column(name, negatives["negative_type"])
    write_table(captions, tmp_path / "captions.parquet")
    write_table(negatives, tmp_path / "negatives.parquet")
    words = [f"captions={tmp_path}/captions.parquet", f"negatives={tmp_path}/negatives.parquet"]
    words += ["judge.judges=[single_words]", "judge.folds=3", "logging.wandb=disabled"]
    probes = ["certificate.probes=[single_words,bayes]", "certificate.folds=3", "certificate.seeds=1"]
    assert main(["filter", *words, *probes, "constant=1000", f"output_dir={tmp_path}/unknown"]) == 2
    monkeypatch.setitem(JUDGES, "single_words", PLACE)
    assert main(["filter", *words, *probes, "constant=1000", f"output_dir={tmp_path}/filter"]) == 1
    certificate = json.loads((tmp_path / "filter" / "certificate.json").read_text(encoding="utf-8"))
    assert {one["judge"] for one in certificate["estimates"]} == {"single_words", "bayes", "stacked"}
    assert main(["audit", *words, "bootstrap=20", f"output_dir={tmp_path}/audit"]) == 0
    (part,) = json.loads((tmp_path / "audit" / "audit.json").read_text(encoding="utf-8"))["parts"]
    assert part["judge"] == "single_words"


def test_the_configuration_of_filters_loads_no_judge() -> None:
    code = "import sys, experiments.config.filter_schemas; print({'sklearn', 'torch'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
