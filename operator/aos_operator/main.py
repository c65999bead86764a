"""`operator-runner`: the operator's command line."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from aos_operator.accounts import make_account
from aos_operator.database import empty_database, prepare_database
from aos_operator.errors import OperatorError, StartError
from aos_operator.runner import run_operator
from aos_operator.settings import OperatorSettings
from aos_service.database import database_url
from aos_service.errors import DatabaseError, ServiceError
from aos_service.hardening import keep_memory_private
from aos_service.keys import read_password_file
from aos_service.logs import configure_logs
from aos_service.settings import load_settings

CONFIRM_RESET = "AOS_CONFIRM_RESET"
"""Environment variable that stands for typing the database's name at a --reset."""

_HELP = """Run an AOS operator, or set one up.

\b
Set it up, once:
  operator-runner -k --keystore operator.json
  operator-runner -i postgres://postgres:PASSWORD@127.0.0.1:5432/operator_db
  cp docs/template/config-operator.yaml config.yaml   # and fill it in
  dispatcher operator add ADDRESS                     # the dispatcher's owner does this

\b
Run it, beside a worker (inference-worker --model models/FILE.gguf):
  operator-runner -c config.yaml

\b
It stops on Ctrl-C or SIGTERM. Exit status: 0 stopped, 1 PostgreSQL or Redis cannot be used, 2 set up wrongly, 3 the
dispatcher refused it, 4 another dispatcher than the configured one answered, 5 another process took its place.
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=_HELP, no_args_is_help=True)
def operator_runner(
    *,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Run with this configuration file.")
    ] = None,
    init_pg: Annotated[
        str | None,
        typer.Option(
            "-i",
            "--init_pg",
            "--init-pg",
            metavar="URL",
            help="Create this PostgreSQL database and its tables. Drops nothing.",
        ),
    ] = None,
    eth_account: Annotated[
        bool,
        typer.Option(
            "-k", "--eth_account", "--eth-account", help="Make an account: a key in an encrypted keystore."
        ),
    ] = False,
    reset: Annotated[
        bool,
        typer.Option(
            "--reset", help="With -i: first drop the operator's tables. Asks for the database's name."
        ),
    ] = False,
    keystore: Annotated[
        Path | None,
        typer.Option("--keystore", help="With -k: the file to write; keystore-ADDRESS.json if not given."),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file", help="With -k: its first line is the password; else it is asked for."
        ),
    ] = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
) -> None:
    """Do the one thing that was asked for; `_HELP` is what the user reads."""
    if [config is not None, init_pg is not None, eth_account].count(True) != 1:
        raise typer.BadParameter("give exactly one of -c FILE, -i URL and -k")
    if (reset and init_pg is None) or ((keystore or password_file) and not eth_account):
        raise typer.BadParameter("--reset belongs to -i, --keystore and --password-file belong to -k")
    try:
        configure_logs("operator-runner", level=log_level)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with _failures_shown():
        if config is not None:
            asyncio.run(_run(config))
        elif init_pg is not None:
            asyncio.run(_init(init_pg, reset=reset))
        else:
            _account(keystore, password_file)


async def _run(config: Path) -> None:
    keep_memory_private()
    settings = load_settings(config, OperatorSettings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run_operator(settings, stop, file=config)


async def _init(address: str, *, reset: bool) -> None:
    url = database_url(address)
    if reset:
        _confirm_reset(str(url.database))
        await empty_database(url)
    created = await prepare_database(url)
    typer.echo(f"database {url.database} {'was created and ' if created else ''}is up to date")


def _confirm_reset(name: str) -> None:
    said = os.environ.get(CONFIRM_RESET)
    if said is None:
        typer.echo(f"This drops the clock and all tasks of every operator in database {name}.")
        said = typer.prompt("Type the database's name to go on", default="", show_default=False)
    if said != name:
        raise StartError(f"nothing was dropped: {said!r} is not the database's name, {name}")


def _account(keystore: Path | None, password_file: Path | None) -> None:
    if password_file is None:
        password = typer.prompt("Password for the keystore", hide_input=True, confirmation_prompt=True)
    else:
        password = read_password_file(password_file)
    address, path = make_account(password, keystore)
    typer.echo(f"address  {address}\nkeystore {path}")


@contextmanager
def _failures_shown() -> Iterator[None]:
    """Turn what keeps an operator from running into one line a problem on stderr, and an exit status."""
    try:
        yield
    except* (OperatorError, ServiceError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        for line in str(error).splitlines():
            typer.echo(f"operator-runner: {line}", err=True)
        raise SystemExit(_exit_code(error)) from None


def _exit_code(error: BaseException) -> int:
    match error:
        case StartError():
            return error.exit_code
        case OperatorError() | DatabaseError():
            return 1
        case _:
            return 2
