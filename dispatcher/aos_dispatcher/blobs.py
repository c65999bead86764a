"""The bytes of images, in PostgreSQL, in pieces: those that projects give to be edited, and those that answers name.

Every process can take in any piece, since all of them are here. An operator's image is kept under its job and its operator, so nobody can
spoil another's; it is looked at once it is whole, and shown to nobody before a verified result names it. Everything is bounded, and expires.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog
from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.database import Database
from aos_dispatcher.desk import NEVER, NOT_NOW
from aos_dispatcher.errors import NotFound, Refused, StoreFull, Unavailable, Unprocessable
from aos_dispatcher.metrics import IMAGE_BYTES_KEPT, IMAGES_KEPT
from aos_dispatcher.settings import Limits
from aos_dispatcher.tables import Assignment, Blob, BlobChunk, Job, Project, Round
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import parse_message
from aos_protocol.images import (
    PART_BYTES,
    BlobGet,
    BlobPart,
    BlobPut,
    Header,
    decode_part,
    encode_part,
    read_header,
)
from aos_protocol.job import ImageSpec, SubmitRequest
from aos_protocol.messages import JobResult
from aos_protocol.record import ImageRecord, Record

log = structlog.get_logger()

MOST_BLOBS: Final = 100_000
"""So many images are kept at most, whole or not, however small they are."""

PROJECT_SHARE: Final = 4
"""A project may have a quarter of all room, in number and bytes, so that no single one takes it from the others."""

SMALLEST_PART: Final = 64 << 10
"""Bytes that every piece of an image has at least, but the last: otherwise a row of the database for each byte could be asked for."""

_UNFINISHED = timedelta(hours=1)
_CHUNK_BYTES: Final = 1 << 20
_SWEEP_S: Final = 60.0
_SWEPT_AT_ONCE: Final = 100


@dataclass(frozen=True)
class Kept:
    """An image that is here: whose it is, and whether everybody may see it who knows its digest."""

    id: int
    project: str
    media_type: str
    size: int
    public: bool


class Blobs:
    """All images of a dispatcher; `limits` say how large, how many bytes together, and for how long."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits
        self._lifetime = timedelta(hours=limits.blob_hours)

    async def keep(self, project: str, data: bytes, header: Header) -> str:
        """Keep an image of this project's own, and return its digest. Raises `StoreFull`."""
        sha256 = hashlib.sha256(data).hexdigest()
        row = upsert(Blob).values(
            sha256=sha256,
            project_id=project,
            size=len(data),
            complete=True,
            expires_at=func.now() + self._lifetime,
            **_facts(header),
        )
        longer = row.on_conflict_do_update(
            index_elements=["sha256", "project_id", "job_id", "operator"],
            set_={"expires_at": row.excluded.expires_at},
        )
        async with self._database.begin() as connection:
            if not await self._has_room(connection, project, len(data)):
                raise StoreFull
            blob_id = (await connection.execute(longer.returning(Blob.id))).scalar_one()
            if await _held(connection, blob_id) == 0:
                chunks = [
                    {"blob_id": blob_id, "start": start, "data": data[start : start + _CHUNK_BYTES]}
                    for start in range(0, len(data), _CHUNK_BYTES)
                ]
                await connection.execute(insert(BlobChunk), chunks)
        return sha256

    async def put(self, operator: str, part: BlobPut) -> int:
        """Take a piece of an image from an operator with an open seat in its job; returns how many bytes are here now.

        A piece that is not the next one changes nothing. Raises `Refused` for a job, size or number that does not fit, and for an image
        that is whole, and is none, or has another digest.
        """
        problem = ""
        async with self._database.begin() as connection:
            blob = await _mine(connection, operator, part) or await self._begin(connection, operator, part)
            if blob.size != part.size:
                raise Refused(
                    NEVER, f"image {part.sha256} has {blob.size} bytes, as was said before, not {part.size}"
                )
            if blob.complete:
                return part.size
            await _seat(connection, operator, part.job_id)
            held = await _held(connection, blob.id)
            if part.offset == held:
                held += await _append(connection, blob.id, part)
                if held == part.size:
                    problem = await self._finish(connection, blob.id, part.sha256)
        if problem:
            raise Refused(NEVER, problem)
        return held

    async def part(self, operator: str, asked: BlobGet) -> BlobPart:
        """Return some bytes of the image that a job wants edited, to an operator with an open seat in it. Raises `Refused`."""
        async with self._database.connect() as connection:
            project, image = await _seat(connection, operator, asked.job_id)
            if image.source != asked.sha256:
                raise Refused(NEVER, f"job {asked.job_id} does not want image {asked.sha256} edited")
            blob = await _source(connection, project, asked.sha256)
            if blob is None or asked.offset >= blob.size:
                raise Refused(
                    NEVER,
                    f"there are no bytes of image {asked.sha256} from {asked.offset} on here (any more)",
                )
            chunk = select(BlobChunk.start, BlobChunk.data).where(
                BlobChunk.blob_id == blob.id, BlobChunk.start <= asked.offset
            )
            start, data = (await connection.execute(chunk.order_by(BlobChunk.start.desc()).limit(1))).one()
        within = asked.offset - start
        return BlobPart(data=encode_part(data[within : within + PART_BYTES]), size=blob.size)

    async def require(self, said: JobResult, image: ImageSpec) -> None:
        """Let everybody see the images that a verified result names.

        Raises `Refused` when one of them is not here yet, and `InvalidMessage` unless they are as the result says, and as large as the
        job asks for.
        """
        named = parse_message(Record, said.record).images or []
        for one in named:
            if (one.width, one.height) != (image.width, image.height):
                raise InvalidMessage(
                    f"image {one.sha256} is {one.width} x {one.height}, and the job asks for {image.width} x {image.height}"
                )
        here = update(Blob).where(
            Blob.job_id == said.job_id,
            Blob.operator == said.operator,
            Blob.sha256.in_({one.sha256 for one in named}),
            *_WHOLE,
        )
        shown = here.values(shown=True, expires_at=func.now() + self._lifetime).returning(Blob.__table__)
        async with self._database.begin() as connection:
            rows = {row.sha256: row for row in await connection.execute(shown)}
            for one in named:
                _compare(one, rows.get(one.sha256))

    async def require_source(self, request: SubmitRequest) -> None:
        """Raise `Unprocessable` unless the image that a job wants edited is one of its project's own here."""
        source = request.job.image.source if request.job.image else None
        if source is None:
            return
        async with self._database.connect() as connection:
            if await _source(connection, request.project, source) is None:
                raise Unprocessable(
                    f"job.image.source: project {request.project!r} has no image {source} here; POST /v1/images/edits takes the image itself"
                )

    async def find(self, sha256: str) -> Sequence[Kept]:
        """Return every image with this digest that is whole: projects may have the same one."""
        query = (
            select(Blob.__table__, Project.private)
            .join(Project, Project.id == Blob.project_id)
            .where(Blob.sha256 == sha256, *_WHOLE)
            .order_by(Blob.id)
        )
        async with self._database.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [
            Kept(row.id, row.project_id, row.media_type, row.size, public=row.shown and not row.private)
            for row in rows
        ]

    async def of_result(self, job_id: str, operator: str, sha256: str) -> Kept:
        """Return an image that a stored result names. Raises `NotFound` once it has expired."""
        project = select(Job.project_id).where(Job.id == job_id).scalar_subquery()
        query = select(Blob.__table__, project.label("owner")).where(
            Blob.job_id == job_id, Blob.operator == operator, Blob.sha256 == sha256, *_WHOLE
        )
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise NotFound(f"image {sha256} of job {job_id} is not kept any more")
        return Kept(row.id, row.owner, row.media_type, row.size, public=False)

    async def read(self, blob_id: int) -> AsyncIterator[bytes]:
        """Give an image's bytes piece by piece; no connection is held meanwhile. Raises `NotFound` when it expires on the way."""
        start, size = 0, 1
        query = select(BlobChunk.data, Blob.size).join(Blob, Blob.id == BlobChunk.blob_id)
        while start < size:
            async with self._database.connect() as connection:
                found = await connection.execute(query.where(Blob.id == blob_id, BlobChunk.start == start))
                row = found.one_or_none()
            if row is None:
                raise NotFound("the image is not kept any more")
            size = row.size
            yield row.data
            start += len(row.data)

    async def run(self) -> None:
        """Forget what has expired, for ever; the database being away only delays it."""
        while True:
            try:
                while await self.sweep() == _SWEPT_AT_ONCE:
                    await asyncio.sleep(0)
                await self.count()
            except Unavailable as error:
                log.error("database away; expired images are forgotten later", why=str(error))
            await asyncio.sleep(_SWEEP_S)

    async def count(self) -> None:
        """Count the images that are kept, whole or not, and their bytes, for `/metrics`. Raises `Unavailable`."""
        there = select(func.count(Blob.id), func.coalesce(func.sum(Blob.size), 0))
        async with self._database.connect() as connection:
            number, size = (await connection.execute(there)).one()
        IMAGES_KEPT.set(number)
        IMAGE_BYTES_KEPT.set(int(size))

    async def sweep(self) -> int:
        """Forget some of what has expired, and return how many images that were."""
        expired = select(Blob.id).where(Blob.expires_at <= func.now()).order_by(Blob.expires_at)
        some = expired.limit(_SWEPT_AT_ONCE).with_for_update(skip_locked=True)
        async with self._database.begin() as connection:
            gone = await connection.execute(delete(Blob).where(Blob.id.in_(some.scalar_subquery())))
            return gone.rowcount

    async def _begin(self, connection: AsyncConnection, operator: str, part: BlobPut) -> Row[Any]:
        """Make room for an image of an answer."""
        project, image = await _seat(connection, operator, part.job_id)
        if part.size > self._limits.blob_bytes:
            raise Refused(
                NEVER, f"an image may have {self._limits.blob_bytes} bytes, and this one has {part.size}"
            )
        begun = (
            select(func.count())
            .select_from(Blob)
            .where(Blob.job_id == part.job_id, Blob.operator == operator)
        )
        if (await connection.execute(begun)).scalar_one() >= image.n:
            raise Refused(
                NEVER, f"job {part.job_id} asks for {image.n} images, and so many are here of this operator"
            )
        if not await self._has_room(connection, project, part.size):
            raise Refused(NOT_NOW, str(StoreFull()))
        row = upsert(Blob).values(
            sha256=part.sha256,
            project_id=project,
            job_id=part.job_id,
            operator=operator,
            size=part.size,
            expires_at=func.now() + _UNFINISHED,
        )
        await connection.execute(row.on_conflict_do_nothing())
        blob = await _mine(connection, operator, part)
        if blob is None:
            raise Refused(NOT_NOW, "the image was forgotten while it came; send it again")
        return blob

    async def _has_room(self, connection: AsyncConnection, project: str, size: int) -> bool:
        """Whether there is room for another image, in all and of this project."""
        most, own = self._limits.blobs_bytes, Blob.project_id == project
        count, total = func.count(Blob.id), func.sum(Blob.size)
        there = select(count, total, count.filter(own), total.filter(own))
        number, used, own_number, own_used = (await connection.execute(there)).one()
        in_all = number < MOST_BLOBS and (used or 0) + size <= most
        of_own = own_number < MOST_BLOBS // PROJECT_SHARE and (own_used or 0) + size <= most // PROJECT_SHARE
        return bool(in_all and of_own)

    async def _finish(self, connection: AsyncConnection, blob_id: int, sha256: str) -> str:
        """Look at an image that is whole now; one that is not what it should be is forgotten, and the reason returned."""
        chunks = select(BlobChunk.data).where(BlobChunk.blob_id == blob_id).order_by(BlobChunk.start)
        data = b"".join((await connection.execute(chunks)).scalars())
        try:
            header = await asyncio.to_thread(_checked, data, sha256)
        except InvalidMessage as error:
            await connection.execute(delete(Blob).where(Blob.id == blob_id))
            return str(error)
        whole = update(Blob).where(Blob.id == blob_id)
        await connection.execute(
            whole.values(complete=True, expires_at=func.now() + self._lifetime, **_facts(header))
        )
        return ""


_WHOLE: Final = (Blob.complete, Blob.expires_at > func.now())


def _facts(header: Header) -> dict[str, str | int]:
    return {"media_type": header.media_type, "width": header.width, "height": header.height}


def _checked(data: bytes, sha256: str) -> Header:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InvalidMessage(f"the image that came as {sha256} has the digest {found}")
    return read_header(data)


def _compare(named: ImageRecord, row: Row[Any] | None) -> None:
    if row is None:
        raise Refused(NOT_NOW, f"image {named.sha256} is not here yet: send it by blob_put, then this again")
    here = {name: getattr(row, name) for name in ("media_type", "size", "width", "height")}
    if named.model_dump(exclude={"sha256"}) != here:
        raise InvalidMessage(f"image {named.sha256} is not as the result says: it is {here}")


async def _seat(connection: AsyncConnection, operator: str, job_id: str) -> tuple[str, ImageSpec]:
    """Return the project of a job for images, and what it asks for. Raises `Refused` unless this operator has an open seat in it."""
    query = (
        select(Job.project_id, Job.request)
        .join(Round, Round.job_id == Job.id)
        .join(Assignment, Assignment.round_id == Round.id)
        .where(Job.id == job_id, Round.challenge == 0, Round.status == "dispatched")
        .where(Assignment.operator == operator, Assignment.state == "assigned")
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise Refused(
            NEVER, f"no open seat in job {job_id}: it has ended, or never was, or the seat is another's"
        )
    image = parse_message(SubmitRequest, row.request).job.image
    if image is None:
        raise Refused(NEVER, f"job {job_id} is for no images")
    return row.project_id, image


async def _mine(connection: AsyncConnection, operator: str, part: BlobPut) -> Row[Any] | None:
    """The row of an operator's own image of a job, locked, so that its pieces come one after another."""
    query = select(Blob.__table__).where(
        Blob.job_id == part.job_id,
        Blob.operator == operator,
        Blob.sha256 == part.sha256,
        Blob.expires_at > func.now(),
    )
    return (await connection.execute(query.with_for_update())).one_or_none()


async def _source(connection: AsyncConnection, project: str, sha256: str) -> Row[Any] | None:
    query = select(Blob.__table__).where(Blob.sha256 == sha256, Blob.project_id == project, *_WHOLE)
    return (await connection.execute(query.order_by(Blob.expires_at.desc()).limit(1))).one_or_none()


async def _held(connection: AsyncConnection, blob_id: int) -> int:
    length = func.coalesce(func.sum(func.octet_length(BlobChunk.data)), 0)
    return int((await connection.execute(select(length).where(BlobChunk.blob_id == blob_id))).scalar_one())


async def _append(connection: AsyncConnection, blob_id: int, part: BlobPut) -> int:
    data = decode_part(part.data)
    end = part.offset + len(data)
    if end > part.size:
        raise Refused(NEVER, f"{end} bytes came of an image of {part.size}")
    if end < part.size and len(data) < SMALLEST_PART:
        raise Refused(
            NEVER,
            f"a piece of {len(data)} bytes is too small: send {SMALLEST_PART} at least, but for the last",
        )
    await connection.execute(insert(BlobChunk).values(blob_id=blob_id, start=part.offset, data=data))
    return len(data)
