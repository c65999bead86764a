"""What a policy says of enclaves that were asked, and how it is shown: nothing that is not good is shown as anything."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aos_cli.enclaves import good_ones, judge, table_of
from aos_protocol.attestation.policy import AttestationPolicy
from aos_tee_worker.simulator import measurements
from support.evidence import MODEL
from unit.cli.sealing import NONCE, OPERATOR, Enclave, enclave


@pytest.fixture
def own(tmp_path: Path) -> Enclave:
    return enclave(tmp_path / "simulator")


def judged(own: Enclave, answer: dict[str, Any], policy: AttestationPolicy | None = None) -> Any:
    [found] = judge([answer], policy or own.policy, model=MODEL.name, nonce=NONCE)
    return found


def shown(enclave: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(table_of([enclave]))
    return out.getvalue()


def test_a_good_enclave_is_shown_with_what_was_found(own: Enclave) -> None:
    found = judged(own, own.attested())
    keyset = own.keyring.current().digest
    assert found.to_json() | {"age": 0} == {
        "operator": OPERATOR,
        "passed": True,
        "kind": "simulated",
        "build": "simulated",
        "debug": False,
        "measured": measurements()["pcr0"],
        "keyset": keyset,
        "age": 0,
        "reason": "",
    }
    assert good_ones([found]) == [(OPERATOR, found.attestation)]
    row = shown(found).splitlines()[1].split()
    assert row[:4] == ["PASS", OPERATOR, "SIMULATED", "simulated"]
    assert row[4:7] == ["pcr0", f"{measurements()['pcr0'][:16]}…", f"{keyset[:16]}…"]


def test_of_a_bad_one_only_the_reason_is_shown(own: Enclave) -> None:
    old = judged(own, own.attested("8" * 64))
    assert (old.attestation, old.appraisal) == (None, None)
    assert "it was made for somebody else's question" in old.reason
    assert good_ones([old]) == []
    assert {value for key, value in old.to_json().items() if key not in {"operator", "passed", "reason"}} == {
        None
    }
    line = shown(old).splitlines()[1]
    assert line.startswith(f"FAIL  {OPERATOR}  -")
    assert "SIMULATED" not in line


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"reason": "the device failed"}, "the device failed"),
        ({}, "it sent no attestation"),
        ({"attestation": None}, "Attestation: "),
        ({"attestation": {"kind": "nitro"}}, "document: Field required"),
        ({"attestation": [], "reason": "ignored"}, "Attestation: "),
    ],
)
def test_whatever_is_no_attestation_is_not_good(own: Enclave, answer: dict[str, Any], said: str) -> None:
    found = judged(own, {"operator": OPERATOR} | answer)
    assert found.appraisal is None
    assert said in found.reason


def test_what_an_operator_says_cannot_steer_the_terminal(own: Enclave) -> None:
    found = judged(own, {"operator": OPERATOR, "reason": "\x1b[2Jaway"})
    assert "\x1b" not in shown(found)


def test_another_root_is_not_trusted(own: Enclave, tmp_path: Path) -> None:
    other = enclave(tmp_path / "another")
    assert judged(own, other.attested()).appraisal is None
    assert judged(other, other.attested()).appraisal is not None
