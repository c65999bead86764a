"""Clients that submit jobs whatever happens: each tries again with the same key until it holds a receipt, and writes that down first."""

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from aos_protocol.errors import ProtocolError
from aos_protocol.fields import parse_message
from aos_protocol.messages import Receipt
from aos_protocol.typed_data import Domain, ReceiptClaim
from aos_protocol.verification import check_receipt
from chaos.plan import PlannedJob

_NO_CHAIN = Domain(0, "0x" + "0" * 40)
_AGAIN = {429, 503}
_PAUSE_S = 0.3
_TIMEOUT_S = 15.0


@dataclass
class Ledger:
    """What clients know: the receipt that each key got, and all that the dispatcher ever said which it should not have."""

    file: Path
    dispatcher: str
    receipts: dict[str, Receipt] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest_503_s: float = 0.0
    ended: int = 0
    _grew: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def accepted(self) -> int:
        """How many jobs were accepted."""
        return len(self.receipts)

    def accept(self, key: str, receipt: Receipt) -> None:
        """Write a receipt down, and only then count it; another one for the same key is wrong."""
        known = self.receipts.get(key)
        if known is not None:
            if known != receipt:
                self.wrong.append(f"key {key} got two receipts: {known.job_id} and {receipt.job_id}")
            return
        claim = ReceiptClaim(receipt.job_id, receipt.sequence, receipt.request_digest)
        try:
            check_receipt(self.dispatcher, _NO_CHAIN, claim, receipt.signature)
        except ProtocolError as error:
            self.wrong.append(f"key {key}: {error}")
        with self.file.open("a") as file:
            file.write(json.dumps({"key": key, **receipt.to_json()}) + "\n")
        self.receipts[key] = receipt
        self.grow()

    def grow(self) -> None:
        """Tell whoever waits that jobs were accepted, or ended."""
        self._grew.set()
        self._grew = asyncio.Event()

    async def until_accepted(self, count: int) -> None:
        """Return once so many jobs were accepted."""
        while self.accepted < count:
            await self._grew.wait()

    async def until_waiting_less_than(self, count: int) -> None:
        """Return once fewer than so many accepted jobs are open."""
        while self.accepted - self.ended >= count:
            await self._grew.wait()


@dataclass
class Client:
    """One project's client, which knows all dispatchers and goes from one to the next."""

    urls: list[str]
    token: str
    ledger: Ledger
    waiting: int
    chance: random.Random
    http: httpx.AsyncClient = field(
        default_factory=lambda: httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S)
    )
    _next: Iterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self._next = itertools.cycle(self.urls)
        self._url = next(self._next)

    async def run(self, todo: Iterator[PlannedJob]) -> None:
        """Submit jobs until none is left."""
        async with self.http:
            for job in todo:
                await self.ledger.until_waiting_less_than(self.waiting)
                job_id = await self._submit(job)
                if job_id is None:
                    continue
                if job.repeated:
                    await self._submit(job)
                    await self._ask("/api/job/detail", {"job_id": job_id})
                if job.cancelled:
                    said = await self._ask("/api/job/cancel", {"job_id": job_id})
                    if said.get("result") == "cancelled":
                        self.ledger.cancelled.add(job_id)

    async def _submit(self, job: PlannedJob) -> str | None:
        body = job.body | {"verify": self.token}
        said = await self._ask("/api/job/submit", body, {"Idempotency-Key": job.key})
        if "receipt" not in said:
            return None
        receipt = parse_message(Receipt, said["receipt"])
        self.ledger.accept(job.key, receipt)
        return receipt.job_id

    async def _ask(
        self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Ask until there is an answer that is not "come again"; what is no good answer either is noted as wrong."""
        headers = {"Authorization": f"Bearer {self.token}"} | (headers or {})
        while True:
            began = time.monotonic()
            try:
                answer = await self.http.post(self._url + path, json=body, headers=headers)
            except httpx.TransportError as error:
                self.ledger.answers[type(error).__name__] += 1
                self._url = next(self._next)
            else:
                self.ledger.answers[str(answer.status_code)] += 1
                if answer.status_code == 200:
                    return dict(answer.json())
                if answer.status_code not in _AGAIN:
                    self.ledger.wrong.append(f"{path}: {answer.status_code} {answer.text[:300]}")
                    return {}
                if "Retry-After" not in answer.headers:
                    self.ledger.wrong.append(f"{path}: {answer.status_code} without Retry-After")
                self.ledger.slowest_503_s = max(self.ledger.slowest_503_s, time.monotonic() - began)
            await asyncio.sleep(self.chance.uniform(0, 2 * _PAUSE_S))
