import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.errors import InvalidAddress, InvalidMessage, InvalidSignature
from aos_protocol.identity import Signer, recover_digest
from aos_protocol.typed_data import (
    ChallengeClaim,
    Domain,
    ExecutionClaim,
    ReceiptClaim,
    ResultClaim,
    ScoreClaim,
    SeatClaim,
    SessionClaim,
    SignedClaim,
    TreeHeadClaim,
    VoteClaim,
    recover_typed,
    sign_typed,
    struct_hash,
    typed_digest,
    typed_document,
)

MAIL = Path(__file__).parents[4] / "shared" / "vectors" / "ethereum" / "eip712_mail.json"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SIGNER = Signer(b"\x07" * 32)
DOMAIN = Domain(31337, "0x" + "5f" * 20)
DIGESTS = [f"{number:064x}" for number in range(1, 9)]
RESULT = ResultClaim(
    job_id=DIGESTS[0],
    dispatcher="0x" + "5a" * 20,
    operator=SIGNER.address,
    role="executor",
    tag="suspicion",
    position="before",
    counter=9,
    registry_block=17,
    answer=DIGESTS[1],
    transcript=DIGESTS[2],
    model=DIGESTS[3],
    params=DIGESTS[4],
    vrf_proof=DIGESTS[5],
    clock=DIGESTS[6],
    attestation="0" * 64,
)
RECEIPT = ReceiptClaim(job_id=DIGESTS[0], sequence=12, request=DIGESTS[1])
EXECUTION = ExecutionClaim(
    job_id=DIGESTS[0],
    operator=SIGNER.address,
    prompt=DIGESTS[1],
    seed=DIGESTS[2],
    answer=DIGESTS[3],
    transcript=DIGESTS[4],
    model=DIGESTS[5],
    params=DIGESTS[6],
)

HEX64 = st.binary(min_size=32, max_size=32).map(bytes.hex)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = st.integers(0, 2**256 - 1)
ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex())
RESULTS = st.builds(
    ResultClaim,
    dispatcher=ADDRESSES,
    operator=ADDRESSES,
    role=TEXTS,
    tag=TEXTS,
    position=TEXTS,
    counter=NUMBERS,
    registry_block=NUMBERS,
    **dict.fromkeys(
        ("job_id", "answer", "transcript", "model", "params", "vrf_proof", "clock", "attestation"), HEX64
    ),
)
RECEIPTS = st.builds(ReceiptClaim, job_id=HEX64, sequence=st.integers(0, 2**256 - 1), request=HEX64)
SCORES = st.builds(
    ScoreClaim,
    operator=ADDRESSES,
    tag=TEXTS,
    position=TEXTS,
    challenge=st.integers(0, 2**256 - 1),
    **dict.fromkeys(("job_id", "subject", "score", "model", "params", "vrf_proof", "clock"), HEX64),
)
EXECUTIONS = st.builds(
    ExecutionClaim,
    operator=ADDRESSES,
    **dict.fromkeys(("job_id", "prompt", "seed", "answer", "transcript", "model", "params"), HEX64),
)
CHALLENGES = st.builds(ChallengeClaim, operator=ADDRESSES, purpose=TEXTS, result=TEXTS, reason=TEXTS)
SEATS = st.builds(
    SeatClaim,
    job_id=HEX64,
    operator=ADDRESSES,
    role=TEXTS,
    tag=TEXTS,
    position=TEXTS,
    registry_block=NUMBERS,
)
SESSIONS = st.builds(
    SessionClaim,
    operator=ADDRESSES,
    url=TEXTS,
    expires_at=NUMBERS,
    **dict.fromkeys(("job_id", "model", "seed", "key"), HEX64),
)
HEADS = st.builds(TreeHeadClaim, dispatcher=ADDRESSES, size=NUMBERS, root=HEX64, timestamp=NUMBERS)
VOTES = st.builds(VoteClaim, challenge=NUMBERS, operator=ADDRESSES, verdict=st.integers(0, 255))
DOMAINS = st.builds(Domain, chain_id=st.integers(0, 2**256 - 1), registry=ADDRESSES)


@pytest.fixture
def mail() -> dict[str, Any]:
    if not MAIL.exists():
        pytest.skip(f"no published vectors at {MAIL}")
    return dict(json.loads(MAIL.read_text()))


def test_the_published_mail_is_signed_byte_for_byte(mail: dict[str, Any]) -> None:
    signer = Signer.from_hex(mail["private_key"])
    digest = typed_digest(mail["typed_data"])
    assert digest.hex() == mail["expected"]["signHash"][2:]
    assert signer._sign_digest(digest).hex() == mail["signature_rsv"][2:]
    assert recover_digest(digest, bytes.fromhex(mail["signature_rsv"][2:])) == signer.address


def word(value: str | int) -> bytes:
    return (
        value.to_bytes(32, "big")
        if isinstance(value, int)
        else bytes.fromhex(value.removeprefix("0x")).rjust(32, b"\0")
    )


def text(value: str) -> bytes:
    return keccak(value.encode())


def by_hand(domain: Domain, claim: SignedClaim) -> bytes:
    """EIP-712 written out for our structs."""
    separator = keccak(
        text("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
        + text("AOS")
        + text("1")
        + word(domain.chain_id)
        + word(domain.registry)
    )
    if isinstance(claim, ReceiptClaim):
        struct = text("Receipt(bytes32 jobId,uint256 sequence,bytes32 request)")
        struct += word(claim.job_id) + word(claim.sequence) + word(claim.request)
    elif isinstance(claim, ExecutionClaim):
        struct = text(
            "Execution(bytes32 jobId,address operator,bytes32 prompt,bytes32 seed,bytes32 answer,bytes32 transcript,"
            "bytes32 model,bytes32 params)"
        )
        struct += b"".join(map(word, (claim.job_id, claim.operator, claim.prompt, claim.seed, claim.answer)))
        struct += word(claim.transcript) + word(claim.model) + word(claim.params)
    elif isinstance(claim, SeatClaim):
        struct = text(
            "Seat(bytes32 jobId,address operator,string role,string tag,string position,uint256 registryBlock)"
        )
        struct += word(claim.job_id) + word(claim.operator) + text(claim.role) + text(claim.tag)
        struct += text(claim.position) + word(claim.registry_block)
    elif isinstance(claim, SessionClaim):
        struct = text(
            "Session(bytes32 jobId,address operator,bytes32 model,bytes32 seed,bytes32 key,string url,uint256 expiresAt)"
        )
        struct += b"".join(map(word, (claim.job_id, claim.operator, claim.model, claim.seed, claim.key)))
        struct += text(claim.url) + word(claim.expires_at)
    elif isinstance(claim, TreeHeadClaim):
        struct = text("TreeHead(address dispatcher,uint256 size,bytes32 root,uint256 timestamp)")
        struct += word(claim.dispatcher) + word(claim.size) + word(claim.root) + word(claim.timestamp)
    elif isinstance(claim, VoteClaim):
        struct = text("Vote(uint256 challenge,address operator,uint8 verdict)")
        struct += word(claim.challenge) + word(claim.operator) + word(claim.verdict)
    elif isinstance(claim, ChallengeClaim):
        struct = text("Challenge(address operator,string purpose,string result,string reason)")
        struct += word(claim.operator) + text(claim.purpose) + text(claim.result) + text(claim.reason)
    elif isinstance(claim, ScoreClaim):
        struct = text(
            "Score(bytes32 jobId,address operator,string tag,string position,uint256 challenge,bytes32 subject,"
            "bytes32 score,bytes32 model,bytes32 params,bytes32 vrfProof,bytes32 clock)"
        )
        struct += word(claim.job_id) + word(claim.operator) + text(claim.tag) + text(claim.position)
        struct += b"".join(
            map(word, (claim.challenge, claim.subject, claim.score, claim.model, claim.params))
        )
        struct += word(claim.vrf_proof) + word(claim.clock)
    else:
        struct = text(
            "Result(bytes32 jobId,address dispatcher,address operator,string role,string tag,string position,"
            "uint256 counter,uint256 registryBlock,bytes32 answer,bytes32 transcript,bytes32 model,bytes32 params,"
            "bytes32 vrfProof,bytes32 clock,bytes32 attestation)"
        )
        struct += word(claim.job_id) + word(claim.dispatcher) + word(claim.operator)
        struct += text(claim.role) + text(claim.tag) + text(claim.position)
        struct += word(claim.counter) + word(claim.registry_block)
        struct += b"".join(map(word, (claim.answer, claim.transcript, claim.model, claim.params)))
        struct += word(claim.vrf_proof) + word(claim.clock) + word(claim.attestation)
    return keccak(b"\x19\x01" + separator + keccak(struct))


@given(DOMAINS, RESULTS | RECEIPTS | SCORES | EXECUTIONS | CHALLENGES | SEATS | SESSIONS | HEADS | VOTES)
def test_claims_are_encoded_as_eip_712_says(domain: Domain, claim: SignedClaim) -> None:
    digest = by_hand(domain, claim)
    assert typed_digest(typed_document(domain, claim)) == digest
    signature = sign_typed(SIGNER, domain, claim)
    assert recover_digest(digest, bytes.fromhex(signature)) == SIGNER.address
    assert recover_typed(domain, claim, signature) == SIGNER.address


@pytest.mark.parametrize("claim", [RESULT, RECEIPT, EXECUTION])
def test_other_wallets_make_the_same_signature(claim: ResultClaim | ReceiptClaim | ExecutionClaim) -> None:
    signed = Account.sign_typed_data(SIGNER.secret, full_message=typed_document(DOMAIN, claim))
    assert sign_typed(SIGNER, DOMAIN, claim) == bytes(signed.signature).hex()


def test_no_struct_can_be_taken_for_another() -> None:
    """What an enclave, an operator, a verifier, a challenger and a dispatcher sign has a name of its own in its type."""
    kinds: list[Any] = [ResultClaim, ReceiptClaim, ScoreClaim, ExecutionClaim, ChallengeClaim]
    kinds += [SeatClaim, SessionClaim, TreeHeadClaim, VoteClaim]
    names = [kind.primary_type for kind in kinds]
    assert names[:5] == ["Result", "Receipt", "Score", "Execution", "Challenge"]
    assert names[5:] == ["Seat", "Session", "TreeHead", "Vote"]
    for kind in kinds:
        declared = {attribute for _, _, attribute in kind.fields}
        assert declared == {field.name for field in fields(kind)}, "a field that is not signed"


def test_an_enclave_s_signature_is_none_of_an_operator_with_the_same_words() -> None:
    same = replace(RESULT, answer=EXECUTION.answer, transcript=EXECUTION.transcript, model=EXECUTION.model)
    assert recover_typed(DOMAIN, same, sign_typed(SIGNER, DOMAIN, EXECUTION)) != SIGNER.address


@pytest.mark.parametrize("claim", [RESULT, RECEIPT, EXECUTION])
def test_every_field_is_bound(claim: ResultClaim | ReceiptClaim | ExecutionClaim) -> None:
    signature = sign_typed(SIGNER, DOMAIN, claim)
    for field in fields(claim):
        value = getattr(claim, field.name)
        other: Any = "0x" + "22" * 20 if field.name in {"operator", "dispatcher"} else "f" * 64
        if field.name in {"role", "tag", "position"}:
            other = value + "x"
        if isinstance(value, int):
            other = value + 1
        changed = replace(claim, **{field.name: other})
        assert recover_typed(DOMAIN, changed, signature) != SIGNER.address, field.name


def test_neighbouring_strings_are_not_confused() -> None:
    signature = sign_typed(SIGNER, DOMAIN, replace(RESULT, tag="ab", position="c"))
    assert recover_typed(DOMAIN, replace(RESULT, tag="a", position="bc"), signature) != SIGNER.address


@pytest.mark.parametrize("other", [Domain(1, DOMAIN.registry), Domain(31337, "0x" + "60" * 20)])
def test_the_domain_is_bound(other: Domain) -> None:
    signature = sign_typed(SIGNER, DOMAIN, RESULT)
    assert recover_typed(DOMAIN, RESULT, signature) == SIGNER.address
    assert recover_typed(other, RESULT, signature) != SIGNER.address


def test_addresses_are_taken_in_every_spelling_and_kept_in_one() -> None:
    lower = replace(RESULT, operator=RESULT.operator.lower())
    assert lower == RESULT
    assert sign_typed(SIGNER, DOMAIN, lower) == sign_typed(SIGNER, DOMAIN, RESULT)
    assert Domain(1, "AB" * 20) == Domain(1, "0x" + "ab" * 20)


def test_high_s_twins_are_refused() -> None:
    signature = bytes.fromhex(sign_typed(SIGNER, DOMAIN, RESULT))
    s = ORDER - int.from_bytes(signature[32:64], "big")
    twin = signature[:32] + s.to_bytes(32, "big") + bytes((55 - signature[64],))
    with pytest.raises(InvalidSignature, match="upper half"):
        recover_typed(DOMAIN, RESULT, twin.hex())


@pytest.mark.parametrize("bad", ["", "0x", "00" * 64, "0x" + "11" * 65, "AA" * 65, "zz" * 65])
def test_malformed_signatures_are_refused(bad: str) -> None:
    with pytest.raises(InvalidSignature, match="130 lower-case hex digits"):
        recover_typed(DOMAIN, RESULT, bad)


@pytest.mark.parametrize(
    "bad", ["", "0" * 63, "0" * 65, "0x" + "0" * 62, "0x" + "0" * 64, "A" * 64, "g" * 64, None, b""]
)
def test_digests_must_be_64_lower_case_digits(bad: Any) -> None:
    for name in ("job_id", "answer", "transcript", "model", "params", "vrf_proof", "clock", "attestation"):
        with pytest.raises(InvalidMessage, match=f"{name} must be 64"):
            replace(RESULT, **{name: bad})
    for name in ("job_id", "request"):
        with pytest.raises(InvalidMessage, match=f"{name} must be 64"):
            replace(RECEIPT, **{name: bad})
    for name in ("job_id", "prompt", "seed", "answer", "transcript", "model", "params"):
        with pytest.raises(InvalidMessage, match=f"{name} must be 64"):
            replace(EXECUTION, **{name: bad})


@pytest.mark.parametrize("bad", [None, 1, b"executor", "\ud800"])
def test_names_must_be_text(bad: Any) -> None:
    for name in ("role", "tag", "position"):
        with pytest.raises(InvalidMessage, match=f"{name} must be a string"):
            replace(RESULT, **{name: bad})


@pytest.mark.parametrize("bad", [-1, 2**256, True, "1", 1.0, None])
def test_numbers_must_be_uint256(bad: Any) -> None:
    with pytest.raises(InvalidMessage, match="sequence must be an integer"):
        replace(RECEIPT, sequence=bad)
    with pytest.raises(InvalidMessage, match="chain_id must be a uint256"):
        Domain(bad, DOMAIN.registry)


def test_wrong_addresses_are_refused() -> None:
    with pytest.raises(InvalidAddress):
        replace(RESULT, operator="0x12")
    with pytest.raises(InvalidAddress):
        Domain(1, "registry")


def break_type(document: dict[str, Any]) -> None:
    document["types"]["Receipt"][0]["type"] = "Missing"


def break_value(document: dict[str, Any]) -> None:
    document["message"]["jobId"] = bytes(33)


def break_domain(document: dict[str, Any]) -> None:
    document["domain"]["colour"] = "red"


def break_number(document: dict[str, Any]) -> None:
    document["message"]["sequence"] = -1


def drop_value(document: dict[str, Any]) -> None:
    del document["message"]["sequence"]


def drop_types(document: dict[str, Any]) -> None:
    del document["types"]


@pytest.mark.parametrize(
    "spoil", [break_type, break_value, break_domain, break_number, drop_value, drop_types]
)
def test_documents_that_do_not_fit_their_types_are_refused(spoil: Any) -> None:
    document = typed_document(DOMAIN, RECEIPT)
    spoil(document)
    with pytest.raises(InvalidMessage, match="does not fit its types"):
        typed_digest(document)


def test_the_hash_of_a_struct_is_what_its_members_encode_to() -> None:
    """By EIP-712, encodeData is the type's hash, then each member in 32 bytes, texts by their hashes; the domain has no part in it."""
    seat = SeatClaim(DIGESTS[0], SIGNER.address, "executor", "suspicion", "after", 7)
    members = ",".join(f"{kind} {name}" for name, kind, _ in SeatClaim.fields)
    parts = [
        keccak(f"Seat({members})".encode()),
        bytes.fromhex(DIGESTS[0]),
        bytes.fromhex(SIGNER.address[2:]).rjust(32, b"\0"),
        *(keccak(text.encode()) for text in ("executor", "suspicion", "after")),
        (7).to_bytes(32, "big"),
    ]
    assert struct_hash(seat) == keccak(b"".join(parts))
