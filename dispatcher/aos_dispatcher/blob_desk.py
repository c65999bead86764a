"""What operators ask about images on `/ws`: `blob_put` and `blob_get`. Whichever process has the connection answers them (`blobs`)."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from aos_dispatcher.blobs import Blobs
from aos_dispatcher.hub import Peer
from aos_protocol.canonical import JsonObject
from aos_protocol.fields import parse_message
from aos_protocol.frames import Frame
from aos_protocol.images import BlobGet, BlobHeld, BlobPut

Ask: TypeAlias = Callable[[Peer, Frame], Awaitable[JsonObject]]
"""Answers a request that has no clock with what its reply says besides code and message. Raises `Refused`, `ProtocolError` or `Unavailable`."""


class BlobDesk:
    """Answers by what is stored; a repetition changes nothing, so that neither request needs a clock."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    @property
    def methods(self) -> Mapping[str, Ask]:
        """What an operator may ask, each with what answers it."""
        return {"blob_put": self._put, "blob_get": self._get}

    async def _put(self, peer: Peer, frame: Frame) -> JsonObject:
        held = await self._blobs.put(peer.address, parse_message(BlobPut, frame.params[0]))
        return BlobHeld(held=held).to_json()

    async def _get(self, peer: Peer, frame: Frame) -> JsonObject:
        part = await self._blobs.part(peer.address, parse_message(BlobGet, frame.params[0]))
        return part.to_json()
