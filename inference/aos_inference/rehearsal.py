"""Loads a model once in a process that may die of it: llama.cpp aborts on some damaged files, where no Python can catch it.

What the file's header shows `gguf.check` has refused before; what llama.cpp refuses in good order it refuses here and again in the worker, which says so.
"""

import ctypes
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from aos_inference.errors import ContextTooLarge, InferenceError, ModelUnreadable, StartupError

if TYPE_CHECKING:
    from aos_inference import llama

_KEPT: Final = 1 << 16
_PR_SET_PDEATHSIG: Final = 1
_POSITIONS: Final = 2  # the smallest context has room for them
_NO_MEMORY: Final = ("bad_alloc", "MemoryError", "mem_buffer != NULL", "failed to allocate")
_FOLDERS: Final = re.compile(r"\S*/(?=\S)")


def rehearse(path: Path, load: Callable[[], tuple["llama.Model", "llama.Context"]]) -> None:
    """Load the model of this file in a child process, read a few tokens with it, and let all go.

    Call it before llama.cpp is loaded or a thread is started. The file is in the system's cache afterwards, so that loading it takes
    little longer than without. Other systems than Linux do without, for their libraries may not survive a fork. Raises ModelUnreadable
    when the child is killed by the file, and ContextTooLarge when it is for want of memory.
    """
    if sys.platform != "linux":
        return
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _perform(load, writing)
    os.close(writing)
    said = _read(reading)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise _explained(path, os.WTERMSIG(status), said)


def _explained(path: Path, number: int, said: str) -> StartupError:
    why = _reason(said)
    if number == signal.SIGKILL or any(sign in why for sign in _NO_MEMORY):
        return ContextTooLarge(
            f"memory ran out while {path} was loaded ({signal.Signals(number).name}: {why}). "
            "Free some, choose a smaller file, or lower --context or --slots."
        )
    return ModelUnreadable(
        f"llama.cpp crashes on {path} ({signal.Signals(number).name}: {why}). "
        "It is damaged, or needs another build: download it again."
    )


def _reason(said: str) -> str:
    """The line that tells why, of all that was written."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [
        line for line in lines if "GGML_ASSERT" in line or "what():" in line or "error" in line.lower()
    ]
    return _FOLDERS.sub("", (telling or lines or ["it said nothing"])[-1])[-300:]


def _read(descriptor: int) -> str:
    """All that is written to a pipe until its end; the last of it."""
    kept = b""
    with open(descriptor, "rb", buffering=0) as pipe:
        while data := pipe.read(_KEPT):
            kept = (kept + data)[-_KEPT:]
    return kept.decode("utf-8", "replace")


def _perform(load: Callable[[], tuple["llama.Model", "llama.Context"]], output: int) -> NoReturn:
    """The child's part. However it ends by itself it ends well: only a signal tells anything that the worker cannot find out itself."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(output, 1)
        os.dup2(output, 2)
        with suppress(InferenceError):
            _use(*load())
    finally:
        os._exit(0)


def _use(model: "llama.Model", context: "llama.Context") -> None:
    model.special_tokens()
    known = [
        token for token in (model.bos, *model.tokenize("Hello, world!\n")) if 0 <= token < model.vocabulary
    ]
    for token in known:
        model.piece(token)
    context.decode([(0, token, place, True) for place, token in enumerate(known[:_POSITIONS])])
