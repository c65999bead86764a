"""TLS contexts from certificate files, checked when a process starts, and what a failed handshake means.

context = server_context(Path("server.pem"), Path("server-key.pem"), client_ca=Path("operators-ca.pem"))

Files are PEM. They are read once: a renewed certificate counts from the next start.
"""

import ssl
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography import x509

from aos_service.errors import TlsError
from aos_service.private_files import check_private

_log = structlog.get_logger(__name__)

_ENCRYPTED = "is encrypted: write it out without a password (openssl pkey -in FILE -out FILE), with mode 600"


def server_context(certificate: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """What serves TLS 1.2 or newer. With `client_ca` a client may present a certificate, which must be one of that authority.

    Whether one *must* be presented is for the application: it knows whether this is an operator's connection.

    Raises:
        KeyFileError: for a key that other users may read.
        TlsError: for files that cannot be used, or a certificate that has expired.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _present(context, certificate, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.sslobject_class = _Reported
        _believe(context, client_ca)
    return context


def client_context(
    ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """What connects by TLS 1.2 or newer to who proves its name by an authority in `ca`, or else one that the system believes.

    With `certificate` and `key` it presents these when asked. Raises as `server_context` does.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        _believe(context, ca)
    else:
        context.load_default_certs()
    if certificate is not None and key is not None:
        _present(context, certificate, key)
    return context


def handshake_problem(error: BaseException | None) -> str | None:
    """Say what was wrong with a certificate when this error, or what caused it, comes from TLS; None when it does not."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the other side's certificate is not believed: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            return _alert(error)
        error = error.__cause__ or error.__context__
    return None


class _Reported(ssl.SSLObject):
    """Says why a client's certificate was refused: asyncio ends the connection without a word, to the client and to the log."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            _log.info("a client certificate was refused", why=error.verify_message)
            raise


def _alert(error: ssl.SSLError) -> str:
    reason = (error.reason or "").replace("_", " ").lower()
    _, alert, said = reason.partition("alert ")
    if alert and ("certificate" in said or "unknown ca" in said):
        return f"the other side refuses our client certificate ({said}): is it one of its authority, and still valid?"
    return f"no TLS handshake ({reason or error}): does the other side serve TLS at this port?"


def _present(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    check_private(key, "the TLS key")
    leaf = _certificates(certificate, "TLS certificate")[0]
    if leaf.not_valid_after_utc <= datetime.now(UTC):
        raise TlsError(
            f"the TLS certificate {certificate} expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC: renew it"
        )
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise TlsError(_unusable(error, certificate, key)) from error
    except OSError as error:
        raise TlsError(f"the TLS key {key} cannot be read: {error.strerror}") from error


def _unusable(error: ssl.SSLError, certificate: Path, key: Path) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the TLS key {key} is not that of the certificate {certificate}: give the two that belong together"
    return f"the TLS key {key} holds no private key in PEM form, or does not go with {certificate} ({error.reason})"


def _no_password() -> str:
    raise TlsError(f"the TLS key {_ENCRYPTED}")


def _believe(context: ssl.SSLContext, ca: Path) -> None:
    _certificates(ca, "file of certificate authorities")
    context.load_verify_locations(ca)


def _certificates(path: Path, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise TlsError(f"the {what} {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise TlsError(f"the {what} {path} holds no certificate in PEM form") from error
