"""How fast the engine is, beside a bare loop over llama.cpp and beside two servers, and what it costs that its output can be verified.

    python benchmarks/engine [generation] [scoring] [verifiable] [likely] [sampling] [--model FILE] [--rounds N] [--json]

The first run makes a model of 1.1B parameters with random weights and environments for the peers, under the user's cache folder; with
`--model` (the demo model, say) that one is measured instead. Contenders work in turns, one at a time, round after round; figures
are medians over the rounds. All run with OpenMP's passive waiting, as the worker does of its own: on processors that others use, too, the
default would make the bare loop and the peers several times slower.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import generation
import likely
import scoring
import verifiable
from contenders import Failed
from figures import Printable
from options import Options

_PARTS = ("generation", "scoring", "verifiable", "likely", "sampling")


def main() -> None:
    """Measure and print tables, or JSON."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    processors = len(os.sched_getaffinity(0))
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_PARTS)} (default: all)")
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="interpreter for the worker and the bare loop, with another build of llama.cpp, say (not for sampling)",
    )
    parser.add_argument("--model", type=Path, help="a GGUF file (default: the random one)")
    parser.add_argument(
        "--jobs",
        type=int,
        nargs="+",
        default=[8, 16],
        help="jobs at once (default 8 16; other parts take the first)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each part (default 5)")
    parser.add_argument(
        "--prompt", type=int, default=64, help="prompt tokens, or words with --model (default 64)"
    )
    parser.add_argument("--output", type=int, default=64, help="output tokens (default 64)")
    parser.add_argument(
        "--threads", type=int, default=processors, help=f"of llama.cpp (default {processors})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line in place of tables")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(_PARTS):
        parser.error(f"no such part: {', '.join(unknown)}. Choose of {', '.join(_PARTS)}.")
    os.environ["OMP_WAIT_POLICY"] = (
        "passive"  # read by OpenMP when llama.cpp is loaded, here and in every contender
    )
    options = Options(given.python, given.model, given.threads, given.rounds, given.prompt, given.output)
    try:
        _report(given, options)
    except Failed as error:
        raise SystemExit(str(error)) from error


def _report(given: argparse.Namespace, options: Options) -> None:
    for found in _measure(given.parts or _PARTS, options, given.jobs):
        print(json.dumps(found.to_json()) if given.json else f"{found}\n", flush=True)
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors", file=sys.stderr)


def _measure(parts: Sequence[str], options: Options, jobs: Sequence[int]) -> Iterator[Printable]:
    if "generation" in parts:
        for at_once in jobs:
            yield asyncio.run(generation.measure(options, at_once))
    if "scoring" in parts:
        yield from asyncio.run(scoring.measure(options, jobs[0]))
    if "verifiable" in parts:
        yield asyncio.run(verifiable.measure(options, jobs[0]))
    if "likely" in parts:
        yield asyncio.run(likely.measure(options, jobs[0]))
    if "sampling" in parts:
        import sampling  # loads llama.cpp, hence only now

        yield sampling.measure(options, jobs[0])


if __name__ == "__main__":
    main()
