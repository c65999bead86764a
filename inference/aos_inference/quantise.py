"""Coarser versions of a model file: what an operator would run to save memory and time."""

import ctypes
from pathlib import Path
from typing import Final

import llama_cpp

from aos_inference.errors import InferenceError
from aos_inference.llama import engine_name

KINDS: Final = {
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q3_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q3_K_M,
    "Q2_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K,
}
"""llama.cpp's names of the kinds, from fine to coarse."""


class NotQuantised(InferenceError):
    """llama.cpp cannot quantise this model."""


def quantise(model: Path, kind: str, target: Path, threads: int) -> None:
    """Write the model, quantised or not, as another kind. Raises NotQuantised; the target may be there, unusable, then."""
    engine_name()  # from here on llama.cpp logs to where ours does
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = KINDS[kind], threads, True
    status = llama_cpp.llama_model_quantize(str(model).encode(), str(target).encode(), ctypes.byref(params))
    if status != 0:
        raise NotQuantised(f"llama.cpp cannot make a {kind} of {model} (status {status}).")


def coarser(model: Path, folder: Path, threads: int, most: int = 4) -> dict[str, Path]:
    """Up to `most` smaller versions of the model, the finest first, written to the folder: their files by kind.

    Kinds that llama.cpp cannot make of this model are left out.
    """
    made: dict[str, Path] = {}
    for kind in KINDS:
        target = folder / f"{kind}.gguf"
        try:
            quantise(model, kind, target, threads)
        except NotQuantised:
            target.unlink(missing_ok=True)
            continue
        if len(made) < most and target.stat().st_size < 0.98 * model.stat().st_size:
            made[kind] = target
        else:
            target.unlink()
    return made
