"""`aos provider`: offer a model server that runs here to a network, as Symmetry's client does."""

import asyncio
import os
import signal
import stat
from pathlib import Path
from typing import Annotated

import typer

from aos_cli.client import certificate_authorities
from aos_cli.errors import CliError
from aos_cli.provider_secret import looks_weak
from aos_cli.provider_settings import ProviderSettings, default_file, template
from aos_cli.provider_steps import Steps
from aos_service.hardening import keep_memory_private
from aos_service.logs import configure_logs
from aos_service.settings import load_settings


def provider(
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config",
            metavar="FILE",
            help="Its settings. Default: ~/.config/aos/provider.yaml.",
            show_default=False,
        ),
    ] = None,
    init: Annotated[
        bool, typer.Option("--init", help="Write a commented settings file with a new identity, and stop.")
    ] = False,
    registration_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_535,
            help="Have other models of this machine register themselves on this port of the loopback, too; DBC's is 6000.",
            show_default=False,
        ),
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Offer a model server that speaks OpenAI's API to a network, until Ctrl-C.

    It needs no PostgreSQL and no Redis. The settings are Symmetry's; `--init` writes a file to fill in. At start, everything that is
    needed is tried, step by step, and what is missing is said.
    """
    file = config or default_file()
    if init:
        _write_template(file)
        return
    keep_memory_private()
    try:
        configure_logs("aos-provider", level=log_level)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    steps = Steps()
    steps.say("reading the settings", file=str(file))
    settings = _settings(file)
    _warn(settings, file, steps)
    asyncio.run(_run(settings, steps, registration_port))


def _settings(file: Path) -> ProviderSettings:
    if not file.exists():
        raise CliError(f"there is no {file}: `aos provider --init` writes one to fill in")
    return load_settings(file, ProviderSettings)


def _warn(settings: ProviderSettings, file: Path, steps: Steps) -> None:
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        steps.warn(f"{file} holds secrets, and other users may read or change it: run chmod 600 {file}")
    if looks_weak(settings.user_secret.get_secret_value()):
        steps.warn(
            "userSecret may be guessed: it is short for the kinds of characters in it. Who guesses it can sign in this provider's name; "
            "`aos provider --init -c FILE` makes a good one, which is another identity"
        )


async def _run(settings: ProviderSettings, steps: Steps, registration_port: int | None) -> None:
    from aos_cli.provider_run import running

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ca = certificate_authorities.get()
    async with running(settings, steps, ca, registration_port) as provider:
        await provider.run(stop)


def _write_template(file: Path) -> None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CliError(
            f"{file} is there already, and holds an identity: it is not overwritten; name another with -c"
        ) from None
    except OSError as error:
        raise CliError(f"{file} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(template())
    typer.echo(f"wrote {file}: fill in modelName and serverKey, then run aos provider")
