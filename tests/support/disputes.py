"""Disputed results on a running dispatcher: whole jobs by scripted operators."""

import asyncio
from typing import Any

from sqlalchemy import text

from aos_protocol.identity import Signer
from aos_protocol.typed_data import ChallengeClaim, Domain, sign_typed

DOMAIN = Domain(0, "0x" + "0" * 40)


def signed_challenge(signer: Signer, result: str, reason: str, purpose: str, domain: Domain = DOMAIN) -> str:
    """The EIP-712 signature of a challenge or an appeal."""
    return sign_typed(signer, domain, ChallengeClaim(signer.address, purpose, result, reason))


class Dispute:
    """One answered job of a network, and everything that a test does about its result."""

    def __init__(self, network: Any, operator: Any, job_id: str, row: dict[str, Any]) -> None:
        self.network = network
        self.operator = operator
        self.job_id = job_id
        self.row = row
        self.result: str = row["id"]

    @property
    def body(self) -> dict[str, Any]:
        return {"job_id": self.job_id, "operator": self.operator.signer.address, "reason": "it reads oddly"}

    async def by_project(self, **changes: Any) -> Any:
        return await self.network.post(
            "/api/job/challenge", self.body | {"verify": self.network.token} | changes
        )

    async def by_operator(
        self, signer: Signer, *, claim: dict[str, Any] | None = None, **changes: Any
    ) -> Any:
        """Challenge by signature; `claim` changes what is signed, the rest what is sent."""
        said = {"result": self.result, "reason": self.body["reason"], "purpose": "challenge"} | (claim or {})
        body = (
            self.body
            | {"challenger": signer.address, "signature": signed_challenge(signer, **said)}
            | changes
        )
        return await self.network.post("/api/job/challenge", body)

    async def appeal(self, *, claim: dict[str, Any] | None = None, **changes: Any) -> Any:
        said = {"result": self.result, "reason": "I did run it", "purpose": "appeal"} | (claim or {})
        signer = self.operator.signer
        body = {"operator": signer.address, "result": self.result, "reason": "I did run it"}
        body |= {"signature": signed_challenge(signer, **said)} | changes
        return await self.network.post("/api/operator/appeal", body)

    async def rows(self, query: str, **parameters: Any) -> list[Any]:
        async with self.network.dispatcher.database.begin() as connection:
            ran = await connection.execute(text(query), parameters)
            return list(ran.all()) if ran.returns_rows else []

    async def standing(self, **options: Any) -> dict[str, Any]:
        answer = await self.network.client.get(
            f"/api/operator/standing/{self.operator.signer.address}", **options
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["result"]
        return found


async def answered_job(network: Any, operator: Any = None, **changes: Any) -> Dispute:
    """A completed job of one operator, which has left again, so that a challenge's round stays as it was opened."""
    operator = operator or await network.operator(connect=False)
    if operator.signer.address not in network.dispatcher.hub.connected():
        operator.url = network.ws
        assert (await operator.connect())["code"] == 200
    job_id = await network.submit(**changes)
    assert (await network.finished(job_id))["status"] == "completed"
    [row] = await network.results(job_id)
    await operator.close()
    await gone(network)
    return Dispute(network, operator, job_id, row)


async def gone(network: Any) -> None:
    """Wait until the dispatcher has noticed that nobody is connected."""
    while len(network.dispatcher.hub):
        await asyncio.sleep(0.01)
