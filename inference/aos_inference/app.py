"""The worker's HTTP API. Errors are raised anywhere below and rendered by one handler as {"code", "message"}."""

import asyncio
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal, TypeVar

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from aos_inference.errors import InvalidField, MalformedBody, OutOfMemory, QueueFull, RequestError
from aos_inference.intake import MAX_BODY, MAX_SCORE_BODY, Intake
from aos_inference.schemas import (
    Answer,
    GenerateRequest,
    Health,
    ModelList,
    Problem,
    ScoreAnswer,
    ScoreRequest,
)
from aos_inference.streaming import GenerationStream, unless_client_leaves
from aos_inference.worker import Worker
from aos_protocol import canonical
from aos_protocol.errors import NotCanonical
from aos_service.tracing import Span, Where, span

_Body = TypeVar("_Body", bound=BaseModel)
_log = structlog.get_logger(__name__)

router = APIRouter()


def create_app(worker: Worker, *routers: APIRouter) -> FastAPI:
    """The ASGI application around a worker whose engine runs, with what `routers` add."""
    app = _WorkerApp(title="AOS inference worker", description="One GGUF model, checkable sampling.")
    app.state.worker, app.state.intake = worker, Intake()
    for each in (router, *routers):
        app.include_router(each)
    app.exception_handler(RequestError)(_render_error)
    app.exception_handler(HTTPException)(_render_http_error)
    app.exception_handler(MemoryError)(_render_no_memory)
    app.exception_handler(Exception)(_render_crash)
    return app


async def the_worker(request: Request) -> Worker:
    """The worker that the application was made for."""
    worker: Worker = request.app.state.worker
    return worker


async def generate_body(request: Request) -> GenerateRequest:
    """The body of a generation, of the class that the worker takes. Raises what `_checked` raises."""
    worker = await the_worker(request)
    return await _checked(request, worker.asked, MAX_BODY)


async def score_body(request: Request) -> ScoreRequest:
    """The body of a scoring; it carries whole answers, hence may be large. Raises what `_checked` raises."""
    return await _checked(request, ScoreRequest, MAX_SCORE_BODY)


async def _checked(request: Request, kind: type[_Body], limit: int) -> _Body:
    """Read and check a body. Raises what `Intake.body` raises, MalformedBody, and InvalidField, which names the wrong fields."""
    intake: Intake = request.app.state.intake
    try:
        async with intake.body(request, limit) as body:
            return await asyncio.to_thread(lambda: kind.model_validate(canonical.parse(body)))
    except NotCanonical as error:
        raise MalformedBody(f"The body cannot be read: {error}") from error
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, found['loc'])) or 'body'}: {found['msg']}"
            for found in error.errors(include_url=False, include_input=False, include_context=False)[:5]
        )
        raise InvalidField("; ".join(problems)) from error


TheWorker = Annotated[Worker, Depends(the_worker)]
GenerateBody = Annotated[GenerateRequest, Depends(generate_body)]
ScoreBody = Annotated[ScoreRequest, Depends(score_body)]
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Problem} for status in (400, 404, 413, 422, 503)
}


@router.post("/v1/generate", response_model=Answer, responses=_PROBLEMS)
async def generate(request: Request, body: GenerateBody, worker: TheWorker) -> Response:
    """Run the model; with `stream`, send server-sent events with text and at last the answer."""
    generation = await worker.prepare(body)
    if body.stream:
        return GenerationStream(worker, generation)
    with _asked(request, "generate"):
        return await _json(await unless_client_leaves(request.receive, worker.complete(generation)))


@router.post("/v1/score", response_model=ScoreAnswer, responses=_PROBLEMS)
async def score(request: Request, body: ScoreBody, worker: TheWorker) -> Response:
    """Compare answers with what this model would have given, in one pass over each."""
    with _asked(request, "score"):
        return await _json(await unless_client_leaves(request.receive, worker.score(body)))


@router.get("/v1/models")
async def models(worker: TheWorker) -> ModelList:
    """The model that this worker serves."""
    return ModelList(models=[worker.card])


@router.get("/healthz", responses={503: {"model": Health}})
async def healthz(worker: TheWorker, response: Response) -> Health:
    """Whether the engine runs, and how busy it is."""
    load = worker.engine.load
    if not worker.engine.alive:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    status = "ok" if worker.engine.alive else "failed"
    return Health(status=status, slots=worker.engine.slots, **load._asdict())


def _asked(request: Request, name: str) -> AbstractContextManager[Span]:
    """Trace an answer below what its request says that it is part of; whoever says nothing is not traced."""
    return span(name, parent=Where.from_header(request.headers.get("traceparent")), kind="server")


async def _json(answer: BaseModel) -> Response:
    """FastAPI would check and write answers, which may hold millions of numbers, on the event loop."""
    return Response(await asyncio.to_thread(answer.model_dump_json), media_type="application/json")


async def _render_error(_: Request, error: RequestError) -> Response:
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, QueueFull) else None
    return _problem(error.status, str(error), headers)


async def _render_http_error(_: Request, error: HTTPException) -> Response:
    return _problem(error.status_code, str(error.detail), error.headers)


async def _render_no_memory(request: Request, _: MemoryError) -> Response:
    _log.error("out of memory", path=request.url.path, advice="lower --slots or --context, or free memory")
    error = OutOfMemory()
    return _problem(error.status, str(error))


async def _render_crash(_: Request, __: Exception) -> Response:
    return _problem(500, "The worker failed on this request; its log says why.")


def _problem(status: int, message: str, headers: Any = None) -> Response:  # noqa: ANN401
    return JSONResponse(Problem(code=status, message=message).model_dump(), status, headers=headers)


class _WorkerApp(FastAPI):
    """FastAPI reads bodies on its own terms; here `_checked` does, and each worker has its own: their schemas are added by hand."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = super().openapi()
            worker: Worker = self.state.worker
            bodies = (
                ("/v1/generate", worker.asked, worker.answers),
                ("/v1/score", ScoreRequest, (ScoreAnswer,)),
            )
            for path, asked, answers in bodies:
                post = schema["paths"][path]["post"]
                post["requestBody"] = {"required": True, "content": _content(schema, "validation", asked)}
                post["responses"]["200"]["content"] = _content(schema, "serialization", *answers)
        return super().openapi()


def _content(
    schema: dict[str, Any], mode: Literal["validation", "serialization"], *kinds: type[BaseModel]
) -> dict[str, Any]:
    """One of these bodies, whose schemas are put beside the others."""
    references = []
    for kind in kinds:
        body = kind.model_json_schema(ref_template="#/components/schemas/{model}", mode=mode)
        schema["components"]["schemas"] |= body.pop("$defs", {}) | {kind.__name__: body}
        references.append({"$ref": f"#/components/schemas/{kind.__name__}"})
    return {"application/json": {"schema": references[0] if len(references) == 1 else {"anyOf": references}}}
