"""Raw data of the study: provers run, honest and not, and one verifier's pass over each answer.

    python benchmarks/detection/generate.py OUT [--checkpoints FOLDER] [--other-python PATH] [--workers 2] [--case WORD]

OUT gets the model files that the study needs and one .npz for every 50 jobs of a case; what is there already is not made again, so
an interrupted run goes on. FOLDER holds earlier checkpoints of the demo model as step500.gguf, step850.gguf and step1200.gguf
(`scripts/train_demo_model.py`); PATH is a Python whose llama-cpp-python is built for another instruction set (-DGGML_NATIVE=OFF
-DGGML_AVX2=ON and no AVX-512). Without them their cases are left out. About an hour on one core.
"""

import argparse
import logging
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import structlog
from cases import CASES, Case, draw_trial
from prompts import ROOT

from aos_inference.quantise import quantise
from aos_inference.trials import Answer, Bench, Setup, Trial, bench

PART = 50
CONTEXT = 512


def prepare(out: Path, checkpoints: Path | None) -> Path:
    """The folder of model files, complete."""
    models = out / "models"
    models.mkdir(parents=True, exist_ok=True)
    pinned = models / "F16.gguf"
    shutil.copyfile(ROOT / "models/aos-demo-5m.F16.gguf", pinned)
    for name in ("Q8_0", "Q6_K", "Q4_K_M", "Q4_0"):
        quantise(pinned, name, models / f"{name}.gguf", 1)
    for file in checkpoints.glob("step*.gguf") if checkpoints else ():
        shutil.copyfile(file, models / file.name)
    return models


def parts(cases: Iterable[Case]) -> list[tuple[Case, int]]:
    """Every case's first part, for an early look; then all that is honest; then the cheats' other parts, in turns."""
    whole = [(case, part) for case in cases for part in range(-(-case.jobs // PART))]
    return sorted(whole, key=lambda piece: (piece[1] > 0 and not piece[0].honest, piece[1]))


def place(out: Path, case: Case, part: int) -> Path:
    """The file of one part of a case."""
    words = "".join(char if char.isalnum() else "-" for char in case.name)
    return out / f"{words}.{part}.npz"


def located(setup: Setup, models: Path) -> Setup:
    """The setup with its model file in a folder."""
    return replace(setup, model=models / setup.model)


def prove(case: Case, part: int, models: Path) -> tuple[list[Trial], list[Answer]]:
    """The trials of a part as ordered, and what the prover hands in for them."""
    with bench(located(case.prover, models), CONTEXT) as prover:
        numbers = range(part * PART, min((part + 1) * PART, case.jobs))
        drawn = [draw_trial(case, number, prover.model) for number in numbers]
        answers = prover.answers([run for _, run in drawn])
        if case.forge is not None:
            answers = [
                case.forge(random.Random(f"{case.name} {number} forge"), answer, prover.model)
                for number, answer in zip(numbers, answers, strict=True)
            ]
    trials = [ordered for ordered, _ in drawn]
    if case.repair is None:
        return trials, answers
    with bench(located(case.repair, models), CONTEXT) as repairer:
        return trials, [_repaired(repairer, *pair) for pair in zip(trials, answers, strict=True)]


def _repaired(repairer: Bench, trial: Trial, answer: Answer) -> Answer:
    return replace(answer, fingerprints=repairer.fingerprints(trial, answer.tokens.tolist()))


def prove_elsewhere(case: Case, part: int, out: Path, python: Path) -> tuple[list[Trial], list[Answer]]:
    """`prove` by another build of llama.cpp, in a process of its own."""
    file = place(out, case, part).with_suffix(".answers.npz")
    me = str(Path(__file__).resolve())
    subprocess.run([python, me, str(out), "--prove", case.name, str(part), str(file)], check=True)
    with bench(located(case.verifier, out / "models"), CONTEXT) as opened:
        numbers = range(part * PART, min((part + 1) * PART, case.jobs))
        trials = [draw_trial(case, number, opened.model)[0] for number in numbers]
    with np.load(file) as made:
        answers = [Answer(*pair) for pair in zip(made["tokens"], made["fingerprints"], strict=True)]
    file.unlink()
    return trials, answers


def run_part(piece: tuple[Case, int], out: Path, python: Path | None) -> str:
    """Prove and verify one part, and write it; what took how long."""
    quieten()
    case, part = piece
    start = time.monotonic()
    if case.elsewhere and python is not None:
        trials, answers = prove_elsewhere(case, part, out, python)
    else:
        trials, answers = prove(case, part, out / "models")
    with bench(located(case.verifier, out / "models"), CONTEXT) as verifier:
        measured = [verifier.measure(*pair) for pair in zip(trials, answers, strict=True)]
    numbers = {
        name: np.stack([getattr(measures, name) for measures in measured]).astype(np.float32)
        for name in ("distances", "margins", "surprisals", "entropies", "variances")
    }
    file = place(out, case, part)
    half = file.with_suffix(".half.npz")
    np.savez_compressed(
        half,
        **numbers,
        tokens=np.stack([answer.tokens for answer in answers]),
        temperature=np.array([trial.temperature for trial in trials]),
        top_p=np.array([trial.top_p for trial in trials]),
    )
    half.rename(file)
    return f"{file.name}: {len(trials)} jobs, {time.monotonic() - start:.1f} s"


def quieten() -> None:
    """Keep llama.cpp's log off the screen."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def feasible(cases: Iterable[Case], models: Path, python: Path | None) -> list[Case]:
    """The cases whose model files and builds are here."""
    return [
        case
        for case in cases
        if (models / case.prover.model).exists() and (python is not None or not case.elsewhere)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--other-python", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--case", help="only cases whose name contains this")
    parser.add_argument("--prove", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    quieten()
    if options.prove:
        name, part, file = options.prove
        case = next(case for case in CASES if case.name == name)
        _, answers = prove(case, int(part), options.out / "models")
        tokens, prints = zip(*((answer.tokens, answer.fingerprints) for answer in answers), strict=True)
        np.savez(file, tokens=np.stack(tokens), fingerprints=np.stack(prints))
        return
    models = prepare(options.out, options.checkpoints)
    chosen = [case for case in CASES if options.case is None or options.case in case.name]
    todo = [
        piece
        for piece in parts(feasible(chosen, models, options.other_python))
        if not place(options.out, *piece).exists()
    ]
    work = partial(run_part_by_name, out=options.out, python=options.other_python)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for done, line in enumerate(pool.map(work, [(case.name, part) for case, part in todo]), start=1):
            print(f"{done}/{len(todo)} {line}", flush=True)


def run_part_by_name(piece: tuple[str, int], out: Path, python: Path | None) -> str:
    """`run_part` for another process, which a case's functions cannot travel to."""
    name, part = piece
    return run_part((next(case for case in CASES if case.name == name), part), out, python)


if __name__ == "__main__":
    sys.exit(main())
