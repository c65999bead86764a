"""Reads the log: heads, entries with their proofs, and the growth from one size to another, all as of one moment of the database."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, exists, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher import log_tree
from aos_dispatcher.errors import LogDamaged
from aos_dispatcher.log_tree import Tile
from aos_dispatcher.tables import LogAnchor, LogEntry, LogHead, LogPending
from aos_protocol import merkle
from aos_protocol.errors import InvalidEvidence
from aos_protocol.log import AnchorDocument, LogDocument, TreeHead
from aos_protocol.log import LogEntry as ProvenEntry
from aos_protocol.merkle import Node
from aos_protocol.typed_data import Domain

_TILES = text(
    "select level, index, hashes from log_tiles where (level, index) in "
    "(select * from unnest(cast(:levels as bigint[]), cast(:indexes as bigint[])))"
)


async def is_settled(connection: AsyncConnection, job_id: str | None) -> bool:
    """Return whether there is a head, and no event of this job (None: of no job) that waits for its place under the next."""
    waits = exists().where(LogPending.job_id.is_(None) if job_id is None else LogPending.job_id == job_id)
    pending, headed = (await connection.execute(select(waits, exists(select(LogHead.size))))).one()
    return headed and not pending


async def read_head(connection: AsyncConnection) -> TreeHead | None:
    """Return the newest signed head; None before the first, which the sequencer signs when it starts."""
    row = (await connection.execute(select(LogHead.__table__))).one_or_none()
    return None if row is None else TreeHead(**row._asdict())


async def size(connection: AsyncConnection) -> int:
    """Return how many entries the newest head is over; 0 before the first."""
    return (await connection.execute(select(LogHead.size))).scalar() or 0


async def entries(connection: AsyncConnection, start: int, count: int) -> list[str]:
    """Return up to `count` entries from index `start` on."""
    query = select(LogEntry.entry).where(LogEntry.index >= start).order_by(LogEntry.index).limit(count)
    return list((await connection.execute(query)).scalars())


async def inclusion(connection: AsyncConnection, index: int, size: int) -> ProvenEntry | None:
    """Return an entry with its proof in the tree of the first `size`; None where there is none. Raises `LogDamaged`."""
    query = select(LogEntry.entry).where(LogEntry.index == index)
    entry = (await connection.execute(query)).scalar()
    return None if entry is None else (await _proven(connection, {index: entry}, size))[0]


async def consistency(connection: AsyncConnection, first: int, second: int) -> list[str]:
    """Return the proof that the log of `first` entries is the beginning of that of `second`. Raises `LogDamaged`."""
    return (await _proofs(connection, [merkle.consistency_nodes(first, second)]))[0]


async def read_tiles(connection: AsyncConnection, wanted: Collection[Tile]) -> dict[Tile, bytes]:
    """Return these tiles, as far as they are there."""
    if not wanted:
        return {}
    levels, indexes = zip(*wanted, strict=True)
    rows = await connection.execute(_TILES, {"levels": list(levels), "indexes": list(indexes)})
    return {(level, index): hashes for level, index, hashes in rows}


async def anchors(connection: AsyncConnection) -> Sequence[Row[Any]]:
    """Return all anchored heads, oldest first."""
    return (await connection.execute(select(LogAnchor.__table__).order_by(LogAnchor.size))).all()


async def log_of(
    connection: AsyncConnection, job_id: str, domain: Domain, contract: str | None
) -> LogDocument:
    """Return what the log has about a settled job under its newest head, and the newest anchor in this contract. Raises `LogDamaged`."""
    head = TreeHead(**(await connection.execute(select(LogHead.__table__))).one()._asdict())
    query = select(LogEntry.index, LogEntry.entry).where(LogEntry.job_id == job_id).order_by(LogEntry.index)
    texts: dict[int, str] = dict((await connection.execute(query)).all())
    anchor = await _anchor(connection, head, domain, contract) if contract is not None else None
    return LogDocument(head=head, entries=await _proven(connection, texts, head.size), anchor=anchor)


async def _anchor(
    connection: AsyncConnection, head: TreeHead, domain: Domain, contract: str
) -> AnchorDocument | None:
    newest = select(LogAnchor.__table__).where(LogAnchor.size <= head.size).order_by(LogAnchor.size.desc())
    row = (await connection.execute(newest.limit(1))).one_or_none()
    if row is None:
        return None
    proof = await consistency(connection, row.size, head.size)
    return AnchorDocument(
        chain_id=domain.chain_id,
        contract=contract,
        size=row.size,
        root=row.root,
        block=row.block,
        proof=proof,
    )


async def _proven(connection: AsyncConnection, texts: Mapping[int, str], size: int) -> list[ProvenEntry]:
    places = [index for index in texts if index < size]
    proofs = await _proofs(connection, [merkle.inclusion_nodes(index, size) for index in places])
    return [
        ProvenEntry(index=index, text=texts[index], proof=proof)
        for index, proof in zip(places, proofs, strict=True)
    ]


async def _proofs(connection: AsyncConnection, wanted: Sequence[list[list[Node]]]) -> list[list[str]]:
    """Return several proofs from one reading of all tiles that they need."""
    tiles = await read_tiles(connection, log_tree.tiles_of(part for parts in wanted for part in parts))
    try:
        return [log_tree.proof_of(parts, tiles) for parts in wanted]
    except InvalidEvidence as error:
        raise LogDamaged(str(error)) from None
