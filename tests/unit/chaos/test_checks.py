"""Each check of a run finds what it is for."""

from pathlib import Path
from typing import Any

import pytest

from aos_protocol.identity import Signer
from aos_protocol.messages import Receipt
from aos_protocol.typed_data import Domain, ReceiptClaim, sign_typed
from chaos import checks, clocks, outside
from chaos.clients import Ledger
from chaos.plan import Options, jobs

DISPATCHER = Signer.generate()


def receipt(sequence: int, job_id: str = "", signer: Signer = DISPATCHER) -> Receipt:
    id_ = job_id or f"{sequence:064x}"
    claim = ReceiptClaim(id_, sequence, "cd" * 32)
    return Receipt(
        job_id=id_,
        sequence=sequence,
        request_digest="cd" * 32,
        dispatcher=signer.address,
        signature=sign_typed(signer, Domain(0, "0x" + "0" * 40), claim),
    )


def job(sequence: int, **other: Any) -> dict[str, Any]:
    said = receipt(sequence)
    row = {"id": said.job_id, "sequence": sequence, "request_digest": said.request_digest}
    row |= {
        "receipt": said.signature,
        "idempotency_key": f"key {sequence}",
        "status": "completed",
        "reason": "",
    }
    return row | other


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Two jobs that were accepted."""
    made = Ledger(tmp_path / "receipts.jsonl", DISPATCHER.address)
    for sequence in (1, 2):
        made.accept(f"key {sequence}", receipt(sequence))
    return made


class TestLedger:
    def test_a_receipt_is_on_disk_and_counted_once(self, ledger: Ledger) -> None:
        ledger.accept("key 1", receipt(1))
        assert (ledger.accepted, ledger.wrong) == (2, [])
        assert len(ledger.file.read_text().splitlines()) == 2

    def test_a_second_receipt_for_a_key_is_wrong(self, ledger: Ledger) -> None:
        ledger.accept("key 1", receipt(3))
        assert "got two receipts" in ledger.wrong[0]

    def test_somebody_else_s_receipt_is_wrong(self, ledger: Ledger) -> None:
        ledger.accept("key 3", receipt(3, signer=Signer.generate()))
        assert "signed by" in ledger.wrong[0]


class TestStored:
    def test_what_is_as_it_should_be(self, ledger: Ledger) -> None:
        stored = [job(1), job(2)]
        assert checks.lost(stored, ledger) == []
        assert checks.gaps(stored, 2, ledger) == []
        assert checks.unfinished(stored, "job") == []
        assert checks.ends(stored) == "2 completed"

    def test_a_lost_job(self, ledger: Ledger) -> None:
        assert "is lost" in checks.lost([job(1)], ledger)[0]

    @pytest.mark.parametrize(
        "change", [{"sequence": 3}, {"request_digest": ""}, {"idempotency_key": "key 1"}]
    )
    def test_another_job_than_the_receipt_s(self, ledger: Ledger, change: dict[str, Any]) -> None:
        assert "not what its receipt says" in checks.lost([job(1), job(2) | change], ledger)[0]

    def test_a_cancelled_job_that_goes_on(self, ledger: Ledger) -> None:
        ledger.cancelled.add(receipt(1).job_id)
        assert "was cancelled, and is completed" in checks.lost([job(1), job(2)], ledger)[0]

    def test_gaps_and_strangers(self, ledger: Ledger) -> None:
        assert checks.gaps([job(1), job(3)], 3, ledger) == [
            "the sequence has gaps",
            "the counter says 3, and there are 2 jobs",
        ]
        assert "no client has a receipt" in checks.gaps([job(1), job(2), job(3)], 3, ledger)[0]

    def test_what_is_still_open(self) -> None:
        assert checks.unfinished([job(1, status="dispatched")], "job") == [f"job {1:064x} is dispatched"]

    def test_a_job_that_was_never_accepted(self, ledger: Ledger) -> None:
        planned = jobs(Options(jobs=1))
        assert checks.not_accepted(planned, ledger) == ["key 1-0 was never accepted"]


class TestSeats:
    def seat(self, **other: Any) -> dict[str, Any]:
        seat = {"id": 1, "tag": "", "challenge": 0, "status": "completed", "operator": "0x1"}
        return seat | {"role": "executor", "state": "answered", "results": 1, "scores": 0} | other

    @pytest.mark.parametrize(
        "other",
        [
            {},
            {"role": "verifier", "results": 0, "scores": 1},
            {"role": "verifier", "tag": "malicious", "results": 1, "scores": 1},
            {"role": "verifier", "tag": "malicious", "challenge": 1, "results": 0, "scores": 1},
            {"state": "lost", "results": 1},
        ],
    )
    def test_good_ones(self, other: dict[str, Any]) -> None:
        assert checks.wrong_seats([self.seat(**other)]) == []

    @pytest.mark.parametrize(
        "other",
        [
            {"results": 0},
            {"results": 2},
            {"scores": 1},
            {"role": "verifier", "results": 0, "scores": 2},
            {"role": "verifier", "results": 1, "scores": 1},
            {"state": "assigned", "results": 0},
        ],
    )
    def test_bad_ones(self, other: dict[str, Any]) -> None:
        assert len(checks.wrong_seats([self.seat(**other)])) == 1

    def test_one_executor_for_each_completed_round(self) -> None:
        rounds = [
            {"id": 1, "status": "completed", "challenge": 0},
            {"id": 2, "status": "completed", "challenge": 0},
        ]
        seats = [self.seat(), self.seat(operator="0x2"), self.seat(id=2, role="verifier")]
        count, problems = checks.executors(rounds, seats)
        assert (count, len(problems)) == (2, 2)


class TestClocks:
    def test_a_counter_that_stands_for_two_frames(self) -> None:
        frame = '{"address": "0x1", "params": [{"clock": {"2": "7"}}], "result": null, "hash": "%s"}'
        ticket = '{"address": "0x1", "result": {"ticket": {"clock": {"2": "8"}}}, "hash": "c"}'
        said = clocks.operators_events([frame % "a", frame % "a", ticket], {"0x1": 2})
        assert clocks.reused(said) == []
        said |= clocks.operators_events([frame % "b"], {"0x1": 2})
        assert clocks.reused(said) == ["counter 7 of participant 2 stands for 2 frames"]

    def test_a_tick_that_was_used_twice(self) -> None:
        rounds = [{"draw_clock": '{"1": "4"}', "dispatch_clock": '{"1": "5", "2": "9"}'}]
        ticks = clocks.dispatcher_ticks(rounds, [{"clock": '{"1": "5"}'}])
        assert sorted(ticks) == [4, 5, 5]
        assert clocks.repeated(ticks) == ["tick 5 was used 2 times"]


@pytest.mark.parametrize(
    "line",
    ["Traceback (most recent call last):", '{"level": "critical"}', "round failed by an internal error"],
)
def test_a_log_that_tells_of_a_defect(tmp_path: Path, line: str) -> None:
    (tmp_path / "dispatcher-1.1.log").write_text("all is well\n")
    assert outside.logs(tmp_path).good
    (tmp_path / "dispatcher-1.2.log").write_text(f"well\n{line}\n")
    assert not outside.logs(tmp_path).good
