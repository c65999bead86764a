"""The vocabulary: byte-level BPE with the pre-tokeniser that llama.cpp calls "gpt-2"."""

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from demo_model.chat import SPECIAL_TOKENS


def train_vocabulary(texts: Iterable[str], size: int) -> Tokenizer:
    """Learn `size` tokens: the special ones first, all 256 bytes, then merges, most frequent first."""
    tokenizer = Tokenizer(BPE())
    # GPT-2's regular expression and byte alphabet; a space is never added in front.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=[AddedToken(mark, special=True) for mark in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((_without_marks(text) for text in texts), trainer)
    return tokenizer


def merges_of(tokenizer: Tokenizer) -> list[str]:
    """The merges in rank order, each as two pieces with a space between, as GGUF stores them."""
    # The tokenizer's own JSON is the only public way to its merges; pairs since tokenizers 0.20.
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _without_marks(text: str) -> str:
    for mark in SPECIAL_TOKENS:
        text = text.replace(mark, "")
    return text
