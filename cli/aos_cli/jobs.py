"""`aos submit`, `result`, `detail`, `verify` and `cancel`: the HTTP API from the command line.

Data goes to stdout, so that `$(aos submit ...)` is a job id; everything said besides goes to stderr.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aos_cli.checks import Expected, check_job, domain_of, passed, table_of
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
from aos_protocol.messages import Claim, Receipt, parse_message

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
    claim_text: Annotated[
        str | None,
        typer.Option(
            help="Have this answer scored instead of generating one: somebody says that the model gave it.",
            show_default=False,
        ),
    ] = None,
    claim_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The same, for a claim in JSON: text or output_tokens, and seed, prover and fingerprints as far as they are "
            "known. The more it has, the more its verdict says.",
            show_default=False,
        ),
    ] = None,
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
    claim = _claim(claim_text, claim_file)
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
    looks = looks_of(document)
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


def _claim(text: str | None, file: Path | None) -> JsonObject | None:
    """Return the claim to be scored, checked before it is sent.

    Raises:
        CliError: when two are given, or the file holds none.
    """
    if text is None and file is None:
        return None
    if text is not None and file is not None:
        raise CliError("give --claim-text or --claim-file, not both: a job has one claim")
    if file is None:
        return {"text": text}
    try:
        claim = json.loads(file.read_text(encoding="utf-8"))
        parse_message(Claim, claim)
    except (OSError, ValueError, InvalidMessage) as error:
        raise CliError(
            f'the claim in {file} cannot be used: {error}; it is JSON like {{"output_tokens": [1, 2], "seed": "..."}}'
        ) from error
    return dict(claim)


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
