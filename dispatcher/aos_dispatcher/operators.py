"""The registry: operators with their numbers and ranges, and the models that they announced.

Without a chain, this dispatcher's own table is the registry, and everybody in it has an equal share. With one the contract is, and the table has
who ever connected. Who is not in the registry cannot connect.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, case, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_chain.registry import RegistryEntry, RegistryState
from aos_dispatcher import calibrations
from aos_dispatcher.admission import Admitted, Arrival, admit, check_evidence
from aos_dispatcher.aged import AgedCache
from aos_dispatcher.database import Database
from aos_dispatcher.errors import DispatcherError, RegistryStale
from aos_dispatcher.log_pending import record
from aos_dispatcher.tables import Counter, JsonObject, Model, Operator, Registry
from aos_protocol.calibration import Calibration
from aos_protocol.canonical import canonical, digest
from aos_protocol.fields import EvidenceLevel
from aos_protocol.log_entries import model_entry, operator_entry
from aos_protocol.messages import ModelOffer, ServedModel
from aos_protocol.sortition import MAX_RANGE, Holders, equal_shares
from aos_service.coalesce import Coalescer

if TYPE_CHECKING:  # it imports web3, which a dispatcher without a chain may not have
    from aos_dispatcher.chain_registry import ChainRegistry


_MANY = 4096
_PINS_S, _MANY_NAMES = 1.0, 1024
_MODELS = select(Model.name, Model.job_type, Model.sha256).order_by(Model.name, Model.job_type)
_OPERATORS = select(Operator.address, Operator.number, Operator.suspended_at).order_by(Operator.number)
_VERSION = select(Counter.value).where(Counter.name == "registry")


@dataclass(frozen=True)
class Shares:
    """Who is registered, with which number and range: the same for many blocks of a chain, so it is made and stored once, by its digest."""

    digest: str
    document: JsonObject

    @classmethod
    def of(cls, entries: Iterable[RegistryEntry]) -> "Shares":
        """Return the shares of these operators, which come by number."""
        operators = [
            {"operator": entry.operator, "number": entry.number, "start": entry.start, "end": entry.end}
            for entry in entries
        ]
        document: JsonObject = {"max_range": MAX_RANGE, "operators": operators}
        return cls(digest(document), document)

    @cached_property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """`[start, end)` of every operator."""
        return {entry["operator"]: (entry["start"], entry["end"]) for entry in self.document["operators"]}

    @cached_property
    def text(self) -> bytes:
        """The document in canonical JSON."""
        return canonical(self.document)

    @cached_property
    def holders(self) -> Holders:
        """Who holds which slot, for the electorates of all draws by these shares."""
        return Holders((operator, start, end) for operator, (start, end) in self.ranges.items())


@dataclass(frozen=True)
class RegistrySnapshot:
    """The registry as one draw saw it: shares, where on the chain they were read (null without), and who may not be asked just now."""

    shares: Shares
    chain: JsonObject | None
    suspended: frozenset[str]

    @property
    def document(self) -> JsonObject:
        """The registry as evidence has it."""
        return registry_document(self.shares.document, self.chain)

    def canonical(self) -> bytes:
        """Return the registry in canonical JSON, in which `chain` stands before the shares."""
        return b'{"chain":' + canonical(self.chain) + b"," + self.shares.text[1:]

    @property
    def block(self) -> int:
        """The block of the chain that the registry was read at; 0 for this dispatcher's own."""
        return block_of(self.document)

    def range_of(self, operator: str) -> tuple[int, int]:
        """Return the operator's `[start, end)`; an empty one when it is not registered."""
        return self.shares.ranges.get(operator, (0, 0))

    def has(self, operator: str) -> bool:
        """Return whether the operator is registered: one that the contract knows no more may still be connected."""
        return operator in self.shares.ranges


def registry_document(shares: JsonObject, chain: JsonObject | None) -> JsonObject:
    """Return a registry as evidence has it, from the two parts that are stored: a row of `registries`, and `registry_chain` of a round."""
    return {**shares, "chain": chain}


def block_of(registry: JsonObject) -> int:
    """Return the block of the chain that a registry's document was read at; 0 for a dispatcher's own."""
    chain = registry["chain"]
    return chain["block"] if chain else 0


async def register_operator(database: Database, address: str) -> int:
    """Put an operator into the registry and return its number; registering again changes nothing."""
    async with database.begin() as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtext("operators"))))
        known = (
            await connection.execute(select(Operator.number).where(Operator.address == address))
        ).scalar()
        if known is not None:
            return known
        # Number 1 is the dispatcher's own.
        number = (
            await connection.execute(select(func.coalesce(func.max(Operator.number), 1) + 1))
        ).scalar_one()
        await connection.execute(insert(Operator).values(address=address, number=number))
        record(connection, operator_entry(address, number))
        return number


async def list_operators(database: Database) -> list[tuple[str, int]]:
    """Return every registered operator's address and number, by number."""
    async with database.connect() as connection:
        return await operators_in(connection)


async def operators_in(connection: AsyncConnection) -> list[tuple[str, int]]:
    """Return every registered operator's address and number, by number."""
    query = select(Operator.address, Operator.number).order_by(Operator.number)
    return [(row.address, row.number) for row in await connection.execute(query)]


async def pin_model(
    database: Database, job_type: str, offer: ModelOffer, calibration: Calibration | None = None
) -> None:
    """Let a model's name stand for this digest from now on, whatever it stood for before.

    Its scores are judged by `calibration`; without one, by the one that this same file has already, if any. Raises `DispatcherError`
    for a calibration of another file.
    """
    if calibration is not None and calibration.model != offer.sha256:
        raise DispatcherError(
            f"the calibration is that of {calibration.model}, not of {offer.sha256}: run aos calibrate on this very file"
        )
    async with database.begin() as connection:
        judged = await calibrations.keep(connection, calibration) if calibration else None
        row = insert(Model).values(
            name=offer.name, job_type=job_type, sha256=offer.sha256, calibration=judged
        )
        same_file = case((Model.sha256 == row.excluded.sha256, Model.calibration), else_=None)
        pinned = {
            "sha256": row.excluded.sha256,
            "calibration": func.coalesce(row.excluded.calibration, same_file),
        }
        change = row.on_conflict_do_update(index_elements=["name", "job_type"], set_=pinned)
        kept = (await connection.execute(change.returning(Model.calibration))).scalar()
        record(connection, model_entry(offer.name, job_type, offer.sha256, kept))


async def list_models(connection: AsyncConnection) -> list[JsonObject]:
    """Return what every model's name stands for, and by which calibration's digest its scores are judged."""
    query = select(Model.name, Model.job_type, Model.sha256, Model.calibration)
    rows = await connection.execute(query.order_by(Model.name, Model.job_type))
    return [row._asdict() for row in rows]


@dataclass(frozen=True)
class _Reading:
    """The table of operators under one number of its version: equal shares of the range, and who is suspended."""

    version: int
    entries: tuple[RegistryEntry, ...]
    suspended: frozenset[str]

    @classmethod
    def of(cls, version: int, rows: Sequence[Row[*tuple[Any, ...]]]) -> "_Reading":
        ranges = equal_shares([row.address for row in rows])
        entries = tuple(
            RegistryEntry(address, row.number, start, end)
            for row, (address, start, end) in zip(rows, ranges, strict=True)
        )
        return cls(version, entries, frozenset(row.address for row in rows if row.suspended_at is not None))


class Operators:
    """What the running dispatcher asks of the registry: of the chain's, where there is a `chain`.

    Operators with models whose answers show less than `least` are not let in.
    """

    def __init__(
        self,
        database: Database,
        chain: "ChainRegistry | None" = None,
        least: EvidenceLevel = "fingerprints",
    ) -> None:
        self._database = database
        self._least = least
        self._chain = chain
        self._known: tuple[tuple[RegistryEntry, ...], Shares] | None = None
        self._last: _Reading | None = None
        # Whoever asks while one query is under way shares the next with all the others.
        self._readings: Coalescer[None, _Reading] = Coalescer(self._read, _MANY)
        self._models: Coalescer[None, list[tuple[str, str, str]]] = Coalescer(self._read_models, _MANY)
        self._pins: AgedCache[str, dict[str, str]] = AgedCache(_PINS_S, _MANY_NAMES)
        self._arrivals: Coalescer[Arrival, Admitted] = Coalescer(self._admit, _MANY)

    async def admit(
        self, address: str, workers: Iterable[str], models: Iterable[ServedModel]
    ) -> tuple[int, int]:
        """Return the operator's number and last seen clock, and pin the names of models not known before.

        Raises `DispatcherError` for an operator that is not registered, a model whose name is known
        with another digest, or one of whose answers too little can be shown, and `NotConfirmed` for one that should come again.
        """
        models = tuple(models)
        check_evidence(models, self._least)
        number = None if self._chain is None else await self._chain.number_of(address)
        return await self._arrivals.submit(Arrival.of(address, number, workers, models))

    async def models(self) -> list[tuple[str, str, str]]:
        """Return every known model as (name, job type, SHA-256)."""
        return await self._models.submit(None)

    async def pins(self, name: str) -> dict[str, str]:
        """Return the SHA-256 that a model's name stands for, by job type; empty for one that is not known. It is a second old at most."""
        pins = self._pins.get(name)
        if pins is None:
            pins = {job_type: sha256 for each, job_type, sha256 in await self.models() if each == name}
            if pins:
                self._pins.put(name, pins)
        return pins

    async def suspended(self) -> frozenset[str]:
        """Return the operators that no draw may ask."""
        return (await self._readings.submit(None)).suspended

    def waits_for_chain(self) -> str:
        """Return why nothing can be drawn now, empty when it can."""
        try:
            if self._chain is not None:
                self._chain.state()
        except RegistryStale as error:
            return str(error)
        return ""

    async def snapshot(self, version: int | None = None) -> RegistrySnapshot:
        """Return the registry as it is now, the chain's or else equal shares of the range in the order of registration.

        `version` is the number of the table of operators, if the caller has read it just now: what is known of that one is not read again. Raises `RegistryStale` when the chain has not confirmed it for too long.
        """
        if self._chain is not None:
            state = self._chain.state()
            reading = await self._reading(version)
            return RegistrySnapshot(self._shares(state.entries), chain_place(state), reading.suspended)
        reading = await self._reading(version)
        return RegistrySnapshot(self._shares(reading.entries), None, reading.suspended)

    async def _reading(self, version: int | None) -> _Reading:
        if self._last is not None and self._last.version == version:
            return self._last
        return await self._readings.submit(None)

    async def _admit(self, arrivals: Sequence[Arrival]) -> list[Admitted | Exception]:
        async with self._database.begin() as connection:
            return await admit(connection, arrivals)

    async def _read_models(self, waiting: Sequence[None]) -> list[list[tuple[str, str, str]]]:
        async with self._database.connect() as connection:
            rows = [(row.name, row.job_type, row.sha256) for row in await connection.execute(_MODELS)]
        return [rows] * len(waiting)

    async def _read(self, waiting: Sequence[None]) -> list["_Reading"]:
        """Read the table of operators, unless it is the same as the last time."""
        async with self._database.connect() as connection:
            # The number is read before the rows: of a change in between, the next reading learns.
            version = (await connection.execute(_VERSION)).scalar() or 0
            if self._last is None or self._last.version != version:
                self._last = _Reading.of(version, (await connection.execute(_OPERATORS)).all())
        return [self._last] * len(waiting)

    def _shares(self, entries: tuple[RegistryEntry, ...]) -> Shares:
        """The shares of these operators: those of the draw before, as long as nothing changed, whatever blocks have come since."""
        if self._known is None or self._known[0] != entries:
            self._known = entries, Shares.of(entries)
        return self._known[1]


def chain_place(state: RegistryState) -> JsonObject:
    """Return where a contract's registry was read, as evidence has it."""
    return {
        "chain_id": state.chain_id,
        "registry": state.registry,
        "block": state.block,
        "block_hash": state.block_hash.removeprefix("0x"),
    }


async def store_shares(connection: AsyncConnection, shares: Shares) -> None:
    """Keep the shares that a round refers to; those that are already kept cost a look-up, and are not sent again."""
    known = await connection.execute(select(Registry.digest).where(Registry.digest == shares.digest))
    if known.scalar() is not None:
        return
    row = insert(Registry).values(digest=shares.digest, document=shares.document)
    await connection.execute(row.on_conflict_do_nothing())
