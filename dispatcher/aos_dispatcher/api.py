"""The project-facing HTTP API, with AOS's published paths, fields and formats."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from sqlalchemy import Row

from aos_dispatcher.body import json_body
from aos_dispatcher.errors import Unauthorized, Unprocessable
from aos_dispatcher.metrics import JOBS_SUBMITTED
from aos_dispatcher.openapi import (
    ERRORS,
    SUBMITTED,
    CancelAnswer,
    DetailAnswer,
    JobQuery,
    ResultAnswer,
    SubmitAnswer,
    SubmitBody,
    json_request,
)
from aos_dispatcher.service import Dispatcher
from aos_dispatcher.tables import JsonObject
from aos_protocol.errors import InvalidMessage, NotCanonical
from aos_protocol.evidence_document import Evidence
from aos_protocol.fields import M, parse_message
from aos_protocol.job import SubmitRequest
from aos_service.tracing import ended, where

router = APIRouter(responses=ERRORS)


async def dispatcher_of(request: Request) -> Dispatcher:
    """Return the dispatcher that this application serves."""
    dispatcher: Dispatcher = request.app.state.dispatcher
    return dispatcher


async def bearer(authorization: Annotated[str | None, Header()] = None) -> str | None:
    """Return the token of `Authorization: Bearer`, if there is one."""
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("the Authorization header must be 'Bearer <API token>'")
    return token


Service = Annotated[Dispatcher, Depends(dispatcher_of)]
Token = Annotated[str | None, Depends(bearer)]
Body = Annotated[JsonObject, Depends(json_body)]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]


@router.post(
    "/api/job/submit",
    response_model=SubmitAnswer,
    responses=SUBMITTED,
    openapi_extra=json_request(SubmitBody),
)
async def submit(
    service: Service, body: Body, response: Response, idempotency_key: IdempotencyKey = None
) -> JsonObject:
    """Submit a job. It is stored durably, and its place in the sequence is signed, before the answer."""
    started, token = time.time_ns(), body.pop("verify", None)
    request = _parse(SubmitRequest, body)
    await service.projects.authorise(token if isinstance(token, str) else None, request.project, "submit")
    if request.job.direct is not None:
        raise Unprocessable(
            "direct: ask for a session at POST /api/session, whose answer says whom the prompt goes to"
        )
    if request.tag and request.job.sealed is not None:
        raise Unprocessable(
            "tag: nobody could verify a sealed prompt, so it cannot have one; send the prompt unsealed, or without a tag"
        )
    sha256 = await known_model(service, request)
    service.enclaves.admit(request.job, sha256)
    await service.images.blobs.require_source(request)
    try:
        accepted = await service.jobs.submit(request, body, sha256, idempotency_key)
    except NotCanonical as error:
        raise Unprocessable(str(error)) from None
    JOBS_SUBMITTED.inc()
    if request.tag:
        service.loop.wake()  # the user's earlier jobs are looked at again
    response.headers.update(accepted.headers)
    ended("submit", where(accepted.receipt.job_id, "submit"), started, model=request.job.model)
    return {"code": 200, "result": accepted.receipt.job_id, "receipt": accepted.receipt.to_json()}


@router.post("/api/job/result", response_model=ResultAnswer, openapi_extra=json_request(JobQuery))
async def result(service: Service, body: Body, token: Token) -> JsonObject:
    """Read what committees said of a job: a row for each member that answered or scored so far."""
    job = await _job(service, body, token)
    return {"code": 200, "result": await service.views.results(job)}


@router.post("/api/job/detail", response_model=DetailAnswer, openapi_extra=json_request(JobQuery))
async def detail(service: Service, body: Body, token: Token) -> JsonObject:
    """Read a job's request, where it stands, its verdict, and how that was reached."""
    job = await _job(service, body, token)
    return {"code": 200, "result": await service.views.detail(job.id)}


@router.post("/api/job/cancel", response_model=CancelAnswer, openapi_extra=json_request(JobQuery))
async def cancel(service: Service, body: Body, token: Token) -> JsonObject:
    """End a job that nobody waits for any more. Needs the project's token; a finished job stays as it is."""
    job = await service.jobs.get(_parse(JobQuery, body).job_id)
    await service.projects.authorise(token, job.project_id, "manage")
    cancelled = await service.jobs.end(job, "cancelled", "cancelled by the project")
    return {"code": 200, "result": "cancelled" if cancelled else (await service.jobs.get(job.id)).status}


@router.get("/api/job/evidence/{job_id}", response_model=Evidence)
async def evidence(service: Service, job_id: str, token: Token) -> JsonObject:
    """Read everything that is needed to check the job without trusting this dispatcher."""
    job = await _job(service, {"job_id": job_id}, token)
    return await service.evidence.document(job.id)


async def _job(service: Dispatcher, body: JsonObject, token: str | None) -> Row[Any]:
    job = await service.jobs.get(_parse(JobQuery, body).job_id)
    await service.projects.may_read(token, job.project_id)
    return job


async def known_model(service: Dispatcher, request: SubmitRequest) -> str:
    """Return the SHA-256 of the file that the request's model stands for. Raises `Unprocessable` for one that nobody has announced."""
    models = await service.operators.models()
    for name, job_type, sha256 in models:
        if (name, job_type) == (request.job.model, request.job.tag):
            return sha256
    there_is = ", ".join(f"{name} ({job_type})" for name, job_type, _ in models) or "none yet"
    raise Unprocessable(
        f"no operator has announced model {request.job.model!r} for job type {request.job.tag!r}; there is: {there_is}"
    )


def _parse(kind: type[M], body: JsonObject) -> M:
    try:
        return parse_message(kind, body)
    except InvalidMessage as error:
        raise Unprocessable(str(error)) from None
