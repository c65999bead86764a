"""The HTTP API of direct sessions: asking for one, and reaching its operator by way of the dispatcher."""

import base64
import time
from contextlib import ExitStack
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from sqlalchemy import Row
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aos_dispatcher.api import Body, IdempotencyKey, Service, Token, known_model
from aos_dispatcher.body import raw_body
from aos_dispatcher.errors import (
    ApiError,
    Conflict,
    Gone,
    NoOperator,
    NotFound,
    PeerGone,
    Refused,
    ReplyTimeout,
    Unprocessable,
)
from aos_dispatcher.gateway.responses import unless_left
from aos_dispatcher.metrics import JOBS_SUBMITTED
from aos_dispatcher.openapi import ERRORS, json_request
from aos_dispatcher.service import Dispatcher
from aos_dispatcher.sessions import Given
from aos_dispatcher.sessions_relay import Relay
from aos_dispatcher.tables import JsonObject
from aos_protocol.errors import InvalidMessage, NotCanonical
from aos_protocol.fields import Hex32, Message, ShortText, parse_message
from aos_protocol.job import Params, SubmitRequest
from aos_protocol.messages import DirectPrompt, ModelOffer, Receipt, Reply, Session

_OCTETS = "application/octet-stream"
_LEFT = "the client left before its answer was complete"

router = APIRouter(
    responses=ERRORS | {410: {"description": "The session has expired, or its job has ended."}}
)


class SessionBody(Message):
    """What a client asks for: a model with its parameters, and the key and the commitment to its prompt that it made for this job alone."""

    user: ShortText
    model: ShortText
    params: Params = Params()
    client_key: Hex32 = Field(description="X25519 public key, to which the answer is sealed.")
    commitment: Hex32 = Field(
        description="SHA-256 of 32 random bytes and of the RFC 8785 JSON of the prompt."
    )


class SessionAnswer(BaseModel):
    """A session: whom to talk to, and what shows that it is they."""

    code: int = 200
    result: Hex32 = Field(description="The job's id.")
    request: dict[str, Any] = Field(
        description="The request that the receipt is for, and that the job id binds."
    )
    receipt: Receipt
    session: Session
    accepted: str = Field(
        description="The frame in which the operator accepted the session, and its key in it."
    )
    relay: str = Field(
        description="Where the dispatcher takes the sealed prompt, if the operator cannot be reached."
    )


@router.post(
    "/api/session",
    response_model=SessionAnswer,
    response_model_exclude_none=True,
    openapi_extra=json_request(SessionBody),
)
async def begin(
    service: Service, body: Body, token: Token, idempotency_key: IdempotencyKey = None
) -> JsonObject:
    """Submit a job whose prompt goes to its executor alone, and wait until that has accepted it. Needs the project's token as Bearer."""
    project = await service.projects.owner(token, "submit")
    asked = _parse(SessionBody, body)
    direct = {"client_key": body.pop("client_key"), "commitment": body.pop("commitment")}
    request = {
        "from": project,
        "tag": "",
        "user": body.pop("user"),
        "job": {"tag": "opml", **body, "direct": direct},
    }
    parsed = _parse(SubmitRequest, request)
    sha256 = await known_model(service, parsed)
    offer = ModelOffer(name=asked.model, sha256=sha256)
    if not any(peer.direct for peer in service.hub.serving("opml", offer)):
        raise Conflict(f"no operator that is connected serves {asked.model} and takes direct sessions")
    try:
        accepted = await service.jobs.submit(parsed, request, sha256, idempotency_key)
    except NotCanonical as error:
        raise Unprocessable(str(error)) from None
    JOBS_SUBMITTED.inc()
    job_id = accepted.receipt.job_id
    given = await service.sessions.wait(job_id)
    if given is None:
        await service.jobs.end(
            await service.jobs.get(job_id), "cancelled", "no operator took the direct job in time"
        )
        raise NoOperator("no operator took the job in time: try again")
    _check_time(given)
    return {
        "code": 200,
        "result": job_id,
        "request": request,
        "receipt": accepted.receipt.to_json(),
        **given.to_json(),
        "relay": f"/api/session/{job_id}/relay",
    }


@router.post(
    "/api/session/{job_id}/relay",
    response_model=None,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {_OCTETS: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    responses={
        200: {
            "content": {_OCTETS: {}},
            "description": "The sealed pieces of the answer, as they come (docs/protocol.md).",
        }
    },
)
async def relay(
    service: Service, request: Request, job_id: Annotated[Hex32, Path()], token: Token
) -> Response:
    """Pass a sealed prompt on to the session's operator, and the sealed pieces of its answer back. The dispatcher can read neither."""
    job = await service.jobs.get(job_id)
    await service.projects.authorise(token, job.project_id, "submit")
    given = await service.sessions.of_job(job_id)
    if given is None:
        raise NotFound("the job has no session")
    _check_time(given)
    box = base64.b64encode(await raw_body(request)).decode()
    prompt = _parse(DirectPrompt, {"job_id": job_id, "route": service.sessions.relays.process, "box": box})
    return _Relayed(service, job, given.session.operator, prompt)


class _Relayed(Response):
    """Passes the prompt on, and answers with the pieces that come. Raises `ApiError` when nothing was sent yet."""

    def __init__(self, service: Dispatcher, job: Row[Any], operator: str, prompt: DirectPrompt) -> None:
        super().__init__()
        self._service = service
        self._job = job
        self._operator = operator
        self._prompt = prompt

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application. A client that leaves before the end cancels its job."""
        with ExitStack() as held:
            try:
                relay = held.enter_context(self._service.sessions.relays.open(self._job.id, self._operator))
            except Refused as error:
                raise Conflict(str(error)) from None
            await self._ask()
            try:
                await unless_left(receive, _sent(relay, send))
            finally:
                if not relay.whole:
                    status: Literal["failed", "cancelled"] = "failed" if relay.broken else "cancelled"
                    await self._service.jobs.end(self._job, status, relay.broken or _LEFT)

    async def _ask(self) -> None:
        """Bring the operator the prompt. Raises `ApiError` with what it says against that."""
        timeout = self._service.settings.dispatch.draw_timeout
        try:
            peer = self._service.hub.require(self._operator)
            frame = await peer.request("direct_prompt", self._prompt.to_json(), timeout)
            reply = parse_message(Reply, frame.result)
        except (PeerGone, ReplyTimeout, InvalidMessage) as error:
            raise NoOperator(f"the session's operator cannot be reached: {error}") from None
        if reply.code != 200:
            raise _REFUSALS.get(reply.code, Unprocessable)(reply.message)


async def _sent(relay: Relay, send: Send) -> None:
    headers = [(b"content-type", _OCTETS.encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for packed in relay.packed():
        await send({"type": "http.response.body", "body": packed, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


_REFUSALS: dict[int, type[ApiError]] = {404: NotFound, 409: Conflict, 410: Gone, 503: NoOperator}


def _check_time(given: Given) -> None:
    if given.session.expires_at <= time.time():
        raise Gone("the session has expired: ask for another")


def _parse(kind: type[Any], body: JsonObject) -> Any:  # noqa: ANN401 - an instance of `kind`
    try:
        return parse_message(kind, body)
    except InvalidMessage as error:
        raise Unprocessable(str(error)) from None
