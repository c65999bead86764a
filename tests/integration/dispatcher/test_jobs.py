"""One job's way through a dispatcher, and what a third party can check of it."""

from typing import Any

from aos_protocol.evidence import check_evidence


async def test_the_documented_example_ends_with_checkable_results(network: Any) -> None:
    for _ in range(3):
        await network.operator()
    job_id = await network.submit()
    detail = await network.finished(job_id)
    assert detail["status"] == "completed", detail
    rows = await network.results(job_id)
    assert rows
    evidence = await network.evidence(job_id)
    checks = check_evidence(evidence, dispatcher=network.signer.address, job_id=job_id)
    assert [check for check in checks if check.status != "PASS"] == []
    assert len(checks) == 9
