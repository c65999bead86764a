"""How models that fill in the middle are asked to: the markers that each family was trained with, as data, and the prompt made of them.

The texts are those of the model cards: what stands before the gap, what stands behind it, and then the model writes what is between.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from aos_protocol.errors import InvalidTemplate

Order: TypeAlias = Literal["psm", "spm"]
"""Which stands first in the prompt, the prefix or the suffix; the middle comes last in both."""


class Part(NamedTuple):
    """A stretch of a prompt; a `marker` is the template's own and may be read as special tokens, anything else may not."""

    text: str
    marker: bool


@dataclass(frozen=True)
class FimTemplate:
    """What a prompt for filling in is made of: the markers before prefix and suffix and at the end, and what an answer stops at.

    `files` are the markers that the family was trained to see before the name of a repository or of another file.
    """

    name: str
    prefix: str
    suffix: str
    middle: str
    order: Order = "psm"
    stops: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def parts(self, prefix: str, suffix: str) -> tuple[Part, ...]:
        """Return the prompt in pieces, for whoever tokenises markers and texts apart; empty pieces are left out."""
        before, behind = (self.prefix, prefix), (self.suffix, suffix)
        pairs = (before, behind) if self.order == "psm" else (behind, before)
        parts = [Part(text, index == 0) for pair in pairs for index, text in enumerate(pair)]
        return tuple(part for part in (*parts, Part(self.middle, marker=True)) if part.text)


TEMPLATES: Final = {
    template.name: template
    for template in (
        FimTemplate("codellama", "<PRE> ", " <SUF>", " <MID>", stops=("<EOT>",)),
        FimTemplate(
            "deepseek",
            "<｜fim▁begin｜>",  # noqa: RUF001 (the bars are U+FF5C)
            "<｜fim▁hole｜>",  # noqa: RUF001
            "<｜fim▁end｜>",  # noqa: RUF001
            stops=("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001
        ),
        FimTemplate(
            "starcoder",
            "<fim_prefix>",
            "<fim_suffix>",
            "<fim_middle>",
            stops=("<|endoftext|>", "<file_sep>"),
            files=("<repo_name>", "<file_sep>"),
        ),
        FimTemplate(
            "codegemma",
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
            stops=("<|file_separator|>", "<|file_sep|>", "<|fim_prefix|>", "<|fim_pad|>"),
            files=("<|file_separator|>", "<|repo_name|>", "<|file_sep|>"),
        ),
    )
}
"""The templates that have a name."""

_FAMILIES: Final = (
    ("codellama", re.compile(r"code[-_ ]?llama")),
    ("deepseek", re.compile(r"deepseek[-_ ]?(coder|v[23])")),
    ("starcoder", re.compile(r"star[-_ ]?coder|stable[-_ ]?code")),
    ("codegemma", re.compile(r"code[-_ ]?gemma|qwen[\d.]*[-_ ]?coder")),  # Qwen took over its markers
)
_GAPS: Final = ("{prefix}", "{suffix}")


def choose(model_name: str) -> FimTemplate | None:
    """Return the template of the family that a model's name belongs to, `codellama:7b-code` for one; None when it names none."""
    lowered = model_name.lower()
    return next((TEMPLATES[name] for name, family in _FAMILIES if family.search(lowered)), None)


def custom(text: str, stops: tuple[str, ...] = ()) -> FimTemplate:
    """Return a template of one's own, from a text with `{prefix}` and `{suffix}` in it, each once, in either order.

    Raises `InvalidTemplate` for any other text.
    """
    if any(text.count(gap) != 1 for gap in _GAPS):
        raise InvalidTemplate
    order: Order = "psm" if text.index(_GAPS[0]) < text.index(_GAPS[1]) else "spm"
    first, between, last = re.split(r"\{prefix\}|\{suffix\}", text)
    prefix, suffix = (first, between) if order == "psm" else (between, first)
    return FimTemplate("custom", prefix, suffix, last, order, stops)


def render(template: FimTemplate, prefix: str, suffix: str) -> str:
    """Return the prompt as one text, for servers that take nothing else.

    They read markers in the job's own text as markers, too; where tokens can be given, `FimTemplate.parts` keeps them apart.
    """
    return "".join(part.text for part in template.parts(prefix, suffix))


def split(template: FimTemplate, prompt: str) -> tuple[str, str] | None:
    """Return the prefix and the suffix of a prompt that its sender has rendered by this template; None for any other prompt.

    Editors do that themselves. White space at the markers' edges may be missing, as some of them leave it out. Other files that an editor puts
    before the first marker, each after a marker of the family's own, become the beginning of the prefix.
    """
    markers = (template.prefix, template.suffix, template.middle)
    bare = [marker.strip() for marker in markers]
    if not all(bare) or any(prompt.count(marker) != 1 for marker in bare):
        return None
    first, second = (0, 1) if template.order == "psm" else (1, 0)
    head, _, rest = prompt.partition(bare[second])
    context, opened, one = head.partition(bare[first])
    if not opened or not rest.rstrip().endswith(bare[2]):
        return None
    if not context.strip():
        context = ""
    elif not context.startswith(template.files):
        return None
    gap, end = _edges(template, second), _edges(template, 2)
    one = one.removeprefix(_edges(template, first)[1]).removesuffix(gap[0])
    two = rest.rpartition(bare[2])[0].removeprefix(gap[1]).removesuffix(end[0])
    prefix, suffix = (one, two) if template.order == "psm" else (two, one)
    return context + prefix, suffix


def _edges(template: FimTemplate, index: int) -> tuple[str, str]:
    """The white space before and behind a marker."""
    marker = (template.prefix, template.suffix, template.middle)[index]
    return marker[: len(marker) - len(marker.lstrip())], marker[len(marker.rstrip()) :]
