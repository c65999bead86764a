"""Our own worker as a backend: over HTTP on TCP, a unix socket, or vsock when it is an enclave."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from aos_operator.backends.protocol import Execution, Hear
from aos_operator.boundary import keep_cancellation
from aos_operator.errors import WorkerBusy, WorkerRefused, WorkerUnavailable
from aos_operator.subjects import Subject
from aos_protocol.job import JobSpec
from aos_protocol.messages import ServedModel
from aos_service.tracing import span
from aos_service.transport import WorkerTransport

_QUICK_S = 10.0
_BUSY: Final = frozenset({429, 503})
"""Statuses of a worker that is full, and will not be."""

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
            return [ServedModel(name=model["name"], sha256=model["sha256"]) for model in body["models"]]
        except (KeyError, TypeError, ValueError) as error:
            raise WorkerUnavailable("GET /v1/models gives no list of models with name and sha256") from error

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """See `Backend.generate`."""
        body = {"model": job.model, **_asked(job), "seed": seed, "prover": prover, "stream": False}
        if execution is not None:
            body["execution"] = execution.to_json()
        with span("worker", kind="client", asked="generate") as asking:
            async with _translated():
                response = await self._client.post("/v1/generate", json=body, headers=asking.headers)
        return _good(response)

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        """See `Backend.score`. The prompt is the job's own, so that an answer to another one shows."""
        item = {**_asked(job), **subject.claim.to_json(), "subject": subject.digest}
        if subject.transcript is not None:
            item["answer"] = {
                "text": subject.text,
                "finish_reason": subject.transcript.finish_reason,
                "prompt_tokens": subject.transcript.prompt_tokens,
            }
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
    return {name: said[name] for name in ("prompt", "messages", "sealed", "params") if name in said}


def _good(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer that is no error."""
    if response.status_code in _BUSY:
        raise WorkerBusy(f"the worker cannot do it now: {_problem(response)}")
    if response.status_code in _AWAY:
        raise WorkerUnavailable(f"the worker cannot be asked: {_problem(response)}")
    if response.is_error:
        raise WorkerRefused(_problem(response))
    return _object(response)


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
