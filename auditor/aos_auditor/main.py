"""The `aos-audit` command."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from aos_auditor.errors import AuditorError
from aos_auditor.job import job
from aos_auditor.report import NOT_AUDITED
from aos_auditor.watching import watch
from aos_chain.errors import ChainError
from aos_service.errors import ServiceError

_JOB = "job"
_OF_ITS_OWN = {"--help", "--install-completion", "--show-completion"}
_ID = "636a5cf015a1a4c7480317f114d5b06d69476b9d0d5a67dbe53e9b59de72769b"


@contextmanager
def _usage() -> Iterator[None]:
    """Let mistakes in the command line end with status 3: the usual 2 means something else here."""
    try:
        yield
    except TyperException as error:
        error.exit_code = NOT_AUDITED
        raise


class AuditGroup(TyperGroup):
    """`aos-audit X` means `aos-audit job X`; what cannot be audited ends with a message and status 3."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - the class is private to typer
        """Put the `job` command before arguments that name no other one."""
        if args and args[0] not in self.commands and args[0] not in _OF_ITS_OWN:
            args = [_JOB, *args]
        with _usage():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as above
        """Run the command; see the class."""
        try:
            with _usage():
                return super().invoke(ctx)
        except (AuditorError, ServiceError, ChainError) as error:
            typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
            raise typer.Exit(NOT_AUDITED) from error


app = typer.Typer(
    name="aos-audit",
    cls=AuditGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Audit a job, or everything that a dispatcher does, without trusting whoever serves it. `aos-audit JOB_ID` and "
    "`aos-audit FILE` are short for `aos-audit job ...`.\n\n"
    "Exit status: 0 nothing failed; 1 something failed; 2 with --strict: nothing failed, but something was skipped; 3 nothing "
    "could be audited: no such file, or the dispatcher does not answer. A skipped check never counts as one that passed.",
    epilog="Examples: aos-audit evidence.json --dispatcher-address 0x... --strict; aos-audit JOB_ID --dispatcher http://127.0.0.1:8000 "
    "--rpc http://127.0.0.1:8545 --deployment chain.json; aos-audit watch --dispatcher http://127.0.0.1:8000",
)
_STATUS = "Exit status: 0 nothing failed, 1 something failed, 2 something was skipped (with --strict), 3 nothing could be audited."

app.command(
    _JOB,
    epilog=f"{_STATUS} Examples: aos-audit {_ID} --dispatcher http://127.0.0.1:8000; aos-audit evidence.json --json; scored again: "
    "aos-audit evidence.json --worker http://127.0.0.1:5005 --model models/aos-demo-5m.F16.gguf",
)(job)
app.command(
    epilog=f"{_STATUS} Examples: aos-audit watch --dispatcher https://dispatcher.example --dispatcher-address 0x... ; from cron: "
    "aos-audit watch --dispatcher https://dispatcher.example --state monitor.json --once --strict",
)(watch)
