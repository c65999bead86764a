"""`dispatcher project limit`: how much a project may submit."""

from typing import Annotated

import typer

from aos_dispatcher.console import Config, with_database
from aos_dispatcher.limits import set_quota
from aos_dispatcher.quotas import Quota

_KEEPS = "0: no such limit. Default: as it is."


def limit(
    name: Annotated[str, typer.Argument(help="The project's id.")],
    config: Config,
    *,
    rate: Annotated[
        float | None, typer.Option(min=0, help=f"Jobs a second. {_KEEPS}", show_default=False)
    ] = None,
    burst: Annotated[
        int | None,
        typer.Option(
            min=1, help="Jobs at once, where there is a rate. Default: as it is.", show_default=False
        ),
    ] = None,
    daily: Annotated[
        int | None, typer.Option(min=0, help=f"Jobs a day (UTC). {_KEEPS}", show_default=False)
    ] = None,
    waiting: Annotated[
        int | None,
        typer.Option(min=0, help=f"Jobs that wait for a committee. {_KEEPS}", show_default=False),
    ] = None,
) -> None:
    """Limit what a project may submit, and print what holds. Example: dispatcher project limit shop --rate 5 --burst 20 -c config.yaml.

    All dispatchers of the database count together. A project's first limit counts within a second, later changes at once.
    """
    given = {"rate": rate, "burst": burst, "daily": daily, "waiting": waiting}
    changes = {key: value for key, value in given.items() if value is not None}
    typer.echo(_line(with_database(config, lambda database: set_quota(database, name, changes))))


def _line(quota: Quota) -> str:
    rate = None if quota.rate is None else f"{quota.rate:g} jobs a second, {quota.burst} at once"
    daily = None if quota.daily is None else f"{quota.daily} a day"
    waiting = None if quota.waiting is None else f"{quota.waiting} waiting"
    return "; ".join(part for part in (rate, daily, waiting) if part) or "no limits"
