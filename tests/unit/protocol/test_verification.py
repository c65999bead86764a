"""What a dispatcher checks before it stores: everything said truly passes, and each wrong field is refused by its own check."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from aos_protocol import sortition, vrf
from aos_protocol.attestation.statement import execution_claim
from aos_protocol.canonical import JsonValue
from aos_protocol.errors import (
    InvalidAttestation,
    InvalidClock,
    InvalidMessage,
    InvalidProof,
    InvalidSignature,
    InvalidTranscript,
    ProtocolError,
)
from aos_protocol.fields import parse_message
from aos_protocol.identity import Signer
from aos_protocol.job import JobSpec
from aos_protocol.messages import NO_DIGEST, Draw, JobResult, JobScore, ModelOffer, Ticket
from aos_protocol.score_document import Score
from aos_protocol.sealing import seal_prompt
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import Domain, ReceiptClaim, sign_typed
from aos_protocol.verification import (
    Terms,
    check_enclave,
    check_job_id,
    check_receipt,
    check_result,
    check_score,
    check_seed,
    check_ticket,
    check_work,
    result_claim,
    score_claim,
)
from support.enclaves import Enclave

DISPATCHER, OPERATOR, OTHER = (Signer(bytes([number]) * 32) for number in (1, 2, 3))
DOMAIN = Domain(31337, "0x" + "0" * 40)
MODEL = ModelOffer(name="tiny.gguf", sha256="3d" * 32)
JOB = parse_message(
    JobSpec,
    {"tag": "opml", "prompt": "What is AI?", "model": MODEL.name, "params": {"max_tokens": 8, "top_p": 0.5}},
)
JOB_ID = hashlib.sha256(b"a job").hexdigest()


def drawn(signer: Signer, alpha: bytes) -> tuple[str, str]:
    """The VRF output of this key, and its proof, in hex."""
    proof = vrf.prove(signer, alpha)
    return vrf.verify(signer.public_key, alpha, proof).hex(), proof.hex()


SEED, SEED_PROOF = drawn(DISPATCHER, sortition.seed_alpha(JOB_ID))
ROUND_SEED, ROUND_PROOF = drawn(DISPATCHER, sortition.seed_alpha(JOB_ID, 2))

TERMS = Terms(
    job_id=JOB_ID,
    user="device",
    job=JOB,
    seed=SEED,
    tag="suspicion",
    position="after",
    model_sha256=MODEL.sha256,
    dispatch_clock={"1": "4"},
    dispatcher=DISPATCHER.address,
    challenge=2,
    challenge_seed=ROUND_SEED,
    registry_block=7,
)
DRAW = Draw(
    job_id=JOB_ID,
    tag="suspicion",
    position="after",
    challenge=2,
    job_type="opml",
    model=MODEL,
    seed=ROUND_SEED,
    seed_proof=ROUND_PROOF,
    vrf_prompt_hash=JOB.prompt_hash(),
    range_start=0,
    range_end=600_000,
    clock={"1": "3"},
)


def ticket_of(signer: Signer, draw: Draw = DRAW) -> dict[str, Any]:
    output, proof = drawn(signer, bytes.fromhex(draw.seed) + bytes.fromhex(draw.vrf_prompt_hash))
    return {
        "job_id": JOB_ID,
        "tag": "suspicion",
        "position": "after",
        "challenge": 2,
        "operator": signer.address,
        "vrf": {
            "selected": True,
            "vrf_prompt_hash": draw.vrf_prompt_hash,
            "vrf_random_value": output,
            "vrf_verify_pubkey": signer.public_key.hex(),
            "vrf_proof": proof,
        },
        "clock": {"1": "3", "2": "1"},
    }


TICKET = parse_message(Ticket, ticket_of(OPERATOR))
TRANSCRIPT: dict[str, Any] = {
    "rule": 1,
    "model": MODEL.sha256,
    "engine": "llama.cpp b1",
    "params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 8, "stop": []},
    "seed": SEED,
    "prover": OPERATOR.address,
    "prompt_tokens": [1],
    "output_tokens": [5, 2],
    "fingerprints": base64.b64encode(bytes(32)).decode(),
    "finish_reason": "eos",
}
SUBJECT = "5b" * 32
COMMON: dict[str, Any] = {
    "user": "device",
    "job_id": JOB_ID,
    "tag": "suspicion",
    "position": "after",
    "reason": "",
    "vrf": TICKET.vrf.to_json(),
    "clock": {"1": "4", "2": "2"},
    "operator": OPERATOR.address,
    "signature": "0" * 130,
    "model": MODEL.to_json(),
}
RESULT: dict[str, Any] = COMMON | {
    "result": "So it is.",
    "role": "executor",
    "transcript": TRANSCRIPT,
    "dispatcher": DISPATCHER.address,
    "counter": 2,
    "registry_block": 7,
}
NUMBERS: dict[str, Any] = {
    "level": "seeded",
    "subject": SUBJECT,
    "model": MODEL.sha256,
    "engine": "llama.cpp b1",
    "positions": 1,
    "margins": [0.0],
    "surprisals": [0.5],
    "winners": [7],
    "entropy": 0.5,
    "variance": 0.25,
}
SCORE: dict[str, Any] = COMMON | {
    "challenge": 2,
    "subject": SUBJECT,
    "subject_operator": OTHER.address,
    "score": NUMBERS,
}


def signed_result(changes: dict[str, Any], signer: Signer = OPERATOR, domain: Domain = DOMAIN) -> JobResult:
    said = parse_message(JobResult, RESULT | changes)
    transcript = Transcript.from_json(said.transcript) if said.transcript else None
    claim = result_claim(said, JOB.params.digest(), transcript, seed=ROUND_SEED)
    signature = sign_typed(signer, domain, claim)
    return said.model_copy(update={"signature": signature})


def signed_score(changes: dict[str, Any], signer: Signer = OPERATOR, domain: Domain = DOMAIN) -> JobScore:
    said = parse_message(JobScore, SCORE | changes)
    signature = sign_typed(signer, domain, score_claim(said, JOB.params.digest(), seed=ROUND_SEED))
    return said.model_copy(update={"signature": signature})


def checked(said: JobScore, **others: Any) -> Score | None:
    asked = {"subject": SUBJECT, "subject_operator": OTHER.address} | others
    return check_score(said, TERMS, TICKET, DOMAIN, **asked)


@pytest.mark.parametrize("challenge", [0, 1, 2, 2**31 - 1])
def test_a_seed_is_that_of_its_job_and_challenge_only(challenge: int) -> None:
    seed, proof = drawn(DISPATCHER, sortition.seed_alpha(JOB_ID, challenge))
    key = DISPATCHER.public_key.hex()
    check_seed(DISPATCHER.address, key, JOB_ID, seed, proof, challenge=challenge)
    for other in {0, 1, 2, 2**31 - 1} - {challenge}:
        with pytest.raises(InvalidProof):
            check_seed(DISPATCHER.address, key, JOB_ID, seed, proof, challenge=other)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dispatcher": OTHER.address},
        {"public_key": OTHER.public_key.hex()},
        {"dispatcher": OTHER.address, "public_key": OTHER.public_key.hex()},
        {"job_id": "0" * 64},
        {"seed": "0" * 64},
        {"seed": ROUND_SEED},
        {"proof": ROUND_PROOF},
        {"proof": "0" * 162},
        {"challenge": 2},
    ],
)
def test_every_wrong_part_of_a_seed_is_refused(wrong: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "dispatcher": DISPATCHER.address,
        "public_key": DISPATCHER.public_key.hex(),
        "job_id": JOB_ID,
        "seed": SEED,
        "proof": SEED_PROOF,
    }
    check_seed(**good)
    with pytest.raises(InvalidProof):
        check_seed(**good | wrong)


def test_a_job_id_is_the_digest_of_what_it_stands_for() -> None:
    request: JsonValue = {"from": "shop"}
    job_id = sortition.job_id(DISPATCHER.address, 3, request)
    check_job_id(job_id, DISPATCHER.address, 3, request)
    others: list[tuple[str, int, JsonValue]] = [
        (OTHER.address, 3, request),
        (DISPATCHER.address, 4, request),
        (DISPATCHER.address, 3, {}),
    ]
    for other in others:
        with pytest.raises(InvalidMessage, match="job id"):
            check_job_id(job_id, *other)


def test_a_receipt_is_signed_by_its_dispatcher() -> None:
    claim = ReceiptClaim(JOB_ID, 3, "0" * 64)
    check_receipt(DISPATCHER.address, DOMAIN, claim, sign_typed(DISPATCHER, DOMAIN, claim))
    with pytest.raises(InvalidSignature, match="receipt"):
        check_receipt(DISPATCHER.address, DOMAIN, claim, sign_typed(OTHER, DOMAIN, claim))


def test_a_ticket_has_its_place_in_the_draw() -> None:
    candidate = check_ticket(TICKET, DRAW, OPERATOR.address)
    value = int(TICKET.vrf.vrf_random_value, 16) * 600_000 >> 256
    assert (candidate.operator, candidate.value, candidate.threshold) == (OPERATOR.address, value, 636_000)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"job_id": "0" * 64}, InvalidMessage),
        ({"tag": "malicious"}, InvalidMessage),
        ({"position": "before"}, InvalidMessage),
        ({"challenge": 0}, InvalidMessage),
        ({"challenge": 1}, InvalidMessage),
        ({"operator": OTHER.address}, InvalidMessage),
        ({"vrf": TICKET.vrf.to_json() | {"selected": False}}, InvalidMessage),
        ({"vrf": TICKET.vrf.to_json() | {"vrf_prompt_hash": "0" * 128}}, InvalidProof),
        ({"vrf": TICKET.vrf.to_json() | {"vrf_random_value": "0" * 64}}, InvalidProof),
        ({"vrf": TICKET.vrf.to_json() | {"vrf_proof": ROUND_PROOF}}, InvalidProof),
        ({"vrf": ticket_of(OTHER)["vrf"]}, InvalidProof),
        ({"clock": {"2": "1"}}, InvalidClock),
    ],
)
def test_every_wrong_part_of_a_ticket_is_refused(change: dict[str, Any], error: type[ProtocolError]) -> None:
    with pytest.raises(error):
        check_ticket(parse_message(Ticket, ticket_of(OPERATOR) | change), DRAW, OPERATOR.address)


def test_a_true_result_and_a_true_refusal_pass() -> None:
    check_result(signed_result({}), TERMS, TICKET, "executor", DOMAIN)
    refusal = signed_result({"result": "", "reason": "no memory left", "transcript": None})
    check_result(refusal, TERMS, TICKET, "executor", DOMAIN)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"job_id": "0" * 64}, InvalidMessage),
        ({"user": "another"}, InvalidMessage),
        ({"tag": "malicious"}, InvalidMessage),
        ({"position": "before"}, InvalidMessage),
        ({"role": "verifier"}, InvalidMessage),
        ({"operator": OTHER.address}, InvalidMessage),
        ({"model": {"name": "tiny.gguf", "sha256": "0" * 64}}, InvalidMessage),
        ({"model": {"name": "other.gguf", "sha256": MODEL.sha256}}, InvalidMessage),
        ({"vrf": TICKET.vrf.to_json() | {"selected": False}}, InvalidMessage),
        ({"clock": {"1": "3", "2": "2"}}, InvalidClock),
        ({"transcript": None}, InvalidTranscript),
        ({"reason": "no memory left"}, InvalidTranscript),
        ({"transcript": TRANSCRIPT | {"model": "0" * 64}}, InvalidTranscript),
        ({"transcript": TRANSCRIPT | {"params": TRANSCRIPT["params"] | {"top_p": 0.6}}}, InvalidTranscript),
        ({"transcript": TRANSCRIPT | {"seed": ROUND_SEED}}, InvalidTranscript),
        ({"transcript": TRANSCRIPT | {"prover": OTHER.address}}, InvalidTranscript),
    ],
)
def test_every_wrong_part_of_a_result_is_refused_though_it_is_signed(
    change: dict[str, Any], error: type[ProtocolError]
) -> None:
    with pytest.raises(error):
        check_result(signed_result(change), TERMS, TICKET, "executor", DOMAIN)


@pytest.mark.parametrize(
    "change",
    [
        {"result": "So it is not."},
        {"clock": {"1": "5", "2": "2"}},
        {"transcript": TRANSCRIPT | {"output_tokens": [5, 3]}},
        {"transcript": TRANSCRIPT | {"fingerprints": base64.b64encode(bytes([1] * 32)).decode()}},
        {"transcript": TRANSCRIPT | {"engine": "another"}},
    ],
)
def test_what_was_changed_after_signing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidSignature):
        check_result(signed_result({}).model_copy(update=change), TERMS, TICKET, "executor", DOMAIN)


ENCLAVE = Enclave(1, MODEL)
TEE = parse_message(JobSpec, JOB.to_json() | {"tag": "tee"})
TEE_TERMS = replace(TERMS, job=TEE)


def enclosed(changes: dict[str, Any], job: JobSpec = TEE, **how: Any) -> JobResult:
    """A result with its enclave's statement, both signed after the changes; those of `enclave` come after its signature."""
    changes = dict(changes)
    bent = changes.pop("enclave", {})
    said = parse_message(JobResult, RESULT | changes)
    commitment = Transcript.from_json(said.transcript).commitment() if said.transcript else NO_DIGEST
    statement = ENCLAVE.state(execution_claim(said, job, SEED, commitment), DOMAIN)
    return signed_result(changes | {"enclave": None if bent is None else statement | bent}, **how)


def test_a_tee_answer_comes_with_its_enclave_s_statement() -> None:
    statement = check_result(enclosed({}), TEE_TERMS, TICKET, "executor", DOMAIN)
    assert statement is not None
    assert statement.attestation.keyset == ENCLAVE.keyset
    assert check_result(signed_result({}), TERMS, TICKET, "executor", DOMAIN) is None
    refusal = signed_result({"result": "", "reason": "the enclave is gone", "transcript": None})
    assert check_result(refusal, TEE_TERMS, TICKET, "executor", DOMAIN) is None


def test_what_the_operator_says_and_what_the_enclave_says_are_checked_apart() -> None:
    """As evidence does it, so that the one that is wrong is named."""
    bad = enclosed({"enclave": {"signature": "1" * 130}})
    commitment = check_work(bad, TEE_TERMS, TICKET, "executor", DOMAIN)
    assert commitment == Transcript.from_json(TRANSCRIPT).commitment()
    with pytest.raises(ProtocolError):
        check_enclave(bad, TEE_TERMS, commitment, DOMAIN)
    assert check_enclave(enclosed({}), TEE_TERMS, commitment, DOMAIN) is not None


@pytest.mark.parametrize(
    ("result", "terms", "said"),
    [
        (signed_result({}), TEE_TERMS, "must come with its enclave's statement"),
        (enclosed({"enclave": None}), TEE_TERMS, "must come with its enclave's statement"),
        (enclosed({}), TERMS, "only an answer to a tee job"),
        (
            enclosed({"result": "", "reason": "no memory left", "transcript": None}),
            TEE_TERMS,
            "only an answer to a tee job",
        ),
        (
            enclosed({}, job=JOB.model_copy(update={"prompt": "Say yes."})),
            TEE_TERMS,
            "not by the enclave's key",
        ),
        (
            enclosed({"transcript": TRANSCRIPT, "enclave": {"attestation": Enclave(2, MODEL).attest(SEED)}}),
            TEE_TERMS,
            "not by the enclave's key",
        ),
    ],
)
def test_a_tee_answer_without_its_enclave_s_word_is_refused_though_it_is_signed(
    result: JobResult, terms: Terms, said: str
) -> None:
    with pytest.raises(InvalidAttestation, match=said):
        check_result(result, terms, TICKET, "executor", DOMAIN)


def test_another_statement_than_the_operator_signed_is_refused() -> None:
    good = enclosed({})
    assert good.enclave is not None
    newer = good.enclave | {"attestation": good.enclave["attestation"] | {"collateral": None}}
    with pytest.raises(InvalidSignature, match="not by its operator"):
        check_result(good.model_copy(update={"enclave": newer}), TEE_TERMS, TICKET, "executor", DOMAIN)


def sealed_terms() -> Terms:
    sealed = seal_prompt(
        {"prompt": "What is AI?"}, (MODEL.name, JOB.params), "07" * 32, [(OPERATOR.address, ENCLAVE.keyset)]
    )
    job = {name: value for name, value in TEE.to_json().items() if name != "prompt"}
    return replace(TERMS, job=parse_message(JobSpec, job | {"sealed": sealed.to_json()}))


def test_an_answer_to_a_sealed_prompt_has_its_transcript_inside() -> None:
    terms = sealed_terms()
    good = enclosed({"result": "c2VhbGVk", "transcript": None}, job=terms.job)
    assert check_result(good, terms, TICKET, "executor", DOMAIN) is not None
    with pytest.raises(InvalidTranscript, match="belongs inside the sealed answer"):
        check_result(enclosed({}, job=terms.job), terms, TICKET, "executor", DOMAIN)


def test_a_true_score_is_returned() -> None:
    assert checked(signed_score({})) == parse_message(Score, NUMBERS)


def test_a_true_score_of_a_claim_is_returned() -> None:
    assert checked(signed_score({"subject_operator": None}), subject_operator=None) is not None


def test_a_verifier_may_say_why_it_has_no_score() -> None:
    assert checked(signed_score({"score": None, "reason": "no such model"})) is None


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"job_id": "0" * 64}, InvalidMessage, "job, user, operator or subject"),
        ({"user": "another"}, InvalidMessage, "job, user, operator or subject"),
        ({"operator": OTHER.address}, InvalidMessage, "job, user, operator or subject"),
        ({"subject": "5c" * 32}, InvalidMessage, "job, user, operator or subject"),
        ({"subject_operator": None}, InvalidMessage, "job, user, operator or subject"),
        ({"subject_operator": OPERATOR.address}, InvalidMessage, "job, user, operator or subject"),
        ({"tag": "malicious"}, InvalidMessage, "another round"),
        ({"position": "before"}, InvalidMessage, "another round"),
        ({"challenge": 0}, InvalidMessage, "another round"),
        ({"challenge": 3}, InvalidMessage, "another round"),
        ({"model": {"name": "tiny.gguf", "sha256": "0" * 64}}, InvalidMessage, "made with"),
        ({"model": {"name": "other.gguf", "sha256": MODEL.sha256}}, InvalidMessage, "made with"),
        ({"vrf": ticket_of(OTHER)["vrf"]}, InvalidMessage, "another ticket"),
        ({"score": None}, InvalidMessage, "either its numbers or a reason"),
        ({"reason": "no such model"}, InvalidMessage, "either its numbers or a reason"),
        ({"clock": {"1": "3", "2": "2"}}, InvalidClock, "dominate"),
        ({"score": NUMBERS | {"subject": "5c" * 32}}, InvalidMessage, "another subject or model"),
        ({"score": NUMBERS | {"model": "0" * 64}}, InvalidMessage, "another subject or model"),
        ({"score": NUMBERS | {"margins": [0.0, 0.0]}}, InvalidMessage, "margins has 2 entries"),
        ({"score": {}}, InvalidMessage, "Field required"),
    ],
)
def test_every_wrong_part_of_a_score_is_refused_though_it_is_signed(
    change: dict[str, Any], error: type[ProtocolError], said: str
) -> None:
    with pytest.raises(error, match=said):
        checked(signed_score(change))


@pytest.mark.parametrize(
    "change",
    [
        {"score": NUMBERS | {"margins": [0.000001]}},
        {"score": NUMBERS | {"winners": [8]}},
        {"score": NUMBERS | {"contradiction": "end"}},
        {"clock": {"1": "5", "2": "2"}},
    ],
)
def test_a_score_changed_after_signing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidSignature):
        checked(signed_score({}).model_copy(update=change))


SIGNS: list[Callable[[], object]] = [
    lambda: checked(signed_score({}, OTHER)),
    lambda: checked(signed_score({}, domain=Domain(1, DOMAIN.registry))),
    lambda: check_result(signed_result({}, OTHER), TERMS, TICKET, "executor", DOMAIN),
    lambda: check_result(
        signed_result({}, domain=Domain(1, DOMAIN.registry)), TERMS, TICKET, "executor", DOMAIN
    ),
]


@pytest.mark.parametrize("check", SIGNS)
def test_another_s_signature_or_one_for_another_chain_is_refused(check: Callable[[], object]) -> None:
    with pytest.raises(InvalidSignature, match="signed by"):
        check()
