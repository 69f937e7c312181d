"""The prompt around a caption: LLaVA-1.5's, a given one, or that of the checkpoint's own chat template."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_modules.backbones.chat.chat_template import LONGEST, chat_template_of, read_template

# LLaVA's conversation template v1 (Vicuna), with which LLaVA-1.5 was trained
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
QUESTION = "Does this image match the following caption: {caption}?\nAnswer Yes/No directly."
WORDS = ("Yes", "No")
VICUNA_TEMPLATE = "USER: {image}\n{question} ASSISTANT: "
AUTO, VICUNA, CHECKPOINT = "auto", "vicuna", "checkpoint"
THOUGHT = "<think>"
"""What the answers of thinking models begin with."""
TASK_START = "{image}<bos>"
"""How a template begins where the processor itself writes the start token, and a line break at the end (PaliGemma)."""


@dataclass(frozen=True)
class YesNoPrompt:
    """The text around a caption; the defaults are those of LLaVA-1.5 and LLaVA-score.

    Attributes:
        system: sentence in front of the template; none for "".
        question: with {caption} where the caption stands.
        template: with {image} and behind it {question}. It ends where the answer begins; a space at its end belongs
            to the answer, whose token then begins a word.
        words: the answers to a caption that matches, and to one that does not.
    """

    system: str = SYSTEM
    question: str = QUESTION
    template: str = VICUNA_TEMPLATE
    words: tuple[str, str] = WORDS

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
        # not `format`: a caption may hold braces
        question = self.question.replace("{caption}", caption)
        before, after = self.template.split("{question}")
        return f"{system}{before.replace('{image}', image_token)}{question}{after.removesuffix(' ')}"

    @property
    def answers(self) -> tuple[str, str]:
        """Yes and No as they follow the prompt."""
        yes, no = self.words
        return (f" {yes}", f" {no}") if self.template.endswith(" ") else (yes, no)

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


def image_in_both(place: str) -> str:
    """That a template and a question both want to place the image; `place` is put before a key."""
    return (
        f"`{place}template` must hold all that is in front of the image, so `{place}question` must be without "
        "{image} beside it: give the reranker's question and its system message as texts"
    )


def prompt_faults(texts: Mapping[str, str | None], names: Sequence[str], place: str) -> Iterator[str]:
    """What is wrong with the texts of a `model` section.

    Args:
        texts: by key, a template among them.
        names: what the template may be beside a text of its own.
        place: what errors put before a key.
    """
    for key, text in texts.items():
        if fault := text_fault(text or ""):
            yield f"`{place}{key}` {fault}"
    template = texts["template"]
    if template is not None and template not in names and (fault := template_fault(template)):
        yield f"`{place}template` must be {', '.join(names[:-1])} or {names[-1]}, or {fault}"


@dataclass(frozen=True)
class WantedPrompt:
    """The prompt as far as settings give it; the checkpoint's files decide the rest.

    Attributes:
        template: `auto`, `vicuna`, `checkpoint`, or a template of `YesNoPrompt`.
        system: None for that of the template.
        question: None for LLaVA-score's; of a chat VLM it may hold {image} in front of {caption}.
        words: the answers to a caption that matches, and to one that does not.
    """

    template: str = AUTO
    system: str | None = None
    question: str | None = None
    words: tuple[str, str] = WORDS

    def without_checkpoint(self) -> YesNoPrompt:
        """The prompt where no chat template has a say: LLaVA-1.5's, or a template that is given."""
        given = {"system": self.system, "question": self.question}
        if self.template not in (AUTO, VICUNA, CHECKPOINT):
            # a given template is whole without LLaVA's sentence
            given |= {"template": self.template, "system": self.system or ""}
        return YesNoPrompt(**{name: text for name, text in given.items() if text is not None}, words=self.words)

    def of_chat(self, processor: Any, template: str = "") -> YesNoPrompt:
        """The prompt for a chat VLM: that of its chat template, unless a template is given.

        Args:
            processor: with its tokenizer and, in one of the two, perhaps a chat template.
            template: of `YesNoPrompt`, where there is no chat template; "" where there has to be one.

        Raises:
            ValueError: the prompt cannot be known, or the chat template does not make one.
        """
        before, image, question = (QUESTION if self.question is None else self.question).rpartition("{image}")
        chat_template, system = chat_template_of(processor), self.system or ""
        if self.template not in (AUTO, CHECKPOINT):
            if image:
                raise ValueError(f"{image_in_both('model.')}.")
            made = self.without_checkpoint().template
        elif chat_template is not None:
            made, system = read_template(chat_template, processor, self.system, before), ""  # it holds the message
            if made.rstrip().endswith(THOUGHT):
                raise ValueError(
                    f"model.checkpoint must answer at once, and its chat template begins with a thought ({THOUGHT}): "
                    "choose the Instruct checkpoint, or give a model.template that ends the thought."
                )
        elif template:
            made = template
        else:
            raise ValueError(
                "model.template must say what is around a question, since the checkpoint has no chat template: give a "
                "text with {image} and {question}."
            )
        if image and before not in made.partition("{image}")[0]:
            raise ValueError(
                f"model.question has {before!r:.60} in front of the image, and the checkpoint's prompt begins with the "
                "image; give another question, or a model.template with all of it."
            )
        return YesNoPrompt(system=system, question=question, template=made, words=self.words)

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


def describe(prompt: YesNoPrompt) -> str:
    """A prompt in a few words, for people."""
    if prompt.template == VICUNA_TEMPLATE:
        return "LLaVA-1.5's" + ("" if prompt == YesNoPrompt() else f", with {prompt.system!r} and {prompt.question!r}")
    return repr(f"{prompt.system} {prompt.template}" if prompt.system else prompt.template)


def is_vicuna(template: str) -> bool:
    """Whether a template is LLaVA-1.5's, with its system sentence or without one, whatever white space it has.

    >>> is_vicuna("<s>USER: {image}\\n{question} ASSISTANT: "), is_vicuna("[INST] {image}\\n{question} [/INST] ")
    (True, False)
    """
    words = template.removeprefix("<s>").split()
    return words in ([*system.split(), *VICUNA_TEMPLATE.split()] for system in ("", SYSTEM))


def prompt_texts(prompt: YesNoPrompt, captions: Iterable[str]) -> list[str]:
    """Texts that teach a tokenizer the prompt, both answers and the words of `captions`."""
    answers = [prompt("", "") + answer for answer in prompt.answers]
    # a hundred times, so that the trainer merges prompt and answers into few tokens before any caption
    return [*answers * 100, *(prompt(caption, "") for caption in captions)]
