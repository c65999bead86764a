"""The exceptions of the protocol package; a class's docstring is its default message."""

# The names are those of the wire contract, and say what is wrong with the thing received.

from __future__ import annotations


class ProtocolError(Exception):
    """What was received does not follow the AOS protocol; correct it and send it again."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))


class InvalidAddress(ProtocolError):
    """This is no Ethereum address; give 40 hex digits, all in one case or with their EIP-55 checksum."""


class InvalidKey(ProtocolError):
    """This is no usable secp256k1 key; give 32 bytes between 1 and the group order, or the right password."""


class InvalidSignature(ProtocolError):
    """The signature is not acceptable; sign again with the key of the stated address, low s and v 27 or 28."""


class InvalidFrame(ProtocolError):
    """The frame breaks the AOS frame rule; rebuild it as docs/protocol.md shows and sign it again."""


class InvalidProof(ProtocolError):
    """The VRF proof does not hold for this public key and input; prove again over exactly these bytes."""


class InvalidClock(ProtocolError):
    """The vector clock is malformed; send a map of participant numbers to counters, both decimal strings."""


class InvalidTranscript(ProtocolError):
    """The transcript is inconsistent; send token ids, fingerprints and commitment of one and the same run."""


class InvalidRecord(ProtocolError):
    """The record is not one that such an answer can have; send what the backend showed of this very answer, as docs/evidence.md lists it."""


class InvalidSampling(ProtocolError):
    """The sampling parameters are out of range; correct temperature, top_p or max_tokens and submit again."""


class InvalidMessage(ProtocolError):
    """The message lacks a field or holds a wrong one; correct the field and send it again."""


class InvalidAttestation(ProtocolError):
    """The attestation does not prove what it must; ask the enclave for a fresh one, and compare its build with the policy."""


class NotSealed(ProtocolError):
    """The sealed message cannot be opened; seal it again to a keyset that was just attested."""


class InvalidEvidence(ProtocolError):
    """The evidence document cannot be read; fetch it again from the dispatcher and check its version."""


class InvalidTemplate(ProtocolError):
    """The template for filling in lacks a gap or has one twice; write {prefix} and {suffix}, each once, with the model's markers around."""


class NotCanonical(ProtocolError):
    """The value has no RFC 8785 form; use strict JSON with string keys and integers within 2^53 - 1."""
