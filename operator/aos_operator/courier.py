"""Brings images to the dispatcher and back: those that an answer names before the answer, and the one that is to be edited."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, TypeVar

import structlog

from aos_operator.blob_store import BlobStore
from aos_operator.errors import ImageRefused, LinkLost, Unavailable
from aos_operator.events import Settled
from aos_operator.tasks import Outcome, Task, TaskKey
from aos_protocol.canonical import JsonObject
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import Message, parse_message
from aos_protocol.images import (
    PART_BYTES,
    BlobGet,
    BlobHeld,
    BlobPart,
    BlobPut,
    decode_part,
    encode_part,
    image_record,
)

_NOT_NOW = 503
_SWEEP_S = 60.0
_SAID_BESIDES = ("code", "message")

S = TypeVar("S", bound=Message)

_log = structlog.get_logger(__name__)


class Wire(Protocol):
    """The connection to the dispatcher (`outbox.Outbox`)."""

    async def ask(self, method: str, param: JsonObject) -> Settled:
        """Send a request that has no clock and return the reply. Raises `LinkLost`."""
        ...

    async def result(self, task: Task) -> Settled:
        """Send what came of a task and return the reply. Raises `Unavailable`."""
        ...


class Courier:
    """Carries images between the backend, the store and the dispatcher. Its methods raise `Unavailable` when they should be tried again."""

    def __init__(self, store: BlobStore, wire: Wire) -> None:
        self._store = store
        self._wire = wire

    async def result(self, task: Task) -> Settled:
        """Send what came of a task (`jobs.Post`), after the images that it names.

        An answer whose images the dispatcher refuses, or has not and cannot get from here any more, is withdrawn.
        """
        outcome = task.outcome
        if not isinstance(outcome, Outcome) or not outcome.images:
            return await self._wire.result(task)
        try:
            complete = await self._send_all(task.key, outcome)
        except ImageRefused as error:
            return await self._wire.result(replace(task, outcome=outcome.withdrawn(str(error))))
        reply = await self._wire.result(task)
        if complete or reply.code != _NOT_NOW:
            return reply
        # Its images went with a task that was closed: perhaps it was accepted then, which the first reply would have said.
        gone = outcome.withdrawn("the images of this answer are not kept any more")
        return await self._wire.result(replace(task, outcome=gone))

    async def keep(self, key: TaskKey, blobs: Mapping[str, bytes]) -> None:
        """Keep images, by digest, until the answer that names them was accepted."""
        await self._store.keep(key, blobs)

    async def fetch(self, job_id: str, sha256: str, most: int) -> bytes:
        """Return the image that a job wants edited, of so many bytes at most. Raises `ImageRefused` when the dispatcher does not give it."""
        data, size = b"", 1
        while len(data) < size:
            asked = BlobGet(job_id=job_id, sha256=sha256, offset=len(data))
            part = _said(BlobPart, await self._wire.ask("blob_get", asked.to_json()))
            data, size = data + decode_part(part.data), part.size
            if not part.data or len(data) > size or size > most:
                raise ImageRefused(f"the dispatcher's pieces of image {sha256} do not fit together")
        try:
            found = image_record(data).sha256
        except InvalidMessage as error:
            raise ImageRefused(f"the image to be edited cannot be used: {error}") from error
        if found != sha256:
            raise ImageRefused(f"the dispatcher gave image {found}, not {sha256}")
        return data

    async def run(self) -> None:
        """Forget the images of tasks that are done, for ever, now and then."""
        while True:
            try:
                await self._store.sweep()
            except Unavailable as error:
                _log.warning("images of finished tasks are forgotten later", problem=str(error))
            await asyncio.sleep(_SWEEP_S)

    async def _send_all(self, key: TaskKey, outcome: Outcome) -> bool:
        """Send all images of an answer; False when some are not kept here any more."""
        complete = True
        for sha256 in outcome.images:
            data = await self._store.load(key, sha256)
            if data is None:
                complete = False
            else:
                await self._send(key.job_id, sha256, data)
        return complete

    async def _send(self, job_id: str, sha256: str, data: bytes) -> None:
        """Send an image piece by piece, from where the dispatcher says that it is."""
        held = 0
        while held < len(data):
            part = BlobPut(
                job_id=job_id,
                sha256=sha256,
                offset=held,
                size=len(data),
                data=encode_part(data[held : held + PART_BYTES]),
            )
            before, held = held, _said(BlobHeld, await self._wire.ask("blob_put", part.to_json())).held
            if held <= before:
                raise LinkLost(f"the dispatcher has {held} bytes of image {sha256} after it had {before}")
        _log.info("an image is at the dispatcher", job_id=job_id, sha256=sha256, size=len(data))


def _said(kind: type[S], reply: Settled) -> S:
    """Read a 200 reply. Raises `LinkLost` for one to be asked for again, and `ImageRefused` for any other."""
    if reply.code == _NOT_NOW:
        raise LinkLost(f"the dispatcher cannot do this now: {reply.message}")
    if reply.code != 200:
        raise ImageRefused(f"the dispatcher refuses an image ({reply.code}): {reply.message}")
    said = {name: value for name, value in reply.said.items() if name not in _SAID_BESIDES}
    try:
        return parse_message(kind, said)
    except InvalidMessage as error:
        raise ImageRefused(f"what the dispatcher says of an image cannot be read: {error}") from error
