"""A simulation of a Nitro enclave's hardware, for machines without any: it proves nothing, and says so wherever it has a name.

Documents have the exact form of Nitro's (COSE_Sign1 with ES384, RFC 9052), under a root that whoever has the folder holds the key of. The
registers measure the Python code in place of an image, so that a change of code is seen as it would be with hardware.
"""

import hashlib
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from aos_protocol.attestation.statement import Kind
from aos_protocol.canonical import JsonValue, canonical
from aos_tee_worker.authority import Issuer, ensure_root, issue_intermediate, issue_leaf, read_root
from aos_tee_worker.device import Signed

__all__ = ["SimulatedDevice", "ensure_root", "measurements"]

_PACKAGES: Final = ("aos_protocol", "aos_service", "aos_inference", "aos_tee_worker")
_LEAF_S: Final = 3 * 3600
"""A leaf's whole life, as with Nitro; it is replaced when half of it has passed."""
_REGISTERS: Final = 16
_PROTECTED: Final = cbor2.dumps({1: -35})
"""RFC 9052, section 3.1: `alg` is ES384 (RFC 9053, section 2.1)."""
_SHA384: Final = 48
_COORDINATE: Final = 48


def measurements() -> dict[str, str]:
    """Return what the simulated registers measure, SHA-384 hex: `pcr0` our code, `pcr1` Python and llama.cpp, `pcr2` our version."""
    listing: list[JsonValue] = [[path, digest] for path, digest in sorted(_sources())]
    runtime: dict[str, JsonValue] = {
        "python": platform.python_version(),
        "llama-cpp-python": version("llama-cpp-python"),
    }
    return {"pcr0": _measure(listing), "pcr1": _measure(runtime), "pcr2": _measure({"aos": version("aos")})}


class SimulatedDevice:
    """Signs as a Nitro Secure Module would, with a key of its own that the simulator's root vouches for; `clock` tells Unix seconds.

    The root is made if it is not there; its key is read once and not kept. Raises `SimulatorUnusable`.
    """

    kind: Final[Kind] = "simulated"

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        ensure_root(folder)
        root = read_root(folder)
        self._clock, self._lock = clock, threading.Lock()
        self._module = f"simulated-{secrets.token_hex(8)}"
        self._intermediate = issue_intermediate(root)
        self._bundle = [root.der, self._intermediate.der]
        self._registers = {index: bytes(_SHA384) for index in range(_REGISTERS)} | {
            int(name.removeprefix("pcr")): bytes.fromhex(value) for name, value in measurements().items()
        }
        self._leaf: Issuer | None = None

    def attest(self, *, keyset: bytes, nonce: bytes, result_key: bytes) -> Signed:
        """Return a document as a Nitro Secure Module makes it: `user_data` is the keyset's digest, `public_key` the result key."""
        milliseconds = int(self._clock() * 1000)
        leaf = self._current_leaf(milliseconds // 1000)
        payload = {
            "module_id": self._module,
            "digest": "SHA384",
            "timestamp": milliseconds,
            "pcrs": self._registers,
            "certificate": leaf.der,
            "cabundle": self._bundle,
            "public_key": result_key,
            "user_data": keyset,
            "nonce": nonce,
        }
        document = _cose_sign1(leaf.key, cbor2.dumps(payload, canonical=True))
        return Signed(document, milliseconds // 1000)

    def _current_leaf(self, now: int) -> Issuer:
        with self._lock:
            if self._leaf is not None:
                begun = int(self._leaf.certificate.not_valid_before_utc.timestamp())
                if begun <= now < begun + _LEAF_S // 2:
                    return self._leaf
            self._leaf = issue_leaf(self._intermediate, f"SIMULATED {self._module}", now, now + _LEAF_S)
            return self._leaf


def _cose_sign1(key: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
    """RFC 9052, section 4: untagged, as Nitro has it; the signature is r and s, 48 bytes each (RFC 9053, section 2.1)."""
    signed = cbor2.dumps(["Signature1", _PROTECTED, b"", payload])
    r, s = utils.decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
    signature = r.to_bytes(_COORDINATE, "big") + s.to_bytes(_COORDINATE, "big")
    return cbor2.dumps([_PROTECTED, {}, payload, signature])


def _sources() -> Iterator[tuple[str, str]]:
    """The name and the SHA-256 of every Python file of ours that runs in an enclave."""
    for package in _PACKAGES:
        spec = find_spec(package)
        for place in (spec.submodule_search_locations if spec else None) or ():
            folder = Path(place)
            for path in folder.rglob("*.py"):
                name = f"{package}/{path.relative_to(folder).as_posix()}"
                yield name, hashlib.sha256(path.read_bytes()).hexdigest()


def _measure(value: JsonValue) -> str:
    return hashlib.sha384(canonical(value)).hexdigest()
