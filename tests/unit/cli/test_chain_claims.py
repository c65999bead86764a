"""What is taken from evidence for a challenge on chain: exactly what the operator signed."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from aos_cli.chain_claims import contradiction, read_evidence, result_of, results_of
from aos_cli.errors import CliError
from aos_protocol import vrf
from support.actors import Actor
from support.evidence import CHAIN, Story


def story(**options: Any) -> Story:
    told = Story(chain=CHAIN, **options)
    told.own()
    return told


def executor(told: Story) -> str:
    return str(told.document()["rounds"][0]["committee"][0]["operator"])


def otherwise(_actor: Actor, said: dict[str, Any]) -> None:
    if "result" in said:
        said["result"] = "quite another answer"


def test_the_claim_is_the_one_that_was_signed() -> None:
    told = story()
    found = result_of(told.document(), executor(told))
    assert found.accepted
    assert found.signer() == executor(told)
    assert found.claim.registry_block == CHAIN["block"]
    assert found.domain.registry == CHAIN["registry"]


def test_the_ticket_is_bound_by_the_claim_and_holds() -> None:
    told = story()
    found = result_of(told.document(), executor(told))
    proof, key = bytes.fromhex(found.result.vrf.vrf_proof), bytes.fromhex(found.result.vrf.vrf_verify_pubkey)
    assert hashlib.sha256(found.alpha + proof).hexdigest() == found.claim.vrf_proof
    assert vrf.verify(key, found.alpha, proof).hex() == found.result.vrf.vrf_random_value


def test_who_signed_no_result_is_told_who_did() -> None:
    told = story()
    with pytest.raises(
        CliError, match=rf"0x19E7\w+ signed no result of job {told.job_id}; results are of {executor(told)}$"
    ):
        result_of(told.document(), told.document()["dispatcher"]["address"])


def test_of_several_tags_one_must_be_chosen() -> None:
    told = story()
    for _ in range(8):
        told.before("malicious")
    document = told.document()
    by_tag: dict[str, set[str]] = {}
    for found in results_of(document):
        by_tag.setdefault(found.result.operator, set()).add(found.result.tag)
    operator = next(operator for operator, tags in by_tag.items() if len(tags) > 1)
    with pytest.raises(CliError, match=r"choose one of \['', 'malicious'\] with --tag"):
        result_of(document, operator)
    assert result_of(document, operator, "malicious").claim.tag == "malicious"


def test_a_refused_result_can_be_shown_too() -> None:
    told = story()
    told.reject()
    document = told.document()
    assert [found.accepted for found in results_of(document)] == [True, False]
    document["rounds"][0]["results"] = []
    assert not result_of(document, executor(told)).accepted


def test_what_else_was_refused_is_no_result() -> None:
    told = story()
    frame = told.rounds[0]["scores"][0]
    told.rejections.append({"operator": json.loads(frame)["address"], "reason": "late", "frame": frame})
    assert [found.accepted for found in results_of(told.document())] == [True]


def test_two_results_for_one_entry_are_found() -> None:
    first, second = story(), story(bend=otherwise)
    one, other = contradiction([first.document(), second.document()], executor(first))
    assert (one.claim.counter, one.claim.operator) == (other.claim.counter, other.claim.operator)
    assert one.claim.answer != other.claim.answer


def test_one_result_twice_is_no_contradiction() -> None:
    told = story()
    told.reject()
    with pytest.raises(
        CliError,
        match=r"signed no two different results for one entry of its clock here \(entries: 2, 2, 2\)",
    ):
        contradiction([told.document(), told.document() | {"rejections": []}], executor(told))


def test_what_a_jury_judges_stays_the_same_when_it_is_signed_again() -> None:
    told = story()
    found = result_of(told.document(), executor(told))
    assert len(found.judged()) == 32
    assert found.judged() != result_of(story(bend=otherwise).document(), executor(told)).judged()


@pytest.mark.parametrize(
    ("content", "why"), [("{", "cannot be read"), ("[]", "is no evidence"), (b"\xff", "cannot be read")]
)
def test_a_file_that_is_none(tmp_path: Path, content: str | bytes, why: str) -> None:
    file = tmp_path / "evidence.json"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CliError, match=why):
        read_evidence(file)
    with pytest.raises(CliError, match="cannot be read"):
        read_evidence(tmp_path / "missing.json")


def test_json_that_is_no_evidence() -> None:
    with pytest.raises(CliError, match="this evidence cannot be read"):
        results_of({"version": "aos-evidence/9"})
