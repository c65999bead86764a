"""POST /v1/chat/completions and /v1/completions, GET /v1/models: what clients of OpenAI's API speak. A token is a project's."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from aos_dispatcher.api import Body, IdempotencyKey, Service, Token
from aos_dispatcher.gateway.chunks import SUCCESS
from aos_dispatcher.gateway.requests import (
    ChatRequest,
    CompletionRequest,
    Wanted,
    parse,
    wanted_chat,
    wanted_completion,
)
from aos_dispatcher.gateway.responses import EventStream, WholeAnswer
from aos_dispatcher.gateway.served import find, listing, served
from aos_dispatcher.gateway.shapes import (
    ERRORS,
    ChatAnswer,
    CompletionAnswer,
    Model,
    ModelList,
    answered,
)
from aos_dispatcher.gateway.submitting import Caller, caller, submit
from aos_dispatcher.openapi import json_request
from aos_dispatcher.service import Dispatcher
from aos_dispatcher.tables import JsonObject

router = APIRouter(prefix="/v1", tags=["gateway"], responses=ERRORS)


@router.post(
    "/chat/completions",
    response_model=None,
    responses=answered(ChatAnswer),
    openapi_extra=json_request(ChatRequest),
)
async def chat_completions(
    request: Request, service: Service, body: Body, token: Token, idempotency_key: IdempotencyKey = None
) -> Response:
    """Answer a chat. Each choice is a job; with `stream`, its text comes as server-sent events."""
    by = await caller(request, service, token, idempotency_key)
    return await _answer(service, by, wanted_chat(parse(ChatRequest, body)))


@router.post(
    "/completions",
    response_model=None,
    responses=answered(CompletionAnswer),
    openapi_extra=json_request(CompletionRequest),
)
async def completions(
    request: Request, service: Service, body: Body, token: Token, idempotency_key: IdempotencyKey = None
) -> Response:
    """Go on with a prompt, or fill in what is between it and a `suffix`."""
    by = await caller(request, service, token, idempotency_key)
    return await _answer(service, by, wanted_completion(parse(CompletionRequest, body)))


@router.get("/models/", response_model=ModelList, include_in_schema=False)
@router.get("/models", response_model=ModelList)
async def models(request: Request, service: Service, token: Token) -> JsonObject:
    """List the models that are served now."""
    project = await service.projects.owner(token, "submit")
    return listing(await served(service), project, request)


@router.get("/models/{model:path}", response_model=Model)
async def model(request: Request, service: Service, model: str, token: Token) -> JsonObject:
    """Describe a model that is served now."""
    await service.projects.owner(token, "submit")
    return (await find(service, model)).to_json(str(request.base_url)) | SUCCESS


async def _answer(service: Dispatcher, by: Caller, wanted: Wanted) -> Response:
    answering = await submit(service, by, wanted)
    return EventStream(answering) if wanted.stream else WholeAnswer(answering)
