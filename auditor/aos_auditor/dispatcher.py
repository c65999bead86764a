"""A dispatcher's HTTP API as an auditor reads it: evidence, what it shows of jobs and operators, and its log."""

from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from aos_auditor.errors import BadAnswer, NotAuditable, Refused
from aos_auditor.http import JsonObject, ask
from aos_protocol.errors import ProtocolError
from aos_protocol.fields import parse_message
from aos_protocol.log import TreeHead

ENTRIES_AT_ONCE = 1000
"""Entries of a log in one request: what dispatchers grant."""

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_TIMEOUT_S = 30.0


class DispatcherApi:
    """One dispatcher at a URL; `token` is a project's, for what private projects show to nobody else.

    Every method raises `Unreachable`, `Refused` and `BadAnswer`; the constructor `NotAuditable` for what is no address.
    """

    def __init__(
        self, url: str, *, token: str | None = None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=_checked(self.url),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            transport=transport,
            timeout=_TIMEOUT_S,
            # A proxy that the environment names cannot reach this machine's loopback.
            trust_env=urlsplit(self.url).hostname not in _LOOPBACK,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def evidence(self, job_id: str) -> JsonObject:
        """Return a job's evidence document, unchecked."""
        return await self._ask("GET", f"/api/job/evidence/{job_id}")

    async def detail(self, job_id: str) -> JsonObject:
        """Return what the API shows of a job."""
        shown = (await self._ask("POST", "/api/job/detail", {"job_id": job_id})).get("result")
        if not isinstance(shown, dict):
            raise BadAnswer(f"{self.url} shows no detail of the job")
        return shown

    async def results(self, job_id: str) -> list[JsonObject]:
        """Return the rows that the API shows of a job's results."""
        return self._rows(await self._ask("POST", "/api/job/result", {"job_id": job_id}), "list of results")

    async def head(self) -> tuple[TreeHead, JsonObject] | None:
        """Return the newest head of the log, unchecked, and all that came with it; None while there is none."""
        try:
            shown = (await self._ask("GET", "/api/log/head")).get("result")
        except Refused as error:
            if error.code == 404:
                return None
            raise
        if not isinstance(shown, dict):
            raise BadAnswer(f"{self.url} gave no head of a log")
        members = {name: shown[name] for name in TreeHead.model_fields if name in shown}
        try:
            return parse_message(TreeHead, members), shown
        except ProtocolError as error:
            raise BadAnswer(f"{self.url} gave a head that cannot be read: {error}") from error

    async def entries(self, start: int, count: int) -> list[str]:
        """Return entries of the log from `start`, in order: at most `count`, and at least one of those that there are."""
        shown = (await self._ask("GET", f"/api/log/entries?start={start}&count={count}")).get("result")
        texts = shown.get("entries") if isinstance(shown, dict) and shown.get("start") == start else None
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise BadAnswer(f"{self.url} gave no entries of the log from {start} on")
        return texts[:count]

    async def consistency(self, first: int, second: int) -> list[str]:
        """Return what is said to prove that the log of `first` entries is the beginning of that of `second`."""
        path = f"/api/log/consistency?first={first}&second={second}"
        shown = (await self._ask("GET", path)).get("result")
        proof = shown.get("proof") if isinstance(shown, dict) else None
        if not isinstance(proof, list) or not all(_is_node(node) for node in proof):
            raise BadAnswer(f"{self.url} gave no consistency proof from {first} to {second}")
        return proof

    async def operators(self) -> list[JsonObject]:
        """Return the operators that the API lists, with their numbers."""
        return self._rows(await self._ask("GET", "/api/operator/list"), "list of operators")

    async def models(self) -> list[JsonObject]:
        """Return the models that the API lists."""
        return self._rows(await self._ask("GET", "/api/model/list"), "list of models")

    async def standing(self, operator: str) -> JsonObject:
        """Return where the API says that an operator stands."""
        shown = (await self._ask("GET", f"/api/operator/standing/{operator}")).get("result")
        if not isinstance(shown, dict):
            raise BadAnswer(f"{self.url} gave no standing of {operator}")
        return shown

    async def anchors(self) -> list[JsonObject]:
        """Return the heads that the dispatcher says are anchored on a chain."""
        return self._rows(await self._ask("GET", "/api/log/anchors"), "list of anchors")

    def _rows(self, answer: JsonObject, what: str) -> list[JsonObject]:
        rows = answer.get("result")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadAnswer(f"{self.url} gave no {what}")
        return rows

    async def _ask(self, method: str, path: str, body: JsonObject | None = None) -> JsonObject:
        return await ask(self._http, method, path, name=self.url, body=body)


def _is_node(node: Any) -> bool:  # noqa: ANN401 - whatever was answered
    return isinstance(node, str) and len(node) == 64 and all(digit in "0123456789abcdef" for digit in node)


def _checked(url: str) -> httpx.URL:
    try:
        parts, address = urlsplit(url), httpx.URL(url)
        usable = parts.scheme in {"http", "https"} and address.host and parts.port != 0
        usable = usable and not (parts.query or parts.fragment)
    except (ValueError, httpx.InvalidURL):
        usable = False
    if not usable:
        raise NotAuditable(f"{url!r} is no address of a dispatcher: write it like http://127.0.0.1:8000")
    return address
