"""`aos submit`, `result`, `detail`, `verify` and `cancel`: the HTTP API from the command line.

Data goes to stdout, so that `$(aos submit ...)` is a job id; everything said besides goes to stderr.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from aos_cli.checks import Expected, check_job, domain_of, passed, table_of
from aos_cli.client import DispatcherClient, JsonObject
from aos_cli.errors import CliError
from aos_cli.failures import BadAnswer
from aos_cli.receipts import verify_receipt
from aos_cli.show import make_console, show_answers
from aos_cli.target import (
    Data,
    Dispatcher,
    DispatcherAddress,
    JobId,
    Project,
    Target,
    TokenFile,
    find_target,
    read_token,
)
from aos_protocol.errors import InvalidMessage
from aos_protocol.messages import Receipt

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def submit(
    *,
    prompt: Annotated[str, typer.Argument(help="What to ask.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(help="The model's name. Default: that of the running `aos up`.", show_default=False),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=5, help="0 takes the likeliest token.", show_default="1.0")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(max=1, help="Sample from this share of the probability.", show_default="1.0"),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="The answer's greatest length.", show_default="256")
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="End the answer before this text; up to four times.", show_default=False),
    ] = None,
    tag: Annotated[
        Literal["", "suspicion", "malicious"], typer.Option(help="What the user is suspected of.")
    ] = "",
    user: Annotated[str, typer.Option(help="The user or device that the job is for.")] = "aos-cli",
    job_type: Annotated[Literal["opml", "tee"], typer.Option(help="Which kind of worker runs it.")] = "opml",
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

    The dispatcher's signed receipt is held against the request before the id is printed: it must bind exactly this request
    to this id, and be signed by --dispatcher-address (that of the running `aos up` is known).
    """
    target = _target(data, dispatcher, token_file, address=dispatcher_address, project=project)
    given = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "stop": stop or None}
    job = {
        "tag": job_type,
        "prompt": prompt,
        "model": _required("--model NAME", model or target.model),
        "params": {name: value for name, value in given.items() if value is not None},
    }
    request = {
        "from": _required("--project ID", target.project),
        "tag": tag,
        "user": user,
        "job": job,
    }

    async def call(client: DispatcherClient) -> None:
        receipt = await client.submit(request, idempotency_key=idempotency_key)
        await _hold(client, receipt, request, target)
        typer.echo(receipt.job_id)
        if wait:
            await _wait(client, receipt.job_id)

    _call(target, call)


def result(
    job_id: JobId,
    as_json: AsJson = False,
    dispatcher: Dispatcher = None,
    token_file: TokenFile = None,
    data: Data = None,
) -> None:
    """Print a job's answers so far: one for each member of its committee that has answered."""
    rows = _call(_target(data, dispatcher, token_file), lambda client: client.results(job_id))
    if as_json:
        _print_json(rows)
    elif rows:
        show_answers(make_console(), rows)
    else:
        typer.echo(f"there is no answer yet: aos detail {job_id} tells how the job stands", err=True)


def detail(
    job_id: JobId, dispatcher: Dispatcher = None, token_file: TokenFile = None, data: Data = None
) -> None:
    """Print a job's request and where it stands, as JSON."""
    _print_json(_call(_target(data, dispatcher, token_file), lambda client: client.detail(job_id)))


def cancel(
    job_id: JobId, dispatcher: Dispatcher = None, token_file: TokenFile = None, data: Data = None
) -> None:
    """Cancel a job and print its status: `cancelled`, or how it had ended before. Needs the project's token."""
    typer.echo(_call(_target(data, dispatcher, token_file), lambda client: client.cancel(job_id)))


def verify(
    *,
    job_id: JobId,
    as_json: AsJson = False,
    dispatcher: Dispatcher = None,
    dispatcher_address: DispatcherAddress = None,
    token_file: TokenFile = None,
    data: Data = None,
) -> None:
    """Fetch a job's evidence and check all of it here; the exit status is 0 only if every check passes.

    A check that could not be made is a SKIP and no pass: of a job that is not finished, say, or of a dispatcher whose
    address is not known beforehand.
    """
    target = _target(data, dispatcher, token_file, address=dispatcher_address)

    async def fetch(client: DispatcherClient) -> tuple[JsonObject, list[JsonObject]]:
        return await client.evidence(job_id), await client.results(job_id)

    document, rows = _call(target, fetch)
    checks = check_job(document, Expected(job_id, target.address, rows))
    if as_json:
        table = [{"id": check.id, "status": check.status, "what": check.what} for check in checks]
        _print_json({"job_id": job_id, "passed": passed(checks), "checks": table})
    else:
        make_console().print(table_of(checks))
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
    show_answers(make_console(), await client.results(job_id))


def _target(
    data: Path | None,
    url: str | None,
    token_file: Path | None,
    *,
    address: str | None = None,
    project: str | None = None,
) -> Target:
    token = read_token(token_file, os.environ.get("AOS_TOKEN"))
    return find_target(data, url, address=address, project=project, token=token)


def _call(target: Target, what: Callable[[DispatcherClient], Awaitable[T]]) -> T:
    async def call() -> T:
        async with DispatcherClient(target.url, token=target.token) as client:
            return await what(client)

    return asyncio.run(call())


def _required(option: str, value: str | None) -> str:
    if value is None:
        raise CliError(
            f"{option} is needed: it is known only for the stack that `aos up` runs on this machine"
        )
    return value


def _print_json(value: Any) -> None:  # noqa: ANN401 (JSON)
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
