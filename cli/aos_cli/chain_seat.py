"""The dispatcher's signature over an operator's seat: it came with the dispatch, which the operator's database has."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from sqlalchemy import URL

from aos_cli.errors import CliError
from aos_operator.database import check_tables
from aos_operator.errors import OperatorError
from aos_operator.settings import OperatorSettings
from aos_operator.store import PostgresStore
from aos_operator.tasks import TaskKey
from aos_protocol.errors import InvalidSignature
from aos_protocol.fields import Tag
from aos_protocol.messages import Dispatch
from aos_protocol.typed_data import Domain, SeatClaim, recover_typed, struct_hash
from aos_service.database import create_engine, describe
from aos_service.settings import load_settings

if TYPE_CHECKING:
    from aos_chain.challenges import Challenge

_TIMEOUT_S = 30.0


async def stored_seat(config: Path, domain: Domain, challenge: "Challenge", job_id: str) -> str:
    """Return the signature that answers a challenge of membership, from the database of these operator settings.

    Raises:
        SettingsError: when the settings cannot be used.
        DatabaseError: when the database cannot be reached.
        CliError: when it does not have that dispatch, or has it for another seat.
    """
    url = load_settings(config, OperatorSettings).db.url()
    try:
        dispatches = await _dispatches(url, challenge.operator, job_id)
    except OperatorError as error:
        raise CliError(str(error)) from error
    if not dispatches:
        raise CliError(
            f"{describe(url)} has no dispatch of job {job_id} to {challenge.operator}: name the settings of that operator, whom the "
            "challenge is against, or give the signature with --seat"
        )
    for dispatch in dispatches:
        claim = _claim(dispatch, challenge.operator)
        if struct_hash(claim) == challenge.subject:
            return _checked(dispatch.seat, domain, claim, challenge.dispatcher)
    seats = "; ".join(_named(dispatch) for dispatch in dispatches)
    raise CliError(
        f"{describe(url)} has job {job_id} for another seat than the challenged result's ({seats}): if the dispatch of that one was "
        "kept elsewhere, give its signature with --seat"
    )


async def _dispatches(url: URL, operator: str, job_id: str) -> Sequence[Dispatch]:
    """What was dispatched of a job to an operator, under each tag. Raises `OperatorError` and `DatabaseError`."""
    await check_tables(url)
    engine = create_engine(
        url, pool_min=1, pool_max=1, connect_timeout=_TIMEOUT_S, acquire_timeout=_TIMEOUT_S
    )
    try:
        store = PostgresStore(engine, operator)
        tasks = [await store.load(TaskKey(job_id, tag)) for tag in get_args(Tag)]
    finally:
        await engine.dispose()
    return [task.request for task in tasks if task is not None and isinstance(task.request, Dispatch)]


def _claim(dispatch: Dispatch, operator: str) -> SeatClaim:
    return SeatClaim(
        dispatch.job_id,
        operator,
        dispatch.role,
        dispatch.tag,
        dispatch.position,
        dispatch.registry_block,
    )


def _checked(seat: str, domain: Domain, claim: SeatClaim, dispatcher: str) -> str:
    """Return the signature, which would be refused on the chain, for gas, if it were another's. Raises `CliError`."""
    try:
        signer = recover_typed(domain, claim, seat)
    except InvalidSignature as error:
        raise CliError(f"the stored signature over the seat is nobody's: {error}") from error
    if signer != dispatcher:
        raise CliError(
            f"the stored signature over the seat is that of {signer}, not of the dispatcher {dispatcher}: it answers no challenge here"
        )
    return seat


def _named(dispatch: Dispatch) -> str:
    under = f" under {dispatch.tag}, {dispatch.position}" if dispatch.tag else ""
    return f"{dispatch.role}{under}, by the registry of block {dispatch.registry_block}"
