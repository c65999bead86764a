"""What a keyring wants of the hardware that vouches for an enclave, whichever it is."""

from dataclasses import dataclass
from typing import Any, Protocol

from aos_protocol.attestation.statement import Kind


@dataclass(frozen=True)
class Signed:
    """A document that hardware has signed, when (Unix seconds), and what its vendor says of that hardware, if that travels along."""

    document: bytes
    issued_at: int
    collateral: dict[str, Any] | None = None


class Device(Protocol):
    """Hardware, or its simulation, that signs what it is given together with what it measured; called from several threads."""

    @property
    def kind(self) -> Kind:
        """What vouches for this enclave."""

    def attest(self, *, keyset: bytes, nonce: bytes, result_key: bytes) -> Signed:
        """Sign a keyset's digest (32 bytes), a verifier's nonce (32) and the result key (33, compressed); takes milliseconds.

        Raises `DeviceFailed`.
        """
