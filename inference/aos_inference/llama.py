"""llama.cpp through llama-cpp-python's ctypes layer: a model, its vocabulary, and a context with its batch.

Nothing here is safe to call from two threads at once, and every object must be closed before the interpreter ends.
"""

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeAlias

import llama_cpp
import numpy as np
import structlog
from numpy.typing import NDArray

from aos_inference.cache import BITS, CacheType
from aos_inference.errors import ContextTooLarge, InferenceError, ModelUnreadable
from aos_inference.filling import Gap

_log = structlog.get_logger("llama.cpp")
# ggml_log_level in ggml.h; llama-cpp-python's own table of it is out of date.
_ERROR_LEVEL: Final = 4
_CONTINUED: Final = 5

_CACHE_TYPES: Final[dict[CacheType, int]] = {
    "F16": llama_cpp.GGML_TYPE_F16,
    "Q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "Q4_0": llama_cpp.GGML_TYPE_Q4_0,
}
_OUTPUT_BYTES: Final = 64 * 2**20
"""What logits may take in memory, unless the slots alone need more."""

ROWS: Final = 128
"""Rows of a batch, unless told otherwise."""

Row: TypeAlias = tuple[int, int, int, bool]
"""A row of a batch: slot, token, position, and whether the logits after it are wanted."""


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
    def gap(self) -> Gap | None:
        """The tokens by which the model fills in what is between two texts, as its file names them; None if it lacks one."""
        pre, suf, mid = (
            int(of(self._vocab))
            for of in (
                llama_cpp.llama_vocab_fim_pre,
                llama_cpp.llama_vocab_fim_suf,
                llama_cpp.llama_vocab_fim_mid,
            )
        )
        return (
            Gap(pre, suf, mid) if min(pre, suf, mid) >= 0 and max(pre, suf, mid) < self.vocabulary else None
        )

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

    def cache_bytes(self, context: int, slots: int, cache_type: CacheType = "F16") -> int:
        """About how much memory the key-value caches of `slots` sequences of `context` tokens take."""
        heads, cached = (
            llama_cpp.llama_model_n_head(self.handle),
            llama_cpp.llama_model_n_head_kv(self.handle),
        )
        width = llama_cpp.llama_model_n_embd(self.handle) * cached // max(heads, 1)
        layers: int = llama_cpp.llama_model_n_layer(self.handle)
        return int(2 * int(width) * layers * context * slots * BITS[cache_type] / 8)

    def attention_bytes(self, context: int, slots: int) -> int:
        """About how much memory attention takes beside caches of F16: a number for each head, row of a batch and cell."""
        heads: int = llama_cpp.llama_model_n_head(self.handle)
        return 4 * heads * max(ROWS, slots) * context * slots

    def close(self) -> None:
        """Free the model; its contexts must be closed before."""
        llama_cpp.llama_model_free(self.handle)


class Context:
    """The caches of `slots` sequences of at most `length` tokens each, and the batch that feeds them.

    A batch takes `rows` rows, of which `outputs` may want logits (by default what 64 MiB hold, at least one a slot). Caches
    that are not F16 need flash attention, others do without unless it is asked for: on CPUs llama.cpp sums the values of an F16 cache in
    half precision then, cell by cell, and what a long answer loses by that depends on which cells it was given.
    Raises ContextTooLarge when llama.cpp cannot allocate them, or refuses the options.
    """

    def __init__(
        self,
        model: Model,
        length: int,
        slots: int,
        threads: int,
        *,
        cache_type: CacheType = "F16",
        flash_attention: bool | None = None,
        rows: int = ROWS,
        outputs: int | None = None,
    ) -> None:
        self._vocabulary = model.vocabulary
        self.rows = max(rows, slots)
        self.outputs = outputs or min(max(_OUTPUT_BYTES // (4 * model.vocabulary), slots), self.rows)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = length * slots, slots
        params.n_batch = params.n_ubatch = self.rows
        params.n_outputs_max = self.outputs
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if (cache_type != "F16" if flash_attention is None else flash_attention)
            else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.type_k = params.type_v = _CACHE_TYPES[cache_type]
        # One pool of cells: a batch then is one pass whichever slots it holds. With a cache of its own for each sequence,
        # llama.cpp splits a batch wherever slot numbers leave a gap, and every part reads all weights again.
        params.kv_unified = True
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
        self._batch = _Batch(self.rows)
        self.trims = self._can_trim()

    def _can_trim(self) -> bool:
        """Whether a sequence can forget its last tokens; a recurrent state cannot."""
        self.decode([(0, 0, 0, False), (0, 0, 1, False)])
        can = bool(llama_cpp.llama_memory_seq_rm(self._memory, 0, 1, -1))
        self.keep(0, 0)
        return can

    def keep(self, slot: int, length: int) -> None:
        """Let a slot forget all but its first `length` tokens; 0 always works. Raises DecodeFailed."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, slot, length, -1):
            raise DecodeFailed(f"llama.cpp cannot cut slot {slot} back to {length} tokens")

    def decode(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Feed one batch, tokens of a slot in the order of their positions; the logits after the rows that want them.

        Their shape is (such rows, vocabulary), in batch order. They are llama.cpp's own buffer: the next call overwrites
        them. Raises DecodeFailed.
        """
        status = llama_cpp.llama_decode(self._handle, self._batch.filled(rows))
        if status != 0:
            raise DecodeFailed(
                f"llama_decode returned {status} for {len(rows)} tokens: {'; '.join(_SINK.errors)}"
            )
        outputs = sum(row[3] for row in rows)
        if not outputs:
            llama_cpp.llama_synchronize(self._handle)
            return np.empty((0, self._vocabulary), dtype=np.float32)
        logits = llama_cpp.llama_get_logits(self._handle)
        return np.ctypeslib.as_array(logits, (outputs, self._vocabulary))

    def close(self) -> None:
        """Free the caches."""
        llama_cpp.llama_free(self._handle)


class _Batch:
    """A `llama_batch` over arrays of ours, filled by the column."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._flags = np.zeros(capacity, dtype=np.int8)
        self._slots = np.zeros(capacity, dtype=np.int32)
        self._slot_counts = np.ones(capacity, dtype=np.int32)
        # seq_id is an int**: a pointer to each row's slot.
        self._slot_addresses = (
            self._slots.ctypes.data + np.arange(capacity, dtype=np.uintp) * self._slots.itemsize
        )
        self._batch = llama_cpp.llama_batch()
        self._batch.token = _pointer(self._tokens, ctypes.c_int32)
        self._batch.pos = _pointer(self._positions, ctypes.c_int32)
        self._batch.n_seq_id = _pointer(self._slot_counts, ctypes.c_int32)
        self._batch.seq_id = _pointer(self._slot_addresses, ctypes.POINTER(ctypes.c_int32))
        self._batch.logits = _pointer(self._flags, ctypes.c_int8)

    def filled(self, rows: Sequence[Row]) -> llama_cpp.llama_batch:
        """The batch with these rows, valid until the next call."""
        count = len(rows)
        slots, tokens, positions, flags = zip(*rows, strict=True)
        self._slots[:count], self._tokens[:count] = slots, tokens
        self._positions[:count], self._flags[:count] = positions, flags
        self._batch.n_tokens = count
        return self._batch


def _pointer(array: NDArray[Any], kind: type[Any]) -> Any:  # noqa: ANN401
    return array.ctypes.data_as(ctypes.POINTER(kind))
