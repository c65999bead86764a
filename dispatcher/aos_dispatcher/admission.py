"""Operators at the door: who is let in, and which model files they bring. Those that come together share a transaction.

After an outage thousands come at once, and each of them would take a connection to the database from the rounds that are at work.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, Text, any_, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.errors import DispatcherError
from aos_dispatcher.log_pending import record
from aos_dispatcher.tables import Model, Operator
from aos_protocol.fields import EvidenceLevel
from aos_protocol.log_entries import model_entry, operator_entry
from aos_protocol.messages import ModelOffer, ServedModel
from aos_protocol.shown import is_weaker

Name = tuple[str, str]
"""What a model is known by: job type and name."""
Admitted = tuple[int, int]
"""An operator's number, and the last clock seen from it."""


@dataclass(frozen=True)
class Arrival:
    """An operator that wants in, with what it serves; `number` is its number on the chain, where there is one."""

    address: str
    number: int | None
    offers: Mapping[Name, str]

    @classmethod
    def of(
        cls, address: str, number: int | None, workers: Iterable[str], models: Collection[ModelOffer]
    ) -> "Arrival":
        """Return the arrival of an operator that runs all these models as each of these job types."""
        offers = {(job_type, offer.name): offer.sha256 for job_type in workers for offer in models}
        return cls(address, number, offers)


def check_evidence(models: Iterable[ServedModel], least: EvidenceLevel) -> None:
    """Raise `DispatcherError`, which names them, for models that show less of their answers than the dispatcher wants."""
    weak = [f"{model.name} shows {model.evidence}" for model in models if is_weaker(model.evidence, least)]
    if weak:
        raise DispatcherError(
            f"answers must show {least} at least here, and of {', '.join(weak)}: serve the model's file with inference-worker (docs/worker.md), or ask "
            f"the owner to set verification.least_evidence"
        )


async def admit(connection: AsyncConnection, arrivals: Sequence[Arrival]) -> list[Admitted | Exception]:
    """Let operators in, and pin the names of models not known before, by whoever comes first.

    The outcome is a `DispatcherError` for an operator that is not registered, or one with a model whose name is known with another digest.
    """
    registered = await _registered(connection, arrivals)
    files = await _files(connection, arrivals)
    outcomes: list[Admitted | Exception] = []
    fresh: dict[Name, str] = {}
    for arrival in arrivals:
        try:
            await _keep_number(connection, arrival, registered)
            _check(arrival, registered, files | fresh)
        except DispatcherError as error:
            outcomes.append(error)
        else:
            outcomes.append(registered[arrival.address])
            fresh |= {name: sha256 for name, sha256 in arrival.offers.items() if name not in files}
    if not fresh:
        return outcomes
    await _announce(connection, fresh)
    # Another process may have announced the same names meanwhile.
    files = await _files(connection, arrivals)
    return [
        _outcome(arrival, outcome, registered, files)
        for arrival, outcome in zip(arrivals, outcomes, strict=True)
    ]


def _outcome(
    arrival: Arrival,
    outcome: Admitted | Exception,
    registered: Mapping[str, Admitted],
    files: Mapping[Name, str],
) -> Admitted | Exception:
    try:
        _check(arrival, registered, files)
    except DispatcherError as error:
        return outcome if isinstance(outcome, Exception) else error
    return outcome


def _check(arrival: Arrival, registered: Mapping[str, Admitted], files: Mapping[Name, str]) -> None:
    if arrival.address not in registered:
        raise DispatcherError(
            f"operator {arrival.address} is not registered here; ask the owner to run: dispatcher operator add {arrival.address}"
        )
    for (job_type, name), sha256 in arrival.offers.items():
        known = files.get((job_type, name), sha256)
        if known != sha256:
            raise DispatcherError(
                f"model {name} has the digest {known} here, not {sha256}; serve that file, or ask the owner to "
                f"run: dispatcher model pin {name} SHA256"
            )


async def _registered(connection: AsyncConnection, arrivals: Sequence[Arrival]) -> dict[str, Admitted]:
    query = select(Operator.address, Operator.number, Operator.clock)
    rows = await connection.execute(
        query.where(Operator.address == any_(_texts(a.address for a in arrivals)))
    )
    return {row.address: (row.number, row.clock) for row in rows}


async def _files(connection: AsyncConnection, arrivals: Sequence[Arrival]) -> dict[Name, str]:
    names = {name for arrival in arrivals for _, name in arrival.offers}
    query = select(Model.job_type, Model.name, Model.sha256).where(Model.name == any_(_texts(names)))
    return {(row.job_type, row.name): row.sha256 for row in await connection.execute(query)}


def _texts(values: Iterable[str]) -> Any:  # noqa: ANN401 - a bound array
    return literal(sorted(set(values)), ARRAY(Text))


async def _announce(connection: AsyncConnection, fresh: Mapping[Name, str]) -> None:
    """Pin these names, in one order everywhere, so that no two processes wait for each other; names pinned meanwhile stay as they are."""
    for (job_type, name), sha256 in sorted(fresh.items()):
        row = insert(Model).values(name=name, job_type=job_type, sha256=sha256).on_conflict_do_nothing()
        if (await connection.execute(row.returning(Model.name))).scalar() is not None:
            record(connection, model_entry(name, job_type, sha256, None))


async def _keep_number(
    connection: AsyncConnection, arrival: Arrival, registered: dict[str, Admitted]
) -> None:
    """Keep an operator under its number of the contract. Raises `DispatcherError` where this database has it otherwise."""
    address, number = arrival.address, arrival.number
    if number is None or registered.get(address, (0, 0))[0] == number:
        return
    row = insert(Operator).values(address=address, number=number).on_conflict_do_nothing()
    if (await connection.execute(row.returning(Operator.number))).scalar() is not None:
        record(connection, operator_entry(address, number))
        registered[address] = number, 0
        return
    query = select(Operator.address, Operator.number, Operator.clock)
    either = query.where((Operator.address == address) | (Operator.number == number))
    known = [(row.address, row.number, row.clock) for row in await connection.execute(either)]
    if [row[:2] for row in known] != [(address, number)]:
        raise DispatcherError(
            f"operator {address} is number {number} in the registry, and this database has the numbers of another registry: a network that "
            "moves to another one begins with a fresh database"
        )
    [(_, _, clock)] = known
    registered[address] = number, clock
