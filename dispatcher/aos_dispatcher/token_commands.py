"""`dispatcher token`: the API tokens of projects. Tokens are named by their ids, so that none stands on a command line."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from aos_dispatcher.console import Config, with_database
from aos_dispatcher.projects import CACHE_S
from aos_dispatcher.tokens import (
    SCOPES,
    Grant,
    create_token,
    list_tokens,
    revoke_token,
    rotate_token,
    standing,
)

app = typer.Typer(no_args_is_help=True, help="API tokens, by which projects are known.")

Days = Annotated[
    float | None,
    typer.Option(
        "--days",
        min=0.001,
        max=36_500,
        help="For how many days it works. Default: for ever; of a rotated one, as long as the old one.",
        show_default=False,
    ),
]
Id = Annotated[
    str, typer.Argument(help="The token's id: what stands between its first two underscores.", metavar="ID")
]


@app.command("create")
def create(
    project: Annotated[str, typer.Argument(help="The project's id.")],
    config: Config,
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"What it may do: {', '.join(SCOPES)}. Several times for several. Default: all."),
    ] = None,
    days: Days = None,
) -> None:
    """Make one more token of a project and print it, once. Example: dispatcher token create shop --scope submit --days 90 -c config.yaml."""
    grant = Grant(project, scope or SCOPES, _ends(days))
    typer.echo(with_database(config, lambda database: create_token(database, grant)))


@app.command("list")
def show(
    config: Config,
    project: Annotated[
        str | None, typer.Argument(help="The project's id. Default: all projects.", show_default=False)
    ] = None,
) -> None:
    """Print each token's id, project, scopes, standing, creation, end and last use (to the hour; UTC), separated by tabs."""
    for row in with_database(config, lambda database: list_tokens(database, project)):
        times = (row.created_at, row.expires_at, row.last_used_at)
        named = (row.shown_id, row.project_id, ",".join(row.scopes), standing(row))
        typer.echo("\t".join((*named, *map(_time, times))))


@app.command("rotate")
def rotate(
    id_: Id,
    config: Config,
    grace: Annotated[
        float, typer.Option(min=0, max=8760, help="For how many hours the old one goes on working.")
    ] = 24,
    days: Days = None,
) -> None:
    """Print a new token that may do what this one may; this one ends after a while. Example: dispatcher token rotate 4fzN... -c config.yaml."""
    hours, ends = timedelta(hours=grace), _ends(days)
    typer.echo(with_database(config, lambda database: rotate_token(database, id_, hours, ends)))


@app.command("revoke")
def revoke(id_: Id, config: Config) -> None:
    """Let a token work no more, for ever. Example: dispatcher token revoke 4fzN... -c config.yaml."""
    with_database(config, lambda database: revoke_token(database, id_))
    typer.echo(f"revoked; every dispatcher refuses it within {CACHE_S:g} seconds")


def _ends(days: float | None) -> datetime | None:
    return None if days is None else datetime.now(UTC) + timedelta(days=days)


def _time(at: datetime | None) -> str:
    return "-" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
