"""A checkpoint's chat template, as the text around a question; templates are Jinja that anybody may have written."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import Environment

LINES = 100_000
"""Lines of compiled Jinja that a template may run; a chat of one question takes a few hundred."""
SECONDS, MEMORY, LONGEST = 5, 2**28, 100_000
"""What a template may take besides: time, bytes of memory, characters of text."""
A_DAY = {"-d": "26", "d": "26", "a": "Fri", "A": "Friday", "b": "Jul", "B": "July", "m": "07", "y": "24", "Y": "2024"}
"""The date that templates get for today's, by the directives of strftime: that of Llama 3's where there is no clock."""
PROBES = ("Is it a dog?", "Does \"it\" <match> 'this' & {that}:\na dog, ünïcode 猫?\nAnswer Yes/No directly.")
"""Questions that a template has to leave as they are."""


def chat_template_of(processor: Any) -> str | None:
    """The chat template of a processor, or else of its tokenizer; None where there is none."""
    for part in (processor, processor.tokenizer):
        template = getattr(part, "chat_template", None)
        if isinstance(template, dict):  # several by name
            template = template.get("default")
        if template:
            return str(template)
    return None


def read_template(chat_template: str, processor: Any, system: str | None, before: str = "") -> str:
    """A template of `YesNoPrompt` that makes what a chat template makes of a user's message of image and question.

    Args:
        chat_template: Jinja; Transformers runs it in a sandbox.
        processor: its tokenizer's special tokens are what the template may name.
        system: message in front; none where None or "".
        before: text of the message in front of the image.

    Raises:
        ValueError: it fails, does not end, has no place for the image, or changes the question.
    """
    image, mark = processor.image_token, "QUESTION0MARK"
    for parts in (True, False):  # the template of a language model alone takes text, in which the image stands
        render = _Renderer(chat_template, processor, system, before, parts=parts)
        try:
            text = render(mark)
            if text.count(image) == 1 and text.count(mark) == 1 and text.index(image) < text.index(mark):
                break
            reason = f"of image and question it makes {text!r:.200}"
        except ValueError as error:
            reason = str(error)
    else:
        raise ValueError(
            f"model.template: the checkpoint's chat template makes no prompt ({reason}); give a text with "
            "{image} and {question}."
        )
    template = text.replace(image, "{image}").replace(mark, "{question}")
    for probe in PROBES:
        if render(probe) != template.replace("{image}", image).replace("{question}", probe):
            raise ValueError(
                f"model.template: the checkpoint's chat template changes the question ({render(probe)!r:.300}); give a "
                "text with {image} and {question}."
            )
    answered = render(mark, answer="Yes")
    rest = answered.removeprefix(text) if answered.startswith(text) else ""
    # what an answer begins with in the template's own chats, or else by how the prompt ends
    space = rest.startswith(" ") if rest.lstrip().startswith("Yes") else not text[-1:].isspace()
    return f"{template} " if space and not template.endswith(" ") else template


def turn_end(processor: Any) -> int | None:
    """The special token that the chat template writes behind an answer; None where there is none such.

    Not every checkpoint's `eos_token` is that (Gemma's and SmolVLM's are not).
    """
    chat_template, answer = chat_template_of(processor), "ANSWER0MARK"
    for parts in (True, False) if chat_template is not None else ():
        try:
            text = _Renderer(str(chat_template), processor, None, "", parts=parts)("a dog", answer=answer)
        except ValueError:
            continue
        behind = text.rpartition(answer)[2].lstrip()
        ids = processor.tokenizer(behind, add_special_tokens=False).input_ids
        token = processor.tokenizer.added_tokens_decoder.get(ids[0]) if ids else None
        if token is not None and token.special:
            return int(ids[0])
    return None


class _Renderer:
    """A chat template as a function of the question; `parts` whether a message is a list of parts or a text."""

    def __init__(self, chat_template: str, processor: Any, system: str | None, before: str, *, parts: bool):
        self.chat_template, self.processor, self.system = _dated(chat_template), processor, system
        self.before, self.parts = before, parts

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
                    self.processor.tokenizer.apply_chat_template(
                        chat,
                        chat_template=self.chat_template,
                        tokenize=False,
                        add_generation_prompt=answer is None,
                        **more,
                    )
                )
            if len(text) > LONGEST:
                raise ValueError(f"it makes {len(text)} characters of one question")
            return text
        except Exception as error:  # Jinja, and whatever a template does with its variables
            raise ValueError(" ".join(f"{type(error).__name__}: {error}".split())) from None

    def _message(self, role: str, text: str, *, image: bool = False) -> dict[str, Any]:
        before = self.before if image else ""
        if self.parts:
            parts = [{"type": "text", "text": before}] * bool(before) + [{"type": "image"}] * image
            return {"role": role, "content": [*parts, {"type": "text", "text": text}]}
        return {"role": role, "content": f"{before}{self.processor.image_token}\n{text}" if image else text}


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
