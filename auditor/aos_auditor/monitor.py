"""One look at a dispatcher's log: what is new in it, whether it only grew, and whether all else fits it.

| id | what holds when it passes |
| --- | --- |
| AOS-HEAD-1 | the dispatcher signed the head that it shows |
| AOS-FORK-1 | that head continues every head that was seen before; it fails with two signed heads that do not fit, which are the proof |
| AOS-ROLLBACK-1 | (only when it fails) the log has not become shorter |
| AOS-LOG-2 | the entries that it serves give the head's root |
| AOS-LOG-3 | the entries are well-formed, and jobs and operators are numbered without a gap |
| AOS-EVIDENCE-1 | the evidence of a job that ended holds |
| AOS-ENTRIES-1 | that evidence has exactly the log's entries about the job, under a head of the same log |
| AOS-CLOCK-3 | no operator signed two different things as one event, over all jobs seen |
| AOS-TAG-1 | every job runs under the tag that its user's jobs before it give it |
| AOS-STANDING-1 | operators, models and standings that the API shows are those that the log tells |
| AOS-ANCHOR-3 | the head that the chain's contract has is a state of this log, and the contract knows of no fork |
"""

from aos_auditor.following import Follower
from aos_auditor.job_look import look_at_jobs
from aos_auditor.standing_look import look_at_standing
from aos_protocol.evidence import Check


async def look(follower: Follower, rpc: str | None = None) -> list[Check]:
    """Make one look, at an RPC endpoint of the chain, too, if there is one, and return what was found.

    Raises as `Follower.advance`; what had failed or was skipped until then is returned by the next look that comes to its end.
    """
    memory = follower.memory
    memory.untold = [check for check in memory.untold if check.status != "PASS"]
    checks = await follower.advance()
    memory.untold += checks
    if memory.head is not None and all(check.status != "FAIL" for check in checks):
        await look_at_jobs(follower)
        memory.untold += await look_at_standing(follower)
        if rpc is not None:
            memory.untold.append(await _look_at_anchor(follower, rpc))
    told, memory.untold = memory.untold, []
    return told


async def _look_at_anchor(follower: Follower, rpc: str) -> Check:
    contracts = follower.known.contracts
    if contracts is None or contracts.anchor is None:
        return Check("AOS-ANCHOR-3", "SKIP", "which contract? give --deployment, or --registry and --anchor")
    from aos_auditor.anchor_look import look_at_anchor  # web3 takes 0.7 s to import

    return await look_at_anchor(follower, rpc, contracts.anchor)
