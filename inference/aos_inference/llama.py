"""llama.cpp through llama-cpp-python's ctypes layer: a model, its vocabulary, and a context with its batch.

Nothing here is safe to call from two threads at once, and every object must be closed before the interpreter ends.
Three things keep the logits of a sequence free of its neighbours, measured bit for bit: each sequence has a cache of its
own (`kv_unified` off); attention runs without flash attention, whose sums depend on the number of threads; and a batch
has no more rows than llama.cpp computes exactly as it computes one alone (`Context.settle`).
"""

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import llama_cpp
import numpy as np
import structlog
from numpy.typing import NDArray

from aos_inference.errors import ContextTooLarge, InferenceError, ModelUnreadable
from aos_inference.scheduler import PREFILL_CHUNK

_log = structlog.get_logger("llama.cpp")
# ggml_log_level in ggml.h; llama-cpp-python's own table of it is out of date.
_ERROR_LEVEL: Final = 4
_CONTINUED: Final = 5
_MOST_ROWS: Final = 16


class DecodeFailed(InferenceError):
    """llama.cpp could not process a batch."""


class _LogSink:
    """Puts llama.cpp's log lines, which arrive in fragments, into ours at debug level, and keeps the last errors."""

    def __init__(self) -> None:
        self._line = ""
        self._level = 0
        self.errors: deque[str] = deque(maxlen=3)
        self.callback = llama_cpp.llama_log_callback(self._receive)

    def _receive(self, level: int, text: bytes, _: ctypes.c_void_p) -> None:
        if level != _CONTINUED:
            self._level = level
        self._line += text.decode("utf-8", "replace")
        *lines, self._line = self._line.split("\n")
        for line in filter(None, lines):
            _log.debug(line)
            if self._level == _ERROR_LEVEL:
                self.errors.append(line)


_SINK: Final = _LogSink()


def engine_name() -> str:
    """The build that computes: llama.cpp's version, llama-cpp-python's, and the processor features in use."""
    llama_cpp.llama_log_set(_SINK.callback, ctypes.c_void_p())
    features = llama_cpp.llama_print_system_info().decode()
    used = "+".join(
        part.split("=")[0].strip().replace(" : ", ":")
        for part in features.split("|")
        if part.strip().endswith("= 1")
    )
    return f"llama.cpp {llama_cpp.llama_version().decode()} llama-cpp-python {version('llama-cpp-python')} {used}"


class Model:
    """A loaded GGUF model and its vocabulary. Raises ModelUnreadable when llama.cpp refuses the file."""

    def __init__(self, path: Path, progress: Callable[[float], None] = lambda _: None) -> None:
        llama_cpp.llama_log_set(_SINK.callback, ctypes.c_void_p())
        _SINK.errors.clear()

        def report(fraction: float, _: ctypes.c_void_p) -> bool:
            progress(fraction)
            return True

        params = llama_cpp.llama_model_default_params()
        params.progress_callback = llama_cpp.llama_progress_callback(report)
        self.handle = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            said = "; ".join(_SINK.errors) or "no reason given"
            raise ModelUnreadable(f"llama.cpp cannot load {path}: {said}. Try another file or a newer build.")
        self._vocab = llama_cpp.llama_model_get_vocab(self.handle)
        self.vocabulary: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.trained_context: int = llama_cpp.llama_model_n_ctx_train(self.handle)
        self.bos: int = llama_cpp.llama_vocab_bos(self._vocab)
        self.eos: int = llama_cpp.llama_vocab_eos(self._vocab)
        self.adds_bos: bool = llama_cpp.llama_vocab_get_add_bos(self._vocab)

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the model's own chat template, or None."""
        source = llama_cpp.llama_model_chat_template(self.handle, None)
        return source.decode("utf-8", "replace") if source else None

    def special_tokens(self) -> dict[str, int]:
        """The control tokens by their text, such as `<|im_end|>`."""
        control = (
            token for token in range(self.vocabulary) if llama_cpp.llama_vocab_is_control(self._vocab, token)
        )
        return {self.token_text(token): token for token in control}

    def token_text(self, token: int) -> str:
        """How the vocabulary spells a token; empty for an id that it does not have."""
        if not 0 <= token < self.vocabulary:
            return ""
        text: bytes = llama_cpp.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "replace")

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text in which control tokens are mere text, without BOS."""
        if not text:
            return []
        data = text.encode()
        room = len(data) + 2
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, False, False)
        if count < 0:
            raise DecodeFailed(f"llama.cpp needs {-count} tokens for {len(data)} bytes")
        return tokens[:count]

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text; none for control tokens."""
        buffer = ctypes.create_string_buffer(64)
        size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[:size]

    def ends(self, token: int) -> bool:
        """Whether the token ends a generation (EOS, end of turn and the like)."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def cache_bytes(self, context: int, slots: int) -> int:
        """About how much memory the key-value caches of `slots` sequences of `context` tokens take."""
        heads, cached = (
            llama_cpp.llama_model_n_head(self.handle),
            llama_cpp.llama_model_n_head_kv(self.handle),
        )
        width = llama_cpp.llama_model_n_embd(self.handle) * cached // max(heads, 1)
        layers: int = llama_cpp.llama_model_n_layer(self.handle)
        return 2 * 2 * int(width) * layers * context * slots

    def close(self) -> None:
        """Free the model; its contexts must be closed before."""
        llama_cpp.llama_model_free(self.handle)


class Context:
    """The caches of `slots` sequences of at most `length` tokens each, and the batch that feeds them.

    Raises ContextTooLarge when llama.cpp cannot allocate them.
    """

    def __init__(self, model: Model, length: int, slots: int, threads: int) -> None:
        self._vocabulary = model.vocabulary
        capacity = max(PREFILL_CHUNK, slots)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = length * slots, slots
        params.n_batch = params.n_ubatch = capacity
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.kv_unified = False
        params.no_perf = True
        self._handle = llama_cpp.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise ContextTooLarge(
                f"llama.cpp cannot make {slots} contexts of {length:,} tokens: {'; '.join(_SINK.errors)}. "
                "Lower --context or --slots."
            )
        self._memory = llama_cpp.llama_get_memory(self._handle)
        if not self._memory:
            raise ModelUnreadable(
                "The model does not generate text (an encoder or embedding model). Choose another."
            )
        self._batch = llama_cpp.llama_batch_init(capacity, 0, 1)
        self._tokens = np.ctypeslib.as_array(self._batch.token, (capacity,))
        self._positions = np.ctypeslib.as_array(self._batch.pos, (capacity,))
        self._flags = np.ctypeslib.as_array(self._batch.logits, (capacity,))
        # seq_id is an int** whose rows the library allocated one by one: view each.
        self._slots = [np.ctypeslib.as_array(self._batch.seq_id[row], (1,)) for row in range(capacity)]
        np.ctypeslib.as_array(self._batch.n_seq_id, (capacity,))[:] = 1
        self._slot_count = slots
        self.batch_rows = 1

    def settle(self, progress: Callable[[float], None] = lambda _: None) -> None:
        """Find how many sequences may share a batch without changing one bit of each other's logits; use that many.

        llama.cpp picks other routines for one row than for several (F16), or from eight rows on (K-quants), and these
        round differently. So sequences are computed alone, then in growing batches for as long as nothing changes.
        Clears all sequences.
        """
        most = min(self._slot_count, _MOST_ROWS)
        step = max(self._vocabulary // most, 1)
        rows = [(slot, slot * step % self._vocabulary, 0) for slot in range(most)]
        alone = [self._probe([row]) for row in rows]
        self.batch_rows = 1
        for count in range(2, most + 1):
            progress(count / (most + 1))
            if not np.array_equal(self._probe(rows[:count]), np.concatenate(alone[:count])):
                break
            self.batch_rows = count
        progress(1.0)

    def _probe(self, rows: Sequence[tuple[int, int, int]]) -> NDArray[np.float32]:
        logits = self._decode_together(rows)
        for slot, _, _ in rows:
            self._clear(slot)
        return logits

    def _clear(self, slot: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def prefill(
        self, slot: int, tokens: Sequence[int], start: int, *, last: bool
    ) -> NDArray[np.float32] | None:
        """Read prompt tokens at positions `start` and up, a fresh sequence if `start` is 0.

        Returns the logits after them, shape (vocabulary,), if they are the `last` of the prompt.
        Raises DecodeFailed.
        """
        if start == 0:
            self._clear(slot)
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = np.arange(start, start + count)
        self._flags[:count] = 0
        self._flags[count - 1] = last
        for row in range(count):
            self._slots[row][0] = slot
        self._run(count)
        return self._logits([count - 1])[0] if last else None

    def decode(self, rows: Sequence[tuple[int, int, int]]) -> NDArray[np.float32]:
        """Feed one token to each sequence: rows of (slot, token, position).

        Returns the logits after each, shape (rows, vocabulary), a copy. Raises DecodeFailed.
        """
        size = self.batch_rows
        parts = [self._decode_together(rows[start : start + size]) for start in range(0, len(rows), size)]
        return np.concatenate(parts)

    def _decode_together(self, rows: Sequence[tuple[int, int, int]]) -> NDArray[np.float32]:
        for row, (slot, token, position) in enumerate(rows):
            self._slots[row][0] = slot
            self._tokens[row] = token
            self._positions[row] = position
        self._flags[: len(rows)] = 1
        self._run(len(rows))
        return self._logits(range(len(rows)))

    def _run(self, count: int) -> None:
        self._batch.n_tokens = count
        status = llama_cpp.llama_decode(self._handle, self._batch)
        if status != 0:
            raise DecodeFailed(
                f"llama_decode returned {status} for {count} tokens: {'; '.join(_SINK.errors)}"
            )

    def _logits(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Copied, since the next decode overwrites llama.cpp's buffer."""
        out = np.empty((len(rows), self._vocabulary), dtype=np.float32)
        for index, row in enumerate(rows):
            logits = llama_cpp.llama_get_logits_ith(self._handle, row)
            out[index] = np.ctypeslib.as_array(logits, (self._vocabulary,))
        return out

    def close(self) -> None:
        """Free batch and caches."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._handle)
