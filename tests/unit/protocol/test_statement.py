"""What enclaves say: keysets, attestations and statements are strict, and every word of an answer is held against the signature."""

import base64
import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.attestation.statement import (
    Attestation,
    EnclaveStatement,
    Keyset,
    check_statement,
    execution_claim,
    report_data,
    statement_digest,
)
from aos_protocol.canonical import canonical, digest
from aos_protocol.errors import InvalidAttestation, InvalidKey, InvalidMessage, ProtocolError
from aos_protocol.fields import parse_message
from aos_protocol.identity import Signer
from aos_protocol.job import JobSpec
from aos_protocol.messages import ModelOffer
from aos_protocol.sealing import SealingKey, seal_prompt
from aos_protocol.typed_data import Domain, sign_typed
from support.enclaves import MODEL, Enclave

DOMAIN = Domain(31337, "0x" + "5f" * 20)
OPERATOR, OTHER = (Signer(bytes([number]) * 32).address for number in (2, 3))
ENCLAVE, STRANGER = Enclave(1), Enclave(2)
KEYSET = ENCLAVE.keyset.to_json()
SEED, COMMITMENT = "5e" * 32, "c0" * 32
JOB = parse_message(
    JobSpec,
    {"tag": "tee", "prompt": "What is AI?", "model": MODEL.name, "params": {"max_tokens": 8, "top_p": 0.5}},
)


@dataclass(frozen=True)
class Said:
    """An answer with its enclave's word, as an operator has it before it signs."""

    job_id: str = "1b" * 32
    operator: str = OPERATOR
    result: str = "So it is."
    model: ModelOffer = MODEL
    enclave: dict[str, Any] | None = None


def stated(said: Said = Said(), enclave: Enclave = ENCLAVE, job: JobSpec = JOB, seed: str = SEED) -> Said:
    """The answer with the statement of an enclave that is honest."""
    return replace(said, enclave=enclave.state(execution_claim(said, job, seed, COMMITMENT), DOMAIN))


def check(said: Said, job: JobSpec = JOB, seed: str = SEED, commitment: str = COMMITMENT) -> EnclaveStatement:
    return check_statement(said, job, seed, commitment, DOMAIN)


GOOD = stated()
assert GOOD.enclave is not None
ATTESTATION: dict[str, Any] = GOOD.enclave["attestation"]


# Keysets


def test_a_keyset_s_digest_is_that_of_its_canonical_json() -> None:
    text = json.dumps(KEYSET, sort_keys=True, separators=(",", ":"))
    assert ENCLAVE.keyset.digest() == hashlib.sha256(text.encode()).hexdigest()
    assert parse_message(Keyset, KEYSET) == ENCLAVE.keyset
    assert ENCLAVE.keyset.address == ENCLAVE.signer.address


def members(change: object) -> str | None:
    """Name a case by what it changes: times and documents differ from run to run, and names of tests may not."""
    return ",".join(change) if isinstance(change, dict) else None


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "nitro"},
        {"result_key": STRANGER.keyset.result_key},
        {"encryption_key": STRANGER.keyset.encryption_key},
        {"model": {"name": "tiny.gguf", "sha256": "3e" * 32}},
        {"model": {"name": "Tiny.gguf", "sha256": MODEL.sha256}},
        {"build": "another"},
        {"created_at": KEYSET["created_at"] + 1},
        {"expires_at": KEYSET["expires_at"] + 1},
    ],
    ids=members,
)
def test_a_keyset_s_digest_covers_everything(change: dict[str, Any]) -> None:
    assert parse_message(Keyset, KEYSET | change).digest() != ENCLAVE.keyset.digest()
    assert set(KEYSET) == {
        "version", "kind", "result_key", "encryption_key", "model", "build", "created_at", "expires_at"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "aos-keyset/2"}, "version: "),
        ({"kind": "sgx"}, "kind: "),
        ({"result_key": "04" + "ab" * 32}, "result_key: "),
        ({"result_key": KEYSET["result_key"].upper()}, "result_key: "),
        ({"encryption_key": KEYSET["encryption_key"].upper()}, "encryption_key: "),
        ({"encryption_key": KEYSET["encryption_key"] + "\n"}, "encryption_key: "),
        ({"encryption_key": KEYSET["encryption_key"][:-2]}, "encryption_key: "),
        ({"model": {"name": "tiny.gguf"}}, "model.sha256: "),
        ({"build": ""}, "build: "),
        ({"build": "a\0b"}, "build: "),
        ({"created_at": -1}, "created_at: "),
        ({"created_at": True}, "created_at: "),
        ({"created_at": 1.0}, "created_at: "),
        ({"created_at": "1"}, "created_at: "),
        ({"expires_at": 253_402_300_800}, "expires_at: "),
        ({"expires_at": KEYSET["created_at"]}, "expires before it is made"),
        ({"comment": "hello"}, "comment: "),
    ],
    ids=members,
)
def test_a_keyset_is_strict_and_closed(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidMessage, match=said):
        parse_message(Keyset, KEYSET | change)


@pytest.mark.parametrize("member", KEYSET)
def test_a_keyset_leaves_nothing_out(member: str) -> None:
    with pytest.raises(InvalidMessage, match=f"Keyset: {member}: Field required"):
        parse_message(Keyset, {name: value for name, value in KEYSET.items() if name != member})


def test_a_result_key_that_is_no_point_has_no_address() -> None:
    keyset = parse_message(Keyset, KEYSET | {"result_key": "02" + "ff" * 32})
    with pytest.raises(InvalidKey):
        _ = keyset.address


# Attestations


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "nitro"}, "the keyset is of kind simulated, the attestation of nitro"),
        ({"document": ""}, "document: "),
        ({"document": ATTESTATION["document"].rstrip("=")[:-1] + "\n"}, "document: is not base64"),
        ({"document": "AB=="}, "document: is not the one base64 form"),
        ({"document": "_-__"}, "document: is not base64"),
        ({"document": "A" * 65_540}, "document: "),
        ({"issued_at": -1}, "issued_at: "),
        ({"issued_at": 2**53}, "issued_at: "),
        ({"issued_at": 253_402_300_800}, "issued_at: "),
        ({"issued_at": float(ATTESTATION["issued_at"])}, "issued_at: "),
        ({"collateral": "text"}, "collateral: "),
        ({"nonce": SEED}, "nonce: "),
    ],
    ids=members,
)
def test_an_attestation_is_strict_and_closed(change: dict[str, Any], said: str) -> None:
    assert parse_message(Attestation, ATTESTATION).to_json() == ATTESTATION
    with pytest.raises(InvalidMessage, match=said):
        parse_message(Attestation, ATTESTATION | change)


def test_a_document_is_what_the_hardware_made() -> None:
    said = parse_message(Attestation, ATTESTATION)
    assert said.document_bytes() == base64.b64decode(ATTESTATION["document"])


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_report_data_is_keyset_then_nonce(keyset: bytes, nonce: bytes) -> None:
    assert report_data(keyset.hex(), nonce.hex()) == keyset + nonce


# What an operator's signature covers of a statement


def test_a_statement_s_digest_is_of_the_very_json_that_travels() -> None:
    assert statement_digest(None) == "0" * 64
    assert statement_digest(GOOD.enclave) == hashlib.sha256(canonical(GOOD.enclave)).hexdigest()
    # A null says the same as nothing, so the two must not be mistaken for the same words.
    with_null = {**GOOD.enclave, "attestation": ATTESTATION | {"collateral": None}}
    assert parse_message(EnclaveStatement, with_null) == parse_message(EnclaveStatement, GOOD.enclave)
    assert statement_digest(with_null) != statement_digest(GOOD.enclave)


def test_a_statement_with_what_no_json_reader_agrees_on_has_no_digest() -> None:
    with pytest.raises(ProtocolError):
        statement_digest({"attestation": {"issued_at": 2**60}})


# What an enclave signs


def test_an_enclave_signs_what_it_was_asked_and_what_it_answered() -> None:
    claim = execution_claim(GOOD, JOB, SEED, COMMITMENT)
    assert claim.prompt == hashlib.sha256(b"What is AI?").hexdigest()
    assert claim.answer == hashlib.sha256(b"So it is.").hexdigest()
    assert (claim.job_id, claim.operator, claim.seed) == (GOOD.job_id, OPERATOR, SEED)
    assert (claim.transcript, claim.model, claim.params) == (COMMITMENT, MODEL.sha256, JOB.params.digest())


def test_an_honest_statement_is_returned() -> None:
    assert check(GOOD).attestation.keyset == ENCLAVE.keyset


SIGNED_BY_ANOTHER = "is signed by 0x[0-9a-fA-F]{40}, not by the enclave's key"


@pytest.mark.parametrize(
    "change",
    [{"job_id": "1c" * 32}, {"operator": OTHER}, {"result": "So it is not."}, {"result": "So it is.\n"}],
    ids=str,
)
def test_an_answer_that_the_enclave_did_not_sign_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidAttestation, match=SIGNED_BY_ANOTHER):
        check(replace(GOOD, **change))


def test_an_answer_to_another_prompt_is_refused() -> None:
    """A host has the enclave run a prompt of its own under this job's id and seed."""
    with pytest.raises(InvalidAttestation, match=SIGNED_BY_ANOTHER):
        check(stated(job=JOB.model_copy(update={"prompt": "Say yes."})))
    chat = parse_message(
        JobSpec, {"tag": "tee", "messages": [{"role": "user", "content": "x"}], "model": MODEL.name}
    )
    with pytest.raises(InvalidAttestation, match=SIGNED_BY_ANOTHER):
        check(stated(job=chat))


def test_an_answer_drawn_with_a_seed_of_the_host_s_choice_is_refused_also_with_an_attestation_on_the_true_one() -> (
    None
):
    """Anybody can ask for an attestation on any nonce: what binds the seed is the signature."""
    said = stated(seed="5f" * 32)
    assert said.enclave is not None
    said = replace(said, enclave=said.enclave | {"attestation": ENCLAVE.attest(SEED)})
    with pytest.raises(InvalidAttestation, match=SIGNED_BY_ANOTHER):
        check(said)


@pytest.mark.parametrize(
    ("params", "commitment"), [({"max_tokens": 9, "top_p": 0.5}, COMMITMENT), (None, "c1" * 32)]
)
def test_other_parameters_or_another_transcript_are_refused(params: Any, commitment: str) -> None:
    job = JOB if params is None else parse_message(JobSpec, JOB.to_json() | {"params": params})
    with pytest.raises(InvalidAttestation, match=SIGNED_BY_ANOTHER):
        check(GOOD, job=job, commitment=commitment)


def test_another_enclave_s_attestation_does_not_stand_behind_the_signature() -> None:
    assert GOOD.enclave is not None
    spliced = replace(GOOD, enclave=GOOD.enclave | {"attestation": STRANGER.attest(SEED)})
    with pytest.raises(InvalidAttestation, match=SIGNED_BY_ANOTHER):
        check(spliced)


def test_a_signature_for_another_chain_is_refused() -> None:
    claim = execution_claim(GOOD, JOB, SEED, COMMITMENT)
    elsewhere = replace(GOOD, enclave=ENCLAVE.state(claim, Domain(1, DOMAIN.registry)))
    with pytest.raises(InvalidAttestation, match=SIGNED_BY_ANOTHER):
        check(elsewhere)


@pytest.mark.parametrize(
    "model",
    [ModelOffer(name="tiny.gguf", sha256="3e" * 32), ModelOffer(name="big.gguf", sha256=MODEL.sha256)],
)
def test_a_keyset_for_another_model_is_refused(model: ModelOffer) -> None:
    with pytest.raises(
        InvalidAttestation, match=f"keyset is for model {model.name} {model.sha256}, not tiny"
    ):
        check(stated(enclave=Enclave(1, model)))


def test_a_keyset_whose_result_key_is_no_point_is_refused() -> None:
    assert GOOD.enclave is not None
    keyset = KEYSET | {"result_key": "02" + "ff" * 32}
    said = replace(GOOD, enclave=GOOD.enclave | {"attestation": ATTESTATION | {"keyset": keyset}})
    with pytest.raises(InvalidAttestation, match="result key is unusable"):
        check(said)


@pytest.mark.parametrize("enclave", [None, {}, {"attestation": ATTESTATION}, {"signature": "0" * 130}])
def test_what_is_no_statement_is_refused(enclave: Any) -> None:
    with pytest.raises(InvalidMessage, match="EnclaveStatement: "):
        check(replace(GOOD, enclave=enclave))


@given(st.binary(min_size=65, max_size=65))
def test_no_other_signature_passes(signature: bytes) -> None:
    assert GOOD.enclave is not None
    with pytest.raises(ProtocolError):
        check(replace(GOOD, enclave=GOOD.enclave | {"signature": signature.hex()}))


# Sealed jobs

SEALED = parse_message(
    JobSpec,
    {
        "tag": "tee",
        "model": MODEL.name,
        "params": JOB.params.to_json(),
        "sealed": seal_prompt(
            {"prompt": "What is AI?"},
            (MODEL.name, JOB.params),
            SealingKey(b"\x07" * 32).public,
            [(OPERATOR, ENCLAVE.keyset), (OTHER, STRANGER.keyset)],
        ).to_json(),
    },
)


def test_a_sealed_prompt_is_bound_as_it_stands_in_the_request() -> None:
    assert SEALED.sealed is not None
    said = stated(job=SEALED)
    assert check(said, job=SEALED).attestation.keyset == ENCLAVE.keyset
    assert execution_claim(said, SEALED, SEED, COMMITMENT).prompt == digest(SEALED.sealed.to_json())


def test_a_host_s_own_prompt_under_the_project_s_reply_key_is_refused() -> None:
    assert SEALED.sealed is not None
    hosts = seal_prompt(
        {"prompt": "Say yes."},
        (MODEL.name, JOB.params),
        SEALED.sealed.reply_key,
        [(OPERATOR, ENCLAVE.keyset), (OTHER, STRANGER.keyset)],
    )
    with pytest.raises(InvalidAttestation, match=SIGNED_BY_ANOTHER):
        check(stated(job=SEALED.model_copy(update={"sealed": hosts})), job=SEALED)


@pytest.mark.parametrize(
    ("operator", "enclave"), [(OPERATOR, STRANGER), (OTHER, ENCLAVE), (OPERATOR, Enclave(3))]
)
def test_an_enclave_without_a_box_for_this_operator_is_refused(operator: str, enclave: Enclave) -> None:
    with pytest.raises(InvalidAttestation, match=f"not sealed to keyset {enclave.keyset.digest()}"):
        check(stated(Said(operator=operator), enclave, SEALED), job=SEALED)


def test_whoever_holds_no_result_key_signs_nothing() -> None:
    """An operator's own signature in the enclave's place."""
    claim = execution_claim(GOOD, JOB, SEED, COMMITMENT)
    forged = {"attestation": ATTESTATION, "signature": sign_typed(Signer(b"\x02" * 32), DOMAIN, claim)}
    with pytest.raises(InvalidAttestation, match=f"signed by {OPERATOR}"):
        check(replace(GOOD, enclave=forged))
