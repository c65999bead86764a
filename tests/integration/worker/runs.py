"""One text's logits, computed in the ways that the worker and its settings allow: which are deterministic, and how far apart others are.

python -m tests.integration.worker.runs        # prints the table of docs/worker.md, for the demo model
"""

import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple
from unittest.mock import patch

import llama_cpp
import numpy as np
import structlog
from numpy.typing import NDArray

from aos_inference import llama
from aos_inference.cache import CacheType

OUTPUT: Final = 48
_PROMPT: Final = (
    "The sea gives and the sea takes, said the old woman, and nobody knows what it gives next. " * 9
)
_LENGTH: Final = 512
_SLOTS: Final = 8

QUANTISED: Final = {"Q8_0": 7, "Q4_0": 2, "Q4_K_M": 15}  # llama_ftype of llama.h


@dataclass(frozen=True)
class Run:
    """How it is computed: by default alone, the prompt in batches of 128 rows, the output token by token.

    `neighbours` other sequences share the output's batches, `slot` holds the sequence, `chunk` rows of the prompt go into a batch. The
    first `reused` tokens an earlier job has left, the last `written` of them as its output. With `scored` the output is read like
    a prompt.
    """

    threads: int = 1
    flash_attention: bool | None = None
    cache_type: CacheType = "F16"
    repack: bool = True
    neighbours: int = 0
    slot: int = 0
    chunk: int = 128
    reused: int = 0
    written: int = 0
    scored: bool = False


BASE: Final = Run()
CASES: Final = {
    "the same once more": BASE,
    "in another slot, others idle": replace(BASE, slot=5),
    "2 threads in place of 1": replace(BASE, threads=2),
    "1 other in its batches": replace(BASE, neighbours=1),
    "7 others in its batches": replace(BASE, neighbours=7),
    "prompt in chunks of 32": replace(BASE, chunk=32),
    "100 tokens reused, that were a prompt": replace(BASE, reused=100),
    "100 tokens reused, 40 of an answer": replace(BASE, reused=100, written=40),
    "scored in one pass": replace(BASE, scored=True),
    "flash attention on": replace(BASE, flash_attention=True),
    "repacking off": replace(BASE, repack=False),
    "Q8_0 cache (no honest setting)": replace(BASE, cache_type="Q8_0"),
}


class Difference(NamedTuple):
    """Between logits of two runs: the greatest, and the root of their mean square."""

    greatest: float
    rms: float


def quantised(model: Path, kind: str, folder: Path) -> Path:
    """The model in another quantisation, as a new file in the folder."""
    path = folder / f"{kind}.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = QUANTISED[kind], 1
    assert llama_cpp.llama_model_quantize(str(model).encode(), str(path).encode(), params) == 0
    return path


def differences(path: Path) -> dict[str, Difference]:
    """Each case against BASE, on one text: a prompt and what the model greedily makes of it."""
    output = _greedy(path)
    base = logits(path, BASE, output)
    return {name: _difference(logits(path, run, output), base) for name, run in CASES.items()}


def logits(path: Path, run: Run, output: list[int]) -> NDArray[np.float32]:
    """Logits that each token of `output` would be drawn from, shape (its length, vocabulary)."""
    with _context(path, run) as (model, context):
        prompt = _prompt(model)
        for slot in range(_SLOTS if run.neighbours or run.slot else 0):
            if slot != run.slot:
                _read(context, slot, prompt[slot:], 0, 128)
        if run.reused:
            _reread(context, run, prompt)
        if run.scored:
            return _read(context, run.slot, [*prompt, *output[:-1]], 0, run.chunk, wanted=len(prompt) - 1)
        rows = [_read(context, run.slot, prompt, run.reused, run.chunk)]
        others = [slot for slot in range(_SLOTS) if slot != run.slot][: run.neighbours]
        for place, token in enumerate(output[:-1]):
            batch = [(run.slot, token, len(prompt) + place, True)]
            batch += [(slot, output[place - slot], len(prompt) - slot + place, True) for slot in others]
            batch.sort()
            own = [row[0] for row in batch].index(run.slot)
            rows.append(context.decode(batch)[own : own + 1].copy())
        return np.concatenate(rows)


def _reread(context: llama.Context, run: Run, prompt: list[int]) -> None:
    """Leave the first tokens of the prompt in the slot as an earlier job would, which then went on with something else."""
    read = run.reused - run.written
    _read(context, run.slot, prompt[:read], 0, 128)
    _read(context, run.slot, [*prompt[: run.reused], *prompt[:20]], read, 1)
    context.keep(run.slot, run.reused)


def _greedy(path: Path) -> list[int]:
    with _context(path, BASE) as (model, context):
        prompt = _prompt(model)
        output = [int(_read(context, 0, prompt, 0, 128)[0].argmax())]
        while len(output) < OUTPUT:
            (row,) = context.decode([(0, output[-1], len(prompt) + len(output) - 1, True)])
            output.append(int(row.argmax()))
        return output


@contextmanager
def _context(path: Path, run: Run) -> Iterator[tuple[llama.Model, llama.Context]]:
    defaults = llama_cpp.llama_model_default_params()
    defaults.use_extra_bufts = run.repack
    with (
        patch.object(llama_cpp, "llama_model_default_params", lambda: defaults),
        closing(llama.Model(path)) as model,
        closing(
            llama.Context(
                model,
                _LENGTH,
                _SLOTS,
                run.threads,
                cache_type=run.cache_type,
                flash_attention=run.flash_attention,
            )
        ) as context,
    ):
        yield model, context


def _prompt(model: llama.Model) -> list[int]:
    return [model.bos, *model.tokenize(_PROMPT)]


def _read(
    context: llama.Context, slot: int, tokens: list[int], start: int, chunk: int, wanted: int | None = None
) -> NDArray[np.float32]:
    """Feed tokens from `start` on; logits from place `wanted` on (by default of the last)."""
    first = len(tokens) - 1 if wanted is None else wanted
    rows = []
    for begin in range(start, len(tokens), chunk):
        places = range(begin, min(begin + chunk, len(tokens)))
        rows.append(context.decode([(slot, tokens[place], place, place >= first) for place in places]).copy())
    return np.concatenate(rows)


def _difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> Difference:
    apart = np.abs(one.astype(np.float64) - other)
    return Difference(float(apart.max()), float(np.sqrt(np.mean(apart**2))))


def table(model: Path) -> str:
    """The table of docs/worker.md, in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {"F16": model} | {kind: quantised(model, kind, Path(folder)) for kind in ("Q8_0", "Q4_0")}
        found = {kind: differences(path) for kind, path in paths.items()}
    lines = [
        f"| | {' | '.join(f'{kind}: max | RMS' for kind in found)} |",
        f"| --- |{' ---: |' * 2 * len(found)}",
    ]
    for name in CASES:
        cells = (_digits(number) for kind in found for number in found[kind][name])
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _digits(number: float) -> str:
    if number == 0:
        return "0"
    return "< 0.0001" if number < 0.0001 else f"{number:.4f}"


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    sys.stdout.write(table(Path(__file__).parents[3] / "models" / "aos-demo-5m.F16.gguf") + "\n")
