"""`aos attest`: ask enclaves, through a dispatcher or at a worker itself, to prove what they are."""

import asyncio
import json
import re
import secrets
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from aos_cli.client import DispatcherClient
from aos_cli.enclaves import Enclave, judge, table_of
from aos_cli.errors import CliError
from aos_cli.failures import ApiError, NoDispatcher
from aos_cli.policies import PolicyFile, required_policy
from aos_cli.private import ask_dispatcher
from aos_cli.show import make_console
from aos_cli.target import Data, Target, find_target
from aos_cli.workers import fetch_attestation
from aos_protocol.attestation.policy import AttestationPolicy

_NOT_FOUND = 404


def _nonce(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[0-9a-f]{64}", text):
        raise typer.BadParameter("a nonce is 64 lower-case hex digits; leave it out to have one drawn")
    return text


def attest(
    *,
    url: Annotated[
        str | None,
        typer.Argument(
            help="A dispatcher, or an enclave's worker: http://host:port, unix:///folder/worker.sock or vsock://CID:PORT. "
            "Default: the running `aos up`.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model's name in the policy. Default: that of the running `aos up`, else the one that a worker serves.",
            show_default=False,
        ),
    ] = None,
    policy: PolicyFile = None,
    nonce: Annotated[
        str | None,
        typer.Option(
            metavar="HEX", callback=_nonce, help="Ask on this nonce, not a fresh one.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data: Data = None,
) -> None:
    """Ask every enclave behind a dispatcher, or one worker, for an attestation on a fresh nonce, and hold it against a policy.

    The exit status is 0 only if there is an enclave and every one is good. What a good one proves, and what not, is in
    docs/attestation.md; a SIMULATED one proves nothing about hardware.
    """
    target = _target(data, url)
    wanted = required_policy(policy, target)
    asked = nonce or secrets.token_hex(32)
    name = model or (target.model if target else None)
    enclaves = asyncio.run(_ask(url or str(target.url if target else ""), wanted, name, asked))
    if as_json:
        _print_json(asked, wanted, enclaves)
    elif enclaves:
        make_console().print(table_of(enclaves))
    if not enclaves:
        raise CliError("no enclave that serves this model is connected: nothing is proven")
    bad = sum(each.appraisal is None for each in enclaves)
    if bad:
        raise CliError(f"of {len(enclaves)} asked, not good by the policy: {bad}")


def _target(data: Path | None, url: str | None) -> Target | None:
    """What is known beforehand of the dispatcher, or of the stack that a worker's socket belongs to; None of others."""
    if url is None or urlsplit(url).scheme in {"http", "https"}:
        return find_target(data, url)
    try:
        return find_target(data, None)
    except NoDispatcher:
        return None


async def _ask(url: str, policy: AttestationPolicy, model: str | None, nonce: str) -> list[Enclave]:
    if urlsplit(url).scheme in {"http", "https"}:
        if model is None:
            raise CliError("--model NAME is needed: a dispatcher has enclaves for many")
        try:
            async with DispatcherClient(url) as client:
                return await ask_dispatcher(client, policy, model=model, nonce=nonce)
        except ApiError as error:
            if error.code != _NOT_FOUND:
                raise
    attestation = await fetch_attestation(url, nonce)
    answer = {"operator": url, "attestation": attestation.to_json()}
    return judge([answer], policy, model=model or attestation.keyset.model.name, nonce=nonce)


def _print_json(nonce: str, policy: AttestationPolicy, enclaves: list[Enclave]) -> None:
    rows = [each.to_json() for each in enclaves]
    passed = bool(rows) and all(row["passed"] for row in rows)
    said = {"nonce": nonce, "policy": policy.digest(), "passed": passed, "enclaves": rows}
    typer.echo(json.dumps(said, indent=2, ensure_ascii=False))
