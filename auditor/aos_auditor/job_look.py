"""A monitor's look at jobs: the evidence of each that ended, against the checks, the log and all that operators had signed."""

from aos_auditor.documents import Known, check_document, is_evidence
from aos_auditor.errors import BadAnswer, Refused
from aos_auditor.following import Follower
from aos_auditor.http import JsonObject
from aos_auditor.memory import Said
from aos_protocol.errors import InvalidEvidence, ProtocolError
from aos_protocol.evidence import Check, round_views
from aos_protocol.evidence_clocks import Statement, statements_of
from aos_protocol.evidence_document import Evidence
from aos_protocol.evidence_view import RoundView, clock_of, open_any
from aos_protocol.fields import parse_message
from aos_protocol.log import check_head

_AUDITED = "AOS-EVIDENCE-1"


async def look_at_jobs(follower: Follower) -> None:
    """Audit every job that waits for it, and note what is found. Raises `Unreachable`: the rest waits for the next look, then."""
    memory = follower.memory
    while memory.waiting:
        memory.untold += await _look_at_job(follower, memory.waiting[0])
        memory.waiting.pop(0)
    memory.untold += memory.tags.check()


async def _look_at_job(follower: Follower, job_id: str) -> list[Check]:
    tags = follower.memory.tags
    try:
        document = await follower.api.evidence(job_id)
    except BadAnswer as error:
        tags.kept_back(job_id)
        return [Check(_AUDITED, "FAIL", f"job {job_id}: {error}")]
    except Refused as error:
        if error.code >= 500:
            raise
        tags.kept_back(job_id)
        status = "SKIP" if error.code in {401, 403} else "FAIL"
        return [Check(_AUDITED, status, f"job {job_id}: {error}")]  # type: ignore[arg-type]
    known = follower.known
    checks = check_document(
        document, Known(follower.memory.dispatcher, job_id, known.policy, None, known.contracts)
    )
    found = [_summary(job_id, checks)]
    if not is_evidence(checks):
        tags.kept_back(job_id)
    else:
        tags.read(document)
        found.append(await _fits_the_log(follower, job_id, parse_message(Evidence, document)))
        found += _equivocations(follower, job_id, document)
    return found


def _summary(job_id: str, checks: list[Check]) -> Check:
    failed = [f"{check.id}: {check.what}" for check in checks if check.status == "FAIL"]
    if failed:
        return Check(_AUDITED, "FAIL", f"job {job_id}: {'; '.join(failed)}")
    skipped = sorted({check.id for check in checks if check.status == "SKIP"})
    what = f"job {job_id}: {sum(check.status == 'PASS' for check in checks)} checks passed"
    return Check(_AUDITED, "PASS", what + (f", skipped: {', '.join(skipped)}" if skipped else ""))


async def _fits_the_log(follower: Follower, job_id: str, evidence: Evidence) -> Check:
    """Compare the entries in a job's evidence with the log's, as far as that was read."""
    what = f"the evidence of job {job_id} has the log's entries about it"
    log, kept = evidence.log, follower.memory.head
    if log is None or kept is None:
        return Check("AOS-ENTRIES-1", "FAIL", f"{what}: it comes without its log")
    try:
        check_head(*follower.identity(), log.head)
        await follower.continues(log.head.size, log.head.root)
    except InvalidEvidence as error:
        return follower.fork(kept, log.head, f"the evidence of job {job_id} is of another log: {error}")
    except (ProtocolError, BadAnswer) as error:
        return Check("AOS-ENTRIES-1", "FAIL", f"{what}: {error}")
    # It was asked for after that head was signed, so an older one hides something.
    ours = follower.memory.jobs.get(job_id, [])
    theirs = sorted(entry.index for entry in log.entries if entry.index < kept.size)
    if theirs != ours:
        return Check("AOS-ENTRIES-1", "FAIL", f"{what}: the log has {ours}, the evidence {theirs}")
    return Check("AOS-ENTRIES-1", "PASS", f"{what}: {len(theirs)}")


def _equivocations(follower: Follower, job_id: str, document: JsonObject) -> list[Check]:
    """Hold what operators signed in this job, refused things too, against all that they had signed before."""
    found: list[Check] = []
    try:
        statements = _statements(document)
        for statement in statements:
            said = Said(statement.content(), job_id)
            before = follower.memory.note_said(statement.operator, statement.counter, said)
            if before.content != said.content:
                what = f"{statement.operator} signed two different things as its event {statement.counter}: see jobs {before.job_id} and {job_id}"
                found.append(Check("AOS-CLOCK-3", "FAIL", what))
    except (ProtocolError, KeyError) as error:
        return [Check("AOS-CLOCK-3", "SKIP", f"what was signed in job {job_id} does not hold: {error}")]
    return found or [
        Check(
            "AOS-CLOCK-3", "PASS", f"statements of job {job_id} that contradict no other: {len(statements)}"
        )
    ]


def _statements(document: JsonObject) -> list[Statement]:
    views = round_views(document)
    numbers = {operator: entry.number for view in views for operator, entry in view.entries.items()}
    return statements_of([view for view in views if not view.undrawn]) + _refused(views, numbers)


def _refused(views: list[RoundView], numbers: dict[str, int]) -> list[Statement]:
    statements = []
    for rejection in views[0].evidence.rejections:
        frame = open_any(rejection.frame)
        said = frame.params[0] if frame.params else (frame.result or {}).get("ticket")
        clock = said.get("clock") if isinstance(said, dict) else None
        if isinstance(clock, dict) and frame.address in numbers:
            entries = {str(number): str(counter) for number, counter in clock.items()}
            counter = clock_of(entries).get(numbers[frame.address])
            if counter:
                statements.append(Statement(frame.address, counter, rejection.frame))
    return statements
