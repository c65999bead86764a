"""Whoever changes the dispatcher's database behind its back is found: for every table, and for every column that anybody is shown.

A network runs jobs of every kind. Then it is stopped, and one thing after another is changed by SQL, looked at as the dispatcher
would show it, and rolled back. What finds a change is named: a check of evidence by its id, `log state` for what operators and models
come to by the log's entries (`aos_protocol.log_state`), `no evidence` for a job of the log that has none, and `unreadable`
for evidence that is none any more.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from aos_dispatcher import log_reader, log_tree
from aos_dispatcher.errors import LogDamaged, NotFound
from aos_dispatcher.evidence import EvidenceDesk
from aos_dispatcher.log_sequencer import signed_head
from aos_dispatcher.operators import list_models, operators_in
from aos_dispatcher.settings import Chain, Verification
from aos_dispatcher.standing import Standing
from aos_dispatcher.tables import Base
from aos_protocol import merkle
from aos_protocol.errors import InvalidEvidence
from aos_protocol.evidence import check_evidence
from aos_protocol.identity import Signer
from aos_protocol.log import check_growth
from aos_protocol.log_entries import job_entries
from aos_protocol.log_state import LogState
from aos_protocol.tagging import check_placements
from aos_protocol.typed_data import Domain
from aos_service.database import create_engine, database_url
from integration.dispatcher.conftest import Network
from support.disputes import signed_challenge

CONTRACT = "0x" + "5" * 40
DOMAIN = Domain(31337, "0x" + "1" * 40)
NOBODY = Signer(b"\x66" * 32).address
CHEATS_FROM = 5

# Which row is changed, by table. All are of the tagged job, whose result was found to mismatch, challenged, and appealed for.
ROWS = {
    "jobs": "id = :job",
    "rounds": "id = :again",
    "assignments": "round_id = :own and rank = 0",
    "results": "round_id = :own",
    "scores": "id = (select min(id) from scores where round_id = :own)",
    "challenges": "round_id = :appeal",
    "rejections": "job_id = :job",
    "registries": "digest = (select registry_digest from rounds where id = :own)",
    "calibrations": "digest = (select calibration from rounds where id = :own)",
    "operators": "address = :cheat",
    "models": "name = 'tiny.gguf'",
    "frauds": "operator = :cheat",
    "pools": "operator = :cheat",
    "log_entries": "job_id = :job and index = (select min(index) from log_entries where job_id = :job)",
    "log_tiles": "level = 0 and index = 0",
    "log_head": "true",
    "log_anchors": "true",
}

_OTHER_TEXT = "{0} || ' '"
_OTHER_HEX = "(case left({0}, 1) when '0' then '1' else '0' end) || substr({0}, 2)"
_MORE = "{0} + 1"
_NOT = "not {0}"
_LATER = "{0} + interval '1 hour'"
_PROOF_HEX = "left({0}, 4) || " + _OTHER_HEX.format("substr({0}, 5)")
_PLACE = (
    f'{{{{"chain_id": 31337, "registry": "{DOMAIN.registry}", "block": 7, "block_hash": "{"ab" * 32}"}}}}'
)
_DAMAGED = "set_byte({0}, 40, 255 - get_byte({0}, 40))"

# Table, column, what it becomes, and what finds it.
CHANGES = [
    ("jobs", "id", _OTHER_HEX, "no evidence"),
    ("jobs", "sequence", "{0} + 1000", "AOS-JOB-1"),
    ("jobs", "request", "replace({0}::text, 'What is AI?', 'Who is AI?')::json", "AOS-JOB-1"),
    ("jobs", "request_digest", _OTHER_HEX, "AOS-RECEIPT-1"),
    ("jobs", "receipt", _OTHER_HEX, "AOS-RECEIPT-1"),
    ("jobs", "seed", _OTHER_HEX, "AOS-SEED-1"),
    ("jobs", "seed_proof", _PROOF_HEX, "AOS-SEED-1"),
    ("jobs", "status", "'failed'", "AOS-LOG-1"),
    ("jobs", "reason", _OTHER_TEXT, "AOS-LOG-1"),
    ("jobs", "clock", "'{{\"1\": \"999\"}}'::json", "AOS-LOG-1"),
    ("jobs", "audit_ppm", _MORE, "AOS-LOG-1"),
    ("jobs", "least_evidence", "'text'", "AOS-LOG-1"),
    ("rounds", "id", "{0} + 1000", "AOS-LOG-1"),
    ("rounds", "job_id", "(select id from jobs where id <> :job limit 1)", "AOS-LOG-1"),
    ("rounds", "tag", "'malicious'", "AOS-LOG-1"),
    ("rounds", "position", "'before'", "AOS-LOG-1"),
    ("rounds", "challenge", "{0} + 7", "AOS-LOG-1"),
    ("rounds", "cause", "repeat('c', 64)", "AOS-LOG-1"),
    ("rounds", "subject", "null", "AOS-LOG-1"),
    ("rounds", "seed", _OTHER_HEX, "AOS-LOG-1"),
    ("rounds", "seed_proof", _PROOF_HEX, "AOS-LOG-1"),
    ("rounds", "model", _OTHER_TEXT, "AOS-LOG-1"),
    ("rounds", "model_sha256", _OTHER_HEX, "AOS-LOG-1"),
    ("rounds", "calibration", "null", "AOS-LOG-1"),
    ("rounds", "status", "'failed'", "AOS-LOG-1"),
    ("rounds", "verdict", "replace({0}::text, 'mismatch', 'match')::json", "AOS-VERDICT-1"),
    ("rounds", "registry_digest", "null", "AOS-LOG-1"),
    ("rounds", "registry_chain", f"'{_PLACE}'::json", "AOS-LOG-1"),
    ("rounds", "draw_clock", "'{{\"1\": \"1\"}}'::json", "AOS-LOG-1"),
    ("rounds", "dispatch_clock", "'{{\"1\": \"999\"}}'::json", "AOS-LOG-1"),
    ("rounds", "electorate", "({0}::jsonb - 0)::json", "AOS-LOG-1"),
    ("assignments", "round_id", ":again", "AOS-LOG-1"),
    ("assignments", "operator", f"'{NOBODY}'", "AOS-LOG-1"),
    ("assignments", "rank", "{0} + 50", "AOS-LOG-1"),
    ("assignments", "role", "'verifier'", "AOS-LOG-1"),
    ("assignments", "filled", _NOT, "AOS-LOG-1"),
    ("assignments", "state", "'lost'", "AOS-LOG-1"),
    ("assignments", "reason", _OTHER_TEXT, "AOS-LOG-1"),
    ("results", "id", _OTHER_TEXT, "AOS-LOG-1"),
    ("results", "round_id", ":again", "AOS-LOG-1"),
    ("results", "frame", "replace({0}, 'sensible', 'sensical')", "AOS-LOG-1"),
    ("scores", "round_id", ":again", "AOS-LOG-1"),
    ("scores", "frame", "replace({0}, 'job_score', 'job_scorn')", "AOS-LOG-1"),
    ("challenges", "round_id", "{0} + 1000", "AOS-LOG-1"),
    ("challenges", "purpose", "'challenge'", "AOS-LOG-1"),
    ("challenges", "challenger", f"'{NOBODY}'", "AOS-LOG-1"),
    ("challenges", "reason", _OTHER_TEXT, "AOS-LOG-1"),
    ("challenges", "signature", _OTHER_HEX, "AOS-LOG-1"),
    ("challenges", "status", "'open'", "log state"),
    ("rejections", "job_id", "null", "AOS-LOG-1"),
    ("rejections", "operator", f"'{NOBODY}'", "AOS-REJECTION-1"),
    ("rejections", "reason", _OTHER_TEXT, "AOS-LOG-1"),
    ("rejections", "frame", _OTHER_TEXT, "AOS-LOG-1"),
    ("registries", "digest", _OTHER_HEX, "AOS-LOG-1"),
    ("registries", "document", "replace({0}::text, '\"number\": 2', '\"number\": 9')::json", "AOS-LOG-1"),
    ("calibrations", "digest", _OTHER_HEX, "AOS-VERDICT-1"),
    ("calibrations", "document", "replace({0}::text, 'made up', 'made down')::json", "AOS-VERDICT-1"),
    ("operators", "address", f"'{NOBODY}'", "log state"),
    ("operators", "number", "{0} + 50", "log state"),
    ("operators", "suspended_at", "null", "log state"),
    ("operators", "appealed_at", "null", "log state"),
    ("models", "name", _OTHER_TEXT, "log state"),
    ("models", "job_type", "'tee'", "log state"),
    ("models", "sha256", _OTHER_HEX, "log state"),
    ("models", "calibration", "null", "log state"),
    ("frauds", "id", "{0} + 50", "log state"),
    ("frauds", "operator", f"'{NOBODY}'", "log state"),
    ("frauds", "job_id", "null", "log state"),
    ("frauds", "result", _OTHER_TEXT, "log state"),
    ("frauds", "round_id", _MORE, "log state"),
    ("frauds", "step", _MORE, "log state"),
    ("frauds", "proof", "null", "log state"),
    ("frauds", "verdict", "replace({0}::text, 'mismatch', 'match')::json", "log state"),
    ("frauds", "created_at", _LATER, "log state"),
    ("frauds", "withdrawn_at", "now()", "log state"),
    ("pools", "operator", f"'{NOBODY}'", "log state"),
    ("pools", "model_sha256", _OTHER_HEX, "log state"),
    ("pools", "llr", _MORE, "log state"),
    ("pools", "tokens", _MORE, "log state"),
    ("pools", "decision", "'honest?'", "log state"),
    ("log_entries", "index", "{0} + 100000", "AOS-LOG-1"),
    ("log_entries", "job_id", "null", "AOS-LOG-1"),
    ("log_entries", "entry", _OTHER_TEXT, "AOS-LOG-1"),
    ("log_tiles", "level", _MORE, "no proofs"),
    ("log_tiles", "index", _MORE, "no proofs"),
    ("log_tiles", "hashes", _DAMAGED, "AOS-LOG-1"),
    ("log_head", "size", "{0} - 1", "AOS-HEAD-1"),
    ("log_head", "root", _OTHER_HEX, "AOS-HEAD-1"),
    ("log_head", "timestamp", _MORE, "AOS-HEAD-1"),
    ("log_head", "signature", _OTHER_HEX, "AOS-HEAD-1"),
    ("log_anchors", "size", "{0} - 1", "AOS-ANCHOR-1"),
    ("log_anchors", "root", _OTHER_HEX, "AOS-ANCHOR-1"),
]  # fmt: skip

# Columns that neither evidence nor standing nor the log shows, with the reason why nobody misses them there.
UNSHOWN = {
    "jobs": {
        "project_id": "shown by AOS-DETAIL-1's page only; the request in the evidence has it as 'from'",
        "user_id": "the request in the evidence has it",
        "idempotency_key": "between the project and its dispatcher; the job that it stands for is in the log",
        "created_at": "the dispatcher's own time, which nobody could hold against anything",
        "deadline": "steers the dispatch loop only",
        "finished_at": "the dispatcher's own time",
        "final_at": "follows from the end and the challenges, which are in the log",
        "verdict": "follows from the rounds' verdicts, which are; AOS-DETAIL-1 compares what the API shows",
    },
    "rounds": {
        "project_id": "the request in the evidence has it as 'from'; waiting jobs are counted by it",
        "purpose": "follows from tag, position, challenge and plea, which are in the log",
        "job_type": "the request in the evidence has it",
        "reason": "the own round's is the job's, which is in the log; that of others is told in the API only",
        "size": "follows from the draw",
        "session": "dispatcher and operator have signed it, and the client holds it against that before it sends a prompt",
        **dict.fromkeys(("deadline", "lease_owner", "lease_until", "not_before", "fencing_token"), "steers the dispatch loop only"),
        **dict.fromkeys(("created_at", "finished_at"), "the dispatcher's own time"),
    },
    "results": {
        "job_id": "the frame has it",
        "operator": "the frame is signed by it",
        "attestation": "appraised anew from the frame by whoever checks (AOS-ATTEST-1)",
        "tokens": "counted once more for figures of the network, which no evidence has; the frame has the tokens",
        "created_at": "the dispatcher's own time",
    },
    "scores": {
        "id": "an order of arrival, which nothing follows from",
        **dict.fromkeys(("job_id", "operator", "subject"), "the frame has it"),
        "verdict": "computed from the frame by whoever checks (AOS-VERDICT-1)",
        "created_at": "the dispatcher's own time",
    },
    "challenges": {
        "id": "an order, which nothing follows from",
        **dict.fromkeys(("job_id", "number", "result"), "the round of the challenge has it"),
        "project": "who challenged is in the log as project, operator or dispatcher; which project, the request has",
        **dict.fromkeys(("created_at", "decided_at"), "the dispatcher's own time"),
    },
    "rejections": {
        "id": "an order, which nothing follows from",
        "created_at": "the dispatcher's own time",
    },
    "operators": {
        "clock": "what the operator's next message is held against; its counters are in its frames, and AOS-CLOCK-1 finds one twice",
        "created_at": "the dispatcher's own time",
    },
    "log_anchors": {
        "block": "whoever asks the chain finds it (aos-audit --rpc, AOS-ANCHOR-2)",
        "transaction": "likewise",
    },
}  # fmt: skip

# Tables of which no row is shown, and why; the first two have tests of their own below.
OF_NO_EVIDENCE = {
    "counters": "a number that is skipped is missing in the log, and one that is given again cannot be stored",
    "user_tags": "the rule of tags over a user's jobs finds what was left out or invented (aos_protocol.tagging)",
    "log_pending": "what waits is in the log before anybody is shown its event; see below",
    "projects": "who may submit and read; evidence names the project in the request, which the id binds",
    "api_tokens": "secrets' digests: who may submit and read",
    "conversations": "what a project goes on with; each prompt that came of it is in its job's request",
    "blobs": "images: whoever fetches one holds its bytes against the digest that the signed result has",
    "blob_chunks": "their bytes",
    "project_limits": "how much a project may submit, which is between it and its dispatcher",
}


of_one_world = pytest.mark.asyncio(loop_scope="module")


class Inside:
    """Shows what a transaction sees, in place of the sequencer."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    @asynccontextmanager
    async def settled(self, _job_id: str | None) -> AsyncIterator[AsyncConnection]:
        yield self.connection


class World:
    """A stopped dispatcher's database, and what its log said while nobody had touched it."""

    def __init__(self, engine: AsyncEngine, signer: Signer, names: dict[str, Any]) -> None:
        self.engine = engine
        self.signer = signer
        self.names = names
        self.state = LogState()
        self.jobs: list[str] = []
        self.honest: set[str] = set()

    async def read(self) -> None:
        """Read the log as a monitor does, and see what is found before anything is changed."""
        async with self.engine.connect() as connection:
            for index, entry in enumerate(await log_reader.entries(connection, 0, 100_000)):
                said = self.state.take(index, entry)
                if said["kind"] == "job":
                    self.jobs.append(said["job_id"])
            self.honest = await self.found(connection)

    async def found(self, connection: AsyncConnection, sought: str = "") -> set[str]:
        """Everything that somebody finds who is shown this; when `sought` is found, nobody looks on."""
        found: set[str] = set()
        tagged = self.names["job"]  # the changed rows are its, mostly
        of_jobs = sorted(self.jobs, key=lambda job_id: job_id != tagged)
        for job_id in (None, *of_jobs) if sought == "log state" else (*of_jobs, None):
            found |= await self._of_job(connection, job_id) if job_id else await self._of_state(connection)
            if sought in found - self.honest:
                break
        return found - self.honest

    async def _of_state(self, connection: AsyncConnection) -> set[str]:
        inside: Any = Inside(connection)
        standing = Standing(inside, None, 1)  # type: ignore[arg-type] # nobody sends a token
        listed = [{"operator": who, "number": number} for who, number in await operators_in(connection)]
        differences = self.state.differences_of_operators(listed)
        differences += self.state.differences_of_models(await list_models(connection))
        for operator in self.state.operators:
            try:
                shown, _ = await standing.of(operator, None)
            except NotFound:
                continue  # then the list lacks it, too
            differences += self.state.differences_of_standing(shown)
        return {"log state"} if differences else set()

    async def _of_job(self, connection: AsyncConnection, job_id: str) -> set[str]:
        inside: Any = Inside(connection)
        desk = EvidenceDesk(inside, self.signer, DOMAIN, CONTRACT)
        try:
            document = await desk.document(job_id)
            checks = check_evidence(document, dispatcher=self.signer.address, job_id=job_id)
        except NoResultFound:
            return {"no evidence"}
        except LogDamaged:
            return {"no proofs"}
        except InvalidEvidence:
            return {"unreadable"}
        return {check.id for check in checks if check.status == "FAIL"}

    async def after(self, statement: str, sought: str) -> set[str]:
        """What is found after this statement, which is rolled back then; all of it, unless what is `sought` is among it."""
        async with self.engine.connect() as connection:
            names = {name: value for name, value in self.names.items() if f":{name}" in statement}
            assert (await connection.execute(text(statement), names)).rowcount, statement
            found = await self.found(connection, sought)
            await connection.rollback()
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(_databases: Any) -> AsyncIterator[World]:
    """One for all tests that look at it: what they change is rolled back."""
    network = Network(address := await _databases.create("dispatcher"))
    update = {
        "chain": Chain(chain_id=DOMAIN.chain_id, registry=DOMAIN.registry),
        "verification": Verification(audit_share=0, suspend_after=1),
    }
    network.settings = network.settings.model_copy(update=update)
    await network.start()
    await network.calibrate()
    await network.project()
    names = await _busy_day(network)
    for operator in network.operators:
        await operator.close()
    await network.stop()
    engine = create_engine(
        database_url(address), pool_min=1, pool_max=2, connect_timeout=20, acquire_timeout=20
    )
    async with engine.begin() as connection:
        await _without_constraints(connection)
        anchor = "insert into log_anchors select size, root, 7, '0x00' from log_head"
        await connection.execute(text(anchor))
    world = World(engine, network.signer, names)
    await world.read()
    yield world
    await engine.dispose()
    await _databases.drop(address)


async def _busy_day(network: Network) -> dict[str, Any]:
    """Jobs of every kind: an untagged one, a tagged one that is found out and appealed for, one under the tag, and a cancelled one."""
    operators = [await network.operator() for _ in range(6)]
    for operator in operators:
        operator.cheats_from = CHEATS_FROM
    first = await network.submit(user="device")
    await network.finished(first)
    job = await network.submit(user="device", tag="suspicion")
    await network.closed(job, 2)
    await network.closed(first, 3)
    [executor] = [row for row in await network.results(job) if row["signs"] == "answer"]
    cheat = next(operator for operator in operators if operator.signer.address == executor["operator"])
    said = {"operator": cheat.signer.address, "result": executor["id"], "reason": "I did run it"}
    signature = signed_challenge(cheat.signer, executor["id"], "I did run it", "appeal", DOMAIN)
    opened = await network.post("/api/operator/appeal", said | {"signature": signature})
    assert opened.status_code == 200, opened.text
    await network.closed(job, 3)
    cheat.bend_result = lambda result: result | {"result": "something else"}
    await cheat.send_result(next(dispatch for dispatch in cheat.dispatched if dispatch.job_id == job))
    await cheat.wait(lambda: any(reply["code"] == 400 for reply in cheat.replies))
    for operator in operators:
        operator.answer = None
    waiting = await network.submit(user="somebody else")
    async with asyncio.timeout(10):
        while (await network.detail(waiting))["status"] == "created":
            await asyncio.sleep(0.02)
    bearer = {"Authorization": f"Bearer {network.token}"}
    await network.post("/api/job/cancel", {"job_id": waiting}, headers=bearer)
    while await network.dispatcher.sequencer.step():
        pass
    own, again, appeal = [int(look["verify_id"]) for look in (await network.detail(job))["rounds"]]
    return {
        "job": job,
        "own": own,
        "again": again,
        "appeal": appeal,
        "cheat": cheat.signer.address,
        "first": first,
    }


async def _without_constraints(connection: AsyncConnection) -> None:
    """Whoever owns the database can drop what holds rows together."""
    query = "select conrelid::regclass::text, conname from pg_constraint where contype in ('f', 'c', 'u') and connamespace = 'public'::regnamespace"
    for table, name in (await connection.execute(text(query))).all():
        await connection.execute(text(f'alter table {table} drop constraint "{name}"'))


def test_every_table_and_column_is_either_found_or_says_why_not() -> None:
    changed = {(table, column) for table, column, _, _ in CHANGES}
    unshown = {(table, column) for table, columns in UNSHOWN.items() for column in columns}
    assert not changed & unshown
    every = {(table.name, column.name) for table in Base.metadata.sorted_tables for column in table.columns}
    without = {(table, column) for table, column in every if table in OF_NO_EVIDENCE}
    assert changed | unshown == every - without
    assert set(OF_NO_EVIDENCE) | {table for table, _ in changed} == set(Base.metadata.tables)


@of_one_world
async def test_every_change_of_a_row_is_found(world: World) -> None:
    assert world.honest == {"AOS-MATCH-1"}  # the cheats' answers, rightly
    missed = []
    for table, column, becomes, finds in CHANGES:
        statement = f"update {table} set {column} = {becomes.format(column)} where {ROWS[table]}"
        if table == "log_anchors":
            statement = statement.replace(column, f'"{column}"')
        found = await world.after(statement, finds)
        if finds not in found:
            missed.append((table, column, finds, found))
    assert missed == [], missed


# What is found when a row is deleted, by table; and when one is added. An entry, a tile or a head that is added or lost at the end of the
# log stops the sequencer (test_log); one that is added elsewhere needs another's place.
DELETED = {
    "jobs": "no evidence", "rounds": "AOS-LOG-1", "assignments": "AOS-LOG-1", "results": "AOS-LOG-1", "scores": "AOS-LOG-1",
    "challenges": "AOS-LOG-1", "rejections": "AOS-LOG-1", "registries": "AOS-LOG-1", "calibrations": "AOS-VERDICT-1",
    "operators": "log state", "models": "log state", "frauds": "log state", "pools": "log state", "log_entries": "AOS-LOG-1",
    "log_tiles": "no proofs",
}  # fmt: skip
_COPY = "insert into {0} ({1}) select {2} from {0} where {3}"
ADDED = {
    "rounds": ({"id": "id + 1000", "tag": "'malicious'"}, "AOS-LOG-1"),
    "assignments": ({"operator": f"'{NOBODY}'", "rank": "rank + 50"}, "AOS-LOG-1"),
    "results": ({"id": "id || ' again'"}, "AOS-LOG-1"),
    "scores": ({"id": "id + 1000", "operator": f"'{NOBODY}'"}, "AOS-LOG-1"),
    "rejections": ({"id": "id + 1000"}, "AOS-LOG-1"),
    "operators": ({"address": f"'{NOBODY}'", "number": "number + 50"}, "log state"),
    "models": ({"name": "'another.gguf'"}, "log state"),
    "frauds": ({"id": "id + 1000"}, "log state"),
    "pools": ({"model_sha256": "repeat('7', 64)"}, "log state"),
}


@of_one_world
async def test_every_row_that_is_deleted_or_added_is_found(world: World) -> None:
    missed = []
    for table, finds in DELETED.items():
        found = await world.after(f"delete from {table} where {ROWS[table]}", finds)
        if finds not in found:
            missed.append(("deleted", table, finds, found))
    for table, (changes, finds) in ADDED.items():
        names = [column.name for column in Base.metadata.tables[table].columns]
        values = ", ".join(changes.get(name, f'"{name}"') for name in names)
        columns = ", ".join(f'"{name}"' for name in names)
        found = await world.after(_COPY.format(table, columns, values, ROWS[table]), finds)
        if finds not in found:
            missed.append(("added", table, finds, found))
    assert missed == [], missed
    assert DELETED.keys() | {"log_head", "log_anchors"} == ROWS.keys()


@of_one_world
async def test_a_job_that_was_never_logged_has_no_evidence_that_passes(world: World) -> None:
    """A whole job is added: its copy under another id and number, with a round."""
    columns = [column.name for column in Base.metadata.tables["jobs"].columns]
    changes = {"id": "repeat('f', 64)", "sequence": "sequence + 1000", "idempotency_key": "null"}
    values = ", ".join(changes.get(name, name) for name in columns)
    async with world.engine.connect() as connection:
        insert = _COPY.format("jobs", ", ".join(columns), values, "id = :job")
        await connection.execute(text(insert), {"job": world.names["job"]})
        moved = "update rounds set job_id = repeat('f', 64) where id = :own"
        await connection.execute(text(moved), {"own": world.names["own"]})
        inside: Any = Inside(connection)
        document = await EvidenceDesk(inside, world.signer, DOMAIN, CONTRACT).document("f" * 64)
        checks = check_evidence(document, dispatcher=world.signer.address, job_id="f" * 64)
    failed = {check.id for check in checks if check.status == "FAIL"}
    assert {"AOS-JOB-1", "AOS-LOG-1"} <= failed


@of_one_world
async def test_a_log_that_is_written_anew_with_the_dispatchers_own_key_is_a_fork(world: World) -> None:
    """Row, entry, tree and head fit each other again, so the evidence passes; whoever kept a head, or the chain, finds it."""
    async with world.engine.connect() as connection:
        kept = await log_reader.read_head(connection)
        assert kept is not None
        rejection = "update rejections set reason = 'it was late' where job_id = :job"
        await connection.execute(text(rejection), {"job": world.names["job"]})
        await _rewrite(connection, world)
        forged = await log_reader.read_head(connection)
        assert forged is not None
        assert await world.found(connection) == {"AOS-ANCHOR-1"}
        await connection.execute(text("delete from log_anchors"))
        assert await world.found(connection) == set()
        proof = await log_reader.consistency(connection, kept.size - 1, forged.size)
    assert (kept.size, kept.root != forged.root) == (forged.size, True)
    with pytest.raises(InvalidEvidence, match="is not the beginning"):
        check_growth((kept.size, kept.root), (forged.size, forged.root), [])
    older = await _root_of_first(world, kept.size - 1)
    with pytest.raises(InvalidEvidence, match="is not the beginning"):
        check_growth((kept.size - 1, older), (forged.size, forged.root), proof)


async def _rewrite(connection: AsyncConnection, world: World) -> None:
    """Log everything about the tagged job as its rows now have it, work out the tree, and sign its head."""
    inside: Any = Inside(connection)
    document = await EvidenceDesk(inside, world.signer, DOMAIN, CONTRACT).document(world.names["job"])
    entries = await log_reader.entries(connection, 0, 100_000)
    [forged] = [entry for entry in job_entries(document) if '"kind":"rejection"' in entry]
    place = next(
        n for n, entry in enumerate(entries) if '"kind":"rejection"' in entry and world.names["job"] in entry
    )
    entries[place] = forged
    await connection.execute(
        text("update log_entries set entry = :entry where index = :place"), {"entry": forged, "place": place}
    )
    for (level, index), hashes in log_tree.grow(0, {}, (entry.encode() for entry in entries)).items():
        update = text("update log_tiles set hashes = :hashes where level = :level and index = :index")
        await connection.execute(update, {"level": level, "index": index, "hashes": hashes})
    head = signed_head(
        world.signer, DOMAIN, len(entries), merkle.root([entry.encode() for entry in entries]), 1
    )
    await connection.execute(text("update log_head set root = :root, timestamp = 1, signature = :signature"),
                             {"root": head.root, "signature": head.signature})  # fmt: skip


async def _root_of_first(world: World, size: int) -> str:
    async with world.engine.connect() as connection:
        entries = await log_reader.entries(connection, 0, size)
    return merkle.root([entry.encode() for entry in entries]).hex()


async def test_a_number_that_the_counter_skips_is_missing_in_the_log(network: Any) -> None:
    await network.submit()
    await _count(network, "value + 5")
    await network.submit()
    while await network.dispatcher.sequencer.step():
        pass
    entries = (await network.client.get("/api/log/entries")).json()["result"]["entries"]
    with pytest.raises(InvalidEvidence, match="job 7 of the log does not follow job 1"):
        _fold(entries)


async def test_a_number_that_the_counter_gives_again_is_not_taken(network: Any) -> None:
    await network.submit()
    await _count(network, "value - 1")
    answer = await network.client.post("/api/job/submit", json=network.body())
    assert answer.status_code == 500


async def _count(network: Any, value: str) -> None:
    async with network.dispatcher.database.begin() as connection:
        await connection.execute(text(f"update counters set value = {value}"))


def _fold(entries: list[str]) -> LogState:
    state = LogState()
    for index, entry in enumerate(entries):
        state.take(index, entry)
    return state


@pytest.mark.parametrize(
    "change",
    [
        "delete from user_tags",
        "update user_tags set remaining = 1",
        "update user_tags set tag = 'malicious'",
        "update user_tags set cause = (select id from jobs where sequence = 1)",
        "insert into user_tags select project_id, 'quiet device', tag, cause, remaining from user_tags",
    ],
)
async def test_a_users_tag_that_was_changed_is_found_by_the_rule_of_tags(network: Any, change: str) -> None:
    users: dict[str, list[str]] = {"device": [], "quiet device": []}
    for tag in ("", "suspicion"):
        users["device"].append(await network.submit(user="device", tag=tag))
    users["quiet device"].append(await network.submit(user="quiet device"))
    await _follow_the_rule(network, users)
    async with network.dispatcher.database.begin() as connection:
        await connection.execute(text(change))
    for user, jobs in users.items():
        jobs += [await network.submit(user=user) for _ in range(2)]
    with pytest.raises(InvalidEvidence, match="the jobs of its user before it give it"):
        await _follow_the_rule(network, users)


async def _follow_the_rule(network: Any, users: dict[str, list[str]]) -> None:
    for jobs in users.values():
        check_placements([await network.evidence(job_id) for job_id in jobs])


@pytest.mark.parametrize(
    "change",
    [
        "delete from log_pending where id = (select min(id) from log_pending where job_id is not null)",
        "update log_pending set entry = replace(entry, 'kind', 'kinds')",
        "update log_pending set job_id = null",
        "insert into log_pending (job_id, entry) select job_id, entry from log_pending",
    ],
)
async def test_an_event_that_is_changed_before_it_is_logged_is_found(network: Any, change: str) -> None:
    await network.dispatcher.sequencer._busy.acquire()
    job_id = await network.submit()
    async with network.dispatcher.database.begin() as connection:
        await connection.execute(text(change))
    network.dispatcher.sequencer._busy.release()
    checks = {check.id: check.status for check in await network.checks(job_id)}
    assert (checks["AOS-HEAD-1"], checks["AOS-LOG-1"]) == ("PASS", "FAIL")
