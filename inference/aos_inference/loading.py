"""Makes a model file ready to serve: hashed, loaded, with caches that fit and an engine around it."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from aos_inference import digest, filling, memory
from aos_inference.chat import ChatFormat
from aos_inference.engine import Engine
from aos_inference.errors import ContextTooLarge, InvalidField, ModelUnreadable
from aos_inference.options import ServeOptions
from aos_inference.progress import Progress
from aos_inference.rehearsal import rehearse
from aos_inference.scheduler import Limits
from aos_inference.schemas import ModelCard
from aos_inference.worker import Vocabulary
from aos_protocol.fields import Ability

if TYPE_CHECKING:
    from aos_inference import llama

_DEFAULT_CONTEXT: Final = 4096
_QUEUE_PER_SLOT: Final = 8
_MOST_QUEUED_TOKENS: Final = 2**20
"""Tokens that may wait, unless the slots alone hold more: token ids take 8 bytes each."""
_BYTES_PER_THREAD: Final = 256 * 2**20

_log = structlog.get_logger(__name__)


class Loaded(NamedTuple):
    """What a `worker.Worker` is made of, in its order."""

    card: ModelCard
    engine: Engine
    vocabulary: Vocabulary
    chat_format: ChatFormat | None
    filled: filling.Filling | None = None


@contextmanager
def loaded(options: ServeOptions, digests: Path | None) -> Iterator[Loaded]:
    """Load a model that `gguf.check` has let pass; it is freed on leaving. `digests` is the folder that remembers them; None: measure.

    When serving failed it is not: the engine's thread may still be computing, and the process must end anyway.
    Raises StartupError.
    """
    # OpenMP's threads otherwise spin while they wait for each other: where another process wants the processors
    # too, a token then takes up to a hundred times as long. OpenMP reads this when llama.cpp is loaded, below.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Python's own handler would raise inside llama.cpp's callbacks, where exceptions get lost.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Where llama.cpp gives up it would start a debugger on this process, if there is one.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    path, template = options.path, filling.template(options.fim)
    sha256 = digest.of_file(path, digests, Progress(f"Hashing {path.name}"))
    rehearse(path, lambda: opened(options)[:2])
    model, backend, length = opened(options, Progress(f"Loading {path.name}"))
    from aos_inference import llama

    chat_format, filled = _chat_format(model), filling.choose(model, template)
    card = ModelCard(
        name=options.name,
        sha256=sha256,
        size=path.stat().st_size,
        context=length,
        vocabulary=model.vocabulary,
        engine=llama.engine_name(),
        able=abilities(chat_format, filled),
    )
    limits = Limits(
        slots=options.slots,
        requests=_QUEUE_PER_SLOT * options.slots,
        tokens=max(_MOST_QUEUED_TOKENS, length * options.slots),
        rows=backend.rows,
        outputs=backend.outputs,
    )
    yield Loaded(card, Engine(backend, model, length, limits), model, chat_format, filled)
    backend.close()
    model.close()


def abilities(chat_format: ChatFormat | None, filled: filling.Filling | None) -> list[Ability]:
    """What the model takes beside a plain prompt, of what has been found for it."""
    can: list[tuple[Ability, object]] = [("chat", chat_format), ("fim", filled), ("logprobs", True)]
    return [ability for ability, found in can if found is not None]


def opened(
    options: ServeOptions, progress: Callable[[float], None] = lambda _: None
) -> "tuple[llama.Model, llama.Context, int]":
    """The model, its caches, and how many tokens each slot holds. Raises StartupError."""
    from aos_inference import llama

    slots, cache_type = options.slots, options.cache_type
    model = llama.Model(options.path, progress)
    length = _context_length(options.context, model.trained_context)
    attention = model.attention_bytes(length, slots) if cache_type == "F16" else 0
    _check_memory(model.cache_bytes(length, slots, cache_type) + attention, length, slots)
    threads = options.threads or _threads(options.path)
    try:
        backend = llama.Context(model, length, slots, threads, cache_type=cache_type)
    except llama.DecodeFailed as error:
        raise ModelUnreadable(
            f"llama.cpp cannot run {options.path}: {error}. Choose another file."
        ) from error
    _log.info("loaded", context=length, slots=slots, threads=threads, cache_type=cache_type)
    return model, backend, length


def _threads(path: Path) -> int:
    """As many as the model's size is worth: a small one loses more by handing over than it gains."""
    return min(len(os.sched_getaffinity(0)), 1 + path.stat().st_size // _BYTES_PER_THREAD)


def _context_length(asked: int | None, trained: int) -> int:
    if trained < 1:  # llama.cpp would take it for four thousand million
        raise ModelUnreadable(
            f"the file says that its model was trained for {trained:,} tokens: it is damaged. Download it again."
        )
    if asked is None:
        return min(trained, _DEFAULT_CONTEXT)
    if asked > trained:
        raise ContextTooLarge(
            f"--context {asked:,} exceeds the {trained:,} tokens that the model was trained for."
        )
    return asked


def _check_memory(needed: int, context: int, slots: int) -> None:
    """Refuse caches that the machine cannot hold: Linux would grant them and kill the process later."""
    available = memory.available()
    if available is not None and needed > available:
        fitting = context * available // needed
        raise ContextTooLarge(
            f"{slots} slots of {context:,} tokens need {needed / 2**30:.1f} GiB beside the model, and "
            f"{available / 2**30:.1f} GiB are free. Give --context {fitting} or less, or fewer --slots."
        )


def _chat_format(model: "llama.Model") -> ChatFormat | None:
    """The model's chat format; None, with a word in the log, if it has none that works."""
    if model.chat_template is None:
        return None
    try:
        return ChatFormat(model.chat_template, model)
    except InvalidField as error:
        _log.warning("chat is off", reason=str(error))
        return None
