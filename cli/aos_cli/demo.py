"""`aos demo`: one job through a whole network that is started for it, checked, and gone again."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aos_cli.chain_target import told
from aos_cli.checks import Expected, Submission, check_job, passed, table_of
from aos_cli.client import DispatcherClient, JsonObject
from aos_cli.configs import ChainPlace
from aos_cli.data import DataFolder, temporary_folder
from aos_cli.enclaves import good_ones
from aos_cli.errors import CliError
from aos_cli.failures import Interrupted
from aos_cli.interrupts import Interrupts
from aos_cli.looks import Look, looks_of, show_looks
from aos_cli.models import ModelFile, model_file
from aos_cli.opening import opened_rows
from aos_cli.private import seal_request
from aos_cli.progress import Progress
from aos_cli.show import make_console, show_answers
from aos_cli.stack import PROJECT, Plan, Stack, running_stack
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.evidence import Check
from aos_protocol.sealing import SealingKey
from aos_service.settings import load_settings

USER = "b77f1799de0148c07bc6ef630fb75ac267f31d147cd28797ad145afe72302632"
PARAMS = {"temperature": 1.0, "top_p": 0.5, "max_tokens": 1024}
"""User and sampling parameters of the published example."""

_ENCLAVES = 2
_ANCHOR_TIMEOUT_S = 60.0
_POLL_S = 0.2
_TEST_CHAIN = "The chain is anvil, a local test chain: whoever runs it can rewrite it. This shows how it goes, and proves nothing to others."
_SIMULATED = "The enclaves are SIMULATED: ordinary processes under a root made here. This shows how it goes, and proves nothing about hardware."


def demo(
    *,
    model: ModelFile = None,
    prompt: Annotated[str, typer.Option(help="What to ask.")] = "What is AI?",
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep keys, jobs and logs in this folder.", show_default=False),
    ] = None,
    tee: Annotated[
        bool,
        typer.Option("--tee", help="Run the job in an enclave: two SIMULATED ones, and no other workers."),
    ] = False,
    private: Annotated[
        bool,
        typer.Option("--private", help="With --tee: seal the prompt, so that only an enclave can read it."),
    ] = False,
    chain: Annotated[
        bool,
        typer.Option(
            "--chain",
            help="Run a local test chain (anvil) besides, wait until the job is anchored, and check that.",
        ),
    ] = False,
) -> None:
    """Start a network, run one job through it, check the answer's evidence, and stop everything again.

    One operator answers, another runs prompt and answer through its own copy of the model and signs what it measures. The
    verdict follows from these numbers and the calibration beside the model's file (NAME.calibration.json; `aos calibrate` makes
    it); without one, every verdict is inconclusive.

    The table is computed here, from the job's evidence document, against the dispatcher's address in the key file that was
    made here, and against the model file and calibration that lie here; it is not the dispatcher's word. The exit status is 0 only if every
    check passes.

    With --tee the job runs in an enclave, which signs its answer with a key that it made itself, and attests itself on the job's
    seed. With --private besides, the enclaves attest themselves first, the prompt is sealed to them, and nobody else reads it or the
    answer; so nobody can score that. These enclaves are SIMULATED: they show how it goes, and prove nothing about hardware.

    With --chain the operators are registered in a contract, with bonds, and the dispatcher anchors its log in another one. The table then
    says, too, that committee and log are those that the chain has. The chain is a local one (anvil), which proves nothing to others.
    """
    if private and not tee:
        raise CliError("only an enclave can read a sealed prompt: add --tee")
    console, path, started = make_console(), model_file(model), time.monotonic()
    operators, enclaves = (0, _ENCLAVES) if tee else (3, 0)
    plan = Plan(path, operators, enclaves, durable=keep is not None, chain=chain)
    try:
        with Interrupts() as interrupts, _data_folder(keep) as data:
            ok = interrupts.run(_demo(data, plan, prompt, private, console))
    except Interrupted as stopped:
        console.print(f"{stopped}; nothing is left running", highlight=False)
        raise typer.Exit(stopped.exit_status) from None
    total = f"{time.monotonic() - started:.1f} s in all; everything is stopped"
    kept = f", its data is in {keep}" if keep else ""
    console.print(f"\n{total}{kept}", highlight=False, markup=False, soft_wrap=True)
    if not ok:
        raise CliError("not every check passed: this answer is not verified")


async def _demo(data: DataFolder, plan: Plan, prompt: str, private: bool, console: Console) -> bool:
    progress = Progress(console)
    parts = (
        "two SIMULATED enclaves, each with an operator" if plan.enclaves else "three operators, one worker"
    )
    parts += ", a local test chain" if plan.chain else ""
    console.print(f"a network on this machine: dispatcher, {parts}", highlight=False)
    async with running_stack(data, plan, progress) as stack:
        ok = await _one_job(stack, prompt, private, progress)
        ended = time.monotonic()
    progress.say("stop", time.monotonic() - ended, "")
    return ok


async def _one_job(stack: Stack, prompt: str, private: bool, progress: Progress) -> bool:
    tag = "tee" if stack.plan.enclaves else "opml"
    job = {"tag": tag, "prompt": prompt, "model": stack.plan.model.name, "params": PARAMS}
    request: JsonObject = {"from": PROJECT, "tag": "", "user": USER, "job": job}
    policy = load_settings(stack.data.policy, AttestationPolicy) if stack.plan.enclaves else None
    key = SealingKey() if private else None
    async with DispatcherClient(stack.url, token=stack.data.token()) as client:
        if key is not None and policy is not None:
            with progress.step("seal") as said:
                request, asked = await seal_request(client, request, policy, key)
                said.append(f"to {len(good_ones(asked))} of {len(asked)} enclaves, attested just now")
        with progress.step("submit") as said:
            receipt = await client.submit(request)
            said.append(f"job {receipt.job_id}")
        with progress.step("job") as said:
            detail = await client.until_ended(receipt.job_id)
            said.append(f"{detail['status']} {detail.get('reason') or ''}".strip())
        if stack.chain is not None:
            with progress.step("anchor") as said:
                said.append(await _anchored(client, receipt.job_id))
        with progress.step("check"):
            rows = await client.results(receipt.job_id)
            dispatcher, model = stack.data.address("dispatcher"), stack.plan.model
            submission = Submission(request, receipt)
            expected = Expected(receipt.job_id, dispatcher, rows, submission, model, policy, key)
            document = await client.evidence(receipt.job_id)
            checks = check_job(document, expected)
            if stack.chain is not None:
                checks += await _checked_on_chain(stack.chain, document)
    if key is not None:  # what does not hold is not shown
        rows = opened_rows(document, expected) if passed(checks) else []
    _tell(stack, rows, looks_of(document), checks, progress.console)
    return passed(checks)


async def _checked_on_chain(place: ChainPlace, document: JsonObject) -> list[Check]:
    """Have the auditor ask the chain whether registry and anchor are there as the evidence says."""
    # It imports web3, which no demo without a chain needs.
    from aos_auditor.documents import Contracts
    from aos_auditor.on_chain import check_on_chain

    known = place.deployment
    contracts = Contracts(known.chain_id, known.registry, known.anchor, known.block)
    with told():
        return await check_on_chain(place.rpc, document, contracts)


async def _anchored(client: DispatcherClient, job_id: str) -> str:
    """Wait until all that the log has of a job is anchored; says where."""
    try:
        async with asyncio.timeout(_ANCHOR_TIMEOUT_S):
            while True:
                log = (await client.evidence(job_id)).get("log") or {}
                anchor = log.get("anchor")
                if anchor and all(entry["index"] < anchor["size"] for entry in log["entries"]):
                    return f"{anchor['size']} entries of the log, in block {anchor['block']}"
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise CliError(
            f"the dispatcher has not anchored job {job_id} within {_ANCHOR_TIMEOUT_S:g} s: run it again with --keep DIR, whose "
            "logs/dispatcher.log says why"
        ) from None


def _tell(
    stack: Stack, rows: list[JsonObject], looks: Sequence[Look], checks: Sequence[Check], console: Console
) -> None:
    show_answers(console, rows)
    console.print()
    show_looks(console, looks)
    console.print(table_of(checks))
    notes = [
        _SIMULATED if stack.plan.enclaves else "",
        _TEST_CHAIN if stack.chain else "",
        stack.warning or "",
    ]
    for note in filter(None, notes):
        console.print(f"\n{note}", highlight=False, markup=False, soft_wrap=True)
    console.print()


@contextmanager
def _data_folder(keep: Path | None) -> Iterator[DataFolder]:
    """The folder to keep, or a temporary one."""
    if keep is not None:
        yield DataFolder(keep)
        return
    with temporary_folder("demo") as folder:
        yield DataFolder(folder)
