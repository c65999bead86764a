"""From a request for text to jobs that are submitted, as any job is: with a receipt, a place in the log, and a committee to come."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from fastapi import Request

from aos_dispatcher.conversations import Turn
from aos_dispatcher.errors import Unauthorized
from aos_dispatcher.gateway.chunks import Rendering, evidence_path
from aos_dispatcher.gateway.errors import BadRequest
from aos_dispatcher.gateway.filling import taken_apart
from aos_dispatcher.gateway.requests import Wanted
from aos_dispatcher.gateway.responses import Answering
from aos_dispatcher.gateway.served import Served, check_able, find
from aos_dispatcher.gateway.throttle import admit, told
from aos_dispatcher.jobs import Accepted
from aos_dispatcher.metrics import JOBS_SUBMITTED
from aos_dispatcher.service import Dispatcher
from aos_dispatcher.tables import JsonObject
from aos_dispatcher.tokens import present
from aos_protocol.errors import InvalidMessage, NotCanonical
from aos_protocol.fields import parse_message
from aos_protocol.job import SubmitRequest
from aos_service.tracing import ended, where


@dataclass(frozen=True)
class Caller:
    """Who sent a request: the request itself, its token, the project that this is one of, and the Idempotency-Key, if there is one.

    `since` is when, by the monotonic clock.
    """

    request: Request
    token: str
    project: str
    key: str | None
    since: float


async def caller(request: Request, service: Dispatcher, token: str | None, key: str | None) -> Caller:
    """Return who sent a request that is to become jobs. Raises `ApiError` for a token that may not submit."""
    since = time.monotonic()
    project = await service.projects.owner(token, "submit")
    return Caller(request, token or "", project, key, since)


async def submit(service: Dispatcher, by: Caller, wanted: Wanted) -> Answering:
    """Submit the jobs of a request: is there room, what is the model able to, which conversation does it go on with.

    Raises `ApiError`, and leaves no job and no conversation open then.
    """
    headers = await admit(by.request, service, by.project, len(wanted.jobs))
    with told(headers):
        return await _submit(service, by, wanted, headers)


async def _submit(service: Dispatcher, by: Caller, wanted: Wanted, headers: dict[str, str]) -> Answering:
    model = await find(service, wanted.model)
    check_able(model, wanted.needs)
    wanted = taken_apart(wanted, model)
    with ExitStack() as undo:
        turn = None
        if wanted.conversation is not None:
            turn = await service.front.conversations.begin(by.project, wanted.conversation, wanted.turns)
            undo.callback(turn.drop)
        place = {"from": by.project, "tag": "", "user": wanted.user or name_of(by.token)}
        bodies = [place | {"job": job} for job in _jobs(wanted, model, turn)]
        accepted = await _submit_all(service, bodies, model, by.key)
        undo.pop_all()
    jobs = [each.receipt.job_id for each in accepted]
    rendering = Rendering(
        chat=wanted.chat,
        model=wanted.model,
        created=int(time.time()),
        jobs=jobs,
        logprobs="logprobs" in wanted.needs,
        include_usage=wanted.include_usage,
    )

    async def queue_place(job_id: str) -> int | None:
        return await service.front.queue.of(model.job_type, model.name, job_id)

    return Answering(
        following=service.following,
        rendering=rendering,
        stop=wanted.stop,
        headers=headers | accepted[-1].headers | job_headers(jobs),
        places=queue_place,
        since=by.since,
        turn=turn,
    )


def job_headers(jobs: Sequence[str]) -> dict[str, str]:
    """Return the header fields that name the jobs of an answer, and where their evidence is."""
    return {
        "x-aos-job-id": ", ".join(jobs),
        "x-aos-evidence": ", ".join(map(evidence_path, jobs)),
        "x-request-id": jobs[0],
    }


def _jobs(wanted: Wanted, model: Served, turn: Turn | None) -> list[JsonObject]:
    said = {} if turn is None else {"messages": turn.messages}
    return [{"tag": model.job_type} | job | said for job in wanted.jobs]


async def _submit_all(
    service: Dispatcher, bodies: Sequence[JsonObject], model: Served, key: str | None
) -> list[Accepted]:
    """Submit all jobs or none: those that were taken are cancelled when one is not."""
    keys = [key and (key if number == 0 else f"{key}#{number}") for number in range(len(bodies))]
    parsed = [_parse(service, body, model) for body in bodies]
    outcomes = await asyncio.gather(
        *(
            _submit_one(service, request, body, model, each)
            for request, body, each in zip(parsed, bodies, keys, strict=True)
        ),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    accepted = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
    if refused:
        for each in accepted:
            await service.following.abandon(
                each.receipt.job_id, f"its request failed: {refused[0]}", failed=False
            )
        raise refused[0]
    return accepted


def _parse(service: Dispatcher, body: JsonObject, model: Served) -> SubmitRequest:
    try:
        request = parse_message(SubmitRequest, body)
    except InvalidMessage as error:
        raise BadRequest(str(error)) from None
    service.enclaves.admit(request.job, model.sha256)
    return request


async def submit_one(service: Dispatcher, body: JsonObject, model: Served, key: str | None) -> Accepted:
    """Submit one job of a model that was found. Raises `ApiError`."""
    return await _submit_one(service, _parse(service, body, model), body, model, key)


async def _submit_one(
    service: Dispatcher, request: SubmitRequest, body: JsonObject, model: Served, key: str | None
) -> Accepted:
    started = time.time_ns()
    try:
        accepted = await service.jobs.submit(request, body, model.sha256, key)
    except NotCanonical as error:
        raise BadRequest(str(error)) from None
    JOBS_SUBMITTED.inc()
    ended("submit", where(accepted.receipt.job_id, "submit"), started, model=model.name)
    return accepted


def name_of(token: str | None) -> str:
    """Return the public name of a token that was found to be good."""
    presented = present(token or "")
    if presented is None:
        raise Unauthorized
    return presented.id or presented.digest[:12]
