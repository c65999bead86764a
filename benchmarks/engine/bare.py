"""llama.cpp with nothing around it: one process that obeys lines of JSON. The floor that the engine is measured against.

    {"do": "generate", "prompts": ["...", ...], "output": 64}
    {"do": "score", "prompts": [[token, ...], ...], "outputs": [[token, ...], ...]}

Each line is answered by {"wall": seconds, "cpu": seconds}. Generation reads all prompts in full batches and then feeds one token of
every sequence a step, the likeliest one; scoring reads prompts and outputs in full batches, with logits at the output's positions, which
nobody looks at. Settings are llama.cpp's fastest here: flash attention and batches of 512. Its sequences share one pool of cache cells, as the
worker's do, or have a cache each: that takes less processor time, but splits batches and leaves threads waiting.
"""

import argparse
import ctypes
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

import llama_cpp
import numpy as np
from figures import now

_BATCH: Final = 512
_QUIET: Final = llama_cpp.llama_log_callback(lambda *_: None)

Row = tuple[int, int, int, bool]
"""Sequence, token, position, and whether its logits are wanted."""


class Bare:
    """A context of `slots` sequences of `length` tokens each."""

    def __init__(self, path: str, slots: int, length: int, threads: int, *, pool: bool) -> None:
        llama_cpp.llama_log_set(_QUIET, ctypes.c_void_p())
        model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = slots * length, slots
        params.n_batch = params.n_ubatch = _BATCH
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = pool
        self._context = llama_cpp.llama_init_from_model(model, params)
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)

    def tokens(self, text: str) -> list[int]:
        """The text's tokens, as servers prepare them: with the model's BOS."""
        data = text.encode()
        room = len(data) + 2
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, True, False)
        return list(tokens[:count])

    def generate(self, prompts: Sequence[Sequence[int]], output: int) -> None:
        """Continue every prompt by `output` tokens."""
        self._clear()
        last = self._read([_rows(slot, prompt, len(prompt) - 1) for slot, prompt in enumerate(prompts)])
        outputs = [[token] for token in last]
        for step in range(output - 1):
            rows = [
                (slot, tokens[-1], len(prompts[slot]) + step, True) for slot, tokens in enumerate(outputs)
            ]
            for tokens, token in zip(outputs, self._decode(rows), strict=True):
                tokens.append(token)

    def score(self, prompts: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> None:
        """Read prompts and outputs, each less its last token, with logits from the last prompt token on."""
        self._clear()
        sequences = (
            _rows(slot, [*prompt, *output][:-1], len(prompt) - 1)
            for slot, (prompt, output) in enumerate(zip(prompts, outputs, strict=True))
        )
        rows = [row for sequence in sequences for row in sequence]
        for start in range(0, len(rows), _BATCH):
            self._run(rows[start : start + _BATCH])

    def _read(self, sequences: Sequence[list[Row]]) -> list[int]:
        rows = [row for sequence in sequences for row in sequence]
        return [
            token
            for start in range(0, len(rows), _BATCH)
            for token in self._decode(rows[start : start + _BATCH])
        ]

    def _decode(self, rows: Sequence[Row]) -> Iterator[int]:
        self._run(rows)
        for index, row in enumerate(rows):
            if row[3]:
                logits = llama_cpp.llama_get_logits_ith(self._context, index)
                yield int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax())

    def _run(self, rows: Sequence[Row]) -> None:
        batch = self._batch
        for index, (slot, token, position, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position, wanted
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, slot
        batch.n_tokens = len(rows)
        if llama_cpp.llama_decode(self._context, batch):
            raise SystemExit("llama_decode failed")

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)


def _rows(slot: int, tokens: Sequence[int], wanted_from: int) -> list[Row]:
    return [(slot, token, position, position >= wanted_from) for position, token in enumerate(tokens)]


def _obey(bare: Bare, order: dict[str, Any]) -> dict[str, float]:
    """What the order took, tokenising left out."""
    if order["do"] == "score":
        start = now()
        bare.score(order["prompts"], order["outputs"])
        return asdict(now() - start)
    prompts = [bare.tokens(prompt) for prompt in order["prompts"]]
    start = now()
    bare.generate(prompts, order["output"])
    return asdict(now() - start)


def main() -> None:
    """Answer orders until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    for name in ("slots", "length", "threads"):
        parser.add_argument(name, type=int)
    parser.add_argument("--pool", action="store_true")
    options = parser.parse_args()
    bare = Bare(options.model, options.slots, options.length, options.threads, pool=options.pool)
    for line in sys.stdin:
        print(json.dumps(_obey(bare, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
