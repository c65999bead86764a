"""Loads a model once in a process that may die of it: llama.cpp aborts on some damaged files, where no Python can catch it.

What the file's header shows `gguf.check` has refused before; what llama.cpp refuses in good order it refuses here and again in the worker, which says so.
"""

import ctypes
import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Final, NoReturn

from aos_inference.errors import InferenceError, ModelUnreadable

_KEPT: Final = 1 << 16
_PR_SET_PDEATHSIG: Final = 1
_POSITIONS: Final = 16
_FOLDERS: Final = re.compile(r"\S*/(?=\S)")


def rehearse(path: Path) -> None:
    """Load the model in a child process, read a few tokens with it, and let all go. Raises ModelUnreadable when the child is killed by it.

    Call it before llama.cpp is loaded or a thread is started. The file is in the system's cache afterwards, so that loading it takes
    little longer than without. Other systems than Linux do without, for their libraries may not survive a fork.
    """
    if sys.platform != "linux":
        return
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _perform(path, writing)
    os.close(writing)
    said = _read(reading)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise ModelUnreadable(_explained(path, os.WTERMSIG(status), said))


def _explained(path: Path, number: int, said: str) -> str:
    if number == signal.SIGKILL:
        return (
            f"the system killed the process that tried to load {path}, most likely because memory ran out. "
            "Free memory, or choose a smaller file."
        )
    name = signal.Signals(number).name
    return f"llama.cpp crashes on {path} ({name}): {_reason(said)}. It is damaged, or a newer build reads it: download it again."


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


def _perform(path: Path, output: int) -> NoReturn:
    """The child's part. However it ends by itself it ends well: only a signal tells anything that the worker cannot find out itself."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ["GGML_NO_BACKTRACE"] = "1"  # it would look for a debugger
        os.dup2(output, 1)
        os.dup2(output, 2)
        _use(path)
    finally:
        os._exit(0)


def _use(path: Path) -> None:
    from aos_inference import llama

    try:
        model = llama.Model(path)
        context = llama.Context(model, _POSITIONS, 1, 1)
    except InferenceError:
        return
    model.special_tokens()
    tokens = [model.bos, *model.tokenize("Hello, world!\n")][:_POSITIONS]
    rows = [(0, token, place, True) for place, token in enumerate(tokens) if 0 <= token < model.vocabulary]
    for token in tokens:
        model.piece(token)
    context.decode(rows[: context.outputs])
