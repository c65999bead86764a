"""Leases on real PostgreSQL against a model of them: two processes claim, renew, lose, release, write and close rounds in any order.

Whatever they do: nobody writes about a round without its lease, none is closed twice or changed after its end, and whoever is left brings all to an end.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from sqlalchemy import Row, insert, text

from aos_dispatcher.challenges import Challenges
from aos_dispatcher.closing import Closing, End
from aos_dispatcher.committee import Seat, SeatState
from aos_dispatcher.database import Database
from aos_dispatcher.errors import LeaseLost
from aos_dispatcher.facts import RoundFacts
from aos_dispatcher.operators import Operators, register_operator
from aos_dispatcher.projects import create_project
from aos_dispatcher.rounds_store import Drawn, RoundsStore
from aos_dispatcher.settings import Verification
from aos_dispatcher.tables import Job, Round
from aos_protocol.identity import Signer
from aos_protocol.messages import JobResult
from aos_protocol.sortition import Candidate, Member
from aos_protocol.typed_data import Domain
from aos_service.database import create_engine, database_url
from support.operators import MODEL

OWNERS = ("a", "b")
SERVED = [("opml", MODEL.name)]
SIGNER = Signer(b"\x22" * 32)
OPERATORS = [Signer(bytes([number]) * 32).address for number in (7, 8)]
_MOST_ROUNDS = 4
_LEASE_S = 1000.0  # a lease ends when the test says so
_REQUEST = {
    "from": "shop",
    "tag": "",
    "user": "ann",
    "job": {"tag": "opml", "prompt": "x", "model": MODEL.name},
}


@dataclass
class Expected:
    """What must hold of a round; `owner` is whom it was last leased to."""

    facts: RoundFacts
    before: RoundFacts | None = None
    owner: str | None = None
    ended_lease: bool = False
    paused: bool = False
    late: bool = False
    status: str = "created"
    results: set[str] = field(default_factory=set)
    seats: dict[str, str] = field(default_factory=dict)
    closed_by: list[str] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return self.status in {"created", "dispatched"}

    @property
    def free(self) -> bool:
        return self.open and (self.owner is None or self.ended_lease) and not self.paused

    def held_by(self, owner: str) -> bool:
        return self.open and self.owner == owner


class LeaseMachine(RuleBasedStateMachine):
    """Two owners on one database; `address` is where."""

    address: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        url = database_url(self.address)
        engine = create_engine(url, pool_min=1, pool_max=4, connect_timeout=10, acquire_timeout=10)
        self.database = Database(engine)
        verification = Verification()
        challenges = Challenges(self.database, SIGNER, Domain(0, "0x" + "0" * 40), verification, 100)
        everybody = (*OWNERS, "last")
        self.stores = {owner: RoundsStore(self.database, owner, _LEASE_S) for owner in everybody}
        self.closings = {
            owner: Closing(self.database, store, challenges, verification)
            for owner, store in self.stores.items()
        }
        self.rounds: dict[int, Expected] = {}
        self.counter = 0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            self.run(self._bring_to_an_end())
        finally:
            self.run(self.database.close())
            self._loop.close()

    @initialize()
    def empty(self) -> None:
        self.run(self._execute("truncate jobs, rounds, assignments, results, scores cascade"))
        self.snapshot = self.run(Operators(self.database).snapshot())

    @precondition(lambda self: len(self.rounds) < _MOST_ROUNDS)
    @rule()
    def submitted(self) -> None:
        number = len(self.rounds) + 1
        self.rounds[number] = Expected(self.run(self._add(number)))

    @rule(owner=st.sampled_from(OWNERS), served=st.booleans(), count=st.integers(1, _MOST_ROUNDS))
    def claim(self, owner: str, served: bool, count: int) -> None:
        takes = [
            number
            for number, round_ in self.rounds.items()
            if round_.free and (round_.status == "dispatched" or served or round_.late)
        ]
        claimed = self.run(self.stores[owner].claim(SERVED if served else [], count))
        assert [one.row.id for one in claimed] == takes[:count]
        for one in claimed:
            round_ = self.rounds[one.row.id]
            assert {seat.operator: seat.state for seat in one.seats} == round_.seats
            assert len(one.answers) == len(round_.results)
            round_.owner, round_.ended_lease = owner, False
            round_.before, round_.facts = round_.facts, RoundFacts.from_row(one.row)

    @precondition(lambda self: self.rounds)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS))
    def renew(self, data: st.DataObject, owner: str) -> None:
        some = data.draw(st.sets(st.sampled_from(sorted(self.rounds))))
        self.run(self.stores[owner].renew(some))
        for number in some:
            if self.rounds[number].held_by(owner):
                self.rounds[number].ended_lease = False

    @precondition(lambda self: self.rounds)
    @rule(data=st.data())
    def lease_runs_out(self, data: st.DataObject) -> None:
        number = self._any(data)
        self.run(
            self._execute(
                f"update rounds set lease_until = now() - interval '1 s' where id = {number} and lease_owner is not null"
            )
        )
        self.rounds[number].ended_lease = True

    @precondition(lambda self: self.rounds)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS))
    def release(self, data: st.DataObject, owner: str) -> None:
        number = self._any(data)
        self.run(self.stores[owner].release(number, _LEASE_S))
        if self.rounds[number].owner == owner:
            self.rounds[number].owner, self.rounds[number].paused = None, True

    @precondition(lambda self: self.rounds)
    @rule(data=st.data())
    def pause_is_over(self, data: st.DataObject) -> None:
        number = self._any(data)
        self.run(self._execute(f"update rounds set not_before = null where id = {number}"))
        self.rounds[number].paused = False

    @rule(owner=st.sampled_from(OWNERS))
    def release_all(self, owner: str) -> None:
        self.run(self.stores[owner].release_all())
        for round_ in self.rounds.values():
            if round_.owner == owner:
                round_.owner = None

    @precondition(lambda self: self.rounds)
    @rule(data=st.data())
    def deadline_passes(self, data: st.DataObject) -> None:
        number = self._any(data)
        self.run(self._late(number))
        self.rounds[number].late = True

    @precondition(lambda self: self.rounds)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS))
    def draw(self, data: st.DataObject, owner: str) -> None:
        round_ = self.rounds[self._any(data)]
        if round_.status == "dispatched" and round_.held_by(owner):
            return  # it draws once
        if self._done(self._draw(owner, round_), round_.held_by(owner)):
            round_.status = "dispatched"
            round_.seats = dict.fromkeys(OPERATORS, "assigned")

    @precondition(lambda self: self.rounds)
    @rule(data=st.data())
    def what_an_earlier_lease_began_is_written_late(self, data: st.DataObject) -> None:
        """By the process that holds the round again, or still: it has taken the round up afresh since."""
        round_ = self.rounds[self._any(data)]
        if round_.before is None or round_.owner is None:
            return
        earlier = replace(round_, facts=round_.before)
        for late in (
            self._answer(round_.owner, earlier, OPERATORS[0]),
            self._close(round_.owner, earlier, "failed"),
        ):
            self._done(late, allowed=False)

    @precondition(lambda self: self.rounds)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS), operator=st.sampled_from(OPERATORS))
    def answer(self, data: st.DataObject, owner: str, operator: str) -> None:
        round_ = self.rounds[self._any(data)]
        if round_.held_by(owner) and (round_.status == "created" or operator in round_.results):
            return  # it takes an answer of members, once
        if self._done(self._answer(owner, round_, operator), round_.held_by(owner)):
            round_.results.add(operator)
            round_.seats[operator] = "answered"

    @precondition(lambda self: self.rounds)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS), operator=st.sampled_from(OPERATORS))
    def give_up(self, data: st.DataObject, owner: str, operator: str) -> None:
        round_ = self.rounds[self._any(data)]
        if round_.held_by(owner) and round_.seats.get(operator) != "assigned":
            return
        seat = _seat(operator, SeatState.LOST)
        if self._done(self.stores[owner].settle(round_.facts, [(0, seat)]), round_.held_by(owner)):
            round_.seats[operator] = "lost"

    @precondition(lambda self: self.rounds)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS), status=st.sampled_from(["completed", "failed"]))
    def close(self, data: st.DataObject, owner: str, status: str) -> None:
        round_ = self.rounds[self._any(data)]
        if self._done(self._close(owner, round_, status), round_.held_by(owner)):
            round_.status = status
            round_.closed_by.append(owner)

    @precondition(lambda self: self.rounds)
    @rule(data=st.data())
    def both_close_and_claim_at_once(self, data: st.DataObject) -> None:
        round_ = self.rounds[self._any(data)]
        holder = round_.owner if round_.open else None

        async def together() -> list[Any]:
            closing = (self._close(owner, round_, "completed") for owner in OWNERS)
            return await asyncio.gather(*closing, return_exceptions=True)

        outcomes = dict(zip(OWNERS, self.run(together()), strict=True))
        for owner, outcome in outcomes.items():
            assert isinstance(outcome, LeaseLost) == (owner != holder)
            if owner == holder:
                assert outcome is None
                round_.status = "completed"
                round_.closed_by.append(owner)

    @invariant()
    def rows_are_as_expected(self) -> None:
        for row in self.run(self._rows()):
            round_ = self.rounds[row.id]
            assert row.status == round_.status
            assert row.job_status == round_.status
            assert row.lease_owner == round_.owner
            assert row.seats == round_.seats
            assert row.results == len(round_.results)
            assert len(round_.closed_by) == (0 if round_.open else 1)

    def _any(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.rounds)))

    def _done(self, work: Awaitable[Any], allowed: bool) -> bool:
        """Do what only the holder of the lease may; whether it did."""

        async def attempt() -> bool:
            try:
                await work
            except LeaseLost:
                return False
            return True

        done: bool = self.run(attempt())
        assert done == allowed
        return done

    async def _draw(self, owner: str, round_: Expected) -> None:
        seats = [_seat(operator) for operator in OPERATORS]
        drawn = Drawn(self.snapshot, {"1": "1"}, {"1": "2"}, [], seats, None)
        await self.stores[owner].drawn(round_.facts, drawn)

    async def _answer(self, owner: str, round_: Expected, operator: str) -> None:
        self.counter += 1
        result = JobResult.model_construct(job_id=round_.facts.job_id, operator=operator, tag="")
        frame = f"frame {self.counter}"
        await self.stores[owner].executed(round_.facts, result, frame, self.counter, done=True)

    async def _close(self, owner: str, round_: Expected, status: str) -> None:
        """Close a round, now as a step like others, now in the transaction that reads its committee."""
        self.counter += 1
        seats = () if self.counter % 2 else None
        await self.closings[owner].close(
            round_.facts, End(status, "", {"1": "9"}, verified=False, seats=seats)
        )

    async def _bring_to_an_end(self) -> None:
        """What a process does that starts when all others are gone."""
        await self._execute("update rounds set lease_until = null, not_before = null")
        claimed = await self.stores["last"].claim(SERVED, 2 * _MOST_ROUNDS)
        assert [one.row.id for one in claimed] == [n for n, round_ in self.rounds.items() if round_.open]
        for one in claimed:
            round_ = self.rounds[one.row.id]
            round_.facts = RoundFacts.from_row(one.row)
            if round_.status == "created":
                await self._draw("last", round_)
            await self._close("last", round_, "failed")
        assert {row.status for row in await self._rows()} <= {"completed", "failed"}
        assert {row.job_status for row in await self._rows()} <= {"completed", "failed"}

    async def _add(self, number: int) -> RoundFacts:
        """Store a job and its round, later ones with later deadlines."""
        job_id, digits = f"{number:064x}", "0" * 64
        proofs = {"seed": digits, "seed_proof": "0" * 162}
        both = {"status": "created", "deadline": text(f"now() + interval '{1000 + number} s'")}
        job = {"id": job_id, "sequence": number, "project_id": "shop", "user_id": "ann", "request": _REQUEST}
        job |= {"request_digest": digits, "receipt": "0" * 130, "clock": {"1": "1"}, **proofs, **both}
        round_ = {"id": number, "job_id": job_id, "tag": "", "position": "", "job_type": "opml", **both}
        round_ |= {"model": MODEL.name, "model_sha256": MODEL.sha256}
        async with self.database.begin() as connection:
            await connection.execute(insert(Job).values(**job))
            await connection.execute(insert(Round).values(**round_))
            query = (
                "select r.*, j.request, j.sequence, j.request_digest, j.receipt, j.clock, j.least_evidence, j.seed job_seed, "
                "j.seed_proof job_seed_proof, null subject_frame from rounds r join jobs j on j.id = r.job_id where r.id = :id"
            )
            return RoundFacts.from_row((await connection.execute(text(query), {"id": number})).one())

    async def _late(self, number: int) -> None:
        """Let a deadline pass; that of earlier rounds is earlier still."""
        await self._execute(
            f"update rounds set deadline = now() - interval '{100 - number} s' where id = {number}"
        )

    async def _rows(self) -> list[Row[Any]]:
        query = (
            "select r.id, r.status, j.status job_status, r.lease_owner, "
            "(select count(*) from results where round_id = r.id) results, "
            "(select coalesce(json_object_agg(operator, state), '{}') from assignments where round_id = r.id) seats "
            "from rounds r join jobs j on j.id = r.job_id order by r.id"
        )
        async with self.database.connect() as connection:
            return list(await connection.execute(text(query)))

    async def _execute(self, statement: str) -> None:
        async with self.database.begin() as connection:
            await connection.execute(text(statement))


def _seat(operator: str, state: SeatState = SeatState.ASSIGNED) -> Seat:
    return Seat(Member(Candidate(operator, 0, 1), filled=False), "executor", state)


@pytest.fixture
async def prepared(new_database: Callable[[str], Awaitable[str]]) -> str:
    """A dispatcher's database with a project and operators."""
    address = await new_database("dispatcher")
    engine = create_engine(
        database_url(address), pool_min=1, pool_max=1, connect_timeout=10, acquire_timeout=10
    )
    database = Database(engine)
    await create_project(database, "shop", private=False)
    for operator in OPERATORS:
        await register_operator(database, operator)
    await database.close()
    return address


@pytest.mark.timeout(120)
def test_leases_hold_in_any_order_of_events(prepared: str) -> None:
    """The same few stories in every run; AOS_FUZZ_EXAMPLES says how many other ones are told by hand."""
    many = os.environ.get("AOS_FUZZ_EXAMPLES")
    LeaseMachine.address = prepared
    run_machine(
        LeaseMachine,
        settings=settings(
            max_examples=int(many or 12),
            stateful_step_count=30,
            deadline=None,
            derandomize=many is None,
            # Making a failure smaller takes longer than a test of the suite may.
            phases=[Phase.generate, Phase.shrink] if many else [Phase.generate],
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
