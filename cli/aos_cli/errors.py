"""What a command of `aos` may stop with, and how it is told: each message says what to do next."""

from typing import Any

import typer
from typer.core import TyperGroup

from aos_service.errors import ServiceError


class CliError(Exception):
    """The command cannot go on."""


class KeyFileExistsError(CliError):
    """The keystore file exists already and is not overwritten: a lost key cannot be made again."""


class PasswordError(CliError):
    """No usable password was given for a keystore."""


class EmbeddedError(CliError):
    """An embedded PostgreSQL or Valkey cannot start or stop."""


class MessageGroup(TyperGroup):
    """Commands whose CliError or ServiceError becomes a message on stderr and exit status 1.

    Use it as `typer.Typer(cls=MessageGroup)`. Every other exception is a defect and keeps its traceback.
    """

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 (the context's class is private to typer)
        """Run the command; see the class."""
        try:
            return super().invoke(ctx)
        except (CliError, ServiceError) as error:
            typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
            raise typer.Exit(1) from error
