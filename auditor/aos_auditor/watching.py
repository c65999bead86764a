"""`aos-audit watch`: follows a dispatcher's log, as an independent monitor runs it."""

import asyncio
import contextlib
import json
import signal
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from aos_auditor import options
from aos_auditor.dispatcher import DispatcherApi
from aos_auditor.documents import Known
from aos_auditor.errors import BadAnswer, NotAuditable, Refused, Unreachable
from aos_auditor.following import Follower
from aos_auditor.memory import load, save
from aos_auditor.monitor import look
from aos_auditor.report import as_json, exit_status, print_checks, printable
from aos_protocol.evidence import Check
from aos_protocol.log import TreeHead
from aos_service.logs import configure_logs

_log: Any = structlog.get_logger(__name__)


def watch(
    *,
    dispatcher: Annotated[str, typer.Option(metavar="URL", help="The dispatcher, as http://127.0.0.1:8000.")],
    dispatcher_address: options.DispatcherAddress = None,
    state: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="What is kept from one run to the next; forks are written to files beside it.",
        ),
    ] = Path("aos-monitor.json"),
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long to wait after each look.")
    ] = 10.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look once, print a line for each check, and end: for cron.")
    ] = False,
    token_file: options.TokenFile = None,
    rpc: options.Rpc = None,
    deployment: options.DeploymentFile = None,
    registry: options.Registry = None,
    anchor: options.Anchor = None,
    policy: options.Policy = None,
    json_output: options.Json = False,
    strict: options.Strict = False,
) -> None:
    """Follow a dispatcher's log: verify every head and entry, audit every job that ends, and report forks, gaps and rollbacks.

    Without --dispatcher-address, the first head decides who the dispatcher is. Without --once it goes on through outages until it is
    stopped, and logs what it finds to stderr.
    """
    configure_logs("aos-audit", level="warning" if once else "info")
    known = Known(
        dispatcher=options.address(dispatcher_address, "--dispatcher-address"),
        policy=options.read_policy(policy),
        contracts=options.contracts(deployment, registry, anchor),
    )
    api = DispatcherApi(dispatcher, token=options.read_token(token_file))
    follower = Follower(api, load(state), known, state.absolute().parent)
    if not once:
        asyncio.run(_follow(follower, state, rpc, interval))
        raise typer.Exit(0)
    checks = asyncio.run(_once(follower, state, rpc))
    if json_output:
        typer.echo(json.dumps(as_json(dispatcher, checks, strict=strict), indent=2))
    else:
        print_checks(checks)
    raise typer.Exit(exit_status(checks, strict=strict))


async def _once(follower: Follower, state: Path, rpc: str | None) -> list[Check]:
    async with follower.api:
        try:
            return await look(follower, rpc)
        finally:
            save(state, follower.memory)


async def _follow(follower: Follower, state: Path, rpc: str | None, interval: float) -> None:
    """Look again and again until SIGTERM or SIGINT; whatever keeps a look from being made is logged, and tried again."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    told: set[str] = set()
    async with follower.api:
        while not stopped.is_set():
            try:
                _tell(await look(follower, rpc), follower.memory.head, told)
            except NotAuditable as error:
                _log.error("this is not the dispatcher that was watched", reason=str(error))
            except (Unreachable, Refused, BadAnswer) as error:
                _log.warning("the dispatcher cannot be asked", reason=str(error))
            save(state, follower.memory)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), interval)


def _tell(checks: list[Check], head: TreeHead | None, told: set[str]) -> None:
    """Log each failure and skip once (`told` remembers which), and how far the log has come when it grew."""
    for check in checks:
        line = f"{check.status} {check.id} {check.what}"
        if check.status == "PASS" or line in told:
            continue
        told.add(line)
        level = _log.error if check.status == "FAIL" else _log.warning
        level("check", id=check.id, status=check.status, what=printable(check.what))
    grown = f"size {head.size}" if head else ""
    if head is not None and grown not in told:
        told.add(grown)
        passed = sum(check.status == "PASS" for check in checks)
        _log.info("the log is followed", size=head.size, passed=passed)
