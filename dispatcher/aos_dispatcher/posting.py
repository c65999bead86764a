"""Where a statement of an operator goes: to its round here, or to the process that leads it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from aos_dispatcher.desk import Desk
from aos_dispatcher.errors import Refused
from aos_dispatcher.facts import RoundKey
from aos_dispatcher.hub import Peer
from aos_dispatcher.leases import Leases
from aos_dispatcher.mesh import Mesh
from aos_protocol.fields import Challenged, Hex32, Tag
from aos_protocol.frames import Frame

Intake: TypeAlias = Callable[[Peer, Frame], Awaitable[None]]


class Posting:
    """Takes in what operators request, by method: `methods` for those that are connected here, `take_here` for what others pass on."""

    def __init__(self, intakes: Mapping[str, Intake], desk: Desk, leases: Leases, mesh: Mesh | None) -> None:
        self._intakes = intakes
        self._desk = desk
        self._leases = leases
        self._mesh = mesh

    @property
    def methods(self) -> Mapping[str, Intake]:
        """What an operator may request, each with what takes it in."""
        return dict.fromkeys(self._intakes, self.take_here if self._mesh is None else self._take)

    async def take_here(self, peer: Peer, frame: Frame) -> None:
        """Take in a statement of a round that this process leads. Raises `Refused`, `ProtocolError` or `Unavailable`."""
        intake = self._intakes.get(frame.method or "")
        if intake is None or len(frame.params) != 1:
            raise Refused(400, f"method {frame.method!r} is not understood here")
        await intake(peer, frame)

    async def _take(self, peer: Peer, frame: Frame) -> None:
        leader = await self._leader(frame)
        if leader is None or self._mesh is None:
            await self.take_here(peer, frame)
        else:
            await self._mesh.pass_on(leader, frame)

    async def _leader(self, frame: Frame) -> str | None:
        """Return the other process that leads the round of a statement; None where there is none, also for what names no round."""
        try:
            key = _Named.model_validate(frame.params[0]).key
        except ValidationError:
            return None
        if self._mesh is None or self._desk.at_work(key) is not None:
            return None
        leader = await self._leases.leader(key)
        return None if leader == self._mesh.process else leader


class _Named(BaseModel):
    """What a statement says that it is about, before anything else of it is looked at."""

    model_config = ConfigDict(strict=True)

    job_id: Hex32
    tag: Tag
    challenge: Challenged = 0

    @property
    def key(self) -> RoundKey:
        return self.job_id, self.tag, self.challenge
