"""The dispatcher's HTTP API (docs/api.md), from the project's side.

    async with DispatcherClient("http://127.0.0.1:8000", token=token) as client:
        receipt = await client.submit(request)
        await client.until_ended(receipt.job_id)
        rows = await client.results(receipt.job_id)

Nothing here is trusted: `receipts` and `checks` hold what comes back against what was sent.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import urlsplit

import httpx

from aos_cli.failures import ApiError, BadAnswer, Unreachable
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import parse_message
from aos_protocol.log import TreeHead
from aos_protocol.messages import Receipt
from aos_service.tls import client_context, handshake_problem

JsonObject: TypeAlias = dict[str, Any]

ENDED = frozenset({"completed", "failed", "cancelled"})
"""The statuses that a job stays in for ever."""

certificate_authorities: ContextVar[Path | None] = ContextVar("certificate_authorities", default=None)
"""The PEM file by which dispatchers at https:// are believed when a client is given none: that of `aos --ca`. None: the system's."""

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_HEX32 = re.compile(r"[0-9a-f]{64}")
_TIMEOUT_S = 30.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Readiness:
    """A dispatcher's own word on itself: connected operators, and how far its clock is ahead of ours in seconds."""

    operators: int
    skew: float | None


class DispatcherClient:
    """One dispatcher, at a URL such as `http://127.0.0.1:8000`; `token` is the project's, needed to submit and to cancel.

    `ca` is a PEM file of the authorities by which one at https:// is believed.
    Every method raises `Unreachable` when nothing answers, `ApiError` when the dispatcher refuses, and `BadAnswer` when its
    answer is not one of the API. The constructor raises `Unreachable` for what is no address, `TlsError` for a `ca` that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._token = token
        address = _checked(self.url)
        believed = ca or certificate_authorities.get()
        self._http = httpx.AsyncClient(
            base_url=address,
            transport=transport,
            verify=client_context(believed) if believed else True,
            timeout=_TIMEOUT_S,
            # A proxy that the environment names cannot reach this machine's loopback.
            trust_env=address.host not in _LOOPBACK,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def submit(self, request: JsonObject, *, idempotency_key: str | None = None) -> Receipt:
        """Submit a request (without its token, which is added here) and return the receipt, not verified yet."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        answer = await self._call(
            "POST", "/api/job/submit", {**request, "verify": self._token or ""}, headers
        )
        try:
            receipt = parse_message(Receipt, answer.get("receipt"))
        except InvalidMessage as error:
            raise BadAnswer(f"{self.url} gave no receipt that can be read: {error}") from error
        if answer.get("result") != receipt.job_id:
            raise BadAnswer(
                f"{self.url} gave job id {answer.get('result')}, and a receipt for {receipt.job_id}"
            )
        return receipt

    async def results(self, job_id: str) -> list[JsonObject]:
        """Return the rows of a job's results so far."""
        rows = (await self._query("result", job_id)).get("result")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadAnswer(f"{self.url} gave no list of results")
        return rows

    async def detail(self, job_id: str) -> JsonObject:
        """Return a job's request and where it stands."""
        detail = self._result(await self._query("detail", job_id), "detail of the job")
        if not isinstance(detail.get("status"), str):
            raise BadAnswer(f"{self.url} gave no status of the job")
        return detail

    async def cancel(self, job_id: str) -> str:
        """Cancel a job and return its status: `cancelled`, or how it had ended before."""
        return str((await self._query("cancel", job_id)).get("result"))

    async def evidence(self, job_id: str) -> JsonObject:
        """Return a job's evidence document as it stands; `checks` checks it."""
        return await self._call("GET", f"/api/job/evidence/{job_id}", headers=self._bearer())

    async def verifications(self, query: JsonObject) -> JsonObject:
        """Return a page of a user's verification rounds: `result`, newest first, and the `next` page's mark."""
        answer = await self._call("POST", "/api/job/verify", query, self._bearer())
        rows = answer.get("result")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadAnswer(f"{self.url} gave no list of verification rounds")
        return {"result": rows, "next": answer.get("next")}

    async def challenge(self, body: JsonObject) -> JsonObject:
        """Open a challenge of a result, or return the open one; the project's token goes along if it is known."""
        return await self._opened("/api/job/challenge", body)

    async def appeal(self, body: JsonObject) -> JsonObject:
        """Open an operator's appeal, or return the open one."""
        return await self._opened("/api/operator/appeal", body)

    async def standing(self, operator: str) -> JsonObject:
        """Return where an operator stands, and what was found against it."""
        answer = await self._call("GET", f"/api/operator/standing/{operator}", headers=self._bearer())
        return self._result(answer, "standing of the operator")

    async def attestations(self, model: str, nonce: str) -> list[JsonObject]:
        """Have every enclave that serves a model attest itself on a nonce (64 hex digits).

        Returns `{"operator": address, "attestation": {...}}` for each, or a `reason` in place of the attestation.
        """
        query = httpx.QueryParams({"model": model, "nonce": nonce})
        rows = (await self._call("GET", f"/api/attestation?{query}")).get("result")
        if not isinstance(rows, list) or not all(_of_an_operator(row) for row in rows):
            raise BadAnswer(f"{self.url} gave no list of attestations")
        return rows

    async def log_head(self) -> TreeHead:
        """Return the newest signed head of the dispatcher's log, not verified yet."""
        answer = self._result(await self._call("GET", "/api/log/head"), "head of its log")
        try:
            return parse_message(TreeHead, {name: answer.get(name) for name in TreeHead.model_fields})
        except InvalidMessage as error:
            raise BadAnswer(f"{self.url} gave no head of its log that can be read: {error}") from error

    async def log_growth(self, first: int, second: int) -> list[str]:
        """Return the proof that the log's first `first` entries are the beginning of its first `second`, not verified yet."""
        query = httpx.QueryParams({"first": first, "second": second})
        answer = self._result(await self._call("GET", f"/api/log/consistency?{query}"), "proof of its log")
        proof = answer.get("proof")
        if not isinstance(proof, list) or not all(
            isinstance(node, str) and _HEX32.fullmatch(node) for node in proof
        ):
            raise BadAnswer(f"{self.url} gave no proof that its log only grew")
        return proof

    async def begin_session(self, wanted: JsonObject) -> JsonObject:
        """Ask for a direct session and return what comes, nothing of it verified yet."""
        return await self._call("POST", "/api/session", wanted, self._bearer())

    @asynccontextmanager
    async def stream(
        self, path: str, *, content: bytes | None = None, json: JsonObject | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Post something as the project, and give the answer, which is no error, as it comes, however long that takes."""
        timeout = httpx.Timeout(_TIMEOUT_S, read=None)
        with self._translated():
            async with self._http.stream(
                "POST", path, content=content, json=json, headers=self._bearer(), timeout=timeout
            ) as response:
                if response.is_error:
                    await response.aread()
                    raise ApiError(response.status_code, _message(response))
                yield response

    async def until_ended(self, job_id: str) -> JsonObject:
        """Wait for a job's end, however long that takes, and return its detail."""
        while (detail := await self.detail(job_id))["status"] not in ENDED:
            await asyncio.sleep(_POLL_S)
        return detail

    async def ready(self) -> Readiness:
        """Return what the dispatcher says of itself, if it can take jobs."""
        response = await self._send("GET", "/readyz")
        operators = _object(self.url, response).get("operators")
        if not isinstance(operators, int):
            raise BadAnswer(f"{self.url} is no AOS dispatcher: /readyz counts no operators")
        return Readiness(operators, _skew(response.headers))

    async def _opened(self, path: str, body: JsonObject) -> JsonObject:
        return self._result(await self._call("POST", path, body, self._bearer()), "challenge")

    def _result(self, answer: JsonObject, what: str) -> JsonObject:
        result = answer.get("result")
        if not isinstance(result, dict):
            raise BadAnswer(f"{self.url} gave no {what}")
        return result

    async def _query(self, what: str, job_id: str) -> JsonObject:
        return await self._call("POST", f"/api/job/{what}", {"job_id": job_id}, self._bearer())

    def _bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    async def _call(
        self, method: str, path: str, body: JsonObject | None = None, headers: Mapping[str, str] | None = None
    ) -> JsonObject:
        return _object(self.url, await self._send(method, path, body, headers))

    async def _send(
        self, method: str, path: str, body: JsonObject | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        with self._translated():
            response = await self._http.request(method, path, json=body, headers=headers)
        if response.is_error:
            raise ApiError(response.status_code, _message(response))
        return response

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise `Unreachable` for what the connection fails with."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise Unreachable(f"{self.url} did not answer in time: see its log, and try again") from error
        except httpx.TransportError as error:
            if problem := handshake_problem(error):
                raise Unreachable(f"{self.url}: {problem}; aos --ca FILE names whom to believe") from error
            raise Unreachable(
                f"nothing answers at {self.url} ({str(error) or type(error).__name__}): start a dispatcher with `aos up`, "
                "or name another with --dispatcher URL"
            ) from error


def _of_an_operator(row: object) -> bool:
    return isinstance(row, dict) and isinstance(row.get("operator"), str)


def _checked(url: str) -> httpx.URL:
    """Read a dispatcher's address; httpx itself notices some mistakes only when it connects."""
    try:
        parts, address = urlsplit(url), httpx.URL(url)
        usable = parts.scheme in {"http", "https"} and address.host and parts.port != 0
        usable = usable and not (parts.query or parts.fragment)
    except (ValueError, httpx.InvalidURL):
        usable = False
    if not usable:
        raise Unreachable(f"{url!r} is no address of a dispatcher: write it like http://127.0.0.1:8000")
    return address


def _object(url: str, response: httpx.Response) -> JsonObject:
    try:
        answer = json.loads(response.content)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"{url} is no AOS dispatcher: its answer is not JSON") from error
    if not isinstance(answer, dict):
        raise BadAnswer(f"{url} is no AOS dispatcher: its answer is no JSON object")
    return answer


def _message(response: httpx.Response) -> str:
    try:
        message = json.loads(response.content)["message"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return f"HTTP {response.status_code} {response.reason_phrase}"
    return f"{message} ({response.status_code})"


def _skew(headers: httpx.Headers) -> float | None:
    """How far the sender's clock was ahead of ours; its header has whole seconds."""
    try:
        return (parsedate_to_datetime(headers["Date"]) - datetime.now(UTC)).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None
