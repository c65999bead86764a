"""TLS contexts from files, what is said of files that cannot be used, and what a failed handshake means."""

import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from aos_service.errors import KeyFileError, TlsError
from aos_service.tls import client_context, handshake_problem, server_context
from support.certificates import DAY, Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.certify("server")


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> Exception | None:
    """Shake hands in memory; what the client gets of it, alerts included, as from a server that sends them."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side, ours in ((here, True), (there, False)):
            try:
                side.do_handshake()
                if ours:
                    side.read(1)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                if ours:
                    return error
    return None


def test_both_sides_believe_each_other(authority: Authority, pair: Pair) -> None:
    own = authority.certify("operator")
    server = server_context(pair.certificate, pair.key, client_ca=authority.file)
    assert handshake(client_context(authority.file, own.certificate, own.key), server) is None
    assert handshake(client_context(authority.file), server) is None


def test_nothing_older_than_tls_1_2(authority: Authority, pair: Pair) -> None:
    for context in (server_context(pair.certificate, pair.key), client_context(authority.file)):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_without_authorities_the_system_s_are_believed(pair: Pair) -> None:
    error = handshake(client_context(), server_context(pair.certificate, pair.key))
    assert handshake_problem(error) == (
        "the other side's certificate is not believed: unable to get local issuer certificate"
    )


def test_a_name_is_verified_and_a_client_always_verifies(authority: Authority) -> None:
    elsewhere = authority.certify("elsewhere", host="192.0.2.1")
    context = client_context(authority.file)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    error = handshake(context, server_context(elsewhere.certificate, elsewhere.key))
    assert "not valid for '127.0.0.1'" in str(handshake_problem(error))


def test_an_alert_about_our_certificate_is_told(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger").certify("operator")
    client = client_context(authority.file, stranger.certificate, stranger.key)
    error = handshake(client, server_context(pair.certificate, pair.key, client_ca=authority.file))
    said = "the other side refuses our client certificate (unknown ca): is it one of its authority, and still valid?"
    assert handshake_problem(error) == said
    wrapped = RuntimeError("as a library raises it")
    wrapped.__context__ = error
    assert handshake_problem(wrapped) == said


def test_who_speaks_no_tls_is_told_apart(authority: Authority) -> None:
    answered = ssl.MemoryBIO()
    answered.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    here = client_context(authority.file).wrap_bio(answered, ssl.MemoryBIO(), server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLError) as caught:
        here.do_handshake()
    said = handshake_problem(caught.value)
    assert said is not None
    assert said.endswith("does the other side serve TLS at this port?")


def test_other_errors_have_nothing_to_do_with_tls() -> None:
    assert handshake_problem(None) is None
    assert handshake_problem(ConnectionRefusedError(111, "Connection refused")) is None


def test_a_key_that_others_may_read_is_refused(pair: Pair) -> None:
    pair.key.chmod(0o644)
    with pytest.raises(
        KeyFileError, match=r"the TLS key .* is open to other users \(mode 0644\): run chmod 600"
    ):
        server_context(pair.certificate, pair.key)


@pytest.mark.parametrize(
    ("lifetime", "said"), [(-DAY, "expired on "), (timedelta(seconds=-1), "expired on "), (DAY, None)]
)
def test_an_expired_certificate_is_refused_at_the_start(
    authority: Authority, lifetime: timedelta, said: str | None
) -> None:
    made = authority.certify("server", lifetime=lifetime)
    if said is None:
        server_context(made.certificate, made.key)
        return
    with pytest.raises(TlsError, match=said):
        client_context(authority.file, made.certificate, made.key)


def test_a_key_of_another_certificate(authority: Authority, pair: Pair) -> None:
    other = authority.certify("other")
    with pytest.raises(
        TlsError, match=r"is not that of the certificate .*: give the two that belong together"
    ):
        server_context(pair.certificate, other.key)


def test_an_encrypted_key_asks_for_no_password(authority: Authority) -> None:
    made = authority.certify("server", password=b"a password")
    with pytest.raises(TlsError, match="the TLS key is encrypted: write it out without a password"):
        server_context(made.certificate, made.key)


@pytest.mark.parametrize("what", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize(
    "content", [None, b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"]
)
def test_files_that_are_none_are_named(
    authority: Authority, pair: Pair, tmp_path: Path, what: str, content: bytes | None
) -> None:
    bad = tmp_path / "bad.pem"
    if content is not None:
        bad.touch(mode=0o600)
        bad.write_bytes(content)
    files = {"certificate": pair.certificate, "key": pair.key, "client_ca": authority.file} | {what: bad}
    with pytest.raises((TlsError, KeyFileError)) as caught:
        server_context(**files)
    said = str(caught.value)
    assert str(bad) in said
    missing = "cannot be read: No such file or directory"
    assert missing in said if content is None else "in PEM form" in said
