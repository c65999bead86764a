"""`aos calibrate`: what is honest noise for a model, and what is another model?"""

import bisect
import itertools
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from aos_cli.errors import CliError
from aos_cli.show import make_console
from aos_protocol.calibration import DISTANCE_EDGES, Calibration
from aos_protocol.canonical import canonical
from aos_service.logs import configure_logs


def calibrate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The GGUF file, exactly as operators run it.")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write. Default: beside the model, as NAME.calibration.json, where `aos up` looks for it.",
            show_default=False,
        ),
    ] = None,
    answers: Annotated[int, typer.Option(min=8, help="Answers for each way of running the model.")] = 48,
    tokens: Annotated[int, typer.Option(min=16, help="Tokens of each answer.")] = 128,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = min(os.cpu_count() or 1, 8),
) -> None:
    """Measure a model, so that answers of its operators can be judged.

    Verdicts need to know how far honest answers lie from the verifier's own numbers, which differs from model to model.
    This runs MODEL in nine honest ways (alone and side by side, other threads, flash attention on and off, reused prefixes, batches of
    several sizes), then as cheats would: coarser weights made from it, quantised caches, half a prompt, another seed and another temperature.
    Each answer is scored as a verifier would. The calibration holds what was measured, and is bound to the file's SHA-256; give it to the
    dispatcher with `dispatcher model pin`.

    The demo model takes a minute or two; the time grows with the model and with --answers times --tokens (each is run some 18
    times over). Coarser versions go to the folder for temporary files (TMPDIR), and away again. More answers find finer differences.
    """
    path = model.absolute()
    target = out or path.with_suffix(".calibration.json")
    if target.exists():
        raise CliError(f"{target} is there already: move it away, or write elsewhere with --out")
    if not os.access(target.absolute().parent, os.W_OK):
        raise CliError(f"cannot write to the folder {target.absolute().parent}: give another file with --out")
    configure_logs("aos calibrate", level="warning")  # llama.cpp tells all that it does, twice for each way
    console = make_console()
    fitted = _measured(path, answers, tokens, threads)
    target.write_text(canonical(fitted.to_json()).decode() + "\n")
    _show(console, fitted)
    console.print(f"wrote {target}", highlight=False, soft_wrap=True)


def _measured(path: Path, answers: int, tokens: int, threads: int) -> Calibration:
    # llama.cpp and what goes with it would make every other command slower to start.
    from aos_inference import calibrate_runs, digest, gguf
    from aos_inference.calibrate import fit
    from aos_inference.errors import InferenceError
    from aos_inference.llama import engine_name
    from aos_inference.quantise import coarser
    from aos_inference.trials import Setup, bench

    try:
        gguf.check(path)
        with (
            tempfile.TemporaryDirectory(prefix="aos-calibrate-") as folder,
            Progress(console=Console(stderr=True)) as shown,
        ):
            task = shown.add_task("coarser versions", total=None)
            model = digest.of_file(path, digest.cache_folder())
            ways = calibrate_runs.ways(path, coarser(path, Path(folder), threads), threads)
            with bench(Setup(path, threads=threads, slots=calibrate_runs.SLOTS), 128) as opened:
                _fits(opened.model.trained_context, tokens)
                prompts = calibrate_runs.draw_prompts(opened, answers)
            shown.update(task, total=len(ways) * answers)
            runs = calibrate_runs.measure(
                ways, prompts, tokens, lambda name, _: shown.update(task, advance=1, description=name)
            )
        return fit(model, engine_name(), runs)
    except InferenceError as error:
        raise CliError(str(error)) from error


def _fits(context: int, tokens: int) -> None:
    room = context - 128
    if tokens > room:
        raise CliError(f"the model was trained for {context} tokens: choose at most --tokens {room}")


def _median(counts: list[int]) -> str:
    """About the middle one of distances that were counted in bins."""
    middle = bisect.bisect_left(list(itertools.accumulate(counts)), sum(counts) / 2)
    return f"{DISTANCE_EDGES[middle - 1]:.2g}" if middle else f"below {DISTANCE_EDGES[0]:.2g}"


def _show(console: Console, fitted: Calibration) -> None:
    """Print what was measured, a line for each way."""
    table = Table(box=None, show_header=True, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("", "way", "usual distance", "tokens that differ"):
        table.add_column(column)
    for sample in fitted.samples:
        total = sum(sample.margins)
        table.add_row(
            "honest" if sample.honest else "cheat",
            sample.name,
            _median(sample.distances),
            f"{(total - sample.margins[0]) / total:.3%}",
        )
    console.print(table)
    console.print(
        f"An honest answer is a match from about {fitted.distances.tokens()} tokens on; without fingerprints, differences take "
        f"{fitted.margins.tokens()}. An operator's answers are pooled against: {fitted.pool}.",
        highlight=False,
        soft_wrap=True,
    )
