"""What an auditor knows beforehand, held against a document; and files that are no evidence."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from aos_auditor.documents import Contracts, Known, check_document, is_evidence, needs_chain, read_document
from aos_auditor.errors import NotAuditable
from aos_protocol.evidence import Check
from aos_protocol.identity import Signer
from support.enclaves import policy
from support.evidence import ANCHOR, CHAIN, DISPATCHER, MODEL, Story

OTHER = Signer(b"\x55" * 32).address


def by_id(checks: list[Check]) -> dict[str, Check]:
    return {check.id: check for check in checks}


def chained() -> dict[str, Any]:
    story = Story(operators=3, chain=CHAIN)
    story.own()
    return story.document()


def test_with_everything_known_nothing_is_skipped(document: dict[str, Any], tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(b"tiny")
    known = Known(DISPATCHER.address, document["job"]["job_id"], None, model)
    checks = check_document(document, known)
    assert {check.status for check in checks} == {"PASS"}
    assert {"AOS-PIN-1", "AOS-FILE-1", "AOS-LOG-1", "AOS-MATCH-1"} <= by_id(checks).keys()
    assert "AOS-CHAIN-1" not in by_id(checks), "there is no chain to know"


def test_without_a_pin_the_dispatcher_is_whoever_the_document_names(document: dict[str, Any]) -> None:
    checks = check_document(document, Known())
    assert [check.id for check in checks if check.status != "PASS"] == ["AOS-PIN-1"]
    assert by_id(checks)["AOS-PIN-1"].status == "SKIP"


@pytest.mark.parametrize("known", [Known(dispatcher=OTHER), Known(job_id="0" * 64)])
def test_evidence_of_something_else_fails_as_a_whole(document: dict[str, Any], known: Known) -> None:
    [check] = checks = check_document(document, known)
    assert (check.id, check.status) == ("AOS-DOCUMENT-1", "FAIL")
    assert not is_evidence(checks)


def test_another_model_s_file_is_found(document: dict[str, Any], tmp_path: Path) -> None:
    model = tmp_path / "other.gguf"
    model.write_bytes(b"other")
    check = by_id(check_document(document, Known(model=model)))["AOS-FILE-1"]
    assert check.status == "FAIL"
    assert hashlib.sha256(b"other").hexdigest() in check.what
    assert MODEL.sha256 in check.what
    with pytest.raises(NotAuditable, match="cannot be read"):
        check_document(document, Known(model=tmp_path / "none.gguf"))


@pytest.mark.parametrize(
    ("contracts", "status"),
    [
        (None, "SKIP"),
        (Contracts(31337, CHAIN["registry"], ANCHOR), "PASS"),
        (Contracts(None, CHAIN["registry"], None), "PASS"),
        (Contracts(1, CHAIN["registry"], ANCHOR), "FAIL"),
        (Contracts(31337, OTHER, ANCHOR), "FAIL"),
        (Contracts(31337, CHAIN["registry"], OTHER), "FAIL"),
    ],
)
def test_contracts_that_are_known_are_compared(contracts: Contracts | None, status: str) -> None:
    checks = check_document(chained(), Known(contracts=contracts))
    assert by_id(checks)["AOS-CHAIN-1"].status == status
    assert [check.id for check in checks if check.status == "FAIL"] == ["AOS-CHAIN-1"] * (status == "FAIL")


def test_evidence_without_a_chain_is_not_of_a_network_with_one(document: dict[str, Any]) -> None:
    known = Known(contracts=Contracts(31337, CHAIN["registry"], ANCHOR))
    assert by_id(check_document(document, known))["AOS-CHAIN-1"].status == "FAIL"


def test_what_only_a_chain_can_tell_is_skipped_without_one(document: dict[str, Any]) -> None:
    assert needs_chain(document) == []
    skipped = needs_chain(chained())
    assert [(check.id, check.status) for check in skipped] == [
        ("AOS-REGISTRY-1", "SKIP"),
        ("AOS-ANCHOR-2", "SKIP"),
    ]
    assert all("--rpc" in check.what for check in skipped)


def test_a_policy_decides_on_enclaves() -> None:
    story = Story(operators=4, enclaves=True)
    story.own()
    document = story.document()
    assert by_id(check_document(document, Known()))["AOS-ATTEST-1"].status == "SKIP"
    assert by_id(check_document(document, Known(policy=policy(MODEL.name))))["AOS-ATTEST-1"].status == "PASS"
    assert (
        by_id(check_document(document, Known(policy=policy("other.gguf"))))["AOS-ATTEST-1"].status == "FAIL"
    )


@pytest.mark.parametrize("text", ["", "[]", "7", "no json", '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 100])
def test_a_file_that_is_no_document_is_not_audited(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file"
    file.write_text(text)
    with pytest.raises(NotAuditable, match="is no evidence document"):
        read_document(file)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotAuditable, match="a job id is 64 hex digits"):
        read_document(tmp_path / "nothing")
    with pytest.raises(NotAuditable, match="Is a directory"):
        read_document(tmp_path)
