"""The keys that an enclave makes for itself: none of them leaves it, and hardware vouches for the public halves."""

import base64
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

import structlog

from aos_protocol.attestation.statement import KEYSET_VERSION, Attestation, EnclaveStatement, Keyset
from aos_protocol.identity import Signer
from aos_protocol.messages import ModelOffer
from aos_protocol.sealing import SealingKey
from aos_protocol.typed_data import Domain, ExecutionClaim, sign_typed
from aos_tee_worker.device import Device
from aos_tee_worker.errors import UnknownKeyset

LIFETIME: Final = 86400
"""Seconds for which a keyset holds, unless another lifetime is chosen."""

_SKEW_S: Final = 60
"""By how much a keyset may seem to be made in the future before that says that the clock was set back."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Keys:
    """A keyset, its digest, and the secret halves; its repr shows the public ones only."""

    keyset: Keyset
    digest: str
    signer: Signer
    sealing: SealingKey


class Keyring:
    """Makes keys, replaces them when half of their life has passed, and has hardware attest to them; threads may share it.

    A keyset that was replaced goes on opening prompts that were sealed to it, and signing what comes of them, until it expires: whoever
    was handed one has half a lifetime to use it. `clock` tells Unix seconds.
    """

    def __init__(
        self,
        device: Device,
        model: ModelOffer,
        build: str,
        lifetime: int = LIFETIME,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._device, self._model, self._build = device, model, build
        self._lifetime, self._clock = lifetime, clock
        self._lock = threading.Lock()
        self._rings: list[Keys] = []

    def current(self) -> Keys:
        """Return the keys to hand out now, and to answer what is not sealed with."""
        with self._lock:
            now = int(self._clock())
            self._rings = [keys for keys in self._rings if now < keys.keyset.expires_at]
            if not self._rings or not self._fresh(self._rings[-1].keyset, now):
                self._rings.append(self._make(now))
            return self._rings[-1]

    def find(self, digest: str) -> Keys | None:
        """Return the keys of the keyset with this digest; None when it was never ours, or has expired."""
        with self._lock:
            now = int(self._clock())
            alive = (keys for keys in self._rings if now < keys.keyset.expires_at)
            return next((keys for keys in alive if keys.digest == digest), None)

    def attestation(self, nonce: str) -> Attestation:
        """Have the current keyset attested, for whoever gave this nonce (64 hex digits). Raises `DeviceFailed`."""
        return self._attested(self.current(), nonce)

    def statement(self, claim: ExecutionClaim, domain: Domain, keyset: str | None = None) -> EnclaveStatement:
        """Sign an answer, and have the keys attested with the job's seed as nonce.

        `keyset` is the digest of the one that the prompt was sealed to; without it, the current one signs. Raises `UnknownKeyset` when
        that has expired meanwhile, and `DeviceFailed`.
        """
        keys = self.current() if keyset is None else self.find(keyset)
        if keys is None:
            raise UnknownKeyset
        return EnclaveStatement(
            attestation=self._attested(keys, claim.seed),
            signature=sign_typed(keys.signer, domain, claim),
        )

    def _fresh(self, keyset: Keyset, now: int) -> bool:
        return keyset.created_at - _SKEW_S <= now < keyset.created_at + (self._lifetime + 1) // 2

    def _make(self, now: int) -> Keys:
        signer, sealing = Signer.generate(), SealingKey()
        keyset = Keyset(
            version=KEYSET_VERSION,
            kind=self._device.kind,
            result_key=signer.public_key.hex(),
            encryption_key=sealing.public,
            model=self._model,
            build=self._build,
            created_at=now,
            expires_at=now + self._lifetime,
        )
        keys = Keys(keyset, keyset.digest(), signer, sealing)
        _log.info("keyset made", keyset=keys.digest, address=keyset.address, expires_at=keyset.expires_at)
        return keys

    def _attested(self, keys: Keys, nonce: str) -> Attestation:
        signed = self._device.attest(
            keyset=bytes.fromhex(keys.digest),
            nonce=bytes.fromhex(nonce),
            result_key=bytes.fromhex(keys.keyset.result_key),
        )
        return Attestation(
            kind=self._device.kind,
            document=base64.b64encode(signed.document).decode(),
            keyset=keys.keyset,
            issued_at=signed.issued_at,
            collateral=signed.collateral,
        )


def build_name() -> str:
    """Return what this worker calls itself in a keyset; what counts is what hardware measured."""
    return f"aos-tee-worker {version('aos')}"
