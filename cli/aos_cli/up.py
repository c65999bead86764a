"""`aos up`: the whole network on this machine, until it is told to stop."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from aos_cli.data import DataFolder
from aos_cli.failures import Interrupted
from aos_cli.interrupts import Interrupts
from aos_cli.models import ModelFile, model_file
from aos_cli.progress import Progress
from aos_cli.show import make_console
from aos_cli.stack import Plan, Stack, running_stack
from aos_cli.target import Data, data_folder
from aos_protocol.fields import EvidenceLevel


def up(
    *,
    data: Data = None,
    model: ModelFile = None,
    operators: Annotated[int, typer.Option(min=1, max=16, help="How many operators to run.")] = 3,
    enclaves: Annotated[
        int,
        typer.Option(
            min=0,
            max=16,
            help="How many SIMULATED enclaves to run besides, each with an operator of its own.",
        ),
    ] = 0,
    chain: Annotated[
        bool,
        typer.Option(
            "--chain",
            help="Run a local test chain (anvil) besides, with operators registered and the log anchored there.",
        ),
    ] = False,
    dispatchers: Annotated[
        int,
        typer.Option(
            min=1, max=4, help="As how many processes to run the dispatcher, on ports of their own."
        ),
    ] = 1,
    least_evidence: Annotated[
        EvidenceLevel,
        typer.Option(
            help="What answers have to show at least; with less than fingerprints, other model servers may join (aos provider)."
        ),
    ] = "fingerprints",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="The dispatcher's port on 127.0.0.1; 0 takes a free one.")
    ] = 8000,
) -> None:
    """Run a whole network on this machine until Ctrl-C: dispatcher, operators, worker, PostgreSQL and Valkey.

    Every part is a process of its own, started by the same command that you would use on a server; its configuration and
    its log lie in the data folder, and so do the keys, the jobs and the project's token from run to run.

    The operators share one worker: each has its own key, draws its own tickets and signs its own results, but the model is
    in memory once. On one machine a worker for each would only run the same file on the same processors.

    With --enclaves there are workers for tee jobs, too. They are simulated: each is an ordinary process, under a root that is made
    here, so it shows how everything goes together (aos attest, aos submit --private), and proves nothing about hardware.

    With --chain, anvil runs, too: a chain on this machine, whose state is kept in the data folder. The contracts are deployed once, each
    operator registers with an equal share and its bond, draws go by that registry, and the dispatcher anchors its log every few seconds. It
    shows everything that a chain is for (aos chain status), and proves nothing to others: who runs a test chain can rewrite it.

    Every answer is scored by another operator, and judged by the calibration beside the model: `aos verify` shows how. In a
    larger network, a dispatcher has a share of the answers scored (its setting verification.audit_share, 0.1 by default), and
    `aos challenge` any other.

    With --dispatchers 2, the dispatcher is two processes that share everything: an operator connects to either, and a job that is
    submitted to one may be led by the other.

    Answers have to come with a transcript, which others can check. With --least-evidence text, operators with any model server may join, too,
    and what they answer nobody can check: it says so (docs/evidence.md).

    Ctrl-C or SIGTERM stops all parts. If one of them ends by itself, the others are stopped and the exit status is 1.
    """
    plan = Plan(
        model_file(model),
        operators,
        enclaves,
        port,
        chain=chain,
        dispatchers=dispatchers,
        least_evidence=least_evidence,
    )
    _keep_up(data_folder(data), plan)


def _keep_up(data: DataFolder, plan: Plan) -> None:
    """Run the network until it is interrupted; who interrupts it before it is ready, gets that as exit status."""
    console = make_console()
    ready = False

    async def main() -> None:
        nonlocal ready
        async with running_stack(data, plan, Progress(console)) as stack:
            _tell(console, stack)
            ready = True
            await asyncio.Event().wait()

    with Interrupts() as interrupts:
        try:
            interrupts.run(main())
        except Interrupted as stopped:
            console.print(f"{stopped}; nothing is left running", highlight=False)
            if not ready:
                raise typer.Exit(stopped.exit_status) from None


def _tell(console: Console, stack: Stack) -> None:
    """Say what runs, where, and what to do with it; the token is shown when it is new."""
    model = stack.plan.model.name
    lines = [
        "",
        f"ready: {stack.url}   API description at {stack.url}/docs",
        *(f"also at  {url}" for url in stack.urls[1:]),
        f"key      {stack.data.address('dispatcher')}   (serverKey of aos provider)",
        f"model    {model}",
        f"project  {stack.running().project}, its token is in {stack.data.token_file}",
    ]
    if stack.new_token:
        lines.append(f"token    {stack.new_token}   (shown this once)")
    if stack.warning:
        lines += ["", stack.warning, ""]
    if stack.chain:
        lines.append(f"chain    {stack.chain.rpc}, contracts in {stack.data.deployment}")
        lines.append("         (anvil, a local test chain, which proves nothing to others)")
    lines += [
        f"logs     {stack.data.logs}",
        "",
        'try:     aos submit "What is AI?" --wait',
    ]
    if stack.plan.enclaves:
        lines.append(
            '         aos attest; aos submit "What is AI?" --private --wait   (the enclaves are SIMULATED)'
        )
    if stack.chain:
        lines.append("         aos chain status")
    lines.append("stop:    Ctrl-C")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
