"""Lot, known beforehand: a test has the keys of the dispatcher and of all operators, and so can do the draw of a job before it submits it.

Users are tried until the job of one would be drawn as the test needs it; that one is submitted. So nothing is left to lot, and no job is wasted.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from sqlalchemy import text

from aos_protocol import sortition, vrf
from aos_protocol.identity import Signer
from support.operators import ScriptedOperator


@dataclass(frozen=True)
class Lot:
    """Whom a draw ranks, by address and from the first on, and how many of them its committee has."""

    ranking: list[str]
    size: int

    @property
    def executor(self) -> str:
        """Who executes."""
        return self.ranking[0]

    @property
    def verifiers(self) -> list[str]:
        """The others of the committee."""
        return self.ranking[1 : self.size]


async def drawn(network: Any, wanted: Callable[[Lot], bool], tag: str = "", **changes: Any) -> str:
    """Submit a job that lot decides as wanted, and return its id.

    Meant for jobs that are neither audited nor sealed, of operators that are all connected and serve the model; nobody else may submit meanwhile.
    """
    snapshot = await network.dispatcher.operators.snapshot()
    operators = {operator.signer.address: operator for operator in network.operators}
    able = [one for address, one in operators.items() if address not in snapshot.suspended]
    async with network.dispatcher.database.connect() as connection:
        last = await connection.execute(text("select coalesce(max(sequence), 0) from jobs"))
        sequence = last.scalar_one() + 1
    for number in count():
        body = network.body(tag=tag, user=f"user {sequence}.{number}", **changes)
        request = {name: value for name, value in body.items() if name != "verify"}
        expected = sortition.job_id(network.signer.address, sequence, request)
        lot = _lot(network.signer, expected, request, able, snapshot.range_of)
        if wanted(lot):
            job_id: str = await network.submit(tag=tag, user=body["user"], **changes)
            assert job_id == expected
            return job_id
        await asyncio.sleep(0)
    raise AssertionError


def _lot(
    dispatcher: Signer,
    job_id: str,
    request: dict[str, Any],
    operators: Sequence[ScriptedOperator],
    range_of: Callable[[str], tuple[int, int]],
) -> Lot:
    """Do the draw of a job that asks all these operators."""
    tag = request["tag"]
    seed = _output(dispatcher, sortition.seed_alpha(job_id))
    alpha = seed + hashlib.sha512(request["job"]["prompt"].encode()).digest()
    candidates = [
        sortition.Candidate(
            operator.signer.address,
            sortition.ticket_value(_output(operator.signer, alpha)),
            sortition.ticket_threshold(*range_of(operator.signer.address), tag, "after" if tag else ""),
        )
        for operator in operators
    ]
    ranking = sortition.rank(candidates)
    members = sortition.committee(ranking, sortition.committee_minimum(tag))
    return Lot([candidate.operator for candidate in ranking], len(members))


def _output(signer: Signer, alpha: bytes) -> bytes:
    return vrf.ECVRF_SECP256K1_SHA256_TAI.proof_to_hash(vrf.prove(signer, alpha))
