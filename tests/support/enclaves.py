"""Enclaves without a worker: a keyset, its secret keys, and simulated hardware that attests to them.

enclave = Enclave()
attestation = enclave.attest(nonce)
"""

import base64
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.attestation.statement import Keyset
from aos_protocol.fields import parse_message
from aos_protocol.identity import Signer
from aos_protocol.messages import ModelOffer
from aos_protocol.sealing import SealingKey
from aos_protocol.typed_data import Domain, ExecutionClaim, sign_typed
from aos_tee_worker.simulator import SimulatedDevice, ensure_root, measurements

NOW = int(time.time())
"""When all of it happens."""
MODEL = ModelOffer(name="tiny.gguf", sha256="3d" * 32)


@cache
def hardware() -> tuple[SimulatedDevice, str]:
    """The simulated device of this process, and its root's fingerprint."""
    with tempfile.TemporaryDirectory(prefix="aos-simulator-") as folder:
        return SimulatedDevice(Path(folder), clock=lambda: NOW), ensure_root(Path(folder))


@cache
def registers() -> dict[str, str]:
    """What the device has measured: once, as it does, whatever is edited while tests run."""
    return measurements()


class Enclave:
    """One enclave. `number` makes its keys, so that two with the same one are the same; `changes` are of its keyset."""

    def __init__(self, number: int = 1, model: ModelOffer = MODEL, **changes: Any) -> None:
        self.signer = Signer(bytes([128 + number]) * 32)
        self.sealing = SealingKey(bytes([64 + number]) * 32)
        said: dict[str, Any] = {
            "version": "aos-keyset/1",
            "kind": "simulated",
            "result_key": self.signer.public_key.hex(),
            "encryption_key": self.sealing.public,
            "model": model.to_json(),
            "build": "aos-tee-worker 0.4.0",
            "created_at": NOW - 600,
            "expires_at": NOW + 86_400,
        }
        self.keyset = parse_message(Keyset, said | changes)

    def attest(self, nonce: str) -> dict[str, Any]:
        """An `Attestation` in JSON, on this nonce (64 hex digits)."""
        signed = hardware()[0].attest(
            keyset=bytes.fromhex(self.keyset.digest()),
            nonce=bytes.fromhex(nonce),
            result_key=bytes.fromhex(self.keyset.result_key),
        )
        return {
            "kind": self.keyset.kind,
            "document": base64.b64encode(signed.document).decode(),
            "keyset": self.keyset.to_json(),
            "issued_at": signed.issued_at,
        }

    def state(self, claim: ExecutionClaim, domain: Domain) -> dict[str, Any]:
        """An `EnclaveStatement` in JSON on this claim."""
        return {"attestation": self.attest(claim.seed), "signature": sign_typed(self.signer, domain, claim)}


def policy(model: str = MODEL.name, **changes: Any) -> AttestationPolicy:
    """What trusts the simulated hardware of this process for a model, for a day; `changes` are of the model's entry."""
    simulated = {
        "builds": [{"name": "this checkout", "measurements": registers()}],
        "roots": [hardware()[1]],
    }
    document = {
        "version": "aos-attestation-policy/1",
        "allow_simulated": True,
        # All was made at `NOW`, and a run of all tests may take longer than the 900 s that policies allow by themselves.
        "models": {model: {"maximum_age": 86_400, "simulated": simulated} | changes},
    }
    return parse_message(AttestationPolicy, document)
