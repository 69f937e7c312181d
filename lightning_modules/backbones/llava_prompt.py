"""LLaVA's prompt around a caption: LLaVA-1.5's, a given one, or that of the checkpoint's own chat template."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment

# LLaVA's conversation template v1 (Vicuna), with which LLaVA-1.5 was trained
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
QUESTION = "Does this image match the following caption: {caption}?\nAnswer Yes/No directly."
VICUNA_TEMPLATE = "USER: {image}\n{question} ASSISTANT: "
AUTO, VICUNA, CHECKPOINT = "auto", "vicuna", "checkpoint"
LINES = 100_000
"""Lines of compiled Jinja that a template may run; a chat of one question takes a few hundred."""
SECONDS, MEMORY, LONGEST = 5, 2**28, 100_000
"""What a template may take besides: time, bytes of memory, characters of text."""
A_DAY = {"-d": "26", "d": "26", "a": "Fri", "A": "Friday", "b": "Jul", "B": "July", "m": "07", "y": "24", "Y": "2024"}
"""The date that templates get for today's, by the directives of strftime: that of Llama 3's where there is no clock."""
PROBES = ("Is it a dog?", "Does \"it\" <match> 'this' & {that}:\na dog, ünïcode 猫?\nAnswer Yes/No directly.")
"""Questions that a template has to leave as they are."""


@dataclass(frozen=True)
class YesNoPrompt:
    """The text around a caption; the defaults are those of LLaVA-1.5 and LLaVA-score.

    Attributes:
        system: sentence in front of the template; none for "".
        question: with {caption} where the caption stands.
        template: with {image} and behind it {question}. It ends where the answer begins; a space at its end belongs
            to the answer, whose token then begins a word.
    """

    system: str = SYSTEM
    question: str = QUESTION
    template: str = VICUNA_TEMPLATE

    def __post_init__(self) -> None:
        if self.question.count("{caption}") != 1:
            raise ValueError(f"model.question must hold {{caption}} exactly once, got {self.question!r}.")
        if fault := template_fault(self.template):
            raise ValueError(f"model.template {fault}")

    def __call__(self, caption: str, image_token: str) -> str:
        """The text up to where the answer begins, the image first.

        >>> YesNoPrompt(system="")("a dog", "<image>")
        'USER: <image>\\nDoes this image match the following caption: a dog?\\nAnswer Yes/No directly. ASSISTANT:'
        """
        system = f"{self.system} " if self.system else ""
        while image_token and image_token in caption:  # what is left of a removed token may make another one
            caption = caption.replace(image_token, "")
        # not `format`: a caption may hold braces
        question = self.question.replace("{caption}", caption)
        before, after = self.template.split("{question}")
        return f"{system}{before.replace('{image}', image_token)}{question}{after.removesuffix(' ')}"

    @property
    def answers(self) -> tuple[str, str]:
        """Yes and No as they follow the prompt."""
        return (" Yes", " No") if self.template.endswith(" ") else ("Yes", "No")

    def respelt(self) -> YesNoPrompt:
        """The same text with the other spelling of the answers."""
        template = self.template.removesuffix(" ")
        return replace(self, template=template if self.template.endswith(" ") else f"{template} ")


def text_fault(text: str) -> str:
    r"""What no text of a prompt may be, whoever wrote it; "" where it may.

    >>> text_fault("a" * 200000), text_fault("\ud800")
    ('must have at most 100000 characters, got 200000', 'must be text that UTF-8 can hold')
    """
    if len(text) > LONGEST:
        return f"must have at most {LONGEST} characters, got {len(text)}"
    return "must be text that UTF-8 can hold" if any("\ud800" <= character <= "\udfff" for character in text) else ""


def template_fault(template: str) -> str:
    """What is wrong with a template; "" where it is none.

    >>> template_fault("{question} {image}")
    "must hold {image} and behind it {question}, each exactly once, got '{question} {image}'"
    """
    places = re.findall(r"\{image\}|\{question\}", template)
    if places == ["{image}", "{question}"]:
        return ""
    return f"must hold {{image}} and behind it {{question}}, each exactly once, got {template!r}"


@dataclass(frozen=True)
class WantedPrompt:
    """The prompt as far as settings give it; the checkpoint's files decide the rest.

    Attributes:
        template: `auto`, `vicuna`, `checkpoint`, or a template of `YesNoPrompt`.
        system: None for that of the template.
        question: None for LLaVA-score's.
    """

    template: str = AUTO
    system: str | None = None
    question: str | None = None

    def without_checkpoint(self) -> YesNoPrompt:
        """The prompt where no chat template has a say: LLaVA-1.5's, or a template that is given."""
        given = {"system": self.system, "question": self.question}
        if self.template not in (AUTO, VICUNA, CHECKPOINT):
            # a given template is whole without LLaVA's sentence
            given |= {"template": self.template, "system": self.system or ""}
        return YesNoPrompt(**{name: text for name, text in given.items() if text is not None})

    def resolve(self, processor: Any, text_config: Any) -> YesNoPrompt:
        """The prompt for a checkpoint.

        `auto` is LLaVA-1.5's where the chat template makes the same of a question, with LLaVA's system sentence or
        without one (as llava-hf's does), and where there is none beside a language model of Vicuna's kind.

        Args:
            processor: with its tokenizer and, in one of the two, perhaps a chat template.
            text_config: of the language model.

        Raises:
            ValueError: the prompt cannot be known, or the chat template does not make one.
        """
        if self.template not in (AUTO, CHECKPOINT):
            return self.without_checkpoint()
        chat_template = chat_template_of(processor)
        if chat_template is None:
            vicuna = text_config.model_type == "llama" and processor.tokenizer.eos_token == "</s>"
            if self.template == AUTO and (vicuna or self.system is not None or self.question is not None):
                return self.without_checkpoint()
            raise ValueError(
                "model.template must say what is around a question, since the checkpoint has no chat template and its "
                f"language model ({text_config.model_type}) may be no Vicuna: give vicuna, or a text with {{image}} "
                "and {question}."
            )
        if self.template == AUTO and is_vicuna(read_template(chat_template, processor, None)):
            return self.without_checkpoint()
        template = read_template(chat_template, processor, self.system)
        return YesNoPrompt(system="", question=QUESTION if self.question is None else self.question, template=template)


def is_vicuna(template: str) -> bool:
    """Whether a template is LLaVA-1.5's, with its system sentence or without one, whatever white space it has.

    >>> is_vicuna("<s>USER: {image}\\n{question} ASSISTANT: "), is_vicuna("[INST] {image}\\n{question} [/INST] ")
    (True, False)
    """
    words = template.removeprefix("<s>").split()
    return words in ([*system.split(), *VICUNA_TEMPLATE.split()] for system in ("", SYSTEM))


def chat_template_of(processor: Any) -> str | None:
    """The chat template of a processor, or else of its tokenizer; None where there is none."""
    for part in (processor, processor.tokenizer):
        template = getattr(part, "chat_template", None)
        if isinstance(template, dict):  # several by name
            template = template.get("default")
        if template:
            return str(template)
    return None


def read_template(chat_template: str, processor: Any, system: str | None) -> str:
    """A template of `YesNoPrompt` that makes what a chat template makes of a user's message of image and question.

    Args:
        chat_template: Jinja; Transformers runs it in a sandbox.
        processor: its tokenizer's special tokens are what the template may name.
        system: message in front; none where None or "".

    Raises:
        ValueError: it fails, does not end, has no place for the image, or changes the question.
    """
    image, mark = processor.image_token, "QUESTION0MARK"
    for parts in (True, False):  # the template of a language model alone takes text, in which the image stands
        render = _Renderer(chat_template, processor, system, parts=parts)
        try:
            text = render(mark)
            if text.count(image) == 1 and text.count(mark) == 1 and text.index(image) < text.index(mark):
                break
            reason = f"of image and question it makes {text!r:.200}"
        except ValueError as error:
            reason = str(error)
    else:
        raise ValueError(
            f"model.template: the checkpoint's chat template makes no prompt ({reason}); give vicuna, or a text with "
            "{image} and {question}."
        )
    template = text.replace(image, "{image}").replace(mark, "{question}")
    for probe in PROBES:
        if render(probe) != template.replace("{image}", image).replace("{question}", probe):
            raise ValueError(
                f"model.template: the checkpoint's chat template changes the question ({render(probe)!r:.300}); give "
                "vicuna, or a text with {image} and {question}."
            )
    answered = render(mark, answer="Yes")
    rest = answered.removeprefix(text) if answered.startswith(text) else ""
    # what an answer begins with in the template's own chats, or else by how the prompt ends
    space = rest.startswith(" ") if rest.lstrip().startswith("Yes") else not text[-1:].isspace()
    return f"{template} " if space and not template.endswith(" ") else template


class _Renderer:
    """A chat template as a function of the question; `parts` whether a message is a list of parts or a text."""

    def __init__(self, chat_template: str, processor: Any, system: str | None, *, parts: bool):
        self.chat_template, self.processor, self.system, self.parts = _dated(chat_template), processor, system, parts

    def __call__(self, question: str, answer: str | None = None) -> str:
        chat = [self._message("user", question, image=True)]
        if self.system:
            chat.insert(0, self._message("system", self.system))
        if answer is not None:
            chat.append(self._message("assistant", answer))
        # a thinking model answers behind its thoughts, and no thoughts are asked for
        more = {"enable_thinking": False} if "enable_thinking" in self.chat_template else {}
        try:
            _check_operators(self.chat_template)
            with _limited_memory(), _bounded():
                text = str(
                    self.processor.apply_chat_template(
                        chat, chat_template=self.chat_template, add_generation_prompt=answer is None, **more
                    )
                )
            if len(text) > LONGEST:
                raise ValueError(f"it makes {len(text)} characters of one question")
            return text
        except Exception as error:  # Jinja, and whatever a template does with its variables
            raise ValueError(" ".join(f"{type(error).__name__}: {error}".split())) from None

    def _message(self, role: str, text: str, *, image: bool = False) -> dict[str, Any]:
        if self.parts:
            return {"role": role, "content": [{"type": "image"}] * image + [{"type": "text", "text": text}]}
        return {"role": role, "content": f"{self.processor.image_token}\n{text}" if image else text}


def _dated(chat_template: str) -> str:
    """A chat template for which it is always the same day: today's date in the prompt would move scores overnight."""
    if "strftime_now" not in chat_template:
        return chat_template
    steps = "".join(f" | replace('%{directive}', '{text}')" for directive, text in A_DAY.items())
    # a macro hides Transformers' function of that name; the plus keeps a line's end behind it
    return f"{{% macro strftime_now(format) %}}{{{{ format{steps} }}}}{{% endmacro +%}}{chat_template}"


def _check_operators(chat_template: str) -> None:
    """Refuses what makes numbers of any length: one such operation takes hours, and nothing interrupts it.

    A text may be repeated; `_limited_memory` bounds it.
    """
    tokens = [("", ""), *((kind, text) for _, kind, text in Environment().lex(chat_template) if kind != "whitespace")]
    for (before, _), (_, operator), (after, _) in zip(tokens, tokens[1:], [*tokens[2:], ("", "")], strict=False):
        if operator == "**" or (operator == "*" and "string" not in (before, after)):
            raise ValueError(f"it must do without the operator {operator}")


@contextmanager
def _limited_memory() -> Iterator[None]:
    """Ends Jinja that asks for more than `MEMORY` by a MemoryError; where the system is no Linux, nothing."""
    pages = Path("/proc/self/statm")
    if not pages.is_file():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = int(pages.read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (wanted if soft == resource.RLIM_INFINITY else min(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _bounded() -> Iterator[None]:
    """Ends Jinja that runs more than `LINES` lines or `SECONDS`: its sandbox bounds one loop, and no loop in loops."""
    before, lines, end = sys.gettrace(), 0, time.monotonic() + SECONDS

    def count(frame: Any, event: str, argument: object) -> Any:
        nonlocal lines
        # Jinja compiles to Python whose file is called so
        if frame.f_code.co_filename != "<template>":
            return None
        lines += event == "line"
        if lines > LINES or time.monotonic() > end:
            raise RuntimeError(f"it runs more than {LINES} lines or {SECONDS} seconds")
        return count

    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)


def prompt_texts(prompt: YesNoPrompt, captions: Iterable[str]) -> list[str]:
    """Texts that teach a tokenizer the prompt, both answers and the words of `captions`."""
    answers = [prompt("", "") + answer for answer in prompt.answers]
    # a hundred times, so that the trainer merges prompt and answers into few tokens before any caption
    return [*answers * 100, *(prompt(caption, "") for caption in captions)]
