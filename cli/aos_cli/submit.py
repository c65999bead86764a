"""`aos submit`: a job for everybody on its committee to read, or a private one.

The job's id goes to stdout, so that `$(aos submit ...)` is one; everything said besides goes to stderr.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from aos_cli.asking import (
    ClaimFile,
    ClaimText,
    JobTag,
    JobType,
    MaxTokens,
    ModelName,
    Private,
    Prompt,
    ReplyKey,
    Stop,
    Temperature,
    TopP,
    User,
    read_claim,
    read_prompt,
    required,
)
from aos_cli.checks import Expected, Submission, domain_of
from aos_cli.client import DispatcherClient, JsonObject
from aos_cli.enclaves import Enclave
from aos_cli.errors import CliError
from aos_cli.failures import ApiError, BadAnswer
from aos_cli.looks import outcome_of, said_of
from aos_cli.opening import opened_rows
from aos_cli.policies import PolicyFile, required_policy
from aos_cli.private import drop_key, keep_key, seal_request
from aos_cli.receipts import verify_receipt
from aos_cli.show import make_console, show_rows
from aos_cli.target import Data, Dispatcher, DispatcherAddress, Project, Target, TokenFile, call, target_of
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.errors import InvalidMessage
from aos_protocol.messages import Receipt
from aos_protocol.sealing import SealingKey

_SERVER_ERROR = 500


@dataclass(frozen=True)
class _Asked:
    """A job to submit: where, as which request, whether to wait for its end, and under which idempotency key."""

    target: Target
    request: JsonObject
    wait: bool
    idempotency_key: str | None


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
    job_type: JobType = None,
    private: Private = False,
    policy: PolicyFile = None,
    reply_key: ReplyKey = None,
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

    With --private, the enclaves behind the dispatcher attest themselves first, on a fresh nonce. The prompt is sealed to those that
    the policy finds good, here, and the answer to a key made here; without a good one, nothing is sent.

    The dispatcher's signed receipt is held against the request before the id is printed: it must bind exactly this request
    to this id, and be signed by --dispatcher-address (that of the running `aos up` is known).
    """
    target = target_of(data, dispatcher, token_file, address=dispatcher_address, project=project)
    given = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "stop": stop or None}
    job = {
        "tag": job_type or ("tee" if private else "opml"),
        "prompt": read_prompt(prompt),
        "model": required("--model NAME", model or target.model),
        "params": {name: value for name, value in given.items() if value is not None},
    }
    claim = read_claim(claim_text, claim_file)
    if claim is not None:
        job["claim"] = claim
    request = {"from": required("--project ID", target.project), "tag": tag, "user": user, "job": job}
    asked = _Asked(target, request, wait, idempotency_key)
    if not private:
        _check_open(policy, reply_key)
        call(target, lambda client: _submit_open(client, asked))
        return
    _check_private(asked, reply_key)
    trusted = required_policy(policy, target)
    call(target, lambda client: _submit_private(client, asked, trusted, reply_key))


def _check_open(policy: Path | None, reply_key: Path | None) -> None:
    for name, value in (("--policy", policy), ("--reply-key", reply_key)):
        if value is not None:
            raise CliError(
                f"{name} is for private jobs, and the prompt of this one is sent open: add --private"
            )


def _check_private(asked: _Asked, reply_key: Path | None) -> None:
    job = asked.request["job"]
    problems = {
        "a private job runs in an enclave: leave --job-type out": job["tag"] != "tee",
        "a private job has no claim: whoever scores it would have to read the prompt": "claim" in job,
        "a private job has no tag: nobody could read what there is to verify": bool(asked.request["tag"]),
        "--idempotency-key does nothing for a private job: each time it is sealed it is another request": asked.idempotency_key
        is not None,
        "--reply-key FILE is needed unless you --wait: it keeps the only key that opens the answer": not (
            asked.wait or reply_key
        ),
    }
    for said, wrong in problems.items():
        if wrong:
            raise CliError(said)


async def _submit_open(client: DispatcherClient, asked: _Asked) -> None:
    receipt = await client.submit(asked.request, idempotency_key=asked.idempotency_key)
    await _hold(client, receipt, asked.request, asked.target)
    typer.echo(receipt.job_id)
    if not asked.wait:
        return
    ended = await _end(client, receipt.job_id)
    show_rows(make_console(), await client.results(receipt.job_id))
    typer.echo(said_of(ended), err=True)
    if outcome_of(ended) == "mismatch":
        raise CliError(f"do not rely on this: aos verify {receipt.job_id} shows what was found")


async def _submit_private(
    client: DispatcherClient, asked: _Asked, policy: AttestationPolicy, reply_key: Path | None
) -> None:
    key = SealingKey()
    request, enclaves = await seal_request(client, asked.request, policy, key)
    for each in enclaves:
        typer.echo(_said(each), err=True)
    if reply_key is not None:
        keep_key(reply_key, key)
    try:
        receipt = await client.submit(request, idempotency_key=None)
    except ApiError as error:
        if reply_key is not None and error.code < _SERVER_ERROR:
            drop_key(reply_key)
        raise
    await _hold(client, receipt, request, asked.target)
    typer.echo(receipt.job_id)
    if not asked.wait:
        return
    ended = await _end(client, receipt.job_id)
    rows = await client.results(receipt.job_id)
    submission = Submission(request, receipt)
    expected = Expected(
        receipt.job_id, asked.target.address, rows, submission=submission, policy=policy, key=key
    )
    opened = opened_rows(await client.evidence(receipt.job_id), expected)
    show_rows(make_console(), opened)
    typer.echo(said_of(ended), err=True)


def _said(enclave: Enclave) -> str:
    good = enclave.appraisal
    if good is None:
        return f"left out: {enclave.operator}: {enclave.reason}"
    kind = "SIMULATED" if good.kind == "simulated" else good.kind
    debug = " in DEBUG mode, so that its host can read it" if good.debug else ""
    return f"sealed to: {enclave.operator}, {kind}, build {good.build}{debug}"


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


async def _end(client: DispatcherClient, job_id: str) -> JsonObject:
    ended = await client.until_ended(job_id)
    if ended["status"] != "completed":
        raise CliError(f"job {job_id} {ended['status']}: {ended.get('reason')}")
    return ended
