"""`itm runs`, `itm diff` and `itm best` on folders that hold what runs leave."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from omegaconf import OmegaConf

from experiments.__main__ import main
from experiments.finding.fast_yaml import plain_yaml
from experiments.finding.run_info import LARGEST_CONFIG, differing, find_runs, read_info, usual_metric
from negatives.tables import hold, write_table

HEAD = "run,set,metric,group,value,low,high,blind_value,blind_low,blind_high,count,images"


def write_run(folder: Path, *, lr: float, seed: int = 0, value: float | None = None, **further: Any) -> Path:
    """What a training leaves: `validated` by step, `finished`, and an evaluation of a `value`."""
    name = further.get("name", folder.name)
    trainer = {"max_steps": 30, "best_metric": "val/mean/accuracy"}
    config = {"name": name, "seed": seed, "output_dir": str(folder), "optim": {"lr": lr, "betas": [0.9, 0.99]}}
    (folder / "logs").mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps({**config, "trainer": trainer, "logging": {"tags": [name]}}))
    packages = {"verb": "train", "packages": {"torch": "2.13"}, "git": {"commit": f"c{seed}"}}
    (folder / "provenance.json").write_text(json.dumps(packages))
    lines = [{"step": step, "metrics": {"train/loss/value": 1.0}} for step in range(further.get("steps", 30))]
    lines += [{"step": s, "metrics": {"val/mean/accuracy": v}} for s, v in further.get("validated", {}).items()]
    record = "".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda line: line["step"]))
    (folder / "logs/metrics.jsonl").write_text(record)
    if further.get("finished", True):
        (folder / "weights.safetensors").touch()
    if value is not None:
        (folder / "evaluation").mkdir()
        (folder / "evaluation/summary.json").write_text("{}")
        rows = [
            f"{name},set,accuracy,mean,{value},{value - 0.1},{value + 0.1},,,,1,1",
            f"{name},set,auroc,,0.5,,,,,,1,1",
        ]
        (folder / "evaluation/metrics.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "sweep/runs"
    write_run(folder / "a", lr=0.1, value=0.6)
    write_run(folder / "b", lr=0.01, value=0.7, validated={9: 0.5, 19: 0.9, 29: 0.9})
    write_run(folder / "c", lr=1e-05, seed=1, validated={9: 0.8}, finished=False, steps=12)
    return tmp_path / "sweep"


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main([*words]) == 0
    return capsys.readouterr().out


def test_runs_are_listed_with_what_differs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric, *lines = told(capsys, "runs", str(runs)).splitlines()
    assert metric == "val/mean/accuracy"
    assert lines[0].split() == ["run", "seed", "lr", "state", "value", "age"]
    assert lines[1].split()[:4] == ["a", "0", "0.1", "evaluated"]
    assert "0.900 at 20" in lines[2], "the first of equals"
    assert lines[3].split()[:3] == ["c", "1", "1e-05"]
    assert "stopped, step 12 of 30" in lines[3]
    assert max(map(len, lines)) <= 80


def test_runs_are_sorted_by_anything(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def order(*words: str) -> str:
        rows = csv.DictReader(io.StringIO(told(capsys, "runs", str(runs), "format=csv", *words)))
        return "".join(row["name"] for row in rows)

    assert order("sort=-metric") == "bca"
    assert order("sort=-metric", "metric=set/mean_accuracy") == "bac", "without a value last"
    assert order("sort=optim.lr") == "cba"
    assert order("sort=-optim.lr", "limit=2") == "ab"
    assert main(["runs", str(runs), "sort=optim.rl"]) == 2
    assert "no run has the key 'optim.rl'" in capsys.readouterr().err
    assert main(["runs", str(runs), "metric=set/mean_acuracy"]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_the_best_come_first_whichever_these_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rank in (("a", 3), ("b", 1), ("c", 2)):
        evaluation = write_run(tmp_path / name, lr=1, value=rank / 10) / "evaluation"
        with (evaluation / "metrics.csv").open("a") as file:
            file.write(f"x,coco,i2t_mean_rank,,{rank},,,,,,1,1\n")

    def order(*words: str) -> str:
        rows = csv.DictReader(io.StringIO(told(capsys, "runs", str(tmp_path), "format=csv", *words)))
        return "".join(row["name"] for row in rows)

    assert order("sort=best", "metric=coco/i2t_mean_rank") == "bca"
    assert order("sort=best", "metric=set/mean_accuracy") == order("sort=-best", "metric=coco/i2t_mean_rank") == "acb"


def test_a_validation_of_ranks_is_listed_by_its_lowest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", lr=1)
    ranks = [
        {"step": step, "metrics": {"val/coco/i2t_mean_rank": rank}} for step, rank in ((9, 3.0), (19, 2.0), (29, 4.0))
    ]
    (run / "logs/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ranks))
    assert "2.000 at 20" in told(capsys, "runs", str(tmp_path), "metric=val/coco/i2t_mean_rank")


def test_columns_are_ends_of_keys_and_metrics(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["runs", str(runs), "format=json", "columns=[lr,max_steps,val/mean/accuracy]", "sort=-lr"]
    rows = json.loads(told(capsys, *words))
    assert [(row["optim.lr"], row["trainer.max_steps"], row["val/mean/accuracy"]) for row in rows] == [
        (0.1, 30, None),
        (0.01, 30, 0.9),
        (1e-05, 30, 0.8),
    ]
    assert "0.900" in told(capsys, "runs", str(runs), "columns=[val/mean/accuracy]", "metric=set/mean_accuracy")
    assert main(["runs", str(runs), "columns=[val/mean/acuracy]"]) == 2
    assert "no run has the metric 'val/mean/acuracy'. Did you mean val/mean/accuracy?" in capsys.readouterr().err


def test_runs_that_differ_in_much_fit_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first_run_of_a_sweep", "another_run_of_this_sweep"):
        run = write_run(tmp_path / name, lr=len(name), value=0.5, finished=name.startswith("first"))
        config = json.loads((run / "config.yaml").read_text())
        config |= {f"key_{place}": f"{name}_{place}"[-20:] for place in range(9)} | {
            "captions": f"data/{name}/c.parquet"
        }
        (run / "config.yaml").write_text(json.dumps(config))
    printed = told(capsys, "runs", str(tmp_path))
    assert max(map(len, printed.splitlines())) <= 80
    words = printed.split()
    assert {"lr=20", "lr=25", "0.500"} <= {*words}
    assert len(printed.splitlines()) < 40
    assert "parquet" not in printed, "that paths differ says nothing where other settings do"
    assert words.count("and") == words.count("more") == 2


def test_scorers_that_are_no_runs_are_listed_and_are_never_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / name, lr=lr, value=0.5) for name, lr in (("a", 1), ("b", 2))]
    for folder, scorers in ((tmp_path / "clip", None), (tmp_path / "several", {"x": "clip", "../../a": "clip"})):
        for place in (folder, folder / "x") if scorers else (folder,):
            place.mkdir()
            (place / "summary.json").write_text(json.dumps({"run": "openai/clip"}))
            (place / "metrics.csv").write_text(f"{HEAD}\nx,set,accuracy,mean,0.9,,,,,,1,1\n")
        (folder / "summary.json").write_text(json.dumps({"scorers": scorers} if scorers else {"run": "openai/clip"}))
        (folder / "config.yaml").write_text("run: null\nseed: 7\n")
        (folder / "provenance.json").write_text('{"verb": "evaluate"}')
    lines = told(capsys, "runs", str(tmp_path), "metric=set/mean_accuracy", "sort=best").splitlines()
    rows = [line.split() for line in lines[2:]]
    assert [row[0] for row in rows] == ["clip", "several/x", "a", "b"]
    assert rows[0][1:3] == ["evaluated", "0.900"]
    assert lines[1].split() == ["run", "lr", "state", "value", "age"]
    assert best(capsys, str(tmp_path), "metric=set/mean_accuracy")[0] == str(runs[0])


def test_a_run_is_called_by_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two sweeps have runs of the same names, and a folder is what other verbs take."""
    for sweep in "ab":
        write_run(tmp_path / sweep / "runs/seed=0", lr=1, name="seed=0")
    lines = told(capsys, "runs", str(tmp_path)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["a/runs/seed=0", "b/runs/seed=0"]


def test_a_folder_whose_name_is_no_text_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff")), lr=1)
    for form in ("table", "csv", "json"):
        # what is captured is UTF-8 and strict, as most terminals are
        assert "finished" in told(capsys, "runs", str(tmp_path), f"format={form}")


def test_programs_get_everything(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(told(capsys, "runs", str(runs), "format=json", "metric=set/mean_accuracy"))
    assert [row["folder"] for row in rows] == [str(runs / "runs" / name) for name in "abc"]
    row = rows[1]
    assert (row["optim.lr"], row["seed"], row["state"], row["step"]) == (0.01, 0, "evaluated", 29)
    assert (row["value"], row["low"], row["high"]) == pytest.approx((0.7, 0.6, 0.8))
    assert rows[2]["value"] is None
    assert told(capsys, "runs", str(runs), "columns=[trainer.max_steps]").splitlines()[1].split()[1] == "max_steps"


def test_states(tmp_path: Path) -> None:
    assert read_info(write_run(tmp_path / "a", lr=1)).state == "finished"
    assert read_info(write_run(tmp_path / "b", lr=1, steps=0, finished=False)).state == "begun"
    held = hold(write_run(tmp_path / "c", lr=1, finished=False))
    info = read_info(tmp_path / "c")
    assert (info.state, info.step) == ("training", 29)
    held.release()
    assert read_info(tmp_path / "c").state == "stopped"


def test_a_diff_shows_what_differs_and_all_metrics(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["diff", *(str(runs / "runs" / name) for name in "ab")]
    printed = told(capsys, *words)
    rows = [line.split() for line in printed.splitlines()]
    assert ["optim.lr", "0.1", "0.01"] in rows
    assert "seed" not in printed
    assert "versions: no difference" in printed
    assert "0.600 [0.500, 0.700]" in printed
    assert ["optim.betas", "[0.9,", "0.99]", "[0.9,", "0.99]"] in [
        line.split() for line in told(capsys, *words, "all=true").splitlines()
    ]
    assert ["git.commit", "c0", "c1"] in [
        line.split() for line in told(capsys, "diff", *(str(runs / "runs" / name) for name in "ac")).splitlines()
    ]
    assert main(["diff", str(runs / "runs/a")]) == 2
    assert "must name at least two runs" in capsys.readouterr().err
    assert main(["diff", str(runs / "runs/a"), str(runs)]) == 2
    assert "must be the folder of a run" in capsys.readouterr().err


def test_the_best_run_is_one_path(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "best", str(runs)) == f"{runs}/runs/b\n", "of the finished ones"
    assert told(capsys, "best", str(runs), "metric=set/mean_accuracy", "mode=min") == f"{runs}/runs/a\n"
    write_run(runs / "runs/d", lr=1, value=0.7)
    capsys.readouterr()
    assert main(["best", str(runs), "metric=set/mean_accuracy", "weights=true"]) == 0
    told_now = capsys.readouterr()
    assert told_now.out == f"{runs}/runs/b/weights.safetensors\n"
    assert f"as good: {runs}/runs/d" in told_now.err
    assert main(["best", str(runs), "metric=set/nothing"]) == 2
    assert main(["best", str(runs / "runs/c")]) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_a_diff_tells_data_last_values_and_kept_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    validated = {9: 0.5, 19: 0.9, 29: 0.8}
    first, second = (write_run(tmp_path / name, lr=1, value=0.6, validated=validated) for name in "ab")
    for run, hashes in ((first, ["x", "y"]), (second, ["y", "z"])):
        images = {"image_id": ["1", "2"], "size": [1, 1], "content_hash": hashes}
        write_table(pa.table(images), run / "train_images.parquet")
        evaluate_kept(run, "best", 0.7)
    (second / "base.json").write_text('{"frozen": "f00d"}')
    rows = [line.split() for line in told(capsys, "diff", str(first), str(second)).splitlines()]
    assert ["metrics", "a", "b"] in rows, "what both folders begin with says nothing"
    assert ["val/mean/accuracy", "(best)", *["0.900", "at", "20"] * 2] in rows
    assert ["val/mean/accuracy", "(last)", *["0.800", "at", "30"] * 2] in rows
    assert ["set/mean_accuracy", "(best)", "0.700", "0.700"] in rows
    assert ["base.frozen", "f00d"] in rows
    (content,) = [row for row in rows if row[:1] == ["images.content"]]
    assert content[1] != content[2]
    (second / "train_images.parquet").write_bytes((first / "train_images.parquet").read_bytes())
    assert "images.content" not in told(capsys, "diff", str(first), str(second))
    (second / "train_images.parquet").write_bytes(b"PAR1")
    assert "damaged" in told(capsys, "diff", str(first), str(second))


def keep(run: Path, *steps: int) -> None:
    """The record and files of kept weights, the best first."""
    (run / "checkpoints").mkdir()
    kept = [
        {"step": step, "value": 1 / place, "file": f"step-{step}.safetensors"} for place, step in enumerate(steps, 1)
    ]
    (run / "checkpoints/best.json").write_text(json.dumps({"metric": "val/mean/accuracy", "kept": kept}))
    for step in steps:
        (run / f"checkpoints/step-{step}.safetensors").touch()


def best(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """What `itm best` prints on stdout and on stderr."""
    capsys.readouterr()
    assert main(["best", *words]) == 0
    printed = capsys.readouterr()
    return printed.out.removesuffix("\n"), printed.err


def test_the_best_weights_are_those_that_had_the_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    validated = {9: 0.5, 19: 0.9, 29: 0.8}
    run = write_run(tmp_path / "a", lr=1, validated=validated)
    word, said = best(capsys, str(tmp_path))
    assert (word, "had 0.9000 at step 20; trainer.keep_best=1 would have kept it" in said) == (str(run), True)
    keep(run, 20, 10)
    word, said = best(capsys, str(tmp_path))
    assert (word, "keep_best" in said) == (f"{run}@best", False)
    assert best(capsys, str(tmp_path), "mode=min")[0] == f"{run}@10"
    assert best(capsys, str(tmp_path), "weights=true")[0] == f"{run}/checkpoints/step-20.safetensors"
    (run / "checkpoints/step-20.safetensors").unlink()
    assert best(capsys, str(tmp_path))[0] == str(run), "what was removed cannot be loaded"
    # validated 10 steps before its end, its last weights have no value
    (run / "logs/metrics.jsonl").write_text('{"step": 19, "metrics": {"val/mean/accuracy": 0.9}}\n')
    (run / "checkpoints/best.json").unlink()
    assert main(["best", str(tmp_path)]) == 2
    assert "train with trainer.keep_best=1" in capsys.readouterr().err


def test_the_word_is_a_folder_to_the_verb_that_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "lr=0.1", lr=0.1, value=0.6)
    monkeypatch.chdir(tmp_path)
    assert best(capsys, ".")[0] == "./lr=0.1", "lr=0.1 would be a setting"


def test_a_better_evaluation_whose_weights_are_gone_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (write_run(tmp_path / name, lr=1, value=value) for name, value in (("a", 0.6), ("b", 0.7)))
    (second / "weights.safetensors").unlink()
    word, said = best(capsys, str(tmp_path))
    assert word == str(first)
    assert f"{second} has 0.7000, and its weights are gone" in said


def test_a_name_is_no_formula_to_a_spreadsheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", lr=1, value=0.6)
    (run / "config.yaml").write_text("name: =1+1\n")
    assert ",'=1+1," in told(capsys, "runs", str(tmp_path), "format=csv")


def test_evaluated_weights_that_were_kept_can_be_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", lr=1, value=0.6)
    keep(run, 20)
    evaluate_kept(run, "best", 0.8)
    assert best(capsys, str(tmp_path), "metric=set/mean_accuracy")[0] == f"{run}@best"
    assert best(capsys, str(tmp_path), "metric=set/mean_accuracy", "mode=min")[0] == str(run)
    (run / "checkpoints/step-20.safetensors").unlink()
    assert best(capsys, str(tmp_path), "metric=set/mean_accuracy")[0] == str(run), "the others are gone"


def test_the_name_of_a_metric_tells_what_is_best_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate("ab"):
        evaluation = write_run(tmp_path / name, lr=1, value=0.5) / "evaluation"
        rows = [f"x,coco,i2t_mean_rank,,{number + 1},,,,,,1,1", f"x,coco,best_of_n_random,,{number},,,,,,1,1"]
        (evaluation / "metrics.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    assert best(capsys, str(tmp_path), "metric=coco/i2t_mean_rank")[0] == str(tmp_path / "a")
    assert main(["best", str(tmp_path), "metric=coco/best_of_n_random"]) == 2
    assert "`mode` must be given, max or min: 'coco/best_of_n_random'" in capsys.readouterr().err
    assert best(capsys, str(tmp_path), "metric=coco/best_of_n_random", "mode=max")[0] == str(tmp_path / "b")


def test_no_word_leads_a_shell_astray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a\nb", lr=1, value=0.5)
    assert main(["best", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a\\nb' is the best, and its name fits in no line; rename its folder" in printed.err


def test_export_takes_the_word_of_the_best_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", lr=1)
    settings = OmegaConf.create(told(capsys, "export", f"{run}@best", "--dry-run"))
    assert (settings.run, settings.checkpoint, settings.output_dir) == (str(run), "best", f"{run}/export")
    assert OmegaConf.create(told(capsys, "export", f"{run}@20", "checkpoint=last", "--dry-run")).checkpoint == "last"
    odd = write_run(tmp_path / "a@best", lr=1)
    assert OmegaConf.create(told(capsys, "export", str(odd), "--dry-run")).run == str(odd), "a folder may be called so"


def test_folders_of_anyone_do_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "good", lr=1)
    for number, text in enumerate(
        (
            "name: ${oc.env:HOME}\nseed: !!python/object/apply:os.system [touch harmed]",
            "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]",
            "[" * 100_000,
            "- " * 100_000 + "x",
            "? [a]\n: b",
            "",
            "x" * (LARGEST_CONFIG + 1),
            'name: "\\e[31mred"\nseed: 1',
        )
    ):
        run = write_run(tmp_path / f"bad{number}", lr=1)
        (run / "config.yaml").write_text(text)
    (tmp_path / "bad0/logs/metrics.jsonl").write_text('{"step": "x"}\n[]\n{"step": 1, "metr')
    (tmp_path / "bad1/provenance.json").write_text("[")
    os.symlink(tmp_path, tmp_path / "good/loop")
    printed = told(capsys, "runs", str(tmp_path))
    assert "\x1b[31m" not in printed
    assert os.environ["HOME"] not in printed
    assert not (tmp_path / "harmed").exists()
    assert not Path("harmed").exists()
    assert len(find_runs([str(tmp_path)])) == 8


def test_a_pipe_among_the_files_is_not_waited_for(tmp_path: Path) -> None:
    write_run(tmp_path / "a", lr=1, value=0.5)
    write_run(tmp_path / "b", lr=1, value=0.5)
    for file in ("a/provenance.json", "b/evaluation/metrics.csv"):
        (tmp_path / file).unlink()
        os.mkfifo(tmp_path / file)

    def waited(*_: object) -> None:
        # an error of the system would be taken for a damaged file
        pytest.fail("it waits")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(10)
    try:
        (run,) = find_runs([str(tmp_path)])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert (run.name, run.metric("set/mean_accuracy")) == ("b", None)


def test_runs_of_the_first_version_have_their_metrics() -> None:
    (run,) = find_runs(["tests/first_version"])
    assert run.step == 3
    assert run.validation["val/mean/accuracy"] == {1: 0.5, 3: pytest.approx(7 / 15)}
    found = run.metric("balanced/replace_att_accuracy")
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.06785714285714287, 1.0))


def test_a_torn_line_counts_for_nothing(tmp_path: Path) -> None:
    record = write_run(tmp_path / "a", lr=1, steps=12, validated={9: 0.5}) / "logs/metrics.jsonl"
    with record.open("a") as file:
        file.write('{"step": 12, "metrics": {"val/mean/accuracy": 0.9')
    run = read_info(tmp_path / "a")
    assert (run.step, run.validation) == (11, {"val/mean/accuracy": {9: 0.5}})


def test_runs_come_in_the_order_of_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (10, 9, 1):
        write_run(tmp_path / f"seed={seed}", lr=1)
    assert [run.name for run in find_runs([str(tmp_path)])] == ["seed=1", "seed=9", "seed=10"]
    lines = told(capsys, "runs", str(tmp_path)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["seed=1", "seed=9", "seed=10"]


def evaluate_kept(run: Path, weights: str, value: float) -> None:
    """An evaluation of weights that a run kept."""
    folder = run / f"evaluation_{weights}"
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"checkpoint": {"name": weights}}))
    (folder / "metrics.csv").write_text(f"{HEAD}\nx,set,accuracy,mean,{value},,,,,,1,1\n")


def test_evaluations_of_kept_weights_are_found_and_those_of_no_weights_are_not(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", lr=1)
    evaluate_kept(run, "best", 0.8)
    evaluate_kept(run, "20", 0.7)
    evaluate_kept(run, "$(reboot)", 0.9)
    found = read_info(run).metric("set/mean_accuracy")
    assert (found.value, found.weights) == (0.8, "best")


def test_nothing_differs_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", lr=1)
    runs = find_runs([str(tmp_path)])
    assert differing(runs) == []
    assert usual_metric(runs) is None
    assert "finished" in told(capsys, "runs", str(tmp_path))
    (tmp_path / "empty").mkdir()
    assert "No runs in" in told(capsys, "runs", str(tmp_path / "empty"))
    assert main(["runs", str(tmp_path / "nowhere")]) == 2


def test_a_thousand_runs_are_listed_in_seconds_without_a_library(tmp_path: Path) -> None:
    for number in range(1000):
        write_run(tmp_path / f"{number:04}", lr=number, value=0.5, steps=5)
    code = (
        "import sys\nfrom experiments.__main__ import main\n"
        f"assert main(['runs', {str(tmp_path)!r}, 'limit=1000']) == 0\n"
        "loaded = {'torch', 'transformers', 'lightning', 'sklearn'} & sys.modules.keys()\nassert not loaded, loaded\n"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1002
    # five seconds on a quiet machine are promised; a busy one gets time
    assert time.monotonic() - begin < 30


FILES = sorted(Path("experiments").rglob("*.yaml"))


def test_fast_yaml_is_tried_on_all_files() -> None:
    assert len(FILES) >= 26


@pytest.mark.parametrize("file", FILES, ids=str)
def test_fast_yaml_reads_what_a_verb_writes(file: Path) -> None:
    text = OmegaConf.to_yaml(OmegaConf.load(file))
    assert plain_yaml(text.encode()) == yaml.safe_load(text)
