"""Chat messages as prompt tokens, by the model's own template, so that no message can forge a control token.

The template is Jinja from the model file; it runs in Jinja's sandbox. Its output is split at control tokens, but only at
those that the template wrote: messages are marked beforehand so that their text matches none. What lies between, template
text and messages together, is then tokenised as plain text, which splits words as the model was trained to see them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn, Protocol

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aos_inference.errors import InvalidField

_TEMPLATE_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class Vocabulary(Protocol):
    """What chat needs of `llama.Model`."""

    bos: int
    eos: int
    adds_bos: bool

    def special_tokens(self) -> Mapping[str, int]:
        """The control tokens by their text."""
        ...

    def token_text(self, token: int) -> str:
        """How the vocabulary spells a token."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text in which control tokens are mere text, without BOS."""
        ...


class ChatFormat:
    """A compiled chat template. Raises InvalidField for a source that is no valid template."""

    def __init__(self, source: str, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        # A single character cannot be taken apart by a mark, so such a token is never read from a template.
        self._special = {text: token for text, token in vocabulary.special_tokens().items() if len(text) > 1}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except _TEMPLATE_FAILURES as error:
            raise InvalidField(
                f"messages: the model's chat template is broken ({error}). Send a prompt."
            ) from error

    def tokens(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Prompt tokens of messages with `role` and `content`, up to where the assistant's answer begins.

        Raises InvalidField, with the template's own words, when the template refuses the messages.
        """
        mark = _unused_character(message["content"] for message in messages)
        shielded = [{**message, "content": self._shield(message["content"], mark)} for message in messages]
        rendered = self._render(shielded)
        tokens: list[int] = []
        end = 0
        for match in self._pattern.finditer(rendered):
            tokens += self._vocabulary.tokenize(rendered[end : match.start()].replace(mark, ""))
            tokens.append(self._special[match.group()])
            end = match.end()
        tokens += self._vocabulary.tokenize(rendered[end:].replace(mark, ""))
        if self._vocabulary.adds_bos and tokens[:1] != [self._vocabulary.bos]:
            tokens.insert(0, self._vocabulary.bos)
        return tokens

    def _shield(self, content: str, mark: str) -> str:
        """Put the mark after the first character of whatever reads as a control token, or begins one at the end.

        The end counts with and without trailing white space, since many templates trim.
        """
        starts = {match.start() for match in re.finditer(f"(?={self._pattern.pattern})", content)}
        trimmed = content.rstrip()
        longest = max(map(len, self._special), default=0)
        for start in range(max(0, len(trimmed) - longest), len(content)):
            tails = (content[start:], trimmed[start:])
            if any(tail and text.startswith(tail) for tail in tails for text in self._special):
                starts.add(start)
        pieces = (char + mark if index in starts else char for index, char in enumerate(content))
        return "".join(pieces) if starts else content

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        vocabulary = self._vocabulary
        try:
            return self._template.render(
                messages=messages,
                bos_token=vocabulary.token_text(vocabulary.bos),
                eos_token=vocabulary.token_text(vocabulary.eos),
                add_generation_prompt=True,
            )
        except _TEMPLATE_FAILURES as error:
            raise InvalidField(f"messages: the model's chat template refuses them: {error}") from error


def _refuse(reason: object) -> NoReturn:
    raise jinja2.TemplateError(str(reason))


def _unused_character(texts: Iterable[str]) -> str:
    """A private-use character that occurs in none of the texts."""
    used = set().union(*texts)
    return next(char for char in map(chr, range(0x100000, 0x10FFFE)) if char not in used)
