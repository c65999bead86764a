"""EIP-712 signatures over results, receipts and heads of logs, so that a contract can recover the signer.

Our claims are flat structs, encoded here: eth-account's encoder, which takes any document (`typed_digest`), needs some
fifteen times as long for one, and is the reference in tests. What depends on the domain alone is kept, since a program
signs and checks in one domain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

from eth_hash.auto import keccak

from aos_protocol.errors import InvalidMessage
from aos_protocol.identity import (
    Signer,
    checksum_address,
    parse_signature,
    recover_digest,
    recursion_limit_kept,
)

_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Domain:
    """Where signatures are valid: one chain (EIP-155 id) and the registry contract on it.

    Raises InvalidAddress or InvalidMessage.
    """

    chain_id: int
    registry: str

    def __post_init__(self) -> None:
        if not _is_uint256(self.chain_id):
            raise InvalidMessage("chain_id must be a uint256; take it from the chain's eth_chainId")
        object.__setattr__(self, "registry", checksum_address(self.registry))


@dataclass(frozen=True)
class ResultClaim:
    """What an operator signs about a result; digests are 64 hex digits (zeros: no attestation).

    `counter` is its own entry of its clock: two different results with one are equivocation, which a contract can see.
    `registry_block` is the block of the registry that the draw was made on, 0 without a chain; `vrf_proof` the digest of what
    the ticket was drawn on and of its proof (`messages.Vrf.digest`). Raises InvalidMessage or InvalidAddress for a malformed field.
    """

    job_id: str
    dispatcher: str
    operator: str
    role: str
    tag: str
    position: str
    counter: int
    registry_block: int
    answer: str
    transcript: str
    model: str
    params: str
    vrf_proof: str
    clock: str
    attestation: str

    primary_type: ClassVar[str] = "Result"
    # Name and type in the EIP-712 struct, and the attribute that holds the value.
    fields: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("jobId", "bytes32", "job_id"),
        ("dispatcher", "address", "dispatcher"),
        ("operator", "address", "operator"),
        ("role", "string", "role"),
        ("tag", "string", "tag"),
        ("position", "string", "position"),
        ("counter", "uint256", "counter"),
        ("registryBlock", "uint256", "registry_block"),
        ("answer", "bytes32", "answer"),
        ("transcript", "bytes32", "transcript"),
        ("model", "bytes32", "model"),
        ("params", "bytes32", "params"),
        ("vrfProof", "bytes32", "vrf_proof"),
        ("clock", "bytes32", "clock"),
        ("attestation", "bytes32", "attestation"),
    )

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class ExecutionClaim:
    """What an enclave signs about an answer: what it was asked, and all of the answer that stays the same however often it is sent.

    `prompt` is `JobSpec.prompt_digest`, `seed` the job's, `answer` the SHA-256 of the result's text, `transcript` the commitment
    (zeros for a sealed answer, which has it inside). Without prompt and seed, a host could have another prompt run, or try seeds
    until it likes an answer, and pass that on for this job. Raises InvalidMessage or InvalidAddress for a malformed field.
    """

    job_id: str
    operator: str
    prompt: str
    seed: str
    answer: str
    transcript: str
    model: str
    params: str

    primary_type: ClassVar[str] = "Execution"
    fields: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("jobId", "bytes32", "job_id"),
        ("operator", "address", "operator"),
        ("prompt", "bytes32", "prompt"),
        ("seed", "bytes32", "seed"),
        ("answer", "bytes32", "answer"),
        ("transcript", "bytes32", "transcript"),
        ("model", "bytes32", "model"),
        ("params", "bytes32", "params"),
    )

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class ScoreClaim:
    """What a verifier signs about a score; digests are 64 hex digits (zeros: there is no score).

    Raises InvalidMessage or InvalidAddress for a malformed field.
    """

    job_id: str
    operator: str
    tag: str
    position: str
    challenge: int
    subject: str
    score: str
    model: str
    params: str
    vrf_proof: str
    clock: str

    primary_type: ClassVar[str] = "Score"
    fields: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("jobId", "bytes32", "job_id"),
        ("operator", "address", "operator"),
        ("tag", "string", "tag"),
        ("position", "string", "position"),
        ("challenge", "uint256", "challenge"),
        ("subject", "bytes32", "subject"),
        ("score", "bytes32", "score"),
        ("model", "bytes32", "model"),
        ("params", "bytes32", "params"),
        ("vrfProof", "bytes32", "vrf_proof"),
        ("clock", "bytes32", "clock"),
    )

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class ChallengeClaim:
    """What an operator signs to have a result checked again: somebody else's (a challenge) or its own (an appeal).

    `result` is the id of the result's row. Raises InvalidMessage or InvalidAddress for a malformed field.
    """

    operator: str
    purpose: str
    result: str
    reason: str

    primary_type: ClassVar[str] = "Challenge"
    fields: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("operator", "address", "operator"),
        ("purpose", "string", "purpose"),
        ("result", "string", "result"),
        ("reason", "string", "reason"),
    )

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class ReceiptClaim:
    """What a dispatcher signs when it accepts a job: job id, sequence number, digest of the request.

    Raises InvalidMessage for a malformed field.
    """

    job_id: str
    sequence: int
    request: str

    primary_type: ClassVar[str] = "Receipt"
    fields: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("jobId", "bytes32", "job_id"),
        ("sequence", "uint256", "sequence"),
        ("request", "bytes32", "request"),
    )

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class SeatClaim:
    """What a dispatcher signs for each member that it asks to execute: that it has this seat of the job's committee.

    With it, a member whose ticket selected nobody (one that filled the committee) can answer a contract's question what it did
    there. Raises InvalidMessage or InvalidAddress for a malformed field.
    """

    job_id: str
    operator: str
    role: str
    tag: str
    position: str
    registry_block: int

    primary_type: ClassVar[str] = "Seat"
    fields: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("jobId", "bytes32", "job_id"),
        ("operator", "address", "operator"),
        ("role", "string", "role"),
        ("tag", "string", "tag"),
        ("position", "string", "position"),
        ("registryBlock", "uint256", "registry_block"),
    )

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class SessionClaim:
    """What a dispatcher signs for a project's client: who runs its job, on which key to reach them (X25519), where, and until when to begin.

    `model` is the file's SHA-256, `seed` the job's, `url` empty for an operator that only the dispatcher reaches, `expires_at` Unix
    seconds. Raises InvalidMessage or InvalidAddress for a malformed field.
    """

    job_id: str
    operator: str
    model: str
    seed: str
    key: str
    url: str
    expires_at: int

    primary_type: ClassVar[str] = "Session"
    fields: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("jobId", "bytes32", "job_id"),
        ("operator", "address", "operator"),
        ("model", "bytes32", "model"),
        ("seed", "bytes32", "seed"),
        ("key", "bytes32", "key"),
        ("url", "string", "url"),
        ("expiresAt", "uint256", "expires_at"),
    )

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class TreeHeadClaim:
    """What a dispatcher signs about its log: the root over the first `size` entries, at a time in seconds since 1970 (UTC).

    Raises InvalidMessage or InvalidAddress for a malformed field.
    """

    dispatcher: str
    size: int
    root: str
    timestamp: int

    primary_type: ClassVar[str] = "TreeHead"
    fields: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("dispatcher", "address", "dispatcher"),
        ("size", "uint256", "size"),
        ("root", "bytes32", "root"),
        ("timestamp", "uint256", "timestamp"),
    )

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class VoteClaim:
    """What a juror signs about a challenge on chain: 1 the answer matches, 2 it does not, 0 that cannot be told.

    Raises InvalidMessage or InvalidAddress for a malformed field.
    """

    challenge: int
    operator: str
    verdict: int

    primary_type: ClassVar[str] = "Vote"
    fields: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("challenge", "uint256", "challenge"),
        ("operator", "address", "operator"),
        ("verdict", "uint8", "verdict"),
    )

    def __post_init__(self) -> None:
        _check(self)


SignedClaim: TypeAlias = (
    ResultClaim
    | ExecutionClaim
    | ScoreClaim
    | ChallengeClaim
    | ReceiptClaim
    | SeatClaim
    | SessionClaim
    | TreeHeadClaim
    | VoteClaim
)


def typed_digest(typed_data: dict[str, Any]) -> bytes:
    """The 32 bytes that EIP-712 signs for a document of types, primaryType, domain and message, by eth-account.

    Raises InvalidMessage when the document does not fit its types.
    """
    with recursion_limit_kept():  # importing it takes half a second, and no program of ours needs it
        from eth_abi.exceptions import EncodingError
        from eth_account.messages import encode_typed_data
        from eth_utils.exceptions import ValidationError
    try:
        encoded = encode_typed_data(full_message=typed_data)
    except (EncodingError, ValidationError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidMessage(f"the typed data does not fit its types: {error}; correct the field") from error
    return _digest(encoded.header, encoded.body)


def sign_typed(signer: Signer, domain: Domain, claim: SignedClaim) -> str:
    """Sign a claim: r, s (low) and v (27 or 28) as 130 hex digits, without 0x."""
    return signer._sign_digest(_claim_digest(domain, claim)).hex()


def recover_typed(domain: Domain, claim: SignedClaim, signature: str) -> str:
    """Find the EIP-55 address that signed this claim in this domain. Raises InvalidSignature."""
    return recover_digest(_claim_digest(domain, claim), parse_signature(signature))


def typed_document(domain: Domain, claim: SignedClaim) -> dict[str, Any]:
    """The claim as a wallet or another library wants it (`eth_signTypedData_v4`); digests are bytes."""
    return {
        "types": {"EIP712Domain": _DOMAIN_TYPE, **_types(claim)},
        "primaryType": claim.primary_type,
        "domain": _domain(domain),
        "message": _message(claim),
    }


def struct_hash(claim: SignedClaim) -> bytes:
    """The 32 bytes that stand for a claim in every domain (EIP-712's hashStruct): what contracts keep of one."""
    words = (_WORDS[kind](getattr(claim, field)) for _, kind, field in claim.fields)
    return keccak(_type_hash(claim.primary_type, claim.fields) + b"".join(words))


def _claim_digest(domain: Domain, claim: SignedClaim) -> bytes:
    return _digest(_domain_separator(domain), struct_hash(claim))


@lru_cache(maxsize=16)
def _type_hash(name: str, members: tuple[tuple[str, ...], ...]) -> bytes:
    return keccak(f"{name}({','.join(f'{kind} {member}' for member, kind, *_ in members)})".encode())


@lru_cache(maxsize=64)
def _domain_separator(domain: Domain) -> bytes:
    members = tuple((member["name"], member["type"]) for member in _DOMAIN_TYPE)
    values = _domain(domain)
    words = (_WORDS[kind](values[name]) for name, kind in members)
    return keccak(_type_hash("EIP712Domain", members) + b"".join(words))


@lru_cache(maxsize=64)
def _text_hash(text: str) -> bytes:
    return keccak(text.encode())


def _number_word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _address_word(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


# EIP-712's encodeData of one member: always 32 bytes. Values were checked when the claim was made.
_WORDS: Mapping[str, Callable[[Any], bytes]] = MappingProxyType(
    {
        "bytes32": bytes.fromhex,
        "address": _address_word,
        "string": _text_hash,
        "uint256": _number_word,
        "uint8": _number_word,
    }
)


def _digest(domain_separator: bytes, struct_hash: bytes) -> bytes:
    return keccak(b"\x19\x01" + domain_separator + struct_hash)


def _types(claim: SignedClaim) -> dict[str, list[dict[str, str]]]:
    return {claim.primary_type: [{"name": name, "type": kind} for name, kind, _ in claim.fields]}


def _domain(domain: Domain) -> dict[str, str | int]:
    return {"name": "AOS", "version": "1", "chainId": domain.chain_id, "verifyingContract": domain.registry}


def _message(claim: SignedClaim) -> dict[str, str | int | bytes]:
    return {
        name: bytes.fromhex(getattr(claim, field)) if kind == "bytes32" else getattr(claim, field)
        for name, kind, field in claim.fields
    }


def _check(claim: SignedClaim) -> None:
    for _, kind, field in claim.fields:
        value = getattr(claim, field)
        match kind:
            case "bytes32" if not isinstance(value, str) or _HEX64.fullmatch(value) is None:
                raise InvalidMessage(f"{field} must be 64 lower-case hex digits without 0x")
            case "string" if not _is_text(value):
                raise InvalidMessage(f"{field} must be a string of valid Unicode")
            case "uint256" if not _is_uint256(value):
                raise InvalidMessage(f"{field} must be an integer of at most 256 bits, not negative")
            case "uint8" if not (_is_uint256(value) and value < 256):
                raise InvalidMessage(f"{field} must be an integer of 0 to 255")
            case "address":
                object.__setattr__(claim, field, checksum_address(value))


def _is_uint256(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**256


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


_DOMAIN_TYPE = [
    {"name": "name", "type": "string"},
    {"name": "version", "type": "string"},
    {"name": "chainId", "type": "uint256"},
    {"name": "verifyingContract", "type": "address"},
]
