"""The monitor's looks at a dispatcher that shows stories: honest ones pass, and every way to cheat is found by its check."""

import copy
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from aos_auditor import standing_look
from aos_auditor.dispatcher import DispatcherApi
from aos_auditor.documents import Contracts, Known
from aos_auditor.errors import BadAnswer, NotAuditable, Refused, Unreachable
from aos_auditor.following import Follower
from aos_auditor.memory import Memory, load, save
from aos_auditor.monitor import look
from aos_protocol.evidence import Check
from aos_protocol.identity import Signer
from aos_protocol.log_entries import operator_entry, standing_entry
from aos_protocol.typed_data import Domain
from support.evidence import CHAIN, CHEATING, DISPATCHER, DOMAIN, Story
from support.logged_dispatcher import LoggedDispatcher, standing


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing_look, "_PAUSE_S", 0.0)


@pytest.fixture
def shown() -> LoggedDispatcher:
    dispatcher = LoggedDispatcher()
    dispatcher.job()
    return dispatcher


def follower(shown: LoggedDispatcher, folder: Path, memory: Memory | None = None, **known: Any) -> Follower:
    api = DispatcherApi("http://shown", transport=httpx.MockTransport(shown.handle))
    return Follower(api, memory or Memory(), Known(**known), folder)


def failing(checks: list[Check]) -> dict[str, str]:
    return {check.id: check.what for check in checks if check.status == "FAIL"}


async def test_everything_of_an_honest_dispatcher_passes(shown: LoggedDispatcher, tmp_path: Path) -> None:
    shown.job(Story.own, Story.challenge)
    following = follower(shown, tmp_path)
    checks = await look(following)
    assert {check.status for check in checks} == {"PASS"}
    assert [check.id for check in checks] == [
        "AOS-HEAD-1", "AOS-FORK-1", "AOS-LOG-2", "AOS-LOG-3",
        *["AOS-EVIDENCE-1", "AOS-ENTRIES-1", "AOS-CLOCK-3"] * 2,
        "AOS-TAG-1", "AOS-STANDING-1",
    ]  # fmt: skip
    head = following.memory.head
    assert head is not None
    assert head.size == len(shown.entries) == following.memory.frontier.size


async def test_only_what_is_new_is_asked_for(shown: LoggedDispatcher, tmp_path: Path) -> None:
    following = follower(shown, tmp_path)
    await look(following)
    shown.asked.clear()
    assert failing(await look(following)) == {}
    assert "/api/log/entries" not in shown.asked
    job = shown.job()
    assert failing(await look(following)) == {}
    evidence = [path for path in shown.asked if "evidence" in path]
    assert evidence == [f"/api/job/evidence/{job.job_id}"]


async def test_a_job_that_is_looked_at_again_is_audited_again(
    shown: LoggedDispatcher, tmp_path: Path
) -> None:
    story = shown.job()
    following = follower(shown, tmp_path)
    await look(following)
    story.challenge()
    shown.publish(story)
    checks = await look(following)
    assert [check.status for check in checks if check.id == "AOS-EVIDENCE-1"] == ["PASS"]
    assert failing(checks) == {}


async def test_a_long_log_is_read_in_parts(tmp_path: Path) -> None:
    shown = LoggedDispatcher(operators=2)
    shown.entries += [operator_entry(Signer(n.to_bytes(32, "big")).address, n) for n in range(1000, 3100)]
    shown.operators += [
        {"operator": Signer(n.to_bytes(32, "big")).address, "number": n} for n in range(1000, 3100)
    ]
    shown.instead["operator/standing"] = lambda _: standing(shown.crew[0])
    following = follower(shown, tmp_path)
    assert failing(await following.advance()) == {}
    assert shown.asked.count("/api/log/entries") == 3


# What a dispatcher may do to its log


async def test_a_rewritten_entry_is_a_fork(shown: LoggedDispatcher, tmp_path: Path) -> None:
    following = follower(shown, tmp_path)
    await look(following)
    kept = following.memory.head
    shown.entries[2] = shown.entries[2].replace('"number":4', '"number":40')
    shown.job()
    failed = failing(await look(following))
    assert failed.keys() == {"AOS-FORK-1"}
    assert "does not continue" in failed["AOS-FORK-1"]
    assert following.memory.head == kept, "the monitor stays with what it verified"
    [proof] = tmp_path.glob("fork-*.json")
    written = json.loads(proof.read_text())
    assert [head["size"] for head in written["heads"]] == [kept and kept.size, len(shown.entries)]
    assert written["dispatcher"] == DISPATCHER.address
    assert json.dumps(written["heads"][1]) in failed["AOS-FORK-1"]


async def test_two_heads_of_one_size_are_a_fork(shown: LoggedDispatcher, tmp_path: Path) -> None:
    following = follower(shown, tmp_path)
    await look(following)
    shown.entries[-1] = shown.entries[-1].replace("completed", "failed")
    failed = failing(await look(following))
    assert failed.keys() == {"AOS-FORK-1"}


async def test_a_log_that_was_cut_is_a_rollback(shown: LoggedDispatcher, tmp_path: Path) -> None:
    following = follower(shown, tmp_path)
    await look(following)
    del shown.entries[-2:]
    failed = failing(await look(following))
    assert failed.keys() == {"AOS-ROLLBACK-1"}
    assert len(list(tmp_path.glob("fork-*.json"))) == 1


async def test_entries_that_were_not_signed_are_found(shown: LoggedDispatcher, tmp_path: Path) -> None:
    """The heads are honest and continue each other; what is served as their entries is not."""
    following = follower(shown, tmp_path)
    await look(following)
    shown.job()
    lie = [entry.replace("completed", "failed") for entry in shown.entries]
    shown.instead["log/entries"] = lambda said: {
        "start": int(said["start"]), "entries": lie[int(said["start"]) :][: int(said["count"])]
    }  # fmt: skip
    assert failing(await look(following)).keys() == {"AOS-LOG-2"}
    assert list(tmp_path.glob("fork-*.json")) == []


async def test_a_first_head_without_its_entries_is_found(shown: LoggedDispatcher, tmp_path: Path) -> None:
    shown.instead["log/entries"] = lambda said: {
        "start": int(said["start"]), "entries": ["{}"] * len(shown.entries)
    }  # fmt: skip
    assert failing(await look(follower(shown, tmp_path))).keys() == {"AOS-LOG-2"}


async def test_entries_that_are_kept_back_are_no_look_at_all(shown: LoggedDispatcher, tmp_path: Path) -> None:
    shown.instead["log/entries"] = lambda said: {"start": int(said["start"]), "entries": []}
    with pytest.raises(BadAnswer, match="serves none from 0 on"):
        await look(follower(shown, tmp_path))


async def test_a_head_that_somebody_else_signed_is_found(shown: LoggedDispatcher, tmp_path: Path) -> None:
    head = shown.head() | {"signature": shown.head(shown.entries[:-1])["signature"]}
    shown.instead["log/head"] = lambda _: head | {"dispatcher": DISPATCHER.address}
    assert failing(await look(follower(shown, tmp_path))).keys() == {"AOS-HEAD-1"}


@pytest.mark.parametrize("lost", ["job", "operator"])
async def test_a_gap_is_found_once(shown: LoggedDispatcher, tmp_path: Path, lost: str) -> None:
    shown.job()
    gap = next(i for i, text in enumerate(shown.entries) if f'"kind":"{lost}"' in text)
    if lost == "operator":
        shown.entries.append(standing_entry(Signer(b"\x66" * 32).address, standing(shown.crew[0])))
    else:
        del shown.entries[gap]
        shown.instead["job/evidence"] = lambda _: 403
    checks = await look(follower(shown, tmp_path))
    told = [check.what for check in checks if check.id == "AOS-LOG-3" and check.status == "FAIL"]
    assert len(told) == 1
    assert ("does not follow job 0" if lost == "job" else "never got a number") in told[0]


async def test_what_no_log_can_say_is_found(shown: LoggedDispatcher, tmp_path: Path) -> None:
    shown.entries += ["no json", '{"kind":"gossip"}', '{"kind": "job"}']
    checks = await look(follower(shown, tmp_path))
    assert [check.id for check in checks if check.status == "FAIL"] == ["AOS-LOG-3"] * 3


# What it shows beside its log


async def test_evidence_that_does_not_hold_is_found(shown: LoggedDispatcher, tmp_path: Path) -> None:
    job_id = next(iter(shown.documents))
    shown.documents[job_id]["job"]["receipt"] = "0" * 130
    bent = shown.documents[job_id]
    shown.documents[job_id] = bent
    shown.instead["job/evidence"] = lambda _: bent | {"log": None}
    failed = failing(await look(follower(shown, tmp_path)))
    assert failed.keys() == {"AOS-EVIDENCE-1", "AOS-ENTRIES-1"}
    assert "AOS-RECEIPT-1" in failed["AOS-EVIDENCE-1"]


async def test_an_answer_that_does_not_match_is_told(tmp_path: Path) -> None:
    shown = LoggedDispatcher()
    shown.job(Story.own, Story.challenge, distance=CHEATING)
    failed = failing(await look(follower(shown, tmp_path)))
    assert failed.keys() == {"AOS-EVIDENCE-1"}
    assert "AOS-MATCH-1" in failed["AOS-EVIDENCE-1"]


async def test_evidence_of_another_log_is_a_fork(shown: LoggedDispatcher, tmp_path: Path) -> None:
    """It tells an auditor of one job another story than everybody else."""
    other = LoggedDispatcher()
    other.entries.insert(5, operator_entry(Signer(b"\x55" * 32).address, 99))
    story = Story(crew=[*other.crew], sequence=1)
    story.own()
    other.publish(story)
    job_id = next(iter(shown.documents))
    other.documents = dict.fromkeys([job_id], shown.documents[job_id])
    other.entries = [*other.entries[:6], *shown.entries[5:]]
    shown.instead["job/evidence"] = lambda _: other.evidence(job_id)
    failed = failing(await look(follower(shown, tmp_path)))
    assert failed.keys() == {"AOS-FORK-1"}
    assert f"the evidence of job {job_id} is of another log" in failed["AOS-FORK-1"]


@pytest.mark.parametrize("head", ["older", "newest"])
async def test_an_entry_that_evidence_leaves_out_is_found(
    shown: LoggedDispatcher, tmp_path: Path, head: str
) -> None:
    """A challenge that the dispatcher would rather not show, and its log has: neither an older head nor the newest hides it."""
    story = shown.job()
    older = copy.deepcopy(shown.evidence(story.job_id))
    story.challenge()
    shown.publish(story)
    shown.documents[story.job_id] = older
    shown.instead["job/evidence"] = lambda said: (
        older if said["subject"] == story.job_id and head == "older" else shown.evidence(said["subject"])
    )
    assert failing(await look(follower(shown, tmp_path))).keys() == {"AOS-ENTRIES-1"}


@pytest.mark.parametrize(("code", "status"), [(401, "SKIP"), (403, "SKIP"), (404, "FAIL")])
async def test_evidence_that_is_not_shown(
    shown: LoggedDispatcher, tmp_path: Path, code: int, status: str
) -> None:
    shown.instead["job/evidence"] = lambda _: code
    [audited] = [check for check in await look(follower(shown, tmp_path)) if check.id == "AOS-EVIDENCE-1"]
    assert audited.status == status


async def test_a_failing_dispatcher_leaves_its_jobs_waiting(shown: LoggedDispatcher, tmp_path: Path) -> None:
    following = follower(shown, tmp_path)
    shown.instead["job/evidence"] = lambda _: 503
    with pytest.raises(Refused):
        await look(following)
    assert following.memory.waiting == list(shown.documents)
    del shown.instead["job/evidence"]
    assert failing(await look(following)) == {}
    assert following.memory.waiting == []


async def test_what_a_broken_off_look_has_found_is_told_by_the_next(tmp_path: Path) -> None:
    """A dispatcher does not get away with it by being away for a moment, nor when the monitor is started anew meanwhile."""
    shown, state = LoggedDispatcher(), tmp_path / "state.json"
    cheated = shown.job(Story.own, Story.challenge, distance=CHEATING)
    shown.job()
    following = follower(shown, tmp_path)
    shown.instead["job/evidence"] = lambda said: (
        shown.evidence(cheated.job_id) if said["subject"] == cheated.job_id else 503
    )
    with pytest.raises(Refused):
        await look(following)
    save(state, following.memory)
    del shown.instead["job/evidence"]
    following = follower(shown, tmp_path, load(state))
    told = failing(await look(following))
    assert told.keys() == {"AOS-EVIDENCE-1"}
    assert cheated.job_id in told["AOS-EVIDENCE-1"]
    assert failing(await look(following)) == {}


async def test_a_dispatcher_that_stays_away_fills_no_memory(shown: LoggedDispatcher, tmp_path: Path) -> None:
    following = follower(shown, tmp_path)
    shown.instead["job/evidence"] = lambda _: 503
    kept = []
    for _ in range(3):
        with pytest.raises(Refused):
            await look(following)
        kept.append(len(following.memory.untold))
    assert kept[1] == kept[2] <= kept[0]


async def test_an_operator_that_says_two_things_at_once_is_found(tmp_path: Path) -> None:
    """Each job by itself is fine: only both together show it."""
    shown = LoggedDispatcher()
    shown.job()
    for actor in shown.crew:
        actor.counter = 0
    shown.job()
    failed = failing(await look(follower(shown, tmp_path)))
    assert failed.keys() == {"AOS-CLOCK-3"}
    first, second = shown.documents
    assert f"see jobs {first} and {second}" in failed["AOS-CLOCK-3"]


def following_job(cause: Story) -> Any:
    """A job's own round under the tag that an earlier job of its user brought."""
    return lambda story: story.own(cause_tag="suspicion", cause=cause.job_id)


async def test_tags_that_follow_from_each_other_pass(shown: LoggedDispatcher, tmp_path: Path) -> None:
    cause = shown.job(tag="suspicion")
    shown.job(following_job(cause))
    following = follower(shown, tmp_path)
    checks = await look(following)
    assert failing(checks) == {}
    assert [check.what[-3:] for check in checks if check.id == "AOS-TAG-1"] == [": 3"]
    assert [check.id for check in await look(following) if check.id == "AOS-TAG-1"] == []


@pytest.mark.parametrize("cheat", ["forgets", "invents"])
async def test_a_tag_that_is_forgotten_or_invented_is_found_in_a_later_look(
    shown: LoggedDispatcher, tmp_path: Path, cheat: str
) -> None:
    """Each job by itself is fine, and was dispatched as its evidence says: only the user's jobs together show it."""
    state = tmp_path / "state.json"
    cause = shown.job(tag="suspicion" if cheat == "forgets" else "")
    following = follower(shown, tmp_path)
    assert failing(await look(following)) == {}
    save(state, following.memory)
    job = shown.job(Story.own if cheat == "forgets" else following_job(cause))
    failed = failing(await look(follower(shown, tmp_path, load(state))))
    assert failed.keys() == {"AOS-TAG-1"}
    assert f"job {job.job_id} ran under " in failed["AOS-TAG-1"]


async def test_tags_that_a_hidden_job_may_have_brought_are_skipped(
    shown: LoggedDispatcher, tmp_path: Path
) -> None:
    hidden = shown.job(tag="suspicion")
    shown.job(following_job(hidden))
    shown.instead["job/evidence"] = lambda said: (
        403 if said["subject"] == hidden.job_id else shown.evidence(said["subject"])
    )
    checks = await look(follower(shown, tmp_path))
    assert failing(checks) == {}
    assert [check.status for check in checks if check.id == "AOS-TAG-1"] == ["PASS", "SKIP"]


@pytest.mark.parametrize(
    "change", ["removed", "added", "renumbered", "suspended", "remodelled", "unreadable"]
)
async def test_rows_that_the_log_does_not_tell_of_are_found(
    shown: LoggedDispatcher, tmp_path: Path, change: str
) -> None:
    first = shown.crew[0].address
    match change:
        case "removed":
            del shown.operators[0]
        case "added":
            stranger = {"operator": DISPATCHER.address, "number": 77}
            shown.operators.append(stranger)
            shown.standings[DISPATCHER.address] = shown.standings[first] | stranger
        case "renumbered":
            shown.operators[0]["number"] = 9
        case "suspended":
            shown.standings[first] |= {"standing": "suspended", "suspended_at": "2026-01-01 00:00:00"}
        case "remodelled":
            shown.models[0]["sha256"] = "0" * 64
        case "unreadable":
            del shown.standings[first]["number"]
    checks = await look(follower(shown, tmp_path))
    assert {check.id for check in checks if check.status == "FAIL"} == {"AOS-STANDING-1"}


async def test_a_row_that_is_logged_a_moment_later_is_no_lie(shown: LoggedDispatcher, tmp_path: Path) -> None:
    first = shown.crew[0].address
    suspended = {"standing": "suspended", "suspended_at": "2026-01-01 00:00:00"}
    entry = standing_entry(first, shown.standings[first] | suspended)

    def head(_: dict[str, str]) -> Any:
        if shown.asked.count("/api/log/head") == 2:
            shown.entries.append(entry)
        return shown.head() | {"dispatcher": DISPATCHER.address}

    shown.standings[first] |= suspended
    shown.instead["log/head"] = head
    assert failing(await look(follower(shown, tmp_path))) == {}


# Who it is


async def test_another_dispatcher_is_none_that_was_watched(shown: LoggedDispatcher, tmp_path: Path) -> None:
    other = Signer(b"\x55" * 32).address
    with pytest.raises(NotAuditable, match=f"is the dispatcher {DISPATCHER.address}, not {other}"):
        await look(follower(shown, tmp_path, dispatcher=other))
    following = follower(shown, tmp_path)
    await look(following)
    shown.instead["log/head"] = lambda _: shown.head() | {"dispatcher": other}
    with pytest.raises(NotAuditable, match="give another --state"):
        await look(following)


async def test_contracts_that_are_known_decide_what_signatures_are_valid_for(
    shown: LoggedDispatcher, tmp_path: Path
) -> None:
    registry = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
    known = Contracts(31337, registry, None)
    assert failing(await look(follower(shown, tmp_path, contracts=known))).keys() == {"AOS-HEAD-1"}
    with pytest.raises(NotAuditable, match="signs for registry"):
        await look(follower(shown, tmp_path, contracts=Contracts(None, registry, None)))


async def test_a_dispatcher_without_a_log_is_skipped(shown: LoggedDispatcher, tmp_path: Path) -> None:
    shown.instead["log/head"] = lambda _: 404
    checks = await look(follower(shown, tmp_path))
    assert [(check.id, check.status) for check in checks] == [("AOS-HEAD-1", "SKIP")]


@pytest.mark.parametrize("answer", [[], {"size": 3}, {"size": -1, "root": "x"}, "text"])
async def test_what_is_no_head_is_told(shown: LoggedDispatcher, tmp_path: Path, answer: Any) -> None:
    shown.instead["log/head"] = lambda _: answer
    with pytest.raises(BadAnswer):
        await look(follower(shown, tmp_path))


async def test_an_outage_is_no_finding(tmp_path: Path) -> None:
    def away(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    api = DispatcherApi("http://shown", transport=httpx.MockTransport(away))
    with pytest.raises(Unreachable, match="nothing answers at http://shown"):
        await look(Follower(api, Memory(), Known(), tmp_path))


# From one run to the next


async def test_it_goes_on_where_it_was(shown: LoggedDispatcher, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    following = follower(shown, tmp_path, load(state))
    await look(following)
    save(state, following.memory)
    again = load(state)
    assert (again.head, again.frontier.root()) == (following.memory.head, following.memory.frontier.root())
    assert (again.jobs, again.said, again.log) == (
        following.memory.jobs, following.memory.said, following.memory.log,
    )  # fmt: skip
    shown.job()
    shown.asked.clear()
    assert failing(await look(follower(shown, tmp_path, again))) == {}
    for actor in shown.crew:
        actor.counter = 0
    save(state, again)
    shown.job()
    assert failing(await look(follower(shown, tmp_path, load(state)))).keys() == {"AOS-CLOCK-3"}


@pytest.mark.parametrize("private", [False, True])
async def test_where_the_head_names_no_domain_a_job_s_evidence_does(tmp_path: Path, private: bool) -> None:
    domain = Domain(CHAIN["chain_id"], CHAIN["registry"])
    shown = LoggedDispatcher(operators=3, domain=domain, chain=CHAIN)
    hidden = shown.job()
    shown.job()
    shown.instead["log/head"] = lambda _: shown.head() | {"dispatcher": DISPATCHER.address}
    shown.instead["job/evidence"] = lambda said: (
        403 if private and said["subject"] == hidden.job_id else shown.evidence(said["subject"])
    )
    following = follower(shown, tmp_path)
    assert failing(await look(following)) == {}
    assert following.memory.domain == domain


async def test_without_any_job_there_is_no_chain_to_be_known(tmp_path: Path) -> None:
    shown = LoggedDispatcher()
    shown.instead["log/head"] = lambda _: shown.head() | {"dispatcher": DISPATCHER.address}
    following = follower(shown, tmp_path)
    assert failing(await look(following)) == {}
    assert following.memory.domain == DOMAIN
