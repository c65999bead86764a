"""A dispatcher without a network: it answers what the client commands ask for, and remembers what it was asked."""

from pathlib import Path
from typing import Any, TypeVar

import pytest

from aos_cli import target
from aos_cli.failures import ApiError
from aos_protocol import merkle
from aos_protocol.log import TreeHead
from aos_protocol.messages import Receipt
from support.evidence import DISPATCHER, honest_evidence, rows_of

DOCUMENT = honest_evidence()
JOB: str = DOCUMENT["job"]["job_id"]
ROWS = rows_of(DOCUMENT)
HERE = ["--dispatcher", "http://127.0.0.1:8000", "--dispatcher-address", DISPATCHER.address]
"""Options that name the fake and its address."""


class FakeDispatcher:
    """Stands in for `DispatcherClient`; what it answers can be set."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = DOCUMENT
        self.rows: list[dict[str, Any]] = ROWS
        self.status = "completed"
        self.verdict: dict[str, Any] | None = DOCUMENT["rounds"][0]["verdict"]
        self.page: dict[str, Any] = {"result": [], "next": None}
        self.found: dict[str, Any] = {}
        self.asked: list[Any] = []
        self.token: str | None = None

    def client(self, url: str, *, token: str | None) -> "FakeDispatcher":
        self.asked.append(url)
        self.token = token
        return self

    async def __aenter__(self) -> "FakeDispatcher":
        return self

    async def __aexit__(self, *_error: object) -> None:
        return None

    async def submit(self, request: dict[str, Any], *, idempotency_key: str | None) -> Receipt:
        self.asked.append((request, idempotency_key))
        job = self.document["job"]
        return Receipt(
            job_id=JOB,
            sequence=1,
            request_digest=job["request_digest"],
            dispatcher=DISPATCHER.address,
            signature=job["receipt"],
        )

    async def evidence(self, _job_id: str) -> dict[str, Any]:
        return self.document

    async def results(self, _job_id: str) -> list[dict[str, Any]]:
        return self.rows

    async def detail(self, job_id: str) -> dict[str, Any]:
        return {"id": job_id, "status": self.status, "job": {"prompt": "naïve"}, "verdict": self.verdict}

    async def until_ended(self, _job_id: str) -> dict[str, Any]:
        return {"status": self.status, "reason": "no operator for this model", "verdict": self.verdict}

    async def cancel(self, _job_id: str) -> str:
        raise ApiError(401, "an API token is required (401)")

    async def verifications(self, query: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(query)
        return self.page

    async def challenge(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._opened(body, "challenge")

    async def appeal(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._opened(body, "appeal")

    async def standing(self, operator: str) -> dict[str, Any]:
        self.asked.append(operator)
        return self.found

    def _opened(self, body: dict[str, Any], purpose: str) -> dict[str, Any]:
        self.asked.append(body)
        job = self.document["job"]["job_id"]
        return {"job_id": job, "result": "0xAB_row", "challenge": 1, "purpose": purpose, "status": "open"}


F = TypeVar("F", bound=FakeDispatcher)


def installed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> FakeDispatcher:
    """A fake in the place of the client, and an environment that names no other."""
    return put_in_place(FakeDispatcher(), monkeypatch, folder)


def put_in_place(fake: F, monkeypatch: pytest.MonkeyPatch, folder: Path) -> F:
    """Put this fake in the place of the client; see `installed`."""
    monkeypatch.setattr(target, "DispatcherClient", fake.client)
    monkeypatch.setenv("AOS_DATA", str(folder / "data"))
    for name in ("AOS_TOKEN", "AOS_DISPATCHER", "AOS_DISPATCHER_ADDRESS", "AOS_RPC", "AOS_DEPLOYMENT"):
        monkeypatch.delenv(name, raising=False)
    return fake


class FakeLog:
    """Stands in for `DispatcherClient` where the log is asked for; `leaves` are what its proofs are made of."""

    def __init__(self, head: TreeHead) -> None:
        self.head = head
        self.leaves: list[bytes] = []

    def client(self, _url: str, *, token: str | None = None) -> "FakeLog":
        return self

    async def __aenter__(self) -> "FakeLog":
        return self

    async def __aexit__(self, *_error: object) -> None:
        return None

    async def log_head(self) -> TreeHead:
        return self.head

    async def log_growth(self, first: int, second: int) -> list[str]:
        return [node.hex() for node in merkle.consistency_proof(self.leaves[:second], first)]
