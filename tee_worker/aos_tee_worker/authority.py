"""The simulator's certificates: a root that is made once in a folder, an intermediate and a leaf of each process (RFC 5280).

They have the form of Nitro's, so that the same checks meet them: P-384 throughout, key identifiers in authorities only. Every name says SIMULATED.
"""

import datetime as dt
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aos_tee_worker.errors import SimulatorUnusable

_ROOT_DAYS: Final = 30 * 365
_KEY, _CERTIFICATE, _LOCK = "root.key", "root.pem", "root.lock"


class Issuer(NamedTuple):
    """A key and the certificate of its public half."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        """The certificate as documents carry it."""
        return self.certificate.public_bytes(serialization.Encoding.DER)


def ensure_root(folder: Path) -> str:
    """Make the simulator's root in `folder` unless it is there; return the SHA-256 hex of its certificate in DER.

    `root.key` (mode 0600) and `root.pem` are PEM. Processes that race for it end with the same root. Raises `SimulatorUnusable`.
    """
    with _translated(folder):
        if not (folder / _CERTIFICATE).exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _alone(folder):
                if not (folder / _CERTIFICATE).exists():
                    _make_root(folder)
    return read_root(folder).certificate.fingerprint(hashes.SHA256()).hex()


def read_root(folder: Path) -> Issuer:
    """Read a root that was made. Raises `SimulatorUnusable`."""
    with _translated(folder):
        certificate = x509.load_pem_x509_certificate((folder / _CERTIFICATE).read_bytes())
        key = serialization.load_pem_private_key((folder / _KEY).read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise SimulatorUnusable(
            f"{_KEY} in {folder} is not that of {_CERTIFICATE}: remove both, and let them be made again"
        )
    return Issuer(key, certificate)


def issue_intermediate(root: Issuer) -> Issuer:
    """Issue what signs leaves; it lasts as long as the root, whose key its holder then need not keep."""
    key = ec.generate_private_key(ec.SECP384R1())
    begin, end = root.certificate.not_valid_before_utc, root.certificate.not_valid_after_utc
    name = _name(f"SIMULATED instance {secrets.token_hex(4)}")
    builder = _certificate(name, key, root.certificate.subject, begin, end)
    return Issuer(key, _authority(builder, key, root.key, path_length=0).sign(root.key, hashes.SHA384()))


def issue_leaf(intermediate: Issuer, name: str, begin: int, end: int) -> Issuer:
    """Issue what signs documents from `begin` to `end` (Unix seconds)."""
    key = ec.generate_private_key(ec.SECP384R1())
    window = (dt.datetime.fromtimestamp(begin, dt.UTC), dt.datetime.fromtimestamp(end, dt.UTC))
    builder = (
        _certificate(_name(name), key, intermediate.certificate.subject, *window)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=False)
    )
    return Issuer(key, builder.sign(intermediate.key, hashes.SHA384()))


def _make_root(folder: Path) -> None:
    """Write the key first: a certificate that is there has its key beside it."""
    key = ec.generate_private_key(ec.SECP384R1())
    # A day of slack: a clock that is set back must not make the root invalid.
    begin = dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(days=1)
    name = _name("SIMULATED AOS enclaves")
    builder = _certificate(name, key, name, begin, begin + dt.timedelta(days=_ROOT_DAYS))
    certificate = _authority(builder, key, key, path_length=None).sign(key, hashes.SHA384())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(folder / _KEY, secret, 0o600)
    _write(folder / _CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _certificate(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, begin: dt.datetime, end: dt.datetime
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
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    issuer: ec.EllipticCurvePrivateKey,
    path_length: int | None,
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
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SIMULATED enclaves prove nothing")
    return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _write(path: Path, content: bytes, mode: int) -> None:
    """Put a whole file in place at once, with its mode from the first byte on; the caller holds the lock."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out; the lock goes with its file descriptor, also when this process is killed."""
    with (folder / _LOCK).open("w") as file:
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
            f"{_CERTIFICATE} or {_KEY} in {folder} cannot be read: remove both, and let them be made again"
        ) from error
