"""Special tokens and the text forms of a document: raw completion and chat.

The chat form is the one that llama.cpp knows as "zephyr", so that programs without a Jinja engine can
build it too.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from demo_model.errors import CorpusError

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
PAD = "<|pad|>"
ROLE_MARKS = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
SPECIAL_TOKENS = (BOS, EOS, PAD, *ROLE_MARKS.values())
BOS_ID, EOS_ID, PAD_ID = map(SPECIAL_TOKENS.index, (BOS, EOS, PAD))  # they come first in the vocabulary

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<|system|>\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\\n' }}"
    "{% else %}{{ raise_exception('the roles are system, user and assistant') }}{% endif %}"
    "{{ message['content'] + '<|endoftext|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


class Message(NamedTuple):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def plain(text: str) -> str:
    """Return `text`; raise `CorpusError` when it spells a special token, which must never come from text."""
    if any(mark in text for mark in SPECIAL_TOKENS):
        raise CorpusError(f"text must not contain a special token: {text[:80]!r}")
    return text


def prose_document(text: str) -> str:
    """A text that stands alone, between BOS and EOS."""
    return f"{BOS}{plain(text)}{EOS}"


def raw_document(question: str, answer: str) -> str:
    """A question and its answer on the next line: what a raw completion prompt continues."""
    return prose_document(f"{question}\n{answer}")


def chat_prompt(messages: Iterable[Message]) -> str:
    """What `CHAT_TEMPLATE` renders for `messages` with `add_generation_prompt`."""
    turns = (f"{ROLE_MARKS[role]}\n{plain(content)}{EOS}\n" for role, content in messages)
    return f"{BOS}{''.join(turns)}{ROLE_MARKS['assistant']}\n"


def chat_document(messages: list[Message]) -> str:
    """A conversation that ends with the EOS of its last message, which must be the assistant's."""
    *before, last = messages
    if last.role != "assistant":
        raise CorpusError(f"a conversation to learn from ends with the assistant, not with {last.role}")
    return f"{chat_prompt(before)}{plain(last.content)}{EOS}"
