"""Options of `aos-audit`, and what their values are read to."""

from pathlib import Path
from typing import Annotated

import typer

from aos_auditor.documents import Contracts
from aos_auditor.errors import NotAuditable
from aos_chain.deployment import read_deployment
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.errors import InvalidAddress
from aos_protocol.identity import checksum_address
from aos_service.settings import load_settings

Dispatcher = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The dispatcher, as http://127.0.0.1:8000.", show_default=False),
]
DispatcherAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="The address that the dispatcher must sign with.", show_default=False
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A file with a project's API token, for private projects.", show_default=False
    ),
]
Rpc = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="An RPC endpoint of the chain: has registry and anchors checked.",
        show_default=False,
    ),
]
DeploymentFile = Annotated[
    Path | None,
    typer.Option(
        "--deployment",
        metavar="FILE",
        help="The network's contracts, as `aos chain deploy` writes them.",
        show_default=False,
    ),
]
Registry = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="The network's OperatorRegistry, where there is no --deployment.",
        show_default=False,
    ),
]
Anchor = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="The network's Anchor, where there is no --deployment.", show_default=False
    ),
]
Policy = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Which enclaves you trust: docs/template/attestation-policy.yaml.",
        show_default=False,
    ),
]
Worker = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="A worker with the model, which scores every answer again.", show_default=False
    ),
]
Model = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The model's GGUF file, whose digest is compared.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Strict = Annotated[bool, typer.Option("--strict", help="End with status 2 when something was skipped.")]


def address(text: str | None, option: str) -> str | None:
    """Return an address in EIP-55 form. Raises `NotAuditable` that names the option."""
    if text is None:
        return None
    try:
        return checksum_address(text)
    except InvalidAddress as error:
        raise NotAuditable(f"{option}: {error}") from error


def contracts(deployment: Path | None, registry: str | None, anchor: str | None) -> Contracts | None:
    """Return what is known of a network's contracts, None when nothing is. Raises `ChainError`, `NotAuditable`."""
    if deployment is not None:
        if registry is not None or anchor is not None:
            raise NotAuditable("--deployment names registry and anchor: leave out --registry and --anchor")
        read = read_deployment(deployment)
        return Contracts(read.chain_id, read.registry, read.anchor, read.block)
    if registry is None:
        if anchor is not None:
            raise NotAuditable("--anchor alone says nothing about who signed what: give --registry, too")
        return None
    return Contracts(None, address(registry, "--registry") or "", address(anchor, "--anchor"))


def read_policy(path: Path | None) -> AttestationPolicy | None:
    """Return the policy in a file, None without one. Raises `SettingsError`."""
    return None if path is None else load_settings(path, AttestationPolicy)


def read_token(path: Path | None) -> str | None:
    """Return the token in a file, None without one. Raises `NotAuditable`."""
    if path is None:
        return None
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotAuditable(f"--token-file {path} cannot be read: {error}") from error
    if not token.isascii() or not token.isprintable() or not token:
        raise NotAuditable(f"--token-file {path} has no token: it is one line of printable ASCII")
    return token
