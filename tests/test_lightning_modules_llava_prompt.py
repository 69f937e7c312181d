"""Which prompt a LLaVA is asked with: LLaVA-1.5's, or that of its checkpoint's own chat template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import LlavaForConditionalGeneration, LlavaProcessor, MistralConfig, Qwen2Config

from datamodules.batch import InputError
from experiments.__main__ import main
from experiments.config.load import load_saved
from experiments.config.schemas import ExperimentConfig
from experiments.runs.fingerprint import fingerprint
from experiments.verbs.train import build_parts
from lightning_modules import load_scorer
from lightning_modules.backbones.build import Source, build_backbone
from lightning_modules.backbones.chat.chat_template import read_template
from lightning_modules.backbones.chat.prompt import SYSTEM, YesNoPrompt, prompt_texts
from lightning_modules.backbones.llava import LlavaModule
from lightning_modules.backbones.model_section import model_settings
from lightning_modules.backbones.tiny.llava import tiny_llava, tiny_llava_processor
from tests.backbones import Plain
from tests.tiny import CAPTIONS, SHAPE, TINY_OVERRIDES, photo, tiny_tables

IMAGES, TEXTS = [photo(0), photo(1, 16, 24)], CAPTIONS[:3]
EACH = "{% for m in messages %}"
PARTS = "{% for c in m['content'] %}{{ '<image>\\n' if c['type'] == 'image' else c['text'] }}{% endfor %}"
LLAVA_HF = (
    EACH + "{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML = (
    EACH + "{{ '<|im_start|>' + m['role'] + '\\n' }}" + PARTS + "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}"
    + EACH
    + "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}"
    + PARTS
    + "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}" + EACH + "{% if m['role'] == 'assistant' %}" + "{{ ' ' }}" + PARTS + "{{ eos_token }}"
    "{% else %}{{ '[INST] ' }}" + PARTS + "{{ ' [/INST]' }}{% endif %}{% endfor %}"
)
TEXT_ALONE = (  # of a language model: a message is a text
    EACH + "{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
THINKING = (
    CHATML + "{% if add_generation_prompt and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
FAMILIES: dict[str, tuple[str, str, str, tuple[str, str]]] = {
    # family of the language model, template, what it makes, and the answers' tokens
    "Qwen": ("qwen2", CHATML, "<|im_start|>user\n<image>\n{q}<|im_end|>\n<|im_start|>assistant\n", ("Yes", "No")),
    "Llama 3": (
        "llama",
        LLAMA_3,
        "<s><|start_header_id|>user<|end_header_id|>\n\n<image>\n{q}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("Yes", "No"),
    ),
    "Mistral": ("mistral", MISTRAL, "<s>[INST] <image>\n{q} [/INST]", ("▁Yes", "▁No")),
    "Phi, a template of text": ("llama", TEXT_ALONE, "<|user|>\n<image>\n{q}<|end|>\n<|assistant|>\n", ("Yes", "No")),
    "a model that thinks": (
        "qwen2",
        THINKING,
        "<|im_start|>user\n<image>\n{q}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ("Yes", "No"),
    ),
}
QUESTION = "Does this image match the following caption: {caption}?\nAnswer Yes/No directly."


@cache
def tiny(family: str) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A LLaVA of that language model, whose tokenizer knows both spellings of the answers."""
    frames = ["USER: {image}\n{question} ASSISTANT: ", "<|user|>\n{image}\n{question}<|assistant|>\n"]
    texts = [text for frame in frames for text in prompt_texts(YesNoPrompt("", template=frame), CAPTIONS)]
    processor = tiny_llava_processor(SHAPE, texts)
    # the start token in front of every text, as the published tokenizers put it, so that a second one would show
    start = ("<s>", processor.tokenizer.bos_token_id)
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[start])
    config = tiny_llava(SHAPE, processor.tokenizer).config
    kinds: dict[str, Any] = {"mistral": MistralConfig, "qwen2": Qwen2Config}
    if family in kinds:
        own = {key: value for key, value in config.text_config.to_dict().items() if key in KEPT}
        config.text_config = kinds[family](**own)
    torch.manual_seed(0)
    llava = LlavaForConditionalGeneration(config)
    for parameter in llava.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return llava, processor


KEPT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id"),
)


def saved(folder: Path, family: str, chat_template: str | None, *, in_tokenizer: bool = False) -> Path:
    llava, processor = tiny(family)
    llava.save_pretrained(folder)
    processor.save_pretrained(folder)
    if chat_template is not None and in_tokenizer:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": chat_template}))
    elif chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)
    return folder


def logits_by(folder: Path, prompt: Callable[[str], str], answers: tuple[str, str]) -> list[list[float]]:
    plain = Plain(folder)
    return [[plain.logit(image, prompt(text), answers) for text in TEXTS] for image in IMAGES]


@pytest.mark.parametrize(("case", "in_tokenizer"), [*((case, False) for case in FAMILIES), ("Llama 3", True)])
def test_a_checkpoint_is_asked_by_its_own_chat_template(case: str, in_tokenizer: bool, tmp_path: Path) -> None:
    family, template, frame, answers = FAMILIES[case]
    folder = saved(tmp_path, family, template, in_tokenizer=in_tokenizer)
    scorer = load_scorer(folder, device="cpu")

    def prompt(text: str) -> str:
        return frame.replace("{q}", QUESTION.replace("{caption}", text))

    assert scorer.module.encoder.prompt("a dog", "<image>") == prompt("a dog")
    expected = logits_by(folder, prompt, answers)
    found = scorer.logits(IMAGES, TEXTS, matrix=True).tolist()
    assert found == [pytest.approx(row, abs=1e-5) for row in expected]
    assert scorer.module.notes == (f"The prompt is {scorer.module.scorer_settings()['template']!r}.",)


@pytest.mark.parametrize("template", [None, LLAVA_HF, "{{ '" + SYSTEM.replace("'", "\\'") + " ' }}" + LLAVA_HF])
def test_llava_1_5_keeps_its_prompt(template: str | None, tmp_path: Path) -> None:
    scorer = load_scorer(saved(tmp_path, "llama", template), device="cpu")
    assert scorer.module.encoder.prompt == YesNoPrompt()
    assert scorer.module.scorer_settings()["template"] == "vicuna"
    assert scorer.module.notes == ("The prompt is LLaVA-1.5's.",)


GIVEN: dict[str, tuple[str, str | None, dict[str, str], str]] = {
    # family, chat template, settings, and the prompt
    "vicuna": ("qwen2", CHATML, {"template": "vicuna"}, f"{SYSTEM} USER: <image>\n{{q}} ASSISTANT:"),
    "vicuna without a chat template": (
        *("mistral", None, {"template": "vicuna", "system": ""}),
        "USER: <image>\n{q} ASSISTANT:",
    ),
    "the chat template of llava-hf": ("llama", LLAVA_HF, {"template": "checkpoint"}, "USER: <image>\n{q} ASSISTANT:"),
    "a system message": (
        *("qwen2", CHATML, {"system": "Be brief."}),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\n{q}<|im_end|>\n<|im_start|>assistant\n",
    ),
    "a text": ("mistral", None, {"template": "Q: {image}\n{question} A: "}, "Q: <image>\n{q} A:"),
    "a question alone": ("mistral", None, {"question": "{caption}?"}, f"{SYSTEM} USER: <image>\n{{q}} ASSISTANT:"),
}


def built(folder: Path, **settings: Any) -> Any:
    return build_backbone(
        model_settings({"backbone": "llava", "checkpoint": str(folder), **settings}), Source(), {"lr": 0.0}
    ).eval()


@pytest.mark.parametrize("case", GIVEN)
def test_a_prompt_that_is_given_is_used(case: str, tmp_path: Path) -> None:
    family, template, settings, expected = GIVEN[case]
    module = built(saved(tmp_path, family, template), **settings)
    question = settings.get("question", QUESTION).replace("{caption}", "a dog")
    assert module.encoder.prompt("a dog", "<image>") == expected.replace("{q}", question)
    # what an export writes makes the same again
    written = {key: module.scorer_settings()[key] for key in ("template", "system", "question")}
    assert built(tmp_path, **written).encoder.prompt == module.encoder.prompt


NESTED = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set it = namespace(x='a') %}{% for i in range(33) %}{% set it.x = it.x ~ it.x %}{% endfor %}"
REFUSED: dict[str, tuple[str, str | None, dict[str, str], str]] = {
    "no chat template": ("mistral", None, {}, "must say what is around a question, since the checkpoint has no chat"),
    "a template that is not there": ("llama", None, {"template": "checkpoint"}, "the checkpoint has no chat template"),
    "one that fails": ("llama", "{{ raise_exception('no images') }}", {}, "TemplateError: no images"),
    "one that is no Jinja": ("llama", "{% if %}", {}, "TemplateSyntaxError"),
    "one that loops": ("llama", NESTED, {}, "it runs more than 100000 lines or 5 seconds"),
    "one that fills the memory": ("llama", "{{ ('a' * 3000000000) | length }}", {}, "MemoryError"),
    "one that doubles": ("llama", DOUBLING, {}, "MemoryError"),
    "one that never ends a number": ("llama", "{{ 9 ** (9 ** 9) }}", {}, "must do without the operator **"),
    "one that multiplies": ("llama", "{% set x = 9 %}{{ x * x }}", {}, "must do without the operator *"),
    "one that writes a book": ("llama", "{{ 'a' * 200000 }}", {}, "it makes 200000 characters of one question"),
    "one that leaves the sandbox": ("llama", "{{ messages.__class__.__mro__ }}", {}, "SecurityError"),
    "one without the image": ("llama", "{{ messages[0]['content'][1]['text'] }}", {}, "of image and question it makes"),
    "one that changes the question": (
        *("llama", "<image>{{ messages[0]['content'][1]['text'] | replace('?', '!') }}", {}),
        "changes the question",
    ),
    "a text without the question": ("llama", None, {"template": "{image}"}, "must be auto, vicuna or checkpoint, or "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_prompt_that_cannot_be_known_is_one_line(case: str, tmp_path: Path) -> None:
    family, template, settings, expected = REFUSED[case]
    folder = saved(tmp_path, family, template)
    with pytest.raises(ValueError, match=r"^`?model\.template`?") as caught:
        built(folder, **settings)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    if not settings:
        with pytest.raises(InputError):
            load_scorer(folder, device="cpu")


def test_a_chat_template_is_of_no_use_without_a_checkpoint() -> None:
    with pytest.raises(ValueError, match=r"`model.template` must not be checkpoint without `model.checkpoint`"):
        model_settings({"backbone": "llava", "template": "checkpoint"})


DATED = (
    "\n{% if strftime_now is defined %}{% set today = strftime_now('%d %b %Y, %-d.%m.%y') %}{% endif %}"
    "{% macro line() %}{{ strftime_now('%A %B %a') }}{% endmacro %}{{ today }} {{ line() }}\n"
)


def test_a_template_that_asks_for_the_date_makes_one_prompt_on_all_days() -> None:
    _, processor = tiny("llama")
    expected = "\n26 Jul 2024, 26.07.24 Friday July Fri\n"
    assert read_template(DATED + CHATML, processor, None) == expected + read_template(CHATML, processor, None)


def test_a_template_may_repeat_a_text() -> None:
    _, processor = tiny("llama")
    assert read_template("{{ '-' * 3 }}" + CHATML, processor, None).startswith("---<|im_start|>")


def test_a_template_is_read_beside_a_tracer_and_leaves_it() -> None:
    import sys

    _, processor = tiny("llama")
    before = sys.gettrace()
    assert read_template(CHATML, processor, None).startswith("<|im_start|>user\n{image}")
    assert sys.gettrace() is before


def test_answers_of_more_than_one_token_are_refused() -> None:
    processor = tiny_llava_processor(SHAPE, CAPTIONS)  # which has never seen an answer
    with pytest.raises(ValueError, match="must make Yes one token behind the prompt, and No another one"):
        LlavaModule(tiny_llava(SHAPE, processor.tokenizer), processor, lr=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step on a chat model, the folder `base` beside it."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_tables(folder / "scenes")
    saved(folder / "base", "qwen2", CHATML)
    assert main(train_words(folder)) == 0
    return folder / "run"


def train_words(folder: Path) -> list[str]:
    tables = [f"data.{name}={folder / 'scenes/train' / f'{name}.parquet'}" for name in ("captions", "negatives")]
    words = [*tables, *TINY_OVERRIDES, f"output_dir={folder / 'run'}", "logging.wandb=disabled"]
    words += ["model.system=null", "model.question=null"]  # this configuration has its own
    return ["train", "experiments/configs/llava_tiny_scenes.yaml", *words, f"model.checkpoint={folder / 'base'}"]


ASKED = "<|im_start|>user\n<image>\n{q}<|im_end|>\n<|im_start|>assistant\n".replace("{q}", QUESTION)


def prompt_of(path: Path) -> str:
    return str(load_scorer(path, device="cpu").module.encoder.prompt("{caption}", "<image>"))


def test_a_run_keeps_the_prompt_that_it_was_trained_with(trained: Path) -> None:
    recorded = json.loads((trained / "base.json").read_text())["model"]
    assert recorded == {"template": ASKED.replace("<image>", "{image}").replace(QUESTION, "{question}"), "system": ""}
    assert prompt_of(trained) == ASKED
    template = trained.with_name("base") / "chat_template.jinja"
    try:
        template.write_text(MISTRAL)
        assert prompt_of(trained) == ASKED, "the base may get another template"
    finally:
        template.write_text(CHATML)


def test_a_run_of_before_chat_templates_were_read_keeps_llava_1_5s_prompt(trained: Path, tmp_path: Path) -> None:
    former = shutil.copytree(trained, tmp_path / "former")
    base = json.loads((former / "base.json").read_text())
    del base["model"]
    (former / "base.json").write_text(json.dumps(base))
    config = (former / "config.yaml").read_text().replace("  template: auto\n", "")
    (former / "config.yaml").write_text(config)
    vicuna = YesNoPrompt()("{caption}", "<image>")
    assert prompt_of(former) == vicuna
    (former / "base.json").unlink()
    assert prompt_of(former) == vicuna, "as runs of before there was a base.json"


def test_a_training_goes_on_with_the_prompt_that_it_began_with(trained: Path, tmp_path: Path) -> None:
    config = load_saved(ExperimentConfig, trained / "config.yaml", [f"output_dir={tmp_path}"])
    base = json.loads((trained / "base.json").read_text())
    (tmp_path / "base.json").write_text(json.dumps({**base, "model": {"template": "vicuna"}}))
    for recorded, expected in ((False, ASKED), (True, YesNoPrompt()("{caption}", "<image>"))):
        module, _ = build_parts(config, recorded=recorded)
        assert module.encoder.prompt("{caption}", "<image>") == expected


def test_a_damaged_record_of_a_prompt_is_one_line(trained: Path, tmp_path: Path) -> None:
    base = json.loads((trained / "base.json").read_text())
    prompts = [json.dumps({**base, "model": model}) for model in ({"template": ["a"]}, {"template": "no places"}, [])]
    for content in (*prompts, "[]", "[" * 100_000):
        copied = shutil.copytree(trained, tmp_path / "copy", dirs_exist_ok=True)
        (copied / "base.json").write_text(content)
        with pytest.raises(InputError) as caught:
            load_scorer(copied, device="cpu")
        assert "\n" not in str(caught.value)


def test_an_exported_chat_model_scores_as_before(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(trained), f"output_dir={tmp_path / 'export'}"]) == 0
    assert "The prompt is '<|im_start|>user" in capsys.readouterr().out
    expected = load_scorer(trained, device="cpu").logits(IMAGES, TEXTS, matrix=True)
    assert prompt_of(tmp_path / "export") == ASKED
    found = load_scorer(tmp_path / "export", device="cpu").logits(IMAGES, TEXTS, matrix=True)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    monkeypatch.chdir(tmp_path / "export")
    card: dict[str, Any] = {"__name__": "card"}
    exec(Path("README.md").read_text().split("```python\n")[1].split("\n```\n")[0], card)
    by_card = [[float(card["match_logit"](image, text)) for text in TEXTS] for image in IMAGES]
    assert by_card == [pytest.approx(row, abs=1e-5) for row in expected.tolist()]
    # as an older version wrote it
    content = json.loads(Path("scorer.json").read_text())
    for key in ("template", "system"):
        del content["model"][key]
    Path("scorer.json").write_text(json.dumps(content))
    assert prompt_of(tmp_path / "export") == YesNoPrompt()("{caption}", "<image>")


def test_scores_by_another_prompt_are_not_gone_on_with(trained: Path, tmp_path: Path) -> None:
    base = trained.with_name("base")
    module, former = built(base), built(base, template="vicuna")
    settings = model_settings({"backbone": "llava", "checkpoint": str(base)})
    assert "<|im_start|>" in fingerprint(module, settings, None)["prompt"]
    assert "prompt" not in fingerprint(former, settings, None), "as older versions wrote of the one they had"
