"""`aos submit`, `result`, `detail`, `verify` and `cancel`: the HTTP API from the command line.

Data goes to stdout, so that `$(aos submit ...)` is a job id; everything said besides goes to stderr.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from aos_cli.asking import (
    ClaimFile,
    ClaimText,
    JobTag,
    JobType,
    MaxTokens,
    ModelName,
    Prompt,
    Stop,
    Temperature,
    TopP,
    User,
    read_claim,
)
from aos_cli.checks import Expected, check_job, domain_of, passed, refused, table_of
from aos_cli.client import DispatcherClient, JsonObject
from aos_cli.errors import CliError
from aos_cli.failures import BadAnswer
from aos_cli.looks import looks_of, outcome_of, said_of, show_looks
from aos_cli.models import model_file
from aos_cli.receipts import verify_receipt
from aos_cli.show import make_console, show_rows
from aos_cli.target import (
    Data,
    Dispatcher,
    DispatcherAddress,
    JobId,
    Project,
    Target,
    TokenFile,
    call,
    target_of,
)
from aos_protocol.errors import InvalidMessage
from aos_protocol.messages import Receipt

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def submit(
    *,
    prompt: Prompt,
    model: ModelName = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_tokens: MaxTokens = None,
    stop: Stop = None,
    tag: JobTag = "",
    user: User = "aos-cli",
    job_type: JobType = "opml",
    claim_text: ClaimText = None,
    claim_file: ClaimFile = None,
    project: Project = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            help="The same key and request again give the same job, not a second one.", show_default=False
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the job's end and print its answers.")
    ] = False,
    dispatcher: Dispatcher = None,
    dispatcher_address: DispatcherAddress = None,
    token_file: TokenFile = None,
    data: Data = None,
) -> None:
    """Submit a job and print its id.

    With --claim-text or --claim-file nothing is generated: operators run the prompt and the claimed answer through the model, and
    say whether it is one that the model gives. `aos result` shows the verdict, `aos verify` what it rests on.

    The dispatcher's signed receipt is held against the request before the id is printed: it must bind exactly this request
    to this id, and be signed by --dispatcher-address (that of the running `aos up` is known).
    """
    target = target_of(data, dispatcher, token_file, address=dispatcher_address, project=project)
    given = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "stop": stop or None}
    job = {
        "tag": job_type,
        "prompt": prompt,
        "model": _required("--model NAME", model or target.model),
        "params": {name: value for name, value in given.items() if value is not None},
    }
    claim = read_claim(claim_text, claim_file)
    if claim is not None:
        job["claim"] = claim
    request = {
        "from": _required("--project ID", target.project),
        "tag": tag,
        "user": user,
        "job": job,
    }

    async def ask(client: DispatcherClient) -> None:
        receipt = await client.submit(request, idempotency_key=idempotency_key)
        await _hold(client, receipt, request, target)
        typer.echo(receipt.job_id)
        if wait:
            await _wait(client, receipt.job_id)

    call(target, ask)


def result(
    job_id: JobId,
    as_json: AsJson = False,
    dispatcher: Dispatcher = None,
    token_file: TokenFile = None,
    data: Data = None,
) -> None:
    """Print what a job's operators said so far: who executed and who verified, with the verdicts, and the answers."""
    rows = call(target_of(data, dispatcher, token_file), lambda client: client.results(job_id))
    if as_json:
        _print_json(rows)
    elif rows:
        show_rows(make_console(), rows)
    else:
        typer.echo(f"there is no answer yet: aos detail {job_id} tells how the job stands", err=True)


def detail(
    job_id: JobId, dispatcher: Dispatcher = None, token_file: TokenFile = None, data: Data = None
) -> None:
    """Print a job's request, where it stands and the verdict on it, as JSON; stderr says the verdict in a sentence."""
    said = call(target_of(data, dispatcher, token_file), lambda client: client.detail(job_id))
    _print_json(said)
    typer.echo(said_of(said), err=True)


def cancel(
    job_id: JobId, dispatcher: Dispatcher = None, token_file: TokenFile = None, data: Data = None
) -> None:
    """Cancel a job and print its status: `cancelled`, or how it had ended before. Needs the project's token."""
    typer.echo(call(target_of(data, dispatcher, token_file), lambda client: client.cancel(job_id)))


def verify(
    *,
    job_id: JobId,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The model's file: it and the calibration beside it must be those of the job.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    dispatcher: Dispatcher = None,
    dispatcher_address: DispatcherAddress = None,
    token_file: TokenFile = None,
    data: Data = None,
) -> None:
    """Fetch a job's evidence and check all of it here; the exit status is 0 only if every check passes.

    Above the checks stands who did what: executor and verifiers of each look at the job, with the verdict on each score,
    computed here from the signed numbers.

    The verdict rests on the dispatcher's calibration of the model. With --model, it is held against the one that lies beside
    your own copy of the file.

    A check that could not be made is a SKIP and no pass: of a job that is not finished, say, of an answer that nobody was
    asked to score (aos challenge has it scored), or of a dispatcher whose address is not known beforehand.
    """
    target = target_of(data, dispatcher, token_file, address=dispatcher_address)

    async def fetch(client: DispatcherClient) -> tuple[JsonObject, list[JsonObject]]:
        return await client.evidence(job_id), await client.results(job_id)

    document, rows = call(target, fetch)
    checks = check_job(document, Expected(job_id, target.address, rows, model=model and model_file(model)))
    looks = [] if refused(checks) else looks_of(document)
    if as_json:
        table = [{"id": check.id, "status": check.status, "what": check.what} for check in checks]
        looked = [look.to_json() for look in looks]
        _print_json({"job_id": job_id, "passed": passed(checks), "checks": table, "rounds": looked})
    else:
        console = make_console()
        show_looks(console, looks)
        console.print(table_of(checks))
    if not passed(checks):
        raise CliError("not every check passed: this job is not verified")


async def _hold(client: DispatcherClient, receipt: Receipt, request: JsonObject, target: Target) -> None:
    try:
        domain = domain_of(await client.evidence(receipt.job_id))
    except InvalidMessage as error:
        raise BadAnswer(f"job {receipt.job_id}: its evidence cannot be read: {error}") from error
    verify_receipt(receipt, request, dispatcher=target.address, domain=domain)
    unknown = (
        "" if target.address else "; whether that is the one you trust is for --dispatcher-address to say"
    )
    typer.echo(f"number {receipt.sequence}, receipt signed by {receipt.dispatcher}{unknown}", err=True)


async def _wait(client: DispatcherClient, job_id: str) -> None:
    ended = await client.until_ended(job_id)
    if ended["status"] != "completed":
        raise CliError(f"job {job_id} {ended['status']}: {ended.get('reason')}")
    show_rows(make_console(), await client.results(job_id))
    typer.echo(said_of(ended), err=True)
    if outcome_of(ended) == "mismatch":
        raise CliError(f"do not rely on this: aos verify {job_id} shows what was found")


def _required(option: str, value: str | None) -> str:
    if value is None:
        raise CliError(
            f"{option} is needed: it is known only for the stack that `aos up` runs on this machine"
        )
    return value


def _print_json(value: Any) -> None:  # noqa: ANN401 (JSON)
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
