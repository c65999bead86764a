import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aos_cli.checks import Expected, Submission, check_job, domain_of, file_digest, passed, table_of
from aos_cli.show import make_console, printable, show_answers
from aos_protocol.errors import InvalidMessage
from aos_protocol.evidence import Check
from aos_protocol.messages import Receipt
from support.calibration import calibration
from support.evidence import CALIBRATION, DISPATCHER, MODEL, Story, honest_evidence, rows_of

DOCUMENT = honest_evidence()
JOB: str = DOCUMENT["job"]["job_id"]
ROWS = rows_of(DOCUMENT)
EVIDENCE = [
    "TICKET",
    "COMMITTEE",
    "ROLE",
    "AUDIT",
    "RESULT",
    "TRANSCRIPT",
    "SCORE",
    "CLOCK",
    "MODEL",
    "COMPLETE",
    "VERDICT",
    "MATCH",
]
"""What of the evidence itself is checked after the seed."""

RECEIPT = Receipt(
    job_id=JOB,
    sequence=1,
    request_digest=DOCUMENT["job"]["request_digest"],
    dispatcher=DISPATCHER.address,
    signature=DOCUMENT["job"]["receipt"],
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The file whose digest the evidence names, with its calibration beside it."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"tiny")
    (tmp_path / "tiny.calibration.json").write_text(json.dumps(CALIBRATION.to_json()))
    return path


def expected(**changes: Any) -> Expected:
    known = {"job_id": JOB, "dispatcher": DISPATCHER.address, "rows": ROWS}
    return Expected(**(known | changes))


def status(checks: list[Check], name: str) -> str:
    return next(check.status for check in checks if check.id == name)


def test_an_honest_job_passes_everything(model: Path) -> None:
    submission = Submission(DOCUMENT["job"]["request"], RECEIPT)
    checks = check_job(DOCUMENT, expected(submission=submission, model=model))
    assert [(check.id, check.status) for check in checks] == [
        ("AOS-PIN-1", "PASS"),
        ("AOS-REQUEST-1", "PASS"),
        ("AOS-JOB-1", "PASS"),
        ("AOS-RECEIPT-1", "PASS"),
        ("AOS-SEED-1", "PASS"),
        ("AOS-HEAD-1", "PASS"),
        ("AOS-LOG-1", "PASS"),
        ("AOS-CLOCK-2", "PASS"),
        *((f"AOS-{name}-1", "PASS") for name in EVIDENCE),
        ("AOS-ANSWER-1", "PASS"),
        ("AOS-FILE-1", "PASS"),
        ("AOS-CALIBRATION-1", "PASS"),
    ]
    assert passed(checks)


def test_a_dispatcher_that_is_not_known_beforehand_is_no_pass() -> None:
    checks = check_job(DOCUMENT, expected(dispatcher=None))
    assert status(checks, "AOS-PIN-1") == "SKIP"
    assert {check.status for check in checks[1:]} == {"PASS"}
    assert not passed(checks)


@pytest.mark.parametrize(
    ("document", "changes", "said"),
    [
        (DOCUMENT, {"dispatcher": "0x" + "0" * 40}, "this is evidence of dispatcher 0x"),
        (DOCUMENT, {"job_id": "00" * 32}, "this is evidence of job"),
        ({}, {}, "Evidence: version: Field required"),
        (DOCUMENT | {"more": 1}, {"dispatcher": None}, "Evidence: more: Extra inputs are not permitted"),
    ],
)
def test_a_document_of_something_else_fails_as_a_whole(
    document: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    checks = check_job(document, expected(**changes))
    assert [(check.id, check.status) for check in checks] == [("AOS-DOCUMENT-1", "FAIL")]
    assert said in checks[0].what
    assert not passed(checks)


@pytest.mark.parametrize(
    ("request_", "receipt", "said"),
    [
        (
            DOCUMENT["job"]["request"] | {"user": "another"},
            RECEIPT,
            "is for another request than the one sent",
        ),
        (DOCUMENT["job"]["request"], RECEIPT.model_copy(update={"job_id": "00" * 32}), "it is for job 0000"),
        (DOCUMENT["job"]["request"], RECEIPT.model_copy(update={"signature": "0" * 130}), "does not hold"),
    ],
)
def test_a_job_that_is_not_the_one_submitted(request_: dict[str, Any], receipt: Receipt, said: str) -> None:
    checks = check_job(DOCUMENT, expected(submission=Submission(request_, receipt)))
    assert status(checks, "AOS-REQUEST-1") == "FAIL"
    assert said in next(check.what for check in checks if check.id == "AOS-REQUEST-1")


@pytest.mark.parametrize(
    "rows",
    [
        [ROWS[0], ROWS[1] | {"result": "an answer"}],
        [ROWS[0], ROWS[1] | {"signs": "answer"}],
        [ROWS[0] | {"result": "another answer"}, *ROWS[1:]],
        [ROWS[0] | {"operator": DISPATCHER.address}, *ROWS[1:]],
        [ROWS[0] | {"signature": "00"}, *ROWS[1:]],
        ROWS[1:],
        [*ROWS, ROWS[0]],
        [{}],
    ],
    ids=["score", "kind", "text", "operator", "signature", "missing", "doubled", "empty"],
)
def test_answers_that_nobody_signed_are_found(rows: list[dict[str, Any]]) -> None:
    assert status(check_job(DOCUMENT, expected(rows=rows)), "AOS-ANSWER-1") == "FAIL"


def test_the_order_of_answers_means_nothing() -> None:
    assert status(check_job(DOCUMENT, expected(rows=ROWS[::-1])), "AOS-ANSWER-1") == "PASS"


def test_a_job_without_answers_is_skipped() -> None:
    document = copy.deepcopy(DOCUMENT)
    document["rounds"][0] |= {
        "results": [], "scores": [], "verdict": None, "committee": [], "electorate": None, "registry": None,
    }  # fmt: skip
    document["job"] |= {"status": "created"}
    checks = check_job(document, expected(rows=[]))
    assert status(checks, "AOS-ANSWER-1") == "SKIP"
    assert not passed(checks)


def test_a_result_whose_frame_is_bent_is_no_answer() -> None:
    document = copy.deepcopy(DOCUMENT)
    document["rounds"][0]["results"][0] = document["rounds"][0]["results"][0].replace("sensible", "senseless")
    assert status(check_job(document, expected()), "AOS-ANSWER-1") == "FAIL"


def test_another_model_file_is_found(model: Path) -> None:
    model.write_bytes(b"tiny, but another")
    check = check_job(DOCUMENT, expected(model=model))[-2]
    assert (check.id, check.status) == ("AOS-FILE-1", "FAIL")
    assert hashlib.sha256(b"tiny, but another").hexdigest() in check.what
    assert hashlib.sha256(b"tiny").hexdigest() in check.what


@pytest.mark.parametrize(
    ("beside", "status_", "said"),
    [
        (
            None,
            "SKIP",
            r"there is no .*tiny.calibration.json to compare with: aos calibrate .*tiny.gguf makes one",
        ),
        (
            json.dumps(calibration(MODEL.sha256, alpha=1e-5).to_json()),
            "FAIL",
            "by another calibration, or by none",
        ),
        ("{}", "FAIL", "tiny.calibration.json cannot be used: Calibration: model: Field required"),
        ("[]", "FAIL", "tiny.calibration.json is no calibration"),
        ("{", "FAIL", "not JSON"),
    ],
)
def test_answers_are_judged_by_a_calibration_of_one_s_own(
    model: Path, beside: str | None, status_: str, said: str
) -> None:
    file = model.with_suffix(".calibration.json")
    if beside is None:
        file.unlink()
    else:
        file.write_text(beside)
    check = check_job(DOCUMENT, expected(model=model))[-1]
    assert (check.id, check.status) == ("AOS-CALIBRATION-1", status_)
    assert re.search(said, check.what)


def test_a_job_that_nobody_scored_was_judged_by_nothing(model: Path) -> None:
    story = Story(audit_ppm=0)
    story.own()
    document = story.document()
    rows = rows_of(document)
    check = check_job(document, Expected(document["job"]["job_id"], DISPATCHER.address, rows, model=model))[
        -1
    ]
    assert (check.id, check.status) == ("AOS-CALIBRATION-1", "SKIP")


@pytest.mark.parametrize("tag", ["suspicion", "malicious"])
def test_rows_of_every_round_are_held_against_what_was_signed(tag: str) -> None:
    """A verifier that executes, too, has one row with its answer, one that only scores a row with its score."""
    story = Story(tag)
    story.own()
    story.challenge()
    document = story.document()
    rows = rows_of(document)
    known = Expected(document["job"]["job_id"], DISPATCHER.address, rows)
    assert status(check_job(document, known), "AOS-ANSWER-1") == "PASS"
    kinds = [row["signs"] for row in rows if not row["challenge"]]
    assert kinds == (["answer", "score", "score"] if tag == "suspicion" else ["answer"] * len(kinds))
    missing = Expected(document["job"]["job_id"], DISPATCHER.address, rows[:-1])
    assert status(check_job(document, missing), "AOS-ANSWER-1") == "FAIL"


def test_no_checks_at_all_are_no_pass() -> None:
    assert not passed([])


@pytest.mark.parametrize("worse", ["FAIL", "SKIP"])
def test_one_check_that_did_not_pass_is_enough(worse: Any) -> None:
    assert passed([Check("A", "PASS", ""), Check("B", "PASS", "")])
    assert not passed([Check("A", "PASS", ""), Check("B", worse, "")])


def test_a_file_s_digest(model: Path) -> None:
    assert file_digest(model) == hashlib.sha256(b"tiny").hexdigest()


def test_the_domain_is_read_from_evidence_only() -> None:
    assert domain_of(DOCUMENT).chain_id == 0
    with pytest.raises(InvalidMessage):
        domain_of({"domain": {"chain_id": 0, "registry": "0x" + "0" * 40}})


def drawn(width: int, thing: Any) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(thing)
    return captured.get()


def test_the_table_shows_text_as_it_is_even_if_it_looks_like_markup() -> None:
    table = drawn(
        80, table_of([Check("AOS-JOB-1", "PASS", "[bold]not bold[/]"), Check("AOS-X-1", "SKIP", "x" * 90)])
    )
    assert "PASS  AOS-JOB-1  [bold]not bold[/]" in table
    assert table.replace("\n", "").replace(" ", "").count("x") == 90


def test_answers_are_shown_without_what_could_steer_a_terminal() -> None:
    console = Console(width=80, color_system=None)
    rows = [{"operator": "0xAB", "tag": "suspicion", "result": "\n one\ttwo\x1b[2Jthree\r [red]four\u202e\n"}]
    with console.capture() as captured:
        show_answers(console, rows)
    shown = captured.get()
    assert shown.splitlines()[1] == "0xAB  suspicion"
    assert "\x1b" not in shown
    assert "three\ufffd [red]four\ufffd" in shown


@pytest.mark.parametrize("text", ["plain", "línea\n\tdos", "数字 🙂"])
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_a_pipe_is_not_folded(capsys: pytest.CaptureFixture[str]) -> None:
    make_console().print("x" * 150)
    assert capsys.readouterr().out == "x" * 150 + "\n"
