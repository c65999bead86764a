"""Which dispatcher a client command talks to, and what is known of it beforehand.

The token and the address of a stack on this machine are used for that stack only: no other server is sent the one or held to
the other.
"""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from aos_cli.client import DispatcherClient
from aos_cli.data import DataFolder
from aos_cli.embedded import default_data_folder
from aos_cli.errors import CliError
from aos_cli.failures import NoDispatcher
from aos_protocol.errors import InvalidAddress
from aos_protocol.identity import checksum_address

T = TypeVar("T")

_JOB_ID = re.compile(r"[0-9a-f]{64}")


def _job_id(text: str) -> str:
    if not _JOB_ID.fullmatch(text):
        raise typer.BadParameter("a job id is 64 lower-case hex digits, as `aos submit` prints it")
    return text


def checked_address(text: str | None) -> str | None:
    """Return an address in EIP-55 form; what is none is a usage error."""
    try:
        return checksum_address(text) if text is not None else None
    except InvalidAddress as error:
        raise typer.BadParameter(str(error)) from None


JobId = Annotated[str, typer.Argument(help="The job's id, as `aos submit` prints it.", callback=_job_id)]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="AOS_DATA",
        metavar="DIR",
        help="The data folder of `aos up`. Default: /var/lib/aos for root, else ~/.local/share/aos.",
        show_default=False,
    ),
]
Dispatcher = Annotated[
    str | None,
    typer.Option(
        envvar="AOS_DISPATCHER", metavar="URL", help="Default: the running `aos up`.", show_default=False
    ),
]
DispatcherAddress = Annotated[
    str | None,
    typer.Option(
        envvar="AOS_DISPATCHER_ADDRESS",
        metavar="0x...",
        callback=checked_address,
        help="The address that the dispatcher must prove to have. Default: that of the running `aos up`.",
        show_default=False,
    ),
]
Project = Annotated[
    str | None,
    typer.Option(help="The project's id. Default: that of the running `aos up`.", show_default=False),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file whose first line is the project's API token; else the environment variable AOS_TOKEN, else that of "
        "the running `aos up`.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Target:
    """A dispatcher's URL, and what is known beforehand: its address, the token, project, model and attestation policy to use."""

    url: str
    address: str | None
    token: str | None
    project: str | None
    model: str | None
    policy: Path | None = None


def data_folder(chosen: Path | None) -> DataFolder:
    """Return the data folder that was chosen, or the default one."""
    return DataFolder(chosen or default_data_folder())


def find_target(
    data: Path | None,
    url: str | None,
    *,
    address: str | None = None,
    project: str | None = None,
    token: str | None = None,
) -> Target:
    """Put together what was given, and for the stack on this machine what its data folder says.

    Raises:
        NoDispatcher: when no URL is given and no stack runs.
        CliError: when the data folder of the running stack cannot be read.
    """
    folder = data_folder(data)
    running = folder.running()
    if running is None and url is None:
        raise NoDispatcher(
            f"no dispatcher is named, and no stack runs on {folder.root}: start one with `aos up`, or name one with "
            "--dispatcher URL"
        )
    if running is None or (url is not None and url.rstrip("/") != running.url):
        return Target(str(url), address, token, project, None)
    return Target(
        running.url,
        address or folder.address("dispatcher"),
        token or folder.token(),
        project or running.project,
        running.model,
        folder.policy if folder.policy.exists() else None,
    )


def read_token(file: Path | None, environment: str | None) -> str | None:
    """Return the token of `--token-file`, or that of AOS_TOKEN.

    Raises:
        CliError: when the file cannot be read or is empty.
    """
    if file is None:
        return environment or None
    try:
        lines = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"the token file {file} cannot be read: {error}") from error
    if len(lines) != 1:
        raise CliError(f"the token file {file} must hold one API token and nothing else")
    return lines[0]


def target_of(
    data: Path | None,
    url: str | None,
    token_file: Path | None,
    *,
    address: str | None = None,
    project: str | None = None,
) -> Target:
    """Return the target of a command from its options and the environment. Raises as `find_target` and `read_token` do."""
    token = read_token(token_file, os.environ.get("AOS_TOKEN"))
    return find_target(data, url, address=address, project=project, token=token)


def call(target: Target, what: Callable[[DispatcherClient], Awaitable[T]]) -> T:
    """Ask a dispatcher something, as its project if the token is known."""

    async def ask() -> T:
        async with DispatcherClient(target.url, token=target.token) as client:
            return await what(client)

    return asyncio.run(ask())
