"""The inference worker: what the operator asks of it, over HTTP on TCP or a unix socket."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx

from aos_operator.boundary import keep_cancellation
from aos_operator.errors import WorkerRefused, WorkerUnavailable
from aos_operator.subjects import Subject
from aos_protocol.messages import JobSpec, ModelOffer

_QUICK_S = 10.0
_PASSING = {408, 425, 429, 502, 503, 504}
"""Statuses of a worker that is full or away, possibly behind a proxy. With any other error the job itself is at fault."""


class Worker(Protocol):
    """Runs models. Every method raises `WorkerUnavailable` when trying again may help."""

    async def models(self) -> Sequence[ModelOffer]:
        """Return the models that are served now, by name and SHA-256."""
        ...

    async def generate(self, job: JobSpec, seed: str, prover: str) -> dict[str, Any]:
        """Run a job with its seed (64 hex digits), with fingerprints of `prover`, and return the worker's unchecked answer.

        Raises `WorkerRefused` when the worker says that this job cannot be done.
        """
        ...

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        """Score what is said to be an answer to a job and return the worker's unchecked answer, `{"scores": [...]}`.

        Raises `WorkerRefused` when the worker says that this cannot be scored.
        """
        ...


class HttpWorker:
    """`Worker` over HTTP; `url` is `http://host:port` or `unix:///path.sock`, `timeout` the seconds for one answer."""

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        unix = parts.scheme == "unix"
        self._timeout = timeout
        self._client = httpx.AsyncClient(
            base_url="http://worker" if unix else url,
            transport=httpx.AsyncHTTPTransport(uds=parts.path) if unix else None,
            timeout=httpx.Timeout(timeout, connect=_QUICK_S),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    async def models(self) -> Sequence[ModelOffer]:
        """See `Worker.models`."""
        async with _translated():
            response = await self._client.get("/v1/models", timeout=_QUICK_S)
        if response.is_error:
            raise WorkerUnavailable(f"the worker does not list its models: {_problem(response)}")
        body = _object(response)
        try:
            return [ModelOffer(name=model["name"], sha256=model["sha256"]) for model in body["models"]]
        except (KeyError, TypeError, ValueError) as error:
            raise WorkerUnavailable("GET /v1/models gives no list of models with name and sha256") from error

    async def generate(self, job: JobSpec, seed: str, prover: str) -> dict[str, Any]:
        """See `Worker.generate`."""
        body = {"model": job.model, **_asked(job), "seed": seed, "prover": prover, "stream": False}
        return await self._post("/v1/generate", body)

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        """See `Worker.score`. The prompt is the job's own, so that an answer to another one shows."""
        item = {**_asked(job), **subject.claim.to_json(), "subject": subject.digest}
        if subject.transcript is not None:
            item["answer"] = {
                "text": subject.text,
                "finish_reason": subject.transcript.finish_reason,
                "prompt_tokens": subject.transcript.prompt_tokens,
            }
        return await self._post("/v1/score", {"model": job.model, "items": [item]})

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with _translated():
            response = await self._client.post(path, json=body)
        if response.status_code in _PASSING:
            raise WorkerUnavailable(f"the worker cannot do it now: {_problem(response)}")
        if response.is_error:
            raise WorkerRefused(_problem(response))
        return _object(response)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
        keep_cancellation()
    except httpx.TimeoutException as error:
        raise WorkerUnavailable(f"the worker gave no answer in time ({type(error).__name__})") from error
    except httpx.TransportError as error:
        raise WorkerUnavailable(
            f"the worker cannot be reached ({str(error) or type(error).__name__}): start it"
        ) from error
    except (httpx.DecodingError, httpx.InvalidURL) as error:
        raise WorkerUnavailable(f"the worker's answer cannot be read ({error})") from error


def _asked(job: JobSpec) -> dict[str, Any]:
    """What a job asks of the model, as the worker takes it."""
    said = job.to_json()
    return {name: said[name] for name in ("prompt", "messages", "params") if name in said}


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
