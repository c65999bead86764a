"""The transparency log of a running dispatcher: gapless, nothing lost, nothing twice, whoever writes and whatever is killed."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import event, text

from aos_dispatcher.database import Database
from aos_dispatcher.errors import LogDamaged
from aos_dispatcher.log_pending import record
from aos_dispatcher.log_sequencer import Sequencer
from aos_protocol import merkle
from aos_protocol.evidence import check_evidence
from aos_protocol.identity import Signer
from aos_protocol.log import LogEntry, TreeHead, check_entry, check_growth, check_head
from aos_protocol.log_entries import operator_entry
from aos_protocol.log_state import LogState
from aos_protocol.typed_data import Domain
from aos_service.database import create_engine, database_url
from support.disputes import DOMAIN, gone

SIGNER = Signer(b"\x21" * 32)
ADDRESS = "0x" + "0" * 40


class Desk:
    """Several dispatcher processes over one database, as far as the log goes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.databases = [self._open(), self._open()]
        self.sequencers = [Sequencer(database, SIGNER, Domain(0, ADDRESS)) for database in self.databases]

    def _open(self) -> Database:
        limits = {"pool_min": 1, "pool_max": 8, "connect_timeout": 20, "acquire_timeout": 20}
        return Database(create_engine(database_url(self._url), **limits))

    async def close(self) -> None:
        for database in self.databases:
            await database.close()

    async def happen(self, *entries: str, process: int = 0) -> None:
        """Commit a transaction that brings these events."""
        async with self.databases[process].begin() as connection:
            for entry in entries:
                record(connection, entry)

    async def rows(self, query: str, **values: Any) -> list[Any]:
        async with self.databases[0].begin() as connection:
            ran = await connection.execute(text(query), values)
            return list(ran.all()) if ran.returns_rows else []

    async def logged(self) -> list[str]:
        """All entries, whose places are 0, 1, 2 and so on, under a head that is right."""
        rows = await self.rows("select index, entry from log_entries order by index")
        assert [place for place, _ in rows] == list(range(len(rows)))
        entries = [entry for _, entry in rows]
        [head] = await self.rows("select * from log_head")
        head = TreeHead(**head._asdict())
        check_head(SIGNER.address, DOMAIN, head)
        assert (head.size, head.root) == (len(rows), merkle.root([entry.encode() for entry in entries]).hex())
        return entries


@pytest_asyncio.fixture
async def desk(new_database: Any) -> AsyncIterator[Desk]:
    opened = Desk(await new_database("dispatcher"))
    yield opened
    await opened.close()


async def test_the_empty_log_has_a_signed_head(desk: Desk) -> None:
    assert await desk.sequencers[0].step() == 0
    assert await desk.logged() == []
    before = await desk.rows("select * from log_head")
    assert await desk.sequencers[1].step() == 0
    assert await desk.rows("select * from log_head") == before


@pytest.mark.parametrize("sizes", [[1] * 5, [255, 1, 1], [256, 256], [300, 700, 1], [65_536 - 3, 5]])
async def test_the_tree_grows_over_the_edges_of_tiles(desk: Desk, sizes: list[int]) -> None:
    wanted: list[str] = []
    for size in sizes:
        fresh = [f"event {len(wanted) + n}" for n in range(size)]
        wanted += fresh
        await desk.happen(*fresh)
        while await desk.sequencers[0].step():
            pass
    assert await desk.logged() == wanted


async def test_two_sequencers_at_once_lose_nothing_and_log_nothing_twice(desk: Desk) -> None:
    """Both dispatchers write, in transactions of one to three events, while both sequence."""
    wanted = [[f"{process} {n} {k}" for k in range(1 + n % 3)] for process in (0, 1) for n in range(60)]
    done = asyncio.Event()

    async def sequence(sequencer: Sequencer) -> None:
        while not done.is_set():
            await sequencer.step()
            await asyncio.sleep(0)

    sequencing = [asyncio.create_task(sequence(sequencer)) for sequencer in desk.sequencers]
    await asyncio.gather(*(desk.happen(*events, process=int(events[0][0])) for events in wanted))
    done.set()
    await asyncio.gather(*sequencing)
    await desk.sequencers[0].step()
    logged = await desk.logged()
    assert sorted(logged) == sorted(event for events in wanted for event in events)
    for events in wanted:
        places = [logged.index(event) for event in events]
        assert places == sorted(places)
    assert await desk.rows("select * from log_pending") == []


async def test_what_a_transaction_takes_back_is_not_logged(desk: Desk) -> None:
    async def fail() -> None:
        async with desk.databases[0].begin() as connection:
            record(connection, "it never happened")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    await desk.happen("it happened")
    await desk.sequencers[0].step()
    assert await desk.logged() == ["it happened"]


async def test_an_event_whose_transaction_commits_late_is_late_and_not_lost(desk: Desk) -> None:
    """Its id is lower than that of an event which was logged before it became visible."""
    early, late = await desk.databases[0]._engine.connect(), desk.databases[1]
    await early.execute(text("insert into log_pending (entry) values ('began first, committed last')"))
    async with late.begin() as connection:
        record(connection, "began last, committed first")
    assert await desk.sequencers[0].step() == 1
    await early.commit()
    await early.close()
    assert await desk.sequencers[1].step() == 1
    assert await desk.logged() == ["began last, committed first", "began first, committed last"]


async def test_of_transactions_that_wait_for_each_other_the_later_one_is_logged_later(desk: Desk) -> None:
    """Events get their order when their transaction has all its locks, however early it told of them."""
    await desk.rows("insert into counters (name, value) values ('lock', 0)")
    first_has_it, second_waits = asyncio.Event(), asyncio.Event()
    lock = text("update counters set value = value + 1 where name = 'lock'")

    async def first() -> None:
        async with desk.databases[0].begin() as connection:
            await connection.execute(lock)
            first_has_it.set()
            await second_waits.wait()
            record(connection, "first")

    async def second() -> None:
        await first_has_it.wait()
        async with desk.databases[1].begin() as connection:
            record(connection, "second")
            second_waits.set()
            await connection.execute(lock)

    await asyncio.gather(first(), second())
    await desk.sequencers[0].step()
    assert await desk.logged() == ["first", "second"]


_STATEMENTS = ("delete from log_pending", "insert into log_entries", "insert into log_tiles", "log_head")


@pytest.mark.parametrize("statement", _STATEMENTS)
async def test_a_kill_in_the_middle_of_sequencing_changes_nothing(desk: Desk, statement: str) -> None:
    """The connection is cut when the sequencer comes to a statement; another process then logs everything, once."""
    await desk.happen("before")
    await desk.sequencers[1].step()
    await desk.happen("one", "two")
    engine = desk.databases[0]._engine

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def cut(connection: Any, cursor: Any, said: str, *_: Any) -> None:
        if statement in said.lower() and "select" not in said.lower()[:6]:
            raise ConnectionResetError("killed")

    with pytest.raises(Exception, match=r"killed|does not answer"):
        await desk.sequencers[0].step()
    event.remove(engine.sync_engine, "before_cursor_execute", cut)
    assert await desk.logged() == ["before"]
    assert await desk.sequencers[1].step() == 2
    assert await desk.logged() == ["before", "one", "two"]


async def test_a_process_that_dies_between_an_event_and_its_place_leaves_it_to_the_next(network: Any) -> None:
    """The dispatcher stops before it sequences; after a restart the job's evidence has everything, once."""
    await network.dispatcher.sequencer._busy.acquire()
    await network.operator()
    job_id = await network.submit()
    await network.finished(job_id)
    left = text("select count(*) from log_pending where job_id = :job")
    async with network.dispatcher.database.connect() as connection:
        assert (await connection.execute(left, {"job": job_id})).scalar_one() == 5
    await network.stop()
    await network.start()
    assert await _log_checks(network, await network.evidence(job_id)) == ["PASS", "PASS"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("update log_tiles set hashes = set_byte(hashes, 3, 255 - get_byte(hashes, 3))", "not the root"),
        ("delete from log_tiles", "damaged"),
        ("update log_tiles set hashes = substring(hashes from 1 for 32)", "damaged"),
        ("update log_tiles set hashes = hashes || hashes", "damaged"),
        ("update log_head set root = repeat('0', 64)", "not the root"),
        ("update log_head set size = size - 1", "its head is over 2"),
        ("delete from log_head", "its head is over 0"),
        ("delete from log_entries where index = 2", "it has 2 entries"),
        ("insert into log_entries (index, entry) values (3, 'invented')", "it has 4 entries"),
    ],
)
async def test_a_log_that_was_tampered_with_is_not_continued(desk: Desk, change: str, says: str) -> None:
    await desk.happen("one", "two", "three")
    await desk.sequencers[0].step()
    await desk.rows(change)
    await desk.happen("four")
    with pytest.raises(LogDamaged, match=says):
        await desk.sequencers[0].step()
    assert [entry for (entry,) in await desk.rows("select entry from log_pending")] == ["four"]


async def test_anybody_follows_the_log_over_http(network: Any) -> None:
    """Heads, entries, inclusion, growth: all that a monitor needs, and what the entries come to is what is shown."""
    await _settle(network)
    first = await _get(network, "/api/log/head")
    operator = await network.operator()
    job_id = await network.submit()
    await network.finished(job_id)
    await network.evidence(job_id)
    second = await _get(network, "/api/log/head")
    assert (second["dispatcher"], second["size"] > first["size"]) == (network.signer.address, True)
    assert second["domain"] == {"chain_id": DOMAIN.chain_id, "registry": DOMAIN.registry}
    for head in (first, second):
        check_head(network.signer.address, DOMAIN, _head(head))
    grown = await _get(network, "/api/log/consistency", first=first["size"], second=second["size"])
    check_growth((first["size"], first["root"]), (second["size"], second["root"]), grown["proof"])
    entries = (await _get(network, "/api/log/entries", start=0, count=1000))["entries"]
    assert merkle.root([entry.encode() for entry in entries[: second["size"]]]).hex() == second["root"]
    state = LogState()
    for index, entry in enumerate(entries):
        state.take(index, entry)
        proven = await _get(network, "/api/log/proof", index=index)
        assert proven["text"] == entry
        size = proven.pop("size")
        if size == second["size"]:
            check_entry(LogEntry(**proven), _head(second))
    kinds = [json.loads(entry)["kind"] for entry in entries if job_id in entry]
    assert kinds == ["job", "round", "tickets", "result", "verdict"]
    assert (state.sequence, state.operators) == (1, {operator.signer.address: 2})
    assert await _differences(network, state) == []
    old = await _get(network, "/api/log/proof", index=0, size=first["size"])
    check_entry(LogEntry(index=0, text=old["text"], proof=old["proof"]), _head(first))
    assert await _get(network, "/api/log/anchors") == []


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/api/log/proof?index=99999", 404, "has no entry 99999"),
        ("/api/log/proof?index=0&size=99999", 404, "not 99999, yet"),
        ("/api/log/proof?index=1&size=1", 404, "the log of 1 entries has no entry 1"),
        ("/api/log/proof?index=-1", 422, "index"),
        ("/api/log/consistency?first=2&second=1", 404, "is not the beginning"),
        ("/api/log/consistency?first=1&second=99999", 404, "not 99999, yet"),
        ("/api/log/consistency?first=0&second=1", 422, "first"),
        ("/api/log/entries?count=1001", 422, "count"),
    ],
)
async def test_what_the_log_cannot_tell_says_why(network: Any, path: str, status: int, says: str) -> None:
    await network.operator(connect=False)
    await network.operator(connect=False)
    await _settle(network)
    answer = await network.client.get(path)
    assert (answer.status_code, says in answer.json()["message"]) == (status, True), answer.text


async def test_evidence_in_the_middle_of_a_job_has_a_log_that_fits(network: Any) -> None:
    """Fetched again and again while a tagged job is drawn, executed, scored and challenged, it never contradicts itself."""
    operators = [await network.operator() for _ in range(4)]
    for operator in operators:
        operator.answer = None
    job_id = await network.submit(tag="suspicion")
    executor = await _dispatched(operators, job_id)
    sizes = {len(await _fitting(network, job_id))}
    executor.answer = "late"
    await executor.send_result(executor.dispatched[0])
    async with asyncio.timeout(30):
        while "completed" not in (entries := await _fitting(network, job_id))[-1]:
            sizes.add(len(entries))
    assert min(sizes) == 3 < len(entries)


async def test_evidence_before_any_draw_has_a_log_that_fits(network: Any) -> None:
    operator = await network.operator()
    await operator.close()
    await gone(network)
    job_id = await network.submit()
    assert len(await _fitting(network, job_id)) == 2


async def test_cancelled_jobs_and_what_was_refused_are_logged(network: Any) -> None:
    operator = await network.operator()
    operator.answer = None
    job_id = await network.submit()
    await operator.wait(lambda: bool(operator.dispatched))
    await operator.send(operator.request("job_result", {"job_id": job_id, "clock": operator.tick()}).text)
    await operator.wait(lambda: any(reply["code"] == 400 for reply in operator.replies))
    bearer = {"Authorization": f"Bearer {network.token}"}
    await network.post("/api/job/cancel", {"job_id": job_id}, headers=bearer)
    entries = [json.loads(entry) for entry in await _fitting(network, job_id)]
    kinds = [entry["kind"] for entry in entries]
    assert (kinds[:3], sorted(kinds[3:])) == (["job", "round", "tickets"], ["rejection", "verdict"])


async def test_a_private_projects_log_holds_ids_and_digests_only(network: Any) -> None:
    token = await network.project("quiet", private=True)
    operator = await network.operator()
    job_id = await network.submit(**{"from": "quiet", "user": "somebody's device"})
    bearer = {"Authorization": f"Bearer {token}"}
    path = f"/api/job/evidence/{job_id}"
    assert (await network.client.get(path)).status_code == 401
    async with asyncio.timeout(30):
        while (document := (await network.client.get(path, headers=bearer)).json())["job"][
            "status"
        ] != "completed":
            await asyncio.sleep(0.02)
    assert await _log_checks(network, document) == ["PASS", "PASS"]
    entries = "\n".join((await _get(network, "/api/log/entries"))["entries"])
    assert (job_id in entries, operator.signer.address in entries) == (True, True)
    for word in ("What is AI?", "quiet", "somebody's device", str(operator.answer)):
        assert word not in entries


async def _dispatched(operators: list[Any], job_id: str) -> Any:
    """Wait for the first operator that is to execute this job."""
    async with asyncio.timeout(30):
        while True:
            for operator in operators:
                if any(dispatch.job_id == job_id for dispatch in operator.dispatched):
                    return operator
            await asyncio.sleep(0.01)


async def _fitting(network: Any, job_id: str) -> list[str]:
    """The log's entries about a job, whose evidence they fit."""
    document = await network.evidence(job_id)
    assert await _log_checks(network, document) == ["PASS", "PASS"]
    return [entry["text"] for entry in document["log"]["entries"]]


async def _log_checks(network: Any, document: dict[str, Any]) -> list[str]:
    checks = check_evidence(document, dispatcher=network.signer.address, job_id=document["job"]["job_id"])
    return [check.status for check in checks if check.id in {"AOS-HEAD-1", "AOS-LOG-1"}]


async def test_what_is_older_than_the_log_is_its_beginning(network: Any) -> None:
    """A dispatcher of before the log, with jobs done and under way, is migrated; the number of who was found out waits already."""
    await network.restart(suspend_after=1)
    operators = [await network.operator() for _ in range(4)]
    for operator in operators:
        operator.cheats_from = 3
    found_out = await network.submit(tag="suspicion")
    await network.closed(found_out, 2)
    for operator in operators:
        operator.answer = None
    under_way = await network.submit(user="somebody else")
    await _dispatched(operators, under_way)
    network.patient()  # the job stays under way, so that the log does not grow while it is looked at
    for operator in operators:
        await operator.close()
    await network.stop()
    await _forget_the_log(network)
    await network.start()
    later = await network.operator(connect=False)
    await _settle(network)
    for job_id in (found_out, under_way):
        assert await _log_checks(network, await network.evidence(job_id)) == ["PASS", "PASS"]
    state = LogState()
    for index, entry in enumerate((await _get(network, "/api/log/entries"))["entries"]):
        state.take(index, entry)
    assert (state.sequence, len(state.frauds), later.signer.address in state.operators) == (2, 1, True)
    assert await _differences(network, state) == []
    await network.restart()
    assert await _differences(network, state) == []


async def _forget_the_log(network: Any) -> None:
    """Undo the log's migration and make it again, as if there had never been a log."""
    database = Desk(network.settings.database.url.get_secret_value())
    for table in ("log_head", "log_tiles", "log_entries", "log_pending"):
        await database.rows(f"delete from {table}")
    await database.rows("insert into counters (name, value) values ('unlogged', 1)")
    waits = "insert into log_pending (job_id, entry) values (null, :entry)"
    [(address, number)] = await database.rows(
        "select address, number from operators join frauds on operator = address"
    )
    await database.rows(waits, entry=operator_entry(address, number))
    await database.close()


async def _get(network: Any, path: str, **parameters: Any) -> Any:
    answer = await network.client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


async def _settle(network: Any) -> None:
    while await network.dispatcher.sequencer.step():
        pass


async def _differences(network: Any, state: LogState) -> list[str]:
    operators = (await network.client.get("/api/operator/list")).json()
    models = (await network.client.get("/api/model/list")).json()
    assert operators["log_size"] == models["log_size"] == state.size
    found = state.differences_of_operators(operators["result"]) + state.differences_of_models(
        models["result"]
    )
    for row in operators["result"]:
        shown = await _get(network, f"/api/operator/standing/{row['operator']}")
        found += state.differences_of_standing(shown)
    return found


def _head(shown: dict[str, Any]) -> TreeHead:
    return TreeHead(**{name: shown[name] for name in TreeHead.model_fields})
