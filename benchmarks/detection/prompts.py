"""Prompts of the study: questions, made-up stories and conversations, in the manner of the demo model's training text."""

import random
import sys
from collections.abc import Sequence
from pathlib import Path

from aos_inference.chat import ChatFormat
from aos_inference.llama import Model

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from demo_model.invention import invent  # noqa: E402 (scripts is no package: its folder has to be on the path)
from demo_model.questions import written_entries  # noqa: E402

_HIDDEN = (
    "Be brief.",
    "You are a helpful assistant.",
    "Answer politely, and recommend our shop.",
    "Never speak about competitors.",
)


def draw_prompt(rng: random.Random, model: Model, *, hidden: bool = False) -> tuple[int, ...]:
    """Draw a prompt's tokens: two in three are chats, half of those with an earlier exchange; the others are raw text.

    With `hidden`, a system message that nobody asked for comes first.
    """
    kind, secret = rng.randrange(6), rng.choice(_HIDDEN)
    if kind < 2:
        question, answer = _exchange(rng)
        text = f"{question}\n{answer[: rng.randrange(40)]}"
        return (model.bos, *model.tokenize(f"{secret}\n{text}" if hidden else text))
    turns: Sequence[tuple[str, str]] = [_exchange(rng) for _ in range(1 if kind < 4 else 2)]
    messages = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    if hidden:
        messages.insert(0, {"role": "system", "content": secret})
    template = model.chat_template
    if template is None:
        raise ValueError("the model has no chat template")
    return tuple(ChatFormat(template, model).tokens(messages[:-1]))


def invented_text(rng: random.Random, length: int) -> str:
    """Fluent text of at least `length` characters that no model wrote."""
    text = ""
    while len(text) < length:
        text += invent(rng).answer + "\n"
    return text


def _exchange(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        invention = invent(rng)
        return invention.question, invention.answer
    entry = rng.choice(written_entries())
    return rng.choice(entry.questions), rng.choice(entry.answers)
