"""Our own worker as a backend: over HTTP on TCP, a unix socket, or vsock when it is an enclave."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from aos_operator.backends.protocol import Execution, Hear, Piece, Queued
from aos_operator.boundary import keep_cancellation
from aos_operator.errors import WorkerBusy, WorkerRefused, WorkerUnavailable
from aos_operator.subjects import Subject
from aos_protocol.errors import ProtocolError
from aos_protocol.fields import parse_message
from aos_protocol.job import JobSpec
from aos_protocol.messages import ServedModel, TokenLogprob
from aos_protocol.shown import score_item
from aos_service.tracing import span
from aos_service.transport import WorkerTransport

_QUICK_S = 10.0
_BUSY: Final = frozenset({429, 503})
"""Statuses of a worker that is full, and will not be."""

_NO_STREAM: Final = "the worker's stream cannot be read: is it an AOS worker?"
_AWAY: Final = frozenset({408, 425, 502, 504})
"""What a proxy says for a worker that is away or slow. With any other error the job itself is at fault."""


class HttpWorker:
    """`Backend` over HTTP: our own worker; `url` is one that `aos_service.transport` reads, `timeout` the seconds for one answer."""

    def __init__(self, url: str, timeout: float) -> None:
        transport = WorkerTransport(url)
        self._client = httpx.AsyncClient(
            base_url=transport.base_url,
            transport=transport,
            timeout=httpx.Timeout(timeout, connect=_QUICK_S),
        )

    async def models(self) -> Sequence[ServedModel]:
        """See `Backend.models`."""
        async with _translated():
            response = await self._client.get("/v1/models", timeout=_QUICK_S)
        if response.is_error:
            raise WorkerUnavailable(f"the worker does not list its models: {_problem(response)}")
        body = _object(response)
        try:
            return [_served(model) for model in body["models"]]
        except (KeyError, TypeError, ValueError) as error:
            raise WorkerUnavailable("GET /v1/models gives no list of models with name and sha256") from error

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        """See `Backend.generate`."""
        streams = hear is not None and job.sealed is None
        body = {"model": job.model, **_asked(job), "seed": seed, "prover": prover, "stream": streams}
        if execution is not None:
            body["execution"] = execution.to_json()
        with span("worker", kind="client", asked="generate") as asking:
            async with _translated():
                if hear is None or not streams:
                    response = await self._client.post("/v1/generate", json=body, headers=asking.headers)
                    return _good(response)
                async with self._client.stream(
                    "POST", "/v1/generate", json=body, headers=asking.headers
                ) as streaming:
                    return await _streamed(streaming, hear)

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        """See `Backend.score`. The prompt is the job's own, so that an answer to another one shows."""
        item = score_item(job, subject.digest, subject.text, subject.shown) | subject.claim.to_json()
        body = {"model": job.model, "items": [item]}
        with span("worker", kind="client", asked="score") as asking:
            async with _translated():
                response = await self._client.post("/v1/score", json=body, headers=asking.headers)
        return _good(response)

    async def attestation(self, nonce: str) -> dict[str, Any]:
        """See `Backend.attestation`."""
        async with _translated():
            response = await self._client.get("/attestation", params={"nonce": nonce}, timeout=_QUICK_S)
        return _good(response)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
        keep_cancellation()
    except httpx.ConnectTimeout as error:
        raise _unreachable(error) from error
    except httpx.TimeoutException as error:
        raise WorkerUnavailable(f"the worker gave no answer in time ({type(error).__name__})") from error
    except httpx.TransportError as error:
        raise _unreachable(error) from error
    except (httpx.DecodingError, httpx.InvalidURL) as error:
        raise WorkerUnavailable(f"the worker's answer cannot be read ({error})") from error


def _unreachable(error: httpx.TransportError) -> WorkerUnavailable:
    return WorkerUnavailable(f"the worker cannot be reached ({str(error) or type(error).__name__}): start it")


def _asked(job: JobSpec) -> dict[str, Any]:
    """What a job asks of the model, as the worker takes it."""
    said = job.to_json()
    names = ("prompt", "suffix", "messages", "sealed", "params", "logprobs")
    return {name: said[name] for name in names if name in said}


def _served(card: dict[str, Any]) -> ServedModel:
    """A model as its worker's card has it; a worker of before cards said so shows transcripts, and takes messages."""
    known = {name: card[name] for name in ("name", "sha256", "evidence", "able") if name in card}
    return ServedModel.model_validate(known)


def _good(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer that is no error."""
    if response.is_error:
        raise _refusal(response.status_code, _problem(response))
    return _object(response)


def _refusal(status: int, problem: str) -> WorkerUnavailable | WorkerRefused:
    """What to make of an error with this HTTP status."""
    if status in _BUSY:
        return WorkerBusy(f"the worker cannot do it now: {problem}")
    if status in _AWAY:
        return WorkerUnavailable(f"the worker cannot be asked: {problem}")
    return WorkerRefused(problem)


async def _streamed(response: httpx.Response, hear: Hear) -> dict[str, Any]:
    """Tell the text of a stream of server-sent events as it comes, and return its last event, which is the answer."""
    if response.is_error:
        await response.aread()
        return _good(response)
    name, answer = "", None
    async for line in response.aiter_lines():
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            answer = _event(name, value, hear)
        elif not line:
            name = ""
    if answer is None:
        raise WorkerUnavailable("the worker broke off in the middle of its answer")
    return answer


def _event(name: str, data: str, hear: Hear) -> dict[str, Any] | None:
    """Take one event in (docs/worker.md); returns the answer if it is that. Raises what an `error` says, or `WorkerUnavailable`."""
    try:
        said = json.loads(data)
    except ValueError as error:
        raise WorkerUnavailable(_NO_STREAM) from error
    match name, said:
        case "", {"text": str(text), **rest} if rest.keys() <= {"logprobs"}:
            hear(Piece(text, _logprobs(rest.get("logprobs"))))
        case "", dict(answer):
            return answer
        case "queued", {"position": int(position)}:
            hear(Queued(position))
        case "error", {"code": int(code), "message": str(message)}:
            raise _refusal(code, f"{message} (HTTP {code})")
        case _:
            raise WorkerUnavailable(_NO_STREAM)
    return None


def _logprobs(said: object) -> tuple[TokenLogprob, ...]:
    if said is None:
        return ()
    if not isinstance(said, list):
        raise WorkerUnavailable(_NO_STREAM)
    try:
        return tuple(parse_message(TokenLogprob, one) for one in said)
    except ProtocolError as error:
        raise WorkerUnavailable(_NO_STREAM) from error


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError as error:
        raise WorkerUnavailable("the worker's answer is not JSON: is it an AOS worker?") from error
    if not isinstance(body, dict):
        raise WorkerUnavailable("the worker's answer is no JSON object: is it an AOS worker?")
    return body


def _problem(response: httpx.Response) -> str:
    """The worker's own message, with its status; the bare status when there is none."""
    try:
        message = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"
    return f"{message} (HTTP {response.status_code})"
