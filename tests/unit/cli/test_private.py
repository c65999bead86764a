"""Sealing a prompt and opening its answer: only attested enclaves read the one, and only their answer is shown."""

import stat
from pathlib import Path
from typing import Any

import pytest

from aos_cli.checks import Expected, check_job
from aos_cli.errors import CliError
from aos_cli.opening import opened_rows
from aos_cli.private import (
    check_sealed,
    drop_key,
    hold,
    keep_key,
    open_answers,
    read_key,
    seal_request,
)
from aos_protocol.canonical import digest
from aos_protocol.errors import InvalidTranscript, NotSealed
from aos_protocol.evidence import Check
from aos_protocol.fields import parse_message
from aos_protocol.job import Params, Sealed
from aos_protocol.sealing import SealingKey, open_prompt
from support.evidence import DISPATCHER, MODEL, REQUEST, honest_evidence, rows_of
from unit.cli.sealing import (
    ANSWER,
    OPERATOR,
    Enclave,
    PrivateDispatcher,
    answered,
    enclave,
    private_request,
    sealed_to,
)

PROMPT = "What does the merger cost?"


@pytest.fixture
def own(tmp_path: Path) -> Enclave:
    return enclave(tmp_path / "simulator")


@pytest.fixture
def key() -> SealingKey:
    return SealingKey()


async def seal(dispatcher: PrivateDispatcher, key: SealingKey, **job: Any) -> Any:
    asked = REQUEST | {"job": REQUEST["job"] | {"tag": "tee", "prompt": PROMPT} | job}
    return await seal_request(dispatcher, asked, dispatcher.own.policy, key)  # type: ignore[arg-type]


def expected(document: dict[str, Any], key: SealingKey, **changes: Any) -> Expected:
    known = {"dispatcher": DISPATCHER.address, "rows": rows_of(document), "key": key}
    return Expected(document["job"]["job_id"], **(known | changes))


async def test_the_prompt_is_sealed_to_what_was_just_attested(own: Enclave, key: SealingKey) -> None:
    dispatcher = PrivateDispatcher(own)
    request, asked = await seal(dispatcher, key)
    assert PROMPT not in str(request)
    assert set(request["job"]) == {"tag", "model", "params", "sealed"}
    sealed = parse_message(Sealed, request["job"]["sealed"])
    assert [(box.operator, box.keyset) for box in sealed.boxes] == [(OPERATOR, own.keyring.current().digest)]
    assert sealed.reply_key == key.public
    keys = own.keyring.current()
    params = parse_message(Params, request["job"]["params"])
    assert open_prompt(keys.sealing, keys.digest, sealed, MODEL.name, params) == {"prompt": PROMPT}
    assert [each.operator for each in asked] == [OPERATOR]


async def test_every_call_draws_its_own_nonce(own: Enclave, key: SealingKey) -> None:
    dispatcher = PrivateDispatcher(own)
    await seal(dispatcher, key)
    await seal(dispatcher, key)
    nonces = {nonce for _, nonce in dispatcher.asked}
    assert len(nonces) == 2
    assert {len(nonce) for nonce in nonces} == {64}


async def test_enclaves_that_are_not_good_get_no_box(own: Enclave, key: SealingKey, tmp_path: Path) -> None:
    dispatcher, stranger = PrivateDispatcher(own), enclave(tmp_path / "another")
    address = DISPATCHER.address
    dispatcher.others = [stranger.attested(operator=address), {"operator": address, "reason": "busy"}]
    request, asked = await seal(dispatcher, key)
    assert [box["operator"] for box in request["job"]["sealed"]["boxes"]] == [OPERATOR]
    assert [each.appraisal is not None for each in asked] == [False, False, True]
    assert asked[1].reason == "busy"


async def test_without_a_good_one_nothing_is_sent(own: Enclave, key: SealingKey, tmp_path: Path) -> None:
    dispatcher = PrivateDispatcher(enclave(tmp_path / "another"))
    request = REQUEST | {"job": REQUEST["job"] | {"tag": "tee", "prompt": PROMPT}}
    with pytest.raises(
        CliError, match=r"the prompt was not sent: no enclave for model tiny.gguf is good"
    ) as said:
        await seal_request(dispatcher, request, own.policy, key)  # type: ignore[arg-type]
    assert f"\n  {OPERATOR}: " in str(said.value)
    assert PROMPT not in str(said.value)
    assert dispatcher.requests == []


async def test_without_any_enclave_that_is_said(own: Enclave, key: SealingKey) -> None:
    class Nobody(PrivateDispatcher):
        async def attestations(self, model: str, nonce: str) -> list[dict[str, Any]]:
            return []

    with pytest.raises(CliError, match=r"is good by the policy, for none is connected$"):
        await seal(Nobody(own), key)


async def test_operators_that_share_an_enclave_share_a_box(own: Enclave, key: SealingKey) -> None:
    class Shared(PrivateDispatcher):
        async def attestations(self, model: str, nonce: str) -> list[dict[str, Any]]:
            return [own.attested(nonce), own.attested(nonce, DISPATCHER.address)]

    request, asked = await seal(Shared(own), key)
    assert [box["operator"] for box in request["job"]["sealed"]["boxes"]] == [OPERATOR]
    assert len(asked) == 2


@pytest.mark.parametrize("job", [{"prompt": "half \ud800"}, {"params": {"temperature": 9}}])
async def test_what_cannot_be_sealed_is_said(own: Enclave, key: SealingKey, job: dict[str, Any]) -> None:
    with pytest.raises(CliError, match=r"^the prompt was not sent, for it cannot be sealed: "):
        await seal(PrivateDispatcher(own), key, **job)


def test_an_answer_opens_and_is_checked(own: Enclave, key: SealingKey) -> None:
    document = answered(private_request(sealed_to(own, key)), own)
    [opened] = open_answers(document, key)
    assert (opened.operator, opened.text) == (OPERATOR, ANSWER)
    wanted = expected(document, key, policy=own.policy)
    checks = {check.id: check.status for check in check_job(document, wanted)}
    assert set(checks.values()) == {"PASS"}
    assert {"AOS-SEALED-1", "AOS-ENCLAVE-1", "AOS-ATTEST-1"} <= set(checks)
    assert {"AOS-MATCH-1", "AOS-TRANSCRIPT-1", "AOS-CALIBRATION-1"}.isdisjoint(checks)
    [row] = opened_rows(document, wanted)
    assert row["result"] == ANSWER


def test_a_sealed_job_needs_no_calibration(own: Enclave, key: SealingKey, tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(b"tiny")
    document = answered(private_request(sealed_to(own, key)), own)
    checks = check_job(document, expected(document, key, policy=own.policy, model=model))
    assert [check.id for check in checks][-1] == "AOS-FILE-1"


def test_the_job_s_id_alone_says_whose_answer_it_is(own: Enclave, key: SealingKey) -> None:
    """It binds the request with its boxes, which were appraised when they were made; policy and dispatcher may be unknown later."""
    document = answered(private_request(sealed_to(own, key)), own)
    [row] = opened_rows(document, expected(document, key, dispatcher=None))
    assert row["result"] == ANSWER


def test_an_answer_of_an_enclave_that_nobody_sealed_to_is_not_shown(
    own: Enclave, key: SealingKey, tmp_path: Path
) -> None:
    """Whoever knows the reply key, which is public, can seal an answer to it."""
    document = answered(private_request(sealed_to(own, key)), enclave(tmp_path / "another"))
    with pytest.raises(CliError, match=r"the answer is not shown.*AOS-ENCLAVE-1: .*was not sealed to keyset"):
        opened_rows(document, expected(document, key))


def test_an_answer_to_another_prompt_is_not_shown(own: Enclave, key: SealingKey) -> None:
    """A host may seal one of its own to the same enclave, with the same reply key."""
    instead = sealed_to(own, key, "Say that the merger is off.")
    document = answered(private_request(sealed_to(own, key)), own, instead=instead)
    check = check_sealed(document, key)
    assert check.status == "FAIL"
    assert "does not open" in check.what
    with pytest.raises(CliError, match=r"AOS-SEALED-1: .*does not open"):
        opened_rows(document, expected(document, key))


def test_a_job_of_another_id_is_not_shown(own: Enclave, key: SealingKey) -> None:
    document = answered(private_request(sealed_to(own, key)), own)
    wanted = Expected("ab" * 32, None, rows_of(document), key=key)
    with pytest.raises(CliError, match=r"AOS-DOCUMENT-1: this is evidence of job"):
        opened_rows(document, wanted)


def other_seed(answer: dict[str, Any]) -> None:
    answer["transcript"]["seed"] = "6" * 64


def other_model(answer: dict[str, Any]) -> None:
    answer["transcript"]["model"] = "6" * 64


def other_prover(answer: dict[str, Any]) -> None:
    answer["transcript"]["prover"] = DISPATCHER.address


def other_params(answer: dict[str, Any]) -> None:
    answer["transcript"]["params"]["top_p"] = 1.0


def other_end(answer: dict[str, Any]) -> None:
    answer["finish_reason"] = "stop" if answer["finish_reason"] != "stop" else "eos"


def other_commitment(answer: dict[str, Any]) -> None:
    answer["commitment"] = "6" * 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_seed, "of another model, seed, operator or end"),
        (other_model, "of another model, seed, operator or end"),
        (other_prover, "of another model, seed, operator or end"),
        (other_end, "of another model, seed, operator or end"),
        (other_params, "other parameters than the job's"),
        (other_commitment, "is not its transcript's"),
    ],
)
def test_a_transcript_of_something_else_is_refused(
    own: Enclave, key: SealingKey, change: Any, said: str
) -> None:
    document = answered(private_request(sealed_to(own, key)), own, change=change)
    with pytest.raises(InvalidTranscript, match=said):
        open_answers(document, key)
    assert check_sealed(document, key).status == "FAIL"


def test_a_sealed_answer_of_another_form_is_refused(own: Enclave, key: SealingKey) -> None:
    document = answered(private_request(sealed_to(own, key)), own, change=lambda answer: answer.pop("text"))
    with pytest.raises(NotSealed, match=r"the sealed answer cannot be read: .*text: Field required"):
        open_answers(document, key)


def test_another_key_opens_nothing(own: Enclave, key: SealingKey) -> None:
    document = answered(private_request(sealed_to(own, key)), own)
    with pytest.raises(NotSealed, match=r"this is not the key that the job's answer goes to"):
        open_answers(document, SealingKey())


def test_an_open_job_needs_no_key(key: SealingKey) -> None:
    with pytest.raises(NotSealed, match=r"the job's prompt was not sealed"):
        open_answers(honest_evidence(), key)


def test_no_answer_is_no_pass(own: Enclave, key: SealingKey) -> None:
    document = answered(private_request(sealed_to(own, key)), own)
    document["rounds"][0]["results"] = []
    check = check_sealed(document, key)
    assert (check.status, check.what) == ("SKIP", "there is no answer")
    with pytest.raises(CliError, match=r"the answer is not shown"):
        opened_rows(document, expected(document, key))


def test_what_was_not_checked_holds_back_an_answer_too() -> None:
    needed = ["AOS-JOB-1", "AOS-SEED-1", "AOS-RESULT-1", "AOS-ENCLAVE-1", "AOS-SEALED-1"]
    good = [Check(name, "PASS", "") for name in needed]
    hold([*good, Check("AOS-ATTEST-1", "SKIP", "no policy")])
    for missing in needed:
        with pytest.raises(CliError, match=r"checks are missing"):
            hold([check for check in good if check.id != missing])
        skipped = [check if check.id != missing else Check(missing, "SKIP", "not made") for check in good]
        with pytest.raises(CliError, match=f"{missing}: not made"):
            hold(skipped)
    with pytest.raises(CliError, match=r"AOS-CLOCK-1: backwards"):
        hold([*good, Check("AOS-CLOCK-1", "FAIL", "backwards")])


def test_a_reply_key_is_kept_for_its_owner_and_read_again(tmp_path: Path, key: SealingKey) -> None:
    file = tmp_path / "reply"
    keep_key(file, key)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_key(file).public == key.public
    with pytest.raises(CliError, match=r"exists already: name another file"):
        keep_key(file, SealingKey())
    assert read_key(file).public == key.public
    drop_key(file)
    assert not file.exists()
    with pytest.raises(CliError, match=r"cannot be kept in .*: No such file or directory"):
        keep_key(tmp_path / "none" / "reply", key)


@pytest.mark.parametrize("content", [b"", b"secret words", b"\xff", b"ab" * 31, b"ab" * 33])
def test_what_is_no_reply_key_is_not_shown(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "reply"
    file.write_bytes(content)
    with pytest.raises(CliError, match=r"holds no reply key: it has 64 hex digits") as said:
        read_key(file)
    assert "secret words" not in str(said.value)
    with pytest.raises(CliError, match=r"cannot be read: No such file"):
        read_key(tmp_path / "none")


def test_params_digest_of_the_helpers_is_the_job_s(own: Enclave, key: SealingKey) -> None:
    request = private_request(sealed_to(own, key))
    assert digest(request) == answered(request, own)["job"]["request_digest"]
