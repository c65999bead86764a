"""`aos demo`: one job through a whole network that is started for it, checked, and gone again."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aos_cli.checks import Expected, Submission, check_job, passed, table_of
from aos_cli.client import DispatcherClient, JsonObject
from aos_cli.data import DataFolder, temporary_folder
from aos_cli.errors import CliError
from aos_cli.failures import Interrupted
from aos_cli.interrupts import Interrupts
from aos_cli.looks import looks_of, show_looks
from aos_cli.models import ModelFile, model_file
from aos_cli.progress import Progress
from aos_cli.show import make_console, show_answers
from aos_cli.stack import PROJECT, Plan, Stack, running_stack

USER = "b77f1799de0148c07bc6ef630fb75ac267f31d147cd28797ad145afe72302632"
PARAMS = {"temperature": 1.0, "top_p": 0.5, "max_tokens": 1024}
"""User and sampling parameters of the published example."""


def demo(
    model: ModelFile = None,
    prompt: Annotated[str, typer.Option(help="What to ask.")] = "What is AI?",
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep keys, jobs and logs in this folder.", show_default=False),
    ] = None,
) -> None:
    """Start a network, run one job through it, check the answer's evidence, and stop everything again.

    One operator answers, another runs prompt and answer through its own copy of the model and signs what it measures. The
    verdict follows from these numbers and the calibration beside the model's file (NAME.calibration.json; `aos calibrate` makes
    it); without one, every verdict is inconclusive.

    The table is computed here, from the job's evidence document, against the dispatcher's address in the key file that was
    made here, and against the model file and calibration that lie here; it is not the dispatcher's word. The exit status is 0 only if every
    check passes.
    """
    console, path, started = make_console(), model_file(model), time.monotonic()
    try:
        with Interrupts() as interrupts, _data_folder(keep) as data:
            ok = interrupts.run(_demo(data, Plan(path, durable=keep is not None), prompt, console))
    except Interrupted as stopped:
        console.print(f"{stopped}; nothing is left running", highlight=False)
        raise typer.Exit(stopped.exit_status) from None
    total = f"{time.monotonic() - started:.1f} s in all; everything is stopped"
    kept = f", its data is in {keep}" if keep else ""
    console.print(f"\n{total}{kept}", highlight=False, markup=False, soft_wrap=True)
    if not ok:
        raise CliError("not every check passed: this answer is not verified")


async def _demo(data: DataFolder, plan: Plan, prompt: str, console: Console) -> bool:
    progress = Progress(console)
    console.print("a network on this machine: dispatcher, three operators, one worker", highlight=False)
    async with running_stack(data, plan, progress) as stack:
        ok = await _one_job(stack, prompt, progress)
        ended = time.monotonic()
    progress.say("stop", time.monotonic() - ended, "")
    return ok


async def _one_job(stack: Stack, prompt: str, progress: Progress) -> bool:
    job = {"tag": "opml", "prompt": prompt, "model": stack.plan.model.name, "params": PARAMS}
    request: JsonObject = {"from": PROJECT, "tag": "", "user": USER, "job": job}
    async with DispatcherClient(stack.url, token=stack.data.token()) as client:
        with progress.step("submit") as said:
            receipt = await client.submit(request)
            said.append(f"job {receipt.job_id}")
        with progress.step("job") as said:
            detail = await client.until_ended(receipt.job_id)
            said.append(f"{detail['status']} {detail.get('reason') or ''}".strip())
        with progress.step("check"):
            rows = await client.results(receipt.job_id)
            dispatcher = stack.data.address("dispatcher")
            submission = Submission(request, receipt)
            expected = Expected(receipt.job_id, dispatcher, rows, submission, stack.plan.model)
            document = await client.evidence(receipt.job_id)
            checks = check_job(document, expected)
    console = progress.console
    show_answers(console, rows)
    console.print()
    show_looks(console, looks_of(document))
    console.print(table_of(checks))
    if stack.warning:
        console.print(f"\n{stack.warning}", highlight=False, markup=False, soft_wrap=True)
    console.print()
    return passed(checks)


@contextmanager
def _data_folder(keep: Path | None) -> Iterator[DataFolder]:
    """The folder to keep, or a temporary one."""
    if keep is not None:
        yield DataFolder(keep)
        return
    with temporary_folder("demo") as folder:
        yield DataFolder(folder)
