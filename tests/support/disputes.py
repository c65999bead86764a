"""Disputed results on a running dispatcher: whole jobs by scripted operators, verdicts by hand."""

from typing import Any

from sqlalchemy import text

from aos_protocol.calibration import Calibration
from aos_protocol.identity import Signer
from aos_protocol.messages import JobResult
from aos_protocol.score_document import Score
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import ChallengeClaim, Domain, sign_typed
from aos_protocol.verdict import Verdict

DOMAIN = Domain(0, "0x" + "0" * 40)
FIRST_BAD = 1
"""The step at which `bad_score` begins to differ."""


def verdict(outcome: Any) -> Verdict:
    """A verdict as a committee's scores would give it."""
    return Verdict(
        outcome=outcome,
        level="fingerprint",
        reason=f"a {outcome}",
        statistics={"distance": 0.3},
        tokens_needed=None,
    )


def bad_score(said: JobResult, *, first_bad: int = FIRST_BAD) -> Score:
    """The score of an answer whose fingerprints are those of another model from step `first_bad` on."""
    transcript = Transcript.from_json(said.transcript)
    count = len(transcript.output_tokens)
    return Score(
        level="fingerprint",
        subject=transcript.commitment(),
        model=transcript.model,
        engine="scripted",
        positions=count,
        distances=[0.001 if step < first_bad else 0.5 for step in range(count)],
        margins=[0.0 if step < first_bad else 2.0 for step in range(count)],
        surprisals=[1.0] * count,
        winners=[
            token if step < first_bad else token + 1 for step, token in enumerate(transcript.output_tokens)
        ],
        entropy=1.0,
        variance=1.0,
    )


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

    async def decide(
        self, verify_id: str, outcome: str | None, calibration: Calibration | None = None
    ) -> str:
        """Close a challenge's round as its committee's verdict would."""
        dispatcher = self.network.dispatcher
        scores = {Signer(bytes([n]) * 32).address: bad_score(await self.said()) for n in (7, 8, 9)}
        async with dispatcher.database.begin() as connection:
            await connection.execute(
                text("update rounds set status = 'completed', finished_at = now() where id = :id"),
                {"id": int(verify_id)},
            )
            decided: str = await dispatcher.challenges.decide(
                connection, int(verify_id), verdict(outcome) if outcome else None, scores, calibration
            )
        return decided

    async def challenged(self, outcome: str | None, calibration: Calibration | None = None) -> str:
        """Challenge the result as its project, and let the committee find this."""
        answer = await self.by_project()
        assert answer.status_code == 200, answer.text
        return await self.decide(answer.json()["result"]["verify_id"], outcome, calibration)

    async def said(self) -> JobResult:
        from aos_dispatcher.round import stored_result

        return stored_result(
            (await self.rows("select frame from results where id = :id", id=self.result))[0].frame
        )

    async def rows(self, query: str, **parameters: Any) -> list[Any]:
        async with self.network.dispatcher.database.begin() as connection:
            ran = await connection.execute(text(query), parameters)
            return list(ran.all()) if ran.returns_rows else []

    async def job(self) -> Any:
        return (await self.rows("select * from jobs where id = :id", id=self.job_id))[0]

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
    import asyncio

    while len(network.dispatcher.hub):
        await asyncio.sleep(0.01)
