"""`itm convert`: a folder that loads as any published CLIP, by its own words; what cannot be converted is one line."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, CLIPModel

from experiments.__main__ import main
from experiments.tracking.lineage import read_lineage
from experiments.verbs.convert import PICKLE_STARTS, is_pickled
from lightning_modules import load_scorer
from lightning_modules.backbones.clip import ClipModule
from lightning_modules.backbones.clip_weights.activation import load_clip
from tests.open_clip import OpenClip, random_state, save_base
from tests.pages import PAGES, blocks
from tests.tiny import CAPTIONS, photo, row, tiny_tables


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights and a base, which is worked in."""
    monkeypatch.chdir(tmp_path)
    save_base(tmp_path / "base")
    save_file(random_state(), tmp_path / "negclip.safetensors")
    return tmp_path


def convert(*more: str, weights: str = "negclip.safetensors", base: str = "base", output: str = "out") -> int:
    return main(["convert", f"weights={weights}", f"base={base}", f"output_dir={output}", *more])


def fault(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed of an error: one line."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("itm: ")]
    assert len(lines) == 1, lines
    return lines[0]


@torch.no_grad()
def largest_difference(folder: Path | str, *, quick: bool = True) -> float:
    """Between match logits of a folder's scorer and those of open_clip's forward, on one image and all captions."""
    module = ClipModule(*load_clip(folder, activation="quick_gelu" if quick else "gelu"), lr=1e-3).eval()
    batch = module.collator()([row(0, CAPTIONS)])
    ids = torch.zeros(len(CAPTIONS), 77, dtype=torch.long)  # padded as open_clip pads
    for place, tokens in enumerate(module.processor.tokenizer(CAPTIONS).input_ids):
        ids[place, : len(tokens)] = torch.tensor(tokens)
    expected = OpenClip(random_state(), quick=quick).logits(batch.inputs["pixel_values"], ids)
    return (module.logits(batch) - expected).abs().max().item()


def test_the_folder_gives_open_clip_s_logits_without_a_warning(
    made: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.WARNING, "transformers")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # or nothing would be heard
    assert convert() == 0
    assert "activation quick_gelu (that of the base), float32: model.checkpoint=out" in capsys.readouterr().out
    assert {path.name for path in (made / "out").iterdir()} >= {
        *("config.json", "model.safetensors", "README.md", "tokenizer.json", "tokenizer_config.json"),
        *("processor_config.json", "config.yaml", "provenance.json"),
    }
    node = read_lineage(made / "out")
    assert node is not None
    assert not any("/" in name for name in node.inputs), "a folder that gets published names no other"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip, _ = load_clip("out")
        assert -1 <= load_scorer("out").score(photo(0), "a dog") <= 1
    assert caplog.records == []
    assert clip.config.text_config.hidden_act == clip.config.vision_config.hidden_act == "quick_gelu"
    assert largest_difference("out") < 1e-5
    assert largest_difference("out", quick=False) < 1e-5, "the reference in the other activation agrees, too"


def test_transformers_alone_loads_the_folder_whole(made: Path) -> None:
    assert convert() == 0
    clip, info = CLIPModel.from_pretrained("out", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoProcessor.from_pretrained("base").tokenizer
    assert AutoProcessor.from_pretrained("out").tokenizer(CAPTIONS).input_ids == tokenizer(CAPTIONS).input_ids
    assert torch.equal(clip.visual_projection.weight, random_state()["visual.proj"].T)


def test_a_converted_folder_scores_a_table_by_its_name(made: Path) -> None:
    captions, _ = tiny_tables(made / "data")
    assert convert() == 0
    words = ["score", "model.backbone=clip", "model.checkpoint=out", f"captions={captions}", "output_dir=scores"]
    assert main([*words, "accelerator=cpu"]) == 0
    assert (made / "scores/scores.parquet").is_file()


def test_the_card_names_the_file_by_its_hash_and_no_folder_of_this_machine(made: Path) -> None:
    (made / "negclip.safetensors").rename(made / "a|b`.safetensors")
    assert convert(weights=str(made / "a|b`.safetensors"), base=str(made / "base")) == 0
    card = (made / "out/README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((made / "a|b`.safetensors").read_bytes()).hexdigest() in card
    assert "| weights | a&#124;b&#96;.safetensors, SHA-256 " in card
    assert "| configuration, tokenizer, image processor | base |" in card
    assert "| activation | quick_gelu (that of the configuration) |" in card
    for name in ("README.md", "config.yaml", "provenance.json", "config.json", "tokenizer_config.json"):
        assert str(made) not in (made / "out" / name).read_text(encoding="utf-8"), name


def test_the_activation_overrules_the_base_s(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert("activation=gelu") == 0
    assert "activation gelu (as given)" in capsys.readouterr().out
    config = json.loads((made / "out/config.json").read_text(encoding="utf-8"))
    assert {config[tower]["hidden_act"] for tower in ("text_config", "vision_config")} == {"gelu"}
    assert largest_difference("out", quick=False) < 1e-5
    assert convert("activation=relu", output="other") == 2
    assert "must be one of quick_gelu, gelu" in fault(capsys)


def test_other_weights_may_have_openai_s_configuration_and_gelu(made: Path) -> None:
    """LAION's weights by the base `openai/clip-vit-base-patch32`: the activation is refused by a base's name."""
    save_base(made / "openai/clip-vit-base-patch32")
    assert convert("activation=gelu", base="openai/clip-vit-base-patch32", output="laion") == 0
    assert load_clip("laion")[0].config.text_config.hidden_act == "gelu"


def test_towers_of_a_base_that_disagree_ask_for_the_activation(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_base(made / "two", text__hidden_act="gelu")
    assert convert(base="two") == 2
    assert "hidden_act must be the same in both towers, got gelu (text) and quick_gelu (vision)" in fault(capsys)
    assert convert("activation=quick_gelu", base="two") == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_stay_half_on_disk_and_load_in_float32(made: Path, dtype: torch.dtype) -> None:
    save_file({name: value.to(dtype) for name, value in random_state().items()}, made / "half.safetensors")
    assert convert(weights="half.safetensors") == 0
    assert {value.dtype for value in load_file("out/model.safetensors").values()} == {dtype}
    assert json.loads((made / "out/config.json").read_text(encoding="utf-8"))["dtype"] == str(dtype).split(".")[1]
    assert {value.dtype for value in load_clip("out")[0].parameters()} == {torch.float32}
    assert {value.dtype for value in load_clip("out", dtype="auto")[0].parameters()} == {dtype}


def test_a_converted_folder_can_be_a_base_and_its_weights_be_converted(made: Path) -> None:
    """Weights that have Transformers' names keep them: what was published without a processor gets one."""
    assert convert() == 0
    bare = made / "read_clip"
    bare.mkdir()
    shutil.copy("out/config.json", bare)
    shutil.copy("out/model.safetensors", bare)
    with pytest.raises(OSError, match=r"Weights without a processor get that of their base by `itm convert`\."):
        load_clip(bare)
    assert convert(weights="read_clip/model.safetensors", base="out", output="whole") == 0
    one, two = (load_file(f"{name}/model.safetensors") for name in ("out", "whole"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert largest_difference("whole") < 1e-5


def test_the_snippet_of_the_page_turns_a_training_s_pickle_into_safetensors(made: Path) -> None:
    (snippet,) = blocks(PAGES["docs/training.md"], "py")
    state = {f"module.{name}": value for name, value in random_state().items()}
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict()
    for saved in (
        {"epoch": 5, "name": "negclip", "state_dict": state, "optimizer": optimizer},
        {"model_state_dict": state, "optimizer_state_dict": optimizer},
        state,
    ):
        torch.save(saved, made / "negclip.pt")
        (made / "negclip.safetensors").unlink()
        exec(compile(snippet, "docs/training.md", "exec"), {})
        assert convert("--overwrite") == 0
        assert largest_difference("out") < 1e-5


# what is refused


def test_a_header_whose_length_begins_as_a_pickle_is_none(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for count in range(1, 40):
        save_file({f"name{index}": torch.zeros(2) for index in range(count)}, path)
        assert not is_pickled(path)
        if path.read_bytes().startswith(PICKLE_STARTS):
            return
    raise AssertionError("no header had such a length")


@pytest.mark.parametrize("name", ["negclip.pt", "negclip.pth", "pytorch_model.bin", "last.ckpt", "model.PT", "a.pkl"])
def test_a_pickle_is_refused_by_its_name_before_it_is_opened(
    name: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / name).write_bytes(b"")
    assert convert("--dry-run", weights=name) == 2
    line = fault(capsys)
    assert f"`weights` must be a safetensors file, got {name}, which is pickled: unpickling can run code" in line
    assert "torch.load(..., weights_only=True) and safetensors.torch.save_file" in line
    assert 'docs/training.md shows under "Weights of open_clip"' in line
    assert "\n## Weights of open_clip\n" in PAGES["docs/training.md"]


class Bomb:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_under_another_name_is_known_by_its_bytes_and_runs_nothing(
    zipped: bool, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(Bomb(), made / "negclip.safetensors", _use_new_zipfile_serialization=zipped)
    assert convert() == 2
    assert "got negclip.safetensors, which is pickled" in fault(capsys)
    assert not (made / "exploded").exists()
    assert not (made / "out").exists()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 0xFF  # the length of the header
    path.write_bytes(content)


def of_nothing(path: Path) -> None:
    path.write_bytes(b"")


def a_text(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def with_nan(path: Path) -> None:
    state = random_state()
    state["visual.proj"][0, 0] = float("nan")
    save_file(state, path)


def without_one(path: Path) -> None:
    save_file({name: value for name, value in random_state().items() if name != "ln_final.bias"}, path)


def with_another(path: Path) -> None:
    save_file({**random_state(), "visual.transformer.resblocks.0.ls_1.gamma": torch.ones(48)}, path)


def of_timm(path: Path) -> None:
    save_file({"visual.trunk.cls_token": torch.ones(1), "logit_scale": torch.ones(1)}, path)


CANNOT = "negclip.safetensors cannot be converted by base=base: "


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "the weights negclip.safetensors cannot be read ("),
        (flipped, "the weights negclip.safetensors cannot be read ("),
        (of_nothing, "the weights negclip.safetensors cannot be read ("),
        (a_text, "the weights negclip.safetensors cannot be read ("),
        (a_folder, "`weights` must be an existing file, got 'negclip.safetensors'"),
        (Path.unlink, "`weights` must be an existing file, got 'negclip.safetensors'"),
        (with_nan, f"{CANNOT}1 weights hold numbers that are not finite (visual.proj)"),
        (without_one, f"{CANNOT}1 weights are missing (ln_final.bias)"),
        (with_another, f"{CANNOT}1 weights are none of a CLIP (visual.transformer.resblocks.0.ls_1.gamma)"),
        (of_timm, f"{CANNOT}only a CLIP with OpenAI's two transformers can be converted, and its image tower is"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(
    damage: Callable[[Path], None], message: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(made / "negclip.safetensors")
    assert convert() == 2
    assert message in fault(capsys)
    assert not (made / "out").exists()
    assert sorted(path.name for path in made.iterdir() if path.name.startswith(".out") and path.is_dir()) == []


def test_a_base_that_is_of_no_use_is_one_line(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_base(made / "other", vision__patch_size=4)
    assert convert(base="other") == 2
    assert "cannot be converted by base=other: the weights have patch size 8 (base: 4)" in fault(capsys)
    (made / "empty").mkdir()
    assert convert(base="empty") == 2
    assert "empty holds no config.json" in fault(capsys)
    (made / "siglip").mkdir()
    (made / "siglip/config.json").write_text('{"model_type": "siglip"}', encoding="utf-8")
    assert convert(base="siglip") == 2
    assert "siglip is a checkpoint of type 'siglip', and CLIPModel reads 'clip'" in fault(capsys)
    assert convert("revision=v1") == 2
    assert "`revision` must be left out, got 'v1': `base` is a folder, base" in fault(capsys)


def test_a_folder_with_something_in_it_stays_as_it_is(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made / "out").mkdir()
    (made / "out/mine.txt").write_text("mine", encoding="utf-8")
    assert convert() == 2
    assert "out exists" in fault(capsys)
    assert convert("--overwrite") == 2
    assert "--overwrite needs a folder of `itm convert`" in fault(capsys)
    assert [path.name for path in (made / "out").iterdir()] == ["mine.txt"]
    assert convert(output="base/inside") == 2
    assert "`output_dir` must not be in the base, base, got base/inside" in fault(capsys)


def test_resume_and_overwrite_are_those_of_every_verb(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert("--dry-run") == 0
    assert not (made / "out").exists()
    assert convert() == 0
    before = (made / "out/model.safetensors").read_bytes()
    assert convert("--resume") == 0
    assert "out is finished" in capsys.readouterr().out
    assert convert("activation=gelu", "--resume") == 2
    assert "made with another `activation`" in fault(capsys)
    assert convert("activation=gelu", "--overwrite") == 0
    assert (made / "out/model.safetensors").read_bytes() == before
    assert '"gelu"' in (made / "out/config.json").read_text(encoding="utf-8")


def test_an_interrupted_write_leaves_what_was_there(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert convert() == 0
    before = {path.name: path.read_bytes() for path in (made / "out").iterdir()}

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.verbs.convert.write_text", stop)
    assert convert("activation=gelu", "--overwrite") not in (0, 2)
    assert {path.name: path.read_bytes() for path in (made / "out").iterdir()} == before


def test_the_help_teaches_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--help"]) == 0
    page = capsys.readouterr().out
    example = "itm convert weights=negclip.safetensors base=openai/clip-vit-base-patch32 output_dir=negclip"
    for words in (example, "one of quick_gelu, gelu", "unpickling can run code", "an existing file"):
        assert words in page, words
