"""Fuzzes what a worker does with model files: each is served, or refused with a reason; none ends it otherwise, and none makes it hang.

Usage, from the project's root: python -m tests.fuzz.gguf --files 5000 [--seed N]

Each mutant of the demo model is looked at by `gguf.check`, then loaded in a process of its own by `rehearsal.rehearse`, as a worker does before it loads it
itself. What has passed both is loaded a second time, as the worker would, in one more process, which must not die then.
"""

import argparse
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import structlog

# Here, so that not every process loads it anew. No thread is started by that, hence forks are safe.
from aos_inference import gguf, llama, loading, rehearsal
from aos_inference.errors import ModelUnreadable, StartupError
from aos_inference.options import ServeOptions
from fuzz.gguf_mutations import mutant, take_apart

MODEL = Path(__file__).resolve().parents[2] / "models" / "aos-demo-5m.F16.gguf"
DEADLINE_S = 60
_SLOTS = 2


def examine(path: Path) -> str:
    """Have a file checked, rehearsed and loaded; what came of it. Raises whatever should not happen."""
    options = ServeOptions(path=path, name="mutant", context=None, slots=_SLOTS, threads=1, cache_type="F16")
    try:
        gguf.check(path)
    except ModelUnreadable as error:
        return f"refused: {_general(str(error), path)}"
    try:
        rehearsal.rehearse(path, lambda: loading.opened(options)[:2])
    except StartupError as error:
        return f"crashed: {_general(str(error), path)}"
    return _loaded(options)


def _loaded(options: ServeOptions) -> str:
    child = os.fork()
    if child == 0:
        os._exit(_load(options))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise AssertionError(
            f"the worker dies by {signal.Signals(os.WTERMSIG(status)).name} of what was rehearsed well"
        )
    return {0: "served", 1: "refused by llama.cpp"}[os.WEXITSTATUS(status)]


def _load(options: ServeOptions) -> int:
    try:
        model, context, _ = loading.opened(options)
        rows = [(1, token % model.vocabulary, token, token > 5) for token in range(8)]
        context.decode(rows)
    except StartupError as error:
        return 1 if str(error) else 2
    except llama.DecodeFailed:
        return 0  # an answer would fail with that reason, and the worker be started again
    return 0


def _general(reason: str, path: Path) -> str:
    """What a reason has in common with others of its sort."""
    return re.sub(r"-?\d[\d,.]*|'.*'", "#", reason.replace(str(path), "FILE"))[:110]


def run(files: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Examine mutants; how often each outcome came, and what was wrong."""
    outcomes: Counter[str] = Counter()
    failures = []
    base = take_apart(MODEL.read_bytes())
    with tempfile.TemporaryDirectory(prefix="aos-fuzz-") as folder:
        path = Path(folder) / "mutant.gguf"
        for index in range(files):
            name, content = mutant(base, f"{seed}/{index}")
            path.write_bytes(content)
            began = time.monotonic()
            try:
                outcomes[examine(path)] += 1
            except Exception as error:  # noqa: BLE001 - whatever comes out is a finding
                failures.append(f"file {index} ({name}): {type(error).__name__}: {error}")
            if time.monotonic() - began > DEADLINE_S:
                failures.append(f"file {index} ({name}) took {time.monotonic() - began:.0f} s")
    return outcomes, failures


def main() -> int:
    """Examine as many files as are asked for; the exit status is 1 when any of them fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=5000, help="how many files (default 5000)")
    parser.add_argument("--seed", type=int, default=1, help="which files (default 1)")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["GGML_NO_BACKTRACE"] = "1"
    outcomes, failures = run(arguments.files, arguments.seed)
    lines = [f"{many:>7,}  {outcome}" for outcome, many in outcomes.most_common()]
    lines += [f"FAILED: {failure}" for failure in failures]
    sys.stdout.write("\n".join([*lines, f"{arguments.files:,} files, {len(failures)} failures", ""]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
