"""A simulation of a Nitro enclave's hardware, for machines without any: it proves nothing, and says so wherever it has a name.

Documents have the exact form of Nitro's (COSE_Sign1 with ES384, RFC 9052), under a root that whoever has the folder holds the key of. The
registers measure the Python code in place of an image, so that a change of code is seen as it would be with hardware.
"""

import datetime as dt
import fcntl
import hashlib
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import cbor2
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from aos_protocol.attestation.statement import Kind
from aos_protocol.canonical import JsonValue, canonical
from aos_tee_worker.device import Signed
from aos_tee_worker.errors import SimulatorUnusable

_PACKAGES: Final = ("aos_protocol", "aos_inference", "aos_tee_worker")
_ROOT_DAYS: Final = 30 * 365
_LEAF_S: Final = 3 * 3600
"""A leaf's whole life, as with Nitro; it is replaced when half of it has passed."""
_REGISTERS: Final = 16
_PROTECTED: Final = cbor2.dumps({1: -35})
"""RFC 9052, section 3.1: `alg` is ES384 (RFC 9053, section 2.1)."""
_COORDINATE: Final = 48

_Key = ec.EllipticCurvePrivateKey


def ensure_root(folder: Path) -> str:
    """Make the simulator's root in `folder` unless it is there; return the SHA-256 hex of its certificate in DER.

    `root.key` (mode 0600) and `root.pem` are PEM. Processes that race for it end with the same root. Raises `SimulatorUnusable`.
    """
    with _translated(folder):
        if not (folder / "root.pem").exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _alone(folder):
                if not (folder / "root.pem").exists():
                    _make_root(folder)
    return _read_root(folder)[1].fingerprint(hashes.SHA256()).hex()


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

    The root's key is read once and not kept. Raises `SimulatorUnusable`.
    """

    kind: Final[Kind] = "simulated"

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        ensure_root(folder)
        key, root = _read_root(folder)
        self._clock, self._lock = clock, threading.Lock()
        self._module = f"simulated-{secrets.token_hex(8)}"
        self._issuer_key, self._issuer = _issue_intermediate(key, root)
        self._bundle = [_der(root), _der(self._issuer)]
        self._registers = {index: bytes(_COORDINATE) for index in range(_REGISTERS)} | {
            int(name.removeprefix("pcr")): bytes.fromhex(value) for name, value in measurements().items()
        }
        self._leaf: tuple[_Key, x509.Certificate] | None = None

    def attest(self, *, keyset: bytes, nonce: bytes, result_key: bytes) -> Signed:
        """Return a document as a Nitro Secure Module makes it: `user_data` is the keyset's digest, `public_key` the result key."""
        milliseconds = int(self._clock() * 1000)
        key, certificate = self._current_leaf(milliseconds // 1000)
        payload = cbor2.dumps(
            {
                "module_id": self._module,
                "digest": "SHA384",
                "timestamp": milliseconds,
                "pcrs": self._registers,
                "certificate": _der(certificate),
                "cabundle": self._bundle,
                "public_key": result_key,
                "user_data": keyset,
                "nonce": nonce,
            },
            canonical=True,
        )
        return Signed(_cose_sign1(key, payload), milliseconds // 1000)

    def _current_leaf(self, now: int) -> tuple[_Key, x509.Certificate]:
        with self._lock:
            if self._leaf is not None:
                begun = int(self._leaf[1].not_valid_before_utc.timestamp())
                if begun <= now < begun + _LEAF_S // 2:
                    return self._leaf
            key = ec.generate_private_key(ec.SECP384R1())
            name = _name(f"SIMULATED {self._module}")
            builder = _certificate(name, key, self._issuer.subject, _utc(now), _utc(now + _LEAF_S))
            builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            builder = builder.add_extension(_usage(digital_signature=True), critical=False)
            self._leaf = key, builder.sign(self._issuer_key, hashes.SHA384())
            return self._leaf


def _cose_sign1(key: _Key, payload: bytes) -> bytes:
    """RFC 9052, section 4: untagged, as Nitro has it; the signature is r and s, 48 bytes each (RFC 9053, section 2.1)."""
    signed = cbor2.dumps(["Signature1", _PROTECTED, b"", payload])
    r, s = utils.decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
    signature = r.to_bytes(_COORDINATE, "big") + s.to_bytes(_COORDINATE, "big")
    return cbor2.dumps([_PROTECTED, {}, payload, signature])


def _sources() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        spec = find_spec(package)
        for place in (spec.submodule_search_locations if spec else None) or ():
            folder = Path(place)
            for path in folder.rglob("*.py"):
                name = f"{package}/{path.relative_to(folder).as_posix()}"
                yield name, hashlib.sha256(path.read_bytes()).hexdigest()


def _measure(value: JsonValue) -> str:
    return hashlib.sha384(canonical(value)).hexdigest()


def _make_root(folder: Path) -> None:
    """Write the key first: a certificate that is there has its key beside it."""
    key = ec.generate_private_key(ec.SECP384R1())
    name, begun = _name("SIMULATED aos enclaves"), dt.datetime.now(dt.UTC)
    # A day of slack: a clock that is set back must not make the root invalid.
    begun = begun.replace(microsecond=0) - dt.timedelta(days=1)
    builder = _certificate(name, key, name, begun, begun + dt.timedelta(days=_ROOT_DAYS))
    certificate = _authority(builder, key, key, path_length=None).sign(key, hashes.SHA384())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(folder / "root.key", secret, 0o600)
    _write(folder / "root.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _read_root(folder: Path) -> tuple[_Key, x509.Certificate]:
    with _translated(folder):
        certificate = x509.load_pem_x509_certificate((folder / "root.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / "root.key").read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise SimulatorUnusable(
            f"root.key in {folder} is not that of root.pem: remove both, and let them be made again"
        )
    return key, certificate


def _issue_intermediate(root_key: _Key, root: x509.Certificate) -> tuple[_Key, x509.Certificate]:
    """It lasts as long as the root, so that a process need not keep the root's key."""
    key = ec.generate_private_key(ec.SECP384R1())
    builder = _certificate(
        _name(f"SIMULATED instance {secrets.token_hex(4)}"),
        key,
        root.subject,
        root.not_valid_before_utc,
        root.not_valid_after_utc,
    )
    return key, _authority(builder, key, root_key, path_length=0).sign(root_key, hashes.SHA384())


def _certificate(
    name: x509.Name, key: _Key, issuer: x509.Name, begin: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _authority(
    builder: x509.CertificateBuilder, key: _Key, issuer: _Key, path_length: int | None
) -> x509.CertificateBuilder:
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(own, critical=False)
        .add_extension(above, critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=digital_signature,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SIMULATED enclaves prove nothing"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _utc(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Put a whole file in place at once, with its mode from the first byte on."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out; the lock goes with its file descriptor, also when this process is killed."""
    with (folder / "root.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SimulatorUnusable(
            f"the simulator's root in {folder} cannot be used: {error.strerror}; correct that, or choose another folder"
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SimulatorUnusable(
            f"root.pem or root.key in {folder} cannot be read: remove both, and let them be made again"
        ) from error
