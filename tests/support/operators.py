"""An operator that a test drives by hand: honest by default, and every step can be bent.

The model that these operators run is one whose true fingerprints are all zero and whose tokens are `TOKENS`: who claims other
fingerprints ran another one, and every honest verifier finds that.
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

from aos_protocol import fingerprint, sortition, vrf
from aos_protocol.clock import VectorClock
from aos_protocol.fields import parse_message
from aos_protocol.frames import Frame, open_frame, seal_object, seal_reply, seal_request
from aos_protocol.identity import Signer
from aos_protocol.messages import (
    Challenge,
    Dispatch,
    Draw,
    JobResult,
    JobScore,
    ModelOffer,
    ScoreCall,
    ServedModel,
    Ticket,
    Vrf,
    Welcome,
)
from aos_protocol.record import Record
from aos_protocol.score_document import Score
from aos_protocol.shown import read_shown
from aos_protocol.typed_data import Domain, sign_typed
from aos_protocol.verification import result_claim, score_claim

MODEL = ModelOffer(name="tiny.gguf", sha256=hashlib.sha256(b"tiny").hexdigest())
SERVED = ServedModel(name=MODEL.name, sha256=MODEL.sha256)
TOKENS = [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 2]
Bend = Callable[[dict[str, Any]], dict[str, Any]]


class ScriptedOperator:
    """One connection of one operator. `answer` is what it says to every prompt; None makes it stay silent.

    `cheats_from` is the step from which its fingerprints are another model's. With a `record`, it shows that in place of a transcript, and its
    `logprobs` besides. `scores` is False for one that gives no score,
    `score_reason` why it says so; `sees` changes what it measures. `bend_ticket`, `bend_result`, `bend_score` and `bend_frame`
    change a message just before it is sealed or sent.
    """

    def __init__(self, signer: Signer, url: str, models: list[ServedModel] | None = None) -> None:
        self.signer = signer
        self.url = url
        self.models = [SERVED] if models is None else models
        self.worker = "opml"
        self.answer: str | None = "a sensible answer"
        self.reason = ""
        self.cheats_from: int | None = None
        self.record: dict[str, Any] | None = None
        self.logprobs: list[dict[str, Any]] | None = None
        self.scores = True
        self.score_reason = ""
        self.sees: Callable[[Score], Score] = lambda score: score
        self.bend_score: Bend = lambda score: score
        self.bend_ticket: Bend = lambda ticket: ticket
        self.bend_result: Bend = lambda result: result
        self.bend_frame: Callable[[str], str] = lambda text: text
        self.dispatched: list[Dispatch] = []
        self.called: list[ScoreCall] = []
        self.cancelled: list[dict[str, Any]] = []
        self.replies: list[dict[str, Any]] = []
        self.heard = asyncio.Event()
        self.counter = 0
        self.number = 0
        self.domain = Domain(0, "0x" + "0" * 40)
        self.dispatcher = "0x" + "0" * 40
        self._ids = 0
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    async def connect(self) -> dict[str, Any]:
        """Connect and answer the challenge; the dispatcher's reply, good or bad."""
        self._socket = await websockets.connect(self.url, max_size=None)
        challenge = parse_message(Challenge, open_frame(await self._socket.recv()).params[0])
        self.domain = Domain(challenge.chain_id, challenge.registry)
        self.dispatcher = challenge.dispatcher
        said = {
            "operator": self.signer.address,
            "workers": [self.worker],
            "models": [offer.to_json() for offer in self.models],
            "nonce": challenge.nonce,
        }
        reply = await self.ask("connect", self.bend_connect(seal_object(self.signer, said)))
        if reply["code"] == 200:
            welcome = parse_message(Welcome, reply)
            self.number = welcome.number
            self.counter = max(self.counter, *map(int, welcome.clock.values()), 0)
            self._reader = asyncio.create_task(self._read())
        return reply

    bend_connect: Bend = staticmethod(lambda connect: connect)

    async def ask(self, method: str, parameter: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its reply; only before the reader runs."""
        assert self._socket is not None
        await self._socket.send(self.request(method, parameter).text)
        return open_frame(await self._socket.recv()).result or {}

    def request(self, method: str, parameter: dict[str, Any]) -> Frame:
        self._ids += 1
        return seal_request(self.signer, str(self._ids), method, [parameter])

    async def send(self, text: str) -> None:
        assert self._socket is not None
        await self._socket.send(text)

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()

    async def wait(self, until: Callable[[], bool]) -> None:
        """Wait until something heard makes this true."""
        while not until():
            self.heard.clear()
            await asyncio.wait_for(self.heard.wait(), 30)

    async def closed(self) -> str:
        """Wait for the dispatcher to close the connection; its reason."""
        assert self._socket is not None
        await asyncio.wait_for(self._socket.wait_closed(), 30)
        return self._socket.close_reason or ""

    def tick(self, *known: dict[str, str]) -> dict[str, str]:
        self.counter += 1
        clock = VectorClock.from_map({str(self.number): str(self.counter)})
        for other in known:
            clock = clock.merge(VectorClock.from_map(other))
        return clock.to_map()

    async def _read(self) -> None:
        assert self._socket is not None
        async for text in self._socket:
            frame = open_frame(text, max_bytes=1 << 24)
            if frame.method == "draw":
                await self._on_draw(frame)
            elif frame.method == "dispatch_job":
                await self._on_dispatch(frame)
            elif frame.method == "score_job":
                await self._on_score_call(frame)
            elif frame.method == "cancel_job":
                self.cancelled.append(frame.params[0])
                await self._reply(frame, {"code": 200, "message": "success"})
            elif frame.method == "attest":
                await self._on_attest(frame)
            else:
                self.replies.append(frame.result or {})
            self.heard.set()

    async def _on_draw(self, frame: Frame) -> None:
        draw = parse_message(Draw, frame.params[0])
        ticket = Ticket(
            job_id=draw.job_id,
            tag=draw.tag,
            position=draw.position,
            challenge=draw.challenge,
            operator=self.signer.address,
            vrf=self.ticket(draw),
            clock=self.tick(draw.clock),
        )
        said = self.bend_ticket({"code": 200, "message": "success", "ticket": ticket.to_json()})
        await self._reply(frame, said)

    async def _on_dispatch(self, frame: Frame) -> None:
        dispatch = parse_message(Dispatch, frame.params[0])
        self.dispatched.append(dispatch)
        await self._reply(frame, {"code": 200, "message": "success"})
        if self.answer is not None:
            await self.send_result(dispatch)

    async def _on_attest(self, frame: Frame) -> None:
        await self._reply(frame, {"code": 400, "message": "there is no enclave here"})

    async def send_result(self, dispatch: Dispatch) -> None:
        await self.send(self.bend_frame(self.request("job_result", self.result(dispatch)).text))

    def result(self, dispatch: Dispatch) -> dict[str, Any]:
        """The signed result of this dispatch, after `bend_result`."""
        said = {
            "user": dispatch.user,
            "job_id": dispatch.job_id,
            "result": "" if self.reason else self.answer or "",
            "reason": self.reason,
            "vrf": self.ticket(dispatch).to_json(),
            "tag": dispatch.tag,
            "clock": self.tick(dispatch.clock),
            "dispatcher": self.dispatcher,
            "operator": self.signer.address,
            "counter": self.counter,
            "registry_block": dispatch.registry_block,
            "signature": "0" * 130,
            "position": dispatch.position,
            "role": dispatch.role,
            "model": dispatch.model.to_json(),
        }
        if not self.reason and self.record is not None:
            said["record"] = self.record
        elif not self.reason:
            said["transcript"] = transcript(dispatch, self.signer.address, self.cheats_from)
        if self.logprobs is not None:
            said["logprobs"] = self.logprobs
        return self.bend_result(self.signed(said, dispatch))

    def signed(self, said: dict[str, Any], dispatch: Dispatch) -> dict[str, Any]:
        """Put the EIP-712 signature on a result, whatever it says."""
        result = parse_message(JobResult, said)
        claim = result_claim(result, dispatch.job.params.digest(), read_shown(result), seed=dispatch.seed)
        return {**said, "signature": sign_typed(self.signer, self.domain, claim)}

    async def _on_score_call(self, frame: Frame) -> None:
        call = parse_message(ScoreCall, frame.params[0])
        self.called.append(call)
        await self._reply(frame, {"code": 200, "message": "success"})
        if self.scores:
            await self.send_score(call)

    async def send_score(self, call: ScoreCall) -> None:
        await self.send(self.bend_frame(self.request("job_score", self.score(call)).text))

    def score(self, call: ScoreCall) -> dict[str, Any]:
        """The signed score of this call, after `bend_score`."""
        subject, operator, score = measured(call)
        said = {
            "user": call.user,
            "job_id": call.job_id,
            "tag": call.tag,
            "position": call.position,
            "challenge": call.challenge,
            "subject": subject,
            "subject_operator": operator,
            "score": None if self.score_reason else self.sees(score).to_json(),
            "reason": self.score_reason,
            "vrf": self.ticket(call).to_json(),
            "clock": self.tick(call.clock),
            "operator": self.signer.address,
            "signature": "0" * 130,
            "model": call.model.to_json(),
        }
        return self.bend_score(self.score_signed(said, call))

    def score_signed(self, said: dict[str, Any], call: ScoreCall) -> dict[str, Any]:
        """Put the EIP-712 signature on a score, whatever it says."""
        claim = score_claim(parse_message(JobScore, said), call.job.params.digest(), seed=call.seed)
        return {**said, "signature": sign_typed(self.signer, self.domain, claim)}

    def ticket(self, call: Draw | Dispatch | ScoreCall) -> Vrf:
        prompt_hash = call.vrf_prompt_hash if isinstance(call, Draw) else call.job.prompt_hash()
        proof = vrf.prove(self.signer, bytes.fromhex(call.seed) + bytes.fromhex(prompt_hash))
        output = vrf.verify(
            self.signer.public_key, bytes.fromhex(call.seed) + bytes.fromhex(prompt_hash), proof
        )
        threshold = sortition.ticket_threshold(call.range_start, call.range_end, call.tag, call.position)
        return Vrf(
            selected=sortition.ticket_value(output) < threshold,
            vrf_prompt_hash=prompt_hash,
            vrf_random_value=output.hex(),
            vrf_verify_pubkey=self.signer.public_key.hex(),
            vrf_proof=proof.hex(),
        )

    async def _reply(self, frame: Frame, result: dict[str, Any]) -> None:
        assert self._socket is not None
        await self._socket.send(seal_reply(self.signer, frame.id, result).text)


def transcript(dispatch: Dispatch, prover: str, cheats_from: int | None = None) -> dict[str, Any]:
    """A transcript as a worker would give it for this job; from `cheats_from` on, its fingerprints are another model's."""
    honest = len(TOKENS) if cheats_from is None else cheats_from
    claimed = bytes(fingerprint.BYTES * honest) + b"\x3c" * (fingerprint.BYTES * (len(TOKENS) - honest))
    return {
        "rule": 1,
        "model": dispatch.model.sha256,
        "engine": "scripted",
        "params": dispatch.job.params.model_dump(),
        "seed": dispatch.seed,
        "prover": prover,
        "prompt_tokens": [1, 2, 3],
        "output_tokens": TOKENS,
        "fingerprints": fingerprint.to_text(claimed),
        "finish_reason": "eos",
    }


def _of_record(record: Record, call: ScoreCall) -> Score:
    """What an honest verifier measures of tokens that came without fingerprints."""
    tokens = record.output_tokens or []
    greedy = call.job.params.temperature == 0
    return Score(
        level="greedy" if greedy else "likelihood",
        subject=record.digest(),
        model=call.model.sha256,
        engine="scripted",
        positions=len(tokens),
        margins=[0.0] * len(tokens) if greedy else None,
        surprisals=[1.0] * len(tokens),
        winners=tokens,
        entropy=float(len(tokens)),
        variance=1.0,
    )


def measured(call: ScoreCall) -> tuple[str, str | None, Score]:
    """What an honest verifier measures of the call's subject: its digest, whose it is, and the numbers."""
    common = {"model": call.model.sha256, "engine": "scripted", "entropy": 12.0, "variance": 1.0}
    if call.subject is None:
        claim = call.job.claim
        assert claim is not None
        count = len(claim.output_tokens or TOKENS)
        level = "greedy" if call.job.params.temperature == 0 else "seeded" if claim.seed else "likelihood"
        margins = None if level == "likelihood" else [0.0] * count
        lists = {"margins": margins, "surprisals": [1.0] * count, "winners": (TOKENS * count)[:count]}
        return (
            claim.digest(),
            None,
            Score(level=level, subject=claim.digest(), positions=count, **lists, **common),
        )
    said = parse_message(JobResult, open_frame(call.subject, max_bytes=1 << 24).params[0])
    made = read_shown(said)
    if isinstance(made, Record):
        return made.digest(), said.operator, _of_record(made, call)
    assert made is not None
    claimed = fingerprint.from_text(made.fingerprints, len(made.output_tokens))
    steps = [claimed[at : at + fingerprint.BYTES] for at in range(0, len(claimed), fingerprint.BYTES)]
    score = Score(
        level="fingerprint",
        subject=made.commitment(),
        positions=len(steps),
        distances=[0.3 if any(step) else 0.001 for step in steps],
        margins=[0.0] * len(steps),
        surprisals=[1.0] * len(steps),
        winners=list(made.output_tokens),
        **common,
    )
    return made.commitment(), said.operator, score
