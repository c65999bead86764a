"""Fresh attestations of the enclaves behind connected operators, on a nonce of whoever asks.

A relay vouches for nothing: what operators answer is passed on as it came, and whoever asked appraises it by a policy of its own.
"""

import asyncio
import secrets
from typing import Final

from aos_dispatcher.errors import Busy, NotFound, PeerGone, ReplyTimeout
from aos_dispatcher.hub import Hub, Peer
from aos_dispatcher.operators import Operators
from aos_dispatcher.tables import JsonObject
from aos_protocol.attestation.statement import Attestation
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import parse_message
from aos_protocol.job import MAX_BOXES
from aos_protocol.messages import Attest, ModelOffer, Reply

_MOST_AT_ONCE: Final = 4  # anybody may call, and each call has enclaves sign
_MOST_BYTES: Final = (
    256 << 10
)  # of one operator's answer: a document has at most 64 KiB, collateral far less than the rest


class AttestationRelay:
    """Asks operators for attestations, at most `patience` seconds long, for a few callers at a time."""

    def __init__(self, hub: Hub, operators: Operators, patience: float) -> None:
        self._hub = hub
        self._operators = operators
        self._patience = patience
        self._callers = 0

    async def ask(self, model: str, nonce: str) -> list[JsonObject]:
        """Return what each connected `tee` operator of this model answers: its `attestation`, or the `reason` for having none.

        At most `MAX_BOXES` are asked, as many as a prompt can be sealed to; lot decides when there are more. Raises `NotFound` for a model that no operator has
        announced for `tee`, and `Busy` while too many callers wait.
        """
        if self._callers >= _MOST_AT_ONCE:
            raise Busy
        self._callers += 1
        try:
            peers = await self._peers(model)
            call = Attest(model=model, nonce=nonce)
            return list(await asyncio.gather(*(self._ask(peer, call) for peer in peers)))
        finally:
            self._callers -= 1

    async def _peers(self, model: str) -> list[Peer]:
        known = await self._operators.models()
        sha256 = next((sha256 for name, kind, sha256 in known if (name, kind) == (model, "tee")), None)
        if sha256 is None:
            there_is = ", ".join(name for name, kind, _ in known if kind == "tee") or "none yet"
            raise NotFound(
                f"no operator has announced model {model!r} for job type tee; there is: {there_is}"
            )
        suspended = await self._operators.suspended()
        offer = ModelOffer(name=model, sha256=sha256)
        peers = [peer for peer in self._hub.serving("tee", offer) if peer.address not in suspended]
        chosen = secrets.SystemRandom().sample(peers, min(len(peers), MAX_BOXES))
        return sorted(chosen, key=lambda peer: peer.address)

    async def _ask(self, peer: Peer, call: Attest) -> JsonObject:
        try:
            frame = await peer.request("attest", call.to_json(), self._patience)
            if len(frame.text.encode()) > _MOST_BYTES:
                return _without(peer, f"its answer is larger than {_MOST_BYTES} bytes")
            reply = parse_message(Reply, frame.result)
            if reply.code != 200:
                return _without(peer, reply.message)
            attestation = parse_message(Attestation, reply.attestation)
        except (PeerGone, ReplyTimeout, InvalidMessage) as error:
            return _without(peer, str(error))
        return {"operator": peer.address, "attestation": attestation.to_json()}


def _without(peer: Peer, reason: str) -> JsonObject:
    return {"operator": peer.address, "reason": reason}
