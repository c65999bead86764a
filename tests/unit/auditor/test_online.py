"""What a dispatcher shows now, held against the evidence of a job."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from aos_auditor.dispatcher import DispatcherApi
from aos_auditor.documents import Known
from aos_auditor.errors import NotAuditable, Unreachable
from aos_auditor.job import Sources, audit
from aos_auditor.online import check_online
from aos_protocol.evidence import Check
from support.evidence import DISPATCHER, Story
from support.logged_dispatcher import LoggedDispatcher


@pytest.fixture
def shown() -> LoggedDispatcher:
    dispatcher = LoggedDispatcher()
    dispatcher.job(Story.own, Story.challenge)
    return dispatcher


def api(shown: LoggedDispatcher) -> DispatcherApi:
    return DispatcherApi("http://shown", transport=httpx.MockTransport(shown.handle))


def job_of(shown: LoggedDispatcher) -> str:
    return next(iter(shown.documents))


async def online(shown: LoggedDispatcher, document: dict[str, Any]) -> dict[str, Check]:
    return {check.id: check for check in await check_online(api(shown), document)}


async def test_an_honest_dispatcher_passes_then_and_later(shown: LoggedDispatcher) -> None:
    document = shown.evidence(job_of(shown))
    for _ in range(2):
        checks = await online(shown, document)
        assert {name: check.status for name, check in checks.items()} == {
            "AOS-FRESH-1": "PASS", "AOS-DETAIL-1": "PASS",
        }  # fmt: skip
        shown.job()


async def test_a_challenge_that_decides_gives_the_job_its_verdict() -> None:
    """An answer that nobody had verified has the verdict of the challenge."""
    shown = LoggedDispatcher()
    told = shown.job(Story.own, Story.challenge, audit_ppm=0)
    document = shown.evidence(told.job_id)
    own, challenge = document["rounds"]
    detail = shown._honest("job/detail", {"job_id": told.job_id})
    assert (own["verdict"], detail["verdict"]) == (None, challenge["verdict"])
    assert (await online(shown, document))["AOS-DETAIL-1"].status == "PASS"
    shown.instead["job/detail"] = lambda _: detail | {"verdict": None}
    assert (await online(shown, document))["AOS-DETAIL-1"].status == "FAIL"


async def test_a_job_without_a_round_of_its_own_is_no_crash(shown: LoggedDispatcher) -> None:
    document = shown.evidence(job_of(shown))
    document["rounds"] = document["rounds"][1:]
    assert (await online(shown, document))["AOS-DETAIL-1"].status == "FAIL"


async def test_a_log_that_was_rewritten_since_is_found(shown: LoggedDispatcher) -> None:
    document = shown.evidence(job_of(shown))
    shown.entries[0] = shown.entries[1]
    assert (await online(shown, document))["AOS-FRESH-1"].status == "FAIL"
    shown.job()
    assert (await online(shown, document))["AOS-FRESH-1"].status == "FAIL"


async def test_a_log_that_was_cut_since_is_found(shown: LoggedDispatcher) -> None:
    shown.job()
    document = shown.evidence(job_of(shown))
    shown.entries.pop()
    check = (await online(shown, document))["AOS-FRESH-1"]
    assert check.status == "FAIL"
    assert "some were taken back" in check.what


@pytest.mark.parametrize("answer", [404, 500, {"proof": ["00"]}, {"proof": 7}, {}, []])
async def test_a_log_whose_growth_is_not_proven_is_found(shown: LoggedDispatcher, answer: Any) -> None:
    document = shown.evidence(job_of(shown))
    shown.job()
    shown.instead["log/consistency"] = lambda _: answer
    assert (await online(shown, document))["AOS-FRESH-1"].status == "FAIL"


async def test_a_dispatcher_that_shows_no_log_any_more_is_found(shown: LoggedDispatcher) -> None:
    document = shown.evidence(job_of(shown))
    shown.instead["log/head"] = lambda _: 404
    assert (await online(shown, document))["AOS-FRESH-1"].status == "FAIL"
    assert (await online(shown, document | {"log": None}))["AOS-FRESH-1"].status == "SKIP"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("job/detail", lambda shown: shown.update(status="failed")),
        ("job/detail", lambda shown: shown.update(sequence=2)),
        ("job/detail", lambda shown: shown.update(verdict=None)),
        ("job/detail", lambda shown: shown.update(verdict={"outcome": "mismatch"})),
        ("job/detail", lambda shown: shown.update(verdict=shown["verdict"] | {"outcome": "mismatch"})),
        ("job/detail", lambda shown: shown.update(verdict=shown["verdict"] | {"reason": "another"})),
        ("job/detail", lambda shown: shown["job"].update(prompt="What is I?")),
        ("job/detail", lambda shown: shown.pop("user")),
        ("job/result", lambda shown: shown.pop()),
        ("job/result", lambda shown: shown.append(shown[0])),
        ("job/result", lambda shown: shown[0].update(result="another answer")),
        ("job/result", lambda shown: shown[0].update(operator=DISPATCHER.address)),
        ("job/result", lambda shown: shown[-1].update(signature="0" * 130)),
    ],
)
async def test_what_is_shown_otherwise_than_it_was_signed_is_found(
    shown: LoggedDispatcher, name: str, change: Callable[[Any], object]
) -> None:
    document = shown.evidence(job_of(shown))

    def bent(said: dict[str, str]) -> Any:
        answer = shown._honest(name, said)
        answer = (
            {**answer, "job": dict(answer["job"])} if isinstance(answer, dict) else [dict(r) for r in answer]
        )
        change(answer)
        return answer

    shown.instead[name] = bent
    assert (await online(shown, document))["AOS-DETAIL-1"].status == "FAIL"


@pytest.mark.parametrize(
    ("answer", "status"), [(401, "SKIP"), (403, "SKIP"), (404, "FAIL"), ("text", "FAIL")]
)
async def test_what_is_not_shown(shown: LoggedDispatcher, answer: Any, status: str) -> None:
    shown.instead["job/detail"] = lambda _: answer
    assert (await online(shown, shown.evidence(job_of(shown))))["AOS-DETAIL-1"].status == status


async def test_a_job_is_audited_by_its_id(shown: LoggedDispatcher) -> None:
    known = Known(DISPATCHER.address, job_of(shown))
    checks = await audit(job_of(shown), known, api(shown), Sources())
    assert {check.status for check in checks} == {"PASS"}
    assert {"AOS-PIN-1", "AOS-JOB-1", "AOS-FRESH-1", "AOS-DETAIL-1"} <= {check.id for check in checks}


async def test_evidence_of_another_job_is_not_asked_about_any_further(shown: LoggedDispatcher) -> None:
    other = shown.job()
    shown.instead["job/evidence"] = lambda _: shown.evidence(other.job_id)
    checks = await audit(job_of(shown), Known(None, job_of(shown)), api(shown), Sources())
    assert [(check.id, check.status) for check in checks] == [("AOS-DOCUMENT-1", "FAIL")]


async def test_a_dispatcher_that_goes_away_in_between_skips_what_it_was_to_be_asked(
    shown: LoggedDispatcher,
) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if "evidence" not in request.url.path:
            raise httpx.ReadTimeout("gone")
        return shown.handle(request)

    away = DispatcherApi("http://shown", transport=httpx.MockTransport(handle))
    checks = await audit(job_of(shown), Known(None, job_of(shown)), away, Sources())
    assert ("AOS-FRESH-1", "SKIP") in [(check.id, check.status) for check in checks]


async def test_nobody_to_ask_and_nothing_to_read_is_no_audit(shown: LoggedDispatcher) -> None:
    with pytest.raises(NotAuditable, match="Name its dispatcher with --dispatcher"):
        await audit("0" * 64, Known(job_id="0" * 64), None, Sources())
    shown.instead["job/evidence"] = lambda _: 403
    with pytest.raises(NotAuditable, match="--token-file"):
        await audit(job_of(shown), Known(None, job_of(shown)), api(shown), Sources())


@pytest.mark.parametrize(
    "url", ["", "shown", "ftp://shown", "http://", "http://shown:0", "http://shown?x=1", "http://[::1"]
)
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(NotAuditable, match="is no address of a dispatcher"):
        DispatcherApi(url)


@pytest.mark.parametrize("error", [httpx.ConnectError("no"), httpx.ReadTimeout("no"), httpx.ReadError("no")])
async def test_every_failure_to_ask_is_one_error(error: Exception) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    async with DispatcherApi("http://shown", transport=httpx.MockTransport(fail)) as client:
        with pytest.raises(Unreachable):
            await client.evidence("0" * 64)
