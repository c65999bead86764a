"""`aos doctor`: is everything here that AOS needs, and does the dispatcher answer?"""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from aos_cli.chain_target import DeploymentFile, Rpc
from aos_cli.models import ModelFile
from aos_cli.show import make_console
from aos_cli.target import Data, Dispatcher, Project, TokenFile, data_folder, find_target, read_token

if TYPE_CHECKING:
    from aos_cli.findings import Findings

_COLOURS = {"PASS": "green", "FAIL": "bold red", "SKIP": "yellow"}


def doctor(
    *,
    model: ModelFile = None,
    port: Annotated[
        int, typer.Option(min=1, max=65_535, help="The port that `aos up` is to have on 127.0.0.1.")
    ] = 8000,
    config: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config",
            metavar="FILE",
            help="Look at this operator's settings, too.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Look at this model server only: what it is, what it can do, and with which settings an operator uses it.",
            show_default=False,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file whose first line is the key that --backend wants.",
            show_default=False,
        ),
    ] = None,
    dispatcher: Dispatcher = None,
    project: Project = None,
    token_file: TokenFile = None,
    rpc: Rpc = None,
    deployment: DeploymentFile = None,
    data: Data = None,
) -> None:
    """Look for whatever could keep AOS from working here, and say what to do about it.

    FAIL needs mending; SKIP was not looked at. The exit status is 1 if anything failed.
    """
    # They import every package of ours, which would make each of the other commands a second slower.
    from aos_cli.doctor_backend import backend_findings
    from aos_cli.doctor_chain import chain_findings
    from aos_cli.doctor_dispatcher import dispatcher_findings
    from aos_cli.doctor_machine import machine_findings
    from aos_cli.doctor_operator import operator_findings

    if backend is not None:
        _finish(asyncio.run(_show([backend_findings(backend, api_key_file)])))
        return
    token = read_token(token_file, os.environ.get("AOS_TOKEN"))
    groups = [
        machine_findings(model, port, data_folder(data)),
        dispatcher_findings(lambda: find_target(data, dispatcher, project=project, token=token)),
        chain_findings(data, rpc, deployment),
    ]
    if config is not None:
        groups.append(operator_findings(config))
    _finish(asyncio.run(_show(groups)))


def _finish(failed: int) -> None:
    if failed:
        typer.echo(f"{failed} to mend", err=True)
        raise typer.Exit(1)


async def _show(groups: "list[Findings]") -> int:
    """Print each finding as soon as it is there; how many failed."""
    console, failed = make_console(), 0
    for group in groups:
        async for finding in group:
            line = Text.assemble(
                (finding.status, _COLOURS[finding.status]), f"  {finding.name:<22} {finding.what}"
            )
            console.print(line, soft_wrap=True)
            failed += finding.status == "FAIL"
    return failed
