"""The protocol of one connection to a dispatcher, without I/O (docs/protocol.md).

Every text that arrives goes into `Session.receive`, which returns what happened; what the operator has to say is made by the
methods named after it. So tests step through the protocol by hand, and `link` only carries the texts.

1. `challenge` arrives: `Say` carries our `connect`.
2. Its reply arrives: `Welcomed`; the driver lifts the clock's counter before it takes anything else.
3. `draw`, `dispatch_job`, `score_job`, `cancel_job`, `attest` and `direct_prompt` arrive, already checked; the driver answers each with `ticket` or `reply`. The
   subject of a call for a score may be long: checking it (`check_subject`) is left to the driver, which can do it in a thread.
4. `result` makes a `job_result` or `job_score`; its reply arrives as `Settled`.
"""

import json
from collections import Counter
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Final

import structlog

from aos_operator.direct import check_direct
from aos_operator.errors import DispatcherRefused, LinkLost, Unavailable, WrongDispatcher, WrongNetwork
from aos_operator.events import (
    AttestCall,
    CancelCall,
    DirectCall,
    DrawCall,
    Event,
    JobCall,
    Say,
    Settled,
    Welcomed,
)
from aos_operator.offer import Offer
from aos_operator.statements import Author, statement
from aos_operator.subjects import check_subject
from aos_operator.tasks import Method, Product, Request, Task, TaskKey, sayable
from aos_operator.tickets import draw_ticket
from aos_protocol.canonical import JsonObject
from aos_protocol.clock import VectorClock
from aos_protocol.errors import InvalidMessage, InvalidSignature, ProtocolError
from aos_protocol.fields import Challenged, Hex32, Message, Tag, parse_message
from aos_protocol.frames import Frame, open_frame, seal_object, seal_reply, seal_request
from aos_protocol.identity import Signer, address_of
from aos_protocol.messages import (
    Attest,
    Challenge,
    DirectPrompt,
    Dispatch,
    Draw,
    Reply,
    ScoreCall,
    Ticket,
    Welcome,
)
from aos_protocol.sortition import ticket_threshold
from aos_protocol.typed_data import Domain, ReceiptClaim, SeatClaim, recover_typed
from aos_protocol.verification import check_receipt, check_seed

MAX_FRAME_BYTES = 4 << 20
MAX_BAD_FRAMES = 100
MAX_LAST_SEEN = 2**62
"""A dispatcher that claims to have seen more of our counter than this is lying or broken."""

_check_seed: Final = lru_cache(1024)(check_seed)
"""A seed that was good in the draw is good in the dispatch: that depends on nothing else. What fails is not remembered."""

_log = structlog.get_logger(__name__)


class Cancel(Message):
    """`cancel_job`: names the round whose results and scores nobody waits for."""

    job_id: Hex32
    tag: Tag
    challenge: Challenged = 0


class _Stage(Enum):
    CHALLENGE = 1
    WELCOME = 2
    OPEN = 3


class Session:
    """What has been said on one connection, and what may be said next."""

    def __init__(self, signer: Signer, dispatcher: str, offer: Offer, expected: Domain | None = None) -> None:
        self._signer = signer
        self._dispatcher = dispatcher
        self._expected = expected
        self._offer = offer
        self._stage = _Stage.CHALLENGE
        self._challenge: Challenge | None = None
        self._number = 0
        self._last_id = 0
        self.refused: Counter[str] = Counter()
        """How many frames (not acceptably signed or formed) and requests (signed, but not acceptable) were refused."""
        self._requests: dict[str, Callable[[str, JsonObject], Event]] = {
            "draw": self._drawn,
            "dispatch_job": self._dispatched,
            "score_job": self._called,
            "cancel_job": self._cancelled,
            "attest": self._asked_to_attest,
            "direct_prompt": self._prompted,
        }

    def receive(self, text: str | bytes) -> Event:
        """Take one message from the dispatcher; None when there is nothing to do about it.

        Raises `WrongDispatcher`, `WrongNetwork` or `DispatcherRefused` when this connection cannot come about, and `LinkLost` when
        it has brought too many frames that are not the dispatcher's.
        """
        try:
            frame = open_frame(text, max_bytes=MAX_FRAME_BYTES)
            self._check_sender(frame)
        except ProtocolError as error:
            return self._bad_frame(text, str(error))
        if frame.method is None:
            return self._replied(frame)
        try:
            return self._requested(frame)
        except ProtocolError as error:
            self.refused["request"] += 1
            named = frame.params[0].get("job_id") if frame.params else None
            _log.warning(
                "refused a request", method=frame.method[:32], job_id=str(named)[:64], reason=str(error)
            )
            return Say(self.reply(frame.id, 400, str(error)))

    def reply(
        self,
        frame_id: str,
        code: int = 200,
        message: str = "success",
        *,
        attestation: JsonObject | None = None,
        accepted: str | None = None,
    ) -> str:
        """Make the reply to a request of the dispatcher; that to `attest` brings the `attestation`, to a direct job what is `accepted`."""
        said = Reply(code=code, message=sayable(message), attestation=attestation, accepted=accepted)
        return seal_reply(self._signer, frame_id, said.to_json()).text

    def ticket(self, call: DrawCall, counter: int) -> str:
        """Make the reply to a draw; `counter` is this operator's clock entry for it."""
        draw = call.draw
        ticket = Ticket(
            job_id=draw.job_id,
            tag=draw.tag,
            position=draw.position,
            challenge=draw.challenge,
            operator=self._signer.address,
            vrf=draw_ticket(self._signer, draw),
            clock=self._clock(draw.clock, counter),
        )
        answer: JsonObject = {"code": 200, "message": "success", "ticket": ticket.to_json()}
        return seal_reply(self._signer, call.frame_id, answer).text

    def result(self, task: Task, counter: int) -> tuple[str, str]:
        """Make a `job_result` or `job_score` for a task that has an outcome: its frame's id and text.

        What cannot be sent becomes the reason why there is nothing, so that the task ends.
        """
        if task.outcome is None:
            raise ValueError("a task without an outcome has no result yet")
        clock = self._clock(task.request.clock, counter)
        try:
            text = self._statement(task.request, task.outcome, clock, counter)
        except ProtocolError as error:
            unsendable = task.outcome.withdrawn(f"the answer cannot be sent: {error}")
            text = self._statement(task.request, unsendable, clock, counter)
        if len(text.encode()) > MAX_FRAME_BYTES:
            too_large = task.outcome.withdrawn(f"the answer does not fit a frame of {MAX_FRAME_BYTES} bytes")
            text = self._statement(task.request, too_large, clock, counter)
        return str(self._last_id), text

    def ask(self, method: str, param: JsonObject) -> tuple[str, str]:
        """Make a request that has no clock: its frame's id and text."""
        return str(self._last_id + 1), self._request(method, param)

    def notice(self, method: str, param: JsonObject) -> str:
        """Make a notice, which has no clock and gets no reply; returns its frame's text."""
        return self._request(method, param)

    def check_subject(self, call: ScoreCall) -> None:
        """Check the answer that a call wants scored, which takes a while when it is long. Raises `ProtocolError`."""
        check_subject(call, self.domain, self._dispatcher, self._signer.address)

    def _statement(self, request: Request, product: Product, clock: dict[str, str], counter: int) -> str:
        author = Author(self._signer, self.domain, self._dispatcher)
        return self._request(*statement(author, request, product, clock, counter))

    def _request(self, method: str, param: JsonObject) -> str:
        self._last_id += 1
        return seal_request(self._signer, str(self._last_id), method, [param]).text

    def _clock(self, known: dict[str, str], counter: int) -> dict[str, str]:
        return VectorClock.from_map(known).merge(VectorClock({self._number: counter})).to_map()

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain that the challenge names. Raises `InvalidMessage` before there was one."""
        challenge = self._challenged_by()
        return Domain(challenge.chain_id, challenge.registry)

    def _challenged_by(self) -> Challenge:
        if self._challenge is None:
            raise InvalidMessage("there was no challenge yet; send it first")
        return self._challenge

    def _check_sender(self, frame: Frame) -> None:
        if frame.address == self._dispatcher:
            return
        if self._stage is _Stage.CHALLENGE:
            raise WrongDispatcher(
                f"the dispatcher there is {frame.address}, but node.dispatcher_address is {self._dispatcher}: "
                "correct the address, or net.dispatcher_url"
            )
        raise InvalidMessage(
            f"the frame is signed by {frame.address}, not by the dispatcher {self._dispatcher}"
        )

    def _bad_frame(self, text: str | bytes, reason: str) -> Event:
        self.refused["frame"] += 1
        _log.warning("refused a frame", reason=reason)
        if self.refused["frame"] >= MAX_BAD_FRAMES:
            raise LinkLost(
                f"{MAX_BAD_FRAMES} frames on this connection were not the dispatcher's; connecting again"
            )
        frame_id = _request_id(text)
        return None if frame_id is None else Say(self.reply(frame_id, 400, reason))

    def _requested(self, frame: Frame) -> Event:
        if len(frame.params) != 1:
            raise InvalidMessage("a request of the dispatcher has exactly one parameter")
        if frame.method == "challenge" and self._stage is _Stage.CHALLENGE:
            return self._challenged(frame.params[0])
        handler = self._requests.get(frame.method or "")
        if handler is None:
            known = ", ".join(self._requests)
            raise InvalidMessage(f"this operator takes a challenge first, and once, and then {known}")
        if self._stage is not _Stage.OPEN:
            raise InvalidMessage(f"{frame.method} must come after the reply to connect")
        return handler(frame.id, frame.params[0])

    def _challenged(self, param: JsonObject) -> Event:
        challenge = parse_message(Challenge, param)
        owner = address_of(bytes.fromhex(challenge.public_key))
        if challenge.dispatcher != self._dispatcher or owner != self._dispatcher:
            raise WrongDispatcher(f"the challenge names {challenge.dispatcher} and a key of {owner}")
        domain = Domain(challenge.chain_id, challenge.registry)
        if self._expected not in {None, domain}:
            raise WrongNetwork(
                f"the dispatcher signs for the registry {domain.registry} on chain {domain.chain_id}, but chain.vrf_range_contract is "
                f"{self._expected.registry} on chain {self._expected.chain_id}: correct the chain block, or net.dispatcher_url"
            )
        self._challenge, self._stage = challenge, _Stage.WELCOME
        connect: JsonObject = {
            "operator": self._signer.address,
            "workers": [self._offer.worker_type],
            "models": [model.to_json() for model in self._offer.announced()],
            "nonce": challenge.nonce,
        }
        if self._offer.direct is not None:
            connect["direct"] = self._offer.direct.to_json()
        return Say(self._request("connect", seal_object(self._signer, connect)))

    def _replied(self, frame: Frame) -> Event:
        result = frame.result or {}
        code, message = result.get("code"), result.get("message")
        if type(code) is not int or not isinstance(message, str):
            return self._bad_frame(frame.text, "a reply needs an integer code and a message")
        if self._stage is _Stage.OPEN:
            return Settled(frame.id, code, message, result)
        if self._stage is _Stage.CHALLENGE or frame.id != str(self._last_id):
            return self._bad_frame(frame.text, "a reply to nothing that was asked")
        return self._welcomed(code, message, result)

    def _welcomed(self, code: int, message: str, result: JsonObject) -> Event:
        if code in {429, 503}:
            raise Unavailable(f"the dispatcher cannot take this operator now ({code}): {message}")
        if code != 200:
            raise DispatcherRefused(f"the dispatcher refuses operator {self._signer.address}: {message}")
        try:
            welcome = parse_message(Welcome, result)
        except InvalidMessage as error:
            raise LinkLost(f"the dispatcher's welcome cannot be read: {error}") from error
        last_seen = VectorClock.from_map(welcome.clock).get(welcome.number)
        if last_seen > MAX_LAST_SEEN:
            raise DispatcherRefused(
                f"the dispatcher claims to have seen clock {last_seen} of us, which cannot be"
            )
        self._number, self._stage = welcome.number, _Stage.OPEN
        return Welcomed(last_seen)

    def _drawn(self, frame_id: str, param: JsonObject) -> Event:
        draw = parse_message(Draw, param)
        self._offer.check(draw.job_type, draw.model)
        self._check_draw(draw)
        return DrawCall(frame_id, draw)

    def _dispatched(self, frame_id: str, param: JsonObject) -> Event:
        dispatch = parse_message(Dispatch, param)
        self._check_work(dispatch)
        self._check_seat(dispatch)
        if dispatch.job.claim is not None:
            raise InvalidMessage("a job with a claim is scored, not run: send score_job")
        sealed = dispatch.job.sealed
        if sealed is not None and self._signer.address not in sealed.operators:
            raise InvalidMessage("the prompt is not sealed to an enclave of this operator")
        if dispatch.job.direct is not None:
            check_direct(dispatch, self._offer.direct, self.domain, self._dispatcher, self._signer.address)
        return JobCall(frame_id, dispatch)

    def _called(self, frame_id: str, param: JsonObject) -> Event:
        call = parse_message(ScoreCall, param)
        self._check_work(call)
        self._check_seed(call.job_id, call.job_seed, call.job_seed_proof)
        return JobCall(frame_id, call)

    def _check_work(self, request: Request) -> None:
        """Check all that a dispatch and a call for a score have in common.

        Whether this operator's ticket was selected is not known here: the least of a committee may be filled up with others. Only who
        has no range is never drawn.
        """
        self._offer.check_job(request.job, request.model)
        claim = ReceiptClaim(request.job_id, request.sequence, request.request_digest)
        check_receipt(self._dispatcher, self.domain, claim, request.signature)
        if self._check_draw(request) == 0:
            raise InvalidMessage("this operator has no range in the registry, hence no seat on any committee")

    def _check_seat(self, dispatch: Dispatch) -> None:
        """Raise `InvalidSignature` unless the dispatcher signed that this operator has this seat.

        Without that signature an operator that fills a committee could not show later that it was asked.
        """
        claim = SeatClaim(
            dispatch.job_id,
            self._signer.address,
            dispatch.role,
            dispatch.tag,
            dispatch.position,
            dispatch.registry_block,
        )
        signer = recover_typed(self.domain, claim, dispatch.seat)
        if signer != self._dispatcher:
            raise InvalidSignature(
                f"the seat is signed by {signer}, not by the dispatcher {self._dispatcher}"
            )

    def _check_draw(self, call: Draw | Request) -> int:
        """Check a call's clock, range and seed, and return its threshold."""
        self._clock(call.clock, 1)  # raises if our entry finds no room
        threshold = ticket_threshold(call.range_start, call.range_end, call.tag, call.position)
        challenge = 0 if isinstance(call, Dispatch) else call.challenge
        self._check_seed(call.job_id, call.seed, call.seed_proof, challenge)
        return threshold

    def _check_seed(self, job_id: str, seed: str, proof: str, challenge: int = 0) -> None:
        key = self._challenged_by().public_key
        _check_seed(self._dispatcher, key, job_id, seed, proof, challenge=challenge)

    def _cancelled(self, frame_id: str, param: JsonObject) -> Event:
        cancel = parse_message(Cancel, param)
        keys = (TaskKey(cancel.job_id, cancel.tag, cancel.challenge, method) for method in Method)
        return CancelCall(frame_id, tuple(keys))

    def _asked_to_attest(self, frame_id: str, param: JsonObject) -> Event:
        call = parse_message(Attest, param)
        self._offer.enclave_model(call.model)
        return AttestCall(frame_id, call)

    def _prompted(self, frame_id: str, param: JsonObject) -> Event:
        return DirectCall(frame_id, parse_message(DirectPrompt, param))


def _request_id(text: str | bytes) -> str | None:
    """The id of a request that is not acceptable, if one can be made out; a reply is never answered."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or not isinstance(body.get("method"), str):
        return None
    frame_id = body.get("id")
    return frame_id if isinstance(frame_id, str) and len(frame_id) <= 128 else None
