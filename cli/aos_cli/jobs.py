"""`aos result`, `detail`, `verify` and `cancel`: the HTTP API from the command line.

Data goes to stdout; everything said besides goes to stderr.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from aos_cli.checks import Expected, check_job, passed, refused, table_of
from aos_cli.client import DispatcherClient, JsonObject
from aos_cli.errors import CliError
from aos_cli.looks import looks_of, said_of, show_looks
from aos_cli.models import model_file
from aos_cli.opening import opened_rows, without_sealed
from aos_cli.policies import PolicyFile, find_policy
from aos_cli.private import read_key
from aos_cli.show import make_console, show_rows
from aos_cli.target import (
    Data,
    Dispatcher,
    DispatcherAddress,
    JobId,
    TokenFile,
    call,
    target_of,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def result(
    *,
    job_id: JobId,
    as_json: AsJson = False,
    reply_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Open the answer to a private job with the key that `aos submit --private` kept in this file.",
            show_default=False,
        ),
    ] = None,
    dispatcher: Dispatcher = None,
    token_file: TokenFile = None,
    data: Data = None,
) -> None:
    """Print what a job's operators said so far: who executed and who verified, with the verdicts, and the answers.

    The answer to a private job is shown only if it is the one of an enclave that the prompt was sealed to; the job's id says
    which these are. With --json, it stands in place of the sealed one.
    """
    target = target_of(data, dispatcher, token_file)
    key = read_key(reply_key) if reply_key else None

    async def fetch(client: DispatcherClient) -> tuple[list[JsonObject], JsonObject]:
        rows = await client.results(job_id)
        if key is not None:
            return rows, await client.evidence(job_id)
        if not as_json and any(row.get("attestation") for row in rows):
            return without_sealed(rows, await client.detail(job_id)), {}
        return rows, {}

    rows, document = call(target, fetch)
    if key is not None and rows:
        policy = find_policy(None, target)
        rows = opened_rows(document, Expected(job_id, target.address, rows, policy=policy, key=key))
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
    policy: PolicyFile = None,
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
    your own copy of the file. With --policy, the enclaves that answered a tee job are held against it.

    A check that could not be made is a SKIP and no pass: of a job that is not finished, say, of an answer that nobody was
    asked to score (aos challenge has it scored), or of a dispatcher whose address is not known beforehand.
    """
    target = target_of(data, dispatcher, token_file, address=dispatcher_address)

    async def fetch(client: DispatcherClient) -> tuple[JsonObject, list[JsonObject]]:
        return await client.evidence(job_id), await client.results(job_id)

    trusted = find_policy(policy, target)
    document, rows = call(target, fetch)
    file = model and model_file(model)
    checks = check_job(document, Expected(job_id, target.address, rows, model=file, policy=trusted))
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


def _print_json(value: Any) -> None:  # noqa: ANN401 (JSON)
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
