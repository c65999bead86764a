"""The HTTP API of the transparency log, for anybody: heads, entries, proofs, anchors, and what its last entries stand for now."""

from dataclasses import asdict
from typing import Annotated, Final

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher import log_reader
from aos_dispatcher.api import Service
from aos_dispatcher.errors import NotFound, Unavailable
from aos_dispatcher.openapi import (
    ERRORS,
    AnchorsAnswer,
    ConsistencyAnswer,
    EntriesAnswer,
    HeadAnswer,
    ModelsAnswer,
    OperatorsAnswer,
    ProofAnswer,
)
from aos_dispatcher.operators import list_models, operators_in
from aos_dispatcher.tables import JsonObject
from aos_protocol.log import TreeHead

router = APIRouter(responses=ERRORS)

_MOST_ENTRIES: Final = 1000
Place = Annotated[int, Query(ge=0, lt=2**53)]
Size = Annotated[int, Query(ge=1, lt=2**53)]


@router.get("/api/log/head", response_model=HeadAnswer)
async def head(service: Service) -> JsonObject:
    """Read the newest signed head. What happened since then, a moment ago at most, is in the next one."""
    async with service.database.connect() as connection:
        newest = await _head(connection)
    domain = asdict(service.settings.chain.domain())
    return {"code": 200, "result": newest.to_json() | {"dispatcher": service.address, "domain": domain}}


@router.get("/api/log/entries", response_model=EntriesAnswer)
async def entries(
    service: Service, start: Place = 0, count: Annotated[int, Query(ge=1, le=_MOST_ENTRIES)] = _MOST_ENTRIES
) -> JsonObject:
    """Read entries in their order, from index `start` on; fewer than `count` come at the end of the log."""
    async with service.database.connect() as connection:
        texts = await log_reader.entries(connection, start, count)
    return {"code": 200, "result": {"start": start, "entries": texts}}


@router.get("/api/log/proof", response_model=ProofAnswer)
async def proof(service: Service, index: Place, size: Size | None = None) -> JsonObject:
    """Prove that an entry has its place in the log of `size` entries; without a size, in that of the newest head."""
    async with service.database.snapshot() as connection:
        newest = await _head(connection)
        under = newest.size if size is None else _within(size, newest)
        entry = await log_reader.inclusion(connection, index, under) if index < under else None
    if entry is None:
        raise NotFound(f"the log of {under} entries has no entry {index}")
    return {"code": 200, "result": entry.to_json() | {"size": under}}


@router.get("/api/log/consistency", response_model=ConsistencyAnswer)
async def consistency(service: Service, first: Size, second: Size) -> JsonObject:
    """Prove that the log of `first` entries is the beginning of that of `second`."""
    async with service.database.snapshot() as connection:
        _within(second, await _head(connection))
        if first > second:
            raise NotFound(f"a log of {first} entries is not the beginning of one of {second}")
        path = await log_reader.consistency(connection, first, second)
    return {"code": 200, "result": {"first": first, "second": second, "proof": path}}


@router.get("/api/log/anchors", response_model=AnchorsAnswer)
async def anchors(service: Service) -> JsonObject:
    """List the heads that the chain's contract has taken, oldest first."""
    async with service.database.connect() as connection:
        rows = await log_reader.anchors(connection)
    return {"code": 200, "result": [row._asdict() for row in rows]}


@router.get("/api/operator/list", response_model=OperatorsAnswer)
async def operator_list(service: Service) -> JsonObject:
    """List every operator that ever got a number here; the log tells when."""
    async with service.sequencer.settled(None) as connection:
        size, listed = await log_reader.size(connection), await operators_in(connection)
    shown = [{"operator": address, "number": number} for address, number in listed]
    return {"code": 200, "log_size": size, "result": shown}


@router.get("/api/model/list", response_model=ModelsAnswer)
async def model_list(service: Service) -> JsonObject:
    """List what the names of models stand for, and the digests of the calibrations by which they are judged."""
    async with service.sequencer.settled(None) as connection:
        return {
            "code": 200,
            "log_size": await log_reader.size(connection),
            "result": await list_models(connection),
        }


async def _head(connection: AsyncConnection) -> TreeHead:
    newest = await log_reader.read_head(connection)
    if newest is None:
        raise Unavailable("the dispatcher has just started, and signs its first head in a moment; try again")
    return newest


def _within(size: int, newest: TreeHead) -> int:
    if size > newest.size:
        raise NotFound(f"the log has {newest.size} entries, not {size}, yet")
    return size
